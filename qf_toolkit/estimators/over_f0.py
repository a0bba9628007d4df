"""Naive classifiers of activation that read one number of the trial, its F0: what earlier responses would be as dF/F over it.

A response's gain is what its label is a threshold on: the mean of dF/F, or of its absolute value, over the trial's own scored window. The training
responses are kept as fluorescence and taken over the F0 of the trial that is asked about: where F0 happens to be high, a usual response is a small
gain, and no activation. Probabilities are 0 where F0 can't be used, as such a trial is never labelled active.
"""

from typing import ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..recordings.conditions import category_of
from ..recordings.window import is_active
from . import schema
from .frequency import NaiveClassifier, check_shrinkage
from .naive import scored_whole

MOST_RESPONSES = 500  # so many of a condition, category or neuron are asked, evenly spaced in training: they tell a share to 2 %
ARRAYS = ("response", "weight", "f0", "usable", "known", "active")  # what is kept of each session
LEAST_RATIO = 0.05  # of a level to F0, in the calibration: fluorescence corrected for neuropil can fall below 0


class _OverF0(NaiveClassifier):
    """What the two share: the training responses of each session, and their gains over the F0 of another trial.

    A trial is told of by the responses in its own session, for the fluorescence of a cell differs between sessions. A neuron without a whole response
    there (its session was not in training, say) is told of by those in other sessions, each over the F0 of its own trial.
    """

    learnt: ClassVar[dict] = {
        "frames": schema.whole(least=1),
        "sessions": schema.mapping(schema.record({"neurons": schema.KEYS, "conditions": schema.listing(schema.text())})),
    }  # fmt: skip

    def _learn_from(self, trials):
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        self.responses = {part.sessions[0]: self._read(part) for part in trials.by_session()}

    def _read(self, part):
        """Of one session: neurons; conditions (trial,); rows of each key; response (trial, neuron, frame), weight (trial, frame); f0, usable, known
        and active (trial, neuron)."""
        session = part.sessions[0]
        ds, x = part.dataset(), part.fluorescence(session).astype(np.float64)
        n, k = ds.attrs["n_baseline"], ds.attrs["n_score"]
        f0 = x[..., n - ds.attrs["n_f0"] : n].mean(-1)
        usable = f0 > part.source.header(session).attrs["f0_floor"]  # False for a NaN, too
        n_score = ds["n_score"].values[:, None]
        weight = (np.arange(k) < n_score) / n_score
        response = np.nan_to_num(x[..., n : n + k])
        if part.window.active_rule == "gain":  # the mean of the gain is the gain of the mean
            response, weight = (response * weight[:, None]).sum(-1, keepdims=True), np.ones((len(weight), 1))
        conditions = [str(c) for c in ds["condition"].values]
        return {
            "neurons": part.neurons_of(session), "conditions": conditions, "rows": _rows_of(conditions), "response": response, "weight": weight,
            "f0": np.where(usable, f0, 1.0), "usable": usable, "known": scored_whole(ds) & usable, "active": ds["active"].values,
        }  # fmt: skip

    def _sources(self, session, neurons):
        """The sessions that tell of these neurons in a session: what was read of each, where the neurons stand in it, which it tells of, and
        whether it is the session itself."""
        told = np.zeros(len(neurons), bool)
        for of_session in sorted(self.responses, key=lambda s: s != session):  # itself first
            read, itself = self.responses[of_session], of_session == session
            place = {n: i for i, n in enumerate(read["neurons"])}
            at = np.array([place.get(n, -1) for n in neurons])
            here = (at >= 0) & read["known"].any(0)[at] & ~told
            if itself:
                told = here
            if here.any():
                yield read, at, here, itself

    def _pool(self, sources, key):
        """The responses under a key: response, weight and known as in `_read`, and whether each is of the session itself; None where there is none."""
        found = []
        for read, at, here, itself in sources:
            rows = read["rows"].get(key, np.arange(0))
            known = read["known"][np.ix_(rows, at)] & here
            rows, known = rows[known.any(1)], known[known.any(1)]
            response = read["response"][np.ix_(rows, at)]
            if not itself:
                response = response / read["f0"][np.ix_(rows, at)][..., None]
            found.append((response, read["weight"][rows], known, np.full(len(rows), itself)))
        pool = [np.concatenate(a) for a in zip(*found, strict=True)]
        if not pool or not len(pool[0]):
            return None
        n = len(pool[0])
        asked = np.linspace(0, n - 1, min(n, MOST_RESPONSES)).round().astype(int)
        return [a[asked] for a in pool]

    def _gains(self, session, read):
        """For each trial of what was read: the pools from the widest (the neuron) to the nearest (the condition), each as the gains of its responses
        over the trial's F0 and which of them are known, both (response, neuron)."""
        sources = list(self._sources(session, read["neurons"]))
        pools = {}
        for condition, f0 in zip(read["conditions"], read["f0"], strict=True):
            gains = []
            for key in ("", category_of(condition), condition):
                if key not in pools:
                    pools[key] = self._pool(sources, key)
                if pools[key] is not None:
                    response, weight, known, itself = pools[key]
                    gain = response / np.where(itself[:, None], f0, 1.0)[..., None] - 1
                    gain = gain if self.window.active_rule == "gain" else abs(gain)
                    gains.append(((gain * weight[:, None]).sum(-1), known))
            yield gains

    def _probability(self, part, neurons):
        read = self._read(part)
        return np.where(read["usable"], self._of(part.sessions[0], read), 0.0)

    def facts(self):
        sessions = {s: {"neurons": read["neurons"], "conditions": read["conditions"]} for s, read in self.responses.items()}
        return {"sessions": sessions, "frames": next(iter(self.responses.values()))["response"].shape[-1]}

    def arrays(self):
        return {f"{name}.{s}": read[name] for s, read in self.responses.items() for name in ARRAYS}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        found, k = {}, note["frames"]
        for session, of in note["sessions"].items():
            size = len(of["conditions"]), len(of["neurons"])
            found |= {f"{name}.{session}": size for name in ARRAYS} | {f"response.{session}": (*size, k), f"weight.{session}": (size[0], k)}
        return found

    def restore(self, note, arrays):
        self.neurons = {n: i for i, n in enumerate(dict.fromkeys(n for of in note["sessions"].values() for n in of["neurons"]))}
        self.responses = {
            s: {**of, "rows": _rows_of(of["conditions"]), **{name: arrays[f"{name}.{s}"] for name in ARRAYS}} for s, of in note["sessions"].items()
        }


def _rows_of(conditions):
    """Trials of each condition, of each category, and under "" all: {key: int array}."""
    rows = {"": np.arange(len(conditions))}
    for keys in (np.array(conditions), np.array([category_of(c) for c in conditions])):
        rows |= {str(key): np.flatnonzero(keys == key) for key in np.unique(keys)}
    return rows


class LevelOverF0(_OverF0):
    """The expected gain: the mean level of a neuron's responses to the condition in training, over this trial's F0, less 1.

    Where "active" is a matter of the absolute value of dF/F, the mean absolute gain of those responses. A condition that was not in training (or of
    which that neuron has no whole response) takes the responses to its stimulus category, and where that is new, too, all of the neuron's. A neuron
    without any is expected to stay at F0. One logistic regression of the label on the logarithm of 1 + the expected gain, over all neurons, makes it a
    probability; beside the training part it learns that a gain of 1 above the threshold is active and one of 1 below it is not, which alone decides
    where the labels are all alike.
    """

    kind = "level_over_f0"
    name = "response level over F0"

    def _learn_from(self, trials):
        super()._learn_from(trials)
        known = {s: read["known"] for s, read in self.responses.items()}
        gain = [self._expected(s, read)[known[s]] for s, read in self.responses.items()]
        active = [read["active"][known[s]] for s, read in self.responses.items()]
        threshold = self.window.active_gain
        x = self._feature(np.concatenate([*gain, [threshold - 1, threshold + 1]]))
        self.calibration = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, np.concatenate([*active, [False, True]]))

    def arrays(self):
        scale, logistic = (step for _, step in self.calibration.steps)
        line = np.array([scale.mean_[0], scale.scale_[0], logistic.coef_[0, 0], logistic.intercept_[0]])
        return {**super().arrays(), "calibration": line}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        return {**super().shapes(note, n_context, n_response), "calibration": (4,)}

    def restore(self, note, arrays):
        super().restore(note, arrays)
        # scikit-learn's own objects, given what their fits found
        mean, spread, slope, intercept = arrays["calibration"].reshape(4, 1)
        scale, logistic = StandardScaler(), LogisticRegression()
        scale.mean_, scale.scale_, scale.var_, scale.n_features_in_ = mean, spread, spread**2, 1
        logistic.coef_, logistic.intercept_, logistic.classes_, logistic.n_features_in_ = slope[None], intercept, np.array([False, True]), 1
        self.calibration = make_pipeline(scale, logistic)

    def _expected(self, session, read):
        out = np.zeros(read["f0"].shape)
        for i, gains in enumerate(self._gains(session, read)):
            for gain, known in gains:  # the nearest pool that knows the neuron stands
                n = known.sum(0)
                out[i] = np.where(n > 0, (gain * known).sum(0) / np.maximum(n, 1), out[i])
        return out

    def _feature(self, gain):
        return np.log(np.maximum(1 + gain, LEAST_RATIO)).reshape(-1, 1)

    def _of(self, session, read):
        expected = self._expected(session, read)
        return self.calibration.predict_proba(self._feature(expected))[:, 1].reshape(expected.shape)


class FrequencyOverF0(_OverF0):
    """How often a neuron's responses to the condition in training would have been active over this trial's F0.

    Parameters
    ----------
    shrinkage : float
        Weight, in trials, of the frequency over all conditions of the stimulus category in that of the condition, and of the neuron's frequency over
        all its trials (by Laplace's rule) in that of the category.

    Raises
    ------
    QfError
        If `shrinkage` is no number above 0.
    """

    kind = "frequency_over_f0"
    name = "frequency over F0"
    options: ClassVar[dict] = {"shrinkage": schema.number(above=0, most=1e300)}

    def __init__(self, shrinkage=2.0):
        super().__init__()
        self.shrinkage = check_shrinkage(shrinkage)

    def _of(self, session, read):
        out = np.full(read["f0"].shape, 0.5)
        for i, gains in enumerate(self._gains(session, read)):
            weight = 2.0
            for gain, known in gains:
                hits = (is_active(gain, self.window) & known).sum(0)
                out[i] = (hits + weight * out[i]) / (known.sum(0) + weight)
                weight = self.shrinkage
        return out
