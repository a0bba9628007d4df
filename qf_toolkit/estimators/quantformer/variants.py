"""The ablations of QuantFormer (paper Table 3), each a row of `VARIANTS`.

===========  =============================================================================================================================
baseline     The encoder from scratch, told the stimulus alone; cross-entropy for activation, a regression head for the response.
tokens       The baseline with the [NEURON] token.
autoencoder  The same with an encoder that was pre-trained as a plain masked auto-encoder, without a codebook.
quantised    The whole: pre-trained with a codebook, the response forecast as codes.
===========  =============================================================================================================================

Choice where the paper is silent: "cross-entropy for classification and MSE for forecasting" names the losses alone. The regression head is here the
head of the whole model, an MLP on each masked place, with the frames of a patch as its outputs in place of the codes.
"""

from dataclasses import dataclass, field
from typing import Any

from ...errors import QfError, did_you_mean
from ...models.config import QuantFormerConfig
from ...models.options import defaults
from ...recordings.splits import Split
from .activation import QuantFormerClassifier, fit_classifier
from .options import PretrainConfig
from .pretrain import Autoencoder, pretrain, untrained
from .response import QuantFormerForecaster, QuantFormerRegressor, fit_forecaster

TASKS = {"forecast": fit_forecaster, "activation": fit_classifier}
OF_UNTRAINED = {*defaults(QuantFormerConfig), *defaults(PretrainConfig), "config", "seed", "device", "memory_mb"} - {"balance"}


@dataclass(frozen=True)
class Variant:
    """One ablation.

    Attributes
    ----------
    name : str
        Name of its row in a table.
    pretrained : bool
        Whether the auto-encoder is trained, or keeps its random weights.
    model : dict
        Options of the auto-encoder, fields of `QuantFormerConfig`.
    fit : dict
        Options of the fit, fields of `FitConfig`.
    """

    name: str
    pretrained: bool = True
    model: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)


VARIANTS = {
    "baseline": Variant("QuantFormer: baseline", pretrained=False, model={"quantise": False}, fit={"neuron_token": False}),
    "tokens": Variant("QuantFormer: + learnable tokens", pretrained=False, model={"quantise": False}),
    "autoencoder": Variant("QuantFormer: + AE", model={"quantise": False}),
    "quantised": Variant("QuantFormer: + quantization"),
}


def pretrain_variant(variant: str, split: Split, **options: Any) -> Autoencoder:
    """The auto-encoder that a variant starts from: pre-trained, or with random weights.

    Parameters
    ----------
    variant : str
        A name of `VARIANTS`.
    split : Split
    **options
        As for `pretrain`. A variant from scratch takes of them what decides the model and its divisors, and leaves out those of the training.

    Returns
    -------
    Autoencoder
        Both variants from scratch have the same; so do `fit_variant` for the forecast and for activation.

    Raises
    ------
    QfError
        If the variant is unknown, or as `pretrain`.
    """
    chosen = _variant(variant)
    options = {**options, **chosen.model}
    if chosen.pretrained:
        return pretrain(split, **options)
    return untrained(split, **{name: value for name, value in options.items() if name in OF_UNTRAINED})


def fit_variant(
    variant: str, autoencoder: Autoencoder, split: Split, task: str = "forecast", **options: Any
) -> QuantFormerForecaster | QuantFormerRegressor | QuantFormerClassifier:
    """Fit a variant on the auto-encoder that `pretrain_variant` gave.

    Parameters
    ----------
    variant : str
        A name of `VARIANTS`.
    autoencoder : Autoencoder
    split : Split
    task : {"forecast", "activation"}
    **options
        As for `fit_forecaster` or `fit_classifier`.

    Returns
    -------
    QuantFormerForecaster, QuantFormerRegressor or QuantFormerClassifier
        Its name is the variant's.

    Raises
    ------
    QfError
        If variant or task is unknown, the auto-encoder is that of another variant, an encoder from scratch would not be trained (tuning="prompt"), or as
        the fit.

    Examples
    --------
    >>> scratch = pretrain_variant("baseline", split, patch_frames=8, width=16, layers=1, heads=2, device="cpu")
    >>> fit_variant("baseline", scratch, split, epochs=2, progress=False).name
    'QuantFormer: baseline'
    """
    chosen = _variant(variant)
    if task not in TASKS:
        raise QfError(f"task: expected one of {', '.join(TASKS)}, found {task!r}.")
    made = {"quantise": chosen.model.get("quantise", True)}, chosen.pretrained
    found = {"quantise": getattr(autoencoder, "has_codes", None)}, bool(getattr(autoencoder, "history", ()))
    if made != found:
        raise QfError(f"autoencoder: expected what pretrain_variant({variant!r}, split) gave, found that of another variant. Pre-train this one.")
    if not chosen.pretrained and options.get("tuning") == "prompt":
        raise QfError(f"tuning: expected 'fine' with {variant!r}, whose encoder is not pre-trained, found 'prompt'. Leave it out.")
    model = TASKS[task](autoencoder, split, **{**options, **chosen.fit})
    model.name = chosen.name
    return model


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise QfError(f"variant: {name!r} is no ablation; {did_you_mean(name, VARIANTS)}")
    return VARIANTS[name]
