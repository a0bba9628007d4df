"""Stores and models saved by earlier versions are read, and predict what they predicted when they were saved."""

import json
from pathlib import Path

import numpy as np
import pytest

import qf_toolkit as qf

FIXTURES = sorted(p.parent for p in (Path(__file__).parent / "fixtures").glob("*/made_with.json"))
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(params=FIXTURES, ids=lambda p: p.name)
def saved(request):
    return request.param


def test_there_is_one_of_each_version_that_saved_models():
    assert [p.name for p in FIXTURES] == ["202dd57", "b35afb9"]


@pytest.mark.parametrize("signal", ["dff", "zscore"])
def test_saved_models_predict_what_they_did(saved, signal):
    autoencoder, forecaster, classifier = (qf.load(saved / signal / n, device="cpu") for n in ("autoencoder", "forecaster", "classifier"))
    store = qf.open_store(saved / "store")
    test = qf.split_blocks(store.trials(baseline_s=2, response_s=1, f0_s=1, signal=signal)).test
    wanted = np.load(saved / signal / "predictions.npz")
    sessions = test.by_session()
    assert len(sessions) == 3 and len(wanted.files) == 3 * 6
    for part in sessions:
        kept = {key.split(":")[1]: wanted[key] for key in wanted.files if key.startswith(f"{part.sessions[0]}:")}
        assert np.array_equal(autoencoder.codes(part)["code"], kept["codes"])
        np.testing.assert_allclose(classifier.predict(part)["probability"], kept["probability"], **CLOSE)
        for decode in ("soft", "argmax", "sample"):
            forecaster.decode = decode
            np.testing.assert_allclose(forecaster.predict(part)["forecast"], kept[decode], **CLOSE)
        np.testing.assert_allclose(forecaster.sample(part, 4, seed=3)["samples"], kept["samples"], **CLOSE)


def test_the_options_they_were_trained_with_are_read(saved, capsys):
    from qf_toolkit.cli.main import main

    made = saved / "dff"
    assert main(["evaluate", str(saved / "store"), "--model", str(made / "forecaster"), str(made / "classifier"), "--quiet"]) == 0
    assert "36 test trials" in capsys.readouterr().out
    assert json.loads((saved / "made_with.json").read_text())["qf_toolkit"] == saved.name
