"""The naive classifiers that read a trial's F0, against loops over the stored traces."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from qf_toolkit.errors import LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators.frequency import FrequencyClassifier
from qf_toolkit.estimators.over_f0 import FrequencyOverF0, LevelOverF0
from qf_toolkit.estimators.rows import naive_classifiers
from qf_toolkit.evaluation.table import evaluate_classifier
from qf_toolkit.plots.tables import NAIVE
from qf_toolkit.recordings.splits import leave_one_out, split_blocks
from qf_toolkit.recordings.trials import cut

NAMES = ["frequency of activation", "response level over F0", "frequency over F0"]


def windows(trials):
    """By loop, for the trials of one session: fluorescence of the scored frames, a list (trial) of (neuron, frame); F0 (trial, neuron)."""
    session, w = trials.source[trials.sessions[0]], trials.window
    name = "dff" if "dff" in session else "fluorescence"
    traces = session[name].values.astype(np.float64) + (name == "dff")
    rate = session.attrs["rate_hz"]
    frames, f0 = [], []
    for onset, stimulus in zip(trials.table["onset_frame"], trials.table["stimulus"], strict=True):
        seconds = {"drifting_gratings": 2.0, "static_gratings": 0.5}[stimulus] if w.score_s == "paper" else w.score_s
        frames.append(traces[:, onset : onset + round(seconds * rate)])
        f0.append(traces[:, onset - round(w.f0_s * rate) : onset].mean(1))
    return frames, np.array(f0)


def gains_over(f0, frames, rule):
    """The gains (response, neuron) of some responses over one F0 (neuron,)."""
    found = np.array([(f - f0[:, None]) / f0[:, None] for f in frames]) if len({f.shape for f in frames}) == 1 else None
    if found is not None:
        return (abs(found) if rule == "abs_dff" else found).mean(-1)
    return np.array([gains_over(f0, [f], rule)[0] for f in frames])


def expected_gains(row, trials):
    """The level row's expected gains of the trials of one session, from its probabilities: the calibration turned back."""
    p = row.predict_probability(trials).values
    scaler, regression = row.calibration[0], row.calibration[1]
    z = (np.log(p / (1 - p)) - regression.intercept_[0]) / regression.coef_[0, 0]
    return np.exp(z * scaler.scale_[0] + scaler.mean_[0]) - 1


@pytest.mark.parametrize("signal", ["fluorescence", "dff"])
@pytest.mark.parametrize("rule", ["gain", "abs_dff"])
@pytest.mark.parametrize("score_s", [1.0, "paper"])
def test_both_rows_by_loop(signal, rule, score_s):
    stimuli = ("drifting_gratings", "static_gratings") if score_s == "paper" else ("drifting_gratings",)
    sessions = [toy_session(i, subject=f"m{i}", n_neurons=3 + i, signal=signal, stimuli=stimuli, repeats=3) for i in range(2)]
    split = split_blocks(cut(sessions, f0_s=1.0, score_s=score_s, active_rule=rule))
    level, share = LevelOverF0().fit(split), FrequencyOverF0(shrinkage=3).fit(split)
    for train, test in zip(split.fitting.by_session(), split.test.by_session(), strict=True):
        frames, _ = windows(train)
        shown = train.table[["condition", "stimulus"]].to_numpy()
        p, gains = share.predict_probability(test).values, expected_gains(level, test)
        for i, f0 in enumerate(windows(test)[1]):
            condition, stimulus = test.table.loc[i, ["condition", "stimulus"]]
            g = gains_over(f0, frames, rule)
            active = g >= 0.1 if rule == "gain" else g > 0.1
            same, like = shown[:, 0] == condition, shown[:, 1] == stimulus
            np.testing.assert_allclose(gains[i], g[same].mean(0), rtol=1e-4, atol=1e-5)
            own = (active.sum(0) + 1) / (len(active) + 2)
            of_category = (active[like].sum(0) + 3 * own) / (like.sum() + 3)
            np.testing.assert_allclose(p[i], (active[same].sum(0) + 3 * of_category) / (same.sum() + 3))


def test_level_over_f0_is_the_level_over_f0():
    split = split_blocks(cut(toy_session(0), f0_s=1.0))
    gains = expected_gains(LevelOverF0().fit(split), split.test)
    frames, _ = windows(split.fitting)
    shown = split.fitting.table["condition"].to_numpy()
    level = {c: np.mean([f.mean(1) for f, s in zip(frames, shown, strict=True) if s == c], 0) for c in set(shown)}
    f0 = windows(split.test)[1]
    np.testing.assert_allclose(gains, [level[c] / f - 1 for c, f in zip(split.test.table["condition"], f0, strict=True)], rtol=1e-4, atol=1e-5)


def restless(seed, **options):
    """A session whose neurons are now and then active before the onset, and back at rest after it: what a trial's F0 tells."""

    def change(traces, trials):
        rng = np.random.default_rng(seed)
        for onset in trials["onset_frame"]:
            traces[:, onset - 15 : onset] *= (1 + 0.6 * rng.random((len(traces), 1))).astype(np.float32)

    return toy_session(seed, change=change, **options)


def test_where_neurons_are_restless_f0_tells_more_than_the_frequency():
    split = split_blocks(cut([restless(i, subject=f"m{i}", repeats=10, n_neurons=8) for i in range(2)], f0_s=1.0))
    table = evaluate_classifier([], split)
    assert list(table.index) == NAMES == table.attrs["naive"] and set(NAMES) <= NAIVE and not table.attrs["notes"]
    score = table["balanced_accuracy"]
    assert score["response level over F0"] > score["frequency of activation"] + 0.05
    assert score["frequency over F0"] > score["frequency of activation"] + 0.05
    for row in naive_classifiers():  # the table's number, by another library
        chooser = [row.fit_on(split.train).predict_probability(p).values for p in split.validation.by_session()]
        labels = [p.dataset()["active"].values for p in split.validation.by_session()]
        p, a = (np.concatenate([v.ravel() for v in values]) for values in (chooser, labels))
        best = max(np.unique(p), key=lambda t: balanced_accuracy_score(a, p >= t))
        row.fit(split)
        p = np.concatenate([row.predict_probability(part).values.ravel() for part in split.test.by_session()])
        a = np.concatenate([part.dataset()["active"].values.ravel() for part in split.test.by_session()])
        assert abs(balanced_accuracy_score(a, p >= best) - score[row.name]) < 0.02  # the table's threshold is midway between two probabilities
        assert roc_auc_score(a, p) == pytest.approx(table.loc[row.name, "auroc"])


def test_new_conditions_take_the_category_then_the_neuron():
    split = split_blocks(cut(toy_session(1, stimuli=("gratings", "scenes")), f0_s=1.0))
    new = split.test.subset(np.arange(3))
    new.table["condition"] = ["scenes/orientation=999", "noise/frame=3", "scenes/orientation=45"]
    frames, _ = windows(split.fitting)
    table = split.fitting.table
    kept = (table["stimulus"] == "scenes", table["stimulus"] != "none", table["condition"] == "scenes/orientation=45")
    gains = expected_gains(LevelOverF0().fit(split), new)
    share = FrequencyOverF0().fit(split).predict_probability(new).values
    for i, (f0, rows) in enumerate(zip(windows(new)[1], kept, strict=True)):
        g = gains_over(f0, frames, "gain")
        np.testing.assert_allclose(gains[i], g[rows.to_numpy()].mean(0), rtol=1e-4, atol=1e-5)
        own = ((g >= 0.1).sum(0) + 1) / (len(g) + 2)
        if i == 1:
            np.testing.assert_allclose(share[i], own)


def test_a_matched_cell_in_a_new_session_is_told_of_by_gains():
    def brighter(traces, trials):
        traces *= np.float32(7)

    sessions = [toy_session(i, session=s, matched=True) for i, s in enumerate("AB")]
    split = split_blocks(cut(sessions, f0_s=1.0))
    new, bright = (cut(toy_session(2, session="C", matched=True, change=c), f0_s=1.0) for c in (None, brighter))
    level, share = LevelOverF0().fit(split), FrequencyOverF0().fit(split)
    parts = [(*windows(p), p.table["condition"].to_numpy()) for p in split.fitting.by_session()]
    condition = new.table["condition"][0]
    g = np.concatenate(
        [[gains_over(f0, [f], "gain")[0] for f, f0, s in zip(frames, f0s, shown, strict=True) if s == condition] for frames, f0s, shown in parts]
    )
    np.testing.assert_allclose(expected_gains(level, new)[0], g.mean(0), rtol=1e-4, atol=1e-5)
    for row in (level, share):  # the microscope's gain says nothing
        np.testing.assert_allclose(row.predict_probability(new), row.predict_probability(bright), rtol=1e-5)
    # in a session that was learnt from, the other one counts for nothing
    alone = split_blocks(cut(sessions[0], f0_s=1.0))
    both = FrequencyOverF0().fit(split).predict_probability(split.test.by_session()[0])
    np.testing.assert_allclose(both, FrequencyOverF0().fit(alone).predict_probability(alone.test))


def test_only_f0_and_the_condition_are_read():
    session = toy_session(0)
    split = split_blocks(cut(session, f0_s=1.0))
    last = split.test.subset([len(split.test) - 1])
    onset = int(last.table["onset_frame"][0])
    other = session.copy(deep=True)
    traces = other["fluorescence"].values
    traces[:, onset:] *= np.float32(3.7)
    traces[:, onset - 30 : onset - 10] *= np.float32(1.5)
    changed = split_blocks(cut(other, f0_s=1.0))
    for row in naive_classifiers():
        row.fit(split)
        assert np.array_equal(row.predict_probability(last), row.predict_probability(changed.test.subset([len(split.test) - 1]))), row.name
    traces[:, onset - 10 : onset] *= np.float32(2)
    higher = split_blocks(cut(other, f0_s=1.0)).test.subset([len(split.test) - 1])
    for row in (LevelOverF0().fit(split), FrequencyOverF0().fit(split)):
        assert (row.predict_probability(higher) <= row.predict_probability(last)).all()


def test_what_is_learnt_comes_from_the_trials_named():
    split = split_blocks(cut(toy_session(0), f0_s=1.0))
    first = int(split.validation.intervals("mouse/one")[:, 0].min())

    def change(traces, trials):
        traces[:, first:] = traces[:, first:][:, ::-1]

    early = split.train.subset(split.train.table["onset_frame"].to_numpy() + 20 <= first)
    other = replace(early, source=cut(toy_session(0, change=change), f0_s=1.0).source)
    for row in naive_classifiers():
        row.fit_on(early)
        digest, p = row.digest(), row.predict_probability(early)
        assert digest and np.array_equal(p, row.fit_on(other).predict_probability(early)), row.name
        row.fit_on(early).check_unseen(split.test)
        with pytest.raises(LeakageError):
            row.check_unseen(early)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99), n_neurons=st.integers(2, 4), repeats=st.integers(1, 3), n_conditions=st.integers(1, 3), gain=st.sampled_from([0.1, -5.0, 50.0]),
    rule=st.sampled_from(["gain", "abs_dff"]), missing=st.booleans(), signal=st.sampled_from(["dff", "zscore"]), negative=st.booleans(),
)  # fmt: skip
def test_probabilities_are_probabilities(seed, n_neurons, repeats, n_conditions, gain, rule, missing, signal, negative):
    def change(traces, trials):
        if missing:  # of one neuron nothing is known but in the test block, and that is too little to be flagged
            traces[0, : traces.shape[1] // 2 : 8] = np.nan
        if negative:
            traces[-1] -= np.float32(0.8 * traces[-1].mean())

    few = {"n_neurons": n_neurons, "n_conditions": n_conditions, "change": change}
    sessions = [toy_session(seed, repeats=repeats, **few), toy_session(seed + 1, subject="rat", repeats=4, **few)]
    with warnings.catch_warnings(action="ignore"):  # flagged neurons are left out
        split = split_blocks(cut(sessions, active_gain=gain, active_rule=rule, signal=signal, baseline_s=1, response_s=1))
    for row in naive_classifiers():
        row.fit(split)
        for part in split.test.by_session():
            p = row.predict_probability(part).values
            assert np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all(), row.name


@pytest.mark.parametrize("gain", [50.0, -50.0])
def test_labels_that_are_all_alike_are_told_and_survived(gain):
    split = split_blocks(cut(toy_session(0), active_gain=gain))
    table = evaluate_classifier([], split)
    assert "one class" in table.attrs["notes"][0] and np.isfinite(table["threshold"].to_numpy(dtype=float)).all()


def test_a_validation_part_of_one_class_gets_the_share_of_training():
    split = split_blocks(cut(toy_session(0, repeats=8), f0_s=1.0))
    silent = ~split.validation.dataset()["active"].values.any(1)
    if not silent.any():
        few = split.validation.of_neurons(split.validation.neurons[int(split.validation.dataset()["active"].values.mean(0).argmin())])
        silent = ~few.dataset()["active"].values.any(1)
        split = replace(split, **{n: getattr(split, n).of_neurons(few.neurons) for n in ("train", "validation", "test")})
    split = replace(split, validation=split.validation.subset(silent))
    table = evaluate_classifier([], split)
    share = split.train.dataset()["active"].values.mean()
    assert 0 < share < 1 and table["threshold"].to_numpy(dtype=float) == pytest.approx(np.full(3, share))
    assert "one class" in table.attrs["notes"][0]


def test_a_tiny_f0_is_never_active():
    def change(traces, trials):
        onset = trials["onset_frame"].iloc[-1]
        traces[1, onset - 20 : onset] = 0

    split = split_blocks(cut(toy_session(0, change=change), signal="zscore", f0_s=1.0))
    last = split.test.subset([len(split.test) - 1])
    assert not last.dataset()["active"].values[0, 1]
    for row in (LevelOverF0().fit(split), FrequencyOverF0().fit(split)):
        p = row.predict_probability(last).values[0]
        assert p[1] == 0 and (p[[0, 2, 3, 4, 5]] > 0).all()


def test_misuse_is_refused_in_a_line():
    split = split_blocks(cut(toy_session(0)))
    for value in (np.nan, np.inf, 0, -1, "x", None, [2.0]):
        for row in (FrequencyClassifier, FrequencyOverF0):
            with pytest.raises(QfError, match=r"^shrinkage: expected .* found .*\. Pass 2, say\.$"):
                row(value)
    for row in naive_classifiers():
        with pytest.raises(QfError, match="split: expected a Split, found Trials"):
            row.fit(split.train)
        with pytest.raises(QfError, match="trials: expected Trials, found Split"):
            row.fit_on(split)
        with pytest.raises(QfError, match="not fitted"):
            row.predict_probability(split.test)
        row.fit(split)
        assert row.seed is None
        with pytest.raises(QfError, match="trials: expected Trials, found Split"):
            row.predict_probability(split)
        assert row.predict(split.test)["probability"].identical(row.predict_probability(split.test))
        with pytest.raises(QfError, match="of one session"):
            row.predict_probability(cut([toy_session(0), toy_session(1, subject="rat")]))
        with pytest.raises(UnknownKeyError, match="neuron"):
            row.predict_probability(leave_one_out(cut([toy_session(0), toy_session(1, subject="rat")]), subject="rat").test)
