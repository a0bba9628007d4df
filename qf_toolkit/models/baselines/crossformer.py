"""Crossformer: patches of every neuron attend first along time, then, through a few routers, across neurons, at coarser and coarser scales.

Source: Zhang & Yan 2023, "Crossformer: Transformer Utilizing Cross-Dimension Dependency for Multivariate Time Series Forecasting" (ICLR), section 3. The
QuantFormer paper compares with it (Tables 1 and 2) and gives no sizes. The paper's dimensions are the neurons of a session. Where the paper is silent, the
authors' released code is followed: a context that is no multiple of the patch goes on at its first value before its beginning, and a scale that is no
multiple of the merged patches repeats its last one (with `merge` above 2 the code repeats its last ones).

Deviations:
- The learned positions hold for all neurons; the paper has others for each dimension, but sessions differ in their neurons. Neuron and condition are told
  outside the model, as to every baseline (`models.conditioned`).
- A neuron with a value missing in its context sends nothing to the routers, so that it has no influence on the others.
- Dropout falls on what each part adds, not on the attention's shares as in the code, which costs a CPU a quarter of its time.
- Small sizes for a CPU: width 32 (256 in the paper), 4 routers (10), feed-forward of twice the width as in the code; 3 layers, 4 heads, merging by 2, patches
  of 6 frames and dropout 0.2 are the paper's or the code's.
- As a classifier the decoder gives a patch of one frame, which is the logit.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..batch import Batch, Sizes
from ..options import option
from .series import AttentionConfig, FullAttention, feed_forward

SILENT = -1e30  # a score that leaves no weight; not infinite, so that a trial without any whole neuron gives numbers, too


@dataclass(frozen=True)
class CrossformerConfig(AttentionConfig):
    """Options of Crossformer."""

    patch_frames: int = option(6, "whole", least=1, most=9999, help="of a patch (the paper's segment)")
    layers: int = option(3, "whole", least=1, most=32, help="scales of the encoder")
    merge: int = option(2, "whole", least=1, most=64, help="neighbouring patches that the next scale takes as one")
    routers: int = option(4, "whole", least=1, most=1024, help="vectors through which the neurons speak to each other, of each patch")
    dropout: float = option(0.2, least=0, below=1, help="of what each part adds, in training")


class TwoStageAttention(nn.Module):
    """Attention along time and, through routers, across neurons (section 3.2), over tokens (B, N, P, D).

    Parameters
    ----------
    config : CrossformerConfig
    patches : int
        P.
    """

    def __init__(self, config, patches):
        super().__init__()
        width = config.width
        self.time, self.send, self.receive = (FullAttention(width=width, heads=config.heads) for _ in range(3))
        self.router = nn.Parameter(torch.randn(patches, config.routers, width))
        self.ff1, self.ff2 = (feed_forward(width, 2 * width) for _ in range(2))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, mask):
        """(B, N, P, D) -> (B, N, P, D). `mask` (B, 1, 1, 1, N) is 0 for a neuron that speaks, and SILENT for one that does not."""
        B, N, P, _ = x.shape
        x = x.flatten(0, 1)
        x = self.norm1(x + self.drop(self.time(x, x)))
        x = self.norm2(x + self.drop(self.ff1(x)))
        x = x.unflatten(0, (B, N)).transpose(1, 2).flatten(0, 1)  # (B P, N, D)
        told = self.send(self.router.repeat(B, 1, 1), x, mask.expand(B, P, 1, 1, N).flatten(0, 1))
        x = self.norm3(x + self.drop(self.receive(x, told)))
        x = self.norm4(x + self.drop(self.ff2(x)))
        return x.unflatten(0, (B, P)).transpose(1, 2)


class Merge(nn.Module):
    """Makes one patch of `n` neighbouring ones (section 3.3, eq. 6)."""

    def __init__(self, width, n):
        super().__init__()
        self.n = n
        self.norm, self.map = nn.LayerNorm(n * width), nn.Linear(n * width, width)

    def forward(self, x):
        """(B, N, P, D) -> (B, N, ceil(P / n), D)."""
        missing = -x.shape[2] % self.n
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1)], 2)
        return self.map(self.norm(x.unflatten(2, (-1, self.n)).flatten(3)))


class DecoderLayer(nn.Module):
    """Two-stage attention, and attention to one scale of the encoder (section 3.3, eq. 7)."""

    def __init__(self, config, patches, patch_frames):
        super().__init__()
        width = config.width
        self.attention = TwoStageAttention(config, patches)
        self.cross = FullAttention(width=width, heads=config.heads)
        self.ff, self.drop = feed_forward(width, width), nn.Dropout(config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.map = nn.Linear(width, patch_frames)

    def forward(self, x, memory, mask):
        """(B, N, P, D) and (B, N, P', D) -> (B, N, P, D) and this layer's share of the forecast, (B, N, P, patch_frames)."""
        x = self.attention(x, mask)
        shape = x.shape[:2]
        x = x.flatten(0, 1)
        x = self.norm1(x + self.drop(self.cross(x, memory.flatten(0, 1))))
        x = self.norm2(x + self.ff(x)).unflatten(0, shape)
        return x, self.map(x)


class Crossformer(nn.Module):
    """A hierarchical encoder of all neurons' patches; each layer of the decoder reads one scale, and their forecasts add up.

    Parameters
    ----------
    config : CrossformerConfig
    sizes : Sizes
    """

    name = "Crossformer"
    population = True
    Config = CrossformerConfig

    def __init__(self, config: CrossformerConfig, sizes: Sizes):
        super().__init__()
        width, frames, self.n_out = config.width, config.patch_frames, sizes.n_out
        self.patch_frames, self.missing = frames, -sizes.n_context % frames
        patches, given = -(-sizes.n_context // frames), min(frames, sizes.n_out)
        self.read, self.norm = nn.Linear(frames, width), nn.LayerNorm(width)
        self.place = nn.Parameter(torch.randn(patches, width))
        self.merge, self.encoder = nn.ModuleList(), nn.ModuleList()
        for i in range(config.layers):
            merging = i > 0 and config.merge > 1
            self.merge.append(Merge(width, config.merge) if merging else nn.Identity())
            patches = -(-patches // config.merge) if merging else patches
            self.encoder.append(TwoStageAttention(config, patches))
        answer = -(-sizes.n_out // frames)
        self.begin = nn.Parameter(torch.randn(answer, width))
        self.decoder = nn.ModuleList(DecoderLayer(config, answer, given) for _ in range(config.layers + 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) of all neurons of a session to (B, N, n_out)."""
        x = torch.cat([batch.x[..., :1].expand(-1, -1, self.missing), batch.x], -1)
        silent = ~batch.whole()[:, None, None, None]
        mask = torch.zeros(silent.shape, device=x.device).masked_fill(silent, SILENT)
        scales = [self.norm(self.read(x.unflatten(-1, (-1, self.patch_frames))) + self.place)]
        for merge, layer in zip(self.merge, self.encoder, strict=True):
            scales.append(layer(merge(scales[-1]), mask))
        y, parts = self.begin.expand(*x.shape[:2], *self.begin.shape), []
        for layer, memory in zip(self.decoder, scales, strict=True):
            y, part = layer(y, memory, mask)
            parts.append(part)
        return torch.stack(parts).sum(0).flatten(2)[..., : self.n_out]
