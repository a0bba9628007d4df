"""Neuron tokens: their t-SNE, coloured by statistics of the neurons (paper figure A-10), and the scores of linear probes."""

import numpy as np
import pandas as pd

from ..errors import QfError
from ..recordings.conditions import category_of, parse_condition
from .style import axes_or_current, credit, palette, style

NAMES = {"n_activations": "number of activations", "sd": "standard deviation", "n_observations": "number of observations"}
PANELS = ("median", "n_activations", "sd", "activation_probability")  # of figure A-10
ANGLES = ("orientation", "direction")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NOTHING = "0.75"  # colour of points without a value
POINT = {"linewidths": 0.4, "edgecolors": "0.25"}


def plot_tokens(embedding, values, *, ax=None, how="auto", nothing="no value"):
    """Plot a map of neuron tokens, coloured by a value of each neuron (paper figure A-10).

    Parameters
    ----------
    embedding : xarray.DataArray, dims (neuron, axis)
        As `interpret.embedding.tsne` or `pca` returns it. The first dim may have another name.
    values : xarray.DataArray, dims (neuron,)
        Numbers or labels, matched by key, for example a variable of `neuron_statistics`; the dim is the first of `embedding`. Points without a value
        are small and grey.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.
    how : {"auto", "median", "continuous", "category"}
        "median": one colour above the median, another at or below it (paper). "continuous": a colour bar. "category": one colour and marker per
        label. Conditions that have an orientation are arrows in a circular colour map (bars if all orientations are below 180); the size of an arrow
        shows another feature. If there are many other labels, only the most frequent get a colour of their own. "auto": median for numbers, category
        for labels.
    nothing : str
        What the legend calls points without a value.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If no neuron has both a place and a value, `how` is unknown, or `how` draws numbers and the values are labels.
    """
    ax = axes_or_current(ax)
    if how not in ("auto", "median", "continuous", "category"):
        raise QfError(f"how: expected 'auto', 'median', 'continuous' or 'category', found {how!r}.")
    item = embedding.dims[0]
    value_of = dict(zip(values[item].values.astype(str), values.values, strict=True))
    x, y = embedding.values.T
    found = np.array([value_of.get(key) for key in embedding[item].values.astype(str)], object)
    has = np.array([v is not None and v == v and str(v) != "" for v in found], bool)
    if not has.any():
        raise QfError(f"values: expected some for the {len(x)} points of the embedding, found none. Are they of the same {item}s?")
    numbers = values.dtype.kind in "iuf"
    if how in ("median", "continuous") and not numbers:
        raise QfError(f"how: expected numbers for {how!r}, found labels ({found[has][0]!r}...). Take 'category'.")
    how = ("median" if numbers else "category") if how == "auto" else how
    ax.scatter(x[~has], y[~has], s=6, color=NOTHING, label=f"{nothing} ({(~has).sum()})" if not has.all() else None, zorder=1)
    draw = {"median": _median, "continuous": coloured_points, "category": _category}[how]
    draw(ax, x[has], y[has], np.array(found[has].tolist()), values)
    ax.set_title(_name(values.name), loc="left")
    name_axes(ax, embedding)
    credit(ax, embedding, values)
    return ax


def name_axes(ax, embedding):
    """Label the axes of a map of vectors; the places alone matter, so that there are no ticks."""
    what, share = " of the tokens' moves" if embedding.attrs.get("moved") else "", embedding.attrs.get("share")
    for i, label in enumerate((ax.set_xlabel, ax.set_ylabel)):
        label(f"PC {i + 1}{what} ({share[i]:.0%} of the variance)" if share is not None else f"t-SNE {i + 1}{what} (no unit)")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="box")
    ax.margins(0.08)


def figure_neuron_tokens(embedding, statistics):
    """Figure A-10 of the paper: one t-SNE in four panels, each with two colours for the neurons above and at or below the median of a statistic.

    Parameters
    ----------
    embedding : xarray.DataArray, dims (neuron, axis)
    statistics : xarray.Dataset
        As `interpret.neurons.neuron_statistics` returns it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If one of the four statistics is missing.
    """
    import matplotlib.pyplot as plt

    missing = [name for name in PANELS if name not in statistics]
    if missing:
        raise QfError(f"statistics: expected {', '.join(PANELS)}, found no {missing[0]}. Pass neuron_statistics(trials).")
    with style():
        fig, axes = plt.subplots(2, 2, figsize=(5.6, 6.0))
        for ax, name in zip(axes.flat, PANELS, strict=True):
            plot_tokens(embedding, statistics[name], ax=ax, how="median")
        for ax in axes[0]:
            ax.set_xlabel("")
        for ax in axes[:, 1]:
            ax.set_ylabel("")
    return fig


def plot_probe(probe, *, ax=None):
    """Plot the scores of linear probes of the tokens, beside the scores with shuffled values.

    Parameters
    ----------
    probe : xarray.Dataset
        As `interpret.neurons.linear_probe` returns it.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
    """
    import seaborn as sns

    ax = axes_or_current(ax)
    score, control, high, p, n = (probe[c].values for c in ("score", "control", "control_high", "p", "n_neurons"))
    at, fine = np.arange(probe.sizes["statistic"]), np.isfinite(score)
    ax.axvline(0, color="0.6", lw=0.8, zorder=0)
    labels = []
    for name, kind, found in zip(probe["statistic"].values, probe["kind"].values, n, strict=True):
        notes = ["balanced accuracy"] * bool(kind == "label") + [f"{found} neurons"] * bool(found < n.max())
        labels.append(_name(name) + (f"\n({', '.join(notes)})" if notes else ""))
    bars = pd.DataFrame({"tokens": score, "shuffled": control}, labels).melt(var_name="of", ignore_index=False).rename_axis("label").reset_index()
    sns.barplot(bars, x="value", y="label", hue="of", palette={"tokens": palette()[0], "shuffled": "0.75"}, width=0.76, saturation=1, ax=ax)
    ax.vlines(high[fine], at[fine] - 0.42, at[fine] + 0.42, color="0.15", lw=1.4, label="95 % of the shuffles are below")
    low, right = (f([0.0, *score[fine], *control[fine], *high[fine]]) for f in (min, max))
    right = right or 0.1
    for i in at:
        note = f"p = {p[i]:.2g}" if fine[i] else "not probed: does not vary, or too few"
        ax.text(1.08 * right if fine[i] else 0.02 * right, i, note, va="center", fontsize=6.5, color="0.15" if fine[i] else "0.45")
    ax.set_xlim(low - 0.05 * (right - low), right + 0.3 * (right - low))
    ax.set_ylabel("")
    ax.set_xlabel("held-out R²" + (", of labels balanced accuracy" if (probe["kind"].values == "label").any() else ""))
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, 0.0), borderaxespad=5.0, ncols=3, columnspacing=1.2, handlelength=1.2)
    credit(ax, probe)
    return ax


def _median(ax, x, y, values, source):
    threshold, colors = np.median(values), palette()
    unit = source.attrs.get("units", "")
    text = f"{threshold:.3g}{f' {unit}' if unit not in ('', 'fraction', 'observations') else ''}"
    for above, color, words in ((False, colors[0], "at or below"), (True, colors[1], "above")):
        here = (values > threshold) == above
        ax.scatter(x[here], y[here], s=22, color=color, label=f"{words} median {text} ({here.sum()})", zorder=2, **POINT)
    _legend_below(ax)


def coloured_points(ax, x, y, values, source):
    """Points coloured by a number, with a colour bar named after `source`, an xarray.DataArray with `units` in its attrs."""
    points = ax.scatter(x, y, c=values, s=22, cmap="viridis", zorder=2, **POINT)
    unit = source.attrs.get("units", "")
    ax.get_figure(root=True).colorbar(points, cax=ax.inset_axes((1.02, 0.1, 0.05, 0.8)), label=_name(source.name) + (f" ({unit})" if unit else ""))
    if ax.get_legend_handles_labels()[1]:
        _legend_below(ax)


def _category(ax, x, y, labels, source):
    labels = labels.astype(str)
    parsed = [parse_condition(label)[1] for label in labels]
    angle = next((a for a in ANGLES if all(_is_number(p.get(a)) for p in parsed)), None)
    title = angle
    if angle:
        _directions(ax, x, y, angle, parsed)
    else:
        categories = {category_of(label) if "/" in label else "" for label in labels}
        title = categories.pop().replace("_", " ") if len(categories) == 1 else ""
        kinds, count = np.unique(labels, return_counts=True)
        most = kinds if len(kinds) <= len(MARKERS) else np.sort(kinds[np.argsort(-count, kind="stable")[: len(MARKERS) - 1]])
        for kind, marker, color in zip(most, MARKERS, palette(), strict=False):
            here = labels == kind
            ax.scatter(
                x[here],
                y[here],
                s=24,
                marker=marker,
                color=color,
                label=f"{kind.split('/', 1)[-1] if title else kind} ({here.sum()})",
                zorder=2,
                **POINT,
            )
        rest = ~np.isin(labels, most)
        if rest.any():
            ax.scatter(x[rest], y[rest], s=14, color="0.85", label=f"{len(kinds) - len(most)} others ({rest.sum()})", zorder=1.5, **POINT)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.4, title=title)


def _directions(ax, x, y, angle, parsed):
    """Draw arrows (or bars) that point in the direction of the grating. The size shows another feature, if there is exactly one."""
    import matplotlib as mpl
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    angles = np.array([float(p[angle]) for p in parsed])
    full = angles.max() >= 180
    shape = (
        Path([(-0.7, -0.55), (1, 0), (-0.7, 0.55), (-0.35, 0), (-0.7, -0.55)])
        if full
        else Path([(-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25), (-1, -0.25)])
    )
    marker_of = lambda a: MarkerStyle(shape, transform=Affine2D().rotate_deg(a))  # noqa: E731
    color_of = lambda a: mpl.colormaps["twilight"](a / (360 if full else 180) % 1)  # noqa: E731
    others = sorted({n for p in parsed for n in p} - {angle})
    other = others[0] if len(others) == 1 and all(_is_number(p.get(others[0])) for p in parsed) else None
    levels = sorted({float(p[other]) for p in parsed}) if other else []
    level = np.array([levels.index(float(p[other])) for p in parsed]) if len(levels) > 1 else np.zeros(len(angles), int)
    size_of = lambda i: 80.0 if len(levels) < 2 else 40 + 90 * i / (len(levels) - 1)  # noqa: E731
    for a in np.unique(angles):
        here = angles == a
        marker = marker_of(a)
        ax.scatter(x[here], y[here], s=size_of(level[here]), marker=marker, color=color_of(a), label=f"{a:g}° ({here.sum()})", zorder=2, **POINT)
    for i, value in enumerate(levels if len(levels) > 1 else ()):
        ax.scatter([], [], s=size_of(i), marker=marker_of(0), color="0.6", label=f"{_name(other)} {value:g}", **POINT)


def _legend_below(ax):
    # the distance is in units of the font, so that the legend clears the axis label at any height of the axes
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=2.4, handletextpad=0.2)


def _name(name):
    return "" if name is None else NAMES.get(name, str(name).replace("_", " "))


def _is_number(text):
    try:
        return np.isfinite(float(text))
    except (TypeError, ValueError):
        return False
