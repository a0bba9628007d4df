"""The behaviour of an NWB 2 file: running speed, and the series of its behaviour modules that hold one number per sample, or events."""

import warnings

import numpy as np

from ...errors import QfError, did_you_mean
from ..behaviour import Behaviour
from ..hdf5 import whole
from ..schema import RESERVED

RUNNING = "running_speed"
_CM_PER_S = {
    **dict.fromkeys(("cm/s", "cm/sec", "cm s-1", "centimeters/second", "centimeters per second"), 1),
    **dict.fromkeys(("m/s", "m/sec", "m s-1", "meters/s", "meters/second", "meters per second"), 100), **dict.fromkeys(("mm/s", "mm s-1"), 0.1),
}  # fmt: skip
_NO_UNITS = ("", "n.a.", "na", "n/a", "none", "unknown", "a.u.")


def behaviour_of_file(file, wanted=None):
    """Read the behaviour of a file.

    Parameters
    ----------
    file : pynwb.NWBFile
    wanted : str, sequence of str or False, optional
        Names of the series to take. None takes all that can be taken, False takes none.

    Returns
    -------
    taken : dict of str to Behaviour
        `running_speed` in cm/s, from any module, and every series with one number per sample from the modules whose name begins with "behav". A
        series counts as events if it lies in a BehavioralEvents, has times but no data, or is a table of events.
    ignored : list of str
        The series that were not taken, with the reason: "name (reason)", or only the name if it was not wanted.

    Raises
    ------
    QfError
        If a wanted series is not in the file, or can't be taken.
    """
    found = _series_of(file)
    wanted = None if wanted is None else [] if wanted is False else [wanted] if isinstance(wanted, str) else list(wanted)
    for name in wanted or ():
        if name not in found:
            hint = did_you_mean(name, sorted(found)) if found else "it holds none. Leave the option out"
            raise QfError(f"behaviour: no series {name!r} in the file; {hint}")
    taken, ignored = {}, []
    for name, (series, is_events) in found.items():
        if wanted is not None and name not in wanted:
            ignored.append(name)
            continue
        read = _read(name, series, is_events)
        if isinstance(read, Behaviour):
            taken[name] = read
        elif wanted is not None:
            raise QfError(f"behaviour: expected one number a sample at increasing times in {name}, found {read}. Leave it out.")
        else:
            ignored.append(f"{name} ({read})")
            if name == RUNNING:
                warnings.warn(f"{name}: expected a speed in cm/s or m/s, found {read}; left out.", stacklevel=2)
    return taken, ignored


def free_name(name, ds):
    """A name that a behaviour can have in the Session `ds`: `name`, with an underscore at its end if `name` is taken there."""
    return f"{name}_" if name in RESERVED or name in ds.variables or name in ds.dims else name


def _series_of(file):
    """Map names to (series, whether it holds events). If two series share a name, the later one gets the name of its container before its own."""
    from pynwb import TimeSeries
    from pynwb.behavior import BehavioralEvents

    found = {name: (table, True) for name, table in (getattr(file, "events", None) or {}).items()}  # since NWB 2.10
    for module_name, module in file.processing.items():
        for item in module.data_interfaces.values():
            inside = [s for group in ("time_series", "spatial_series", "interval_series") for s in getattr(item, group, {}).values()]
            for series in inside or [item]:
                if series.name == RUNNING and isinstance(series, TimeSeries) and RUNNING not in found:
                    found[RUNNING] = series, False
                elif module_name.lower().startswith("behav") and series.name != RUNNING:
                    name = f"{item.name}_{series.name}" if series.name in found else series.name
                    times_alone = getattr(series, "timestamps", None) is not None and getattr(series, "data", None) is None
                    found[name] = series, times_alone or isinstance(item, BehavioralEvents)
    return found


def _read(name, series, is_events):
    """The Behaviour of a series; if it can't be taken, a str with the reason."""
    data, times = getattr(series, "data", None), getattr(series, "timestamps", None)
    if "timestamp" in getattr(series, "colnames", ()):  # a table of events
        times = series["timestamp"].data
    if data is None and not (is_events and times is not None):
        return "no series"
    if data is not None and np.ndim(data) != 1:
        return f"{np.ndim(data)} dims"
    values = None if data is None else whole(data, name)
    if values is not None and values.dtype.kind not in "biuf":
        return f"values of type {values.dtype}"
    units = str(getattr(series, "unit", "") or "").strip()
    factor = 1
    if name == RUNNING:
        unit = units.lower().replace(" / ", "/")
        if unit not in _CM_PER_S:
            return repr(unit)
        units, factor = "cm/s", _CM_PER_S[unit]
    if values is not None:
        values = values.astype(np.float32) * np.float32(factor * (series.conversion or 1)) + np.float32(getattr(series, "offset", 0) or 0)
    if times is not None:
        seconds = whole(times, name).astype(np.float64)
    elif series.rate:
        seconds = float(series.starting_time or 0) + np.arange(len(values)) / float(series.rate)
    else:
        return "neither times nor a rate"
    if values is not None and len(seconds) != len(values):
        return f"{len(seconds)} times for {len(values)} values"
    step = np.diff(seconds)
    if not np.isfinite(seconds).all() or not (step >= 0 if is_events else step > 0).all():
        return "times that do not increase"
    return Behaviour(values, seconds, "" if units.lower() in _NO_UNITS else units, is_events)
