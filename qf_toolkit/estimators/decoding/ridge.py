"""Linear regression of behaviour on traces: ridge, reduced rank, and the training mean, which every other decoder has to beat."""

from typing import ClassVar

import numpy as np

from ...errors import QfError
from .linear import TraceDecoder

PENALTIES = tuple(float(p) for p in np.logspace(-4, 4, 17))  # on weights of standardised traces, beside a mean squared error


def ridge_path(x, y, penalties):
    """Ridge regressions of `y` on `x` that minimise mean squared error + penalty x the weights' sum of squares; the intercept is free.

    Parameters
    ----------
    x : float64 array, shape (row, feature)
    y : float64 array, shape (row, variable)
    penalties : sequence of float

    Returns
    -------
    list of (weights (feature, variable), intercept (variable,)), float64
        One for each penalty. One eigendecomposition, of whichever Gram matrix is smaller, serves all.

    Examples
    --------
    >>> weights, intercept = ridge_path(np.array([[-1.0], [1.0]]), np.array([[0.0], [4.0]]), [1.0])[0]
    >>> weights.item(), intercept.item()
    (1.0, 2.0)
    """
    n, mean_x, mean_y = len(x), x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    wide = x.shape[1] > n
    values, vectors = np.linalg.eigh((x @ x.T if wide else x.T @ x) / n)
    target = vectors.T @ (y if wide else x.T @ y) / n
    out = []
    for penalty in penalties:
        found = vectors @ (target / (np.clip(values, 0, None) + penalty)[:, None])
        weights = x.T @ found if wide else found
        out.append((weights, mean_y - mean_x @ weights))
    return out


class RidgeDecoder(TraceDecoder):
    """Ridge regression of behaviour, frame by frame, on the present and the binned past of every neuron. Each variable has a penalty of its own.

    Parameters, attributes: see `linear.TraceDecoder`.
    """

    kind = "decoder_ridge"
    name = "ridge"
    decodes = ("behaviour",)
    settings: ClassVar[tuple] = tuple((p,) for p in PENALTIES)

    def _solve(self, x, y, which, settings):
        return ridge_path(x, y, [p for (p,) in settings])


class ReducedRankDecoder(TraceDecoder):
    """Reduced-rank ridge regression: all variables are decoded through few directions of the features, fewer than there are variables.

    Variables count in units of their training standard deviation. Penalty and rank are chosen together. At full rank it is a ridge whose variables
    share their penalty. Frames in which any of the variables is missing are left out of the fit.

    Parameters, attributes: see `linear.TraceDecoder`.
    """

    kind = "decoder_reduced_rank"
    name = "reduced rank"
    decodes = ("behaviour",)

    def __init__(self, variables, **options):
        super().__init__(variables, **options)
        if len(self.variables) < 2:
            raise QfError(f'variables: expected at least 2 for a reduced rank, found {len(self.variables)}. Add others, or take decoder="ridge".')
        self.settings = tuple((p, rank) for rank in range(len(self.variables), 0, -1) for p in PENALTIES)

    def _groups(self):
        return [list(range(len(self.variables)))]

    def _loss(self, scores, y, which, most):
        return float((((scores - y) / self._spread) ** 2).mean())

    def _solve(self, x, y, which, settings):
        spread = y.std(0)
        self._spread = np.where(spread > 0, spread, 1.0)
        mean_x, mean_y = x.mean(0), y.mean(0)
        penalties = list(dict.fromkeys(p for p, _ in settings))
        found = {}
        for p, (weights, _) in zip(penalties, ridge_path(x, y / self._spread, penalties), strict=True):
            # the ridge is least squares of data with penalty rows beneath, whose fitted values give the directions
            centred = x - mean_x
            fitted = np.linalg.eigh(weights.T @ (centred.T @ (centred @ weights) / len(x)) + p * (weights.T @ weights))[1][:, ::-1]
            for rank in {r for q, r in settings if q == p}:
                low = weights @ fitted[:, :rank] @ fitted[:, :rank].T * self._spread
                found[p, rank] = low, mean_y - mean_x @ low
        return [found[setting] for setting in settings]


class MeanDecoder(TraceDecoder):
    """The mean of each behaviour in training, or the frequencies of the classes, whatever the activity.

    Parameters, attributes: see `linear.TraceDecoder`.
    """

    kind = "decoder_mean"
    name = "training mean"
    has_probability = True

    def _solve(self, x, y, which, settings):
        intercept = np.log(np.bincount(y) / len(y)) if y.ndim == 1 else y.mean(0)
        return [(np.zeros((x.shape[1], len(intercept))), intercept)]
