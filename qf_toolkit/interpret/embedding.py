"""Maps of code vectors and neuron tokens in a plane: t-SNE (paper figures A-9 and A-10), and principal components."""

import logging
from contextlib import contextmanager

import numpy as np
import xarray as xr

from ..errors import QfError

MOST_PERPLEXITY = 30.0
INSTALL = "pip install 'openTSNE>=1.0'"


def tsne(vectors, *, perplexity="auto", seed=0):
    """Lay vectors out in a plane so that near vectors stay near (paper figures A-9 and A-10).

    openTSNE starts from the first two principal components, finds exact neighbours and runs on one thread: the same vectors and seed give the same
    bits on the same machine. Distances between far groups, and the sizes of groups, mean little in such a map. To measure neighbours, use the space
    of the vectors (`interpret.neurons.nearest_neighbours`).

    Parameters
    ----------
    vectors : xarray.DataArray, dims (item, width)
        One row per item, with two numbers or more. The first dim may have any name (code, neuron).
    perplexity : float or "auto"
        About how many neighbours an item keeps, from 1 to a third of the number of other items. "auto" takes this third, and at most 30.
    seed : int
        Seed of the jitter that is added to the start. Maps of different seeds differ in more than bits: look at a few before you trust a pattern.

    Returns
    -------
    xarray.DataArray
        (item, axis) float64, without a unit, axis "x" and "y". The item dim keeps its name and coords. attrs: those of `vectors`, whose own seed, if
        there is one, becomes `model_seed`; perplexity, seed, init, and openTSNE (its version).

    Raises
    ------
    QfError
        If there are fewer than 4 items or all are equal, a value is not finite, the perplexity is out of range, or openTSNE is not installed.
    """
    x = _checked(vectors)
    most = (len(x) - 1) / 3
    if isinstance(perplexity, str) and perplexity == "auto":
        perplexity = min(MOST_PERPLEXITY, most)
    if not isinstance(perplexity, int | float | np.number):
        raise QfError(f"perplexity: expected a number or 'auto', found {perplexity!r}.")
    if not 1 <= perplexity <= most:
        raise QfError(
            f"perplexity: expected from 1 to {most:.4g}, a third of the other {len(x) - 1} items, found {perplexity:g}. Take 'auto', or more items."
        )
    try:
        import openTSNE
    except ImportError as e:
        raise QfError(f"openTSNE: needed for t-SNE, found none that can be imported. Install it: {INSTALL}") from e
    settings = {"initialization": "pca", "neighbors": "exact", "negative_gradient_method": "bh", "n_jobs": 1}
    with _quiet("openTSNE"):
        found = openTSNE.TSNE(perplexity=float(perplexity), random_state=int(seed), **settings).fit(x)
    attrs = {**with_seed(vectors.attrs, seed), "perplexity": float(perplexity), "init": "pca", "openTSNE": openTSNE.__version__}
    item = vectors.dims[0]
    coords = {name: c for name, c in vectors.coords.items() if c.dims == (item,)}
    return xr.DataArray(np.array(found, np.float64), {**coords, "axis": ["x", "y"]}, (item, "axis"), "tsne", attrs)


def pca(vectors):
    """Lay vectors out in a plane by their first two principal components.

    Unlike a t-SNE, it is linear: directions and distances in the plane are those of the vectors, of which it shows only a part.

    Parameters
    ----------
    vectors : xarray.DataArray, dims (item, width)
        One row per item, with two numbers or more. The first dim may have any name (neuron, session).

    Returns
    -------
    xarray.DataArray
        (item, axis) float64, in units of the vectors, axis "x" and "y". The item dim keeps its name and coords. The sign of an axis is that which makes
        its largest weight positive. attrs: those of `vectors`, map ("PCA"), and share (the shares of the variance that the two axes hold, list of float).

    Raises
    ------
    QfError
        If there are fewer than 4 items or all are equal, or a value is not finite.

    Examples
    --------
    >>> square = xr.DataArray([[3.0, 0, 1], [-3, 0, 1], [0, 2, 1], [0, -2, 1]], dims=("neuron", "width"))
    >>> found = pca(square)
    >>> found.values.round(6).tolist(), [round(s, 3) for s in found.attrs["share"]]
    ([[3.0, 0.0], [-3.0, 0.0], [0.0, 2.0], [0.0, -2.0]], [0.692, 0.308])
    """
    x = _checked(vectors)
    x = x - x.mean(0)
    weights = np.linalg.svd(x, full_matrices=False)[2][:2]
    weights *= np.sign(weights[np.arange(2), np.abs(weights).argmax(1)])[:, None]
    found, item = x @ weights.T, vectors.dims[0]
    share = [float(s) for s in np.square(found).sum(0) / np.square(x).sum()]
    coords = {name: c for name, c in vectors.coords.items() if c.dims == (item,)}
    return xr.DataArray(found, {**coords, "axis": ["x", "y"]}, (item, "axis"), "pca", {**vectors.attrs, "map": "PCA", "share": share})


def with_seed(attrs, seed):
    """Add the seed of a computation on a model to its attrs.

    Parameters
    ----------
    attrs : dict
        Their `seed`, if there is one, is that of the model, and becomes `model_seed`.
    seed : int
        Seed of the computation.

    Returns
    -------
    dict
        A copy of `attrs` with `seed`.
    """
    before = {"model_seed": attrs["seed"]} if "seed" in attrs and "model_seed" not in attrs else {}
    return {**attrs, **before, "seed": int(seed)}


def _checked(vectors):
    """The vectors as a float64 array (item, width)."""
    if vectors.ndim != 2 or vectors.shape[1] < 2:
        raise QfError(f"vectors: expected dims (item, width), two numbers an item or more, found {dict(vectors.sizes)}.")
    x = np.ascontiguousarray(vectors.values, dtype=np.float64)
    if len(x) < 4:
        raise QfError(f"vectors: expected at least 4 items to map, found {len(x)} of {vectors.dims[0]}. Look at their distances instead.")
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise QfError(f"vectors: expected finite numbers, found others in {int(bad.sum())} of {len(x)} items. Leave those out.")
    if (x == x[0]).all():
        raise QfError(f"vectors: expected items that differ, found {len(x)} equal ones: there is nothing to map. Train the model, or choose another.")
    return x


@contextmanager
def _quiet(name):
    """Keep a library's logger from writing warnings to stderr."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
