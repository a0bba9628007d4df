"""Autoregression, the stimulus mean with the neuron's own context, and the smoothed ridge: each against a second computation, and each where it is strong."""

import numpy as np
import pandas as pd
import pytest
from helpers import toy_session
from sklearn.linear_model import LinearRegression, Ridge

from qf_toolkit.errors import UnknownKeyError
from qf_toolkit.estimators import autoregression, stimulus_context
from qf_toolkit.estimators.autoregression import Autoregression
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.naive import StimulusMean, TrainingMean
from qf_toolkit.estimators.ridge import RidgeOwn
from qf_toolkit.estimators.smoothed_ridge import SIGMAS_S, SmoothedRidge
from qf_toolkit.estimators.stimulus_context import StimulusContext
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.splits import Split, split_blocks
from qf_toolkit.recordings.trials import cut

ROWS = (Autoregression, StimulusContext, SmoothedRidge)


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(0, repeats=8)))


def dff(trials):
    ds = trials.dataset()
    return ds["dff"].values.astype(np.float64), ds["condition"].values.astype(str)


def error(row, split):
    x = dff(split.test)[0][..., 30:]
    return float(((row.fit(split).predict(split.test)["forecast"].values - x) ** 2).mean())


def process(coefficients, *, n_trials=90, n_neurons=4, seed=0):
    """A recording of one autoregressive process in every neuron, in z-scores."""
    rng = np.random.default_rng(seed)
    onsets = 20 + 40 * np.arange(n_trials)
    x, p = np.zeros((n_neurons, onsets[-1] + 60)), len(coefficients)
    for t in range(p, x.shape[1]):
        x[:, t] = sum(c * x[:, t - 1 - k] for k, c in enumerate(coefficients)) + rng.normal(size=n_neurons)
    trials = pd.DataFrame({"onset_frame": onsets, "stimulus": "none", "block": np.arange(n_trials) * 3 // n_trials})
    ds = new_session((0.05 * x).astype(np.float32), subject="m", session="s", rate_hz=10.0, signal="dff", trials=trials)
    return split_blocks(cut(ds, baseline_s=2, response_s=1, signal="zscore"))


def test_autoregression_finds_the_process_and_forecasts_it_best():
    coefficients = np.array([1.2, -0.5, 0.2])
    split = process(coefficients)
    row = Autoregression().fit(split)
    assert row.order >= 2
    three = row.coefficients.mean(0)
    assert three[:2] == pytest.approx(coefficients[:2], abs=0.12)
    truth = split.test.dataset()["zscore"].values[..., 20:]

    def error_of(forecast):
        return ((forecast - truth) ** 2)[..., :3].mean()

    assert error_of(row.predict(split.test)["forecast"].values) < 0.8 * error_of(TrainingMean().fit(split).predict(split.test)["forecast"].values)


def test_autoregression_without_shrinkage_is_least_squares(split, monkeypatch):
    monkeypatch.setattr(autoregression, "ORDERS", (3,))
    monkeypatch.setattr(autoregression, "SHRINKAGES", (0.0,))
    row = Autoregression().fit(split)
    x = dff(split.fitting)[0]
    test = dff(split.test)[0]
    out = row.predict(split.test)["forecast"].values
    for i in range(6):
        mean = x[:, i].mean()
        lags = np.stack([x[:, i, 3 - k : x.shape[-1] - k].ravel() - mean for k in range(4)], 1)
        want = LinearRegression(fit_intercept=False).fit(lags[:, 1:], lags[:, 0]).coef_
        assert row.coefficients[i] == pytest.approx(want, abs=1e-5)
        last = list(test[4, i, 27:30] - mean)
        for t in range(20):
            last.append(sum(c * last[-1 - k] for k, c in enumerate(want)))
            assert out[4, i, t] == pytest.approx(last[-1] + mean, abs=1e-5)


def test_an_unstable_process_does_not_run_away():
    grows = np.exp(np.arange(60) / 12)

    def change(traces, trials):
        for onset in trials["onset_frame"]:
            traces[:, onset - 30 : onset + 30] = 100 + grows

    ds = toy_session(0, n_conditions=1, repeats=10, spacing_s=6.0, change=change)
    split = split_blocks(cut(ds, response_s=2))
    row = Autoregression().fit(split)
    far = row.predict_arrays(Observations(np.ones((1, 1, 30), np.float32), [next(iter(row.neurons))], ["c"]))
    assert np.isfinite(far).all() and np.abs(far).max() < 1e3
    roots = [np.abs(np.roots([1, *-c])).max() for c in row.coefficients]
    assert max(roots) < 1


def test_stimulus_context_against_its_formula(split, monkeypatch):
    monkeypatch.setattr(stimulus_context, "LAST_S", (0.5,))
    monkeypatch.setattr(stimulus_context, "PSTH_SHRINKAGES", (3.0,))
    monkeypatch.setattr(stimulus_context, "SLOPE_SHRINKAGES", (0.0,))
    row = StimulusContext().fit(split)
    x, shown = dff(split.fitting)
    test, conditions = dff(split.test)
    out = row.predict(split.test)["forecast"].values
    for i in range(6):
        overall = x[:, i, 30:].mean(0)
        category = (x[:, i, 30:].sum(0) + 3 * overall) / (len(x) + 3)
        psth = {c: (x[shown == c, i, 30:].sum(0) + 3 * category) / ((shown == c).sum() + 3) for c in set(shown)}
        level = x[:, i, 25:30].mean(-1)
        deviation = level - level.mean()
        left = x[:, i, 30:] - np.stack([psth[c] for c in shown])
        slope = LinearRegression(fit_intercept=False).fit(deviation[:, None], left).coef_[:, 0]
        for trial in (0, 7):
            want = psth[conditions[trial]] + slope * (test[trial, i, 25:30].mean() - level.mean())
            np.testing.assert_allclose(out[trial, i], want, atol=2e-4)


def test_the_context_makes_the_stimulus_mean_stronger(split):
    assert error(StimulusContext(), split) < error(StimulusMean(), split)
    other = StimulusContext().fit(split).predict_arrays(Observations(np.zeros((1, 1, 30), np.float32), split.test.neurons[:1], ["new/x=1"]))
    assert np.isfinite(other).all()  # a condition that training lacks


def test_few_repeats_are_shrunk_more():
    many, few = (split_blocks(cut(toy_session(3, n_conditions=n, repeats=r))) for n, r in ((2, 20), (20, 2)))
    assert StimulusContext().fit(few).psth_shrinkage >= StimulusContext().fit(many).psth_shrinkage
    assert error(StimulusContext(), few) < error(StimulusMean(), few)


def test_the_smoothed_ridge_is_the_ridge_smoothed(split):
    row, plain = SmoothedRidge().fit(split), RidgeOwn().fit(split)
    assert row.penalty == plain.penalty and row.sigma_s in SIGMAS_S
    forecast = plain.predict(split.test)["forecast"].values.astype(np.float64)
    at = np.arange(20)
    want = forecast
    if row.sigma_s:
        weights = [np.exp(-(((at - t) / 10 / row.sigma_s) ** 2) / 2) for t in at]
        want = np.stack([(forecast * w).sum(-1) / w.sum() for w in weights], -1)
    np.testing.assert_allclose(row.predict(split.test)["forecast"], want, atol=1e-5)
    # the width was chosen by a ridge that never learnt from validation
    truth = dff(split.validation)[0][..., 30:]
    x, shown = dff(split.train)
    errors = []
    for sigma_s in SIGMAS_S:
        total = 0.0
        for i in range(6):

            def design(values, conditions, i=i):
                return np.concatenate([values[:, i, :30], plain._one_hot(list(conditions))], 1) * plain.scale[i]

            fitted = Ridge(alpha=plain.penalty).fit(design(x, shown), x[:, i, 30:])
            values, conditions = dff(split.validation)
            f = fitted.predict(design(values, conditions))
            if sigma_s:
                f = np.stack([(f * (w := np.exp(-(((at - t) / 10 / sigma_s) ** 2) / 2))).sum(-1) / w.sum() for t in at], -1)
            total += ((f - truth[:, i]) ** 2).sum()
        errors.append(total)
    assert row.sigma_s == SIGMAS_S[int(np.argmin(errors))]


@pytest.mark.parametrize("kind", ROWS)
def test_they_know_only_their_neurons_and_nothing_of_the_test_block(kind, split):
    row = kind().fit(split)
    with pytest.raises(UnknownKeyError, match="neuron"):
        row.predict_arrays(Observations(np.zeros((1, 1, 30), np.float32), ["new"], ["drifting_gratings/orientation=0"]))
    start = int(split.test.intervals("mouse/one")[:, 0].min())

    def change(traces, trials):
        traces[:, start:] = traces[:, start:][:, ::-1]

    other = kind().fit(split_blocks(cut(toy_session(0, repeats=8, change=change))))
    for name, array in row.arrays().items():
        assert np.array_equal(array, other.arrays()[name]), name


@pytest.mark.parametrize("kind", [Autoregression, StimulusContext])
def test_a_validation_part_without_whole_windows_is_told(kind):
    split = split_blocks(cut(toy_session(0)))
    row = kind().fit(Split(split.train, split.validation.subset(np.zeros(0, int)), split.test, ""))
    assert any("validation holds too little" in note for note in row.notes)
    assert np.isfinite(row.predict(split.test)["forecast"]).all()
