"""Importing plain arrays (.npy, .npz) and trial tables (.csv)."""

import csv
import re
import warnings

import numpy as np
import pandas as pd

from ...errors import DamagedFileError, QfError, SessionError, did_you_mean
from ...models.options import check_options
from ..clock import check_times, frames_at, outside_jumps, rate_of
from ..hdf5 import as_path, readable_file, reason, refused
from ..schema import TRIAL_COORDS
from ..session import check_columns, new_session, numbers_in, seconds_in, whole_in
from .options import ORIENTATIONS, ArraysOptions

_TIMES = ("onset_s", "offset_s", "duration_s")
_COUNTERS = re.compile(r"(?i)^(trial|trial_?(id|index|no|num|number)|id|index|unnamed.*)$")


def from_arrays(traces, *, subject, session, rate_hz=None, frame_time=None, trials=None, condition_columns=None, **options):
    """Build a Session from arrays in memory.

    Parameters
    ----------
    traces : array, shape (neuron, frame)
        Fluorescence (positive arbitrary units) or dF/F (fraction).
    subject, session : str
        Names without a slash.
    rate_hz : float, optional
        Frames a second; taken from `frame_time` where left out.
    frame_time : array, shape (frame,), optional
        Seconds.
    trials : str, Path or pandas.DataFrame, optional
        A trial table, or the CSV file that holds it; see `read_trials_csv` for its columns. None makes a continuous recording.
    condition_columns : list of str, optional
        The columns that are features of the condition; see `read_trials_csv`.
    **options
        signal, cells, matched, neuron_coords, indicator, area, source, provenance: see `new_session`.

    Returns
    -------
    xarray.Dataset
        A Session.

    Raises
    ------
    SessionError
        If the arrays or the table break the schema.
    QfError
        If the CSV file can't be read.
    """
    trials = as_trials(trials, rate_hz, frame_time, condition_columns)
    if trials is not None and trials.attrs["ignored_columns"]:
        options["attrs"] = {"ignored_columns": trials.attrs["ignored_columns"], **(options.get("attrs") or {})}
    return new_session(traces, subject=subject, session=session, rate_hz=rate_hz, frame_time=frame_time, trials=trials, **options)


def read_arrays(path, *, rate_hz, signal, key=None, orientation=None, trials=None, subject=None, session=None, **options):
    """Import traces from a .npy or .npz file.

    Parameters
    ----------
    path : str or Path
        The file; it holds one array of 2 dims, or `key` names one of several.
    rate_hz : float
        Frames a second.
    signal : {"fluorescence", "dff"}
        What the array holds; dF/F as a fraction.
    key : str, optional
        Name of the array inside an .npz file.
    orientation : {"neuron,frame", "frame,neuron"}, optional
        Order of the dims; where left out, the longer one is taken for the frames.
    trials : str, Path or pandas.DataFrame, optional
        See `read_trials_csv`.
    subject, session : str, optional
        The file's name without its suffix, where left out.
    **options
        condition_columns (see `from_arrays`), frame_time, cells, matched, neuron_coords, indicator, area, provenance: see `new_session`.

    Returns
    -------
    xarray.Dataset
        A Session.

    Raises
    ------
    DamagedFileError
        If the file is cut short or is no such file.
    SessionError
        If the array or the trials break the schema.
    """
    path = as_path(path, "a .npy or .npz file")
    check_options(ArraysOptions, {"orientation": orientation, "signal": signal, "rate_hz": rate_hz})
    x, key = _choose_array(path, key)
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise SessionError(f"{path}: expected numbers with 2 dims (neuron and frame), found {x.dtype} of shape {x.shape}. Save the traces alone.")
    if not x.size:
        raise SessionError(f"{path}: expected numbers with 2 dims (neuron and frame), found none: shape {x.shape}. Save the traces again.")
    if orientation is None:
        if x.shape[0] == x.shape[1]:
            raise SessionError(
                f"{path}: expected more frames than neurons, found shape {x.shape}. Pass orientation='neuron,frame' or 'frame,neuron'."
            )
        orientation = ORIENTATIONS[0] if x.shape[1] > x.shape[0] else ORIENTATIONS[1]
        if orientation == ORIENTATIONS[1]:
            warnings.warn(
                f"{path}: taken for {x.shape[0]} frames of {x.shape[1]} neurons, since a recording has more frames than neurons. "
                "Pass orientation='neuron,frame' (--orientation neuron,frame) if it is the other way round.",
                stacklevel=2,
            )
    if orientation == "frame,neuron":
        x = x.T
    options.setdefault("provenance", f"{path.name}{f', key {key}' if key else ''}, stored as ({orientation})")
    with_name = {"subject": subject or path.stem, "session": session or path.stem}
    return naming(path, from_arrays, x, rate_hz=rate_hz, signal=signal, trials=trials, source="arrays", **with_name, **options)


def _choose_array(path, key):
    loaded = load_npy(path)
    if isinstance(loaded, np.ndarray):
        if key is not None:
            raise QfError(f"key: expected none for {path}, a file of one array, found {key!r}. Leave key out.")
        return loaded, None
    with loaded:
        keys = list(loaded.files)
        if key is None:
            if len(keys) != 1:
                raise QfError(f"{path}: expected one array, found {len(keys)}: {', '.join(keys) or 'none'}. Pass key=... to choose one.")
            key = keys[0]
        if key not in keys:
            raise QfError(f"key: {key!r} is not in {path}; {did_you_mean(key, keys)}")
        return _reading(path, lambda: loaded[key]), key


def load_npy(path, one=False):
    """Load a .npy or .npz file, never unpickling.

    Parameters
    ----------
    path : str or Path
    one : bool
        Take a .npy file alone.

    Returns
    -------
    array or numpy.lib.npyio.NpzFile

    Raises
    ------
    QfError
        If there is no such file, or it may not be read.
    DamagedFileError
        If it is cut short, or is no numpy file, or holds Python objects.
    """
    path = readable_file(path, "a .npy file" if one else "a .npy or .npz file")
    with open(path, "rb") as f:
        begin = f.read(6)
    packed = begin[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    if begin != b"\x93NUMPY" and (one or not packed):
        kind = "an .npz archive of several" if packed else "no numpy file"
        raise DamagedFileError(
            f"{path}: expected a whole {'.npy' if one else '.npy or .npz'} file of numbers, found {kind}. Save the array with numpy.save."
        )
    return _reading(path, lambda: np.load(path, allow_pickle=False))


def _reading(path, read):
    try:
        return read()
    except MemoryError as e:
        raise QfError(f"{path}: expected an array that fits into memory, found a larger one, or a header that says so. Save the traces again.") from e
    except OSError as e:
        if e.errno is not None:
            raise refused(path, e) from e
        raise _not_whole(path, reason(e)) from e
    # numpy tokenizes and evaluates the header: what a damaged one leads to may be anything
    except Exception as e:
        raise _not_whole(path, "Python objects, which could run code" if "allow_pickle" in str(e) else reason(e)) from e


def _not_whole(path, why):
    return DamagedFileError(
        f"{path}: expected a whole numpy file of numbers, found one that can't be read ({why}). It is cut short or no such file: "
        "copy it again, or save the numbers alone with numpy.save."
    )


def read_trials_csv(path, rate_hz, frame_time=None, condition_columns=None):
    """Read a trial table.

    Parameters
    ----------
    path : str or Path
        CSV (comma, semicolon or tab) with a header. `onset_frame`, or else `onset_s`, is needed. `offset_frame`, `offset_s` or
        `duration_s`, `stimulus`, `condition` and `block` are used where there. Counters (trial, id, index) and other times (`*_s`) are
        left out; every other column is a feature of the condition.
    rate_hz : float
        Frames a second, for onset_s.
    frame_time : array, shape (frame,), optional
        Seconds; a trial starts in the first frame at or after its onset. Where left out, frame / rate_hz.
    condition_columns : list of str, optional
        The features; every other column but those named above is left out (reaction times, outcomes...).

    Returns
    -------
    pandas.DataFrame
        onset_frame, offset_frame (int64) and the other columns.

    Raises
    ------
    QfError
        If the file is missing or no table.
    SessionError
        If a column is missing, or onsets are no numbers or outside the recording.
    """
    path = readable_file(path, "a CSV file of trials")
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            header = f.readline()
        # spreadsheets of many countries write semicolons
        separator = max(",;\t", key=header.count)
        names = [n.strip() for n in next(csv.reader([header], delimiter=separator), [])]
        twice = [n for i, n in enumerate(names) if n and n in names[:i]]
        if twice:
            raise SessionError(f"{path}: expected columns of different names, found {twice[0]!r} more than once. Rename one.")
        table = pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, csv.Error, UnicodeDecodeError, OverflowError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise refused(path, e) from e
        raise DamagedFileError(
            f"{path}: expected a CSV table with a header, found one that can't be read ({reason(e)}). Save it as CSV again."
        ) from e
    return naming(path, as_trials, table, rate_hz, frame_time, condition_columns)


def as_trials(trials, rate_hz, frame_time=None, condition_columns=None):
    """A trial table in frames, from a CSV file or a DataFrame; None stays None. Columns and errors as in `read_trials_csv`."""
    if trials is None:
        return None
    if not isinstance(trials, pd.DataFrame):
        return read_trials_csv(trials, rate_hz, frame_time, condition_columns)
    if frame_time is not None:
        frame_time = seconds_in(frame_time, "frame_time")
    table = trials.rename(columns=lambda c: str(c).strip()).reset_index(drop=True)
    check_columns(table)
    out = {}
    seconds = numbers_in(table["onset_s"], "onset_s") if "onset_s" in table else None
    if "onset_frame" in table:
        out["onset_frame"] = whole_in(table["onset_frame"], "onset_frame")
    elif seconds is not None:
        if frame_time is not None and len(frame_time) > 1:
            check_times(seconds, frame_time, "onset_s")
            kept = outside_jumps(seconds, frame_time, "onset_s")
            table, seconds = table[kept].reset_index(drop=True), seconds[kept]
        out["onset_frame"] = frames_at(seconds, rate_hz, frame_time)
    else:
        raise SessionError(
            f"trials: expected a column onset_frame or onset_s, found {', '.join(table.columns) or 'none'}. Rename the column of onsets."
        )
    if "offset_frame" in table:
        out["offset_frame"] = whole_in(table["offset_frame"], "offset_frame")
    elif "offset_s" in table:
        offset = numbers_in(table["offset_s"], "offset_s")
        if seconds is not None:
            _check_after(offset > seconds, "offset_s after onset_s", offset)
        out["offset_frame"] = frames_at(offset, rate_hz, frame_time)
        if seconds is not None:
            out["offset_frame"] = np.maximum(out["offset_frame"], out["onset_frame"] + 1)  # shorter than a frame
    elif "duration_s" in table:
        duration = numbers_in(table["duration_s"], "duration_s")
        _check_after(duration > 0, "seconds above 0 in duration_s", duration)
        if seconds is not None:
            out["offset_frame"] = np.maximum(frames_at(seconds + duration, rate_hz, frame_time), out["onset_frame"] + 1)
        else:
            out["offset_frame"] = out["onset_frame"] + np.maximum(1, np.round(duration * rate_of(rate_hz, frame_time))).astype(np.int64)
    else:
        out["offset_frame"] = out["onset_frame"] + 1
    if "block" in table:
        out["block"] = whole_in(table["block"], "block")
    features, ignored = _features(table, condition_columns)
    out.update({name: table[name] for name in features if name != "condition"})
    for name in ("stimulus", "condition"):
        # features that were asked for make the condition
        if name in table and (name == "stimulus" or condition_columns is None or name in condition_columns):
            if table[name].isna().any():
                raise SessionError(f"trials: expected a {name} in every row, found {int(table[name].isna().sum())} empty. Fill them in.")
            out[name] = table[name].astype(str)
    out = pd.DataFrame(out)
    out.attrs["ignored_columns"] = ", ".join(f"{name} ({why})" for name, why in ignored.items())
    return out


def _features(table, condition_columns):
    """The columns that are features of the condition, and {column: why it is ignored}."""
    used = {n for n in (*TRIAL_COORDS, *_TIMES) if n != "condition" or condition_columns is None}
    if condition_columns is None:
        why = {c: _why_ignored(c) for c in table.columns if c not in used}
        return [c for c, text in why.items() if not text], {c: text for c, text in why.items() if text}
    if not isinstance(condition_columns, str | list | tuple):
        raise QfError(f"condition_columns: expected a list of columns, found {condition_columns!r}. Pass names of the table's columns.")
    features = [condition_columns] if isinstance(condition_columns, str) else list(condition_columns)
    for name in features:
        if name not in table:
            raise SessionError(f"trials: expected a column {name}, found none; {did_you_mean(name, list(table.columns))}")
        if name == "trial" or (name in TRIAL_COORDS and name != "condition"):
            raise SessionError(f"condition_columns: expected features of the condition, found {name}, which says something else. Leave it out.")
    return features, {c: _why_ignored(c) or "not among the condition columns" for c in table.columns if c not in used and c not in features}


def _why_ignored(name):
    """Why a column is by default no feature of the condition, "" where it is one."""
    if name.startswith("Unnamed: "):  # pandas' word for a column without a name
        return "no name"
    return "a counter" if _COUNTERS.match(name) else "a time" if name.endswith("_s") else ""


def _check_after(good, wanted, found):
    if not good.all():
        row = int(np.argmin(good))
        raise SessionError(f"trials: expected {wanted}, found {found[row]:g} in row {row} ({int((~good).sum())} such rows). Mend or remove them.")


def naming(path, function, *args, **kwargs):
    """Call `function`, and put the name of the file at the head of any SessionError."""
    try:
        return function(*args, **kwargs)
    except SessionError as e:
        raise type(e)(f"{path}: {e}") from e
