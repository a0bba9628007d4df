"""Self-attention that may know order (rotary positions) and may be causal, with a memory of what was attended to before."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


def rotated(x: torch.Tensor, first: int = 0, theta: float = 1e4) -> torch.Tensor:
    """Turn pairs of numbers by angles that grow with the position, so that products of two depend on their distance alone (Su et al. 2021).

    Parameters
    ----------
    x : float tensor, shape (..., S, W)
        W is even: number i is paired with number i + W / 2.
    first : int
        Position of the first token.
    theta : float
        Longest period / 2 pi.

    Returns
    -------
    float tensor, shape (..., S, W)

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> rotated(x).round(decimals=2)
    tensor([[1.0000, 0.0000],
            [0.5400, 0.8400]])
    """
    S, W = x.shape[-2:]
    speed = theta ** (-torch.arange(0, W, 2, device=x.device) / W)
    angle = torch.arange(first, first + S, device=x.device)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Past(NamedTuple):
    """Keys and values of earlier tokens, both (B, H, S, W)."""

    keys: torch.Tensor
    values: torch.Tensor

    def repeated(self, n: int) -> "Past":
        """The same, n times below each other, (n B, H, S, W)."""
        return self if n == 1 else Past(*(t.repeat(n, 1, 1, 1) for t in self))


class SelfAttention(nn.Module):
    """Self-attention over tokens (B, S, D).

    Parameters
    ----------
    width, heads : int
    dropout : float
        Of the attention, in training.
    causal : bool
        Whether tokens are ordered: each then attends to itself and to those before it, and knows how far they are. Else they are a set.
    bias : bool
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool, bias: bool = True):
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)

    def _split(self, x):
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, S, W)

    def forward(self, x: torch.Tensor, keys: torch.Tensor | None = None, past: Past | None = None) -> tuple[torch.Tensor, Past]:
        """Attend.

        Parameters
        ----------
        x : float tensor, shape (B, S, D)
        keys : bool tensor, shape (B, S), optional
            Tokens of a set that may be attended to; all if None, or where it names none.
        past : Past, optional
            Of a causal attention: the tokens before these.

        Returns
        -------
        float tensor, shape (B, S, D)
        Past
            With these tokens.
        """
        q, k, v = self._split(x)
        if self.causal:
            first = 0 if past is None else past.keys.shape[2]
            q, k = rotated(q, first), rotated(k, first)
        if past is not None:
            k, v = torch.cat([past.keys, k], 2), torch.cat([past.values, v], 2)
        mask = None if keys is None else (keys | ~keys.any(1, keepdim=True))[:, None, None]
        if past is not None and q.shape[2] > 1:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        drop = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=drop, is_causal=self.causal and past is None)
        return self.out(y.transpose(1, 2).flatten(2)), Past(k, v)

    def maps(self, x: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Shares of attention between tokens of a set (B, S, D): float tensor (B, H, S, S), whose row is who looks; rows sum to 1."""
        q, k, _ = self._split(x)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if keys is not None:
            scores = scores.masked_fill(~(keys | ~keys.any(1, keepdim=True))[:, None, None], -torch.inf)
        return scores.softmax(-1)


class CausalBlock(nn.Module):
    """Causal attention with rotary positions and a GELU feed-forward, each after a LayerNorm and added to what was there."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout, causal=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, S, D) to tokens (B, S, D), of which none knows a later one."""
        return self.after(x)[0]

    def after(self, x: torch.Tensor, past: Past | None = None) -> tuple[torch.Tensor, Past]:
        """`forward` of tokens that come after those of `past`, and the Past with them."""
        y, found = self.attention(self.norm1(x), past=past)
        x = x + y
        return x + self.ff(self.norm2(x)), found
