"""Hooks, which the loop calls between its steps. Averaged weights are here; a model's own hooks, such as temperatures, are in the model's file."""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .options import LoopConfig


class Moment(NamedTuple):
    """The state of a training when it calls a hook.

    Attributes
    ----------
    module : nn.Module
        In training mode.
    config : LoopConfig
        Its `epochs` are those of the whole training.
    epoch : int
        The epoch that begins, runs or has just ended, from 0.
    step : int
        Steps taken since the training began.
    """

    module: nn.Module
    config: LoopConfig
    epoch: int
    step: int


class Hook:
    """The base of hooks, whose methods do nothing. A hook overrides the methods that it needs.

    A hook draws random numbers from the training's generators, so that a resumed run draws the same numbers. `after_step` must not read a value from
    the device.

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
        """Called before the first epoch of a new training."""

    def before_epoch(self, now: Moment) -> None:
        """Called before the first step of an epoch."""

    def after_step(self, now: Moment) -> None:
        """Called after each step, when the weights have changed."""

    def after_epoch(self, now: Moment) -> None:
        """Called after an epoch and the validation at its end."""

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint keeps for this hook. Options of the hook belong into the `settings` of the training instead."""
        return {}

    def restore(self, now: Moment, state: dict[str, torch.Tensor]) -> None:
        """Called once when a run goes on from a checkpoint, instead of all earlier calls. The module has its weights and buffers already.

        The hook takes back the tensors of `state`. It also sets again all else that it had set in the module, for example a temperature.
        """


class Ema(Hook):
    """Averages the weights: after each step `average = decay * average + (1 - decay) * weight`. The average starts at the first weights.

    Buffers are not averaged.

    Parameters
    ----------
    parameters : list of nn.Parameter
    decay : float
        Per step, from 0 to 1.
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
