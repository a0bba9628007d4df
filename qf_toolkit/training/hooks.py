"""What a training does beside its steps: averaged weights here; temperatures, starts of codebooks and resets of codes in their models' files."""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .options import LoopConfig


class Moment(NamedTuple):
    """Where a training stands when it calls a hook.

    Attributes
    ----------
    module : nn.Module
        In training mode.
    config : LoopConfig
        Its `epochs` are those of the whole training.
    epoch : int
        From 0: the one that begins, runs or has ended.
    step : int
        Steps taken since the training began.
    """

    module: nn.Module
    config: LoopConfig
    epoch: int
    step: int


class Hook:
    """What is called in the course of a training; a hook has those of these methods that it needs.

    What a hook draws at random comes from the training's generators, so that a run that is gone on with draws the same. After a step
    nothing may ask the device for a value.

    Examples
    --------
    A temperature that falls from epoch to epoch:

    >>> class Temperature(Hook):
    ...     def before_epoch(self, now):
    ...         now.module.temperature = 2.5 * 0.93**now.epoch
    ...
    ...     def restore(self, now, state):
    ...         self.before_epoch(now)
    """

    def start(self, now: Moment) -> None:
        """Before the first epoch of a new training."""

    def before_epoch(self, now: Moment) -> None:
        """Before the first step of an epoch."""

    def after_step(self, now: Moment) -> None:
        """After the weights have changed."""

    def after_epoch(self, now: Moment) -> None:
        """After an epoch and the validation at its end."""

    def state(self) -> dict[str, torch.Tensor]:
        """What the hook remembers, for checkpoints; the settings of the training name the options that a hook was made with."""
        return {}

    def restore(self, now: Moment, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave, in place of all calls made before that checkpoint; the module has its weights and buffers already.

        What the hook had set in the module beside those, a temperature for example, it sets anew.
        """


class Ema(Hook):
    """Averaged weights: after each step `average = decay * average + (1 - decay) * weight`, beginning at the first weights.

    Buffers are not averaged.

    Parameters
    ----------
    parameters : list of nn.Parameter
    decay : float
        A step.
    """

    def __init__(self, parameters, decay):
        self.parameters, self._update = parameters, get_ema_multi_avg_fn(decay)
        self.average = [p.detach().clone() for p in parameters]

    def after_step(self, now):
        self._update(self.average, [p.detach() for p in self.parameters], None)

    def state(self):
        return {str(i): a for i, a in enumerate(self.average)}

    def restore(self, now, state):
        self.average = [state[str(i)].to(p) for i, p in enumerate(self.parameters)]

    @contextmanager
    def in_place(self):
        """A context in which the parameters hold the averages."""
        weights = [p.data for p in self.parameters]
        try:
            for p, a in zip(self.parameters, self.average, strict=True):
                p.data = a
            yield
        finally:
            for p, w in zip(self.parameters, weights, strict=True):
                p.data = w
