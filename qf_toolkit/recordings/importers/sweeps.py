"""Recordings that come as cut trials (sweeps): one Session whose `frame_time` jumps between them, with a trial in each."""

import numpy as np
import pandas as pd

from ...errors import QfError, SessionError
from ..clock import frames_at, rate_of
from ..session import check_columns, is_number

FEWEST = 3  # frames a sweep: the rate is the median step of the frames' times
_TIMES = ("onset_frame", "offset_frame", "onset_s", "offset_s")


def join_sweeps(traces, sweep_frames=None):
    """Traces of sweeps, one after another.

    Parameters
    ----------
    traces : array, shape (trial, neuron, time) or (neuron, trial * time)
    sweep_frames : int, optional
        Frames a sweep; may be left out where `traces` has three dims.

    Returns
    -------
    traces : array, shape (neuron, trial * time)
    n_sweeps, sweep_frames : int

    Raises
    ------
    SessionError
        If the traces are no whole sweeps of at least 3 frames.
    """
    traces = np.asanyarray(traces)
    if traces.ndim == 3:
        if sweep_frames not in (None, traces.shape[2]):
            raise SessionError(f"sweep_frames: expected {traces.shape[2]}, the length of axis time, found {sweep_frames!r}. Leave it out.")
        sweep_frames = traces.shape[2]
        traces = traces.swapaxes(0, 1).reshape(traces.shape[1], -1)
    whole = is_number(sweep_frames) and float(sweep_frames).is_integer() and int(sweep_frames) >= FEWEST
    if traces.ndim != 2 or not whole or traces.shape[1] % int(sweep_frames) or not traces.size:
        raise SessionError(
            f"sweep_frames: expected whole sweeps of at least {FEWEST} frames, found traces of shape {traces.shape} and {sweep_frames!r} frames a "
            "sweep. Pass (trial, neuron, time), or (neuron, trial * time) and the frames of a sweep."
        )
    return traces, traces.shape[1] // int(sweep_frames), int(sweep_frames)


def sweep_time(n_sweeps, sweep_frames, rate_hz):
    """Seconds of the frames of sweeps whose pauses are not known: each pause is as long as a sweep. float64 (n_sweeps * sweep_frames,)."""
    return (np.arange(n_sweeps)[:, None] * 2 * sweep_frames + np.arange(sweep_frames)).ravel() / rate_of(rate_hz)


def sweep_trials(table, onset, rate_hz, n_sweeps, sweep_frames):
    """The trial table of sweeps: the onset of each at the same frame of it.

    Parameters
    ----------
    table : pandas.DataFrame or None
        A row a sweep, in their order, with what was shown; None where that is not known.
    onset : float or array, shape (time,)
        Seconds from the beginning of a sweep to its onset; or the seconds of a sweep's frames, 0 at the onset.
    rate_hz : float
    n_sweeps, sweep_frames : int

    Returns
    -------
    pandas.DataFrame
        With onset_frame.

    Raises
    ------
    QfError
        If the onset is outside the sweep.
    SessionError
        If the table has not a row a sweep, or has onsets of its own.
    """
    table = pd.DataFrame({"condition": ["all"] * n_sweeps}) if table is None else table.reset_index(drop=True)
    check_columns(table)
    if len(table) != n_sweeps:
        raise SessionError(f"trials: expected a row for each of {n_sweeps} sweeps, in their order, found {len(table)}. Mend the table.")
    own = [name for name in _TIMES if name in table]
    if own:
        raise SessionError(f"trials: expected no column {own[0]} beside sweeps, whose onset is that of sweep_onset (--sweep-onset). Remove it.")
    if is_number(onset):
        frame = int(frames_at([onset], rate_hz)[0]) if np.isfinite(onset) else -1
        found = f"{onset:g} s"
    else:
        seconds = np.asarray(onset)
        if seconds.shape != (sweep_frames,) or seconds.dtype.kind not in "fiu" or not (np.diff(seconds) > 0).all():
            raise QfError(
                f"sweep_onset: expected seconds from the beginning of a sweep, or the {sweep_frames} increasing seconds of its frames, "
                f"found {'none' if onset is None else seconds.dtype} of shape {seconds.shape}. Pass a number (--sweep-onset 1)."
            )
        step = float(np.median(np.diff(seconds)))
        if abs(step * rate_hz - 1) > 0.02:
            raise QfError(f"sweep_onset: expected frames at {rate_hz:g} Hz, found seconds at {1 / step:.4g} Hz. Correct one of the two.")
        frame = int(frames_at([0.0], rate_hz, seconds)[0]) if seconds[0] <= 0 else -1
        found = f"{seconds[0]:g} to {seconds[-1]:g} s"
    if not 0 <= frame < sweep_frames:
        raise QfError(f"sweep_onset: expected an onset inside the {sweep_frames / rate_hz:g} s of a sweep, found {found}. Pass its seconds.")
    return table.assign(onset_frame=np.arange(n_sweeps) * sweep_frames + frame)


def flat_behaviour(behaviour, n_sweeps, sweep_frames):
    """Behaviour as `new_session` takes it: arrays (trial, time) one sweep after another; others stay."""
    shape = (n_sweeps, sweep_frames)
    return {name: np.ravel(given) if not isinstance(given, tuple) and np.shape(given) == shape else given for name, given in behaviour.items()}
