"""Options of the loop. Without torch, so that the command line knows them at once."""

import re
from dataclasses import dataclass

from ..errors import QfError
from ..models.options import Options, option, shown


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


def check_device(device):
    """Raise QfError where `device` is no name of a device that computes; whether there is one here is for `pick_device` to say."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d{1,3})?", str(device)):
        raise QfError(f"device: expected auto, cpu, cuda, cuda:1 and so on, or mps, found {shown(str(device))}.")
