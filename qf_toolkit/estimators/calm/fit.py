"""Fits CalM's forecaster: from a quantiser, or from a forecaster of other sessions."""

from dataclasses import asdict
from typing import Any

import torch

from ...errors import QfError
from ...models.calm_config import DualAxisConfig
from ...models.options import shown
from ...recordings.splits import Split, check_split
from ...training.device import pick_device, told_memory
from ...training.options import LoopConfig, RunConfig
from ...training.traces import Traces
from ..checks import check_rate, check_window
from ..coder import merged_scaling
from ..divisors import divisors_of
from ..network_options import NetworkConfig, sort_options
from ..stimulus_tokens import StimulusTokens
from .forecaster import CalmForecaster
from .options import ADAPT_LOOP, POPULATION_LOOP, CalmConfig

GIVEN = (DualAxisConfig, NetworkConfig, CalmConfig)
SIZES = ("width", "layers", "heads", "neuron_attention", "token_width", "stim_token")


def fit_calm(split: Split, pretrained: Any = None, *, device: Any = RunConfig.device, checkpoint: Any = None, **options: Any) -> CalmForecaster:
    """Fit CalM's dual-axis transformer to whole windows of a population, token by token.

    Parameters
    ----------
    split : Split
        Of any number of sessions: each is a population of its own, and all share the weights.
    pretrained : CalmQuantizer or CalmForecaster
        A quantiser: the transformer begins anew. A forecaster: the fit starts from its weights and sizes, knows its neurons and those of `split`, and
        counts as seen what it saw; with tuning="embeddings" nothing but embeddings learns. Needed unless tokens="patches".
    device : str or torch.device
    checkpoint : str or Path, optional
        Folder for checkpoints, from which an interrupted fit goes on; None keeps none.
    **options
        Options of `DualAxisConfig` (width (256), layers (4)...), of `CalmConfig` (tokens, decode, tuning), of `NetworkConfig` (token_width (16), 0: the
        condition is not told; stim_token, most_neurons (256)), of `LoopConfig` (epochs (160), batch_trials (4), lr (1e-3), ema (0.99)...) and of
        `RunConfig`. `calm.options.SMALL["forecaster"]` holds those of a small one.

    Returns
    -------
    CalmForecaster
        The validation part chooses the epoch, by the loss of the next token, and the decoding, by its squared error.

    Raises
    ------
    QfError
        If an option is unknown or out of range, `pretrained` is none or does not fit, sessions differ in rate, no observation is usable, the loss or the
        validation score is not finite, or the device's memory is full.

    Notes
    -----
    Source: CalM (arXiv 2604.04958), its dual-axis transformer; see `models.calm`.

    Examples
    --------
    >>> from qf_toolkit.estimators.calm.fit import fit_calm
    >>> from qf_toolkit.estimators.calm.quantizer import pretrain_calm_quantizer
    >>> quantizer = pretrain_calm_quantizer(split, width=16, layers=1, codes=8, epochs=8, lr=5e-3, batch_size=32, progress=False)
    >>> model = fit_calm(split, quantizer, width=16, layers=1, epochs=2, progress=False)
    >>> model.name, model.predict(split.test)["forecast"].dims
    ('CalM', ('trial', 'neuron', 'time'))
    """
    check_split(split)
    task = getattr(pretrained, "kind", None)
    if pretrained is not None and task not in ("calm_quantizer", "calm"):
        raise QfError(
            f"pretrained: expected CalM's quantiser or forecaster, found {shown(pretrained)}. Pass what pretrain_calm_quantizer or fit_calm gave."
        )
    usual = ADAPT_LOOP if options.get("tuning") == "embeddings" else POPULATION_LOOP
    if "batch_size" in options:
        usual = {**usual, "batch_trials": 0}
    fixed: dict = {}
    if pretrained is not None and task == "calm":
        calm = {n: v for n, v in asdict(pretrained.calm).items() if n != "tuning"}
        fixed = {**asdict(pretrained.options), **asdict(pretrained.config), **calm}
    elif pretrained is not None:
        fixed = {"normalise": pretrained.normalise}
    (own, config, calm, loop), running = sort_options("fit_calm", {**fixed, **options}, (*GIVEN, LoopConfig), device, usual)
    for name in (*SIZES, "normalise", "tokens"):
        if name in options and name in fixed and options[name] != fixed[name]:
            raise QfError(f"{name}: expected {fixed[name]!r}, as in pre-training, found {options[name]!r}. Leave it out.")
    if (calm.tokens == "codes") != (pretrained is not None) and task != "calm":
        raise QfError(
            f"pretrained: expected {'a quantiser' if calm.tokens == 'codes' else 'none'} for tokens={calm.tokens!r}, found {shown(pretrained)}. "
            'Pre-train one with pretrain_calm_quantizer (qf pretrain --model calm), or take tokens="patches".'
        )
    if calm.tuning == "embeddings" and task != "calm":
        raise QfError('tuning: expected "all", since there is no fitted forecaster to start from, found "embeddings". Pass one as pretrained.')
    rate, device = split.train.rate_hz, pick_device(device)
    for part in (split.train, split.validation):
        check_rate(rate, part)
        if pretrained is not None:
            check_window(pretrained.window, pretrained.rate_hz, part)
    with told_memory(device):
        traces = Traces((split.train, split.validation), device, running.memory_mb)
        fitted = _made(split, pretrained, own, config, calm, loop, device, traces)
        fitted._run(split, loop, {"checkpoint": checkpoint, "run_config": running}, traces)
    return fitted


def _made(split, pretrained, own, config, calm, loop, device, traces):
    """A forecaster of random weights, or with those of `pretrained`, that knows the neurons of both."""
    train, other = split.train, pretrained if getattr(pretrained, "kind", "") == CalmForecaster.kind else None
    quantizer = other.quantizer if other else pretrained
    before = [known for known in (quantizer, other) if known is not None]
    scaling = merged_scaling(split.validation.scaling, train.scaling, *(known.scaling for known in before))
    scale = divisors_of(check_window(train.window, train.rate_hz, train, scaling), config.normalise, traces)
    for known in before:  # what has been measured before stays, so that codes and embeddings keep their meaning
        scale |= known.scale if known is quantizer else known._scale
    neurons, sessions = list(train.neurons), list(train.sessions)
    tokens = StimulusTokens.learnt(config.stim_token if config.token_width else "category", train.table)
    if quantizer is not None:
        quantizer = quantizer.measured_by(scale, scaling)
    if other is not None:
        neurons, sessions = list(dict.fromkeys([*other.neurons, *neurons])), list(dict.fromkeys([*other.sessions, *sessions]))
        tokens = joined(other.tokens, tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.seed)
        fitted = CalmForecaster(quantizer, own, config, calm, train.window, train.rate_hz, neurons, sessions, tokens, scale, scaling, device)
    if other is not None:
        fitted._start_from(other)
    return fitted


def joined(known: StimulusTokens, new: StimulusTokens) -> StimulusTokens:
    """The tokens of a model that also meets new conditions: the known ones first. Tokens made of features stay as they are."""
    new_keys = [] if known.kind == "features" else [k for k in new.keys if k not in known.keys]
    return StimulusTokens(known.kind, [*known.keys, *new_keys], known.features)
