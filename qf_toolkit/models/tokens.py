"""Learned tokens: one for each key, or one made of a condition's features."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


class Tokens(nn.Module):
    """A table with one learned token per key.

    Parameters
    ----------
    n : int
        Number of tokens.
    width : int
        D, numbers per token.

    Attributes
    ----------
    start : float32 tensor, shape (n, D)
        The random value that each token began with. A short training moves a token only little, so its difference from the start shows what it has
        learnt. NaN if an older saved model lacks it.
    """

    start: torch.Tensor

    def __init__(self, n, width):
        super().__init__()
        # unit variance, like the tokens of patches after a norm: with smaller ones the model learns identity many epochs later
        self.table = nn.Embedding(n, width)
        self.register_buffer("start", self.table.weight.detach().clone())

    def forward(self, ids):
        """(B,) -> (B, 1, D)."""
        return self.table(ids)[:, None]

    @torch.no_grad()
    def grow(self, n):
        """Add `n` tokens. Each is the mean of the known tokens plus a little noise."""
        old = self.table.weight
        new = old.mean(0) + 0.02 * torch.randn(n, old.shape[1], device=old.device)
        self.table = nn.Embedding.from_pretrained(torch.cat([old, new]), freeze=False)
        self.start = torch.cat([self.start, new])


class FeatureTokens(nn.Module):
    """One token per condition: a learned linear map of its features, plus a learned embedding of its category.

    Two buffers hold the category and the features of each condition, one row per condition. `describe` adds rows. The buffers are neither learnt nor
    saved.

    Parameters
    ----------
    n_categories, n_features, width : int
        Numbers of categories, of encoded features, and per token (D).

    Attributes
    ----------
    category : long tensor, shape (condition,)
    features : float32 tensor, shape (condition, n_features)
    """

    category: torch.Tensor
    features: torch.Tensor

    def __init__(self, n_categories, n_features, width):
        super().__init__()
        self.categories = nn.Embedding(n_categories, width)
        # each feature has about unit variance, and with this scale their sum has, too
        self.weight = nn.Parameter(torch.randn(width, n_features) / max(n_features, 1) ** 0.5)
        self.register_buffer("category", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("features", torch.zeros(0, n_features), persistent=False)

    def forward(self, ids):
        """(B,) -> (B, 1, D)."""
        return (self.categories(self.category[ids]) + F.linear(self.features[ids], self.weight))[:, None]

    def describe(self, category, features):
        """Add conditions: positions of their categories, long (n,), and their features, float (n, F)."""
        self.category = torch.cat([self.category, category.to(self.category)])
        self.features = torch.cat([self.features, features.to(self.features)])

    @contextmanager
    def described(self, category, features):
        """A context in which only these conditions have tokens; arguments as those of `describe`."""
        before = self.category, self.features
        self.category, self.features = category.to(self.category), features.to(self.features)
        try:
            yield
        finally:
            self.category, self.features = before


def stimulus_tokens(n, width):
    return Tokens(n, width) if isinstance(n, int) else FeatureTokens(*n, width)
