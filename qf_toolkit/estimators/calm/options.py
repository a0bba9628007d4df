"""Options of CalM's trainings. Does not import torch, so that the command line starts fast.

The defaults of the loop are the released code's: `QUANTIZER_LOOP`, `POPULATION_LOOP`, and `ADAPT_LOOP` for new sessions by embeddings alone. `SMALL` holds
sizes and lengths that train in minutes on two cores, without corrupted inputs (on a simulated network the loss after 250 steps was 4.00 without and 4.04
with them): `pretrain_calm_quantizer(split, **SMALL["quantizer"])`, `fit_calm(split, **SMALL["forecaster"])`.

Deviations from the code's training, each an option: a step of the quantiser sees `batch_size` traces of any sessions; a step of the population sees
whole trials of one session, with at most `most_neurons` (256; code: 512) of its neurons, drawn without replacement (0: all).
"""

from dataclasses import dataclass

from ...models.calm_config import TOKENS
from ...models.config import DECODINGS
from ...models.options import Options, option

QUANTIZER_LOOP = {"epochs": 100, "batch_size": 256, "optimiser": "adamw", "lr": 5e-4, "schedule": "cosine", "weight_decay": 1e-3}
POPULATION_LOOP = {
    "epochs": 160, "batch_trials": 4, "optimiser": "adamw", "lr": 1e-3, "schedule": "cosine", "schedule_by": "step", "lr_floor": 1e-3, "warmup": 0.06,
    "weight_decay": 1e-3, "ema": 0.99,
}  # fmt: skip
ADAPT_LOOP = {**POPULATION_LOOP, "lr": 2e-4}

SMALL = {
    "quantizer": {
        "width": 32,
        "layers": 1,
        "epochs": 8,
        "batch_size": 256,
        "lr": 2e-3,
        "reset_every": 2,
        "recluster_every": 4,
        "most_traces": 10_000,
    },
    "forecaster": {
        "width": 64,
        "layers": 2,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "replace": 0.0,
        "own_share": 0.0,
        "epochs": 20,
        "lr": 2e-3,
        "most_neurons": 128,
    },
}


@dataclass(frozen=True)
class TracesConfig(Options):
    """What an epoch of the quantiser's training sees."""

    most_traces: int = option(0, "whole", least=0, most=10**12, help="windows of single neurons that an epoch sees, drawn anew each; 0: all")


@dataclass(frozen=True)
class CalmConfig(Options):
    """What CalM's forecaster is made of, and how it goes on from a context."""

    tokens: str = option("codes", "text", known=TOKENS, help="codes of the quantiser, or patches of the trace itself")
    decode: str = option("auto", "text", known=("auto", *DECODINGS), help="how the forecast goes on: the likeliest codes (the authors'), expected codes, "
                          "or the mean of draws; auto: what does best on validation")  # fmt: skip
    tuning: str = option(
        "all", "text", known=("all", "embeddings"), help="what learns: everything, or the embeddings of neurons, sessions and new conditions alone"
    )
