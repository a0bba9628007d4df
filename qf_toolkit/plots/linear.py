"""Linear analyses of embeddings: neurons of a task in a map, the gradient of their tuning (CalM, Fig. 5 A and B), and probes beside their control."""

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import QfError
from ..interpret.tuning import related_to, strength_unit
from .neurons import coloured_points, name_axes, plot_tokens
from .style import TRUTH, axes_or_current, credit, palette, style

MEASURES = {
    "r2": "R²", "r": "r", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC", "r_out": "r of out-strengths",
    "r_in": "r of in-strengths",
}  # fmt: skip
ARROW = 0.35  # half of the length of the arrow, in extents of the map
LOWEST = -1.0  # at which the axis of scores ends: a held-out R² has no lower bound


def plot_task_clusters(embedding, variables, *, least=0.9, ax=None):
    """Plot a map of neuron embeddings, coloured by the variable of the task that each neuron is related to most (CalM, Fig. 5 A).

    Parameters
    ----------
    embedding : xarray.DataArray, dims (neuron, axis)
        As `interpret.embedding.pca` or `tsne` returns it.
    variables : xarray.Dataset
        As `interpret.tuning.neuron_variables` returns it, of variables of one kind.
    least : float
        Reliability from which on a neuron counts as related; see `related_to`.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If no neuron of the map is related to a variable, or the variables are of several kinds.
    """
    kinds = related_to(variables, least=least)
    known = set(embedding[embedding.dims[0]].values.astype(str))
    if not any(k != "" and n in known for n, k in zip(kinds["neuron"].values.astype(str), kinds.values, strict=True)):
        raise QfError(
            f"variables: expected a neuron of the map with a reliability of {least:g} or more, found none. Lower least=..., or take more trials."
        )
    names = variables["variable"].values.tolist()
    ax = plot_tokens(embedding, kinds, ax=ax, how="category", nothing="neither" if len(names) == 2 else "none of them")
    ax.set_title("variable that a neuron is most related to", loc="left")
    return ax


def plot_tuning_gradient(embedding, gradient, *, unit="", ax=None):
    """Plot a map of neuron embeddings, coloured by tuning strength, with the direction in which it grows (CalM, Fig. 5 B).

    The arrow is the gradient in the space of the embeddings as the map shows it: of all directions in the map, the one that goes with the position along
    the gradient. In a t-SNE, which bends directions, it is only a rough guide.

    Parameters
    ----------
    embedding : xarray.DataArray, dims (neuron, axis)
        As `interpret.embedding.pca` or `tsne` returns it.
    gradient : xarray.Dataset
        As `interpret.linear.gradient` returns it.
    unit : str
        Of the value, for the colour bar.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If no neuron of the map has a value.
    """
    ax, item = axes_or_current(ax), embedding.dims[0]
    name = gradient.attrs.get("target", "value").replace("_", " ")
    value = dict(zip(gradient[item].values.astype(str), gradient["target"].values, strict=True))
    keys = embedding[item].values.astype(str)
    has = np.array([k in value for k in keys], bool)
    if not has.any():
        raise QfError(f"gradient: expected values of the {len(keys)} {item}s of the map, found none. Is the map of the same {item}s?")
    xy = embedding.values
    ax.scatter(*xy[~has].T, s=6, color="0.75", zorder=1)
    shade = np.array([value[k] for k in keys[has]])
    coloured_points(ax, *xy[has].T, shade, xr.DataArray(shade, name=name, attrs={"units": unit}))
    along = dict(zip(gradient[item].values.astype(str), gradient["position"].values, strict=True))
    slope = np.linalg.lstsq(xy[has] - xy[has].mean(0), np.array([along[k] for k in keys[has]]), rcond=None)[0]
    middle, span = (f(xy[has], axis=0) for f in (np.mean, np.ptp))
    if np.linalg.norm(slope) > 0:
        way = slope / np.linalg.norm(slope)
        room = np.concatenate([xy[has].max(0) - middle, middle - xy[has].min(0)]) / np.abs(np.tile(way, 2)).clip(1e-9)
        step = way * min(ARROW * span.max(), room.min())  # the arrow stays inside the map
        look = {"arrowstyle": "-|>,head_width=0.35,head_length=0.7", "lw": 2.2, "color": palette()[1], "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", middle + step, middle - step, arrowprops=look, zorder=3)
    name_axes(ax, embedding)
    ax.set_title(f"arrow: {name} grows", loc="left")
    credit(ax, embedding, gradient)
    return ax


def plot_gradient_fit(gradient, *, unit="", ax=None):
    """Plot what the embeddings say of held-out neurons against what was measured of them.

    Parameters
    ----------
    gradient : xarray.Dataset
        As `interpret.linear.gradient` (or `probe`, of a number) returns it.
    unit : str
        Of the value.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If the probe is one of labels.
    """
    if gradient.attrs["kind"] != "number":
        raise QfError("gradient: expected the probe of a number, found one of labels. Take plot_probes.")
    ax, end = axes_or_current(ax), f" ({unit})" if unit else ""
    y, said = gradient["target"].values, gradient["predicted"].values
    ends = [min(y.min(), said.min()), max(y.max(), said.max())]
    ax.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    ax.scatter(y, said, s=12, color=palette()[0], alpha=0.7, linewidths=0)
    name = gradient.attrs.get("target", "value").replace("_", " ")
    ax.set(xlabel=f"{name}, measured{end}", ylabel=f"{name}, from held-out embeddings{end}")
    one = gradient.sel(measure="r")
    ax.set_title(f"r = {float(one['score']):.2f}, shuffled {float(one['chance']):.2f}, p = {float(one['p']):.2g}", loc="left")
    credit(ax, gradient)
    return ax


def figure_tuning(embedding, variables, gradient):
    """Neurons of a task in a map, the gradient of their tuning strength, and how well it holds (CalM, Fig. 5 A and B).

    Parameters
    ----------
    embedding : xarray.DataArray, dims (neuron, axis)
    variables : xarray.Dataset
        As `interpret.tuning.neuron_variables` returns it.
    gradient : xarray.Dataset
        `interpret.linear.gradient` of the embeddings and one of the strengths: `variables["strength"].sel(variable="side")`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    unit = strength_unit(str(variables["kind"].values[0]))
    with style():
        fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.0))
        plot_task_clusters(embedding, variables, ax=axes[0])
        plot_tuning_gradient(embedding, gradient, unit=unit, ax=axes[1])
        plot_gradient_fit(gradient, unit=unit, ax=axes[2])
    return fig


def plot_probes(probes, *, measure=None, ax=None):
    """Plot scores of linear probes against the scores with shuffled targets.

    Parameters
    ----------
    probes : mapping of str to xarray.Dataset
        Name to what `interpret.linear.probe` returns, or to one map of `interpret.population_attention.against_connections`.
    measure : str, optional
        The measure that is drawn. If None, the first of each probe: R² of numbers, balanced accuracy of labels.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        Probes from top to bottom: each shuffle is a grey point, the score a diamond, beside its p value.

    Raises
    ------
    QfError
        If there is no probe, or one lacks the measure.
    """
    import seaborn as sns

    ax = axes_or_current(ax)
    if not probes:
        raise QfError("probes: expected one or more, found none. Pass {name: probe(features, target)}.")
    rows, shuffled = [], []
    for name, one in probes.items():
        if measure is not None and measure not in one["measure"].values:
            raise QfError(f"measure: expected one of {', '.join(map(str, one['measure'].values))} for {name}, found {measure!r}.")
        mine = one.isel(measure=0) if measure is None else one.sel(measure=measure)
        rows.append((name, str(mine["measure"].values), float(mine["score"]), float(mine["p"])))
        shuffled.append(pd.DataFrame({"score": mine["control"].values.clip(LOWEST), "probe": name}))
    measures = {MEASURES.get(m, m) for _, m, _, _ in rows}
    sns.stripplot(pd.concat(shuffled), x="score", y="probe", color="0.7", size=2.5, jitter=0.25, ax=ax, zorder=1)
    right = max(1.0, *(s for _, _, s, _ in rows))
    for i, (_, _, score, p) in enumerate(rows):
        ax.plot(max(score, LOWEST), i, "D", color=palette()[0], ms=6, mec="white", mew=0.6, zorder=3, label="score" if i == 0 else None)
        ax.text(right * 1.06, i, f"{score:.2f}, p = {p:.2g}", va="center", fontsize=6.5, color=TRUTH)
    ax.plot([], [], "o", color="0.7", ms=3, label="shuffled")
    for i in range(1, len(rows)):
        ax.axhline(i - 0.5, color="0.92", lw=0.6, zorder=0)
    ax.axvline(0, color="0.6", lw=0.8, zorder=0)
    one, held = measures.pop() if len(measures) == 1 else None, "held-out " if all("predicted" in p for p in probes.values()) else ""
    ax.set_yticks(range(len(rows)), [name if one else f"{name}\n({MEASURES.get(m, m)})" for name, m, _, _ in rows])
    ax.set(xlabel=f"{held}{one or 'score'}", ylabel="", xlim=(ax.get_xlim()[0], right * 1.03))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    credit(ax, *probes.values())
    return ax
