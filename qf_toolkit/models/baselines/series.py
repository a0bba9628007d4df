"""Parts and options that several baselines share: a trace as a series of vectors, and attention from one series to another."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import QfError
from ..options import Options, option


@dataclass(frozen=True)
class AttentionConfig(Options):
    """Options of models that attend."""

    width: int = option(32, "whole", least=1, most=4096, help="of the vector of a frame or a patch")
    heads: int = option(4, "whole", least=1, most=256, help="of each attention; they divide the width")

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise QfError(f"heads: expected a divisor of width = {self.width}, found {self.heads}.")


@dataclass(frozen=True)
class EncoderDecoderConfig(AttentionConfig):
    """Options of models whose decoder goes on from the end of the context."""

    layers: int = option(2, "whole", least=1, most=32, help="of the encoder, which reads the context")
    decoder_layers: int = option(1, "whole", least=1, most=32, help="of the decoder")
    start_share: float = option(0.5, above=0, most=1, help="share of the context, its end, with which the decoder begins")
    dropout: float = option(0.05, least=0, below=1, help="of what each part adds, in training")


def positions(first, length, width):
    """Sines and cosines of the positions from `first` on, float32 (length, width) (Vaswani et al. 2017, section 3.5)."""
    place = torch.arange(first, first + length, dtype=torch.float32)[:, None]
    angle = place * torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]


class SeriesEmbedding(nn.Module):
    """A vector for each frame: a convolution over three frames of the trace, and the frame's position.

    Parameters
    ----------
    width : int
        D, numbers per vector.
    first : int
        Position of the first frame.
    length : int
        Frames of the trace.
    dropout : float
    """

    place: torch.Tensor

    def __init__(self, width, first, length, dropout):
        super().__init__()
        self.value = nn.Conv1d(1, width, 3, padding=1, padding_mode="circular", bias=False)
        self.register_buffer("place", positions(first, length, width), persistent=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        """Traces (B, length) -> (B, length, D)."""
        return self.drop(self.value(x[:, None]).transpose(1, 2) + self.place)


class FullAttention(nn.Module):
    """Multi-head attention of the tokens of one series to those of another."""

    def __init__(self, *, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, other, mask=None):
        """Tokens (B, S, D) and other tokens (B, S', D) -> (B, S, D). `mask` is added to the scores and has a shape that broadcasts to (B, H, S, S')."""
        q, k, v = (split_heads(f(given), self.heads) for f, given in ((self.query, x), (self.key, other), (self.value, other)))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(found.transpose(1, 2).flatten(2))


def split_heads(x, heads):
    """(B, S, D) -> (B, H, S, D / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def feed_forward(width, inner):
    """Two linear maps with a GELU between."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
