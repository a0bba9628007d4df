"""The trials of an NWB 2 file, from any of its tables of intervals."""

import re
import warnings

import numpy as np
import pandas as pd

from ...errors import QfError, SessionError, did_you_mean
from ..clock import check_times, frames_at, outside_jumps
from ..conditions import condition_key
from ..hdf5 import whole
from ..schema import RESERVED
from .visual_coding import FEATURES, epochs_at_pauses, is_complete, is_continuous, number_blocks, standard, stimulus_of, trials_of

_OUTCOME = re.compile(
    r"(?i)reward|outcome|response|correct|lick|hit|miss|false_alarm|choice|reaction|aborted|engaged|running|pupil|(_|^)(time|id|index)$|latency|^tags$|_s$"
)
_BLOCKS = ("block", "stimulus_block", "session_block")
_CATEGORIES = ("stimulus_name", "stimulus", "stimulus_type", "stimulus_category")
# column names that labs use for features of the stimulus; a suffix for the unit may follow
_FEATURE = re.compile(
    r"(?i)^(trial_type|stim(ulus)?_(id|type|name)|cue|odou?r|tone|sound|whisker|texture|side|orientation|direction|angle|contrast|"
    r"temporal_frequency|spatial_frequency|frequency|phase|speed|coherence|amplitude|intensity|size|diameter|color|colour|"
    r"x_position|y_position|pos_x|pos_y|position|image(_name|_id|_index)?|frame|movie_frame(_index)?|scene|mask|is_change|omitted)"
    r"(_(deg|degrees|hz|khz|db|cpd|ms|percent|um|mm))?$"
)


def trials_of_file(file, frame_time, wanted, stimulus, condition_columns):
    """Make the trial table and the epochs of a file.

    Parameters
    ----------
    file : pynwb.NWBFile
    frame_time : float64 array, shape (frame,)
        Seconds.
    wanted, stimulus, condition_columns
        The parameters trials, stimulus and condition_columns of `read_nwb`.

    Returns
    -------
    trials : pandas.DataFrame or None
        The trial table in frames; None for a continuous recording.
    epochs : pandas.DataFrame or None
        The stretches of each stimulus of the Visual Coding protocol.
    ignored : dict of str to str
        {column of the tables: reason for which it is ignored}.

    Raises
    ------
    QfError
        If a table or column that the user named is not in the file, or the choice among several tables is not clear.
    SessionError
        If a chosen table has no times in seconds, or they lie outside the recording.
    """
    every = {name: _outside_jumps(name, table, frame_time) for name, table in _interval_tables(file).items()}
    shown = {}
    for name in [n for n in every if stimulus_of(n) and len(every[n])]:
        try:
            shown[name] = _in_frames(name, every[name], frame_time)
        except SessionError as e:
            if wanted is not False and name in (_choose_tables(every, wanted) or ()):
                raise
            warnings.warn(f"{e} Its epochs are left out.", stacklevel=2)
    epochs = []
    for stimulus_shown in dict.fromkeys(stimulus_of(n) for n in shown):
        onset, offset = (np.concatenate(f) for f in zip(*(f for n, f in shown.items() if stimulus_of(n) == stimulus_shown), strict=True))
        epochs.append(epochs_at_pauses(stimulus_shown, onset, offset))
    epochs = number_blocks(pd.concat(epochs, ignore_index=True)) if epochs else None
    if wanted is False:
        return None, epochs, {}
    tables = _choose_tables(every, wanted)
    if condition_columns is not None:
        condition_columns = [condition_columns] if isinstance(condition_columns, str) else list(condition_columns)
        renamed = standard(pd.DataFrame(columns=condition_columns)).columns  # the tables' columns were renamed in the same way
        condition_columns = [c if any(c in t for t in tables.values()) else r for c, r in zip(condition_columns, renamed, strict=True)]
        known = sorted({c for t in tables.values() for c in t})
        for name in condition_columns:
            if name not in known:
                raise QfError(f"condition_columns: {name!r} is in none of the tables {', '.join(tables) or '(none)'}; {did_you_mean(name, known)}")
    parts = []
    for name, table in tables.items():
        if not len(table):
            continue
        known = stimulus_of(name)
        if is_complete(known, table) and stimulus is None and condition_columns is None:
            part = trials_of(known, table, *shown[name], epochs)
            parts.append(part if (block := _block(table, ())) is None else part.assign(block=block))
        else:
            parts.append(_one_table(name, table, frame_time, stimulus, condition_columns, epochs))
    ignored = {c: why for name, table in tables.items() for c, why in _ignored(name, table, stimulus, condition_columns).items()}
    return (pd.concat(parts, ignore_index=True) if parts else None), epochs, ignored


def _ignored(name, table, stimulus, condition_columns):
    """{column: reason for which it is not a feature of the condition} for one table."""
    why = {str(c): "not one number or text a row" for c in table.attrs.get("left_out", ())}
    known = stimulus_of(name)
    if is_complete(known, table) and stimulus is None and condition_columns is None:
        used, default = {*FEATURES[known], "blank_sweep"}, "not of the protocol"
    elif condition_columns is not None:
        used, default = set(condition_columns), "not among the condition columns"
    else:
        used = set(_condition_columns(table))
        default = "no known feature" if _feature_columns(table) else "does not repeat over the trials"
    used |= {"start_time", "stop_time", *_BLOCKS, *(() if stimulus is not None else _CATEGORIES)}
    return why | {c: "an outcome or a time" if _OUTCOME.search(c) else default for c in table if c not in used}


def _interval_tables(file):
    """{name: DataFrame} for every TimeIntervals of a file, with its scalar columns only.

    An IndexSeries of the protocol's stimuli is added as a table, unless a table holds the same stimulus, or the file has a table `trials`.
    """
    from pynwb.epoch import TimeIntervals
    from pynwb.image import IndexSeries

    found = {} if file.trials is None else {"trials": file.trials}
    found.update(file.intervals or {})
    for group in (file.stimulus or {}, *(m.data_interfaces for m in file.processing.values())):
        found.update({n: i for n, i in group.items() if isinstance(i, TimeIntervals)})
    tables = {n: _scalars(t) for n, t in found.items() if n != "invalid_times"}
    told = {stimulus_of(n) for n in tables}
    for name, series in (file.stimulus or {}).items():
        # a series is used only for a stimulus that no table holds; if there is a table `trials`, it defines the trials
        if isinstance(series, IndexSeries) and stimulus_of(name) and stimulus_of(name) not in told and "trials" not in tables:
            tables[name] = _frames_shown(series)
    return {n: standard(t) if stimulus_of(n) else t for n, t in tables.items()}


def _frames_shown(series):
    """Convert an IndexSeries (images, sparse noise, movies on DANDI) to a table of intervals.

    Each frame of the stimulus lasts until the next one, but at most the median step between frames.
    """
    if series.timestamps is not None:
        start = whole(series.timestamps, series.name).astype(np.float64)
    else:
        start = float(series.starting_time or 0) + np.arange(len(series.data)) / float(series.rate)
    step = np.diff(start, append=np.inf)
    stop = start + np.minimum(step, np.median(step[:-1]) if len(step) > 1 else 0.25)
    return pd.DataFrame({"start_time": start, "stop_time": stop, "frame": whole(series.data, series.name).astype(np.float64)})


def _scalars(table):
    """The columns of a table that hold one number or text per row, as a DataFrame; its attrs["left_out"] lists the other columns."""
    from hdmf.common import DynamicTableRegion, VectorIndex

    columns = {}
    for name in table.colnames:
        column = table[name]
        if isinstance(column, VectorIndex | DynamicTableRegion):
            continue
        data = whole(column.data, name)
        if data.ndim != 1 or data.dtype.kind not in "biufOSU":  # such as pairs, and references to series
            continue
        values = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in data.tolist()]
        if not all(v is None or isinstance(v, str | int | float) for v in values):
            continue
        columns[name] = _plain(pd.Series(values, dtype=object))
    if len({len(c) for c in columns.values()}) > 1:
        raise SessionError(
            f"{table.name}: expected columns of one length, found {', '.join(f'{n} {len(c)}' for n, c in columns.items())}. Mend the file."
        )
    found = pd.DataFrame(columns)
    found.attrs["left_out"] = [c for c in table.colnames if c not in columns]
    return found


def _plain(values):
    """Convert a column to float64 if all its values are numbers, else keep the text; words for a missing value ("null", "none"...) become NaN."""
    values = values.where(~values.map(lambda v: isinstance(v, str) and v.strip().lower() in ("", "null", "nan", "none", "n/a")), np.nan)
    numbers = pd.to_numeric(values, errors="coerce")
    text = values.map(lambda v: isinstance(v, str))
    # a column with a name such as 007 stays text
    zeros = values[text].map(lambda v: bool(re.match(r"^0\d", v)))
    return values if (numbers.isna() & values.notna()).any() or zeros.any() else numbers.astype(np.float64)


def _choose_tables(tables, wanted):
    if wanted is not None:
        wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in wanted:
            if name not in tables:
                raise QfError(
                    f"trials: no table {name!r} in the file; {did_you_mean(name, sorted(tables)) if tables else 'it has none, pass trials=False'}"
                )
        return {n: tables[n] for n in wanted}
    tables = {n: t for n, t in tables.items() if "spontaneous" not in n and not is_continuous(stimulus_of(n) or "")}
    shown = {n: t for n, t in tables.items() if n.endswith("presentations") or stimulus_of(n)}
    if "trials" in tables and (not shown or _feature_columns(tables["trials"])):
        return {"trials": tables["trials"]}
    if shown:
        return shown
    others = {n: t for n, t in tables.items() if n != "epochs" and _feature_columns(t)}
    if not others and len(tables) > 1:
        raise QfError(f"trials: expected one table of intervals, found {', '.join(sorted(tables))}. Pass trials=... to choose, or trials=False.")
    return others or tables


def _feature_columns(table):
    """Columns that are known to describe the stimulus."""
    if "condition" in table:
        return ["condition"]
    return [c for c in table if _FEATURE.match(c) and c not in _CATEGORIES and table[c].notna().any()]


def _condition_columns(table):
    """The columns that make the condition by default."""
    known = _feature_columns(table)
    if known:
        return known
    category = [c for c in _CATEGORIES if c in table and table[c].nunique() > 1]
    if category:
        return category[:1]
    return [
        c
        for c in table
        if c not in ("start_time", "stop_time", *_BLOCKS, *_CATEGORIES)
        and not _OUTCOME.search(c)
        and 1 < table[c].nunique() <= max(2, len(table) // 2)
    ]


def _outside_jumps(name, table, frame_time):
    """Leave out the rows that start in a jump of `frame_time`; a warning counts them."""
    if "start_time" not in table or table["start_time"].dtype.kind != "f":
        return table
    return table[outside_jumps(table["start_time"].to_numpy(), frame_time, f"{name}/start_time")].reset_index(drop=True)


def _in_frames(name, table, frame_time):
    """First and one-past-last frame of every row, two int64 arrays (row,); raises SessionError if the times can't be used."""
    for column in ("start_time", "stop_time"):
        if column not in table or table[column].dtype.kind != "f":
            raise SessionError(f"{name}: expected seconds in a column {column}, found {', '.join(table.columns)}. Pass trials=... for another table.")
    start = table["start_time"].to_numpy()
    if not np.isfinite(start).all():
        raise SessionError(
            f"{name}: expected a start_time in every row, found {int((~np.isfinite(start)).sum())} of {len(start)} missing. Mend the file."
        )
    check_times(start, frame_time, f"{name}/start_time")
    stop = table["stop_time"].to_numpy()
    onset = frames_at(start, None, frame_time)
    return onset, np.maximum(frames_at(np.where(np.isfinite(stop), stop, start), None, frame_time), onset + 1)


def _one_table(name, table, frame_time, stimulus, condition_columns, epochs):
    onset, offset = _in_frames(name, table, frame_time)
    out = pd.DataFrame({"onset_frame": onset, "offset_frame": offset})
    if "blank_sweep" in table and condition_columns is None:
        table = table.copy()
        table.loc[table["blank_sweep"] == 1, _feature_columns(table)] = np.nan
    columns = _condition_columns(table) if condition_columns is None else [c for c in condition_columns if c in table]
    category = next((c for c in _CATEGORIES if c in table and c not in columns), None)
    default = name.removesuffix("_presentations")
    if stimulus is not None:
        out["stimulus"] = stimulus
    else:
        out["stimulus"] = table[category].fillna(default).astype(str) if category else default
    # all trials of a table without features get the condition `all`; `blank` is reserved for a sweep whose features are all missing
    out["condition"] = [condition_key(s, r) if columns else f"{s}/all" for s, r in zip(out["stimulus"], _rows(table, columns), strict=True)]
    block = _block(table, columns)
    if block is None and epochs is not None:
        starts = epochs.loc[epochs["stimulus"] == stimulus_of(name), "start_frame"].to_numpy()
        block = np.clip(np.searchsorted(starts, onset, side="right") - 1, 0, None)
    out["block"] = 0 if block is None else block
    for column in columns:
        if column != "condition":
            out[f"{column}_" if column in RESERVED else column] = table[column]
    return out


def _block(table, columns):
    """The table's own numbers of blocks, int64 array (row,); None if it has none."""
    name = next((b for b in _BLOCKS if b in table and b not in columns), None)
    if name is None or table[name].dtype.kind != "f" or not (table[name] % 1 == 0).all():
        return None
    return table[name].to_numpy(np.int64)


def _rows(table, columns):
    return table[columns].to_dict("records") if columns else [{}] * len(table)
