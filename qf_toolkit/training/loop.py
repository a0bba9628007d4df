"""The training loop, on one screen: seeds, progress, the best epoch by validation, early stopping, checkpoints.

Each epoch first seeds the generators from (seed, epoch), and then draws its batches. A run that goes on from a checkpoint within an epoch draws the
same batches again, takes the generators' states from the checkpoint, and skips the steps that were taken. It ends at the weights of a run that was
never interrupted, to the bit on the same machine and versions.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from .._files import sweep
from ..errors import QfError
from .checkpoint import CHECKPOINT, State, load_checkpoint, save_checkpoint
from .device import forked, generator_states, set_generator_states
from .groups import Group, make_optimiser
from .hooks import Ema, Hook, Moment
from .options import LoopConfig, RunConfig
from .schedule import factor, lengths


def run(
    module: nn.Module,
    draw: Callable[[], list[torch.Tensor]],
    step: Callable[[torch.Tensor], torch.Tensor],
    validate: Callable[[], dict[str, float]],
    config: LoopConfig,
    *,
    settings: dict,
    groups: Sequence[Group] = (),
    hooks: Sequence[Hook] = (),
    checkpoint: str | Path | None = None,
    run_config: RunConfig | None = None,
    label: str = "training",
) -> list[dict]:
    """Train `module` in place, and leave it in eval with the weights of its best validation.

    Parameters
    ----------
    module : nn.Module
        Its parameters that require a gradient learn. The first of them decides the device.
    draw : callable
        () -> list of long tensors, each of shape (b,): the batches of an epoch in random order, as positions of observations; see `batches`.
    step : callable
        (long tensor, shape (b,)) -> mean loss of those observations, a scalar float tensor. On a GPU it must not read a tensor's value on the host.
    validate : callable
        () -> dict of floats. The loop minimises its "score". Its random draws leave the training's generators as they were.
    config : LoopConfig
    settings : dict
        All other settings that decide the result; values are dataclasses, or values that JSON can hold. A checkpoint of other settings is refused.
    groups : sequence of Group
        Parameters with a speed or a weight decay of their own; see `training.groups`.
    hooks : sequence of Hook
        The loop calls them in this order, after it has averaged the weights; see `training.hooks`.
    checkpoint : str or Path, optional
        Folder of the checkpoints; None keeps none. The loop writes one at the end of each epoch, and within an epoch every `checkpoint_s` seconds.
    run_config : RunConfig, optional
        The loop uses its checkpoint_s, resume and progress; None takes the defaults.
    label : str
        Name of the training in the progress bar and in error messages.

    Returns
    -------
    list of dict
        One entry per validation: epoch (int, from 0), loss (float, the mean over the observations since the previous validation) and the floats of
        `validate`; under `validate_every` also step (int), the number of steps taken.

    Raises
    ------
    QfError
        If the checkpoint belongs to other settings or can't be read or written, or if the loss or the validation score is not finite.
    DamagedFileError
        If no checkpoint in the folder is whole.
    """
    run_config = run_config or RunConfig()
    training = _Training(module, draw, step, validate, config, settings, groups, hooks, checkpoint, run_config, label)
    state = training.state
    with tqdm(total=training.config.epochs, initial=state.epoch, desc=label, disable=not run_config.progress, unit="epoch") as bar:
        while not training.finished():
            with forked(training.device):
                training.epoch()
            training.save()
            bar.set_postfix({k: f"{v:.4g}" for entry in state.history[-1:] for k, v in entry.items() if k not in ("epoch", "step")})
            bar.update()
    module.load_state_dict(training.best)
    module.eval()
    return state.history


@dataclass
class _Training:
    """The arguments of `run`, and the state of the training."""

    module: nn.Module
    draw: Callable
    loss: Callable
    validate: Callable
    config: LoopConfig
    settings: dict
    groups: Sequence[Group]
    hooks: Sequence[Hook]
    checkpoint: str | Path | None
    run_config: RunConfig
    label: str

    def __post_init__(self):
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.optimiser = make_optimiser(self.parameters, self.groups, self.config)
        names = {"hooks": [type(hook).__name__ for hook in self.hooks]} if self.hooks else {}
        self.settings = {**self.settings, "loop": self.config, **names}
        self.ema = Ema(self.parameters, self.config.ema) if self.config.ema else None
        self.hooks = [*([self.ema] if self.ema else []), *self.hooks]
        self.config, self.steps = self._lengths(self.config)
        self.state, self.best, self.generators = State(), _copy(self.module), {}
        self.file, self.saved = Path(self.checkpoint) / CHECKPOINT if self.checkpoint else None, time.monotonic()
        if self.file:
            sweep(self.file.parent)
        if self.file and self.run_config.resume:
            self._go_on()
        self.total = torch.tensor(self.state.total, device=self.device)

    def _lengths(self, config):
        """The config with the epochs that its steps need, and the number of steps; 0 if nothing depends on that number."""
        if not config.steps and not config.steps_most and config.schedule_by == "epoch":
            return config, 0
        with forked(self.device):
            torch.manual_seed(config.seed * 1_000_003)
            return lengths(config, len(self.draw()))

    def _go_on(self):
        """Load the checkpoint, if there is one."""
        found = load_checkpoint(self.file, self.module, self.optimiser, self.parameters, self.settings)
        if not found:
            return
        self.best, self.state, beside = found
        self.generators = {k.removeprefix("generator."): v for k, v in beside.items() if k.startswith("generator.")}
        for i, hook in enumerate(self.hooks):
            own = f"hook.{i}."
            hook.restore(self._now(), {k.removeprefix(own): v for k, v in beside.items() if k.startswith(own)})

    def finished(self):
        """Whether all epochs are over, or the score has not improved for `patience` validations."""
        state, patience = self.state, self.config.patience
        return state.epoch >= self.config.epochs or (patience > 0 and len(state.history) - 1 - state.best >= patience)

    def epoch(self):
        """Run the steps of an epoch that are left, and its validations."""
        state, config, every = self.state, self.config, self.config.validate_every
        torch.manual_seed(config.seed * 1_000_003 + state.epoch)
        drawn = self.draw()
        if config.steps_most:
            drawn = drawn[: config.steps_most - state.step + state.at]
        self.module.train()
        if state.at:
            set_generator_states(self.generators, self.device)
        else:
            self._call(*(["start"] if state.epoch == 0 else []), "before_epoch")
        for at in drawn[state.at :]:
            # keep each loss until the next one exists: otherwise the C library returns its memory and fetches it again at each step
            kept = self._step(at)  # noqa: F841
            self._call("after_step")
            if every and state.step % every == 0:
                self._look()
                if self.finished():
                    break
            if 0 < self.run_config.checkpoint_s <= time.monotonic() - self.saved:
                self.save()
        if state.seen and (not every or state.epoch + 1 == config.epochs):
            self._look()
        self._call("after_epoch")
        state.epoch, state.at = state.epoch + 1, 0

    def _step(self, at):
        """One step on the observations `at`; returns their loss. Nothing here waits for the device."""
        state, config = self.state, self.config
        share = factor(config, state.epoch, state.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * group["speed"] * share
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.bf16 and self.device.type == "cuda"):
            loss = self.loss(at)
        loss.backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimiser.step()
        self.total += loss.detach() * len(at)
        state.step, state.at, state.seen = state.step + 1, state.at + 1, state.seen + len(at)
        return loss

    def _look(self):
        """Validate, on the averaged weights if there are any, and keep the best weights."""
        state, at = self.state, {"step": self.state.step} if self.config.validate_every else {}
        loss = self._number("loss", float(self.total) / state.seen)
        self.module.eval()
        with forked(self.device), torch.no_grad(), self.ema.in_place() if self.ema else nullcontext():
            figures = self.validate()
            self._number("validation score", figures["score"])
            state.history.append({"epoch": state.epoch, **at, "loss": loss, **figures})
            if state.best == len(state.history) - 1:
                self.best = _copy(self.module)
        self.module.train()
        self.total.zero_()
        state.seen = 0

    def _number(self, name, value):
        """Return `value`, or raise QfError if it is not finite."""
        if not math.isfinite(value):
            raise QfError(
                f"{self.label}: the {name} is {value} in epoch {self.state.epoch}. Lower lr (now {self.config.lr:g}), "
                "or look for extreme values with `qf info`."
            )
        return value

    def save(self):
        """Write a checkpoint, if there is a folder for it."""
        if not self.file:
            return
        self.state.total = self._number("loss", float(self.total))
        beside = {f"hook.{i}.{k}": v for i, hook in enumerate(self.hooks) for k, v in hook.state().items()}
        if self.state.at:
            beside |= {f"generator.{k}": v for k, v in generator_states(self.device).items()}
        save_checkpoint(self.file, self.module, self.best, self.optimiser, self.parameters, self.state, self.settings, beside)
        self.saved = time.monotonic()

    def _call(self, *names):
        for name in names:
            for hook in self.hooks:
                getattr(hook, name)(self._now())

    def _now(self):
        return Moment(self.module, self.config, self.state.epoch, self.state.step)


def batches(order: torch.Tensor, config: LoopConfig, trial: torch.Tensor) -> list[torch.Tensor]:
    """Split an epoch's observations into batches of `batch_size` observations, or of all observations of `batch_trials` trials.

    Parameters
    ----------
    order : long tensor, shape (n,)
        Positions of observations in random order.
    config : LoopConfig
    trial : integer tensor, shape (number of observations,)
        The trial of every observation of the bank.

    Returns
    -------
    list of long tensors
        Positions of observations, one tensor per batch.
    """
    if not config.batch_trials:
        return list(order.split(config.batch_size))
    found, which = trial[order].unique(return_inverse=True)
    group = torch.randperm(len(found), device=order.device)[which] // config.batch_trials
    return list(order[group.argsort(stable=True)].split(group.bincount().tolist()))


def _copy(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
