"""Informer, Autoformer and Crossformer against their papers' formulas written out, and on the series for which each was made."""

import numpy as np
import pytest
import torch
from test_no_waiting import NoWaiting
from torch import nn

from qf_toolkit.errors import QfError
from qf_toolkit.models.baselines.autoformer import AutoCorrelation, Autoformer, Decomposition
from qf_toolkit.models.baselines.crossformer import SILENT, Crossformer, TwoStageAttention
from qf_toolkit.models.baselines.informer import Informer, SparseAttention
from qf_toolkit.models.baselines.series import positions
from qf_toolkit.models.batch import Batch, Sizes

torch.set_num_threads(1)
KINDS = [Informer, Autoformer, Crossformer]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batch(x, valid=None):
    b, n, _ = x.shape
    valid = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
    return Batch(x, valid, torch.zeros(b, n, dtype=torch.long), torch.zeros(b, dtype=torch.long), torch.zeros(b, dtype=torch.long))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def linear(layer, x):
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return x * layer.weight.detach().double().numpy() + layer.bias.detach().double().numpy()


def gelu(x):
    return x * torch.distributions.Normal(0.0, 1.0).cdf(torch.from_numpy(x)).numpy()


def shaken(module, seed=0):
    """The module in eval mode with norms and biases that do something."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn(p.shape, generator=g)
    return module.eval()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- formulas written out


def attend(layer, x, other, heads, mute=()):
    """Multi-head attention of tokens (S, D) to others (S', D), query by query; those in `mute` are left out."""
    q, k, v = linear(layer.query, x), linear(layer.key, other), linear(layer.value, other)
    out, size = np.zeros_like(q), q.shape[1] // heads
    keep = [j for j in range(len(other)) if j not in mute]
    for h in range(heads):
        at = slice(h * size, (h + 1) * size)
        for i in range(len(x)):
            share = softmax(np.array([q[i, at] @ k[j, at] / np.sqrt(size) for j in keep]))
            out[i, at] = sum(w * v[j, at] for w, j in zip(share, keep, strict=True))
    return linear(layer.out, out)


@pytest.mark.parametrize("causal", [False, True])
def test_sparse_attention_is_algorithm_1(causal):
    S, H = 40, 2
    torch.manual_seed(1)
    layer = shaken(SparseAttention(Informer.Config(width=8, heads=H, factor=1.5), S, causal))
    assert layer.most == 6 and layer.drawn.shape == (S, 6)  # 1.5 * ceil(ln 41)
    x = draw(1, S, 8)
    q, k, v = (linear(f, x[0].double().numpy()) for f in (layer.query, layer.key, layer.value))
    out = np.zeros_like(q)
    for h in range(H):
        at = slice(4 * h, 4 * h + 4)
        scores = q[:, at] @ k[:, at].T / 2.0
        measure = [max(scores[i, layer.drawn[i]]) - np.mean(scores[i, layer.drawn[i]].tolist()) for i in range(S)]
        active = set(np.argsort(measure)[-6:])
        for i in range(S):
            last = i + 1 if causal else S
            out[i, at] = softmax(scores[i, :last]) @ v[:last, at] if i in active else v[: i + 1, at].sum(0) if causal else v[:, at].mean(0)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), linear(layer.out, out), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 4, 5])
def test_the_slow_part_is_a_moving_average(frames):
    x = draw(2, 11, 3).double()
    rest, slow = Decomposition(frames, 11).double()(x)
    for t in range(11):
        near = [min(max(t + d, 0), 10) for d in range(-((frames - 1) // 2), frames // 2 + 1)]
        np.testing.assert_allclose(slow[:, t], x[:, near].mean(1), atol=1e-6)  # the average is float32
    np.testing.assert_allclose(rest + slow, x)


@pytest.mark.parametrize("other", [12, 20, 7])
def test_auto_correlation_is_equations_5_to_7(other):
    """Periods by sums of products instead of a Fourier transform, shifts by np.roll; other series are cut or filled up."""
    S = 12
    layer = shaken(AutoCorrelation(Autoformer.Config(width=6, heads=2, factor=1.5)))
    x, y = draw(2, S, 6), draw(2, other, 6, seed=1)
    found = layer(x, y).detach().numpy()
    for b in range(2):
        q = linear(layer.query, x[b].double().numpy())
        k, v = (linear(f, y[b].double().numpy())[:S] for f in (layer.key, layer.value))
        k, v = (np.concatenate([z, np.zeros((S - len(z), 6))]) for z in (k, v))
        agreement = np.array([np.mean([sum(q[t, c] * k[(t - period) % S, c] for t in range(S)) for c in range(6)]) for period in range(S)])
        best = np.argsort(agreement)[::-1][:3]  # 1.5 * ln 12
        share = softmax(agreement[best])
        wanted = sum(w * np.roll(v, -period, 0) for w, period in zip(share, best, strict=True))
        np.testing.assert_allclose(found[b], linear(layer.out, wanted), rtol=1e-4, atol=1e-4)


def test_two_stage_attention_is_that_of_the_paper():
    """Section 3.2: along time for each neuron, then to the routers and back for each patch; the second neuron is missing in the second trial."""
    B, N, P, D, H = 2, 3, 2, 6, 2
    layer = shaken(TwoStageAttention(Crossformer.Config(width=D, heads=H, routers=2), P))
    x, mask = draw(B, N, P, D), torch.zeros(B, 1, 1, 1, N)
    mask[1, ..., 1] = SILENT
    found = layer(x, mask).detach().numpy()
    ff = [lambda z, f=f: linear(f[2], gelu(linear(f[0], z))) for f in (layer.ff1, layer.ff2)]
    for b in range(B):
        z = x[b].double().numpy()
        for n in range(N):
            z[n] = norm(layer.norm1, z[n] + attend(layer.time, z[n], z[n], H))
            z[n] = norm(layer.norm2, z[n] + ff[0](z[n]))
        for p in range(P):
            told = attend(layer.send, layer.router[p].detach().double().numpy(), z[:, p], H, mute={1} if b == 1 else ())
            z[:, p] = norm(layer.norm3, z[:, p] + attend(layer.receive, z[:, p], told, H))
            z[:, p] = norm(layer.norm4, z[:, p] + ff[1](z[:, p]))
        np.testing.assert_allclose(found[b], z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_positions_are_sines_and_cosines(width):
    found = positions(3, 4, width)
    for t in range(4):
        for c in range(width):
            wave = (np.cos if c % 2 else np.sin)((3 + t) / 10_000 ** (c // 2 * 2 / width))
            assert found[t, c] == pytest.approx(wave, abs=1e-6)


# ---------------------------------------------------------------- what is asked of each


@each
@pytest.mark.parametrize(("n_context", "n_out"), [(1, 1), (2, 5), (13, 1), (30, 20)])
def test_any_length_gives_finite_answers_and_gradients(kind, n_context, n_out):
    torch.manual_seed(0)
    module = kind(kind.Config(), Sizes(n_context, n_out))
    out = module(batch(draw(2, 3, n_context)))
    out.square().mean().backward()
    assert out.shape == (2, 3, n_out) and out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    silent = [name for name, p in module.named_parameters() if p.grad is None]
    assert not silent


@each
def test_a_forecast_is_the_same_whatever_is_asked_beside_it(kind):
    torch.manual_seed(0)
    module, x = kind(kind.Config(), Sizes(30, 20)).eval(), draw(5, 3, 30)
    with torch.no_grad():
        whole, again, alone = module(batch(x)), module(batch(x)), module(batch(x[3:4]))
    assert torch.equal(whole, again)
    torch.testing.assert_close(alone[0], whole[3], rtol=1e-4, atol=1e-5)


def test_the_drawn_keys_are_saved_and_hang_on_the_seed():
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(Informer(Informer.Config(), Sizes(60, 20)).state_dict()["encoder.0.attention.drawn"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@each
def test_heads_divide_the_width(kind):
    with pytest.raises(QfError, match="heads: expected a divisor of width = 32, found 5"):
        kind.Config(heads=5)


@each
def test_no_step_waits_for_the_device(kind):
    """Loss and gradient under the mode that stands for a device, and on "meta", where tensors have no values."""
    module = kind(kind.Config(), Sizes(16, 8))
    with NoWaiting():
        module(batch(draw(2, 3, 16))).square().mean().backward()
    module.to("meta")(Batch(*(v.to("meta") for v in batch(draw(2, 3, 16))))).square().mean().backward()


def test_a_missing_neuron_tells_the_others_nothing():
    torch.manual_seed(0)
    module, x = Crossformer(Crossformer.Config(), Sizes(20, 7)).eval(), draw(2, 4, 20)
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[0, 1, 3] = False
    with torch.no_grad():
        before = module(batch(x, valid))
        x[0, 1] = 100 * torch.randn(20)
        after = module(batch(x, valid))
        left_out = module(batch(x[:, [0, 2, 3]]))
        nobody = module(batch(x, torch.zeros_like(valid)))
    assert torch.equal(after[0, [0, 2, 3]], before[0, [0, 2, 3]]) and torch.equal(after[1], before[1])
    torch.testing.assert_close(left_out[0], after[0, [0, 2, 3]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(left_out[1], after[1, [0, 2, 3]]) and nobody.isfinite().all()


def test_the_order_of_neurons_means_nothing():
    module, x = Crossformer(Crossformer.Config(), Sizes(20, 7)).eval(), draw(2, 5, 20)
    order = [3, 0, 4, 2, 1]
    torch.testing.assert_close(module(batch(x[:, order])), module(batch(x))[:, order], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- what each is made for


def learnt(module, make, steps, lr):
    """The squared error on fresh data after some steps, over the variance of the truth."""
    optimiser = torch.optim.Adam(module.parameters(), lr)
    for step in range(steps):
        x, truth = make(step)
        optimiser.zero_grad()
        nn.functional.mse_loss(module(batch(x)), truth).backward()
        optimiser.step()
    module.eval()
    x, truth = make(10**6)
    with torch.no_grad():
        return float((module(batch(x)) - truth).square().mean() / truth.var())


def test_autoformer_carries_a_period_on():
    """A wave of three harmonics with random phase, of 12 frames; its last value or mean would leave 1 or more."""

    def make(seed):
        g = np.random.default_rng(seed)
        phase, t = g.uniform(0, 2 * np.pi, (32, 1, 1)), np.arange(60)
        wave = sum(np.sin(k * (2 * np.pi * t / 12 + phase)) / k for k in (1, 2, 3)) + 0.1 * g.standard_normal((32, 1, 60))
        return torch.from_numpy(wave[..., :36]).float(), torch.from_numpy(wave[..., 36:]).float()

    torch.manual_seed(0)
    assert learnt(Autoformer(Autoformer.Config(width=16, layers=1, dropout=0.0), Sizes(36, 24)), make, 60, 5e-3) < 0.1


def test_informer_finds_what_happened_long_ago():
    """The height of a bump in the first quarter of 120 frames is the response."""

    def make(seed):
        g = np.random.default_rng(seed)
        height, at = g.standard_normal((32, 1, 1)), g.integers(5, 25, (32, 1, 1))
        x = 0.1 * g.standard_normal((32, 1, 120)) + height * np.exp(-((np.arange(120) - at) ** 2) / 18)
        return torch.from_numpy(x).float(), torch.from_numpy(height).float().expand(32, 1, 4)

    torch.manual_seed(0)
    assert learnt(Informer(Informer.Config(width=16, dropout=0.0), Sizes(120, 4)), make, 70, 3e-3) < 0.2


def test_crossformer_reads_the_other_neurons():
    """Eight neurons show a level under noise of three times its spread. From six frames of one of them, 0.6 of its variance can't be told; of all, 0.16."""

    def make(seed):
        level = draw(64, 1, 1, seed=seed)
        return level + 3 * draw(64, 8, 6, seed=seed + 1_000_003), level.expand(64, 8, 2)

    torch.manual_seed(0)
    assert learnt(Crossformer(Crossformer.Config(width=16, layers=1, dropout=0.0), Sizes(6, 2)), make, 60, 5e-3) < 0.4
