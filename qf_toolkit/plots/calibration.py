"""Whether the uncertainty of forecasts can be trusted: how often the truth lies inside their intervals, and where in their distribution it lies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import QfError
from .style import axes_or_current, credit, palette

PREFIX = "coverage_"


def plot_coverage(table: pd.DataFrame, *, ax: Any = None) -> Any:
    """Plot the share of frames inside central intervals over the share that the intervals promise.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per forecaster, columns coverage_50, coverage_80...: shares from 0 to 1. Rows without a number are left out.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        The diagonal is a calibrated forecast; below it a forecast is too sure of itself.

    Raises
    ------
    QfError
        If there is no such column, or no number in them.
    """
    ax = axes_or_current(ax)
    columns = sorted((c for c in table.columns if str(c).startswith(PREFIX) and "_from" not in c and "_to" not in c), key=_level)
    known = table[columns].dropna(how="all")
    if not columns or known.empty:
        raise QfError("table: expected columns coverage_50, coverage_80... with numbers, found none. Pass n_samples to evaluate.")
    ax.plot([0, 1], [0, 1], color="0.5", lw=0.8, zorder=0)
    levels = [_level(c) for c in columns]
    for i, (name, row) in enumerate(known.iterrows()):
        ax.plot(levels, row.to_numpy(float), marker="o", markersize=3.5, color=palette()[i % len(palette())], label=str(name))
    ax.set(xlim=(0.4, 1), ylim=(0, 1), xlabel="share that the interval promises", ylabel="share of frames inside it")
    ax.set_xticks(levels, [f"{level:.0%}" for level in levels])
    ax.legend(loc="upper left")
    credit(ax, table)
    return ax


def _level(column):
    return float(str(column).removeprefix(PREFIX)) / 100


def plot_pit(histograms: Mapping[str, Sequence[float]], *, ax: Any = None) -> Any:
    """Plot where the truth lies in the forecast distribution (probability integral transform), one line a forecaster.

    Parameters
    ----------
    histograms : mapping of str to float array, shape (bin,)
        Shares that sum to 1, from the lowest part of the forecast distribution to the highest.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        A flat line is a calibrated forecast. A valley is one that is too sure of itself, a hill one that is too unsure, a slope one that is too
        low or too high.

    Raises
    ------
    QfError
        If no histogram holds numbers.
    """
    ax = axes_or_current(ax)
    known = {name: np.asarray(shares, float) for name, shares in histograms.items() if np.isfinite(shares).all()}
    if not known:
        raise QfError("histograms: expected shares, found none. Score forecasts with samples.")
    for i, (name, shares) in enumerate(known.items()):
        edges = np.linspace(0, 1, len(shares) + 1)
        ax.stairs(len(shares) * shares, edges, color=palette()[i % len(palette())], label=name, lw=1.3, baseline=None)
    ax.axhline(1, color="0.5", lw=0.8, zorder=0)
    ax.set(xlim=(0, 1), xlabel="where the truth lies in the forecast distribution", ylabel="how often, 1: as often as promised")
    ax.set_ylim(bottom=0)
    ax.legend(loc="best")
    return ax
