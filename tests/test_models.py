"""The models: exact decoding, independence of the batch, the equations against a second computation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import QfError
from qf_toolkit.models.batch import Batch
from qf_toolkit.models.quantformer import ActivationClassifier, QuantFormer, QuantFormerConfig, ResponseForecaster
from qf_toolkit.models.quantizer import Quantizer
from qf_toolkit.models.transformer import Transformer

SMALL = {"rate_hz": 10.0, "n_baseline": 30, "n_response": 20, "patch_frames": 8, "width": 16, "layers": 2, "heads": 4, "codes": 8}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return QuantFormer(QuantFormerConfig(**SMALL)).eval()


def windows(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 50)).astype(np.float32))


def test_paper_size_and_patches():
    config = QuantFormerConfig()
    assert (config.baseline_patches, config.response_patches) == (6, 4)
    assert 2.2e6 < sum(p.numel() for p in QuantFormer(config).parameters()) < 2.6e6


def test_decoding_the_codes_is_the_forward_pass_bit_for_bit(model):
    x = windows(64)
    assert torch.equal(model.decode(model.codes(x)), model(x)[0])


def test_outputs_do_not_depend_on_the_rest_of_the_batch(model):
    x = windows(33)
    together, codes, _ = model(x)
    for i in (0, 7, 32):
        alone, code, _ = model(x[i : i + 1])
        same = (code == codes[i : i + 1]).all()
        assert same  # no ties in this data
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)


def test_patches_put_the_onset_on_an_edge_and_give_the_window_back(model):
    x = windows(5)
    patches = model.patchify(x)
    assert patches.shape == (5, 7, 8)
    torch.testing.assert_close(patches[:, 4, 0], x[:, 30])  # the first frame after the onset starts a patch
    torch.testing.assert_close(model.unpatchify(patches), x)


def test_maps_are_those_of_the_fast_path():
    torch.manual_seed(0)
    for kwargs in ({}, {"norm": "pre"}):
        stack = Transformer(width=16, heads=4, layers=3, **kwargs).eval()
        x = torch.randn(6, 9, 16)
        y, maps = stack(x, need_maps=True)
        torch.testing.assert_close(y, stack(x), atol=1e-5, rtol=1e-5)
        assert maps.shape == (6, 3, 4, 9, 9)
        torch.testing.assert_close(maps.sum(-1), torch.ones(6, 3, 4, 9))


def test_residual_attention_adds_the_scores_of_the_layer_before():
    torch.manual_seed(0)
    stack = Transformer(width=16, heads=4, layers=2, residual_attention=True).eval()
    x = torch.randn(3, 5, 16)
    h, _, scores = stack.blocks[0](x, None, True)
    expected, _, _ = stack.blocks[1](h, scores, True)
    torch.testing.assert_close(stack(x), expected)


def test_nearest_code_is_the_nearest():
    torch.manual_seed(0)
    q = Quantizer(codes=8, width=5)
    with torch.no_grad():
        q.scale.add_(0.03)
        q.bias.add_(0.02)
    z = torch.randn(40, 3, 5)
    torch.testing.assert_close(q.nearest(z), torch.cdist(z.double(), q.vectors.double()[None].expand(40, -1, -1)).argmin(-1))


def test_straight_through_gradients():
    torch.manual_seed(0)
    q = Quantizer(codes=8, width=5, affine_lr=0.0, beta=0.25, sync=0.2, replace_every=0).train()
    z = torch.randn(4, 3, 5, requires_grad=True)
    out, codes, loss = q(z)
    assert torch.equal(out, q.vectors[codes])
    g = torch.randn_like(out)
    (out * g).sum().backward(retain_graph=True)
    torch.testing.assert_close(z.grad, g)
    expected = torch.zeros(8, 5).index_add(0, codes.flatten(), 0.2 * g.flatten(0, 1))
    torch.testing.assert_close(q.codebook.grad, expected)
    by_hand = 0.75 * (z - q.vectors[codes].detach()).square().mean() + 0.25 * (z.detach() - q.vectors[codes]).square().mean()
    torch.testing.assert_close(loss, by_hand)


def test_gradients_of_the_codebook_are_the_same_in_every_run():
    """With several threads, too: else a resumed training could not end at the same weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        q = Quantizer(codes=32, width=64, replace_every=0).train()
        z = torch.randn(512, 15, 64, generator=torch.Generator().manual_seed(0))

        def gradient():
            q.zero_grad()
            out, _, loss = q(z)
            (out.square().mean() + loss).backward()
            return q.codebook.grad.clone()

        first = gradient()
        assert all(torch.equal(first, gradient()) for _ in range(20))
    finally:
        torch.set_num_threads(before)


def test_unused_codes_are_replaced_by_what_the_encoder_makes():
    torch.manual_seed(0)
    q = Quantizer(codes=4, width=2, replace_every=5).train()
    with torch.no_grad():
        q.codebook[:] = torch.tensor([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0], [70.0, 70.0]])
    z = torch.randn(64, 3, 2)
    for _ in range(6):
        q(z)
    assert q.nearest(z).unique().numel() == 4


@pytest.mark.parametrize(("below", "moved"), [(0.0, False), (0.1, True)])
def test_a_code_of_a_sliver_of_the_places_is_replaced(below, moved):
    torch.manual_seed(0)
    q = Quantizer(codes=2, width=2, replace_every=4, replace_below=below).train()
    with torch.no_grad():
        q.codebook[:] = torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    z = 0.1 * torch.randn(64, 3, 2)
    z[0, 0] = 50.0  # 1 place of 192
    for _ in range(4):
        q(z)
    assert bool((q.vectors[1] != 50).any()) == moved


@settings(max_examples=20, deadline=None)
@given(ratio=st.floats(0.05, 0.9), n=st.integers(1, 50))
def test_every_mask_hides_something(ratio, n):
    torch.manual_seed(0)
    model = QuantFormer(QuantFormerConfig(**{**SMALL, "mask_ratio": ratio, "layers": 1}))
    assert model.draw_mask(n, "cpu").any(1).all()


def test_loss_is_equation_2(model):
    """Against a loop over observations and frames; the padding enters nowhere."""
    x = windows(6)
    batch = Batch(
        x[:, None], torch.ones(6, 1, 50, dtype=torch.bool), torch.zeros(6, 1, dtype=torch.long), torch.zeros(6).long(), torch.zeros(6).long()
    )
    active, beta = torch.tensor([1.0, 0, 0, 1, 0, 0]), 4.0
    torch.manual_seed(3)
    got = model.loss(batch, active, beta)
    torch.manual_seed(3)
    mask = model.draw_mask(6, "cpu")
    out = model(x, mask)[0].detach()
    weights = [1 + beta * float(a) for a in active]
    total = 0.0
    for i in range(6):
        hidden, shown = [], []
        for t in range(50):
            patch = (t + 2) // 8  # 30 frames of baseline padded to 32
            (hidden if mask[i, patch] else shown).append(float((out[i, t] - x[i, t]) ** 2))
        total += weights[i] / (sum(weights) / 6) * (2.0 * np.mean(hidden) + (np.mean(shown) if shown else 0.0))
    assert got.item() == pytest.approx(total / 6, rel=1e-5)


def test_downstream_models_never_read_the_response(model):
    x, ids = windows(9), torch.zeros(9, dtype=torch.long)
    later = x.clone()
    later[:, 30:] = 1e6
    for kind in (ActivationClassifier, ResponseForecaster):
        task = kind(model, 3, 2).eval()
        assert torch.equal(task(x, ids, ids), task(later, ids, ids))
    assert torch.equal(model.baseline_codes(x), model.baseline_codes(later))


def test_hidden_patches_of_the_baseline_are_not_read(model):
    x, ids = windows(9), torch.zeros(9, dtype=torch.long)
    hidden = torch.zeros(9, 4, dtype=torch.bool)
    hidden[:, 1] = True  # 2 frames of padding: the second patch holds frames 6 to 13
    other = x.clone()
    other[:, 6:14] = 50.0
    forecaster, classifier = ResponseForecaster(model, 3, 2).eval(), ActivationClassifier(model, 3, 2).eval()
    for call in (lambda v, h: forecaster(v, ids, ids, h), lambda v, h: classifier.summary(v, ids, ids, h)):
        assert torch.equal(call(x, hidden), call(other, hidden))
        assert not torch.allclose(call(x, None), call(other, None)) and not torch.allclose(call(x, None), call(x, hidden))


def test_soft_decoding_of_a_certain_forecast_is_argmax(model):
    task = ResponseForecaster(model, 3, 2).eval()
    logits = torch.full((4, 3, 8), -1e4)
    logits[..., 2] = 1e4
    given_codes = model.baseline_codes(windows(4))
    argmax = task.decode(given_codes, logits, "argmax")
    torch.testing.assert_close(task.decode(given_codes, logits, "soft"), argmax)
    torch.testing.assert_close(task.decode(given_codes, logits, "sample"), argmax)


def test_the_codebook_and_the_decoder_stay_frozen(model):
    task = ResponseForecaster(model, 3, 2)
    assert not any(p.requires_grad for p in task.autoencoder.parameters())
    assert not task.train().autoencoder.training


@pytest.mark.parametrize("bad", [{"patch_frames": 40}, {"heads": 5}, {"mask_ratio": 0.0}, {"codes": 1}, {"norm": "batch"}])
def test_bad_settings_are_named(bad):
    with pytest.raises(QfError, match=next(iter(bad))):
        QuantFormerConfig(**{**SMALL, **bad})
