"""Hashes of what models have learnt, computed again only where a weight or a setting has changed."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from ..training.checkpoint import digest


class Digest:
    """Remembers the hash of a model. Weights are known by where they lie in memory and by torch's count of their changes, so nothing is copied."""

    def __init__(self) -> None:
        self._state: Any = None
        self._found = ""

    def __call__(self, tensors: Mapping[str, torch.Tensor], note: Any = None) -> str:
        """The hash of named tensors and of a note that JSON can hold; see `training.checkpoint.digest`."""
        state = [(name, t.data_ptr(), t._version, t.shape) for name, t in tensors.items()], json.dumps(note, sort_keys=True)
        if state != self._state:
            self._state, self._found = state, digest(tensors, note)
        return self._found
