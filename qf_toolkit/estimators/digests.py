"""Digests (hashes) of models, computed again only if a weight or a setting has changed."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from ..training.checkpoint import digest


class Digest:
    """Remembers the digest of a model. It recognises a weight by its memory address and by torch's count of changes, so it copies nothing."""

    def __init__(self) -> None:
        self._state: Any = None
        self._found = ""

    def __call__(self, tensors: Mapping[str, torch.Tensor], note: Any = None) -> str:
        """The digest of named tensors and of a note that JSON can hold; see `training.checkpoint.digest`."""
        state = [(name, t.data_ptr(), t._version, t.shape) for name, t in tensors.items()], json.dumps(note, sort_keys=True)
        if state != self._state:
            self._state, self._found = state, digest(tensors, note)
        return self._found
