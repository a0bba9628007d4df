"""Gives neuron and condition to any model of traces in the same way, so that comparisons show differences of models and not of their inputs."""

import torch
from torch import nn

from ..errors import QfError
from .batch import Batch
from .tokens import Tokens, stimulus_tokens


class Conditioned(nn.Module):
    """A model with two linear maps of learned tokens: one is added to the model's input, the other to its output.

    Both maps read the token of the neuron, the token of the condition, and their product, without which a linear model could not have a tuning. Both
    start at 0, so that before training the whole equals the model.

    Parameters
    ----------
    model : nn.Module
        Maps a Batch of contexts to (B, N, n_out).
    n_context, n_out : int
        Frames that the model reads, and numbers that it returns per observation.
    n_neurons : int
        Number of neuron tokens.
    n_stimuli : int or (int, int)
        Number of stimulus tokens, or the numbers of categories and features of `FeatureTokens`.
    width : int
        Width of the tokens; 0 leaves tokens and maps out.
    """

    def __init__(self, model: nn.Module, n_context: int, n_out: int, n_neurons: int, n_stimuli: int | tuple[int, int], width: int):
        super().__init__()
        self.model, self.n_out, self.width = model, n_out, width
        if width:
            self.neurons, self.stimuli = Tokens(n_neurons, width), stimulus_tokens(n_stimuli, width)
            self.read, self.give = nn.Linear(3 * width, n_context), nn.Linear(3 * width, n_out)
            for layer in (self.read, self.give):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Contexts x (B, N, n_context) -> (B, N, n_out).

        Raises
        ------
        QfError
            If the model gives another shape.
        """
        if not self.width:
            return self._checked(self.model(batch), batch)
        neuron = self.neurons.table(batch.neuron)
        stimulus = self.stimuli(batch.condition).expand_as(neuron)
        told = torch.cat([neuron, stimulus, neuron * stimulus], -1)
        out = self.model(Batch(batch.x + self.read(told), *batch[1:]))
        return self._checked(out, batch) + self.give(told)

    def _checked(self, out: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The model's output, whose shape must not be left to broadcasting."""
        wanted = (*batch.x.shape[:2], self.n_out)
        if out.shape != wanted:
            name = getattr(self.model, "name", type(self.model).__name__)
            raise QfError(f"{name}: expected an output of shape (B, N, n_out) = {wanted}, found {tuple(out.shape)}. Mend its forward.")
        return out
