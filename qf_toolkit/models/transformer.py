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

    def forward(self, x, scores=None, explicit=False):
        """Let every token attend to all tokens.

        Parameters
        ----------
        x : float tensor, shape (B, S, D)
        scores : float tensor, shape (B, H, S, S), optional
            Scores of the previous layer, which are added to this layer's (residual attention). Only the explicit path uses them.
        explicit : bool
            Take the explicit path, and return maps and scores.

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
        maps = None
        if explicit:
            new = q @ k.transpose(-1, -2) * (D // self.heads) ** -0.5
            scores = new if scores is None else new + scores
            maps = scores.softmax(-1)
            y = F.dropout(maps, drop) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        return self.out(y.transpose(1, 2).reshape(B, S, D)), maps, scores


class Block(nn.Module):
    """Attention and a GELU feed-forward, each with a residual connection; `norm` is "post" (released code) or "pre"."""

    def __init__(self, *, width, heads, dropout=0.0, norm="post"):
        super().__init__()
        self.norm = norm
        self.attention = Attention(width=width, heads=heads, dropout=dropout)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, scores=None, explicit=False):
        """Map tokens (B, S, D) to tokens (B, S, D), maps and scores; see `Attention.forward`."""
        pre = self.norm == "pre"
        y, maps, scores = self.attention(self.norm1(x) if pre else x, scores, explicit)
        x = x + self.drop(y)
        x = x if pre else self.norm1(x)
        x = x + self.drop(self.ff(self.norm2(x) if pre else x))
        return (x if pre else self.norm2(x)), maps, scores


class Transformer(nn.Module):
    """A stack of blocks; with `norm="pre"` a LayerNorm follows the last one."""

    def __init__(self, *, width, heads, layers, dropout=0.0, norm="post", residual_attention=False):
        super().__init__()
        self.residual_attention = residual_attention
        self.blocks = nn.ModuleList(Block(width=width, heads=heads, dropout=dropout, norm=norm) for _ in range(layers))
        self.last = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, x, need_maps=False):
        """Run the stack.

        Parameters
        ----------
        x : float tensor, shape (B, S, D)
        need_maps : bool
            Whether to return the attention maps, too.

        Returns
        -------
        x : float tensor, shape (B, S, D)
        maps : float tensor, shape (B, layers, H, S, S)
            Only with `need_maps`.
        """
        maps, scores = [], None
        for block in self.blocks:
            x, m, s = block(x, scores, explicit=need_maps or self.residual_attention)
            scores = s if self.residual_attention else None
            maps.append(m)
        x = self.last(x)
        return (x, torch.stack(maps, 1)) if need_maps else x
