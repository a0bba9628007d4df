"""Saved models: a folder of config.json and model.safetensors, never pickle."""

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .._files import atomic_path, write_text
from ..errors import DamagedFileError, QfError

FORMAT = 1


def write_model(folder, kind, config, module):
    """Write a model; config.json, written last, holds the hash of the weights it belongs to."""
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    weights = folder / "model.safetensors"
    with atomic_path(weights) as tmp:
        try:
            save_file(tensors, tmp)
        except SafetensorError as e:
            raise OSError(str(e)) from e
    note = {"format": FORMAT, "kind": kind, "weights": _hash(weights), "torch": torch.__version__, **config}
    write_text(folder / "config.json", json.dumps(note, indent=1))


def read_model(folder, kind=None):
    """(config, tensors) of a saved model.

    Raises
    ------
    QfError
        If it is no saved model, or of another kind.
    DamagedFileError
        If a file is cut short or the two don't belong together.
    """
    folder = Path(folder)
    file, weights = folder / "config.json", folder / "model.safetensors"
    for path in (file, weights):
        if not path.is_file():
            raise QfError(f"{folder}: expected a saved model, found no {path.name}. Give the folder that `save` or `qf pretrain --out` wrote.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found_kind, found_hash, found_format = config["kind"], config["weights"], config["format"]
    except (ValueError, KeyError, TypeError) as e:
        raise DamagedFileError(f"{file}: can't be read ({type(e).__name__}). Save or train the model again.") from e
    if found_format > FORMAT:
        raise QfError(f"{file}: expected format at most {FORMAT}, found {found_format}. Update the toolkit.")
    if kind is not None and found_kind != kind:
        raise QfError(f"{folder}: expected a saved {kind}, found a {found_kind}. Give the folder of a {kind}.")
    if _hash(weights) != found_hash:
        raise DamagedFileError(f"{weights}: is cut short or altered, or belongs to another config.json. Save or train the model again.")
    return config, load_file(weights)


@contextmanager
def same_version(folder):
    """Tell of settings or weights that this version of the toolkit doesn't have as what they are."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError) as e:
        raise QfError(
            f"{folder}: holds settings or weights of another version of qf_toolkit ({str(e).strip().splitlines()[0]}) "
            "Train the model again, or use the version that saved it."
        ) from e


def load(folder, device="auto"):
    """Load any saved model: an Autoencoder, a QuantFormerForecaster or a QuantFormerClassifier."""
    from .activation import QuantFormerClassifier
    from .pretrain import Autoencoder
    from .response import QuantFormerForecaster

    config, _ = read_model(folder)
    kinds = {c.kind: c for c in (Autoencoder, QuantFormerForecaster, QuantFormerClassifier)}
    if config["kind"] not in kinds:
        raise QfError(f"{folder}: expected one of {sorted(kinds)}, found {config['kind']!r}. Update the toolkit.")
    return kinds[config["kind"]].load(folder, device=device)


def digest(tensors, note=None):
    """A hash of named tensors, and of a note that JSON can hold."""
    found = hashlib.blake2b(b"" if note is None else json.dumps(note, sort_keys=True).encode(), digest_size=12)
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _hash(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()
