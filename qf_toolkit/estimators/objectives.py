"""Losses, validation scores of constant forecasts, and thresholds, shared by all forecasters and classifiers."""

import numpy as np
import torch
import torch.nn.functional as F

from ..training.bank import Bank
from .reference import constant_scores


def mean_of(values: torch.Tensor, usable: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of `values`, float (b,), over those that are `usable`, bool (b,); over all if that is None. A scalar, 0 if none is usable."""
    if usable is None:
        return values.mean()
    return torch.where(usable, values, 0.0).sum() / usable.sum().clamp(min=1)


def weighed_error(error: torch.Tensor, bank: Bank, at: torch.Tensor, usable: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of forecasts, weighed by each neuron's divisor: the error in units of the signal, up to one constant factor.

    Parameters
    ----------
    error : float tensor, shape (b, time)
        Forecast minus truth, both divided by the neuron's divisor.
    bank : Bank
    at : long tensor, shape (b,)
        Positions of the observations in the bank.
    usable : bool tensor, shape (b,), optional
        The observations that count; all if it is None.

    Returns
    -------
    float tensor, scalar
    """
    weight = (bank.divisor(at) / bank.divisors.square().mean().sqrt()).square()
    return mean_of(error.square().mean(1) * weight, usable)


def constants_of_responses(train: Bank, validation: Bank, n_baseline: int) -> dict[str, float]:
    """`weighed_error` on validation of forecasts that know only means of the training part; see `constant_scores`."""

    def target(bank, at):
        return bank.batch(at).x[:, 0, n_baseline:]

    return constant_scores(train, validation, target, lambda outs, at: [weighed_error(out - target(validation, at), validation, at) for out in outs])


def constants_of_labels(train: Bank, validation: Bank) -> dict[str, float]:
    """Cross-entropy on validation if the training part's frequencies of activation are the forecast; see `constant_scores`."""

    def score(outs, at):
        return [F.binary_cross_entropy(out[:, 0], validation.active[at].float()) for out in outs]

    return constant_scores(train, validation, lambda bank, at: bank.active[at, None].float(), score, shrinkage=1.0)


def best_threshold(probability: torch.Tensor, active: torch.Tensor, otherwise: float) -> float:
    """The threshold of best balanced accuracy.

    Parameters
    ----------
    probability : float tensor, shape (n,)
    active : bool tensor, shape (n,)
    otherwise : float
        The threshold to return if all observations are active, or none is.

    Returns
    -------
    float
        The middle between the two neighbouring probabilities that the threshold separates.
    """
    p, order = probability.sort(descending=True)
    a = active[order].cpu().numpy().astype(np.float64)  # on the host: Apple's GPUs have no float64
    if not 0 < a.sum() < len(a):
        return otherwise
    gain = a.cumsum() / a.sum() - (1 - a).cumsum() / (1 - a).sum()
    best = int(gain.argmax())
    return float((p[best] + p[min(best + 1, len(p) - 1)]) / 2)
