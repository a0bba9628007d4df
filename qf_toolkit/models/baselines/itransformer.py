"""iTransformer: a token is a neuron's whole context, attention runs between the neurons, and a linear map turns each token into that neuron's response.

Source: Liu et al. 2024, "iTransformer: Inverted Transformers Are Effective for Time Series Forecasting", section 3: variates as tokens (here neurons), no
places, a post-norm encoder with a last LayerNorm, instance normalisation of each neuron's window.

Deviations:
- A neuron whose context has a gap is attended to by no other.
- A training step may show a part of the neurons (`most_neurons`), as in the paper's efficient training.
- Dropout acts on the tokens, the attention and both parts of a block; the released code also has it inside the feed-forward.
- A classifier (the paper has none) reads the window as it is, without instance normalisation: a logit has no level to be given back.
Sizes: 2 layers of the paper's 2 to 4, and 8 heads and a feed-forward as wide as a token, as in its released code; 128 numbers a token, where the paper has
256 or 512, so that a CPU bears it.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..batch import Batch, Sizes
from ..normalise import without_level
from ..options import Options, check_heads, option
from ..transformer import Transformer


@dataclass(frozen=True)
class ITransformerConfig(Options):
    """Options of iTransformer."""

    width: int = option(128, "whole", least=1, most=4096, help="of a neuron's token")
    layers: int = option(2, "whole", least=1, most=32, help="of the encoder")
    heads: int = option(8, "whole", least=1, most=4096, help="of attention between neurons")
    dropout: float = option(0.1, least=0, below=1, help="in training")

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.width, self.heads)


class ITransformer(nn.Module):
    """A transformer over the neurons of a trial.

    Parameters
    ----------
    config : ITransformerConfig
    sizes : Sizes
    """

    name = "iTransformer"
    Config = ITransformerConfig
    population = True

    def __init__(self, config: ITransformerConfig, sizes: Sizes):
        super().__init__()
        self.label = sizes.label
        self.project, self.drop = nn.Linear(sizes.n_context, config.width), nn.Dropout(config.dropout)
        self.encoder = Transformer(width=config.width, heads=config.heads, layers=config.layers, dropout=config.dropout, ff_width=config.width)
        self.norm = nn.LayerNorm(config.width)
        self.map = nn.Linear(config.width, sizes.n_out)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        x, restore = (batch.x, lambda out: out) if self.label else without_level(batch.x)
        tokens = self.encoder(self.drop(self.project(x)), keys=batch.whole())
        return restore(self.map(self.norm(tokens)))
