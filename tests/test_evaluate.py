"""What `evaluate`, `compare` and `evaluate_classifier` make of a split, and how tables are printed and saved."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import refused, toy_session

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.ceiling import SimulatorCeiling
from qf_toolkit.estimators.frequency import FrequencyClassifier
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.naive import CopyLast, StimulusMean, Zero
from qf_toolkit.evaluation.compare import compare, marks, show_differences
from qf_toolkit.evaluation.scored import score
from qf_toolkit.evaluation.table import evaluate, evaluate_classifier, show, write_table
from qf_toolkit.recordings.simulated.conditional_mean import conditional_mean
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut


@pytest.fixture(scope="module")
def mice():
    """Three animals, one of them recorded twice."""
    return split_blocks(cut([toy_session(i, subject=f"m{min(i, 2)}", session=f"s{i}", n_neurons=3 + i, repeats=3) for i in range(4)]))


class Better(StimulusMean):
    """The stimulus mean moved half way to the truth, with patches of 5 frames and a spread of draws."""

    name = "better"
    probabilistic = True
    patch_frames = 5

    def __init__(self):
        super().__init__()
        self.asked = []

    def predict(self, trials):
        self.asked.append(tuple(trials.sessions))
        out = super().predict(trials)
        for session in trials.sessions:
            ds = trials.dataset(session)
            truth = ds["dff"].values[..., ds.attrs["n_baseline"] :]
        return out.assign(forecast=(out["forecast"] + truth) / 2)

    def sample(self, trials, n_samples=100, seed=0):
        out = self.predict(trials)["forecast"].values
        x = out + 0.05 * np.random.default_rng(seed).normal(size=(n_samples, *out.shape))
        return xr.Dataset({"samples": (("sample", "trial", "neuron", "time"), x)})


def test_each_session_is_forecast_once_for_table_comparison_and_figure(mice):
    model = Better().fit(mice)
    keep = {"m2/s3": ([40, 41], ["m2/s3/1", "m2/s3/4"])}
    trials = mice.test.table[mice.test.table["session"] == "m2/s3"]["trial"].to_numpy()
    keep["m2/s3"] = (trials[:2].tolist(), keep["m2/s3"][1])
    found = score(model, mice, keep=keep)
    table, differences = evaluate(found, mice), compare(found, mice)
    asked = [s for s in model.asked if s != ("m2/s3",)]
    assert asked == [("m0/s0",), ("m1/s1",), ("m2/s2",)]  # one session at a time, each once
    assert model.asked.count(("m2/s3",)) == 2  # and once more for the interval of what is shown
    again = evaluate(Better().fit(mice), mice)
    pd.testing.assert_frame_equal(table, again)
    pd.testing.assert_frame_equal(differences, compare(Better().fit(mice), mice))
    whole = model.predict(mice.test.by_session()[3])["forecast"]
    for name in ("better", "copy last"):
        kept = found.kept[name]["m2/s3"]
        assert kept.sizes == {"trial": 2, "neuron": 2, "time": 20} and list(found.kept[name]) == ["m2/s3"]
        assert ("low" in kept) == (name == "better")
    kept = found.kept["better"]["m2/s3"]
    assert np.array_equal(kept["forecast"], whole.sel(trial=trials[:2], neuron=keep["m2/s3"][1]))
    assert (kept["low"] < kept["forecast"]).all() and (kept["forecast"] < kept["high"]).all()


def test_differences_are_those_of_the_table_and_drawn_over_animals(mice):
    table = evaluate(Better().fit(mice), mice)
    c = compare(Better().fit(mice), mice).loc["better"]
    for column, of, sign in (("ratio_lower", "mse_ratio", -1), ("mse_lower", "mse", -1), ("r_higher", "r", 1)):
        assert c[column].to_numpy() == pytest.approx(sign * (table.loc["better", of] - table.loc[c.index, of]).to_numpy(), abs=1e-9)
        assert (c[f"{column}_from"] < c[column]).all() and (c[column] < c[f"{column}_to"]).all()
    a = compare(Better().fit(mice), mice).attrs
    assert (a["n_animals"], a["n_sessions"], a["n_trials"]) == (3, 4, 48) and a["n_blocks"] == 20
    one = split_blocks(cut(toy_session(0, repeats=3)))
    assert "Of one animal they say nothing of others" in show_differences(compare(Better().fit(one), one))


def test_what_is_surely_better_or_worse_is_marked(mice):
    found = evaluate({"half way": Better().fit(mice), "held": CopyLast().fit(mice)}, mice)
    assert found.attrs["marks"]["mse_ratio"] == {"half way": "+", "held": "-"} and found.attrs["marks"]["r"]["half way"] == "+"
    assert marks(compare(Better().fit(mice), mice)) == {"mse": {"better": "+"}, "mse_ratio": {"better": "+"}, "r": {"better": "+"}}
    text = show(found)
    assert f"{found.loc['half way', 'mse_ratio']:.4g}+" in text and f"{found.loc['held', 'mse_ratio']:.4g}-" in text and "excludes 0" in text
    same = evaluate({"the same": CopyLast().fit(mice)}, mice, naive=True)
    assert "the same" not in [n for n, mark in same.attrs["marks"].get("mse", {}).items() if mark == "+"]


def test_jumps_at_the_borders_of_patches(mice):
    class Steps(Zero):
        name = "steps"
        patch_frames = 5

        def predict_arrays(self, asked):
            t = np.arange(self.n_response)
            return np.broadcast_to(0.5 * (t // 5) + 0.01 * (t % 2), (*asked.context.shape[:2], self.n_response)).astype(np.float32)

    table = evaluate([Steps().fit(mice)], mice)
    inside = np.abs(np.diff(Steps().fit(mice).predict_arrays(Observations(np.zeros((1, 1, 30)), ["n"], ["c"]))[0, 0]))
    assert table.loc["steps", "jump"] == pytest.approx(inside[4::5].mean() / np.delete(inside, [4, 9, 14]).mean(), rel=1e-5)
    assert np.isnan(table.loc["copy last", "jump"]) and 0.5 < table.attrs["truth_jump"] < 1.5
    assert 0.5 < table.loc["stimulus mean (PSTH)", "jump"] < 1.5
    assert "jump" not in show(evaluate([], mice)) and np.isnan(evaluate([], mice)["jump"]).all()


def test_tables_fit_a_hundred_columns(mice):
    long = "a model with a name as long as the path of the folder that it was saved in, and then some (runs/forecast/2026)"
    found = evaluate({long: Better().fit(mice)}, mice, n_samples=30)
    frequency = FrequencyClassifier()
    frequency.name = "another"
    texts = [show(found), show(evaluate_classifier(frequency.fit(mice), mice))]
    texts.append(show(compare({long: Better().fit(mice)}, mice)))
    for text in texts:
        assert max(map(len, text.splitlines())) <= 100
    for column in found.columns[found.notna().any()]:
        assert column in texts[0]


def test_intervals_of_classifiers(mice):
    found = evaluate_classifier([], mice)
    row = found.loc["frequency of activation"]
    for column in ("balanced_accuracy", "auroc", "average_precision", "brier"):
        assert row[f"{column}_from"] < row[column] < row[f"{column}_to"]
    assert found.attrs["n_animals"] == 3 and found.attrs["n_blocks"] == 20
    assert f"{row['balanced_accuracy']:.3f} [{row['balanced_accuracy_from']:.3f}, {row['balanced_accuracy_to']:.3f}]" in show(found)


class Oracle(FrequencyClassifier):
    name = "oracle"

    def predict_probability(self, trials):
        return trials.dataset()["active"].astype(float)


def test_a_classifier_that_is_surely_better_is_marked(mice):
    found = evaluate_classifier(Oracle().fit(mice), mice)
    assert found.attrs["marks"] == {"balanced_accuracy": {"oracle": "+"}}
    assert found.loc["oracle", "auroc"] == 1 and found.loc["oracle", "brier"] == 0 and "1.000 [1.000, 1.000]+" in show(found)


def test_each_task_has_its_own_function(mice):
    classifier, model = FrequencyClassifier().fit(mice), Zero().fit(mice)
    for call, wrong, words in (
        (evaluate, [model, classifier], "evaluate_classifier"),
        (compare, classifier, "evaluate_classifier"),
        (evaluate_classifier, model, "with evaluate"),
        (evaluate, ["model"], "found str"),
        (evaluate, {"x": 3}, "found int"),
    ):
        with pytest.raises(QfError, match=words):
            call(wrong, mice)
    for wrong in (mice.test, None, 3):
        with pytest.raises(QfError, match="expected a Split"):
            evaluate([], wrong)
        with pytest.raises(QfError, match="expected a Split"):
            evaluate_classifier([], wrong)
    for wrong in (-1, 10**9, 2.5, "ten", True):
        with pytest.raises(QfError, match="n_samples: expected a whole number of draws from 0"):
            evaluate([], mice, n_samples=wrong)


# ---------------------------------------------------------------- the ceiling


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    store = qf.simulate(tmp_path_factory.mktemp("sim") / "store", n_neurons=4, directions=2, temporal_frequencies=1, repeats=15, gap_s=6)
    return split_blocks(store.trials(stimulus="drifting_gratings", f0_s=1.0))


def test_the_error_of_the_ceiling_is_its_variance_over_samples(simulated):
    store, onsets = simulated.test.source, simulated.test.table["onset_frame"].to_numpy()[:4]
    mean, _ = conditional_mean(store, "sim1/A", onsets, 15, n_samples=16, seed=1, with_error=True)
    assert np.array_equal(mean, conditional_mean(store, "sim1/A", onsets, 15, n_samples=16, seed=1))
    # estimates of one expectation scatter by their errors
    means, errors = zip(*(conditional_mean(store, "sim1/A", onsets, 15, n_samples=16, seed=s, with_error=True) for s in range(2, 14)), strict=True)
    assert np.mean(errors) == pytest.approx(np.var(means, axis=0, ddof=1).mean(), rel=0.2)
    with pytest.raises(QfError, match="at least 2"):
        conditional_mean(store, "sim1/A", onsets, 15, n_samples=1, with_error=True)


def test_few_samples_of_the_ceiling_do_not_flatter(simulated):
    def ceiling(n, seed):
        return evaluate([], simulated, naive=False, ceiling=True, ceiling_samples=n, seed=seed).loc[SimulatorCeiling.name]

    truth = simulated.test.dataset()["dff"].values[..., 90:]
    many, few = ceiling(256, 0), [ceiling(8, seed)["mse"] for seed in range(12)]
    raw = [((SimulatorCeiling(8, seed).predict(simulated.test)["forecast"].values - truth) ** 2).mean() for seed in range(12)]
    spread = np.std(few) / np.sqrt(12)
    assert many["E"] == 1 and abs(np.mean(few) - many["mse"]) < 3 * spread  # as the row with many samples has it
    assert np.mean(raw) - many["mse"] > 3 * spread  # without the correction it is off by an eighth of the unpredictable variance


# ---------------------------------------------------------------- saved, and from the shell


def test_saved_tables_say_where_they_come_from(mice, tmp_path):
    model = Better().fit(mice)
    model.seed = 7
    table = evaluate(model, mice, n_samples=20, seed=5)
    paths = write_table(table, tmp_path / "table.csv")
    assert [p.name for p in paths] == ["table.csv", "table.json"]
    note = json.loads(paths[1].read_text())
    assert note["data"] == mice.test.digest() and note["simulated"] is False and note["seeds"]["better"] == 7
    assert (
        note["models"]["better"] == model.digest() and note["draw_seed"] == 5 and note["qf_toolkit"] == qf.__version__ and "torch" in note["versions"]
    )
    assert note["split"] == mice.rule and note["n_animals"] == 3
    assert note["blake2b"] == hashlib.blake2b(paths[0].read_bytes(), digest_size=12).hexdigest()  # so that the two are known to belong together
    with pytest.raises(QfError, match="table.csv"):
        write_table(table, tmp_path / "table.json")
    assert pd.read_csv(paths[0], index_col=0).loc["better", "mse"] == pytest.approx(table.loc["better", "mse"])
    write_table(compare(model, mice), tmp_path / "differences.csv")
    assert json.loads((tmp_path / "differences.json").read_text())["n_animals"] == 3


def test_a_table_that_was_edited_is_the_user_s(tmp_path, capsys):
    store = qf.Store(tmp_path / "store", create=True)
    store.add(toy_session(0))
    command, out = ["evaluate", str(store.path), "--f0", "1", "--quiet", "--out"], tmp_path / "t.csv"
    assert main([*command, str(out)]) == 0 and main([*command, str(out)]) == 0  # our own is replaced
    capsys.readouterr()
    text = out.read_text()
    out.write_text(text + "my note\n")
    assert "--overwrite" in refused(capsys, *command, out) and out.read_text() == text + "my note\n"
    assert main([*command, str(out), "--overwrite"]) == 0 and out.read_text() == text
    # killed between a new sidecar and its table: the former table is still known
    note = json.loads(out.with_suffix(".json").read_text())
    out.with_suffix(".json").write_text(json.dumps({**note, "blake2b": "another", "replaces": note["blake2b"]}))
    assert main([*command, str(out)]) == 0


def test_evaluate_without_a_model_gives_the_naive_rows(tmp_path, capsys):
    store = qf.Store(tmp_path / "store", create=True)
    store.add(toy_session(0))
    assert main(["evaluate", str(store.path), "--f0", "1", "--out", str(tmp_path / "naive.csv"), "--bootstrap", "--quiet"]) == 0
    text = capsys.readouterr().out
    expected = evaluate([], split_blocks(store.trials(f0_s=1.0)))
    saved = pd.read_csv(tmp_path / "naive.csv", index_col=0)
    assert list(saved.index) == list(expected.index) and f"{expected.loc['ridge, own trace', 'mse']:.4g}" in text
    assert refused(capsys, "evaluate", store.path, "--f0", "1", "--samples", "99999999999", "--quiet").startswith("qf: --samples")
