"""What every model takes: a batch of observations of one recording rate, and the sizes that it is built for."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """Tensors of B trials x N neurons; a per-neuron model folds B and N, a population model does not.

    Attributes
    ----------
    x : float tensor, shape (B, N, T)
        Windows, 0 where `valid` is False.
    valid : bool tensor, shape (B, N, T)
    neuron : long tensor, shape (B, N)
        Positions in the model's table of neurons.
    condition : long tensor, shape (B,)
        Positions in the model's table of stimulus tokens.
    session : long tensor, shape (B,)
    """

    x: torch.Tensor
    valid: torch.Tensor
    neuron: torch.Tensor
    condition: torch.Tensor
    session: torch.Tensor

    def folded(self):
        """(x (B N, T), valid (B N, T), neuron (B N), condition (B N)): one observation a row."""
        n = self.x.shape[1]
        return self.x.flatten(0, 1), self.valid.flatten(0, 1), self.neuron.flatten(), self.condition.repeat_interleave(n)


@dataclass(frozen=True)
class Sizes:
    """What a module is built for, beside its own options.

    Attributes
    ----------
    n_context : int
        Frames that it reads.
    n_out : int
        Numbers that it gives for each observation: the frames of the response, or 1 for the label.
    """

    n_context: int
    n_out: int
