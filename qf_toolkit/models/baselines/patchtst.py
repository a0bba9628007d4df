"""PatchTST: the context in overlapping patches, a transformer over the patches, and a linear map of all its tokens to the whole response.

Source: Nie et al. 2023, "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", section 3: channel independence (each neuron is read
by itself, with shared weights), patches with a stride, the last value repeated once a stride at the end, instance normalisation, learned places, a
post-norm encoder with batch normalisation, a flattened linear head.

Deviations:
- The released code adds attention scores from layer to layer; the paper does not mention it, and it is left out here.
- Dropout acts on the tokens, the attention and both parts of a block; the released code also has it inside the feed-forward.
- A context shorter than a patch is one patch of its own length.
- A classifier (the paper has none) reads the window as it is, without instance normalisation: a logit has no level to be given back.
Sizes: the paper's for small data sets (16 numbers a token, 4 heads, 128 inside the feed-forward, 3 layers), which a CPU bears; for large ones it takes
`width=128, heads=16, ff_width=256` and dropout 0.2. Patches of 16 frames, 8 apart, are the paper's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..batch import Batch, Sizes
from ..normalise import without_level
from ..options import Options, check_heads, option
from ..transformer import TokenNorm, Transformer


@dataclass(frozen=True)
class PatchTSTConfig(Options):
    """Options of PatchTST."""

    patch_frames: int = option(16, "whole", least=1, most=9999, help="frames of a patch")
    stride_frames: int = option(8, "whole", least=1, most=9999, help="from the start of a patch to that of the next")
    width: int = option(16, "whole", least=1, most=4096, help="of a patch's token")
    layers: int = option(3, "whole", least=1, most=32, help="of the encoder")
    heads: int = option(4, "whole", least=1, most=4096, help="of attention between patches")
    ff_width: int = option(128, "whole", least=1, most=2**14, help="inside the feed-forward")
    dropout: float = option(0.2, least=0, below=1, help="in training")

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.width, self.heads)


class PatchTST(nn.Module):
    """A transformer over patches that all neurons share.

    Parameters
    ----------
    config : PatchTSTConfig
    sizes : Sizes
    """

    name = "PatchTST"
    Config = PatchTSTConfig

    def __init__(self, config: PatchTSTConfig, sizes: Sizes):
        super().__init__()
        self.label = sizes.label
        self.patch = min(config.patch_frames, sizes.n_context)
        self.stride = min(config.stride_frames, self.patch)
        patches = (sizes.n_context - self.patch) // self.stride + 2
        self.project = nn.Linear(self.patch, config.width)
        self.position = nn.Parameter(torch.empty(patches, config.width).uniform_(-0.02, 0.02))
        self.drop = nn.Dropout(config.dropout)
        self.encoder = Transformer(
            width=config.width, heads=config.heads, layers=config.layers, dropout=config.dropout, ff_width=config.ff_width, kind=TokenNorm,
        )  # fmt: skip
        self.map = nn.Linear(patches * config.width, sizes.n_out)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        x, restore = (batch.x, lambda out: out) if self.label else without_level(batch.x)
        patches = F.pad(x.flatten(0, 1), (0, self.stride), mode="replicate").unfold(-1, self.patch, self.stride)
        tokens = self.encoder(self.drop(self.project(patches) + self.position))
        return restore(self.map(tokens.flatten(1)).unflatten(0, x.shape[:2]))
