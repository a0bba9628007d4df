"""The study of populations: trained on first use, loaded later, and never two studies in one folder."""

import pytest
import torch
from helpers import untaught

from qf_toolkit.errors import QfError
from qf_toolkit.study import population
from qf_toolkit.study.population import PopulationStudy

torch.set_num_threads(1)
pytestmark = [untaught, pytest.mark.filterwarnings("ignore:.*the network has settled")]
TINY = {
    "network": {"n_neurons": 8, "subjects": 2, "seconds": 60},
    "quantizer": {"epochs": 2, "width": 8, "heads": 2, "codes": 8},
    "forecaster": {"epochs": 1, "width": 8, "heads": 2, "layers": 1, "decode": "soft"},
    "peer": {"epochs": 1},
}


def test_models_are_trained_once_and_loaded_later(tmp_path, monkeypatch):
    monkeypatch.setitem(population.SIZES, "fast", TINY)
    study = PopulationStudy(tmp_path / "study", progress=False)
    model, peer = study.forecaster(), study.peer("nlinear")
    assert model.quantizer.digest() == study.quantizer().digest() and peer.name == "NLinear"
    assert set(model.sessions) == {"net1/1", "net2/1"} and len(study.split("net1/1").train.sessions) == 1
    model.check_unseen(study.split().test)
    monkeypatch.setitem(population.SIZES, "fast", {})  # nothing could be trained now
    again = PopulationStudy(tmp_path / "study", progress=False)
    again._store = study.store
    assert again.forecaster().digest() == model.digest() and again.peer("nlinear").digest() == peer.digest()
    assert not list((tmp_path / "study").glob("*/checkpoint"))
    with pytest.raises(QfError, match="made with other settings"):
        PopulationStudy(tmp_path / "study", seed=1)
    with pytest.raises(QfError, match="something else"):
        PopulationStudy(tmp_path)
