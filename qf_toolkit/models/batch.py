"""The input of every model, a batch of observations of one recording rate, and the sizes that a model is built for."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """Tensors of B trials x N neurons. A per-neuron model folds B and N; a population model does not.

    Attributes
    ----------
    x : float32 tensor, shape (B, N, T)
        Windows, divided by each neuron's divisor; 0 where `valid` is False.
    valid : bool tensor, shape (B, N, T)
        True where x was measured.
    neuron : long tensor, shape (B, N)
        Positions in the model's table of neuron tokens.
    condition : long tensor, shape (B,)
        Positions in the model's table of stimulus tokens.
    session : long tensor, shape (B,)
        Positions of the sessions.
    """

    x: torch.Tensor
    valid: torch.Tensor
    neuron: torch.Tensor
    condition: torch.Tensor
    session: torch.Tensor

    def whole(self):
        """Which neurons have a whole window in each trial, bool (B, N). What a population model makes of the others must not reach these."""
        return self.valid.all(-1)

    def folded(self):
        """x (B N, T), valid (B N, T), neuron (B N,) and condition (B N,), with one row per observation."""
        n = self.x.shape[1]
        return self.x.flatten(0, 1), self.valid.flatten(0, 1), self.neuron.flatten(), self.condition.repeat_interleave(n)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a module's input and output.

    Attributes
    ----------
    n_context : int
        Frames that the module reads.
    n_out : int
        Numbers that it returns per observation: the frames of the response, or 1 for the label.
    n_neurons: int
        Neurons that have a position of their own in `Batch.neuron`; 0 if the module is not told which neuron is which.
    label : bool
        Whether the output is the logit of the label, and not frames of the signal.
    """

    n_context: int
    n_out: int
    n_neurons: int = 0
    label: bool = False
