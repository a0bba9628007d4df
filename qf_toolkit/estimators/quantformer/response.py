"""Response forecasting: a distribution over the codes of the response, and its decoding (paper 3.4.2, eq. 4)."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ...models.config import DECODINGS
from ...models.quantformer import ResponseForecaster
from ...training.bank import CHUNK
from ...training.options import LoopConfig
from .. import schema
from ..checks import check_draws
from ..interface import Forecaster
from ..objectives import constants_of_responses, weighed_error
from .downstream import Downstream, fit
from .options import FitConfig

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
N_DRAWS = 32  # of decode="sample": the forecast is their mean


class QuantFormerForecaster(Downstream, Forecaster):
    """Forecasts the codes of the response, and decodes them.

    Attributes
    ----------
    decode : {"soft", "argmax", "sample"}
        The expected code vector decoded, the likeliest codes decoded (paper), or the mean of decoded draws. Chosen on validation by
        `fit_forecaster`; may be set.
    temperature : float
        Divides the logits of the soft decoding; chosen on validation. Draws are at 1.
    chosen : dict
        Validation MSE (signal / scale) of each decoding.
    residual : dict
        {neuron key: standard deviation of what its codes leave out of the response, in units of the signal}, from the validation part.
    """

    kind = "forecaster"
    call = "fit_forecaster"
    name = "QuantFormer"
    probabilistic = True
    module_class = ResponseForecaster
    module: ResponseForecaster
    options = ("dropout", "hide", "expectation_weight")
    results: ClassVar[dict] = {
        "decode": schema.choice(*DECODINGS), "temperature": schema.number(above=0, most=1e6), "residual": schema.mapping(schema.number(least=0)),
    }  # fmt: skip

    def __init__(self, autoencoder, neurons, tokens, *, expectation_weight=FitConfig.expectation_weight, decode=FitConfig.decode, **options):
        super().__init__(autoencoder, neurons, tokens, expectation_weight=expectation_weight, **options)
        self._decodings = DECODINGS if decode == "auto" else (decode,)
        self.decode, self.temperature, self.residual = self._decodings[0], 1.0, {}

    def _objective(self, train, validation):
        """Equation 4; the targets (codes of the response) and the baseline's codes are computed once, before the first step."""
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
        """Codes of the response (n, M) from whole windows, and of the baseline alone (n, P_b), in the fewest bytes that hold a code."""
        model, c = self.module.autoencoder.eval(), self.autoencoder.config
        targets, given, small = [], [], torch.uint8 if c.codes <= 256 else torch.int16 if c.codes <= 2**15 else torch.int32
        for at in bank.chunks():
            x = bank.batch(at).x[:, 0]
            targets.append(model.codes(x)[:, c.baseline_patches :].to(small))
            given.append(model.baseline_codes(x).to(small))
        return torch.cat(targets), torch.cat(given)

    @torch.no_grad()
    def _learnt(self, validation, anew):
        """Decoding and temperature of least validation error, and the residuals."""
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
        """What quantisation leaves out of the response: {neuron key: standard deviation}; the pooled one where a neuron has no window."""
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
        # the same uniforms for every observation: a forecast must not depend on what else is in the batch
        uniforms, n = torch.rand(N_DRAWS, logits.shape[1], generator=torch.Generator().manual_seed(0)).to(self.device), len(given)
        total = 0
        for part in uniforms.split(max(1, CHUNK // max(n, 1))):  # of few observations many draws are decoded at once
            k = len(part)
            drawn = self.module.decode(given.repeat(k, 1), logits.repeat(k, 1, 1), "sample", uniforms=part.repeat_interleave(n, 0))
            total = total + drawn.unflatten(0, (k, n)).sum(0)
        return total / N_DRAWS

    @torch.no_grad()
    def _coded(self, asked):
        """Codes of the baseline (n, P_b) and logits of the response's (n, M, K), of the observations folded to n = trial x neuron; the divisors."""
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
        """Draws of the code sequence, decoded, with white noise of what the codes leave out; see `Forecaster.sample_arrays`."""
        return self.forecast_arrays(asked, ("samples",), n_samples, seed)["samples"]

    def codes_arrays(self, asked):
        """Codes of the baseline and the likeliest ones of the response, int64 (trial, neuron, patch)."""
        return self.forecast_arrays(asked, ("codes",))["codes"]

    def forecast_arrays(self, asked, wanted=("forecast",), n_samples=100, seed=0):
        """All that is wanted, from one pass through the encoders; see `Forecaster.forecast_arrays`."""
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
        """What the encoder reads: names of the learned tokens in front, and how many patches follow."""
        return ["[NEURON]", "[STIM]"], self.autoencoder.config.patches

    @staticmethod
    def evidence(logits):
        """What speaks for the answer: the logits of the likeliest codes, (b, M)."""
        return logits.amax(-1)

    def _drawn(self, given, logits, sd, n_samples, seed):
        """Draws (sample x observation, T_f); `sd` (neuron,) is the noise of each."""
        sd = sd.to(self.device).repeat(len(given) // len(sd))
        together = max(1, CHUNK // len(given))  # of few observations many draws are decoded at once
        out = []
        with torch.no_grad(), torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for first in range(0, n_samples, together):
                k = min(together, n_samples - first)
                for g, p, s in _chunks(given.repeat(k, 1), logits.repeat(k, 1, 1), sd.repeat(k)):
                    drawn = self.module.decode(g, p, "sample").float()
                    out.append((drawn + s[:, None] * torch.randn_like(drawn)).cpu())
        return torch.cat(out).numpy()


def _chunks(*tensors):
    return zip(*(t.split(CHUNK) for t in tensors), strict=True)


def fit_forecaster(
    autoencoder,
    split,
    *,
    tuning=FitConfig.tuning,
    stim_token=FitConfig.stim_token,
    expectation_weight=FitConfig.expectation_weight,
    hide=FitConfig.hide,
    dropout=FitConfig.dropout,
    decode=FitConfig.decode,
    seed=LoopConfig.seed,
    **options,
):
    """Fit the response forecaster (paper 3.4.2, eq. 4).

    Parameters
    ----------
    autoencoder : Autoencoder
    split : Split
    tuning : {"fine", "prompt"}
        Encoder, tokens and head learn, or tokens and head alone; codebook and decoder are always frozen.
    stim_token : {"auto", "condition", "category", "features"}, optional
        What has a stimulus token; the auto-encoder's where left out. "auto": each condition where conditions are repeated in training, else
        the stimulus category. "condition" is the paper, "features" near the released code; see `estimators.stimulus_tokens.StimulusTokens`.
    expectation_weight : float
        Weight of the soft decoding's squared error beside eq. 4; 0 is the paper.
    hide : float
        In training steps each observation has a random share of its baseline's patches, up to this one, taken by [MASK], so that the
        tuning to conditions is learnt rather than the noise of a few traces; 0 is the paper.
    dropout : float, optional
        Of the encoder; the auto-encoder's where left out.
    decode : {"auto", "soft", "argmax", "sample"}
        How codes become a forecast; "auto" chooses on the validation part, "argmax" is the paper.
    seed : int
    **options
        epochs (100), steps, batch_size (512 observations), batch_trials, lr (1e-3), schedule, clip, patience, weight_decay, bf16: see
        `LoopConfig`; checkpoint, resume, progress, checkpoint_s: see `training.loop`; memory_mb: see `training.traces`. token_speed: how many
        times as fast as the rest the neurons' tokens learn; 1 is the paper, 10 makes of them more than their random start.

    Returns
    -------
    QuantFormerForecaster
        Its decoding and temperature chosen on the validation part; with `reference`, what its validation score is worth.

    Raises
    ------
    QfError
        If an option is unknown or out of range, no observation is left, the loss or the validation score is no number any more, or the
        device's memory is full.

    Examples
    --------
    >>> forecaster = fit_forecaster(autoencoder, split, epochs=2, progress=False)
    >>> forecaster.predict(split.test)["forecast"].dims
    ('trial', 'neuron', 'time')
    """
    own = {"expectation_weight": expectation_weight, "hide": hide, "dropout": dropout, "decode": decode}
    return fit(QuantFormerForecaster, autoencoder, split, own, tuning=tuning, stim_token=stim_token, seed=seed, **options)
