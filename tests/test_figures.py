"""Figures of forecasts and tables: they show what they were given, chosen by the rule they state."""

import matplotlib as mpl

mpl.use("Agg")

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.naive import CopyLast
from qf_toolkit.estimators.rows import naive_forecasters
from qf_toolkit.evaluation.compare import compare
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.plots.chosen import choose_most_active
from qf_toolkit.plots.forecasts import STIMULI, _looks, figure_examples, figure_forecasts, figure_stimuli, plot_forecast
from qf_toolkit.plots.style import palette, save_figure
from qf_toolkit.plots.tables import figure_printed_table, figure_table
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

NAMES = ["QuantFormer", *(f.name for f in naive_forecasters())]

CEILING = "ceiling (simulator's truth)"


def forecasts_of(trials, names=("QuantFormer",)):
    """Forecasts that can be told apart: of several sessions joined, row i is the truth plus i + 1."""
    out = {}
    for i, name in enumerate(names):
        parts = []
        for part in trials.by_session():
            ds = part.dataset()
            f = (ds["dff"].isel(time=slice(ds.attrs["n_baseline"], None)) + i + 1).rename("forecast").to_dataset()
            if len(trials.sessions) > 1:
                session = part.sessions[0]
                f = f.assign_coords(trial=[f"{session}/{t}" for t in f["trial"].values], session=("trial", [session] * f.sizes["trial"]))
            parts.append(f)
        out[name] = (parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")).assign_attrs(forecaster=name)
    return out


def picked(trials, n, seed):
    return [(s.kind, s.session, s.trial, s.neuron) for s in choose_most_active(trials, n, seed)]


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def panels(fig):
    return [ax for ax in fig.axes if ax.has_data()]


def boxes(fig, texts):
    renderer = fig.canvas.get_renderer()
    return [t.get_window_extent(renderer) for t in texts]


def active_by_hand(trials):
    """{(neuron, trial): mean dF/F of the scored part} of one session, where baseline and scored part are whole; a loop."""
    ds = trials.dataset()
    found = {}
    for t, trial in enumerate(ds["trial"].values):
        for k, neuron in enumerate(ds["neuron"].values):
            used = ds["dff"].values[t, k, : ds.attrs["n_baseline"] + int(ds["n_score"].values[t])]
            if np.isfinite(used).all():
                found[str(neuron), int(trial)] = used[ds.attrs["n_baseline"] :].mean()
    return found


# ---------------------------------------------------------------- one panel


def test_the_band_lies_between_low_and_high_in_the_colour_of_the_line():
    trials = cut(toy_session())
    truth, forecasts = trials.dataset(), forecasts_of(trials, ["QuantFormer", "copy last"])
    ds = forecasts["QuantFormer"]
    forecasts["QuantFormer"] = ds.assign(low=ds["forecast"] - 0.25, high=ds["forecast"] + 0.5)
    _, ax = plt.subplots()
    plot_forecast(truth, forecasts, 3, "mouse/one/2", ax=ax)
    (band,) = ax.collections
    expected = ds["forecast"].sel(trial=3, neuron="mouse/one/2").values
    corners = band.get_paths()[0].vertices
    for edge in (expected - 0.25, expected + 0.5):
        assert all(np.isclose(corners, point, atol=1e-6).all(1).any() for point in zip(ds["time"].values, edge, strict=True))
    assert to_hex(band.get_facecolor()[0]) == lines_of(ax)["QuantFormer"].get_color() and band.get_facecolor()[0][3] < 0.5
    _, ax = plt.subplots()
    plot_forecast(truth, forecasts, [3, 4], "mouse/one/2", ax=ax)
    assert not ax.collections


@given(models=st.integers(0, 8), naive=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_lines_follow_the_palette_and_can_be_told_apart(models, naive):
    names = [f"model {i}" for i in range(models)] + NAMES[1 : naive + 1]
    looks = _looks({n: xr.Dataset() for n in reversed(names)})
    assert list(looks) == names[::-1]
    assert len({(k["color"], k["ls"], k["lw"]) for k in looks.values()}) == len(names)
    own = [looks[n]["color"] for n in names[:models][::-1]]
    assert own == (palette()[:6] * 2)[:models]
    assert all(looks[n]["lw"] < 1 for n in names[models:]) and all(looks[n]["lw"] > 1.5 for n in names[:models])


def test_naive_rows_beside_a_model():
    looks = _looks({n: xr.Dataset() for n in NAMES})
    assert [k["color"] for k in looks.values()] == [*palette()[:6], *palette()[1:5]]
    assert [k["ls"] == "-" for k in looks.values()] == [True] * 6 + [False] * 4
    renamed = _looks({"mine": xr.Dataset(attrs={"forecaster": "copy last"})})
    assert renamed["mine"]["lw"] < 1


def test_a_forecast_of_another_session_is_refused():
    ours, theirs = cut(toy_session(0)), cut(toy_session(0, n_blocks=4, spacing_s=3.1))
    with pytest.raises(QfError, match="QuantFormer: expected a forecast of these trials.*predicted for"):
        plot_forecast(ours.dataset(), forecasts_of(theirs), 7, "mouse/one/0", ax=plt.subplots()[1])


# ---------------------------------------------------------------- the rule of choosing


def spoiled(traces, trials):
    """The strongest response of all follows a baseline with a hole outside F0."""
    onset = int(trials["onset_frame"][10])
    traces[1, onset : onset + 15] *= 20
    traces[1, onset - 29] = np.nan


def test_the_most_active_are_so_and_have_a_whole_baseline():
    trials = cut(toy_session(2, change=spoiled))
    by_hand = active_by_hand(trials)
    spoiled_one = ("mouse/one/1", int(trials.table["trial"][10]))
    assert np.nanmax(trials.dataset()["dff"].values[10, 1]) > 5 and spoiled_one not in by_hand
    best = {}
    for (neuron, trial), value in by_hand.items():
        best[neuron] = max(best.get(neuron, (-np.inf, 0)), (value, trial))
    expected = sorted(((value, neuron, trial) for neuron, (value, trial) in best.items()), reverse=True)
    chosen = picked(trials, 7, 0)
    assert [c[0] for c in chosen] == ["most active"] * 4 + ["random"] * 3
    assert [(neuron, trial) for _, _, trial, neuron in chosen[:4]] == [(neuron, trial) for _, neuron, trial in expected[:4]]
    assert all((neuron, trial) in by_hand for _, _, trial, neuron in chosen)
    assert spoiled_one not in [(neuron, trial) for seed in range(5) for _, _, trial, neuron in picked(trials, 300, seed)]


@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_nothing_is_chosen_twice_and_all_sessions_are_drawn_from(n, seed):
    trials = CHOSEN_FROM
    chosen = picked(trials, n, seed)
    assert chosen == picked(trials, n, seed)
    total = sum(len(p) * len(p.neurons) for p in trials.by_session())
    assert len(chosen) == len({c[1:] for c in chosen}) == min(n, total)
    for _, session, trial, neuron in chosen:
        assert trial in trials.table.loc[trials.table["session"] == session, "trial"].to_numpy() and neuron in trials.neurons_of(session)
    if n == 60:
        assert {c[1] for c in chosen if c[0] == "random"} == set(trials.sessions)


CHOSEN_FROM = cut([toy_session(0, n_neurons=2, repeats=1), toy_session(1, n_neurons=3, repeats=1, session="two")])


# ---------------------------------------------------------------- many panels


def test_examples_show_what_was_chosen_half_of_it_most_active():
    trials = cut([toy_session(0), toy_session(1, session="two")])
    forecasts = forecasts_of(trials, NAMES[:3])
    fig = figure_examples(trials, forecasts, n=6, seed=3)
    chosen = picked(trials, 6, 3)
    assert len(panels(fig)) == 6
    for ax, (kind, session, trial, neuron) in zip(panels(fig), chosen, strict=True):
        assert ax.get_title().startswith(f"{kind}: {neuron}, trial {trial}\n")
        truth = trials.dataset(session)["dff"].sel(trial=trial, neuron=neuron).values
        lines = lines_of(ax)
        np.testing.assert_allclose(lines["measured"].get_ydata(), truth)
        for i, name in enumerate(NAMES[:3]):
            np.testing.assert_allclose(lines[name].get_ydata(), truth[30:] + i + 1, rtol=1e-5)
            assert lines[name].get_xdata()[0] == 0
    titles = [[ax.get_title() for ax in panels(figure_examples(trials, forecasts, n=6, seed=s))] for s in (3, 4)]
    assert titles[0] == [ax.get_title() for ax in panels(fig)] and titles[0][:3] == titles[1][:3] and titles[0] != titles[1]


@pytest.mark.parametrize("n", [1, 5, 12])
def test_one_legend_beside_the_word_of_simulation_and_labels_with_units(n):
    trials = cut(toy_session(source="simulation"))
    fig = figure_examples(trials, forecasts_of(trials, NAMES), n=n)
    fig.canvas.draw()
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["measured", *NAMES]
    (said,) = [t for t in fig.texts if t.get_text() == "simulated data"]
    taken = [legend.get_window_extent(), said.get_window_extent(), *boxes(fig, [ax.title for ax in panels(fig)])]
    assert not any(a.overlaps(b) for a, b in combinations(taken, 2))
    assert all(fig.bbox.x0 <= b.x0 and b.x1 <= fig.bbox.x1 and b.y1 <= fig.bbox.y1 for b in taken)
    assert min(ax.get_window_extent().height for ax in panels(fig)) > 0.7 * fig.dpi  # the legend takes no room from the panels
    grid = np.array([ax.get_subplotspec().rowspan.start for ax in panels(fig)]), np.array([ax.get_subplotspec().colspan.start for ax in panels(fig)])
    for ax, row, column in zip(panels(fig), *grid, strict=True):
        lowest = row == grid[0][grid[1] == column].max()
        assert ax.get_xlabel() == ("time from onset (s)" if lowest else "") and ax.get_ylabel() == ("" if column else "dF/F")
        assert any(t.label1.get_visible() for t in ax.xaxis.get_major_ticks()) == lowest


def of_stimuli(**options):
    return toy_session(0, stimuli=STIMULI, **options)


@pytest.mark.parametrize("n", [1, 2])
def test_stimuli_stand_in_the_order_of_the_paper(n):
    session = of_stimuli()
    whole = cut(session, score_s="paper")
    # one part of several stimuli serves each of them, a part of its own as well
    parts = {s: (whole, forecasts_of(whole, NAMES)) for s in STIMULI[::-1]}
    parts["natural_scenes"] = (own := cut(session, "natural_scenes", score_s="paper"), forecasts_of(own, NAMES))
    fig = figure_stimuli(parts, n=n, seed=1)
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(panels(fig)) == 4 * n
    for ax in panels(fig):
        where = ax.get_subplotspec()
        row, column = where.rowspan.start, where.colspan.start
        stimulus = STIMULI[places.index((row // n, column))]
        trials = cut(session, stimulus, score_s="paper")
        kind, _, trial, neuron = picked(trials, n, 1)[row % n]
        orientation = 45 * STIMULI.index(stimulus)
        assert ax.get_title() == f"{stimulus.replace('_', ' ')}, {kind}\n{neuron}, trial {trial}: ori={orientation}"
        truth = trials.dataset()["dff"].sel(trial=trial, neuron=neuron).values
        np.testing.assert_allclose(lines_of(ax)["measured"].get_ydata(), truth)
        np.testing.assert_allclose(lines_of(ax)[NAMES[3]].get_ydata(), truth[30:] + 4, rtol=1e-5)
        assert [p.get_width() for p in ax.patches] == ([] if stimulus == STIMULI[0] else [pytest.approx(0.5)])
        assert ax.get_ylabel() == "dF/F" and ax.get_xlabel() == ("time from onset (s)" if row == 2 * n - 1 else "")
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["measured", *NAMES, "scored"]


def test_a_forecaster_keeps_its_colour_where_another_is_missing():
    session = of_stimuli()
    trials = [cut(session, s) for s in STIMULI[:2]]
    parts = {STIMULI[0]: (trials[0], forecasts_of(trials[0], NAMES[:3])), STIMULI[1]: (trials[1], forecasts_of(trials[1], NAMES[2:3]))}
    first, second = panels(figure_stimuli(parts))
    assert lines_of(first)[NAMES[2]].get_color() == lines_of(second)[NAMES[2]].get_color() == palette()[2]


def test_stimuli_that_cannot_be_shown_are_named():
    trials = cut(of_stimuli(), "static_gratings")
    forecasts = forecasts_of(trials)
    with pytest.raises(QfError, match=r"parts: expected a stimulus.*Pass \{"):
        figure_stimuli({})
    with pytest.raises(QfError, match="static_gratings: expected a forecast.*Pass"):
        figure_stimuli({"static_gratings": (trials, {})})
    with pytest.raises(QfError, match="natural_scenes: expected trials of that stimulus, found those of static_gratings. Name"):
        figure_stimuli({"static_gratings": (trials, forecasts), "natural_scenes": (trials, forecasts)})
    with pytest.raises(QfError, match="forecasts: expected a forecast.*Pass"):
        figure_examples(trials, {})
    for call in (lambda: figure_examples(trials, forecasts, n=0), lambda: figure_stimuli({"static_gratings": (trials, forecasts)}, n=0)):
        with pytest.raises(QfError, match="n: expected at least 1"):
            call()


def test_trials_without_a_whole_observation_are_said_so():
    def holes(traces, trials):
        for onset in trials["onset_frame"]:
            traces[:, onset - 29] = np.nan

    trials = cut(toy_session(0, change=holes))
    with pytest.raises(QfError, match="none that is valid.*qf info"):
        figure_examples(trials, forecasts_of(trials))


def test_means_are_of_the_trials_whose_truth_is_whole():
    def hole(traces, trials):
        traces[:, trials["onset_frame"][trials["orientation"] == 45.0].iloc[0] + 5] = np.nan

    trials = cut(toy_session(0, change=hole), condition="drifting_gratings/orientation=45")
    fig = figure_forecasts(trials, forecasts_of(trials), n=2)
    ax = next(ax for ax in panels(fig) if ax.get_title().startswith("mean of"))
    assert ax.get_title().startswith(f"mean of {len(trials) - 1} trials")
    lines = lines_of(ax)
    np.testing.assert_allclose(lines["QuantFormer"].get_ydata(), lines["measured"].get_ydata()[30:] + 1, rtol=1e-4)


# ---------------------------------------------------------------- tables


def scores():
    table = pd.DataFrame(
        {
            "mse": [0.01538, 0.01541, 0.0336, 0.0119],
            "r": [0.0807, -0.0004, np.nan, 0.1385],
            "coverage_90": [0.953, 0.88, 0.93, 0.9],
            "threshold": [0.3, 0.2, 0.1, 0.4],
            "paper_mse": [0.25, np.inf, 0.125, 0.0],
            "crps": [np.nan] * 4,
            "n": [12.0, 3.0, 100.0, 7.0],
        },
        index=pd.Index(["a model with a rather long name, fine-tuned", "another", "copy last", CEILING], name="forecaster"),
    )
    table.attrs = {
        "simulated": 1, "naive": ["copy last", CEILING], "n_trials": 84, "n_neurons": 40, "n_sessions": 1, "n_observations": 3360,
        "active_fraction": 0.112, "split": "by block", "not_applicable": {"ridge, population": "unknown neurons"},
    }  # fmt: skip
    return table


def cells(fig):
    """{column head: [Text of each row]}, the names of the rows under "", by where the texts lie."""
    fig.canvas.draw()
    texts = [t for t in fig.axes[0].texts if t.get_fontsize() == 8]
    rows = {}
    for t in texts:
        rows.setdefault(t.get_position()[1], []).append(t)
    rows = [sorted(rows[y], key=lambda t: t.get_window_extent().x0) for y in sorted(rows)]
    assert len({len(row) for row in rows}) == 1
    return {head.get_text(): [row[i] for row in rows[1:]] for i, head in enumerate(rows[0])}


def said(texts):
    return [t.get_text() for t in texts]


def strong(texts):
    return [t.get_weight() == "bold" for t in texts]


def test_the_printed_table_holds_the_rounded_values():
    shown = cells(figure_printed_table(scores()))
    assert list(shown) == ["forecaster", "mse ↓", "r ↑", "coverage_90 → 0.9", "threshold", "paper_mse ↓", "n"]  # not crps, which is empty
    assert said(shown["forecaster"]) == list(scores().index)
    assert said(shown["mse ↓"]) == [f"{v:.4f}" for v in scores()["mse"]] == ["0.0154", "0.0154", "0.0336", "0.0119"]
    assert said(shown["r ↑"]) == ["0.0807", "−0.0004", "–", "0.1385"]
    assert said(shown["paper_mse ↓"]) == ["0.250", "∞", "0.125", "0.000"]
    assert said(shown["n"]) == ["12", "3", "100", "7"]
    assert list(cells(figure_printed_table(scores(), columns=["n", "mse"]))) == ["forecaster", "n", "mse ↓"]
    assert said(cells(figure_printed_table(pd.DataFrame({"r": [0.5, -1e-6]})))["r ↑"]) == ["0.500", "0.000"]


def test_the_best_are_bold_as_printed_and_the_ceiling_does_not_compete():
    shown = cells(figure_printed_table(scores()))
    assert strong(shown["mse ↓"]) == [True, True, False, False]  # equal as printed
    assert strong(shown["r ↑"]) == [True, False, False, False]
    assert strong(shown["coverage_90 → 0.9"]) == [False, True, False, False]
    assert strong(shown["paper_mse ↓"]) == [False, False, True, False]
    for name in ("threshold", "n", "forecaster"):
        assert not any(strong(shown[name]))
    assert not any(strong(t for column in cells(figure_printed_table(scores(), best=False)).values() for t in column))
    assert not any(strong(cells(figure_printed_table(scores().iloc[[0, 3]]))["mse ↓"]))  # alone, nothing is best


def test_naive_rows_are_grey_the_ceiling_italic():
    table = scores()
    for attrs in (table.attrs, {}):  # a table read from a file has lost its attrs
        table.attrs = attrs
        for texts in cells(figure_printed_table(table)).values():
            assert [t.get_color() for t in texts] == ["black", "black", "0.5", "black"]
            assert [t.get_style() for t in texts] == ["normal"] * 3 + ["italic"]
    table.attrs = {"naive": ["another"]}
    assert [t.get_color() for t in cells(figure_printed_table(table))["mse ↓"]] == ["black", "0.5", "0.5", "black"]


def test_nothing_overlaps_and_decimal_points_are_aligned():
    fig = figure_printed_table(scores(), caption="one word " * 60)
    shown = cells(fig)
    texts = [t for t in (*fig.axes[0].texts, *fig.texts) if t.get_text()]
    found = boxes(fig, texts)
    assert "simulated data" in said(fig.texts)
    assert not any(a.overlaps(b) for a, b in combinations(found, 2))
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= fig.bbox.x1 and b.y1 <= fig.bbox.y1 for b in found)
    points = []
    for t in shown["r ↑"]:
        tail = fig.text(0, 0, t.get_text().partition(".")[2] and "." + t.get_text().partition(".")[2], size=8, weight=t.get_weight())
        points.append(t.get_window_extent().x1 - tail.get_window_extent().width)
    assert np.ptp([p for p, text in zip(points, said(shown["r ↑"]), strict=True) if "." in text]) < 1.5  # a dot of the screen
    assert len({round(t.get_window_extent().x1) for t in shown["r ↑"][::3]}) == 2  # bold digits are wider: no plain flush right


def test_the_caption_says_what_was_measured_unless_told_otherwise():
    def notes(fig):
        return " ".join(t.get_text() for t in fig.axes[0].texts if t.get_fontsize() < 8)

    words = notes(figure_printed_table(scores()))
    assert "84 test trials, 40 neurons, 1 session, 3360 observations, 11.2% active; split by block." in words
    assert "Not applicable: ridge, population (unknown neurons)." in words and "Grey: naive rows." in words
    fig = figure_printed_table(scores(), caption="Mouse 3, $V1$.")
    assert notes(fig) == "Mouse 3, $V1$." and not any(t.get_parse_math() for t in fig.axes[0].texts)
    assert notes(figure_printed_table(scores(), caption="")) == ""


def test_differences_are_bold_where_their_interval_is_above_0():
    index = pd.MultiIndex.from_product([["QuantFormer", "other"], ["copy last", "training mean"]], names=["forecaster", "than"])
    columns = {"mse_lower": [0.02, 0.01, 0.003, -0.01], "mse_lower_from": [0.01, -0.002, 1e-7, -0.02], "mse_lower_to": [0.03, 0.02, 0.005, -0.001]}
    shown = cells(figure_printed_table(pd.DataFrame(columns, index=index)))
    assert list(shown) == ["forecaster", "than", "mse_lower", "from", "to"]
    assert said(shown["forecaster"]) == ["QuantFormer", "", "other", ""]
    assert said(shown["than"]) == ["copy last", "training mean"] * 2
    assert strong(shown["mse_lower"]) == [True, False, True, False] and not any(strong(shown["from"] + shown["to"]))


@pytest.mark.filterwarnings("error")  # of a layout that can't be
def test_tables_of_the_toolkit_are_printed_and_can_be_edited(tmp_path):
    split = split_blocks(cut(toy_session(1, source="simulation")))
    table, differences = evaluate([], split), compare({"mine": CopyLast().fit(split)}, split)
    fig = figure_printed_table(table)
    shown = cells(fig)
    assert said(shown["forecaster"]) == NAMES[1:] and [float(t) for t in said(shown["mse ↓"])] == pytest.approx(table["mse"], rel=0.01)
    assert table["mse"].idxmin() in [t for t, b in zip(NAMES[1:], strong(shown["mse ↓"]), strict=True) if b]
    assert len(cells(figure_printed_table(differences))["than"]) == len(NAMES) - 1
    svg, _ = save_figure(fig, tmp_path / "table")
    assert ">stimulus mean (PSTH)</text>" in svg.read_text() and "simulated data" in svg.read_text()


def test_tables_that_cannot_be_printed_are_refused():
    with pytest.raises(UnknownKeyError, match="columns: 'msee' is no column of the table; did you mean mse"):
        figure_printed_table(scores(), columns=["mse", "msee"])
    table = scores().assign(area="V1")
    assert "area" not in cells(figure_printed_table(table))
    with pytest.raises(QfError, match="found text in 'area'. Leave it out"):
        figure_printed_table(table, columns=["mse", "area"])
    for empty in (scores().iloc[:0], scores()[["crps"]], pd.DataFrame()):
        with pytest.raises(QfError, match="rows and columns of numbers, found .* Pass what evaluate returned"):
            figure_printed_table(empty)
    with pytest.raises(QfError, match="metric: expected numbers in crps, found none. Choose"):
        figure_table(scores(), "crps")


def test_bars_show_which_rows_are_naive():
    fig = figure_table(scores(), "mse")
    faces = [to_hex(bar.get_facecolor()) for bar in fig.axes[0].patches]
    assert faces == [palette()[0], palette()[0], to_hex("0.65"), "#ffffff"]
