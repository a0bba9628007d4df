"""The rollout viewer shows the rollout of the same observations."""

import matplotlib as mpl

mpl.use("Agg")


import numpy as np
import pandas as pd
import pytest
import torch
from helpers import untaught
from small_study import HIDDEN, LATE, fitted, part_of, session
from viewers import changed, fails, key, marks, panel, pick, same, spec

from qf_toolkit.interpret.attention import attention_rollout, readout
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import RolloutViewer, rollout_viewer
from qf_toolkit.widgets.rollout_viewer import ALL_HEADS, CONDITION, STIMULUS, THIS

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("no_figure_left"), untaught]


@pytest.fixture
def viewer(s):
    return RolloutViewer(s.classifier, s.test)


# --- rollout viewer


def part_for(trials, neuron, chosen):
    return trials.subset(chosen.to_numpy()).of_neurons(neuron)


@pytest.mark.parametrize("over", [THIS, CONDITION, STIMULUS])
@pytest.mark.parametrize("kind", ["classifier", "forecaster"])
def test_viewer_shows_the_rollout_of_the_same_observations(s, kind, over):
    model, part = getattr(s, kind), part_of(s.test, "m/one")
    viewer = RolloutViewer(model, s.test)
    viewer.over.value, viewer.gradient.value = over, True
    viewer.neuron.value, viewer.trial.value = HIDDEN[0], 45
    table = part.table
    chosen = {THIS: table["trial"] == 45, STIMULUS: table["trial"] >= 0,
              CONDITION: table["condition"] == table["condition"][table["trial"] == 45].item()}[over]  # fmt: skip
    wanted = attention_rollout(model, part_for(part, HIDDEN[0], chosen), by="stimulus", gradient=True).isel(stimulus=0)
    for name in ("attention", "rollout", "head_rollout", "gradient_rollout"):
        np.testing.assert_allclose(viewer.view()[name], wanted[name], atol=1e-6, err_msg=name)
    assert viewer.view().attrs["n_trials"] == int(wanted["observations"])
    bars, points = marks(viewer, "share", "cells")[0], marks(viewer, "share", "points")[0]
    same(bars["y1"], readout(wanted["rollout"].isel(layer=-1)), rtol=1e-4, atol=1e-6)
    same(points["y"], readout(wanted["gradient_rollout"]), rtol=1e-3, atol=1e-6)
    assert [t["text"] for t in panel(viewer, "share")["x"]["ticks"]][:2] == (
        ["[CLS]", "[NEURON]"] if kind == "classifier" else ["[NEURON]", "[STIM]"]
    )
    tips = [float(t.split(": ")[1]) for t in marks(viewer, "layers", "cells")[0]["tip"]]
    np.testing.assert_allclose(tips, readout(wanted["rollout"]).values.ravel(), atol=6e-4)
    tips = [float(t.split(": ")[1]) for t in marks(viewer, "map", "cells")[0]["tip"]]
    np.testing.assert_allclose(tips, wanted["attention"].sel(layer=2).mean("head").values.ravel(), atol=6e-4)
    share = readout(wanted["rollout"].isel(layer=-1))
    strongest = share["source"].values[int(share.values.argmax())]
    assert f"takes {float(share.max()):.0%} from {strongest}." in viewer.message
    left_out = int(chosen.sum()) - int(wanted["observations"])
    assert (f"{left_out} trials with missing values are left out" in viewer.message) == (left_out > 0) and (left_out > 0) == (over == STIMULUS)


def test_viewer_controls_and_keys(s, viewer):
    first, cells = spec(viewer), marks(viewer, "map", "cells")[0]["tip"]
    view = viewer.view()
    assert changed(viewer, lambda: setattr(viewer.head, "value", 2)) == {"head"}
    found = marks(viewer, "map", "cells")[0]["tip"]
    np.testing.assert_allclose([float(t.split(": ")[1]) for t in found], view["attention"].sel(layer=2, head=2).values.ravel(), atol=6e-4)
    assert found != cells and spec(viewer)["panels"][:2] == first["panels"][:2]
    layers = marks(viewer, "layers", "cells")[0]
    assert layers["picked"] == 2 and set(layers["key"]) == {1, 2}
    assert changed(viewer, lambda: pick(viewer, "layers", 1)) == {"layer"}
    found = [float(t.split(": ")[1]) for t in marks(viewer, "map", "cells")[0]["tip"]]
    np.testing.assert_allclose(found, view["attention"].sel(layer=1, head=2).values.ravel(), atol=6e-4)
    viewer.head.value = ALL_HEADS
    assert changed(viewer, lambda: key(viewer, "ArrowDown", 2)) == {"neuron"} and viewer.view().attrs["neuron"] == "m/c2"
    assert changed(viewer, lambda: key(viewer, "ArrowUp", 9)) == {"neuron"} and viewer.neuron.value == "m/c0"
    assert changed(viewer, lambda: key(viewer, "ArrowRight", 3)) == {"trial"} and viewer.view().attrs["trial"] == 43
    key(viewer, "ArrowLeft", 9)
    assert viewer.trial.value == 40
    assert changed(viewer, lambda: setattr(viewer.session, "value", "m/two")) == {"session", "neuron"} and viewer.neuron.value == "m/c3"
    wanted = part_of(s.test, "m/two")
    chosen = wanted.table["condition"] == wanted.table["condition"][wanted.table["trial"] == 40].item()
    wanted = attention_rollout(s.classifier, part_for(wanted, "m/c3", chosen), by="stimulus").isel(stimulus=0)
    np.testing.assert_allclose(viewer.view()["rollout"], wanted["rollout"], atol=1e-6)


def test_viewer_averages_some_of_many_trials(s, monkeypatch):
    monkeypatch.setattr(rollout_viewer, "MOST_TRIALS", 4)
    viewer = RolloutViewer(s.classifier, s.test)
    viewer.over.value = STIMULUS
    at = np.array([0, 6, 13, 19])
    wanted = attention_rollout(s.classifier, part_of(s.test, "m/one").subset(at).of_neurons("m/c0"), by="stimulus").isel(stimulus=0)
    np.testing.assert_allclose(viewer.view()["rollout"], wanted["rollout"], atol=1e-6)
    assert "mean of 4 of 20 trials (trials of the stimulus)" in viewer.message


def test_viewer_of_a_trial_without_a_baseline(viewer):
    viewer.over.value = THIS
    viewer.neuron.value, viewer.trial.value = HIDDEN
    assert fails(viewer, r"trial: expected a baseline without missing values of m/c1, found none among 1")
    key(viewer, "ArrowRight")
    assert viewer.view().attrs["trial"] == 44
    viewer.neuron.value, viewer.trial.value = LATE[0], LATE[1] + 1  # whose baseline is missing in part
    assert fails(viewer, "expected a baseline without missing values of m/c2")


def test_viewer_under_z_scores():
    split = split_blocks(cut([session()], signal="zscore"))
    model = fitted(split)[2]
    viewer = RolloutViewer(model, cut([session()], signal="zscore"))
    viewer.over.value, viewer.trial.value = THIS, 45
    wanted = attention_rollout(model, split.test.of_neurons("m/c0"), by="observation").sel(trial=45, neuron="m/c0")
    np.testing.assert_allclose(viewer.view()["rollout"], wanted["rollout"], atol=1e-6)


def test_viewer_saves_what_is_drawn(viewer, tmp_path):
    viewer.save(tmp_path / "rollout")
    table = pd.read_csv(tmp_path / "rollout.csv")
    drawn = marks(viewer, "share", "cells")[0]["y1"]
    same(drawn, table[table["layer"] == 2]["rollout"], rtol=1e-4, atol=1e-6)
    assert table[table["layer"] == 2]["source"][:2].tolist() == ["[CLS]", "[NEURON]"]
