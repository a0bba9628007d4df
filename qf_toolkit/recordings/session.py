"""The schema of one Session: a continuous two-photon recording and its trial table, as an `xarray.Dataset`.

dims and variables
    fluorescence (neuron, frame)  float32, raw or neuropil-corrected, positive arbitrary units; or, where only that exists,
    dff          (neuron, frame)  float32, dF/F as a fraction (0.1 = 10 %)
coords
    neuron     (neuron)  str, key `subject/cell`, or `subject/session/cell` where cells are not matched across sessions
    flag       (neuron)  str, why `trials()` leaves the neuron out: "" (kept), "nan", "constant", "silent", "tiny_f0"
    frame_time (frame)   float64, seconds
    trial      (trial)   int64, 0, 1, 2... in order of onset
    onset_frame, offset_frame (trial)  int64; the stimulus is on in frames onset <= frame < offset
    stimulus   (trial)   str, the stimulus category, for example drifting_gratings
    condition  (trial)   str, key `stimulus/feature=value,...`; a blank sweep is `stimulus/blank`
    block      (trial)   int64, the sub-session, 0, 1, 2...
    any other coord on `trial` is a feature of the condition (orientation in degrees, temporal_frequency in Hz...)
where the source tells
    running_speed (running_time)  float32, cm/s, running_time in seconds
    x, y (neuron)                 centre of the ROI, pixels (column, row)
    epoch_stimulus, epoch_start_frame, epoch_stop_frame, epoch_block (epoch)  stretches of each stimulus, also of those without trials
        (natural movies, spontaneous activity), in frames start <= frame < stop
attrs
    subject, session, rate_hz, signal, indicator, area, source, provenance, fingerprint, f0_floor, schema_version, and what else a source tells
"""

import hashlib
import re

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import SessionError
from .conditions import condition_key

SCHEMA_VERSION = 1
SIGNALS = ("fluorescence", "dff")
TRIAL_COORDS = ("onset_frame", "offset_frame", "stimulus", "condition", "block")
# names that mean something else in a Session, a trial table or a dataset of windows; a feature called so gets an underscore at its end
RESERVED = {
    "trial", *TRIAL_COORDS, "neuron", "frame", "time", "frame_time", "flag", "plane", "session", "subject", "sample", "patch", "code",
    *SIGNALS, "zscore", "valid", "n_score", "active", "forecast", "samples", "probability", "reconstruction",
}  # fmt: skip
MAX_NAN_SHARE = 0.5  # a neuron with more of its frames missing than this is flagged as a whole
MIN_F0_SHARE = 0.01  # F0 below this share of the session's median fluorescence makes dF/F meaningless
MIN_DFF_DENOMINATOR = 0.05  # 1 + b, b the baseline's dF/F: below it the window's dF/F explodes
_KEY = re.compile(r"^[^/\s][^/]*$")


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
        Frames a second; taken from `frame_time` where left out.
    signal : {"fluorescence", "dff"}
        What `traces` holds.
    frame_time : array, shape (frame,), optional
        Seconds, increasing. Where left out, frame / rate_hz.
    trials : pandas.DataFrame, optional
        A row a trial with onset_frame, and optionally offset_frame (onset_frame + 1 where left out), stimulus, condition, block; every
        other column is a feature of the condition. None makes a continuous recording. Without `condition` the key is made of the features.
    cells : sequence of str, optional
        Names of the cells, 0, 1, 2... where left out.
    matched : bool or bool array, shape (neuron,)
        Whether a cell of that name is the same cell in every session of the subject; of all cells, or of each.
    neuron_coords : mapping of str to array, shape (neuron,), optional
        More labels of the neurons (plane, x, y...).
    indicator, area, source, provenance : str
        Free text, kept in attrs.
    attrs : mapping of str to str or number, optional
        What else is known of the recording (cre_line, imaging_depth_um, sex...).
    epochs : pandas.DataFrame, optional
        stimulus, start_frame, stop_frame, block: the stretches of each stimulus.
    fingerprint : str, optional
        That of the traces, where an importer has made it while it read them; see `Fingerprint`.

    Returns
    -------
    xarray.Dataset
        A valid Session with its odd neurons flagged.

    Raises
    ------
    SessionError
        If anything breaks the schema; see `validate`.
    """
    traces = np.asarray(traces)
    if traces.ndim != 2:
        raise SessionError(f"traces: expected 2 dims (neuron, frame), found shape {traces.shape}. Pass one row a neuron, one column a frame.")
    if signal not in SIGNALS:
        raise SessionError(f"signal: expected one of {SIGNALS}, found {signal!r}.")
    n_neurons, n_frames = traces.shape
    if frame_time is None:
        if rate_hz is None or not np.isfinite(rate_hz) or rate_hz <= 0:
            raise SessionError(f"rate_hz: expected a positive number of frames a second, found {rate_hz!r}. Pass rate_hz or frame_time.")
        frame_time = np.arange(n_frames) / float(rate_hz)
    frame_time = np.asarray(frame_time, dtype=np.float64)
    if frame_time.shape != (n_frames,):
        raise SessionError(f"frame_time: expected {n_frames} seconds, one a frame, found shape {frame_time.shape}. Are the traces transposed?")
    if rate_hz is None and len(frame_time) > 1:
        rate_hz = 1.0 / np.median(np.diff(frame_time))
    cells = [str(c) for c in (range(n_neurons) if cells is None else cells)]
    if len(cells) != n_neurons:
        raise SessionError(f"cells: expected {n_neurons} names, one a row of traces, found {len(cells)}.")
    prefix = [f"{subject}/" if m else f"{subject}/{session}/" for m in np.broadcast_to(matched, n_neurons)]
    coords = {
        "neuron": np.array([p + c for p, c in zip(prefix, cells, strict=True)], dtype=object),
        "frame_time": ("frame", frame_time),
        **{name: ("neuron", np.asarray(values)) for name, values in (neuron_coords or {}).items()},
        **_trial_coords(trials),
        **_epoch_coords(epochs),
    }
    ds = xr.Dataset({signal: (("neuron", "frame"), traces.astype(np.float32, copy=False))}, coords)
    ds.attrs = {
        **(attrs or {}),
        "subject": str(subject),
        "session": str(session),
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
    ds.attrs["fingerprint"] = fingerprint or Fingerprint().add(ds[signal].values).text()
    return validate(ds)


def _trial_coords(trials):
    """The trial table as coords on `trial`, sorted by onset, condition keys filled in."""
    if trials is None or len(trials) == 0:
        trials = pd.DataFrame({"onset_frame": [], "offset_frame": [], "stimulus": [], "condition": [], "block": []})
    table = trials.copy().reset_index(drop=True)
    if "onset_frame" not in table:
        raise SessionError(
            f"trials: expected a column onset_frame (frame index), found {list(table.columns)}. Name the column onset_frame, or give onset_s to the importer."
        )
    if table["onset_frame"].isna().any():
        raise SessionError(f"trials: onset_frame is missing in {int(table['onset_frame'].isna().sum())} of {len(table)} rows. Remove those rows.")
    table = table.sort_values("onset_frame", kind="stable", ignore_index=True)
    if "offset_frame" not in table:
        table["offset_frame"] = table["onset_frame"] + 1
    if "stimulus" not in table:
        table["stimulus"] = "stimulus"
    if "block" not in table:
        table["block"] = 0
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
        values = table[name]
        numeric = pd.to_numeric(values, errors="coerce")
        is_text = numeric.isna() & values.notna()
        coords[f"{name}_" if name in RESERVED else name] = (
            "trial",
            values.where(values.notna(), "").astype(str).to_numpy(dtype=object) if is_text.any() else numeric.to_numpy(dtype=np.float64),
        )
    return coords


def _epoch_coords(epochs):
    """The table of epochs as coords on `epoch`, in order of time."""
    if epochs is None or len(epochs) == 0:
        return {}
    table = epochs.sort_values("start_frame", kind="stable")
    columns = {c: table[c].to_numpy(dtype=object if c == "stimulus" else np.int64) for c in ("stimulus", "start_frame", "stop_frame", "block")}
    return {f"epoch_{c}": ("epoch", v) for c, v in columns.items()}


def with_running(ds, speed, seconds):
    """A Session with its running speed on a dim of its own: `speed` in cm/s and `seconds`, float arrays (running_time,)."""
    ds = ds.assign(running_speed=("running_time", np.asarray(speed, np.float32))).assign_coords(running_time=np.asarray(seconds, np.float64))
    ds["running_speed"].attrs["units"] = "cm/s"
    return ds


def f0_floor(ds):
    """The F0 at or below which dF/F is meaningless: 1 % of the session's median fluorescence, or 1 + dF/F = 0.05 where only dF/F exists.

    Fixed at import and kept in attrs, so that it can't carry later frames into a forecast.
    """
    if signal_of(ds) == "dff":
        return MIN_DFF_DENOMINATOR
    # some thousand frames are plenty for a median, and keep a full session (241 x 115,000) fast
    part = ds["fluorescence"].values[:, :: max(1, ds.sizes["frame"] // 4096)]
    positive = part[np.isfinite(part) & (part > 0)]
    return MIN_F0_SHARE * float(np.median(positive)) if positive.size else 0.0


def flag_neurons(ds):
    """Why each neuron can't be used, "" where it can.

    Parameters
    ----------
    ds : xarray.Dataset
        With `fluorescence` or `dff`, (neuron, frame).

    Returns
    -------
    array of str, shape (neuron,)
        "nan" (more than half of the frames missing), "silent" (zero throughout), "constant" (no change throughout),
        "tiny_f0" (median fluorescence not positive, or under 1 % of the session's), or "".
    """
    name = signal_of(ds)
    x = ds[name].values
    flags = np.full(x.shape[0], "", dtype=object)
    low, high = x.min(1, initial=np.inf), x.max(1, initial=-np.inf)
    few = np.full(len(x), x.shape[1] == 0)
    for i in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):  # a missing or infinite frame somewhere
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
    """Refuse dF/F that is in percent (or z-scored): F can't be negative, so a fraction stays above -1.

    Raises
    ------
    SessionError
        If over 1 % of the values lie below -1.5, or a typical neuron's noise is over 2.
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


def signal_of(ds):
    """The name of the traces in a Session: "fluorescence" or "dff"."""
    for name in SIGNALS:
        if name in ds:
            return name
    raise SessionError(
        f"traces: expected a variable fluorescence or dff with dims (neuron, frame), found {sorted(map(str, ds.data_vars)) or 'none'}."
    )


def session_key(ds):
    """`subject/session`, the key of a Session in its store."""
    return f"{ds.attrs['subject']}/{ds.attrs['session']}"


class Fingerprint:
    """A hash of the traces, by which a renamed copy of a recording is still known as the same."""

    def __init__(self):
        self._hash = hashlib.blake2b(digest_size=12)

    def add(self, rows):
        """Go on with more rows of the traces, float32 (neuron, frame); returns self."""
        self._hash.update(np.ascontiguousarray(rows).view(np.uint8).data)
        return self

    def text(self):
        return self._hash.hexdigest()


def validate(ds):
    """Check a Session against the schema.

    Parameters
    ----------
    ds : xarray.Dataset
        See the head of this module.

    Returns
    -------
    xarray.Dataset
        `ds` itself.

    Raises
    ------
    SessionError
        Naming the dim or field, what was expected, what was found, and the mend.
    """
    name = signal_of(ds)
    if ds[name].dims != ("neuron", "frame"):
        raise SessionError(f"{name}: expected dims ('neuron', 'frame'), found {ds[name].dims}. Transpose it.")
    for attr in ("subject", "session", "rate_hz", "schema_version", "f0_floor"):
        if attr not in ds.attrs:
            raise SessionError(f"attrs: expected {attr}, found {sorted(ds.attrs)}. Build the Session with new_session().")
    if int(ds.attrs["schema_version"]) > SCHEMA_VERSION:
        raise SessionError(
            f"schema_version: expected at most {SCHEMA_VERSION}, found {ds.attrs['schema_version']}. "
            "The file was written by a newer qf_toolkit: update the toolkit, or import the recording again with this one."
        )
    for attr in ("subject", "session"):
        if not _KEY.match(str(ds.attrs[attr])):
            raise SessionError(f"{attr}: expected a name without slash or leading blank, found {ds.attrs[attr]!r}. Rename it at import.")
    rate = float(ds.attrs["rate_hz"])
    if not (np.isfinite(rate) and rate > 0):
        raise SessionError(f"rate_hz: expected a positive number of frames a second, found {rate}. Pass rate_hz at import.")
    if ds.sizes.get("neuron", 0) == 0:
        raise SessionError("neuron: expected at least 1 neuron, found 0. Check the ROI selection of the source (iscell in suite2p).")
    if "flag" not in ds.coords or ds["flag"].dims != ("neuron",):
        raise SessionError("flag: expected a coord on neuron, found none. Build the Session with new_session().")
    if ds.sizes["frame"] < 2:
        raise SessionError(f"frame: expected at least 2 frames, found {ds.sizes['frame']}.")
    time = ds["frame_time"].values if "frame_time" in ds.coords else None
    if time is None or time.shape != (ds.sizes["frame"],):
        raise SessionError(f"frame_time: expected a coord of {ds.sizes['frame']} seconds on frame, found {None if time is None else time.shape}.")
    step = np.diff(time)
    if not np.all(step > 0):
        raise SessionError(
            f"frame_time: expected increasing seconds, found {int((~(step > 0)).sum())} steps that are not, the first at frame {int(np.argmax(~(step > 0))) + 1}."
        )
    if abs(np.median(step) * rate - 1) > 0.02:
        raise SessionError(
            f"rate_hz: expected {1 / np.median(step):.4g} Hz, the rate of frame_time, found {rate:.4g}. Correct one of the two (are the times in seconds?)."
        )
    _check_unique(ds["neuron"].values, "neuron")
    _validate_trials(ds)
    return ds


def _check_unique(keys, dim):
    values, counts = np.unique(np.asarray(keys, dtype=str), return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1]
        raise SessionError(f"{dim}: expected unique keys, found {len(twice)} more than once, first {str(twice[0])!r}. Give each its own name.")


def _validate_trials(ds):
    for name in ("trial", *TRIAL_COORDS):
        if name not in ds.coords or ds[name].dims != ("trial",):
            raise SessionError(f"{name}: expected a coord on trial, found {ds[name].dims if name in ds.coords else 'none'}.")
    if ds.sizes["trial"] == 0:
        return
    _check_unique(ds["trial"].values, "trial")
    slash = [s for s in np.unique(ds["stimulus"].values.astype(str)) if "/" in s or not s]
    if slash:
        raise SessionError(f"stimulus: expected a name without slash, found {str(slash[0])!r}; a slash divides stimulus and features. Rename it.")
    taken = sorted(set(trial_features(ds)) & RESERVED)
    if taken:
        raise SessionError(f"trial: expected features with names of their own, found {taken[0]!r}. Rename it, for example to {taken[0]}_.")
    onset, offset, n = ds["onset_frame"].values, ds["offset_frame"].values, ds.sizes["frame"]
    outside = (onset < 0) | (onset >= n)
    if outside.any():
        raise SessionError(
            f"onset_frame: expected 0 to {n - 1}, the frames of the recording, found {int(outside.sum())} of {len(onset)} outside, "
            f"first {int(onset[outside][0])}. Are the onsets in seconds or at another rate? Use onset_s, or convert them."
        )
    if (offset <= onset).any():
        i = int(np.argmax(offset <= onset))
        raise SessionError(f"offset_frame: expected after the onset, found {int(offset[i])} for onset {int(onset[i])} in trial {i}.")
    pair = pd.DataFrame({"onset": onset, "stimulus": ds["stimulus"].values.astype(str)})
    if pair.duplicated().any():
        i = int(np.argmax(pair.duplicated()))
        raise SessionError(
            f"trial: expected one trial of a stimulus an onset, found frame {int(onset[i])} twice for {pair['stimulus'][i]}. Remove the duplicate rows."
        )


def trial_features(ds):
    """Names of the coords on `trial` that are features of the condition."""
    return [str(n) for n, c in ds.coords.items() if c.dims == ("trial",) and n not in TRIAL_COORDS and n != "trial"]


def trial_table(ds):
    """The trial table of a Session as a DataFrame, one row a trial, features as columns."""
    names = ["trial", *TRIAL_COORDS, *trial_features(ds)]
    return pd.DataFrame({n: ds[n].values for n in names})


def epoch_table(ds):
    """The stretches of each stimulus as a DataFrame: stimulus, start_frame, stop_frame (one past the last), block; empty where the source tells none."""
    names = ("stimulus", "start_frame", "stop_frame", "block")
    return pd.DataFrame({n: ds[f"epoch_{n}"].values if f"epoch_{n}" in ds.coords else [] for n in names})


def describe_flags(ds):
    """Counts of the flagged neurons by reason, for a log line; {} where none is."""
    reasons, counts = np.unique(ds["flag"].values.astype(str), return_counts=True)
    return {str(r): int(c) for r, c in zip(reasons, counts, strict=True) if r}
