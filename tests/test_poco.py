"""POCO against formulas written out by hand, and what its structure promises."""

import numpy as np
import pytest
import torch

from qf_toolkit.models.batch import Batch, Sizes
from qf_toolkit.models.poco import POCO, POCOConfig, TimedAttention, TimeRotation

torch.set_num_threads(1)
SMALL = POCOConfig(width=16, latents=4, heads=2, head_width=8, hidden=24)


def batch(b=3, n=5, t=48, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, t, generator=g, dtype=torch.float64)
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.arange(n).expand(b, n), torch.zeros(b).long(), torch.zeros(b).long())


def stirred(sizes=None, config=SMALL, seed=0):
    model = POCO(config, sizes or Sizes(48, 16, 5)).double().eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.3)
    return model


def norm(x, layer):
    w, b = (p.detach().numpy() for p in (layer.weight, layer.bias))
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + (0 if layer.bias is None else layer.bias.detach().numpy())


def turned(x, time, n, sign=1.0):
    """A head's numbers (..., W) as complex pairs, turned by their time (...,)."""
    period = 0.1 * 1000.0 ** (np.arange(n) / (n - 1))
    z = (x[..., :n] + 1j * x[..., n : 2 * n]) * np.exp(sign * 2j * np.pi * np.asarray(time)[..., None] / period)
    return np.concatenate([z.real, z.imag, x[..., 2 * n :]], -1)


def attention(layer, x, time, tokens, their):
    """Head by head, query by query."""
    H, W = layer.heads, layer.query.weight.shape[0] // layer.heads
    q = linear(norm(x, layer.norm), layer.query)
    k, v = np.split(linear(norm(tokens, layer.norm_tokens), layer.key_value), 2, -1)
    out = np.zeros((len(x), H * W))
    for h in range(H):
        at = slice(h * W, (h + 1) * W)
        kh, vh = turned(k[:, at], their, W // 4), v[:, at]
        for i in range(len(x)):
            score = kh @ turned(q[i, at], time[i], W // 4) / np.sqrt(W)
            share = np.exp(score - score.max())
            share /= share.sum()
            if layer.values:
                out[i, at] = turned(share @ turned(vh, their, W // 4), time[i], W // 4, -1.0)
            else:
                out[i, at] = share @ vh
    return linear(out, layer.out)


def gelu(x):
    from scipy.special import erf

    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def feed_forward(layer, x):
    value, gate = np.split(linear(norm(x, layer.norm), layer.open), 2, -1)
    return linear(value * gelu(gate), layer.close)


@torch.no_grad()
def test_the_forward_pass_is_the_formulas():
    model, given = stirred(), batch()
    of = model.conditioning
    for b in range(len(given.x)):
        x, who = given.x[b].numpy(), of.neurons.weight.numpy()
        tokens = np.stack([linear(x[i, 16 * p : 16 * p + 16], of.project) + who[i] for i in range(5) for p in range(3)])
        when, time = np.tile(np.arange(3.0), 5), np.linspace(0, 3, 4)
        z = of.latents.numpy()
        z = z + attention(of.read, z, time, tokens, when)
        z = z + feed_forward(of.read_ff, z)
        z = z + attention(of.among[0], z, time, z, time)
        z = z + feed_forward(of.among_ff[0], z)
        e = who + attention(of.ask, who, np.full(5, 3.0), z, time)
        e = e + feed_forward(of.ask_ff, e)
        y = linear(np.maximum(linear(x, model.open), 0) * linear(e, model.scale) + linear(e, model.shift), model.close)
        np.testing.assert_allclose(model(given)[b].numpy(), y, rtol=1e-5, atol=1e-6)


def test_the_first_forecast_is_a_constant():
    out = POCO(POCOConfig(), Sizes(48, 16, 5))(batch()._replace(x=batch().x.float()))
    assert torch.equal(out, out[:1, :1].expand_as(out))


@torch.no_grad()
def test_permuted_neurons_permute_the_forecasts():
    model, given = stirred(), batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = given._replace(x=given.x[:, order], neuron=given.neuron[:, order])
    torch.testing.assert_close(model(moved), model(given)[:, order])


@torch.no_grad()
def test_each_neuron_reads_the_others_but_none_that_has_a_gap():
    model, given = stirred(), batch()
    other = given.x.clone()
    other[:, 1] += 3
    changed = (model(given._replace(x=other)) - model(given)).abs().amax((0, 2))
    assert (changed > 1e-6).all()
    valid = given.valid.clone()
    valid[:, 1, 7] = False
    left = [model(given._replace(x=x, valid=valid)) for x in (given.x, other)]
    keep = [0, 2, 3, 4]
    torch.testing.assert_close(left[0][:, keep], left[1][:, keep], rtol=0, atol=0)


@pytest.mark.parametrize(("n_context", "frames", "tokens"), [(48, 16, 3), (32, 16, 2), (20, 16, 1), (10, 10, 1), (90, 16, 5)])
@torch.no_grad()
def test_contexts_of_any_length(n_context, frames, tokens):
    model = stirred(Sizes(n_context, 7))
    assert (model.conditioning.token_frames, model.conditioning.n_tokens) == (frames, tokens)
    given = batch(t=n_context)
    out = model(given)
    assert out.shape == (3, 5, 7)
    older = given.x.clone()
    older[:, 1, : n_context - frames * tokens] += 5  # what no token covers is read by the neuron's own perceptron alone
    others = [0, 2, 3, 4]
    torch.testing.assert_close(model(given._replace(x=older))[:, others], out[:, others])


def test_attention_sees_differences_of_time_alone():
    layer = TimedAttention(12, 2, 8, values=True).double()
    g = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(2, 3, 12, generator=g, dtype=torch.float64), torch.randn(2, 6, 12, generator=g, dtype=torch.float64)
    time, their = torch.tensor([0.0, 1.0, 2.5]).double(), torch.arange(6).double()
    torch.testing.assert_close(layer(x, time, tokens, their), layer(x, time + 7.25, tokens, their + 7.25))
    assert not torch.allclose(layer(x, time, tokens, their), layer(x, time + 1, tokens, their))
    turn = TimeRotation(8).double()
    q = torch.randn(1, 1, 6, 8, generator=g, dtype=torch.float64)
    torch.testing.assert_close(turn(turn(q, their), -their), q)
