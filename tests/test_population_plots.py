"""Figures of linear analyses and of populations: what is drawn are the library's numbers, in one order, on one scale, with units."""

import matplotlib as mpl

mpl.use("Agg")

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import toy_session, untaught
from test_linear import task
from test_population_attention import Looking, joined
from token_tables import gaussian, named, text_labels

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.naive import CopyLast
from qf_toolkit.estimators.network import fit_network
from qf_toolkit.interpret.embedding import pca
from qf_toolkit.interpret.linear import gradient, probe
from qf_toolkit.interpret.population import ORDERS, population_view
from qf_toolkit.interpret.population_attention import against_connections, looked_at, neuron_attention
from qf_toolkit.interpret.tuning import neuron_variables
from qf_toolkit.plots.linear import figure_tuning, plot_gradient_fit, plot_probes, plot_task_clusters, plot_tuning_gradient
from qf_toolkit.plots.population import (
    chosen_map,
    figure_neuron_attention,
    figure_population,
    plot_neuron_attention,
    plot_population,
    raster_limits,
)
from qf_toolkit.plots.style import provenance, save_figure
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught


@pytest.fixture(scope="module")
def variables():
    return neuron_variables(cut(task(), baseline_s=2, response_s=2))


@pytest.fixture(scope="module")
def tokens(variables):
    rng = np.random.default_rng(0)
    values = variables["selectivity"].values @ rng.normal(size=(2, 6)) + 0.2 * rng.normal(size=(24, 6))
    return xr.DataArray(values, {"neuron": variables["neuron"].values}, ("neuron", "width"), attrs={"model": "tok", "seed": 3, "simulated": 1})


@pytest.fixture(scope="module")
def grows(tokens, variables):
    return gradient(tokens, np.abs(variables["selectivity"]).sel(variable="side").rename("strength"), n_shuffles=9)


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(n_neurons=12)))


@pytest.fixture(scope="module")
def poco(split):
    return fit_network(split, "poco", epochs=1, progress=False)


@pytest.fixture(scope="module")
def view(split, poco):
    part = poco.prepare(split.test)
    return population_view(part.dataset(), poco.predict(split.test), int(part.table["trial"].iloc[3]))


def labels_of(ax):
    return {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if not c.get_label().startswith("_")}


# ---- tuning


def test_neurons_have_the_colour_of_what_they_are_related_to(tokens, variables):
    embedding, (_, ax) = pca(tokens), plt.subplots()
    assert plot_task_clusters(embedding, variables, ax=ax) is ax
    found = labels_of(ax)
    side = next(k for k in found if k.startswith("side"))
    np.testing.assert_allclose(found[side][:8], embedding.values[:8])
    assert [k.split(" (")[0] for k in found] == ["neither", "choice", "side"] and sum(len(p) for p in found.values()) == 24
    assert "of the variance" in ax.get_xlabel() and ax.get_xlabel().startswith("PC 1")
    with pytest.raises(QfError, match="expected a neuron of the map with a reliability"):
        plot_task_clusters(embedding, variables.assign(reliability=variables["reliability"] * 0), ax=ax)


def test_the_arrow_points_where_the_value_grows(tokens, grows):
    embedding, (_, ax) = pca(tokens), plt.subplots()
    plot_tuning_gradient(embedding, grows, unit="d'", ax=ax)
    arrow = next(t for t in ax.texts if t.arrow_patch is not None)
    step = np.array(arrow.xy) - np.array(arrow.get_position())
    ahead = (embedding.values - embedding.values.mean(0)) @ step
    assert np.corrcoef(ahead, grows["position"])[0, 1] > 0.5
    assert ax.child_axes[0].get_ylabel() == "side strength (d')" and ax.get_title(loc="left") == "arrow: side strength grows"
    for point in (arrow.xy, arrow.get_position()):
        assert (point >= embedding.values.min(0) - 1e-9).all() and (point <= embedding.values.max(0) + 1e-9).all()
    np.testing.assert_allclose(ax.collections[-1].get_array(), grows["target"])
    with pytest.raises(QfError, match="gradient: expected values of the 24 neurons"):
        plot_tuning_gradient(embedding, gradient(gaussian(30), gaussian(30)[:, 0], n_shuffles=1), ax=ax)


def test_the_scatter_shows_held_out_predictions(grows):
    _, ax = plt.subplots()
    plot_gradient_fit(grows, unit="d'", ax=ax)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.stack([grows["target"], grows["predicted"]], 1))
    assert ax.get_xlabel() == "side strength, measured (d')" and "held-out" in ax.get_ylabel()
    assert f"r = {grows['score'].sel(measure='r').item():.2f}" in ax.get_title(loc="left")
    with pytest.raises(QfError, match="found one of labels"):
        plot_gradient_fit(probe(gaussian(30), text_labels(np.arange(30) % 2), n_shuffles=1), ax=ax)


def test_the_figure_of_tuning_names_data_model_and_seed(tokens, variables, grows, tmp_path):
    fig = figure_tuning(pca(tokens), variables, grows)
    save_figure(fig, tmp_path / "tuning", formats=("png",))
    note = json.loads((tmp_path / "tuning.json").read_text())
    assert (
        note["simulated"]
        and any(s.get("model") == "tok" for s in note["sources"])
        and any(s.get("data") == variables.attrs["data"] for s in note["sources"])
    )
    assert [t.get_text() for t in fig.texts] == ["simulated data"]


def test_probes_stand_beside_their_shuffles():
    tokens = gaussian(40)
    probes = {"linear": probe(tokens, tokens[:, 0], n_shuffles=9), "label": probe(tokens, text_labels(np.arange(40) % 2), n_shuffles=9)}
    _, ax = plt.subplots()
    assert plot_probes(probes, ax=ax) is ax
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    np.testing.assert_allclose([d.get_xdata()[0] for d in diamonds], [p["score"].values[0] for p in probes.values()])
    np.testing.assert_allclose(np.sort(ax.collections[0].get_offsets()[:, 0]), np.sort(probes["linear"]["control"].values[0].clip(-1)))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["linear\n(R²)", "label\n(balanced accuracy)"]
    assert "p = 0.1" in ax.texts[0].get_text() and ax.get_xlabel() == "held-out score"
    _, ax = plt.subplots()
    plot_probes({"linear": probes["linear"]}, measure="r", ax=ax)
    assert ax.get_xlabel() == "held-out r"
    with pytest.raises(QfError, match="measure: expected one of r2, r for linear"):
        plot_probes(probes, measure="accuracy", ax=ax)
    with pytest.raises(QfError, match="probes: expected one"):
        plot_probes({}, ax=ax)


# ---- one trial of a population


def test_a_view_holds_what_was_measured_and_forecast_in_one_order(split, poco, view):
    truth, forecast, trial = poco.prepare(split.test).dataset(), poco.predict(split.test), view.attrs["trial"]
    n, signal = view.attrs["n_baseline"], view.attrs["signal"]
    keys = view["neuron"].values
    np.testing.assert_array_equal(view["measured"], truth[signal].sel(trial=trial, neuron=keys))
    np.testing.assert_array_equal(view["forecast"].values[:, n:], forecast["forecast"].sel(trial=trial, neuron=keys))
    assert np.isnan(view["forecast"].values[:, :n]).all()
    np.testing.assert_allclose(view["error"].values[:, n:], (view["forecast"] - view["measured"]).values[:, n:])
    peaks = view["measured"].values[:, n:].argmax(1)
    assert (np.diff(peaks) >= 0).all() and sorted(keys) == sorted(truth["neuron"].values)
    assert view.attrs["model"] == poco.digest() and view.attrs["data"] == truth.attrs["data"] and view.attrs["forecaster"] == poco.name


@pytest.mark.parametrize("order", list(ORDERS))
def test_orders_sort_the_neurons(split, poco, order):
    truth, forecast = poco.prepare(split.test).dataset(), poco.predict(split.test)
    trial = int(truth["trial"].values[0])
    view = population_view(truth, forecast, trial, order=order)
    n = view.attrs["n_baseline"]
    if order == "error":
        mse = np.square(view["error"].values[:, n:]).mean(1)
        assert (np.diff(mse) <= 0).all()
    elif order == "component":
        x = view["measured"].values[:, n:]
        left = np.linalg.svd(x - x.mean(1, keepdims=True))[0][:, 0]
        assert (np.diff(left) <= 1e-6).all() or (np.diff(left) >= -1e-6).all()
    elif order == "recorded":
        assert list(view["neuron"].values) == list(truth["neuron"].values)
    shuffled = np.random.default_rng(0).permutation(12)
    again = population_view(truth.isel(neuron=shuffled), forecast, trial, order=order)
    np.testing.assert_array_equal(again["measured"], view["measured"].sel(neuron=again["neuron"]))
    np.testing.assert_array_equal(again["forecast"], view["forecast"].sel(neuron=again["neuron"]))


def test_of_several_sessions_the_right_trial_is_taken():
    trials = cut([toy_session(0), toy_session(1, session="two")])
    model = CopyLast().fit(split_blocks(trials))
    whole = model.predict(trials)
    for part in trials.by_session():
        one = population_view(part.dataset(), whole, 5)
        xr.testing.assert_equal(one, population_view(part.dataset(), model.predict(part), 5))


def test_views_refuse_what_does_not_fit(split, poco):
    truth, forecast = poco.prepare(split.test).dataset(), poco.predict(split.test)
    trial = int(truth["trial"].values[0])
    with pytest.raises(QfError, match="order: expected one of peak"):
        population_view(truth, forecast, trial, order="name")
    with pytest.raises(UnknownKeyError, match="trial: 999 is not in truth"):
        population_view(truth, forecast, 999)
    with pytest.raises(QfError, match="expected the neurons of mouse/one"):
        population_view(truth, forecast.assign_coords(neuron=[f"x/{i}" for i in range(12)]), trial)
    with pytest.raises(QfError, match="onsets and frames"):
        population_view(truth, forecast.isel(time=slice(3)), trial)


def test_rasters_share_their_scale_and_the_error_is_even_around_zero(view):
    fig = figure_population(view)
    images = [ax.images[0] for ax in fig.axes if ax.images]
    assert len(images) == 3 and images[0].get_clim() == images[1].get_clim() == raster_limits(view, "measured") == raster_limits(view, "forecast")
    low, high = images[2].get_clim()
    assert low == -high < 0
    for image, of in zip(images, ("measured", "forecast", "error"), strict=True):
        np.testing.assert_array_equal(np.ma.filled(image.get_array().astype(float), np.nan), view[of])
        assert image.axes.get_xlabel() == "time from onset (s)" and any(line.get_xdata()[0] == 0 for line in image.axes.lines)
    assert fig.axes[0].get_ylabel() == "neuron, by time of the measured peak" and "dF/F" in {ax.get_ylabel() for ax in fig.axes}
    assert any(s.get("model") == view.attrs["model"] for s in provenance(fig)["sources"])
    with pytest.raises(QfError, match="of: expected one of measured"):
        plot_population(view, of="truth", ax=plt.gca())


# ---- who looks at whom


def test_matrices_are_sorted_alike_and_without_their_diagonal():
    truth = joined()
    attention = neuron_attention(Looking(truth), cut(toy_session(n_neurons=20)))
    order = np.argsort(-looked_at(attention).values)
    _, axes = plt.subplots(1, 2)
    plot_neuron_attention(attention, layer=2, head=1, ax=axes[0])
    plot_neuron_attention(attention, truth, ax=axes[1])
    wanted = attention["attention"].values[1, 0].astype(float)[np.ix_(order, order)] * 20
    for ax, values in zip(axes, (wanted, np.abs(truth.values)[np.ix_(order, order)]), strict=True):
        drawn = np.ma.filled(ax.collections[0].get_array().astype(float), np.nan)
        off = ~np.eye(20, dtype=bool)
        np.testing.assert_allclose(drawn[off], values[off])
        assert np.isnan(np.diag(drawn)).all()
        assert [t.get_text() for t in ax.get_yticklabels()] == [str(i) for i in order]
    assert axes[0].get_title(loc="left") == "attention, layer 2, head 1" and axes[1].get_ylabel() == "neuron that is driven"
    np.testing.assert_allclose(chosen_map(attention), attention["attention"].values.astype(float).mean((0, 1)))
    with pytest.raises(QfError, match="layer: expected one of 1, 2, found 3"):
        plot_neuron_attention(attention, layer=3, ax=axes[0])


def test_the_figure_of_attention_says_how_well_it_follows_the_connections():
    truth = joined()
    attention = neuron_attention(Looking(truth), cut(toy_session(n_neurons=20)))
    compared = against_connections(attention, truth, n_shuffles=9)
    fig = figure_neuron_attention(attention, truth, compared)
    scatter = next(ax for ax in fig.axes if ax.get_title(loc="left").startswith("rank r"))
    assert f"{compared['score'].sel(map='mean', measure='r_out').item():.2f}" in scatter.get_title(loc="left")
    size = np.abs(truth.values) * ~np.eye(20, dtype=bool)
    np.testing.assert_allclose(scatter.collections[0].get_offsets(), np.stack([size.sum(0), looked_at(attention).values], 1))
    assert len(figure_neuron_attention(attention).axes) == 2
    assert any(s.get("model") == "looks" for s in provenance(fig)["sources"])
    _, ax = plt.subplots()
    plot_probes({"attention": compared.sel(map="mean")}, measure="auroc", ax=ax)
    assert ax.get_xlabel() == "AUROC"


def test_a_map_says_how_many_have_no_value():
    _, ax = plt.subplots()
    from qf_toolkit.plots.neurons import plot_tokens

    plot_tokens(pca(gaussian(8)), named(np.array([1.0, np.nan] * 4)), ax=ax, nothing="silent")
    assert "silent (4)" in labels_of(ax)
