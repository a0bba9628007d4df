"""LSTM: a recurrent network reads the context frame by frame; a linear map of its last state gives the whole response.

Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory". The QuantFormer paper compares with an LSTM (Table 1, Table 2) but gives no sizes; the
sizes are ours. The map returns the whole response at once, so that errors of earlier frames do not feed later ones.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..batch import Batch, Sizes
from ..options import Options, option


@dataclass(frozen=True)
class LSTMConfig(Options):
    """Options of the LSTM."""

    width: int = option(64, "whole", least=1, most=4096, help="of the state")
    layers: int = option(1, "whole", least=1, most=32, help="one above the other")
    dropout: float = option(0.0, least=0, below=1, help="between layers and before the last map, in training")


class LSTM(nn.Module):
    """A recurrent network that all neurons share.

    Parameters
    ----------
    config : LSTMConfig
    sizes : Sizes
    """

    name = "LSTM"
    Config = LSTMConfig

    def __init__(self, config: LSTMConfig, sizes: Sizes):
        super().__init__()
        self.reader = nn.LSTM(1, config.width, config.layers, batch_first=True, dropout=config.dropout if config.layers > 1 else 0.0)
        self.drop = nn.Dropout(config.dropout)
        self.map = nn.Linear(config.width, sizes.n_out)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        states, _ = self.reader(batch.x.flatten(0, 1)[..., None])
        return self.map(self.drop(states[:, -1])).unflatten(0, batch.x.shape[:2])
