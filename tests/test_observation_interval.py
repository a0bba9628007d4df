"""The inspector's interval covers what it says."""

import numpy as np
import pytest
from helpers import toy_session

from qf_toolkit.estimators.interface import Forecaster
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.recordings.trials import cut


class Exact(Forecaster):
    """Draws from what the measured frames are drawn from: white noise, less the mean of the 20 frames that make F0."""

    name, probabilistic = "exact", True

    def predict_arrays(self, asked):
        return np.zeros((*asked.context.shape[:2], 20), np.float32)

    def sample_arrays(self, asked, n_samples, seed):
        draws = np.random.default_rng([seed, abs(int(1e6 * asked.context.sum()))]).normal(size=(n_samples, *asked.context.shape[:2], 20))
        return (0.01 * np.sqrt(1.05) * draws).astype(np.float32)


def test_the_interval_covers_what_it_says():
    def change(traces, trials):
        traces[:] = 0.01 * np.random.default_rng(1).normal(size=traces.shape)

    trials = cut(toy_session(0, signal="dff", change=change), active_gain=0.5)
    observer = Observer(trials, [Exact()])  # 64 draws, as every inspector
    views = [observer.look("mouse/one", n, t).sel(model="exact", time=slice(0, None)) for n in trials.neurons for t in trials.table["trial"][::2]]
    inside = [((v["measured"] >= v["low"]) & (v["measured"] <= v["high"])).values for v in views]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.012)
