"""The base of estimators that learn a token for each neuron and for each condition or stimulus category."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..training.bank import Bank, token_id
from .checks import check_keys
from .interface import Estimator
from .stimulus_tokens import StimulusTokens


class Tokened(Estimator):
    """Turns keys of neurons and conditions into positions of tokens, and contexts into the tensors that a module takes.

    A subclass sets `module`, `tokens` and `_scale`, which holds each neuron's divisor in units of the signal.

    Attributes
    ----------
    module : nn.Module
        Its `neurons` and `stimuli` are token tables of `models.tokens`.
    tokens : StimulusTokens
        Which stimulus token a condition has.
    hint : str
        The end of the error message if a neuron has no token.
    """

    has_tokens = True
    has_stimulus_tokens = True
    hint = "Fit on trials of it, or choose neurons=... in trials()."
    module: Any
    tokens: StimulusTokens
    _scale: dict[str, float]

    @property
    def neurons(self):
        """Keys of the neurons that have a token, list of str in the order of the token table."""
        return list(self._places)

    @neurons.setter
    def neurons(self, keys):
        self._places = {k: i for i, k in enumerate(keys)}

    @property
    def stim_token(self):
        """The kind of stimulus tokens: "auto", "condition", "category" or "features"; see `StimulusTokens`."""
        return self.tokens.kind

    @property
    def stimuli(self):
        """Keys of the conditions and categories that have a token, list of str; under "features" those of the categories that have an embedding."""
        return self.tokens.keys

    def bank(self, trials, traces=None):
        """The observations of `trials`, with this model's tokens and divisors.

        Parameters
        ----------
        trials : Trials
        traces : Traces, optional
            Traces that hold these trials' sessions; several banks may share them. If None, the bank reads traces of its own.

        Returns
        -------
        Bank

        Raises
        ------
        QfError
            If no observation is usable.
        """
        return Bank(trials, self._places, self._stimulus_ids(trials.conditions), self.device, self._scale, traces)

    def _stimulus_ids(self, conditions):
        """{key of the stimulus token: position}, for a bank. Under "features" the module first gets the features of conditions that are new to it."""
        if self.has_stimulus_tokens and self.stim_token == "features":
            self.module.stimuli.describe(*map(torch.from_numpy, self.tokens.describe(conditions)))
        return self.tokens.ids

    @contextmanager
    def inputs(self, asked):
        """A context that gives the module's inputs for `asked`. They are valid only inside the context.

        Parameters
        ----------
        asked : Observations

        Yields
        ------
        x : float32 tensor, shape (trial x neuron, time)
            The baselines, divided by each neuron's divisor.
        neuron, stimulus : long tensors, shape (trial x neuron,)
            Positions of the tokens.
        divisor : float32 array, shape (neuron,)
            In units of the signal.

        Raises
        ------
        UnknownKeyError
            If a neuron or a condition has no token.
        """
        if self.has_tokens:
            check_keys("neuron", asked.neurons, self._places, self.hint)
        if self.has_stimulus_tokens:
            self.tokens.check(asked.conditions)
        divisor = np.array([self._scale[n] if n in self._scale else self._scale[""] for n in asked.neurons], np.float32)
        x = torch.from_numpy(np.ascontiguousarray(asked.context / divisor[:, None], dtype=np.float32)).flatten(0, 1).to(self.device)
        # a model without tokens of neurons takes any neuron, and one without those of stimuli any condition
        places = [self._places[k] if self.has_tokens else 0 for k in asked.neurons]
        neuron = torch.tensor(places, device=self.device).repeat(len(asked.conditions))
        with self._described(asked.conditions) as ids:
            yield x, neuron, torch.tensor(ids, device=self.device).repeat_interleave(len(asked.neurons)), divisor

    @contextmanager
    def _described(self, conditions):
        """A context that gives the positions of the conditions' stimulus tokens, a list of int. Under "features" the module makes the tokens from the
        conditions and drops them when the context ends."""
        if not self.has_stimulus_tokens:
            yield [0] * len(conditions)
            return
        if self.stim_token != "features":
            yield [token_id(self.tokens.ids, c) for c in conditions]
            return
        places = {c: i for i, c in enumerate(dict.fromkeys(conditions))}
        with self.module.stimuli.described(*map(torch.from_numpy, self.tokens.numbers_of(places))):
            yield [places[c] for c in conditions]

    def token_table(self):
        """The neurons' learned tokens and their random starts.

        Returns
        -------
        tokens, start : float32 arrays, shape (neuron, width)
            In the order of `neurons`. A start is NaN if the saved model did not keep it.
        """
        table = self.module.neurons
        return tuple(t.detach().cpu().numpy().copy() for t in (table.table.weight, table.start))
