"""Onset-aligned windows, cut from the continuous recording on use: dF/F, validity, labels of activity.

A `Trials` holds a table of trials and a `Window`. It reads no trace until someone calls `dataset()` or builds a training bank from it.
Nothing after the onset enters F0 or any other normalisation of the baseline.
"""

import hashlib
import warnings
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean
from .behaviour import aligned
from .clock import jumps
from .kept import Kept
from .memory import as_source
from .options import Selection, WindowOptions
from .schema import TRIAL_COORDS, signal_of, trial_features
from .window import Window, gather, is_active, response_gain, window_dff


def cut(
    source,
    stimulus=Selection.stimulus,
    *,
    subject=Selection.subject,
    session=Selection.session,
    condition=Selection.condition,
    block=Selection.block,
    neurons=Selection.neurons,
    baseline_s=WindowOptions.baseline_s,
    response_s=WindowOptions.response_s,
    f0_s=WindowOptions.f0_s,
    score_s=WindowOptions.score_s,
    signal=WindowOptions.signal,
    active_rule=WindowOptions.active_rule,
    active_gain=WindowOptions.active_gain,
    strict=Selection.strict,
):
    """Choose trials and the window around their onsets. No trace is read yet.

    Parameters
    ----------
    source : Store, Session or list of Sessions
    stimulus, subject, session, condition : str or list of str, optional
        Keep only these; `session` is the key `subject/session`.
    block : int or list of int, optional
        Keep only the trials of these blocks.
    neurons : str or list of str, optional
        Keys of the neurons to keep; flagged neurons are left out in any case.
    baseline_s, response_s : float
        Seconds before and after the onset.
    f0_s : float, optional
        F0 is the mean of the baseline's last `f0_s` seconds. If None, the shorter of 2 s and the baseline. With drifting gratings 3 s apart, a 3 s
        baseline holds 2 s of the previous grating: `f0_s=1` takes only the second of grey.
    score_s : float or "paper", optional
        Seconds of the response, from the onset, that are labelled and scored. If None, `response_s`. "paper" takes 2 s for drifting gratings and
        0.5 s for static gratings, natural scenes and sparse noise (Table A-1); for any other stimulus it takes `response_s` and warns.
    signal : {"dff", "zscore"}
        The signal that is forecast: dF/F of the window, or the z-score of the stored trace over the training part.
    active_rule : {"gain", "abs_dff"}
        An observation is active if the mean dF/F of its scored part is at least `active_gain` (paper 3.2), or if the mean of the absolute value is
        above it (released code).
    active_gain : float
        Fraction of F0.
    strict : bool
        Raise an error if any neuron or window would be left out.

    Returns
    -------
    Trials

    Raises
    ------
    QfError
        If no trial or no neuron is left, a key is unknown, a length is out of range, `response_s` is shorter than the paper's window of a stimulus
        under score_s="paper", or anything is left out under `strict`.

    Examples
    --------
    >>> trials = cut(store, stimulus="drifting_gratings", baseline_s=3, response_s=2)
    >>> dict(trials.dataset()["dff"].sizes)
    {'trial': 17, 'neuron': 14, 'time': 50}
    """
    window = Window(baseline_s, response_s, f0_s, score_s, signal, active_rule, active_gain)
    how = Selection(stimulus, condition, session, subject, block, neurons, strict)
    source = as_source(source)
    table = source.index
    if len(table) == 0:
        raise QfError(
            "trials: expected a trial table, found only continuous recordings. Take store.windows(...), import with a trial table, or choose other "
            "sessions."
        )
    table = rows_of(table, {n: getattr(how, n) for n in ("session", "subject", "stimulus", "condition", "block")}, "has no trial here")
    if len(table) == 0:
        raise QfError("trials: no trial is all of what was chosen together (session, subject, stimulus, condition, block). Choose less.")
    return choose(source, table, window, how.neurons, how.strict)


def rows_of(table, chosen, why):
    """The rows of a table, a DataFrame, that match every choice; `chosen` is {column: values to keep, None for all}.

    Raises
    ------
    UnknownKeyError
        If a chosen value does not occur in its column. The message is the value followed by `why` ("has no trial here").
    """
    keep = np.ones(len(table), bool)
    for name, wanted in chosen.items():
        if wanted is None:
            continue
        known = set(table[name])
        for value in wanted:
            if value not in known:
                raise UnknownKeyError(f"{name}: {value!r} {why}; {did_you_mean(value, sorted(known))}")
        keep &= table[name].isin(wanted).to_numpy()
    return table[keep]


def choose(source, table, window, neurons=None, strict=False):
    """Make the Trials of a table, without incomplete windows and flagged neurons. A warning states how many were left out.

    Parameters
    ----------
    source : Store or Memory
    table : pandas.DataFrame
        One row per trial; see `Trials`.
    window : Window
    neurons, strict
        See `cut`.

    Returns
    -------
    Trials

    Raises
    ------
    UnknownKeyError
        If one of `neurons` is in no session of the table.
    QfError
        If no observation is left, anything is left out under `strict`, or `response_s` is too short (see `Window.check_stimuli`).
    """
    window.check_stimuli(list(table["stimulus"].unique()))
    counts = {"trials": 0, "incomplete": 0, "neurons": 0, "flagged": {}}
    parts, kept = [], {}
    known_neurons = set()
    for key, rows in table.groupby("session", sort=True):
        ds = source.header(key)
        known_neurons.update(ds["neuron"].values)
        flags = ds["flag"].values.astype(str)
        keep = flags == ""
        if neurons is not None:
            keep &= np.isin(ds["neuron"].values.astype(str), neurons)
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
        warnings.warn(f"left out: {left_out}", stacklevel=4)
    return Trials(source, pd.concat(parts, ignore_index=True), window, kept, counts)


def _complete(ds, onsets, window):
    """Which windows lie inside the recording and span no jump of `frame_time`: bool array (trial,)."""
    n_baseline, n_response, _ = window.frames(ds.attrs["rate_hz"])
    start, stop, n = onsets - n_baseline, onsets + n_response, ds.sizes["frame"]
    inside = (start >= 0) & (stop <= n)
    gap = jumps(ds["frame_time"].values, ds.attrs["rate_hz"])
    before = np.concatenate([[0, 0], np.cumsum(gap)])  # before[f + 1] counts the jumps between frames 0 and f
    return inside & (before[np.clip(stop, 0, n)] == before[np.clip(start, 0, n - 1) + 1])


def _tell(counts):
    """Describe in words how many neurons and windows were left out; "" if none was."""
    parts = [f"{n} of {counts['neurons']} neurons ({flag})" for flag, n in counts["flagged"].items()]
    if counts["incomplete"]:
        parts.append(f"{counts['incomplete']} of {counts['trials']} windows (not whole inside the recording)")
    return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Trials:
    """A choice of trials, and the window around their onsets. It is a view: traces are read on use.

    Attributes
    ----------
    source : Store or Memory
        Where the Sessions are read from.
    table : pandas.DataFrame
        One row per trial, with the columns session, subject, trial, onset_frame, offset_frame, stimulus, condition, block and the features.
    window : Window
    rows : dict of str to int array, shape (kept neuron,)
        By session, the rows of the kept neurons in its traces.
    counts : dict
        How many trials and neurons were chosen from, how many windows were incomplete, and flagged {reason: number of neurons}.
    scaling : dict or None
        Under signal="zscore": {session: {neuron key: (mean, standard deviation)}} of the stored trace over the training part, in its units.
    kept : Kept or None
        The cache of datasets that `dataset` looks in first.
    """

    source: object
    table: pd.DataFrame
    window: Window
    rows: dict  # session -> rows of the kept neurons
    counts: dict = field(default_factory=dict)
    scaling: dict | None = None
    kept: Kept | None = field(default=None, repr=False)  # where windows that were cut are looked up first

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

    @cached_property
    def _positions(self):
        """Map each session, in sorted order, to the positions of its trials in the table."""
        return dict(sorted(self.table.groupby("session").indices.items()))

    def positions(self, session):
        """Positions of a session's trials in the table: int array (trial,), empty if the session has no trial here."""
        return self._positions.get(session, np.zeros(0, np.int64))

    def table_of(self, session):
        """The rows of the table that belong to a session, a pandas.DataFrame."""
        return self.table.iloc[self.positions(session)]

    def features_of(self, session):
        """Names of the table's columns that are features of the condition in a session, a list of str."""
        return [c for c in trial_features(self.source.header(session)) if c in self.table]

    @property
    def sessions(self):
        """Keys of the sessions that have a trial here, a sorted list of str."""
        return list(self._positions)

    @property
    def neurons(self):
        """Keys of the kept neurons, session by session, each key once; a list of str."""
        return list(dict.fromkeys(n for s in self.sessions for n in self.neurons_of(s)))

    @property
    def conditions(self):
        """Keys of the conditions, a sorted list of str."""
        return sorted(self.table["condition"].unique())

    @property
    def rate_hz(self):
        """The frame rate of the first session, Hz."""
        return float(self.source.header(self.sessions[0]).attrs["rate_hz"])

    def neurons_of(self, session):
        """Keys of the kept neurons of a session, a list of str in its order; raises UnknownKeyError if the session has no trial here."""
        if session not in self.rows:
            raise UnknownKeyError(f"session: {session!r} has no trial here; {did_you_mean(session, sorted(self.rows))}")
        return [str(n) for n in self.source.header(session)["neuron"].values[self.rows[session]]]

    @property
    def simulated(self):
        """Whether any of the sessions comes from the simulator."""
        return any(str(self.source.header(s).attrs.get("source", "")) == "simulation" for s in self.sessions)

    def digest(self):
        """A digest, a str, of the recordings' fingerprints, the chosen trials and neurons, the window and, under signal="zscore", the scaling."""
        found = hashlib.blake2b(repr(astuple(self.window)).encode(), digest_size=12)
        for session in self.sessions:
            rows = self.table_of(session)
            found.update(f"{session} {self.source.header(session).attrs.get('fingerprint', '')}".encode())
            found.update(rows["onset_frame"].to_numpy(np.int64).tobytes() + "\n".join(rows["condition"]).encode())
            found.update("\n".join(self.neurons_of(session)).encode())
            if self.scaling is not None and self.window.signal == "zscore":
                found.update(np.stack(self.scale_of(session)).tobytes())
        return found.hexdigest()

    def subset(self, mask):
        """The Trials where `mask`, a bool array (trial,), is True, or at the positions that an int array holds; raises QfError for any other."""
        mask = np.asarray(mask)
        mask = mask if mask.size else mask.astype(np.int64)
        if mask.ndim != 1 or mask.dtype.kind not in "biu" or (mask.dtype == bool and len(mask) != len(self)):
            raise QfError(f"mask: expected {len(self)} of True and False, or positions, found {mask.dtype} of shape {mask.shape}.")
        if mask.dtype != bool and len(mask) and not -len(self) <= mask.min() <= mask.max() < len(self):
            raise QfError(f"mask: expected positions among {len(self)} trials, found {mask.min()} to {mask.max()}.")
        table = self.table[mask] if mask.dtype == bool else self.table.iloc[mask]
        return replace(self, table=table.reset_index(drop=True))

    def of_neurons(self, neurons):
        """Keep only some of the neurons.

        Parameters
        ----------
        neurons : str or list of str
            Keys of the neurons to keep.

        Returns
        -------
        Trials
            The trials of the sessions that hold at least one of these neurons.

        Raises
        ------
        UnknownKeyError
            If one of them is not among the kept neurons of any session.
        QfError
            If `neurons` is empty.
        """
        wanted = Selection(neurons=neurons).neurons or ()
        names = {s: np.array(self.neurons_of(s)) for s in self.sessions}
        for name in wanted:
            if not any(name in found for found in names.values()):
                raise UnknownKeyError(f"neuron: {name!r} is not among these; {did_you_mean(name, self.neurons)}")
        rows = {s: self.rows[s][np.isin(found, wanted)] for s, found in names.items()}
        rows = {s: r for s, r in rows.items() if len(r)}
        if not rows:
            raise QfError("neurons: expected at least one, found none. Choose some.")
        return replace(self, rows=rows, table=self.table[self.table["session"].isin(list(rows))].reset_index(drop=True))

    def by_session(self):
        """Split into a list of Trials, one per session, in sorted order."""
        return [self.subset(at) for at in self._positions.values()]

    def intervals(self, session):
        """First and one-past-last frame of every window of a session: int array, shape (trial, 2)."""
        n_baseline, n_response, _ = self.window.frames(self.source.header(session).attrs["rate_hz"])
        onset = self.table["onset_frame"].to_numpy()[self.positions(session)]
        return np.stack([onset - n_baseline, onset + n_response], 1)

    def scaled_on(self, trials):
        """These Trials with a new `scaling`: each neuron's mean and standard deviation, session by session, over the windows of `trials`."""
        scaling = {}
        for session in trials.sessions:
            ds = self.source[session]
            inside = np.zeros(ds.sizes["frame"] + 1, int)
            start, stop = trials.intervals(session).T
            np.add.at(inside, start, 1)
            np.add.at(inside, stop, -1)
            frames = np.cumsum(inside[:-1]) > 0
            x = ds[signal_of(ds)].values[trials.rows[session]][:, frames].astype(np.float64)
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a neuron without a finite frame there gets the mean NaN
                mean, sd = np.nanmean(x, 1), np.nanstd(x, 1)
            names = trials.neurons_of(session)
            scaling[session] = {n: (float(m), float(s) if s > 0 else 1.0) for n, m, s in zip(names, mean, sd, strict=True)}
        return replace(self, scaling=scaling)

    def scale_of(self, session):
        """Mean and standard deviation of the kept neurons of a session, two float32 arrays (neuron,) in the units of the stored trace.

        A cell that is matched across sessions has a mean and standard deviation for each session. If the training part lacks this session, they are
        averaged over the sessions in which the training part has the cell.

        Raises
        ------
        QfError
            If these trials have no scaling yet, or (as UnknownKeyError) the training part lacks a neuron.
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

    def _gathered(self, session):
        """Windows of the stored trace: float32 array, shape (trial, neuron, time)."""
        ds = self.source[session]
        n_baseline, n_response, _ = self.window.frames(ds.attrs["rate_hz"])
        return gather(ds[signal_of(ds)].values, self.rows[session], self.intervals(session)[:, 0], n_baseline + n_response)

    def fluorescence(self, session):
        """Windows of the stored trace on the scale of `as_fluorescence`, where (F - F0) / F0 is dF/F.

        Parameters
        ----------
        session : str

        Returns
        -------
        float32 array, shape (trial, neuron, time)
            Fluorescence in the recording's units; 1 + dF/F if the Session holds only dF/F. NaN if missing.
        """
        x = self._gathered(session)
        return x + np.float32(1) if signal_of(self.source[session]) == "dff" else x

    def dataset(self, session=None, behaviour=False):
        """Cut the windows of one session as labelled arrays.

        Parameters
        ----------
        session : str, optional
            Key of the session. It may be None if these trials have only one.
        behaviour : str, sequence of str or bool
            Names of the behaviours to align to the windows' frames; True takes all of the session, False none. See `behaviour.aligned`.

        Returns
        -------
        xarray.Dataset
            `dff` (fraction) or `zscore` (trial, neuron, time) float32, NaN if missing or unusable; `valid` (trial, neuron, time) bool; `active`
            (trial, neuron) bool; one variable (trial, time) float32 for each behaviour, with `units` in its attrs, NaN in frames where it was not
            recorded. Its coords are trial, neuron, time (seconds from the onset), onset_frame, offset_frame, stimulus, condition, block, the
            features, and n_score (how many frames from the onset are scored).

        Raises
        ------
        QfError
            If there are several sessions and none is named, there is no scaling under signal="zscore", or the session lacks a behaviour (the
            message lists those that it has).
        """
        if session is None:
            if len(self.sessions) != 1:
                raise QfError(f"session: expected one of {len(self.sessions)} sessions, found none named. Use trials.by_session().")
            session = self.sessions[0]
        if self.kept is None:
            return self._cut(session, behaviour)
        asked = behaviour if isinstance(behaviour, bool | str) else tuple(behaviour)
        return self.kept.get((id(self.source), session, self.digest(), _tell(self.counts), asked), lambda: self._cut(session, behaviour))

    def _cut(self, session, behaviour):
        names = self.neurons_of(session)
        ds, w = self.source[session], self.window
        rate = float(ds.attrs["rate_hz"])
        n_baseline, n_response, n_f0 = w.frames(rate)
        table = self.table_of(session)
        rows = self.rows[session]
        x = self.fluorescence(session)
        dff, usable = window_dff(x, n_baseline, n_f0, np.full(len(rows), ds.attrs["f0_floor"], np.float32))
        n_score = w.score_frames(rate, table["stimulus"].tolist())
        active = is_active(response_gain(dff[..., n_baseline:], n_score, w), w) & usable
        if w.signal == "zscore":
            mean, sd = self.scale_of(session)
            out = (self._gathered(session) - mean[:, None]) / sd[:, None]
            usable = np.isfinite(out[..., :n_baseline]).all(-1)
        else:
            out = dff
        valid = np.isfinite(out) & usable[..., None]
        coords = {
            "trial": table["trial"].to_numpy(),
            "neuron": np.array(names, dtype=object),
            "time": (np.arange(n_baseline + n_response) - n_baseline) / rate,
            **{c: ("trial", table[c].to_numpy()) for c in (*TRIAL_COORDS, *self.features_of(session))},
            "n_score": ("trial", n_score),
        }
        dims = ("trial", "neuron", "time")
        frames = self.intervals(session)[:, :1] + np.arange(n_baseline + n_response)
        beside = {name: (("trial", "time"), v.values[frames], v.attrs) for name, v in aligned(ds, behaviour).items()}
        return xr.Dataset(
            {w.signal: (dims, np.where(valid, out, np.nan).astype(np.float32)), "valid": (dims, valid), "active": (dims[:2], active), **beside},
            coords,
            {
                "session": session, "rate_hz": rate, "n_baseline": n_baseline, "n_f0": n_f0, "n_score": int(n_score.max()),
                "unusable_observations": int((~valid.all(-1)).sum()), "left_out": _tell(self.counts) if self.counts else "",
                "simulated": int(str(ds.attrs.get("source", "")) == "simulation"), "data": self.digest(),
            },
        )  # fmt: skip


def check_trials(trials):
    """Raise QfError if `trials` is not a Trials, or holds no trial."""
    if not isinstance(trials, Trials):
        hint = "Pass one of its parts, split.test say." if hasattr(trials, "test") else "Choose some with store.trials(...)."
        raise QfError(f"trials: expected Trials, found {type(trials).__name__}. {hint}")
    if not len(trials):
        raise QfError("trials: expected at least one, found none. Choose other trials.")


def scaling_by_session(scaling):
    """Convert the scaling of a saved model to `Trials.scaling`.

    Models of early versions hold one {neuron key: (mean, sd)} for all sessions. It is kept under the session "", and `scale_of` finds it there.
    """
    return scaling if scaling is None or all(isinstance(s, dict) for s in scaling.values()) else {"": scaling}
