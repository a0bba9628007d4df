"""Scores of single neurons: their distribution, which forecaster is better for which neurons, and their relation to statistics of the neurons."""

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..evaluation.directions import LOWER
from .forecasts import _looks
from .style import TRUTH, axes_or_current, credit, palette
from .tables import kind_of_row

LABELS = {"mse": "MSE of a neuron", "r": "r of a neuron"}
FEW = 8  # up to this number of neurons only points are drawn, and no shape
MOST_POINTS = 2000  # most points in a row; of more neurons a random choice is drawn


def plot_neuron_scores(scores, metric="mse", *, ax=None):
    """Plot the score of every neuron, one row per forecaster. A point is a neuron, a shape the distribution, a line the median.

    Parameters
    ----------
    scores : pandas.DataFrame
        As `evaluation.compare.per_neuron_scores` returns it: one row per (session, neuron), columns (metric, forecaster). A neuron without a score
        (NaN) is left out of the row of that forecaster.
    metric : str
        "mse" or "r". Squared errors differ by orders of magnitude between neurons, so their axis is logarithmic if all are above 0.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        Forecasters from top to bottom in the order of `scores`; naive rows are grey, the ceiling of a simulation is dark. If the numbers of neurons
        differ between forecasters, they stand after the names.

    Raises
    ------
    UnknownKeyError
        If there is no such metric.
    QfError
        If it holds no number.
    """
    import seaborn as sns

    ax, table = axes_or_current(ax), _of_metric(scores, metric)
    long = table.melt(var_name="forecaster", value_name="score").dropna()
    count = table.notna().sum()
    common = {"data": long, "x": "score", "y": "forecaster", "order": list(table), "ax": ax, "log_scale": _logarithmic(table, metric)}
    colors = {"hue": "forecaster", "hue_order": list(table), "palette": _colors(table), "legend": False}
    points = long.groupby("forecaster", sort=False, group_keys=False).sample(frac=1, random_state=0).groupby("forecaster").head(MOST_POINTS)
    dense = count[count > FEW].index
    if len(dense):
        shaped = {**common, "data": long[long["forecaster"].isin(dense)]}
        sns.violinplot(**shaped, **colors, inner=None, cut=0, density_norm="width", width=0.8, linewidth=0, alpha=0.35)
    size = float(np.clip(30 / np.sqrt(max(count.max(), 1)), 1.2, 3.5))
    sns.stripplot(**{**common, "data": points}, **colors, size=size, alpha=0.6, jitter=0.18, rasterized=len(points) > MOST_POINTS)
    ax.plot(table.median(), range(len(count)), "|", color=TRUTH, markersize=13, markeredgewidth=1.6)
    different = count.nunique() > 1
    ax.set_yticks(range(len(count)), [f"{name} ({n})" if different else name for name, n in count.items()])
    ax.set_ylim(len(count) - 0.5, -0.5)
    ax.set(xlabel=LABELS.get(metric, metric), ylabel="")
    ax.set_title("line: median" if different else f"{_neurons(count.max())}, line: median", loc="left")
    _name_decades(ax.xaxis)
    credit(ax, scores)
    return ax


def plot_score_distribution(scores, metric="r", *, ax=None):
    """Plot the share of neurons at or below each score, one line per forecaster, to compare many forecasters over many neurons.

    Parameters
    ----------
    scores, metric
        As in `plot_neuron_scores`.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If there is no such metric.
    QfError
        If it holds no number.
    """
    import seaborn as sns

    ax, table = axes_or_current(ax), _of_metric(scores, metric)
    for name, look in _looks({name: {} for name in table}).items():
        if table[name].notna().any():
            sns.ecdfplot(x=table[name].dropna(), log_scale=_logarithmic(table, metric), ax=ax, **look)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set(xlabel=LABELS.get(metric, metric), ylabel="share of neurons at or below")
    _name_decades(ax.xaxis)
    credit(ax, scores)
    return ax


def plot_gain_over(scores, forecaster, other, metric="mse", *, ax=None):
    """Plot one forecaster's score of each neuron over another's. The side of the diagonal on which a point lies shows which of them is better.

    Parameters
    ----------
    scores : pandas.DataFrame
        As in `plot_neuron_scores`.
    forecaster, other : str
        Columns: `forecaster` on the vertical axis, `other` on the horizontal axis. Neurons that lack one of the two scores are left out.
    metric : str
        "mse" or "r".
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        Square, with two equal axes and one colour per session, if there are at most as many sessions as colours. The title counts the neurons for
        which `forecaster` is better.

    Raises
    ------
    UnknownKeyError
        If there is no such metric or forecaster.
    QfError
        If no neuron has both scores.
    """
    import seaborn as sns

    ax, table = axes_or_current(ax), _of_metric(scores, metric)
    for name, found in (("forecaster", forecaster), ("other", other)):
        if found not in table:
            raise UnknownKeyError(f"{name}: {found!r} has no scores here; {did_you_mean(found, list(table))}")
    both = pd.DataFrame({"x": table[other], "y": table[forecaster]}).dropna()
    if both.empty:
        raise QfError(f"scores: expected a neuron with {metric} of both {forecaster} and {other}, found none. Choose two others.")
    sessions = both.index.get_level_values(0).astype(str)
    hue = sessions if 1 < sessions.nunique() <= len(palette()) else None
    colors = {"color": palette()[0]} if hue is None else {"hue": hue, "hue_order": sorted(set(sessions)), "palette": palette()[: sessions.nunique()]}
    sns.scatterplot(both, x="x", y="y", ax=ax, s=14, alpha=0.7, linewidth=0, rasterized=len(both) > MOST_POINTS, **colors)
    if _logarithmic(both, metric):
        ax.set(xscale="log", yscale="log")
    low, high = both.min(axis=None), both.max(axis=None)
    ends = (low / 1.2, high * 1.2) if ax.get_xscale() == "log" else (low - 0.05 * (high - low or 1.0), high + 0.05 * (high - low or 1.0))
    ax.plot(ends, ends, color="0.4", lw=0.8, ls="--", zorder=0)
    better = (both["y"] < both["x"]) if metric in LOWER else (both["y"] > both["x"])
    ax.set(xlim=ends, ylim=ends, xlabel=f"{metric}, {other}", ylabel=f"{metric}, {forecaster}")
    ax.set_title(f"better in {better.sum()} of {_neurons(len(both))}", loc="left")
    ax.set_box_aspect(1)
    for axis in (ax.xaxis, ax.yaxis):
        _name_decades(axis)
    if hue is not None:
        sns.move_legend(ax, "center left", bbox_to_anchor=(1.0, 0.5), title="session", markerscale=1.3)
    credit(ax, scores)
    return ax


def plot_score_by_statistic(scores, statistic, forecaster, metric="r", *, ax=None, seed=0):
    """Plot the score of each neuron over a number that describes it, with a regression line, to see which neurons are forecast well.

    Parameters
    ----------
    scores : pandas.DataFrame
        As in `plot_neuron_scores`.
    statistic : xarray.DataArray, dims (neuron,)
        A number for each neuron key, for example a variable of `interpret.neurons.neuron_statistics`.
    forecaster : str
        Column.
    metric : str
        "mse" or "r".
    ax : matplotlib.axes.Axes, optional
        The current axes if None.
    seed : int
        Seed of the bootstrap over neurons, which gives the line's band, a 95 % interval.

    Returns
    -------
    matplotlib.axes.Axes
        The title holds Spearman's rank correlation, which outliers hardly change. The line needs at least three neurons.

    Raises
    ------
    UnknownKeyError
        If there is no such metric or forecaster.
    QfError
        If no neuron has both numbers.
    """
    import seaborn as sns
    from scipy.stats import spearmanr

    ax, table = axes_or_current(ax), _of_metric(scores, metric)
    if forecaster not in table:
        raise UnknownKeyError(f"forecaster: {forecaster!r} has no scores here; {did_you_mean(forecaster, list(table))}")
    known = dict(zip(statistic["neuron"].values.astype(str), statistic.values.astype(float), strict=True))
    x = table.index.get_level_values(-1).astype(str).map(known).to_numpy(float)
    both = pd.DataFrame({"x": x, "y": table[forecaster].to_numpy(float)})
    both = both[np.isfinite(both).all(axis=1)]
    if both.empty:
        raise QfError(f"statistic: expected a number of a neuron that has a score, found none among {len(x)}. Are they of the same neurons?")
    sns.regplot(
        both, x="x", y="y", ax=ax, fit_reg=len(both) > 2 and both["x"].nunique() > 1, seed=seed, n_boot=500, color=palette()[0],
        scatter_kws={"s": 14, "alpha": 0.7, "linewidths": 0, "rasterized": len(both) > MOST_POINTS}, line_kws={"color": TRUTH, "lw": 1.2},
    )  # fmt: skip
    unit = statistic.attrs.get("units", "")
    name = str(statistic.name or "statistic").replace("_", " ")
    ax.set(xlabel=name + (f" ({unit})" if unit else ""), ylabel=f"{metric}, {forecaster}")
    varies = bool(min(both["x"].nunique(), both["y"].nunique()) > 1)
    rank = f", rank correlation {spearmanr(both['x'], both['y']).statistic:.2f}" if varies else ""
    ax.set_title(f"{_neurons(len(both))}{rank}", loc="left")
    credit(ax, scores, statistic)
    return ax


def _of_metric(scores, metric):
    """The scores of one metric, (neuron, forecaster)."""
    found = list(dict.fromkeys(scores.columns.get_level_values(0)))
    if metric not in found:
        raise UnknownKeyError(f"metric: {metric!r} is not among these scores; {did_you_mean(metric, found)}")
    table = scores[metric]
    if not table.notna().any(axis=None):
        raise QfError(f"metric: expected numbers in {metric}, found none. Choose another metric, or other trials.")
    return table


def _logarithmic(table, metric):
    return metric == "mse" and bool((table.min() > 0).all())


def _name_decades(axis):
    """Write the numbers of a logarithmic axis as decimals (0.01), not as powers of ten. An axis of few decades has more of them."""
    if axis.get_scale() != "log":
        return
    low, high = axis.get_view_interval()
    ticks = (1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)
    axis.set_major_locator(MaxNLocator(4) if high < 4 * low else LogLocator(subs=ticks))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _colors(table):
    """{forecaster: colour}: models in the palette's order, naive rows grey, the ceiling darker."""
    kinds = {name: kind_of_row(str(name)) for name in table}
    models, free = [name for name in table if kinds[name] == "model"], palette()
    return {n: {"naive": "0.65", "ceiling": "0.3"}.get(kinds[n]) or free[models.index(n) % len(free)] for n in table}


def _neurons(n):
    return f"{n} neuron{'' if n == 1 else 's'}"
