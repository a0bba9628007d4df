"""Options of the loop. Does not import torch, so that the command line starts fast."""

import re
from dataclasses import dataclass

from ..errors import QfError
from ..models.options import Options, defaults, option, shown


@dataclass(frozen=True)
class LoopConfig(Options):
    """How long and how fast to learn."""

    epochs: int = option(50, "whole", least=1, most=10**9, help="times that all observations are seen")
    steps: int = option(0, "whole", least=0, most=10**9, help="steps at least: short recordings get more epochs; 0: as many as the epochs have")
    steps_most: int = option(0, "whole", least=0, most=10**9, help="steps at most: training ends there, within an epoch if need be; 0: no bound")
    batch_size: int = option(512, "whole", least=1, most=10**12, flag="batch", help="observations a step")
    batch_trials: int = option(0, "whole", least=0, most=10**9, help="trials a step, with all their observations, instead of batch; 0: batch counts")
    optimiser: str = option("adam", "text", known=("adam", "adamw"), help="adam adds the weight decay to the gradient, adamw keeps it apart")
    lr: float = option(1e-4, above=0, most=10, help="learning rate")
    token_speed: float = option(1.0, above=0, most=1e4, help="times lr at which the neurons' tokens learn")
    schedule: str = option("constant", "text", known=("constant", "cosine"), help="of the learning rate; cosine ends at lr_floor of it")
    schedule_by: str = option("epoch", "text", known=("epoch", "step"), help="how often the learning rate changes")
    lr_floor: float = option(0.01, least=0, most=1, help="share of lr at which the cosine ends")
    warmup: float = option(0.0, least=0, below=1, help="share of the steps in which the learning rate climbs to lr; needs schedule_by step")
    weight_decay: float = option(0.0, least=0, most=10, help="of the optimiser")
    clip: float = option(1.0, least=0, most=1e9, help="norm at which the gradient is clipped; 0: not at all")
    ema: float = option(0.0, least=0, below=1, help="decay a step of the averaged weights that are validated and kept; 0: the weights themselves are")
    validate_every: int = option(0, "whole", least=0, most=10**9, help="steps between validations; 0: at each epoch's end")
    patience: int = option(0, "whole", least=0, most=10**9, help="stop after so many validations without a better score; 0: never")
    seed: int = option(0, "whole", least=0, most=2**32 - 1, help="of all that is drawn at random")
    bf16: bool = option(True, "flag", help="bfloat16 in training steps on CUDA")

    def __post_init__(self):
        super().__post_init__()
        if self.warmup and self.schedule_by != "step":
            raise QfError(f"warmup: expected 0 where schedule_by is 'epoch', found {self.warmup:g}. Take schedule_by=\"step\" (--schedule-by step).")
        if self.lr_floor != defaults(LoopConfig)["lr_floor"] and self.schedule != "cosine":
            raise QfError(f"lr_floor: expected only with schedule='cosine', found {self.lr_floor:g}. Take schedule=\"cosine\" (--schedule cosine).")
        if 0 < self.steps_most < self.steps:
            raise QfError(f"steps_most: expected at least steps = {self.steps}, or 0, found {self.steps_most}. Make it larger, or steps smaller.")


FIT_LOOP = {"epochs": 100, "lr": 1e-3}
"""The defaults of a fit to a task (paper 4.2); pre-training takes the defaults of `LoopConfig`."""


@dataclass(frozen=True)
class OnDevice(Options):
    """Where is computed."""

    device: str = option("auto", "text", help="auto, cpu, cuda, cuda:1 and so on, or mps")


@dataclass(frozen=True)
class RunConfig(OnDevice):
    """Where and how a training runs. None of these options changes what is learnt, so a run may go on from a checkpoint with other values."""

    memory_mb: float | None = option(None, above=0, most=1e9, optional=True, help="MB that the sessions' traces may take; all of them where left out")
    checkpoint_s: float = option(300.0, least=0, most=1e9, help="seconds between checkpoints within an epoch; 0: at the end of epochs only")
    resume: bool = option(True, "flag", off="fresh", help="go on from a checkpoint, where there is one")
    progress: bool = option(True, "flag", help="show progress bars")

    def __post_init__(self):
        object.__setattr__(self, "device", str(self.device))  # it may be a torch.device
        super().__post_init__()
        check_device(self.device)


def check_device(device):
    """Raise QfError if `device` is no name of a device. `pick_device` checks whether this machine has it."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d{1,3})?", str(device)):
        raise QfError(f"device: expected auto, cpu, cuda, cuda:1 and so on, or mps, found {shown(str(device))}.")
