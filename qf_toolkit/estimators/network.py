"""Turns any torch module of `models/` into a forecaster or a classifier of activation.

A module is one file with one class. The class has a `name` and a `Config`, the dataclass of its options, and is built from (config, Sizes). It maps a
`Batch` of contexts, x (B, N, n_context), to (B, N, n_out). A line in `registry.MODELS` makes it available to `fit_network`, `qf fit --model`, tables,
plots and widgets.

A class that says `population = True` reads whole trials: N is the number of neurons of a session, or of as many as `most_neurons` says in training. Any
other class reads each neuron by itself: N is 1. In a whole trial a neuron may lack frames. `Batch.whole` says which neurons don't; the module must
answer these as if the others were not there, and the others enter no loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import QfError
from ..models.batch import Batch, Sizes
from ..models.conditioned import Conditioned
from ..models.config import STIM_TOKENS
from ..models.options import shown
from ..recordings.splits import Split, check_split
from ..recordings.trials import Trials, scaling_by_session
from ..recordings.window import Window
from ..training.bank import CHUNK, Bank, tell_left_out
from ..training.device import pick_device, told_memory
from ..training.groups import Group
from ..training.loop import batches, run
from ..training.options import FIT_LOOP, LoopConfig, RunConfig
from ..training.traces import Traces
from . import schema
from .checks import check_keys, check_labels, check_rate, check_window
from .digests import Digest
from .divisors import divisors_of
from .interface import Classifier, Forecaster, Observations
from .network_options import NetworkConfig, check_model, sort_options
from .notes import refusal, refuse
from .objectives import best_threshold, constants_of_labels, constants_of_responses, mean_of, weighed_error
from .reference import told
from .registry import MODELS, find
from .saving import check_shapes, fill
from .seen import join_seen, seen_frames
from .stimulus_tokens import StimulusTokens
from .tokened import Tokened


class Given(NamedTuple):
    """What a training step has asked of a module.

    Attributes
    ----------
    out : float tensor, shape (b, n_out)
        The module's output for b observations.
    response : float32 tensor, shape (b, time)
        The responses, divided by each neuron's divisor.
    at : long tensor, shape (b,)
        Positions of the observations in the bank.
    usable : bool tensor, shape (b,), or None
        False where the bank has no such observation, which then must not count; None if it has all.
    """

    out: torch.Tensor
    response: torch.Tensor
    at: torch.Tensor
    usable: torch.Tensor | None


class Network(Tokened):
    """The base of both tasks: it builds, trains and saves a network.

    Parameters
    ----------
    model : str
        A name of `registry.MODELS`.
    options : Options
        Options of the model, an instance of its `Config`.
    config : NetworkConfig
        Options of the tokens and divisors.
    window : Window
        The window of the training part.
    rate_hz : float
        Frames per second of the training part.
    neurons : sequence of str
        Keys of the neurons that get a token, in the order of the token table.
    tokens : StimulusTokens
    scale : dict
        {neuron key: divisor, in units of the signal}; the key "" holds the pooled divisor.
    scaling : dict or None
        The z-scores of the training part; see `Trials.scaling`.
    device : torch.device

    Attributes
    ----------
    module : Conditioned
        Maps contexts x (B, N, n_context), float32, to (B, N, n_out).
    population : bool
        Whether the model's class reads whole trials.
    n_context, n_response : int
        Frames before and after the onset.
    history : list of dict
        One entry per validation of the training; see `training.loop.run`.
    reference : dict or None
        The validation score beside those of constant forecasts; see `estimators.reference.told`.
    pretrained : str or None
        The digest of the pre-trained weights that it began with.

    Raises
    ------
    KeyError
        If `model` is no name of `registry.MODELS`.
    """

    results: ClassVar[dict] = {}  # attributes that are set after training: {name: check of `schema`}

    def __init__(self, model, options, config, window, rate_hz, neurons, tokens, scale, scaling, device):
        super().__init__()
        self.model, self.options, self.config, self._digest = model, options, config, Digest()
        self.window, self.rate_hz, self.neurons, self.tokens, self._scale, self.scaling = window, rate_hz, neurons, tokens, scale, scaling
        kind = find(MODELS, model)
        self.name, self.population = kind.name, getattr(kind, "population", False)
        self.n_context, self.n_response, _ = window.frames(rate_hz)
        sizes = Sizes(self.n_context, self.n_out, len(self.neurons) if config.token_width else 0, self.task == "activation")
        self.module = Conditioned(
            kind(options, sizes), sizes.n_context, sizes.n_out, len(self.neurons), tokens.size, config.token_width
        )  # fmt: skip
        self.module.to(device).eval()
        self.has_tokens = self.has_stimulus_tokens = config.token_width > 0
        self.history, self.reference, self.pretrained = [], None, None

    @property
    def n_out(self) -> int:
        """How many numbers the module returns per observation."""
        raise NotImplementedError

    @property
    def device(self):
        return next(self.module.parameters()).device

    def digest(self) -> str:
        """A hash of the weights and of all settings that decide an answer."""
        return self._digest(self.module.state_dict(), [self._scale, self.scaling, {n: getattr(self, n) for n in self.results}])

    def prepare(self, trials: Trials) -> Trials:
        """Check window, rate, neurons and conditions, and give the trials this model's z-scores.

        Raises
        ------
        QfError
            If window, signal or rate are not the model's.
        UnknownKeyError
            If a neuron or a condition has no token.
        """
        trials = check_window(self.window, self.rate_hz, trials, self.scaling)
        if self.has_tokens:
            check_keys("neuron", trials.neurons, self._places, self.hint)
            self.tokens.check(trials.conditions)
        return trials

    def _answers(self, asked: Observations, last: Callable[[torch.Tensor], torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """The module's output after `last`, float32 (trial, neuron, n_out), and the divisors, float32 (neuron,)."""
        with torch.no_grad(), self.inputs(asked) as inputs:
            out = torch.cat([last(self.module(part).float()).flatten(0, 1).cpu() for part in self._parts(asked, *inputs[:3])])
        return out.numpy().reshape(len(asked.conditions), len(asked.neurons), -1), inputs[3]

    def _parts(self, asked, x, neuron, stimulus):
        """The contexts as Batches of about CHUNK observations, made of what `inputs` gives for `asked`."""
        if not self.population:
            return (_batch(x[at], neuron[at], stimulus[at]) for at in torch.arange(len(x), device=self.device).split(CHUNK))
        shape = len(asked.conditions), len(asked.neurons)
        valid = (
            torch.ones(*shape, x.shape[-1], dtype=torch.bool) if asked.valid is None else torch.from_numpy(np.ascontiguousarray(asked.valid, bool))
        )
        shown = stimulus.reshape(shape)[:, 0]
        whole = x.unflatten(0, shape), valid.to(self.device), neuron.reshape(shape), shown, torch.zeros_like(shown)
        return (Batch(*part) for part in zip(*(v.split(max(1, CHUNK // shape[1])) for v in whole), strict=True))

    # ------------------------------------------------------------ training

    def _start_from(self, pretrained) -> None:
        """Take the weights of a PretrainedNetwork, and count as seen what it saw. Tables with a row for each neuron take the rows of known keys."""
        model = self.module.model
        own, known = model.state_dict(), {key: i for i, key in enumerate(pretrained.neurons)}
        pairs = [(i, known[key]) for i, key in enumerate(self.neurons) if key in known]
        mine, theirs = (torch.tensor([pair[i] for pair in pairs], dtype=torch.long) for i in (0, 1))
        shared = [{n: tuple(v.shape) for n, v in weights.items() if n not in model.by_neuron} for weights in (own, pretrained.weights)]
        if odd := [n for n in sorted({**shared[0], **shared[1]}) if shared[0].get(n) != shared[1].get(n)]:
            ours, theirs = (weights.get(odd[0], "none") for weights in shared)
            raise QfError(
                f"pretrained: expected {odd[0]} of shape {ours}, found {theirs}. Leave out the options of sizes: pre-training has set them."
            )
        with torch.no_grad():
            for name, weight in pretrained.weights.items():
                if name not in model.by_neuron:
                    own[name].copy_(weight)
                elif name in own:
                    own[name][mine.to(self.device)] = weight[theirs].to(self.device)
        self.pretrained, self.name, self.seen = pretrained.digest(), f"{self.name}, pre-trained", pretrained.seen

    def _run(self, split: Split, loop: LoopConfig, keep: dict, traces: Traces) -> None:
        train, validation = (self.bank(part, traces) for part in (split.train, split.validation))
        tell_left_out(train, validation)

        def validate():
            total = 0.0
            for at in self._chunks(validation):
                given = self._given(validation, at)
                total += float(self._loss(validation, given)) * (len(at) if given.usable is None else int(given.usable.sum()))
            return {"score": total / len(validation)}

        groups = [Group([self.module.neurons.table.weight], speed=loop.token_speed)] if self.has_tokens else []
        self.history = run(
            self.module, lambda: self._drawn(train, loop), lambda at: self._loss(train, self._given(train, at)), validate, loop, groups=groups, label=f"{self.name} ({self.task})", **keep,
            settings={"model": self.model, "task": self.task, "options": self.options, "config": self.config, "neurons": self.neurons,
                      **self.tokens.note(), "window": self.window, "data": seen_frames(split.train), "train": train.digest(),
                      "validation": validation.digest(), **({"pretrained": self.pretrained} if self.pretrained else {})},
        )  # fmt: skip
        self.module.requires_grad_(False)
        self.seed, self.simulated = loop.seed, split.train.simulated
        self.seen = join_seen(self.seen, seen_frames(split.train, split.validation))
        self._learnt(validation)
        self.reference = told(f"{self.name} ({self.task})", self.history, self._constants(train, validation), keep["run_config"].progress)

    def _drawn(self, bank: Bank, loop: LoopConfig) -> list[torch.Tensor]:
        """The batches of an epoch: positions of observations, or for a population model of trials, with about `batch_size` observations in a batch."""
        if not self.population:
            return batches(torch.randperm(len(bank), device=self.device), loop, bank.trial)
        return trial_batches(bank, loop, self.config)

    def _chunks(self, bank: Bank) -> Sequence[torch.Tensor]:
        """Positions of all observations, or for a population model of their trials, in parts of about CHUNK observations."""
        return bank.trial_chunks() if self.population else bank.chunks()

    def _given(self, bank: Bank, at: torch.Tensor) -> Given:
        """Ask the module about the observations `at`; or, of a population model, about all observations of the trials `at`. A training step shows at
        most `most_neurons` of a trial's neurons."""
        n = self.n_context
        if not self.population:
            batch = bank.batch(at)
            out = self.module(_batch(batch.x[:, 0, :n], batch.neuron[:, 0], batch.condition))[:, 0]
            return Given(out, batch.x[:, 0, n:], at, None)
        rows = bank.rows_of(at, self.config.most_neurons if self.module.training else 0)
        batch, places = bank.population(at, rows), bank.observations(at, rows).flatten()
        out = self.module(batch._replace(x=batch.x[..., :n], valid=batch.valid[..., :n]))
        return Given(out.flatten(0, 1), batch.x[..., n:].flatten(0, 1), places.clamp(min=0), places >= 0)

    def _loss(self, bank: Bank, given: Given) -> torch.Tensor:
        """The loss of the observations that were asked about, a scalar tensor; training and validation use the same loss."""
        raise NotImplementedError

    def _constants(self, train, validation):
        """The validation scores of constant forecasts, a dict; see `constant_scores`."""
        raise NotImplementedError

    def _learnt(self, validation):
        """Set the attributes of `results` from the validation part, after training."""

    # ------------------------------------------------------------ saved models

    def note(self) -> dict:
        return {
            "model": self.model, "options": asdict(self.options), "config": asdict(self.config), "window": asdict(self.window),
            "rate_hz": self.rate_hz, "neurons": self.neurons, **self.tokens.note(), "scale": self._scale, "scaling": self.scaling, "seen": self.seen,
            "history": self.history, "seed": self.seed, "simulated": self.simulated, "reference": self.reference,
            **{n: getattr(self, n) for n in self.results}, **({"pretrained": self.pretrained} if self.pretrained else {}),
        }  # fmt: skip

    def tensors(self) -> dict:
        return self.module.state_dict()

    @classmethod
    def checks(cls):
        return schema.record(
            {
                "model": schema.choice(*MODELS), "options": schema.mapping(lambda value, where: None), "config": schema.options(NetworkConfig),
                "window": schema.WINDOW, "rate_hz": schema.number(above=0, most=1e6), "neurons": schema.KEYS, "stimuli": schema.KEYS,
                "stim_token": schema.choice(*STIM_TOKENS), "features": schema.listing(schema.FEATURE), "scale": schema.DIVISORS,
                "scaling": schema.maybe(schema.scaling), "seen": schema.SEEN, "history": schema.history, "seed": schema.SEED,
                "simulated": schema.flag(optional=True), "reference": schema.maybe(schema.REFERENCE), **cls.results,
            },
            {"run": schema.maybe(schema.RUN), "pretrained": schema.text("[0-9a-f]{24}", "a digest")},
        )  # fmt: skip

    @classmethod
    def from_note(cls, note, tensors, device, folder) -> Self:
        kind = find(MODELS, note["model"]).Config
        try:
            schema.options(kind)(note["options"], "options")
            options, config, window = kind(**note["options"]), NetworkConfig(**note["config"]), Window(**note["window"])
        except schema.Unfit as e:
            raise refusal(folder / "config.json", e) from e
        except QfError as e:
            refuse(folder, "options, config or window", "values that go together", e)
        if "" not in note["scale"] or (missing := [n for n in note["neurons"] if n not in note["scale"]]):
            refuse(folder, f"scale.{missing[0] if '' in note['scale'] else ''}", "a divisor", "none")
        made = note["model"], options, config, window, note["rate_hz"], note["neurons"], StimulusTokens.from_note(note, config.stim_token)
        given = note["scale"], scaling_by_session(note["scaling"])
        with torch.device("meta"):  # tensors on it take no memory, whatever sizes an altered file asks for
            check_shapes(folder, cls(*made, *given, "meta").module, tensors)
        self = cls(*made, *given, device)
        fill(folder, self.module, tensors)
        self.module.requires_grad_(False)  # as after training: torch takes other ways through weights that could learn, with other last digits
        self.history, self.seen, self.seed, self.simulated = (note[n] for n in ("history", "seen", "seed", "simulated"))
        self.reference, self.pretrained = note["reference"], note.get("pretrained")
        self.name += ", pre-trained" if self.pretrained else ""
        for name in cls.results:
            setattr(self, name, note[name])
        return self


class NetworkForecaster(Network, Forecaster):
    """Forecasts the response with a network. Its loss is the squared error of the signal."""

    kind = "network_forecaster"
    n_response: int

    @property
    def n_out(self) -> int:
        return self.n_response

    def _loss(self, bank, given):
        return weighed_error(given.out.float() - given.response, bank, given.at, given.usable)

    def _constants(self, train, validation):
        return constants_of_responses(train, validation, self.n_context)

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        out, divisor = self._answers(asked, lambda out: out)
        return out * divisor[:, None]


class NetworkClassifier(Network, Classifier):
    """Estimates the probability of activation with a network. Its loss is the cross-entropy of the label."""

    kind = "network_classifier"
    results: ClassVar[dict] = {"threshold": schema.number(least=0, most=1)}

    @property
    def n_out(self) -> int:
        return 1

    def prepare(self, trials: Trials) -> Trials:
        """As `Network.prepare`; also raises QfError if the trials define "active" in another way than in training."""
        check_labels(self.window, trials)
        return super().prepare(trials)

    def _loss(self, bank, given):
        logit, label = given.out[:, 0].float(), bank.active[given.at].float()
        if given.usable is None:
            return F.binary_cross_entropy_with_logits(logit, label)
        return mean_of(F.binary_cross_entropy_with_logits(logit, label, reduction="none"), given.usable)

    def _constants(self, train, validation):
        return constants_of_labels(train, validation)

    @torch.no_grad()
    def _learnt(self, validation):
        found = [self._given(validation, at) for at in self._chunks(validation)]
        p = torch.cat([g.out[:, 0].float().sigmoid() if g.usable is None else g.out[g.usable, 0].float().sigmoid() for g in found])
        at = torch.cat([g.at if g.usable is None else g.at[g.usable] for g in found])
        self.threshold = best_threshold(p, validation.active[at], 0.5)

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        return self._answers(asked, torch.sigmoid)[0][..., 0]


TASKS = {"forecast": NetworkForecaster, "activation": NetworkClassifier}


def trial_batches(bank: Bank, loop: LoopConfig, config: NetworkConfig) -> list[torch.Tensor]:
    """One epoch of batches of whole trials, with about `batch_size` of the observations that a step is shown; see `Bank.trial_batches`."""
    return bank.trial_batches(loop.batch_trials or (lambda n: max(1, loop.batch_size // min(n, config.most_neurons or n))))


def _batch(x: torch.Tensor, neuron: torch.Tensor, condition: torch.Tensor) -> Batch:
    """A Batch with N = 1 of contexts (b, time) and positions of tokens, both (b,)."""
    x = x[:, None]
    return Batch(x, torch.ones_like(x, dtype=torch.bool), neuron[:, None], condition, torch.zeros_like(condition))


def fit_network(
    split: Split,
    model: str,
    task: str = "forecast",
    *,
    pretrained: Any = None,
    device: Any = RunConfig.device,
    checkpoint: Any = None,
    **options: Any,
) -> NetworkForecaster | NetworkClassifier:
    """Fit a network as a forecaster or as a classifier of activation.

    Parameters
    ----------
    split : Split
    model : str
        A name of `registry.MODELS`, for example nlinear.
    task : {"forecast", "activation"}
    pretrained : PretrainedNetwork, optional
        What `pretrain_network` or `read_published` gave for the same model: the fit starts from its weights and options, and counts as seen what it
        saw. Weights of a neuron carry over by its key.
    device : str or torch.device
    checkpoint : str or Path, optional
        Folder for checkpoints, from which an interrupted fit goes on; None keeps none.
    **options
        Options of the model (its `Config`), of `NetworkConfig` (token_width, stim_token, normalise, most_neurons), of `LoopConfig` (epochs (100), steps,
        batch_size, lr (1e-3)...) and of `RunConfig` (memory_mb, checkpoint_s, resume, progress). batch_size counts observations: a step of a
        population model takes batch_size // neurons whole trials of a session, at least one.

    Returns
    -------
    NetworkForecaster or NetworkClassifier
        The validation part chooses the epoch and a classifier's threshold. `reference` compares the validation score with constant forecasts.

    Raises
    ------
    QfError
        If the model, the task or an option is unknown or out of range, sessions differ in rate, no observation is usable, the loss or the
        validation score is not finite, or the device's memory is full.

    Examples
    --------
    >>> model = fit_network(split, "nlinear", epochs=2, progress=False)
    >>> model.name, model.task, model.predict(split.test)["forecast"].dims
    ('NLinear', 'forecast', ('trial', 'neuron', 'time'))
    """
    check_split(split)
    check_model(model, MODELS)
    if task not in TASKS:
        raise QfError(f"task: expected one of {', '.join(TASKS)}, found {task!r}.")
    kind = find(MODELS, model).Config
    if pretrained is not None:
        if getattr(pretrained, "task", None) != "masked" or pretrained.model != model:
            raise QfError(f"pretrained: expected a pre-trained {model}, found {shown(pretrained)}. Pass what pretrain_network gave for it.")
        if pretrained.window is not None:
            check_window(pretrained.window, pretrained.rate_hz, split.train)
        options = {**asdict(pretrained.options), **options}
    (own, config, loop), running = sort_options("fit_network", options, (kind, NetworkConfig, LoopConfig), device, FIT_LOOP)
    keep = {"checkpoint": checkpoint, "run_config": running}
    window, rate, device = split.train.window, split.train.rate_hz, pick_device(device)
    for part in (split.train, split.validation):
        check_rate(rate, part)
    tokens = StimulusTokens.learnt(config.stim_token if config.token_width else "category", split.train.table)
    with told_memory(device):
        traces = Traces((split.train, split.validation), device, running.memory_mb)
        scale = divisors_of(split.train, config.normalise, traces)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(loop.seed)
            fitted = TASKS[task](model, own, config, window, rate, split.train.neurons, tokens, scale, split.train.scaling, device)
        if pretrained is not None:
            fitted._start_from(pretrained)
        fitted._run(split, loop, keep, traces)
    return fitted
