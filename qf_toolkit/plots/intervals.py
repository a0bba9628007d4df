"""Many numbers with their intervals, sorted: how they are spread, and how sure each of them is."""

from typing import Any

import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from .style import axes_or_current, credit, palette

MOST_LINES = 400  # more intervals than this are drawn as a band


def plot_sorted_intervals(table: pd.DataFrame, column: str, *, label: str | None = None, one: str = "neuron", ax: Any = None) -> Any:
    """Plot a number of each neuron with its interval, from the smallest to the largest.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per neuron; the columns `column`, `column`_from and `column`_to. Rows without a number are left out.
    column : str
    label : str, optional
        Of the vertical axis; the column's name if None.
    one : str
        What a row is, for the horizontal axis.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If there is no such column.
    QfError
        If it holds no number.
    """
    ax = axes_or_current(ax)
    if column not in table:
        raise UnknownKeyError(f"column: {column!r} is not in the table; {did_you_mean(column, list(table.columns))}")
    known = table[np.isfinite(table[column].to_numpy(float))].sort_values(column)
    if known.empty:
        raise QfError(f"table: expected numbers in {column}, found none. Choose another column.")
    at = np.arange(1, len(known) + 1)
    ends = known[[f"{column}_from", f"{column}_to"]].to_numpy(float).T if f"{column}_from" in known else None
    color = palette()[0]
    if ends is not None and len(known) > MOST_LINES:
        ax.fill_between(at, *ends, color=color, alpha=0.25, lw=0)
    elif ends is not None:
        ax.vlines(at, *ends, color=color, alpha=0.35, lw=float(np.clip(200 / len(known), 0.5, 2)))
    ax.plot(at, known[column], "o", color=color, markersize=float(np.clip(60 / np.sqrt(len(known)), 1.5, 5)))
    ax.axhline(0, color="0.5", lw=0.8, zorder=0)
    ax.set(xlabel=f"{one}, sorted", ylabel=label or column.replace("_", " "), xlim=(0, len(known) + 1))
    credit(ax, table)
    return ax
