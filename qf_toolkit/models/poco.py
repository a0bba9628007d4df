"""POCO: each neuron is forecast from its own context by a small perceptron, which a summary of the whole population modulates.

Source: Duan et al. 2025, "POCO: Scalable Neural Forecasting through Population Conditioning" (NeurIPS), and its released code where the paper is silent.
The context of a neuron is cut into tokens of 16 frames; a Perceiver-IO reads the tokens of all neurons into 8 latents, of which each neuron asks for its
conditioning e. Then y = W_out [ReLU(W_in x) * alpha(e) + beta(e)], where alpha and beta begin at zero, so that the first forecast is a constant.
The cost grows linearly with the neurons.

Deviations:
- One embedding for each neuron. Those of its session and data set are left out: where every neuron belongs to one session, their sum is again one
  embedding of the neuron.
- A token is as long as the context where that is shorter than 16 frames; a context that is no multiple is cut at its older end for the tokens, and read
  whole by the perceptron.
- A neuron whose context has a gap is attended to by no other.
- As a classifier (POCO has none) the output is one number, the logit.
- Time is counted in tokens.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .batch import Batch, Sizes
from .options import Options, option


@dataclass(frozen=True)
class POCOConfig(Options):
    """Options of POCO."""

    width: int = option(128, "whole", least=1, most=4096, help="of tokens, latents and the conditioning")
    latents: int = option(8, "whole", least=1, most=4096, help="in which the population is summed up")
    layers: int = option(1, "whole", least=1, most=32, help="of attention between latents")
    heads: int = option(16, "whole", least=1, most=256, help="of attention between latents")
    head_width: int = option(64, "whole", least=4, most=1024, help="of a head")
    hidden: int = option(1024, "whole", least=1, most=65536, help="width of the perceptron")
    token_frames: int = option(16, "whole", least=1, most=9999, help="of a token")
    dropout: float = option(0.2, least=0, below=1, help="in the feed-forwards, in training; twice as much on what attention between latents adds")


class TimeRotation(nn.Module):
    """Turns half of a head's numbers by angles that grow with time, so that attention sees differences of time.

    Parameters
    ----------
    head_width : int
    shortest, longest : float
        Periods, of which the others lie between geometrically.
    """

    speed: torch.Tensor

    def __init__(self, head_width: int, shortest: float = 0.1, longest: float = 100.0):
        super().__init__()
        self.n = head_width // 4  # pairs that are turned
        period = shortest * (longest / shortest) ** (torch.arange(self.n) / max(1, self.n - 1))
        self.register_buffer("speed", 2 * math.pi / period, persistent=False)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Turn x (B, H, S, W) by its times (S,); negative times turn back."""
        angle = time[:, None] * self.speed
        a, b, rest = x[..., : self.n], x[..., self.n : 2 * self.n], x[..., 2 * self.n :]
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest], -1)


class TimedAttention(nn.Module):
    """Attention of queries to tokens that knows when each of them is.

    Parameters
    ----------
    width, heads, head_width : int
    values : bool
        Whether the values are turned, too, and what is read of them is turned back to the time of the query.
    """

    def __init__(self, width: int, heads: int, head_width: int, values: bool):
        super().__init__()
        self.heads, self.values, inner = heads, values, heads * head_width
        self.norm, self.norm_tokens = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value, self.out = nn.Linear(width, inner, bias=False), nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width)
        self.turn = TimeRotation(head_width)

    def forward(self, x: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, their_time: torch.Tensor, keys: torch.Tensor | None = None):
        """Queries x (B, S, D) at `time` (S,), tokens (B, S', D) at `their_time` (S',); `keys` (B, S') says which may be attended to -> (B, S, D)."""
        seen = self.norm_tokens(tokens)
        q = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.key_value(seen).chunk(2, -1))
        q, k = self.turn(q, time), self.turn(k, their_time)
        mask = None if keys is None else (keys | ~keys.any(1, keepdim=True))[:, None, None]
        y = F.scaled_dot_product_attention(q, k, self.turn(v, their_time) if self.values else v, mask)
        y = self.turn(y, -time) if self.values else y
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """A gated feed-forward (GEGLU), four times as wide as its input."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm, self.open, self.drop, self.close = (
            nn.LayerNorm(width),
            nn.Linear(width, 8 * width),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.open(self.norm(x)).chunk(2, -1)
        return self.close(self.drop(value * F.gelu(gate)))


class Population(nn.Module):
    """A Perceiver-IO over the tokens of all neurons: what each neuron's forecast should know of the others.

    Parameters
    ----------
    config : POCOConfig
    token_frames, n_tokens : int
        Frames of a token, and tokens of a context.
    n_neurons : int
        Number of neurons with an embedding; 0 for none.
    """

    def __init__(self, config: POCOConfig, token_frames: int, n_tokens: int, n_neurons: int):
        super().__init__()
        D = config.width
        self.token_frames, self.n_tokens = token_frames, n_tokens
        self.project = nn.Linear(token_frames, D)
        self.neurons = nn.Embedding(n_neurons, D) if n_neurons else None
        self.latents = nn.Parameter(0.02 * torch.randn(config.latents, D))
        self.asking = nn.Parameter(0.02 * torch.randn(D))  # the query of a neuron without an embedding
        if self.neurons is not None:
            nn.init.normal_(self.neurons.weight, std=0.02)
        self.read, self.read_ff = TimedAttention(D, 1, config.head_width, values=True), FeedForward(D, config.dropout)
        self.among = nn.ModuleList(TimedAttention(D, config.heads, config.head_width, values=True) for _ in range(config.layers))
        self.among_ff = nn.ModuleList(FeedForward(D, config.dropout) for _ in range(config.layers))
        self.drop = nn.Dropout(min(2 * config.dropout, 0.99))
        self.ask, self.ask_ff = TimedAttention(D, 1, config.head_width, values=False), FeedForward(D, config.dropout)
        self.register_buffer("latent_time", torch.linspace(0, n_tokens, config.latents), persistent=False)

    latent_time: torch.Tensor

    def forward(self, batch: Batch) -> torch.Tensor:
        """Contexts x (B, N, n_context) of a Batch -> the conditioning of each neuron, (B, N, D)."""
        B, N, n = batch.x.shape
        cut = batch.x[..., n - self.n_tokens * self.token_frames :].unflatten(-1, (self.n_tokens, self.token_frames))
        who = self.asking.expand(B, N, -1) if self.neurons is None else self.neurons(batch.neuron)
        tokens = (self.project(cut) + who[:, :, None]).flatten(1, 2)
        when = torch.arange(self.n_tokens, device=tokens.device, dtype=tokens.dtype).repeat(N)
        keys = batch.whole()[..., None].expand(-1, -1, self.n_tokens).flatten(1)
        z, time = self.latents.expand(B, -1, -1), self.latent_time
        z = z + self.read(z, time, tokens, when, keys)
        z = z + self.read_ff(z)
        for attention, ff in zip(self.among, self.among_ff, strict=True):
            z = z + self.drop(attention(z, time, z, time))
            z = z + self.drop(ff(z))
        e = who + self.ask(who, torch.full((N,), float(self.n_tokens), device=z.device), z, time)
        return e + self.ask_ff(e)


class POCO(nn.Module):
    """A perceptron that forecasts each neuron from its own context, modulated by its population.

    Parameters
    ----------
    config : POCOConfig
    sizes : Sizes
    """

    name = "POCO"
    Config = POCOConfig
    population = True

    def __init__(self, config: POCOConfig, sizes: Sizes):
        super().__init__()
        frames = min(config.token_frames, sizes.n_context)
        self.conditioning = Population(config, frames, sizes.n_context // frames, sizes.n_neurons)
        self.open, self.close = nn.Linear(sizes.n_context, config.hidden), nn.Linear(config.hidden, sizes.n_out)
        self.scale, self.shift = nn.Linear(config.width, config.hidden), nn.Linear(config.width, config.hidden)
        for layer in (self.scale, self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Map a Batch with contexts x (B, N, n_context) to (B, N, n_out)."""
        e = self.conditioning(batch)
        return self.close(F.relu(self.open(batch.x)) * self.scale(e) + self.shift(e))
