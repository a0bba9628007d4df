"""`--config FILE`: options of a command as JSON or YAML, or as a saved model holds them."""

import re
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, QfError
from ..models.options import shown

MOST_BYTES = 2**24


def read_config(path):
    """The options that a file holds.

    Parameters
    ----------
    path : str or Path
        A JSON or YAML file with a mapping from the options' names to their values; or a folder that `qf pretrain --out` or `qf fit --out` wrote, or its
        config.json: then the options that the model was trained with.

    Returns
    -------
    dict
        {name: value}, as they stand there.

    Raises
    ------
    QfError
        If there is no such file, or it holds no options.
    DamagedFileError
        If it can't be read.
    """
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    try:
        if file.stat().st_size > MOST_BYTES and file.name != "config.json":
            raise QfError(f"{file}: expected a file of options, found {file.stat().st_size} bytes. Check the path.")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise DamagedFileError(f"{file}: expected JSON or YAML, found no text (UTF-8).") from e
    except (OSError, ValueError) as e:
        raise QfError(f"{path}: expected a file of options, JSON or YAML, found none ({getattr(e, 'strerror', None) or e}). Check the path.") from e
    found = _json(file, text) if file.suffix == ".json" else _yaml(file, text)
    if not isinstance(found, dict):
        raise QfError(f"{file}: expected a mapping from options to values, found {shown(found)}.")
    if {"format", "kind", "weights"} <= found.keys():
        return _trained_with(file)
    return found


def _trained_with(file):
    """What the command line trained a saved model with."""
    from ..estimators.notes import run_options

    if (options := run_options(file.parent)) is None:
        raise QfError(
            f"{file}: expected the options that the model was trained with, found none: it was trained from Python, or by an older version."
        )
    return options


def _json(file, text):
    from ..estimators.notes import parse_json

    try:
        return parse_json(text)
    except (ValueError, RecursionError) as e:
        raise DamagedFileError(f"{file}: expected JSON, found what is none ({' '.join(str(e).split())[:120]}).") from e


def _yaml(file, text):
    import yaml

    from ..estimators.notes import each_once

    class Loader(yaml.SafeLoader):
        """YAML 1.1, but that 1e-3 is a number, and that a key stands there once."""

        def construct_mapping(self, node, deep=False):
            found = super().construct_mapping(node, deep)
            each_once([(self.construct_object(key, deep=True), None) for key, _ in node.value])
            return found

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
    try:
        found: Any = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as e:
        raise DamagedFileError(f"{file}: expected YAML, found what is none ({' '.join(str(e).split())[:120]}).") from e
    return {} if found is None else found
