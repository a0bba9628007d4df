"""The first stage of CalM: the neural quantiser learns codes for the traces of single neurons, whichever they are."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.cluster import KMeans

from ...errors import QfError
from ...models.calm import NeuralQuantizer
from ...models.calm_config import PATCH_FRAMES, QuantizerConfig
from ...recordings.conditions import category_of
from ...recordings.splits import Split, check_split
from ...recordings.trials import scaling_by_session
from ...recordings.window import Window, saved_window
from ...training.bank import Bank, tell_left_out
from ...training.device import pick_device, told_memory
from ...training.hooks import Hook, Moment
from ...training.loop import batches, run
from ...training.options import LoopConfig, RunConfig
from ...training.traces import Traces
from .. import schema
from ..checks import check_rate
from ..coder import Coder
from ..divisors import divisors_of
from ..network_options import TELLING, NetworkConfig, sort_options
from ..notes import refuse
from ..reference import constant_scores, told
from ..saving import check_shapes, fill
from ..seen import seen_frames
from .options import QUANTIZER_LOOP, TracesConfig

MOST_LATENTS = 10_000  # that codes are clustered from (code)


@dataclass(frozen=True)
class Places:
    """Which frames of a window CalM reads: whole patches on both sides of the onset. Others, at most three at either end, are left out.

    Attributes
    ----------
    rate_hz : float
    frames : (int, int)
        Frames of the window before and after the onset.
    codes : int
        In the codebook; 0 without codes.
    """

    rate_hz: float
    frames: tuple[int, int]
    codes: int
    patch_frames: int = PATCH_FRAMES

    @property
    def baseline_patches(self) -> int:
        return self.frames[0] // self.patch_frames

    @property
    def response_patches(self) -> int:
        return self.frames[1] // self.patch_frames

    @property
    def patches(self) -> int:
        return self.baseline_patches + self.response_patches

    @property
    def first(self) -> int:
        """Frames of the window before those that are read."""
        return self.frames[0] % self.patch_frames

    @property
    def n_baseline(self) -> int:
        """Frames before the onset that are read."""
        return self.baseline_patches * self.patch_frames

    @property
    def n_response(self) -> int:
        """Frames after the onset that are read."""
        return self.response_patches * self.patch_frames

    @property
    def patch_starts(self) -> list[float]:
        """The start of each patch in seconds from the onset."""
        return [(p - self.baseline_patches) * self.patch_frames / self.rate_hz for p in range(self.patches)]

    def read(self, x):
        """The frames (..., T) that are read of whole windows (..., time)."""
        return x[..., self.first : self.first + self.n_baseline + self.n_response]


def places_of(window: Window, rate_hz: float, codes: int) -> Places:
    """The Places of a window.

    Raises
    ------
    QfError
        If baseline or response is shorter than a patch.
    """
    frames = window.frames(rate_hz)[:2]
    if min(frames) < PATCH_FRAMES:
        raise QfError(
            f"baseline_s, response_s: expected at least {PATCH_FRAMES} frames each, a token of CalM's, found {frames[0]} and {frames[1]} at {rate_hz:g} Hz. "
            "Take a longer window."
        )
    return Places(rate_hz, frames, codes)


class CalmQuantizer(Coder):
    """CalM's neural quantiser, with its window, divisors and z-scores.

    Attributes
    ----------
    module : NeuralQuantizer
        Maps traces (B, T), float32, divided by each neuron's divisor, to reconstructions and codes. T is any multiple of 4.
    config : Places
    """

    kind = "calm_quantizer"
    name = "CalM, quantiser"
    has_codes = True

    @property
    def config(self):
        return places_of(self.window, self.rate_hz, self.module.config.codes)

    def __init__(self, module, window, rate_hz, *about):
        super().__init__(module, window, *about)
        self.rate_hz = rate_hz

    def _coded(self, x):
        return self.module(x)

    def code_vectors(self) -> np.ndarray:
        return self.module.codebook.detach().float().cpu().numpy()

    def note(self) -> dict:
        return {
            "model": asdict(self.module.config), "window": asdict(self.window), "rate_hz": self.rate_hz, "normalise": self.normalise, "scale": self.scale,
            "seen": self.seen, "history": self.history, "scaling": self.scaling, "seed": self.seed, "simulated": self.simulated,
            "reference": self.reference,
        }  # fmt: skip

    def tensors(self) -> dict:
        return self.module.state_dict()

    @classmethod
    def checks(cls):
        return schema.record(
            {
                "model": schema.options(QuantizerConfig), "window": schema.WINDOW, "rate_hz": schema.number(above=0, most=1e6),
                "normalise": schema.choice("neuron", "global", "none"), "scale": schema.DIVISORS, "seen": schema.SEEN, "history": schema.history,
                "scaling": schema.maybe(schema.scaling), "seed": schema.SEED, "simulated": schema.flag(optional=True),
                "reference": schema.maybe(schema.REFERENCE),
            },
            {"run": schema.maybe(schema.RUN)},
        )  # fmt: skip

    @classmethod
    def from_note(cls, note, tensors, device, folder, where="") -> Self:
        """Build it from a checked note and its weights; `where` is the note's place in config.json, for errors."""
        try:
            config, window = QuantizerConfig(**note["model"]), saved_window(note["window"])
            places_of(window, note["rate_hz"], config.codes)
        except QfError as e:
            refuse(folder, f"{where}model or {where}window", "values that go together", e)
        if "" not in note["scale"]:
            refuse(folder, f"{where}scale", "a pooled divisor, of the key ''", "none")
        with torch.device("meta"):  # tensors on it take no memory, whatever sizes an altered file asks for
            check_shapes(folder, NeuralQuantizer(config), tensors)
        module = NeuralQuantizer(config)
        fill(folder, module, tensors)
        own = (note[n] for n in ("normalise", "scale", "seen", "history"))
        late = (note[n] for n in ("seed", "simulated", "reference"))
        return cls(module.requires_grad_(False).to(device), window, note["rate_hz"], *own, scaling_by_session(note["scaling"]), *late)


class CodebookCourse(Hook):
    """The course of the codebook over a training: an epoch without codes, a start by clustering, falling temperatures, resets and new clusterings.

    Parameters
    ----------
    latents : callable
        () -> float tensor (n, D): latents of random traces of the training part.
    """

    def __init__(self, latents):
        self.latents = latents

    def before_epoch(self, now: Moment):
        module: Any = now.module
        config, epoch = module.config, now.epoch
        self.restore(now, {})
        begun = epoch - self._first(now)
        if begun < 0:
            return
        cooling = epoch <= config.cooling * now.config.epochs
        due = config.recluster_every and cooling and begun and begun % config.recluster_every == 0
        if config.kmeans and (begun == 0 or due):
            module.start_at(centres(self.latents(), config.codes))
        elif config.reset_every and begun and begun % config.reset_every == 0:
            module.reset_unused(self.latents())

    def restore(self, now, state):
        module: Any = now.module
        config, last = module.config, max(1.0, module.config.cooling * now.config.epochs)
        module.quantise = now.epoch >= self._first(now)
        module.temperature = config.hot * (config.cold / config.hot) ** min(1.0, now.epoch / last)

    @staticmethod
    def _first(now):
        """The first epoch with codes."""
        return 1 if now.module.config.kmeans and now.config.epochs > 1 else 0


def centres(latents: torch.Tensor, n: int) -> torch.Tensor:
    """Cluster centres (n, D) of latents (m, D); where there are fewer latents than clusters, latents take the places that are left."""
    seed, found = int(torch.randint(2**31, ())), latents.float().cpu().numpy()
    distinct = np.unique(found, axis=0)
    if len(distinct) > n:
        distinct = KMeans(n, n_init=1, random_state=seed).fit(found).cluster_centers_
    distinct = distinct[np.arange(n) % len(distinct)]
    return torch.from_numpy(np.ascontiguousarray(distinct, np.float32)).to(latents.device)


def pretrain_calm_quantizer(split: Split, *, device: Any = RunConfig.device, checkpoint: Any = None, **options: Any) -> CalmQuantizer:
    """Train CalM's neural quantiser on the traces of all neurons of the training part, choosing the epoch on the validation part.

    Parameters
    ----------
    split : Split
    device : str or torch.device
    checkpoint : str or Path, optional
        Folder for checkpoints, from which an interrupted run goes on; None keeps none.
    **options
        Options of `QuantizerConfig` (codes (128), width (512), layers (4)...), normalise of `NetworkConfig`, and those of `LoopConfig` (epochs (100),
        batch_size (256), lr (5e-4)...) and of `RunConfig`. `calm.options.SMALL["quantizer"]` holds those of a small one.

    Returns
    -------
    CalmQuantizer
        Pass it to `fit_calm`. Its `reference` compares the error of its reconstructions with that of constants.

    Raises
    ------
    QfError
        If an option is unknown or out of range, baseline or response is shorter than four frames, sessions differ in rate, no observation is usable,
        the loss or the validation score is not finite, or the device's memory is full.

    Notes
    -----
    Source: CalM (arXiv 2604.04958), its neural quantiser; see `models.calm`.

    Examples
    --------
    >>> from qf_toolkit.estimators.calm.quantizer import pretrain_calm_quantizer
    >>> quantizer = pretrain_calm_quantizer(split, width=16, layers=1, codes=8, epochs=8, lr=5e-3, batch_size=32, progress=False)
    >>> quantizer.codes(split.test)["code"].dims
    ('trial', 'neuron', 'patch')
    """
    check_split(split)
    without = {*TELLING, "most_neurons"}
    (own, config, some, loop), running = sort_options(
        "pretrain_calm_quantizer", options, (QuantizerConfig, NetworkConfig, TracesConfig, LoopConfig), device, QUANTIZER_LOOP, without
    )
    window, rate, device = split.train.window, split.train.rate_hz, pick_device(device)
    places = places_of(window, rate, own.codes)
    for part in (split.train, split.validation):
        check_rate(rate, part)
    with told_memory(device):
        traces = Traces((split.train, split.validation), device, running.memory_mb)
        scale = divisors_of(split.train, config.normalise, traces)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(loop.seed)
            module = NeuralQuantizer(own).to(device)
        everything = dict.fromkeys(split.train.neurons + split.validation.neurons, 0)
        no_tokens = {category_of(c): 0 for part in (split.train, split.validation) for c in part.conditions}
        pooled = {n: scale.get(n, scale[""]) for n in everything}
        train, validation = (Bank(part, everything, no_tokens, device, pooled, traces) for part in (split.train, split.validation))
        tell_left_out(train, validation)

        def windows(bank, at):
            return places.read(bank.batch(at).x[:, 0])

        def drawn():
            return batches(torch.randperm(len(train), device=device)[: some.most_traces or None], loop, train.trial)

        def latents():
            at = torch.randperm(len(train), device=device)[: -(-MOST_LATENTS // places.patches)]
            was = module.training
            with torch.no_grad():
                found = module.eval().latents(windows(train, at)).flatten(0, 1)[:MOST_LATENTS]
            module.train(was)
            return found

        def validate():
            total = sum(float((module(x)[0] - x).square().mean(1).sum()) for x in (windows(validation, at) for at in validation.chunks()))
            return {"score": total / len(validation)}

        history = run(
            module, drawn, lambda at: module.loss(windows(train, at)), validate, loop, hooks=[CodebookCourse(latents)], checkpoint=checkpoint, run_config=running, label=CalmQuantizer.name,
            settings={"model": "calm_quantizer", "options": own, "config": config, "traces": some, "window": window, "data": seen_frames(split.train),
                      "train": train.digest(), "validation": validation.digest()},
        )  # fmt: skip
        scores = constant_scores(
            train, validation, windows, lambda outs, at: [(out - windows(validation, at)).square().mean() for out in outs]
        )  # fmt: skip
    module.requires_grad_(False)
    reference = told(CalmQuantizer.name, history, scores, running.progress)
    seen = seen_frames(split.train, split.validation)
    return CalmQuantizer(
        module, window, rate, config.normalise, scale, seen, history, split.train.scaling, loop.seed, split.train.simulated, reference
    )
