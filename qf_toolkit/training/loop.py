"""The training loop, on one screen: seeds, progress, best by validation, early stopping, checkpoints to resume from.

Each epoch seeds the generators anew from (seed, epoch), so a run resumed from the checkpoint of an epoch draws the same batches and
masks as one that was never interrupted, and ends at the same weights.
"""

import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from .._files import atomic_path
from ..errors import DamagedFileError, QfError

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn."""

    epochs: int = 50
    batch_size: int = 512  # observations
    lr: float = 1e-4
    token_speed: float = 1.0  # times lr, at which `quick` parameters learn
    schedule: str = "constant"  # the paper's; or "cosine", down to 1 % of lr
    weight_decay: float = 0.0
    clip: float = 1.0  # norm of the gradient
    patience: int = 0  # epochs without a better validation score before stopping; 0 never stops early
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "lr", "token_speed"):
            if not getattr(self, name) > 0:
                raise QfError(f"{name}: expected above 0, found {getattr(self, name)}.")
        for name in ("patience", "seed"):
            if not 0 <= getattr(self, name) < 2**32:
                raise QfError(f"{name}: expected from 0 to {2**32 - 1}, found {getattr(self, name)}.")
        if self.schedule not in ("constant", "cosine"):
            raise QfError(f"schedule: expected 'constant' or 'cosine', found {self.schedule!r}.")


def run(module, draw, step, validate, config, *, settings, quick=(), checkpoint=None, resume=True, progress=True, label="training"):
    """Train `module` in place and leave it at its best validation epoch.

    Parameters
    ----------
    module : nn.Module
    draw : callable
        () -> long tensor, the observations of an epoch in random order.
    step : callable
        (long tensor) -> loss of those observations.
    validate : callable
        () -> dict of floats; "score" is what is minimised.
    config : LoopConfig
    settings : dict
        What else decides the result; a checkpoint of other settings is refused.
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
        If the checkpoint belongs to other settings, or the loss is no number any more.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    chosen = {id(p) for p in quick} if config.token_speed != 1 else set()
    groups = [{"params": [p for p in parameters if (id(p) in chosen) == at], "speed": config.token_speed if at else 1.0} for at in (False, True)]
    optimiser = torch.optim.Adam([g for g in groups if g["params"]], lr=config.lr, weight_decay=config.weight_decay)
    settings = json.loads(json.dumps({**settings, "loop": asdict(config)}))
    state = {"epoch": 0, "best": math.inf, "best_epoch": -1, "history": []}
    best = _copy(module)
    file = Path(checkpoint) / CHECKPOINT if checkpoint else None
    if file and resume and (found := _load(file, settings)):
        tensors, state = found
        try:
            module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        except RuntimeError as e:
            raise QfError(f"{file}: belongs to another version of qf_toolkit. Pass resume=False (--fresh) to start anew.") from e
        best = {k[5:]: v.to(device) for k, v in tensors.items() if k.startswith("best.")}
        _restore(optimiser, parameters, tensors)
    with tqdm(total=config.epochs, initial=state["epoch"], desc=label, disable=not progress, unit="epoch") as bar:
        while state["epoch"] < config.epochs and not _finished(state, config):
            epoch = state["epoch"]
            for group in optimiser.param_groups:
                group["lr"] = config.lr * group["speed"] * _factor(epoch, config)
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(config.seed * 1_000_003 + epoch)
                loss = _epoch(module, draw(), step, optimiser, parameters, config)
                module.eval()
                with torch.no_grad():
                    figures = validate()
            if not math.isfinite(loss):
                raise QfError(
                    f"{label}: the loss is {loss} in epoch {epoch}. Lower lr (now {config.lr:g}), or look for extreme values with `qf info`."
                )
            state["history"].append({"epoch": epoch, "loss": loss, **figures})
            if figures["score"] < state["best"]:
                state["best"], state["best_epoch"], best = figures["score"], epoch, _copy(module)
            state["epoch"] += 1
            if file:
                _save(file, module, best, optimiser, parameters, state, settings)
            bar.set_postfix(loss=f"{loss:.4g}", **{k: f"{v:.4g}" for k, v in figures.items()})
            bar.update()
    module.load_state_dict(best)
    module.eval()
    return state["history"]


def _epoch(module, order, step, optimiser, parameters, config):
    module.train()
    total = torch.zeros((), device=order.device)
    for at in order.split(config.batch_size):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(order.device.type, dtype=torch.bfloat16, enabled=order.device.type == "cuda"):
            loss = step(at)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        total += loss.detach() * len(at)
    return float(total) / len(order)


def _factor(epoch, config):
    if config.schedule == "constant":
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))


def _finished(state, config):
    return bool(config.patience) and state["epoch"] - 1 - state["best_epoch"] >= config.patience


def _copy(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _save(file, module, best, optimiser, parameters, state, settings):
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()} | {f"best.{k}": v for k, v in best.items()}
    for i, p in enumerate(parameters):
        tensors |= {f"optimiser.{i}.{k}": v for k, v in optimiser.state[p].items()}
    # safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with atomic_path(file) as tmp:
        try:
            save_file(tensors, tmp, metadata={"qf": json.dumps({"state": state, "settings": settings})})
        except SafetensorError as e:  # it reports a full disk this way
            raise OSError(str(e)) from e
        if file.exists():
            file.replace(_previous(file))


def _load(file, settings):
    """The newest checkpoint that can be read, None where there is none."""
    for path in (file, _previous(file)):
        if not path.exists():
            continue
        try:
            with safe_open(path, "pt") as f:
                note = json.loads(f.metadata()["qf"])
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
            message = f"{path}: can't be read ({str(e)[:80]}). The checkpoint is cut short or altered."
            if path == file and _previous(file).exists():
                warnings.warn(f"{message} Going on from the previous one, {_previous(file).name}.", stacklevel=3)
                continue
            raise DamagedFileError(f"{message} Delete it to train from the start (or pass resume=False, --fresh).") from e
        if note["settings"] != settings:
            changed = sorted(k for k in settings if note["settings"].get(k) != settings[k])
            raise QfError(
                f"{path}: belongs to a run of other settings (differing: {', '.join(changed)}). Pass resume=False (--fresh) to start anew, or the same settings."
            )
        return tensors, note["state"]
    return None


def _restore(optimiser, parameters, tensors):
    for i, p in enumerate(parameters):
        if f"optimiser.{i}.step" not in tensors:
            continue  # a weight that no step has used yet, [MASK] in a classifier say
        for k in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"optimiser.{i}.{k}"]
            optimiser.state[p][k] = value if k == "step" else value.to(p.device)


def _previous(file):
    return file.with_name(file.stem + ".previous.safetensors")
