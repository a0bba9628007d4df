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
from hypothesis import given
from hypothesis import strategies as st
from test_observation import HIDDEN, LATE, fitted, part_of, session, study

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.evaluation.naive import CopyLast, StimulusMean
from qf_toolkit.interpret.attention import attention_rollout, readout
from qf_toolkit.interpret.codes import burst, codebook, decode_codes
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.interpret.neurons import nearest_neighbours, neuron_statistics, neuron_tokens
from qf_toolkit.plots.style import palette
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import CodeExplorer, EmbeddingBrowser, RolloutViewer, TraceInspector, base, code_explorer, diagnose, rollout_viewer
from qf_toolkit.widgets import diagnose as _diagnose_function  # noqa: F401  (the name of the module is that of the function)
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
    return TraceInspector(s.test, [s.forecaster, *s.naive, s.classifier], n_samples=8)


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
    assert list(drawn) == ["measured", "QuantFormer", "copy last", "mean of the context"]  # the first three
    same(drawn["measured"]["y"], x)
    same(drawn["measured"]["x"], time)
    for model in (s.forecaster, *s.naive[:2]):
        same(drawn[model.name]["y"][30:], model.predict(part)["forecast"].sel(at), rtol=1e-4, atol=1e-5)
        assert drawn[model.name]["y"][:30] == [None] * 30
    (band,) = marks(inspector, "trace", "band")
    draws = s.forecaster.sample(part.subset((part.table["trial"] == 47).to_numpy()).of_neurons("m/c6"), n_samples=8, seed=0)["samples"].values
    for side, q in (("low", 0.05), ("high", 0.95)):
        same(band[side][30:], np.quantile(draws[:, 0, 0], q, axis=0), rtol=1e-4, atol=1e-5)
    assert band["color"] == drawn["QuantFormer"]["color"] == palette()[0]
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
    assert [int(c) for c in strips[1]["text"]] == s.forecaster.codes_arrays(context, ["m/c6"], [str(ds["condition"].sel(trial=47).values)]).ravel().tolist()
    assert [t["text"] for t in panel(inspector, "codes")["y"]["ticks"]] == ["measured", "QuantFormer"]
    levels = codebook(s.autoencoder)["level"].values
    assert strips[0]["color"] == shades(levels[[int(c) for c in strips[0]["text"]]], levels.min(), levels.max())[0]
    domains = {tuple(p["x"]["domain"]) for p in spec(inspector)["panels"]}
    assert len(domains) == 1 and all(p["scrub"] for p in spec(inspector)["panels"])  # one cursor goes through all
    low, high = panel(inspector, "trace")["y"]["domain"]
    assert low < np.nanmin(x) and high > np.nanmax(x)
    assert [e["name"] for e in spec(inspector)["legend"]] == [*drawn, "90% interval"]
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
    inspector.chart.comm.handle_msg({"content": {"data": {"method": "custom", "content": {"type": "key", "key": "ArrowDown", "count": 1}}}, "buffers": []})
    assert inspector.neuron.value != before and answers == [{"type": "done"}]
    inspector._keyed = None  # an error in the kernel does not lock the keyboard
    inspector.chart._on_key = None
    with pytest.raises(KeyError):
        inspector.chart._message(None, {"type": "pick"})
    assert len(answers) == 2


def test_inspector_conditions_choose_trials(s, inspector):
    table = part_of(s.test, "m/one").table
    assert [v for v in inspector.condition.options] == [EVERY, *sorted(table["condition"].unique())]
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


def test_inspector_keeps_the_axis_of_a_neuron(inspector):
    found = []
    for trial in (45, 46, 47, 48):
        inspector.show(neuron="m/c3", trial=trial)
        found.append(tuple(panel(inspector, "trace")["y"]["domain"]))
    assert len(set(found)) == 1
    inspector.show(neuron="m/c4", trial=45)
    assert tuple(panel(inspector, "trace")["y"]["domain"]) != found[0]


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
    explorer = CodeExplorer(fitted(split, patch_frames=1, codes=12)[0])
    monkeypatch.chdir(tmp_path)
    found = []
    for code in (10, 11):
        explorer.start([11] * 49 + [code])
        found += explorer.save()
    assert len({p.name for p in found}) == 8 and all(p.is_file() and len(p.name) < 160 for p in found)


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
    inspector = TraceInspector(s.test, [s.forecaster, *s.naive, s.classifier], n_samples=4)

    def alive(kind):
        gc.collect()
        return sum(issubclass(type(it), kind) for it in gc.get_objects())

    inspector.save(tmp_path / "view")
    before = alive(ipywidgets.Widget), alive(mpl.figure.Figure)
    for i in range(50):
        key(inspector, ("ArrowDown", "ArrowRight", "Home", "ArrowUp")[i % 4])
        if i % 10 == 0:
            inspector.save(tmp_path / "view")
    assert plt.get_fignums() == [] and (alive(ipywidgets.Widget), alive(mpl.figure.Figure)) == before
