"""A transformer that can return its attention maps.

The paper names only a "transformer" (3.3). Where it is silent, the released code's choices are the defaults: post-norm LayerNorm, GELU, d_ff = 4 d.
Attention has two paths, which agree to 1e-5: scaled_dot_product_attention, and an explicit one that returns the maps. The released code's residual
attention, which adds the scores of one layer to the next layer's, is a switch and takes the explicit path.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, S, D); H heads."""

    def __init__(self, *, width, heads, dropout=0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, scores=None, explicit=False, keys=None):
        """Let every token attend to all tokens, or to those that `keys` names.

        Parameters
        ----------
        x : float tensor, shape (B, S, D)
        scores : float tensor, shape (B, H, S, S), optional
            Scores of the previous layer, which are added to this layer's (residual attention). Only the explicit path uses them.
        explicit : bool
            Take the explicit path, and return maps and scores.
        keys : bool tensor, shape (B, S), optional
            Tokens that may be attended to. Where it names none, all may be: no answer is a number over nothing.

        Returns
        -------
        y : float tensor, shape (B, S, D)
        maps : float tensor, shape (B, H, S, S), or None
            Entry (i, j) is the share that token i takes from token j; rows sum to 1. None unless `explicit`.
        scores : float tensor, shape (B, H, S, S), or None
            The scores before the softmax; unless `explicit`, the argument `scores`.
        """
        B, S, D = x.shape
        q, k, v = self.qkv(x).view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each (B, H, S, D/H)
        drop = self.dropout if self.training else 0.0
        maps, mask = None, None if keys is None else (keys | ~keys.any(1, keepdim=True))[:, None, None]
        if explicit:
            new = q @ k.transpose(-1, -2) * (D // self.heads) ** -0.5
            scores = new if scores is None else new + scores
            maps = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
            y = F.dropout(maps, drop) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=drop)
        return self.out(y.transpose(1, 2).reshape(B, S, D)), maps, scores


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation of tokens (B, S, D): each of the D numbers over all tokens of the batch."""

    def forward(self, input):
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a GELU feed-forward, each with a residual connection; `norm` is "post" (released code) or "pre".

    The feed-forward's inner width is `ff_width`, or 4 D if that is None; `kind` is the class of its two norms.
    """

    def __init__(self, *, width, heads, dropout=0.0, norm="post", ff_width=None, kind=nn.LayerNorm):
        super().__init__()
        self.norm = norm
        self.attention = Attention(width=width, heads=heads, dropout=dropout)
        inner = ff_width or 4 * width
        self.ff = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.norm1, self.norm2 = kind(width), kind(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, scores=None, explicit=False, keys=None):
        """Map tokens (B, S, D) to tokens (B, S, D), maps and scores; see `Attention.forward`."""
        pre = self.norm == "pre"
        y, maps, scores = self.attention(self.norm1(x) if pre else x, scores, explicit, keys)
        x = x + self.drop(y)
        x = x if pre else self.norm1(x)
        x = x + self.drop(self.ff(self.norm2(x) if pre else x))
        return (x if pre else self.norm2(x)), maps, scores


class Transformer(nn.Module):
    """A stack of blocks; with `norm="pre"` a LayerNorm follows the last one."""

    def __init__(self, *, width, heads, layers, dropout=0.0, norm="post", residual_attention=False, ff_width=None, kind=nn.LayerNorm):
        super().__init__()
        self.residual_attention = residual_attention
        self.blocks = nn.ModuleList(Block(width=width, heads=heads, dropout=dropout, norm=norm, ff_width=ff_width, kind=kind) for _ in range(layers))
        self.last = kind(width) if norm == "pre" else nn.Identity()

    def forward(self, x, need_maps=False, keys=None):
        """Run the stack.

        Parameters
        ----------
        x : float tensor, shape (B, S, D)
        need_maps : bool
            Whether to return the attention maps, too.
        keys : bool tensor, shape (B, S), optional
            Tokens that may be attended to; see `Attention.forward`.

        Returns
        -------
        x : float tensor, shape (B, S, D)
        maps : float tensor, shape (B, layers, H, S, S)
            Only with `need_maps`.
        """
        maps, scores = [], None
        for block in self.blocks:
            x, m, s = block(x, scores, explicit=need_maps or self.residual_attention, keys=keys)
            scores = s if self.residual_attention else None
            maps.append(m)
        x = self.last(x)
        return (x, torch.stack(maps, 1)) if need_maps else x
