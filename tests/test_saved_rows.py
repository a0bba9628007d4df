"""Naive rows are saved and loaded as models are, and answer as before."""

import json

import numpy as np
import pytest
import torch
from helpers import toy_session

import qf_toolkit as qf
from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.estimators.naive import StimulusMean, TrainingMean, Zero
from qf_toolkit.estimators.registry import KINDS, find
from qf_toolkit.estimators.rows import naive_classifiers, naive_forecasters
from qf_toolkit.evaluation.table import evaluate, evaluate_classifier
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

SESSIONS = [toy_session(0), toy_session(1, session="two", stimuli=("gratings", "scenes")), toy_session(2, subject="rat", n_neurons=3)]


@pytest.fixture(scope="module", params=["dff", "zscore"])
def split(request):
    return split_blocks(cut(SESSIONS, signal=request.param))


def test_every_row_answers_as_before(split, tmp_path):
    rows = [*naive_forecasters(), Zero(), TrainingMean(time_resolved=True), *naive_classifiers(3.0)]
    for i, row in enumerate(rows):
        row.fit(split).save(tmp_path / str(i))
        loaded = qf.load(tmp_path / str(i))
        assert type(loaded) is type(row) and loaded.digest() == row.digest() and loaded.seen == row.seen
        for part in split.test.by_session():
            if row.task == "forecast":
                assert loaded.predict(part).identical(row.predict(part))
            else:
                np.testing.assert_allclose(loaded.predict_probability(part), row.predict_probability(part), rtol=1e-12)
        note = json.loads((tmp_path / str(i) / "config.json").read_text())
        assert note["kind"] == row.kind and all(getattr(loaded, name) == getattr(row, name) for name in type(row).options)


def test_a_table_of_loaded_rows_is_that_of_the_rows(split, tmp_path):
    found = evaluate([], split)
    for row in naive_forecasters():
        row.fit(split).save(tmp_path / row.kind)
    again = evaluate({f"loaded {r.name}": qf.load(tmp_path / r.kind) for r in naive_forecasters()}, split, naive=False)
    np.testing.assert_array_equal(again.to_numpy(float), found.to_numpy(float))
    row = naive_classifiers()[0].fit(split)
    row.save(tmp_path / row.kind)
    table = evaluate_classifier({"loaded": qf.load(tmp_path / row.kind)}, split)
    assert table.loc["loaded", "auroc"] == table.loc[row.name, "auroc"]


def test_what_is_not_fitted_is_not_saved(tmp_path):
    for row in (*naive_forecasters(), *naive_classifiers()):
        with pytest.raises(QfError, match=r"not fitted yet\. Call fit"):
            row.save(tmp_path / "row")
    assert not list(tmp_path.iterdir())


def test_altered_files_are_refused_in_a_line(tmp_path):
    split = split_blocks(cut(SESSIONS[:1]))
    for row in naive_forecasters() + naive_classifiers():
        folder = tmp_path / row.kind
        row.fit(split).save(folder)
        file = folder / "config.json"
        note = json.loads(file.read_text())
        changes = {"window": {**note["window"], "response_s": 1.0}, "rate_hz": 0, "notes": 3}
        if "neurons" in note:
            changes["neurons"] = note["neurons"][:-1]
        for key, value in changes.items():
            file.write_text(json.dumps({**note, key: value}))
            if key == "window" and not row.arrays():
                continue  # holds nothing that depends on the length of the response
            if key == "window" and row.task == "activation":
                continue
            with pytest.raises((DamagedFileError, QfError), match=str(folder)):
                qf.load(folder)
        file.write_text(json.dumps(note))
        weights = folder / "model.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(DamagedFileError):
            qf.load(folder)


def test_arrays_that_do_not_belong_are_refused(tmp_path):
    row = StimulusMean().fit(split_blocks(cut(SESSIONS[:1])))
    row.means = {**row.means, "neuron": row.means["neuron"][:, :-1]}
    row.save(tmp_path / "row")
    with pytest.raises(DamagedFileError, match="neuron: expected an array of shape"):
        qf.load(tmp_path / "row")


def test_every_kind_of_the_registry_is_the_class_that_names_it():
    for kind in KINDS:
        assert find(KINDS, kind).kind == kind


def test_rows_say_whether_their_data_were_simulated(tmp_path):
    torch.set_num_threads(1)
    store = qf.simulate(tmp_path / "store", n_neurons=3, repeats=9, directions=2, temporal_frequencies=1, gap_s=6.0, seed=0)
    row = StimulusMean().fit(split_blocks(store.trials()))
    row.save(tmp_path / "row")
    assert row.simulated is True and qf.load(tmp_path / "row").simulated is True
