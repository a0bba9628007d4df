"""Options of the trainings. Without torch, so that the command line knows them at once.

Deviations from the paper's training (4.2: Adam, batches of 32 trials, 50 epochs at lr 1e-4, then 100 at 1e-3), each an option; the defaults are ours:
- `batch_size`: a step sees 512 observations (trial x neuron) of any trials; `batch_trials=32` is the paper: all observations of 32 trials;
- `clip`: the gradient's norm is clipped at 1; 0 is the paper;
- `bf16`: on CUDA training steps run in bfloat16 where autocast allows; False is the paper's float32.

Choices where the paper is silent: `normalise` divides each neuron's signal by its spread ("none": nothing is divided); `patience`, `schedule`,
`weight_decay` and `token_speed` change nothing at their defaults; the epoch kept is the best on the validation part, which is cut off the
training blocks and no test trial enters.

The paper's setting as a whole is `PAPER`, to be passed to `pretrain(split, **PAPER["pretrain"])` and likewise to the fits:

=============  ======================================================  =======================================================================
               Python                                                  shell
=============  ======================================================  =======================================================================
pre-training   batch_trials=32, clip=0, bf16=False, mean_weight=False, --batch-trials 32 --clip 0 --no-bf16 --no-mean-weight
               beta_most=1e9, redraw_masks=False                       --beta-most 1e9 --no-redraw-masks
forecaster     batch_trials=32, clip=0, bf16=False, decode="argmax",   --batch-trials 32 --clip 0 --no-bf16 --decode argmax
               stim_token="condition"                                  --stim-token condition
classifier     batch_trials=32, clip=0, bf16=False,                    --batch-trials 32 --clip 0 --no-bf16 --stim-token condition
               stim_token="condition"
=============  ======================================================  =======================================================================
"""

import re
from dataclasses import dataclass

from ..errors import QfError
from ..models.config import DECODINGS, STIM_TOKENS
from ..models.options import Options, option, shown

_STEPS = {"batch_trials": 32, "clip": 0.0, "bf16": False}
PAPER = {
    "pretrain": {**_STEPS, "mean_weight": False, "beta_most": 1e9, "redraw_masks": False},
    "forecaster": {**_STEPS, "decode": "argmax", "stim_token": "condition"},
    "classifier": {**_STEPS, "stim_token": "condition"},
}


@dataclass(frozen=True)
class LoopConfig(Options):
    """How long and how fast to learn."""

    epochs: int = option(50, "whole", least=1, most=10**9, help="times that all observations are seen")
    steps: int = option(0, "whole", least=0, most=10**9, help="steps at least: short recordings get more epochs; 0: as many as the epochs have")
    batch_size: int = option(512, "whole", least=1, most=10**12, flag="batch", help="observations a step")
    batch_trials: int = option(0, "whole", least=0, most=10**9, help="trials a step, with all their observations, instead of batch; 0: batch counts")
    lr: float = option(1e-4, above=0, most=10, help="learning rate of Adam")
    token_speed: float = option(1.0, above=0, most=1e4, help="times lr at which the neurons' tokens learn")
    schedule: str = option("constant", "text", known=("constant", "cosine"), help="of the learning rate; cosine ends at 1 % of it")
    weight_decay: float = option(0.0, least=0, most=10, help="of Adam")
    clip: float = option(1.0, least=0, most=1e9, help="norm at which the gradient is clipped; 0: not at all")
    patience: int = option(0, "whole", least=0, most=10**9, help="stop after so many epochs without a better validation score; 0: never")
    seed: int = option(0, "whole", least=0, most=2**32 - 1, help="of all that is drawn at random")
    bf16: bool = option(True, "flag", help="bfloat16 in training steps on CUDA")


@dataclass(frozen=True)
class PretrainConfig(Options):
    """How the observations enter pre-training."""

    balance: str = option("weight", "text", known=("weight", "sample"), help="against rare activations: weights of the loss (paper), or as many "
                          "inactive as active observations an epoch")  # fmt: skip
    normalise: str = option("neuron", "text", known=("neuron", "global", "none"), help="divide each neuron's signal by its own spread, all by one, "
                            "or not at all")  # fmt: skip


@dataclass(frozen=True)
class FitConfig(Options):
    """How a forecaster or a classifier is fitted."""

    tuning: str = option("fine", "text", known=("fine", "prompt"), help="fine: the encoder learns, too; prompt: tokens and head alone")
    stim_token: str | None = option(None, "text", known=STIM_TOKENS, optional=True, help="what has a stimulus token; auto: each condition where "
                                   "those are repeated, else its category; the pre-trained model's where left out")  # fmt: skip
    hide: float = option(0.0, least=0, most=1, help="hide up to this share of the baseline in training steps")
    dropout: float | None = option(None, least=0, below=1, optional=True, help="of the encoder in training; the pre-trained model's where left out")
    expectation_weight: float = option(0.0, least=0, most=1e6, help="forecast: weight of the expected forecast's squared error beside eq. 4")
    gain_weight: float = option(0.0, least=0, most=1e6, help="activation: weight of the levels of the gain beside the label")
    decode: str = option("auto", "text", known=("auto", *DECODINGS), help="forecast: how codes become a forecast; auto: what does best on validation")


def check_device(device):
    """Raise QfError where `device` is no name of a device that computes; whether there is one here is for `pick_device` to say."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d{1,3})?", str(device)):
        raise QfError(f"device: expected auto, cpu, cuda, cuda:1 and so on, or mps, found {shown(str(device))}.")
