"""The length of a training, and the course of its learning rate."""

import math
from dataclasses import replace

from .options import LoopConfig


def lengths(config: LoopConfig, an_epoch: int) -> tuple[LoopConfig, int]:
    """The epochs and steps of a training, from `epochs`, `steps` and `steps_most` of its config.

    Parameters
    ----------
    config : LoopConfig
    an_epoch : int
        Steps per epoch.

    Returns
    -------
    config : LoopConfig
        Its `epochs` are those of the whole training. `steps_most` may cut the last epoch short.
    steps : int
        Steps of the whole training.

    Examples
    --------
    >>> config, steps = lengths(LoopConfig(epochs=1, steps=25), 10)
    >>> config.epochs, steps
    (3, 30)
    >>> config, steps = lengths(LoopConfig(epochs=50, steps_most=25), 10)
    >>> config.epochs, steps
    (3, 25)
    """
    epochs = max(config.epochs, -(-config.steps // an_epoch))
    if config.steps_most:
        epochs = min(epochs, -(-config.steps_most // an_epoch))
    steps = epochs * an_epoch
    return replace(config, epochs=epochs), min(steps, config.steps_most or steps)


def factor(config: LoopConfig, epoch: int, step: int, steps: int) -> float:
    """The factor by which lr is multiplied in a step.

    Parameters
    ----------
    config : LoopConfig
        In the share `warmup` of the steps the factor climbs linearly to 1. The cosine then falls to `lr_floor` at the end.
    epoch : int
        The current epoch, from 0.
    step : int
        Steps taken since the training began, from 0.
    steps : int
        Steps of the whole training.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> config = LoopConfig(schedule="cosine", schedule_by="step", warmup=0.25, lr_floor=0.1)
    >>> [round(factor(config, 0, step, 8), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.94, 0.775, 0.55, 0.325, 0.16]
    """
    done, whole = (epoch, config.epochs) if config.schedule_by == "epoch" else (step, steps)
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "constant":
        return 1.0
    done, whole = min(done - rising, whole - rising), max(whole - rising, 1)
    return config.lr_floor + (1 - config.lr_floor) * 0.5 * (1 + math.cos(math.pi * done / whole))
