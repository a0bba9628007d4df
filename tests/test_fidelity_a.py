"""Competitors against public implementations of their papers with the same weights, and, where no package has one, on a series on which its paper says it
should do well. The packages come with the extra `fidelity`; `make test-fidelity` installs them."""

import pytest
import torch
from helpers import needs
from torch import nn

from qf_toolkit.models.baselines.brainlm import BrainLM, BrainLMConfig
from qf_toolkit.models.baselines.itransformer import ITransformer, ITransformerConfig
from qf_toolkit.models.baselines.patchtst import PatchTST, PatchTSTConfig
from qf_toolkit.models.baselines.tcn import TCN, TCNConfig
from qf_toolkit.models.batch import Batch, Sizes
from qf_toolkit.models.normalise import without_level
from qf_toolkit.models.transformer import Transformer

torch.set_num_threads(1)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def batch(x):
    b, n, _ = x.shape
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.arange(n).expand(b, n), torch.zeros(b).long(), torch.zeros(b).long())


def stirred(module, seed=0):
    """A module whose weights, and statistics of batch normalisation, are drawn anew, so that none of them is a plain 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]:
            drawn = 0.2 * torch.randn(tensor.shape, generator=g)
            tensor.copy_((1 + drawn).abs() if tensor.ndim == 1 else drawn)  # a variance is positive
    return module.eval()


# ---------------------------------------------------------------- the same weights


@needs("pytorch_tcn", "fidelity")
@torch.no_grad()
def test_the_tcn_is_pytorch_tcn():
    from pytorch_tcn import TCN as Theirs

    ours = stirred(TCN(TCNConfig(width=6, kernel_frames=3), Sizes(40, 7)))
    theirs = Theirs(1, [6] * len(ours.blocks), kernel_size=3, dropout=0.0, causal=True, use_norm="weight_norm", activation="relu").eval()
    with torch.no_grad():
        for block, other in zip(ours.blocks, theirs.network, strict=True):
            for mine, its in ((block.first, other.conv1), (block.second, other.conv2)):
                its.bias.copy_(mine.bias)
                for part in ("original0", "original1"):  # length and direction of weight norm
                    getattr(its.parametrizations.weight, part).copy_(getattr(mine.parametrizations.weight, part))
            if other.downsample is not None:
                other.downsample.load_state_dict(block.shortcut.state_dict())
    x = torch.randn(5, 2, 40, generator=torch.Generator().manual_seed(1))
    features = theirs(x.reshape(10, 1, 40))
    torch.testing.assert_close(ours.blocks(x.reshape(10, 1, 40)), features, **CLOSE)
    torch.testing.assert_close(ours(batch(x)), ours.map(features[..., -1]).unflatten(0, (5, 2)), **CLOSE)


@needs("transformers", "fidelity")
@pytest.mark.parametrize("n_context", [32, 37, 90])
@torch.no_grad()
def test_patchtst_is_that_of_transformers(n_context):
    """In double precision: forecasts of the drawn model reach hundreds, and single precision alone moves them by 5e-4."""
    from transformers import PatchTSTConfig as TheirConfig
    from transformers import PatchTSTForPrediction

    sizes = {"d_model": 16, "num_attention_heads": 4, "num_hidden_layers": 3, "ffn_dim": 128}
    ours = stirred(PatchTST(PatchTSTConfig(), Sizes(n_context, 7))).double()
    whole = n_context + 8 - (n_context + 8 - 16) % 8  # the frames that patches of theirs cover, of a context that ends in 8 repeated values
    theirs = PatchTSTForPrediction(
        TheirConfig(
            num_input_channels=3, context_length=whole, prediction_length=7, patch_length=16, patch_stride=8, loss="mse", scaling=None, pooling_type=None,
            pre_norm=False, positional_encoding_type="random", norm_type="batchnorm", activation_function="gelu", share_projection=True, **sizes,
        )
    ).eval().double()  # fmt: skip
    state = {}
    for name, value in ours.state_dict().items():
        if name == "position":
            state["model.encoder.positional_encoder.position_enc"] = value
        elif name.startswith("project."):
            state[f"model.encoder.embedder.input_embedding.{name[8:]}"] = value
        elif name.startswith("map."):
            state[f"head.projection.{name[4:]}"] = value
        else:
            _, _, layer, part = name.split(".", 3)
            at = f"model.encoder.layers.{layer}."
            if part.startswith("attention.qkv."):
                state |= {f"{at}self_attn.{p}_proj.{part[14:]}": v for p, v in zip("qkv", value.chunk(3), strict=True)}
            else:
                old, new = next(
                    pair
                    for pair in (
                        ("attention.out", "self_attn.out_proj"), ("norm1", "norm_sublayer1.batchnorm"), ("norm2", "norm_sublayer3.batchnorm"),
                        ("ff.0", "ff.0"), ("ff.2", "ff.3"),
                    )
                    if part.startswith(pair[0])
                )  # fmt: skip
                state[at + part.replace(old, new, 1)] = value
    theirs.load_state_dict(state)
    x = torch.randn(4, 3, n_context, generator=torch.Generator().manual_seed(1)).double() * 2 + 1
    normalised, restore = without_level(x)  # theirs would normalise the repeated values, too
    longer = torch.cat([normalised, normalised[..., -1:].expand(-1, -1, 8)], -1)[..., :whole]
    out = theirs(past_values=longer.transpose(1, 2)).prediction_outputs.transpose(1, 2)
    torch.testing.assert_close(ours(batch(x)), restore(out), rtol=1e-9, atol=1e-9)


@needs("transformers", "fidelity")
@torch.no_grad()
def test_the_blocks_of_brainlm_are_those_that_the_published_model_is_built_of():
    """Nystromformer's layers in the setting of the published config.json, but for the convolution, which is left out here on purpose."""
    from transformers import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerLayer

    from qf_toolkit.estimators.published_brainlm import BLOCK

    ours = stirred(Transformer(width=16, heads=4, layers=2))
    config = NystromformerConfig(
        hidden_size=16, num_attention_heads=4, intermediate_size=64, num_landmarks=64, segment_means_seq_len=64, hidden_act="gelu", layer_norm_eps=1e-5,
    )  # fmt: skip
    x = want = torch.randn(3, 30, 16, generator=torch.Generator().manual_seed(1))
    for block in ours.blocks:
        theirs = NystromformerLayer(config).eval()
        state = {"attention.self.conv.weight": torch.zeros_like(theirs.attention.self.conv.weight)}
        for name, value in block.state_dict().items():
            layer, kind = name.rsplit(".", 1)
            if layer == "attention.qkv":
                state |= {f"attention.self.{n}.{kind}": v for n, v in zip(("query", "key", "value"), value.chunk(3), strict=True)}
            else:
                state[f"{BLOCK[layer]}.{kind}"] = value
        theirs.load_state_dict(state)
        want = theirs(want)[0]
    torch.testing.assert_close(ours(x), want, **CLOSE)


# ---------------------------------------------------------------- series on which they must do well


def driven(b, seed, n_context=24, n_response=4, lag=5):
    """White traces of two pairs of neurons, (b, 4, time): the second of a pair repeats the first, `lag` frames later, which its own past doesn't tell."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 4, n_context + n_response, generator=g)
    x[:, 1::2, lag:] = x[:, 0::2, :-lag]
    return x


def wave(b, seed, n_context=24, n_response=8):
    """A wave of random phase that four neurons share, (b, 4, time), the last of them under noise of twice its height."""
    g = torch.Generator().manual_seed(seed)
    phase = 2 * torch.pi * torch.rand(b, 1, 1, generator=g)
    signal = (torch.arange(n_context + n_response) * 2 * torch.pi / 12 + phase).sin().expand(b, 4, -1)
    return signal + torch.tensor([0.1, 0.1, 0.1, 2.0])[:, None] * torch.randn(signal.shape, generator=g)


def learnt(module, draw, n_context, steps=300, lr=3e-3):
    """The mean squared error of each neuron's response on new traces, float (neuron,), after training on others."""
    optimiser = torch.optim.Adam(module.parameters(), lr)
    for step in range(steps):
        x = draw(32, step)
        optimiser.zero_grad()
        (module(batch(x[..., :n_context])) - x[..., n_context:]).square().mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
    x = draw(256, 10**6)
    with torch.no_grad():
        return (module.eval()(batch(x[..., :n_context])) - x[..., n_context:]).square().mean((0, 2))


def test_itransformer_reads_what_drives_a_neuron_and_a_model_of_single_neurons_can_not():
    torch.manual_seed(0)
    sizes = Sizes(24, 4, n_neurons=4)
    population = learnt(ITransformer(ITransformerConfig(width=32, heads=4, dropout=0.0), sizes), driven, 24, steps=200)
    alone = learnt(PatchTST(PatchTSTConfig(patch_frames=8, stride_frames=4, dropout=0.0), sizes), driven, 24, steps=60)
    assert (population[1::2] < 0.5).all() and (population[0::2] > 0.9).all()  # what drives is itself driven by nothing
    assert (alone > 0.9).all()


def test_brainlm_forecasts_a_noisy_neuron_from_the_others():
    torch.manual_seed(0)
    sizes = Sizes(24, 8, n_neurons=4)
    module = BrainLM(BrainLMConfig(patch_frames=8, width=32, layers=2, decoder_layers=1), sizes)
    alone = PatchTST(PatchTSTConfig(patch_frames=8, stride_frames=4, dropout=0.0), sizes)
    found, single = (learnt(m, wave, 24, steps=120) - torch.tensor([0.01, 0.01, 0.01, 4.0]) for m in (module, alone))
    assert (found < 0.15).all() and single[3] > 0.4  # less the variance of the noise; a constant forecast has 0.5
