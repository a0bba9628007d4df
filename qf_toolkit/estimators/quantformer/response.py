"""Response forecasting: a distribution over the codes of the response, and its decoding (paper 3.4.2, eq. 4)."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import QfError
from ...models.config import DECODINGS
from ...models.options import defaults
from ...models.quantformer import ResponseForecaster, ResponseRegressor
from ...training.bank import CHUNK
from ...training.options import LoopConfig
from .. import schema
from ..checks import check_draws
from ..interface import Forecaster
from ..objectives import constants_of_responses, weighed_error
from .downstream import Downstream, fit
from .options import FitConfig

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
N_DRAWS = 32  # under decode="sample" the forecast is the mean of so many draws


class QuantFormerForecaster(Downstream, Forecaster):
    """Forecasts the codes of the response, and decodes them.

    Attributes
    ----------
    decode : {"soft", "argmax", "sample"}
        How codes become a forecast: decode the expected code vectors, decode the likeliest codes (paper), or average decoded draws.
        `fit_forecaster` chooses it on validation; users may set it.
    temperature : float
        Divides the logits in the soft decoding; `fit_forecaster` chooses it on validation. Draws use 1.
    chosen : dict
        {decoding and temperature: mean squared error on validation, in units of the signal squared}.
    residual : dict
        {neuron key: standard deviation of the reconstruction's error in the response, in units of the signal}, measured on the validation part.
    """

    kind = "forecaster"
    call = "fit_forecaster"
    name = "QuantFormer"
    probabilistic = True
    module_class = ResponseForecaster
    module: ResponseForecaster
    options = ("dropout", "hide", "neuron_token", "expectation_weight")
    results: ClassVar[dict] = {
        "decode": schema.choice(*DECODINGS), "temperature": schema.number(above=0, most=1e6), "residual": schema.mapping(schema.number(least=0)),
    }  # fmt: skip

    def __init__(self, autoencoder, neurons, tokens, *, expectation_weight=FitConfig.expectation_weight, decode=FitConfig.decode, **options):
        super().__init__(autoencoder, neurons, tokens, expectation_weight=expectation_weight, **options)
        self._decodings = DECODINGS if decode == "auto" else (decode,)
        self.decode, self.temperature, self.residual = self._decodings[0], 1.0, {}

    def _objective(self, train, validation):
        """The loss is equation 4. The targets (codes of the response) and the baseline's codes are computed once, before the first step."""
        module, n_b = self.module, self.autoencoder.config.n_baseline
        targets, given = self._codes(train)
        val_targets, val_given = self._codes(validation)

        def loss(bank, at, wanted, before):
            x = bank.batch(at).x[:, 0]
            logits = module(x[:, :n_b], bank.neuron(at), bank.condition(at), self._hidden(len(at)))
            cross_entropy = F.cross_entropy(logits.float().flatten(0, 1), wanted[at].long().flatten())
            if module.training and not self.expectation_weight:
                return cross_entropy, cross_entropy
            return cross_entropy, weighed_error(module.decode(before[at].long(), logits, "soft") - x[:, n_b:], bank, at)

        def step(at):
            cross_entropy, error = loss(train, at, targets, given)
            return cross_entropy + self.expectation_weight * error if self.expectation_weight else cross_entropy

        def validate():
            totals = np.zeros(2)
            for at in validation.chunks():
                totals += np.array([float(v) for v in loss(validation, at, val_targets, val_given)]) * len(at)
            cross_entropy, error = totals / len(validation)
            return {"score": error, "cross_entropy": cross_entropy}

        return step, validate

    def _constants(self, train, validation):
        n_b = self.autoencoder.config.n_baseline
        return constants_of_responses(train, validation, n_b)

    @torch.no_grad()
    def _codes(self, bank):
        """Codes of the response (n, M), coded from whole windows, and codes of the baseline (n, P_b), coded from the baseline only. The dtype is the
        smallest integer that holds a code."""
        model, c = self.module.autoencoder.eval(), self.autoencoder.config
        targets, given, small = [], [], torch.uint8 if c.codes <= 256 else torch.int16 if c.codes <= 2**15 else torch.int32
        for at in bank.chunks():
            x = bank.batch(at).x[:, 0]
            targets.append(model.codes(x)[:, c.baseline_patches :].to(small))
            given.append(model.baseline_codes(x).to(small))
        return torch.cat(targets), torch.cat(given)

    @torch.no_grad()
    def _learnt(self, validation, anew):
        """Set decoding and temperature to those of least validation error, and measure the residuals."""
        self.residual |= self._residuals(validation)
        if not anew:
            return
        n_b = self.autoencoder.config.n_baseline
        totals = {("soft", t): 0.0 for t in TEMPERATURES} | {("sample", 1.0): 0.0, ("argmax", 1.0): 0.0}
        totals = {(how, t): v for (how, t), v in totals.items() if how in self._decodings}
        for at in validation.chunks():
            x = validation.batch(at).x[:, 0]
            scale = validation.divisor(at)[:, None]
            logits = self.module(x[:, :n_b], validation.neuron(at), validation.condition(at))
            given = self.module.autoencoder.baseline_codes(x)
            for how, t in totals:
                out = self._decoded(given, logits, how, t)
                totals[how, t] += float(((out - x[:, n_b:]) * scale).square().mean(1).sum())
        totals = {k: v / len(validation) for k, v in totals.items()}
        self.decode, self.temperature = min(totals, key=totals.__getitem__)
        self.chosen = {f"{how}, temperature {t:g}": v for (how, t), v in totals.items()}

    def _residuals(self, bank):
        """The standard deviation of the reconstruction's error in the response, {neuron key: units of the signal}. A neuron without a window keeps its
        value, or takes the pooled one if it has none."""
        n_b, n = self.autoencoder.config.n_baseline, len(self.neurons)
        squares, count = torch.zeros(n, device=self.device), torch.zeros(n, device=self.device)
        for at in bank.chunks():
            x = bank.batch(at).x[:, 0]
            error = (self.module.autoencoder(x)[0] - x)[:, n_b:] * bank.divisor(at)[:, None]
            squares.index_add_(0, bank.neuron(at), error.square().mean(1))
            count.index_add_(0, bank.neuron(at), torch.ones(len(at), device=self.device))
        pooled = squares.sum() / count.sum()
        sd = torch.where(count > 0, squares / count.clamp(min=1), pooled).sqrt().cpu().tolist()
        return {key: value for key, value, seen in zip(self.neurons, sd, count.tolist(), strict=True) if seen or key not in self.residual}

    def _decoded(self, given, logits, how, temperature):
        if how != "sample":
            return self.module.decode(given, logits, how, temperature)
        # all observations share the uniforms, so that a forecast does not depend on the rest of the batch
        uniforms, n = torch.rand(N_DRAWS, logits.shape[1], generator=torch.Generator().manual_seed(0)).to(self.device), len(given)
        total = 0
        for part in uniforms.split(max(1, CHUNK // max(n, 1))):  # if there are few observations, many draws are decoded at once
            k = len(part)
            drawn = self.module.decode(given.repeat(k, 1), logits.repeat(k, 1, 1), "sample", uniforms=part.repeat_interleave(n, 0))
            total = total + drawn.unflatten(0, (k, n)).sum(0)
        return total / N_DRAWS

    @torch.no_grad()
    def _coded(self, asked):
        """Codes of the baseline (n, P_b) and logits of the response's codes (n, M, K), for n = trial x neuron observations, and the divisors (neuron,)."""
        with self.inputs(asked) as (x, neuron, stimulus, divisor):
            parts = [
                (self.module.autoencoder.baseline_codes(x[at]), self.module(x[at], neuron[at], stimulus[at]))
                for at in torch.arange(len(x), device=self.device).split(CHUNK)
            ]
        given, logits = (torch.cat(p) for p in zip(*parts, strict=True))
        return given, logits, divisor

    def predict_arrays(self, asked):
        return self.forecast_arrays(asked)["forecast"]

    def sample_arrays(self, asked, n_samples=100, seed=0):
        """Draw sequences of codes, decode them, and add white noise of each neuron's `residual`; see `Forecaster.sample_arrays`."""
        return self.forecast_arrays(asked, ("samples",), n_samples, seed)["samples"]

    def codes_arrays(self, asked):
        """The codes of the baseline, then the likeliest codes of the response, int64 (trial, neuron, patch)."""
        return self.forecast_arrays(asked, ("codes",))["codes"]

    def forecast_arrays(self, asked, wanted=("forecast",), n_samples=100, seed=0):
        """Compute all wanted results in one pass through the encoders; see `Forecaster.forecast_arrays`."""
        shape, found = (len(asked.conditions), len(asked.neurons)), {}
        if "samples" in wanted:
            check_draws(n_samples, seed, (*shape, self.n_response))
        given, logits, divisor = self._coded(asked)
        if "forecast" in wanted:
            with torch.no_grad():
                out = torch.cat([self._decoded(*part, self.decode, self.temperature).float().cpu() for part in _chunks(given, logits)])
            found["forecast"] = out.numpy().reshape(*shape, self.n_response) * divisor[:, None]
        if "samples" in wanted:
            sd = torch.tensor([self.residual.get(k, 0.0) / self._scale[k] for k in asked.neurons])
            drawn = self._drawn(given, logits, sd, n_samples, seed)
            found["samples"] = drawn.reshape(n_samples, *shape, self.n_response) * divisor[:, None]
        if "codes" in wanted:
            found["codes"] = torch.cat([given, logits.argmax(-1)], 1).cpu().numpy().reshape(*shape, -1)
        return found

    def sequence(self):
        """The encoder's input: the names of the learned tokens in front, and the number of patches that follow."""
        return self.front(), self.autoencoder.config.patches

    @staticmethod
    def evidence(logits):
        """The evidence for the answer, (b, M): the logits of the likeliest codes."""
        return logits.amax(-1)

    def _drawn(self, given, logits, sd, n_samples, seed):
        """Decoded draws, float32 (sample x observation, T_f), divided by each neuron's divisor; `sd` (neuron,) is the noise in the same units."""
        sd = sd.to(self.device).repeat(len(given) // len(sd))
        together = max(1, CHUNK // len(given))  # if there are few observations, many draws are decoded at once
        out = []
        with torch.no_grad(), torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for first in range(0, n_samples, together):
                k = min(together, n_samples - first)
                for g, p, s in _chunks(given.repeat(k, 1), logits.repeat(k, 1, 1), sd.repeat(k)):
                    drawn = self.module.decode(g, p, "sample").float()
                    out.append((drawn + s[:, None] * torch.randn_like(drawn)).cpu())
        return torch.cat(out).numpy()


class QuantFormerRegressor(Downstream, Forecaster):
    """Forecasts the response's frames themselves, by a regression head on the encoder of an auto-encoder without codes (paper Table 3).

    It learns by the squared error of the signal divided by each neuron's divisor. The epoch is chosen by the squared error in units of the signal, as in
    every other forecaster.
    """

    kind = "regressor"
    call = "fit_forecaster"
    name = "QuantFormer without codes"
    module_class = ResponseRegressor
    module: ResponseRegressor

    def _objective(self, train, validation):
        n_b = self.autoencoder.config.n_baseline

        def error(bank, at):
            x = bank.batch(at).x[:, 0]
            out = self.module(x[:, :n_b], bank.neuron(at), bank.condition(at), self._hidden(len(at)))
            return self.module.decode(out).float() - x[:, n_b:]

        def validate():
            total = 0.0
            for at in validation.chunks():
                total += float(weighed_error(error(validation, at), validation, at)) * len(at)
            return {"score": total / len(validation)}

        return lambda at: error(train, at).square().mean(), validate

    def _constants(self, train, validation):
        return constants_of_responses(train, validation, self.autoencoder.config.n_baseline)

    @torch.no_grad()
    def predict_arrays(self, asked):
        with self.inputs(asked) as (x, neuron, stimulus, divisor):
            out = [self.module.decode(self.module(x[at], neuron[at], stimulus[at])).float().cpu()
                   for at in torch.arange(len(x), device=self.device).split(CHUNK)]  # fmt: skip
        return torch.cat(out).numpy().reshape(len(asked.conditions), len(asked.neurons), -1) * divisor[:, None]

    def sequence(self):
        """The encoder's input: the names of the learned tokens in front, and the number of patches that follow."""
        return self.front(), self.autoencoder.config.patches

    @staticmethod
    def evidence(out):
        """The evidence for the answer, (b, M): the mean of each patch of the forecast."""
        return out.mean(-1)


def _chunks(*tensors):
    return zip(*(t.split(CHUNK) for t in tensors), strict=True)


def fit_forecaster(
    autoencoder,
    split,
    *,
    tuning=FitConfig.tuning,
    stim_token=FitConfig.stim_token,
    expectation_weight=FitConfig.expectation_weight,
    neuron_token=FitConfig.neuron_token,
    hide=FitConfig.hide,
    dropout=FitConfig.dropout,
    decode=FitConfig.decode,
    seed=LoopConfig.seed,
    **options,
):
    """Fit the response forecaster (paper 3.4.2, eq. 4), or a regression of the response where the auto-encoder has no codes (paper Table 3).

    Parameters
    ----------
    autoencoder : Autoencoder
    split : Split
    tuning : {"fine", "prompt"}
        "fine" trains encoder, tokens and head; "prompt" trains only tokens and head. Codebook and decoder are always frozen.
    stim_token : {"auto", "condition", "category", "features"}, optional
        What has a stimulus token; None takes the auto-encoder's setting. "auto": each condition if conditions are repeated in training, else the
        stimulus category. "condition" is the paper, "features" is near the released code; see `estimators.stimulus_tokens.StimulusTokens`.
    expectation_weight : float
        Weight of the soft decoding's squared error, which is added to eq. 4; 0 is the paper.
    neuron_token : bool
        Tell the model the neuron by a learned token, as the paper does. Without, it knows the baseline and the stimulus alone (paper Table 3).
    hide : float
        In training steps, [MASK] replaces a random share of each observation's baseline patches, up to this share. The model then learns the tuning
        to conditions rather than the noise of a few traces. 0 is the paper.
    dropout : float, optional
        Dropout of the encoder in training; None takes the auto-encoder's.
    decode : {"auto", "soft", "argmax", "sample"}
        How codes become a forecast; "auto" chooses on the validation part, "argmax" is the paper.
    seed : int
    **options
        epochs (100), steps, batch_size (512 observations), batch_trials, lr (1e-3), schedule, clip, patience, weight_decay, bf16: see
        `LoopConfig`; checkpoint, resume, progress, checkpoint_s: see `training.loop`; memory_mb: see `training.traces`. token_speed: the neurons'
        tokens learn this many times as fast as the rest; 1 is the paper, 10 moves them clearly away from their random start.

    Returns
    -------
    QuantFormerForecaster or QuantFormerRegressor
        The validation part chooses its decoding and temperature. Its `reference` compares the validation score with constant forecasts.

    Raises
    ------
    QfError
        If an option is unknown or out of range, or needs codes where the auto-encoder has none, no observation is usable, the loss or the validation score is not finite, or the device's memory
        is full.

    Examples
    --------
    >>> forecaster = fit_forecaster(autoencoder, split, epochs=2, progress=False)
    >>> forecaster.predict(split.test)["forecast"].dims
    ('trial', 'neuron', 'time')
    """
    own = {"neuron_token": neuron_token, "hide": hide, "dropout": dropout}
    of_codes = {"expectation_weight": expectation_weight, "decode": decode}
    kind = QuantFormerForecaster if getattr(autoencoder, "has_codes", True) else QuantFormerRegressor
    if kind is QuantFormerForecaster:
        own |= of_codes
    for name, value in of_codes.items():
        if name not in own and value != (usual := defaults(FitConfig)[name]):
            raise QfError(f"{name}: expected {usual!r} with an auto-encoder without codes (quantise=False), found {value!r}. Leave it out.")
    return fit(kind, autoencoder, split, own, tuning=tuning, stim_token=stim_token, seed=seed, **options)
