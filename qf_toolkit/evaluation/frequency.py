"""How often a neuron was active for a condition in training: a naive row of activation."""

import numpy as np
import xarray as xr

from ..errors import QfError
from ..recordings.conditions import category_of
from ..training.forecaster import check_keys, seen_frames
from .naive import HINT, _Naive, scored_whole


class FrequencyClassifier(_Naive):
    """How often a neuron was active for a condition in training: the naive row of activation.

    Parameters
    ----------
    shrinkage : float
        Weight, in trials, of the neuron's own frequency (by Laplace's rule) in that of the condition. A condition that was not in training (or of
        which that neuron has no whole observation) takes the frequency of its stimulus category, and where that is new, too, the neuron's own.
    """

    name = "frequency of activation"

    def __init__(self, shrinkage=2.0):
        super().__init__()
        if not shrinkage > 0:
            raise QfError(f"shrinkage: expected trials above 0, found {shrinkage}.")
        self.shrinkage = shrinkage

    def fit_on(self, trials):
        """Learn from these Trials alone; returns self."""
        self._remember(trials)
        self.seen = seen_frames(trials)
        self._count(trials)
        return self

    def _learn(self, split):
        self._count(split.fitting)

    def _count(self, trials):
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        # categories stand below the conditions: no key of the one is a key of the other, which holds a slash
        conditions, categories = trials.conditions, sorted({category_of(c) for c in trials.conditions})
        self.rows = {k: i for i, k in enumerate([*conditions, *categories])}
        hits, total = (np.zeros((len(self.rows), len(self.neurons))) for _ in range(2))
        for part in trials.by_session():
            ds = part.dataset()
            known = scored_whole(ds)
            columns = np.array([self.neurons[n] for n in part.neurons_of(part.sessions[0])])
            for key in (str, category_of):
                at = np.ix_(np.array([self.rows[key(c)] for c in ds["condition"].values]), columns)
                np.add.at(hits, at, ds["active"].values & known)
                np.add.at(total, at, known)
        n = len(conditions)
        self.own = (hits[:n].sum(0) + 1) / (total[:n].sum(0) + 2)
        self.frequency = (hits + self.shrinkage * self.own) / (total + self.shrinkage)
        of_category = self.frequency[[self.rows[category_of(c)] for c in conditions]]
        self.frequency[:n] = np.where(total[:n] > 0, self.frequency[:n], of_category)

    def predict_probability(self, trials):
        """Probability of being active.

        Returns
        -------
        xarray.DataArray
            (trial, neuron), for the trials of one session.

        Raises
        ------
        UnknownKeyError
            For a neuron it never saw.
        QfError
            If the trials are of several sessions; go through `trials.by_session()`.
        """
        trials = self.prepare(trials)
        if len(trials.sessions) != 1:
            raise QfError(f"predict_probability: expected trials of one session, found {len(trials.sessions)}. Go through trials.by_session().")
        neurons = trials.neurons_of(trials.sessions[0])
        check_keys("neuron", neurons, self.neurons, HINT)
        columns = np.array([self.neurons[n] for n in neurons])
        rows = [self.rows.get(c, self.rows.get(category_of(c))) for c in trials.table["condition"]]
        p = np.stack([(self.own if row is None else self.frequency[row])[columns] for row in rows])
        coords = {"trial": trials.table["trial"].to_numpy(), "neuron": np.array(neurons, dtype=object)}
        return xr.DataArray(p, coords, ("trial", "neuron"), name="probability")
