"""The clock of a recording: the frame that a time falls in, and the jumps of the frames' times.

A recording may pause, or come as sweeps (cut trials). Then `frame_time` jumps, and no window crosses the jump.
"""

import warnings

import numpy as np

from ..errors import SessionError
from .schema import is_number

ON_THE_FRAME = 0.01  # frames: a time this little after a frame still belongs to it, since files round their times
JUMP = 1.5  # frames: a longer step of frame_time is a jump


def rate_of(rate_hz, frame_time=None):
    """The frame rate of a recording.

    Parameters
    ----------
    rate_hz : float or None
        Frames a second, if known.
    frame_time : array, shape (frame,), optional
        Seconds; used if `rate_hz` is None.

    Returns
    -------
    float
        `rate_hz`, or 1 / the median step of `frame_time`: the median ignores the jumps. Hz.

    Raises
    ------
    SessionError
        If neither gives a positive number.
    """
    if rate_hz is None and frame_time is not None and len(frame_time) > 1:
        rate_hz = 1 / np.median(np.diff(frame_time))
    if rate_hz is None or not is_number(rate_hz) or not np.isfinite(rate_hz) or rate_hz <= 0:
        raise SessionError(f"rate_hz: expected a positive number of frames a second, found {rate_hz!r}. Pass rate_hz (--rate).")
    return float(rate_hz)


def frames_at(seconds, rate_hz, frame_time=None):
    """The first frame at or after each time.

    Parameters
    ----------
    seconds : array, shape (n,)
        Times on the clock of `frame_time`.
    rate_hz : float or None
        Frames a second; may be None if `frame_time` is given.
    frame_time : array, shape (frame,), optional
        Seconds. If None, frame 0 is at 0 s and the frames are 1 / rate_hz apart.

    Returns
    -------
    int64 array, shape (n,)
        Indices of frames. A time after the last frame of `frame_time` gets the number of frames.

    Raises
    ------
    SessionError
        If no rate is known; see `rate_of`.

    Examples
    --------
    >>> frames_at([0.1, 0.11, 5.0], None, frame_time=[0, 0.1, 0.2, 5.0, 5.1]).tolist()
    [1, 2, 3]
    """
    rate = rate_of(rate_hz, frame_time)
    if frame_time is None:
        return np.ceil(np.asarray(seconds) * rate - ON_THE_FRAME).astype(np.int64)
    return np.searchsorted(np.asarray(frame_time), np.asarray(seconds) - ON_THE_FRAME / rate, side="left").astype(np.int64)


def jumps(frame_time, rate_hz):
    """Whether the times of two neighbouring frames are more than 1.5 frames apart: bool array, shape (frame - 1,)."""
    return np.diff(frame_time) > JUMP / rate_hz


def stretches(frame_time, rate_hz):
    """First and one-past-last frame of every stretch without a jump: int array, shape (stretch, 2).

    Examples
    --------
    >>> stretches(np.array([0, 0.1, 0.2, 5.0, 5.1]), 10.0).tolist()
    [[0, 3], [3, 5]]
    """
    starts = np.flatnonzero(jumps(frame_time, rate_hz)) + 1
    return np.stack([np.concatenate([[0], starts]), np.concatenate([starts, [len(frame_time)]])], 1)


def recorded_s(frame_time, rate_hz):
    """Seconds from the first frame to the last one; a jump counts as one step of 1 / rate_hz."""
    step = np.diff(frame_time)
    return float(frame_time[-1] - frame_time[0] - (step - 1 / rate_hz)[jumps(frame_time, rate_hz)].sum())


def outside_jumps(seconds, frame_time, name):
    """Find the times that lie outside every jump of `frame_time`; a warning counts the others.

    A time lies in a jump if the jump ends with a frame that comes at least one frame (1 / rate) after it. That frame may come minutes later, so that
    it does not show the response at the time.

    Parameters
    ----------
    seconds : array, shape (n,)
    frame_time : array, shape (frame,)
        Seconds.
    name : str
        The column or table that holds the times, for the warning.

    Returns
    -------
    bool array, shape (n,)
        True for a time outside every jump.
    """
    frame_time, seconds = np.asarray(frame_time), np.asarray(seconds)
    if len(frame_time) < 2:
        return np.ones(len(seconds), bool)
    rate = rate_of(None, frame_time)
    frame = frames_at(seconds, rate, frame_time)
    ends = np.clip(frame, 1, len(frame_time) - 1)
    inside = (frame == ends) & jumps(frame_time, rate)[ends - 1] & (frame_time[ends] - seconds >= 1 / rate)
    if inside.any():
        warnings.warn(
            f"{name}: left out {int(inside.sum())} of {len(seconds)} onsets that lie where the frames' times jump, first {seconds[inside][0]:g} s.",
            stacklevel=3,
        )
    return ~inside


def check_times(seconds, frame_time, name):
    """Refuse onsets that lie a frame or more before the first frame, or after the last one.

    Parameters
    ----------
    seconds : float array, shape (n,)
    frame_time : float array, shape (frame,)
        Seconds.
    name : str
        The column that holds the onsets, for the error.

    Raises
    ------
    SessionError
        If there are such onsets; the message states their number and the first of them.
    """
    period = np.median(np.diff(frame_time))
    first, last = frame_time[0] - period, frame_time[-1] + ON_THE_FRAME * period
    outside = ~((seconds > first) & (seconds <= last))
    if outside.any():
        raise SessionError(
            f"{name}: expected {frame_time[0]:g} to {frame_time[-1]:g} s, the span of the recording, found {int(outside.sum())} of {len(seconds)} onsets outside, "
            f"first {seconds[outside][0]:g}. Are they in seconds, on the clock of the frames? Mend or remove those trials."
        )
