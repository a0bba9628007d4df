"""The share of a response that repeats: unbiased for any number of repeats, against formulas written out by hand and against known truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import toy_session

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.interface import Forecaster
from qf_toolkit.estimators.naive import StimulusMean, TrainingMean
from qf_toolkit.evaluation.repeats import explainable, feve
from qf_toolkit.evaluation.scored import score
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

RATE, BEFORE, AFTER = 10.0, 5, 4


def repeated(seed, n_neurons, n_repeats, *, n_conditions=3, noise=1.0, shared=1.0, blocks=1, mean=None):
    """A dF/F Session whose responses are a known mean per condition plus noise, part of which lasts the whole trial; and these means."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n_conditions, AFTER)) if mean is None else mean
    shown = np.concatenate([rng.permutation(np.repeat(np.arange(n_conditions), n_repeats)) for _ in range(blocks)])
    block = np.repeat(np.arange(blocks), n_conditions * n_repeats)
    step = BEFORE + AFTER
    onsets = BEFORE + step * np.arange(len(shown)) + 3 * step * block
    traces = 0.01 * rng.normal(size=(n_neurons, onsets[-1] + step))
    for onset, condition in zip(onsets, shown, strict=True):
        x = mean[condition] + noise * rng.normal(size=(n_neurons, AFTER)) + shared * rng.normal(size=(n_neurons, 1))
        traces[:, onset : onset + AFTER] = x
    trials = pd.DataFrame(
        {"onset_frame": onsets, "offset_frame": onsets + AFTER, "stimulus": "gratings", "orientation": 45.0 * shown, "block": block}
    )
    ds = new_session(0.1 * traces.astype(np.float32), subject="m", session="s", rate_hz=RATE, signal="dff", trials=trials)
    return ds, mean


def trials_of(*args, **kwargs):
    ds, mean = repeated(*args, **kwargs)
    return cut(ds, baseline_s=BEFORE / RATE, response_s=AFTER / RATE, f0_s=BEFORE / RATE, signal="zscore"), mean


def zscored(trials):
    """Trials whose z-score has mean 0 and sd 0.1 by decree, so that the signal is ten times the stored dF/F."""
    return replace(trials, scaling={"m/s": dict.fromkeys(trials.neurons, (0.0, 0.1))})


@pytest.mark.parametrize("n_repeats", [2, 3, 8])
def test_it_is_unbiased_for_few_repeats_and_noise_that_lasts(n_repeats):
    trials, mean = trials_of(n_repeats, 900, n_repeats)
    found = explainable(zscored(trials))
    signal, noise = mean.var(), 2.0
    for column, want in (("signal", signal), ("noise", noise)):
        assert abs(found[column].mean() - want) < 3.5 * found[column].std() / 30, column
    naive = []  # the variance of the mean responses, uncorrected
    x = zscored(trials).dataset()["zscore"].values[..., BEFORE:]
    shown = zscored(trials).dataset()["condition"].values
    naive = np.stack([x[shown == c].mean(0) for c in np.unique(shown)]).transpose(1, 0, 2).reshape(900, -1).var(1).mean()
    assert naive - signal > 10 * abs(found["signal"].mean() - signal)
    assert (found["n_conditions"] == 3).all() and (found["n_repeats"] == n_repeats).all() and (found["reason"] == "").all()
    np.testing.assert_allclose(found["snr"], found["signal"] / found["noise"])
    np.testing.assert_allclose(found["explainable"], found["signal"] / (found["signal"] + found["noise"]))


def test_for_one_condition_it_is_the_signal_power_of_sahani_and_linden():
    trials = zscored(trials_of(0, 5, 6, n_conditions=1)[0])
    found = explainable(trials)
    x = trials.dataset()["zscore"].values[..., BEFORE:].astype(np.float64)
    n = len(x)
    for i in range(5):
        power_of_mean, mean_power = x[:, i].mean(0).var(), np.mean([r.var() for r in x[:, i]])
        assert found["signal"].iloc[i] == pytest.approx((n * power_of_mean - mean_power) / (n - 1), rel=1e-5)
        assert found["noise"].iloc[i] == pytest.approx(x[:, i].var(0, ddof=1).mean(), rel=1e-5)


def test_the_interval_is_the_jackknife_over_trials_and_covers():
    trials, mean = trials_of(1, 300, 5, mean=np.random.default_rng(9).normal(size=(3, AFTER)))
    found = explainable(zscored(trials))
    want = mean.var() / (mean.var() + 2.0)
    covered = ((found["low"] <= want) & (want <= found["high"])).mean()
    assert covered > 0.9
    # by hand for one neuron: each trial left out in turn
    one = zscored(trials).of_neurons([trials.neurons[0]])
    table = one.table
    left = np.array([explainable(one.subset(np.arange(len(one)) != i))["explainable"].iloc[0] for i in range(len(one))])
    variance = sum(4 / 5 * ((v - v.mean()) ** 2).sum() for c in table["condition"].unique() for v in [left[(table["condition"] == c).to_numpy()]])
    assert (found["high"] - found["low"]).iloc[0] == pytest.approx(2 * 1.959964 * np.sqrt(variance), rel=1e-4)


def test_two_repeats_give_a_number_without_an_interval():
    found = explainable(zscored(trials_of(3, 4, 2)[0]))
    assert found["explainable"].notna().all() and found[["low", "high"]].isna().all(axis=None)


def test_where_nothing_repeats_it_says_why():
    trials = zscored(trials_of(4, 3, 1, n_conditions=8)[0])
    found = explainable(trials)
    assert found[["explainable", "snr", "signal", "low"]].isna().all(axis=None) and found["reason"].str.contains("shown twice").all()
    split = split_blocks(cut(toy_session(0, repeats=1, n_conditions=9), baseline_s=2, response_s=1))
    rows = feve(score([], split), explainable(split.test))
    assert rows["feve"].isna().all() and (rows["n_neurons"] == 0).all() and rows["reason"].str.contains("shown twice").all()


def test_holes_leave_out_only_their_windows():
    def holes(traces, trials):
        traces[2, trials["onset_frame"][5] + 3] = np.nan

    trials = [cut(toy_session(0, change=change)) for change in (None, holes)]
    whole, holed = map(explainable, trials)
    assert np.array_equal(whole.drop("mouse/one/2", level="neuron")["explainable"], holed.drop("mouse/one/2", level="neuron")["explainable"])
    assert holed.loc[("mouse/one", "mouse/one/2"), "n_repeats"] == np.isfinite(trials[1].dataset()["dff"].values[:, 2]).all(-1).sum() / 4 < 15


class Means(Forecaster):
    name = "the truth's own means"

    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def predict(self, trials):
        ds = trials.dataset()
        at = (ds["orientation"].values / 45).round().astype(int)
        shape = (len(trials), len(trials.neurons), AFTER)
        coords = {"trial": ds["trial"].values, "neuron": ds["neuron"].values}
        x = np.broadcast_to(self.mean[at][:, None], shape).astype(np.float32)
        return ds["zscore"].isel(time=slice(BEFORE, None)).copy(data=x).assign_coords(coords).to_dataset(name="forecast")


def test_feve_of_the_true_means_is_one_and_of_a_constant_nothing():
    trials, mean = trials_of(5, 200, 10, blocks=3)
    split = split_blocks(trials)
    split = replace(split, **{part: zscored(getattr(split, part)) for part in ("train", "validation", "test")})
    repeats = explainable(split.test)
    found = score(Means(mean), split)
    table = feve(found, repeats)
    assert table.loc["the truth's own means", "feve"] == pytest.approx(1, abs=0.05)
    assert table.loc["training mean", "feve"] == pytest.approx(0, abs=0.1)
    assert table.loc["stimulus mean (PSTH)", "feve"] == pytest.approx(1, abs=0.25) and (table["n_neurons"] + table["left_out"] == 200).all()
    # by hand, and at a threshold that leaves some out
    threshold = float(repeats["explainable"].median())
    few = feve(found, repeats, threshold)
    x = split.test.dataset()["zscore"].values[..., BEFORE:].astype(np.float64)
    forecast = TrainingMean().fit(split).predict(split.test)["forecast"].values
    shown = split.test.dataset()["condition"].values
    values = []
    for i in np.flatnonzero(repeats["explainable"] >= threshold):
        noise = np.mean([x[shown == c, i].var(0, ddof=1).mean() for c in np.unique(shown)])
        total = noise + repeats["signal"].iloc[i]
        values.append(1 - (((forecast[:, i] - x[:, i]) ** 2).mean() - noise) / (total - noise))
    assert few.loc["training mean", "n_neurons"] == len(values) == 100 and few.loc["training mean", "left_out"] == 100
    assert few.loc["training mean", "feve"] == pytest.approx(np.mean(values), rel=1e-4)


def test_what_does_not_go_together_is_refused():
    split = split_blocks(cut(toy_session(0)))
    found = score(StimulusMean().fit(split), split, naive=False)
    with pytest.raises(QfError, match="threshold: expected a share"):
        feve(found, explainable(split.test), 1.5)
    with pytest.raises(QfError, match=r"Pass explainable\(split.test\)"):
        feve(found, explainable(cut(toy_session(0, subject="rat"))))
    none = feve(found, explainable(split.test), 0.999)
    assert "no neuron has an explainable share of 0.999" in none["reason"].iloc[0]
