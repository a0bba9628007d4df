"""The rows of the benchmark: what each is called, what it is pre-trained on, and how it is fitted. All are given the same trials, steps and batches."""

from dataclasses import dataclass, fields

from ..errors import QfError, did_you_mean
from ..estimators.decoding.options import OVER_STATES
from ..estimators.registry import MODELS, find

NAIVE = "naive"
QUANTFORMER = "quantformer"
CALM, BACKBONE = "calm", "calm_backbone"
DECODERS = ("mean", "ridge", "reduced_rank", "glm", "svm", *OVER_STATES)
DECODER_NAMES = {
    "mean": "training mean", "ridge": "ridge", "reduced_rank": "reduced-rank regression", "glm": "GLM", "svm": "linear SVM",
    "probe": "CalM, linear head", "backbone": "CalM, gated head",
}  # fmt: skip
BOUND, BOUND_NAME = "upper_bound", "upper bound (true state)"  # of simulated networks


@dataclass(frozen=True)
class Row:
    """A row of the benchmark.

    Attributes
    ----------
    name : str
        As tables show it.
    pretrained : str
        The model that is pre-trained first, on the pooled store or, of populations, on the sessions that are forecast, a name of `registry.MODELS` or "quantformer"; "" for none.
    """

    name: str
    pretrained: str = ""


def rows() -> dict[str, Row]:
    """All rows by the name that the user types: the naive rows (one entry), every network, CalM and QuantFormer."""
    networks = {name: Row(find(MODELS, name).name) for name in MODELS}
    if "brainlm" in networks:
        networks["brainlm_ft"] = Row(f"{networks['brainlm'].name}, pre-trained", "brainlm")
    return {NAIVE: Row("naive rows"), **networks, CALM: Row("CalM", CALM), QUANTFORMER: Row("QuantFormer", QUANTFORMER)}


def check_models(names) -> list[str]:
    """The names of rows that a user asked for, each once; "all" stands for every one.

    Raises
    ------
    QfError
        If a name is unknown.
    """
    known = rows()
    wanted = list(known) if "all" in names else list(dict.fromkeys([NAIVE, *names]))
    for name in wanted:
        if name not in known:
            raise QfError(f"models: expected all or names of rows, found {name[:40]!r}; {did_you_mean(name, known)} There are {', '.join(known)}.")
    return wanted


def model_options(name: str, given: dict) -> dict:
    """Those of the given options that a network has.

    Parameters
    ----------
    name : str
        A name of `registry.MODELS`.
    given : dict

    Returns
    -------
    dict
    """
    known = {f.name for f in fields(find(MODELS, name).Config)}
    return {option: value for option, value in given.items() if option in known}


def pretrain(name: str, split, pretrained, options: dict, **keep):
    """Pre-train a row's model on the pooled training part.

    Parameters
    ----------
    name : str
        `Row.pretrained`.
    split : Split
    pretrained : Estimator or None
        What the run before it made, for the backbone of decoders.
    options : dict
        Of the model and of its training.
    **keep
        checkpoint, device, progress.

    Returns
    -------
    Estimator
    """
    if name == QUANTFORMER:
        from ..estimators.quantformer.pretrain import pretrain as train

        return train(split, **options, **keep)
    if name.startswith(QUANTFORMER):
        from ..estimators.quantformer.variants import pretrain_variant

        return pretrain_variant(name.removeprefix(f"{QUANTFORMER}_"), split, **options, **keep)
    if name == BACKBONE:
        return fit(CALM, "forecast", split, pretrained, options, **keep)
    if name == CALM:
        from ..estimators.calm.quantizer import pretrain_calm_quantizer

        return pretrain_calm_quantizer(split, **options, **keep)
    from ..estimators.pretrained_network import pretrain_network

    return pretrain_network(split, name, **options, **keep)


def fit(name: str, task: str, split, pretrained, options: dict, **keep):
    """Fit a row to a task.

    Parameters
    ----------
    name : str
        A name of `rows`.
    task : {"forecast", "activation"}
    split : Split
    pretrained : Estimator or None
        What `pretrain` made.
    options : dict
        Of the model and of its training.
    **keep
        checkpoint, device, progress.

    Returns
    -------
    Forecaster or Classifier
    """
    if name.startswith(QUANTFORMER):
        keep.pop("device")  # it is the pre-trained model's
        return _fit_quantformer(name, task, split, pretrained, {**options, **keep})
    if name == CALM:
        from ..estimators.calm.fit import fit_calm

        return fit_calm(split, pretrained, **options, **keep)
    from ..estimators.network import fit_network

    start = {} if pretrained is None else {"pretrained": pretrained}
    return fit_network(split, name.removesuffix("_ft"), task, **start, **options, **keep)


def _fit_quantformer(name, task, split, pretrained, options):
    from ..estimators.quantformer.activation import fit_classifier
    from ..estimators.quantformer.response import fit_forecaster
    from ..estimators.quantformer.variants import fit_variant

    if name != QUANTFORMER:
        return fit_variant(name.removeprefix(f"{QUANTFORMER}_"), pretrained, split, task, **options)
    return (fit_forecaster if task == "forecast" else fit_classifier)(pretrained, split, **options)
