"""QuantFormer: a vector-quantised masked auto-encoder, an activation classifier and a response forecaster.

Source: the QuantFormer paper, sections 3.2 to 3.4, equations 1 to 4. Shapes: B observations (trial x neuron), T frames (T_b of the baseline, T_f of the
response), P patches of L frames (P_b of the baseline, M of the response), D model width, K codes, S tokens, H heads. Signals are float32, divided by each
neuron's divisor.

Deviations from the paper. Each is an option of `QuantFormerConfig`, unless another call is named; the defaults are ours:
- `mean_weight` divides the weights 1 + a beta of eq. 2 by their mean over the batch, so that lr means the same at every beta. The paper does not: False.
- `beta_most` caps beta at 100. Without a cap, a model of a recording with hardly any active observation would learn only from those. The paper has no
  cap: 1e9.
- `redraw_masks` draws a mask again if it hides nothing, because eq. 2 would have no masked term. The paper's plain Bernoulli masks: False.
- `decode` of `fit_forecaster` is "auto", the decoding of least validation error. The paper's "argmax" throws the distribution away.
- `stim_token` is "auto": each condition has a token if conditions repeat, else their category has one. "condition" is the paper, "features" is near the
  released code; see `FeatureTokens`.
The head of `estimators.quantformer.options` lists the deviations of the training.

Choices where the paper is silent:
- Padding: zeros before the baseline and after the response, so that the onset falls on the edge of a patch. Padding enters no loss.
- The input codes of a forecast come from the baseline only, with the response replaced by [MASK].
- Post-norm LayerNorm, GELU and d_ff = 4 d (`norm`) and the quantiser's constants (`quantizer_beta`, `affine_lr`, `sync`, `replace_every`,
  `replace_below`) are the released code's. The released code also adds attention scores from layer to layer; `residual_attention` does so and is off, as
  in the paper.

The ablations of Table 3: `quantise=False` makes a plain auto-encoder, whose decoder reads the encoder's outputs, and whose loss is eq. 2 alone. Its
forecaster is a `ResponseRegressor`. `neuron_token=False` leaves [NEURON] out of the sequence.

Additions, off by default: `expectation_weight` adds the squared error of the soft decoding to eq. 4. With `gain_weight` the classifier also learns which
of several levels the response's gain passes, beside the label's. In training, `hide` replaces random patches by [MASK], and `dropout` drops at random.
"""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import QfError
from .batch import Batch
from .config import DECODINGS, QuantFormerConfig
from .host import may_ask
from .quantizer import Quantizer
from .tokens import Tokens, stimulus_tokens
from .transformer import Transformer


def _stack(config):
    """The transformer of the encoder, or of the decoder."""
    return Transformer(
        width=config.width, heads=config.heads, layers=config.layers, dropout=config.dropout,
        norm=config.norm, residual_attention=config.residual_attention,
    )  # fmt: skip


def _with_a_first(mask, ratio):
    """Change Bernoulli masks, bool (n, P), so that each hides a patch, with the distribution of masks that are drawn again until they do.

    In such masks the position of the first hidden patch has the geometric distribution, cut off at P. The patches after it keep their draws.
    """
    n, patches = mask.shape
    shown = math.log1p(-ratio)  # log of the probability that a patch is shown
    passed = torch.log1p(math.expm1(patches * shown) * torch.rand(n, 1, device=mask.device)) / shown  # inverse of the distribution function
    first, place = passed.long().clamp(max=patches - 1), torch.arange(patches, device=mask.device)
    return (place == first) | (mask & (place > first))


class Encoder(nn.Module):
    """Turns patches into tokens and runs the transformer on them; learned tokens may stand in front."""

    def __init__(self, config: QuantFormerConfig):
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.patch_frames, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.patches, config.width))
        self.mask_token = nn.Parameter(0.02 * torch.randn(config.width))
        self.stack = _stack(config)

    def forward(self, patches, mask=None, prompts=None, need_maps=False):
        """Encode patches.

        Parameters
        ----------
        patches : float tensor, shape (B, P', L)
            All P patches, or only those of the baseline.
        mask : bool tensor, shape (B, P'), optional
            The patches that [MASK] replaces (eq. 3).
        prompts : float tensor, shape (B, S', D), optional
            Learned tokens that stand in front.
        need_maps : bool
            Whether to return the attention maps, too.

        Returns
        -------
        tokens : float tensor, shape (B, S' + P', D)
        maps : float tensor, shape (B, layers, H, S, S)
            Only with `need_maps`; S = S' + P'.
        """
        tokens = self.project(patches)
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + self.position[: tokens.shape[1]]
        if prompts is not None:
            tokens = torch.cat([prompts.to(tokens.dtype), tokens], 1)
        return self.stack(tokens, need_maps)


class QuantFormer(nn.Module):
    """The vector-quantised masked auto-encoder (paper 3.3).

    Attributes
    ----------
    quantizer : Quantizer or None
        None under `quantise=False`: the decoder then reads the encoder's outputs, there are no codes, and the loss is eq. 2 alone.
    """

    def __init__(self, config: QuantFormerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer: Any = Quantizer(
            codes=config.codes, width=config.width, beta=config.quantizer_beta, affine_lr=config.affine_lr,
            sync=config.sync, replace_every=config.replace_every, replace_below=config.replace_below,
        ) if config.quantise else None  # fmt: skip
        self.decoder_position = nn.Parameter(0.02 * torch.randn(config.patches, config.width))
        self.decoder = _stack(config)
        self.to_patch = nn.Linear(config.width, config.patch_frames)

    def patchify(self, x):
        """Cut windows (B, T) into patches (B, P, L), or baselines (B, T_b) into patches (B, P_b, L), with padding."""
        c = self.config
        x = F.pad(x, (c.baseline_patches * c.patch_frames - c.n_baseline, 0))
        return F.pad(x, (0, -x.shape[1] % c.patch_frames)).unflatten(1, (-1, c.patch_frames))

    def unpatchify(self, patches):
        """Join patches (B, P, L) to windows (B, T), without the padding."""
        c = self.config
        start = c.baseline_patches * c.patch_frames - c.n_baseline
        return patches.flatten(1)[:, start : start + c.n_baseline + c.n_response]

    def draw_mask(self, n, device):
        """Bernoulli masks of eq. 3, bool (n, P); under `redraw_masks` each hides at least one patch."""
        shape, ratio = (n, self.config.patches), self.config.mask_ratio
        mask = torch.rand(shape, device=device) < ratio
        if self.config.redraw_masks and not may_ask(device):
            return _with_a_first(mask, ratio)
        while self.config.redraw_masks and (empty := ~mask.any(1)).any():
            mask[empty] = torch.rand((int(empty.sum()), shape[1]), device=device) < ratio
        return mask

    def codes(self, x):
        """Codes, long (B, P), of whole unmasked windows (B, T)."""
        return self.quantizer.nearest(self.encoder(self.patchify(x)))

    def baseline_codes(self, x):
        """Codes, long (B, P_b), of the baselines of `x` (B, T_b or longer). [MASK] replaces the response, so later frames have no influence."""
        c = self.config
        patches, mask = _responses_masked(c, self.patchify(x[:, : c.n_baseline]))
        return self.quantizer.nearest(self.encoder(patches, mask)[:, : c.baseline_patches])

    def decode_vectors(self, vectors):
        """Decode code vectors (B, P, D), exact or expected ones, to windows (B, T)."""
        return self.unpatchify(self.to_patch(self.decoder(vectors + self.decoder_position)))

    def decode(self, codes):
        """Decode codes (B, P) to windows (B, T). In eval, `decode(codes(x)) == forward(x)[0]` bit for bit."""
        return self.decode_vectors(self.quantizer.vectors[codes])

    def forward(self, x, mask=None):
        """Reconstruct windows.

        Parameters
        ----------
        x : float tensor, shape (B, T)
        mask : bool tensor, shape (B, P), optional
            The patches that [MASK] replaces.

        Returns
        -------
        reconstruction : float tensor, shape (B, T)
        codes : long tensor, shape (B, P), or None
            None without a quantiser.
        loss : float tensor, scalar
            The quantiser's loss; 0 in eval and without a quantiser.
        """
        encoded = self.encoder(self.patchify(x), mask)
        if self.quantizer is None:
            return self.decode_vectors(encoded), None, encoded.new_zeros(())
        vectors, codes, loss = self.quantizer(encoded)
        return self.decode_vectors(vectors), codes, loss

    def loss(self, batch: Batch, active, beta):
        """Equation 2 plus the quantiser's loss.

        Parameters
        ----------
        batch : Batch
        active : float tensor, shape (B N,)
            The label, 1 or 0.
        beta : float
            The number of inactive observations over that of active ones in the training part; 0 under balance="sample".

        Returns
        -------
        float tensor, scalar
        """
        x, valid, _, _ = batch.folded()
        mask = self.draw_mask(len(x), x.device)
        out, _, quantizer_loss = self(x, mask)
        return self.reconstruction_loss(out, x, valid, mask, active, beta) + quantizer_loss

    def reconstruction_loss(self, out, x, valid, mask, active, beta):
        """Equation 2, a scalar tensor, of any reconstruction `out` (B, T) of the windows `x` (B, T); `valid` is bool (B, T), `mask` bool (B, P)."""
        hidden = self.unpatchify(mask[..., None].expand(-1, -1, self.config.patch_frames)) & valid
        shown = valid & ~hidden
        error = (out.float() - x).square()
        weight = 1 + beta * active
        if self.config.mean_weight:
            weight = weight / weight.mean()
        masked = (error * hidden).sum(1) / hidden.sum(1).clamp(min=1)
        unmasked = (error * shown).sum(1) / shown.sum(1).clamp(min=1)
        return (weight * (self.config.alpha * masked + unmasked)).mean()


def _responses_masked(config, patches, hidden=None):
    """Patches of baselines (B, P_b, L) with M empty ones behind them, (B, P, L), and which of all [MASK] replaces: bool (B, P), those of the response,
    and the baseline's of `hidden`, bool (B, P_b)."""
    mask = (torch.arange(config.patches, device=patches.device) >= config.baseline_patches).expand(len(patches), -1)
    if hidden is not None:
        mask = mask | F.pad(hidden, (0, config.response_patches))
    return F.pad(patches, (0, 0, 0, config.response_patches)), mask


GAIN_LEVELS = (-0.5, 0.0, 0.5, 2.0, 4.0, 8.0)  # levels of the gain besides the label's, as multiples of it


def _encoder_of(autoencoder, dropout):
    """A copy of the pre-trained encoder, with this dropout, or the auto-encoder's if None."""
    config = autoencoder.config
    encoder = Encoder(config if dropout is None else replace(config, dropout=dropout))
    encoder.load_state_dict(autoencoder.encoder.state_dict())
    return encoder


def _tokens(config, n_neurons, n_stimuli, neuron_token):
    """The token tables of the neurons, None without their token, and of the stimuli."""
    return Tokens(n_neurons, config.width) if neuron_token else None, stimulus_tokens(n_stimuli, config.width)


def _prompts(module, neuron, stimulus, *first):
    """The learned tokens in front of the patches, (B, S', D): `first`, [NEURON] where the module has it, [STIM]."""
    return torch.cat([*first, *([] if module.neurons is None else [module.neurons(neuron)]), module.stimuli(stimulus)], 1)


class ActivationClassifier(nn.Module):
    """Classifies an observation as active or not, from [CLS] [NEURON]_n [STIM]_s and the baseline's patches (paper 3.4.1). It never sees the response.

    Parameters
    ----------
    autoencoder : QuantFormer
        The pre-trained model, whose encoder is copied.
    n_neurons : int
        Number of neuron tokens.
    n_stimuli : int or (int, int)
        Number of stimulus tokens, or the numbers of categories and features of `FeatureTokens`.
    dropout : float, optional
        Dropout of the encoder in training; None takes the auto-encoder's.
    neuron_token : bool
        Whether [NEURON] stands in the sequence.
    """

    def __init__(self, autoencoder, n_neurons, n_stimuli, dropout=None, neuron_token=True):
        super().__init__()
        config = autoencoder.config
        self.config, self.encoder = config, _encoder_of(autoencoder, dropout)
        self.cls = nn.Parameter(0.02 * torch.randn(config.width))
        self.neurons, self.stimuli = _tokens(config, n_neurons, n_stimuli, neuron_token)
        self.head, self.levels = nn.Linear(config.width, 2), nn.Linear(config.width, len(GAIN_LEVELS))
        self.patchify = autoencoder.patchify

    def forward(self, x, neuron, stimulus, need_maps=False):
        """Map baselines (B, T_b) and positions of tokens, both long (B,), to logits (B, 2) of inactive and active; with `need_maps` also to the maps."""
        h = self.summary(x, neuron, stimulus, need_maps=need_maps)
        return (self.head(h[0]), h[1]) if need_maps else self.head(h)

    def summary(self, x, neuron, stimulus, hidden=None, need_maps=False):
        """The encoder's output for [CLS], (B, D); with `need_maps` also the maps. [MASK] replaces the patches of `hidden`, bool (B, P_b)."""
        prompts = _prompts(self, neuron, stimulus, self.cls.expand(len(x), 1, -1))
        h = self.encoder(self.patchify(x[:, : self.config.n_baseline]), hidden, prompts, need_maps)
        return (h[0][:, 0], h[1]) if need_maps else h[:, 0]


class _Forecaster(nn.Module):
    """The encoder of a forecaster: it reads [NEURON]_n [STIM]_s, the baseline's patches and M times [MASK], and a head reads its M last outputs.

    Parameters are those of `ActivationClassifier`, and `n_out`, the numbers that the head gives for each patch of the response.
    """

    def __init__(self, autoencoder, n_neurons, n_stimuli, dropout, neuron_token, n_out):
        super().__init__()
        config = autoencoder.config
        self.config, self.autoencoder = config, autoencoder.requires_grad_(False)
        self.encoder = _encoder_of(autoencoder, dropout)
        self.neurons, self.stimuli = _tokens(config, n_neurons, n_stimuli, neuron_token)
        self.head = nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, n_out))

    def train(self, mode=True):
        """As `nn.Module.train`, but the auto-encoder stays in eval, because its codebook and decoder are frozen."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, x, neuron, stimulus, hidden=None, need_maps=False):
        """Map baselines (B, T_b) and positions of tokens, both long (B,), to the head's output (B, M, n_out); with `need_maps` also to the maps.

        [MASK] replaces the baseline's patches of `hidden`, bool (B, P_b).
        """
        c = self.config
        patches, mask = _responses_masked(c, self.autoencoder.patchify(x[:, : c.n_baseline]), hidden)
        h = self.encoder(patches, mask, _prompts(self, neuron, stimulus), need_maps)
        h, maps = h if need_maps else (h, None)
        out = self.head(h[:, -c.response_patches :])
        return (out, maps) if need_maps else out


class ResponseForecaster(_Forecaster):
    """Forecasts distributions over the response's codes, as logits (B, M, K), which the frozen decoder turns into frames (paper 3.4.2).

    Parameters are those of `ActivationClassifier`.
    """

    def __init__(self, autoencoder, n_neurons, n_stimuli, dropout=None, neuron_token=True):
        super().__init__(autoencoder, n_neurons, n_stimuli, dropout, neuron_token, autoencoder.config.codes)

    def decode(self, baseline_codes, logits, how="argmax", temperature=1.0, uniforms=None):
        """Decode distributions over codes to forecasts.

        Parameters
        ----------
        baseline_codes : long tensor, shape (B, P_b)
        logits : float tensor, shape (B, M, K)
        how : {"argmax", "soft", "sample"}
            Decode the likeliest codes (paper), the expected code vector of each patch, or a code drawn for each patch.
        temperature : float
            Divides the logits.
        uniforms : float tensor, broadcast to (B, M), optional
            Numbers in [0, 1) that decide the draws under "sample". If all observations share them, a draw does not depend on the rest of the batch.
            If None, they are drawn at random.

        Returns
        -------
        float tensor, shape (B, T_f)
            Divided by each neuron's divisor, like the input.

        Raises
        ------
        QfError
            If `how` is unknown.
        """
        if how not in DECODINGS:
            raise QfError(f"decode: expected one of {DECODINGS}, found {how!r}.")
        vectors = self.autoencoder.quantizer.vectors
        logits = logits.float() / temperature
        if how == "argmax":
            response = vectors[logits.argmax(-1)]
        elif how == "soft":
            response = logits.softmax(-1) @ vectors
        else:
            uniforms = torch.rand(logits.shape[:2], device=logits.device) if uniforms is None else uniforms.expand(logits.shape[:2])
            passed = logits.softmax(-1).cumsum(-1) < uniforms[..., None]
            response = vectors[passed.sum(-1).clamp(max=len(vectors) - 1)]
        whole = self.autoencoder.decode_vectors(torch.cat([vectors[baseline_codes], response], 1))
        return whole[:, self.config.n_baseline :]


class ResponseRegressor(_Forecaster):
    """Forecasts the response's patches themselves, (B, M, L): a regression head in place of codes and decoder (paper Table 3, without quantisation).

    Parameters are those of `ActivationClassifier`. The auto-encoder gives its encoder; its decoder is not used.
    """

    def __init__(self, autoencoder, n_neurons, n_stimuli, dropout=None, neuron_token=True):
        super().__init__(autoencoder, n_neurons, n_stimuli, dropout, neuron_token, autoencoder.config.patch_frames)

    def decode(self, patches):
        """Join patches (B, M, L) to forecasts (B, T_f), without the padding behind the response."""
        return patches.flatten(1)[:, : self.config.n_response]
