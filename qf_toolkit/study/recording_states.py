"""The state of the animal before each forecast, from behaviour: still or running, small or large pupil, with or without licks.

Only the frames before the onset are read, so that the state is one that could be known when the forecast is made.
"""

import numpy as np

from ..recordings.trials import Trials

MOVING = ("run", "speed", "veloc", "wheel", "treadmill", "locomotion")  # parts of the names of what tells running from rest
STILL_CM_S = 1.0
STILL_SHARE = 0.02  # of the session's largest speed, where the unit of the speed is not known
LEAST_TRIALS = 3  # of a state of a session; a behaviour with fewer in one state is left out there


def states_before(trials: Trials) -> dict[str, np.ndarray]:
    """The state before the onset of every trial, one entry for each behaviour.

    Parameters
    ----------
    trials : Trials
        Of one session.

    Returns
    -------
    dict of str to array of str, shape (trial,)
        {behaviour: states}. A speed is "still" or "running" (mean of its absolute value at most, or above, 1 cm/s; of a speed of unknown unit 2 % of
        the session's 99.9th percentile); any other sampled behaviour is "low" or "high" (its mean at most, or above, the median over these trials);
        events are "without" or "with". "" where it was not recorded. A behaviour that holds fewer than 3 trials in either state is left out.

    Examples
    --------
    >>> states_before(trials)
    {}
    """
    ds = trials.dataset(behaviour=True)
    before = ds["time"].values < 0
    found = {}
    for name, variable in ds.data_vars.items():
        if variable.dims != ("trial", "time"):
            continue
        values = variable.values[:, before]
        known = np.isfinite(values).any(-1)
        if not known.any():
            continue
        level = np.full(len(values), np.nan)
        of_speed = any(word in str(name).lower() for word in MOVING)
        level[known] = np.nanmean(np.abs(values[known]) if of_speed else values[known], -1)
        low, high, most = _rule(variable, level, of_speed)
        states = np.where(known, np.where(level > most, high, low), "")
        if min(np.count_nonzero(states == s) for s in (low, high)) >= LEAST_TRIALS:
            found[str(name)] = states
    return found


def _rule(variable, level, of_speed):
    """Names of the two states, and the largest level of the first."""
    if variable.attrs.get("kind") == "events":
        return "without", "with", 0.0
    if of_speed and variable.attrs.get("units") == "cm/s":
        return "still", "running", STILL_CM_S
    if of_speed:
        return "still", "running", STILL_SHARE * float(np.nanpercentile(np.abs(variable.values), 99.9))
    most = np.nanmedian(level)
    if not (level > most).any() and (level < most).any():  # half of the trials or more share the highest level
        most = level[level < most].max()
    return "low", "high", float(most)
