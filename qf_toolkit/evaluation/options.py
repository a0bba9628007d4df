"""Options of an evaluation. This file imports neither numpy nor torch, so that the command line starts fast."""

from dataclasses import dataclass

from ..models.options import Options, option


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What is scored beside the forecasts themselves, and how."""

    n_samples: int = option(
        0,
        "whole",
        least=0,
        most=100_000,
        noun="a whole number of draws",
        flag="samples",
        help="draws of each forecast, for crps, coverage, energy and pit; 0: none",
    )
    naive: bool = option(True, "flag", help="fit and score the naive rows, too")
    ceiling: bool = option(False, "flag", help="add the best possible forecast (simulated data alone)")
    ceiling_samples: int = option(64, "whole", least=1, most=10**6, help="futures that are simulated for the ceiling")
    shrinkage: float = option(2.0, above=0, most=1e300, noun="a number of trials", hint="Pass 2, say.", help="activation: weight of a neuron's own "
                              "frequency in that of a condition, in trials")  # fmt: skip
    seed: int = option(0, "whole", least=0, most=2**63 - 1, help="of the draws, the ceiling and the bootstrap")
