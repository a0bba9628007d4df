"""BrainLM-style: a masked auto-encoder whose tokens are patches of all neurons' traces; the response is forecast as patches that are hidden.

Source: Ortega Caro et al. 2023, "BrainLM: A foundation model for brain activity recordings", and its released code. A token is a linear map of a patch,
plus a vector of its place in the brain, plus a sinusoid of the patch's position in time. The encoder reads the tokens that are not hidden and a class
token. The decoder reads its output, with a learned token in place of each hidden one and with the places and sinusoids again; two linear maps with a leaky
ReLU between them give each token's frames. The loss is the squared error of the hidden patches. Hiding the last patches makes it a forecaster.

Deviations:
- A learned vector for each neuron stands for the linear map of the parcel's coordinates: neurons of several animals have no common coordinates. With
  `token_width=0` there is none, as the model is then told neither neuron nor condition.
- Attention is exact. The released layers are Nystrom's, in a setting (as many landmarks as segments) in which they are exact, too.
- Their convolution over 65 neighbouring tokens is left out: the order of neurons means nothing.
- A neuron whose context has a gap is attended to by no other; a training step may show a part of the neurons (`most_neurons`).
- Encoder and decoder have one width and one number of heads, as in the released model.
- As a classifier it hides one patch of the response, whose first number is the logit. The paper reads the class token of the whole recording instead.
- Zeros fill the first patch of the context and the last one of the response; they enter no loss.
Sizes: the released model's, but 64 numbers a token instead of 256, so that a CPU bears it. Attention grows with the square of neurons x patches.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import QfError
from ..batch import Batch, Sizes
from ..options import Options, check_heads, option
from ..transformer import Transformer


@dataclass(frozen=True)
class BrainLMConfig(Options):
    """Options of BrainLM."""

    patch_frames: int = option(20, "whole", least=1, most=9999, help="frames of a patch")
    width: int = option(64, "whole", least=2, most=4096, help="of a patch's token")
    layers: int = option(4, "whole", least=1, most=32, help="of the encoder")
    decoder_layers: int = option(2, "whole", least=1, most=32, help="of the decoder")
    heads: int = option(4, "whole", least=1, most=4096, help="of attention in encoder and decoder")
    dropout: float = option(0.0, least=0, below=1, help="in training")
    mask_ratio: float = option(0.2, above=0, below=1, help="share of the patches that pre-training hides")

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.width, self.heads)
        if self.width % 2:
            raise QfError(f"width: expected an even number, found {self.width}.")


class BrainLM(nn.Module):
    """A masked auto-encoder of the traces of all neurons of a trial.

    Parameters
    ----------
    config : BrainLMConfig
    sizes : Sizes
    """

    name = "BrainLM"
    Config = BrainLMConfig
    population = True
    by_neuron = ("neurons.weight", "decoder_neurons.weight")  # tables with a row for each neuron

    def __init__(self, config: BrainLMConfig, sizes: Sizes):
        super().__init__()
        D, self.patch, self.mask_ratio = config.width, config.patch_frames, config.mask_ratio
        self.n_context, self.n_out = sizes.n_context, sizes.n_out
        self.before, self.after = (-(-n // self.patch) for n in (sizes.n_context, sizes.n_out))
        self.project = nn.Linear(self.patch, D)
        if sizes.n_neurons:
            self.neurons, self.decoder_neurons = (nn.Embedding(sizes.n_neurons, D) for _ in range(2))
        else:
            self.neurons = self.decoder_neurons = None
        self.class_token, self.mask_token = (nn.Parameter(0.02 * torch.randn(D)) for _ in range(2))
        self.register_buffer("places", _sinusoid(self.before + self.after, D), persistent=False)
        stack = {"width": D, "heads": config.heads, "dropout": config.dropout}
        self.encoder, self.norm = Transformer(layers=config.layers, **stack), nn.LayerNorm(D)
        self.cross = nn.Linear(D, D)
        self.decoder, self.decoder_norm = Transformer(layers=config.decoder_layers, **stack), nn.LayerNorm(D)
        self.head = nn.Sequential(nn.Linear(D, D // 2), nn.LeakyReLU(0.1), nn.Linear(D // 2, self.patch))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        B, N, _ = batch.x.shape
        patches = F.pad(batch.x, (self.before * self.patch - self.n_context, 0)).unflatten(-1, (self.before, self.patch))
        whole = batch.whole()[..., None]
        tokens = self.project(patches) + self._where(self.neurons, batch, self.before)
        first, seen = self._encode(tokens.flatten(1, 2), whole.expand(B, N, self.before).flatten(1))
        hidden = self.mask_token.to(seen.dtype).expand(B, N, self.after, -1)
        out = self._decode(first, torch.cat([seen.unflatten(1, (N, self.before)), hidden], 2), whole, batch)
        return out[:, :, self.before :].flatten(2)[..., : self.n_out]

    def masked_loss(self, batch: Batch) -> torch.Tensor:
        """The squared error of patches that are hidden at random, over neurons whose window is whole.

        Parameters
        ----------
        batch : Batch
            Of whole windows, x (B, N, n_context + n_out).

        Returns
        -------
        float tensor, scalar
        """
        ends = self.before * self.patch - self.n_context, self.after * self.patch - self.n_out
        patches, measured = (F.pad(v, ends).unflatten(-1, (-1, self.patch)) for v in (batch.x, batch.valid))
        B, N, P, _ = patches.shape
        whole = batch.whole()[..., None].expand(B, N, P)
        tokens = (self.project(patches) + self._where(self.neurons, batch, P)).flatten(1, 2)
        n_seen = max(1, min(int(N * P * (1 - self.mask_ratio)), N * P - 1))
        at = torch.rand(B, N * P, device=tokens.device).argsort(1)[:, :n_seen]
        wide = at[..., None].expand(-1, -1, tokens.shape[-1])
        first, seen = self._encode(tokens.gather(1, wide), whole.flatten(1).gather(1, at))
        every = self.mask_token.to(seen.dtype).expand_as(tokens).scatter(1, wide, seen)
        out = self._decode(first, every.unflatten(1, (N, P)), whole[..., :1], batch).float()
        hidden = torch.ones(B, N * P, dtype=torch.bool, device=at.device).scatter(1, at, False).unflatten(1, (N, P)) & whole
        counted = hidden[..., None] & measured
        return torch.where(counted, (out - patches).square(), 0.0).sum() / counted.sum().clamp(min=1)

    def _where(self, table, batch, n):
        """What tells the first `n` tokens of each neuron whose they are and when: (B, N, n, D), or (n, D) without a table."""
        when = self.places[:n]
        return when if table is None else table(batch.neuron)[:, :, None] + when

    def _encode(self, tokens, keys):
        """The class token (B, 1, D) and tokens (B, S, D), as the decoder takes them; `keys` (B, S) says which tokens may be attended to."""
        first = self.class_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        found = self.encoder(torch.cat([first, tokens], 1), keys=F.pad(keys, (1, 0), value=True))
        return self.cross(self.norm(found)).split([1, tokens.shape[1]], 1)

    def _decode(self, first, tokens, whole, batch):
        """Frames (B, N, P, L) of the class token and tokens (B, N, P, D); `whole` (B, N, 1) says which neurons may be attended to."""
        B, N, P, _ = tokens.shape
        tokens = (tokens + self._where(self.decoder_neurons, batch, P)).flatten(1, 2)
        keys = F.pad(whole.expand(B, N, P).flatten(1), (1, 0), value=True)
        found = self.decoder(torch.cat([first, tokens], 1), keys=keys)[:, 1:]
        return self.head(self.decoder_norm(found)).unflatten(1, (N, P))


def _sinusoid(n, width):
    """Sines and cosines of the positions 0 to n - 1, float32 (n, width), as in Vaswani et al. 2017, section 3.5."""
    angle = torch.arange(n)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
