"""The second stage of CalM: the dual-axis transformer learns the next token of every neuron, and forecasts by going on from a context."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
import torch

from ...errors import QfError
from ...models.batch import Batch
from ...models.calm import CalM, CodeTokens, NeuralQuantizer, PatchTokens
from ...models.calm_config import PATCH_FRAMES, DualAxisConfig
from ...models.config import DECODINGS, STIM_TOKENS
from ...recordings.conditions import category_of
from ...recordings.splits import Split
from ...recordings.trials import Trials, scaling_by_session
from ...recordings.window import saved_window
from ...training.bank import Bank, tell_left_out
from ...training.checkpoint import digest
from ...training.groups import Group
from ...training.loop import run
from ...training.options import LoopConfig
from ...training.traces import Traces
from .. import schema
from ..checks import check_draws, check_keys, check_window
from ..digests import Digest
from ..interface import Forecaster, Observations
from ..network import trial_batches
from ..network_options import NetworkConfig
from ..notes import refusal, refuse
from ..objectives import mean_of, weighed_error
from ..reference import constant_scores, told
from ..saving import check_shapes, fill
from ..seen import join_seen, seen_frames
from ..stimulus_tokens import StimulusTokens
from ..tokened import Tokened
from .options import CalmConfig
from .quantizer import CalmQuantizer, places_of

N_DRAWS = 32  # under decode="sample" the forecast is the mean of so many draws
TOGETHER = 2**16  # tokens of neurons that go through the model together


class CalmForecaster(Tokened, Forecaster):
    """Forecasts all neurons of a session together, token by token.

    Attributes
    ----------
    module : CalM
    quantizer : CalmQuantizer or None
        None for tokens="patches".
    sessions : list of str
        Keys of the sessions that have an embedding. Any other session has the mean of theirs.
    tell : bool
        Whether the condition is told to forecasts; users may set it. With False the same model answers without.
    decode : {"argmax", "soft", "sample"}
        How a forecast goes on from its context. `fit_calm` chooses it on validation; users may set it.
    chosen : dict
        {decoding: mean squared error on validation, weighed as in `objectives.weighed_error`}.
    residual : dict
        {neuron key: standard deviation of the quantiser's error in the response, in units of the signal}, on validation; draws add such noise.
    history : list of dict
        One entry per validation; the score is the cross-entropy, in nats, of the next code, or the squared error of the next patch.
    """

    kind = "calm"
    population = True
    has_states = True
    has_neuron_attention = True
    patch_frames = PATCH_FRAMES
    n_response: int

    def __init__(self, quantizer, options, config, calm, window, rate_hz, neurons, sessions, tokens, scale, scaling, device):
        super().__init__()
        self.quantizer, self.options, self.config, self.calm, self._digest = quantizer, options, config, calm, Digest()
        self.window, self.rate_hz, self.neurons, self.sessions, self.tokens = window, rate_hz, neurons, list(sessions), tokens
        self._scale, self.scaling = scale, scaling
        self.places = places_of(window, rate_hz, quantizer.config.codes if quantizer else 0)
        self.n_context, self.n_response = self.places.frames
        made = PatchTokens(options) if quantizer is None else CodeTokens(quantizer.module, options)
        self.module = CalM(
            options, made, len(self.neurons), len(self.sessions), tokens.size, config.token_width, self.places.baseline_patches, self.places.response_patches
        )  # fmt: skip
        self.module.to(device).eval()
        self.has_codes = self.probabilistic = quantizer is not None
        self.has_stimulus_tokens = self.tell = config.token_width > 0
        self.decode, self.chosen, self.residual = "soft" if calm.decode == "auto" else calm.decode, {}, {}
        self.history, self.reference, self.pretrained, self._known_stimuli = [], None, None, 0
        self.name = "CalM" if quantizer else "CalM, patches"
        self.name += "" if self.tell else ", condition not told"

    @property
    def autoencoder(self) -> CalmQuantizer | None:
        """The quantiser, where callers look for a model's codes."""
        return self.quantizer

    @property
    def device(self):
        return next(self.module.parameters()).device

    def _stimulus_ids(self, conditions):
        if not self.has_stimulus_tokens:  # told nothing, it takes any
            return {category_of(c): 0 for c in conditions}
        return super()._stimulus_ids(conditions)

    def digest(self) -> str:
        """A hash of the weights and of all settings that decide an answer."""
        return self._digest(self.module.state_dict(), [*self._decides_states(), self.decode, self.tell, self.residual])

    def states_digest(self) -> str:
        """A hash of what decides `states_arrays`: not how forecasts go on."""
        return digest(self.module.state_dict(), self._decides_states())

    def _decides_states(self):
        return [self._scale, self.scaling, self.neurons, self.sessions, self.tokens.note(), asdict(self.options), self.rate_hz]

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
        check_keys("neuron", trials.neurons, self._places, self.hint)
        if self.tell:
            self.tokens.check(trials.conditions)
        return trials

    # ------------------------------------------------------------ answers

    def forecast_arrays(
        self, asked: Observations, wanted: Sequence[str] = ("forecast",), n_samples: int = 100, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Compute all wanted results; see `Forecaster.forecast_arrays`."""
        shape, found, n = (len(asked.conditions), len(asked.neurons)), {}, self.n_response
        if "samples" in wanted and self.probabilistic:
            check_draws(n_samples, seed, (*shape, n))
        with torch.no_grad(), self._contexts(asked, "samples" in wanted or self.decode == "sample") as (parts, divisor):
            for batch, trials in parts:
                if "forecast" in wanted:
                    found.setdefault("forecast", []).append(self._rolled(batch, self.decode, asked.neurons).float().cpu())
                if "samples" in wanted and self.probabilistic:
                    found.setdefault("samples", []).append(self._drawn(batch, trials, asked.neurons, divisor, n_samples, seed))
                if "codes" in wanted and self.has_codes:
                    given = self.module.tokens.read(batch.x)
                    ahead = self.module.tokens.read(self._rolled(batch, self.decode, asked.neurons, self.places.n_response))
                    found.setdefault("codes", []).append(torch.cat([given, ahead], 2).cpu())
        out = {name: torch.cat(values, 1 if name == "samples" else 0).numpy() for name, values in found.items()}
        return {name: values if name == "codes" else values * divisor[:, None] for name, values in out.items()}

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        return self.forecast_arrays(asked)["forecast"]

    def sample_arrays(self, asked: Observations, n_samples: int = 100, seed: int = 0) -> np.ndarray:
        """Draw the codes of all neurons together, step by step, decode them, and add white noise of each neuron's `residual`."""
        if not self.probabilistic:
            return super().sample_arrays(asked, n_samples, seed)
        return self.forecast_arrays(asked, ("samples",), n_samples, seed)["samples"]

    def states_arrays(self, asked: Observations) -> np.ndarray:
        """The states after each token, which know all neurons up to the token's last frame, and not the condition.

        Parameters
        ----------
        asked : Observations
            Its context may be of any length; at most three frames at its older end are left out, so that it is whole tokens.

        Returns
        -------
        float32 array, shape (trial, neuron, token, width)
        """
        with torch.no_grad(), self._batches(asked, asked.context.shape[-1] // PATCH_FRAMES) as (parts, _):
            return torch.cat([self.module.encoded(batch).float().cpu() for batch, _ in parts]).numpy()

    def neuron_attention_arrays(self, asked: Observations) -> np.ndarray:
        """Who looks at whom: attention over neurons, mean over trials and tokens of the context, which may be of any length.

        Returns
        -------
        float32 array, shape (layer, head, neuron, neuron)
            Rows look, columns are looked at; each row sums to 1.
        """
        if not self.options.neuron_attention:
            raise QfError(f"{self.name}: expected a model that attends over neurons, found neuron_attention=False. Fit one with it.")
        total: Any = 0
        with torch.no_grad(), self._batches(asked, asked.context.shape[-1] // PATCH_FRAMES) as (parts, _):
            for batch, trials in parts:
                total = total + self.module.looks(batch).float().cpu() * len(trials)
        return (total / len(asked.conditions)).numpy()

    def session_table(self) -> tuple[list[str], np.ndarray]:
        """Keys of the sessions, and their embeddings, float32 (session, width)."""
        return list(self.sessions), self.module.sessions.weight.detach().cpu().numpy().copy()

    def _contexts(self, asked, drawn):
        """`_batches` of contexts, so small that all they go on to fits, too; `drawn` says whether each goes on N_DRAWS times."""
        return self._batches(asked, self.places.baseline_patches, self.places.patches * (N_DRAWS if drawn else 1), self.tell)

    @contextmanager
    def _batches(self, asked: Observations, n_tokens: int, a_trial: int = 0, tell: bool = False):
        """A context with Batches of the last `n_tokens` tokens of what is asked, each with the positions of its trials; and the divisors (neuron,).

        `a_trial` is the number of tokens of a neuron in a trial that are in memory together; `tell` says whether the condition is told.
        """
        shape, length = (len(asked.conditions), len(asked.neurons)), n_tokens * PATCH_FRAMES
        if asked.context.shape[-1] < length or not length:
            raise QfError(f"context: expected at least {max(length, PATCH_FRAMES)} frames, found {asked.context.shape[-1]}. Give the whole baseline.")
        valid = np.ones(asked.context.shape, bool) if asked.valid is None else np.asarray(asked.valid, bool)
        valid = torch.from_numpy(np.ascontiguousarray(valid[..., -length:])).to(self.device)
        place = self.sessions.index(asked.session) if asked.session in self.sessions else -1
        if self.has_stimulus_tokens and not tell:  # any known one will do
            asked = replace(asked, conditions=[self.tokens.keys[0]] * shape[0])
        with self.inputs(asked) as (x, neuron, stimulus, divisor):
            x, neuron, stimulus = x.unflatten(0, shape)[..., -length:], neuron.reshape(shape), stimulus.reshape(shape)[:, 0]
            session = torch.full_like(stimulus, place)
            at = torch.arange(shape[0], device=self.device).split(max(1, TOGETHER // (shape[1] * (a_trial or n_tokens))))
            yield ((Batch(torch.where(valid[i], x[i], 0.0), valid[i], neuron[i], stimulus[i], session[i]), i) for i in at), divisor

    def _rolled(self, batch, how, keys, length=None):
        """Forecasts (B, N, length), divided by the divisors."""
        length = self.n_response if length is None else length
        if how != "sample" or not self.probabilistic:
            return self.module(batch, length, how, self.tell)
        # all trials share the uniforms, so that a forecast does not depend on the rest of the batch
        u = self._uniforms(keys, [0], length, N_DRAWS, 0).expand(-1, len(batch.x), -1, -1)
        return self.module(batch, length, how, self.tell, u).mean(0)

    def _drawn(self, batch, trials, keys, divisor, n_samples, seed):
        """Draws (sample, B, N, T), divided by the divisors; about N_DRAWS rollouts of each trial go on together."""
        at, sd, out = trials.tolist(), torch.tensor([self.residual.get(k, 0.0) for k in keys]) / torch.from_numpy(divisor), []
        u = self._uniforms(keys, at, self.n_response, n_samples, seed)
        noise = [[_random(seed, key, trial, 1).standard_normal((n_samples, self.n_response), np.float32) for key in keys] for trial in at]
        for part in u.split(N_DRAWS):
            out.append(self.module(batch, self.n_response, "sample", self.tell, part).float().cpu())
        return torch.cat(out) + sd[:, None] * torch.from_numpy(np.array(noise)).permute(2, 0, 1, 3)

    def _uniforms(self, keys, trials, length, n_samples, seed):
        """Numbers in [0, 1), (n_samples, trial, neuron, token). Those of a neuron depend on its key, and not on the other neurons."""
        shape = n_samples, -(-length // PATCH_FRAMES)
        u = np.array([[_random(seed, key, trial, 0).random(shape, np.float32) for key in keys] for trial in trials])
        return torch.from_numpy(u).permute(2, 0, 1, 3).to(self.device)

    # ------------------------------------------------------------ training

    def _start_from(self, other: "CalmForecaster") -> None:
        """Take the weights of another model; embeddings go by their keys, and a new session begins at the mean of the known ones."""
        own, theirs = self.module.state_dict(), other.module.state_dict()
        by_key = {"neurons.table.weight": (self.neurons, other.neurons), "sessions.weight": (self.sessions, other.sessions)}
        if self.tokens.kind != "features" and self.has_stimulus_tokens:
            by_key["stimuli.table.weight"] = self.tokens.keys, other.tokens.keys
        by_key["neurons.start"] = by_key["neurons.table.weight"]
        if "stimuli.table.weight" in by_key:
            by_key["stimuli.start"] = by_key["stimuli.table.weight"]
        with torch.no_grad():
            for name, weight in theirs.items():
                if name in by_key:
                    mine, known = by_key[name]
                    places = {key: i for i, key in enumerate(known)}
                    if name == "sessions.weight":
                        own[name].add_(weight.mean(0))
                    pairs = [(i, places[key]) for i, key in enumerate(mine) if key in places]
                    if pairs:
                        to, of = (torch.tensor(side, device=self.device) for side in zip(*pairs, strict=True))
                        own[name][to] = weight[of]
                else:
                    own[name].copy_(weight)
        self.pretrained, self.seen, self.residual = other.digest(), other.seen, dict(other.residual)
        self._known_stimuli = len(other.tokens.keys)
        if self.calm.tuning == "embeddings":
            self.decode = other.decode

    def _run(self, split: Split, loop: LoopConfig, keep: dict, traces: Traces) -> None:
        train, validation = (
            self.bank(check_window(self.window, self.rate_hz, part, self.scaling), traces) for part in (split.train, split.validation)
        )
        tell_left_out(train, validation)
        known = {key: i for i, key in enumerate(self.sessions)}
        places = torch.tensor([known.get(key, -1) for key in traces.sessions], device=self.device)
        read, module, most = self.places.read, self.module, self.config.most_neurons

        def asked(bank, at):
            rows = bank.rows_of(at, most if module.training else 0)
            batch = bank.population(at, rows)
            batch = batch._replace(x=read(batch.x), valid=read(batch.valid), session=places[batch.session])
            return batch, bank.observations(at, rows)

        def loss(bank, at):
            batch, found = asked(bank, at)
            return mean_of(module.loss(batch).mean(-1), found >= 0), (found >= 0).sum()

        def validate():
            total = 0.0
            for at in self._chunks(validation):
                value, count = loss(validation, at)
                total += float(value) * int(count)
            return {"score": total / len(validation)}

        embeddings, kept = [module.neurons.table.weight, module.sessions.weight], None
        if self.calm.tuning == "embeddings":
            module.requires_grad_(False)
            if self._known_stimuli < len(self.tokens.keys) and self.has_stimulus_tokens and self.tokens.kind != "features":
                embeddings.append(module.stimuli.table.weight)
                known_rows = self._known_stimuli
                kept = embeddings[-1].requires_grad_(True).register_hook(lambda g: torch.cat([torch.zeros_like(g[:known_rows]), g[known_rows:]]))
            for weight in embeddings:
                weight.requires_grad_(True)
        self.history = run(
            module, lambda: trial_batches(train, loop, self.config), lambda at: loss(train, at)[0], validate, loop,
            groups=[Group(embeddings, speed=loop.token_speed, weight_decay=0.0)], label=self.name, **keep,
            settings={"model": self.kind, "options": self.options, "config": self.config, "calm": self.calm, "neurons": self.neurons,
                      "sessions": self.sessions, **self.tokens.note(), "window": self.window, "data": seen_frames(split.train),
                      "train": train.digest(), "validation": validation.digest(), "quantizer": self.quantizer and self.quantizer.digest(),
                      "pretrained": self.pretrained},
        )  # fmt: skip
        if kept is not None:
            kept.remove()
        module.requires_grad_(False)
        self.seed, self.simulated = loop.seed, split.train.simulated
        self.seen = join_seen(self.seen, self.quantizer.seen if self.quantizer else {}, seen_frames(split.train, split.validation))
        self._choose(validation, asked)
        best, last = min(self.history, key=lambda entry: entry["score"]), self.history[-1]
        judged = [{"epoch": best["epoch"], "score": self.chosen[self.decode]}, {"epoch": last["epoch"], "score": float("inf")}]
        self.reference = told(self.name, judged, self._constants(train, validation), keep["run_config"].progress)

    def _constants(self, train, validation):
        """Scores of constant forecasts, of the frames on which `_choose` scores; see `constants_of_responses`."""
        first = self.n_context

        def target(bank, at):
            return bank.batch(at).x[:, 0, first : first + self.places.n_response]

        return constant_scores(
            train, validation, target, lambda outs, at: [weighed_error(out - target(validation, at), validation, at) for out in outs]
        )

    def _chunks(self, bank: Bank, copies: int = 1) -> Iterator[torch.Tensor]:
        """The bank's trials in parts of about TOGETHER tokens of one session, where each goes on `copies` times."""
        for at in bank.trial_chunks():
            yield from at.split(max(1, TOGETHER // (len(bank.rows_of(at)) * self.places.patches * copies)))

    @torch.no_grad()
    def _choose(self, validation, asked):
        """Set the decoding to that of least validation error, and measure the residuals."""
        hows = (DECODINGS if self.calm.decode == "auto" else (self.calm.decode,)) if self.probabilistic else ("argmax",)
        hows = (self.decode,) if self.calm.tuning == "embeddings" else hows  # known sessions go on as before
        totals, n, known = dict.fromkeys(hows, 0.0), self.places.n_response, len(self.neurons)
        squares, count = torch.zeros(known, device=self.device), torch.zeros(known, device=self.device)
        for at in self._chunks(validation, N_DRAWS if "sample" in hows else 1):
            batch, found = asked(validation, at)
            usable, places, truth = (found >= 0).flatten(), found.flatten().clamp(min=0), batch.x[..., -n:]
            context = batch._replace(x=batch.x[..., :-n], valid=batch.valid[..., :-n])
            keys = [self.neurons[i] for i in batch.neuron[0].tolist()]
            for how in hows:
                error = (self._rolled(context, how, keys, n).float() - truth).flatten(0, 1)
                totals[how] += float(weighed_error(error, validation, places, usable)) * int(usable.sum())
            if self.probabilistic:
                tokens = self.module.tokens
                error = ((tokens.frames(tokens.vectors(tokens.read(batch.x))) - batch.x)[..., -n:].square().mean(-1)).flatten()
                neuron = batch.neuron.flatten()
                squares.index_add_(0, neuron, torch.where(usable, error, 0.0))
                count.index_add_(0, neuron, usable.float())
        self.chosen = {how: total / len(validation) for how, total in totals.items()}
        self.decode = min(self.chosen, key=self.chosen.__getitem__)
        if self.probabilistic:
            sd = torch.where(count > 0, squares / count.clamp(min=1), squares.sum() / count.sum().clamp(min=1)).sqrt().tolist()
            for key, value, n in zip(self.neurons, sd, count.tolist(), strict=True):
                if n or key not in self.residual:
                    self.residual[key] = value * self._scale[key]

    # ------------------------------------------------------------ saved models

    def note(self) -> dict:
        return {
            "quantizer": self.quantizer and self.quantizer.note(), "options": asdict(self.options), "config": asdict(self.config), "calm": asdict(self.calm),
            "window": asdict(self.window), "rate_hz": self.rate_hz, "neurons": self.neurons, "sessions": self.sessions, **self.tokens.note(),
            "scale": self._scale, "scaling": self.scaling, "seen": self.seen, "history": self.history, "seed": self.seed, "simulated": self.simulated,
            "reference": self.reference, "tell": self.tell, "decode": self.decode, "chosen": self.chosen, "residual": self.residual,
            "pretrained": self.pretrained,
        }  # fmt: skip

    def tensors(self) -> dict:
        return self.module.state_dict()

    @classmethod
    def checks(cls):
        return schema.record(
            {
                "quantizer": schema.maybe(CalmQuantizer.checks()), "options": schema.options(DualAxisConfig), "config": schema.options(NetworkConfig),
                "calm": schema.options(CalmConfig), "window": schema.WINDOW, "rate_hz": schema.number(above=0, most=1e6), "neurons": schema.KEYS,
                "sessions": schema.KEYS, "stimuli": schema.KEYS, "stim_token": schema.choice(*STIM_TOKENS), "features": schema.listing(schema.FEATURE),
                "scale": schema.DIVISORS, "scaling": schema.maybe(schema.scaling), "seen": schema.SEEN, "history": schema.history, "seed": schema.SEED,
                "simulated": schema.flag(optional=True), "reference": schema.maybe(schema.REFERENCE), "tell": schema.flag(),
                "decode": schema.choice(*DECODINGS), "chosen": schema.mapping(schema.number()), "residual": schema.mapping(schema.number(least=0)),
                "pretrained": schema.maybe(schema.text("[0-9a-f]{24}", "a digest")),
            },
            {"run": schema.maybe(schema.RUN)},
        )  # fmt: skip

    @classmethod
    def from_note(cls, note, tensors, device, folder) -> Self:
        try:
            options, config, calm = DualAxisConfig(**note["options"]), NetworkConfig(**note["config"]), CalmConfig(**note["calm"])
            window = saved_window(note["window"])
        except schema.Unfit as e:
            raise refusal(folder / "config.json", e) from e
        except QfError as e:
            refuse(folder, "options, config or window", "values that go together", e)
        if "" not in note["scale"] or (missing := [n for n in note["neurons"] if n not in note["scale"]]):
            refuse(folder, f"scale.{missing[0] if '' in note['scale'] else ''}", "a divisor", "none")
        if (note["quantizer"] is None) != (calm.tokens == "patches"):
            refuse(folder, "quantizer", "one where tokens are codes", "none" if note["quantizer"] is None else "one")
        start, quantizer = "tokens.quantizer.", None
        if note["quantizer"] is not None:
            own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            quantizer = CalmQuantizer.from_note(note["quantizer"], own, device, folder, "quantizer.")
        made = options, config, calm, window, note["rate_hz"], note["neurons"], note["sessions"], StimulusTokens.from_note(note, config.stim_token)
        given = note["scale"], scaling_by_session(note["scaling"])
        with torch.device("meta"):  # tensors on it take no memory, whatever sizes an altered file asks for
            check_shapes(folder, cls(quantizer and _without_weights(quantizer), *made, *given, "meta").module, tensors)
        self = cls(quantizer, *made, *given, device)
        fill(folder, self.module, tensors)
        self.module.requires_grad_(False)
        for name in ("history", "seen", "seed", "simulated", "reference", "tell", "decode", "chosen", "residual", "pretrained"):
            setattr(self, name, note[name])
        return self


def _random(seed, key, trial, what):
    return np.random.default_rng([seed, zlib.crc32(key.encode()), trial, what])


def _without_weights(quantizer):
    """A copy of a quantiser with a module of its own, for shapes alone."""
    found = copy(quantizer)
    found.module = NeuralQuantizer(quantizer.module.config)
    return found
