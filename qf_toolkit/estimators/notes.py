"""Reads and checks config.json of a saved model. Does not import torch, so that the command line quickly knows what a folder holds."""

import json
import os
from pathlib import Path

from ..errors import DamagedFileError, QfError
from . import schema

FORMAT = 1
AGAIN = "Save or train the model again."


def check_folder(folder):
    """`folder` as a Path.

    Raises
    ------
    QfError
        If it is neither a str nor a path.
    """
    if not isinstance(folder, str | os.PathLike) or "\0" in os.fspath(folder):
        raise QfError(f"folder: expected the path of a saved model's folder, found {schema.shown(folder)}.")
    return Path(folder)


def read_note(folder):
    """The content of config.json of a saved model.

    Raises
    ------
    QfError
        If the folder holds no saved model, or config.json can't be read.
    DamagedFileError
        If config.json is no JSON, or one of its values is not allowed.
    """
    file = check_folder(folder) / "config.json"
    data = read_bytes(file)
    try:
        note = parse_json(data.decode("utf-8"))
        if not isinstance(note, dict):
            raise ValueError(f"expected a mapping, found {schema.shown(note)}")
        for key, check in schema.ABOUT.items():
            if key not in note:
                raise schema.Unfit(key, "a value", "none")
            check(note[key], key)
    except (ValueError, RecursionError, schema.Unfit) as e:
        raise DamagedFileError(f"{file}: can't be read ({' '.join(str(e).split())[:200]}). {AGAIN}") from e
    if note["format"] > FORMAT:
        raise QfError(f"{file}: expected format at most {FORMAT}, found {note['format']}. Update the toolkit.")
    return note


def run_settings(folder):
    """The options with which the command line chose, cut and split the trials of a saved model, {option: value}; None if it was trained from Python."""
    run = _run(folder)
    return None if run is None else run["settings"]


def run_options(folder):
    """All options with which the command line trained a saved model, {option: value}; None if it was trained from Python.

    A model whose config.json lacks the options of the training returns only those of `run_settings`.
    """
    run = _run(folder)
    return None if run is None else {**run["settings"], **run.get("options", {})}


def _run(folder):
    """`run` of config.json. Older saved models have a run.json beside it instead."""
    folder, note = check_folder(folder), read_note(folder)
    file, run = (folder / "config.json", note.get("run")) if "run" in note else (folder / "run.json", None)
    try:
        if "run" not in note and (data := bytes_if_there(file)) is not None:
            run = parse_json(data.decode("utf-8"))
        if run is not None:
            schema.RUN(run, "run")
    except schema.Unfit as e:
        raise refusal(file, e) from e
    except (ValueError, RecursionError) as e:
        if isinstance(e, QfError):
            raise
        raise DamagedFileError(f"{file}: can't be read ({' '.join(str(e).split())[:80]}). Train the model again into that folder.") from e
    return run


def refuse(folder, where, expected, found):
    """Raise DamagedFileError about a value in config.json."""
    raise refusal(Path(folder) / "config.json", schema.Unfit(where, expected, schema.shown(found)))


def refusal(file, unfit):
    """The error to raise for an `Unfit` in config.json: QfError if another version may have written the value, else DamagedFileError."""
    if unfit.version:
        return QfError(f"{file}: holds settings of another version of qf_toolkit ({unfit}). Train the model again, or use the version that saved it.")
    return DamagedFileError(f"{file}: {unfit}. {AGAIN}")


def bytes_if_there(path):
    """The bytes of a file; None if there is no file."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError as e:
        raise QfError(f"{path}: can't be read ({e.strerror or e}). Give yourself permission to read it.") from e


def read_bytes(path):
    """The bytes of a file; raises QfError if there is no file."""
    data = bytes_if_there(path)
    if data is None:
        raise QfError(f"{path.parent}: expected a saved model, found no {path.name}. Give the folder that `save` or `qf pretrain --out` wrote.")
    return data


def parse_json(text):
    """The value of a JSON text; raises ValueError if it holds NaN or infinity, a key twice, or half a character."""
    note = json.loads(text, parse_constant=_no_number, object_pairs_hook=each_once)
    json.dumps(note, ensure_ascii=False).encode()  # half a surrogate is no text
    return note


def _no_number(text):
    raise ValueError(f"{text} is no finite number")


def each_once(pairs):
    """A dict of (key, value) pairs; raises ValueError if a key comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError(f"key {next(schema.shown(k) for i, k in enumerate(names) if k in names[:i])} stands there twice")
    return found
