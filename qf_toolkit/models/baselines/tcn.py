"""TCN: residual blocks of dilated causal convolutions read the context; a linear map of the last frame's features gives the whole response.

Source: Bai, Kolter and Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling", section 3: two
convolutions with weight norm, ReLU and dropout a block, a 1x1 convolution on the shortcut where the width changes, dilation 2**i in block i.

Deviations:
- The paper maps a sequence to one of equal length. Here a linear map of the last frame's features gives all frames of the response, or the logit.
- The number of blocks follows from the context (`layers=0`): as few as let the last frame see all of it. The paper chooses it by task.
- Dropout drops single numbers, as in the released code; the paper drops whole channels. It is 0 unless asked for.
- Kernels begin as torch's convolutions do.
The sizes (`width`, `kernel_frames`) are ours, small enough for a CPU; the paper chooses them by task.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ..batch import Batch, Sizes
from ..options import Options, option


@dataclass(frozen=True)
class TCNConfig(Options):
    """Options of the TCN."""

    width: int = option(32, "whole", least=1, most=4096, help="channels of each block")
    layers: int = option(0, "whole", least=0, most=32, help="blocks; 0: as many as see the whole context")
    kernel_frames: int = option(5, "whole", least=2, most=999, help="frames of a convolution")
    dropout: float = option(0.0, least=0, below=1, help="after each convolution, in training")


class CausalBlock(nn.Module):
    """Two dilated causal convolutions with a residual connection: features (B, C, T) -> (B, C', T)."""

    def __init__(self, n_in: int, width: int, kernel_frames: int, dilation: int, dropout: float):
        super().__init__()
        self.before, self.dropout = (kernel_frames - 1) * dilation, dropout
        self.first, self.second = (weight_norm(nn.Conv1d(n, width, kernel_frames, dilation=dilation)) for n in (n_in, width))
        self.shortcut = nn.Conv1d(n_in, width, 1) if n_in != width else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for convolution in (self.first, self.second):
            y = F.dropout(F.relu(convolution(F.pad(y, (self.before, 0)))), self.dropout, self.training)
        return F.relu(y + self.shortcut(x))


class TCN(nn.Module):
    """A temporal convolutional network that all neurons share.

    Parameters
    ----------
    config : TCNConfig
    sizes : Sizes
    """

    name = "TCN"
    Config = TCNConfig

    def __init__(self, config: TCNConfig, sizes: Sizes):
        super().__init__()
        k = config.kernel_frames
        # n blocks see 1 + 2 (k - 1) (2**n - 1) frames
        layers = config.layers or max(1, math.ceil(math.log2((sizes.n_context - 1) / (2 * (k - 1)) + 1)))
        widths = [1] + [config.width] * layers
        self.blocks = nn.Sequential(*(CausalBlock(widths[i], config.width, k, 2**i, config.dropout) for i in range(layers)))
        self.map = nn.Linear(config.width, sizes.n_out)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        return self.map(self.blocks(batch.x.flatten(0, 1)[:, None])[..., -1]).unflatten(0, batch.x.shape[:2])
