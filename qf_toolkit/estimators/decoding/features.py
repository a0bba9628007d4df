"""Features of traces: how decoders see the present and the past of the population. Every function reads a frame and earlier ones alone."""

from itertools import pairwise

import numpy as np


def standardised(x, valid, center, scale):
    """Traces about each neuron's training mean, in its standard deviations; a missing value is 0, the training mean.

    Parameters
    ----------
    x : float array, shape (trial, neuron, time)
    valid : bool array of this shape
    center, scale : float64 arrays, shape (neuron,)

    Returns
    -------
    float64 array, shape of `x`
    """
    return np.where(valid, (x - center[:, None]) / scale[:, None], 0.0)


def moments(x, valid):
    """Mean and standard deviation of each neuron over trials and frames, float64 (neuron,); 0 and 1 for a neuron without a value, 1 for a constant one."""
    n = np.maximum(valid.sum((0, 2)), 1)
    center = np.where(valid, x, 0.0).sum((0, 2), dtype=np.float64) / n
    scale = np.sqrt((np.where(valid, x - center[:, None], 0.0) ** 2).sum((0, 2), dtype=np.float64) / n)
    return center, np.where(scale > 1e-8, scale, 1.0)


def edges(length, bins):
    """Edges of at most `bins` bins over `length` frames, as even as they can be: a list of int from 0 to `length`."""
    return np.linspace(0, length, min(bins, length) + 1).round().astype(int).tolist()


def lagged(z, length, bins):
    """The past of every frame, averaged in time bins.

    Parameters
    ----------
    z : float64 array, shape (trial, neuron, time)
        Standardised traces.
    length : int
        How many frames are read, the present one included.
    bins : int
        At most so many bins; the first one holds the present frame.

    Returns
    -------
    float64 array, shape (trial, time, neuron * bin)
        Frames before the window count as missing.

    Examples
    --------
    >>> lagged(np.arange(1.0, 5.0)[None, None], 4, 2)[0].tolist()
    [[0.5, 0.0], [1.5, 0.0], [2.5, 0.5], [3.5, 1.5]]
    """
    n, time = z.shape[-1], np.arange(z.shape[-1])
    total = np.concatenate([np.zeros((*z.shape[:-1], 1)), np.cumsum(z, -1)], -1)  # a cumulative sum never looks ahead
    at = edges(length, bins)
    parts = [(total[..., np.clip(time + 1 - near, 0, n)] - total[..., np.clip(time + 1 - far, 0, n)]) / (far - near) for near, far in pairwise(at)]
    return np.stack(parts, -1).transpose(0, 2, 1, 3).reshape(len(z), n, -1)


def averaged(z, start, stop, bins):
    """The frames from `start` to before `stop`, averaged in at most `bins` time bins: float64 (trial, neuron * bin), of `z` (trial, neuron, time)."""
    at = edges(stop - start, bins)
    return np.stack([z[..., start + a : start + b].mean(-1) for a, b in pairwise(at)], -1).reshape(len(z), -1)
