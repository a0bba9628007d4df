"""The trace inspector draws the numbers of the library, and each control changes what it says and no more."""

import matplotlib as mpl

mpl.use("Agg")


import numpy as np
import pytest
import torch
import xarray as xr
from helpers import untaught
from small_study import HIDDEN, LATE, part_of, session
from viewers import changed, controls, fails, key, lines, marks, panel, same, spec

from qf_toolkit.errors import UnknownKeyError
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.naive import StimulusMean
from qf_toolkit.interpret.codes import codebook
from qf_toolkit.interpret.neurons import neuron_statistics
from qf_toolkit.plots.style import palette
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import TraceInspector
from qf_toolkit.widgets.chart import shades
from qf_toolkit.widgets.trace_inspector import EVERY, STATISTICS, STORED

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("no_figure_left"), untaught]


@pytest.fixture
def inspector(s):
    return TraceInspector(s.test, [*s.naive[:2], s.forecaster, *s.naive[2:], s.classifier], n_samples=8)


# --- trace inspector


def test_inspector_draws_the_numbers_of_the_library(s, inspector):
    inspector.show(session="m/two", neuron="m/c6", trial=47)
    part, at = part_of(s.test, "m/two"), {"neuron": "m/c6", "trial": 47}
    ds = part.dataset()
    time, x = ds["time"].values, ds["dff"].sel(at).values
    drawn = lines(inspector, "trace")
    assert list(drawn) == ["measured", "copy last", "mean of the context", "QuantFormer"]  # the first three
    same(drawn["measured"]["y"], x)
    same(drawn["measured"]["x"], time)
    for model in (s.forecaster, *s.naive[:2]):
        same(drawn[model.name]["y"][30:], model.predict(part)["forecast"].sel(at), rtol=1e-4, atol=1e-5)
        assert drawn[model.name]["y"][:30] == [None] * 30
    (band,) = marks(inspector, "trace", "band")
    draws = s.forecaster.sample(part.subset((part.table["trial"] == 47).to_numpy()).of_neurons("m/c6"), n_samples=8, seed=0)["samples"].values
    for side, q in (("low", 0.05), ("high", 0.95)):
        same(band[side][30:], np.quantile(draws[:, 0, 0], q, axis=0, method="weibull"), rtol=1e-4, atol=1e-5)
    band_color = drawn["QuantFormer"]["color"]
    assert band["color"] == band_color == palette()[2]
    shaded = [(m["x0"][0], m["x1"][0]) for m in marks(inspector, "trace", "cells")]
    assert shaded == [(-3.0, 0.0)]  # all of the response is scored
    assert [m["x"] for m in marks(inspector, "trace", "rule")] == [0.0]
    psth = lines(inspector, "psth")["mean of the condition"]["y"]
    same_condition = ds["dff"].sel(neuron="m/c6")[ds["condition"].values == ds["condition"].sel(trial=47).values]
    same(psth, same_condition.mean("trial"), rtol=1e-4, atol=1e-6)
    (band,) = marks(inspector, "psth", "band")
    same(band["high"], (same_condition.mean("trial") + same_condition.std("trial")), rtol=1e-4, atol=1e-6)
    strips = marks(inspector, "codes", "cells")
    assert [int(c) for c in strips[0]["text"]] == s.autoencoder.codes(part)["code"].sel(at).values.tolist()
    same(strips[0]["x0"], s.autoencoder.config.patch_starts)
    same(np.array(strips[0]["x1"]) - strips[0]["x0"], np.full(7, 0.8))
    context = x[None, None, :30]
    assert [int(c) for c in strips[1]["text"]] == s.forecaster.codes_arrays(
        Observations(context, ["m/c6"], [str(ds["condition"].sel(trial=47).values)])
    ).ravel().tolist()
    assert [t["text"] for t in panel(inspector, "codes")["y"]["ticks"]] == ["measured", "QuantFormer"]
    levels = codebook(s.autoencoder)["level"].values
    assert strips[0]["color"] == shades(levels[[int(c) for c in strips[0]["text"]]], levels.min(), levels.max())[0]
    domains = {tuple(p["x"]["domain"]) for p in spec(inspector)["panels"]}
    assert len(domains) == 1 and all(p["scrub"] for p in spec(inspector)["panels"])  # one cursor goes through all
    low, high = panel(inspector, "trace")["y"]["domain"]
    assert low < np.nanmin(x) and high > np.nanmax(x)
    assert [e["name"] for e in spec(inspector)["legend"]] == [*drawn, "90% interval"]
    assert spec(inspector)["legend"][-1]["color"] == band_color
    probability = float(s.classifier.predict(part)["probability"].sel(at))
    wanted = "active" if bool(ds["active"].sel(at)) else "not active"
    assert inspector.message == f"{wanted} in this trial; probability of being active {probability:.2f} (QuantFormer); neuron 4 of 5, trial 8 of 20."
    assert panel(inspector, "trace")["title"].startswith(f"m/c6, trial 47: {ds['condition'].sel(trial=47).values}; {wanted}")


def test_inspector_shades_the_scored_part(s):
    trials = cut([session()], score_s=1.0)
    inspector = TraceInspector(trials, [StimulusMean().fit(split_blocks(trials))])
    assert [(m["x0"][0], m["x1"][0]) for m in marks(inspector, "trace", "cells")] == [(-3.0, 0.0), (0.0, pytest.approx(1.0))]


@pytest.mark.parametrize(
    ("name", "count", "neuron", "trial"),
    [
        ("ArrowDown", 1, 3, 5), ("ArrowDown", 2, 4, 5), ("ArrowDown", 99, 5, 5), ("ArrowUp", 1, 1, 5), ("ArrowUp", 9, 0, 5), ("ArrowRight", 1, 2, 6),
        ("ArrowRight", 99, 2, 19), ("ArrowLeft", 3, 2, 2), ("ArrowLeft", 99, 2, 0), ("PageDown", 1, 5, 5), ("PageUp", 1, 0, 5), ("Home", 1, 2, 0),
        ("End", 1, 2, 19), ("Enter", 1, 2, 5),
    ],
)  # fmt: skip
def test_inspector_keys_go_to_the_next_neuron_or_trial_and_change_nothing_else(s, inspector, name, count, neuron, trial):
    neurons, trials = ([v for _, v in c.options] for c in (inspector.neuron, inspector.trial))
    inspector.show(neuron=neurons[2], trial=trials[5])
    moved = changed(inspector, lambda: key(inspector, name, count))
    assert moved == ({"neuron"} if neuron != 2 else {"trial"} if trial != 5 else set())
    assert inspector.message.count(f"neuron {neuron + 1} of 6, trial {trial + 1} of 20") == 1
    wanted = part_of(s.test, "m/one").dataset()["dff"].values[trial, neuron]
    same(lines(inspector, "trace")["measured"]["y"], wanted)


def test_keys_through_the_channel_of_the_browser(inspector):
    answers = []
    inspector.chart.send = answers.append
    before = inspector.neuron.value
    inspector.chart.comm.handle_msg(
        {"content": {"data": {"method": "custom", "content": {"type": "key", "key": "ArrowDown", "count": 1}}}, "buffers": []}
    )
    assert inspector.neuron.value != before and answers == [{"type": "done"}]
    inspector._keyed = None  # an error in the kernel does not lock the keyboard
    inspector.chart._on_key = None
    with pytest.raises(KeyError):
        inspector.chart._message(None, {"type": "pick"})
    assert len(answers) == 2


def test_inspector_conditions_choose_trials(s, inspector):
    table = part_of(s.test, "m/one").table
    assert list(inspector.condition.options) == [EVERY, *sorted(table["condition"].unique())]
    wanted = "drifting_gratings/orientation=90"
    moved = changed(inspector, lambda: setattr(inspector.condition, "value", wanted))
    own = table["trial"][table["condition"] == wanted].tolist()
    assert moved <= {"condition", "trial"} and [v for _, v in inspector.trial.options] == own
    assert inspector.view().attrs["condition"] == wanted and inspector.trial.value in own
    key(inspector, "End")
    assert inspector.trial.value == own[-1]
    kept = inspector.trial.value
    assert changed(inspector, lambda: setattr(inspector.condition, "value", EVERY)) == {"condition"} and inspector.trial.value == kept
    assert [v for _, v in inspector.trial.options] == table["trial"].tolist()


def test_inspector_stimuli_choose_conditions():
    trials = cut([session(stimuli=("gratings", "scenes"))])
    inspector = TraceInspector(trials)
    assert inspector.stimulus.options == (EVERY, "gratings", "scenes")
    inspector.condition.value = "gratings/orientation=90"
    inspector.stimulus.value = "scenes"
    assert inspector.condition.options == (EVERY, "scenes/orientation=135", "scenes/orientation=45") and inspector.condition.value == EVERY
    scenes = trials.table["trial"][trials.table["stimulus"] == "scenes"].tolist()
    assert [v for _, v in inspector.trial.options] == scenes and inspector.view().attrs["stimulus"] == "scenes"


def test_inspector_sessions_have_their_neurons_and_trials(s, inspector):
    inspector.show(neuron="m/c4", trial=50)
    assert changed(inspector, lambda: setattr(inspector.session, "value", "m/two")) == {"session"}  # c4 and trial 50 are there, too
    assert [v for _, v in inspector.neuron.options] == [f"m/c{i}" for i in range(3, 8)]
    same(lines(inspector, "trace")["measured"]["y"], part_of(s.test, "m/two").dataset()["dff"].sel(neuron="m/c4", trial=50))
    inspector.neuron.value = "m/c7"
    inspector.session.value = "m/one"
    assert inspector.neuron.value == "m/c0" and inspector.trial.value == 50
    same(lines(inspector, "trace")["measured"]["y"], part_of(s.test, "m/one").dataset()["dff"].sel(neuron="m/c0", trial=50))


def test_inspector_models_are_chosen_and_keep_their_colours(inspector):
    first = lines(inspector, "trace")
    moved = changed(inspector, lambda: setattr(inspector.models, "value", ("ridge, population", "copy last")))
    drawn = lines(inspector, "trace")
    assert moved == {"models"} and list(drawn) == ["measured", "copy last", "ridge, population"]
    assert drawn["copy last"] == first["copy last"] and drawn["ridge, population"]["color"] == palette()[6]
    assert marks(inspector, "trace", "band") == [] and len(marks(inspector, "codes", "cells")) == 1
    inspector.models.value = ()
    assert list(lines(inspector, "trace")) == ["measured"] and list(inspector.view()["model"].values) == []


def test_inspector_search(inspector):
    inspector.neuron.value = "m/c4"
    assert changed(inspector, lambda: setattr(inspector.search, "value", " C4 ")) == {"search"}
    assert [v for _, v in inspector.neuron.options] == ["m/c4"]
    inspector.search.value = "c"
    assert len(inspector.neuron.options) == 6 and inspector.neuron.value == "m/c4"
    assert changed(inspector, lambda: setattr(inspector.search, "value", "c1")) == {"search", "neuron"} and inspector.neuron.value == "m/c1"
    inspector.search.value = "<b>none"
    assert fails(inspector, r"neuron: expected a name that holds '<b>none', found none in m/one\. Empty the box, or type less\.")
    assert "<b>" not in inspector.status.value
    key(inspector, "ArrowDown")
    key(inspector, "ArrowRight")  # go on silently
    inspector.search.value = ""
    assert inspector.neuron.value == "m/c0" and lines(inspector, "trace") and inspector._error is None


@pytest.mark.parametrize("by", STATISTICS)
def test_inspector_sorts_by_a_statistic(s, inspector, by):
    values = neuron_statistics(part_of(s.test, "m/one"))[STATISTICS[by]].to_series().astype(float)
    moved = changed(inspector, lambda: setattr(inspector.sort, "value", by))
    assert moved == {"sort"}  # the neuron stays where it is
    shown = values[[v for _, v in inspector.neuron.options]]
    assert len(shown) == 6 and (np.diff(shown.dropna()) <= 0).all()
    assert [label for label, _ in inspector.neuron.options] == [f"{n}  ({v:.3g})" for n, v in shown.items()]
    key(inspector, "ArrowUp", 99)
    assert inspector.neuron.value == shown.index[0]
    inspector.search.value = "c1"
    assert [v for _, v in inspector.neuron.options] == ["m/c1"]
    inspector.search.value, inspector.sort.value = "", STORED
    assert [v for _, v in inspector.neuron.options] == [f"m/c{i}" for i in range(6)]


def test_inspector_sorts_ties_as_stored_and_nan_last(inspector):
    values = [1.0, np.nan, 2.0, 1.0, np.nan, 2.0]
    inspector._statistics["m/one"] = xr.Dataset({"sd": ("neuron", values)}, {"neuron": [f"m/c{i}" for i in range(6)]})
    inspector.sort.value = "standard deviation"
    assert [v[-1] for _, v in inspector.neuron.options] == list("250314")


def test_inspector_is_sent_somewhere(inspector):
    inspector.condition.value, inspector.search.value = "drifting_gratings/orientation=0", "c1"
    inspector.show(session="m/two", neuron="m/c7", trial=55)
    found = controls(inspector)
    assert (found["session"], found["neuron"], found["trial"], found["search"], found["condition"]) == ("m/two", "m/c7", 55, "", EVERY)
    before, drawn = controls(inspector), spec(inspector)
    for wrong in ({"neuron": "m/c0"}, {"trial": 3}, {"session": "m/three"}, {"session": "m/one", "neuron": "m/c1", "trial": 3}):
        with pytest.raises(UnknownKeyError):
            inspector.show(**wrong)
        assert controls(inspector) == before and spec(inspector) == drawn  # all or nothing
    inspector.show(session="m/one", neuron="m/c1")
    assert inspector.view().attrs["neuron"] == "m/c1" and inspector.view().attrs["trial"] == 55


def test_inspector_says_what_is_missing_in_a_trial(inspector):
    inspector.show(neuron=HIDDEN[0], trial=HIDDEN[1])
    assert "the baseline has missing values or too small an F0: nothing is forecast" in inspector.message and "nan" not in inspector.message
    assert marks(inspector, "codes", "cells") == [] and marks(inspector, "trace", "band") == []
    assert set(lines(inspector, "trace")["measured"]["y"]) == {None}
    inspector._static()
    inspector.show(neuron=LATE[0], trial=LATE[1])
    assert lines(inspector, "trace")["measured"]["y"].count(None) == 3 and "missing" not in inspector.message


def test_inspector_of_trials_that_models_have_seen_says_so(s):
    inspector = TraceInspector(s.split.train, [s.forecaster, s.naive[0]])
    assert inspector.message.endswith("Seen in training by QuantFormer, copy last: no forecast to judge a model by.")


def test_inspector_keeps_the_axis_of_a_neuron(s, inspector):
    found = []
    for trial in (45, 46, 47, 48):
        inspector.show(neuron="m/c3", trial=trial)
        found.append(tuple(panel(inspector, "trace")["y"]["domain"]))
    x = part_of(s.test, "m/one").dataset()["dff"].sel(neuron="m/c3").values
    low, high = np.array(found).T
    assert (low < np.quantile(x, 0.001)).all() and (high > np.quantile(x, 0.999)).all()
    inspector.show(neuron="m/c4", trial=45)
    other = panel(inspector, "trace")["y"]["domain"]
    assert max(np.ptp(low), np.ptp(high)) < 0.1 * np.ptp(other) and abs(other[1] - high[0]) > 2 * np.ptp(high)
