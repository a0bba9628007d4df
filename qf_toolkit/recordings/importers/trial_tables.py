"""Trial tables from CSV files and DataFrames: onsets in frames or seconds, and the columns that make the condition."""

import csv
import re

import numpy as np
import pandas as pd

from ...errors import DamagedFileError, QfError, SessionError, did_you_mean
from ..clock import check_times, frames_at, outside_jumps, rate_of
from ..hdf5 import readable_file, reason, refused
from ..schema import TRIAL_COORDS
from ..session import check_columns, numbers_in, seconds_in, whole_in

_TIMES = ("onset_s", "offset_s", "duration_s")
_COUNTERS = re.compile(r"(?i)^(trial|trial_?(id|index|no|num|number)|id|index|unnamed.*)$")


def read_trials_csv(path, rate_hz, frame_time=None, condition_columns=None):
    """Read a trial table from a CSV file.

    Parameters
    ----------
    path : str or Path
        CSV (comma, semicolon or tab) with a header. The table needs a column `onset_frame` or `onset_s`. The columns `offset_frame`, `offset_s`,
        `duration_s`, `stimulus`, `condition` and `block` are optional. Counters (trial, id, index) and other times (`*_s`) are left out; every other
        column is a feature of the condition.
    rate_hz : float
        Frames a second, to convert seconds to frames.
    frame_time : array, shape (frame,), optional
        Seconds. A trial starts in the first frame at or after its onset. If None, frame / rate_hz.
    condition_columns : list of str, optional
        The columns that are features. Every other column except those named above is left out (reaction times, outcomes...).

    Returns
    -------
    pandas.DataFrame
        onset_frame, offset_frame (int64) and the other columns.

    Raises
    ------
    QfError
        If the file is missing, or not a table (DamagedFileError).
    SessionError
        If a column is missing, or onsets are not numbers or lie outside the recording.
    """
    return naming(path, as_trials, read_table(path), rate_hz, frame_time, condition_columns)


def read_table(path):
    """Read a CSV file (comma, semicolon or tab) with a header into a pandas.DataFrame; raises as `read_trials_csv`."""
    path = readable_file(path, "a CSV file of trials")
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            header = f.readline()
        # in many countries spreadsheets write semicolons
        separator = max(",;\t", key=header.count)
        names = [n.strip() for n in next(csv.reader([header], delimiter=separator), [])]
        twice = [n for i, n in enumerate(names) if n and n in names[:i]]
        if twice:
            raise SessionError(f"{path}: expected columns of different names, found {twice[0]!r} more than once. Rename one.")
        return pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, csv.Error, UnicodeDecodeError, OverflowError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise refused(path, e) from e
        raise DamagedFileError(
            f"{path}: expected a CSV table with a header, found one that can't be read ({reason(e)}). Save it as CSV again."
        ) from e


def as_trials(trials, rate_hz, frame_time=None, condition_columns=None):
    """Convert a CSV file or a DataFrame to a trial table in frames.

    None stays None. The columns, the other parameters and the errors are those of `read_trials_csv`.
    """
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
            out["offset_frame"] = np.maximum(out["offset_frame"], out["onset_frame"] + 1)  # a trial may be shorter than a frame
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
        # if the user names the features, they make the condition, and a column `condition` counts only if it is among them
        if name in table and (name == "stimulus" or condition_columns is None or name in condition_columns):
            if table[name].isna().to_numpy().any():
                raise SessionError(f"trials: expected a {name} in every row, found {int(table[name].isna().sum())} empty. Fill them in.")
            out[name] = table[name].astype(str)
    out = pd.DataFrame(out)
    out.attrs["ignored_columns"] = ", ".join(f"{name} ({why})" for name, why in ignored.items())
    return out


def _features(table, condition_columns):
    """The columns that are features of the condition, and {column: reason for which it is ignored}."""
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
    """The reason for which a column is by default not a feature of the condition; "" if it is one."""
    if name.startswith("Unnamed: "):  # the name that pandas gives a column without one
        return "no name"
    return "a counter" if _COUNTERS.match(name) else "a time" if name.endswith("_s") else ""


def _check_after(good, wanted, found):
    if not good.all():
        row = int(np.argmin(good))
        raise SessionError(f"trials: expected {wanted}, found {found[row]:g} in row {row} ({int((~good).sum())} such rows). Mend or remove them.")


def naming(path, function, *args, **kwargs):
    """Call `function` with the further arguments; put `path` at the head of the message of any SessionError that it raises."""
    try:
        return function(*args, **kwargs)
    except SessionError as e:
        raise type(e)(f"{path}: {e}") from e
