"""Sums over the blocks of test trials, from which skill by horizon step and by group is computed, with intervals, without any forecast at hand."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass
class Sums:
    """Sums of each block over some keys: over horizon steps, or over groups of windows. They grow with blocks, not with neurons or frames.

    Attributes
    ----------
    keys : pandas.DataFrame
        One row per key, the columns of the arrays: `step` and `time_s` (seconds from the onset to the end of the step), or `grouping` and `group`.
    frames : float64 array, shape (block, key)
        Number of scored frames.
    windows : float64 array, shape (block, key)
        Number of windows that have an r; empty for steps.
    squared, crps, r : dict of str to float64 array, shape (block, key)
        By row of the table: the summed squared error, in squared units of the signal; the summed crps of frames, in its units (only rows that were
        sampled); the summed r of windows (not for steps).
    """

    keys: pd.DataFrame
    frames: np.ndarray
    windows: np.ndarray
    squared: dict = field(default_factory=dict)
    crps: dict = field(default_factory=dict)
    r: dict = field(default_factory=dict)


def joined(keys: pd.DataFrame, frames: list, windows: list, **of_rows: dict) -> Sums:
    """Join the sums of all sessions.

    Parameters
    ----------
    keys : pandas.DataFrame
    frames, windows : list of float64 array, shape (block, key)
        One per session. A session with fewer keys (a shorter window) counts 0 at the others.
    **of_rows : dict of str to list
        `squared`, `crps`, `r`: {row: one array per session}.

    Returns
    -------
    Sums
    """

    def join(parts):
        wide = [np.pad(p, ((0, 0), (0, len(keys) - p.shape[1]))) for p in parts]
        return np.concatenate(wide) if wide else np.zeros((0, len(keys)))

    return Sums(keys, join(frames), join(windows), **{what: {name: join(parts) for name, parts in of.items()} for what, of in of_rows.items()})
