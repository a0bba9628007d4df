"""Options of QuantFormer's trainings; `training.options.LoopConfig` has those of the loop. Does not import torch, so that the command line starts fast.

Deviations from the paper's training (4.2: Adam, batches of 32 trials, 50 epochs at lr 1e-4, then 100 at 1e-3), each an option; the defaults are ours:
- `batch_size`: a step sees 512 observations (trial x neuron) of any trials. The paper takes all observations of 32 trials: `batch_trials=32`.
- `clip`: the gradient's norm is clipped at 1. The paper does not clip: 0.
- `bf16`: on CUDA, training steps run in bfloat16 where autocast allows it. The paper uses float32: False.

Choices where the paper is silent: `normalise` divides each neuron's signal by its spread ("none" divides nothing). The other options of `LoopConfig`
change nothing at their defaults. The loop keeps the epoch that is best on the validation part; that part is cut off the training blocks and holds no
test trial.

`PAPER` holds the paper's whole setting. Pass it as `pretrain(split, **PAPER["pretrain"])`, and in the same way to the fits:

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

from dataclasses import dataclass

from ...models.config import DECODINGS, STIM_TOKENS
from ...models.options import Options, option

_STEPS = {"batch_trials": 32, "clip": 0.0, "bf16": False}
PAPER = {
    "pretrain": {**_STEPS, "mean_weight": False, "beta_most": 1e9, "redraw_masks": False},
    "forecaster": {**_STEPS, "decode": "argmax", "stim_token": "condition"},
    "classifier": {**_STEPS, "stim_token": "condition"},
}


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
    neuron_token: bool = option(True, "flag", help="tell the model the neuron, by a learned token; without, the stimulus alone (paper Table 3)")
    hide: float = option(0.0, least=0, most=1, help="hide up to this share of the baseline in training steps")
    dropout: float | None = option(None, least=0, below=1, optional=True, help="of the encoder in training; the pre-trained model's where left out")
    expectation_weight: float = option(0.0, least=0, most=1e6, task="forecast", help="weight of the expected forecast's squared error beside eq. 4")
    gain_weight: float = option(0.0, least=0, most=1e6, task="activation", help="weight of the levels of the gain beside the label")
    decode: str = option("auto", "text", known=("auto", *DECODINGS), task="forecast", help="how codes become a forecast; auto: what does best on "
                        "validation")  # fmt: skip
