"""Autoformer: a slow and a seasonal part, parted again after every step, and attention to the same series some period earlier.

Source: Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting" (NeurIPS), section 3. The QuantFormer
paper compares with it (Tables 1 and 2) and gives no sizes. Where the paper is silent, the authors' released code is followed: the periods are chosen from
the correlation averaged over heads and channels, keys and values are cut to their first frames or filled with zeros to the length of the queries, the
context is decomposed whole before its end is handed to the decoder, and a norm without its mean over time follows the last layer.

Deviations:
- One trace at a time, with weights that all neurons share; the paper mixes channels, but sessions differ in their neurons. Neuron and condition are told
  outside the model, as to every baseline (`models.conditioned`).
- Positions are sines and cosines, which in the decoder go on counting from the context; the paper embeds the calendar instead, but trials have no date.
- Each series chooses its own periods in training, too, as in equation 6; the released code then lets the whole batch share them, which is faster there.
- Small sizes for a CPU: width 32 (512 in the paper) and 4 heads (8); 2 + 1 layers, the moving average of 25 frames, and the factor (1 to 3) are the paper's,
  the dropout is that of the code.
- As a classifier the decoder gives one frame beyond the context, and a linear map of its seasonal and its slow part is the logit.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..batch import Batch, Sizes
from ..options import option
from .series import EncoderDecoderConfig, SeriesEmbedding, feed_forward


@dataclass(frozen=True)
class AutoformerConfig(EncoderDecoderConfig):
    """Options of Autoformer."""

    factor: float = option(3.0, above=0, most=1e6, help="about this times ln(frames) periods are followed")
    slow_frames: int = option(25, "whole", least=1, most=9999, help="of the moving average that is taken for the slow part")


class Decomposition(nn.Module):
    """Parts a series of `length` frames into a moving average and the rest (eq. 1); the ends go on at their last value."""

    average: torch.Tensor

    def __init__(self, slow_frames, length):
        super().__init__()
        # as a matrix, which multiplies faster than frames are pooled: a column is the average of a series that is 1 in one frame and 0 in the others
        wide = F.pad(torch.eye(length)[None], ((slow_frames - 1) // 2, slow_frames // 2), mode="replicate")
        self.register_buffer("average", F.avg_pool1d(wide, slow_frames, stride=1)[0].T.contiguous(), persistent=False)

    def forward(self, x):
        """(B, length, D) -> the rest and the slow part, both (B, length, D)."""
        slow = self.average @ x
        return x - slow, slow


class AutoCorrelation(nn.Module):
    """Auto-correlation (section 3.2): the values, shifted by the periods at which queries and keys agree best, and weighed by how well."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.factor = config.heads, config.factor
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x, other):
        """Queries from x (B, S, D), keys and values from another series (B, S', D) -> (B, S, D)."""
        S = x.shape[1]
        q = self.query(x)
        k, v = (F.pad(f(other)[:, :S], (0, 0, 0, max(0, S - other.shape[1]))) for f in (self.key, self.value))
        spectrum = torch.fft.rfft(q.float(), dim=1) * torch.fft.rfft(k.float(), dim=1).conj()
        agreement = torch.fft.irfft(spectrum, n=S, dim=1).mean(-1)  # (B, S): over the channels, and so over the heads, of each period
        best, period = agreement.topk(min(S, max(1, int(self.factor * math.log(S)))))
        weight = torch.zeros_like(agreement).scatter(1, period, best.softmax(-1))
        # a matrix that adds up the shifted values: frame s takes frame t with the weight of the period t - s
        place = torch.arange(S, device=x.device)
        shifted = weight[:, (place - place[:, None]) % S].to(v.dtype) @ v
        return self.out(shifted)


class EncoderLayer(nn.Module):
    """Auto-correlation and a feed-forward; after each the slow part is dropped (eq. 3)."""

    def __init__(self, config, length):
        super().__init__()
        self.correlate, self.ff = AutoCorrelation(config), feed_forward(config.width, 4 * config.width)
        self.part, self.drop = Decomposition(config.slow_frames, length), nn.Dropout(config.dropout)

    def forward(self, x):
        x, _ = self.part(x + self.drop(self.correlate(x, x)))
        return self.part(x + self.drop(self.ff(x)))[0]


class DecoderLayer(nn.Module):
    """Auto-correlation with itself and with the encoder's output, and a feed-forward; the slow parts of all three add to the trend (eq. 4)."""

    def __init__(self, config, length):
        super().__init__()
        self.correlate, self.cross = AutoCorrelation(config), AutoCorrelation(config)
        self.ff = feed_forward(config.width, 4 * config.width)
        self.part, self.drop = Decomposition(config.slow_frames, length), nn.Dropout(config.dropout)
        self.trend = nn.Conv1d(config.width, 1, 3, padding=1, padding_mode="circular", bias=False)

    def forward(self, x, memory):
        """(B, S, D) and (B, S', D) -> (B, S, D) and what is added to the trend, (B, S)."""
        x, first = self.part(x + self.drop(self.correlate(x, x)))
        x, second = self.part(x + self.drop(self.cross(x, memory)))
        x, third = self.part(x + self.drop(self.ff(x)))
        return x, self.trend((first + second + third).transpose(1, 2))[:, 0]


class SeasonalNorm(nn.Module):
    """A LayerNorm less its mean over time."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.norm(x)
        return x - x.mean(1, keepdim=True)


class Autoformer(nn.Module):
    """An encoder of the seasonal part, and a decoder that refines the season and adds up the trend.

    Parameters
    ----------
    config : AutoformerConfig
    sizes : Sizes
    """

    name = "Autoformer"
    Config = AutoformerConfig

    def __init__(self, config: AutoformerConfig, sizes: Sizes):
        super().__init__()
        n, self.n_out = sizes.n_context, sizes.n_out
        self.n_start = max(1, round(config.start_share * n))
        self.part = Decomposition(config.slow_frames, n)
        self.read = SeriesEmbedding(config.width, 0, n, config.dropout)
        self.begin = SeriesEmbedding(config.width, n - self.n_start, self.n_start + self.n_out, config.dropout)
        self.encoder = nn.Sequential(*(EncoderLayer(config, n) for _ in range(config.layers)), SeasonalNorm(config.width))
        self.decoder = nn.ModuleList(DecoderLayer(config, self.n_start + self.n_out) for _ in range(config.decoder_layers))
        self.norm, self.map = SeasonalNorm(config.width), nn.Linear(config.width, 1)
        self.label = nn.Linear(2, 1) if sizes.label else None

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        x = batch.x.flatten(0, 1)
        memory = self.encoder(self.read(x))
        season, slow = (part[:, -self.n_start :, 0] for part in self.part(x[..., None]))
        trend = torch.cat([slow, x.mean(1, keepdim=True).expand(-1, self.n_out)], 1)
        y = self.begin(F.pad(season, (0, self.n_out)))
        for layer in self.decoder:
            y, more = layer(y, memory)
            trend = trend + more
        season, trend = self.map(self.norm(y))[:, -self.n_out :, 0], trend[:, -self.n_out :]
        out = season + trend if self.label is None else self.label(torch.cat([season, trend], 1))
        return out.unflatten(0, batch.x.shape[:2])
