"""The own-trace ridge, smoothed over time: its weights are chosen frame by frame, so that its forecast is rougher than what can be known."""

from typing import ClassVar

import numpy as np

from . import schema
from .ridge import RidgeOwn

SIGMAS_S = (0.0, 0.06, 0.12, 0.25)


class SmoothedRidge(RidgeOwn):
    """`RidgeOwn` with its forecast smoothed over time by a Gaussian.

    The width is that with the least squared error on validation, of a ridge that was fitted on the training part alone. The Gaussian is cut at the ends
    of the response and its weights there sum to 1, too. Smoothing is linear: it is applied to weights and intercept once, at the end of `fit`.

    Attributes
    ----------
    sigma_s : float
        Standard deviation of the Gaussian in seconds; 0: not smoothed.
    """

    kind = "smoothed_ridge"
    name = "smoothed ridge"
    learnt: ClassVar[dict] = {**RidgeOwn.learnt, "sigma_s": schema.number(least=0)}

    def _learn(self, split):
        super()._learn(split)
        known = self.scale, self.weights, self.intercept
        self._allocate()
        self._solve(split, both=False)
        errors = dict.fromkeys(SIGMAS_S, 0.0)
        for neurons, conditions, context, response, whole in self._observations(split.validation):
            forecast = self._forecast(context, neurons, conditions)
            for sigma_s in SIGMAS_S:
                errors[sigma_s] += float((np.where(whole[..., None], response - forecast @ self._smoothing(sigma_s), 0.0) ** 2).sum())
        self.sigma_s = min(SIGMAS_S, key=lambda sigma_s: errors[sigma_s])
        self.scale, weights, intercept = known
        smoothing = self._smoothing(self.sigma_s)
        self.weights, self.intercept = weights @ smoothing, intercept @ smoothing

    def _smoothing(self, sigma_s):
        """The matrix (time, time) that smooths a forecast when multiplied from the right."""
        frames = np.arange(self.n_response)
        if sigma_s == 0:
            return np.eye(self.n_response)
        weights = np.exp(-(((frames[:, None] - frames) / (sigma_s * self.rate_hz)) ** 2) / 2)
        return weights / weights.sum(0)

    def facts(self):
        return {**super().facts(), "sigma_s": self.sigma_s}

    def restore(self, note, arrays):
        super().restore(note, arrays)
        self.sigma_s = note["sigma_s"]
