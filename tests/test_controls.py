"""Negative controls: what they destroy and keep, that honest rows pass them where they have the power to fail, and that leaks are caught."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from hypothesis import given, settings
from hypothesis import strategies as st

import qf_toolkit as qf
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.interface import Classifier, Forecaster, Observations
from qf_toolkit.estimators.naive import ContextMean, StimulusMean
from qf_toolkit.evaluation.controls import CONTROLS, RECORDED, controls, other_neurons, reversed_context, suspicious
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.surrogates import exchanged_responses, far_permutation, other_contexts, phase_randomised, shuffled_conditions
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
OF_THE_MEAN = ("conditions shuffled", "surrogates", "responses exchanged")
TWO = [toy_session(0, stimuli=("gratings", "scenes")), toy_session(1, subject="rat", signal="dff", n_neurons=4)]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    sizes = {"n_neurons": 8, "sessions": ("A",), "repeats": 24, "directions": 4, "temporal_frequencies": 1, "rate_hz": 10, "seed": 1}
    return qf.simulate(tmp_path_factory.mktemp("sim"), **sizes).trials(baseline_s=2, response_s=1.5, f0_s=1)


def network(task):
    return lambda split: qf.fit_network(split, "nlinear", task, epochs=8, batch_size=32, lr=1e-2, progress=False, device="cpu")


@pytest.fixture(scope="module")
def table(trials):
    return controls({"network": network("forecast")}, trials)


# ------------------------------------------------------------ what is destroyed, and what is kept


def test_shuffled_conditions_stay_in_their_block_and_category():
    trials = cut(TWO)
    found = shuffled_conditions(trials, seed=3)
    names, same = ["session", "stimulus", "block"], [c for c in trials.table if c not in ("condition", "orientation")]
    assert found.table[same].equals(trials.table[same]) and (found.table.dtypes == trials.table.dtypes).all()
    counts = [t.table.groupby([*names, "condition"]).size() for t in (trials, found)]
    assert counts[0].equals(counts[1])
    keys = found.table["stimulus"] + "/orientation=" + found.table["orientation"].map("{:g}".format)
    assert (keys == found.table["condition"]).all()  # the features go with their condition
    moved = (found.table["condition"] != trials.table["condition"]).mean()
    assert moved > 0.4 and found.digest() != trials.digest()
    assert np.array_equal(found.by_session()[0].dataset()["dff"], trials.by_session()[0].dataset()["dff"])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), n_frames=st.integers(50, 61), together=st.booleans())
def test_surrogates_keep_the_spectra(seed, n_frames, together):
    rng = np.random.default_rng(seed)
    session = toy_session(seed % 5)
    session = session.isel(frame=slice(session.sizes["frame"] - n_frames % 2))
    x = session["fluorescence"].values.astype(float)
    trials = cut(session)
    found = phase_randomised(trials, seed, together=together)
    y = found.source[trials.sessions[0]]["fluorescence"].values.astype(float)
    np.testing.assert_allclose(np.abs(np.fft.rfft(y)), np.abs(np.fft.rfft(x)), rtol=1e-3, atol=1e-2 * x.std() * len(x[0]) ** 0.5)
    np.testing.assert_allclose([y.mean(1), y.std(1)], [x.mean(1), x.std(1)], rtol=1e-4)
    i, j = rng.choice(len(x), 2, replace=False)
    cross = [np.fft.rfft(z[i] - z[i].mean()) * np.fft.rfft(z[j] - z[j].mean()).conj() for z in (x, y)]
    assert (np.abs(cross[0] - cross[1]).max() < 1e-3 * np.abs(cross[0]).max()) == together
    assert abs(np.corrcoef(x[0], y[0])[0, 1]) < 0.6
    header = found.source.header(trials.sessions[0]).attrs
    assert header["fingerprint"] != session.attrs["fingerprint"]


def test_surrogates_miss_the_frames_that_are_missing():
    def holes(traces, trials):
        traces[2, 100:160] = np.nan

    trials = cut(toy_session(0, change=holes))
    y = phase_randomised(trials).source[trials.sessions[0]]["fluorescence"].values
    assert np.isnan(y[2, 100:160]).all() and np.isfinite(np.delete(y[2], slice(100, 160))).all() and np.isfinite(np.delete(y, 2, 0)).all()


@pytest.mark.parametrize("signal", ["dff", "zscore"])
def test_exchanged_responses_are_those_of_other_trials(signal):
    trials = cut(TWO, signal=signal, f0_s=1.0)
    found = exchanged_responses(trials, seed=1)
    assert found.conditions == trials.conditions and found.neurons == trials.neurons and len(found) == len(trials)
    plain = cut(TWO, f0_s=1.0)
    for session in trials.sessions:
        before, after = (t.subset(t.positions(session)).dataset() for t in (plain, cut_dff(found)))
        np.testing.assert_allclose(after["dff"][..., :30], before["dff"][..., :30], atol=1e-5)
        responses, taken = before["dff"].values[..., 30:], after["dff"].values[..., 30:]
        source = np.array([int(np.argmin(np.abs(responses - r).max((1, 2)))) for r in taken])
        assert sorted(source) == list(range(len(source)))
        np.testing.assert_allclose(taken, responses[source], atol=1e-5)
        assert np.array_equal(after["active"], before["active"].values[source])  # labels of activity are shuffled with them
        for name in ("stimulus", "block"):
            assert np.array_equal(before[name].values[source], before[name].values)
        assert (source != np.arange(len(source))).all()
    split = split_blocks(found)
    assert np.isfinite(StimulusMean().fit(split).predict(split.test.by_session()[0])["forecast"].values).all()


def cut_dff(trials):
    return replace(trials, window=replace(trials.window, signal="dff"), scaling=None)


def test_other_contexts_keep_order_numbers_and_conditions():
    trials = split_blocks(cut(TWO)).test
    found = other_contexts(trials)
    same = [c for c in trials.table if c not in ("onset_frame", "offset_frame")]
    assert found.table[same].equals(trials.table[same])
    moved = np.abs(found.table["onset_frame"] - trials.table["onset_frame"])
    assert (moved >= 2 * 30).all()  # trials are 30 frames apart
    assert all(
        set(a["onset_frame"]) == set(b["onset_frame"])
        for (_, a), (_, b) in zip(*(t.table.groupby(["session", "stimulus"]) for t in (trials, found)), strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 40), seed=st.integers(0, 1000))
def test_far_permutations(n, seed):
    order = far_permutation(n, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(n))
    assert n < 6 or (np.abs(order - np.arange(n)) >= 2).all()


def test_other_questions():
    rng = np.random.default_rng(0)
    asked = Observations(rng.standard_normal((3, 5, 4)), list("abcde"), ["g/x=1"] * 3, behaviour={"run": np.arange(12.0).reshape(3, 4)})
    seen = []

    def answer(q):
        seen.append(q)
        keys = np.array([ord(k) for k in q.neurons], float)
        return q.context.mean(-1) + 1000 * keys[None]

    out = other_neurons(answer, asked)
    keys = np.rint(out / 1000)
    assert np.allclose(out - 1000 * keys, asked.context.mean(-1), atol=1e-3)  # each baseline's answer stands in its place
    assert sorted(keys[0]) == [ord(k) for k in "abcde"] and (keys[0] != [ord(k) for k in "abcde"]).all() and seen[0].neurons == asked.neurons
    reversed_context(answer, asked)
    assert np.array_equal(seen[1].context, asked.context[..., ::-1]) and seen[1].behaviour["run"][0].tolist() == [3, 2, 1, 0]


# ------------------------------------------------------------ honest rows


def test_honest_rows_pass_every_control(table):
    assert suspicious(table) == []
    assert set(table["control"]) == {RECORDED, *(c.name for c in CONTROLS)} and len(table) == table["row"].nunique() * (1 + len(CONTROLS))
    asked = table[table["control"] != RECORDED]
    assert asked["passed"].eq(True).all() and (table["note"] == "").all() and np.isfinite(table[["score", "better"]]).all(axis=None)


def test_as_recorded_they_would_not_have(table):
    # the controls have the power to fail: on the recording itself these rows are surely below the mean
    recorded = table[table["control"] == RECORDED].set_index("row")
    for name in ("network", "stimulus mean (PSTH)", "ridge, own trace"):
        assert recorded.loc[name, "better_from"] > 0 and recorded["passed"].isna().all()


def test_each_score_is_where_it_must_be(table):
    of = table.set_index(["control", "row"])
    for control in OF_THE_MEAN:
        assert np.allclose(of.loc[control, "least"], 1)
        # the stimulus mean is no better than the training mean, up to what the bootstrap leaves open
        psth, mean = of.loc[(control, "stimulus mean (PSTH)")], of.loc[(control, "training mean")]
        assert psth["score"] > mean["score"] - (mean["better_to"] - mean["better_from"]) / 2
    for name in ("copy last", "mean of the context"):  # they keep no keys
        assert of.loc[("other neurons", name), "better"] == 0
    for name in ("training mean", "stimulus mean (PSTH)"):  # they read no baseline
        assert of.loc[("reversed context", name), "better"] == 0
    assert abs(of.loc[("reversed context", "mean of the context"), "better"]) < 1e-6  # order alone
    for name in ("network", "ridge, own trace", "ridge, population"):
        for control in ("reversed context", "other neurons"):
            assert of.loc[(control, name), "better"] < 0
    assert of.loc[("other neurons", "stimulus mean (PSTH)"), "better_to"] < 0


def test_the_score_is_the_error_over_that_of_the_mean(trials, table):
    split = split_blocks(trials)
    row = ContextMean().fit(split)
    ds, answer = split.test.dataset(), row.predict(split.test)["forecast"].values
    truth = ds["dff"].values[..., 20:].astype(float)
    wanted = ((answer - truth) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum()
    assert table.set_index(["control", "row"]).loc[(RECORDED, "mean of the context"), "score"] == pytest.approx(wanted, rel=1e-6)


def test_classifiers_pass_too(trials):
    found = controls({"network": network("activation")}, trials, task="activation")
    assert suspicious(found) == [] and {"network", "frequency of activation", "response level over F0"} <= set(found["row"])
    recorded = found.set_index(["control", "row"])
    assert (
        recorded.loc[(RECORDED, "frequency of activation"), "score"] < 1 < recorded.loc[("conditions shuffled", "frequency of activation"), "score"]
    )
    assert "can't be asked" in recorded.loc[("other neurons", "frequency over F0"), "note"]


# ------------------------------------------------------------ leaks


class Peeker(Forecaster):
    """Looks up the response of a trial by its number."""

    name = "peeker"

    def __init__(self, split):
        super().__init__()
        self.test = split.test

    def predict(self, trials):
        ds = self.test.dataset()
        known = ds["dff"].sel(trial=trials.table["trial"].to_numpy())[..., ds.attrs["n_baseline"] :]
        return known.to_dataset(name="forecast")


class Librarian(Forecaster):
    """Knows the baselines of the test part by heart, and the responses behind them; elsewhere, nothing."""

    name = "librarian"
    share = 1.0

    def __init__(self, split):
        super().__init__()
        ds = split.test.dataset()
        n, x = ds.attrs["n_baseline"], ds["dff"].values
        self.baselines, self.responses, self.n_response = x[..., :n], self.share * x[..., n:], x.shape[-1] - n

    def prepare(self, trials):
        return trials

    def predict_arrays(self, asked):
        known = [int(np.argmin(np.abs(self.baselines - c).sum((1, 2)))) for c in asked.context]
        return self.responses[known]


class Hinted(Librarian):
    """Its forecast holds a fifth of the response."""

    name, share = "hinted", 0.2


class Labelled(Classifier):
    """Knows the labels of the test part by their places."""

    name = "labelled"

    def __init__(self, split):
        super().__init__()
        self.active = split.test.dataset()["active"].values

    def prepare(self, trials):
        return trials

    def predict_arrays(self, asked):
        return 0.1 + 0.8 * self.active


@pytest.mark.parametrize(("leak", "caught_by"), [(Peeker, OF_THE_MEAN), (Librarian, ("responses exchanged",)), (Hinted, ("responses exchanged",))])
def test_a_forecaster_that_leaks_is_caught(trials, leak, caught_by):
    honest = StimulusMean()
    found = controls({leak.name: leak, "honest": lambda split: deepcopy(honest).fit(split)}, trials, naive=False)
    assert suspicious(found) == [leak.name]
    failed = found[found["passed"].eq(False)]
    assert set(caught_by) <= set(failed["control"]) and (failed["better_from"] > 0).all()


def test_a_classifier_that_leaks_is_caught(trials):
    found = controls({"labelled": Labelled}, trials, task="activation")
    assert suspicious(found) == ["labelled"]
    assert set(found.loc[found["passed"].eq(False), "control"]) == set(OF_THE_MEAN)


def test_who_says_that_it_saw_the_test_part_fails(trials):
    def trained_on_all(split):
        row = StimulusMean().fit(split)
        row.seen = StimulusMean().fit(split_blocks(trials, test=0)).seen
        return row

    found = controls({"told": trained_on_all}, trials, naive=False)
    assert suspicious(found) == ["told"] and "saw" in found["note"].iloc[0]


def test_what_can_not_be_tested_says_why(trials):
    def fails(split):
        raise QfError("fails: expected luck, found none.")

    found = controls({"fails": fails}, trials, naive=False)
    assert suspicious(found) == [] and (found["note"] == "fails: expected luck, found none.").all() and found["passed"].isna().all()
    with pytest.raises(QfError, match="task: expected one of forecast, activation"):
        controls({}, trials, task="codes")
    with pytest.raises(QfError, match="a name of its own"):
        controls({"copy last": fails}, trials)
