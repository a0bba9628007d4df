"""The training loop, on one screen: seeds, progress, best by validation, early stopping, checkpoints to resume from.

Each epoch seeds the generators anew from (seed, epoch), so a run resumed from the checkpoint of an epoch draws the same batches and
masks as one that was never interrupted, and ends at the same weights.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .._files import sweep
from ..errors import QfError
from .checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint


def run(module, draw, step, validate, config, *, settings, quick=(), checkpoint=None, resume=True, progress=True, label="training"):
    """Train `module` in place and leave it at its best validation epoch.

    Parameters
    ----------
    module : nn.Module
    draw : callable
        () -> list of long tensors, the batches of an epoch in random order; see `batches`.
    step : callable
        (long tensor) -> loss of those observations.
    validate : callable
        () -> dict of floats; "score" is what is minimised.
    config : LoopConfig
    settings : dict
        What else decides the result, dataclasses or what JSON holds; a checkpoint of other settings is refused.
    quick : sequence of nn.Parameter
        Those that learn at `config.token_speed` times lr.
    checkpoint : str or Path, optional
        Folder of the checkpoints; None keeps none.
    resume : bool
        Go on from the checkpoint there, if any.
    progress : bool

    Returns
    -------
    list of dict
        An entry an epoch: epoch, loss and the validation's figures.

    Raises
    ------
    QfError
        If the checkpoint belongs to other settings, or the loss or the validation score is no number any more.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    chosen = {id(p) for p in quick} if config.token_speed != 1 else set()
    groups = [{"params": [p for p in parameters if (id(p) in chosen) == at], "speed": config.token_speed if at else 1.0} for at in (False, True)]
    optimiser = torch.optim.Adam([g for g in groups if g["params"]], lr=config.lr, weight_decay=config.weight_decay)
    settings = {**settings, "loop": config}
    state = {"epoch": 0, "best": math.inf, "best_epoch": -1, "history": []}
    best = _copy(module)
    file = Path(checkpoint) / CHECKPOINT if checkpoint else None
    if file:
        sweep(file.parent)
    if file and resume and (found := load_checkpoint(file, module, optimiser, parameters, settings)):
        best, state = found
    config = _long_enough(config, draw, device)
    with tqdm(total=config.epochs, initial=state["epoch"], desc=label, disable=not progress, unit="epoch") as bar:
        while state["epoch"] < config.epochs and not _finished(state, config):
            epoch = state["epoch"]
            for group in optimiser.param_groups:
                group["lr"] = config.lr * group["speed"] * _factor(epoch, config)
            with forked(device):
                torch.manual_seed(config.seed * 1_000_003 + epoch)
                loss = _epoch(module, draw(), step, optimiser, parameters, config)
                module.eval()
                with torch.no_grad():
                    figures = validate()
            for name, value in {"loss": loss, "validation score": figures["score"]}.items():
                if not math.isfinite(value):
                    raise QfError(
                        f"{label}: the {name} is {value} in epoch {epoch}. Lower lr (now {config.lr:g}), or look for extreme values with `qf info`."
                    )
            state["history"].append({"epoch": epoch, "loss": loss, **figures})
            if figures["score"] < state["best"]:
                state["best"], state["best_epoch"], best = figures["score"], epoch, _copy(module)
            state["epoch"] += 1
            if file:
                save_checkpoint(file, module, best, optimiser, parameters, state, settings)
            bar.set_postfix(loss=f"{loss:.4g}", **{k: f"{v:.4g}" for k, v in figures.items()})
            bar.update()
    module.load_state_dict(best)
    module.eval()
    return state["history"]


def batches(order, config, trial):
    """An epoch's observations as batches: of `batch_size` observations, or of all those of `batch_trials` trials.

    Parameters
    ----------
    order : long tensor, shape (n,)
        Observations in random order.
    config : LoopConfig
    trial : long tensor
        The trial of every observation of the bank.

    Returns
    -------
    list of long tensors
    """
    if not config.batch_trials:
        return list(order.split(config.batch_size))
    found, which = trial[order].unique(return_inverse=True)
    group = torch.randperm(len(found), device=order.device)[which] // config.batch_trials
    return list(order[group.argsort(stable=True)].split(group.bincount().tolist()))


def forked(device):
    """A context in which what is drawn at random on the CPU and on `device` leaves the caller's generators as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _long_enough(config, draw, device):
    """The config with as many epochs as its steps ask for."""
    if not config.steps:
        return config
    with forked(device):
        a_epoch = len(draw())
    return replace(config, epochs=max(config.epochs, -(-config.steps // a_epoch)))


def _epoch(module, drawn, step, optimiser, parameters, config):
    module.train()
    device, n = drawn[0].device, sum(map(len, drawn))
    total = torch.zeros((), device=device)
    for at in drawn:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16 and device.type == "cuda"):
            loss = step(at)
        loss.backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        total += loss.detach() * len(at)
    return float(total) / n


def _factor(epoch, config):
    if config.schedule == "constant":
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))


def _finished(state, config):
    return bool(config.patience) and state["epoch"] - 1 - state["best_epoch"] >= config.patience


def _copy(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
