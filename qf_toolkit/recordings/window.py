"""The window around an onset: its lengths, and the quantities computed from one window (dF/F, the label of activity).

Nothing after the onset enters F0 or any other normalisation of the baseline.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from ..errors import QfError
from .options import WindowOptions
from .schema import signal_of

SIGNAL_LABELS = {"dff": "dF/F", "zscore": "z-score"}  # on axes
F0_S = 2.0  # seconds of the baseline's end that make F0 by default; a shorter baseline makes F0 as a whole
PAPER_SCORE_S = {
    "drifting_gratings": 2.0, "static_gratings": 0.5, "natural_scenes": 0.5, "locally_sparse_noise": 0.5, "locally_sparse_noise_4deg": 0.5,
    "locally_sparse_noise_8deg": 0.5,
}  # fmt: skip
"""The length of each stimulus' response window, in seconds from the onset (paper Table A-1)."""


@dataclass(frozen=True)
class Window(WindowOptions):
    """Lengths of an observation, and the rules by which its signal and its label are computed. Users give seconds; the code computes in frames.

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
        If a length is out of range, `f0_s` exceeds `baseline_s`, or `score_s` exceeds `response_s`.
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
        """The lengths (baseline, response, f0) in frames, three int of at least 1."""
        return tuple(max(1, round(s * rate_hz)) for s in (self.baseline_s, self.response_s, self.f0_s))

    def score_frames(self, rate_hz, stimuli):
        """How many frames from the onset are labelled and scored, for each of `stimuli`: int array, shape (len(stimuli),), each at least 1."""
        if self.score_s != "paper":
            return np.full(len(stimuli), max(1, round(self.score_s * rate_hz)))
        return np.array([max(1, round(PAPER_SCORE_S.get(s, self.response_s) * rate_hz)) for s in stimuli], int)

    def check_stimuli(self, stimuli):
        """Under score_s="paper", refuse a response that is shorter than the paper's window of a stimulus.

        A warning names the stimuli that have no window in the paper.

        Raises
        ------
        QfError
            If `response_s` is shorter than the paper's window of one of `stimuli`.
        """
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
    """Rebuild the Window from config.json of a model. A config without score_s gets 2 s."""
    return Window(**{"score_s": 2.0, **note})


def gather(traces, neurons, starts, length):
    """Cut windows from continuous traces in one indexing operation.

    Parameters
    ----------
    traces : array, shape (neuron, frame)
    neurons : int array, shape (n,)
        Rows of `traces`.
    starts : int array, shape (trial,)
        First frame of each window.
    length : int
        Frames of each window.

    Returns
    -------
    array, shape (trial, n, length), dtype of `traces`
    """
    frames = np.asarray(starts)[:, None] + np.arange(length)
    return traces[np.asarray(neurons)[None, :, None], frames[:, None, :]]


def window_dff(x, n_baseline, n_f0, floor):
    """Compute dF/F of windows of fluorescence, with F0 from the end of each baseline. Takes numpy arrays and torch tensors alike.

    Parameters
    ----------
    x : array or tensor, shape (..., time)
        Fluorescence; time 0 is `n_baseline` frames before the onset.
    n_baseline, n_f0 : int
        Frames of the baseline, and how many frames of its end make F0.
    floor : array or tensor, broadcast to x's shape without time
        An observation with F0 at or below `floor` is unusable.

    Returns
    -------
    dff : array or tensor, shape of x
        Fraction of F0.
    usable : array or tensor of bool, shape of x without time
        False if F0 is at or below `floor`, or NaN.
    """
    f0, usable = window_f0(x, n_baseline, n_f0, floor)
    return (x - f0[..., None]) / f0[..., None], usable


def window_f0(x, n_baseline, n_f0, floor):
    """Compute F0 of windows of fluorescence. Parameters as in `window_dff`.

    Returns
    -------
    f0 : array or tensor, shape of x without time
        1 (or NaN) for an unusable observation.
    usable : array or tensor of bool, shape of x without time
    """
    f0 = x[..., n_baseline - n_f0 : n_baseline].mean(-1)
    usable = f0 > floor  # False for a NaN, too
    return f0 * usable + ~usable, usable


def as_fluorescence(ds):
    """Put the traces of a Session on a scale where (F - F0) / F0 is dF/F.

    If the Session holds only dF/F, then F = 1 + dF/F, and (F - F0) / F0 = (dff - b) / (1 + b), where b is the mean dF/F of the baseline.

    Parameters
    ----------
    ds : xarray.Dataset
        A Session.

    Returns
    -------
    traces : float32 array, shape (neuron, frame)
    floor : float32 array, shape (neuron,)
        An observation with F0 at or below `floor` is unusable.
    """
    x = ds[signal_of(ds)].values
    floor = np.full(len(x), ds.attrs["f0_floor"], np.float32)
    return (x + np.float32(1) if signal_of(ds) == "dff" else x), floor


def response_gain(response, n_score, window):
    """Compute the gain, on which the label of activity sets a threshold.

    The gain is the mean dF/F of the scored part (paper 3.2), or the mean of its absolute value (the released code's rule).

    Parameters
    ----------
    response : array or tensor, shape (observation, ..., time)
        dF/F from the onset on, fraction.
    n_score : array or tensor of int, shape (observation,)
        How many frames from the onset are scored.
    window : Window
        Its `active_rule` chooses the rule.

    Returns
    -------
    array or tensor, shape (observation, ...)
        Fraction.
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
    """Which observations are active, from their `response_gain`: bool array or tensor, shape of `gain`."""
    return gain >= window.active_gain if window.active_rule == "gain" else gain > window.active_gain
