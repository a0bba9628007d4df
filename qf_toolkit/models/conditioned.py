"""Neuron and condition, given to any model of traces in the same way, so that models are compared and not what they were told."""

import torch
from torch import nn

from .batch import Batch
from .tokens import Tokens, stimulus_tokens


class Conditioned(nn.Module):
    """A model between two linear maps of learned tokens: one is added to what it reads, the other to what it gives.

    The maps see the token of the neuron, that of the condition, and their product, without which a linear model could not have a tuning. Both start at
    0: an untrained one is the model itself.

    Parameters
    ----------
    model : nn.Module
        Batch of contexts -> (B, N, n_out).
    n_context, n_out : int
        Frames that it reads, numbers that it gives.
    n_neurons : int
    n_stimuli : int or (int, int)
        Number of stimulus tokens, or the numbers of categories and features of `FeatureTokens`.
    width : int
        Of the tokens; 0 for none.
    """

    def __init__(self, model: nn.Module, n_context: int, n_out: int, n_neurons: int, n_stimuli: int | tuple[int, int], width: int):
        super().__init__()
        self.model, self.width = model, width
        if width:
            self.neurons, self.stimuli = Tokens(n_neurons, width), stimulus_tokens(n_stimuli, width)
            self.read, self.give = nn.Linear(3 * width, n_context), nn.Linear(3 * width, n_out)
            for layer in (self.read, self.give):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Contexts x (B, N, n_context) -> (B, N, n_out)."""
        if not self.width:
            return self.model(batch)
        neuron = self.neurons.table(batch.neuron)
        stimulus = self.stimuli(batch.condition).expand_as(neuron)
        told = torch.cat([neuron, stimulus, neuron * stimulus], -1)
        return self.model(Batch(batch.x + self.read(told), *batch[1:])) + self.give(told)
