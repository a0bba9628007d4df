"""The mean response to the condition, moved by where the neuron was before the onset."""

from typing import ClassVar

import numpy as np

from ..recordings.conditions import category_of
from . import schema
from .naive import StimulusMean

LAST_S = (0.1, 0.5, 1.0, float("inf"))  # seconds of the context, at its end, whose mean is read; inf: all of it
PSTH_SHRINKAGES = (0.0, 1.0, 3.0, 10.0, 30.0)  # trials that the mean of the level above weighs
SLOPE_SHRINKAGES = (0.0, 10.0, 100.0, float("inf"))  # trials that the slope of all neurons weighs
LEVELS = ("neuron", "category", "condition")  # from above


class StimulusContext(StimulusMean):
    """Forecasts each neuron's mean response to the condition (PSTH), plus a share of how far its context lies from its usual level.

    The mean of the context's last frames, less its mean in training, is multiplied by a slope that each neuron has for each frame of the response:
    least squares on what the PSTH leaves, shrunk towards the slope of all neurons. A PSTH of few repeats is shrunk towards the neuron's mean response to
    the category, and this one towards the neuron's mean response. How many frames are read and how far both are shrunk is chosen by squared error on
    validation; then all is fitted again on train and validation.

    Attributes
    ----------
    n_last : int
        Frames of the context that are read.
    psth_shrinkage : float
        In trials.
    slope_shrinkage : float or None
        In trials; None: all neurons share the slope.
    means : dict
        As `StimulusMean` has them, shrunk.
    level : float64 array, shape (neuron,)
        Each neuron's mean over these frames, in units of the window's signal.
    slope : float64 array, shape (neuron, time)
    """

    kind = "stimulus_context"
    name = "PSTH + own context"

    learnt: ClassVar[dict] = {
        **StimulusMean.learnt, "n_last": schema.whole(least=1), "psth_shrinkage": schema.number(least=0),
        "slope_shrinkage": schema.maybe(schema.number(least=0)),
    }  # fmt: skip

    def _learn(self, split):
        self._index(split.fitting)
        lasts = sorted({min(self.n_context, max(1, round(min(s, 1e6) * self.rate_hz))) for s in LAST_S})
        sums, errors, judged = self._sums(split.train), {}, {}
        levels = {n: self._level(split.train, n) for n in lasts}
        for psth in PSTH_SHRINKAGES:
            self.means = self._shrunk(*sums, psth)
            learnt, judged = self._products(split.train, levels), self._products(split.validation, levels)
            for n in lasts:
                for shrinkage in SLOPE_SHRINKAGES:
                    slope, (power, across, squares, _) = _slope(learnt[n], shrinkage), judged[n]
                    errors[psth, n, shrinkage] = float(power - 2 * (slope * across).sum() + (slope**2 * squares[:, None]).sum())
        told = judged[lasts[0]][3].any()
        if not told:
            self.notes.append("validation holds too little to choose by; PSTHs are not shrunk, and neurons share the slope of the whole context.")
        choice = min(errors, key=lambda c: errors[c]) if told else (0.0, lasts[-1], float("inf"))
        self.psth_shrinkage, self.n_last, shrinkage = choice
        self.slope_shrinkage = None if np.isinf(shrinkage) else shrinkage
        self.means = self._shrunk(*self._sums(split.fitting), self.psth_shrinkage)
        self.level = self._level(split.fitting, self.n_last)
        self.slope = _slope(self._products(split.fitting, {self.n_last: self.level})[self.n_last], shrinkage)

    def _shrunk(self, sums, counts, shrinkage):
        """Means of each level, float32 (key, neuron, time), shrunk towards the level above. A key without an observation has the mean above it."""
        out, above = {}, np.zeros((1, len(self.neurons), self.n_response))
        for level in LEVELS:
            if level == "condition":
                above = above[[self.levels["category"][category_of(c)] for c in self.levels["condition"]]]
            n, pull = counts[level][..., None], 0.0 if level == "neuron" else shrinkage
            mean = (sums[level] + pull * above) / np.maximum(n + pull, 1)
            above = out[level] = np.where(n + pull > 0, mean, above)
        return {level: m.astype(np.float32) for level, m in out.items()}

    def _level(self, trials, n_last):
        """Mean of the last frames of the context, float64 (neuron,)."""
        total, count = np.zeros((2, len(self.neurons)))
        for neurons, _, context, _, whole in self._observations(trials):
            at = self._columns(neurons)
            total[at] += np.where(whole, context[..., -n_last:].mean(-1), 0.0).sum(0)
            count[at] += whole.sum(0)
        return total / np.maximum(count, 1)

    def _products(self, trials, levels):
        """For each number of last frames: the summed square of what the PSTH leaves, its products with the deviation of the context, (neuron, time),
        the summed squares of the deviation, (neuron,), and the number of observations, (neuron,)."""
        shape = len(self.neurons), self.n_response
        power, found = 0.0, {n: (np.zeros(shape), np.zeros(shape[0])) for n in levels}
        count = np.zeros(shape[0])
        for neurons, conditions, context, response, whole in self._observations(trials):
            at = self._columns(neurons)
            left = np.where(whole[..., None], response - self._means_of(conditions, at), 0.0)
            power += (left**2).sum()
            count[at] += whole.sum(0)
            for n, (across, squares) in found.items():
                deviation = np.where(whole, context[..., -n:].mean(-1) - levels[n][at], 0.0)
                across[at] += np.matmul(deviation.T[:, None], left.transpose(1, 0, 2))[:, 0]
                squares[at] += (deviation**2).sum(0)
        return {n: (power, across, squares, count) for n, (across, squares) in found.items()}

    def predict_arrays(self, asked):
        at = self._columns(asked.neurons)
        deviation = asked.context[..., -self.n_last :].mean(-1, dtype=np.float64) - self.level[at]
        return (super().predict_arrays(asked) + deviation[..., None] * self.slope[at]).astype(np.float32)

    def facts(self):
        return {**super().facts(), **{n: getattr(self, n) for n in ("n_last", "psth_shrinkage", "slope_shrinkage")}}

    def arrays(self):
        return {**self.means, "level": self.level, "slope": self.slope}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        n = len(note["neurons"])
        return {**super().shapes(note, n_context, n_response), "level": (n,), "slope": (n, n_response)}

    def restore(self, note, arrays):
        super().restore(note, {level: arrays[level] for level in LEVELS})
        self.level, self.slope = arrays["level"], arrays["slope"]
        self.n_last, self.psth_shrinkage, self.slope_shrinkage = (note[n] for n in ("n_last", "psth_shrinkage", "slope_shrinkage"))


def _slope(products, shrinkage):
    """Slopes (neuron, time) from the products of `_products`, shrunk towards those of all neurons."""
    _, across, squares, count = products
    known = squares > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(known[:, None], across / squares[:, None], 0.0)
    shared = (count * known) @ own / max((count * known).sum(), 1)
    if np.isinf(shrinkage):
        return np.repeat(shared[None], len(own), 0)
    one = np.where(known, squares / np.maximum(count, 1), 1.0) * shrinkage  # the squares of so many trials
    with np.errstate(invalid="ignore", divide="ignore"):
        out = (across + one[:, None] * shared) / (squares + one)[:, None]
    return np.where(known[:, None], out, shared)
