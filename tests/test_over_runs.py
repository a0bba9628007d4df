"""Statistics over runs, against scipy, loops and formulas written out by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.evaluation.over_runs import holm, leaderboard, mean_over_seeds, over_runs, wilcoxon_over_runs

MODELS = ["ours", "lstm", "psth", "copy last"]


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    rows = [
        {"subject": a, "stimulus": s, "seed": seed, "model": m, "score": level * (1 + 0.1 * rng.random()) * (1 + 0.3 * i)}
        for i, (a, s) in enumerate(product("abc", ["x", "y"]))
        for m, level in zip(MODELS, (0.8, 0.9, 1.0, 1.2), strict=True)
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def test_seeds_are_no_runs(frame):
    runs = mean_over_seeds(frame)
    assert runs.shape == (6, 4) and list(runs) == MODELS
    mine = frame[(frame["subject"] == "b") & (frame["stimulus"] == "y") & (frame["model"] == "lstm")]["score"]
    assert runs.loc[("b", "y"), "lstm"] == pytest.approx(mine.mean())
    twice = pd.concat([frame, frame.assign(seed=frame["seed"] + 3)])
    pd.testing.assert_frame_equal(wilcoxon_over_runs(frame, "ours"), wilcoxon_over_runs(twice, "ours"))
    table = over_runs(frame)
    assert table.loc["lstm", "mean"] == pytest.approx(runs["lstm"].mean()) and table.loc["lstm", "sd"] == pytest.approx(np.std(runs["lstm"], ddof=1))
    sds = [g["score"].std() for _, g in frame[frame["model"] == "lstm"].groupby(["subject", "stimulus"])]
    assert table.loc["lstm", "seed_sd"] == pytest.approx(np.sqrt(np.mean(np.square(sds))))


def test_failures_are_counted(frame):
    frame.loc[(frame["model"] == "lstm") & (frame["subject"] == "a"), "score"] = np.nan
    gone = frame[~((frame["model"] == "psth") & (frame["subject"] == "b") & (frame["stimulus"] == "x"))]
    table = over_runs(gone)
    assert table["n_failed"].tolist() == [0, 2, 1, 0] and table["n_runs"].tolist() == [6, 4, 5, 6]
    tests = wilcoxon_over_runs(gone, "ours")
    assert tests.loc["lstm", ["n_runs", "n_failed"]].tolist() == [4, 2]
    board = leaderboard(gone, ["psth", "copy last"])
    assert board.attrs["reference"] == "copy last" and board.loc["lstm", "n_failed"] == 2  # psth lacks a run


def exact(differences):
    """One-sided p of the signed-rank test: all signs of all ranks, counted."""
    d = np.array([x for x in differences if x])
    ranks = pd.Series(np.abs(d)).rank().to_numpy()
    mine = ranks[d > 0].sum()
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in product([0, 1], repeat=len(d))]
    return np.mean(np.array(sums) >= mine - 1e-9)


@given(st.lists(st.integers(-50, 50).filter(bool), min_size=1, max_size=8, unique_by=abs))
@settings(max_examples=40, deadline=None)
def test_wilcoxon_by_counting_all_signs(differences):
    n = len(differences)
    frame = pd.DataFrame({"run": [*range(n)] * 2, "model": ["ours"] * n + ["other"] * n, "score": [100.0] * n + [100.0 + d for d in differences]})
    found = wilcoxon_over_runs(frame, "ours").loc["other"]
    assert found["p"] == pytest.approx(exact(differences)) and found["better_by"] == pytest.approx(np.mean(differences))
    turned = wilcoxon_over_runs(frame, "other", lower_is_better=False).loc["ours"]
    assert turned["p"] == pytest.approx(found["p"])


def test_no_difference_has_no_p():
    frame = pd.DataFrame({"run": [0, 1] * 2, "model": ["a", "a", "b", "b"], "score": [1.0, 2.0, 1.0, 2.0]})
    found = wilcoxon_over_runs(frame, "a").loc["b"]
    assert np.isnan(found["p"]) and np.isnan(found["p_holm"]) and found["n_runs"] == 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p):
    found = holm(np.array([*p, np.nan]))
    assert np.isnan(found[-1])
    for i, own in enumerate(p):  # rejected at alpha as long as each smaller p is, at alpha / (tests that are left)
        order = sorted(range(len(p)), key=lambda j: (p[j], j))
        want = max((len(p) - place) * p[j] for place, j in enumerate(order) if place <= order.index(i))
        assert found[i] == pytest.approx(min(1.0, want)) and found[i] >= own


def test_a_leaderboard_by_hand(frame):
    runs = mean_over_seeds(frame)
    board = leaderboard(frame, ["psth", "copy last", "absent"], n=500, seed=3)
    assert board.attrs["reference"] == "psth" and list(board.index) == MODELS
    for model in MODELS:
        ratio = [runs[model].iloc[i] / runs["psth"].iloc[i] for i in range(6)]
        assert board.loc[model, "skill"] == pytest.approx(1 - np.prod(ratio) ** (1 / 6))
        wins = [
            (runs[model].iloc[i] < runs[o].iloc[i]) + 0.5 * (runs[model].iloc[i] == runs[o].iloc[i]) for i in range(6) for o in MODELS if o != model
        ]
        assert board.loc[model, "win_rate"] == pytest.approx(np.mean(wins))
        assert board.loc[model, "skill_from"] <= board.loc[model, "skill"] <= board.loc[model, "skill_to"]
    alone = leaderboard(frame[(frame["subject"] == "a") & (frame["stimulus"] == "x")], ["psth"])
    assert (
        alone[["skill_from", "skill_to", "win_rate_from"]].isna().all(axis=None) and alone["skill"].notna().all()
    )  # one run tells nothing of others
    rng = np.random.default_rng(11)
    drawn = [1 - np.exp(np.log(runs["ours"] / runs["psth"]).to_numpy()[rng.integers(6, size=6)].mean()) for _ in range(4000)]
    assert board.loc["ours", ["skill_from", "skill_to"]].tolist() == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


def test_one_run_does_not_decide_and_failures_count_as_the_reference():
    frame = pd.DataFrame({"run": [0, 1, 2] * 2, "model": ["naive"] * 3 + ["ours"] * 3, "score": [1.0, 1, 1, 1e-9, 1e9, np.nan]})
    board = leaderboard(frame, ["naive"])
    assert board.loc["ours", "skill"] == pytest.approx(1 - (0.01 * 100 * 1) ** (1 / 3)) and board.loc["ours", "win_rate"] == pytest.approx(1 / 3)
    assert np.isnan(leaderboard(frame.assign(score=[1.0, 1, 1, np.nan, np.nan, np.nan]), ["naive"]).loc["ours", "skill"])  # nothing to rank it by
    assert board.loc["ours", "n_failed"] == 1 and board.loc["naive", "win_rate"] == pytest.approx(2 / 3) and board.loc["naive", "skill"] == 0


def test_what_is_no_table_of_runs_is_refused(frame):
    for wrong, words in (
        (frame.drop(columns="model"), "model: expected a column"),
        (frame.drop(columns=["subject", "stimulus"]), "run: expected a column"),
        (frame.iloc[:0], "found none"),
        (frame.assign(score=np.inf), "infinite"),
    ):
        with pytest.raises(QfError, match=words):
            over_runs(wrong)
    with pytest.raises(UnknownKeyError, match="reference: 'our' is no model"):
        wilcoxon_over_runs(frame, "our")
    with pytest.raises(UnknownKeyError, match="naive: none of ridge"):
        leaderboard(frame, ["ridge"])
    with pytest.raises(QfError, match="errors of 0 or more"):
        leaderboard(frame.assign(score=-frame["score"]), ["psth"])
