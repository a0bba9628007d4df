"""How sure a score or a difference is. A bootstrap draws animals, their sessions, and blocks of trials within a session, with replacement.

Neurons of a session are recorded together and share its state. Trials that follow each other share it, too. So neither neurons nor trials are
independent. The bootstrap therefore draws the units that are independent, level by level, as far as the recordings have these levels (hierarchical
bootstrap; Saravanan, Berman & Sober 2020). A block is a run of consecutive test trials of one session. Differences are drawn in pairs: a draw scores
both rows on the same trials.

With one animal, or one session, that level is fixed, and the interval does not extend to other animals or sessions. With few animals, intervals from
percentiles are somewhat too narrow: with 8 animals a 95 % interval covers about 90 %.
"""

import numpy as np

from ..errors import QfError

DRAWS = 5_000
LEVEL = 0.95
MOST_BLOCKS, LEAST_BLOCKS, BLOCK_TRIALS = 20, 5, 3
TOGETHER = 500  # draws held in memory at once


def blocks_of(n_trials):
    """Assign each of `n_trials` consecutive trials of a session to a block.

    A session has up to 20 blocks of at least 3 trials. It has at least 5 blocks, of fewer trials if need be, if it has 5 trials.

    Parameters
    ----------
    n_trials : int

    Returns
    -------
    int array, shape (trial,)
        Block of each trial, from 0 on.

    Examples
    --------
    >>> blocks_of(12).tolist()
    [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    """
    n = min(n_trials, max(LEAST_BLOCKS, min(MOST_BLOCKS, n_trials // BLOCK_TRIALS)))
    return np.arange(n_trials) * n // max(n_trials, 1)


def animal_of(header):
    """The animal that a session was recorded in.

    Parameters
    ----------
    header : xarray.Dataset
        The session; its attrs are read.

    Returns
    -------
    str
        The attr `mouse` if there is one, else `subject`. At the Allen Institute several containers, each a subject here, come from one mouse.
    """
    return str(header.attrs.get("mouse", header.attrs["subject"]))


def draws(units, n=DRAWS, seed=0):
    """Draw blocks for a bootstrap, and count how often each block is drawn.

    Parameters
    ----------
    units : pandas.DataFrame
        One row per block, with columns `animal` and `session`.
    n : int
        Number of draws.
    seed : int
        Seed of the draws.

    Yields
    ------
    int32 array, shape (draw, block)
        The counts of up to 500 draws; all arrays together hold `n` draws. If a session is drawn m times, m times as many of its blocks are drawn: the
        counts of its blocks sum to m times their number.
    """
    rng = np.random.default_rng(seed)
    animals = {animal: list(dict.fromkeys(rows["session"])) for animal, rows in units.groupby("animal", sort=True)}
    places = {session: np.flatnonzero((units["session"] == session).to_numpy()) for session in units["session"].unique()}
    for first in range(0, n, TOGETHER):
        k = min(TOGETHER, n - first)
        out = np.zeros((k, len(units)), np.int32)
        times = rng.multinomial(len(animals), np.full(len(animals), 1 / len(animals)), k)
        for column, sessions in zip(times.T, animals.values(), strict=True):
            chosen = rng.multinomial(column * len(sessions), np.full(len(sessions), 1 / len(sessions)))
            for m, session in zip(chosen.T, sessions, strict=True):
                at = places[session]
                out[:, at] = rng.multinomial(m * len(at), np.full(len(at), 1 / len(at)))
        yield out


def macro_means(units, numerator, denominator, counts):
    """Mean over sessions of k statistics, for each draw. Each statistic is a ratio of sums over a session's blocks, as in a table of `evaluate`.

    Parameters
    ----------
    units : pandas.DataFrame
        As for `draws`.
    numerator, denominator : float arrays, shape (block, k)
        What each block adds to the two sums.
    counts : int array, shape (draw, block)
        How often each block is drawn.

    Returns
    -------
    float array, shape (draw, k)
        NaN where the denominator of every drawn session is 0.
    """
    total = weight = 0.0
    for session in units["session"].unique():
        at = np.flatnonzero((units["session"] == session).to_numpy())
        drawn = counts[:, at]
        below = drawn @ denominator[at]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(below > 0, drawn @ numerator[at] / below, 0.0)
        times = (drawn.sum(1) / len(at))[:, None] * (below > 0)
        total, weight = total + times * ratio, weight + times
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, total / weight, np.nan)


def intervals(units, statistic, n=DRAWS, seed=0, level=LEVEL):
    """Ends of the bootstrap intervals of k statistics, by percentiles.

    Parameters
    ----------
    units : pandas.DataFrame
        As for `draws`.
    statistic : callable
        Takes counts, an int array of shape (draw, block), and returns a float array of shape (draw, k).
    n, seed : int
        As for `draws`.
    level : float
        Share of the draws inside the interval, between 0 and 1.

    Returns
    -------
    low, high : float arrays, shape (k,)
        NaN for a statistic that is finite in no draw.

    Raises
    ------
    QfError
        If `units` has no block.
    """
    if not len(units):
        raise QfError("bootstrap: expected at least one block of trials, found none. Choose trials that can be scored.")
    found = np.concatenate([statistic(counts) for counts in draws(units, n, seed)])
    low, high = np.full(found.shape[1], np.nan), np.full(found.shape[1], np.nan)
    known = np.isfinite(found).any(0)
    if known.any():
        low[known], high[known] = np.nanquantile(found[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def levels(units, n_trials):
    """Counts of the units that a bootstrap draws from.

    Parameters
    ----------
    units : pandas.DataFrame
        As for `draws`.
    n_trials : int
        Trials in all blocks together.

    Returns
    -------
    dict of str to int
        n_animals, n_sessions, n_blocks, n_trials.
    """
    return {"n_animals": units["animal"].nunique(), "n_sessions": units["session"].nunique(), "n_blocks": len(units), "n_trials": int(n_trials)}
