"""Activation classification: will a neuron respond at all (paper 3.4.1)."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from ...models.quantformer import GAIN_LEVELS, ActivationClassifier
from ...training.bank import CHUNK
from ...training.options import LoopConfig
from .. import schema
from ..checks import check_labels
from ..interface import Classifier
from ..objectives import best_threshold, constants_of_labels
from .downstream import Downstream, fit
from .options import FitConfig


class QuantFormerClassifier(Downstream, Classifier):
    """Estimates from a neuron's baseline, its token and the stimulus token how probable it is that the neuron will be active after the onset."""

    kind = "classifier"
    call = "fit_classifier"
    name = "QuantFormer"
    module_class = ActivationClassifier
    module: ActivationClassifier
    options = ("dropout", "hide", "neuron_token", "gain_weight")
    results: ClassVar[dict] = {"threshold": schema.number(least=0, most=1)}

    def __init__(self, autoencoder, neurons, tokens, *, gain_weight=FitConfig.gain_weight, **options):
        super().__init__(autoencoder, neurons, tokens, gain_weight=gain_weight, **options)
        self.threshold = 0.5

    def _objective(self, train, validation):
        """The loss is the cross-entropy of the label. Training adds that of the other levels of the gain; validation uses only the label's."""
        module, n_b = self.module, self.autoencoder.config.n_baseline
        levels = torch.tensor(GAIN_LEVELS, device=self.device) * train.window.active_gain

        def loss(bank, at):
            x = bank.batch(at).x[:, 0, :n_b]
            h = module.summary(x, bank.neuron(at), bank.condition(at), self._hidden(len(at)))
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
        return constants_of_labels(train, validation)

    @torch.no_grad()
    def _learnt(self, validation, anew):
        """Set the threshold of best balanced accuracy on validation."""
        if not anew:
            return
        n_b, p = self.autoencoder.config.n_baseline, []
        for at in validation.chunks():
            x = validation.batch(at).x[:, 0, :n_b]
            p.append(self.module(x, validation.neuron(at), validation.condition(at)).float().softmax(-1)[:, 1])
        self.threshold = best_threshold(torch.cat(p), validation.active, self.threshold)

    def check_labels(self, trials):
        """Raise QfError if the trials define "active" in another way than in training."""
        check_labels(self.window, trials)

    def prepare(self, trials):
        """As `Downstream.prepare`; also raises QfError if the trials define "active" in another way than in training."""
        self.check_labels(trials)
        return super().prepare(trials)

    @torch.no_grad()
    def predict_arrays(self, asked):
        """The probability that each neuron is active, float32 (trial, neuron)."""
        with self.inputs(asked) as (x, neuron, stimulus, _):
            out = [self.module(x[at], neuron[at], stimulus[at]).float().softmax(-1)[:, 1].cpu()
                   for at in torch.arange(len(x), device=self.device).split(CHUNK)]  # fmt: skip
        return torch.cat(out).numpy().reshape(len(asked.conditions), len(asked.neurons))

    def sequence(self):
        """The encoder's input: the names of the learned tokens in front, and the number of patches that follow."""
        return ["[CLS]", *self.front()], self.autoencoder.config.baseline_patches

    @staticmethod
    def evidence(logits):
        """The evidence for "active", (b,): its logit minus that of "inactive"."""
        return logits[:, 1] - logits[:, 0]


def fit_classifier(
    autoencoder,
    split,
    *,
    tuning=FitConfig.tuning,
    stim_token=FitConfig.stim_token,
    gain_weight=FitConfig.gain_weight,
    neuron_token=FitConfig.neuron_token,
    hide=FitConfig.hide,
    dropout=FitConfig.dropout,
    seed=LoopConfig.seed,
    **options,
):
    """Fit the activation classifier (paper 3.4.1).

    Parameters
    ----------
    gain_weight : float
        Weight of a second loss: which levels (-0.5, 0, 0.5, 2, 4 and 8 times that of the label) the response's gain passes. A label holds one bit
        about a response; the levels hold more. They are only used in training. 0 is the paper.
    autoencoder, split, tuning, stim_token, neuron_token, hide, dropout, seed, **options
        As in `fit_forecaster`.

    Returns
    -------
    QuantFormerClassifier
        The validation part chooses its threshold. Its `reference` compares the validation score with constant forecasts.

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
    own = {"gain_weight": gain_weight, "neuron_token": neuron_token, "hide": hide, "dropout": dropout}
    return fit(QuantFormerClassifier, autoencoder, split, own, tuning=tuning, stim_token=stim_token, seed=seed, **options)
