"""A cache of cut windows. Every row of a results table reads the same trials, so that each needs to be cut only once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import xarray as xr

MOST_MB = 256


class Kept:
    """Datasets by key, up to a total size. When they exceed it, the least recently used ones are dropped first.

    Parameters
    ----------
    most_mb : float
        Most MB (2**20 bytes) of all datasets together. A dataset that is larger on its own is never kept, and made anew each time.
    """

    def __init__(self, most_mb: float = MOST_MB):
        self.most, self.nbytes = most_mb * 2**20, 0
        self._of: OrderedDict[Hashable, xr.Dataset] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """The dataset of `key`, made by `make` if it is missing. It is a shallow copy: callers must not change its arrays."""
        if key not in self._of:
            made = make()
            if made.nbytes > self.most:
                return made
            self._of[key] = made
            self.nbytes += made.nbytes
            while self.nbytes > self.most:
                self.nbytes -= self._of.popitem(last=False)[1].nbytes
        self._of.move_to_end(key)
        return self._of[key].copy(deep=False)
