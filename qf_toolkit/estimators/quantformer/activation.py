"""Activation classification: will a neuron respond at all (paper 3.4.1)."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import QfError
from ...models.quantformer import GAIN_LEVELS, ActivationClassifier
from ...training.bank import CHUNK
from .. import schema
from ..reference import constant_scores
from .downstream import Downstream, fit


class QuantFormerClassifier(Downstream):
    """Says whether a neuron will be active after the onset, from its baseline alone."""

    kind = "classifier"
    call = "fit_classifier"
    name = "QuantFormer"
    module_class = ActivationClassifier
    module: ActivationClassifier
    options = ("dropout", "hide", "gain_weight")
    results: ClassVar[dict] = {"threshold": schema.number(least=0, most=1)}

    def __init__(self, autoencoder, neurons, tokens, *, gain_weight=0.0, **options):
        super().__init__(autoencoder, neurons, tokens, gain_weight=gain_weight, **options)
        self.threshold = 0.5

    def _objective(self, train, validation):
        """Cross-entropy of the label, in training beside that of the other levels of the gain; validation looks at the label alone."""
        module, n_b = self.module, self.autoencoder.config.n_baseline
        levels = torch.tensor(GAIN_LEVELS, device=self.device) * train.window.active_gain

        def loss(bank, at):
            x = bank.batch(at).x[:, 0, :n_b]
            h = module.summary(x, bank.neuron[at], bank.condition[at], self._hidden(len(at)))
            label = F.cross_entropy(module.head(h).float(), bank.active[at].long())
            if not module.training:
                return label
            passed = (bank.gain[at, None] > levels).float()
            return label + self.gain_weight * F.binary_cross_entropy_with_logits(module.levels(h).float(), passed)

        def validate():
            total = 0.0
            for at in validation.chunks():
                total += float(loss(validation, at)) * len(at)
            return {"score": total / len(validation)}

        return lambda at: loss(train, at), validate

    def _constants(self, train, validation):
        def score(outs, at):
            return [F.binary_cross_entropy(out[:, 0], validation.active[at]) for out in outs]

        return constant_scores(train, validation, lambda bank, at: bank.active[at, None], score, shrink=1.0)

    @torch.no_grad()
    def _learnt(self, validation, anew):
        """Threshold of best balanced accuracy on validation."""
        if not anew:
            return
        n_b, p = self.autoencoder.config.n_baseline, []
        for at in validation.chunks():
            x = validation.batch(at).x[:, 0, :n_b]
            p.append(self.module(x, validation.neuron[at], validation.condition[at]).float().softmax(-1)[:, 1])
        p, order = torch.cat(p).sort(descending=True)
        a = validation.active[order].cpu().numpy().astype(np.float64)  # on the host: Apple's GPUs have no float64
        if not 0 < a.sum() < len(a):
            return
        gain = a.cumsum() / a.sum() - (1 - a).cumsum() / (1 - a).sum()
        best = int(gain.argmax())
        self.threshold = float((p[best] + p[min(best + 1, len(p) - 1)]) / 2)

    def check_labels(self, trials):
        """Raise QfError where "active" is defined otherwise than in training."""
        for name in ("score_s", "active_rule", "active_gain"):
            mine, theirs = getattr(self.window, name), getattr(trials.window, name)
            if mine != theirs:
                raise QfError(f"{name}: expected {mine}, with which the classifier was trained, found {theirs}. Cut the trials with {name}={mine!r}.")

    def prepare(self, trials):
        """As every model's; the trials must also be labelled as those of the training."""
        self.check_labels(trials)
        return super().prepare(trials)

    @torch.no_grad()
    def predict_arrays(self, context, neurons, conditions):
        """Probability of being active, (trial, neuron); see `Forecaster.predict_arrays` for the arguments."""
        neuron, stimulus = self._ids(neurons, conditions)
        x, _ = self._flat(context, neurons)
        out = [self.module(x[at], neuron[at], stimulus[at]).float().softmax(-1)[:, 1].cpu()
               for at in torch.arange(len(x), device=self.device).split(CHUNK)]  # fmt: skip
        return torch.cat(out).numpy().reshape(len(conditions), len(neurons))

    def predict(self, trials):
        """Activation of every neuron in every trial: `probability` and `active` (trial, neuron), NaN where the baseline can't be used."""
        out = self._labelled(trials, lambda *a: {"probability": (("trial", "neuron"), self.predict_arrays(*a))})
        out["active"] = (out["probability"] > self.threshold).where(out["probability"].notnull())
        return out

    def predict_probability(self, trials):
        """Probability of being active, DataArray (trial, neuron)."""
        return self.predict(trials)["probability"]

    def sample(self, trials, n_samples=100, seed=0):
        raise QfError("sample: a classifier gives probabilities. Use predict_probability(trials).")


def fit_classifier(autoencoder, split, *, tuning="fine", stim_token=None, gain_weight=0.0, hide=0.0, dropout=None, seed=0, **options):
    """Fit the activation classifier (paper 3.4.1).

    Parameters
    ----------
    gain_weight : float
        Weight of learning which levels (-0.5, 0, 0.5, 2, 4 and 8 times that of the label) the response's gain passes. A label says one
        bit of a response; the levels say more of the same, and none of them is a forecast. 0 is the paper.
    autoencoder, split, tuning, stim_token, hide, dropout, seed, **options
        As in `fit_forecaster`.

    Returns
    -------
    QuantFormerClassifier
        Its threshold chosen on the validation part; with `reference`, what its validation score is worth.

    Raises
    ------
    QfError
        As `fit_forecaster`.

    Examples
    --------
    >>> classifier = fit_classifier(autoencoder, split, epochs=2, progress=False)
    >>> probability = classifier.predict(split.test)["probability"]
    >>> probability.dims, bool(((probability >= 0) & (probability <= 1)).all())
    (('trial', 'neuron'), True)
    """
    own = {"gain_weight": gain_weight, "hide": hide, "dropout": dropout}
    return fit(QuantFormerClassifier, autoencoder, split, own, tuning=tuning, stim_token=stim_token, seed=seed, **options)
