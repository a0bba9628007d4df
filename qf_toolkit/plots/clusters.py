"""Cluster maps: whole figures, in which like stands beside like."""

import numpy as np
from matplotlib import rcParams
from matplotlib.colors import to_hex
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from scipy.cluster.hierarchy import linkage

from ..errors import QfError
from .codes import unit_of
from .heat import NOTHING, SHARES, VECTORS
from .style import credit, style

BAR = (0.89, 0.27, 0.022, 0.36)  # left, bottom, width and height of the colour bar, shares of the figure


def figure_code_contexts(swaps, codebook=None):
    """Which codes bend with their neighbours alike, and which neighbours bend alike: a cluster map of `plot_context_dependence`.

    Codes (rows) are joined by how they change over all bursts, bursts (columns) by how they change all codes: average linkage of Euclidean
    distances.

    Parameters
    ----------
    swaps : xarray.Dataset
        What `interpret.codes.swaps` returned; cells that are NaN in every place are grey, and count as the mean of all in the distances.
    codebook : xarray.Dataset, optional
        What `interpret.codes.codebook` returned; codes and bursts then have a strip, the darker the higher their level.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there are fewer than two codes.
    """
    import seaborn as sns

    table = swaps["context_dependence"].mean("place").to_pandas()
    if min(table.shape) < 2:
        raise QfError(f"swaps: expected two codes or more to cluster, found {min(table.shape)}. Pass swaps(model).")
    known = table.fillna(np.nanmean(table))
    strips = {}
    if codebook is not None:
        level = codebook["level"].to_series()
        shades = sns.color_palette("Greys", as_cmap=True)((level - level.min()) / (level.max() - level.min() or 1.0))
        color = dict(zip(level.index, map(to_hex, shades), strict=True))
        strips = {name: axis.to_series(name="level").map(color) for name, axis in (("row_colors", table.index), ("col_colors", table.columns))}
    with style():
        rcParams["figure.constrained_layout.use"] = False  # the grid has a layout of its own; `style` puts the setting back
        grid = sns.clustermap(
            table, mask=table.isna(), row_linkage=linkage(known, "average"), col_linkage=linkage(known.T, "average"), cmap=SHARES, vmin=0.0,
            figsize=(6.4, 5.6), dendrogram_ratio=0.12, colors_ratio=0.025, cbar_pos=BAR, rasterized=table.size > VECTORS,
            cbar_kws={"label": f"RMS change, {unit_of(swaps)}"}, tree_kws={"linewidths": 0.7, "colors": "0.35"}, **strips,
        )  # fmt: skip
        grid.ax_heatmap.set(xlabel="burst it is put in (code)", ylabel="code", facecolor=NOTHING)
        grid.ax_heatmap.tick_params(labelsize=6, length=2)
        grid.ax_heatmap.tick_params(axis="y", rotation=0)
        grid.figure.subplots_adjust(top=0.96, right=0.81)  # room for the colour bar, which moves back with it
        grid.ax_cbar.set_position(BAR)  # pyright: ignore[reportOptionalMemberAccess]
        grid.figure.set_layout_engine(PlaceHolderLayoutEngine(True, True))  # without one, saving would take the style's
    credit(grid.figure, swaps, *([] if codebook is None else [codebook]))
    return grid.figure
