"""Checkpoints. One file holds all that a training needs to go on as if it had never stopped; the previous checkpoint lies beside it."""

import hashlib
import json
import math
import warnings
from dataclasses import asdict, dataclass, field, fields, is_dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .._files import atomic_path
from ..errors import DamagedFileError, QfError
from ..models.options import defaults

CHECKPOINT = "checkpoint.safetensors"
BESIDE = ("hook.", "generator.")


@dataclass
class State:
    """The state of a training.

    Attributes
    ----------
    epoch : int
        The epoch that runs, from 0; at the end of an epoch the next one.
    at : int
        Steps taken in this epoch.
    step : int
        Steps taken since the training began.
    total : float
        Sum of the loss over the observations since the last validation.
    seen : int
        Number of observations since the last validation.
    history : list of dict
        One entry per validation; see `loop.run`.
    """

    epoch: int = 0
    at: int = 0
    step: int = 0
    total: float = 0.0
    seen: int = 0
    history: list = field(default_factory=list)

    @property
    def best(self) -> int:
        """Position of the best validation in the history, the first one if several are equal; -1 if there is none yet."""
        return min(range(len(self.history)), key=lambda i: self.history[i]["score"], default=-1)


def plain(settings):
    """Settings in the form in which JSON returns them: dataclasses as dicts, tuples as lists."""
    return json.loads(json.dumps(settings, default=asdict))


def save_checkpoint(file, module, best, optimiser, parameters, state, settings, beside):
    """Write a checkpoint to `file`; the one that was there becomes the previous one.

    Parameters
    ----------
    file : Path
    module : nn.Module
    best : dict
        The weights of the best validation.
    optimiser : torch.optim.Adam or torch.optim.AdamW
    parameters : list of nn.Parameter
        The parameters that the optimiser trains.
    state : State
    settings : dict
        See `load_checkpoint`.
    beside : dict
        {name: tensor}, further tensors whose names begin with one of `BESIDE`.
    """
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()} | {f"best.{k}": v for k, v in best.items()}
    for i, p in enumerate(parameters):
        tensors |= {f"optimiser.{i}.{k}": v for k, v in optimiser.state[p].items()}
    # safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in (tensors | beside).items()}
    state = asdict(state)
    note = {"state": state, "settings": plain(settings), "tensors": digest(tensors), "place": digest({}, state), "torch": torch.__version__}
    with atomic_path(file) as tmp:
        tmp.write_bytes(save(tensors, metadata={"qf": json.dumps(note)}))
        if file.exists():
            file.replace(_previous(file))


def load_checkpoint(file, module, optimiser, parameters, settings):
    """Load the newest whole checkpoint into `module` and `optimiser`.

    Parameters
    ----------
    file : Path
    module : nn.Module
    optimiser : torch.optim.Adam or torch.optim.AdamW
    parameters : list of nn.Parameter
        The parameters that the optimiser trains.
    settings : dict
        All settings that decide the result. A value may be a dataclass; a field that the checkpoint lacks counts as if it had its default there.

    Returns
    -------
    (best, state, beside), or None if there is no checkpoint
        The weights of the best validation, the State of the training, and the further tensors of `save_checkpoint`.

    Raises
    ------
    DamagedFileError
        If no checkpoint there is whole.
    QfError
        If the checkpoint belongs to other settings, or can't be read.
    """
    for path in (file, _previous(file)):
        if not path.is_file():
            continue
        try:
            note, tensors = _read(path)
            _check_settings(path, note["settings"], settings)
            best = {k[5:]: v.to(parameters[0].device) for k, v in tensors.items() if k.startswith("best.")}
            beside = {k: tensors.pop(k) for k in list(tensors) if k.startswith(BESIDE)}
            _check_tensors(tensors, module, parameters)
            state = _state(note["state"])
            if state.at and "generator.cpu" not in beside:
                raise _Damaged("lacks the state of the random generator")
        except _Damaged as e:
            message = f"{path}: {e}. The checkpoint is cut short or altered."
            if path == file and _previous(file).exists():
                warnings.warn(f"{message} Going on from the previous one, {_previous(file).name}.", stacklevel=5)
                continue
            raise DamagedFileError(f"{message} Delete it to train from the start (or pass resume=False, --fresh).") from e
        if note.get("torch", torch.__version__) != torch.__version__:
            warnings.warn(f"{path}: was written with torch {note['torch']}, found {torch.__version__}; the last digits may differ.", stacklevel=5)
        module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        _restore(optimiser, parameters, tensors)
        return best, state, beside
    return None


class _Damaged(Exception):
    """Raised if a checkpoint is damaged; its text describes the damage."""


def _read(path):
    """Read the note and the tensors of a checkpoint; raises _Damaged if the file is not as `save_checkpoint` wrote it."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise QfError(f"{path}: can't be read ({e.strerror or e}). Give yourself permission, or choose another folder.") from e
    try:
        tensors = load(data)
        note = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["qf"])
        whole = isinstance(note["state"], dict) and isinstance(note["settings"], dict)
        finite = all(torch.isfinite(v).all() for k, v in tensors.items() if not k.endswith(".start"))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise _Damaged(f"can't be read ({' '.join(str(e).split())[:80]})") from e
    marks = {"tensors": digest(tensors), "place": digest({}, note["state"])}
    if not whole or not finite or any(note.get(name, mark) != mark for name, mark in marks.items()):
        raise _Damaged("holds what no training wrote")
    return note, tensors


def _state(found):
    """The State of a checkpoint. Older versions wrote checkpoints only at the end of an epoch, and left out the counts that are 0 there."""
    try:
        state = State(**{f.name: found[f.name] for f in fields(State) if f.name in found or f.name in ("epoch", "history")})
        counts = (state.epoch, state.at, state.step, state.seen)
        whole = all(type(n) is int and n >= 0 for n in counts) and all(map(math.isfinite, (state.total, *(e["score"] for e in state.history))))
    except (KeyError, TypeError) as e:
        raise _Damaged(f"can't be read ({e})") from e
    if not whole:
        raise _Damaged("holds what no training wrote")
    return state


def _check_settings(path, theirs, settings):
    for name, value in settings.items():  # an option that the checkpoint lacks counts as its default, with which it changes nothing
        if is_dataclass(value) and isinstance(theirs.get(name), dict):
            theirs[name] = {**defaults(type(value)), **theirs[name]}
    ours = plain(settings)
    if theirs != ours:
        changed = sorted(k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k))
        raise QfError(
            f"{path}: belongs to a run of other settings (differing: {', '.join(changed)}). Pass resume=False (--fresh) to start anew, or the same settings."
        )


def _check_tensors(tensors, module, parameters):
    """Raise _Damaged if names or shapes of the tensors are not those of a checkpoint of `module`."""
    wanted = {f"{part}.{k}": v.shape for part in ("model", "best") for k, v in module.state_dict().items()}
    for i, p in enumerate(parameters):
        if f"optimiser.{i}.step" in tensors:
            wanted |= {f"optimiser.{i}.step": torch.Size(), f"optimiser.{i}.exp_avg": p.shape, f"optimiser.{i}.exp_avg_sq": p.shape}
    if {k: v.shape for k, v in tensors.items()} != wanted:
        raise _Damaged("holds other weights than this version of qf_toolkit trains")


def _restore(optimiser, parameters, tensors):
    on_device = {id(p) for group in optimiser.param_groups if group["fused"] for p in group["params"]}  # the device also counts their steps
    for i, p in enumerate(parameters):
        if f"optimiser.{i}.step" not in tensors:
            continue  # no step has used this weight yet, for example [MASK] in a classifier
        for k in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"optimiser.{i}.{k}"]
            optimiser.state[p][k] = value.to("cpu" if k == "step" and id(p) not in on_device else p.device, copy=True)


def _previous(file):
    return file.with_name(file.stem + ".previous.safetensors")


def digest(tensors, note=None):
    """A hash of named tensors and of a note that JSON can hold, 24 hexadecimal digits."""
    found = hashlib.blake2b(b"" if note is None else json.dumps(note, sort_keys=True).encode(), digest_size=12)
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
