"""Informer: attention for long inputs in which only the queries that stand out attend, and a decoder that gives the whole response in one pass.

Source: Zhou et al. 2021, "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting" (AAAI), section 3. The QuantFormer paper
compares with it (Tables 1 and 2) and gives no sizes. Where the paper is silent, the authors' released code is followed: lazy queries of the decoder take
the sum of all values up to their own frame, and the decoder begins with the last half of the input.

Deviations:
- One trace at a time, with weights that all neurons share; the paper mixes channels, but sessions differ in their neurons. Neuron and condition are told
  outside the model, as to every baseline (`models.conditioned`).
- Positions are sines and cosines, which in the decoder go on counting from the context; the paper's embedding of the calendar is left out, since trials
  have no date.
- The keys by which a query's weight is measured are drawn once, when the model is made, and not anew at each pass, so that a forecast is repeatable.
- The measure subtracts the mean over the drawn keys (algorithm 1); the released code divides their sum by the number of all keys.
  All products are computed and the drawn ones picked, which at the length of a trial is faster than to gather the keys.
- Dropout falls on what each part adds, not on the attention's shares as in the code, which costs a CPU a quarter of its time.
- One encoder instead of several on halves of the input, and no norm after the last layer.
- Small sizes for a CPU: width 32 (512 in the paper), 4 heads (8 or 16), 2 + 1 layers (3 + 2). The factor 5 and the dropout are those of the code.
- As a classifier the decoder gives one frame beyond the context, which is the logit.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..batch import Batch, Sizes
from ..options import option
from .series import EncoderDecoderConfig, FullAttention, SeriesEmbedding, feed_forward, split_heads

SLICE = 256  # traces whose queries are measured together, which bounds the memory


@dataclass(frozen=True)
class InformerConfig(EncoderDecoderConfig):
    """Options of Informer."""

    factor: float = option(5.0, above=0, most=1e6, help="about this times ln(frames) queries attend, each measured by as many keys")
    distil: bool = option(True, "flag", help="halve the frames between layers of the encoder")


class SparseAttention(nn.Module):
    """ProbSparse self-attention (section 3.1, algorithm 1) over tokens (B, S, D).

    Parameters
    ----------
    config : InformerConfig
    length : int
        S, number of tokens.
    causal : bool
        Whether a token attends to itself and earlier ones only.

    Attributes
    ----------
    drawn : long tensor, shape (S, number of keys)
        The keys by which each query is measured.
    """

    drawn: torch.Tensor

    def __init__(self, config, length, causal=False):
        super().__init__()
        self.heads, self.causal = config.heads, causal
        self.most = min(length, math.ceil(config.factor * math.ceil(math.log1p(length))))
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))
        # saved with the weights, so that a forecast does not hang on a version's random numbers
        self.register_buffer("drawn", torch.randint(length, (length, self.most)))

    def standing_out(self, q, k):
        """The `most` queries whose scores are farthest from uniform, long (B, H, most), for q and k, (B, H, S, D / H)."""
        found = []
        with torch.no_grad():
            for q_part, k_part in zip(q.split(SLICE), k.split(SLICE), strict=True):
                scores = (q_part @ k_part.transpose(2, 3)).gather(-1, self.drawn.expand(*q_part.shape[:2], -1, -1))
                found.append((scores.amax(-1) - scores.mean(-1)).topk(self.most).indices)
        return torch.cat(found)

    def forward(self, x):
        q, k, v = (split_heads(f(x), self.heads) for f in (self.query, self.key, self.value))
        q = q * q.shape[-1] ** -0.5
        active = self.standing_out(q, k)
        scores = q.gather(2, active[..., None].expand(*active.shape, q.shape[-1])) @ k.transpose(2, 3)
        if self.causal:
            scores = scores.masked_fill(torch.arange(x.shape[1], device=x.device) > active[..., None], -torch.inf)
        found = scores.softmax(-1) @ v
        lazy = v.cumsum(2) if self.causal else v.mean(2, keepdim=True).expand_as(v)
        out = lazy.scatter(2, active[..., None].expand_as(found), found.to(lazy.dtype))
        return self.out(out.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Sparse attention and a feed-forward, each with a residual connection and a norm after it."""

    def __init__(self, config, length):
        super().__init__()
        self.attention = SparseAttention(config, length)
        self.ff = feed_forward(config.width, 4 * config.width)
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x):
        x = self.norm1(x + self.drop(self.attention(x)))
        return self.norm2(x + self.drop(self.ff(x)))


class Distil(nn.Module):
    """Self-attention distilling (eq. 5): a convolution, ELU, and the maximum of three frames at every second one."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        """(B, S, D) -> (B, ceil(S / 2), D)."""
        return F.max_pool1d(F.elu(self.norm(self.mix(x.transpose(1, 2)))), 3, stride=2, padding=1).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Causal sparse attention, attention to the encoder's output, and a feed-forward."""

    def __init__(self, config, length):
        super().__init__()
        self.attention = SparseAttention(config, length, causal=True)
        self.cross = FullAttention(width=config.width, heads=config.heads)
        self.ff = feed_forward(config.width, 4 * config.width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width) for _ in range(3))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, memory):
        x = self.norm1(x + self.drop(self.attention(x)))
        x = self.norm2(x + self.drop(self.cross(x, memory)))
        return self.norm3(x + self.drop(self.ff(x)))


class Informer(nn.Module):
    """An encoder of the context, and a decoder that fills the frames after it all at once (section 3.3).

    Parameters
    ----------
    config : InformerConfig
    sizes : Sizes
    """

    name = "Informer"
    Config = InformerConfig

    def __init__(self, config: InformerConfig, sizes: Sizes):
        super().__init__()
        length, self.n_out = sizes.n_context, sizes.n_out
        self.n_start = max(1, round(config.start_share * length))
        self.read = SeriesEmbedding(config.width, 0, length, config.dropout)
        self.begin = SeriesEmbedding(config.width, length - self.n_start, self.n_start + self.n_out, config.dropout)
        encoder = []
        for i in range(config.layers):
            encoder.append(EncoderLayer(config, length))
            if config.distil and i + 1 < config.layers:
                encoder.append(Distil(config.width))
                length = -(-length // 2)
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.ModuleList(DecoderLayer(config, self.n_start + self.n_out) for _ in range(config.decoder_layers))
        self.map = nn.Linear(config.width, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        x = batch.x.flatten(0, 1)
        memory = self.encoder(self.read(x))
        y = self.begin(F.pad(x[:, -self.n_start :], (0, self.n_out)))
        for layer in self.decoder:
            y = layer(y, memory)
        return self.map(y)[:, -self.n_out :, 0].unflatten(0, batch.x.shape[:2])
