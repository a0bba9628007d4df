"""The embedding browser shows the map of the tokens, neighbours, statistics and trials."""

import matplotlib as mpl

mpl.use("Agg")

import base64
import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import untaught
from small_study import fitted, part_of, session
from viewers import changed, fails, key, lines, marks, panel, pick, same, spec

from qf_toolkit.errors import UnknownKeyError
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.interpret.neurons import nearest_neighbours, neuron_statistics, neuron_tokens
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import EmbeddingBrowser
from qf_toolkit.widgets.chart import shades
from qf_toolkit.widgets.trace_inspector import STATISTICS

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("no_figure_left"), untaught]


@pytest.fixture
def browser(s):
    return EmbeddingBrowser(s.forecaster, s.test)


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
