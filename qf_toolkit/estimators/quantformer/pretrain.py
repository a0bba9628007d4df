"""Pre-training: the masked auto-encoder learns from all observations and ignores neuron and stimulus (paper 3.3)."""

from copy import copy
from dataclasses import asdict

import numpy as np
import torch
import xarray as xr

from ...errors import QfError
from ...models.config import QuantFormerConfig
from ...models.options import check_options, defaults, refuse_unknown, shown
from ...models.quantformer import QuantFormer
from ...recordings.conditions import category_of
from ...recordings.splits import check_split
from ...recordings.trials import check_trials, scaling_by_session
from ...recordings.window import saved_window
from ...training.bank import CHUNK, Bank, tell_left_out
from ...training.device import forked, pick_device, told_memory
from ...training.loop import batches, run
from ...training.options import LoopConfig, RunConfig
from ...training.traces import Traces
from ..checks import check_rate, check_window
from ..digests import Digest
from ..divisors import divisors_of
from ..interface import Estimator, origin
from ..notes import refuse
from ..reference import constant_scores, told
from ..saving import check_sizes, fill
from ..seen import seen_frames
from .options import PretrainConfig
from .saved import AUTOENCODER


class Autoencoder(Estimator):
    """A pre-trained QuantFormer auto-encoder, with its window, divisors and z-scores, so that it can be used on other trials.

    Attributes
    ----------
    has_codes : bool
        False under `quantise=False`: it then only reconstructs.
    module : QuantFormer
        Maps windows (B, T), float32, divided by each neuron's divisor, to reconstructions and codes.
    window : Window
    normalise : {"neuron", "global", "none"}
        Which divisor a neuron's signal has; see `pretrain`.
    scale : dict
        {neuron key: divisor, in units of the signal}; the key "" holds the pooled divisor.
    seen : dict
        Frames it was trained or validated on; see `seen.seen_frames`.
    history : list of dict
        One entry per validation; see `training.loop.run`.
    scaling : dict or None
        {session: {neuron key: (mean, sd)}} under signal="zscore", else None.
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

    task = "codes"
    kind = "autoencoder"
    name = "QuantFormer auto-encoder"

    def __init__(self, module, window, normalise, scale, seen, history, scaling=None, seed=None, simulated=None, reference=None):
        super().__init__()
        self._digest = Digest()
        self.module, self.window, self.normalise, self.scale = module.eval(), window, normalise, scale
        self.has_codes = module.quantizer is not None
        self.seen, self.history, self.scaling, self.seed, self.simulated = seen, history, scaling, seed, simulated
        self.reference = reference

    @property
    def config(self):
        """The QuantFormerConfig."""
        return self.module.config

    @property
    def autoencoder(self):
        """Itself, so that callers find the codes of every model in one place."""
        return self

    @property
    def patch_frames(self):
        """Frames of a patch."""
        return self.config.patch_frames

    @property
    def device(self):
        return next(self.module.parameters()).device

    def digest(self):
        """A hash of the weights, divisors and z-scores, which decide the codes."""
        return self._digest(self.module.state_dict(), [self.scale, self.scaling])

    def divisor(self, neuron):
        """The divisor of a neuron's signal, in units of the signal; the pooled divisor for a neuron not seen in training."""
        return self.scale.get(neuron, self.scale[""])

    def prepare(self, trials):
        """Check rate, window and signal of trials, and give them this model's z-scores; raises QfError if they differ from the model's."""
        return check_window(self.window, self.config.rate_hz, trials, self.scaling)

    def knowing(self, neurons, trials, traces=None):
        """This auto-encoder, with the divisors and z-scores of new neurons.

        Parameters
        ----------
        neurons : sequence of str
            Keys.
        trials : Trials
            The training part on which they are measured, as in `pretrain`.
        traces : Traces, optional
            Traces that hold their sessions.

        Returns
        -------
        Autoencoder
            Itself if `neurons` is empty. Otherwise a copy with the same weights, because other models may share this one.

        Raises
        ------
        QfError
            If no observation is usable.
        """
        if not neurons:
            return self
        found, scaling = copy(self), self.scaling
        scale = divisors_of(trials, self.normalise, traces or Traces([trials], self.device))
        found._digest, found.scale = Digest(), {**self.scale, **{n: scale[n] for n in neurons}}
        if scaling is not None:
            found.scaling = dict(scaling)
            for session, known in trials.scaling.items():
                found.scaling[session] = {**scaling.get(session, {}), **{n: known[n] for n in neurons if n in known}}
        return found

    def predict(self, trials):
        """Reconstructions of whole windows of one session, unmasked, and their codes if the model has a codebook; see `codes`."""
        ds = self.prepare(trials).dataset()
        codes, reconstruction = self.codes_arrays(ds[self.window.signal].values, [str(n) for n in ds["neuron"].values])
        dims = ("trial", "neuron")
        coded = {} if codes is None else {"code": ((*dims, "patch"), codes)}
        found = xr.Dataset({**coded, "reconstruction": ((*dims, "time"), reconstruction)}, ds.coords, ds.attrs)
        found = found.assign_coords(start_s=("patch", self.config.patch_starts)).assign_attrs(origin(trials, self))
        for name in found.data_vars:  # so that a variable that is taken out of the Dataset keeps its origin
            found[name].attrs.update(found.attrs)
        return found

    def codes(self, trials):
        """Codes and reconstructions of whole windows of one session, unmasked.

        Parameters
        ----------
        trials : Trials
            Of one session.

        Returns
        -------
        xarray.Dataset
            `code` (trial, neuron, patch), int64, -1 where the window isn't whole; `reconstruction` (trial, neuron, time), float32 in units of the
            signal, NaN where the window isn't whole; coord `start_s` (patch), the start of each patch in seconds from the onset. If the first patch
            has padding, its start lies before the window.

        Raises
        ------
        QfError
            If the model has no codes, the trials belong to several sessions, or rate, window or signal are not the model's.
        """
        if not self.has_codes:
            raise QfError(f"{self.name}: expected one with a codebook, found one without (quantise=False). Ask predict for its reconstructions.")
        return self.predict(trials)

    def codes_arrays(self, x, neurons):
        """Codes and reconstructions of an array of whole windows; see `codes`.

        Parameters
        ----------
        x : array, shape (trial, neuron, time)
            Windows in units of the signal.
        neurons : sequence of str
            Keys, one per neuron of `x`.

        Returns
        -------
        codes : int64 array, shape (trial, neuron, patch), or None
            None if the model has no codes.
        reconstruction : float32 array, shape (trial, neuron, time)
        """
        x = np.asarray(x, np.float32)  # Apple's GPUs have no float64
        whole = np.isfinite(x).all(-1)
        divisor = np.array([self.divisor(n) for n in neurons], np.float32)[:, None]
        codes = np.full((*whole.shape, self.config.patches), -1) if self.has_codes else None
        out = np.full_like(x, np.nan)
        flat = torch.from_numpy((x / divisor)[whole])
        with torch.no_grad():
            parts = [self.module(part.to(self.device)) for part in flat.split(CHUNK)]
        if parts:
            if codes is not None:
                codes[whole] = torch.cat([p[1] for p in parts]).cpu().numpy()
            out[whole] = torch.cat([p[0] for p in parts]).cpu().numpy()
        return codes, out * divisor

    def code_usage(self, trials):
        """The share of patches that each code has.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.DataArray
            (code,), float64 from 0 to 1; attrs: perplexity, and codes_used, the number of codes with 0.2 % of the patches or more.

        Raises
        ------
        QfError
            If the model has no codes, or rate, window or signal of the trials are not the model's.
        """
        check_trials(trials)
        counts = np.zeros(self.config.codes)
        for part in trials.by_session():
            codes = self.codes(part)["code"].values
            counts += np.bincount(codes[codes >= 0], minlength=self.config.codes)
        share = counts / max(counts.sum(), 1)
        perplexity = float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
        return xr.DataArray(
            share, dims="code", name="usage", attrs={"perplexity": perplexity, "codes_used": int((share >= 0.002).sum()), **origin(trials, self)}
        )

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
