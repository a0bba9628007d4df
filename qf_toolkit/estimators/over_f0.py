"""Naive classifiers of activation that read one number per trial and neuron, its F0, and express earlier responses as dF/F over it.

The label is a threshold on a response's gain: the mean of dF/F, or of its absolute value, over the trial's own scored window. The classifiers keep
the training responses as fluorescence and divide them by the F0 of the trial in question. If F0 happens to be high, a usual response is a small gain
and no activation. If F0 can't be used, the probability is 0, because such a trial is never labelled active.
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

MOST_RESPONSES = 500  # of a condition, category or neuron at most so many are used, evenly spaced in training: they measure a share to 2 %
ARRAYS = ("response", "weight", "f0", "usable", "known", "active")  # the arrays that are kept of each session
LEAST_RATIO = 0.05  # of a level to F0, in the calibration: fluorescence corrected for neuropil can fall below 0


class _OverF0(NaiveClassifier):
    """The base of both classifiers: it keeps the training responses of each session and computes their gains over the F0 of another trial.

    A trial is compared with the responses in its own session, because a cell's fluorescence differs between sessions. A neuron without a whole
    response there, for example because its session was not in training, is compared with its responses in other sessions, each over the F0 of its own
    trial.
    """

    learnt: ClassVar[dict] = {
        "frames": schema.whole(least=1),
        "sessions": schema.mapping(schema.record({"neurons": schema.KEYS, "conditions": schema.listing(schema.text())})),
    }  # fmt: skip

    def _learn_from(self, trials):
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        self.responses = {part.sessions[0]: self._read(part) for part in trials.by_session()}

    def _read(self, part):
        """Read one session. The dict holds neurons and conditions (lists of keys), rows (see `_rows_of`), response (trial, neuron, frame) and weight
        (trial, frame), both float64, and f0 (float64), usable, known and active (bool), all (trial, neuron)."""
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
        """Yield the sessions whose responses these neurons are compared with. Each comes as: the dict of `_read`, the neurons' positions in it, int
        (neuron,), which neurons use it, bool (neuron,), and whether it is `session` itself."""
        told = np.zeros(len(neurons), bool)
        for of_session in sorted(self.responses, key=lambda s: s != session):  # the session itself comes first
            read, itself = self.responses[of_session], of_session == session
            place = {n: i for i, n in enumerate(read["neurons"])}
            at = np.array([place.get(n, -1) for n in neurons])
            here = (at >= 0) & read["known"].any(0)[at] & ~told
            if itself:
                told = here
            if here.any():
                yield read, at, here, itself

    def _pool(self, sources, key):
        """The responses of a key of `_rows_of`: response, weight and known as in `_read`, and whether each response comes from the session itself, bool
        (response,). None if there is no response."""
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
        """Yield for each trial of `read` a list of pools, from the widest (all trials of the neuron) over the category to the condition. A pool is the
        gains of its responses over the trial's F0, and which of them are known, both (response, neuron)."""
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
    """The trials of each condition and of each category, and all trials under the key "": {key: int array}."""
    rows = {"": np.arange(len(conditions))}
    for keys in (np.array(conditions), np.array([category_of(c) for c in conditions])):
        rows |= {str(key): np.flatnonzero(keys == key) for key in np.unique(keys)}
    return rows


class LevelOverF0(_OverF0):
    """Computes the expected gain: the mean level of a neuron's responses to the condition in training, over this trial's F0, minus 1.

    If "active" depends on the absolute value of dF/F, the expected gain is the mean absolute gain of those responses. If the condition was not in
    training, or the neuron has no whole response to it, the responses to its stimulus category stand in. If the category is new, too, all responses of
    the neuron do. A neuron without any response is expected to stay at F0.

    One logistic regression over all neurons, of the label on the logarithm of 1 + the expected gain, turns the gain into a probability. Besides the
    training part it learns two artificial observations: a gain of 1 above the threshold is active, and a gain of 1 below it is not. They decide if all
    labels are alike.
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
        # scikit-learn's own objects, with the saved results of their fits
        mean, spread, slope, intercept = arrays["calibration"].reshape(4, 1)
        scale, logistic = StandardScaler(), LogisticRegression()
        scale.mean_, scale.scale_, scale.var_, scale.n_features_in_ = mean, spread, spread**2, 1
        logistic.coef_, logistic.intercept_, logistic.classes_, logistic.n_features_in_ = slope[None], intercept, np.array([False, True]), 1
        self.calibration = make_pipeline(scale, logistic)

    def _expected(self, session, read):
        out = np.zeros(read["f0"].shape)
        for i, gains in enumerate(self._gains(session, read)):
            for gain, known in gains:  # a narrower pool that knows the neuron overwrites a wider one
                n = known.sum(0)
                out[i] = np.where(n > 0, (gain * known).sum(0) / np.maximum(n, 1), out[i])
        return out

    def _feature(self, gain):
        return np.log(np.maximum(1 + gain, LEAST_RATIO)).reshape(-1, 1)

    def _of(self, session, read):
        expected = self._expected(session, read)
        return self.calibration.predict_proba(self._feature(expected))[:, 1].reshape(expected.shape)


class FrequencyOverF0(_OverF0):
    """Answers how often a neuron's responses to the condition in training would have been active over this trial's F0.

    Parameters
    ----------
    shrinkage : float
        The frequency over the stimulus category counts as this many trials in the frequency of the condition. The neuron's frequency over all its
        trials (by Laplace's rule) counts as this many trials in the frequency of the category.

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
