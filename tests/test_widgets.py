"""The widgets: what they draw are the library's numbers, each control changes what it says and no more, and bad input is told in the widget."""

import matplotlib as mpl

mpl.use("Agg")

import base64
import gc
import html
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from test_observation import HIDDEN, LATE, TINY, fitted, part_of, session, study

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.naive import CopyLast, StimulusMean
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.interpret.attention import attention_rollout, readout
from qf_toolkit.interpret.codes import codebook, decode_codes
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.interpret.neurons import nearest_neighbours, neuron_statistics, neuron_tokens
from qf_toolkit.plots.style import palette
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import CodeExplorer, EmbeddingBrowser, RolloutViewer, TraceInspector, base, code_explorer, diagnose, rollout_viewer
from qf_toolkit.widgets.chart import around, image, numbers, shades
from qf_toolkit.widgets.rollout_viewer import ALL_HEADS, CONDITION, STIMULUS, THIS
from qf_toolkit.widgets.trace_inspector import EVERY, STATISTICS, STORED

torch.set_num_threads(1)
DRAWN = {"rtol": 1e-4, "atol": 1e-9}  # five digits are sent


@pytest.fixture(scope="module")
def s():
    return study()


@pytest.fixture
def inspector(s):
    return TraceInspector(s.test, [*s.naive[:2], s.forecaster, *s.naive[2:], s.classifier], n_samples=8)


@pytest.fixture
def explorer(s):
    return CodeExplorer(s.autoencoder, s.test)


@pytest.fixture
def viewer(s):
    return RolloutViewer(s.classifier, s.test)


@pytest.fixture
def browser(s):
    return EmbeddingBrowser(s.forecaster, s.test)


@pytest.fixture(autouse=True)
def closed():
    yield
    assert plt.get_fignums() == [], "a figure stays open"


def spec(viewer):
    """What the browser is sent: JSON without NaN, which it can't read."""
    return json.loads(json.dumps(viewer.chart.spec, allow_nan=False))


def panel(viewer, name):
    return next(p for p in spec(viewer)["panels"] if p["name"] == name)


def marks(viewer, name, kind):
    return [m for m in panel(viewer, name)["marks"] if m["type"] == kind]


def lines(viewer, name):
    return {m["name"]: m for m in marks(viewer, name, "line") if "name" in m}


def same(drawn, wanted, **tolerance):
    np.testing.assert_allclose(np.array(drawn, float), np.asarray(wanted, float).ravel(), **(tolerance or DRAWN))


def key(viewer, name, count=1):
    viewer.chart._message(viewer.chart, {"type": "key", "key": name, "count": count})


def pick(viewer, panel, it):
    viewer.chart._message(viewer.chart, {"type": "pick", "panel": panel, "key": it})


def controls(viewer):
    return {n: w.value for n, w in vars(viewer).items() if isinstance(w, ipywidgets.ValueWidget) and n not in ("status", "saved")}


def changed(viewer, act):
    """The controls that an action changes."""
    before = controls(viewer)
    act()
    after = controls(viewer)
    return {n for n in before if before[n] != after[n]}


def fails(viewer, message):
    """Nothing is shown, and the widget says why, to eyes, to screen readers and to code."""
    assert re.search(message, viewer.message), viewer.message
    assert viewer.chart.spec["panels"] == [] and 'role="alert"' in viewer.status.value
    for ask in (viewer.view, viewer.figure, viewer.save):
        with pytest.raises(QfError, match=message):
            ask()
    assert html.escape(viewer.message) in viewer._static() and "<img" not in viewer._static()
    return True


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


@pytest.mark.parametrize("make", ["inspector", "explorer", "viewer", "browser"])
def test_the_page_keeps_the_keys_that_a_viewer_has_no_use_for(request, make):
    it = request.getfixturevalue(make)
    taken, every = it.chart.used_keys, ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown", "Enter", "Tab", " "]
    assert taken and set(taken) <= set(every)
    for name in every:
        moved = False
        for other in taken:  # some keys do nothing at an end
            key(it, other)
            moved |= bool(changed(it, lambda name=name: key(it, name)))
        assert moved == (name in taken), name


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


def test_inspector_saves_figure_table_and_where_they_come_from(s, inspector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inspector.show(neuron="m/c3", trial=46)
    inspector.models.value = ("QuantFormer", "copy last")
    inspector._stem.value = "figures/one"
    inspector._save.click()
    stem = "figures/one_m_one_m_c3_trial46"
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [f"one_m_one_m_c3_trial46.{e}" for e in ("csv", "json", "png", "svg")]
    assert f"{stem}.csv" in inspector.saved.value
    table, view = pd.read_csv(f"{stem}.csv", index_col=0), inspector.view()
    np.testing.assert_allclose(table.index, view["time"], atol=1e-12)
    for column, wanted in {
        "measured": view["measured"], "psth": view["psth"], "psth_sd": view["psth_sd"], "reconstruction": view["reconstruction"],
        **{f"QuantFormer, {part}": view[part].sel(model="QuantFormer") for part in ("forecast", "low", "high")},
        "copy last, forecast": view["forecast"].sel(model="copy last"),
    }.items():  # fmt: skip
        np.testing.assert_allclose(table.pop(column), wanted, rtol=1e-6, err_msg=column)
    # a frame has the code of the patch it is in: 8 frames each, the first and the last patch cut by the window
    frames = np.concatenate([[6], [8] * 5, [4]])
    frames[0], frames[-1] = 30 - 8 * 3, 20 - 8 * 2
    assert table.pop("code, measured").tolist() == np.repeat(view["code"].values, frames).tolist()
    assert table.pop("code, QuantFormer").tolist() == np.repeat(view["forecast_code"].sel(model="QuantFormer").values, frames).tolist()
    assert table.empty or not len(table.columns)
    drawn = lines(inspector, "trace")["QuantFormer"]["y"][30:]
    same(drawn, pd.read_csv(f"{stem}.csv")["QuantFormer, forecast"][30:])
    note = json.loads(Path(f"{stem}.json").read_text())
    assert note["sources"][0]["data"] == part_of(s.test, "m/one").digest() and note["sources"][0]["models"]["QuantFormer"] == s.forecaster.digest()
    assert note["title"] == "trace inspector" and note["figure"] == ["one_m_one_m_c3_trial46.svg", "one_m_one_m_c3_trial46.png"]
    assert any("m/c3, trial 46" in (t.text or "") for t in ET.parse(f"{stem}.svg").iter())  # text stays text
    assert plt.imread(f"{stem}.png").shape[0] > 300
    assert [p.name for p in inspector.save("named")] == ["named.svg", "named.png", "named.csv", "named.json"]


def test_what_can_not_be_saved_is_told_in_the_widget(inspector, tmp_path):
    (tmp_path / "taken").write_text("")
    inspector._stem.value = str(tmp_path / "taken" / "view")
    inspector._save.click()
    assert 'role="alert"' in inspector.saved.value and "could not write" in inspector.saved.value


def test_one_view_is_not_another_in_names_of_files(explorer, inspector, viewer, browser):
    names = set()
    for widget, act in ((explorer, "ArrowUp"), (inspector, "ArrowRight"), (inspector, "ArrowDown"), (viewer, "ArrowDown"), (browser, "ArrowLeft")):
        names.add(widget._name())
        key(widget, act)
        names.add(widget._name())
    assert len(names) == 9


def test_long_names_fit_on_the_disk(tmp_path, monkeypatch):
    split = split_blocks(cut(toy_session()))
    explorer, found = CodeExplorer(pretrain(split, **TINY | {"patch_frames": 1, "codes": 12, "epochs": 1, "layers": 1})), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "save_figure", lambda fig, stem, **facts: [])
    for code in (10, 11):
        explorer.start([11] * 49 + [code])
        found += explorer.save()
    assert len({p.name for p in found}) == 4 and {len(p.name) < 160 for p in found} == {True} and len(list(tmp_path.iterdir())) == 2


# --- where there is no front end


@pytest.mark.parametrize("make", ["inspector", "explorer", "viewer", "browser"])
def test_exports_keep_a_picture(request, monkeypatch, make, tmp_path):
    widget, shown = request.getfixturevalue(make), []

    def display(data, raw, display_id=None):
        shown.append(data)
        return SimpleNamespace(update=lambda data, raw: shown.append(data))

    monkeypatch.setattr(base, "display", display)
    widget._ipython_display_()
    static, live = shown
    (alt, kind, data) = re.search(r'<img alt="([^"]*)" src="data:image/(\w+);base64,([^"]*)"/>', static["text/html"]).groups()
    assert kind == "png" and plt.imread(io.BytesIO(base64.b64decode(data))).ndim == 3
    assert html.unescape(alt) == f"{widget.title}, {widget._name()}: {widget.message}"
    assert f'data-qf-static="{widget.chart.uid}"' in static["text/html"] and "<script" not in static["text/html"]
    assert "diagnose()" in static["text/html"] and widget.message in static["text/plain"]
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    widget._stem.value = str(tmp_path / "view")
    key(widget, "ArrowRight")
    widget._save.click()
    assert len(shown) == 3 and shown[2]["text/html"] != static["text/html"]  # the picture is that of the saved view


@pytest.mark.slow
def test_nbconvert_keeps_the_pictures(s, tmp_path):
    import nbformat

    s.classifier.save(tmp_path / "classifier")
    code = f"""
import sys, warnings
sys.path[:0] = [{str(Path(__file__).parent)!r}]
warnings.simplefilter("ignore")
import qf_toolkit as qf
from test_observation import session
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import RolloutViewer, TraceInspector
trials, model = cut([session()]), qf.load({str(tmp_path / "classifier")!r})
"""
    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    book.cells = [nbformat.v4.new_code_cell(c) for c in (code.strip(), "TraceInspector(trials, [model])", "RolloutViewer(model, trials)")]
    nbformat.write(book, tmp_path / "book.ipynb")
    run = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--execute", "book.ipynb"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    page = (tmp_path / "book.html").read_text()
    assert re.findall(r'<img alt="([^,]*),', page) == ["trace inspector", "rollout viewer"] and page.count("data:image/png;base64,") >= 2


def test_no_figure_and_no_widget_is_left_behind(s, tmp_path):
    inspector = TraceInspector(s.test, [s.forecaster, s.classifier], n_samples=4)

    def alive():
        gc.collect()
        kinds = [type(it) for it in gc.get_objects()]
        return [sum(issubclass(k, wanted) for k in kinds) for wanted in (ipywidgets.Widget, mpl.figure.Figure)]

    inspector.save(tmp_path / "view")
    before = alive()
    for i in range(50):
        key(inspector, ("ArrowDown", "ArrowRight", "Home", "ArrowUp")[i % 4])
        if i % 20 == 0:
            inspector.save(tmp_path / "view")
    assert plt.get_fignums() == [] and alive() == before


# --- code explorer


def decoded(explorer):
    """(before, after) as drawn."""
    drawn = lines(explorer, "trace")
    return drawn["before"]["y"], drawn["after"]["y"]


def sequences(explorer):
    """(before, after) as drawn in cells."""
    return [[int(c) for c in m["text"]] for m in marks(explorer, "sequence", "cells")]


def test_explorer_starts_from_a_burst_of_the_code_used_most(s, explorer):
    share = s.autoencoder.code_usage(s.test).values
    first = int(explorer.burst.value)
    assert share[first] == share.max()
    assert [v for _, v in explorer.burst.options][1:] == sorted(range(8), key=lambda k: -share[k])
    assert sequences(explorer) == [[first] * 7] * 2 and explorer.message == f"place 5 of 7: code {first}; nothing edited yet."
    for drawn in decoded(explorer):
        same(drawn, decode_codes(s.autoencoder, [first] * 7))
    tips = marks(explorer, "codebook", "cells")[0]["tip"]
    assert any(f"code {first}: level" in t and f"{share[first]:.1%} of the patches of" in t for t in tips)


@pytest.mark.parametrize("how", ["keys", "clicks", "controls", "call", "typed"])
def test_explorer_edits_are_decoded_as_the_library_does(s, explorer, how):
    explorer.start([0, 1, 2, 3, 4, 5, 6])
    wanted = [0, 1, 7, 3, 4, 5, 6]
    {
        "keys": lambda: (key(explorer, "ArrowLeft", 2), key(explorer, "ArrowUp", 5)),
        "clicks": lambda: (pick(explorer, "sequence", 3), pick(explorer, "codebook", 7)),
        "controls": lambda: (setattr(explorer.place, "value", 3), setattr(explorer.code, "value", 7)),
        "call": lambda: explorer.edit(3, 7),
        "typed": lambda: (pick(explorer, "sequence", 3), setattr(explorer.sequence, "value", " 0 1,7;3  4,5 6 ")),
    }[how]()
    assert sequences(explorer) == [[0, 1, 2, 3, 4, 5, 6], wanted]
    found = explorer.view()
    before, after = decode_codes(s.autoencoder, [[0, 1, 2, 3, 4, 5, 6], wanted])
    np.testing.assert_array_equal(found["before"], before)
    np.testing.assert_array_equal(found["after"], after)
    same(decoded(explorer)[0], before)
    same(decoded(explorer)[1], after)
    assert controls(explorer) | {"place": 3, "code": 7, "sequence": "0 1 7 3 4 5 6"} == controls(explorer)
    assert (found.attrs["place"], found.attrs["code"], found.attrs["replaced"]) == (3, 7, 2) and found.attrs["model"] == s.autoencoder.digest()
    (cells, codes) = marks(explorer, "sequence", "cells")[1], marks(explorer, "codebook", "cells")[0]
    assert cells["picked"] == 3 and cells["key"] == list(range(1, 8)) and codes["picked"] == 7
    inside = np.zeros(56, bool)
    inside[16:24] = True
    inside = inside[2:52]  # the window begins two frames into the first patch
    rms = [np.sqrt(np.mean((after - before)[m].astype(float) ** 2)) for m in (inside, ~inside)]
    assert explorer.message == (
        f"place 3 of 7: code 7; edited at 3. The trace changed by {rms[0]:.3g} SD (RMS) there, and by {rms[1]:.3g} at the places whose codes stayed: "
        "that much is context."
    )
    (edges,) = [m["x"] for m in marks(explorer, "trace", "rule") if m["x"] != 0.0]
    same(edges, [-1.6, -0.8], atol=1e-9)
    explorer.reset.click()
    assert sequences(explorer) == [[0, 1, 2, 3, 4, 5, 6]] * 2 and "nothing edited yet" in explorer.message


def test_explorer_keys_stop_at_the_ends(explorer):
    explorer.start([3] * 7)
    for name, count, place, code in (
        ("Home", 1, 1, 3),
        ("ArrowLeft", 4, 1, 3),
        ("PageUp", 1, 1, 7),
        ("End", 1, 7, 3),
        ("ArrowRight", 1, 7, 3),
        ("PageDown", 1, 7, 0),
    ):
        key(explorer, name, count)
        assert (explorer.place.value, explorer.code.value) == (place, code), name
    assert sequences(explorer)[1] == [7, 3, 3, 3, 3, 3, 0]
    before = spec(explorer)
    key(explorer, "Enter")
    assert spec(explorer) == before


def test_explorer_exchanges_two_places(s, explorer):
    explorer.start([0, 1, 2, 3, 4, 5, 6])
    explorer.place.value, explorer.other.value = 2, 7
    explorer.swap.click()
    assert sequences(explorer)[1] == [0, 6, 2, 3, 4, 5, 1]
    same(decoded(explorer)[1], decode_codes(s.autoencoder, [0, 6, 2, 3, 4, 5, 1]))
    explorer.swap.click()
    assert sequences(explorer)[1] == [0, 1, 2, 3, 4, 5, 6]
    for places in ((0, 3), (3, 8), (1.5, 2)):
        with pytest.raises(QfError, match="place: expected 1 to 7"):
            explorer.exchange(*places)
    for place, code in ((0, 3), (8, 3), (3, 8), (3, -1)):
        with pytest.raises(QfError, match="expected"):
            explorer.edit(place, code)
    for wrong in ([0, 1], [[0] * 7] * 2, [0.5] * 7, [8] * 7):
        with pytest.raises(QfError, match="expected"):
            explorer.start(wrong)
    assert sequences(explorer) == [[0, 1, 2, 3, 4, 5, 6]] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2", "expected 7 codes each, one a patch, found 2"),
        ("0 1 2 3 4 5 8", "expected codes from 0 to 7, found 8"),
        ("0 1 2 3 4 5 -1", "expected codes as whole numbers, found '0 1 2 3 4 5 -1'"),
        ("a <b>c", "expected codes as whole numbers, found 'a <b>c'. Type 7 codes with spaces between"),
        ("", "expected codes as whole numbers, found ''"),
        ("0 1 2 3 4 5 6.0", "whole numbers"),
        ("0 1 2 3 4 5 99999999999999999999", "expected"),
    ],
)
def test_explorer_says_what_is_wrong_with_a_typed_sequence(explorer, text, message):
    explorer.sequence.value = text
    assert fails(explorer, message) and "<b>" not in explorer.status.value
    key(explorer, "ArrowUp")  # goes on from the last that was right
    assert explorer._error is None and explorer.view()["edited"].values[4] != explorer.view()["sequence"].values[4]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 7), min_size=7, max_size=7))
def test_any_sequence_can_be_typed(codes):
    explorer = _explorer()
    explorer.sequence.value = " ".join(map(str, codes))
    assert sequences(explorer)[1] == codes
    same(decoded(explorer)[1], decode_codes(study().autoencoder, codes))


def _explorer(made=[]):  # noqa: B006
    if not made:
        made.append(CodeExplorer(study().autoencoder))
    return made[0]


def test_explorer_starts_from_an_observation(s, explorer):
    codes = s.autoencoder.codes(part_of(s.test, "m/one"))["code"]
    explorer.trial.value = 47
    assert changed(explorer, lambda: setattr(explorer.neuron, "value", "m/c4")) == {"neuron", "burst", "sequence", "code"}
    assert sequences(explorer) == [codes.sel(neuron="m/c4", trial=47).values.tolist()] * 2
    explorer.session.value = "m/two"  # c4 is there, too
    there = s.autoencoder.codes(part_of(s.test, "m/two"))["code"]
    assert sequences(explorer)[0] == there.sel(neuron="m/c4", trial=47).values.tolist()
    explorer.burst.value = 6
    assert explorer.neuron.value is None and sequences(explorer) == [[6] * 7] * 2
    explorer.session.value, explorer.neuron.value = "m/one", LATE[0]
    explorer.trial.value = LATE[1]
    assert fails(explorer, r"trial: expected a whole window of m/c2 in trial 44, found values missing\. Choose another\.")
    explorer.trial.value = 40
    assert sequences(explorer)[0] == codes.sel(neuron=LATE[0], trial=40).values.tolist()
    explorer.start([1] * 7)
    assert explorer.neuron.value is None and explorer.burst.value is None  # it is none of these now
    explorer.burst.value = 6
    assert sequences(explorer)[0] == [6] * 7


def test_explorer_counts_codes_in_a_sample(s, monkeypatch):
    monkeypatch.setattr(code_explorer, "MOST_WINDOWS", 30)
    explorer = CodeExplorer(s.autoencoder, s.test)
    assert 0 < int(explorer.book["count"].sum()) <= 30 * 7 and explorer.trials is not None


def test_explorer_without_trials_and_with_none_whole(s):
    def holes(traces, trials):
        traces[:, ::20] = np.nan

    for trials in (None, cut([session(change=holes)])):
        explorer = CodeExplorer(s.autoencoder, trials)
        assert "usage" not in explorer.book and sequences(explorer) == [[0] * 7] * 2
        shown = [w for row in explorer.children for w in getattr(row, "children", ())]
        assert (explorer.neuron in shown) == (trials is not None) and explorer.session not in shown
        assert marks(explorer, "codebook", "cells")[0]["tip"][0].endswith("SD")


def test_explorer_of_a_codebook_that_has_one_code_in_it(s, monkeypatch):
    vectors = s.autoencoder.module.quantizer.vectors.detach().clone()
    monkeypatch.setattr(type(s.autoencoder.module.quantizer), "vectors", property(lambda self: vectors[:1].expand_as(vectors)))
    explorer = CodeExplorer(s.autoencoder, s.test)
    key(explorer, "ArrowUp")
    before, after = decoded(explorer)
    assert before == after and "changed by 0 SD" in explorer.message and len(set(marks(explorer, "codebook", "cells")[0]["color"])) == 1


def test_explorer_saves_what_is_drawn(s, explorer, tmp_path):
    explorer.start([0, 1, 2, 3, 4, 5, 6])
    explorer.edit(3, 7)
    explorer.save(tmp_path / "codes")
    table = pd.read_csv(tmp_path / "codes.csv", index_col=0)
    same(decoded(explorer)[1], table["after"])
    assert table["code, after"].tolist() == [0] * 6 + [1] * 8 + [7] * 8 + [3] * 8 + [4] * 8 + [5] * 8 + [6] * 4
    assert json.loads((tmp_path / "codes.json").read_text())["sources"][0]["model"] == s.autoencoder.digest()


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


# --- embedding browser


@pytest.mark.parametrize("part", ["what training added", "whole"])
def test_browser_shows_the_map_neighbours_and_statistics(s, browser, part):
    moved = part != "whole"
    assert browser.part.options == ("what training added", "whole") and browser.part.value == browser.part.options[0]
    assert changed(browser, lambda: setattr(browser.part, "value", part)) == ({"part"} if not moved else set())
    tokens, statistics = neuron_tokens(s.forecaster, moved=moved), neuron_statistics(s.test)
    xy, near = tsne(tokens, seed=0), nearest_neighbours(tokens, k=5)
    (points,) = marks(browser, "plane", "points")
    assert points["key"] == s.forecaster.neurons
    same(points["x"], xy.sel(axis="x"))
    same(points["y"], xy.sel(axis="y"))
    best = statistics["preferred_response"].reindex(neuron=s.forecaster.neurons)
    chosen = str(best["neuron"].values[int(best.values.argmax())])
    assert points["picked"] == browser.neuron.value == chosen
    assert f"nearest in token space: {', '.join(n[2:] for n in near['neighbour'].sel(neuron=chosen).values)}." in browser.message
    ends = {(round(m["x"][1], 2), round(m["y"][1], 2)) for m in marks(browser, "plane", "line")}
    assert ends == {tuple(np.round(xy.sel(neuron=n).values, 2).tolist()) for n in near["neighbour"].sel(neuron=chosen).values}
    for by, name in STATISTICS.items():
        browser.color.value = by
        values = statistics[name].reindex(neuron=s.forecaster.neurons).values.astype(float)
        np.testing.assert_allclose(browser.view()["value"], values)
        (points,) = marks(browser, "plane", "points")
        assert points["tip"] == [f"{n}: {v:.3g}" for n, v in zip(s.forecaster.neurons, values, strict=True)]
        assert points["color"] == shades(values)[0]
    browser.color.value = "preferred condition"
    kinds = statistics["preferred_condition"].reindex(neuron=s.forecaster.neurons).values
    color = {}
    for kind, found in zip(kinds, marks(browser, "plane", "points")[0]["color"], strict=True):
        assert color.setdefault(kind, found) == found
    assert len(set(color.values())) == len(color) == len([e for e in spec(browser)["legend"] if e.get("kind") == "point"])


def test_browser_shows_the_trials_of_the_chosen_neuron(s, browser):
    assert changed(browser, lambda: pick(browser, "plane", "m/c4")) == {"neuron"}
    ds = part_of(s.test, "m/one").dataset().sel(neuron="m/c4")
    x, condition = ds["dff"].values, ds["condition"].values.astype(str)
    (picture,) = marks(browser, "trials", "image")
    pixels = plt.imread(io.BytesIO(base64.b64decode(picture["href"].split(",")[1])))[..., :3]
    low, high = np.quantile(x, [0.02, 0.98])
    ordered = np.concatenate([x[condition == c] for c in np.unique(condition)])
    np.testing.assert_allclose(pixels, mpl.colormaps["viridis"](np.clip((ordered - low) / (high - low), 0, 1))[..., :3], atol=2 / 255)
    assert (picture["x0"], picture["x1"], picture["y0"], picture["y1"]) == (-3.0, pytest.approx(2.0), 0, 20)
    ticks = panel(browser, "trials")["y"]["ticks"]
    assert [(t["at"], t["text"]) for t in ticks] == [(17.5, "0"), (12.5, "135"), (7.5, "45"), (2.5, "90")]
    preferred = str(neuron_statistics(s.test)["preferred_condition"].sel(neuron="m/c4").values)
    mine = x[condition == preferred] if (condition == preferred).any() else x
    same(lines(browser, "mean")["measured"]["y"], mine.mean(0), rtol=1e-4, atol=1e-6)
    (band,) = marks(browser, "mean", "band")
    same(band["low"], mine.mean(0) - mine.std(0), rtol=1e-3, atol=1e-5)
    chosen = part_of(s.test, "m/one").subset(condition == preferred).of_neurons("m/c4")
    wanted = s.forecaster.predict(chosen)["forecast"].mean("trial").values[0]
    same(lines(browser, "mean")["forecast"]["y"][30:], wanted, rtol=1e-3, atol=1e-5)
    assert f"mean of {len(mine)} trials of" in panel(browser, "mean")["title"]
    view = browser.view()
    assert (view.attrs["chosen"], view.attrs["session"], view.attrs["condition"]) == ("m/c4", "m/one", preferred)
    same(lines(browser, "mean")["measured"]["y"], view["mean"])


def test_browser_where_the_forecast_is_a_mean_of_draws(s, monkeypatch):
    monkeypatch.setattr(s.forecaster, "decode", "sample")
    browser = EmbeddingBrowser(s.forecaster, s.test)
    view = browser.view()
    part = part_of(s.test, view.attrs["session"]).of_neurons(view.attrs["chosen"])
    mine = np.flatnonzero(part.table["condition"] == view.attrs["condition"])
    draws = s.forecaster.sample(part.subset(mine), n_samples=32 // len(mine))["samples"]
    same(lines(browser, "mean")["forecast"]["y"][30:], draws.mean(("sample", "trial")).values[0], rtol=1e-3, atol=1e-5)


def test_browser_goes_to_the_session_that_shows_what_a_neuron_prefers():
    def scenes(traces, trials):
        trials["stimulus"] = "scenes"
        traces[0] += 400 * np.isin(np.arange(traces.shape[1]), (trials["onset_frame"].to_numpy()[:, None] + np.arange(10)).ravel())

    split = split_blocks(cut([session("a", 3, range(5)), session("b", 4, range(5), change=scenes)]))
    browser = EmbeddingBrowser(fitted(split)[1], split.test)
    browser.choose("m/c0")
    view = browser.view()
    assert view.attrs["condition"].startswith("scenes/") and view.attrs["session"] == "m/b"
    ds = part_of(split.test, "m/b").dataset().sel(neuron="m/c0")
    same(view["mean"], ds["dff"].values[ds["condition"].values == view.attrs["condition"]].mean(0), rtol=1e-5, atol=1e-6)


def test_browser_arrows_go_to_the_nearest_point_in_a_direction(browser):
    names = browser.tokens["neuron"].values
    places = np.array([(0, 0), (1, 0.1), (3, 0), (0, 2), (-1, -1), (0.5, 5), (0, -2.5), (10, 10)], float)
    browser.embedding = browser.embedding.copy(data=places)
    for start, name, count, end in (
        (0, "ArrowRight", 1, 1), (0, "ArrowRight", 2, 2), (0, "ArrowUp", 1, 3), (0, "ArrowDown", 1, 6), (0, "ArrowLeft", 1, 4), (4, "ArrowLeft", 1, 4),
        (7, "ArrowRight", 3, 7), (0, "Enter", 1, 0), (1, "ArrowLeft", 1, 0),
    ):  # fmt: skip
        browser.choose(names[start])
        key(browser, name, count)
        assert browser.neuron.value == names[end], (start, name)
        assert marks(browser, "plane", "points")[0]["picked"] == names[end]


def test_browser_neuron_may_be_typed(browser):
    browser.neuron.value = " m/c3 "
    assert browser.view().attrs["chosen"] == "m/c3" == browser.neuron.value
    browser.neuron.value = "m/c33"
    assert fails(browser, "neuron: 'm/c33' is not in the embedding; did you mean m/c3")
    browser.neuron.value = "m/c5"
    assert browser.view().attrs["chosen"] == "m/c5"
    with pytest.raises(UnknownKeyError, match="is not in the embedding"):
        browser.choose("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [("500", r"perplexity: expected .* 2\.333, a third of the other 7 items, found 500"), ("-1", "perplexity"), ("nan", "perplexity"),
     ("many <b>", "perplexity: expected auto or a number, found 'many <b>'")],
)  # fmt: skip
def test_browser_says_which_perplexity_there_can_be(s, browser, text, message):
    drawn = spec(browser)
    browser.perplexity.value = text
    assert fails(browser, message) and "<b>" not in browser.status.value
    pick(browser, "plane", "m/c3")
    key(browser, "ArrowLeft")
    browser.color.value = "median"
    assert fails(browser, message)  # until it is another
    browser.color.value = "activation probability"
    browser.perplexity.value = "auto"
    pick(browser, "plane", drawn["panels"][0]["marks"][-1]["picked"])
    assert spec(browser)["panels"] == drawn["panels"] or sorted(map(str, panel(browser, "plane")["marks"])) == sorted(
        map(str, drawn["panels"][0]["marks"])
    )
    browser.perplexity.value = "1.5"
    same(marks(browser, "plane", "points")[0]["x"], tsne(neuron_tokens(s.forecaster, moved=True), perplexity=1.5).sel(axis="x"))


def test_browser_of_neurons_and_conditions_that_the_model_does_not_know(s):
    new = cut([session("three", 6, range(3, 12), n_conditions=6)])
    browser = EmbeddingBrowser(s.forecaster, new)
    assert marks(browser, "plane", "points")[0]["key"] == [f"m/c{i}" for i in range(3, 8)]
    assert "Not shown, since the model has no token of them: c8, c9, c10, c11." in browser.message
    statistics = neuron_statistics(new)["preferred_condition"].sel(neuron=[f"m/c{i}" for i in range(3, 8)])
    unknown = [n for n, c in zip(statistics["neuron"].values, statistics.values, strict=True) if c[-3:] in ("180", "225")]
    known = [n for n in statistics["neuron"].values if n not in unknown]
    assert unknown and known, "the recording shows nothing"
    pick(browser, "plane", unknown[0])
    assert "No forecast: " in browser.message and set(lines(browser, "mean")["forecast"]["y"]) == {None}
    assert None not in lines(browser, "mean")["measured"]["y"]
    pick(browser, "plane", known[0])
    assert "No forecast" not in browser.message and None not in lines(browser, "mean")["forecast"]["y"][30:]


@pytest.mark.filterwarnings("ignore:left out")
def test_browser_of_a_neuron_that_training_had_nothing_of():
    def holes(traces, trials):
        traces[1, ::20] = np.nan

    split = split_blocks(cut([session(change=holes)]))
    browser = EmbeddingBrowser(fitted(split)[1], split.test)
    assert browser.part.options == ("whole",) and len(marks(browser, "plane", "points")[0]["key"]) == 6


def test_browser_of_a_silent_neuron(s):
    def holes(traces, trials):
        traces[4, ::20] = np.nan

    browser = EmbeddingBrowser(s.forecaster, cut([session(change=holes), session("two", 1, range(5, 8))]))
    browser.choose("m/c4")
    assert "m/c4: none (activation probability)" in browser.message and "mean of 0 trials of all conditions" in panel(browser, "mean")["title"]
    at = marks(browser, "plane", "points")[0]["key"].index("m/c4")
    for by in browser.color.options:
        browser.color.value = by
        if by != "number of activations":
            assert marks(browser, "plane", "points")[0]["color"][at] == "#999999"
        browser.figure()


def test_browser_is_coloured_by_the_statistics_given(s):
    given = neuron_statistics(s.split.train.of_neurons(["m/c0", "m/c1", "m/c4"]))
    given["preferred_condition"].values[0] = "scenes/image=3"  # of other trials
    browser = EmbeddingBrowser(s.forecaster, s.test, statistics=given)
    browser.color.value = "preferred condition"
    assert [t.endswith(": none") for t in marks(browser, "plane", "points")[0]["tip"]] == [False, False, True, True, False, True, True, True]
    for neuron in ("m/c2", "m/c0"):
        browser.choose(neuron)
        assert "of all conditions" in panel(browser, "mean")["title"] and browser.view().attrs["condition"] == ""
    assert fails(EmbeddingBrowser(s.forecaster, s.test, statistics=given.drop_vars("sd")), r"statistics: expected 'sd' among them, found none")


def test_browser_of_a_classifier_forecasts_nothing(s):
    browser = EmbeddingBrowser(s.classifier, s.test)
    assert set(lines(browser, "mean")["forecast"]["y"]) == {None} and "No forecast" not in browser.message
    browser.figure()


def test_browser_saves_what_is_drawn(s, browser, tmp_path):
    browser.save(tmp_path / "tokens")
    table, (points,) = pd.read_csv(tmp_path / "tokens.csv"), marks(browser, "plane", "points")
    assert table["neuron"].tolist() == points["key"]
    same(points["x"], table["x"])
    np.testing.assert_allclose(table["value"], browser.view()["value"])
    found = json.loads((tmp_path / "tokens.json").read_text())["sources"]
    assert {"perplexity", "init"} <= {k for source in found for k in source} and s.forecaster.digest() in {source.get("model") for source in found}


# --- bad input


def none_of(s):
    return s.test.subset(np.zeros(len(s.test), bool))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: TraceInspector(none_of(s), [s.forecaster]), "trials: expected at least one, found none"),
        (lambda s: RolloutViewer(s.classifier, none_of(s)), "trials: expected at least one, found none"),
        (lambda s: CodeExplorer(s.autoencoder, none_of(s)), "trials: expected at least one, found none"),
        (lambda s: EmbeddingBrowser(s.forecaster, none_of(s)), "trials: expected at least one, found none"),
        (lambda s: TraceInspector(s.split, [s.forecaster]), r"found Split\. Pass one of its parts, split\.test say"),
        (lambda s: RolloutViewer(s.classifier, s.split), "found Split"),
        (lambda s: CodeExplorer(s.autoencoder, s.split), "found Split"),
        (lambda s: EmbeddingBrowser(s.forecaster, s.split), "found Split"),
        (lambda s: TraceInspector(s.test, [s.forecaster, s.forecaster]), "names that differ"),
        (lambda s: TraceInspector(s.test, [s.autoencoder]), "can't forecast a single observation"),
        (lambda s: TraceInspector(s.test, autoencoder=s.forecaster), "autoencoder: expected an Autoencoder"),
        (lambda s: TraceInspector(cut([session()], signal="zscore")), "training part"),
        (lambda s: RolloutViewer(CopyLast(), s.test), "'copy last', which has no attention maps"),
        (lambda s: RolloutViewer(s.autoencoder, s.test), "which has no attention maps"),
        (lambda s: RolloutViewer(s.classifier, cut([toy_session()])), r"neuron: 'mouse/one/0'.*unknown to the model"),
        (lambda s: RolloutViewer(s.classifier, cut([session()], baseline_s=4.0)), "baseline_s: expected 3.0, the model's, found 4.0"),
        (lambda s: RolloutViewer(s.classifier, cut([session(n_conditions=5)]).subset([np.argmax(cut([session(n_conditions=5)]).table["condition"] == "drifting_gratings/orientation=180")])), "orientation=180"),
        (lambda s: CodeExplorer(s.forecaster), r"autoencoder: expected an Autoencoder, found QuantFormerForecaster.*model\.autoencoder"),
        (lambda s: CodeExplorer(s.autoencoder, cut([session()], response_s=1.0)), "response_s: expected 2.0, the model's"),
        (lambda s: CodeExplorer(s.autoencoder, cut([session(rate_hz=15.0)])), "rate_hz: expected 10 Hz"),
        (lambda s: EmbeddingBrowser(CopyLast(), s.test), "forecaster or classifier with neuron tokens, found CopyLast"),
        (lambda s: EmbeddingBrowser(s.autoencoder, s.test), "with neuron tokens, found Autoencoder"),
        (lambda s: EmbeddingBrowser(s.forecaster, cut([toy_session()])), "a neuron that the model knows, found none"),
        (lambda s: EmbeddingBrowser(s.forecaster, s.test.of_neurons(["m/c0", "m/c1", "m/c6"])), "expected at least 4 items to map, found 3 of neuron"),
        (lambda s: EmbeddingBrowser(s.forecaster, s.test, perplexity=30), r"perplexity: expected .* 2\.333, .*found 30"),
        (lambda s: EmbeddingBrowser(s.forecaster, s.test, perplexity="lots"), "perplexity: expected auto or a number, found 'lots'"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_the_widget(s, make, message):
    assert fails(make(s), message)


@pytest.mark.parametrize("few", ["trial", "neuron", "condition", "nothing whole", "three neurons"])
def test_the_least_there_can_be(s, few):
    def holes(traces, trials):
        traces[:, ::20] = np.nan

    trials = {
        "trial": lambda: s.test.subset([3]), "neuron": lambda: s.test.of_neurons("m/c0"), "three neurons": lambda: s.test.of_neurons(["m/c0", "m/c1", "m/c2"]),
        "condition": lambda: s.test.subset((s.test.table["condition"] == s.test.table["condition"][0]).to_numpy()),
        "nothing whole": lambda: cut([session(change=holes)]),
    }[few]()  # fmt: skip
    inspector = TraceInspector(trials, [s.forecaster, *s.naive, s.classifier], n_samples=4)
    for name in ("ArrowDown", "ArrowRight", "End", "PageUp"):
        key(inspector, name)
    for by in inspector.sort.options:
        inspector.sort.value = by
    assert inspector._error is None and lines(inspector, "trace") and "<img" in inspector._static()
    viewer = RolloutViewer(s.classifier, trials)
    key(viewer, "ArrowRight")
    assert fails(viewer, "expected a baseline without missing values") if few == "nothing whole" else viewer._error is None
    explorer = CodeExplorer(s.autoencoder, trials)
    explorer.neuron.value = "m/c0"
    assert fails(explorer, "found values missing") if few == "nothing whole" else explorer._error is None
    browser = EmbeddingBrowser(s.forecaster, trials)
    assert fails(browser, "at least 4 items") if "neuron" in few else browser._error is None
    if few != "neuron":
        spec(browser)


def test_odd_names_are_text_everywhere(tmp_path, monkeypatch):
    subject, odd = "m <i>x%", ["A b", "50% <b>bold", "x&y \"q\" 'z'", "ü 神", "c.d,e=f", "..up"]
    split = split_blocks(cut(toy_session(subject=subject, session="<script>", cells=odd, matched=True)))
    autoencoder, forecaster, classifier = fitted(split)
    forecaster.name = "<u>model"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "save_figure", lambda fig, stem, **facts: [])
    inspector = TraceInspector(split.test, [forecaster])
    for widget in (inspector, CodeExplorer(autoencoder, split.test), RolloutViewer(classifier, split.test), EmbeddingBrowser(forecaster, split.test)):
        widget.neuron.value = f"{subject}/{odd[1]}"
        assert widget._error is None and not re.search("<(b|i|u|script)>", widget._static() + widget.status.value)
        path = widget.save()[0]
        assert path.is_file() and path.parent == Path() and re.fullmatch(r"[\w.=,+-]+", path.name)
    for typed, it in ((odd[2], 2), ("a B", 0)):
        inspector.search.value = typed
        assert inspector.view().attrs["neuron"] == f"{subject}/{odd[it]}"


def test_simulated_data_are_said_to_be():
    split = split_blocks(cut([session(source="simulation")]))
    autoencoder, forecaster, classifier = fitted(split)
    for widget in (TraceInspector(split.test, [forecaster]), CodeExplorer(autoencoder, split.test), RolloutViewer(classifier, split.test), EmbeddingBrowser(forecaster, split.test)):  # fmt: skip
        assert spec(widget)["legend"][-1] == {"name": "simulated data", "kind": "note"}
        assert isinstance(widget, CodeExplorer) or any(t.get_text() == "simulated data" for t in widget.figure().texts)


def test_recordings_of_thousands_of_conditions():
    def noise(traces, trials):
        trials["stimulus"], trials["frame"] = "sparse_noise", np.arange(len(trials))
        del trials["orientation"]

    trials = cut([session(change=noise, n_conditions=10, repeats=70, spacing_s=0.6)], baseline_s=1.0, response_s=0.8)
    assert len(trials.conditions) == 2100
    inspector = TraceInspector(trials)
    assert len(inspector.condition.options) == 2101 and len(inspector.trial.options) == 2100
    key(inspector, "ArrowRight", 1500)
    assert inspector.message.endswith("trial 1501 of 2100.") and inspector.view().attrs["n_same"] == 1


# --- what the front end needs


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
import qf_toolkit.widgets
assert "TraceInspector" in dir(qf_toolkit.widgets) and "ipywidgets" not in sys.modules
try:
    from qf_toolkit.widgets import TraceInspector
except qf_toolkit.QfError as error:
    print(error)
"""


def test_without_the_packages_the_command_that_installs_them_is_told(name="ipywidgets"):
    done = subprocess.run([sys.executable, "-c", BLOCKED.format(name=name)], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"widgets: expected {name} to be installed, found none. Install it: pip install 'qf_toolkit[notebooks]'\n", done.stderr


def test_names_of_the_package():
    import qf_toolkit.widgets as package

    assert {"TraceInspector", "CodeExplorer", "RolloutViewer", "EmbeddingBrowser", "diagnose"} <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'Inspector'"):
        _ = package.Inspector


def test_diagnose_says_what_is_missing(monkeypatch, capsys, tmp_path):
    module = sys.modules["qf_toolkit.widgets.diagnose"]
    real = module.version

    def version(name):
        if name == "jupyterlab_widgets":
            raise PackageNotFoundError(name)
        return real(name)

    assert diagnose() and "all is here" in capsys.readouterr().out
    monkeypatch.setattr(module, "version", version)
    monkeypatch.setattr(module, "_folders", lambda: [tmp_path])
    (tmp_path / "anywidget").mkdir()
    assert not diagnose()
    told = capsys.readouterr().out
    assert "jupyterlab_widgets is missing (needed by JupyterLab)" in told and "all is here" not in told
    assert "@jupyter-widgets/jupyterlab-manager is missing" in told and "extension anywidget" not in told
    assert f"install: {sys.executable} -m pip install jupyterlab_widgets; then restart" in told
    (tmp_path / "anywidget").rmdir()
    assert not diagnose() and "-m pip install jupyterlab_widgets anywidget; then restart" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["ipywidgets", "anywidget", "jupyterlab_widgets", "jupyterlab"])
def test_diagnose_names_the_one_package_that_is_missing(monkeypatch, capsys, package):
    def version(name):
        if name == package:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(sys.modules["qf_toolkit.widgets.diagnose"], "version", version)
    assert not diagnose()
    told = capsys.readouterr().out
    assert f"{package} is missing" in told and f"-m pip install {package}; then restart" in told


# --- what the chart is sent


@given(st.lists(st.floats(-1e12, 1e12), max_size=20))
def test_numbers_keep_five_digits(values):
    np.testing.assert_allclose(np.array(numbers(values), float), values, rtol=6e-5, atol=1e-290)


def test_numbers_that_are_none():
    assert numbers([np.nan, 1.5, np.inf, -np.inf, 0.0]) == [None, 1.5, None, None, 0.0]
    assert numbers(0.123456789) == [0.12346] and numbers(np.float32([123456.7]), 3) == [123000.0]
    assert json.dumps(numbers([1e-320, 5e-324, -1e308]), allow_nan=False)


def test_shades_and_their_text():
    colors, texts = shades([0.0, 0.5, 1.0, np.nan], 0.0, 1.0)
    assert colors[:3] == [mpl.colors.to_hex(mpl.colormaps["viridis"](v)) for v in (0.0, 0.5, 1.0)] and texts[:3] == ["#ffffff", "#ffffff", "#000000"]
    assert len(set(shades([2.0, 2.0])[0])) == 1


def test_around_holds_all_that_is_finite():
    low, high = around([0.0, np.nan], [[1.0, np.inf]])
    assert low == pytest.approx(-0.06) and high == pytest.approx(1.06)
    assert around([np.nan]) == pytest.approx((-0.06, 1.06)) and around([3.0])[0] < 3.0 < around([3.0])[1]


def test_a_picture_is_grey_where_nothing_is():
    mark = image([[0.0, np.nan], [1.0, 2.0]], (0, 1), (0, 2), 0.0, 1.0)
    pixels = plt.imread(io.BytesIO(base64.b64decode(mark["href"].split(",")[1])))
    viridis = mpl.colormaps["viridis"]
    np.testing.assert_allclose(pixels, [[viridis(0.0), (0.6, 0.6, 0.6, 1)], [viridis(1.0), viridis(1.0)]], atol=1 / 255)
