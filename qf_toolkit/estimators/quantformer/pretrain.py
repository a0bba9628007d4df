"""Pre-training: the masked auto-encoder learns from all observations and ignores neuron and stimulus (paper 3.3)."""

from dataclasses import asdict

import torch

from ...errors import QfError
from ...models.config import QuantFormerConfig
from ...models.options import check_options, defaults, refuse_unknown, shown
from ...models.quantformer import QuantFormer
from ...recordings.conditions import category_of
from ...recordings.splits import check_split
from ...recordings.trials import scaling_by_session
from ...recordings.window import saved_window
from ...training.bank import Bank, tell_left_out
from ...training.device import forked, pick_device, told_memory
from ...training.loop import batches, run
from ...training.options import LoopConfig, RunConfig
from ...training.traces import Traces
from ..checks import check_rate
from ..coder import Coder
from ..divisors import divisors_of
from ..notes import refuse
from ..reference import constant_scores, told
from ..saving import check_sizes, fill
from ..seen import seen_frames
from .options import PretrainConfig
from .saved import AUTOENCODER


class Autoencoder(Coder):
    """A pre-trained QuantFormer auto-encoder, with its window, divisors and z-scores, so that it can be used on other trials.

    Attributes
    ----------
    has_codes : bool
        False under `quantise=False`: it then only reconstructs.
    module : QuantFormer
        Maps windows (B, T), float32, divided by each neuron's divisor, to reconstructions and codes.
    seen : dict
        Frames it was trained or validated on; see `seen.seen_frames`.
    history : list of dict
        One entry per validation; see `training.loop.run`.
    seed : int or None
        Seed of the training; None if an older saved model lacks it.
    simulated : bool or None
        Whether it was trained on simulated recordings; None if an older saved model lacks it.
    reference : dict or None
        The best epoch (from 0), the number of epochs, the validation score, and the scores of the stimulus mean and of the mean of the training
        part (see `estimators.reference.told`); None if an older saved model lacks it.
    run : dict or None
        The version of qf_toolkit and the settings with which the command line trained it; None if it was trained from Python.
    """

    kind = "autoencoder"
    name = "QuantFormer auto-encoder"

    def __init__(self, module, *about, **given):
        super().__init__(module, *about, **given)
        self.has_codes = module.quantizer is not None

    @property
    def config(self):
        """The QuantFormerConfig."""
        return self.module.config

    def _coded(self, x):
        return self.module(x)[:2]

    def code_vectors(self):
        return self.module.quantizer.vectors.detach().float().cpu().numpy()

    def note(self):
        """The dict for config.json, of this model and of every model that holds it."""
        return {
            "model": asdict(self.config), "window": asdict(self.window), "normalise": self.normalise, "scale": self.scale,
            "seen": self.seen, "history": self.history, "scaling": self.scaling, "seed": self.seed,
            "simulated": self.simulated, "reference": self.reference,
        }  # fmt: skip

    def tensors(self):
        """The weights, {name: tensor}."""
        return self.module.state_dict()

    @classmethod
    def checks(cls):
        """The check for config.json."""
        return AUTOENCODER

    @classmethod
    def from_note(cls, note, tensors, device, folder, where=""):
        """Build it from a checked note and its weights; `where` is the note's place in config.json, for errors."""
        try:
            config, window = QuantFormerConfig(**note["model"]), saved_window(note["window"])
        except QfError as e:
            refuse(folder, f"{where}model or {where}window", "values that go together", e)
        frames, found = window.frames(config.rate_hz)[:2], (config.n_baseline, config.n_response)
        if frames != found:
            refuse(folder, f"{where}model.n_baseline, n_response", f"the frames of the window {frames}", found)
        if "" not in note["scale"]:
            refuse(folder, f"{where}scale", "a pooled divisor, of the key ''", "none")
        check_sizes(folder, tensors, f"{where}model", config)
        module = QuantFormer(config)
        fill(folder, module, tensors)
        own = ("normalise", "scale", "seen", "history")
        late = (note.get(n) for n in ("seed", "simulated", "reference"))
        return cls(module.to(device), window, *(note[n] for n in own), scaling_by_session(note["scaling"]), *late)


def pretrain(
    split,
    *,
    config=None,
    epochs=LoopConfig.epochs,
    steps=LoopConfig.steps,
    batch_size=LoopConfig.batch_size,
    batch_trials=LoopConfig.batch_trials,
    lr=LoopConfig.lr,
    schedule=LoopConfig.schedule,
    clip=LoopConfig.clip,
    patience=LoopConfig.patience,
    balance=PretrainConfig.balance,
    normalise=PretrainConfig.normalise,
    seed=LoopConfig.seed,
    device=RunConfig.device,
    checkpoint=None,
    resume=RunConfig.resume,
    progress=RunConfig.progress,
    memory_mb=RunConfig.memory_mb,
    **overrides,
):
    """Pre-train the vector-quantised masked auto-encoder on the training part, choosing the epoch on the validation part.

    Parameters
    ----------
    split : Split
    config : QuantFormerConfig, optional
        Sizes and constants; its defaults if None. rate_hz, n_baseline and n_response are always taken from the trials.
    epochs, steps, batch_size, batch_trials, lr, schedule, clip, patience, seed
        See `LoopConfig`. batch_size is in observations. If both epochs and steps are given, the longer training counts.
    balance : {"weight", "sample"}
        How the loss makes up for rare activations. "weight" uses the weight 1 + a beta of eq. 2 (paper); "sample" draws as many inactive as active
        observations in each epoch (released code).
    normalise : {"neuron", "global", "none"}
        Divide each neuron's signal by its own standard deviation over the training part, divide all signals by the pooled one, or divide nothing.
    device : str or torch.device
    checkpoint : str or Path, optional
        Folder for checkpoints, from which an interrupted run goes on; None keeps none.
    resume, progress : bool
        Whether to go on from a checkpoint if there is one, and whether to show progress.
    memory_mb : float, optional
        If the traces take more MB than this, windows are read from the sessions' files on use; see `training.traces.Traces`. The results are the
        same.
    **overrides
        Other fields of `QuantFormerConfig` (patch_frames, codes, width, layers...), of `LoopConfig` (optimiser, warmup, ema...) and of
        `RunConfig` (checkpoint_s).

    Returns
    -------
    Autoencoder
        Its `reference` compares the validation score with constant forecasts.

    Raises
    ------
    QfError
        If sessions differ in rate, a setting is unknown or out of range, no observation is usable, the loss or the validation score is not finite,
        or the device's memory is full.

    Examples
    --------
    >>> autoencoder = pretrain(split, epochs=2, patch_frames=8, width=16, layers=1, heads=2, codes=8, progress=False)
    >>> codes = autoencoder.codes(split.test)["code"]
    >>> codes.dims, bool(codes.max() < 8)
    (('trial', 'neuron', 'patch'), True)
    """
    check_split(split)
    given = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "batch_trials": batch_trials, "lr": lr, "schedule": schedule,
             "clip": clip, "patience": patience, "seed": seed}  # fmt: skip
    mine = {"config", "balance", "normalise", "checkpoint"}
    refuse_unknown("pretrain", overrides, sorted({*defaults(QuantFormerConfig), *defaults(LoopConfig), *defaults(RunConfig), *mine}))
    loop = LoopConfig(**given, **{n: overrides.pop(n) for n in list(overrides) if n in defaults(LoopConfig)})
    running = {n: overrides.pop(n) for n in list(overrides) if n in defaults(RunConfig)}
    running = RunConfig(device=device, memory_mb=memory_mb, resume=resume, progress=progress, **running)
    how = PretrainConfig(balance=balance, normalise=normalise)
    check_options(QuantFormerConfig, overrides)
    device, config = pick_device(running.device), _config(split, config, overrides)
    with told_memory(device):
        return _pretrain(split, config, loop, how, device, {"checkpoint": checkpoint, "run_config": running})


def untrained(
    split,
    *,
    config=None,
    normalise=PretrainConfig.normalise,
    seed=LoopConfig.seed,
    device=RunConfig.device,
    memory_mb=RunConfig.memory_mb,
    **overrides,
):
    """Make an auto-encoder with random weights, for a fit from scratch (paper Table 3, baseline): `fit_forecaster` or `fit_classifier` trains its encoder.

    Parameters
    ----------
    split : Split
        Its training part gives the divisors and, under signal="zscore", the z-scores.
    config, normalise, seed, device, memory_mb
        As for `pretrain`.
    **overrides
        Other fields of `QuantFormerConfig`.

    Returns
    -------
    Autoencoder
        With the weights that `pretrain` of the same options would begin with, and an empty `history`.

    Raises
    ------
    QfError
        If sessions differ in rate, a setting is unknown or out of range, no observation is usable, or the device's memory is full.

    Examples
    --------
    >>> scratch = untrained(split, patch_frames=8, width=16, layers=1, heads=2, quantise=False)
    >>> scratch.has_codes, scratch.history
    (False, [])
    """
    check_split(split)
    refuse_unknown("untrained", overrides, sorted({*defaults(QuantFormerConfig), "config", "normalise", "seed", "device", "memory_mb"}))
    loop, how = LoopConfig(seed=seed), PretrainConfig(normalise=normalise)
    device = pick_device(RunConfig(device=device, memory_mb=memory_mb).device)
    with told_memory(device):
        traces = Traces((split.train, split.validation), device, memory_mb)
        module, scale = _made(split, _config(split, config, overrides), how, loop, device, traces)
    module.requires_grad_(False)
    train = split.train
    return Autoencoder(module, train.window, how.normalise, scale, seen_frames(train), [], train.scaling, loop.seed, train.simulated)


def _config(split, config, overrides):
    """The checked QuantFormerConfig of a split; raises QfError if the sessions differ in rate."""
    if config is not None and not isinstance(config, QuantFormerConfig):
        raise QfError(f"config: expected a QuantFormerConfig, found {shown(config)}.")
    rate = split.train.rate_hz
    n_baseline, n_response, _ = split.train.window.frames(rate)
    config = QuantFormerConfig(
        **{**(asdict(config) if config else {}), **overrides, "rate_hz": rate, "n_baseline": n_baseline, "n_response": n_response}
    )
    for part in (split.train, split.validation):
        check_rate(rate, part)
    return config


def _made(split, config, how, loop, device, traces):
    """A QuantFormer of random weights, and the divisors of the training part."""
    scale = divisors_of(split.train, how.normalise, traces)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.seed)
        return QuantFormer(config).to(device), scale


def _pretrain(split, config, loop, how, device, keep):
    traces = Traces((split.train, split.validation), device, keep["run_config"].memory_mb)
    module, scale = _made(split, config, how, loop, device, traces)
    everything = dict.fromkeys(split.train.neurons + split.validation.neurons, 0)
    tokens = {category_of(c): 0 for p in (split.train, split.validation) for c in p.conditions}
    pooled = {n: scale.get(n, scale[""]) for n in everything}
    train, validation = (Bank(p, everything, tokens, device, pooled, traces) for p in (split.train, split.validation))
    tell_left_out(train, validation)
    beta = train.beta(config.beta_most) if how.balance == "weight" else 0.0
    actives, others = (torch.nonzero(train.active == a).flatten() for a in (1, 0))

    def draw():
        if how.balance == "weight" or not len(actives):
            return batches(torch.randperm(len(train), device=device), loop, train.trial)
        chosen = torch.cat([actives, others[torch.randperm(len(others), device=device)[: len(actives)]]])
        return batches(chosen[torch.randperm(len(chosen), device=device)], loop, train.trial)

    def validate():
        torch.manual_seed(0)  # the same masks every epoch
        total = 0.0
        for at in validation.chunks():
            total += float(module.loss(validation.batch(at), validation.active[at].float(), beta)) * len(at)
        return {"score": total / len(validation)}

    def of_constants(outs, at):
        x, valid, _, _ = validation.batch(at).folded()
        mask = module.draw_mask(len(x), device)
        return [module.reconstruction_loss(out, x, valid, mask, validation.active[at].float(), beta) for out in outs]

    history = run(
        module, draw, lambda at: module.loss(train.batch(at), train.active[at].float(), beta), validate, loop,
        settings={"model": config, "window": split.train.window, **asdict(how),
                  "data": seen_frames(split.train), "train": train.digest(), "validation": validation.digest()},
        label="pre-training", **keep,
    )  # fmt: skip
    with forked(device):
        torch.manual_seed(0)  # the masks of `validate`
        scores = constant_scores(train, validation, lambda bank, at: bank.batch(at).x[:, 0], of_constants)
    reference = told("pre-training", history, scores, keep["run_config"].progress)
    seen, simulated = seen_frames(split.train, split.validation), split.train.simulated
    return Autoencoder(module, split.train.window, how.normalise, scale, seen, history, split.train.scaling, loop.seed, simulated, reference)
