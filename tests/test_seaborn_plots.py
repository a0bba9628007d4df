"""Plots drawn by seaborn: what is on the axes is what was given, on the axes that were given, and nothing global changes."""

import matplotlib as mpl

mpl.use("Agg")

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.stats import spearmanr

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.plots.clusters import figure_code_contexts
from qf_toolkit.plots.codes import plot_context_dependence, plot_transitions
from qf_toolkit.plots.heat import heat_map, undrawn
from qf_toolkit.plots.neurons import plot_probe
from qf_toolkit.plots.scores import plot_gain_over, plot_neuron_scores, plot_score_by_statistic, plot_score_distribution
from qf_toolkit.plots.style import palette, provenance, save_figure, style
from qf_toolkit.plots.tables import plot_classification

ROWS = ["QuantFormer", "mine, with a rather long name", "copy last", "ridge, own trace"]


def scores(n=30, seed=0, sessions=3):
    """Per-neuron scores as `per_neuron_scores` gives them, of simulated data; a few are missing in each row."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_tuples([(f"m{i % sessions}/s", f"m{i % sessions}/c{i}") for i in range(n)], names=["session", "neuron"])
    size = np.exp(rng.normal(-4, 1, (n, 1)))
    columns = {("mse", row): v for row, v in zip(ROWS, (size * np.exp(rng.normal(0, 0.2, (n, 4)))).T, strict=True)}
    columns |= {("r", row): v for row, v in zip(ROWS, np.tanh(rng.normal(0.2, 0.3, (4, n))), strict=True)}
    table = pd.DataFrame(columns, index=index)
    if n > 10:
        for j, row in enumerate(ROWS):
            table.loc[index[: 2 * j], [("mse", row), ("r", row)]] = np.nan
    table.attrs = {"data": "d1", "model": "m1", "simulated": 1}
    return table


def statistic(table, name="selectivity", units="fraction"):
    rng = np.random.default_rng(1)
    keys = table.index.get_level_values("neuron").to_numpy()
    return xr.DataArray(rng.uniform(size=len(keys)), {"neuron": keys}, ("neuron",), name, {"units": units, "data": "d2"})


def swaps(n=12, places=2, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 0.2, (n, n, places)) * (1 - np.eye(n))[..., None]
    coords = {"code": np.arange(n), "context": np.arange(n), "place": np.arange(1, places + 1)}
    return xr.Dataset(
        {"context_dependence": (("code", "context", "place"), values)},
        coords,
        {"signal": "dff", "normalise": "neuron", "model": "m1", "simulated": 1},
    )


def transitions(n=8):
    p = np.random.default_rng(0).dirichlet(np.ones(n), n)
    p[3] = np.nan
    return xr.Dataset({"probability": (("code", "next_code"), p)}, {"code": np.arange(n), "next_code": np.arange(n)})


def classes():
    index = pd.Index(["QuantFormer", ". level of the condition", ". frequency of activation"], name="classifier")
    columns = {"balanced_accuracy": [0.73, 0.728, 0.636], "auroc": [0.8, 0.79, np.nan], "brier": [0.05, 0.06, 0.07], "threshold": [0.2, 0.1, 0.3]}
    return pd.DataFrame(columns, index=index)


def probe(n=4):
    columns = {
        "score": [0.5, 0.1, np.nan, 0.7], "control": [0.0, -0.1, np.nan, 0.5], "control_high": [0.1, 0.05, np.nan, 0.6], "p": [0.01, 0.2, np.nan, 0.04],
        "kind": ["number", "number", "number", "label"], "n_neurons": [40, 40, 30, 40],
    }  # fmt: skip
    names = ["sd", "median", "constant", "preferred_condition"]
    return xr.Dataset({c: ("statistic", v[:n]) for c, v in columns.items()}, {"statistic": names[:n]})


PLOTS = {
    "neuron_scores": lambda ax=None: plot_neuron_scores(scores(), ax=ax),
    "neuron_scores_r": lambda ax=None: plot_neuron_scores(scores(), "r", ax=ax),
    "distribution": lambda ax=None: plot_score_distribution(scores(), ax=ax),
    "gain": lambda ax=None: plot_gain_over(scores(), ROWS[0], ROWS[2], ax=ax),
    "statistic": lambda ax=None: plot_score_by_statistic(scores(), statistic(scores()), ROWS[0], ax=ax),
    "contexts": lambda ax=None: plot_context_dependence(swaps(), ax=ax),
    "transitions": lambda ax=None: plot_transitions(transitions(), ax=ax),
    "classification": lambda ax=None: plot_classification(classes(), ax=ax),
    "probe": lambda ax=None: plot_probe(probe(), ax=ax),
}


@pytest.mark.parametrize("name", PLOTS)
def test_plots_draw_on_the_axes_they_are_given_or_the_current_ones(name):
    before = dict(mpl.rcParams)
    _, (ax, other) = plt.subplots(1, 2)
    figures = plt.get_fignums()
    assert plt.gca() is other
    assert PLOTS[name](ax=ax) is ax and ax.has_data() and not other.has_data()
    assert PLOTS[name]() is other and other.has_data()
    assert plt.get_fignums() == figures and dict(mpl.rcParams) == before


def test_nothing_is_imported_before_it_draws():
    plots = [f"qf_toolkit.plots.{p.stem}" for p in Path(plot_probe.__code__.co_filename).parent.glob("*.py")]
    code = f"import sys, qf_toolkit; a = 'matplotlib' in sys.modules; import {', '.join(plots)}; sys.exit(a or 'seaborn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def overlaps(fig, texts):
    renderer = fig.canvas.get_renderer()
    boxes = sorted((t.get_window_extent(renderer) for t in texts if t.get_text() and t.get_visible()), key=lambda b: (b.x0, b.y0))
    return any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.filterwarnings("error::UserWarning")  # of a layout that can't be
@pytest.mark.parametrize("n", [1, 2, 9, 300])
def test_one_neuron_and_many_are_drawn_and_no_names_overlap(n):
    table = scores(n)
    with style():
        for draw in (
            lambda ax: plot_neuron_scores(table, ax=ax),
            lambda ax: plot_neuron_scores(table, "r", ax=ax),
            lambda ax: plot_score_distribution(table, "mse", ax=ax),
            lambda ax: plot_gain_over(table, ROWS[0], ROWS[3], ax=ax),
            lambda ax: plot_score_by_statistic(table, statistic(table), ROWS[0], ax=ax),
        ):
            fig, ax = plt.subplots(figsize=(4.6, 2.6))
            draw(ax)
            fig.canvas.draw()
            for axis in (ax.xaxis, ax.yaxis):
                inside = [t for t in axis.get_ticklabels() if ax.bbox.expanded(1.01, 1.01).contains(*t.get_transform().transform(t.get_position()))]
                assert not overlaps(fig, inside or axis.get_ticklabels())
            assert not any("math" in t.get_text() for t in (*ax.get_xticklabels(), *ax.get_yticklabels()))


# ---------------------------------------------------------------- scores of neurons


@pytest.mark.parametrize("metric", ["mse", "r"])
def test_every_score_is_a_point_and_the_line_is_their_median(metric):
    table = scores()
    with style():
        _, ax = plt.subplots()
        plot_neuron_scores(table, metric, ax=ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"{row} ({30 - 2 * j})" for j, row in enumerate(ROWS)] and ax.yaxis_inverted()
    points = [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) > 1]
    for j, (row, found) in enumerate(zip(ROWS, points, strict=True)):
        np.testing.assert_allclose(np.sort(found[:, 0]), np.sort(table[metric][row].dropna()))
        assert (np.abs(found[:, 1] - j) < 0.5).all()
    medians = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == "|"])
    np.testing.assert_allclose(medians, table[metric].median())
    assert ax.get_xscale() == ("log" if metric == "mse" else "linear")
    colors = [to_hex(c.get_facecolor()[0]) for c in ax.collections if len(c.get_offsets()) > 1]
    assert colors[:2] == palette()[:2] and all(len(set(to_rgb(c))) == 1 for c in colors[2:])  # naive rows are grey
    assert [t.get_text() for t in ax.figure.texts] == ["simulated data"] and provenance(ax.figure)["sources"] == [{"data": "d1", "model": "m1"}]


def test_errors_of_zero_are_on_a_linear_axis_and_a_row_without_a_score_keeps_its_place():
    table = scores()
    table.loc[table.index[10], ("mse", ROWS[0])] = 0.0
    table[("mse", ROWS[2])] = np.nan
    _, ax = plt.subplots()
    plot_neuron_scores(table, ax=ax)
    assert ax.get_xscale() == "linear"
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"{ROWS[0]} (30)", f"{ROWS[1]} (28)", f"{ROWS[2]} (0)", f"{ROWS[3]} (24)"]


def test_the_distribution_is_the_share_of_neurons_at_or_below():
    table = scores()
    _, ax = plt.subplots()
    plot_score_distribution(table, "r", ax=ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ROWS
    for line, row in zip(ax.lines, ROWS, strict=True):
        values = np.sort(table["r"][row].dropna())
        x, y = line.get_data()
        np.testing.assert_allclose(x[1:], values)
        np.testing.assert_allclose(y[1:], np.arange(1, len(values) + 1) / len(values))


@pytest.mark.parametrize("metric", ["mse", "r"])
def test_gain_counts_on_which_side_of_the_diagonal_neurons_lie(metric):
    table = scores()
    _, ax = plt.subplots()
    plot_gain_over(table, ROWS[0], ROWS[2], metric, ax=ax)
    both = table[metric][[ROWS[2], ROWS[0]]].dropna().to_numpy()
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_offsets()), both)
    better = sum(y < x if metric == "mse" else y > x for x, y in both)
    assert ax.get_title(loc="left") == f"better in {better} of 26 neurons"
    assert ax.get_xlim() == ax.get_ylim() and (both > ax.get_xlim()[0]).all() and (both < ax.get_xlim()[1]).all()
    (diagonal,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(*diagonal.get_data())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["m0/s", "m1/s", "m2/s"]
    assert ax.get_xlabel() == f"{metric}, copy last" and ax.get_ylabel() == f"{metric}, QuantFormer"


@pytest.mark.parametrize("sessions", [1, 12])
def test_gain_of_one_or_of_very_many_sessions_has_one_colour(sessions):
    _, ax = plt.subplots()
    plot_gain_over(scores(sessions=sessions), ROWS[0], ROWS[1], ax=ax)
    assert ax.get_legend() is None and len(ax.collections[0].get_facecolors()) == 1


def test_scores_are_matched_to_a_statistic_by_key():
    table = scores()
    values = statistic(table)
    _, ax = plt.subplots()
    plot_score_by_statistic(table, values[::-1], ROWS[2], ax=ax)
    known = table["r"][ROWS[2]].dropna()
    x = values.sel(neuron=known.index.get_level_values("neuron").to_numpy()).values
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_offsets()), np.stack([x, known], 1))
    slope, offset = np.polyfit(x, known, 1)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), slope * ax.lines[0].get_xdata() + offset, atol=1e-9)
    assert ax.get_title(loc="left") == f"26 neurons, rank correlation {spearmanr(x, known).statistic:.2f}"
    assert ax.get_xlabel() == "selectivity (fraction)" and ax.get_ylabel() == "r, copy last"
    assert {"data": "d2"} in provenance(ax.figure)["sources"]


def test_scores_that_are_not_there_are_named():
    table = scores()
    _, ax = plt.subplots()
    for call in (plot_neuron_scores, plot_score_distribution):
        with pytest.raises(UnknownKeyError, match="metric: 'rr' is not among these scores; did you mean r"):
            call(table, "rr", ax=ax)
        with pytest.raises(QfError, match="metric: expected numbers in mse, found none"):
            call(table * np.nan, "mse", ax=ax)
    with pytest.raises(UnknownKeyError, match="other: 'copy' has no scores here; did you mean copy last"):
        plot_gain_over(table, ROWS[0], "copy", ax=ax)
    apart = table.copy()
    apart.loc[apart.index[:15], ("mse", ROWS[0])], apart.loc[apart.index[15:], ("mse", ROWS[2])] = np.nan, np.nan
    with pytest.raises(QfError, match="expected a neuron with mse of both QuantFormer and copy last, found none"):
        plot_gain_over(apart, ROWS[0], ROWS[2], ax=ax)
    with pytest.raises(QfError, match="statistic: expected a number of a neuron.*same neurons"):
        plot_score_by_statistic(table, statistic(table).assign_coords(neuron=np.arange(30).astype(str)), ROWS[0], ax=ax)
    assert not ax.has_data()


# ---------------------------------------------------------------- heat maps


def mesh_of(ax):
    (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return mesh


def test_cells_hold_the_values_and_numbers_stand_in_few_of_them():
    table = pd.DataFrame(np.arange(12.0).reshape(3, 4), list("abc"), list("wxyz"))
    table.iloc[1, 2] = np.nan
    _, (ax, other) = plt.subplots(1, 2)
    heat_map(ax, table, label="value", numbers=".1f", turn=90)
    shown = mesh_of(ax).get_array()
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), table)
    assert np.ma.getmaskarray(shown).sum() == 1  # grey, and without a number
    assert [t.get_text() for t in ax.texts] == [f"{v:.1f}" for v in table.to_numpy().ravel() if v == v]
    assert [t.get_text() for t in ax.get_xticklabels()] == list("wxyz") and [t.get_text() for t in ax.get_yticklabels()] == list("abc")
    assert ax.yaxis_inverted() and mesh_of(ax).norm.vmax == 11
    heat_map(other, table, upwards=True, numbers=table.map("<{}>".format), top=5.0)
    assert not other.yaxis_inverted() and mesh_of(other).norm.vmax == 5
    assert other.texts[0].get_text() == "<0.0>" and len(other.figure.axes) == 3  # one colour bar


def test_numbers_can_be_read_on_dark_and_on_bright_cells():
    _, ax = plt.subplots()
    heat_map(ax, pd.DataFrame([[0.0, 1.0]]), numbers=".0f")
    dark, bright = (to_rgb(t.get_color()) for t in ax.texts)
    assert min(dark) > 0.9 and max(bright) < 0.3


@pytest.mark.parametrize("n", [1, 300])
def test_maps_of_one_and_of_many_codes_have_names_that_do_not_overlap(n):
    with style():
        fig, ax = plt.subplots(figsize=(4, 3.4))
        plot_context_dependence(swaps(n, places=1), ax=ax)
        fig.canvas.draw()
    assert mesh_of(ax).get_array().shape == (n, n)
    assert len(ax.texts) == (1 if n == 1 else 0)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert labels and not overlaps(fig, labels)


def test_a_transition_that_never_was_is_grey():
    found = transitions()
    _, ax = plt.subplots()
    plot_transitions(found, ax=ax)
    np.testing.assert_allclose(mesh_of(ax).get_array().filled(np.nan), found["probability"])
    assert len(ax.texts) == 56 and ax.texts[0].get_text() == f"{float(found['probability'][0, 0]):.2f}"


def test_a_figure_is_not_drawn_while_panels_are_added_and_has_its_canvas_back():
    fig, axes = plt.subplots(2, 3)
    canvas, drawn = fig.canvas, []
    fig.canvas.mpl_connect("draw_event", drawn.append)
    with pytest.raises(RuntimeError), undrawn(fig):
        for ax in axes.flat:
            heat_map(ax, pd.DataFrame(np.eye(3)))
        raise RuntimeError
    assert fig.canvas is canvas and not drawn
    fig.canvas.draw()
    assert len(drawn) == 1


def test_classifiers_are_rows_and_scores_from_0_to_1_columns():
    _, ax = plt.subplots()
    plot_classification(classes(), ax=ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["QuantFormer", "level of the condition", "frequency of activation"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["balanced\naccuracy", "auroc"]  # a Brier score is better where it is low
    np.testing.assert_array_equal(np.ma.filled(mesh_of(ax).get_array(), np.nan), classes()[["balanced_accuracy", "auroc"]])
    assert [t.get_text() for t in ax.texts] == ["0.73", "0.80", "0.73", "0.79", "0.64"]
    with pytest.raises(QfError, match="table: expected one of balanced_accuracy.*evaluate_classifier"):
        plot_classification(classes()[["brier"]])


# ---------------------------------------------------------------- cluster map


def book(n=12):
    level = np.random.default_rng(3).normal(size=n)
    return xr.Dataset({"level": ("code", level)}, {"code": np.arange(n)}, {"model": "m1", "simulated": 1})


@pytest.mark.parametrize("with_book", [False, True])
def test_like_codes_stand_beside_each_other(with_book):
    found = swaps()
    before = dict(mpl.rcParams)
    fig = figure_code_contexts(found, book() if with_book else None)
    assert dict(mpl.rcParams) == before
    table = found["context_dependence"].mean("place").to_pandas()
    rows, columns = (leaves_list(linkage(t, "average")) for t in (table, table.T))
    ax = next(a for a in fig.axes if a.get_ylabel() == "code")
    assert [int(t.get_text()) for t in ax.get_yticklabels()] == rows.tolist() and [
        int(t.get_text()) for t in ax.get_xticklabels()
    ] == columns.tolist()
    np.testing.assert_allclose(mesh_of(ax).get_array(), table.iloc[rows, columns])
    strips = [a for a in fig.axes if a is not ax and a.collections and np.squeeze(mesh_or_none(a)).shape == (12,)]
    assert len(strips) == (2 if with_book else 0)
    assert [t.get_text() for t in fig.texts] == ["simulated data"] and provenance(fig)["sources"] == [{"model": "m1"}]


def mesh_or_none(ax):
    meshes = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return meshes[0].get_array() if meshes else np.zeros(0)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_cluster_map_keeps_its_layout_when_it_is_saved(tmp_path):
    fig = figure_code_contexts(swaps(), book())
    places = [ax.get_position().bounds for ax in fig.axes]
    for _ in range(2):
        save_figure(fig, tmp_path / "clusters", ("png",))
    assert [ax.get_position().bounds for ax in fig.axes] == places
    fig.canvas.draw()
    heat = next(a for a in fig.axes if a.get_ylabel() == "code")
    bar = next(a for a in fig.axes if "RMS change" in a.get_ylabel())
    assert not heat.get_tightbbox().overlaps(bar.get_tightbbox())
    assert all(fig.bbox.contains(*corner) for corner in bar.get_tightbbox().get_points())


@pytest.mark.parametrize("n", [2, 300])
def test_two_and_many_codes_can_be_clustered(n):
    fig = figure_code_contexts(swaps(n, places=1))
    fig.canvas.draw()
    ax = next(a for a in fig.axes if a.get_ylabel() == "code")
    assert not overlaps(fig, ax.get_xticklabels()) and not overlaps(fig, ax.get_yticklabels())


def test_cells_without_a_value_are_grey_in_a_cluster_map_and_one_code_is_refused():
    found = swaps()
    found["context_dependence"][2, 5] = np.nan
    fig = figure_code_contexts(found)
    ax = next(a for a in fig.axes if a.get_ylabel() == "code")
    assert np.ma.getmaskarray(mesh_of(ax).get_array()).sum() == 1
    with pytest.raises(QfError, match="swaps: expected two codes or more to cluster, found 1"):
        figure_code_contexts(swaps(1))


# ---------------------------------------------------------------- probes


def test_probes_that_could_not_be_made_leave_their_place_empty():
    _, ax = plt.subplots()
    plot_probe(probe(), ax=ax)
    tokens, shuffled = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in tokens], [0.5, 0.1, 0.7])
    np.testing.assert_allclose([bar.get_width() for bar in shuffled], [0.0, -0.1, 0.5])
    middles = [bar.get_y() + bar.get_height() for bar in tokens]
    np.testing.assert_allclose(middles, [0, 1, 3])  # above the line of its name, the shuffled below
    assert [t.get_text().split("\n")[0] for t in ax.get_yticklabels()] == ["standard deviation", "median", "constant", "preferred condition"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["tokens", "shuffled", "95 % of the shuffles are below"]
