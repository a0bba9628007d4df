"""Generalised linear decoders, and support vectors: Poisson for events, multinomial logistic and linear support vectors for categories.

Solved by scikit-learn on the features that the ridges have.
"""

import warnings
from typing import ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.svm import LinearSVC

from ...errors import QfError
from .linear import ABSENT, TraceDecoder, softmax
from .ridge import ridge_path

PENALTIES = tuple(float(p) for p in np.logspace(-3, 3, 9))  # on weights of standardised traces, beside a mean loss


class GLMDecoder(TraceDecoder):
    """A generalised linear model by what is decoded: Poisson (log link) for counts, Gaussian for other behaviour, multinomial logistic for a category.

    Counts are events, and behaviour that is a whole number of 0 or more in all of training, as licks in a frame. No frame is decoded as more than the
    greatest count in training: the exponential of what a frame unlike those of training scores knows no bound.

    The Gaussian one is the ridge of `RidgeDecoder`, with fewer penalties to choose from.

    Parameters, attributes: see `linear.TraceDecoder`.
    """

    kind = "decoder_glm"
    name = "GLM"
    has_probability = True
    settings: ClassVar[tuple] = tuple((p,) for p in PENALTIES)

    def _solve(self, x, y, which, settings):
        penalties = [p for (p,) in settings]
        if y.ndim == 1:
            return [_logistic(x, y, p) for p in penalties]
        if not self.counts[which[0]]:
            return ridge_path(x, y, penalties)
        if (y < 0).any():
            raise QfError(f'{self.variables[which[0]]}: expected events of weights of 0 or more, found {y.min():g}. Take decoder="ridge".')
        if not y.any():
            return [(np.zeros((x.shape[1], 1)), np.array([ABSENT]))] * len(penalties)
        return [_poisson(x, y[:, 0], p) for p in penalties]

    def _loss(self, scores, y, which, most):
        if y.ndim == 1:
            return float(-np.log(np.clip(softmax(scores)[np.arange(len(y)), y], 1e-12, None)).mean())
        if self.counts[which[0]]:  # half the Poisson deviance, but for what depends on y alone
            rate = np.maximum(self._linked(scores, which, most), 1e-12)
            return float((rate - y * np.log(rate)).mean())
        return super()._loss(scores, y, which, most)

    def _linked(self, scores, which, most):
        rate = np.exp(np.minimum(scores, np.log(np.maximum(most, 1.0))))
        return np.where(np.array(self.counts)[which], rate, scores)


class SVMDecoder(TraceDecoder):
    """Linear support vectors for a category of the trials, each class against the rest; squared hinge loss. It gives scores, no probabilities.

    Parameters, attributes: see `linear.TraceDecoder`.
    """

    kind = "decoder_svm"
    name = "SVM"
    decodes = ("category",)
    settings: ClassVar[tuple] = tuple((p,) for p in PENALTIES)

    def _solve(self, x, y, which, settings):
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            return [_columns(LinearSVC(C=1 / (p * len(y)), dual=x.shape[1] > len(x), max_iter=5000, random_state=0).fit(x, y)) for (p,) in settings]


def _logistic(x, y, penalty):
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return _columns(LogisticRegression(C=1 / (penalty * len(y)), max_iter=2000).fit(x, y), half=True)


def _poisson(x, y, penalty):
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model = PoissonRegressor(alpha=penalty, solver="newton-cholesky", max_iter=200).fit(x, y)
    return model.coef_[:, None], np.array([model.intercept_])


def _columns(model, half=False):
    """The weights (feature, class) and intercept (class,) of a classifier, also of two classes, for which scikit-learn keeps a column alone."""
    weights, intercept = model.coef_.T, model.intercept_
    if weights.shape[1] > 1:
        return weights, intercept
    factor = 0.5 if half else 1.0  # the softmax of +-score/2 is the logistic function of the score
    return np.concatenate([-weights, weights], 1) * factor, np.concatenate([-intercept, intercept]) * factor
