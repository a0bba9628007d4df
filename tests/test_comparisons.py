"""Figures of comparisons: one group of rows per model, also on axes that share their names."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.plots.comparisons import plot_differences

ENDS = ("", "_from", "_to")


@pytest.fixture
def differences():
    index = pd.MultiIndex.from_product([["lstm", "tcn"], ["psth", "ridge"]], names=["forecaster", "than"])
    table = pd.DataFrame({f"{c}{end}": [0.1, -0.1, 0.2, 0.0] for c in ("ratio_lower", "r_higher") for end in ENDS}, index)
    table.attrs = {"simulated": True}
    return table


def test_two_axes_share_the_names_of_the_rows(differences):
    fig, axes = plt.subplots(1, 2, sharey=True)
    for ax, column in zip(axes, ("ratio_lower", "r_higher"), strict=True):
        assert plot_differences(differences, column, ax=ax) is ax
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["lstm", "than psth", "than ridge", "tcn", "than psth", "than ridge"]
    assert axes[0].yaxis.get_major_ticks()[0].label1.get_fontweight() == "bold"
    plt.close(fig)


def test_wrong_columns_and_empty_tables_are_named(differences):
    with pytest.raises(UnknownKeyError, match="column: expected one of ratio_lower"):
        plot_differences(differences, "ratio_lowr")
    with pytest.raises(QfError, match="found none"):
        plot_differences(differences.iloc[:0])
