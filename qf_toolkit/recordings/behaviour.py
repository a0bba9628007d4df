"""Behaviour beside the traces: running speed, pupil, licks... A Session keeps each on a clock of its own and aligns it to the frames on use.

In a Session a behaviour is a variable `NAME (NAME_time)` float32 with the coord `NAME_time` in seconds, on the clock of `frame_time`. The attr
`units` is there if the units are known. The attr `kind="events"` marks events (licks, rewards), which happen at points in time and are not sampled.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from ..errors import SessionError, UnknownKeyError, did_you_mean
from .clock import JUMP, frames_at
from .schema import RESERVED, check_variable_name

_DIMS = {"running_speed": "running_time"}  # as in Visual Coding; any other NAME has the dim NAME_time
_OTHER_DIMS = ("neuron", "frame", "trial", "epoch")


class Behaviour(NamedTuple):
    """A behaviour as it was recorded.

    Attributes
    ----------
    values : array, shape (sample,), or None
        Samples, NaN if missing. For events, the weight of each event; None gives each the weight 1.
    seconds : array, shape (sample,), or None
        Times of the samples on the clock of `frame_time`, increasing. None means one value per frame.
    units : str
        "" if unknown.
    events : bool
        Whether these are events. If `values` is None, they always are.
    """

    values: np.ndarray | None
    seconds: np.ndarray | None = None
    units: str = ""
    events: bool = False


def with_behaviour(ds, behaviour):
    """Add behaviour to a Session.

    Parameters
    ----------
    ds : xarray.Dataset
        A Session.
    behaviour : mapping of str to array, tuple or Behaviour
        Each name maps to an array of values (frame,), or to a tuple with the first fields of `Behaviour`: (values, seconds, ...). Events are
        (None, seconds).

    Returns
    -------
    xarray.Dataset
        A copy of `ds` with one variable for each behaviour, float32, and its times, float64 seconds.

    Raises
    ------
    SessionError
        If a name is taken, values or seconds are not numbers, their lengths differ, or the seconds do not increase.
    """
    if not isinstance(behaviour, Mapping):
        raise SessionError(f"behaviour: expected a mapping of names to arrays, found {type(behaviour).__name__}. Pass a dict.")
    for name, given in behaviour.items():
        check_variable_name(name, "behaviour")
        dim = _DIMS.get(name, f"{name}_time")
        if {name, dim} & {*RESERVED, *map(str, ds.variables)} or name in ds.dims:
            raise SessionError(f"behaviour: expected a name of its own, found {name!r}, which says something else in a Session. Rename it.")
        found = _checked(name, given, ds["frame_time"].values)
        attrs = ({"units": str(found.units)} if found.units else {}) | ({"kind": "events"} if found.events else {})
        ds = ds.assign({name: (dim, found.values, attrs)}).assign_coords({dim: found.seconds})
    return ds


def _checked(name, given, frame_time):
    """Convert one given behaviour to a Behaviour with float32 values and float64 seconds; raise SessionError if it does not fit."""
    try:
        given = Behaviour(*given) if isinstance(given, tuple) else Behaviour(given)
        if given.values is None and given.seconds is None:
            raise ValueError("neither values nor seconds")
        events = given.events or given.values is None
        seconds = np.asarray(frame_time if given.seconds is None else given.seconds).astype(np.float64)
        values = np.ones(seconds.shape, np.float32) if given.values is None else np.ma.filled(np.ma.asarray(given.values, np.float32), np.nan)
    except (TypeError, ValueError) as e:
        raise SessionError(f"behaviour: expected numbers for {name}, found {e}. Convert them first.") from e
    if values.ndim != 1 or values.shape != seconds.shape:
        raise SessionError(
            f"behaviour: expected {len(frame_time)} values of {name}, one a frame, or (values, seconds) of one length, "
            f"found shapes {values.shape} and {seconds.shape}. Pass the seconds of its own samples."
        )
    step = np.diff(seconds)
    if not np.isfinite(seconds).all() or not (step >= 0 if events else step > 0).all():
        raise SessionError(f"behaviour: expected increasing seconds for {name}, found others. Sort its samples, or leave those without a time out.")
    return Behaviour(values, seconds, given.units, events)


def behaviour_of(ds):
    """Names of the behaviours in a Session, a sorted list of str."""
    one_dim = {str(name): variable.dims[0] for name, variable in ds.data_vars.items() if len(variable.dims) == 1}
    return sorted(name for name, dim in one_dim.items() if dim not in _OTHER_DIMS and dim in ds.coords)


def aligned(ds, wanted=True):
    """Align the behaviour of a Session to its frames.

    Samples are interpolated linearly to `frame_time`. If two samples are more than 1.5 of their median steps and more than 1.5 frames apart, the
    behaviour counts as not recorded between them. An event counts in the first frame at or after it, like the onset of a trial. An event in a jump
    of `frame_time` counts in no frame.

    Parameters
    ----------
    ds : xarray.Dataset
        A Session.
    wanted : str, sequence of str or bool
        Names of behaviours; True takes all, False none.

    Returns
    -------
    dict of str to xarray.Variable
        float32 (frame), with the attrs `units` and `kind`. NaN in frames where the behaviour was not recorded, also before its first and after
        its last sample.

    Raises
    ------
    UnknownKeyError
        If the Session lacks a wanted behaviour; the message lists those that it has.
    SessionError
        If the times of a sampled behaviour do not increase.
    """
    known = behaviour_of(ds)
    names = (known if wanted else []) if isinstance(wanted, bool) else [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in known:
            there = did_you_mean(name, known) if known else "it has none. Bring some in at import"
            raise UnknownKeyError(f"behaviour: {name!r} is not in {ds.attrs['subject']}/{ds.attrs['session']}; {there}")
    time, rate = ds["frame_time"].values, float(ds.attrs["rate_hz"])
    return {
        name: xr.Variable("frame", _at_frames(name, ds[name].variable, ds[ds[name].dims[0]].values, time, rate), ds[name].attrs) for name in names
    }


def _at_frames(name, variable, seconds, time, rate_hz):
    values = variable.values.astype(np.float64)
    if variable.attrs.get("kind") == "events":
        frame = frames_at(seconds, rate_hz, time)
        here = frame < len(time)
        here[here] = time[frame[here]] - seconds[here] < JUMP / rate_hz
        return np.bincount(frame[here], values[here], len(time)).astype(np.float32)
    if not (np.diff(seconds) > 0).all():
        raise SessionError(f"{name}: expected increasing seconds, found others. Import the recording again, with its samples in order.")
    out = np.full(len(time), np.nan)
    if len(seconds):
        out = np.interp(time, seconds, values, left=np.nan, right=np.nan)
    if len(seconds) > 1:
        step = np.diff(seconds)
        after = np.clip(np.searchsorted(seconds, time), 1, len(seconds) - 1)
        apart = step[after - 1] > JUMP * max(np.median(step), 1 / rate_hz)
        out[apart & (seconds[after] > time) & (seconds[after - 1] < time)] = np.nan
    return out.astype(np.float32)
