"""Figures: what is drawn is what was measured and forecast, and they can be edited."""

import matplotlib as mpl

mpl.use("Agg")

from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from qf_toolkit.errors import UnknownKeyError
from qf_toolkit.plots.forecasts import figure_forecasts, plot_forecast
from qf_toolkit.plots.style import save_figure, style
from qf_toolkit.plots.tables import figure_printed_table, figure_table
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.trials import cut


def recording(session="d1", source="simulation", neurons=5):
    rng = np.random.default_rng(1)
    onsets = np.arange(40, 560, 50)
    traces = rng.normal(100, 3, (neurons, 600))
    for i, onset in enumerate(onsets):
        traces[i % neurons, onset : onset + 15] += 60 + 10 * (i % neurons)
    trials = pd.DataFrame({"onset_frame": onsets, "direction": [0, 90] * (len(onsets) // 2) + [0] * (len(onsets) % 2)})
    return new_session(traces, subject="m", session=session, rate_hz=10, trials=trials, source=source)


def forecast_of(trials):
    """A forecast that can be told apart: the truth plus 1."""
    import xarray as xr

    parts = []
    for part in trials.by_session():
        ds = part.dataset()
        f = (ds["dff"].isel(time=slice(ds.attrs["n_baseline"], None)) + 1).rename("forecast").to_dataset()
        if len(trials.sessions) > 1:
            session = part.sessions[0]
            f = f.assign_coords(trial=[f"{session}/{t}" for t in f["trial"].values], session=("trial", [session] * f.sizes["trial"]))
        parts.append(f)
    return parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")


def test_lines_are_truth_and_forecast():
    trials = cut(recording())
    truth = trials.dataset()
    _, ax = plt.subplots()
    assert plot_forecast(truth, {"model": forecast_of(trials)}, 2, "m/d1/2", ax=ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["measured"].get_ydata(), truth["dff"].values[2, 2])
    np.testing.assert_allclose(lines["model"].get_ydata(), truth["dff"].values[2, 2, truth.attrs["n_baseline"] :] + 1)
    assert lines["model"].get_xdata()[0] == 0
    assert ax.get_xlabel() == "time from onset (s)" and ax.get_ylabel() == "dF/F"


def test_several_trials_give_their_mean():
    trials = cut(recording())
    truth = trials.dataset()
    _, ax = plt.subplots()
    plot_forecast(truth, {}, [0, 1, 4], "m/d1/0", ax=ax)
    measured = next(line for line in ax.lines if line.get_label() == "measured")
    np.testing.assert_allclose(measured.get_ydata(), truth["dff"].values[[0, 1, 4], 0].mean(0), rtol=1e-5)


def test_unknown_trial_and_neuron_are_named():
    truth = cut(recording()).dataset()
    _, ax = plt.subplots()
    with pytest.raises(UnknownKeyError, match="99"):
        plot_forecast(truth, {}, 99, "m/d1/0", ax=ax)
    with pytest.raises(UnknownKeyError, match="m/d1/nobody"):
        plot_forecast(truth, {}, 0, "m/d1/nobody", ax=ax)


@pytest.mark.parametrize(("source", "said"), [("simulation", True), ("arrays", False)])
def test_simulated_data_are_said_to_be_so(source, said):
    trials = cut(recording(source=source))
    fig = figure_forecasts(trials, {"model": forecast_of(trials)}, n=4)
    assert [t.get_text() for t in fig.texts] == (["simulated data"] if said else [])


def test_examples_are_the_most_active_of_different_neurons_then_random():
    trials = cut(recording())
    figures = [figure_forecasts(trials, {"model": forecast_of(trials)}, n=6, seed=s) for s in (0, 0, 1)]
    titles = [[ax.get_title() for ax in fig.axes if ax.has_data()] for fig in figures]
    assert titles[0] == titles[1] != titles[2]
    best = [t for t in titles[0] if t.startswith("most active")]
    assert [t.split("m/d1/")[1].split(",")[0] for t in best] == ["4", "3", "2"]  # they respond the more, the higher their number
    assert len([t for t in titles[0] if t.startswith("random")]) == 3
    assert len([t for t in titles[0] if t.startswith("mean of")]) == 3


def test_several_sessions_are_drawn_from_their_own_forecast():
    trials = cut([recording("d1"), recording("d2", neurons=3)])
    fig = figure_forecasts(trials, {"model": forecast_of(trials)}, n=8)
    for ax in fig.axes:
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        if "model" in lines:
            np.testing.assert_allclose(lines["model"], lines["measured"][-len(lines["model"]) :] + 1, rtol=1e-5)


def test_style_leaves_a_notebook_interactive():
    """A notebook's backend turns interactive on with the first figure, which is often drawn inside the style."""
    before = mpl.is_interactive()
    try:
        mpl.interactive(False)
        with style():
            mpl.interactive(True)
        assert mpl.is_interactive()
    finally:
        mpl.interactive(before)


def test_style_is_a_context_and_files_are_editable(tmp_path):
    before = dict(mpl.rcParams)
    trials = cut(recording())
    fig = figure_forecasts(trials, {"model": forecast_of(trials)}, n=2)
    paths = save_figure(fig, tmp_path / "new" / "figure")
    assert dict(mpl.rcParams) == before
    assert [p.name for p in paths] == ["figure.svg", "figure.png"]
    svg = paths[0].read_text()
    assert "<text" in svg and "simulated data" in svg and "<dc:date>" not in svg
    assert paths[1].read_bytes()[:4] == b"\x89PNG"
    with style():
        assert mpl.rcParams["svg.fonttype"] == "none"


def test_table_is_drawn_row_by_row():
    table = pd.DataFrame({"mse": [1.0, 2.0, np.nan]}, index=["model", "copy last", "none"])
    table.attrs["simulated"] = True
    fig = figure_table(table, "mse")
    assert [bar.get_width() for bar in fig.axes[0].patches] == [1.0, 2.0]
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["model", "copy last"]
    with pytest.raises(UnknownKeyError, match="mse"):
        figure_table(table, "msee")


def heads(fig):
    texts = [t for t in fig.axes[0].texts if t.get_fontsize() == 8]
    top = min(t.get_position()[1] for t in texts)
    return [t.get_text() for t in sorted(texts, key=lambda t: t.get_position()[0]) if t.get_position()[1] == top]


def bold(fig, column):
    texts = sorted((t for t in fig.axes[0].texts if t.get_fontsize() == 8), key=lambda t: t.get_position()[1])
    fig.canvas.draw()
    lines = [list(g) for g in np.array_split(np.array(texts, object), len({t.get_position()[1] for t in texts}))]
    return [sorted(line, key=lambda t: t.get_window_extent().x0)[column].get_weight() == "bold" for line in lines[1:]]


def test_a_jump_is_best_nearest_to_1_and_a_brier_score_where_it_is_low():
    table = pd.DataFrame({"jump": [5.3, 1.2, 0.7], "brier": [0.06, 0.05, 0.09], "auroc": [0.7, 0.8, 0.6], "average_precision": [0.3, 0.2, 0.1]})
    fig = figure_printed_table(table)
    assert heads(fig)[1:] == ["jump → 1", "brier ↓", "auroc ↑", "average_precision ↑"]
    assert [bold(fig, j) for j in (1, 2, 3, 4)] == [[False, True, False], [False, True, False], [False, True, False], [True, False, False]]


def test_scores_with_intervals_keep_their_best_and_their_arrow():
    table = pd.DataFrame({"auroc": [0.7, 0.8], "auroc_from": [0.6, 0.75], "auroc_to": [0.75, 0.85]}, index=["a", "b"])
    fig = figure_printed_table(table)
    assert heads(fig)[1:] == ["auroc ↑", "from", "to"] and bold(fig, 1) == [False, True]
    assert "From, to: the 95 % interval." in " ".join(t.get_text() for t in fig.axes[0].texts)
    ax = figure_table(table, "auroc").axes[0]
    assert [bar.get_width() for bar in ax.patches] == [0.7, 0.8]
    (lines,) = ax.collections
    np.testing.assert_allclose([segment[:, 0] for segment in lines.get_segments()], table[["auroc_from", "auroc_to"]])


def test_differences_say_of_how_many_animals_and_sessions():
    index = pd.MultiIndex.from_tuples([("QuantFormer", "copy last"), ("QuantFormer", "training mean")], names=["forecaster", "than"])
    table = pd.DataFrame({"mse_lower": [0.02, 0.01], "mse_lower_from": [0.01, -0.01], "mse_lower_to": [0.03, 0.02]}, index=index)
    table.attrs = {"n_animals": 3, "n_sessions": 7, "simulated": 1}
    fig = figure_printed_table(table)
    notes = " ".join(t.get_text() for t in fig.axes[0].texts if t.get_fontsize() < 8)
    assert notes.startswith("7 sessions, 3 animals. By how much the forecaster is better, with the 95 % interval (from, to)")
    assert bold(fig, 2) == [True, False] and heads(fig)[2:] == ["mse_lower", "from", "to"]
    assert [t.get_text() for t in figure_table(table, "mse_lower").axes[0].get_yticklabels()] == [
        "QuantFormer than copy last", "QuantFormer than training mean",
    ]  # fmt: skip


def test_wide_tables_do_not_overlap():
    rng = np.random.default_rng(0)
    columns = ["mse", "mse_ratio", "mae", "r", "E", "jump", "crps", "coverage_90", "paper_mse", "auroc", "average_precision", "brier"]
    fig = figure_printed_table(pd.DataFrame(rng.uniform(0.001, 2, (4, 12)), list("abcd"), columns))
    fig.canvas.draw()
    texts = [t for t in fig.axes[0].texts if t.get_text()]
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    edges = sorted({t.get_position()[1] for t in texts})
    assert all(b - a > 8 for a, b in pairwise(edges))
