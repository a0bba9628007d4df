"""Heat maps with names on rows and columns, drawn by seaborn."""

from contextlib import contextmanager

import numpy as np

SHARES, DIFFERENCES = "viridis", "PuOr_r"
NOTHING, ABOVE = "0.92", "0.8"  # colours of cells without a value, and of cells above the scale, which must not look like its end
ROOM = 12  # most rows and columns for which numbers fit into the cells
VECTORS = 2500  # most cells that a file holds as single shapes; more become one picture


def heat_map(ax, table, *, top=None, label=None, numbers=None, upwards=False, cmap=SHARES, turn=None, **options):
    """Draw a table as a heat map with named rows and columns. Cells without a value are grey.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    table : pandas.DataFrame
        Its index and columns are the names; names without room are left out.
    top : float, optional
        Value at which the colours end; larger values are grey. If None, the largest value.
    label : str, optional
        Label of the colour bar. If None, there is no bar.
    numbers : str or array, optional
        Format of the numbers in the cells, for example ".2f", or an array of texts of the table's shape. They are written if the table has at most
        12 rows and columns.
    upwards : bool
        Put the first row at the bottom.
    cmap : str
        Name of a colour map.
    turn : float, optional
        Degrees by which the names of the columns are turned. If None, a quarter turn if they would overlap.
    **options
        Options of `seaborn.heatmap`.

    Returns
    -------
    matplotlib.collections.QuadMesh
        The cells, from which a colour bar can be made.
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
    """The largest finite value of an array of any shape, or 1 if none is above 0: the value at which colours end."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.max()) if values.size and values.max() > 0 else 1.0


def colour_bar(mesh, axes, label, **options):
    """Add one colour bar for the heat maps on several axes. It ends in an arrow if some values lie above its scale.

    Parameters
    ----------
    mesh : matplotlib.collections.QuadMesh
        As `heat_map` returns it.
    axes : sequence of matplotlib.axes.Axes
    label : str
    **options
        Options of `Figure.colorbar`.

    Returns
    -------
    matplotlib.colorbar.Colorbar
    """
    above = any(np.ma.filled(c.get_array(), 0.0).max() > c.norm.vmax * (1 + 1e-6) for ax in axes for c in ax.collections if c.get_array() is not None)
    bar = axes[0].get_figure(root=True).colorbar(mesh, ax=axes, label=label, extend="max" if above else "neither", **options)
    bar.outline.set_visible(False)
    return bar


@contextmanager
def undrawn(fig):
    """Keep a new figure from being drawn in this context: seaborn draws it after each heat map, to see if names overlap, 10 s for 24 panels."""
    from matplotlib.backend_bases import FigureCanvasBase

    canvas = fig.canvas
    FigureCanvasBase(fig)
    try:
        yield
    finally:
        fig.set_canvas(canvas)
