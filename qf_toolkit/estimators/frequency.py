"""The base of the naive classifiers of activation, and the simplest one: how often a neuron was active for a condition in training."""

from typing import ClassVar

import numpy as np
import xarray as xr

from ..errors import QfError
from ..recordings.conditions import category_of
from ..recordings.trials import check_trials
from . import schema
from .checks import check_keys
from .interface import Classifier, origin
from .naive import HINT, Naive, scored_whole
from .seen import seen_frames


class NaiveClassifier(Naive, Classifier):
    """The base of the naive classifiers. Subclasses learn in `_learn_from(trials)` and answer in `_probability(part, neurons)`."""

    def fit_on(self, trials):
        """Learn from these trials only, so that the caller can choose a threshold on others.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        NaiveClassifier
            Itself.

        Raises
        ------
        QfError
            If `trials` are no Trials, if the sessions' rates are more than 2 % apart, or if their windows differ in frames.
        """
        check_trials(trials)
        self.notes = []
        self._remember(trials)
        self.seen, self.simulated = seen_frames(trials), trials.simulated
        self._learn_from(trials)
        self._learnt_from = f"{type(self).__name__} {trials.digest()}"
        return self

    def _learn(self, split):
        self._learn_from(split.fitting)

    def predict_probability(self, trials):
        """The probability that each neuron is active.

        Parameters
        ----------
        trials : Trials
            Trials of one session.

        Returns
        -------
        xarray.DataArray
            (trial, neuron), float64.

        Raises
        ------
        UnknownKeyError
            If it never saw one of the neurons.
        QfError
            If the trials belong to several sessions (go through `trials.by_session()`), or if window or rate are not those of `fit`.
        """
        check_trials(trials)
        trials = self.prepare(trials)
        if len(trials.sessions) != 1:
            raise QfError(f"predict_probability: expected trials of one session, found {len(trials.sessions)}. Go through trials.by_session().")
        neurons = trials.neurons_of(trials.sessions[0])
        check_keys("neuron", neurons, self.neurons, HINT)
        coords = {"trial": trials.table["trial"].to_numpy(), "neuron": np.array(neurons, dtype=object)}
        return xr.DataArray(self._probability(trials, neurons), coords, ("trial", "neuron"), name="probability")

    def predict(self, trials):
        """As `Classifier.predict`, but only for trials of one session; errors as of `predict_probability`."""
        found = self.predict_probability(trials)
        return xr.Dataset({"probability": found, "active": (found > self.threshold).where(found.notnull())}, attrs=origin(trials, self))


class FrequencyClassifier(NaiveClassifier):
    """Answers how often the neuron was active for the condition in training: the naive row of activation.

    If the condition was not in training, or the neuron has no whole observation of it, the frequency over its stimulus category stands in. If the
    category is new, too, the neuron's frequency over all trials does.

    Parameters
    ----------
    shrinkage : float
        The neuron's frequency over all trials (by Laplace's rule) counts as this many trials in the frequency of a condition or category.

    Raises
    ------
    QfError
        If `shrinkage` is no number above 0.
    """

    kind = "frequency"
    name = "frequency of activation"
    options: ClassVar[dict] = {"shrinkage": schema.number(above=0, most=1e300)}
    learnt: ClassVar[dict] = {"neurons": schema.KEYS, "keys": schema.KEYS}

    def __init__(self, shrinkage=2.0):
        super().__init__()
        self.shrinkage = check_shrinkage(shrinkage)

    def _learn_from(self, trials):
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        # categories follow the conditions in one table: a condition's key holds a slash and a category's does not, so no key appears twice
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

    def facts(self):
        return {"neurons": list(self.neurons), "keys": list(self.rows)}

    def arrays(self):
        return {"own": self.own, "frequency": self.frequency}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        n = len(note["neurons"])
        return {"own": (n,), "frequency": (len(note["keys"]), n)}

    def restore(self, note, arrays):
        self.neurons, self.rows = ({k: i for i, k in enumerate(note[name])} for name in ("neurons", "keys"))
        self.own, self.frequency = arrays["own"], arrays["frequency"]

    def _probability(self, part, neurons):
        columns = np.array([self.neurons[n] for n in neurons])
        rows = [self.rows.get(c, self.rows.get(category_of(c))) for c in part.table["condition"]]
        return np.stack([(self.own if row is None else self.frequency[row])[columns] for row in rows])


def check_shrinkage(shrinkage):
    """The shrinkage as a float; raises QfError if it is no finite number above 0."""
    try:
        value = float(shrinkage)
    except (TypeError, ValueError):
        value = np.nan
    if not 0 < value < np.inf:
        raise QfError(f"shrinkage: expected a number of trials above 0, found {shrinkage!r}. Pass 2, say.")
    return value
