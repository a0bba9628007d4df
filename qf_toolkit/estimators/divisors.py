"""The divisor of each neuron's signal. Divided signals are alike in size, so that loud and calm neurons are learnt alike."""

import numpy as np

from ..recordings.conditions import category_of
from ..recordings.trials import Trials
from ..training.bank import Bank
from ..training.traces import Traces


def divisors_of(trials: Trials, normalise: str, traces: Traces) -> dict[str, float]:
    """Divisors of the neurons of a training part.

    Parameters
    ----------
    trials : Trials
    normalise : {"neuron", "global", "none"}
        The divisor is the standard deviation of the neuron's signal over its windows, the pooled standard deviation, or 1.
    traces : Traces
        Traces that hold the sessions of these trials.

    Returns
    -------
    dict
        {neuron key: divisor, in units of the signal}. The key "" holds the pooled divisor.

    Raises
    ------
    QfError
        If no observation is usable, unless `normalise` is "none".
    """
    keys = trials.neurons
    if normalise == "none":
        return dict.fromkeys(["", *keys], 1.0)
    bank = Bank(trials, {n: i for i, n in enumerate(keys)}, dict.fromkeys(map(category_of, trials.conditions), 0), traces.device, traces=traces)
    spread, count = bank.spread()
    spread, names = spread[count > 0], np.array(bank.keys, dtype=object)[count > 0]
    pooled = float(np.sqrt(np.mean(np.square(spread)))) or 1.0
    scale = {"": pooled}
    if normalise == "global":
        return {**scale, **dict.fromkeys(keys, pooled)}
    for n in keys:
        mine = spread[names == n]
        # without this floor the noise of a nearly silent neuron would become as large as the responses of the others
        scale[n] = max(float(np.sqrt(np.mean(np.square(mine)))), 0.1 * pooled) if len(mine) else pooled
    return scale
