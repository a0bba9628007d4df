"""Who looks at whom: attention across the neurons of a population, and whether it follows the connections of a simulated network."""

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from ..errors import QfError
from ..estimators.interface import observations_of, origin
from ..recordings.trials import check_trials
from .embedding import with_seed
from .linear import p_of

MEAN = "mean"  # name of the map that averages all layers and heads


def neuron_attention(model, trials):
    """Attention across the neurons of one session, averaged over trials and tokens.

    Parameters
    ----------
    model : Forecaster
        One with `has_neuron_attention`.
    trials : Trials
        Of one session. The model reads only their baselines.

    Returns
    -------
    xarray.Dataset
        `attention` (layer, head, neuron, neuron_seen) float32: how much of a neuron's answer comes from each neuron; the sum over `neuron_seen` is 1.
        Layer and head count from 1; `neuron` (who looks) and `neuron_seen` (who is looked at) are keys. attrs: those of `origin`, session, n_trials.

    Raises
    ------
    QfError
        If the model has no attention across neurons, there is no trial, or they are of several sessions.
    """
    if not getattr(model, "has_neuron_attention", False):
        name = getattr(model, "name", type(model).__name__)
        raise QfError(f"model: expected one with attention across neurons, found {name!r}, which has none. Fit a population model that has it.")
    check_trials(trials)
    if len(trials.sessions) > 1:
        raise QfError(
            f"trials: expected those of one session, whose neurons were recorded together, found {len(trials.sessions)}. Take trials.by_session()[0]."
        )
    part = model.prepare(trials)
    asked, _ = observations_of(part.dataset(), part.window.signal)
    found = np.asarray(model.neuron_attention_arrays(asked), np.float32)
    layers, heads = found.shape[:2]
    keys = np.array(asked.neurons, object)
    coords = {"layer": np.arange(1, layers + 1), "head": np.arange(1, heads + 1), "neuron": keys, "neuron_seen": keys}
    attrs = {**origin(trials, model), "session": trials.sessions[0], "n_trials": len(trials)}
    return xr.Dataset({"attention": (("layer", "head", "neuron", "neuron_seen"), found, attrs)}, coords, attrs)


def looked_at(attention):
    """How much the other neurons look at each neuron.

    Parameters
    ----------
    attention : xarray.Dataset
        As `neuron_attention` returns it.

    Returns
    -------
    xarray.DataArray
        (neuron,) float64, mean over layers, heads and the other neurons, times the number of neurons: 1 if all look at all alike.
    """
    mean = attention["attention"].astype(np.float64).mean(("layer", "head")).values
    n = len(mean)
    values = (mean.sum(0) - np.diag(mean)) / max(n - 1, 1) * n
    return xr.DataArray(values, {"neuron": attention["neuron"].values}, ("neuron",), "looked at", attention.attrs)


def connections_of(attention, truth):
    """The absolute connections between the neurons of an attention map, in their order.

    Parameters
    ----------
    attention : xarray.Dataset
        As `neuron_attention` returns it.
    truth : xarray.Dataset or DataArray
        The truth of a simulated network (`load_truth`), whose `connections` are (to, from); or an array with the coords `to` and `from`, keys.

    Returns
    -------
    xarray.DataArray
        (neuron, neuron_seen) float64, without a unit: how strongly the activity of `neuron_seen` drives `neuron`.

    Raises
    ------
    QfError
        If the truth holds no connections, or lacks a neuron.
    """
    joined = truth["connections"] if "connections" in getattr(truth, "data_vars", ()) else truth
    if getattr(joined, "dims", None) != ("to", "from"):
        raise QfError("truth: expected connections (to, from), found none. Pass load_truth(store, session) of a simulated network.")
    names = {dim: (joined[dim] if dim in joined.coords else truth["neuron"]).values.astype(str) for dim in ("to", "from")}
    keys, place = attention["neuron"].values, [{k: i for i, k in enumerate(names[dim])} for dim in ("to", "from")]
    missing = [k for k in keys if any(k not in p for p in place)]
    if missing:
        raise QfError(
            f"truth: expected the connections of {missing[0]}, found none among {len(names['to'])} neurons. Load the truth of this session."
        )
    rows, columns = ([p[k] for k in keys] for p in place)
    values = np.abs(joined.values[np.ix_(rows, columns)].astype(np.float64))
    return xr.DataArray(values, {"neuron": keys, "neuron_seen": keys}, ("neuron", "neuron_seen"), "connections")


def against_connections(attention, truth, *, strongest=0.1, n_shuffles=200, seed=0):
    """Does attention across neurons follow the connections of the simulated network?

    The control permutes the neurons of the network, so that its connections keep all but their places. What a neuron gives to itself is left out.

    Parameters
    ----------
    attention : xarray.Dataset
        As `neuron_attention` returns it.
    truth : xarray.Dataset or DataArray
        As for `connections_of`.
    strongest : float
        Share of the connections that count as strong for the AUROC.
    n_shuffles : int
        Number of permutations.
    seed : int
        Their seed.

    Returns
    -------
    xarray.Dataset
        Dim map: "mean" of all layers and heads, then each layer and head (coords `layer` and `head`, 0 for the mean). Dim measure:

        - "r": rank correlation of attention and absolute connections
        - "auroc": probability that a strong connection has more attention than another one
        - "r_out": rank correlation, over neurons, of how much others look at a neuron and how strongly it drives others
        - "r_in": the same of how much a neuron looks at others and how strongly it is driven

        `score` (map, measure), `control` (map, measure, shuffle), `chance` and `chance_high` (map, measure): mean and 95 % quantile of the control, `p`
        (map, measure): one-sided. attrs: those of the attention, strongest, n_shuffles, seed.

    Raises
    ------
    QfError
        If there are fewer than 4 neurons, `strongest` is not between 0 and 1, there is no shuffle, or as for `connections_of`.
    """
    if attention.sizes["neuron"] < 4 or not 0 < strongest < 1 or n_shuffles < 1:
        raise QfError(
            f"neurons, strongest, n_shuffles: expected at least 4, from 0 to 1, and at least 1, found {attention.sizes['neuron']}, {strongest} and {n_shuffles}."
        )
    joined, maps = connections_of(attention, truth).values, attention["attention"].values.astype(np.float64)
    n = len(joined)
    maps = np.concatenate([maps.mean((0, 1))[None], maps.reshape(-1, n, n)])
    rng, others = np.random.default_rng(seed), ~np.eye(n, dtype=bool)
    looked = [_ranks(m[:, others]) for m in maps[:, None]]  # (1, pair) each
    ranked = np.zeros((n, n))
    ranked[others] = _ranks(joined[others])
    strong = (joined > np.quantile(joined[others], 1 - strongest)) & others
    outside = np.where(others, maps, 0)
    strengths = {
        "r_out": (_ranks(outside.sum(1)), _ranks((joined * others).sum(0))),
        "r_in": (_ranks(outside.sum(2)), _ranks((joined * others).sum(1))),
    }
    scores = np.empty((len(maps), 4, 1 + n_shuffles))
    for s, order in enumerate([np.arange(n), *(rng.permutation(n) for _ in range(n_shuffles))]):
        pairs, chosen = ranked[np.ix_(order, order)][others], strong[np.ix_(order, order)][others]
        for m, rank in enumerate(looked):
            scores[m, :2, s] = _correlation(rank[0], pairs), _auroc(rank[0], chosen)
        for k, (mine, theirs) in enumerate(strengths.values()):
            scores[:, 2 + k, s] = [_correlation(row, theirs[order]) for row in mine]
    control = scores[..., 1:]
    p = [[p_of(s[0], s[1:]) for s in row] for row in scores]
    dims = ("map", "measure")
    columns = {
        "score": (dims, scores[..., 0]), "control": ((*dims, "shuffle"), control), "chance": (dims, control.mean(-1)),
        "chance_high": (dims, np.quantile(control, 0.95, axis=-1)), "p": (dims, p),
    }  # fmt: skip
    each = [(int(i), int(h)) for i in attention["layer"].values for h in attention["head"].values]
    coords = {
        "map": np.array([MEAN, *(f"layer {i}, head {h}" for i, h in each)], object), "measure": ["r", "auroc", *strengths],
        "layer": ("map", [0, *(i for i, _ in each)]), "head": ("map", [0, *(h for _, h in each)]),
    }  # fmt: skip
    return xr.Dataset(columns, coords, {**with_seed(attention.attrs, seed), "strongest": strongest, "n_shuffles": n_shuffles})


def _ranks(values):
    return rankdata(values, axis=-1)


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return a @ b / size if size > 0 else 0.0


def _auroc(rank, chosen):
    n = int(chosen.sum())
    return (rank[chosen].sum() - n * (n + 1) / 2) / (n * (len(rank) - n)) if 0 < n < len(rank) else np.nan
