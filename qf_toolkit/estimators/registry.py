"""What can be fitted, saved and loaded, by name: a line each, `module:Class` below qf_toolkit, imported when first used."""

from importlib import import_module

from ..errors import QfError
from .notes import read_note

KINDS = {  # what stands under "kind" in config.json of a saved model
    "autoencoder": "estimators.quantformer.pretrain:Autoencoder",
    "forecaster": "estimators.quantformer.response:QuantFormerForecaster",
    "classifier": "estimators.quantformer.activation:QuantFormerClassifier",
    "network_forecaster": "estimators.network:NetworkForecaster",
    "network_classifier": "estimators.network:NetworkClassifier",
    "zero": "estimators.naive:Zero",
    "copy_last": "estimators.naive:CopyLast",
    "context_mean": "estimators.naive:ContextMean",
    "training_mean": "estimators.naive:TrainingMean",
    "stimulus_mean": "estimators.naive:StimulusMean",
    "ridge_own": "estimators.ridge:RidgeOwn",
    "ridge_population": "estimators.ridge:RidgePopulation",
    "frequency": "estimators.frequency:FrequencyClassifier",
    "level_over_f0": "estimators.over_f0:LevelOverF0",
    "frequency_over_f0": "estimators.over_f0:FrequencyOverF0",
}
MODELS = {  # torch modules that `estimators.network` makes forecasters and classifiers of
    "nlinear": "models.baselines.nlinear:NLinear",
    "lstm": "models.baselines.lstm:LSTM",
}


def find(table, name):
    """The class that stands under a name of KINDS or MODELS."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(f"..{module}", __package__), attribute)


def load(folder, device="auto"):
    """Load any saved model.

    Parameters
    ----------
    folder : str or Path
        What `save`, `qf pretrain --out` or `qf fit --out` wrote.
    device : str

    Returns
    -------
    Estimator
        Of the class that was saved: an Autoencoder, a forecaster, a classifier, a naive row.

    Raises
    ------
    QfError
        If it is no saved model, or one of another version; DamagedFileError if a file of it is cut short or altered.

    Examples
    --------
    >>> forecaster.save("runs/forecast")
    >>> bool((load("runs/forecast").predict(split.test)["forecast"] == forecaster.predict(split.test)["forecast"]).all())
    True
    """
    kind = read_note(folder)["kind"]
    if kind not in KINDS:
        raise QfError(f"{folder}: expected one of {sorted(KINDS)}, found {kind[:40]!r}. Update the toolkit.")
    return find(KINDS, kind).load(folder, device=device)
