"""Which observations a figure shows: chosen by rule and by what was measured, before any forecast is looked at."""

from dataclasses import dataclass

import numpy as np

from ..errors import QfError
from ..estimators.naive import scored_whole
from ..interpret.neurons import repeatable_share
from ..recordings.trials import check_trials


@dataclass(frozen=True)
class Shown:
    """One panel of a figure of forecasts.

    Attributes
    ----------
    kind : {"forecastable", "most active", "random"}
        The rule that chose it.
    session : str
        Key.
    trial : int
        Trial of the session.
    neuron : str
        Key.
    same : tuple of int
        Trials of the session whose mean is drawn below it; empty where there is no such panel.
    """

    kind: str
    session: str
    trial: int
    neuron: str
    same: tuple = ()


def choose_observations(trials, *, fitting=None, n=8, seed=0):
    """Observations for `figure_forecasts`: half of the most forecastable neurons, half at random. No model has a say in it.

    A neuron is the more forecastable, the larger the share of its response that repeats over the trials of a condition
    (`interpret.neurons.repeatable_share`); where most trials have a condition of their own, over those of a stimulus. Of each such neuron one
    trial of its best condition is drawn at random: the one of the largest mean response in `fitting`, not in the trials that are shown. Where
    too few neurons repeat, or nothing can be said of them, the most active observations of other neurons fill the first half.

    Parameters
    ----------
    trials : Trials
        Of which the figure is made, usually `split.test`. Sessions are read one at a time.
    fitting : Trials, optional
        By which neurons and conditions are judged, usually `split.fitting` (train and validation); `trials` themselves where left out, or where
        `fitting` holds none of their neurons.
    n : int
        How many, at least 2; fewer come back where there are not so many whole observations.
    seed : int
        Of the random half, and of the trial of each forecastable neuron.

    Returns
    -------
    list of Shown
        The first half (rounded up), the best first, with the trials of their condition as `same`; then the random ones.

    Raises
    ------
    QfError
        If `n` is below 2, or there is no whole observation to show.
    """
    check_trials(trials)
    if n < 2:
        raise QfError(f"n: expected at least 2 observations to show, found {n}.")
    known = fitting is not None and not set(fitting.neurons).isdisjoint(trials.neurons)
    ranked = _by_repeats(fitting if known else trials, trials)
    seen, half = _Survey(trials), -(-n // 2)
    first = seen.forecastable(ranked, half, np.random.default_rng([seed, 1]))
    first += seen.most_active(half - len(first), but={s.neuron for s in first})
    first = [Shown(s.kind, s.session, s.trial, s.neuron, seen.same(s)) for s in first]
    return first + seen.random(n, seed, first)


def choose_most_active(trials, n, seed):
    """Observations for figures of examples: half (rounded up) the most active of different neurons, the others at random.

    Parameters
    ----------
    trials : Trials
    n : int
        How many, at least 1; fewer come back where there are not so many whole observations.
    seed : int
        Of the random ones.

    Returns
    -------
    list of Shown

    Raises
    ------
    QfError
        If there is no whole observation to show.
    """
    seen = _Survey(trials)
    first = seen.most_active(-(-n // 2))
    return first + seen.random(n, seed, first)


def wanted_of(chosen):
    """What must be forecast to draw these panels: the chosen trials, and those of the means.

    Parameters
    ----------
    chosen : list of Shown

    Returns
    -------
    dict
        {session key: (trial numbers, neuron keys)}, two lists without repeats, trials in ascending order.
    """
    wanted = {}
    for one in chosen:
        numbers, neurons = wanted.setdefault(one.session, (set(), {}))
        numbers |= {one.trial, *one.same}
        neurons[one.neuron] = None  # a dict, to keep the order
    return {session: (sorted(numbers), list(neurons)) for session, (numbers, neurons) in wanted.items()}


class _Survey:
    """What a choice is made from: which observations are whole, and the most active of each neuron. Traces are read once, session by session."""

    def __init__(self, trials):
        self.trials = trials
        self.scored, self.whole, self.best = {}, {}, {}  # by session: bool (trial, neuron); by neuron: (response, session, trial)
        for session in trials.sessions:
            ds = trials.dataset(session)
            _, mean, ok = _responses(ds, trials)
            self.scored[session], self.whole[session] = ok, np.isfinite(ds[trials.window.signal].values).all(-1)
            for k, neuron in enumerate(trials.neurons_of(session)):
                t = int(np.where(ok[:, k], mean[:, k], -np.inf).argmax())
                if ok[t, k] and (neuron not in self.best or mean[t, k] > self.best[neuron][0]):
                    self.best[neuron] = (mean[t, k], session, int(ds["trial"].values[t]))
        if not self.best:
            raise QfError("trials: expected an observation to show, found none that is valid. Look at the recording with `qf info`.")

    def rows(self, session):
        """The trials of a session, as a table."""
        return self.trials.table[self.trials.table["session"] == session]

    def forecastable(self, ranked, n, rng):
        """One whole trial of the best condition of the first n neurons that have one."""
        found = []
        for neuron, column, key in ranked:
            if len(found) == n:
                break
            options = [(s, t) for s in self.trials.sessions for t in self.trials_of(s, neuron, column, key, self.scored)]
            if options:
                found.append(Shown("forecastable", *options[rng.integers(len(options))], neuron))
        return found

    def trials_of(self, session, neuron, column, key, where):
        """Trials of a session with this condition or stimulus, in which the neuron counts by `where`."""
        names, rows = self.trials.neurons_of(session), self.rows(session)
        if neuron not in names:
            return []
        return rows["trial"].to_numpy()[(rows[column] == key).to_numpy() & where[session][:, names.index(neuron)]].tolist()

    def most_active(self, n, but=()):
        """The n observations of the largest mean response in the scored part, of different neurons."""
        best = sorted((-response, neuron, session, trial) for neuron, (response, session, trial) in self.best.items() if neuron not in but)
        return [Shown("most active", session, trial, neuron) for _, neuron, session, trial in best[:n]]

    def random(self, n, seed, first):
        """As many of all whole observations as are missing to n."""
        sessions, taken = self.trials.sessions, {(s.session, s.trial, s.neuron) for s in first}
        ends = np.cumsum([self.scored[s].sum() for s in sessions])
        found = []
        # n are enough, also where all of the first are among them
        for i in np.random.default_rng(seed).choice(int(ends[-1]), min(n, int(ends[-1])), replace=False):
            session = sessions[s := int(np.searchsorted(ends, i, side="right"))]
            t, k = np.argwhere(self.scored[session])[i - ends[s]]  # counted from the session's end
            one = (session, int(self.rows(session)["trial"].iloc[t]), self.trials.neurons_of(session)[k])
            if len(first) + len(found) < n and one not in taken:
                found.append(Shown("random", *one))
        return found

    def same(self, shown):
        """Trials of the same condition, of the same stimulus where there is no other, whose whole window was measured."""
        rows = self.rows(shown.session)
        here = rows[rows["trial"] == shown.trial].iloc[0]
        same, wider = (self.trials_of(shown.session, shown.neuron, column, here[column], self.whole) for column in ("condition", "stimulus"))
        return tuple(same if len(same) > 1 else wider)


def _by_repeats(fitting, trials):
    """(neuron, column, key) of neurons whose response repeats, the most first; column and key name their best condition among those of `trials`."""
    found = {}
    for session in fitting.sessions:
        ds = fitting.dataset(session)
        response, mean, ok = _responses(ds, fitting)
        condition = ds["condition"].values.astype(str)
        _, which, count = np.unique(condition, return_inverse=True, return_counts=True)
        column = "condition" if (count[which] > 1).mean() >= 0.5 else "stimulus"
        group = ds[column].values.astype(str)
        there = np.isin(group, trials.table[column].astype(str).unique())
        for k, neuron in enumerate(fitting.neurons_of(session)):
            share = repeatable_share(response[ok[:, k], k], group[ok[:, k]])
            if share > 0 and (ok[:, k] & there).any():
                kinds, which = np.unique(group[ok[:, k] & there], return_inverse=True)
                level = np.bincount(which, mean[ok[:, k] & there, k]) / np.bincount(which)
                found.setdefault(neuron, []).append((share, ok[:, k].sum(), level.max(), column, kinds[level.argmax()]))
    rank = {}
    for neuron, sessions in found.items():  # of a cell of several sessions each counts by its trials
        share, weight, *_ = zip(*sessions, strict=True)
        rank[neuron] = (-float(np.average(share, weights=weight)), neuron)
    return [(neuron, *max(found[neuron], key=lambda s: s[2])[3:]) for neuron in sorted(rank, key=rank.get)]


def _responses(ds, trials):
    """The scored part of each response, NaN after it; its mean; and where it and the whole baseline were measured: (trial, neuron, ...)."""
    response = ds[trials.window.signal].values[..., ds.attrs["n_baseline"] :]
    inside = np.arange(response.shape[-1]) < ds["n_score"].values[:, None, None]
    return np.where(inside, response, np.nan), response.mean(-1, where=inside), scored_whole(ds)
