"""Populations: the rasters of one trial, measured, forecast and wrong, and who looks at whom beside who drives whom."""

import numpy as np
import pandas as pd

from ..errors import QfError
from ..interpret.population import ORDERS
from ..interpret.population_attention import connections_of, looked_at
from ..recordings.window import SIGNAL_LABELS
from .heat import DIFFERENCES, NOTHING, SHARES, colour_bar, heat_map
from .style import axes_or_current, credit, palette, style

TITLES = {"measured": "measured", "forecast": "forecast", "error": "forecast - measured"}
NAMED = 20  # most neurons whose names fit beside a matrix
HIGH = 0.995  # quantile at which the colours of a matrix end


def plot_population(view, *, of="measured", limits=None, ax=None):
    """Plot the population in one trial as a raster: a row a neuron, a column a frame.

    Parameters
    ----------
    view : xarray.Dataset
        As `interpret.population.population_view` returns it.
    of : {"measured", "forecast", "error"}
        What is drawn.
    limits : (float, float), optional
        Ends of the colours, in units of the signal. If None, those of `raster_limits`, which are the same for the measured and the forecast raster.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        The raster is `ax.images[0]`. Frames without a value are grey; a line marks the onset.

    Raises
    ------
    QfError
        If `of` is unknown.
    """
    import seaborn as sns

    ax = axes_or_current(ax)
    if of not in TITLES:
        raise QfError(f"of: expected one of {', '.join(TITLES)}, found {of!r}.")
    low, high = raster_limits(view, of) if limits is None else limits
    time, n = view["time"].values, view.sizes["neuron"]
    step = float(np.median(np.diff(time)))
    shades = sns.color_palette(DIFFERENCES if of == "error" else SHARES, as_cmap=True).with_extremes(bad=NOTHING)
    extent = (time[0], time[-1] + step, n, 0)
    ax.imshow(view[of].values, aspect="auto", extent=extent, vmin=low, vmax=high, cmap=shades, interpolation="nearest")
    ax.axvline(0, color="white" if of != "error" else "0.3", lw=1.2)
    ax.set(xlabel="time from onset (s)", ylabel=f"neuron, by {ORDERS[view.attrs['order']]}")
    ax.set_title(view.attrs.get("forecaster", "forecast") if of == "forecast" else TITLES[of], loc="left")
    credit(ax, view)
    return ax


def raster_limits(view, of):
    """Ends (low, high) of the colours of a raster: of the measured and the forecast one quantiles of both together, of the error one even around 0."""
    if of == "error":
        values = np.abs(view["error"].values[np.isfinite(view["error"].values)])
        high = float(np.quantile(values, 0.99)) if values.size else 1.0
        return -(high or 1.0), high or 1.0
    values = np.concatenate([view[name].values.ravel() for name in ("measured", "forecast")])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.01, 0.99]) if values.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


def figure_population(view):
    """The population in one trial: measured, forecast and the difference, side by side, with the neurons in one order.

    Parameters
    ----------
    view : xarray.Dataset
        As `interpret.population.population_view` returns it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    unit, a = SIGNAL_LABELS.get(view.attrs["signal"], view.attrs["signal"]), view.attrs
    with style():
        fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.4), sharey=True)
        for ax, of in zip(axes, TITLES, strict=True):
            plot_population(view, of=of, ax=ax)
            ax.label_outer()
        both = axes[1].images[0]
        fig.colorbar(both, ax=axes[:2], label=unit, extend="both", shrink=0.8, pad=0.02).outline.set_visible(False)
        fig.colorbar(axes[2].images[0], ax=axes[2], label=f"forecast - measured ({unit})", extend="both", shrink=0.8).outline.set_visible(False)
        fig.suptitle(f"{a['session']}, trial {a['trial']}: {a['condition']}", fontsize=8, x=0.01, ha="left")
    return fig


def plot_neuron_attention(attention, truth=None, *, layer=None, head=None, ax=None):
    """Plot who looks at whom as a matrix, or who drives whom, if the truth is given.

    Parameters
    ----------
    attention : xarray.Dataset
        As `interpret.population_attention.neuron_attention` returns it. It gives the order of the neurons: the one that others look at most comes first.
    truth : xarray.Dataset or DataArray, optional
        Connections, as for `connections_of`. If given, they are drawn, with the neurons in the same order.
    layer, head : int, optional
        Which of them, from 1. If None, the mean.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        With a colour bar. The diagonal is empty; values above the bar (0.5 % of them) are grey.

    Raises
    ------
    QfError
        If there is no such layer or head, or as for `connections_of`.
    """
    ax = axes_or_current(ax)
    order = np.argsort(-looked_at(attention).values, kind="stable")
    if truth is None:
        values, label = chosen_map(attention, layer, head), "attention (times an even share)"
        values, names = values * len(values), ("neuron that is looked at", "neuron that looks")
    else:
        values, label, names = connections_of(attention, truth).values, "connection |J| (no unit)", ("neuron that drives", "neuron that is driven")
    values = values[np.ix_(order, order)]
    np.fill_diagonal(values, np.nan)
    keys = [str(k).rsplit("/", 1)[-1] for k in attention["neuron"].values[order]]
    ticks = keys if len(keys) <= NAMED else False
    top = float(np.nanquantile(values, HIGH)) if np.isfinite(values).any() else None
    mesh = heat_map(ax, pd.DataFrame(values, keys, keys), top=top or None, square=True, turn=90, xticklabels=ticks, yticklabels=ticks)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.set_title(("true connections" if truth is not None else _name_of(layer, head)), loc="left")
    colour_bar(mesh, [ax], label, shrink=0.8)
    credit(ax, attention)
    return ax


def figure_neuron_attention(attention, truth=None, compared=None):
    """Who looks at whom; beside it, where they are known, the true connections, and whether the neurons that are looked at are those that drive others.

    Parameters
    ----------
    attention : xarray.Dataset
        As `interpret.population_attention.neuron_attention` returns it.
    truth : xarray.Dataset or DataArray, optional
        Connections, as for `connections_of`.
    compared : xarray.Dataset, optional
        As `against_connections` returns it; its scores stand over the points.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    with style():
        fig, axes = plt.subplots(1, 1 if truth is None else 3, figsize=(3.6, 3.0) if truth is None else (10.2, 3.0), squeeze=False)
        plot_neuron_attention(attention, ax=axes[0, 0])
        if truth is not None:
            plot_neuron_attention(attention, truth, ax=axes[0, 1])
            ax, joined = axes[0, 2], connections_of(attention, truth).values
            np.fill_diagonal(joined, 0)
            ax.scatter(joined.sum(0), looked_at(attention).values, s=14, color=palette()[0], alpha=0.8, linewidths=0)
            ax.set(xlabel="how strongly it drives others, sum of |J|", ylabel="attention from others\n(times an even share)")
            if compared is not None:
                one = compared.sel(map="mean", measure="r_out")
                ax.set_title(f"rank r = {float(one['score']):.2f}, p = {float(one['p']):.2g}", loc="left")
                credit(ax, compared)
    return fig


def chosen_map(attention, layer=None, head=None):
    """Attention (neuron, neuron_seen) float64 of a layer and head, from 1; None takes the mean over them."""
    found = attention["attention"].astype(np.float64)
    for dim, wanted in (("layer", layer), ("head", head)):
        if wanted is not None and wanted not in found[dim].values:
            raise QfError(f"{dim}: expected one of {', '.join(map(str, found[dim].values))}, found {wanted}.")
        found = found.mean(dim) if wanted is None else found.sel({dim: wanted})
    return found.values


def _name_of(layer, head):
    parts = [f"{word} {which}" for word, which in (("layer", layer), ("head", head)) if which is not None]
    return f"attention, {', '.join(parts) or 'mean of layers and heads'}"
