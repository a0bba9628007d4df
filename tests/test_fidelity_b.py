"""Informer and Autoformer against transformers, Crossformer against pypots: the same weights give the same numbers.

The packages come with the extra `fidelity`; without them the tests are skipped. What differs on purpose is set alike first, and each test says what.
"""

import math
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from helpers import needs
from test_encoder_decoders import batch, draw, shaken
from torch import nn

from qf_toolkit.models.baselines.autoformer import AutoCorrelation, Autoformer, Decomposition, SeasonalNorm
from qf_toolkit.models.baselines.crossformer import Crossformer
from qf_toolkit.models.baselines.informer import Distil, Informer, SparseAttention
from qf_toolkit.models.batch import Sizes

torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
WIDTH, HEADS, N, OUT, START = 16, 4, 40, 10, 20
of_transformers, of_pypots = needs("transformers", "fidelity"), needs("pypots", "fidelity")
pytestmark = pytest.mark.filterwarnings("default")  # a library's notes to its programmers are none of ours


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def copy(theirs, ours):
    """Their weights and biases become ours; a bias that they lack becomes 0 in ours, one that we lack 0 in theirs."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            a, b = getattr(theirs, name, None), getattr(ours, name, None)
            if a is not None and b is not None:
                b.copy_(a.reshape(b.shape))
            elif a is not None or b is not None:
                (a if b is None else b).zero_()


def copy_all(*pairs):
    for theirs, ours in pairs:
        copy(theirs, ours)


def copy_attention(theirs, ours, names=("q_proj", "k_proj", "v_proj", "out_proj")):
    copy_all(*((getattr(theirs, name), part) for name, part in zip(names, (ours.query, ours.key, ours.value, ours.out), strict=True)))


def first(answer):
    """The tensor of an answer, whatever a version wraps it in."""
    return answer if isinstance(answer, torch.Tensor) else answer[0]


class Nothing(nn.Module):
    """Stands for positions, which both models get from ours."""

    def forward(self, *args, **kwargs):
        return 0.0


def stripped(stack):
    """A stack of transformers without its embedding, whose vectors it is given."""
    stack.value_embedding, stack.layernorm_embedding, stack.embed_positions = nn.Identity(), nn.Identity(), Nothing()
    return stack.eval()


# ---------------------------------------------------------------- Informer


@pytest.fixture
def informer(monkeypatch):
    """transformers' Informer. It measures every query by the same keys and divides by their number in all: here both models draw all keys, once each."""
    modeling = import_module("transformers.models.informer.modeling_informer")
    monkeypatch.setattr(torch, "randint", lambda *given: torch.arange(math.prod(given[-1])).remainder(given[-2]).reshape(given[-1]))
    return modeling


def all_keys(module):
    for part in module.modules():
        if isinstance(part, SparseAttention):
            part.drawn = torch.arange(len(part.drawn)).expand(len(part.drawn), -1)
    return module


def informer_config(**options):
    from transformers import InformerConfig

    return InformerConfig(
        prediction_length=OUT, context_length=N, d_model=WIDTH, encoder_layers=3, decoder_layers=2, encoder_attention_heads=HEADS, distil=True,
        decoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH, sampling_factor=2, attention_type="prob", **options,
    )  # fmt: skip


@of_transformers
@pytest.mark.parametrize("causal", [False, True])
def test_sparse_attention(informer, causal):
    theirs = shaken(informer.InformerProbSparseAttention(WIDTH, HEADS, is_decoder=causal, sampling_factor=2))
    ours = all_keys(SparseAttention(Informer.Config(width=WIDTH, heads=HEADS, factor=2.0), N, causal)).eval()
    copy_attention(theirs, ours)
    x = draw(3, N, WIDTH)
    mask = torch.full((N, N), -torch.inf).triu(1).expand(3, 1, N, N) if causal else None
    near(ours(x), first(theirs(x, attention_mask=mask)))


@of_transformers
@pytest.mark.parametrize("length", [N, 7])
def test_distilling(informer, length):
    theirs, ours = shaken(informer.InformerConvLayer(WIDTH)), Distil(WIDTH).eval()
    copy_all((theirs.downConv, ours.mix), (theirs.norm, ours.norm))
    x = draw(3, length, WIDTH)
    near(ours(x), theirs(x))
    near(ours.train()(x), theirs.train()(x))  # the norm of a batch


@of_transformers
def test_the_whole_informer(informer):
    """Encoder with distilling and decoder; the embedding and the last map are ours in both."""
    config = informer_config()
    encoder, decoder = (shaken(stripped(kind(config))) for kind in (informer.InformerEncoder, informer.InformerDecoder))
    ours = all_keys(Informer(Informer.Config(width=WIDTH, heads=HEADS, layers=3, decoder_layers=2, factor=2.0), Sizes(N, OUT))).eval()
    layers = [layer for pair in zip(encoder.layers, encoder.conv_layers, strict=True) for layer in pair if layer is not None]
    for a, b in zip(layers, ours.encoder, strict=True):
        if isinstance(b, Distil):
            copy_all((a.downConv, b.mix), (a.norm, b.norm))
        else:
            copy_attention(a.self_attn, b.attention)
            copy_all((a.self_attn_layer_norm, b.norm1), (a.fc1, b.ff[0]), (a.fc2, b.ff[2]), (a.final_layer_norm, b.norm2))
    for a, b in zip(decoder.layers, ours.decoder, strict=True):
        copy_attention(a.self_attn, b.attention)
        copy_attention(a.encoder_attn, b.cross)
        copy_all((a.self_attn_layer_norm, b.norm1), (a.encoder_attn_layer_norm, b.norm2), (a.final_layer_norm, b.norm3))
        copy_all((a.fc1, b.ff[0]), (a.fc2, b.ff[2]))
    x = draw(3, 1, N)
    memory = first(encoder(inputs_embeds=ours.read(x[:, 0])))
    near(ours.encoder(ours.read(x[:, 0])), memory)
    begun = ours.begin(nn.functional.pad(x[:, 0, -START:], (0, OUT)))
    y = first(decoder(inputs_embeds=begun, encoder_hidden_states=memory, use_cache=False))
    near(ours(batch(x))[:, 0], ours.map(y)[:, -OUT:, 0])


# ---------------------------------------------------------------- Autoformer


@pytest.fixture
def autoformer():
    return import_module("transformers.models.autoformer.modeling_autoformer")


def autoformer_config():
    from transformers import AutoformerConfig

    config = AutoformerConfig(
        prediction_length=OUT, context_length=N, label_length=START, d_model=WIDTH, encoder_layers=2, decoder_layers=2, moving_average=9,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH, autocorrelation_factor=3,
    )  # fmt: skip
    config.feature_size = 1  # a trace without features of the calendar
    return config


@of_transformers
def test_the_decomposition(autoformer):
    x = draw(3, N, WIDTH)
    for found, wanted in zip(Decomposition(9, N)(x), autoformer.AutoformerSeriesDecompositionLayer(autoformer_config())(x), strict=True):
        near(found, wanted)


@of_transformers
@pytest.mark.parametrize("other", [30, N])
def test_auto_correlation(autoformer, other):
    """One series at a time, since transformers gives the periods of one series in a batch to another; and keys and values no shorter than the queries,
    since it cuts the queries where it fills those up. The authors' code does neither."""
    theirs = shaken(autoformer.AutoformerAttention(WIDTH, HEADS, autocorrelation_factor=3))
    ours = AutoCorrelation(Autoformer.Config(width=WIDTH, heads=HEADS)).eval()
    copy_attention(theirs, ours)
    x, y = draw(3, 30, WIDTH), draw(3, other, WIDTH, seed=1)
    near(ours(x, y), torch.cat([first(theirs(x[[i]], key_value_states=y[[i]])) for i in range(3)]))


@of_transformers
def test_the_norm_less_its_mean(autoformer):
    theirs, ours = shaken(autoformer.AutoformerLayernorm(autoformer_config())), SeasonalNorm(WIDTH)
    copy(theirs.layernorm, ours.norm)
    x = draw(3, N, WIDTH)
    near(ours(x), theirs(x))


@of_transformers
def test_the_whole_autoformer(autoformer):
    """Encoder and decoder without the norms that transformers adds inside the layers; the embedding and the last norm are ours in both."""
    config = autoformer_config()
    encoder, decoder = (shaken(stripped(kind(config))) for kind in (autoformer.AutoformerEncoder, autoformer.AutoformerDecoder))
    options = Autoformer.Config(width=WIDTH, heads=HEADS, layers=2, decoder_layers=2, slow_frames=9)
    ours = shaken(Autoformer(options, Sizes(N, OUT)))
    for a, b in zip(encoder.layers, ours.encoder[:-1], strict=True):
        copy_attention(a.self_attn, b.correlate)
        copy_all((a.fc1, b.ff[0]), (a.fc2, b.ff[2]))
        a.self_attn_layer_norm = a.final_layer_norm = nn.Identity()
    for a, b in zip(decoder.layers, ours.decoder, strict=True):
        copy_attention(a.self_attn, b.correlate)
        copy_attention(a.encoder_attn, b.cross)
        copy_all((a.fc1, b.ff[0]), (a.fc2, b.ff[2]), (a.trend_projection, b.trend))
        a.self_attn_layer_norm = a.encoder_attn_layer_norm = a.final_layer_norm = nn.Identity()
    decoder.seasonality_projection = nn.Sequential(ours.norm, ours.map)
    x = draw(1, 1, N)
    memory = ours.encoder[-1](first(encoder(inputs_embeds=ours.read(x[:, 0]))))
    season, slow = (part[:, -START:] for part in autoformer.AutoformerSeriesDecompositionLayer(config)(x.transpose(1, 2)))
    trend = torch.cat([slow, x.mean(2, keepdim=True).expand(-1, OUT, 1)], 1)
    begun = ours.begin(nn.functional.pad(season[..., 0], (0, OUT)))
    answer = decoder(inputs_embeds=begun, trend=trend, encoder_hidden_states=memory, use_cache=False)
    near(ours(batch(x))[:, 0], (answer.last_hidden_state + answer.trend)[:, -OUT:, 0])


# ---------------------------------------------------------------- Crossformer


@pytest.fixture(scope="module")
def crossformer():
    """pypots' layers alone. Its package as a whole asks for many others and writes a file into the user's home."""
    if find_spec("einops") is None:
        pytest.skip("einops, which pypots needs, is not installed")
    before = set(sys.modules)
    for name in ("pypots", "pypots.nn", "pypots.nn.modules"):
        module = ModuleType(name)
        module.__path__ = [os.path.join(*find_spec("pypots").submodule_search_locations, *name.split(".")[1:])] if name == "pypots" else [
            os.path.join(*sys.modules["pypots"].__path__, *name.split(".")[1:])
        ]  # fmt: skip
        sys.modules[name] = module
    yield import_module("pypots.nn.modules.crossformer"), import_module("pypots.nn.modules.transformer.attention")
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "pypots":
            del sys.modules[name]


class Unmasked(nn.Module):
    """Attention that takes the masks which pypots' layer of the decoder hands on, all None."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, q, k, v, *masks):
        return self.attention(q, k, v, None)


def copy_two_stages(theirs, ours):
    names = ("w_qs", "w_ks", "w_vs", "fc")
    for a, b in ((theirs.time_attention, ours.time), (theirs.dim_sender, ours.send), (theirs.dim_receiver, ours.receive)):
        copy_attention(a, b, names)
    copy_all(*((getattr(theirs, f"norm{i}"), getattr(ours, f"norm{i}")) for i in (1, 2, 3, 4)))
    copy_all(*((a[i], b[i]) for a, b in ((theirs.MLP1, ours.ff1), (theirs.MLP2, ours.ff2)) for i in (0, 2)))
    with torch.no_grad():
        ours.router.copy_(theirs.router)


@of_pypots
@pytest.mark.parametrize(("n_context", "n_out", "frames"), [(40, 10, 5), (37, 12, 6)])
def test_the_whole_crossformer(crossformer, n_context, n_out, frames):
    """Every layer of encoder and decoder; the embedding is ours in both, and lengths that are no multiples are filled up by ours."""
    layers, attention = crossformer
    options = Crossformer.Config(patch_frames=frames, width=WIDTH, heads=HEADS, layers=3, routers=3)
    ours = shaken(Crossformer(options, Sizes(n_context, n_out)))
    answer, size = -(-n_out // frames), WIDTH // HEADS
    counts = [layer.router.shape[0] for layer in ours.encoder]
    blocks = [layers.ScaleBlock(1 if i == 0 else 2, WIDTH, HEADS, 2 * WIDTH, 1, 0.0, patches, 3) for i, patches in enumerate(counts)]
    encoder = shaken(layers.CrossformerEncoder(blocks))
    decoder = shaken(layers.CrossformerDecoder([
        layers.CrossformerDecoderLayer(
            layers.TwoStageAttentionLayer(answer, 3, WIDTH, HEADS, size, size, 2 * WIDTH, 0.0, 0.0),
            Unmasked(attention.MultiHeadAttention(attention.ScaledDotProductAttention(size**0.5, 0.0), WIDTH, HEADS, size, size)), frames, WIDTH,
            dropout=0.0,
        )
        for _ in range(4)
    ]), seed=1)  # fmt: skip
    for a, b, merge in zip(encoder.encode_blocks, ours.encoder, ours.merge, strict=True):
        copy_two_stages(a.encode_layers[0], b)
        if a.merge_layer is not None:
            copy_all((a.merge_layer.norm, merge.norm), (a.merge_layer.linear_trans, merge.map))
    for a, b in zip(decoder.decode_layers, ours.decoder, strict=True):
        copy_two_stages(a.self_attention, b.attention)
        copy_attention(a.cross_attention.attention, b.cross, ("w_qs", "w_ks", "w_vs", "fc"))
        copy_all((a.norm1, b.norm1), (a.norm2, b.norm2), (a.MLP1[0], b.ff[0]), (a.MLP1[2], b.ff[2]), (a.linear_pred, b.map))
    x = draw(2, 5, n_context)
    filled = torch.cat([x[..., :1].expand(-1, -1, -n_context % frames), x], -1)
    scales = [ours.norm(ours.read(filled.unflatten(-1, (-1, frames))) + ours.place)]
    for block in encoder.encode_blocks:
        scales.append(block(scales[-1])[0])
    wanted = decoder(ours.begin.expand(2, 5, -1, -1), scales).transpose(1, 2)[..., :n_out]
    near(ours(batch(x)), wanted)
