"""Attention: how much a prediction takes from each token of its input (paper Fig. A-8), and through which layers and heads."""

import re

import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..interpret.attention import MASK, readout
from ..recordings.conditions import category_of
from .heat import DIFFERENCES, ROOM, colour_bar, heat_map, largest, undrawn
from .style import axes_or_current, credit, palette, style

MOST_PANELS = 24
LINE = 0.125  # height of a line of 6 pt text, inches
KINDS = ("learned token", "patch before the onset", MASK)
GRADIENT = "gradient-weighted"


def plot_rollout(data, *, row=None, ax=None):
    """Plot how much of each input token reaches the token that the prediction is read from, as bars.

    Parameters
    ----------
    data : xarray.Dataset or DataArray
        One group of `attention_rollout`, or one variable of it: `rollout` (layer, token, source), whose last layer is drawn, or `gradient_rollout`
        (token, source). If a Dataset has both, points over the bars show the gradient rollout.
    row : str, optional
        The token that the prediction is read from; see `interpret.attention.readout`. If None, [CLS] for a classifier, and for a forecaster the mean
        over all [MASK]s.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        Sources from left to right in the order of the sequence. A patch is named by the second from the onset at which it begins.

    Raises
    ------
    QfError
        If there is more than one group in `data`.
    UnknownKeyError
        If there is no such row.
    """
    ax = axes_or_current(ax)
    share = _share(data, row)
    colors, kinds = palette(), _kinds(share)
    for i, kind in enumerate(KINDS):
        at = np.flatnonzero(kinds == i)
        if len(at):
            ax.bar(at, share.values[at], width=0.8, color=colors[i], label=kind)
    if "gradient_rollout" in getattr(data, "data_vars", {}):
        weighted = readout(_one(data["gradient_rollout"], ("token", "source")), row).values
        ax.plot(np.arange(len(weighted)), weighted, "D", ms=3, mfc="white", mec="0.15", mew=0.8, label=GRADIENT, zorder=3)
    _name_sources(ax, share)
    ax.set_xlim(-0.6, len(kinds) - 0.4)
    ax.set_ylabel(f"share in {_name_of_row(data, row)}")
    credit(ax, data)
    return ax


def plot_rollout_map(data, *, ax=None):
    """Plot how much each token holds of each input token, as a heat map.

    Parameters
    ----------
    data : xarray.DataArray
        One group and layer of `rollout`, or of maps: (token, source).
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        With a colour bar, and percent in the cells if there is room. The colours end at the largest share that a token has of another token: in each
        layer a token keeps at least a half of itself, whatever the model.

    Raises
    ------
    QfError
        If `data` has other dims.
    """
    ax = axes_or_current(ax)
    data = _one(data, ("token", "source"))
    table = pd.DataFrame(data.values, _labels(data), _labels(data))
    top = largest(data.values[~np.eye(len(table), dtype=bool)])
    mesh = heat_map(ax, table, top=top, numbers=_percent(table, 0), turn=90)
    ax.set_ylabel("token")
    ax.set_xlabel(_source_title(data), fontsize=7)
    ax.set_title(f"after layer {data['layer'].item()}" if "layer" in data.coords else "")
    colour_bar(mesh, [ax], _share_label(table))
    credit(ax, data)
    return ax


def plot_heads(data, *, source="[NEURON]", row=None, ax=None):
    """Plot how much the prediction takes from one token through each head: layers from the bottom up, heads from left to right.

    Parameters
    ----------
    data : xarray.Dataset or DataArray
        One group of `attention_rollout`, whose `head_rollout` is drawn, or a variable of it with dims (layer, head, token, source).
    source : str
        The input token that the prediction takes from.
    row : str, optional
        The token that the prediction is read from; as in `plot_rollout`.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        With a colour bar, and percent in the cells if there is room.

    Raises
    ------
    QfError
        If there is more than one group in `data`.
    UnknownKeyError
        If there is no such row or source.
    """
    ax = axes_or_current(ax)
    maps = data["head_rollout"] if hasattr(data, "data_vars") else data
    names = [str(s) for s in maps["source"].values]
    if source not in names:
        raise UnknownKeyError(f"source: {source!r} is no token here; {did_you_mean(source, names, most=len(names))}")
    table = readout(_one(maps, ("layer", "head", "token", "source")), row).isel(source=names.index(source)).to_pandas()
    heat_map(ax, table, label=_share_label(table), numbers=_percent(table, 1), upwards=True)
    ax.set(xlabel="head", ylabel="layer", title=f"share of {source} in {_name_of_row(data, row)}")
    credit(ax, data)
    return ax


def figure_rollout(dataset, *, row=None):
    """Attention rollout of each group: bars for the whole stack, and below them how the shares build up layer by layer (paper Fig. A-8).

    Parameters
    ----------
    dataset : xarray.Dataset
        `attention_rollout` by stimulus (as in the paper), condition or neuron.
    row : str, optional
        As in `plot_rollout`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per group, with its number of observations. All panels share one scale of the bars and one of the colours.

    Raises
    ------
    QfError
        If there are more than 24 groups, or single observations.
    """
    import matplotlib.pyplot as plt

    dim = _group_dim(dataset)
    n_groups, n_layers, n_sources = (dataset.sizes[d] for d in (dim, "layer", "source"))
    if n_groups > MOST_PANELS:
        raise QfError(
            f"dataset: expected at most {MOST_PANELS} groups, a panel each, found {n_groups}. "
            f"Choose some with dataset.isel({dim}=...), or draw all with figure_rollout_conditions."
        )
    columns = min(n_groups, 3 if n_groups in (5, 6) else 4)
    rows = -(-n_groups // columns)
    shares = readout(dataset["rollout"], row)
    top = largest(_of_others(shares, row))
    width, high, low = max(2.0, LINE * n_sources + 0.3), 1.25, max(0.33, 0.125 * n_layers)
    with style():
        fig, axes = plt.subplots(
            2 * rows, columns, figsize=(width * columns + 1.0, (high + low + 1.0) * rows + 0.65), squeeze=False, height_ratios=[high, low] * rows,
        )  # fmt: skip
        for i, group in enumerate(dataset[dim].values):
            above, below = (axes[2 * (i // columns) + k, i % columns] for k in (0, 1))
            one = dataset.isel({dim: i})
            plot_rollout(one, row=row, ax=above)
            above.tick_params(axis="x", labelbottom=False)
            above.set_xlabel("")
            above.set_title(f"{_short(str(group))}\n{int(one['observations'])} observations", fontsize=7)
            layers = shares.isel({dim: i}).transpose("layer", "source").to_pandas().set_axis(_labels(shares), axis=1)
            with undrawn(fig):
                mesh = heat_map(below, layers, top=top, upwards=True, turn=90)
            below.set_xlabel(_source_title(shares) if i + columns >= n_groups else "", fontsize=7)
            below.set_xlim(-0.1, n_sources + 0.1)  # under the bars
            below.set_ylabel("layer", fontsize=7)
        highest = max(ax.get_ylim()[1] for ax in axes[::2].flat if ax.has_data())
        for ax in axes[::2].flat:
            ax.set_ylim(0, highest)
        for ax in axes.flat:
            if not ax.has_data():
                ax.set_axis_off()
        for ax in axes[:, 1:].flat:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        colour_bar(mesh, axes.ravel().tolist(), "share, layer by layer", shrink=1 / rows, aspect=12, anchor=(0.0, 1.0))
        handles = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
        names = [name for name in (*KINDS, GRADIENT) if name in handles]
        fig.legend([handles[name] for name in names], names, loc="outside lower center", ncols=min(len(names), 2 * columns))
        credit(fig, dataset)
    return fig


def figure_rollout_conditions(dataset, *, row=None):
    """Two heat maps: how much the prediction takes from each token in each group, and how this differs from the mean of all groups.

    Parameters
    ----------
    dataset : xarray.Dataset
        `attention_rollout` by condition (or stimulus, or neuron); each group is a line.
    row : str, optional
        As in `plot_rollout`.

    Returns
    -------
    matplotlib.figure.Figure
        Stimuli stand one above the other. Shares differ much more between tokens than between conditions, so the effect of the stimulus shows only
        in the differences, in percentage points. A single group has no differences.

    Raises
    ------
    QfError
        If the Dataset holds single observations.
    """
    import matplotlib.pyplot as plt

    dim = _group_dim(dataset)
    shares = readout(dataset["rollout"].isel(layer=-1), row).transpose(dim, "source")
    keys = [str(k) for k in shares[dim].values]
    parts = _parts(keys, dim)
    # if there are very many, lines are thinner than their names, and only some have a name
    line = min(LINE, 12 / len(keys))
    heights = [max(len(part) * line, 0.2) for part in parts.values()]
    step = int(np.ceil(LINE / line - 1e-9))
    longest = max(len(_line(k, dim)) for k in keys)
    width, columns = max(1.5, LINE * shares.sizes["source"]), 1 if len(keys) == 1 else 2
    table = pd.DataFrame(shares.values, [_line(k, dim) for k in keys], _labels(shares))
    difference = 100 * (table - np.nanmean(table, 0))
    top, most = largest(_of_others(shares, row)), largest(np.abs(difference))
    size = (columns * width + 0.05 * longest + 0.9, sum(heights) + 0.28 * len(parts) + 1.7)
    with style():
        fig, axes = plt.subplots(len(parts), columns, figsize=size, squeeze=False, height_ratios=heights)
        below = {"location": "bottom", "aspect": 15, "pad": 0.1 / fig.get_figheight()}
        for left, (here, (name, at)) in enumerate(zip(axes, parts.items(), strict=True), 1 - len(parts)):
            last = {"turn": 90, "xticklabels": False if left else "auto"}
            with undrawn(fig):
                mesh = heat_map(here[0], table.iloc[at], top=top, yticklabels=step, **last)
                for ax in here[1:]:
                    other = heat_map(ax, difference.iloc[at], vmin=-most, top=most, cmap=DIFFERENCES, yticklabels=False, **last)
            here[0].set_title(name, loc="left", fontsize=7)
        for ax in axes[-1]:
            ax.set_xlabel(_source_title(shares), fontsize=7)
        colour_bar(mesh, axes[:, 0].tolist(), f"share in {_name_of_row(dataset, row)}", **below)
        if columns == 2:
            colour_bar(other, axes[:, 1].tolist(), "difference to the mean (points)", **below)
        credit(fig, dataset)
    return fig


def figure_heads(dataset, *, group=None):
    """The mean attention map of every layer and head of one group: layers from the bottom up, heads from left to right.

    Parameters
    ----------
    dataset : xarray.Dataset
        `attention_rollout` by stimulus, condition or neuron.
    group : str, optional
        Key of the group. May be None if there is only one.

    Returns
    -------
    matplotlib.figure.Figure
        A row of a panel shows what a token attends to. All panels share one scale of the colours.

    Raises
    ------
    QfError
        If there are several groups and none is named, or single observations.
    UnknownKeyError
        If there is no such group.
    """
    import matplotlib.pyplot as plt

    dim = _group_dim(dataset)
    keys = [str(k) for k in dataset[dim].values]
    if group is None and len(keys) > 1:
        raise QfError(f"group: expected one of {len(keys)} {dim} keys, found none named; {did_you_mean('', keys)}.")
    group = keys[0] if group is None else group
    if group not in keys:
        raise UnknownKeyError(f"group: {group!r} is no {dim} here; {did_you_mean(group, keys)}")
    one = dataset.isel({dim: keys.index(group)})
    maps = one["attention"].transpose("layer", "head", "token", "source")
    n_layers, n_heads, size = maps.shape[:3]
    side, labels = max(0.9, LINE * min(size, 40)), _labels(maps)
    with style():
        fig, axes = plt.subplots(n_layers, n_heads, figsize=(side * n_heads + 1.9, side * n_layers + 1.2), squeeze=False)
        for (i, j), ax in np.ndenumerate(axes[::-1]):
            names = {"xticklabels": "auto" if i == 0 else False, "yticklabels": "auto" if j == 0 else False}
            with undrawn(fig):
                mesh = heat_map(ax, pd.DataFrame(maps.values[i, j], labels, labels), top=largest(maps.values), square=True, turn=90, **names)
            if i == n_layers - 1:
                ax.set_title(f"head {maps['head'].values[j]}", fontsize=7)
            if j == 0:
                ax.set_ylabel(f"layer {maps['layer'].values[i]}")
        fig.supxlabel(_source_title(maps).replace("\n", " "), fontsize=8)
        colour_bar(mesh, axes.ravel().tolist(), "attention", aspect=25)
        fig.suptitle(f"{_short(group)}, {int(one['observations'])} observations", fontsize=8)
        credit(fig, dataset)
    return fig


def _one(data, dims):
    """`data` with only `dims`, in that order; other dims, of one entry, are dropped."""
    extra = [d for d in data.dims if d not in dims]
    many = {str(d): data.sizes[d] for d in extra if data.sizes[d] > 1}
    if many or not set(dims) <= set(data.dims):
        found = f"one of {many}" if many else f"dims {tuple(map(str, data.dims))}"
        mend = f" Choose one: data.isel({next(iter(many))}=0), say." if many else " Pass what attention_rollout gave."
        raise QfError(f"data: expected dims {dims} of one group, found {found}.{mend}")
    return data.isel(dict.fromkeys(extra, 0)).transpose(*dims)


def _share(data, row):
    """The rollout of the whole stack in one row, (source,)."""
    found = data["rollout"] if hasattr(data, "data_vars") else data
    found = found.isel(layer=-1) if "layer" in found.dims else found
    return readout(_one(found, ("token", "source")), row)


def _group_dim(dataset):
    dims = dataset["observations"].dims
    if len(dims) != 1:
        raise QfError(
            f"dataset: expected attention_rollout by stimulus, condition or neuron, found dims {dims}. "
            'Average with by="stimulus", or draw one observation with plot_rollout.'
        )
    return str(dims[0])


def _name_of_row(data, row):
    names = [str(t) for t in data["token"].values] if "token" in data.coords else []
    row = ("[CLS]" if "[CLS]" in names else MASK) if row is None else row
    return f"{MASK}s" if row == MASK else row


def _of_others(shares, row):
    """The shares of other tokens. A token keeps at least a half of itself in each layer, whatever the model."""
    own = _name_of_row(shares, row) if row is not None else "[CLS]"
    return shares.values[..., shares["source"].values.astype(str) != own]


def _percent(table, digits):
    """Texts for the cells of a table of shares."""
    return (100 * table).map(f"{{:.{digits}f}}".format)


def _share_label(table):
    return "share" + " (in the cells: %)" * (max(table.shape) <= ROOM)


def _kinds(data):
    """Position in KINDS of each source."""
    names = data["source"].values.astype(str)
    start = data["start_s"].values if "start_s" in data.coords else np.full(len(names), np.nan)
    return np.array([2 if name.startswith(MASK) else int(np.isfinite(s)) for name, s in zip(names, start, strict=True)])


def _labels(data):
    """Labels of the sources on the axis: the name of a learned token, the second at which a patch begins."""
    names = data["source"].values.astype(str)
    if "start_s" not in data.coords:
        return names.tolist()
    start = data["start_s"].values
    digits = 1 if np.allclose(np.round(start, 1), start, atol=0.011, equal_nan=True) else 2
    texts = [f"{s:.{digits}f}".replace("-", "−") for s in start]
    return [f"{MASK} {t}" if n.startswith(MASK) else t if np.isfinite(s) else n for n, s, t in zip(names, start, texts, strict=True)]


def _thinned(labels):
    """Positions and labels of at most 40 of the labels, evenly spaced."""
    step = -(-len(labels) // 40)
    return np.arange(0, len(labels), step), labels[::step]


def _name_sources(ax, data):
    ax.set_xticks(*_thinned(_labels(data)), rotation=90, fontsize=6)
    ax.set_xlabel(_source_title(data), fontsize=7)


def _source_title(data):
    return "input token" + "\n(patches: start, s from onset)" * bool("start_s" in data.coords)


def _parts(keys, dim):
    """{title: positions}: conditions by stimulus, in numeric order (45 before 135); other keys in one part, in their order."""
    if dim != "condition":
        return {dim: np.arange(len(keys))}
    order = sorted(range(len(keys)), key=lambda i: _natural(keys[i]))
    of = [category_of(k) for k in keys]
    return {name.replace("_", " "): np.array([i for i in order if of[i] == name]) for name in sorted(set(of))}


def _natural(key):
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+\.?[0-9]*)", key))]


def _line(key, dim):
    text = key.partition("/")[2] if dim == "condition" and "/" in key else key
    return _short(text)


def _short(text):
    for long, short in (("temporal_frequency", "tf"), ("spatial_frequency", "sf"), ("orientation", "ori"), ("direction=", "dir=")):
        text = text.replace(long, short)
    text = text.replace("_", " ")
    return text if len(text) <= 32 else f"...{text[-29:]}"
