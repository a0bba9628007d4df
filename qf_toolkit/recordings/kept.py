"""Windows that were cut, kept for whoever asks for the same ones again: every row of a table reads the same trials."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import xarray as xr

MOST_MB = 256


class Kept:
    """Datasets by key, as many as fit; those that were asked for least recently go first.

    Parameters
    ----------
    most_mb : float
        MB (2**20 bytes) that they may take together; what is larger is made at each asking.
    """

    def __init__(self, most_mb: float = MOST_MB):
        self.most, self.nbytes = most_mb * 2**20, 0
        self._of: OrderedDict[Hashable, xr.Dataset] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """What stands under `key`, made where it is missing; a shallow copy, whose arrays nobody may change."""
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
