"""The two downstream tasks: response forecasting (paper 3.4.2) and activation classification (3.4.1), with their saved models."""

from copy import copy, deepcopy
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import QfError
from ..models.quantformer import GAIN_LEVELS, ActivationClassifier, ResponseForecaster
from ..recordings.trials import Window
from .bank import CHUNK, Bank, pick_device, tell_left_out
from .forecaster import Forecaster, check_keys, join_seen, seen_frames
from .loop import LoopConfig, run
from .pretrain import Autoencoder, _scales
from .saving import digest, read_model, same_version, write_model

DECODINGS = ("soft", "argmax", "sample")
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
N_DRAWS = 32  # of decode="sample": the forecast is their mean


class _Downstream(Forecaster):
    """What both tasks share: the keys of their tokens, the auto-encoder they started from, saving and adding neurons."""

    kind = ""
    module_class: type = torch.nn.Module
    options: tuple = ("dropout", "hide")  # how it is trained, and
    results: tuple = ()  # what is found after training; both are saved

    def __init__(self, autoencoder, neurons, stimuli, *, dropout=None, hide=0.0):
        super().__init__()
        if dropout is not None and not 0 <= dropout < 1:
            raise QfError(f"dropout: expected from 0 to below 1, found {dropout}.")
        if not 0 <= hide <= 1:
            raise QfError(f"hide: expected a share from 0 to 1, found {hide}.")
        self.autoencoder, self.dropout, self.hide = autoencoder, dropout, hide
        self.neurons, self.stimuli = list(neurons), list(stimuli)
        self.window, self.n_response = autoencoder.window, autoencoder.config.n_response
        self.history, self.chosen = [], {}
        self.module = self.module_class(deepcopy(autoencoder.module), len(self.neurons), len(self.stimuli), dropout)
        self.module.to(autoencoder.device).eval()
        self._scale = {n: autoencoder.divisor(n) for n in self.neurons}

    @property
    def device(self):
        return self.autoencoder.device

    @property
    def stim_token(self):
        return self.autoencoder.config.stim_token

    def prepare(self, trials):
        """Check rate, window, neurons and conditions; give the trials this model's z-scores."""
        trials = self.autoencoder.prepare(trials)
        check_keys("neuron", trials.neurons, self.neurons, "Add it with model.add_neurons(split), or choose neurons=... in trials().")
        column = "condition" if self.stim_token == "condition" else "stimulus"
        check_keys(column, trials.table[column], self.stimuli, "Train with trials of it, or choose other trials.")
        return trials

    def bank(self, trials):
        """The observations of `trials` with this model's tokens and scales."""
        return Bank(trials, self._table(self.neurons), self._table(self.stimuli), self.stim_token, self.device, self._scale)

    @staticmethod
    def _table(keys):
        return {k: i for i, k in enumerate(keys)}

    def _ids(self, neurons, conditions):
        """Positions of tokens for every (trial, neuron), flat; condition keys are reduced to categories where those have the tokens."""
        names = conditions if self.stim_token == "condition" else [c.split("/")[0] for c in conditions]
        check_keys("neuron", neurons, self.neurons, "Add it with model.add_neurons(split).")
        check_keys(self.stim_token, names, self.stimuli, "Train with trials of it.")
        n, s = self._table(self.neurons), self._table(self.stimuli)
        neuron = torch.tensor([n[k] for k in neurons], device=self.device).repeat(len(names))
        stimulus = torch.tensor([s[k] for k in names], device=self.device).repeat_interleave(len(neurons))
        return neuron, stimulus

    def _flat(self, context, neurons):
        divisor = np.array([self._scale[n] for n in neurons], np.float32)
        x = torch.from_numpy(np.ascontiguousarray(context / divisor[:, None], dtype=np.float32))
        return x.flatten(0, 1).to(self.device), divisor

    def add_neurons(self, split, **options):
        """Add the neurons of `split` that are new, and prompt-tune on it: only the tokens of the new neurons change.

        Parameters
        ----------
        split : Split
            Trials with the new neurons.
        **options
            Of `fit_forecaster` or `fit_classifier` (epochs, lr...).

        Returns
        -------
        list of str
            Keys that were added.
        """
        new = [n for n in split.train.neurons if n not in self.neurons]
        if not new:
            return []
        before = {n: getattr(self, n) for n in ("neurons", "_scale", "autoencoder", "seen", "history", "window")}, self.module.neurons.table
        known, scale = len(self.neurons), _scales(split.train, self.autoencoder.normalise, self.device)
        self.neurons, self._scale = self.neurons + new, {**self._scale, **{n: scale[n] for n in new}}
        if self.autoencoder.scaling is not None:
            self.autoencoder = copy(self.autoencoder)  # others may share it
            self.autoencoder.scaling = {**self.autoencoder.scaling, **{n: split.train.scaling[n] for n in new}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.get("seed", 0))
            self.module.neurons.grow(len(new))
        try:
            self._train(split, tuning="new", known=known, **options)
        except BaseException:
            # as if it had not been called: an untrained token must not forecast
            vars(self).update(before[0])
            self.module.neurons.table = before[1]
            raise
        return new

    def _hidden(self, n):
        """Which patches of the baseline a training step hides, bool (n, P_b), or None: in each observation a share of its own, up to `hide`."""
        if not (self.hide and self.module.training):
            return None
        share = self.hide * torch.rand(n, 1, device=self.device)
        return torch.rand(n, self.autoencoder.config.baseline_patches, device=self.device) < share

    def _freeze(self, tuning, known):
        if tuning not in ("fine", "prompt", "new"):
            raise QfError(f"tuning: expected 'fine' or 'prompt', found {tuning!r}.")
        module = self.module
        for name, p in module.named_parameters():
            frozen = name.startswith("autoencoder.") or (tuning == "prompt" and name.startswith("encoder.")) or tuning == "new"
            p.requires_grad_(not frozen)
        if tuning == "new":
            weight = module.neurons.table.weight.requires_grad_(True)
            weight.register_hook(lambda g: torch.cat([torch.zeros_like(g[:known]), g[known:]]))

    def _train(self, split, *, tuning="fine", known=0, epochs=100, batch_size=512, lr=1e-3, schedule="constant", patience=0, seed=0,
               checkpoint=None, resume=True, progress=True):  # fmt: skip
        self._freeze(tuning, known)
        split_train, split_validation = (self.autoencoder.prepare(p) for p in (split.train, split.validation))
        train, validation = self.bank(split_train), self.bank(split_validation)
        tell_left_out(train, validation)
        step, validate = self._objective(train, validation)
        self.history = run(
            self.module, lambda: torch.randperm(len(train), device=self.device), step, validate,
            LoopConfig(epochs=epochs, batch_size=batch_size, lr=lr, schedule=schedule, patience=patience, seed=seed),
            settings={"kind": self.kind, "tuning": tuning, "neurons": self.neurons, "stimuli": self.stimuli, "window": asdict(split.train.window),
                      "model": asdict(self.autoencoder.config), "pretrained": digest(self.autoencoder.module.state_dict()),
                      "data": seen_frames(split.train), "train": train.digest(), "validation": validation.digest(),
                      **self._settings(*self.options)},
            checkpoint=checkpoint, resume=resume, progress=progress, label=f"{self.kind} ({tuning})",
        )  # fmt: skip
        self.module.requires_grad_(False)
        self.window = split.train.window
        self.seen = join_seen(self.seen, self.autoencoder.seen, seen_frames(split.train, split.validation))
        self._learnt(validation, anew=tuning != "new")

    def fit(self, split, **options):
        """Go on training on `split`; options as in `fit_forecaster`. Returns self."""
        self._train(split, **options)
        return self

    def save(self, folder):
        """Write config.json and model.safetensors into `folder`."""
        note = {
            "autoencoder": self.autoencoder.note(), "neurons": self.neurons, "stimuli": self.stimuli, "scale": self._scale,
            "window": asdict(self.window), "seen": self.seen, "history": self.history, "chosen": self.chosen,
            **self._settings(*self.options, *self.results),
        }  # fmt: skip
        both = torch.nn.ModuleDict({"task": self.module, "pretrained": self.autoencoder.module})
        write_model(folder, self.kind, note, both)

    @classmethod
    def load(cls, folder, device="auto"):
        """Read what `save` wrote."""
        note, tensors = read_model(folder, cls.kind)
        pick = lambda p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)}  # noqa: E731
        with same_version(folder):
            autoencoder = Autoencoder.from_note(note["autoencoder"], pick("pretrained."), pick_device(device))
            self = cls(autoencoder, note["neurons"], note["stimuli"], **{n: note[n] for n in cls.options})
            self.module.load_state_dict(pick("task."))
            self._scale, self.seen, self.history, self.chosen = note["scale"], note["seen"], note["history"], note["chosen"]
            self.window = Window(**note["window"])
            for name in cls.results:
                setattr(self, name, note[name])
        return self

    def _settings(self, *names):
        return {n: getattr(self, n) for n in names}

    def _objective(self, train, validation):
        raise NotImplementedError

    def _learnt(self, validation, anew):
        """What is found on the validation part after training; not `anew` where only new neurons learnt."""


class QuantFormerForecaster(_Downstream):
    """Forecasts the codes of the response, and decodes them.

    Attributes
    ----------
    decode : {"soft", "argmax", "sample"}
        The expected code vector decoded, the likeliest codes decoded (paper), or the mean of decoded draws. Chosen on validation by
        `fit_forecaster`; may be set.
    temperature : float
        Divides the logits of a forecast; chosen on validation. Draws of `sample` are at 1.
    chosen : dict
        Validation MSE (signal / scale) of each decoding.
    residual : dict
        {neuron key: standard deviation of what its codes leave out of the response, in units of the signal}, from the validation part.
    """

    kind = "forecaster"
    name = "QuantFormer"
    probabilistic = True
    module_class = ResponseForecaster
    module: ResponseForecaster
    options = ("dropout", "hide", "expectation_weight")
    results = ("decode", "temperature", "residual")

    def __init__(self, autoencoder, neurons, stimuli, *, expectation_weight=0.0, **options):
        super().__init__(autoencoder, neurons, stimuli, **options)
        self.decode, self.temperature, self.expectation_weight, self.residual = "soft", 1.0, expectation_weight, {}

    def _objective(self, train, validation):
        """Equation 4; the targets (codes of the response) and the baseline's codes are computed once, before the first step."""
        module, n_b = self.module, self.autoencoder.config.n_baseline
        targets, given = self._codes(train)
        val_targets, val_given = self._codes(validation)

        def loss(bank, at, wanted, before):
            x = bank.batch(at).x[:, 0]
            logits = module(x[:, :n_b], bank.neuron[at], bank.condition[at], self._hidden(len(at)))
            cross_entropy = F.cross_entropy(logits.float().flatten(0, 1), wanted[at].flatten())
            if module.training and not self.expectation_weight:
                return cross_entropy, cross_entropy
            # the error is weighed by the neuron's scale, so that it is that of the signal itself up to one factor
            weight = (bank.scale[bank.row[at]] / bank.scale.square().mean().sqrt()).square()
            error = module.decode(before[at], logits, "soft") - x[:, n_b:]
            return cross_entropy, (error.square().mean(1) * weight).mean()

        def step(at):
            cross_entropy, error = loss(train, at, targets, given)
            return cross_entropy + self.expectation_weight * error if self.expectation_weight else cross_entropy

        def validate():
            totals = np.zeros(2)
            for at in torch.arange(len(validation), device=self.device).split(CHUNK):
                totals += np.array([float(v) for v in loss(validation, at, val_targets, val_given)]) * len(at)
            cross_entropy, error = totals / len(validation)
            return {"score": error, "cross_entropy": cross_entropy}

        return step, validate

    @torch.no_grad()
    def _codes(self, bank):
        """Codes of the response (n, M) from whole windows, and of the baseline alone (n, P_b)."""
        model, c = self.module.autoencoder.eval(), self.autoencoder.config
        targets, given = [], []
        for at in torch.arange(len(bank), device=self.device).split(CHUNK):
            x = bank.batch(at).x[:, 0]
            targets.append(model.codes(x)[:, c.baseline_patches :])
            given.append(model.baseline_codes(x))
        return torch.cat(targets), torch.cat(given)

    @torch.no_grad()
    def _learnt(self, validation, anew):
        """Decoding and temperature of least validation error, and the residuals."""
        self.residual |= self._residuals(validation)
        if not anew:
            return
        n_b = self.autoencoder.config.n_baseline
        totals = {("soft", t): 0.0 for t in TEMPERATURES} | {("sample", 1.0): 0.0, ("argmax", 1.0): 0.0}
        chunks = torch.arange(len(validation), device=self.device).split(CHUNK)
        for at in chunks:
            x = validation.batch(at).x[:, 0]
            scale = validation.scale[validation.row[at], None]
            logits = self.module(x[:, :n_b], validation.neuron[at], validation.condition[at])
            given = self.module.autoencoder.baseline_codes(x)
            for how, t in totals:
                out = self._decoded(given, logits, how, t)
                totals[how, t] += float(((out - x[:, n_b:]) * scale).square().mean(1).sum())
        totals = {k: v / len(validation) for k, v in totals.items()}
        self.decode, self.temperature = min(totals, key=totals.__getitem__)
        self.chosen = {f"{how}, temperature {t:g}": v for (how, t), v in totals.items()}

    def _residuals(self, bank):
        """What quantisation leaves out of the response: {neuron key: standard deviation}; the pooled one where a neuron has no window."""
        n_b, n = self.autoencoder.config.n_baseline, len(self.neurons)
        squares, count = torch.zeros(n, device=self.device), torch.zeros(n, device=self.device)
        for at in torch.arange(len(bank), device=self.device).split(CHUNK):
            x = bank.batch(at).x[:, 0]
            error = (self.module.autoencoder(x)[0] - x)[:, n_b:] * bank.scale[bank.row[at], None]
            squares.index_add_(0, bank.neuron[at], error.square().mean(1))
            count.index_add_(0, bank.neuron[at], torch.ones(len(at), device=self.device))
        pooled = squares.sum() / count.sum()
        sd = torch.where(count > 0, squares / count.clamp(min=1), pooled).sqrt().cpu().tolist()
        return {key: value for key, value, seen in zip(self.neurons, sd, count.tolist(), strict=True) if seen or key not in self.residual}

    def _decoded(self, given, logits, how, temperature):
        if how != "sample":
            return self.module.decode(given, logits, how, temperature)
        # the same uniforms for every observation: a forecast must not depend on what else is in the batch
        uniforms = torch.rand(N_DRAWS, logits.shape[1], generator=torch.Generator().manual_seed(0)).to(self.device)
        return sum(self.module.decode(given, logits, "sample", temperature, u) for u in uniforms) / N_DRAWS

    @torch.no_grad()
    def _run(self, context, neurons, conditions, use):
        """Call `use(given codes, logits)` on chunks of the folded observations, -> (trial, neuron, T_f) in the signal's units."""
        x, divisor = self._flat(context, neurons)
        neuron, stimulus = self._ids(neurons, conditions)
        out = []
        for at in torch.arange(len(x), device=self.device).split(CHUNK):
            logits = self.module(x[at], neuron[at], stimulus[at])
            out.append(use(self.module.autoencoder.baseline_codes(x[at]), logits).float().cpu())
        shape = (len(conditions), len(neurons), self.n_response)
        return torch.cat(out).numpy().reshape(shape) * divisor[:, None]

    def predict_arrays(self, context, neurons, conditions):
        return self._run(context, neurons, conditions, lambda g, p: self._decoded(g, p, self.decode, self.temperature))

    def sample_arrays(self, context, neurons, conditions, n_samples=100, seed=0):
        """Draws of the code sequence, decoded, with white noise of what the codes leave out; see `Forecaster.sample_arrays`."""
        spread = torch.tensor([self.residual.get(k, 0.0) / self._scale[k] for k in neurons], device=self.device)

        def draw(given, logits):
            out = self.module.decode(given, logits, "sample")
            sd = next(rows)
            return out + sd[:, None] * torch.randn_like(out)

        out = []
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for _ in range(n_samples):
                rows = iter(spread.repeat(len(conditions)).split(CHUNK))
                out.append(self._run(context, neurons, conditions, draw))
        return np.stack(out)


class QuantFormerClassifier(_Downstream):
    """Says whether a neuron will be active after the onset, from its baseline alone."""

    kind = "classifier"
    name = "QuantFormer"
    module_class = ActivationClassifier
    module: ActivationClassifier
    options = ("dropout", "hide", "gain_weight")
    results = ("threshold",)

    def __init__(self, autoencoder, neurons, stimuli, *, gain_weight=0.0, **options):
        super().__init__(autoencoder, neurons, stimuli, **options)
        self.threshold, self.gain_weight = 0.5, gain_weight

    def _objective(self, train, validation):
        """Cross-entropy of the label, in training beside that of the other levels of the gain; validation looks at the label alone."""
        module, n_b = self.module, self.autoencoder.config.n_baseline
        levels = torch.tensor(GAIN_LEVELS, device=self.device) * self.autoencoder.window.active_gain

        def loss(bank, at):
            x = bank.batch(at).x[:, 0, :n_b]
            h = module.summary(x, bank.neuron[at], bank.condition[at], self._hidden(len(at)))
            label = F.cross_entropy(module.head(h).float(), bank.active[at].long())
            if not module.training:
                return label
            passed = (bank.gain[at, None] > levels).float()
            return label + self.gain_weight * F.binary_cross_entropy_with_logits(module.levels(h).float(), passed)

        def validate():
            total = 0.0
            for at in torch.arange(len(validation), device=self.device).split(CHUNK):
                total += float(loss(validation, at)) * len(at)
            return {"score": total / len(validation)}

        return lambda at: loss(train, at), validate

    @torch.no_grad()
    def _learnt(self, validation, anew):
        """Threshold of best balanced accuracy on validation."""
        if not anew:
            return
        n_b, p = self.autoencoder.config.n_baseline, []
        for at in torch.arange(len(validation), device=self.device).split(CHUNK):
            x = validation.batch(at).x[:, 0, :n_b]
            p.append(self.module(x, validation.neuron[at], validation.condition[at]).float().softmax(-1)[:, 1])
        p, order = torch.cat(p).sort(descending=True)
        a = validation.active[order].double()
        if not 0 < float(a.sum()) < len(a):
            return
        gain = a.cumsum(0) / a.sum() - (1 - a).cumsum(0) / (1 - a).sum()
        best = int(gain.argmax())
        self.threshold = float((p[best] + p[min(best + 1, len(p) - 1)]) / 2)

    def prepare(self, trials):
        """As every model's; the trials must also be labelled as those of the training."""
        for name in ("score_s", "active_rule", "active_gain"):
            mine, theirs = getattr(self.window, name), getattr(trials.window, name)
            if mine != theirs:
                raise QfError(f"{name}: expected {mine}, with which the classifier was trained, found {theirs}. Cut the trials with {name}={mine!r}.")
        return super().prepare(trials)

    @torch.no_grad()
    def predict_arrays(self, context, neurons, conditions):
        """Probability of being active, (trial, neuron); see `Forecaster.predict_arrays` for the arguments."""
        x, _ = self._flat(context, neurons)
        neuron, stimulus = self._ids(neurons, conditions)
        out = [self.module(x[at], neuron[at], stimulus[at]).float().softmax(-1)[:, 1].cpu()
               for at in torch.arange(len(x), device=self.device).split(CHUNK)]  # fmt: skip
        return torch.cat(out).numpy().reshape(len(conditions), len(neurons))

    def predict(self, trials):
        """Activation of every neuron in every trial: `probability` and `active` (trial, neuron), NaN where the baseline can't be used."""
        out = self._labelled(trials, lambda *a: {"probability": (("trial", "neuron"), self.predict_arrays(*a))})
        out["active"] = (out["probability"] > self.threshold).where(out["probability"].notnull())
        return out

    def predict_probability(self, trials):
        """Probability of being active, DataArray (trial, neuron)."""
        return self.predict(trials)["probability"]

    def sample(self, trials, n_samples=100, seed=0):
        raise QfError("sample: a classifier gives probabilities. Use predict_probability(trials).")


def _keys(autoencoder, split):
    column = "condition" if autoencoder.config.stim_token == "condition" else "stimulus"
    return split.train.neurons, sorted(split.train.table[column].unique())


def fit_forecaster(autoencoder, split, *, tuning="fine", expectation_weight=0.0, hide=0.0, dropout=None, seed=0, **options):
    """Fit the response forecaster (paper 3.4.2, eq. 4).

    Parameters
    ----------
    autoencoder : Autoencoder
    split : Split
    tuning : {"fine", "prompt"}
        Encoder, tokens and head learn, or tokens and head alone; codebook and decoder are always frozen.
    expectation_weight : float
        Weight of the soft decoding's squared error beside eq. 4; 0 is the paper.
    hide : float
        In training steps each observation has a random share of its baseline's patches, up to this one, taken by [MASK], so that the
        tuning to conditions is learnt rather than the noise of a few traces; 0 is the paper.
    dropout : float, optional
        Of the encoder; the auto-encoder's where left out.
    seed : int
    **options
        epochs (100), batch_size (512 observations), lr (1e-3), schedule, patience, checkpoint, resume, progress; see `training.loop`.

    Returns
    -------
    QuantFormerForecaster
        Its decoding and temperature chosen on the validation part.
    """
    own = {"expectation_weight": expectation_weight, "hide": hide, "dropout": dropout}
    return _fit(QuantFormerForecaster, autoencoder, split, own, tuning=tuning, seed=seed, **options)


def fit_classifier(autoencoder, split, *, tuning="fine", gain_weight=0.0, hide=0.0, dropout=None, seed=0, **options):
    """Fit the activation classifier (paper 3.4.1).

    Parameters
    ----------
    gain_weight : float
        Weight of learning which levels (-0.5, 0, 0.5, 2, 4 and 8 times that of the label) the response's gain passes. A label says one
        bit of a response; the levels say more of the same, and none of them is a forecast. 0 is the paper.
    autoencoder, split, tuning, hide, dropout, seed, **options
        As in `fit_forecaster`.

    Returns
    -------
    QuantFormerClassifier
        Its threshold chosen on the validation part.
    """
    own = {"gain_weight": gain_weight, "hide": hide, "dropout": dropout}
    return _fit(QuantFormerClassifier, autoencoder, split, own, tuning=tuning, seed=seed, **options)


def _fit(kind, autoencoder, split, own, *, seed, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(autoencoder, *_keys(autoencoder, split), **own)
    model._train(split, seed=seed, **options)
    return model
