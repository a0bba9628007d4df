"""Cluster maps: whole figures that put similar rows and similar columns beside each other."""

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
    """Cluster map of `plot_context_dependence`: codes that change alike with their context, and contexts that change codes alike.

    Rows are codes, clustered by how they change in all bursts. Columns are bursts, clustered by how they change all codes. The clusters come from
    average linkage of Euclidean distances.

    Parameters
    ----------
    swaps : xarray.Dataset
        As `interpret.codes.swaps` returns it. Cells that are NaN at every place are grey, and the distances take them as the mean of all cells.
    codebook : xarray.Dataset, optional
        As `interpret.codes.codebook` returns it. Each code and burst then has a mark in a strip, darker for a higher level.

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
        rcParams["figure.constrained_layout.use"] = False  # the grid has a layout of its own; `style` restores the setting
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
        grid.figure.set_layout_engine(PlaceHolderLayoutEngine(True, True))  # else saving would apply the style's layout
    credit(grid.figure, swaps, *([] if codebook is None else [codebook]))
    return grid.figure
