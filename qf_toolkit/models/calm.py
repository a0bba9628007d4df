"""CalM: a neural quantiser turns each neuron's trace into codes, and a dual-axis transformer forecasts the codes of a whole population.

Sources: "CalM" (arXiv 2604.04958), its summary and its released code; `calm_config` has the sizes. Shapes: B trials, N neurons, T frames, P tokens of L = 4
frames, D width, K codes, H heads. Signals are float32, divided by each neuron's divisor. Everything is causal: nothing depends on a later frame.

Choices where the sources are silent or contradict themselves:
- Codes follow the mean of their latents by their size-weighted exponential average, in the form C += rate (mean - C), so that the gradients of the codebook
  loss, of orthogonality and of usage, which a copied average would overwrite, act on the codes, too.
- The average takes the nearest code of each latent, not the drawn one: at high temperatures drawn codes are the same everywhere, and would all become one.
- The entropy of usage is that of the batch's mean assignment, which is largest when all codes are used alike.
- Products of codes with each other are pushed towards the identity by their mean absolute difference times K^2, as a sum would.
- Replaced tokens become one of the codes nearest by cosine of the code vectors.
- Left out: the code's auxiliary losses of token transitions (bigrams, token prediction, contrast, stickiness), whose worth is not published.

The condition, which the authors' model is never told, can be told: from the last token of the context on, each token gets a learned map of neuron, condition
and their product, one map for each token of the response. In training it is withheld from some trials (`untold`), so that one model answers with and without.

`PatchTokens` are the tokens of a model without codes: whole patches of the trace, forecast by their squared error.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .batch import Batch
from .calm_config import PATCH_FRAMES, DualAxisConfig, QuantizerConfig
from .rotary import CausalBlock, Past, SelfAttention
from .tokens import Tokens, stimulus_tokens


class NeuralQuantizer(nn.Module):
    """Codes and decodes the traces of single neurons.

    Parameters
    ----------
    config : QuantizerConfig

    Attributes
    ----------
    codebook : float32 parameter, shape (K, D)
    uses : float32 tensor, shape (K,)
        Exponential average of how many latents of a batch each code has.
    temperature : float
        Of the random assignment in training.
    quantise : bool
        Whether training steps quantise; the first ones don't.
    """

    uses: torch.Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        K, D = config.codes, config.width
        self.config, self.temperature, self.quantise = config, config.hot, True
        self.stem = nn.Sequential(nn.Conv1d(1, D // 2, 2, 2), nn.GELU(), nn.Conv1d(D // 2, D, 2, 2))
        self.encoder = nn.Sequential(*(CausalBlock(D, config.heads, config.dropout) for _ in range(config.layers)))
        self.codebook = nn.Parameter((2 * torch.rand(K, D) - 1) / K)
        self.decoder = nn.Sequential(*(CausalBlock(D, config.heads, config.dropout) for _ in range(config.layers)))
        self.give = nn.Sequential(nn.ConvTranspose1d(D, D // 2, 2, 2), nn.GELU(), nn.ConvTranspose1d(D // 2, 1, 2, 2))
        self.register_buffer("uses", torch.ones(K))

    def latents(self, x: torch.Tensor) -> torch.Tensor:
        """The encoder's outputs (B, P, D) of traces (B, T), smoothed over time."""
        z = self.encoder(self.stem(x[:, None]).transpose(1, 2))
        age = torch.arange(z.shape[1], device=z.device)
        age = age[:, None] - age
        share = self.config.smooth
        weight = (1 - share * (age < torch.arange(len(age), device=z.device)[:, None])) * share ** age.clamp(min=0) * (age >= 0)
        return weight.to(z.dtype) @ z

    def distances(self, z: torch.Tensor) -> torch.Tensor:
        """Squared distances, float32 (..., K), of latents (..., D) to the code vectors."""
        with torch.autocast(z.device.type, enabled=False):
            z, e = z.float(), self.codebook.float()
            return (z.square().sum(-1, keepdim=True) + e.square().sum(-1) - 2 * z @ e.T).clamp(min=0)

    @torch.no_grad()
    def nearest(self, z: torch.Tensor) -> torch.Tensor:
        """Codes of the nearest vectors, long (...), for z (..., D)."""
        return self.distances(z).argmin(-1)

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Codes, long (B, P), of traces (B, T). Codes of the first frames are the first codes of all frames."""
        return self.nearest(self.latents(x))

    def decode_vectors(self, vectors: torch.Tensor) -> torch.Tensor:
        """Decode code vectors (B, P, D), exact or expected ones, to traces (B, T)."""
        return self.give(self.decoder(vectors).transpose(1, 2))[:, 0]

    def decode_after(self, before: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Decode vectors (n B, Q, D) that come after others, before (B, P, D), in n different ways: traces (n B, T) of the former alone."""
        for block in self.decoder:
            before, past = block.after(before)
            vectors, _ = block.after(vectors, past.repeated(len(vectors) // len(before)))
        return self.give(vectors.transpose(1, 2))[:, 0]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, P) to traces (B, T). In eval, `decode(codes(x)) == forward(x)[0]` bit for bit."""
        return self.decode_vectors(self.codebook[codes])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct traces (B, T): the reconstruction (B, T), and codes, long (B, P). In eval; training takes `loss`."""
        codes = self.codes(x)
        return self.decode(codes), codes

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """The loss of whole traces (B, T), a scalar: see the head of this file, and `QuantizerConfig` for the weights."""
        c, z = self.config, self.latents(x)
        first, second = z.diff(dim=1), z.diff(n=2, dim=1)
        loss = c.change * _mean_square(first) + c.curve * _mean_square(second)
        if not self.quantise:
            return loss + self._error(self.decode_vectors(z), x)
        if c.decay:
            self._follow(z.detach())  # before the graph is built: autograd must not see the codebook change
        logits = -self.distances(z) / c.width**0.5 / self.temperature
        noise = -torch.empty_like(logits).exponential_().log()  # Gumbel's
        e = F.embedding(
            (logits + noise).argmax(-1), self.codebook
        )  # not codebook[...], whose gradient is summed in an order that differs from run to run
        loss = loss + c.codebook * _mean_square(e - z.detach()) + c.commitment * _mean_square(z - e.detach())
        share = logits.softmax(-1).flatten(0, 1).mean(0)
        loss = loss + c.usage * (share * (share + 1e-12).log2()).sum()
        with torch.autocast(z.device.type, enabled=False):
            products = self.codebook @ self.codebook.T - torch.eye(c.codes, device=z.device)
            loss = loss + c.orthogonality * products.abs().sum()
        return loss + self._error(self.decode_vectors(z + (e - z).detach().to(z.dtype)), x)

    def _error(self, out, x):
        """Squared error plus 1 - Pearson, of each trace."""
        a, b = out.float() - out.float().mean(1, keepdim=True), x - x.mean(1, keepdim=True)
        r = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1) + 1e-8).sqrt()
        return _mean_square(out.float() - x) + self.config.pearson * (1 - r).mean()

    @torch.no_grad()
    def _follow(self, z):
        """Move the codes towards the means of the latents (B, P, D) that are nearest to them."""
        one = F.one_hot(self.nearest(z).flatten(), len(self.codebook)).float()
        count, decay = one.sum(0), self.config.decay
        with torch.autocast(z.device.type, enabled=False):
            mean = one.T @ z.flatten(0, 1).float() / count.clamp(min=1)[:, None]
        self.uses.mul_(decay).add_((1 - decay) * count)
        rate = (1 - decay) * count / self.uses.clamp(min=1e-5)
        self.codebook.add_(rate[:, None] * (mean - self.codebook))

    @torch.no_grad()
    def start_at(self, centres: torch.Tensor) -> None:
        """Set all codes to `centres` (K, D), and forget how much they were used."""
        self.codebook.copy_(centres)
        self.uses.fill_(1.0)

    @torch.no_grad()
    def reset_unused(self, latents: torch.Tensor) -> int:
        """Codes that are used less than `reset_below` of the mean become random latents of `latents` (n, D). Returns how many."""
        dead = torch.nonzero(self.uses < self.config.reset_below * self.uses.mean()).flatten()
        if len(dead):
            self.codebook[dead] = latents[torch.randint(len(latents), (len(dead),), device=latents.device)].to(self.codebook)
            self.uses[dead] = self.uses.mean()
        return len(dead)


def _mean_square(x):
    return x.square().mean() if x.numel() else x.sum()


# ---------------------------------------------------------------- tokens of the population


class Answer(NamedTuple):
    """What follows a token: its embedding, by which it is fed back, and its vector, from which frames are decoded; both (B, N, ...)."""

    fed: torch.Tensor
    vector: torch.Tensor


class CodeTokens(nn.Module):
    """Tokens that are codes of a trained quantiser, which stays as it is. Their logits come from the table that embeds them.

    Parameters
    ----------
    quantizer : NeuralQuantizer
    config : DualAxisConfig
    """

    near: torch.Tensor
    probabilistic = True

    def __init__(self, quantizer: NeuralQuantizer, config: DualAxisConfig):
        super().__init__()
        self.quantizer = quantizer.requires_grad_(False)
        self.table = nn.Embedding(len(quantizer.codebook), config.width)
        nn.init.normal_(self.table.weight, std=0.02)
        unit = F.normalize(quantizer.codebook.detach(), dim=1)
        near = (unit @ unit.T).fill_diagonal_(-2.0).topk(min(config.replace_among, len(unit) - 1), 1).indices
        self.register_buffer("near", near)

    def train(self, mode: bool = True):
        """Set the mode, but leave the quantiser in eval."""
        super().train(mode)
        self.quantizer.eval()
        return self

    @torch.no_grad()
    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Codes, long (B, N, P), of traces (B, N, T)."""
        return self.quantizer.codes(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        return self.table(codes)

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        return F.embedding(codes, self.quantizer.codebook)

    def frames(self, vectors: torch.Tensor) -> torch.Tensor:
        """Traces (B, N, T) of vectors (B, N, P, D)."""
        return self.quantizer.decode_vectors(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])

    def frames_after(self, before: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Traces (n B, N, T) of vectors (n B, N, Q, D) that come after the vectors `before` (B, N, P, D)."""
        return self.quantizer.decode_after(before.flatten(0, 1), vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])

    def replaced(self, codes: torch.Tensor, share: float) -> torch.Tensor:
        """The codes, of which a share became one of the codes nearest to them."""
        one = torch.randint(self.near.shape[1], codes.shape, device=codes.device)
        return torch.where(torch.rand(codes.shape, device=codes.device) < share, self.near[codes, one], codes)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """Logits of the next codes (..., K) from states (..., D)."""
        return F.linear(h, self.table.weight).float()

    def loss(self, h: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the codes (B, N, P) that follow the states h (B, N, P, D), float32 (B, N, P)."""
        return F.cross_entropy(self.logits(h).flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)

    def likeliest(self, h: torch.Tensor) -> torch.Tensor:
        return self.logits(h).argmax(-1)

    def answer(self, h: torch.Tensor, how: str, uniforms: torch.Tensor | None = None) -> Answer:
        """The next token after states (B, N, D): the likeliest code, the expectation, or the code that uniforms (B, N) in [0, 1) draw."""
        p = self.logits(h).softmax(-1)
        if how == "soft":
            return Answer(p @ self.table.weight, p @ self.quantizer.codebook)
        codes = p.argmax(-1) if uniforms is None else (p.cumsum(-1) < uniforms[..., None]).sum(-1).clamp(max=p.shape[-1] - 1)
        return Answer(self.embed(codes), self.vectors(codes))


class PatchTokens(nn.Module):
    """Tokens that are patches of the trace itself, forecast by their squared error. They have no distribution: every way of going on is the same."""

    probabilistic = False

    def __init__(self, config: DualAxisConfig):
        super().__init__()
        self.project, self.give = nn.Linear(PATCH_FRAMES, config.width), nn.Linear(config.width, PATCH_FRAMES)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Patches (B, N, P, L) of traces (B, N, T)."""
        return x.unflatten(-1, (-1, PATCH_FRAMES))

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        return self.project(patches)

    def vectors(self, patches: torch.Tensor) -> torch.Tensor:
        return patches

    def frames(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.flatten(2)

    def frames_after(self, before: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.flatten(2)

    def replaced(self, patches: torch.Tensor, share: float) -> torch.Tensor:
        """The patches, of which a share became another neuron's of the same trial."""
        other = patches[:, torch.randperm(patches.shape[1], device=patches.device)]
        return torch.where(torch.rand(patches.shape[:3], device=patches.device)[..., None] < share, other, patches)

    def loss(self, h: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        return (self.give(h).float() - patches).square().mean(-1)

    def likeliest(self, h: torch.Tensor) -> torch.Tensor:
        return self.give(h).float()

    def answer(self, h: torch.Tensor, how: str = "argmax", uniforms: torch.Tensor | None = None) -> Answer:
        patch = self.give(h)
        return Answer(self.project(patch), patch)


# ---------------------------------------------------------------- the population


class AxisBlock(nn.Module):
    """Attention over a neuron's earlier tokens, attention over the neurons of each time, and a feed-forward; each after a LayerNorm, and added."""

    def __init__(self, config: DualAxisConfig):
        super().__init__()
        D, drop = config.width, config.attention_dropout
        self.time, self.norm_time = SelfAttention(D, config.heads, drop, causal=True, bias=False), nn.LayerNorm(D)
        self.neurons: Any = SelfAttention(D, config.heads, drop, causal=False, bias=False) if config.neuron_attention else None
        self.norm_neurons: Any = nn.LayerNorm(D) if config.neuron_attention else None
        self.ff = nn.Sequential(nn.Linear(D, 4 * D, bias=False), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(4 * D, D, bias=False))
        self.norm_ff, self.drop = nn.LayerNorm(D), nn.Dropout(config.dropout)
        self.share = 1 / math.sqrt(3 * config.layers)

    def forward(self, x: torch.Tensor, keys: torch.Tensor | None, past: Past | None, maps: list | None = None) -> tuple[torch.Tensor, Past]:
        """Map tokens x (B, N, P, D) to the same shape; `keys` (B, N) says which neurons may be looked at, `past` holds earlier tokens.

        With a list `maps`, appends the mean over trials and times of who looks at whom, (H, N, N).
        """
        B, N, P, _ = x.shape
        y, found = self.time(self.norm_time(x).flatten(0, 1), past=past)
        x = x + self.share * self.drop(y.unflatten(0, (B, N)))
        if self.neurons is not None:
            together = self.norm_neurons(x).transpose(1, 2).flatten(0, 1)  # (B P, N, D)
            seen = None if keys is None else keys.repeat_interleave(P, 0)
            if maps is not None:
                maps.append(sum(self.neurons.maps(part, k).sum(0) for part, k in _parts(together, seen)) / len(together))
            y, _ = self.neurons(together, seen)
            x = x + self.share * self.drop(y.unflatten(0, (B, P)).transpose(1, 2))
        return x + self.share * self.drop(self.ff(self.norm_ff(x))), found


def _parts(x, keys, size=8):
    return zip(x.split(size), [None] * -(-len(x) // size) if keys is None else keys.split(size), strict=True)


class CalM(nn.Module):
    """The dual-axis transformer: it forecasts the next token of every neuron from all tokens so far of all neurons.

    Parameters
    ----------
    config : DualAxisConfig
    tokens : CodeTokens or PatchTokens
    n_neurons, n_sessions : int
        Numbers of embeddings.
    n_stimuli : int or (int, int)
        Number of stimulus tokens, or the numbers of categories and features of `FeatureTokens`.
    told_width : int
        Width of the tokens by which the condition is told; 0 never tells it.
    context_tokens, response_tokens : int
        P_c and P_f: tokens before and after the onset in the windows of the training. A rollout may go on longer, and is then told what the last one was.
    """

    def __init__(self, config, tokens, n_neurons, n_sessions, n_stimuli, told_width, context_tokens, response_tokens):
        super().__init__()
        D = config.width
        self.config, self.tokens, self.context_tokens, self.response_tokens = config, tokens, context_tokens, response_tokens
        self.neurons, self.sessions = Tokens(n_neurons, D), nn.Embedding(n_sessions, D)
        for weight in (self.neurons.table.weight, self.sessions.weight):
            nn.init.normal_(weight, std=0.02)
        self.neurons.start.copy_(self.neurons.table.weight.detach())
        self.blocks = nn.ModuleList(AxisBlock(config) for _ in range(config.layers))
        self.drop, self.last = nn.Dropout(config.dropout), nn.LayerNorm(D)
        self.told_width = told_width
        if told_width:
            self.stimuli, self.norm_told, self.told_neuron = stimulus_tokens(n_stimuli, told_width), nn.LayerNorm(D), nn.Linear(D, told_width)
            self.told = nn.Parameter(torch.zeros(response_tokens, D, 3 * told_width))

    def who(self, batch: Batch) -> torch.Tensor:
        """The embeddings of neurons and their session, (B, N, D). A session at -1 is unknown, and has the mean of all."""
        weight = self.sessions.weight
        return self.neurons.table(batch.neuron) + torch.cat([weight, weight.mean(0, keepdim=True)])[batch.session][:, None]

    def telling(self, batch: Batch) -> torch.Tensor:
        """What the condition adds to each neuron's tokens from the last of the context on, (B, N, P_f, D)."""
        neuron = self.told_neuron(self.norm_told(self.neurons.table(batch.neuron)))
        stimulus = self.stimuli(batch.condition).expand_as(neuron)
        return torch.einsum("bnw,pdw->bnpd", torch.cat([neuron, stimulus, neuron * stimulus], -1), self.told)

    def states(self, fed: torch.Tensor, who: torch.Tensor, told: torch.Tensor | None, keys: torch.Tensor | None, pasts: list | None = None,
               first: int = 0, maps: list | None = None) -> tuple[torch.Tensor, list]:  # fmt: skip
        """The states after each token.

        Parameters
        ----------
        fed : float tensor, shape (B, N, P, D)
            Embedded tokens, of which the first stands at the position `first`.
        who : float tensor, shape (B, N, D)
        told : float tensor, shape (B, N, P_f, D), optional
        keys : bool tensor, shape (B, N), optional
            Neurons that may be looked at.
        pasts : list of Past, optional
            Of earlier tokens, one for each block.

        Returns
        -------
        h : float tensor, shape (B, N, P, D)
        pasts : list of Past
        """
        x = fed + who[:, :, None]
        if told is not None:
            step = torch.arange(first, first + fed.shape[2], device=fed.device) - (self.context_tokens - 1)
            x = x + told[:, :, step.clamp(0, self.response_tokens - 1)] * (step >= 0)[:, None]
        x, found = self.drop(x), []
        for block, past in zip(self.blocks, pasts or [None] * len(self.blocks), strict=True):
            x, past = block(x, keys, past, maps)
            found.append(past)
        return self.last(x), found

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of each next token of whole windows x (B, N, T), from the second on: float32 (B, N, P - 1).

        In training, tokens are spoilt first: some are replaced by near ones, and a block may hold the model's own guesses.
        """
        tokens = self.tokens.read(batch.x)
        who, keys, told = self.who(batch), batch.whole(), None
        if self.told_width:
            told = self.telling(batch)
            if self.training:
                told = told * (torch.rand(len(told), device=told.device) >= self.config.untold)[:, None, None, None]
        given = tokens[:, :, :-1]
        if self.training:
            given = self._spoilt(given, who, told, keys)
        h, _ = self.states(self.tokens.embed(given), who, told, keys)
        return self.tokens.loss(h, tokens[:, :, 1:])

    @torch.no_grad()
    def _spoilt(self, given, who, told, keys):
        c, P = self.config, given.shape[2]
        spoilt = self.tokens.replaced(given, c.replace) if c.replace else given
        if P > 1 and c.own_share and torch.rand(()) < c.own_share:  # on the host
            n = min(c.own_tokens, P - 1)
            start = int(torch.randint(1, P - n + 1, ()))
            h, _ = self.states(self.tokens.embed(spoilt[:, :, : start + n - 1]), who, told, keys)
            spoilt = spoilt.clone()
            spoilt[:, :, start : start + n] = self.tokens.likeliest(h[:, :, start - 1 :])
        return spoilt

    def encoded(self, batch: Batch, told: bool = False) -> torch.Tensor:
        """The states (B, N, P, D) after each token of x (B, N, T), which may have any number of tokens."""
        h, _ = self.states(self.tokens.embed(self.tokens.read(batch.x)), self.who(batch), self.telling(batch) if told else None, batch.whole())
        return h

    def looks(self, batch: Batch) -> torch.Tensor:
        """Who looks at whom, mean over trials and tokens of x (B, N, T): (layers, H, N, N)."""
        maps: list = []
        self.states(self.tokens.embed(self.tokens.read(batch.x)), self.who(batch), None, batch.whole(), maps=maps)
        return torch.stack(maps)

    def forward(self, batch: Batch, length: int, how: str = "argmax", told: bool = True, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """Go on from contexts, token by token, and decode what came.

        Parameters
        ----------
        batch : Batch
            x (B, N, P_c L).
        length : int
            Frames that are wanted.
        how : {"argmax", "soft", "sample"}
        told : bool
            Whether the condition is told, where the model can be told.
        uniforms : float32 tensor, shape (n_samples, B, N, tokens), optional
            Of "sample": numbers in [0, 1) that decide what is drawn, for each token that `length` needs.

        Returns
        -------
        float tensor, shape (B, N, length); with `uniforms` (n_samples, B, N, length)
        """
        steps, n_samples = -(-length // PATCH_FRAMES), 1 if uniforms is None else len(uniforms)
        given = self.tokens.read(batch.x)
        who, keys = self.who(batch), batch.whole()
        telling = self.telling(batch) if told and self.told_width else None
        h, pasts = self.states(self.tokens.embed(given), who, telling, keys)
        vectors = self.tokens.vectors(given)
        if n_samples > 1:
            h, who, keys = (t.repeat(n_samples, *[1] * (t.ndim - 1)) for t in (h, who, keys))
            telling = None if telling is None else telling.repeat(n_samples, 1, 1, 1)
            pasts = [past.repeated(n_samples) for past in pasts]
        u, state, found = None if uniforms is None else uniforms.flatten(0, 1), h[:, :, -1], []
        for step in range(steps):
            answer = self.tokens.answer(state, how, None if u is None else u[..., step])
            found.append(answer.vector)
            if step + 1 < steps:
                h, pasts = self.states(answer.fed[:, :, None], who, telling, keys, pasts, first=self.context_tokens + step)
                state = h[:, :, 0]
        out = self.tokens.frames_after(vectors, torch.stack(found, 2))[..., :length]
        return out if uniforms is None else out.unflatten(0, (n_samples, -1))
