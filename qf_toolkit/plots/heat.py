"""Heat maps with names on rows and columns, drawn by seaborn."""

from contextlib import contextmanager

import numpy as np

SHARES, DIFFERENCES = "viridis", "PuOr_r"
NOTHING, ABOVE = "0.92", "0.8"  # cells without a value, and those above the scale, which would look like the largest otherwise
ROOM = 12  # rows and columns up to which there is room for numbers in the cells
VECTORS = 2500  # cells that are drawn one by one in a file; more are one picture


def heat_map(ax, table, *, top=None, label=None, numbers=None, upwards=False, cmap=SHARES, turn=None, **options):
    """A table as a heat map: named rows and columns, grey where there is no value.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    table : pandas.DataFrame
        Its index and columns are the names; those that have no room are left out.
    top : float, optional
        Where the colours end; the largest value where left out. Larger ones are grey.
    label : str, optional
        Of the colour bar; there is none where left out.
    numbers : str or array, optional
        Format of the numbers in the cells, ".2f" say, or texts, of the table's shape; written where there are at most 12 rows and columns.
    upwards : bool
        The first row is the lowest.
    cmap : str
    turn : float, optional
        Degrees by which the names of the columns are turned; a quarter where left out and they would overlap.
    **options
        Of `seaborn.heatmap`.

    Returns
    -------
    matplotlib.collections.QuadMesh
        What a colour bar can be made of.
    """
    import seaborn as sns

    options.setdefault("cbar", label is not None)
    if "norm" not in options:
        options = {"vmin": 0.0, "vmax": largest(table.to_numpy()) if top is None else top, **options}
    if numbers is not None and max(table.shape) <= ROOM:
        texts = {"annot": True, "fmt": numbers} if isinstance(numbers, str) else {"annot": np.asarray(numbers), "fmt": ""}
        options |= {**texts, "annot_kws": {"size": 6}}
    ax.tick_params(length=2, labelsize=6)
    ax.set_facecolor(NOTHING)
    bar = {"label": label, "shrink": 0.8 if options.get("square") else 1.0}  # a square map is often lower than the room it has
    shades = sns.color_palette(cmap, as_cmap=True).with_extremes(over=ABOVE)
    sns.heatmap(table, ax=ax, cmap=shades, rasterized=table.size > VECTORS, cbar_kws=bar, **options)
    if turn is not None:
        ax.tick_params(axis="x", rotation=turn)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="", ylabel="")
    if upwards:
        ax.invert_yaxis()
    return ax.collections[0]


def largest(values):
    """Where the colours end: the largest value, or 1 where none is above 0."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.max()) if values.size and values.max() > 0 else 1.0


def colour_bar(mesh, axes, label, **options):
    """One colour bar for the heat maps on `axes`, with an arrow where some values lie above it."""
    above = any(np.ma.filled(c.get_array(), 0.0).max() > c.norm.vmax * (1 + 1e-6) for ax in axes for c in ax.collections if c.get_array() is not None)
    bar = axes[0].get_figure(root=True).colorbar(mesh, ax=axes, label=label, extend="max" if above else "neither", **options)
    bar.outline.set_visible(False)
    return bar


@contextmanager
def undrawn(fig):
    """A new figure is not drawn meanwhile: seaborn draws all of it after each heat map, to see if names overlap, 10 s for 24 panels."""
    from matplotlib.backend_bases import FigureCanvasBase

    canvas = fig.canvas
    FigureCanvasBase(fig)
    try:
        yield
    finally:
        fig.set_canvas(canvas)
