"""What the widgets save and export: figures, tables, notebooks with pictures; and nothing stays open."""

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
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_session, untaught
from small_study import TINY, part_of
from viewers import ipywidgets, key, lines, same

from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import CodeExplorer, EmbeddingBrowser, RolloutViewer, TraceInspector, base

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("no_figure_left"), untaught]


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
from small_study import session
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
