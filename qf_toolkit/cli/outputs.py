"""What a command may write to. It is told before any work, so that nothing of the user's is destroyed and no work is lost."""

import hashlib
import json
import os
from itertools import islice
from pathlib import Path

from .._files import sweep, what_is
from ..benchmark.results import MARK
from ..errors import QfError
from ..estimators.registry import KINDS
from ..study.page_file import is_page

FILES = ("file", "page")  # kinds of what is written as one file


def claim_output(path, kind="file", *, option="--out", overwrite=False, store=None, sources=()):
    """Check that `path` may be written, and remove what killed processes left half-written there.

    Parameters
    ----------
    path : str or Path
        What is to be written. A symbolic link stands for what it leads to.
    kind : str
        "file"; "page", an HTML file that names its maker; "folder", for files that are claimed one by one; "store"; "benchmark", for a folder that
        holds `MARK`; or the kind of a saved model, as its config.json names it: one of
        `estimators.registry.KINDS`.
    option : str
        How the user names `path`, for the messages.
    overwrite : bool
        Replace what is there and was not written by the toolkit. Files of a store, models that are read and devices are refused all the same.
    store : str or Path, optional
        The store that is read: nothing is written into its folder.
    sources : sequence of str or Path
        Folders of the models that are read.

    Returns
    -------
    Path
        Where to write.

    Raises
    ------
    QfError
        If there is a device, a pipe, a store or a model that must stay; something that the toolkit did not write (unless `overwrite`); or if nothing
        can be written there.
    """
    path = Path(path)
    try:
        path = path.resolve() if path.is_symlink() else path
        _check_place(path, kind, option)
        _check_kept(path, kind, option, store, sources)
        if not overwrite:
            _check_ours(path, kind, option)
    except OSError as e:  # a name that is too long, a folder that can't be read
        raise QfError(f"{option}: expected what can be written, found {path} ({e.strerror}). Choose another.") from e
    for folder in [path.parent] if kind in FILES else [path, *(p for p in path.glob("*") if p.is_dir())]:
        sweep(folder)
    return path


def _check_place(path, kind, option):
    """A file takes the place of a file, a folder that of a folder, below folders that can be written."""
    wanted = "a file" if kind in FILES else "a folder"
    if path.exists() and not (path.is_file() if kind in FILES else path.is_dir()):
        raise QfError(f"{option}: expected {wanted} to write, found {what_is(path)}, {path}. Give another.")
    there = path if path.is_dir() else next(p for p in path.absolute().parents if p.exists())
    if not there.is_dir():
        raise QfError(f"{option}: expected {wanted} below a folder, found {path} below {what_is(there)}. Give another.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise QfError(f"{option}: expected a place that you can write to, found that {there} is read-only for you. Choose another.")


def _check_kept(path, kind, option, store, sources):
    """Recordings and the models that are read stay as they are."""
    real = path.resolve()
    folder = real.parent if kind in FILES else real
    if kind != "store":
        if _is_store(folder) or (store is not None and Path(store).is_dir() and Path(store).resolve() in (folder, *folder.parents)):
            raise QfError(f"{option}: expected a place outside the store, found {path}, in the folder of its recordings. Choose another.")
    elif _saved(path) is not None:
        raise QfError(f"{option}: expected a store or a new folder, found the saved model in {path}. Choose another.")
    if kind == "folder" and _saved(path) is not None:
        raise QfError(f"{option}: expected a folder of its own, found the saved model in {path}. Choose another.")
    for source in sources:
        if kind in KINDS and real == Path(source).resolve():
            raise QfError(f"{option}: expected another folder than that of the model it starts from, found {path} for both. Choose another.")


def _check_ours(path, kind, option):
    """Only what the toolkit wrote is replaced unasked."""
    if kind in KINDS:
        saved = _saved(path)
        if saved is None and not any(path.glob("checkpoint/checkpoint*.safetensors")) and (foreign := _foreign(path)):
            raise QfError(
                f"{option}: expected a new folder or that of a saved model, found {foreign} in {path}. "
                "Choose another folder, or pass --overwrite to write there all the same."
            )
        if saved is not None and saved != kind:
            raise QfError(
                f"{option}: expected a new folder or that of {_named(kind)}, found {_named(saved)} in {path}. Choose another, or pass --overwrite."
            )
    elif kind == "benchmark":
        if not _is_ours(path / MARK) and (foreign := _foreign(path)):
            raise QfError(f"{option}: expected a new folder or that of a benchmark, found {foreign} in {path}. Choose another, or pass --overwrite.")
    elif kind == "page":
        if path.exists() and not is_page(path):
            raise QfError(
                f"{option}: expected a new file or a page of qf_toolkit's, found {path}, which is none. Choose another name, or pass --overwrite to "
                "replace it."
            )
    elif kind == "file":
        for file in (path, path.with_suffix(".json")) if path.suffix != ".nc" else (path,):
            if file.exists() and not _is_ours(file):
                raise QfError(
                    f"{option}: expected a new file or one of qf_toolkit's, found {file}, of which that can't be told. "
                    "Choose another name, or pass --overwrite to replace it."
                )


def _named(kind):
    words = "auto-encoder" if kind == "autoencoder" else kind.replace("_", " ")
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _foreign(folder):
    """The first thing in a folder that no training leaves there before its first checkpoint, or None."""
    for path in sorted(folder.glob("*")):
        inside = path.is_dir() and path.name == "checkpoint"
        name = _foreign(path) if inside else path.name
        if name is not None and name != ".DS_Store" and not name.endswith(".part"):
            return f"{path.name}/{name}" if inside else name
    return None


def _saved(folder):
    """The kind of the model that is saved in a folder, None where there is none."""
    kind = _json(Path(folder) / "config.json").get("kind")
    return kind if isinstance(kind, str) and kind in KINDS else None


def _is_store(folder):
    """Whether a folder holds recordings, by the first of its netCDF files."""
    files = (p for p in folder.glob("*.nc") if p.is_file())
    return any({"schema_version", "fingerprint"} <= _attrs(p).keys() for p in islice(files, 3))


def _is_ours(file):
    """Forecasts say so in their attributes; tables and figures in the JSON beside them. A table that was edited since is the user's."""
    if file.suffix == ".nc":
        return {"data", "simulated"} <= _attrs(file).keys()
    note = _json(file.with_suffix(".json"))
    if "blake2b" in note and file.suffix != ".json":
        return hashlib.blake2b(file.read_bytes(), digest_size=12).hexdigest() in (note["blake2b"], note.get("replaces"))
    return "qf_toolkit" in note or "qf_toolkit" in (note.get("versions") or {})


def _attrs(file):
    import h5py

    try:
        with h5py.File(file, "r") as f:
            return dict(f.attrs)
    except (OSError, RuntimeError, KeyError):
        return {}


def _json(file):
    try:
        note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}
