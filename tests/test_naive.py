import warnings

import numpy as np
import pytest
import xarray as xr
from helpers import toy_session
from sklearn.linear_model import Ridge

from qf_toolkit.errors import LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators import frequency, naive, rows
from qf_toolkit.estimators.interface import Forecaster, Observations
from qf_toolkit.estimators.ridge import PENALTIES, RidgePopulation
from qf_toolkit.evaluation import table
from qf_toolkit.evaluation.compare import compare, per_neuron_scores
from qf_toolkit.recordings.splits import leave_one_out, split_blocks
from qf_toolkit.recordings.trials import cut

ROWS = [
    "copy last", "mean of the context", "training mean", "stimulus mean (PSTH)", "ridge, own trace", "ridge, population", "autoregression",
    "PSTH + own context", "smoothed ridge",
]  # fmt: skip


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(0)))


@pytest.fixture(scope="module")
def fitted(split):
    return {f.name: f.fit(split) for f in rows.naive_forecasters()}


def _values(trials, start=None, stop=None):
    ds = trials.dataset()
    return ds["dff"].values[..., start:stop].astype(np.float64), ds


def test_nine_rows(fitted):
    assert list(fitted) == ROWS


def test_context_rows(split, fitted):
    x, ds = _values(split.test)
    n = ds.attrs["n_baseline"]
    out = fitted["copy last"].predict(split.test)["forecast"]
    assert out.dims == ("trial", "neuron", "time") and out["time"].values[0] == 0
    assert np.allclose(out, np.repeat(x[..., n - 1 : n], 20, -1), atol=1e-6)
    assert np.allclose(fitted["mean of the context"].predict(split.test)["forecast"], x[..., :n].mean(-1, keepdims=True), atol=1e-6)
    assert (naive.Zero().fit(split).predict(split.test)["forecast"] == 0).all()


def test_training_mean_and_psth(split, fitted):
    x, ds = _values(split.fitting, 30)
    assert np.allclose(fitted["training mean"].predict(split.test)["forecast"][0], x.mean((0, 2))[:, None], atol=1e-5)
    resolved = naive.TrainingMean(time_resolved=True).fit(split).predict(split.test)["forecast"]
    assert np.allclose(resolved[3], x.mean(0), atol=1e-5)
    out = fitted["stimulus mean (PSTH)"].predict(split.test)["forecast"]
    for i, condition in enumerate(out["condition"].values):
        assert np.allclose(out[i], x[ds["condition"].values == condition].mean(0), atol=1e-5)


def test_psth_falls_back_to_category_then_neuron():
    s = split_blocks(cut(toy_session(1, stimuli=("gratings", "scenes"))))
    psth = naive.StimulusMean().fit(s)
    x, ds = _values(s.fitting, 30)
    neurons, context = s.test.neurons, np.zeros((3, 6, 30), np.float32)
    out = psth.predict_arrays(Observations(context, neurons, ["scenes/orientation=999", "noise/frame=3", "scenes/orientation=45"]))
    assert np.allclose(out[0], x[ds["stimulus"].values == "scenes"].mean(0), atol=1e-5)
    assert np.allclose(out[1], x.mean(0), atol=1e-5)
    assert np.allclose(out[2], x[ds["condition"].values == "scenes/orientation=45"].mean(0), atol=1e-5)


def test_ridge_own_against_sklearn(split, fitted):
    ridge = fitted["ridge, own trace"]

    def design(trials, i):
        x, ds = _values(trials)
        return np.concatenate([x[:, i, :30], ridge._one_hot(list(ds["condition"].values))], 1) * ridge.scale[i], x[:, i, 30:]

    errors = []
    for penalty in PENALTIES:
        error = 0
        for i in range(6):
            xv, yv = design(split.validation, i)
            error += ((Ridge(alpha=penalty).fit(*design(split.train, i)).predict(xv) - yv) ** 2).sum()
        errors.append(error)
    assert ridge.penalty == PENALTIES[int(np.argmin(errors))]
    assert np.diff(ridge.errors) == pytest.approx(np.diff(errors), abs=1e-6)
    out = ridge.predict(split.test)["forecast"].values
    for i in range(6):
        want = Ridge(alpha=ridge.penalty).fit(*design(split.fitting, i)).predict(design(split.test, i)[0])
        assert np.allclose(out[:, i], want, atol=1e-4)


@pytest.mark.parametrize("gap", [False, True])
def test_ridge_population_against_sklearn(gap):
    def change(traces, trials):
        if gap:
            traces[2, 300:330] = np.nan

    s = split_blocks(cut(toy_session(2, change=change)))
    ridge = RidgePopulation().fit(s)
    (population,) = ridge.populations.values()

    def design(trials):
        x, ds = _values(trials)
        whole = np.isfinite(x).all(-1)
        x = np.nan_to_num(x)
        bins = np.stack([x[..., a:b].mean(-1) for a, b in zip([0, 4, 8, 11, 15, 19, 22, 26], [4, 8, 11, 15, 19, 22, 26, 30], strict=True)], -1)
        return np.concatenate([bins.reshape(len(x), -1) * population["scale"], ridge._one_hot(list(ds["condition"].values))], 1), x[..., 30:], whole

    (xt, yt, wt), (xv, yv, wv), (xf, yf, wf), (xe, _, _) = map(design, (s.train, s.validation, s.fitting, s.test))
    assert (not wf.all()) == gap
    errors = [
        sum(((Ridge(alpha=p).fit(xt[wt[:, i]], yt[wt[:, i], i]).predict(xv) - yv[:, i])[wv[:, i]] ** 2).sum() for i in range(6)) for p in PENALTIES
    ]
    assert population["errors"] == pytest.approx(errors, rel=1e-5)
    out = ridge.predict(s.test)["forecast"].values
    for i in range(6):
        want = Ridge(alpha=population["penalty"]).fit(xf[wf[:, i]], yf[wf[:, i], i]).predict(xe)
        assert np.allclose(out[:, i], want, atol=1e-4)


def test_nan_stretch_leaves_only_its_observations_out():
    def change(traces, trials):
        traces[1, 200:210] = np.nan

    s = split_blocks(cut(toy_session(3, change=change)))
    x, ds = _values(s.fitting, 30)
    whole = np.isfinite(_values(s.fitting)[0]).all(-1)
    assert not whole[:, 1].all() and whole[:, 0].all()
    out = naive.StimulusMean().fit(s).predict(s.test)["forecast"]
    condition = str(out["condition"].values[0])
    assert np.allclose(out[0, 1], x[(ds["condition"].values == condition) & whole[:, 1], 1].mean(0), atol=1e-5)
    for f in rows.naive_forecasters():
        assert np.isfinite(f.fit(s).predict(s.test)["forecast"]).all()


def test_frames_after_onset_do_not_change_a_forecast(split, fitted):
    # the last test trial: nothing else reads its frames after the onset
    onset = int(split.test.table["onset_frame"].max())

    def change(traces, trials):
        traces[:, onset:] *= np.float32(3.7)

    other = split_blocks(cut(toy_session(0, change=change)))
    last = split.test.table["onset_frame"].to_numpy() == onset
    assert not np.array_equal(_values(other.test.subset(last), 30)[0], _values(split.test.subset(last), 30)[0])
    for name, f in fitted.items():
        a, b = f.predict(split.test.subset(last)), f.predict(other.test.subset(last))
        assert np.array_equal(a["forecast"], b["forecast"]), name


def test_altered_test_block_does_not_change_what_is_learnt(split, fitted):
    first = int(split.test.intervals("mouse/one")[:, 0].min())

    def change(traces, trials):
        traces[:, first:] = traces[:, first:][:, ::-1]
        rows = trials.index[trials["block"] == 2]
        trials.loc[rows, "orientation"] = trials.loc[rows, "orientation"].to_numpy()[::-1]

    other = split_blocks(cut(toy_session(0, change=change)))
    assert list(other.test.table["condition"]) != list(split.test.table["condition"])
    for f in rows.naive_forecasters():
        again = f.fit(other).predict(split.test)["forecast"]
        assert np.array_equal(again, fitted[f.name].predict(split.test)["forecast"]), f.name


def test_seen_trials_are_refused(split, fitted):
    for f in fitted.values():
        f.check_unseen(split.test)
        for part in (split.train, split.validation):
            with pytest.raises(LeakageError, match="saw"):
                f.check_unseen(part)
        renamed = split_blocks(cut(toy_session(0, session="other")))
        with pytest.raises(LeakageError, match="mouse/other"):
            f.check_unseen(renamed.train)


def test_other_windows_and_neurons_are_refused(split, fitted):
    with pytest.raises(QfError, match="expected 3.0, the model"):
        fitted["training mean"].predict(cut(toy_session(0), baseline_s=2))
    stranger = split_blocks(cut(toy_session(0, subject="rat"))).test
    for name in ROWS[2:]:
        with pytest.raises(UnknownKeyError, match="neuron"):
            fitted[name].predict(stranger)
    with pytest.raises(UnknownKeyError, match="all neurons"):
        fitted["ridge, population"].predict(cut(toy_session(0), neurons=split.test.neurons[:3]))
    with pytest.raises(QfError, match="fit"):
        naive.CopyLast().predict(split.test)


def test_zscore_uses_the_training_scale():
    s = split_blocks(cut(toy_session(0), signal="zscore"))
    unscaled = cut(toy_session(0), signal="zscore").subset((s.test.table["trial"]).to_numpy())
    f = naive.StimulusMean().fit(s)
    assert np.array_equal(f.predict(unscaled)["forecast"], f.predict(s.test)["forecast"])


def test_frequency_classifier(split):
    f = frequency.FrequencyClassifier(shrinkage=3).fit(split)
    p, ds = f.predict_probability(split.test), split.fitting.dataset()
    condition = split.test.table["condition"][0]
    a = ds["active"].values
    own = (a.sum(0) + 1) / (len(a) + 2)
    here = a[ds["condition"].values == condition]
    assert p.dims == ("trial", "neuron")
    assert np.allclose(p[0], (here.sum(0) + 3 * own) / (len(here) + 3))


def test_frequency_falls_back_to_category_then_neuron():
    s = split_blocks(cut(toy_session(1, stimuli=("gratings", "scenes"))))
    new = s.test.subset(np.arange(3))
    new.table["condition"] = ["scenes/orientation=999", "noise/frame=3", "scenes/orientation=45"]
    p, ds = frequency.FrequencyClassifier(shrinkage=3).fit(s).predict_probability(new), s.fitting.dataset()
    a = ds["active"].values
    own = (a.sum(0) + 1) / (len(a) + 2)
    for i, here in enumerate((ds["stimulus"] == "scenes", ds["stimulus"] == "none", ds["condition"] == "scenes/orientation=45")):
        here = a[here.values]
        np.testing.assert_allclose(p[i], (here.sum(0) + 3 * own) / (len(here) + 3) if len(here) else own)


class Noisy(Forecaster):
    """The truth plus noise, as an ensemble: knows what no forecaster may, to test the table."""

    name, probabilistic = "oracle", True

    def __init__(self, trials, sd=0.1):
        super().__init__()
        self.truth, self.sd = trials, sd

    def predict(self, trials):
        x, ds = _values(trials, 30)
        return xr.Dataset({"forecast": (("trial", "neuron", "time"), x)}, {"time": ds["time"].values[30:]})

    def sample(self, trials, n_samples=100, seed=0):
        x = self.predict(trials)["forecast"].values
        x = x + self.sd * np.random.default_rng(seed).normal(size=(n_samples, *x.shape))
        return xr.Dataset({"samples": (("sample", "trial", "neuron", "time"), x)})


def test_evaluate_table(split, fitted):
    t = table.evaluate(Noisy(split.test), split, n_samples=30)
    assert list(t.index) == ["oracle", *ROWS]
    x, _ = _values(split.test, 30)
    for name in ROWS:
        f = fitted[name].predict(split.test)["forecast"].values
        assert t.loc[name, "mse"] == pytest.approx(((f - x) ** 2).mean(), rel=1e-5)
    assert t.loc["mean of the context", "mse_ratio"] == pytest.approx(1)
    assert t.loc["stimulus mean (PSTH)", "mse_ratio"] < 0.9
    assert t.loc["oracle", "mse"] == pytest.approx(0) and t.loc["oracle", "r"] == pytest.approx(1)
    assert t.loc["oracle", "coverage_90"] > 0.99 and 0.01 < t.loc["oracle", "crps"] < 0.04
    assert (t.loc[ROWS, "crps"] < t.loc[ROWS, "mae"]).all() and t.loc[ROWS, "coverage_90"].between(0.6, 1).all() and t.attrs["residuals"] == ROWS
    alone = table.evaluate([], split)
    assert alone["crps"].equals(alone["mae"]) and alone["coverage_90"].isna().all() and alone.attrs["residuals"] == []
    assert np.isinf(t.loc["copy last", "paper_mse"]) and t.loc["copy last", "r"] == 0
    assert t.attrs["n_trials"] == 20 and t.attrs["n_observations"] == 120 and not t.attrs["simulated"]
    assert t.attrs["active_fraction"] == pytest.approx(split.test.dataset()["active"].values.mean())
    text = table.show(t)
    assert all(name in text for name in ROWS) and "SIMULATED" not in text and "active" in text


def test_evaluate_is_the_mean_of_sessions():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = split_blocks(cut([toy_session(0, session="a"), toy_session(5, session="b", repeats=3, source="simulation")]))
    t = table.evaluate([], s)
    single = []
    for session in ("mouse/a", "mouse/b"):
        part = s.test.subset((s.test.table["session"] == session).to_numpy())
        f = naive.StimulusMean().fit(s).predict(part)["forecast"].values
        single.append(((f - _values(part, 30)[0]) ** 2).mean())
    assert t.loc["stimulus mean (PSTH)", "mse"] == pytest.approx(np.mean(single), rel=1e-5)
    assert t.attrs["n_sessions"] == 2 and t.attrs["n_trials"] == 20 + 12
    assert "SIMULATED DATA" in table.show(t)


def test_evaluate_scores_only_score_s():
    s = split_blocks(cut(toy_session(0), score_s=0.5))
    x, _ = _values(s.test, 30, 35)
    f = naive.StimulusMean().fit(s).predict(s.test)["forecast"].values[..., :5]
    assert table.evaluate([], s).loc["stimulus mean (PSTH)", "mse"] == pytest.approx(((f - x) ** 2).mean(), rel=1e-5)


def test_evaluate_refuses_leaks_and_nan(split):
    leaky = naive.StimulusMean()
    leaky.fit(split_blocks(cut(toy_session(0, session="copy")), test=0))
    with pytest.raises(LeakageError):
        table.evaluate({"leaky": leaky}, split)

    class Broken(naive.Zero):
        name = "broken"

        def predict_arrays(self, *a):
            return super().predict_arrays(*a) * np.nan

    with pytest.raises(QfError, match="NaN"):
        table.evaluate(Broken().fit(split), split)


def test_leaving_a_subject_out_says_which_rows_cannot_be_made():
    s = leave_one_out(cut([toy_session(0), toy_session(1, subject="rat")]), subject="rat")
    t = table.evaluate([], s)
    assert set(t.attrs["not_applicable"]) == set(ROWS[2:])
    assert np.isfinite(t.loc["copy last", "mse"]) and np.isnan(t.loc["training mean", "mse"])
    assert "not applicable: training mean" in table.show(t)


def test_per_neuron_scores(split, fitted):
    scores = per_neuron_scores(list(fitted.values()), split.test)
    t = table.evaluate([], split)
    assert scores["mse"].shape == (6, len(ROWS))
    assert scores["mse"].mean().to_numpy() == pytest.approx(t["mse"].to_numpy(dtype=float), rel=1e-5)
    assert scores["r"].mean().to_numpy() == pytest.approx(t["r"].to_numpy(dtype=float), rel=1e-5)


def test_compare_is_the_difference_of_the_scores(split):
    mine = naive.Zero().fit(split)
    c = compare(mine, split)
    t = table.evaluate(mine, split)
    assert list(c.index.get_level_values("than")) == ROWS and set(c.index.get_level_values("forecaster")) == {"zero"}
    wanted = (t.loc[ROWS, "mse"] - t.loc["zero", "mse"]).to_numpy(dtype=float)
    np.testing.assert_allclose(c["mse_lower"], wanted, rtol=1e-4, atol=1e-9)
    assert (c["mse_lower_from"] <= c["mse_lower"]).all() and (c["mse_lower"] <= c["mse_lower_to"]).all()
    with pytest.raises(LeakageError):
        compare(naive.Zero().fit(split_blocks(cut(toy_session(0)), test=0)), split)


def test_compare_refuses_shared_names_and_tells_what_cannot_be_made(split):
    with pytest.raises(QfError, match="ridge, own trace"):
        compare({"ridge, own trace": naive.Zero().fit(split)}, split)
    sessions = [toy_session(i, subject=f"m{i}") for i in range(2)]
    left = leave_one_out(cut(sessions), subject="m1")
    c = compare(naive.Zero().fit(left), left)
    assert set(c.attrs["not_applicable"]) == set(ROWS[2:])
    assert c.index.get_level_values("than").tolist() == ["copy last", "mean of the context"]


def test_the_ratio_counts_every_session_once():
    loud, calm = toy_session(0, session="loud"), toy_session(1, session="calm")
    loud["fluorescence"][:] = 100 + 8 * (loud["fluorescence"] - loud["fluorescence"].mean("frame"))
    both = split_blocks(cut([loud, calm]))
    each = [table.evaluate([], split_blocks(cut(s)))["mse_ratio"] for s in (loud, calm)]
    ratio = table.evaluate([], both)["mse_ratio"]
    # rows that learn nothing from the other session
    for name in ("copy last", "training mean", "stimulus mean (PSTH)", "ridge, population"):
        assert ratio[name] == pytest.approx((each[0][name] + each[1][name]) / 2, rel=1e-6)


def test_evaluate_classifier(split):
    class Always(frequency.FrequencyClassifier):
        name = "oracle"

        def predict_probability(self, trials):
            return trials.dataset()["active"].astype(float)

    t = table.evaluate_classifier(Always().fit(split), split)
    assert list(t.index) == ["oracle", "frequency of activation", "response level over F0", "frequency over F0"]
    assert t.loc["oracle", "balanced_accuracy"] == 1 and t.loc["oracle", "f1"] == 1
    assert 0.5 < t.loc["frequency of activation", "balanced_accuracy"] < 1
    assert "frequency of activation" in table.show(t)
    with pytest.raises(LeakageError):
        table.evaluate_classifier(
            frequency.FrequencyClassifier().fit(split_blocks(split.train, test=0)).fit(split_blocks(cut(toy_session(0)), test=0)), split
        )


def test_ceiling_needs_a_simulated_store(split):
    with pytest.raises(QfError, match="Store"):
        table.evaluate([], split, ceiling=True)
