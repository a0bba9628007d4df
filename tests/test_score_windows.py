"""Two stimuli in one session, scored over windows of their own (score_s="paper"): every part of the toolkit counts the same observations."""

import json

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_session

from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.frequency import FrequencyClassifier
from qf_toolkit.estimators.naive import ContextMean, StimulusMean, Zero, scored, scored_whole
from qf_toolkit.estimators.registry import load
from qf_toolkit.evaluation import paper_scores
from qf_toolkit.evaluation.compare import compare, per_neuron_scores
from qf_toolkit.evaluation.table import evaluate, evaluate_classifier
from qf_toolkit.plots.chosen import Shown, choose_most_active, choose_observations
from qf_toolkit.plots.forecasts import figure_forecasts, plot_forecast
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.store import Store
from qf_toolkit.recordings.trials import cut
from qf_toolkit.recordings.window import Window
from qf_toolkit.training.bank import Bank

torch.set_num_threads(1)
STIMULI = ("drifting_gratings", "static_gratings")  # 2 s and 0.5 s (paper, table A-1), at 10 Hz 20 and 5 frames
HOLE = 8  # frames after the onset: outside the window of static gratings, inside that of drifting ones


def holes(traces, trials):
    """One missing frame after an onset of each stimulus, in the last block (which is the test block) and in the first."""
    for block in (0, 2):
        for neuron, stimulus in enumerate(STIMULI):
            at = trials.index[(trials["stimulus"] == stimulus) & (trials["block"] == block)][3]
            traces[neuron, trials["onset_frame"][at] + HOLE] = np.nan


def mixed(change=None, **options):
    return toy_session(0, stimuli=STIMULI, change=change, **options)


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(mixed(), score_s="paper"))


def by_hand(session, table):
    """dF/F of the response from the traces (trial, neuron, 20), the frames scored of each trial, the labels."""
    f, onsets = session["fluorescence"].values.astype(np.float64), table["onset_frame"].to_numpy()
    f0 = np.stack([f[:, o - 20 : o].mean(1) for o in onsets])[..., None]
    dff = np.stack([f[:, o : o + 20] for o in onsets]) / f0 - 1
    n_score = np.where(table["stimulus"] == "drifting_gratings", 20, 5)
    return dff, n_score, np.stack([d[:, :k].mean(1) >= 0.1 for d, k in zip(dff, n_score, strict=True)])


@pytest.mark.parametrize("change", [None, holes])
def test_labels_and_masks_are_those_of_each_trial_s_window(change):
    session = mixed(change)
    trials = cut(session, score_s="paper")
    ds, (dff, n_score, active) = trials.dataset(), by_hand(session, trials.table)
    inside = np.arange(20) < n_score[:, None]
    usable = np.isfinite(ds["dff"].values[..., :30]).all(-1)
    np.testing.assert_array_equal(ds["n_score"], n_score)
    np.testing.assert_array_equal(scored(ds), np.isfinite(dff) & inside[:, None] & usable[..., None])
    whole = np.array([[np.isfinite(row[:k]).all() for row in d] for d, k in zip(dff, n_score, strict=True)]) & usable
    np.testing.assert_array_equal(scored_whole(ds), whole)
    np.testing.assert_array_equal(ds["active"].values[whole], active[whole])
    assert 0 < active[n_score == 5].mean() < 1 and (active != (dff.mean(-1) >= 0.1)).any()
    bank = Bank(trials, {n: i for i, n in enumerate(trials.neurons)}, {c: i for i, c in enumerate(trials.conditions)}, "cpu")
    complete = np.isfinite(ds["dff"].values).all(-1)  # what is learnt from has the whole response
    np.testing.assert_array_equal(bank.active.bool(), active[complete])
    np.testing.assert_array_equal(bank.n_score(torch.arange(len(bank))), np.repeat(n_score[:, None], complete.shape[1], 1)[complete])


def test_every_observation_is_counted(split):
    n = len(split.test) * 6
    table = evaluate([], split)
    _, n_score, active = by_hand(mixed(), split.test.table)
    assert set(n_score) == {5, 20} and table.attrs["n_observations"] == n and table.attrs["unusable"] == 0
    assert table.attrs["active_fraction"] == pytest.approx(active.mean())
    table = evaluate_classifier([], split)
    assert table.attrs["n_observations"] == n and table.attrs["active_fraction"] == pytest.approx(active.mean())


def test_the_frequency_row_learns_of_the_shorter_windows_too(split):
    _, _, active = by_hand(mixed(), split.fitting.table)
    p = FrequencyClassifier(shrinkage=3).fit(split).predict_probability(split.test)
    own, conditions = (active.sum(0) + 1) / (len(active) + 2), split.fitting.table["condition"].to_numpy()
    for i, condition in enumerate(split.test.table["condition"]):
        here = active[conditions == condition]
        np.testing.assert_allclose(p[i], (here.sum(0) + 3 * own) / (len(here) + 3))


@pytest.mark.parametrize("change", [None, holes])
def test_columns_of_the_table_by_hand(change):
    split = split_blocks(cut(mixed(change), score_s="paper"))
    forecast = StimulusMean().fit(split).predict(split.test)["forecast"].values
    row = evaluate([], split).loc[StimulusMean.name]
    ds = split.test.dataset()
    truth, n_score = ds["dff"].values[..., 30:], ds["n_score"].values
    error = np.concatenate([((f - t)[:, :k] ** 2).ravel() for f, t, k in zip(forecast, truth, n_score, strict=True)])
    assert row["mse"] == pytest.approx(np.nanmean(error))  # pooled over frames
    paper = {
        "paper_mse": paper_scores.paper_mse,
        "paper_smape": paper_scores.paper_smape,
        "paper_corr": paper_scores.corr_abs,
        "paper_ssim": paper_scores.ssim_global,
    }
    for name, score in paper.items():  # pooled over windows, each alone and for its own length
        alone = [
            score(f[None, None, :k], t[None, None, :k])
            for f, t, k in ((forecast[i, j], truth[i, j], n_score[i]) for i, j in np.ndindex(*truth.shape[:2]))
            if np.isfinite(t[:k]).all() and np.isfinite(f).all()
        ]
        # the hole of static gratings lies behind their window; each hole is in the next trial's baseline
        assert len(alone) == truth[..., 0].size - 3 * (change is not None)
        assert row[name] == pytest.approx(np.nanmean(alone)), name


def test_compare_counts_both_stimuli(split):
    zero = Zero().fit(split)
    table, c = evaluate(zero, split), compare(zero, split).loc["zero"]
    np.testing.assert_allclose(c["mse_lower"], (table["mse"].loc[c.index] - table.loc["zero", "mse"]).astype(float), rtol=1e-4, atol=1e-9)


def one_after_the_other(traces, trials):
    """In each block first the drifting, then the static gratings."""
    trials["stimulus"] = np.where(np.arange(len(trials)) % 20 < 10, *STIMULI)


@pytest.mark.parametrize("change", [None, one_after_the_other])
def test_validation_is_the_end_of_each_stimulus_block(change):
    split = split_blocks(cut(mixed(change), score_s="paper"))
    fitting, test = split.fitting.table, split.test.table
    assert set(test["block"]) == {2} and set(test["stimulus"]) == set(STIMULI)
    validated = split.validation.table
    assert len(validated.groupby(["stimulus", "block"])) == 4
    for key, rows in fitting.groupby(["stimulus", "block"]):
        mine = validated[(validated["stimulus"] == key[0]) & (validated["block"] == key[1])]["onset_frame"]
        learnt = set(rows["onset_frame"]) - set(mine)
        assert max(learnt) < mine.min(), key


def fewer_blocks(traces, trials):
    """Static gratings have two blocks, the first as long as two of the drifting ones."""
    static = trials["stimulus"] == STIMULI[1]
    trials.loc[static, "block"] = (trials.loc[static, "block"] - 1).clip(lower=0)


def test_a_stimulus_without_a_trial_in_the_test_block_is_named():
    with pytest.warns(UserWarning, match="block -1 holds no trial of static_gratings of mouse/one"):
        split = split_blocks(cut(mixed(fewer_blocks), score_s="paper"))
    assert set(split.test.table["stimulus"]) == {STIMULI[0]} and set(split.test.table["block"]) == {2}
    first = split_blocks(cut(mixed(fewer_blocks)), test=0)
    assert set(first.test.table["stimulus"]) == set(STIMULI) and set(first.test.table["block"]) == {0}


# ---------------------------------------------------------------- what the paper has no window of


def test_a_stimulus_without_a_window_in_the_paper_is_told():
    session = toy_session(0, stimuli=("drifting_gratings", "gratings", "scenes"))
    with pytest.warns(UserWarning, match="no window of gratings, scenes .Table A-1.: all of the response") as told:
        trials = cut(session, score_s="paper", response_s=2.5)
    assert len(told) == 1
    ds = trials.dataset()
    assert {s: set(g["n_score"].values) for s, g in ds.groupby("stimulus")} == {"drifting_gratings": {20}, "gratings": {25}, "scenes": {25}}


def test_a_response_shorter_than_the_paper_s_window_is_refused():
    with pytest.raises(QfError, match="response_s: expected at least 2 s, the paper's window of drifting_gratings, found 1"):
        cut(mixed(), score_s="paper", response_s=1.0)
    assert len(cut(mixed(), "static_gratings", score_s="paper", response_s=1.0))


@pytest.mark.parametrize("value", [None, [1], "Paper", {}])
def test_lengths_that_are_no_numbers_are_refused(value):
    if value is not None:  # as left out
        with pytest.raises(QfError, match="score_s: expected seconds above 0 and at most 3600 or 'paper' or None, found "):
            Window(score_s=value)
    with pytest.raises(QfError, match=r"baseline_s: expected seconds above 0 and at most 3600, found "):
        Window(baseline_s=value)


# ---------------------------------------------------------------- rates


def test_windows_of_sessions_of_slightly_different_rates_are_their_own():
    sessions = [toy_session(0, session="a"), toy_session(1, session="b", rate_hz=10.15)]
    trials = cut(sessions, score_s=1.65)
    bank = Bank(trials, {n: i for i, n in enumerate(trials.neurons)}, {"drifting_gratings": 0}, "cpu")
    datasets = [part.dataset() for part in trials.by_session()]
    assert [ds.attrs["n_score"] for ds in datasets] == [16, 17]
    np.testing.assert_array_equal(bank.active.bool(), np.concatenate([ds["active"].values.ravel() for ds in datasets]))
    np.testing.assert_array_equal(bank.n_score(torch.arange(len(bank))), np.concatenate([np.repeat(ds["n_score"].values, 6) for ds in datasets]))


def test_an_f0_of_another_number_of_frames_is_refused():
    sessions = [toy_session(0, session="a"), toy_session(1, session="b", rate_hz=10.15)]
    with pytest.raises(QfError, match="F0 of 16, as at .* F0 of 17 at 10.15 Hz in mouse/b.*f0_s"):
        StimulusMean().fit(split_blocks(cut(sessions, f0_s=1.65)))


# ---------------------------------------------------------------- figures


@pytest.fixture
def closed():
    yield
    plt.close("all")


def test_only_a_part_that_is_scored_is_shaded(closed):
    truth = cut(mixed(), score_s="paper").dataset()
    for stimulus, width in zip(STIMULI, (None, 0.5), strict=True):
        trial = int(truth["trial"].values[truth["stimulus"].values == stimulus][0])
        _, ax = plt.subplots()
        plot_forecast(truth, {}, trial, "mouse/one/0", ax=ax)
        assert [p.get_width() for p in ax.patches] == ([] if width is None else [pytest.approx(width)])


def test_conditions_shown_once_get_the_mean_over_their_stimulus(closed):
    def once(traces, trials):
        static = trials["stimulus"] == STIMULI[1]
        trials["frame"] = np.where(static, np.arange(len(trials)), np.nan)
        trials.loc[static, "orientation"] = np.nan

    trials = cut(mixed(once), "static_gratings", score_s="paper")
    fig = figure_forecasts(trials, {}, n=4)
    below = [ax for ax in fig.axes if ax.get_title().startswith("mean of")]
    chosen = [one.neuron for one in choose_observations(trials, n=4) if one.kind != "random"]
    assert len(below) == len(chosen) == 2
    mean = trials.dataset()["dff"].mean("trial")
    for ax, neuron in zip(below, chosen, strict=True):
        assert ax.get_title() == f"mean of {len(trials)} trials: {neuron}\nstatic_gratings"
        line = next(line for line in ax.lines if line.get_label() == "measured")
        np.testing.assert_allclose(line.get_ydata(), mean.sel(neuron=neuron), rtol=1e-5, atol=1e-6)


def test_the_most_active_are_so_in_their_own_window():
    def change(traces, trials):
        traces[:] = 100 + 0.1 * np.arange(len(traces))[:, None] + 0.01 * (np.arange(traces.shape[1]) % 7)
        static, drifting = (trials.index[trials["stimulus"] == s][4] for s in STIMULI[::-1])
        traces[0, trials["onset_frame"][static] + np.arange(5)] = 300  # short and strong
        traces[0, trials["onset_frame"][drifting] + np.arange(20)] = 180  # long and weaker

    trials = cut(mixed(change), score_s="paper")
    strongest = choose_most_active(trials, 2, 0)[0]
    expected = trials.table.index[trials.table["stimulus"] == "static_gratings"][4]
    assert strongest == Shown("most active", "mouse/one", int(trials.table["trial"][expected]), "mouse/one/0")


# ---------------------------------------------------------------- sessions of different features, and the command line


def scenes(traces, trials):
    """Another session of the same mouse: six images, a feature that gratings lack."""
    trials["stimulus"], trials["image"] = "natural_scenes", trials["orientation"] / 45
    del trials["orientation"]


@pytest.fixture(scope="module")
def sessions():
    return [mixed(session="A", matched=True), toy_session(1, session="B", matched=True, change=scenes)]


def test_forecasts_and_comparisons_over_sessions_of_different_features(sessions):
    split = split_blocks(cut(sessions, score_s="paper"))
    out = StimulusMean().fit(split).predict(split.test)
    assert out.sizes["trial"] == len(split.test) and set(out["stimulus"].values) == {*STIMULI, "natural_scenes"}
    assert set(out.coords) == {"trial", "neuron", "time", "session", "onset_frame", "offset_frame", "stimulus", "condition", "block"}
    for part in split.test.by_session():
        alone = StimulusMean().fit(split).predict(part)["forecast"].values
        np.testing.assert_array_equal(out["forecast"].values[out["session"].values == part.sessions[0]], alone)
    c = compare(Zero().fit(split), split)
    assert len(c) == 9 and np.isfinite(c.to_numpy(dtype=float)).all()


def test_from_a_store_to_a_table(sessions, tmp_path, capsys):
    store = Store(tmp_path / "store", create=True)
    for ds in sessions:
        store.add(ds)
    small = ["--patch-frames", "5", "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8"]
    run = lambda *argv: main([str(a) for a in argv])  # noqa: E731
    train = ["--epochs", "1", "--batch", "128", "--quiet", "--device", "cpu"]
    assert run("pretrain", store.path, "--out", tmp_path / "base", "--score", "paper", *small, *train) == 0
    for task in ("forecast", "activation"):
        assert run("fit", store.path, "--pretrained", tmp_path / "base", "--task", task, "--out", tmp_path / task, *train) == 0
        assert json.loads((tmp_path / task / "config.json").read_text())["run"]["settings"]["score_s"] == "paper"
        assert json.loads((tmp_path / task / "config.json").read_text())["window"]["score_s"] == "paper"
    capsys.readouterr()
    models = [tmp_path / "forecast", tmp_path / "activation"]
    assert run("evaluate", store.path, "--model", *models, "--out", tmp_path / "t.csv", "--figures", tmp_path / "f", "--bootstrap", "--quiet") == 0
    said = capsys.readouterr().out
    split = split_blocks(store.trials(score_s="paper"))
    assert said.count(f"{len(split.test) * 6} observations") == 2
    table = pd.read_csv(tmp_path / "t.csv", index_col=0)
    expected = evaluate([], split)
    np.testing.assert_allclose(table.loc[expected.index, "mse"], expected["mse"].astype(float), rtol=1e-5)
    assert np.isfinite(table.loc["QuantFormer", "paper_ssim"]) and list((tmp_path / "f").glob("*.svg"))
    saved = load(tmp_path / "activation")
    saved.run = None  # as trained from Python: the window is known all the same
    saved.save(tmp_path / "activation")
    assert run("evaluate", store.path, "--model", tmp_path / "activation", "--quiet") == 0
    assert f"{len(split.test) * 6} observations" in capsys.readouterr().out


def test_forecasts_in_a_model_s_own_z_scores_are_scored_in_those_of_the_split():
    sessions = [toy_session(0), toy_session(0, change=lambda traces, trials: np.multiply(traces, 7, out=traces), session="two")]
    trials = cut(sessions, signal="zscore")
    split, other = split_blocks(trials), split_blocks(trials, validation=0.4)
    for model in (StimulusMean(), ContextMean()):
        model.fit(split)
        mine = per_neuron_scores({"m": model}, split.test)["mse"]["m"]
        # the same forecast, judged by a split of other z-scores: errors in units of the trace are the same
        moved = per_neuron_scores({"m": model}, split.test.scaled_on(other.train))["mse"]["m"]
        factor = []
        for session in split.test.sessions:
            a, b = split.test.scale_of(session)[1], split.test.scaled_on(other.train).scale_of(session)[1]
            factor += ((a / b) ** 2).tolist()
        np.testing.assert_allclose(moved.to_numpy(), mine.to_numpy() * factor, rtol=1e-3)


def test_forecasts_carry_the_features_that_all_sessions_have():
    one, two = toy_session(0), toy_session(1, session="two").rename(orientation="contrast")
    model = StimulusMean().fit(split_blocks(cut([one, two])))
    assert "orientation" in model.predict(cut(one)).coords and "contrast" in model.predict(cut(two)).coords
    both = model.predict(cut([one, two]))
    assert not {"orientation", "contrast", "n_score"} & set(both.coords) and both.sizes["trial"] == 2 * one.sizes["trial"]
