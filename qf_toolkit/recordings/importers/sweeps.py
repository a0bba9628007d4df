"""Recordings that come as cut trials (sweeps). They become one Session whose `frame_time` jumps between sweeps; each sweep holds one trial."""

import numpy as np
import pandas as pd

from ...errors import QfError, SessionError
from ..clock import frames_at, rate_of
from ..session import check_columns, is_number

FEWEST = 3  # frames of a sweep: with fewer, the median step of the frames' times would not give the rate
_TIMES = ("onset_frame", "offset_frame", "onset_s", "offset_s")


def join_sweeps(traces, sweep_frames=None):
    """Join the traces of sweeps, one sweep after another.

    Parameters
    ----------
    traces : array, shape (trial, neuron, time) or (neuron, trial * time)
    sweep_frames : int, optional
        Frames of each sweep; may be None if `traces` has three dims.

    Returns
    -------
    traces : array, shape (neuron, trial * time)
    n_sweeps, sweep_frames : int

    Raises
    ------
    SessionError
        If the traces do not consist of whole sweeps of at least 3 frames.
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
    """Times of the frames of sweeps whose pauses are unknown, in seconds: float64 array (n_sweeps * sweep_frames,).

    Each pause is made as long as a sweep. Raises SessionError if `rate_hz` is not a positive number.
    """
    return (np.arange(n_sweeps)[:, None] * 2 * sweep_frames + np.arange(sweep_frames)).ravel() / rate_of(rate_hz)


def sweep_trials(table, onset, rate_hz, n_sweeps, sweep_frames):
    """Make the trial table of sweeps. The onset is at the same frame of every sweep.

    Parameters
    ----------
    table : pandas.DataFrame or None
        One row per sweep, in their order, with the features of its condition. If None, all sweeps get the condition "all".
    onset : float or array, shape (time,)
        Seconds from the beginning of a sweep to its onset; or the times of a sweep's frames in seconds, 0 at the onset.
    rate_hz : float
        Frames a second.
    n_sweeps, sweep_frames : int

    Returns
    -------
    pandas.DataFrame
        `table` with a column onset_frame.

    Raises
    ------
    QfError
        If the onset lies outside the sweep, or is neither of the two.
    SessionError
        If the table does not have one row per sweep, or has onsets of its own.
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
    """Convert behaviour of sweeps to the form that `new_session` takes: arrays (trial, time) are flattened, everything else stays."""
    shape = (n_sweeps, sweep_frames)
    return {name: np.ravel(given) if not isinstance(given, tuple) and np.shape(given) == shape else given for name, given in behaviour.items()}
