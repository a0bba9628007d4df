"""What neuron tokens hold about their neurons: statistics of neurons, neighbours of tokens, and linear probes (paper appendix VIII, figure A-10)."""

import numpy as np
import xarray as xr

from ..errors import QfError
from ..estimators.interface import origin
from ..recordings.conditions import category_of
from ..recordings.trials import check_trials
from .embedding import with_seed

METRICS = ("cosine", "euclidean")
FRACTIONS = ("activation_probability", "selectivity")
PENALTIES = np.logspace(-2, 5, 15)  # penalties that the ridge regression chooses from
MOST = 4_000_000  # numbers of an intermediate array held in memory at once


def neuron_tokens(model, *, moved=False):
    """The learned [NEURON] tokens.

    Parameters
    ----------
    model : QuantFormerForecaster or QuantFormerClassifier
    moved : bool
        Return how far training moved each token from its random start, instead of the token. Tokens start with unit variance. If training moves them
        only by a tenth of that, the tokens keep the neighbours, and the t-SNE, of the start, and only the moves show what was learnt.

    Returns
    -------
    xarray.DataArray
        (neuron, width) float32, without a unit; neuron keys in the model's order. attrs: model (digest of weights), seed, simulated, moved (0 or 1).

    Raises
    ------
    QfError
        If the model has no neuron tokens, or `moved` is asked of a saved model that does not hold the start of its tokens.
    """
    if not getattr(model, "has_tokens", False):
        raise QfError(f"model: expected a forecaster or classifier with neuron tokens, found {type(model).__name__}. Fit one, or load it.")
    tokens, start = model.token_table()
    if moved:
        if np.isnan(start).any():
            raise QfError(
                "moved: expected a model that knows what its tokens started from, found one saved before. Fit it again, or take moved=False."
            )
        tokens -= start
    known = {"seed": model.seed, "simulated": model.simulated}  # None in models saved before they were kept
    attrs = {"model": model.digest(), **{n: int(v) for n, v in known.items() if v is not None}, "moved": int(moved)}
    return xr.DataArray(tokens, {"neuron": np.array(model.neurons, dtype=object)}, ("neuron", "width"), "tokens", attrs)


def neuron_statistics(trials):
    """Statistics of every neuron over the chosen trials (paper figure A-10, and more).

    An observation counts if its whole window is valid, as in training. Sessions are read one by one. A cell that is matched over several sessions is
    described by all of its observations together.

    Parameters
    ----------
    trials : Trials
        To compare with a model's tokens, usually `split.train`, from which the model learnt.

    Returns
    -------
    xarray.Dataset
        Dim neuron, in the order of `trials.neurons`. Units are those of the window's signal (dF/F, or z-scores) unless noted.

        - `median`, `sd`: over all frames of the windows, baseline and response
        - `n_observations`, `n_activations`: int, number of observations, and of active ones
        - `activation_probability`: active observations / all observations, fraction
        - `mean_response`: mean of the scored part of the response, over all observations
        - `preferred_condition`: str, the condition with the largest mean response, without blanks; the first by key if several are equal
        - `preferred_response`: the mean response to this condition
        - `selectivity`: fraction, the share of the variance of single responses that the condition explains, less the share that chance explains
          (adjusted R2), without blanks and conditions shown once: 1 if the condition determines the response, about 0 (or a little below) if it does
          not matter

        A statistic that has no data is NaN, or "" for the condition. The dataset and each variable have the attrs of `origin`; a variable has its
        `units`, too.

    Raises
    ------
    QfError
        If there is no trial.
    """
    check_trials(trials)
    last = {n: s for s in trials.sessions for n in trials.neurons_of(s)}
    held, rows = {}, {}
    for session in trials.sessions:
        one = trials.subset((trials.table["session"] == session).to_numpy())
        ds = one.dataset()
        x = ds[trials.window.signal].values
        whole, active = ds["valid"].values.all(-1), ds["active"].values
        response = mean_responses(ds, trials.window.signal)
        condition = ds["condition"].values.astype(str)
        for i, neuron in enumerate(one.neurons):
            keep = whole[:, i]
            held.setdefault(neuron, []).append((x[keep, i], active[keep, i], response[keep, i], condition[keep]))
            if last[neuron] == session:  # until then the windows of a matched cell are kept
                rows[neuron] = _describe(*(np.concatenate(p) for p in zip(*held.pop(neuron), strict=True)))
    attrs, own = origin(trials), {"dff": "dF/F", "zscore": "z-score"}[trials.window.signal]
    units = {"n_observations": "observations", "n_activations": "observations", "preferred_condition": "", **dict.fromkeys(FRACTIONS, "fraction")}
    columns = {}
    for name in rows[trials.neurons[0]]:
        values = np.array([rows[n][name] for n in trials.neurons], dtype=object if name == "preferred_condition" else None)
        columns[name] = ("neuron", values, {**attrs, "units": units.get(name, own)})
    return xr.Dataset(columns, {"neuron": np.array(trials.neurons, dtype=object)}, attrs)


def mean_responses(ds, signal):
    """The mean of the scored part of every response.

    Parameters
    ----------
    ds : xarray.Dataset
        `trials.dataset()` of one session.
    signal : {"dff", "zscore"}

    Returns
    -------
    float64 array, shape (trial, neuron)
        In units of the signal, NaN where a scored frame is missing.
    """
    after = ds[signal].values[..., ds.attrs["n_baseline"] :]
    scored = np.arange(after.shape[-1]) < ds["n_score"].values[:, None, None]
    return np.where(scored, after, 0).sum(-1, dtype=np.float64) / ds["n_score"].values[:, None]


def _describe(x, active, response, condition):
    """Statistics of one neuron from its windows (observation, time), and its labels, responses and conditions (observation,)."""
    n = len(x)
    mean = lambda values: float(np.mean(values, dtype=np.float64)) if n else np.nan  # noqa: E731
    kinds, which = np.unique(condition, return_inverse=True)
    count = np.bincount(which, minlength=len(kinds))
    by_condition = np.bincount(which, response, len(kinds)) / count
    shown = np.array([c != f"{category_of(c)}/blank" for c in kinds], bool)
    best = int(np.argmax(np.where(shown, by_condition, -np.inf))) if shown.any() else None
    return {
        "median": float(np.median(x)) if n else np.nan,
        "sd": float(np.std(x, dtype=np.float64)) if n else np.nan,
        "n_observations": n,
        "n_activations": int(active.sum()),
        "activation_probability": mean(active),
        "mean_response": mean(response),
        "preferred_condition": "" if best is None else str(kinds[best]),
        "preferred_response": np.nan if best is None else float(by_condition[best]),
        "selectivity": _selectivity(response, which, (shown & (count > 1))[which]),
    }


def _selectivity(response, which, keep):
    return repeatable_share(response[keep], which[keep]) if len(np.unique(which[keep])) > 1 else np.nan


def repeatable_share(response, group):
    """The share of the variance of responses that repeats over the trials of a group, less the share that repeats by chance.

    It is the adjusted R2 of the groups' means.

    Parameters
    ----------
    response : float array, shape (trial,) or (trial, time)
        In any unit; NaN are left out. With time, the variance is over trials and time, so that a course that all trials share repeats, too.
    group : array, shape (trial,)
        The group of each trial, for example its condition.

    Returns
    -------
    float
        1 if the group determines the response, about 0 (or a little below) if it does not matter; NaN if no trial repeats another, or nothing varies.
    """
    response = np.asarray(response, np.float64).reshape(len(group), -1 if len(group) else 1)
    known, n_times = np.isfinite(response), response.shape[1]
    cell = (np.unique(group, return_inverse=True)[1][:, None] * n_times + np.arange(n_times))[known]
    response = response[known]
    count = np.bincount(cell)
    n, cells = len(response), np.count_nonzero(count)
    total = np.square(response - response.mean()).sum() if n else 0.0
    if n == cells or not total > 0:
        return np.nan
    within = np.square(response - (np.bincount(cell, response) / np.maximum(count, 1))[cell]).sum()
    return float(1 - (within / (n - cells)) / (total / (n - 1)))


def nearest_neighbours(tokens, k=5, metric="cosine"):
    """The nearest other neurons of each neuron in token space.

    Parameters
    ----------
    tokens : xarray.DataArray, dims (neuron, width)
    k : int
        Number of neighbours of each neuron.
    metric : {"cosine", "euclidean"}
        1 - cosine of the angle, or the distance.

    Returns
    -------
    xarray.Dataset
        `neighbour` (neuron, rank) keys, `distance` (neuron, rank) float64, without a unit. Rank goes from 1 to k, the nearest first; equally near
        neurons come in the order of `tokens`.

    Raises
    ------
    QfError
        If there are fewer than k other neurons, a token is not finite (or is 0, which has no angle), or the metric is unknown.
    """
    at, distance = _neighbours(tokens, k, metric)
    keys = tokens["neuron"].values
    coords = {"neuron": keys, "rank": np.arange(1, k + 1)}
    columns = {"neighbour": (("neuron", "rank"), keys[at]), "distance": (("neuron", "rank"), distance)}
    return xr.Dataset(columns, coords, {**tokens.attrs, "k": k, "metric": metric})


def neighbour_agreement(tokens, labels, *, k=5, metric="cosine", n_permutations=10_000, seed=0):
    """Do neighbours in token space share a label more often than chance?

    The test permutes the labels over the neurons and keeps tokens and neighbours as they are: under chance all orders are equally likely.

    Parameters
    ----------
    tokens : xarray.DataArray, dims (neuron, width)
    labels : xarray.DataArray, dims (neuron,)
        Matched to the tokens by key. Neurons with an empty or missing label, or without a token, are left out; they are no neighbours, either.
    k, metric
        As for `nearest_neighbours`.
    n_permutations : int
    seed : int
        Seed of the permutations.

    Returns
    -------
    xarray.Dataset
        `share` (share of the neighbours that have the neuron's own label), `expected` (the exact mean of this share over all permutations), `p`
        ((1 + permutations that reach the share) / (1 + n_permutations), one-sided), `n_neurons`, `n_labels`. attrs: k, metric, n_permutations, seed,
        and those of tokens and labels.

    Raises
    ------
    QfError
        If fewer than k + 1 neurons have a label, all have the same label, `n_permutations` is below 1, or as for `nearest_neighbours`.
    """
    names, values = labels["neuron"].values.astype(str), labels.values
    label_of = {n: v for n, v in zip(names, values, strict=True) if is_label(v)}
    kept = np.array([str(n) in label_of for n in tokens["neuron"].values], bool)
    tokens = tokens.isel(neuron=kept)
    if len(tokens) <= k:
        raise QfError(f"labels: expected more than k = {k} neurons with a token and a label, found {len(tokens)}. Take a lesser k, or label more.")
    kinds, label = np.unique([label_of[str(n)] for n in tokens["neuron"].values], return_inverse=True)
    if len(kinds) < 2:
        raise QfError(f"labels: expected two kinds or more, found {kinds[0]!r} alone: every neighbour shares it.")
    if n_permutations < 1:
        raise QfError(f"n_permutations: expected at least 1, found {n_permutations}.")
    at, _ = _neighbours(tokens, k, metric)
    same = lambda lab: (lab[..., at] == lab[..., None]).sum((-2, -1))  # noqa: E731
    found, rng, n = same(label), np.random.default_rng(seed), len(label)
    chunks = np.diff([*range(0, n_permutations, max(1, MOST // at.size)), n_permutations])
    reached = sum(int((same(rng.permuted(np.tile(label, (c, 1)), axis=1)) >= found).sum()) for c in chunks)
    count = np.bincount(label)
    columns = {
        "share": float(found / at.size), "expected": float((count * (count - 1)).sum() / (n * (n - 1))),
        "p": (1 + reached) / (1 + n_permutations), "n_neurons": n, "n_labels": len(kinds),
    }  # fmt: skip
    return xr.Dataset(
        columns, attrs={**with_seed({**labels.attrs, **tokens.attrs}, seed), "k": k, "metric": metric, "n_permutations": n_permutations}
    )


def linear_probe(tokens, statistics, *, folds=5, n_shuffles=200, seed=0):
    """Predict statistics of neurons from their tokens by linear models, and score the predictions on held-out neurons.

    Ridge regression predicts numbers; it chooses its penalty by leave-one-out within the training folds. Logistic regression with balanced classes
    and C = 1 / width predicts labels. Tokens are scaled by the training folds only. The control does the same with values shuffled over the neurons.

    Parameters
    ----------
    tokens : xarray.DataArray, dims (neuron, width)
    statistics : xarray.Dataset or DataArray, dim neuron
        Variables of numbers or labels, matched to the tokens by key. Neurons without a value ("" or NaN) are left out for that variable, and so are
        labels that fewer than `folds` neurons have.
    folds : int
        Folds of the cross-validation; stratified for labels.
    n_shuffles : int
        Number of shuffles for the control.
    seed : int
        Seed of folds and shuffles.

    Returns
    -------
    xarray.Dataset
        Dim statistic: `score` (R2 of all held-out predictions together, or their balanced accuracy), `control` (mean over the shuffles),
        `control_high` (their 95 % quantile), `p` ((1 + shuffles that reach the score) / (1 + n_shuffles)), `kind` ("number" or "label"), `n_neurons`.
        Scores are NaN for a variable that can't be probed: it does not vary, or fewer than 2 x folds neurons or fewer than two labels are left.

    Raises
    ------
    QfError
        If there are fewer than 2 x folds neurons, fewer than 2 folds, no shuffle, or no variable on neuron, or a token is not finite.
    """
    statistics = statistics.to_dataset(name=statistics.name or "value") if isinstance(statistics, xr.DataArray) else statistics
    if not any(v.dims == ("neuron",) for v in statistics.data_vars.values()):
        raise QfError("statistics: expected a variable on neuron, found none. Pass neuron_statistics(trials).")
    known = {str(n): i for i, n in enumerate(statistics["neuron"].values)}
    kept = [i for i, n in enumerate(tokens["neuron"].values) if str(n) in known]
    if folds < 2 or n_shuffles < 1:
        raise QfError(f"folds, n_shuffles: expected at least 2 and 1, found {folds} and {n_shuffles}.")
    if len(kept) < 2 * folds:
        raise QfError(
            f"folds: expected at least {2 * folds} neurons with tokens and statistics for {folds} folds, found {len(kept)}. Take fewer folds."
        )
    x = _finite(tokens)[kept]
    order = [known[str(n)] for n in tokens["neuron"].values[kept]]
    rows = {}
    for i, (name, variable) in enumerate(statistics.data_vars.items()):
        if variable.dims == ("neuron",):
            rng = np.random.default_rng([seed, i])
            rows[str(name)] = _probe(x, variable.values[order], folds, n_shuffles, rng)
    columns = {c: ("statistic", [r[c] for r in rows.values()]) for c in next(iter(rows.values()))}
    attrs = {**with_seed({**statistics.attrs, **tokens.attrs}, seed), "folds": folds, "n_shuffles": n_shuffles}
    return xr.Dataset(columns, {"statistic": list(rows)}, attrs)


def _probe(x, y, folds, n_shuffles, rng):
    number = np.asarray(y).dtype.kind in "iuf"
    keep = np.isfinite(y) if number else np.array([is_label(v) for v in y], bool)
    if not number:
        y = np.array([str(v) for v in y])
        kinds, count = np.unique(y[keep], return_counts=True)
        keep &= np.isin(y, kinds[count >= folds])
    x, y = x[keep], y[keep]
    result = {"score": np.nan, "control": np.nan, "control_high": np.nan, "p": np.nan, "kind": "number" if number else "label", "n_neurons": len(y)}
    if len(y) < 2 * folds or (y == y[0]).all():
        return result
    scores = (_ridge if number else _logistic)(x, y, folds, n_shuffles, rng)
    control = scores[1:]
    reached = int((control >= scores[0]).sum())
    found = {"score": scores[0], "control": control.mean(), "control_high": np.quantile(control, 0.95), "p": (1 + reached) / (1 + n_shuffles)}
    return {**result, **{c: float(v) for c, v in found.items()}}


def _ridge(x, y, folds, n_shuffles, rng):
    """R2 of held-out neurons, (1 + n_shuffles,): first of the true values, then of each shuffle. All are targets of one fit."""
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    y = np.asarray(y, np.float64)
    y = np.stack([(y - y.mean()) / y.std(), *(rng.permutation((y - y.mean()) / y.std()) for _ in range(n_shuffles))], 1)
    guess = held_out_numbers(x, y, KFold(folds, shuffle=True, random_state=int(rng.integers(2**31))).split(x))
    return np.array(r2_score(y, guess, multioutput="raw_values"))


def held_out_numbers(x, y, parts):
    """What ridge regression says of items that it was not fitted on.

    Parameters
    ----------
    x : float array, shape (item, width)
    y : float array, shape (item, target)
        Each column is a target of its own.
    parts : iterable of (int array, int array)
        Positions to fit on and to predict. Scales of `x` and the penalty of each target (by leave-one-out) come from the former alone.

    Returns
    -------
    float array, shape (item, target)
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    guess = np.empty_like(y)
    for train, test in parts:
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES, alpha_per_target=True))
        guess[test] = model.fit(x[train], y[train]).predict(x[test])
    return guess


def _logistic(x, y, folds, n_shuffles, rng):
    """Balanced accuracy of held-out neurons, (1 + n_shuffles,): first in true order, then with shuffled tokens, so that the folds stay the same."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = list(StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31))).split(x, y))
    scores = []
    for order in [np.arange(len(y)), *(rng.permutation(len(y)) for _ in range(n_shuffles))]:
        guess = np.empty_like(y)
        for train, test in parts:
            # each scaled dimension of a token adds about C to the variance of a logit: all dimensions together add 1
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / x.shape[1], class_weight="balanced", max_iter=1000))
            guess[test] = model.fit(x[order[train]], y[train]).predict(x[order[test]])
        scores.append(balanced_accuracy_score(y, guess))
    return np.array(scores)


def _neighbours(tokens, k, metric):
    """Positions and distances (neuron, k) of the nearest other neurons."""
    from scipy.spatial.distance import cdist

    x = _finite(tokens)
    if metric not in METRICS:
        raise QfError(f"metric: expected one of {METRICS}, found {metric!r}.")
    if k != int(k) or not 1 <= k < len(x):
        raise QfError(f"k: expected 1 to {len(x) - 1} of the other neurons, found {k}.")
    if metric == "cosine" and not x.any(1).all():
        raise QfError('metric: expected tokens other than 0, which have an angle, found some of 0. Take metric="euclidean".')
    at, distance = np.empty((len(x), k), int), np.empty((len(x), k))
    for rows in np.array_split(np.arange(len(x)), -(-(x.shape[0] ** 2) // MOST)):
        d = cdist(x[rows], x, metric)
        d[np.arange(len(rows)), rows] = np.inf
        at[rows] = np.argsort(d, 1, kind="stable")[:, :k]
        distance[rows] = np.take_along_axis(d, at[rows], 1)
    return at, distance


def _finite(tokens):
    if tokens.dims[:1] != ("neuron",) or tokens.ndim != 2:
        raise QfError(f"tokens: expected dims (neuron, width), found {tokens.dims}. Pass neuron_tokens(model).")
    x = np.asarray(tokens.values, np.float64)
    if not np.isfinite(x).all():
        raise QfError(f"tokens: expected finite numbers, found others in {int((~np.isfinite(x).all(1)).sum())} of {len(x)} neurons. Train again.")
    return x


def is_label(value):
    """Whether a value is one: not None, NaN or ""."""
    return value is not None and value == value and str(value) != ""
