"""The base of response forecasting (paper 3.4.2) and activation classification (3.4.1): tokens, training, saved models, new neurons."""

from dataclasses import asdict
from typing import ClassVar

import torch

from ...errors import QfError
from ...models.options import check_options, defaults, refuse_unknown, shown
from ...recordings.splits import check_split
from ...recordings.window import saved_window
from ...training.bank import tell_left_out
from ...training.checkpoint import digest
from ...training.device import told_memory
from ...training.groups import Group
from ...training.loop import batches, run
from ...training.options import FIT_LOOP, LoopConfig, RunConfig
from ...training.traces import Traces
from ..checks import check_keys
from ..digests import Digest
from ..notes import refuse
from ..reference import told
from ..saving import fill
from ..seen import join_seen, seen_frames
from ..stimulus_tokens import StimulusTokens
from ..tokened import Tokened
from .options import FitConfig
from .pretrain import Autoencoder
from .saved import fitted

RUN = ("checkpoint_s", "memory_mb", "resume", "progress")  # options of RunConfig; the device is that of the auto-encoder


class Downstream(Tokened):
    """The base of both tasks: it fine-tunes a copy of a pre-trained encoder with a token for each neuron and stimulus, saves, and adds neurons.

    Parameters
    ----------
    autoencoder : Autoencoder
        The pre-trained model. It stays frozen, so several models may share it.
    neurons : sequence of str
        Keys of the neurons that get a token, in the order of the token table.
    tokens : StimulusTokens
    dropout : float or None
        Dropout of the encoder in training, from 0 to below 1; None takes the auto-encoder's.
    hide : float
        Largest share of the baseline's patches that a training step hides, from 0 to 1.
    neuron_token : bool
        Whether the sequence holds a token of the neuron. A model without takes neurons that it was not fitted on.
    **weights
        Weights of `FitConfig` for the task: expectation_weight or gain_weight.

    Attributes
    ----------
    module : ResponseForecaster or ActivationClassifier
        Takes baselines (B, T_b), float32, divided by each neuron's divisor, and positions of the tokens, long (B,).
    history : list of dict
        One entry per validation of the last training; see `training.loop.run`.
    chosen : dict
        {choice: validation error} of the choices that were made on the validation part; empty if there were none.
    reference : dict or None
        The validation score beside those of constant forecasts; see `estimators.reference.told`.

    Raises
    ------
    QfError
        If an option is out of range.
    """

    has_attention = True
    gaps = (".start",)  # the start of a token is NaN if an older saved model lacks it
    hint = "Add it with model.add_neurons(split), or choose neurons=... in trials()."
    call = ""  # the function that fits one
    module_class: type = torch.nn.Module
    options: tuple = ("dropout", "hide", "neuron_token")  # options of `FitConfig` that are saved
    results: ClassVar[dict] = {}  # attributes that are set after training and saved: {name: check of `schema`}

    def __init__(
        self, autoencoder, neurons, tokens, *, dropout=FitConfig.dropout, hide=FitConfig.hide, neuron_token=FitConfig.neuron_token, **weights
    ):
        super().__init__()
        self.autoencoder, self._digest = autoencoder, Digest()
        vars(self).update(check_options(FitConfig, {"dropout": dropout, "hide": hide, "neuron_token": neuron_token, **weights}))
        self.has_codes, self.has_tokens = autoencoder.has_codes, self.neuron_token
        self.neurons, self.tokens = neurons, tokens
        self.window, self.n_response = autoencoder.window, autoencoder.config.n_response
        self.history, self.chosen, self.reference = [], {}, None
        # the auto-encoder is frozen, and so may be shared
        self.module = self.module_class(autoencoder.module, len(self.neurons), tokens.size, self.dropout, self.neuron_token)
        self.module.to(autoencoder.device).eval()
        self._scale = {n: autoencoder.divisor(n) for n in [*([] if self.neuron_token else [""]), *self.neurons]}

    @property
    def simulated(self):
        """Whether the auto-encoder was trained on simulated recordings, bool or None."""
        return self.autoencoder.simulated

    @property
    def patch_frames(self):
        """Frames of a patch."""
        return self.autoencoder.patch_frames

    @property
    def device(self):
        return self.autoencoder.device

    def digest(self):
        """A hash of the weights, including those of the auto-encoder, and of all settings that decide an answer."""
        return self._digest(self._both().state_dict(), [self._scale, self.autoencoder.scaling, self._settings(*self.results)])

    def _both(self):
        return torch.nn.ModuleDict({"task": self.module, "pretrained": self.autoencoder.module})

    def prepare(self, trials):
        """Check rate, window, neurons and conditions, and give the trials this model's z-scores.

        Raises
        ------
        QfError
            If rate, window or signal are not the model's.
        UnknownKeyError
            If a neuron or a condition has no token.
        """
        trials = self.autoencoder.prepare(trials)
        if self.has_tokens:
            check_keys("neuron", trials.neurons, self._places, self.hint)
        self.tokens.check(trials.conditions)
        return trials

    def front(self):
        """The learned tokens of neuron and stimulus in front of the patches, a list of str."""
        return ["[NEURON]", "[STIM]"] if self.has_tokens else ["[STIM]"]

    def check_labels(self, trials):
        """Refuse trials that define "active" in another way than in training. Models that learn no labels accept all trials."""

    def add_neurons(self, split, **options):
        """Add the new neurons of `split`, and prompt-tune on it: only the tokens of the new neurons change.

        Parameters
        ----------
        split : Split
            Trials with the new neurons.
        **options
            Options of `LoopConfig` (epochs, lr...) and of `RunConfig` (checkpoint_s, memory_mb, resume, progress), and checkpoint.

        Returns
        -------
        list of str
            Keys that were added.

        Raises
        ------
        QfError
            If the model has no tokens of neurons, an option is unknown or out of range, or the training fails. The model is then the same as before
            the call.
        """
        check_split(split)
        loop, keep, _ = self._options(options)
        if not self.has_tokens:
            raise QfError(
                f"{self.name}: expected a model with tokens of neurons, found one without (neuron_token=False). It takes any neuron as it is."
            )
        new = [n for n in split.train.neurons if n not in self._places]
        if not new:
            return []
        before = (
            {n: getattr(self, n) for n in ("_places", "_scale", "autoencoder", "seen", "history", "window", "seed", "reference", "run")},
            (self.module.neurons.table, self.module.neurons.start),
        )
        known = len(self.neurons)
        self.autoencoder = self.autoencoder.knowing(new, split.train, Traces([split.train], self.device, keep["run_config"].memory_mb))
        self.neurons, self._scale = self.neurons + new, {**self._scale, **{n: self.autoencoder.divisor(n) for n in new}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(loop.seed)
            self.module.neurons.grow(len(new))
        try:
            self._train(split, loop, keep, tuning="new", known=known)
        except BaseException:
            # undo all changes: an untrained token must not forecast
            vars(self).update(before[0])
            self.module.neurons.table, self.module.neurons.start = before[1]
            self.module.eval().requires_grad_(False)
            raise
        return new

    def _hidden(self, n):
        """Which patches of the baseline a training step hides, bool (n, P_b), or None. Each observation has a random share of its own, up to `hide`."""
        if not (self.hide and self.module.training):
            return None
        share = self.hide * torch.rand(n, 1, device=self.device)
        return torch.rand(n, self.autoencoder.config.baseline_patches, device=self.device) < share

    def _freeze(self, tuning, known):
        module = self.module
        for name, p in module.named_parameters():
            frozen = name.startswith("autoencoder.") or (tuning == "prompt" and name.startswith("encoder.")) or tuning == "new"
            p.requires_grad_(not frozen)
        if tuning == "new":
            weight = module.neurons.table.weight.requires_grad_(True)
            return weight.register_hook(lambda g: torch.cat([torch.zeros_like(g[:known]), g[known:]]))
        return None

    def _groups(self, loop, tuning):
        """The parameter group of the neurons' tokens, if there are any. They have a speed of their own, because a token learns only from its neuron's observations, which
        are few in a batch. Under "new" they have no weight decay, which would move the tokens that must stay."""
        if not self.has_tokens:
            return []
        return [Group([self.module.neurons.table.weight], speed=loop.token_speed, weight_decay=0.0 if tuning == "new" else None)]

    @classmethod
    def _options(cls, options, own=()):
        """Sort the options of a fit: the LoopConfig, a dict of checkpoint and run_config for `loop.run`, and a dict of the options named in `own`."""
        loop = defaults(LoopConfig)
        refuse_unknown(cls.call, options, sorted({*loop, *RUN, "checkpoint", *own}))
        check_options(FitConfig, options)
        loop, running, rest = ({k: v for k, v in options.items() if k in known} for known in (loop, RUN, own))
        return LoopConfig(**{**FIT_LOOP, **loop}), {"checkpoint": options.get("checkpoint"), "run_config": RunConfig(**running)}, rest

    def _train(self, split, loop, keep, *, tuning=FitConfig.tuning, known=0):
        """Train with the options of `_options`. The tuning "new" trains only the tokens from the position `known` on."""
        with told_memory(self.device):
            self._run(split, loop, keep, tuning, known)

    def _run(self, split, loop, keep, tuning, known):
        if tuning == "new":
            self.check_labels(split.train)
        kept = self._freeze(tuning, known)
        split_train, split_validation = (self.autoencoder.prepare(p) for p in (split.train, split.validation))
        traces = Traces((split_train, split_validation), self.device, keep["run_config"].memory_mb)
        train, validation = self.bank(split_train, traces), self.bank(split_validation, traces)
        tell_left_out(train, validation)
        step, validate = self._objective(train, validation)
        label = f"{self.kind} ({tuning})"
        self.history = run(
            self.module, lambda: batches(torch.randperm(len(train), device=self.device), loop, train.trial), step, validate, loop,
            settings={"kind": self.kind, "tuning": tuning, "neurons": self.neurons, **self.tokens.note(), "window": split.train.window,
                      "model": self.autoencoder.config, "pretrained": digest(self.autoencoder.module.state_dict()),
                      "data": seen_frames(split.train), "train": train.digest(), "validation": validation.digest(),
                      **self._settings(*self.options)},
            groups=self._groups(loop, tuning), label=label, **keep,
        )  # fmt: skip
        if kept is not None:
            kept.remove()
        self.module.requires_grad_(False)
        self.window, self.seed, self.run = split.train.window, loop.seed, None
        self.seen = join_seen(self.seen, self.autoencoder.seen, seen_frames(split.train, split.validation))
        self._learnt(validation, anew=tuning != "new")
        self.reference = told(self.kind, self.history, self._constants(train, validation), keep["run_config"].progress)

    def fit(self, split, **options):
        """Train further on `split`.

        Parameters
        ----------
        split : Split
        **options
            tuning, and the options of `add_neurons`.

        Returns
        -------
        Downstream
            Itself.

        Raises
        ------
        QfError
            If an option is unknown or out of range, or the training fails.
        """
        check_split(split)
        loop, keep, own = self._options(options, ("tuning",))
        self._train(split, loop, keep, **own)
        return self

    def note(self):
        """The dict for config.json."""
        return {
            "autoencoder": self.autoencoder.note(), "neurons": self.neurons, **self.tokens.note(), "scale": self._scale,
            "window": asdict(self.window), "seen": self.seen, "history": self.history, "chosen": self.chosen, "seed": self.seed,
            **self._settings(*self.options, *self.results, "reference"),
        }  # fmt: skip

    def tensors(self):
        """Its own weights (task.*), and those of the auto-encoder (pretrained.*) once."""
        return {k: v for k, v in self._both().state_dict().items() if not k.startswith("task.autoencoder.")}

    @classmethod
    def checks(cls):
        """The check for config.json."""
        return fitted(cls.options, cls.results)

    @classmethod
    def from_note(cls, note, tensors, device, folder):
        """Build it from a checked note and its weights."""
        pretrained = {k.removeprefix("pretrained."): v for k, v in tensors.items() if k.startswith("pretrained.")}
        autoencoder = Autoencoder.from_note(note["autoencoder"], pretrained, device, folder, "autoencoder.")
        tokens = StimulusTokens.from_note(note, autoencoder.config.stim_token)
        for name, keys in {"neurons": note["neurons"], "stimuli": tokens.keys}.items():
            table = tensors.get(f"task.{name}.table.weight")
            if table is not None and len(table) != len(keys):
                refuse(folder, name, f"a key for each of the {len(table)} tokens", len(keys))
            if table is not None:  # an older saved model may lack the start of its tokens
                tensors.setdefault(f"task.{name}.start", torch.full_like(table, float("nan")))
        if missing := [n for n in [*([] if note.get("neuron_token", True) else [""]), *note["neurons"]] if n not in note["scale"]]:
            refuse(folder, f"scale.{missing[0]}", "a divisor", "none")
        try:
            window = saved_window(note["window"])
        except QfError as e:
            refuse(folder, "window", "values that go together", e)
        if (n := window.frames(autoencoder.config.rate_hz)) != autoencoder.window.frames(autoencoder.config.rate_hz):
            refuse(folder, "window", "the auto-encoder's frames", n)
        self = cls(autoencoder, note["neurons"], tokens, **{n: note[n] for n in cls.options if n in note})
        if any(k.startswith("task.autoencoder.") for k in self._both().state_dict()):
            tensors |= {f"task.autoencoder.{k}": v for k, v in pretrained.items()}
        fill(folder, self._both(), tensors)
        self._scale, self.seen, self.history, self.chosen = note["scale"], note["seen"], note["history"], note["chosen"]
        self.window, self.seed, self.reference = window, note.get("seed"), note.get("reference")
        for name in cls.results:
            setattr(self, name, note[name])
        return self

    def _settings(self, *names):
        return {n: getattr(self, n) for n in names}

    def _objective(self, train, validation):
        """The functions (step, validate) for `loop.run`."""
        raise NotImplementedError

    def _constants(self, train, validation):
        """The validation scores of constant forecasts, a dict; see `constant_scores`."""
        raise NotImplementedError

    def _learnt(self, validation, anew):
        """Set the attributes of `results` from the validation part, after training. `anew` is False if only the tokens of new neurons learnt."""


def fit(kind, autoencoder, split, own, *, tuning, stim_token, seed, **options):
    """Make a model of the class `kind`, with the tokens of the training part and the options `own`, and train it.

    Raises
    ------
    QfError
        If `autoencoder` is no Autoencoder, an option is unknown or out of range, or the training fails.
    """
    if not isinstance(autoencoder, Autoencoder):
        raise QfError(f"autoencoder: expected an Autoencoder, found {shown(autoencoder)}. Pass what pretrain gave, or load what it saved.")
    check_split(split)
    check_options(FitConfig, {**own, "tuning": tuning, "stim_token": stim_token})
    loop, keep, _ = kind._options({**options, "seed": seed})
    tokens = StimulusTokens.learnt(autoencoder.config.stim_token if stim_token is None else stim_token, split.train.table)
    with told_memory(autoencoder.device):
        if new := [n for n in split.train.neurons if n not in autoencoder.scale]:  # of a subject that was left out of pre-training, say
            autoencoder = autoencoder.knowing(new, split.train, Traces([split.train], autoencoder.device, keep["run_config"].memory_mb))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(loop.seed)
            model = kind(autoencoder, split.train.neurons, tokens, **own)
        model._train(split, loop, keep, tuning=tuning)
    return model
