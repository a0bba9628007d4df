"""Autoregression: a neuron's next frame from its last frames, again and again over the horizon."""

from typing import Any, ClassVar

import numpy as np

from . import schema
from .checks import check_keys
from .interface import Forecaster
from .naive import HINT, Naive

ORDERS = (1, 2, 3, 5, 8, 12, 20, 30)  # frames looked back
SHRINKAGES = (0.0, 100.0, 1_000.0, 10_000.0, float("inf"))  # frames of a neuron that weigh as much as the coefficients of all neurons
STABLE = 0.999  # largest root of a process that is iterated: beyond 1 a forecast would grow without end


class Autoregression(Naive, Forecaster):
    """Forecasts each frame from the neuron's last frames, about the neuron's mean, and goes on from its own forecasts.

    Every neuron has its own coefficients, by least squares inside the windows of training, shrunk (as in ridge regression) towards those that fit all
    neurons, each divided by its own spread. The order and the shrinkage are those with the least squared error over the whole response on validation;
    the coefficients are then fitted again on train and validation. If the process of a neuron would grow without end, its coefficients are damped.

    Attributes
    ----------
    order : int
        Frames looked back.
    shrinkage : float or None
        In frames of the neuron; None: all neurons share the coefficients.
    coefficients : float64 array, shape (neuron, order)
        From the last frame backwards.
    mean : float64 array, shape (neuron,)
        In units of the window's signal.
    """

    kind = "autoregression"
    name = "autoregression"
    learnt: ClassVar[dict] = {"neurons": schema.KEYS, "order": schema.whole(least=1), "shrinkage": schema.maybe(schema.number(least=0))}

    def _learn(self, split: Any) -> None:
        self.neurons = {n: i for i, n in enumerate(split.fitting.neurons)}
        orders = [p for p in ORDERS if p <= self.n_context] or [1]
        train = self._moments(split.train, orders[-1])
        errors = {(p, s): 0.0 for p in orders for s in SHRINKAGES}
        fits = {(p, s): (self._coefficients(train, p, s), train["mean"]) for p, s in errors}
        told = False
        for neurons, _, context, response, whole in self._observations(split.validation):
            at = np.array([self.neurons[n] for n in neurons])
            told |= bool(whole.any())
            for choice, (coefficients, mean) in fits.items():
                forecast = _iterated(context, coefficients[at], mean[at], self.n_response)
                errors[choice] += float((np.where(whole[..., None], response - forecast, 0.0) ** 2).sum())
        if not told:
            self.notes.append("validation holds too little to choose an order by; all neurons share an order of 1.")
        self.order, shrinkage = min(errors, key=lambda choice: errors[choice]) if told else (1, float("inf"))
        self.shrinkage = None if np.isinf(shrinkage) else shrinkage
        moments = self._moments(split.fitting, self.order)
        self.coefficients, self.mean = self._coefficients(moments, self.order, shrinkage), moments["mean"]

    def _moments(self, trials, order):
        """Mean and variance of each neuron, (neuron,), the number of its equations, and its mean products of lags 0 to `order`, (neuron, lag, lag), about
        the mean and divided by the variance."""
        n_neurons = len(self.neurons)
        total, count = np.zeros((2, n_neurons))
        for neurons, _, context, response, whole in self._observations(trials):
            at = np.array([self.neurons[n] for n in neurons])
            x = np.concatenate([context, response], -1)
            total[at] += np.where(whole[..., None], x, 0.0).sum((0, 2))
            count[at] += whole.sum(0) * x.shape[-1]
        mean = total / np.maximum(count, 1)
        products, n = np.zeros((n_neurons, order + 1, order + 1)), np.zeros(n_neurons)
        for neurons, _, context, response, whole in self._observations(trials):
            at = np.array([self.neurons[name] for name in neurons])
            x = np.where(whole[..., None], np.concatenate([context, response], -1) - mean[at, None], 0.0).transpose(1, 0, 2)
            frames = x.shape[-1] - order
            for i, of_neuron in zip(at, x, strict=True):
                lags = np.stack([of_neuron[:, order - j : order - j + frames].ravel() for j in range(order + 1)])
                products[i] += lags @ lags.T
            n[at] += whole.sum(0) * frames
        products /= np.maximum(n, 1)[:, None, None]
        variance = products[:, 0, 0].copy()
        products /= np.where(variance > 0, variance, 1.0)[:, None, None]
        return {"mean": mean, "n": n, "products": products}

    def _coefficients(self, moments, order, shrinkage):
        """Coefficients (neuron, order), without roots beyond 1."""
        products, n = moments["products"][:, : order + 1, : order + 1], moments["n"]
        inner, target = products[:, 1:, 1:], products[:, 1:, 0]
        little = 1e-9 * np.eye(order)
        weight = n / max(n.sum(), 1)
        shared = np.linalg.solve(np.tensordot(weight, inner, 1) + little, weight @ target)
        if np.isinf(shrinkage):
            return np.repeat(_damped(shared[None]), len(n), 0)
        pull = (shrinkage / np.maximum(n, 1))[:, None]
        own = np.linalg.solve(inner + (pull[..., None] + 1e-9) * np.eye(order), (target + pull * shared)[..., None])[..., 0]
        return _damped(np.where(n[:, None] > 0, own, shared))

    def predict_arrays(self, asked):
        check_keys("neuron", asked.neurons, self.neurons, HINT)
        at = np.array([self.neurons[n] for n in asked.neurons])
        return _iterated(asked.context, self.coefficients[at], self.mean[at], self.n_response).astype(np.float32)

    def facts(self):
        return {"neurons": list(self.neurons), "order": self.order, "shrinkage": self.shrinkage}

    def arrays(self):
        return {"coefficients": self.coefficients, "mean": self.mean}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        return {"coefficients": (len(note["neurons"]), note["order"]), "mean": (len(note["neurons"]),)}

    def restore(self, note, arrays):
        self.neurons, self.order, self.shrinkage = {n: i for i, n in enumerate(note["neurons"])}, note["order"], note["shrinkage"]
        self.coefficients, self.mean = arrays["coefficients"], arrays["mean"]


def _iterated(context, coefficients, mean, n_response):
    """The process run on from a context (trial, neuron, time) for n_response frames: float64 (trial, neuron, time)."""
    order = coefficients.shape[1]
    x = np.zeros((order + n_response, *context.shape[:2]))
    x[:order] = (context[..., context.shape[-1] - order :] - mean[:, None]).transpose(2, 0, 1)
    for t in range(order, order + n_response):
        for k in range(order):
            x[t] += x[t - 1 - k] * coefficients[:, k]
    return (x[order:] + mean).transpose(1, 2, 0)


def _damped(coefficients):
    """Coefficients (neuron, order) whose process does not grow: the k-th is multiplied by a factor to the power k where the largest root is too large."""
    n, order = coefficients.shape
    companion = np.zeros((n, order, order))
    companion[:, 0] = coefficients
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1.0
    root = np.abs(np.linalg.eigvals(companion)).max(-1)
    factor = np.where(root > STABLE, STABLE / np.maximum(root, STABLE), 1.0)
    return coefficients * factor[:, None] ** np.arange(1, order + 1)
