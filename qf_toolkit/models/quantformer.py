"""QuantFormer: a vector-quantised masked auto-encoder, an activation classifier and a response forecaster.

Source: the QuantFormer paper, sections 3.2 to 3.4, equations 1 to 4. Shapes: B observations (trial x neuron), T frames, P patches of
L frames, D model width, K codes, S tokens.

Deviations from the paper, each an option (`QuantFormerConfig` where no other call is named); the defaults are ours:
- `mean_weight`: the weights 1 + a beta of eq. 2 are divided by their mean over the batch, so that lr means the same at every beta; False is
  the paper;
- `beta_most`: beta is at most 100, else a recording with hardly an active observation would be learnt from those alone; 1e9 is the paper;
- `redraw_masks`: a mask that hides nothing is drawn again, else eq. 2 has no masked term; False is the paper's Bernoulli;
- `decode` of `fit_forecaster`: "auto", the way of decoding of least validation error; "argmax" is the paper, and throws the distribution away;
- `stim_token`: "auto", a token for each condition where conditions repeat, else one for their category; "condition" is the paper, "features"
  near the released code, see `FeatureTokens`.
Those of the training stand at the head of `estimators.quantformer.options`.

Choices where the paper is silent:
- padding: zeros before the baseline and after the response, so that the onset falls on the edge of a patch; padding enters no loss;
- the patches of a forecast's input are coded from the baseline alone, the response being [MASK]ed;
- post-norm LayerNorm, GELU, d_ff = 4 d (`norm`), and the quantiser's constants (`quantizer_beta`, `affine_lr`, `sync`, `replace_every`,
  `replace_below`): the released code's. Its attention scores added from layer to layer are `residual_attention`, off as in the paper.

Additions, off by default: `expectation_weight` adds the squared error of the soft decoding to eq. 4; with `gain_weight` the classifier also
learns which of some levels the response's gain passes, the label being one of them; `hide` and `dropout` [MASK] and drop at random in training.
"""

import math
from dataclasses import replace

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
    """Bernoulli masks (n, P) made such that each hides a patch, as if those that hide none were drawn again until they do.

    Of masks that hide a patch, the first one hidden has the geometric distribution, cut off at P; the patches after it are as they were.
    """
    n, patches = mask.shape
    shown = math.log1p(-ratio)  # log of the probability that a patch is shown
    passed = torch.log1p(math.expm1(patches * shown) * torch.rand(n, 1, device=mask.device)) / shown  # inverse of the distribution function
    first, place = passed.long().clamp(max=patches - 1), torch.arange(patches, device=mask.device)
    return (place == first) | (mask & (place > first))


class Encoder(nn.Module):
    """Patches -> tokens -> transformer, with room for learned tokens in front."""

    def __init__(self, config: QuantFormerConfig):
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.patch_frames, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.patches, config.width))
        self.mask_token = nn.Parameter(0.02 * torch.randn(config.width))
        self.stack = _stack(config)

    def forward(self, patches, mask=None, prompts=None, need_maps=False):
        """Encode.

        Parameters
        ----------
        patches : tensor, shape (B, P', L)
            All P patches, or those of the baseline alone.
        mask : bool tensor, shape (B, P'), optional
            Places taken by [MASK] (eq. 3).
        prompts : tensor, shape (B, S', D), optional
            Learned tokens in front.
        need_maps : bool

        Returns
        -------
        tensor, shape (B, S' + P', D); with `need_maps` also the maps (B, layers, H, S, S)
        """
        tokens = self.project(patches)
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + self.position[: tokens.shape[1]]
        if prompts is not None:
            tokens = torch.cat([prompts.to(tokens.dtype), tokens], 1)
        return self.stack(tokens, need_maps)


class QuantFormer(nn.Module):
    """The vector-quantised masked auto-encoder (paper 3.3)."""

    def __init__(self, config: QuantFormerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(
            codes=config.codes, width=config.width, beta=config.quantizer_beta, affine_lr=config.affine_lr,
            sync=config.sync, replace_every=config.replace_every, replace_below=config.replace_below,
        )  # fmt: skip
        self.decoder_position = nn.Parameter(0.02 * torch.randn(config.patches, config.width))
        self.decoder = _stack(config)
        self.to_patch = nn.Linear(config.width, config.patch_frames)

    def patchify(self, x):
        """(B, T) -> (B, P, L): whole windows, or baselines alone."""
        c = self.config
        x = F.pad(x, (c.baseline_patches * c.patch_frames - c.n_baseline, 0))
        return F.pad(x, (0, -x.shape[1] % c.patch_frames)).unflatten(1, (-1, c.patch_frames))

    def unpatchify(self, patches):
        """(B, P, L) -> (B, T), padding removed."""
        c = self.config
        start = c.baseline_patches * c.patch_frames - c.n_baseline
        return patches.flatten(1)[:, start : start + c.n_baseline + c.n_response]

    def draw_mask(self, n, device):
        """Bernoulli masks (n, P) of eq. 3; under `redraw_masks` each hides at least one patch."""
        shape, ratio = (n, self.config.patches), self.config.mask_ratio
        mask = torch.rand(shape, device=device) < ratio
        if self.config.redraw_masks and not may_ask(device):
            return _with_a_first(mask, ratio)
        while self.config.redraw_masks and (empty := ~mask.any(1)).any():
            mask[empty] = torch.rand((int(empty.sum()), shape[1]), device=device) < ratio
        return mask

    def codes(self, x):
        """Codes (B, P) of whole windows (B, T), unmasked."""
        return self.quantizer.nearest(self.encoder(self.patchify(x)))

    def baseline_codes(self, x):
        """Codes (B, P_b) of baselines (B, T_b), the response hidden."""
        c = self.config
        patches = F.pad(self.patchify(x[:, : c.n_baseline]), (0, 0, 0, c.response_patches))
        mask = (torch.arange(c.patches, device=x.device) >= c.baseline_patches).expand(len(x), -1)
        return self.quantizer.nearest(self.encoder(patches, mask)[:, : c.baseline_patches])

    def decode_vectors(self, vectors):
        """Code vectors (B, P, D), exact or expected ones, -> windows (B, T)."""
        return self.unpatchify(self.to_patch(self.decoder(vectors + self.decoder_position)))

    def decode(self, codes):
        """Codes (B, P) -> windows (B, T); `decode(codes(x)) == forward(x)[0]` bit for bit in eval."""
        return self.decode_vectors(self.quantizer.vectors[codes])

    def forward(self, x, mask=None):
        """Reconstruct: windows (B, T) -> (reconstruction (B, T), codes (B, P), quantiser loss)."""
        vectors, codes, loss = self.quantizer(self.encoder(self.patchify(x), mask))
        return self.decode_vectors(vectors), codes, loss

    def loss(self, batch: Batch, active, beta):
        """Equation 2 plus the quantiser's losses.

        Parameters
        ----------
        batch : Batch
        active : float tensor, shape (B N,)
        beta : float
            inactive / active of the training part; 0 under balance="sample".

        Returns
        -------
        tensor, scalar
        """
        x, valid, _, _ = batch.folded()
        mask = self.draw_mask(len(x), x.device)
        out, _, quantizer_loss = self(x, mask)
        return self.reconstruction_loss(out, x, valid, mask, active, beta) + quantizer_loss

    def reconstruction_loss(self, out, x, valid, mask, active, beta):
        """Equation 2 of any reconstruction `out` (B, T) of the windows `x` (B, T), under a mask (B, P)."""
        hidden = self.unpatchify(mask[..., None].expand(-1, -1, self.config.patch_frames)) & valid
        shown = valid & ~hidden
        error = (out.float() - x).square()
        weight = 1 + beta * active
        if self.config.mean_weight:
            weight = weight / weight.mean()
        masked = (error * hidden).sum(1) / hidden.sum(1).clamp(min=1)
        unmasked = (error * shown).sum(1) / shown.sum(1).clamp(min=1)
        return (weight * (self.config.alpha * masked + unmasked)).mean()


GAIN_LEVELS = (-0.5, 0.0, 0.5, 2.0, 4.0, 8.0)  # times the label's own, beside which they stand


def _encoder_of(autoencoder, dropout):
    """A copy of the pre-trained encoder, with a dropout of its own."""
    config = autoencoder.config
    encoder = Encoder(config if dropout is None else replace(config, dropout=dropout))
    encoder.load_state_dict(autoencoder.encoder.state_dict())
    return encoder


class ActivationClassifier(nn.Module):
    """[CLS] [NEURON]_n [STIM]_s and the baseline's patches -> active or not (paper 3.4.1). Never sees the response.

    Parameters
    ----------
    autoencoder : QuantFormer
    n_neurons : int
    n_stimuli : int or (int, int)
        Number of stimulus tokens, or the numbers of categories and features of `FeatureTokens`.
    dropout : float, optional
        Of the encoder; the auto-encoder's where left out.
    """

    def __init__(self, autoencoder, n_neurons, n_stimuli, dropout=None):
        super().__init__()
        config = autoencoder.config
        self.config, self.encoder = config, _encoder_of(autoencoder, dropout)
        self.cls = nn.Parameter(0.02 * torch.randn(config.width))
        self.neurons, self.stimuli = Tokens(n_neurons, config.width), stimulus_tokens(n_stimuli, config.width)
        self.head, self.levels = nn.Linear(config.width, 2), nn.Linear(config.width, len(GAIN_LEVELS))
        self.patchify = autoencoder.patchify

    def forward(self, x, neuron, stimulus, need_maps=False):
        """(B, T_b), (B,), (B,) -> logits (B, 2); with `need_maps` also the maps."""
        h = self.summary(x, neuron, stimulus, need_maps=need_maps)
        return (self.head(h[0]), h[1]) if need_maps else self.head(h)

    def summary(self, x, neuron, stimulus, hidden=None, need_maps=False):
        """What the encoder makes of [CLS], (B, D); `hidden` (B, P_b) bool names the patches taken by [MASK]."""
        cls = self.cls.expand(len(x), 1, -1)
        prompts = torch.cat([cls, self.neurons(neuron), self.stimuli(stimulus)], 1)
        h = self.encoder(self.patchify(x[:, : self.config.n_baseline]), hidden, prompts, need_maps)
        return (h[0][:, 0], h[1]) if need_maps else h[:, 0]


class ResponseForecaster(nn.Module):
    """[NEURON]_n [STIM]_s, the baseline's patches and M [MASK]s -> distributions over codes -> the frozen decoder (paper 3.4.2).

    Parameters as those of `ActivationClassifier`.
    """

    def __init__(self, autoencoder, n_neurons, n_stimuli, dropout=None):
        super().__init__()
        config = autoencoder.config
        self.config, self.autoencoder = config, autoencoder.requires_grad_(False)
        self.encoder = _encoder_of(autoencoder, dropout)
        self.neurons, self.stimuli = Tokens(n_neurons, config.width), stimulus_tokens(n_stimuli, config.width)
        self.head = nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, config.codes))

    def train(self, mode=True):
        """The auto-encoder stays in eval: its codebook and decoder are frozen."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, x, neuron, stimulus, hidden=None, need_maps=False):
        """(B, T_b), (B,), (B,) -> logits (B, M, K) of the response's codes; with `need_maps` also the maps.

        `hidden` (B, P_b) bool names the patches of the baseline taken by [MASK].
        """
        c = self.config
        patches = F.pad(self.autoencoder.patchify(x[:, : c.n_baseline]), (0, 0, 0, c.response_patches))
        mask = (torch.arange(c.patches, device=x.device) >= c.baseline_patches).expand(len(x), -1)
        if hidden is not None:
            mask = mask | F.pad(hidden, (0, c.response_patches))
        prompts = torch.cat([self.neurons(neuron), self.stimuli(stimulus)], 1)
        h = self.encoder(patches, mask, prompts, need_maps)
        h, maps = h if need_maps else (h, None)
        logits = self.head(h[:, -c.response_patches :])
        return (logits, maps) if need_maps else logits

    def decode(self, baseline_codes, logits, how="argmax", temperature=1.0, uniforms=None):
        """Forecasts from a distribution over codes.

        Parameters
        ----------
        baseline_codes : long tensor, shape (B, P_b)
        logits : tensor, shape (B, M, K)
        how : {"argmax", "soft", "sample"}
            The likeliest codes (paper), the expected code vector of each place, or one draw of each place.
        temperature : float
        uniforms : tensor, broadcast to (B, M), optional
            In [0, 1): what is drawn under "sample"; the same ones for all make a draw independent of what else is in the batch.

        Returns
        -------
        tensor, shape (B, T_f)
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
