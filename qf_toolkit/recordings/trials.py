"""Onset-aligned windows, cut from the continuous recording on use: dF/F, validity, active labels.

A `Trials` is a table of trials and a `Window`; it reads no trace until `dataset()` or a training bank asks for it.
Nothing after the onset enters F0 or any other normalisation of the baseline.
"""

import warnings
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import QfError, SessionError, UnknownKeyError, did_you_mean
from .session import TRIAL_COORDS, session_key, signal_of, trial_features, trial_table

TARGETS = ("dff", "zscore")
ACTIVE_RULES = ("gain", "abs_dff")
PAPER_SCORE_S = {
    "drifting_gratings": 2.0, "static_gratings": 0.5, "natural_scenes": 0.5, "locally_sparse_noise": 0.5, "locally_sparse_noise_4deg": 0.5,
    "locally_sparse_noise_8deg": 0.5,
}  # fmt: skip
"""The response window of each stimulus, seconds from the onset on (paper Table A-1)."""


@dataclass(frozen=True)
class Window:
    """Lengths of an observation, and what is computed from it. Seconds at the surface, frames inside."""

    baseline_s: float = 3.0  # before the onset (paper 4.2)
    response_s: float = 2.0  # from the onset on (paper 4.2)
    f0_s: float = 2.0  # F0 is the mean of the baseline's last f0_s; the paper is silent, the released code takes 2 s
    score_s: float | str = 2.0  # from the onset on: what is labelled and scored; "paper": as in Table A-1, by stimulus
    signal: str = "dff"  # "dff", of the window; "zscore", of the stored trace, per neuron, on the training part
    active_rule: str = "gain"  # "gain" (paper 3.2): mean dF/F >= active_gain; "abs_dff" (released code): mean of abs > active_gain
    active_gain: float = 0.10

    def __post_init__(self):
        for name in ("baseline_s", "response_s", "f0_s", "score_s"):
            value, or_paper = getattr(self, name), " or paper" * (name == "score_s")
            if or_paper and isinstance(value, str) and value == "paper":
                continue
            if not isinstance(value, int | float | np.number):
                raise QfError(f"{name}: expected seconds{or_paper}, found {value!r}. Pass a number{or_paper}.")
            if not value > 0:
                raise QfError(f"{name}: expected seconds above 0, found {value}.")
        if self.f0_s > self.baseline_s:
            raise QfError(f"f0_s: expected at most baseline_s = {self.baseline_s} s, found {self.f0_s}. Shorten f0_s.")
        if self.score_s != "paper" and self.score_s > self.response_s:
            raise QfError(f"score_s: expected at most response_s = {self.response_s} s, found {self.score_s}. Shorten score_s.")
        if self.signal not in TARGETS:
            raise QfError(f"signal: expected one of {TARGETS}, found {self.signal!r}.")
        if self.active_rule not in ACTIVE_RULES:
            raise QfError(f"active_rule: expected one of {ACTIVE_RULES}, found {self.active_rule!r}.")

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
    f0 = x[..., n_baseline - n_f0 : n_baseline].mean(-1)
    usable = f0 > floor  # False for a NaN, too
    safe = f0 * usable + ~usable
    return (x - safe[..., None]) / safe[..., None], usable


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


def cut(
    source,
    stimulus=None,
    *,
    subject=None,
    session=None,
    condition=None,
    block=None,
    neurons=None,
    baseline_s=3.0,
    response_s=2.0,
    f0_s=None,
    score_s=None,
    signal="dff",
    active_rule="gain",
    active_gain=0.10,
    strict=False,
):
    """Choose trials and the window around their onsets. No trace is read yet.

    Parameters
    ----------
    source : Store, Session or list of Sessions
    stimulus, subject, session, condition : str or list of str, optional
        Keep only these; `session` is the key `subject/session`.
    block : int or list of int, optional
    neurons : str or list of str, optional
        Keys of the neurons to keep; flagged ones stay out.
    baseline_s, response_s : float
        Seconds before and after the onset.
    f0_s : float, optional
        F0 is the mean of the baseline's last `f0_s` seconds; the lesser of 2 s and the baseline where left out. With drifting gratings
        3 s apart, a 3 s baseline holds 2 s of the previous grating: `f0_s=1` takes the grey second alone.
    score_s : float or "paper", optional
        The part of the response that is labelled and scored, `response_s` where left out. "paper": 2 s for drifting gratings, 0.5 s for static
        gratings, natural scenes and sparse noise (Table A-1); `response_s` for any other stimulus, of which a warning tells.
    signal : {"dff", "zscore"}
    active_rule : {"gain", "abs_dff"}
    active_gain : float
        Fraction.
    strict : bool
        Raise where anything would be left out.

    Returns
    -------
    Trials

    Raises
    ------
    QfError
        If no trial or no neuron is left, a key is unknown, `response_s` is shorter than a window of the paper that `score_s` asks for, or, under
        `strict`, anything is left out.
    """
    window = Window(
        baseline_s, response_s, min(2.0, baseline_s) if f0_s is None else f0_s, response_s if score_s is None else score_s,
        signal, active_rule, active_gain,
    )  # fmt: skip
    if isinstance(source, xr.Dataset):
        source = [source]
    if isinstance(source, list | tuple):
        source = _Memory(source)
    table = index = source.index
    if len(table) == 0:
        raise QfError("trials: expected a trial table, found only continuous recordings. Import with a trial table, or choose other sessions.")
    for name, wanted in {"session": session, "subject": subject, "stimulus": stimulus, "condition": condition, "block": block}.items():
        if wanted is None:
            continue
        wanted = [wanted] if isinstance(wanted, str | int | np.integer) else list(wanted)
        known = sorted(index[name].unique())
        for value in wanted:
            if value not in known:
                raise UnknownKeyError(f"{name}: {value!r} has no trial here; {did_you_mean(value, known)}")
        table = table[table[name].isin(wanted)]
    if len(table) == 0:
        raise QfError("trials: no trial is all of what was chosen together (session, subject, stimulus, condition, block). Choose less.")
    window.check_stimuli(list(table["stimulus"].unique()))
    counts = {"trials": 0, "incomplete": 0, "neurons": 0, "flagged": {}}
    parts, kept = [], {}
    known_neurons = set()
    neurons = [neurons] if isinstance(neurons, str) else neurons
    for key, rows in table.groupby("session", sort=True):
        ds = source.header(key)
        known_neurons.update(ds["neuron"].values)
        flags = ds["flag"].values.astype(str)
        keep = flags == ""
        if neurons is not None:
            keep &= np.isin(ds["neuron"].values.astype(str), list(neurons))
        for flag in sorted(set(flags) - {""}):
            counts["flagged"][flag] = counts["flagged"].get(flag, 0) + int((flags == flag).sum())
        counts["neurons"] += len(flags)
        whole = _complete(ds, rows["onset_frame"].to_numpy(), window)
        counts["trials"] += len(rows)
        counts["incomplete"] += int((~whole).sum())
        if keep.any() and whole.any():
            kept[key] = np.flatnonzero(keep)
            parts.append(rows[whole])
    for name in neurons if neurons is not None else ():
        if name not in known_neurons:
            raise UnknownKeyError(f"neuron: {name!r} is in none of the chosen sessions; {did_you_mean(name, sorted(known_neurons))}")
    left_out = _tell(counts)
    if not parts:
        raise QfError(
            f"trials: no observation is left ({left_out or 'nothing chosen'}). Shorten the window, or look at the recording with `qf info`."
        )
    if left_out and strict:
        raise QfError(f"trials: strict=True, and {left_out}. Mend the recording, or pass strict=False.")
    if left_out:
        warnings.warn(f"left out: {left_out}", stacklevel=3)
    return Trials(source, pd.concat(parts, ignore_index=True), window, kept, counts)


def _complete(ds, onsets, window):
    """Which windows lie inside the recording and span no gap in time."""
    n_baseline, n_response, _ = window.frames(ds.attrs["rate_hz"])
    start, stop, n = onsets - n_baseline, onsets + n_response, ds.sizes["frame"]
    inside = (start >= 0) & (stop <= n)
    gap = np.diff(ds["frame_time"].values) > 1.5 / ds.attrs["rate_hz"]
    before = np.concatenate([[0, 0], np.cumsum(gap)])  # before[f + 1]: gaps between the frames 0..f
    return inside & (before[np.clip(stop, 0, n)] == before[np.clip(start, 0, n - 1) + 1])


def _tell(counts):
    """The counts of what was left out, in words; "" where nothing was."""
    parts = [f"{n} of {counts['neurons']} neurons ({flag})" for flag, n in counts["flagged"].items()]
    if counts["incomplete"]:
        parts.append(f"{counts['incomplete']} of {counts['trials']} windows (not whole inside the recording)")
    return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Trials:
    """A choice of trials, and the window around their onsets. A view: traces are read on use.

    Attributes
    ----------
    table : pandas.DataFrame
        A row a trial: session, subject, trial, onset_frame, offset_frame, stimulus, condition, block, features.
    window : Window
    counts : dict
        What was left out: trials, incomplete, neurons, flagged {reason: n}.
    scaling : dict or None
        Under signal="zscore": {session: {neuron key: (mean, standard deviation)}} of the stored trace over the training part.
    """

    source: object
    table: pd.DataFrame
    window: Window
    rows: dict  # session -> rows of the kept neurons
    counts: dict = field(default_factory=dict)
    scaling: dict | None = None

    def __len__(self):
        return len(self.table)

    def __repr__(self):
        w = self.window
        n = sum(len(r) for r in self.rows.values())
        out = _tell(self.counts) if self.counts else ""
        return (
            f"<Trials: {len(self)} trials of {self.table['condition'].nunique()} conditions, {n} neurons in {len(self.sessions)} sessions, "
            f"{w.baseline_s:g} s before and {w.response_s:g} s after the onset, {w.signal}{'; left out: ' + out if out else ''}>"
        )

    @property
    def sessions(self):
        """Keys of the sessions that hold a trial, sorted."""
        return sorted(self.table["session"].unique())

    @property
    def neurons(self):
        """Keys of the neurons, session by session, each once."""
        return list(dict.fromkeys(n for s in self.sessions for n in self.neurons_of(s)))

    @property
    def conditions(self):
        """Keys of the conditions, sorted."""
        return sorted(self.table["condition"].unique())

    @property
    def rate_hz(self):
        """Frames a second of the first session."""
        return float(self.source.header(self.sessions[0]).attrs["rate_hz"])

    def neurons_of(self, session):
        """Keys of the kept neurons of a session, in its order."""
        return [str(n) for n in self.source.header(session)["neuron"].values[self.rows[session]]]

    def subset(self, mask):
        """The trials where `mask` (trial) is True, or at those positions."""
        mask = np.asarray(mask)
        table = self.table[mask] if mask.dtype == bool else self.table.iloc[mask]
        return replace(self, table=table.reset_index(drop=True))

    def by_session(self):
        """One Trials a session."""
        return [self.subset((self.table["session"] == s).to_numpy()) for s in self.sessions]

    def intervals(self, session):
        """First and one-past-last frame of every window of a session, int array (trial, 2)."""
        n_baseline, n_response, _ = self.window.frames(self.source.header(session).attrs["rate_hz"])
        onset = self.table.loc[self.table["session"] == session, "onset_frame"].to_numpy()
        return np.stack([onset - n_baseline, onset + n_response], 1)

    def scaled_on(self, trials):
        """These trials with the z-score of every neuron, in each session, taken from the windows of `trials`."""
        scaling = {}
        for session in trials.sessions:
            ds = self.source[session]
            inside = np.zeros(ds.sizes["frame"] + 1, int)
            for start, stop in trials.intervals(session):
                inside[start] += 1
                inside[stop] -= 1
            frames = np.cumsum(inside[:-1]) > 0
            x = ds[signal_of(ds)].values[trials.rows[session]][:, frames].astype(np.float64)
            mean, sd = np.nanmean(x, 1), np.nanstd(x, 1)
            names = trials.neurons_of(session)
            scaling[session] = {n: (float(m), float(s) if s > 0 else 1.0) for n, m, s in zip(names, mean, sd, strict=True)}
        return replace(self, scaling=scaling)

    def scale_of(self, session):
        """(mean, standard deviation) of the kept neurons of a session, float32 arrays (neuron,).

        A cell matched across sessions has the scale of each; where the training part lacks this session, the average over those it has.

        Raises
        ------
        QfError
            If no training part was named yet, or it lacks a neuron.
        """
        if self.scaling is None:
            raise QfError('signal="zscore" needs a training part: split the trials first, or use trials.scaled_on(train).')
        names = self.neurons_of(session)
        own = self.scaling.get(session, {})
        found = {n: [own[n]] if n in own else [s[n] for s in self.scaling.values() if n in s] for n in names}
        missing = [n for n in names if not found[n]]
        if missing:
            known = {n for s in self.scaling.values() for n in s}
            raise UnknownKeyError(f"neuron: {missing[0]!r} has no z-score from the training part; {did_you_mean(missing[0], known)}")
        return tuple(np.array([np.mean(found[n], 0) for n in names], np.float32).T)

    def dataset(self, session=None):
        """The windows of one session, labelled.

        Parameters
        ----------
        session : str, optional
            Which; may be left out where there is only one.

        Returns
        -------
        xarray.Dataset
            `dff` or `zscore` (trial, neuron, time) float32, NaN where missing; `valid` (trial, neuron, time) bool; `active` (trial, neuron) bool;
            coords neuron, time (seconds from the onset), onset_frame, stimulus, condition, block, n_score (frames that are scored) and the features.

        Raises
        ------
        QfError
            If there are several sessions and none is named.
        """
        if session is None:
            if len(self.sessions) != 1:
                raise QfError(f"session: expected one of {len(self.sessions)} sessions, found none named. Use trials.by_session().")
            session = self.sessions[0]
        ds, w = self.source[session], self.window
        rate = float(ds.attrs["rate_hz"])
        n_baseline, n_response, n_f0 = w.frames(rate)
        table = self.table[self.table["session"] == session]
        rows = self.rows[session]
        traces, floor = as_fluorescence(ds)
        starts = table["onset_frame"].to_numpy() - n_baseline
        x = gather(traces, rows, starts, n_baseline + n_response)
        dff, usable = window_dff(x, n_baseline, n_f0, floor[rows])
        n_score = w.score_frames(rate, table["stimulus"].tolist())
        active = is_active(response_gain(dff[..., n_baseline:], n_score, w), w) & usable
        if w.signal == "zscore":
            mean, sd = self.scale_of(session)
            out = (gather(ds[signal_of(ds)].values, rows, starts, n_baseline + n_response) - mean[:, None]) / sd[:, None]
            usable = np.isfinite(out[..., :n_baseline]).all(-1)
        else:
            out = dff
        valid = np.isfinite(out) & usable[..., None]
        coords = {
            "trial": table["trial"].to_numpy(),
            "neuron": np.array(self.neurons_of(session), dtype=object),
            "time": (np.arange(n_baseline + n_response) - n_baseline) / rate,
            **{c: ("trial", table[c].to_numpy()) for c in (*TRIAL_COORDS, *trial_features(ds))},
            "n_score": ("trial", n_score),
        }
        dims = ("trial", "neuron", "time")
        return xr.Dataset(
            {w.signal: (dims, np.where(valid, out, np.nan).astype(np.float32)), "valid": (dims, valid), "active": (dims[:2], active)},
            coords,
            {
                "session": session, "rate_hz": rate, "n_baseline": n_baseline, "n_f0": n_f0, "n_score": int(n_score.max()),
                "unusable_observations": int((~valid.all(-1)).sum()), "left_out": _tell(self.counts) if self.counts else "",
                "simulated": int(str(ds.attrs.get("source", "")) == "simulation"),
            },
        )  # fmt: skip


def scaling_by_session(scaling):
    """`Trials.scaling` as models saved it: those saved before sessions had scales of their own hold {neuron: (mean, sd)}, for any session."""
    return scaling if scaling is None or all(isinstance(s, dict) for s in scaling.values()) else {"": scaling}


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


class _Memory:
    """Sessions that live in memory, as a source of trials."""

    def __init__(self, sessions):
        self._sessions = {session_key(ds): ds for ds in sessions}
        if len(self._sessions) < len(sessions):
            raise SessionError("session: expected unique keys subject/session, found a key twice. Rename one.")

    def __getitem__(self, key):
        return self._sessions[key]

    def header(self, key):
        return self._sessions[key]

    @property
    def index(self):
        tables = []
        for key, ds in sorted(self._sessions.items()):
            table = trial_table(ds)
            table.insert(0, "session", key)
            table.insert(1, "subject", ds.attrs["subject"])
            tables.append(table)
        tables = [t for t in tables if len(t)]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["session"])
