"""Options of a benchmark, and its sizes. This file does not import torch, so that the command line starts fast."""

from dataclasses import dataclass

from ..errors import QfError
from ..estimators.calm.options import SMALL
from ..models.options import Options, option
from ..training.options import OnDevice

PAPER_TABLES = ("table1", "table2", "table3", "table4", "tableA1", "tableA2", "tableA3", "tableA4")
BEHAVIOUR = "calm-behaviour"
CALM_TABLES = ("calm-simulation", "calm-single-session", "calm-multi-session", BEHAVIOUR)  # of whole populations (CalM's summary)
TABLES = (*PAPER_TABLES, *CALM_TABLES)
MOST_SEEDS = 1000
# gratings are 3 s apart and images follow each other, so F0 is of the last second; each stimulus is scored over its own window (paper, Table A-1)
OWN_WINDOW = {"f0_s": 1.0, "score_s": "paper"}
# whole recordings in time, as z-scores; windows as POCO's, 48 frames and the 16 after them, where the recordings are the simulated ones
CALM_WINDOW = {"signal": "zscore", "split": "chronological"}
NETWORK_WINDOW = {**CALM_WINDOW, "windows": "sliding", "length_s": 3.2, "response_s": 0.8, "every_s": 0.8, "test": 0.2, "validation": 0.25}


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """Which runs a table is made of."""

    size: str = option("small", "text", known=("small", "paper"), help="of models and trainings; small: minutes on 2 cores, paper: the paper's (4.2)")
    seeds: int = option(1, "whole", least=1, most=MOST_SEEDS, help="trainings of each model, with the seeds 0, 1...; rows without chance run once")
    models: tuple | None = option(
        None, "text", optional=True, several=True, help="rows, all for every one; those of the paper's table where left out"
    )
    decoded: tuple | None = option(None, "text", optional=True, several=True, help="calm-behaviour: behaviours, or columns of the trials (direction); all "
                                   "behaviours that every session has where left out")  # fmt: skip
    tune: int = option(1, "whole", least=1, most=5, help="learning rates that each model may try, by its validation score")
    steps: int | None = option(None, "whole", least=1, most=10**9, optional=True, help="steps of each fit; those of the size where left out")
    n_samples: int = option(50, "whole", least=0, most=100_000, flag="samples", help="draws of each forecast, for crps and coverage; 0: none")


@dataclass(frozen=True)
class GridOptions(OnDevice):
    """How the runs are worked through."""

    workers: int = option(1, "whole", least=1, most=10_000, help="runs at the same time")
    on: str = option("local", "text", help="local: processes here; dask: a cluster of its own here; tcp://...: a running Dask cluster; slurm")
    slurm: tuple = option((), "text", several=True, help="settings of its jobs, name=value: partition=gpu gres=gpu:1 time=240")
    retry: bool = option(False, "flag", help="run again what has failed")
    keep_models: bool = option(False, "flag", help="keep the fitted models, too, not only their scores")

    def __post_init__(self):
        super().__post_init__()
        if self.on not in ("local", "dask", "slurm") and not self.on.startswith(("tcp://", "tls://")):
            raise QfError(f"on: expected local, dask, the address of a Dask cluster (tcp://host:port) or slurm, found {self.on[:60]!r}.")
        for text in self.slurm:
            if not all(text.partition("=")[::2]):
                raise QfError(f"slurm: expected name=value, found {text[:60]!r}. Give partition=gpu, for example.")


# `pretrain` and `fit` are options of the loop, the same for every model, and `population` those of the tables of populations (`calm` adds to it what CalM's authors train otherwise); `quantformer` has those of its sizes, `models` those of the others, and
# `protocol` the simulated recordings that a table is made on where no store is given
SIZES = {
    "small": {
        "subjects": 3,
        "simulate": {
            "n_neurons": 8, "repeats": 15, "directions": 4, "temporal_frequencies": 1, "images": 4, "orientations": 2, "spatial_frequencies": 1,
            "phases": 2, "image_repeats": 120, "noise_frames": 480,
        },
        "pretrain": {"steps": 600, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        "fit": {"steps": 240, "batch_size": 64, "lr": 1e-3, "schedule": "cosine"},
        "quantformer": {"width": 32, "layers": 1, "heads": 4, "patch_s": 1 / 3, "replace_below": 0.003},
        "forecast": {"expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "activation": {"gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
        "models": {"width": 32, "layers": 1, "heads": 4},
        "codes": (4, 8, 16, 32, 64, 128),
        "widths": (16, 32, 64),
        "network": {"n_neurons": 150, "seed": 1},
        "population": {"steps": 1200, "batch_size": 512, "lr": 1e-3, "schedule": "cosine"},
        "calm_quantizer": SMALL["quantizer"],
        "calm": {n: v for n, v in SMALL["forecaster"].items() if n != "epochs"},
        "head": {"epochs": 60},
    },
    "paper": {
        "subjects": 3,
        "simulate": {},
        "pretrain": {"epochs": 50, "batch_trials": 32, "lr": 1e-4},
        "fit": {"epochs": 100, "batch_trials": 32, "lr": 1e-3},
        "quantformer": {"patch_s": 16 / 30},
        "forecast": {},
        "activation": {},
        "models": {},
        "codes": (4, 8, 16, 32, 64, 128, 256, 512),
        "widths": (64, 128, 256, 512),
        "network": {"seed": 1},
        "population": {"steps": 10_000, "batch_size": 4096, "lr": 3e-4},
        "calm_quantizer": {},
        "calm": {},
        "head": {},
    },
}  # fmt: skip
