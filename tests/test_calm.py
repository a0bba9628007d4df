"""CalM's modules: causal to the frame, blind to the order of neurons and to those that are missing, and equal to formulas by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.calm.quantizer import CodebookCourse, centres
from qf_toolkit.models.batch import Batch
from qf_toolkit.models.calm import CalM, CodeTokens, NeuralQuantizer, PatchTokens
from qf_toolkit.models.calm_config import DualAxisConfig, QuantizerConfig
from qf_toolkit.models.rotary import Past, SelfAttention, rotated
from qf_toolkit.training.hooks import Moment
from qf_toolkit.training.options import LoopConfig

torch.set_num_threads(1)
SMALL = QuantizerConfig(codes=16, width=16, layers=2, heads=2, dropout=0.0)
AXES = DualAxisConfig(width=16, layers=2, heads=2, dropout=0.0, attention_dropout=0.0)
N, P_C, P_F = 6, 4, 3


def quantizer(seed=0, **changed):
    torch.manual_seed(seed)
    config = QuantizerConfig(**{**{n: getattr(SMALL, n) for n in SMALL.__dataclass_fields__}, **changed})
    made = NeuralQuantizer(config).eval()
    with torch.no_grad():
        made.codebook.copy_(made.latents(torch.randn(config.codes, 4))[:, 0])  # codes that are far enough apart to differ
    return made


def model(tokens="codes", seed=0, told_width=4, **changed):
    torch.manual_seed(seed)
    config = DualAxisConfig(**{**{n: getattr(AXES, n) for n in AXES.__dataclass_fields__}, **changed})
    made = CodeTokens(quantizer(), config) if tokens == "codes" else PatchTokens(config)
    found = CalM(config, made, N, 2, 3, told_width, P_C, P_F).eval()
    with torch.no_grad():
        for p in found.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return found.requires_grad_(False)


def batch(b=3, frames=4 * (P_C + P_F), seed=0, missing=()):
    g = torch.Generator().manual_seed(seed)
    x, valid = torch.randn(b, N, frames, generator=g), torch.ones(b, N, frames, dtype=torch.bool)
    valid[:, list(missing), 0] = False
    return Batch(torch.where(valid, x, 0.0), valid, torch.arange(N).expand(b, -1), torch.arange(b) % 3, torch.arange(b) % 2)


# ---------------------------------------------------------------- attention


def test_rotated_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    product = [[float(rotated(q, a) @ rotated(k, b).T) for b in range(6)] for a in range(6)]
    for a in range(5):
        for b in range(5):
            assert product[a][b] == pytest.approx(product[a + 1][b + 1], abs=1e-5)
    assert abs(product[0][0] - product[0][3]) > 1e-3


def test_attention_equals_the_formula_by_hand():
    torch.manual_seed(0)
    layer, x = SelfAttention(8, 2, 0.0, causal=True).eval(), torch.randn(1, 5, 8)
    q, k, v = (part.view(5, 2, 4).transpose(0, 1) for part in layer.qkv(x)[0].chunk(3, -1))
    q, k = rotated(q), rotated(k)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    by_hand = layer.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    assert torch.allclose(layer(x)[0][0], by_hand, atol=1e-6)


def test_attention_token_by_token_equals_attention_to_all_at_once():
    torch.manual_seed(0)
    layer, x, past, found = SelfAttention(8, 2, 0.0, causal=True).eval(), torch.randn(2, 5, 8), None, []
    for t in range(5):
        y, past = layer(x[:, t : t + 1], past=past)
        found.append(y)
    assert isinstance(past, Past) and torch.allclose(torch.cat(found, 1), layer(x)[0], atol=1e-6)


# ---------------------------------------------------------------- quantiser


@given(st.integers(1, 8), st.integers(0, 31))
def test_no_later_frame_changes_an_earlier_code(seed, frame):
    """Neither code nor latent of a token knows a frame after its own last one; nor does a decoded frame know a later code."""
    made, x = quantizer(), torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
    other = x.clone()
    other[:, frame:] += 5.0
    whole = frame // 4  # tokens that end before the changed frame
    assert torch.allclose(made.latents(x)[:, :whole], made.latents(other)[:, :whole], atol=1e-5)
    codes = made.codes(x)
    changed = codes.clone()
    changed[:, whole:] = (changed[:, whole:] + 1) % 16
    assert torch.allclose(made.decode(codes)[:, : 4 * whole], made.decode(changed)[:, : 4 * whole], atol=1e-5)


def test_codes_of_the_first_frames_are_the_first_codes_of_all():
    made, x = quantizer(), torch.randn(3, 40)
    assert torch.equal(made.codes(x[:, :24]), made.codes(x)[:, :6])


def test_latents_are_smoothed_by_the_recursion():
    made, x = quantizer(smooth=0.3), torch.randn(2, 24)
    raw = made.encoder(made.stem(x[:, None]).transpose(1, 2))
    by_hand = [raw[:, 0]]
    for t in range(1, 6):
        by_hand.append(0.7 * raw[:, t] + 0.3 * by_hand[-1])
    assert torch.allclose(made.latents(x), torch.stack(by_hand, 1), atol=1e-5)


def test_decoding_the_codes_is_the_reconstruction_to_the_bit():
    made, x = quantizer(), torch.randn(4, 28)
    out, codes = made(x)
    assert torch.equal(made.decode(codes), out) and torch.equal(codes, made.codes(x))
    d = (made.latents(x)[:, :, None] - made.codebook).square().sum(-1)
    assert torch.equal(d.argmin(-1), codes)


def test_codes_follow_the_mean_of_their_latents_as_their_exponential_average():
    """The form that keeps gradients' moves equals the average of sums over the average of counts, where nothing else moves the codes."""
    made = quantizer(decay=0.9)
    sums, counts = made.codebook.detach().clone(), torch.ones(16)
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        z = made.codebook.detach()[torch.randint(16, (3, 7), generator=g)] + 0.05 * torch.randn(3, 7, 16, generator=g)
        one = F.one_hot(made.nearest(z).flatten(), 16).float()
        sums, counts = 0.9 * sums + 0.1 * one.T @ z.flatten(0, 1), 0.9 * counts + 0.1 * one.sum(0)
        made._follow(z)
        assert torch.allclose(made.codebook, sums / counts[:, None], atol=1e-4)


def test_the_loss_without_codes_is_error_plus_pearson_plus_smoothness():
    made, x = quantizer().train(), torch.randn(4, 16)
    made.quantise = False
    z = made.latents(x)
    out = made.decode_vectors(z).detach().numpy()
    r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(out, x.numpy(), strict=True)])
    first, second = (z.detach().diff(dim=1, n=n).square().mean() for n in (1, 2))
    by_hand = np.square(out - x.numpy()).mean() + 0.5 * (1 - r) + 5e-2 * first + 5e-4 * second
    assert float(made.loss(x).detach()) == pytest.approx(float(by_hand), abs=1e-4)


def test_every_term_of_the_loss_reaches_what_it_should_move():
    for name, moved in {"codebook": "codebook", "orthogonality": "codebook", "usage": "codebook", "commitment": "stem.0.weight", "change": "stem.0.weight",
                        "curve": "stem.0.weight"}.items():  # fmt: skip
        grads = []
        for weight in (0.0, 50.0):
            off = dict.fromkeys(("codebook", "orthogonality", "usage", "commitment", "change", "curve"), 0.0)
            made = quantizer(decay=0.0, **{**off, name: weight}).train()
            torch.manual_seed(1)
            made.loss(torch.randn(8, 32)).backward()
            grads.append(made.get_parameter(moved).grad)
        assert grads[0] is None or not torch.allclose(grads[0], grads[1]), name


def test_unused_codes_become_latents_and_used_ones_stay():
    made = quantizer()
    before, latents = made.codebook.detach().clone(), torch.full((3, 16), 9.0)
    made.uses.copy_(torch.arange(16.0))
    assert made.reset_unused(latents) == 2  # 0 and 1 of a mean of 7.5
    assert (made.codebook[:2] == 9).all() and torch.equal(made.codebook[2:], before[2:])


def test_the_course_of_the_codebook():
    made, asked = quantizer(reset_every=3, recluster_every=4), []

    def latents():
        asked.append(now.epoch)
        return torch.randn(100, 16, generator=torch.Generator().manual_seed(len(asked)))

    course, found = CodebookCourse(latents), []
    for epoch in range(10):
        now = Moment(made, LoopConfig(epochs=10), epoch, 0)
        course.before_epoch(now)
        found.append((made.quantise, round(made.temperature, 4)))
    assert [q for q, _ in found] == [False] + [True] * 9
    assert found[0][1] == 2.5 and found[8][1] == found[9][1] == 0.01 and found[4][1] == pytest.approx((2.5 * 0.01) ** 0.5, abs=1e-4)
    assert asked == [1, 4, 5, 7]  # start by clustering, reset, new clusters, reset; not once the temperature is down


@pytest.mark.parametrize("n", [3, 8, 30])
def test_cluster_centres_are_as_many_as_wanted(n):
    found = centres(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), n)
    assert found.shape == (n, 4) and len(torch.unique(found, dim=0)) == min(n, 12)


# ---------------------------------------------------------------- population


@pytest.mark.parametrize("tokens", ["codes", "patches"])
@given(st.integers(0, 4 * (P_C + P_F) - 1))
def test_no_later_frame_changes_an_earlier_state(tokens, frame):
    made, one = model(tokens), batch()
    other = one._replace(x=one.x.clone())
    other.x[..., frame:] += 3.0
    whole = frame // 4
    a, b = made.encoded(one), made.encoded(other)
    assert torch.allclose(a[:, :, :whole], b[:, :, :whole], atol=1e-5)
    assert tokens == "codes" or not torch.allclose(a[:, :, whole:], b[:, :, whole:], atol=1e-3)


@pytest.mark.parametrize("tokens", ["codes", "patches"])
@pytest.mark.parametrize("how", ["argmax", "soft"])
def test_permuted_neurons_give_permuted_forecasts(tokens, how):
    made, one = model(tokens), batch(frames=4 * P_C)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = one._replace(x=one.x[:, order], valid=one.valid[:, order], neuron=one.neuron[:, order])
    assert torch.allclose(made(one, 12, how)[:, order], made(other, 12, how), atol=1e-4)
    assert torch.allclose(made.looks(one)[:, :, order][..., order], made.looks(other), atol=1e-5)


@pytest.mark.parametrize("tokens", ["codes", "patches"])
def test_missing_neurons_reach_no_other(tokens):
    made, one = model(tokens), batch(frames=4 * P_C, missing=[1, 4])
    other = one._replace(x=one.x.clone())
    other.x[:, [1, 4], 1:] += 7.0
    there = [0, 2, 3, 5]
    rest = Batch(one.x[:, there], one.valid[:, there], one.neuron[:, there], one.condition, one.session)
    found = made(one, 12)[:, there]
    assert torch.allclose(found, made(other, 12)[:, there], atol=1e-5) and torch.allclose(found, made(rest, 12), atol=1e-4)
    assert (made.looks(one)[..., [1, 4]] == 0).all()


@pytest.mark.parametrize("told", [True, False])
def test_a_rollout_with_memory_equals_one_that_begins_anew_at_each_token(told):
    made, one = model(), batch(frames=4 * P_C)
    codes, who, telling = made.tokens.read(one.x), made.who(one), made.telling(one) if told else None
    for _ in range(P_F):
        h, _ = made.states(made.tokens.embed(codes), who, telling, one.whole())
        codes = torch.cat([codes, made.tokens.likeliest(h[:, :, -1:])], 2)
    by_hand = made.tokens.frames(made.tokens.vectors(codes))[..., 4 * P_C :]
    assert torch.allclose(made(one, 4 * P_F, told=told), by_hand, atol=1e-4)
    assert torch.equal(made(one, 10, told=told), made(one, 12, told=told)[..., :10])


def test_draws_have_the_frequencies_of_the_forecast():
    made, one = model(), batch(b=1, frames=4 * P_C)
    h, _ = made.states(made.tokens.embed(made.tokens.read(one.x)), made.who(one), made.telling(one), one.whole())
    p = made.tokens.logits(h[:, :, -1]).softmax(-1)[0]
    n = 4000
    u = torch.rand(n, N, generator=torch.Generator().manual_seed(0))
    drawn = made.tokens.answer(h[:, :, -1].expand(n, -1, -1), "sample", u).vector
    codes = (drawn[:, :, None] == made.tokens.quantizer.codebook).all(-1).float()
    assert (codes.mean(0) - p).abs().max() < 0.03
    two = made(one, 12, "sample", uniforms=torch.rand(5, 1, N, P_F))
    assert two.shape == (5, 1, N, 12)


def test_the_condition_reaches_no_token_before_the_last_of_the_context():
    made, one = model(), batch()
    other = one._replace(condition=(one.condition + 1) % 3)
    a, b = made.encoded(one, told=True), made.encoded(other, told=True)
    assert torch.equal(a[:, :, : P_C - 1], b[:, :, : P_C - 1]) and not torch.allclose(a[:, :, P_C - 1 :], b[:, :, P_C - 1 :])
    assert torch.equal(made.encoded(one), made.encoded(other))


def test_without_attention_over_neurons_each_is_forecast_by_itself():
    made, one = model(neuron_attention=False), batch(frames=4 * P_C)
    other = one._replace(x=one.x.clone())
    other.x[:, 0] += 4.0
    assert torch.allclose(made(one, 12)[:, 1:], made(other, 12)[:, 1:], atol=1e-5)
    together = model()
    assert not torch.allclose(together(one, 12, "soft")[:, 1:], together(other, 12, "soft")[:, 1:], atol=1e-4)


def test_the_loss_is_the_cross_entropy_of_the_next_code():
    made, one = model(), batch()
    codes = made.tokens.read(one.x)
    h, _ = made.states(made.tokens.embed(codes), made.who(one), made.telling(one), one.whole())
    log_p = made.tokens.logits(h).log_softmax(-1)[:, :, :-1].gather(-1, codes[:, :, 1:, None])[..., 0]
    assert torch.allclose(made.loss(one), -log_p, atol=1e-5)


def test_training_spoils_inputs_but_never_the_wanted_tokens():
    for changed in ({"replace": 0.9, "own_share": 0.0}, {"replace": 0.0, "own_share": 1.0}, {"untold": 1.0, "replace": 0.0, "own_share": 0.0}):
        made, one = model(**changed), batch()
        codes = made.tokens.read(one.x)
        torch.manual_seed(0)
        made.train()
        spoilt = made._spoilt(codes[:, :, :-1], made.who(one), None, one.whole())
        if "untold" not in changed:
            assert not torch.equal(spoilt, codes[:, :, :-1])
        assert made.tokens.quantizer.training is False
        assert torch.equal(codes, made.tokens.read(one.x))
    near = made.tokens.near
    unit = F.normalize(made.tokens.quantizer.codebook, dim=1)
    by_hand = (unit @ unit.T - 3 * torch.eye(16)).argsort(1, descending=True)[:, :12]
    assert torch.equal(near.sort(1).values, by_hand.sort(1).values)


def test_an_unknown_session_has_the_mean_of_the_known_ones():
    made, one = model(), batch()
    unknown = made.who(one._replace(session=torch.full_like(one.session, -1)))
    assert torch.allclose(unknown, (made.who(one._replace(session=one.session * 0)) + made.who(one._replace(session=one.session * 0 + 1))) / 2)


def test_sizes_that_do_not_fit_are_named():
    for kind in (QuantizerConfig, DualAxisConfig):
        with pytest.raises(QfError, match="heads: expected a divisor of width / 2"):
            kind(width=12, heads=4)


def test_the_paper_sizes_take_a_step():
    quantizer, config = NeuralQuantizer(QuantizerConfig()), DualAxisConfig()
    x = torch.randn(2, 76 + 48)
    quantizer.train().loss(x).backward()
    made = CalM(config, CodeTokens(quantizer.eval(), config), 4, 1, 2, 0, 19, 12).train()
    one = Batch(torch.randn(1, 4, 124), torch.ones(1, 4, 124, dtype=torch.bool), torch.arange(4)[None], torch.zeros(1).long(), torch.zeros(1).long())
    made.loss(one).mean().backward()
    assert made.blocks[0].neurons.qkv.weight.grad.abs().sum() > 0
    blocks = sum(p.numel() for p in made.blocks.parameters())
    assert 4.1e6 < blocks < 4.3e6  # about 4.2 million in the blocks (spec of the released code)
