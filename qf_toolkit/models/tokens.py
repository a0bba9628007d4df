"""Learned tokens: one a key, or one made of a condition's features."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


class Tokens(nn.Module):
    """One learned token for each key of a table.

    Attributes
    ----------
    start : tensor, shape (n, D)
        What each began as, at random: a short training moves a token little, and what it has learnt is where it moved. NaN in models saved
        before it was kept.
    """

    start: torch.Tensor

    def __init__(self, n, width):
        super().__init__()
        # unit variance, as the tokens of patches have after a norm: from smaller ones identity is learned many epochs later
        self.table = nn.Embedding(n, width)
        self.register_buffer("start", self.table.weight.detach().clone())

    def forward(self, ids):
        """(B,) -> (B, 1, D)."""
        return self.table(ids)[:, None]

    @torch.no_grad()
    def grow(self, n):
        """Add `n` tokens, each the mean of the known ones plus a little noise."""
        old = self.table.weight
        new = old.mean(0) + 0.02 * torch.randn(n, old.shape[1], device=old.device)
        self.table = nn.Embedding.from_pretrained(torch.cat([old, new]), freeze=False)
        self.start = torch.cat([self.start, new])


class FeatureTokens(nn.Module):
    """One token for each condition: a learned map of its features, plus a learned embedding of its category.

    What the conditions are stands in buffers, a row each, which `describe` adds to and which are no weights: neither learnt nor saved.

    Parameters
    ----------
    n_categories, n_features, width : int
    """

    category: torch.Tensor
    features: torch.Tensor

    def __init__(self, n_categories, n_features, width):
        super().__init__()
        self.categories = nn.Embedding(n_categories, width)
        # features have about unit variance each, and so has what they add up to
        self.weight = nn.Parameter(torch.randn(width, n_features) / max(n_features, 1) ** 0.5)
        self.register_buffer("category", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("features", torch.zeros(0, n_features), persistent=False)

    def forward(self, ids):
        """(B,) -> (B, 1, D)."""
        return (self.categories(self.category[ids]) + F.linear(self.features[ids], self.weight))[:, None]

    def describe(self, category, features):
        """Add conditions: positions of their categories (n,), and their features (n, F)."""
        self.category = torch.cat([self.category, category.to(self.category)])
        self.features = torch.cat([self.features, features.to(self.features)])

    @contextmanager
    def described(self, category, features):
        """For as long as the context lasts, these conditions alone have tokens; arguments as those of `describe`."""
        before = self.category, self.features
        self.category, self.features = category.to(self.category), features.to(self.features)
        try:
            yield
        finally:
            self.category, self.features = before


def stimulus_tokens(n, width):
    return Tokens(n, width) if isinstance(n, int) else FeatureTokens(*n, width)
