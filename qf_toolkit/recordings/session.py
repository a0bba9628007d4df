"""Building a Session from plain arrays: the trial table, the flags of odd neurons, the fingerprint. `schema` defines a Session."""

import hashlib
import numbers
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import SessionError
from .behaviour import with_behaviour
from .conditions import condition_key
from .schema import EPOCH_COORDS, RESERVED, SCHEMA_VERSION, SIGNALS, check_key, check_variable_name
from .schema import TRIAL_COORDS as TRIAL_COORDS
from .schema import epoch_table as epoch_table
from .schema import is_number as is_number
from .schema import session_key as session_key
from .schema import signal_of as signal_of
from .schema import trial_features as trial_features
from .schema import trial_table as trial_table
from .schema import validate as validate

MAX_NAN_SHARE = 0.5  # a neuron that lacks a larger share of its frames is flagged
MIN_F0_SHARE = 0.01  # F0 below this share of the session's median fluorescence makes dF/F meaningless
MIN_DFF_DENOMINATOR = 0.05  # least 1 + b, where b is the baseline's dF/F: a smaller divisor makes the window's dF/F explode


def new_session(
    traces,
    *,
    subject,
    session,
    rate_hz=None,
    signal="fluorescence",
    frame_time=None,
    trials=None,
    cells=None,
    matched=False,
    neuron_coords=None,
    indicator="unknown",
    area="unknown",
    source="arrays",
    provenance="",
    attrs=None,
    epochs=None,
    behaviour=None,
    fingerprint=None,
):
    """Build and check a Session from plain arrays.

    Parameters
    ----------
    traces : array, shape (neuron, frame)
        Fluorescence (positive arbitrary units) or dF/F (fraction); stored as float32.
    subject, session : str
        Names without a slash; together they are the key of the Session.
    rate_hz : float, optional
        Frames a second. If None, it is computed from `frame_time`.
    signal : {"fluorescence", "dff"}
        The kind of signal in `traces`.
    frame_time : array, shape (frame,), optional
        Seconds, increasing. If None, frame / rate_hz.
    trials : pandas.DataFrame, optional
        One row per trial, with the column onset_frame and optionally offset_frame (default onset_frame + 1), stimulus, condition and block. Every
        other column is a feature of the condition. Without a column `condition` the key is made from the features. None makes a continuous
        recording.
    cells : sequence of str, optional
        Names of the cells; default 0, 1, 2...
    matched : bool or bool array, shape (neuron,)
        Whether a cell of the same name is the same cell in every session of the subject: one value for all cells, or one per cell.
    neuron_coords : mapping of str to array, shape (neuron,), optional
        More labels of the neurons (plane, x, y...).
    indicator, area, source, provenance : str
        Free text, kept in attrs.
    attrs : mapping of str to str or number, optional
        Further facts about the recording (cre_line, imaging_depth_um, sex...).
    epochs : pandas.DataFrame, optional
        The stretches of each stimulus, with the columns stimulus, start_frame, stop_frame and block.
    behaviour : mapping of str to array, tuple or Behaviour, optional
        Behaviours by name: values (frame,), or (values, seconds) for one on a clock of its own, or (None, seconds) for events (licks, rewards);
        see `qf_toolkit.recordings.behaviour.with_behaviour`.
    fingerprint : str, optional
        The fingerprint of the traces, if the importer computed it while reading them; see `Fingerprint`. If None, it is computed here.

    Returns
    -------
    xarray.Dataset
        A valid Session with its odd neurons flagged.

    Raises
    ------
    SessionError
        If anything breaks the schema; see `validate`.

    Examples
    --------
    >>> import pandas as pd
    >>> trials = pd.DataFrame({"onset_frame": [100, 200], "orientation": [0.0, 90.0]})
    >>> session = new_session(np.ones((2, 300)), subject="mouse", session="one", rate_hz=30.0, trials=trials, cells=["a", "b"])
    >>> session["condition"].values.tolist()
    ['stimulus/orientation=0', 'stimulus/orientation=90']
    >>> session["neuron"].values.tolist()
    ['mouse/one/a', 'mouse/one/b']
    """
    traces = _plain_traces(traces)
    n_neurons, n_frames = traces.shape
    if signal not in SIGNALS:
        raise SessionError(f"signal: expected one of {SIGNALS}, found {signal!r}.")
    subject, session = (_as_key(n, v) for n, v in (("subject", subject), ("session", session)))
    if rate_hz is not None and not is_number(rate_hz):
        raise SessionError(f"rate_hz: expected a positive number of frames a second, found {rate_hz!r}. Pass rate_hz or frame_time.")
    if frame_time is None:
        if rate_hz is None or not np.isfinite(rate_hz) or rate_hz <= 0:
            raise SessionError(f"rate_hz: expected a positive number of frames a second, found {rate_hz!r}. Pass rate_hz or frame_time.")
        frame_time = np.arange(n_frames) / float(rate_hz)
    frame_time = seconds_in(frame_time, "frame_time")
    if frame_time.shape != (n_frames,):
        raise SessionError(f"frame_time: expected {n_frames} seconds, one a frame, found shape {frame_time.shape}. Are the traces transposed?")
    if rate_hz is None and len(frame_time) > 1:
        rate_hz = 1.0 / np.median(np.diff(frame_time))
    cells = _cell_names(cells, n_neurons)
    prefix = [f"{subject}/" if m else f"{subject}/{session}/" for m in _one_each(matched, n_neurons)]
    epochs = _epoch_coords(epochs)
    beside = _neuron_coords(neuron_coords, n_neurons)
    coords = {
        "neuron": np.array([p + c for p, c in zip(prefix, cells, strict=True)], dtype=object),
        "frame_time": ("frame", frame_time),
        **beside,
        **_trial_coords(trials, {*beside, *epochs, *(["epoch"] if epochs else [])}),
        **epochs,
    }
    ds = xr.Dataset({signal: (("neuron", "frame"), traces)}, coords)
    if not isinstance(attrs, Mapping | None):
        raise SessionError(f"attrs: expected a mapping of names to text or numbers, found {type(attrs).__name__}. Pass a dict.")
    ds.attrs = {
        **(attrs or {}),
        "subject": subject,
        "session": session,
        "rate_hz": float(rate_hz) if rate_hz else float("nan"),
        "signal": signal,
        "indicator": indicator,
        "area": area,
        "source": source,
        "provenance": provenance,
        "schema_version": SCHEMA_VERSION,
    }
    check_dff_is_fraction(ds)
    ds.attrs["f0_floor"] = f0_floor(ds)
    ds = ds.assign_coords(flag=("neuron", flag_neurons(ds)))
    ds.attrs["fingerprint"] = fingerprint or fingerprint_of(ds)
    return with_behaviour(validate(ds), behaviour or {})


def _plain_traces(traces):
    """Convert traces to float32 (neuron, frame), with NaN in place of masked values."""
    try:
        x = np.ma.asarray(traces) if isinstance(traces, np.ma.MaskedArray) else np.asarray(traces)
    except ValueError as e:  # rows of different lengths
        raise SessionError(f"traces: expected 2 dims (neuron, frame), found none that fit ({e}). Pass one row a neuron, one column a frame.") from e
    if x.ndim != 2:
        raise SessionError(f"traces: expected 2 dims (neuron, frame), found shape {x.shape}. Pass one row a neuron, one column a frame.")
    if x.dtype.kind not in "fiu":
        raise SessionError(f"traces: expected real numbers, found {x.dtype}. Convert them first, for example by .astype('float32').")
    x = x.astype(np.float32, copy=False)
    return x.filled(np.nan) if isinstance(x, np.ma.MaskedArray) else x


def _as_key(attr, name):
    name = str(name) if isinstance(name, numbers.Integral) and not isinstance(name, bool) else name
    check_key(attr, name)
    return str(name)


def _cell_names(cells, n):
    if isinstance(cells, str) or not (cells is None or hasattr(cells, "__iter__")):
        raise SessionError(f"cells: expected {n} names, one a row of traces, found {cells!r}. Pass a list of them.")
    cells = [str(c) for c in (range(n) if cells is None else cells)]
    if len(cells) != n:
        raise SessionError(f"cells: expected {n} names, one a row of traces, found {len(cells)}.")
    return cells


def _one_each(matched, n):
    found = np.asarray(matched)
    if found.shape not in ((), (n,)) or found.dtype.kind not in "biu":
        raise SessionError(f"matched: expected True, False or one of them a neuron ({n}), found {matched!r}.")
    return np.broadcast_to(found, n)


def _neuron_coords(coords, n):
    if not isinstance(coords, Mapping | None):
        raise SessionError(f"neuron_coords: expected a mapping of names to arrays, found {type(coords).__name__}. Pass a dict.")
    found = {name: np.asarray(values) for name, values in (coords or {}).items()}
    for name, values in found.items():
        check_variable_name(name, "neuron_coords")
        if values.shape != (n,):
            raise SessionError(f"neuron_coords: expected {n} values of {name}, one a neuron, found shape {values.shape}.")
    return {name: ("neuron", values) for name, values in found.items()}


def seconds_in(values, name):
    """Convert times to a float64 array.

    Raises
    ------
    SessionError
        If they are not real numbers.
    """
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "fiuO":
            raise ValueError(f"{found.dtype}")
        return found.astype(np.float64)
    except (ValueError, TypeError) as e:
        raise SessionError(f"{name}: expected seconds as numbers, found {e}. Convert them to seconds from the start.") from e


def numbers_in(column, name):
    """Convert a column of a table, a pandas.Series, to a float64 array (row,).

    Raises
    ------
    SessionError
        If a value is not a finite number; the message names the first such row.
    """
    found = _coerced(column)
    bad = ~np.isfinite(found)
    if bad.any():
        row = int(np.argmax(bad))
        raise SessionError(
            f"trials: expected numbers in {name}, found {column.iloc[row]!r} in row {row} ({int(bad.sum())} such rows). Mend or remove them."
        )
    return found


def whole_in(column, name):
    """Convert a column of a table, a pandas.Series, to an int64 array (row,).

    Raises
    ------
    SessionError
        If a value is not a whole number; the message names the first such row.
    """
    found = numbers_in(column, name)
    bad = (found != np.round(found)) | (np.abs(found) >= 2**53)
    if bad.any():
        row = int(np.argmax(bad))
        raise SessionError(f"trials: expected whole numbers in {name}, found {found[row]:g} in row {row}. Give seconds in a column onset_s instead.")
    return found.astype(np.int64)


def check_columns(table):
    """Refuse a trial table that is not a DataFrame, or whose columns share a name or have a name that no file can hold.

    Raises
    ------
    SessionError
        The message names the column.
    """
    if not isinstance(table, pd.DataFrame):
        raise SessionError(f"trials: expected a pandas.DataFrame with a row a trial, found {type(table).__name__}.")
    for name in table.columns:
        check_variable_name(name)
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise SessionError(f"trials: expected columns of different names, found {twice[0]!r} more than once. Rename one.")


def _trial_coords(trials, taken=()):
    """Convert a trial table to coords on `trial`, sorted by onset, with the keys of the conditions filled in.

    `taken` holds the names of other coords: a feature with such a name gets an underscore at its end.
    """
    if trials is None or len(trials) == 0:
        trials = pd.DataFrame({"onset_frame": [], "offset_frame": [], "stimulus": [], "condition": [], "block": []})
    check_columns(trials)
    # a column with a pandas dtype may hold missing values for which numpy has no equivalent
    table = pd.DataFrame(
        {n: c if isinstance(c.dtype, np.dtype) else c.astype(object).where(c.notna(), None) for n, c in trials.reset_index(drop=True).items()}
    )
    if "onset_frame" not in table:
        raise SessionError(
            f"trials: expected a column onset_frame (frame index), found {list(table.columns)}. Name the column onset_frame, or give onset_s to the importer."
        )
    if table["onset_frame"].isna().to_numpy().any():
        raise SessionError(f"trials: onset_frame is missing in {int(table['onset_frame'].isna().sum())} of {len(table)} rows. Remove those rows.")
    for name in ("onset_frame", "offset_frame", "block"):
        if name in table:
            table[name] = whole_in(table[name], name)
    table = table.sort_values("onset_frame", kind="stable", ignore_index=True)
    for name, default in (("offset_frame", table["onset_frame"] + 1), ("stimulus", "stimulus"), ("block", 0)):
        if name not in table:
            table[name] = default
    features = [c for c in table.columns if c not in TRIAL_COORDS and c != "trial"]
    if "condition" not in table:
        table["condition"] = [condition_key(r["stimulus"], {f: r[f] for f in features}) for r in table.to_dict("records")]
    else:
        table["condition"] = [c if str(c).startswith(f"{s}/") else f"{s}/{c}" for s, c in zip(table["stimulus"], table["condition"], strict=True)]
    coords = {"trial": np.arange(len(table))}
    for name in ("onset_frame", "offset_frame", "block"):
        coords[name] = ("trial", table[name].to_numpy().astype(np.int64))
    for name in ("stimulus", "condition"):
        coords[name] = ("trial", table[name].astype(str).to_numpy(dtype=object))
    for name in features:
        stored = f"{name}_" if name in RESERVED or name in taken else name
        if stored in coords:
            raise SessionError(
                f"trials: expected columns of different names, found {name!r}, stored as {stored!r}, and another {stored!r}. Rename one."
            )
        coords[stored] = ("trial", _feature(table[name]))
    return coords


def _feature(values):
    """Convert a column to float64 with NaN for empty cells; if any value is text, to text with "" for empty cells."""
    if values.dtype.kind == "c":
        raise SessionError(f"trials: expected real numbers or text in {values.name}, found complex numbers. Give their parts in two columns.")
    numeric = _coerced(values)
    is_text = np.isnan(numeric) & values.notna().to_numpy()
    if is_text.any():
        return values.where(values.notna(), "").astype(str).to_numpy(dtype=object)
    return numeric


def _coerced(column):
    """Convert a column to a float64 array, with NaN for values that are not numbers or are too large for float64."""
    try:
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError:  # whole numbers of hundreds of digits
        return np.array([float(v) if is_number(v) and abs(v) < 2**1000 else np.nan for v in column])


def _epoch_coords(epochs):
    """Convert the table of epochs to coords on `epoch`, sorted by start_frame."""
    if epochs is None or len(epochs) == 0:
        return {}
    names = [n.removeprefix("epoch_") for n in EPOCH_COORDS]
    if not isinstance(epochs, pd.DataFrame) or not set(names) <= set(epochs.columns):
        raise SessionError(f"epochs: expected a pandas.DataFrame with columns {', '.join(names)}, found {type(epochs).__name__}.")
    table = epochs.sort_values("start_frame", kind="stable")
    columns = {n: table[n].to_numpy(dtype=object) if n == "stimulus" else whole_in(table[n], n) for n in names}
    return {f"epoch_{n}": ("epoch", v) for n, v in columns.items()}


def with_running(ds, speed, seconds):
    """Add the running speed to a Session, on a dim of its own.

    Parameters
    ----------
    ds : xarray.Dataset
        A Session.
    speed, seconds : float arrays, shape (running_time,)
        Running speed in cm/s, and its times in seconds on the clock of `frame_time`.

    Returns
    -------
    xarray.Dataset
        With `running_speed` (running_time) float32.
    """
    ds = ds.assign(running_speed=("running_time", np.asarray(speed, np.float32))).assign_coords(running_time=np.asarray(seconds, np.float64))
    ds["running_speed"].attrs["units"] = "cm/s"
    return ds


def f0_floor(ds):
    """The F0 at or below which dF/F is meaningless, a float.

    It is 1 % of the median of the session's positive fluorescence, or 0.05 on the scale 1 + dF/F if the Session holds only dF/F. It is fixed at
    import and kept in attrs, so that it can't carry later frames into a forecast.
    """
    if signal_of(ds) == "dff":
        return MIN_DFF_DENOMINATOR
    # a few thousand frames suffice for the median, and keep this fast for a full session (241 x 115,000)
    part = ds["fluorescence"].values[:, :: max(1, ds.sizes["frame"] // 4096)]
    positive = part[np.isfinite(part) & (part > 0)]
    return MIN_F0_SHARE * float(np.median(positive)) if positive.size else 0.0


def flag_neurons(ds):
    """Flag each neuron that can't be used with the reason.

    Parameters
    ----------
    ds : xarray.Dataset
        With `fluorescence` or `dff`, (neuron, frame).

    Returns
    -------
    array of str, shape (neuron,)
        "" for a usable neuron, else the reason: "nan" (more than half of its frames are missing), "silent" (every frame is zero), "constant" (the
        trace never changes), or "tiny_f0" (its median fluorescence is not positive, or at most 1 % of the session's).
    """
    name = signal_of(ds)
    x = ds[name].values
    flags = np.full(x.shape[0], "", dtype=object)
    low, high = x.min(1, initial=np.inf), x.max(1, initial=-np.inf)
    few = np.full(len(x), x.shape[1] == 0)
    for i in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):  # neurons with a missing or infinite frame
        finite = x[i][np.isfinite(x[i])]
        few[i] = len(finite) < (1 - MAX_NAN_SHARE) * x.shape[1] or not len(finite)
        low[i], high[i] = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    if name == "fluorescence":
        floor = ds.attrs["f0_floor"] if "f0_floor" in ds.attrs else f0_floor(ds)
        part = x[:, :: max(1, x.shape[1] // 4096)]
        median = np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in part])
        flags[median <= floor] = "tiny_f0"
    same = high - low <= 1e-6 * np.maximum(np.abs(high), 1e-30)
    flags[same] = "constant"
    flags[same & (high == 0)] = "silent"
    flags[few] = "nan"
    return flags


def check_dff_is_fraction(ds):
    """Refuse dF/F that seems to be in percent or z-scored. As F can't be negative, dF/F as a fraction stays above -1.

    Raises
    ------
    SessionError
        If more than 1 % of the values lie below -1.5, or the median over neurons of their noise (1.4826 x median absolute deviation) exceeds 2.
    """
    if signal_of(ds) != "dff" or ds["dff"].size == 0:
        return
    x = ds["dff"].values[:, :: max(1, ds.sizes["frame"] // 4096)]
    x = np.where(np.isfinite(x), x, np.nan)
    with np.errstate(all="ignore"):
        rows = [r[np.isfinite(r)] for r in x]
        noise = np.median([1.4826 * np.median(np.abs(r - np.median(r))) for r in rows if r.size] or [0.0])
        below = float(np.mean(x[np.isfinite(x)] < -1.5)) if np.isfinite(x).any() else 0.0
    if below > 0.01 or noise > 2:
        raise SessionError(
            f"dff: expected a fraction (0.1 = 10 %), found values that look like percent or z-scores (typical noise {noise:.3g}, "
            f"{100 * below:.1f} % of the frames below -1.5, where F would be negative). Divide percent by 100; import the fluorescence itself instead of z-scores."
        )


class Fingerprint:
    """A digest of the traces, by which a renamed copy of a recording is recognised."""

    def __init__(self):
        self._hash = hashlib.blake2b(digest_size=12)

    def add(self, rows):
        """Add the next rows of the traces, a float32 array (neuron, frame), to the digest; returns self."""
        self._hash.update(np.ascontiguousarray(rows).view(np.uint8).data)
        return self

    def text(self):
        return self._hash.hexdigest()


def fingerprint_of(ds):
    """The fingerprint of a Session, computed from its traces in memory; a str of 24 hexadecimal digits."""
    return Fingerprint().add(ds.variables[signal_of(ds)].values).text()


def describe_flags(ds):
    """Count the flagged neurons by reason, as {reason: number}; {} if none is flagged."""
    reasons, counts = np.unique(ds["flag"].values.astype(str), return_counts=True)
    return {str(r): int(c) for r, c in zip(reasons, counts, strict=True) if r}
