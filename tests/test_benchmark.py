"""`qf_toolkit.benchmark`: plans, runs, the grid, and tables of the result files."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import toy_session, untaught

import qf_toolkit as qf
from qf_toolkit.benchmark import roster
from qf_toolkit.benchmark.grid import finished, run_grid
from qf_toolkit.benchmark.make import prepare
from qf_toolkit.benchmark.options import SIZES, TABLES, BenchmarkOptions, GridOptions
from qf_toolkit.benchmark.plan import Plan, Run, make_plan
from qf_toolkit.benchmark.ranking import ahead, as_scored, statistics, wilcoxon
from qf_toolkit.benchmark.results import claimed, read_result, result_file
from qf_toolkit.benchmark.roster import BOUND_NAME
from qf_toolkit.benchmark.run import make
from qf_toolkit.benchmark.shown import as_html, as_latex, as_text, cells
from qf_toolkit.benchmark.tables import Results, make_table, paper_table, read_results, write_tables
from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError
from qf_toolkit.evaluation.compare import compare
from qf_toolkit.evaluation.horizon import by_group, skill_by_horizon
from qf_toolkit.evaluation.scored import score
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.simulated.network import simulate_network
from qf_toolkit.recordings.splits import split_blocks

pytestmark = untaught
WINDOW = {"baseline_s": 1.0, "response_s": 1.0, "f0_s": 0.5}
FAST = {"models": ("nlinear",), "steps": 4, "n_samples": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = qf.Store(tmp_path_factory.mktemp("benchmark") / "store", create=True)
    for i, subject in enumerate(("ada", "bob")):
        store.add(toy_session(i, n_neurons=4, subject=subject, stimuli=("drifting_gratings", "static_gratings")))
    return store


@pytest.fixture(scope="module")
def plan(store):
    return make_plan("table2", store, WINDOW, BenchmarkOptions(**FAST, seeds=2))


@pytest.fixture(scope="module")
def out(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert run_grid(plan, out, progress=False) == {"done": 12, "failed": 0, "made": 12}
    return out


def test_a_plan_has_each_model_on_each_subject_and_stimulus_with_each_seed(plan):
    runs = pd.DataFrame([{"model": r.model, "subject": r.subject, "stimulus": r.stimulus, "seed": r.seed} for r in plan.runs.values()])
    assert runs.groupby("model").size().to_dict() == {"naive": 4, "nlinear": 8}  # nothing in the naive rows is drawn: one seed
    assert set(runs["subject"]) == {"ada", "bob"} and set(runs["stimulus"]) == {"drifting_gratings", "static_gratings"}
    again = Plan.from_note(json.loads(json.dumps(plan.note())))
    assert again.runs.keys() == plan.runs.keys() and all(run.identity == identity for identity, run in again.runs.items())


def test_the_identity_of_a_run_is_of_all_that_decides_it(store, plan):
    run = next(r for r in plan.runs.values() if r.model == "nlinear")
    change = {
        "model": "lstm", "task": "activation", "seed": 9, "settings": {**run.settings, "response_s": 0.5}, "options": {**run.options, "lr": 0.5},
        "tune": 2, "n_samples": 9, "data": "other", "needs": "other", "code": "other",
    }  # fmt: skip
    names = set(Run.__dataclass_fields__)
    assert names == change.keys()
    values = {name: getattr(run, name) for name in names}
    others = {Run(**{**values, name: value}).identity for name, value in change.items()}
    assert len(others) == len(change) and run.identity not in others


def test_other_recordings_are_other_runs(store, plan, tmp_path):
    other = qf.Store(tmp_path / "store", create=True)
    for i, subject in enumerate(("ada", "bob")):
        other.add(toy_session(i + 5, n_neurons=4, subject=subject, stimuli=("drifting_gratings", "static_gratings")))
    again = make_plan("table2", other, WINDOW, BenchmarkOptions(**FAST, seeds=2))
    assert not again.runs.keys() & plan.runs.keys()


def test_scores_are_those_of_evaluate(store, plan, out):
    split = split_blocks(store.trials(subject=["ada"], stimulus=["drifting_gratings"], **WINDOW))
    wanted = evaluate([], split)
    runs = read_results(plan, out).runs
    for row in wanted.index:
        found = runs[(runs["row"] == row) & (runs["subject"] == "ada") & (runs["stimulus"] == "drifting_gratings")]
        np.testing.assert_allclose(found[["mse", "r", "mae"]].to_numpy(float)[0], wanted.loc[row, ["mse", "r", "mae"]].to_numpy(float), rtol=1e-9)


def test_a_table_is_the_mean_over_runs(plan, out):
    results = read_results(plan, out)
    table = make_table(results)
    own = results.runs[results.runs["row"] == "NLinear"]
    assert len(own) == 8 and table.loc["NLinear", "runs"] == 4 and table.loc["NLinear", "failed"] == 0  # 2 subjects, 2 stimuli, 2 seeds
    for column in ("paper_mse", "mse_ratio", "r"):
        by_seed = own.pivot(index=["subject", "stimulus"], columns="seed", values=column)  # noqa: PD010
        assert table.loc["NLinear", column] == pytest.approx(own[column].mean())
        assert table.loc["NLinear", f"{column}_sd"] == pytest.approx(by_seed.mean(axis=1).std())
        assert table.loc["NLinear", f"{column}_seed_sd"] == pytest.approx(((by_seed[0] - by_seed[1]) ** 2 / 2).mean() ** 0.5)
    assert (own[["parameters", "train_s", "forecast_ms"]] > 0).all(axis=None) and (own["peak_mb"] >= 0).all()
    assert table.index[-1] in table.attrs["naive"] and table.index[0] == "NLinear"  # naive rows come last


def test_differences_are_those_of_compare_on_the_same_blocks(store, plan, out):
    """Of one subject, stimulus and seed the runs' differences are `compare` of the model that a run fitted."""
    few = make_plan("table2", store, {**WINDOW, "subject": ["ada"], "stimulus": ["drifting_gratings"]}, BenchmarkOptions(**FAST))
    assert few.runs.keys() <= plan.runs.keys()
    found = statistics(read_results(few, out))["differences"]
    run = next(r for r in few.runs.values() if r.model == "nlinear")
    split = split_blocks(store.trials(subject=["ada"], stimulus=["drifting_gratings"], **WINDOW))
    model = qf.fit_network(split, "nlinear", device="cpu", progress=False, **run.options)
    wanted = compare([model], split)
    np.testing.assert_allclose(found.to_numpy(float), wanted.to_numpy(float), rtol=1e-6, atol=1e-9)
    ours = skill_by_horizon(as_scored(read_results(few, out)), n=100)
    theirs = skill_by_horizon(score([model], split, n_samples=3), n=100)
    for column in ("time_s", "frames", "mse", "crps", "skill", "skill_from", "skill_to"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-6, atol=1e-9, err_msg=column)
    ours, theirs = (by_group(s, n=100) for s in (as_scored(read_results(few, out)), score([model], split)))
    np.testing.assert_allclose(ours[["mse", "r", "skill"]].to_numpy(float), theirs[["mse", "r", "skill"]].to_numpy(float), rtol=1e-6, atol=1e-9)
    scored = as_scored(read_results(plan, out))
    assert len(scored.units["session"].unique()) == 4 and scored.models == ["NLinear"]


def test_what_is_done_is_kept(plan, out):
    before = {identity: result_file(out, identity).read_bytes() for identity in plan.runs}
    assert run_grid(plan, out, progress=False) == {"done": 12, "failed": 0, "made": 0}
    assert before == {identity: result_file(out, identity).read_bytes() for identity in plan.runs}
    assert not list((out / "runs").glob("*.claim.*"))


def test_a_run_that_fails_is_a_row_that_says_so(store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("the card is full")

    monkeypatch.setattr(roster, "pretrain", full)
    settings = {**WINDOW, "subject": ["ada"], "stimulus": ["drifting_gratings"]}
    plan = make_plan("table2", store, settings, BenchmarkOptions(models=("nlinear", "quantformer"), steps=4, n_samples=0))
    assert run_grid(plan, tmp_path, progress=False) == {"done": 2, "failed": 2, "made": 4}
    results = read_results(plan, tmp_path)
    table = make_table(results)
    assert np.isnan(table.loc["QuantFormer", "mse_ratio"]) and "the card is full" in table.attrs["reasons"]["QuantFormer"]
    assert "QuantFormer: its pre-training failed: RuntimeError: the card is full" in as_text(results, table) and table.loc["NLinear", "failed"] == 0
    assert run_grid(plan, tmp_path, progress=False)["made"] == 0
    assert run_grid(plan, tmp_path, GridOptions(retry=True), progress=False)["made"] == 2


def test_where_the_naive_rows_failed_nothing_is_measured_and_the_rest_is_kept(plan, out):
    lost = next(identity for identity, run in plan.runs.items() if run.model == "naive" and (run.subject, run.stimulus) == ("bob", "static_gratings"))
    results = read_results(plan, out)
    by_run = {**results.by_run, lost: {**results.by_run[lost], "status": "failed", "error": "the card is full"}}
    runs = results.runs.copy()
    runs.loc[runs["run"] == lost, [c for c in runs if c not in ("row", "naive", "task", "subject", "stimulus", "seed", "run", "error")]] = np.nan
    runs.loc[runs["run"] == lost, "error"] = "the card is full"
    runs.attrs = results.runs.attrs
    with_a_hole = Results(plan, runs, by_run)
    few = make_plan("table2", qf.Store(plan.store), {**WINDOW, "subject": ["ada"]}, BenchmarkOptions(**FAST, seeds=2))
    found, of_ada = statistics(with_a_hole), read_results(few, out)
    assert found.keys() == statistics(of_ada).keys() and as_scored(with_a_hole).facts["n_trials"] < as_scored(results).facts["n_trials"]
    assert set(found["leaderboard"]["left_out"]) == {"bob, static_gratings"} and found["leaderboard"]["runs"].iloc[0] == 3
    assert "left out, as the naive rows failed: bob, static_gratings" in " ".join(as_text(with_a_hole, make_table(with_a_hole)).split())


def test_costs_of_a_training_that_was_interrupted_are_not_known(store, tmp_path):
    run = next(r for r in make_plan("table2", store, WINDOW, BenchmarkOptions(**FAST)).runs.values() if r.model == "nlinear")
    whole = make(run, tmp_path / "whole", store, "cpu")
    (tmp_path / "again" / "models" / run.identity / "checkpoint").mkdir(parents=True)
    again = make(run, tmp_path / "again", store, "cpu")
    assert whole["cost"]["train_s"] > 0 and whole["rows"] == again["rows"]
    assert [again["cost"][name] for name in ("train_s", "peak_mb", "epoch_s")] == [None] * 3
    assert any("its costs are left out" in text for text in again["warnings"]) and not any("costs" in text for text in whole["warnings"])


def test_of_several_learning_rates_one_may_diverge(store, tmp_path, monkeypatch):
    run = next(r for r in make_plan("table2", store, WINDOW, BenchmarkOptions(**FAST, tune=2)).runs.values() if r.model == "nlinear")
    fit, tried = roster.fit, []

    def diverges(name, task, split, pretrained, options, **keep):
        tried.append(options["lr"])
        if len(tried) == 2:
            raise QfError("loss: expected a number, found nan.")
        return fit(name, task, split, pretrained, options, **keep)

    monkeypatch.setattr(roster, "fit", diverges)
    found = make(run, tmp_path, store, "cpu")
    assert found["status"] == "done" and [t["lr"] for t in found["tuning"]] == tried and "nan" in found["tuning"][1]["error"]
    del tried[1:]
    assert make(replace(run, tune=1), tmp_path, store, "cpu")["status"] == "failed"  # it was the only one


def test_results_are_of_the_code_and_the_recordings_that_were_planned(plan, store, tmp_path):
    run = next(iter(plan.runs.values()))
    assert "has changed" in make(replace(run, data="others"), tmp_path, store, "cpu")["error"]
    old = replace(plan, runs={replace(run, code="old").identity: replace(run, code="old")}, cells=[])
    for workers in (1, 2):
        with pytest.raises(QfError, match=r"code: expected the code that the runs were planned with|expected all 1 runs, found 0"):
            run_grid(old, tmp_path, GridOptions(workers=workers), progress=False)
    assert not list(tmp_path.glob("runs/*.json"))


def test_a_claim_is_made_by_one_and_taken_over_from_the_dead(tmp_path):
    with claimed(tmp_path, "a", "grid") as mine:
        assert mine == (1, 0)
        with claimed(tmp_path, "a", "grid") as other:
            assert other is None
    assert not list((tmp_path / "runs").iterdir())
    dead = {**json.loads(json.dumps(_dead())), "grid": "grid"}
    (tmp_path / "runs" / "a.claim.1").write_text(json.dumps(dead))
    with claimed(tmp_path, "a", "grid") as deaths:
        assert deaths == (2, 1)
    (tmp_path / "runs" / "a.claim.1").write_text(json.dumps({**dead, "grid": "an earlier one"}))
    with claimed(tmp_path, "a", "grid") as deaths:
        assert deaths == (2, 0)
    assert not list((tmp_path / "runs").iterdir())


def _dead():
    import subprocess
    import sys

    from qf_toolkit._files import HOST

    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return {"host": HOST, "pid": process.pid, "start": "1"}


def test_files_of_a_table(plan, out):
    results = read_results(plan, out)
    paths = write_tables(results, out)
    assert {p.suffix for p in paths} == {".csv", ".json", ".txt", ".tex", ".html"} and all(p.is_file() for p in paths)
    read = pd.read_csv(out / "tables" / "table2.csv", index_col=0)
    table = make_table(results)
    np.testing.assert_allclose(read["mse_ratio"], table["mse_ratio"])
    text = (out / "tables" / "table2.txt").read_text()
    assert max(map(len, text.split("\n"))) <= 100
    assert "The paper prints" in text and "not comparable: the recordings are not the paper's 11 containers" in text
    assert r"\toprule" in as_latex(table) and "paper\\_mse" in as_latex(table)
    page = as_html(results, table)
    assert "<table" in page and "http" not in page
    assert cells(table).index[0] == "NLinear" and cells(table).index[-1].startswith(". ")
    assert all(
        word in text and word in page
        for word in ("Leaderboard, forecast", "Skill against", "1 learning rate tried", "costs are those of trained rows")
    )


def test_statistics_are_those_of_the_runs(plan, out):
    results = read_results(plan, out)
    found, runs = statistics(results), results.runs.set_index(["row", "subject", "stimulus", "seed"])["mse_ratio"]
    board = found["leaderboard"]
    best = board["than"].iloc[0]
    places = runs.groupby(["row", "subject", "stimulus"]).mean()
    logs = np.log(places["NLinear"] / places[best])
    assert board.loc["NLinear", "skill"] == pytest.approx(1 - np.exp(logs.mean()))
    assert board.loc[best, "skill"] == 0 and board["than"].nunique() == 1
    skill = found["horizon"]
    assert set(skill["forecaster"]) == set(runs.index.unique("row")) and skill.attrs["reference"] in set(
        results.runs.loc[results.runs["naive"], "row"]
    )
    table = ahead(skill, found["groups"])
    at = skill[skill["forecaster"] == "NLinear"].dropna(subset="skill")
    assert table.loc["NLinear", ["first", "last"]].tolist() == at["skill"].iloc[[0, -1]].tolist()
    assert wilcoxon(results) is None  # no QuantFormer among the rows


def test_wilcoxon_counts_the_runs_that_quantformer_wins():
    places = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x")]
    rows = [
        {"row": row, "naive": row == "psth", "task": "forecast", "run": f"{row}{i}", "subject": s, "stimulus": k, "seed": 0, "error": "",
         "mse_ratio": i + (row != "QuantFormer"), "r": float(row == "QuantFormer") + i, "paper_mse": np.inf if row == "psth" else i}
        for i, (s, k) in enumerate(places) for row in ("QuantFormer", "lstm", "psth")
    ]  # fmt: skip
    found = wilcoxon(Results(Plan("table2", {}, [], "", False), pd.DataFrame(rows), {})).reset_index().set_index(["score", "model"])
    for column in ("mse_ratio", "r"):
        assert found.loc[(column, "lstm"), ["better_by", "p", "p_holm"]].tolist() == [1.0, 2**-5, 2**-4]
    assert np.isnan(found.loc[("paper_mse", "lstm"), "p"])  # of no difference
    assert found.loc[("paper_mse", "psth"), ["better_by", "p"]].tolist() == [np.inf, 2**-5]  # whatever is infinite is worse


PRINTED = [table for table in TABLES if table not in ("calm-multi-session", "calm-behaviour")]  # of which only figures were published


@pytest.mark.parametrize("name", PRINTED)
def test_the_papers_numbers(name):
    table = paper_table(name)
    assert len(table) and table["mean"].notna().all() and not table.duplicated(["row", "column"]).any()
    shares = table[table["column"].isin(["balanced_accuracy", "f1", "precision", "recall"])]
    assert shares["mean"].between(0, 1).all()


def test_the_papers_numbers_are_those_printed():
    found = {name: paper_table(name).set_index(["row", "column"])["mean"] for name in PRINTED}
    assert found["calm-simulation"]["CalM", "r"] == pytest.approx(0.5207) and found["calm-single-session"]["TCN", "r"] == pytest.approx(0.1854)
    assert found["table1"]["Crossformer", "balanced_accuracy"] == pytest.approx(0.7551)
    assert found["table2"]["LSTM", "paper_mse"] == pytest.approx(60349.339)
    assert found["table3"]["+ quantisation", "paper_corr"] == pytest.approx(0.252)
    assert found["table4"]["stimulus not in pre-training", "f1"] == pytest.approx(0.6745)
    assert found["tableA1"]["locally_sparse_noise", "signals"] == 99000
    assert found["tableA2"]["K = 32", "paper_smape"] == pytest.approx(0.641)
    assert found["tableA3"]["d = 512", "balanced_accuracy"] == pytest.approx(0.647)
    assert found["tableA4"]["QuantFormer", "mse"] == pytest.approx(0.445)


def test_the_command(store, tmp_path, capsys):
    run = ["benchmark", "table2", "--store", str(store.path), "--out", str(tmp_path / "b"), "--models", "nlinear", "--steps", "3", "--samples", "0",
           "--baseline", "1", "--response", "1", "--f0", "0.5", "--score", "1", "--subject", "ada", "--quiet"]  # fmt: skip
    assert main([*run, "--plan"]) == main([*run, "--plan"]) == 0
    assert "4 runs" in capsys.readouterr().out and not (tmp_path / "b" / "runs").exists()
    assert main(run) == 0
    assert "Table 2: forecasts of responses" in capsys.readouterr().out
    assert main(run) == 0 and "0 runs made, 4 kept, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--models=lstn"], "did you mean lstm"), (["--on", "pbs"], "on: expected local, dask"), (["--seeds", "0"], "seeds: expected"),
        (["--split", "subject", "--leave-out", "ada"], "split: expected blocks or chronological"), (["--subject", "eve"], "eve"),
    ],
)  # fmt: skip
def test_refusals_of_the_command(store, tmp_path, capsys, more, why):
    from helpers import refused

    assert why in refused(capsys, "benchmark", "table2", "--store", store.path, "--out", tmp_path / "b", "--models", "nlinear", "--quiet", *more)


def test_a_table_from_python_goes_on_at_the_command_line(store, tmp_path, capsys):
    short = {**FAST, "baseline_s": 1.0, "response_s": 1.0, "f0_s": 0.5, "score_s": 1.0, "n_samples": 0}
    results = qf.benchmark_table("table2", store, out=tmp_path / "b", subject="ada", stimulus="static_gratings", progress=False, **short)
    assert len(results.plan.runs) == 2
    run = ["benchmark", "table2", "--store", store.path, "--out", tmp_path / "b", "--models", "nlinear", "--steps", "4", "--samples", "0",
           "--baseline", "1", "--response", "1", "--f0", "0.5", "--score", "1", "--subject", "ada", "--stimulus", "static_gratings", "--quiet"]  # fmt: skip
    assert main([str(a) for a in run]) == 0 and "0 runs made, 2 kept" in capsys.readouterr().out
    for wrong, why in (
        ({"split": "foo"}, "split: expected"),
        ({"validation": 3.0}, "validation: expected"),
        ({"table": "table3"}, "models: expected none"),
    ):
        with pytest.raises(QfError, match=why):
            qf.benchmark_table(**{"table": "table2", "store": store, "out": tmp_path / "c", **short, **wrong})


def test_a_folder_that_is_not_ours_is_refused(store, tmp_path, capsys):
    from helpers import refused

    (tmp_path / "thesis.txt").write_text("mine")
    assert "found thesis.txt" in refused(capsys, "benchmark", "table2", "--store", store.path, "--out", tmp_path, "--quiet")
    assert finished(make_plan("table2", store, WINDOW, BenchmarkOptions(**FAST)), tmp_path) == [] and read_result(tmp_path, "none") is None


def test_brainlm_is_pre_trained_on_the_whole_store_and_tuned_on_each_place(store, tmp_path):
    plan = make_plan("table2", store, WINDOW, BenchmarkOptions(models=("brainlm_ft",), steps=4, n_samples=0))
    for run in plan.runs.values():
        run.options.update(width=8, layers=1, heads=2)
        if run.task == "codes":
            run.options.update(steps=4, steps_most=4, validate_every=2)
    before = next(run for run in plan.runs.values() if run.task == "codes")
    found = [make(before, tmp_path, store, "cpu")]
    result_file(tmp_path, before.identity).parent.mkdir(parents=True)
    result_file(tmp_path, before.identity).write_text(json.dumps(found[0]))
    for run in plan.runs.values():
        if run.model == "brainlm_ft":
            found.append(make(replace(run, needs=before.identity), tmp_path, store, "cpu"))
    assert [r.get("error") for r in found] == [None] * 5 and before.subject == "all"


@pytest.mark.parametrize("table", ["calm-simulation", "calm-single-session"])
def test_tables_of_populations(table, tmp_path):
    """Every session of a network, or all together: CalM behind its quantiser, its peers, the upper bound as a row of its own, naive rows."""
    with pytest.warns(UserWarning, match="settled"):  # few neurons do
        store = simulate_network(tmp_path / "networks", n_neurons=8, subjects=2, seconds=60)
    options = {"models": ("nlinear", "calm"), "steps": 3, "n_samples": 5, "windows": "sliding", "length_s": 1.6, "response_s": 0.4, "gap_s": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES["small"], "calm_quantizer", {"width": 8, "layers": 1, "heads": 2, "codes": 8, "epochs": 2})
        patch.setitem(SIZES["small"], "calm", {"width": 8, "layers": 1, "heads": 2})
        results = qf.benchmark_table(table, store, out=tmp_path / "out", progress=False, **options)
    made = make_table(results)
    assert not made.attrs["reasons"]
    assert set(made.index[:3]) == {"NLinear", "CalM", BOUND_NAME} and BOUND_NAME not in made.attrs["naive"] and "copy last" in made.attrs["naive"]
    assert (made["runs"] == (1 if table == "calm-simulation" else 2)).all()
    assert made.loc[BOUND_NAME, "r"] == made["r"].max() and made.loc["copy last", "poco"] == pytest.approx(0)
    assert made.loc["CalM", "r_paper"] == pytest.approx(0.5207 if table == "calm-simulation" else 0.4025)
    text = as_text(results, made)
    assert "not the same recordings" in text and "Correlation over trials at the first" in text
    by_step = statistics(results)["step_r"]
    assert list(by_step.columns) == [0.05, 0.2, 0.4] and by_step.loc["training mean"].eq(0).all() and set(by_step.index) == set(made.index)


def test_the_table_of_behaviour(tmp_path):
    """Every decoder on the behaviours and on a category; heads over a CalM that was trained for it, and kept for all of them."""
    with pytest.warns(UserWarning, match="settled"):
        store = simulate_network(tmp_path / "networks", n_neurons=8, subjects=2, seconds=120)
    options = {"steps": 3, "baseline_s": 0.8, "response_s": 0.8, "gap_s": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES["small"], "calm_quantizer", {"width": 8, "layers": 1, "heads": 2, "codes": 8, "epochs": 2})
        patch.setitem(SIZES["small"], "calm", {"width": 8, "layers": 1, "heads": 2})
        patch.setitem(SIZES["small"], "head", {"epochs": 2})
        results = qf.benchmark_table("calm-behaviour", store, out=tmp_path / "out", progress=False, decoded=["speed", "pupil", "side"], **options)
    made = make_table(results)
    assert not made.attrs["reasons"] and made.attrs["naive"] == ["training mean"]
    assert set(made.index) == set(roster.DECODER_NAMES.values())
    assert (
        made["speed r"].drop("linear SVM").notna().any()
        and np.isnan(made.loc["linear SVM", "speed r"])
        and np.isnan(made.loc["reduced-rank regression", "side auroc"])
    )
    assert (made.loc[["GLM", "linear SVM"], "side auroc"] > 0.8).all() and made.loc["training mean", "side auroc"] == pytest.approx(0.5)
    assert "Behaviour decoded" in as_text(results, made) and len(write_tables(results, tmp_path / "out")) >= 4


@pytest.mark.filterwarnings("ignore:.*the network has settled")
def test_the_shell_plans_what_python_plans(tmp_path, capsys, monkeypatch):
    """Settings that were not given are those of the table, from the shell, too."""
    monkeypatch.setitem(SIZES["small"], "network", {"n_neurons": 8, "subjects": 2, "seconds": 60})
    assert main(["benchmark", "calm-simulation", "--out", str(tmp_path / "a"), "--plan", "--models", "nlinear"]) == 0
    told = capsys.readouterr().out
    plan, _ = prepare("calm-simulation", None, tmp_path / "a", {"models": ("nlinear",)})
    settings = next(iter(plan.runs.values())).settings
    assert {settings[n] for n in ("signal", "split", "windows")} == {"zscore", "chronological", "sliding"} and settings["length_s"] == 3.2
    assert "upper_bound" in told and "nlinear" in told
    assert (
        main(["benchmark", "calm-simulation", "--out", str(tmp_path / "a"), "--models", "nlinear", "--steps", "1", "--samples", "0", "--quiet"]) == 0
    )
    done = {json.loads(f.read_text())["run"]["settings"]["length_s"] for f in (tmp_path / "a" / "runs").glob("*.json")}
    assert done == {3.2}
