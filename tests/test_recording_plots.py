"""The pictures of a recording's page: what they draw, and what they refuse."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.plots.calibration import plot_coverage, plot_pit
from qf_toolkit.plots.horizon import plot_skill_by_group, plot_skill_by_step
from qf_toolkit.plots.intervals import plot_sorted_intervals


def skill(names, keys):
    index = pd.MultiIndex.from_product([names, keys])
    values = np.linspace(0.5, -0.1, len(index))
    return pd.DataFrame({"skill": values, "skill_from": values - 0.1, "skill_to": values + 0.1}, index)


def axes():
    return plt.subplots()[1]


def test_skill_by_step_draws_each_row_and_bands_for_those_in_colour():
    table = skill(["model", "copy last", "PSTH"], [0.1, 0.2, 0.3])
    table.attrs["reference"] = "training mean"
    ax = plot_skill_by_step(table, rows=["model"], ax=axes())
    assert len(ax.collections) == 1  # one interval
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["PSTH"].get_ydata(), table.loc["PSTH", "skill"])
    assert "training mean" in ax.get_ylabel() and next(t.get_text() for t in ax.get_legend().get_texts()) == "model"
    with pytest.raises(UnknownKeyError, match="modle"):
        plot_skill_by_step(table, rows=["modle"], ax=axes())
    with pytest.raises(QfError, match="found none"):
        plot_skill_by_step(table * np.nan, ax=axes())


def test_skill_by_group_has_a_row_a_group():
    table = skill(["a", "b"], ["running", "still", "<b>$x$"])
    ax = plot_skill_by_group(table, ax=axes())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["running", "still", "<b>$x$"]
    drawn = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(drawn["b"].get_xdata(), table.loc["b", "skill"])
    assert ax.yaxis_inverted()


def test_coverage_is_drawn_over_what_the_interval_promises():
    table = pd.DataFrame({"mse": [1.0, 2.0], "coverage_50": [0.4, np.nan], "coverage_90": [0.8, np.nan]}, ["model", "without draws"])
    ax = plot_coverage(table, ax=axes())
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["model"].get_xydata().tolist() == [[0.5, 0.4], [0.9, 0.8]] and "without draws" not in drawn
    with pytest.raises(QfError, match="coverage_50"):
        plot_coverage(table[["mse"]], ax=axes())


def test_pit_is_a_density():
    ax = plot_pit({"flat": np.full(10, 0.1), "unknown": np.full(10, np.nan)}, ax=axes())
    (stairs,) = ax.patches
    np.testing.assert_allclose(stairs.get_data().values, 1)
    with pytest.raises(QfError, match="found none"):
        plot_pit({"unknown": [np.nan]}, ax=axes())


@pytest.mark.parametrize("n", [3, 500])
def test_numbers_are_sorted_with_their_intervals(n):
    values = np.random.default_rng(0).normal(size=n)
    values[0] = np.nan
    table = pd.DataFrame({"snr": values, "snr_from": values - 1, "snr_to": values + 1})
    ax = plot_sorted_intervals(table, "snr", ax=axes())
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.sort(values[1:]))
    assert len(ax.collections) == 1
    with pytest.raises(UnknownKeyError, match="share"):
        plot_sorted_intervals(table, "share", ax=axes())
