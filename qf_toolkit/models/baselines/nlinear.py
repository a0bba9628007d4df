"""NLinear: one linear map from the context's frames to the response's, relative to the last frame.

Source: Zeng et al. 2023, "Are Transformers Effective for Time Series Forecasting?" (AAAI), section 4: the last value is subtracted before the map and
added to its output. Deviation: the map starts at 1 / n_context, so that an untrained model returns the mean of the context, as in ZAPBench.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..batch import Batch, Sizes
from ..options import Options, option


@dataclass(frozen=True)
class NLinearConfig(Options):
    """Options of NLinear."""

    subtract_last: bool = option(True, "flag", help="map the context less its last frame, and add that to the result")


class NLinear(nn.Module):
    """A linear map that all neurons share.

    Parameters
    ----------
    config : NLinearConfig
    sizes : Sizes
    """

    name = "NLinear"
    Config = NLinearConfig

    def __init__(self, config: NLinearConfig, sizes: Sizes):
        super().__init__()
        self.subtract_last = config.subtract_last
        self.map = nn.Linear(sizes.n_context, sizes.n_out)
        nn.init.constant_(self.map.weight, 1 / sizes.n_context)
        nn.init.zeros_(self.map.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        if not self.subtract_last:
            return self.map(batch.x)
        last = batch.x[..., -1:]
        return self.map(batch.x - last) + last
