"""Saved models: a folder of config.json and model.safetensors, never pickle.

If a save is killed at any moment, the folder holds either the previous model or the new one. `write_model` first writes the new weights beside the old
ones as `model-HASH.safetensors`. It then replaces config.json, which names the hash of its weights, in one step: from then on the folder holds the new
model. Last, it gives the weights their usual name. `read_model` reads the file whose hash config.json names.
"""

import hashlib
import json
import os

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from .._files import atomic_path, sweep, write_text
from ..errors import DamagedFileError, QfError
from . import schema
from .notes import AGAIN, FORMAT, bytes_if_there, check_folder, read_bytes, read_note, refusal, refuse

WEIGHTS = "model.safetensors"


def write_model(folder, kind, config, tensors):
    """Write a model into `folder`, over the model that is there.

    Parameters
    ----------
    folder : str or Path
    kind : str
        A key of `registry.KINDS`.
    config : dict
        Values that JSON can hold.
    tensors : dict
        {name: tensor}.

    Raises
    ------
    QfError
        If the folder can't be written. The previous model stays.
    """
    folder = check_folder(folder)
    # safetensors refuses tensors that share memory
    data = save_tensors({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    note = {"format": FORMAT, "kind": kind, "weights": _hash(data), "torch": torch.__version__, **config}
    waiting, file = folder / f"model-{note['weights']}.safetensors", folder / "config.json"
    if folder.is_dir():
        sweep(folder)
    with atomic_path(waiting) as tmp:
        tmp.write_bytes(data)
    write_text(file, json.dumps(note, indent=1))
    try:
        os.replace(waiting, folder / WEIGHTS)
        for other in folder.glob("model-*.safetensors"):  # left by a save that was killed
            other.unlink()
    except OSError as e:
        raise QfError(f"could not write {folder / WEIGHTS}: {e.strerror or e}. The model is whole all the same; save it again.") from e


def read_model(folder, kind, check, gaps=()):
    """Read a saved model.

    Parameters
    ----------
    folder : str or Path
    kind : str
        The kind that the caller expects, a key of `registry.KINDS`.
    check : callable
        A check of `schema`, for all keys of config.json except those of `schema.ABOUT`.
    gaps : sequence of str
        Names, or ends of names, of tensors that may hold NaN.

    Returns
    -------
    config : dict
        The content of config.json.
    tensors : dict
        {name: tensor}, on the CPU.

    Raises
    ------
    QfError
        If the folder holds no saved model, a model of another kind, or one of another version of the toolkit.
    DamagedFileError
        If a file is cut short or altered, or config.json and the weights don't belong together.
    """
    folder, note = check_folder(folder), read_note(folder)
    if note["kind"] != kind:
        raise QfError(f"{folder}: expected a saved {kind}, found a {note['kind'][:40]}. Give the folder of a {kind}.")
    try:
        check({k: v for k, v in note.items() if k not in schema.ABOUT}, "")
    except schema.Unfit as e:
        raise refusal(folder / "config.json", e) from e
    waiting = folder / f"model-{note['weights']}.safetensors"
    for path, read in ((waiting, bytes_if_there), (folder / WEIGHTS, read_bytes)):
        data = read(path)
        if data is not None and _hash(data) == note["weights"]:
            return note, _tensors(path, data, gaps)
    raise DamagedFileError(f"{folder / WEIGHTS}: is cut short or altered, or belongs to another config.json. {AGAIN}")


def _tensors(path, data, gaps):
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise DamagedFileError(f"{path}: is no whole safetensors file ({' '.join(str(e).split())[:80]}). {AGAIN}") from e
    for name, value in tensors.items():
        odd = torch.isinf(value) if name.endswith(tuple(gaps)) else ~torch.isfinite(value)
        if odd.any():
            raise DamagedFileError(f"{path}: {name[:80]} holds numbers that no weights can have (NaN or infinite). {AGAIN}")
    return tensors


def check_sizes(folder, tensors, where, config):
    """Refuse an auto-encoder's config whose sizes are not those of its weights, before memory is taken for these sizes.

    Parameters
    ----------
    folder : str or Path
    tensors : dict
        {name: tensor}, the weights of a QuantFormer.
    where : str
        Key of the config in config.json.
    config : QuantFormerConfig

    Raises
    ------
    DamagedFileError
        Names the first size that differs.
    """
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    book, patch, place = (shapes.get(n, ()) for n in ("quantizer.codebook", "to_patch.weight", "decoder_position"))
    if not config.quantise and not book:
        book = (config.codes, *place[1:])  # without a codebook
    layers = sum(k.startswith("decoder.blocks.") and k.endswith(".norm1.weight") for k in shapes)
    if not len(book) == len(patch) == len(place) == 2:
        refuse(folder, where, "the settings of an auto-encoder beside its weights", "other weights")
    sizes = {"codes": book[0], "width": book[1], "patch_frames": patch[0], "layers": layers, "patches": place[0]}
    for name, size in sizes.items():
        if getattr(config, name) != size:
            name, at = ("n_baseline", config.n_baseline) if name == "patches" else (name, getattr(config, name))
            refuse(folder, f"{where}.{name}", f"what fits the weights ({size})", at)


def check_shapes(folder, module, tensors):
    """Raise QfError if tensors differ from those of a module in name, shape or dtype."""
    wanted, found = ({k: (tuple(v.shape), v.dtype) for k, v in d.items()} for d in (module.state_dict(), tensors))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            ours, theirs = ("{1} of shape {0}".format(*d[name]) if name in d else "none" for d in (wanted, found))
            raise QfError(
                f"{folder}: holds weights of another version of qf_toolkit, or not those of its config.json ({name[:80]}: expected {ours}, "
                f"found {theirs}). Train the model again, or use the version that saved it."
            )


def fill(folder, module, tensors):
    """Load weights into a module.

    Raises
    ------
    QfError
        If the tensors differ from the module's in name, shape or dtype.
    """
    check_shapes(folder, module, tensors)
    module.load_state_dict(tensors)


def _hash(data):
    return hashlib.blake2b(data, digest_size=12).hexdigest()
