"""The population viewer shows the library's rasters, of any forecaster; a neuron that is chosen is outlined and its trace drawn."""

import matplotlib as mpl

mpl.use("Agg")

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_session, untaught
from small_study import part_of, session
from viewers import changed, fails, key, lines, marks, panel, pick, same, spec

from qf_toolkit.estimators.network import fit_network
from qf_toolkit.interpret.population import population_view
from qf_toolkit.plots.population import raster_limits
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import PopulationViewer

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("no_figure_left"), untaught]


@pytest.fixture
def viewer(s):
    return PopulationViewer([s.forecaster, *s.naive[:2]], s.test)


def wanted(s, model, session, trial, order="peak"):
    part = part_of(s.test, session)
    part = part.subset((part.table["trial"] == trial).to_numpy())
    return population_view(part.dataset(), model.predict(part), trial, order=order)


def test_rasters_and_trace_are_the_librarys(s, viewer):
    viewer.trial.value, viewer.neuron.value = 45, "m/c4"
    view = wanted(s, s.forecaster, "m/one", 45)
    for name in ("measured", "forecast", "error"):
        np.testing.assert_array_equal(viewer.view()[name], view[name])
        low, high = raster_limits(view, name)
        assert f"{low:.2g} to {high:.2g}" in panel(viewer, name)["title"] and "dF/F" in panel(viewer, name)["title"]
        rows = marks(viewer, name, "cells")[0]
        assert rows["key"] == view["neuron"].values.tolist() and rows["picked"] == "m/c4"
        assert rows["y1"][0] == 6 and rows["y0"][-1] == 0  # the first neuron is on top, as in the picture
    drawn = lines(viewer, "trace")
    same(drawn["measured"]["y"], view["measured"].sel(neuron="m/c4"))
    same(drawn["QuantFormer"]["y"][30:], view["forecast"].sel(neuron="m/c4")[30:])
    mse = np.nanmean(np.square(view["error"].values))
    assert f"Mean squared error of QuantFormer {mse:.3g}" in viewer.message and "6 neurons, by time of the measured peak" in viewer.message


def test_controls_keys_and_clicks(s, viewer):
    viewer.trial.value = 45
    order = viewer.view()["neuron"].values.tolist()
    assert changed(viewer, lambda: pick(viewer, "error", order[2])) == {"neuron"} and viewer.neuron.value == order[2]
    assert changed(viewer, lambda: key(viewer, "ArrowDown")) == {"neuron"} and viewer.neuron.value == order[3]
    key(viewer, "ArrowUp", 9)
    assert viewer.neuron.value == order[0]
    assert changed(viewer, lambda: key(viewer, "ArrowRight", 2)) == {"trial"} and viewer.view().attrs["trial"] == 47
    assert changed(viewer, lambda: setattr(viewer.order, "value", "recorded")) == {"order"}
    assert viewer.view()["neuron"].values.tolist() == part_of(s.test, "m/one").neurons
    assert changed(viewer, lambda: setattr(viewer.model, "value", s.naive[0].name)) == {"model"}
    np.testing.assert_array_equal(viewer.view()["forecast"], wanted(s, s.naive[0], "m/one", 47, "recorded")["forecast"])
    assert s.naive[0].name in lines(viewer, "trace")
    changed(viewer, lambda: setattr(viewer.session, "value", "m/two"))
    assert viewer.view().attrs["session"] == "m/two" and viewer.neuron.value in part_of(s.test, "m/two").neurons


def test_another_neuron_needs_no_new_forecast(s, viewer, monkeypatch):
    first = spec(viewer)
    monkeypatch.setattr(type(s.forecaster), "predict", None)
    key(viewer, "ArrowDown", 3)
    assert spec(viewer) != first and viewer.view() is not None
    assert [p["marks"][0] for p in spec(viewer)["panels"][:3]] == [p["marks"][0] for p in first["panels"][:3]]


@pytest.mark.parametrize("kind", ["poco", "itransformer"])
def test_population_models_under_z_scores(kind):
    split = split_blocks(cut([session()], signal="zscore"))
    model = fit_network(split, kind, epochs=1, progress=False)
    viewer = PopulationViewer(model, cut([session()], signal="zscore"))
    part = model.prepare(split.test)
    trial = int(part.table["trial"].iloc[0])
    viewer.trial.value = trial
    view = population_view(part.dataset(), model.predict(split.test), trial)
    np.testing.assert_allclose(viewer.view()["forecast"], view["forecast"], rtol=1e-5, atol=1e-6)
    assert "z-score" in panel(viewer, "measured")["title"] and viewer.view().attrs["model"] == model.digest()


def test_viewer_saves_what_is_drawn(viewer, tmp_path):
    viewer.trial.value = 45
    viewer.save(tmp_path / "population")
    table = pd.read_csv(tmp_path / "population.csv", index_col=["neuron", "time"])
    view = viewer.view()
    np.testing.assert_allclose(table["measured"].to_numpy(), view["measured"].values.ravel(), rtol=1e-6)
    note = json.loads((tmp_path / "population.json").read_text())
    assert note["sources"][0]["model"] == view.attrs["model"] and note["sources"][0]["session"] == "m/one"
    assert viewer._name().startswith("m/one_trial45_QuantFormer_m/c")
    assert (tmp_path / "population.svg").exists() and (tmp_path / "population.png").stat().st_size > 10_000


def test_what_cannot_be_shown_is_told_in_the_widget(s):
    assert fails(PopulationViewer(s.classifier, s.test), "models: expected forecasters, found")
    assert fails(PopulationViewer([], s.test), "models: expected one or more with names that differ, found none")
    assert fails(PopulationViewer([s.forecaster, s.forecaster], s.test), "models: expected one or more with names that differ")
    assert fails(PopulationViewer(s.forecaster, s.split), "found Split")
    assert fails(PopulationViewer(s.forecaster, cut([toy_session()])), "neuron: 'mouse/one/0'")
