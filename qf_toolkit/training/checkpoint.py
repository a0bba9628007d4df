"""Checkpoints: all that a training needs to go on as if it had never stopped, in one file, and the one before it beside it."""

import hashlib
import json
import math
import warnings
from dataclasses import asdict, is_dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .._files import atomic_path
from ..errors import DamagedFileError, QfError
from ..models.options import defaults

CHECKPOINT = "checkpoint.safetensors"
STATE = {"epoch": int, "best": float, "best_epoch": int, "history": list}


def plain(settings):
    """Settings as JSON holds them."""
    return json.loads(json.dumps(settings, default=asdict))


def save_checkpoint(file, module, best, optimiser, parameters, state, settings):
    """Write a checkpoint to `file`; the one that was there becomes the previous one."""
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()} | {f"best.{k}": v for k, v in best.items()}
    for i, p in enumerate(parameters):
        tensors |= {f"optimiser.{i}.{k}": v for k, v in optimiser.state[p].items()}
    # safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    note = {"state": state, "settings": plain(settings), "tensors": digest(tensors), "torch": torch.__version__}
    with atomic_path(file) as tmp:
        tmp.write_bytes(save(tensors, metadata={"qf": json.dumps(note)}))
        if file.exists():
            file.replace(_previous(file))


def load_checkpoint(file, module, optimiser, parameters, settings):
    """Put the newest checkpoint that can be read into `module` and `optimiser`.

    Parameters
    ----------
    file : Path
    module : nn.Module
    optimiser : torch.optim.Adam
    parameters : list of nn.Parameter
        Those that it trains.
    settings : dict
        What decides the result; a value may be a dataclass, whose fields count as at their defaults in a checkpoint that lacks them.

    Returns
    -------
    (best, state), or None where there is no checkpoint
        The weights of the best epoch, and epoch, best, best_epoch and history.

    Raises
    ------
    DamagedFileError
        If no checkpoint there is whole.
    QfError
        If it belongs to other settings.
    """
    for path in (file, _previous(file)):
        if not path.is_file():
            continue
        try:
            note, tensors = _read(path)
            _check_settings(path, note["settings"], settings)
            best = {k[5:]: v.to(parameters[0].device) for k, v in tensors.items() if k.startswith("best.")}
            _check_tensors(tensors, module, parameters)
        except _Damaged as e:
            message = f"{path}: {e}. The checkpoint is cut short or altered."
            if path == file and _previous(file).exists():
                warnings.warn(f"{message} Going on from the previous one, {_previous(file).name}.", stacklevel=3)
                continue
            raise DamagedFileError(f"{message} Delete it to train from the start (or pass resume=False, --fresh).") from e
        if note.get("torch", torch.__version__) != torch.__version__:
            warnings.warn(f"{path}: was written with torch {note['torch']}, found {torch.__version__}; the last digits may differ.", stacklevel=3)
        module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        _restore(optimiser, parameters, tensors)
        return best, note["state"]
    return None


class _Damaged(Exception):
    """What is wrong with a checkpoint, in words."""


def _read(path):
    """(note, tensors) of a checkpoint."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise QfError(f"{path}: can't be read ({e.strerror or e}). Give yourself permission, or choose another folder.") from e
    try:
        tensors = load(data)
        note = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["qf"])
        state, settings = note["state"], note["settings"]
        whole = all(type(state[name]) is kind for name, kind in STATE.items()) and isinstance(settings, dict)
        whole = whole and math.isfinite(state["best"]) and 0 <= state["best_epoch"] < state["epoch"] == len(state["history"])
        finite = all(torch.isfinite(v).all() for k, v in tensors.items() if not k.endswith(".start"))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise _Damaged(f"can't be read ({' '.join(str(e).split())[:80]})") from e
    if not whole or not finite or note.get("tensors", digest(tensors)) != digest(tensors):
        raise _Damaged("holds what no training wrote")
    return note, tensors


def _check_settings(path, theirs, settings):
    for name, value in settings.items():  # an option that came later counts as at its default, with which it changes nothing
        if is_dataclass(value) and isinstance(theirs.get(name), dict):
            theirs[name] = {**defaults(type(value)), **theirs[name]}
    ours = plain(settings)
    if theirs != ours:
        changed = sorted(k for k in ours if theirs.get(k) != ours[k])
        raise QfError(
            f"{path}: belongs to a run of other settings (differing: {', '.join(changed)}). Pass resume=False (--fresh) to start anew, or the same settings."
        )


def _check_tensors(tensors, module, parameters):
    """Raise _Damaged where the tensors are not those of a checkpoint of `module`."""
    wanted = {f"{part}.{k}": v.shape for part in ("model", "best") for k, v in module.state_dict().items()}
    for i, p in enumerate(parameters):
        if f"optimiser.{i}.step" in tensors:
            wanted |= {f"optimiser.{i}.step": torch.Size(), f"optimiser.{i}.exp_avg": p.shape, f"optimiser.{i}.exp_avg_sq": p.shape}
    if {k: v.shape for k, v in tensors.items()} != wanted:
        raise _Damaged("holds other weights than this version of qf_toolkit trains")


def _restore(optimiser, parameters, tensors):
    for i, p in enumerate(parameters):
        if f"optimiser.{i}.step" not in tensors:
            continue  # a weight that no step has used yet, [MASK] in a classifier say
        for k in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"optimiser.{i}.{k}"]
            optimiser.state[p][k] = value.to("cpu" if k == "step" else p.device, copy=True)


def _previous(file):
    return file.with_name(file.stem + ".previous.safetensors")


def digest(tensors, note=None):
    """A hash of named tensors, and of a note that JSON can hold."""
    found = hashlib.blake2b(b"" if note is None else json.dumps(note, sort_keys=True).encode(), digest_size=12)
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
