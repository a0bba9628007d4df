"""What estimators share that have learnt a token for each neuron and for each condition or stimulus."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..training.bank import Bank, token_id
from .checks import check_keys
from .interface import Estimator
from .stimulus_tokens import StimulusTokens


class Tokened(Estimator):
    """Keys of neurons and conditions become positions of tokens, and a context what a module takes.

    Subclasses have a `module` whose `neurons` and `stimuli` are the tables of `models.tokens`, `tokens` (StimulusTokens) and `_scale`, the divisor of
    each neuron.
    """

    has_tokens = True
    hint = "Fit on trials of it, or choose neurons=... in trials()."  # for one that has no token
    module: Any
    tokens: StimulusTokens
    _scale: dict[str, float]

    @property
    def neurons(self):
        """Keys of the neurons that have a token."""
        return list(self._places)

    @neurons.setter
    def neurons(self, keys):
        self._places = {k: i for i, k in enumerate(keys)}

    @property
    def stim_token(self):
        """What has a stimulus token; see `StimulusTokens`."""
        return self.tokens.kind

    @property
    def stimuli(self):
        """Keys of the conditions and categories that have a token, or under "features" an embedding."""
        return self.tokens.keys

    def bank(self, trials, traces=None):
        """The observations of `trials` with this model's tokens and scales; `traces` that hold theirs may be shared."""
        return Bank(trials, self._places, self._stimulus_ids(trials.conditions), self.device, self._scale, traces)

    def _stimulus_ids(self, conditions):
        """{key of the stimulus token: position}, for a bank; under "features" the module is told what conditions not met before are."""
        if self.has_tokens and self.stim_token == "features":
            self.module.stimuli.describe(*map(torch.from_numpy, self.tokens.describe(conditions)))
        return self.tokens.ids

    @contextmanager
    def inputs(self, asked):
        """What the module takes, for as long as the context lasts, of all that is asked.

        Parameters
        ----------
        asked : Observations

        Yields
        ------
        x : float tensor, shape (trial x neuron, time)
            The context, divided by each neuron's divisor.
        neuron, stimulus : long tensors, shape (trial x neuron,)
            Positions of the tokens.
        divisor : float32 array, shape (neuron,)

        Raises
        ------
        UnknownKeyError
            If a neuron or a condition has no token.
        """
        if self.has_tokens:
            check_keys("neuron", asked.neurons, self._places, self.hint)
            self.tokens.check(asked.conditions)
        divisor = np.array([self._scale[n] if n in self._scale else self._scale[""] for n in asked.neurons], np.float32)
        x = torch.from_numpy(np.ascontiguousarray(asked.context / divisor[:, None], dtype=np.float32)).flatten(0, 1).to(self.device)
        # a model without tokens takes any neuron and condition
        places = [self._places[k] if self.has_tokens else 0 for k in asked.neurons]
        neuron = torch.tensor(places, device=self.device).repeat(len(asked.conditions))
        with self._described(asked.conditions) as ids:
            yield x, neuron, torch.tensor(ids, device=self.device).repeat_interleave(len(asked.neurons)), divisor

    @contextmanager
    def _described(self, conditions):
        """Positions of the stimulus tokens of conditions; under "features" tokens are made of them for as long as the context lasts, none is kept."""
        if not self.has_tokens:
            yield [0] * len(conditions)
            return
        if self.stim_token != "features":
            yield [token_id(self.tokens.ids, c) for c in conditions]
            return
        places = {c: i for i, c in enumerate(dict.fromkeys(conditions))}
        with self.module.stimuli.described(*map(torch.from_numpy, self.tokens.numbers_of(places))):
            yield [places[c] for c in conditions]

    def token_table(self):
        """Learned tokens of the neurons in the order of `neurons`, and what each began as: float32 arrays (neuron, width); NaN where not known."""
        table = self.module.neurons
        return tuple(t.detach().cpu().numpy().copy() for t in (table.table.weight, table.start))
