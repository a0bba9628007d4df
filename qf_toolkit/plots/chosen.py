"""Choose the observations that a figure shows, by rule and from the measured traces, before anybody sees a forecast."""

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
        The rule that chose the observation.
    session : str
        Key.
    trial : int
        Number of the trial in the session.
    neuron : str
        Key.
    same : tuple of int
        Trials of the session whose mean is drawn in a panel below; empty if there is no such panel.
    """

    kind: str
    session: str
    trial: int
    neuron: str
    same: tuple = ()


def choose_observations(trials, *, fitting=None, n=8, seed=0):
    """Choose observations for `figure_forecasts`: half of them from the most forecastable neurons, half at random. No model influences the choice.

    A neuron is the more forecastable, the larger the share of its response that repeats over the trials of a condition
    (`interpret.neurons.repeatable_share`). If most trials have a condition of their own, the trials of a stimulus are taken instead. For each such
    neuron the best condition is the one with the largest mean response in `fitting`, and one shown trial of this condition is drawn at random. If too
    few neurons have a response that repeats, the most active observations of other neurons fill the first half.

    Parameters
    ----------
    trials : Trials
        The trials of the figure, usually `split.test`. Sessions are read one at a time.
    fitting : Trials, optional
        The trials that rank neurons and conditions, usually `split.fitting` (train and validation). If None, or if it holds none of the neurons of
        `trials`, `trials` themselves.
    n : int
        Number of observations, at least 2. If there are fewer whole observations, fewer are returned.
    seed : int
        Seed of the random half, and of the trial of each forecastable neuron.

    Returns
    -------
    list of Shown
        First the half (rounded up) of the most forecastable neurons, the best first, with the trials of their condition as `same`; then the random
        observations.

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
    """Choose observations for figures of examples: half (rounded up) are the most active of different neurons, the others are drawn at random.

    Parameters
    ----------
    trials : Trials
    n : int
        Number of observations, at least 1. If there are fewer whole observations, fewer are returned.
    seed : int
        Seed of the random observations.

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
    """List the observations that must be forecast to draw these panels: the chosen trials, and the trials of the means.

    Parameters
    ----------
    chosen : list of Shown

    Returns
    -------
    dict
        {session key: (trial numbers, neuron keys)}: two lists without repeats, the trials in ascending order.
    """
    wanted = {}
    for one in chosen:
        numbers, neurons = wanted.setdefault(one.session, (set(), {}))
        numbers |= {one.trial, *one.same}
        neurons[one.neuron] = None  # a dict keeps the order
    return {session: (sorted(numbers), list(neurons)) for session, (numbers, neurons) in wanted.items()}


class _Survey:
    """The facts behind a choice: which observations are whole, and the most active one of each neuron. Traces are read once, session by session."""

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
        """The table of a session's trials."""
        return self.trials.table[self.trials.table["session"] == session]

    def forecastable(self, ranked, n, rng):
        """One scored trial of the best condition for each of the first n neurons that have such a trial, drawn at random."""
        found = []
        for neuron, column, key in ranked:
            if len(found) == n:
                break
            options = [(s, t) for s in self.trials.sessions for t in self.trials_of(s, neuron, column, key, self.scored)]
            if options:
                found.append(Shown("forecastable", *options[rng.integers(len(options))], neuron))
        return found

    def trials_of(self, session, neuron, column, key, where):
        """Numbers of the session's trials whose `column` (condition or stimulus) is `key`, and whose observation of the neuron is True in `where`."""
        names, rows = self.trials.neurons_of(session), self.rows(session)
        if neuron not in names:
            return []
        return rows["trial"].to_numpy()[(rows[column] == key).to_numpy() & where[session][:, names.index(neuron)]].tolist()

    def most_active(self, n, but=()):
        """The n observations with the largest mean response in the scored part, of different neurons, none of them in `but`."""
        best = sorted((-response, neuron, session, trial) for neuron, (response, session, trial) in self.best.items() if neuron not in but)
        return [Shown("most active", session, trial, neuron) for _, neuron, session, trial in best[:n]]

    def random(self, n, seed, first):
        """Draw observations from all scored ones, until there are n together with `first`."""
        sessions, taken = self.trials.sessions, {(s.session, s.trial, s.neuron) for s in first}
        ends = np.cumsum([self.scored[s].sum() for s in sessions])
        found = []
        # n draws are enough, even if all of `first` are among them
        for i in np.random.default_rng(seed).choice(int(ends[-1]), min(n, int(ends[-1])), replace=False):
            session = sessions[s := int(np.searchsorted(ends, i, side="right"))]
            t, k = np.argwhere(self.scored[session])[i - ends[s]]  # a negative index, from the session's end
            one = (session, int(self.rows(session)["trial"].iloc[t]), self.trials.neurons_of(session)[k])
            if len(first) + len(found) < n and one not in taken:
                found.append(Shown("random", *one))
        return found

    def same(self, shown):
        """Trials with a whole window and the same condition; if there is only one, trials of the same stimulus."""
        rows = self.rows(shown.session)
        here = rows[rows["trial"] == shown.trial].iloc[0]
        same, wider = (self.trials_of(shown.session, shown.neuron, column, here[column], self.whole) for column in ("condition", "stimulus"))
        return tuple(same if len(same) > 1 else wider)


def _by_repeats(fitting, trials):
    """(neuron, column, key) of neurons whose response repeats, in falling order. Column and key name their best condition among those of `trials`."""
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
    for neuron, sessions in found.items():  # the sessions of a matched cell are weighted by their trials
        share, weight, *_ = zip(*sessions, strict=True)
        rank[neuron] = (-float(np.average(share, weights=weight)), neuron)
    return [(neuron, *max(found[neuron], key=lambda s: s[2])[3:]) for neuron in sorted(rank, key=rank.get)]


def _responses(ds, trials):
    """The responses (trial, neuron, time), NaN after the scored part; their means, and whether baseline and scored part are whole (trial, neuron)."""
    response = ds[trials.window.signal].values[..., ds.attrs["n_baseline"] :]
    inside = np.arange(response.shape[-1]) < ds["n_score"].values[:, None, None]
    return np.where(inside, response, np.nan), response.mean(-1, where=inside), scored_whole(ds)
