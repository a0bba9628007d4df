"""The names of all estimators and models that can be loaded or fitted. A name stands for `module:Class` below qf_toolkit, imported on first use."""

from importlib import import_module

from ..errors import QfError
from .notes import read_note

KINDS = {  # the values of "kind" in config.json of saved models
    "autoencoder": "estimators.quantformer.pretrain:Autoencoder",
    "forecaster": "estimators.quantformer.response:QuantFormerForecaster",
    "regressor": "estimators.quantformer.response:QuantFormerRegressor",
    "classifier": "estimators.quantformer.activation:QuantFormerClassifier",
    "network_forecaster": "estimators.network:NetworkForecaster",
    "network_classifier": "estimators.network:NetworkClassifier",
    "network_pretrained": "estimators.pretrained_network:PretrainedNetwork",
    "calm_quantizer": "estimators.calm.quantizer:CalmQuantizer",
    "calm": "estimators.calm.forecaster:CalmForecaster",
    "zero": "estimators.naive:Zero",
    "copy_last": "estimators.naive:CopyLast",
    "context_mean": "estimators.naive:ContextMean",
    "training_mean": "estimators.naive:TrainingMean",
    "stimulus_mean": "estimators.naive:StimulusMean",
    "ridge_own": "estimators.ridge:RidgeOwn",
    "ridge_population": "estimators.ridge:RidgePopulation",
    "autoregression": "estimators.autoregression:Autoregression",
    "stimulus_context": "estimators.stimulus_context:StimulusContext",
    "smoothed_ridge": "estimators.smoothed_ridge:SmoothedRidge",
    "frequency": "estimators.frequency:FrequencyClassifier",
    "level_over_f0": "estimators.over_f0:LevelOverF0",
    "frequency_over_f0": "estimators.over_f0:FrequencyOverF0",
    "chronos": "estimators.chronos:ChronosForecaster",
    "decoder_ridge": "estimators.decoding.ridge:RidgeDecoder",
    "decoder_reduced_rank": "estimators.decoding.ridge:ReducedRankDecoder",
    "decoder_mean": "estimators.decoding.ridge:MeanDecoder",
    "decoder_glm": "estimators.decoding.glm:GLMDecoder",
    "decoder_svm": "estimators.decoding.glm:SVMDecoder",
    "decoder_backbone": "estimators.decoding.backbone:BackboneDecoder",
}
MODELS = {  # torch modules that `estimators.network` makes forecasters and classifiers of
    "nlinear": "models.baselines.nlinear:NLinear",
    "lstm": "models.baselines.lstm:LSTM",
    "tcn": "models.baselines.tcn:TCN",
    "patchtst": "models.baselines.patchtst:PatchTST",
    "itransformer": "models.baselines.itransformer:ITransformer",
    "brainlm": "models.baselines.brainlm:BrainLM",
    "informer": "models.baselines.informer:Informer",
    "autoformer": "models.baselines.autoformer:Autoformer",
    "crossformer": "models.baselines.crossformer:Crossformer",
    "poco": "models.poco:POCO",
}
PRETRAINING = ("brainlm",)  # of MODELS, those that `estimators.pretrained_network` trains by masking


def find(table, name):
    """The class that a name of KINDS or MODELS stands for."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(f"..{module}", __package__), attribute)


def load(folder, device="auto"):
    """Load any saved model.

    Parameters
    ----------
    folder : str or Path
        A folder that `save`, `qf pretrain --out` or `qf fit --out` wrote.
    device : str or torch.device
        The device that the model computes on; see `pick_device`.

    Returns
    -------
    Estimator
        An estimator of the class that was saved: an Autoencoder, a forecaster, a classifier or a naive row.

    Raises
    ------
    QfError
        If the folder holds no saved model, or one of another version, or the device can't be used.
    DamagedFileError
        If a file is cut short or altered.

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
