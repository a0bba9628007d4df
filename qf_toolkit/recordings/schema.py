"""The schema of one Session: a continuous two-photon recording and its trial table, as an `xarray.Dataset`.

dims and variables
    fluorescence (neuron, frame)  float32, raw or neuropil-corrected, positive arbitrary units; or, where only that exists,
    dff          (neuron, frame)  float32, dF/F as a fraction (0.1 = 10 %)
coords
    neuron     (neuron)  str, key `subject/cell`, or `subject/session/cell` where cells are not matched across sessions
    flag       (neuron)  str, the reason for which `trials()` leaves the neuron out: "" (kept), "nan", "constant", "silent", "tiny_f0"
    frame_time (frame)   float64, seconds
    trial      (trial)   int64, 0, 1, 2... in order of onset
    onset_frame, offset_frame (trial)  int64; the stimulus is on in frames onset <= frame < offset
    stimulus   (trial)   str, the stimulus category, for example drifting_gratings
    condition  (trial)   str, key `stimulus/feature=value,...`; a blank sweep is `stimulus/blank`
    block      (trial)   int64, the sub-session, 0, 1, 2...
    any other coord on `trial` is a feature of the condition (orientation in degrees, temporal_frequency in Hz...)
if the source has them
    NAME (NAME_time)              float32, a behaviour (pupil, licks...), NAME_time in seconds on the clock of frame_time, increasing; attrs: units,
        and kind="events" for events, which happened at those times and were not sampled
    running_speed (running_time)  float32, running speed, cm/s; otherwise like any behaviour
    x, y (neuron)                 centre of the ROI, pixels (column, row)
    epoch_stimulus, epoch_start_frame, epoch_stop_frame, epoch_block (epoch)  stretches of each stimulus, also of stimuli without trials
        (natural movies, spontaneous activity), in frames start <= frame < stop
attrs
    subject, session, rate_hz, signal, indicator, area, source, provenance, fingerprint, f0_floor, schema_version, and further facts of the source
    sweep_frames   frames of each sweep, if the recording came as cut trials
    ignored_columns, ignored_behaviour   columns and behaviours of the source that the Session leaves out: "name (reason), ..."
"""

import numbers
import re
from typing import TypeGuard

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import SessionError

SCHEMA_VERSION = 1
SIGNALS = ("fluorescence", "dff")
TRIAL_COORDS = ("onset_frame", "offset_frame", "stimulus", "condition", "block")
EPOCH_COORDS = ("epoch_stimulus", "epoch_start_frame", "epoch_stop_frame", "epoch_block")
# names with a meaning of their own in a Session, a trial table or a dataset of windows; a feature with such a name gets an underscore at its end
RESERVED = {
    "trial", *TRIAL_COORDS, "neuron", "frame", "time", "frame_time", "flag", "plane", "session", "subject", "sample", "patch", "code",
    *SIGNALS, "zscore", "valid", "n_score", "active", "forecast", "samples", "probability", "reconstruction",
}  # fmt: skip
MAX_BLOCK = 2**31
_KEY = re.compile(r"^[^/\s][^/]*$")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HOW = "Build the Session with new_session()."


def signal_of(ds):
    """The name of the traces in a Session: "fluorescence" or "dff"; raises SessionError if it holds neither."""
    for name in SIGNALS:
        if name in ds.variables:
            return name
    raise SessionError(
        f"traces: expected a variable fluorescence or dff with dims (neuron, frame), found {sorted(map(str, ds.data_vars)) or 'none'}."
    )


def session_key(ds):
    """`subject/session`, the key of a Session in its store."""
    return f"{ds.attrs['subject']}/{ds.attrs['session']}"


def trial_features(ds):
    """Names of the coords on `trial` that are features of the condition, a list of str."""
    return [str(n) for n in ds.coords if ds.variables[n].dims == ("trial",) and n not in TRIAL_COORDS and n != "trial"]


def trial_table(ds):
    """The trial table of a Session as a DataFrame, with one row per trial and one column per feature."""
    names = ["trial", *TRIAL_COORDS, *trial_features(ds)]
    return pd.DataFrame({n: ds.variables[n].values for n in names})


def epoch_table(ds):
    """The stretches of each stimulus as a DataFrame, empty if the source has none.

    Its columns are stimulus, start_frame, stop_frame (one past the last frame) and block.
    """
    return pd.DataFrame({n.removeprefix("epoch_"): ds.variables[n].values if n in ds.coords else [] for n in EPOCH_COORDS})


def check_variable_name(name, what="trials"):
    """Refuse a name that no variable of a netCDF file can have.

    Raises
    ------
    SessionError
        If the name is not text, is blank or ".", or holds a slash or a control character. The message begins with `what`.
    """
    if not isinstance(name, str) or not name.strip() or name == "." or "/" in name or _UNPRINTABLE.search(name):
        raise SessionError(
            f"{what}: expected columns with names that a file can hold, found {name!r}. Rename it: text without slash or control characters, not '.'."
        )


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
        If `ds` breaks the schema; the message names the dim or field, what was expected, what was found, and how to mend it.
    """
    if not isinstance(ds, xr.Dataset):
        raise SessionError(f"session: expected a Session (xarray.Dataset), found {type(ds).__name__}. {_HOW}")
    name = signal_of(ds)
    traces = ds.variables[name]
    if traces.dims != ("neuron", "frame"):
        raise SessionError(f"{name}: expected dims ('neuron', 'frame'), found {traces.dims}. Transpose it.")
    if traces.dtype != np.float32:
        raise SessionError(f"{name}: expected numbers as float32, found {traces.dtype}. Pass them to new_session(), which converts real numbers.")
    _validate_attrs(ds.attrs)
    for variable in ds.variables:
        check_variable_name(variable, "variables")
    if ds.sizes["neuron"] == 0:
        raise SessionError("neuron: expected at least 1 neuron, found 0. Check the ROI selection of the source (iscell in suite2p).")
    for key, kind in {"neuron": "text", "flag": "text"}.items():
        _check_coord(ds, key, "neuron", kind)
    if ds.sizes["frame"] < 2:
        raise SessionError(f"frame: expected at least 2 frames, found {ds.sizes['frame']}.")
    _validate_time(ds)
    _check_unique(ds.variables["neuron"].values, "neuron")
    _validate_trials(ds)
    _validate_epochs(ds)
    return ds


def _validate_attrs(attrs):
    for attr in ("subject", "session", "rate_hz", "schema_version", "f0_floor"):
        if attr not in attrs:
            raise SessionError(f"attrs: expected {attr}, found {sorted(map(str, attrs))}. {_HOW}")
    for attr in ("schema_version", "rate_hz", "f0_floor"):
        value = attrs[attr]
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise SessionError(f"{attr}: expected a number, found {value!r}. {_HOW}")
    version, rate, floor = attrs["schema_version"], float(attrs["rate_hz"]), float(attrs["f0_floor"])
    if version not in range(1, SCHEMA_VERSION + 1):
        newer = version > SCHEMA_VERSION
        raise SessionError(
            f"schema_version: expected at {'most' if newer else 'least'} {SCHEMA_VERSION if newer else 1}, found {version}. "
            + (
                "The file was written by a newer qf_toolkit: update the toolkit, or import the recording again with this one."
                if newer
                else "Import the recording again."
            )
        )
    for attr in ("subject", "session"):
        check_key(attr, attrs[attr])
    if not (np.isfinite(rate) and rate > 0):
        raise SessionError(f"rate_hz: expected a positive number of frames a second, found {rate}. Pass rate_hz at import.")
    if not (np.isfinite(floor) and floor >= 0):
        raise SessionError(f"f0_floor: expected a number of at least 0, found {floor}. {_HOW}")


def check_key(attr, name):
    """Refuse the name of a subject or a session that can't be part of a key or of a file's name.

    Raises
    ------
    SessionError
        If it is not printable text, is "." or "..", begins with a blank, or holds a slash. The message begins with `attr`.
    """
    if not isinstance(name, str) or not _KEY.match(name) or _UNPRINTABLE.search(name) or name in (".", ".."):
        raise SessionError(
            f"{attr}: expected a name without slash or leading blank, printable and other than . and .., found {name!r}. Rename it at import."
        )


def _validate_time(ds):
    n, rate = ds.sizes["frame"], float(ds.attrs["rate_hz"])
    time = ds.variables["frame_time"].values if "frame_time" in ds.coords else None
    if time is None or time.shape != (n,):
        raise SessionError(f"frame_time: expected a coord of {n} seconds on frame, found {None if time is None else time.shape}.")
    if time.dtype.kind not in "fiu":
        raise SessionError(f"frame_time: expected seconds as numbers, found {time.dtype}. Convert them to seconds from the start.")
    step = np.diff(time)
    if not np.all(step > 0):
        raise SessionError(
            f"frame_time: expected increasing seconds, found {int((~(step > 0)).sum())} steps that are not, the first at frame {int(np.argmax(~(step > 0))) + 1}."
        )
    if not np.isfinite(time).all():
        raise SessionError(f"frame_time: expected finite seconds, found {int((~np.isfinite(time)).sum())} that are not.")
    middle = np.median(step)
    if abs(middle * rate - 1) > 0.02:
        raise SessionError(
            f"rate_hz: expected {1 / middle:.4g} Hz, the rate of frame_time, found {rate:.4g}. Correct one of the two (are the times in seconds?)."
        )


def _check_coord(ds, name, dim, kind):
    """Refuse a coord that is missing, on other dims, or of another kind: "text", "whole" or "value" (text or real numbers)."""
    if name not in ds.coords or ds.variables[name].dims != (dim,):
        raise SessionError(f"{name}: expected a coord on {dim}, found {ds.variables[name].dims if name in ds.coords else 'none'}. {_HOW}")
    values = ds.variables[name].values
    good = {"text": is_text(values), "whole": values.dtype.kind in "iu", "value": values.dtype.kind in "fiub" or is_text(values)}[kind]
    if not good and len(values):  # an empty table has no types
        wanted = {"text": "text", "whole": "whole numbers", "value": "real numbers or text"}[kind]
        example = next((v for v in values.tolist() if not isinstance(v, str)), None)
        raise SessionError(f"{name}: expected {wanted}, found {values.dtype}, for example {example!r}. {_HOW}")


def is_number(value) -> TypeGuard[float]:
    """Whether a value is a real number and not a bool."""
    return isinstance(value, numbers.Real | np.number) and not isinstance(value, bool | np.bool_ | np.complexfloating)


def is_text(values):
    """Whether every element of an array is text."""
    return values.dtype.kind == "U" or (values.dtype.kind == "O" and all(isinstance(v, str) for v in values.tolist()))


def _check_unique(keys, dim):
    if len(set(keys.tolist())) < len(keys):
        values, counts = np.unique(np.asarray(keys, dtype=str), return_counts=True)
        twice = values[counts > 1]
        raise SessionError(f"{dim}: expected unique keys, found {len(twice)} more than once, first {str(twice[0])!r}. Give each its own name.")


def _validate_trials(ds):
    for name in ("trial", "onset_frame", "offset_frame", "block"):
        _check_coord(ds, name, "trial", "whole")
    for name in ("stimulus", "condition"):
        _check_coord(ds, name, "trial", "text")
    if ds.sizes["trial"] == 0:
        return
    _check_unique(ds.variables["trial"].values, "trial")
    stimulus, condition, block = (ds.variables[n].values.astype(object) for n in ("stimulus", "condition", "block"))
    slash = sorted({s for s in stimulus if "/" in s or not s})
    if slash:
        raise SessionError(f"stimulus: expected a name without slash, found {slash[0]!r}; a slash divides stimulus and features. Rename it.")
    other = [c for s, c in zip(stimulus, condition, strict=True) if not c.startswith(f"{s}/")]
    if other:
        raise SessionError(f"condition: expected keys that begin with their stimulus and a slash, found {other[0]!r}. {_HOW}")
    features = trial_features(ds)
    taken = sorted(set(features) & RESERVED)
    if taken:
        raise SessionError(f"trial: expected features with names of their own, found {taken[0]!r}. Rename it, for example to {taken[0]}_.")
    for name in features:
        _check_coord(ds, name, "trial", "value")
    onset, offset, n = ds.variables["onset_frame"].values, ds.variables["offset_frame"].values, ds.sizes["frame"]
    outside = (onset < 0) | (onset >= n)
    if outside.any():
        raise SessionError(
            f"onset_frame: expected 0 to {n - 1}, the frames of the recording, found {int(outside.sum())} of {len(onset)} outside, "
            f"first {int(onset[outside][0])}. Are the onsets in seconds or at another rate? Use onset_s, or convert them."
        )
    if (offset <= onset).any():
        i = int(np.argmax(offset <= onset))
        raise SessionError(f"offset_frame: expected after the onset, found {int(offset[i])} for onset {int(onset[i])} in trial {i}.")
    far = [int(b) for b in block if not 0 <= b < MAX_BLOCK]
    if far:
        raise SessionError(f"block: expected whole numbers from 0 on, found {far[0]} ({len(far)} such trials). Number the sub-sessions 0, 1, 2...")
    seen = set()
    for pair in zip(onset.tolist(), stimulus, strict=True):
        if pair in seen:
            raise SessionError(
                f"trial: expected one trial of a stimulus an onset, found frame {pair[0]} twice for {pair[1]}. Remove the duplicate rows."
            )
        seen.add(pair)


def _validate_epochs(ds):
    if not any(n in ds.coords for n in EPOCH_COORDS):
        return
    for name in EPOCH_COORDS:
        _check_coord(ds, name, "epoch", "text" if name == "epoch_stimulus" else "whole")
    start, stop = ds.variables["epoch_start_frame"].values, ds.variables["epoch_stop_frame"].values
    wrong = (start < 0) | (stop <= start)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise SessionError(f"epoch: expected start_frame 0 or later and stop_frame after it, found {int(start[i])} and {int(stop[i])} in epoch {i}.")
