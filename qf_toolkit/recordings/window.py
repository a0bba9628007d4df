"""The window around an onset: its lengths, and what is computed from one (dF/F, the label of activity).

Nothing after the onset enters F0 or any other normalisation of the baseline.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from ..errors import QfError
from .options import WindowOptions
from .schema import signal_of

SIGNAL_LABELS = {"dff": "dF/F", "zscore": "z-score"}  # on axes
F0_S = 2.0  # of the baseline's end, where it is that long
PAPER_SCORE_S = {
    "drifting_gratings": 2.0, "static_gratings": 0.5, "natural_scenes": 0.5, "locally_sparse_noise": 0.5, "locally_sparse_noise_4deg": 0.5,
    "locally_sparse_noise_8deg": 0.5,
}  # fmt: skip
"""The response window of each stimulus, seconds from the onset on (paper Table A-1)."""


@dataclass(frozen=True)
class Window(WindowOptions):
    """Lengths of an observation, and what is computed from it. Seconds at the surface, frames inside.

    Examples
    --------
    >>> Window(baseline_s=3.0, response_s=2.0, f0_s=1.0).score_s
    2.0
    >>> Window(baseline_s=1, f0_s=2)
    Traceback (most recent call last):
    qf_toolkit.errors.QfError: f0_s: expected at most baseline_s = 1 s, found 2. Shorten f0_s.

    Raises
    ------
    QfError
        If a length is out of range, or they don't fit together.
    """

    def __post_init__(self):
        super().__post_init__()
        f0_s = min(F0_S, self.baseline_s) if self.f0_s is None else self.f0_s
        object.__setattr__(self, "f0_s", f0_s)
        if self.score_s is None:
            object.__setattr__(self, "score_s", self.response_s)
        if f0_s > self.baseline_s:
            raise QfError(f"f0_s: expected at most baseline_s = {self.baseline_s} s, found {f0_s}. Shorten f0_s.")
        if isinstance(self.score_s, int | float) and self.score_s > self.response_s:
            raise QfError(f"score_s: expected at most response_s = {self.response_s} s, found {self.score_s}. Shorten score_s.")

    def frames(self, rate_hz):
        """(baseline, response, f0) in frames, each at least 1."""
        return tuple(max(1, round(s * rate_hz)) for s in (self.baseline_s, self.response_s, self.f0_s))

    def score_frames(self, rate_hz, stimuli):
        """Frames from the onset on that are labelled and scored, an int array with one for each of `stimuli`; at least 1."""
        if self.score_s != "paper":
            return np.full(len(stimuli), max(1, round(self.score_s * rate_hz)))
        return np.array([max(1, round(PAPER_SCORE_S.get(s, self.response_s) * rate_hz)) for s in stimuli], int)

    def check_stimuli(self, stimuli):
        """Refuse a response shorter than the paper's window of one of `stimuli`; warn of those that the paper has no window of."""
        if self.score_s != "paper":
            return
        short = {s: PAPER_SCORE_S[s] for s in stimuli if PAPER_SCORE_S.get(s, 0) > self.response_s}
        for name, seconds in short.items():
            raise QfError(
                f"response_s: expected at least {seconds:g} s, the paper's window of {name}, found {self.response_s:g}. Lengthen it, or pass score_s in seconds."
            )
        unknown = sorted(set(stimuli) - PAPER_SCORE_S.keys())
        if unknown:
            warnings.warn(f"score_s: the paper has no window of {', '.join(unknown)} (Table A-1): all of the response is scored there.", stacklevel=4)


def saved_window(note):
    """The Window that config.json of a model holds; score_s is 2 in models that don't say."""
    return Window(**{"score_s": 2.0, **note})


def gather(traces, neurons, starts, length):
    """Windows of continuous traces, by indexing alone.

    Parameters
    ----------
    traces : array, shape (neuron, frame)
    neurons : int array, shape (n,)
        Rows of `traces`.
    starts : int array, shape (trial,)
        First frame of each window.
    length : int
        Frames a window.

    Returns
    -------
    array, shape (trial, n, length)
    """
    frames = np.asarray(starts)[:, None] + np.arange(length)
    return traces[np.asarray(neurons)[None, :, None], frames[:, None, :]]


def window_dff(x, n_baseline, n_f0, floor):
    """dF/F of windows of fluorescence, F0 from the end of their baseline. Takes numpy arrays and torch tensors alike.

    Parameters
    ----------
    x : array or tensor, shape (..., time)
        Fluorescence; time 0 is `n_baseline` frames before the onset.
    n_baseline, n_f0 : int
        Frames of the baseline, and of its end that makes F0.
    floor : array or tensor, broadcast to x's shape without time
        F0 at or below it makes the observation unusable.

    Returns
    -------
    dff : array or tensor, shape of x, fraction
    usable : array or tensor of bool, shape of x without time
        False where F0 is tiny or missing.
    """
    f0, usable = window_f0(x, n_baseline, n_f0, floor)
    return (x - f0[..., None]) / f0[..., None], usable


def window_f0(x, n_baseline, n_f0, floor):
    """F0 of windows of fluorescence, 1 where it is tiny, and whether it is usable; both of x's shape without time. Arguments as `window_dff`."""
    f0 = x[..., n_baseline - n_f0 : n_baseline].mean(-1)
    usable = f0 > floor  # False for a NaN, too
    return f0 * usable + ~usable, usable


def as_fluorescence(ds):
    """Traces of a Session on a scale where (F - F0) / F0 is dF/F, and the least F0 for which that makes sense.

    Where only dF/F exists, F = 1 + dF/F: then (F - F0) / F0 = (dff - b) / (1 + b), b the baseline's mean.

    Returns
    -------
    traces : float32 array, shape (neuron, frame)
    floor : float32 array, shape (neuron,)
    """
    x = ds[signal_of(ds)].values
    floor = np.full(len(x), ds.attrs["f0_floor"], np.float32)
    return (x + np.float32(1) if signal_of(ds) == "dff" else x), floor


def response_gain(response, n_score, window):
    """What the label of activity is a threshold on: mean dF/F of the scored part (paper 3.2), or of its absolute value (released code's rule).

    Parameters
    ----------
    response : array or tensor, shape (observation, ..., time)
        dF/F from the onset on.
    n_score : array or tensor, shape (observation,)
        Frames that are scored.
    window : Window

    Returns
    -------
    array or tensor, shape (observation, ...)
    """
    out = None
    for k in dict.fromkeys(n_score.tolist()):  # one or two lengths
        part = response[..., :k]
        gain = (part if window.active_rule == "gain" else abs(part)).mean(-1)
        if out is None:
            out = gain
        else:
            out[n_score == k] = gain[n_score == k]
    return response[..., 0] if out is None else out


def is_active(gain, window):
    """Which observations are active, from their `response_gain`: bool, shape of `gain`."""
    return gain >= window.active_gain if window.active_rule == "gain" else gain > window.active_gain
