"""Scores of draws, each against a second computation by loops or by another library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import QfError
from qf_toolkit.evaluation import distribution_scores as d
from qf_toolkit.evaluation import scores as m


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5, 3, 8))
    samples = rng.normal(size=(11, *truth.shape))
    mask = rng.random(truth.shape) < 0.8
    mask[2] = False
    return samples, truth, mask


def test_energy_by_loops(arrays):
    samples, truth, mask = arrays
    found = d.energy_score(samples, truth, mask)
    for i in range(5):
        if i == 2:
            assert np.isnan(found[i])
            continue
        x, y = [s[i][mask[i]] for s in samples], truth[i][mask[i]]
        error = np.mean([np.linalg.norm(a - y) for a in x])
        pairs = np.mean([np.linalg.norm(a - b) for j, a in enumerate(x) for k, b in enumerate(x) if j != k])
        assert found[i] == pytest.approx((error - pairs / 2) / np.sqrt(len(y)))
    one = d.energy_score(samples[:, :1, :1, :1], truth[:1, :1, :1])
    assert one[0] == pytest.approx(m.crps_samples(samples[:, :1, :1, :1], truth[:1, :1, :1]))  # of one value it is the crps


def test_energy_sees_what_crps_does_not():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(64, 40, 1, 1)) * np.ones((1, 1, 6, 5))
    alone = rng.normal(size=(64, 40, 6, 5))
    truth = rng.normal(size=(40, 1, 1)) * np.ones((1, 6, 5))
    assert m.crps_samples(shared, truth) == pytest.approx(m.crps_samples(alone, truth), rel=0.06)
    assert d.energy_score(shared, truth).mean() < 0.95 * d.energy_score(alone, truth).mean()


def test_fair_estimators_do_not_depend_on_the_number_of_draws():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(400, 4, 3))
    few, many = rng.normal(size=(3, *truth.shape)), rng.normal(size=(60, *truth.shape))
    assert d.energy_score(few, truth).mean() == pytest.approx(d.energy_score(many, truth).mean(), rel=0.03)


@given(st.integers(1, 40), st.sampled_from(d.LEVELS), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_intervals_of_sorted_draws_are_those_of_numpy(n, level, seed):
    x = np.random.default_rng(seed).normal(size=(n, 7))
    np.testing.assert_allclose(m.interval_of(np.sort(x, 0), level), m.central_interval(x, level), rtol=1e-12)


def test_an_ensemble_in_chunks_is_that_of_the_whole(arrays):
    samples, truth, mask = arrays
    found = d.Ensemble()
    for at in ([0, 1], [2], [3, 4]):
        found.add(samples[:, at], truth[at], mask[at])
    scores = found.scores()
    assert scores["crps"] == pytest.approx(m.crps_samples(samples, truth, mask))
    for level in d.LEVELS:
        assert scores[f"coverage_{round(100 * level)}"] == pytest.approx(m.coverage(samples, truth, level, mask))
    assert scores["energy"] == pytest.approx(np.nanmean(d.energy_score(samples, truth, mask)))
    assert scores["pit"] == pytest.approx(d.pit_deviation(d.pit_histogram(samples, truth, mask)))
    per_frame = np.concatenate(found.crps)
    assert per_frame.sum() / mask.sum() == pytest.approx(scores["crps"]) and not per_frame[~mask].any()
    assert per_frame[0, 1, 2] == pytest.approx(
        m.crps_samples(samples[:, 0, 1, 2].reshape(-1, 1, 1, 1), truth[0, 1, 2].reshape(1, 1, 1)) * mask[0, 1, 2]
    )
    assert set(scores) == set(d.names()) and np.isnan(list(d.Ensemble().scores().values())).all()


def test_pit_by_a_randomised_transform():
    rng = np.random.default_rng(3)
    truth = np.round(rng.normal(size=(20, 5, 40)), 1)  # with ties
    samples = np.round(0.6 * rng.normal(size=(9, *truth.shape)) + 0.2, 1)
    counts = np.zeros(10)
    for _ in range(30):
        below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
        u = (below + rng.random(truth.shape) * (equal + 1)) / 10
        counts += np.histogram(u, bins=10, range=(0, 1))[0]
    found = d.pit_histogram(samples, truth)
    assert found.sum() == pytest.approx(1) and found == pytest.approx(counts / counts.sum(), abs=0.004)
    assert d.pit_deviation(found) == pytest.approx(sum(max(0, f - 0.1) for f in found))  # total variation: the mass above flat


@pytest.mark.parametrize("n", [5, 19, 64])
def test_a_calibrated_forecast_is_flat_for_any_number_of_draws(n):
    rng = np.random.default_rng(n)
    truth = rng.normal(size=(40, 10, 50))
    samples = rng.normal(size=(n, *truth.shape))
    assert d.pit_deviation(d.pit_histogram(samples, truth)) < 0.015
    narrow = d.pit_histogram(0.5 * samples, truth)
    assert narrow[0] > 0.15 and narrow[-1] > 0.15  # a valley


def test_sd_ratio_by_loop():
    rng = np.random.default_rng(4)
    forecast, mask = rng.normal(size=(6, 4, 9)).astype(np.float32), rng.random((6, 4, 9)) < 0.7
    sd = np.array([1.0, 2.0, 0.0, np.nan])  # a neuron that never changed, and one that training does not hold
    want = np.mean([forecast[:, i][mask[:, i]].std() / sd[i] for i in range(2)])
    assert d.sd_ratio(forecast, mask, sd) == pytest.approx(want, rel=1e-5)
    assert d.sd_ratio(np.full((6, 4, 9), 0.1, np.float32), mask, sd) == 0


def test_shapes_are_checked():
    with pytest.raises(QfError, match="samples: expected shape"):
        d.energy_score(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)))
