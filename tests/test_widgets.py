"""The widgets: what they draw are the library's numbers, each control changes what it says and no more, and bad input is told in the widget."""

import matplotlib as mpl

mpl.use("Agg")

import base64
import io
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from hypothesis import given
from hypothesis import strategies as st
from small_study import fitted, session
from viewers import changed, fails, key, lines, spec

from qf_toolkit.estimators.naive import CopyLast
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import CodeExplorer, EmbeddingBrowser, RolloutViewer, TraceInspector, base, diagnose
from qf_toolkit.widgets.chart import around, image, numbers, shades

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
