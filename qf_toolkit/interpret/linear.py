"""Linear analyses of embeddings: probes, clusters, gradients, and whose embedding it is; each beside what shuffled labels give (CalM, Fig. 5 A and B).

A number without its control says little: with many dimensions and few items, a linear model finds something in anything. So every analysis here
predicts items that it was not fitted on, and is repeated with shuffled labels, with all choices (scales, penalty, number of clusters) made anew.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ..errors import QfError
from .embedding import with_seed
from .neurons import PENALTIES, held_out_numbers, is_label, neuron_tokens

STRENGTHS = (0.01, 0.1, 1.0)  # C of the logistic regression, times items over dimensions, that it chooses from
INNER = 3  # folds of this choice
MOST_CLUSTERS = 8
STARTS = 5  # of k-means
MOST_ITEMS = 1000  # of the silhouette, which compares all pairs


def probe(features, target, groups=None, folds=5, n_shuffles=100, seed=0):
    """Read a variable out of embeddings by a linear model, and score it on items that it was not fitted on.

    Ridge regression predicts numbers, logistic regression with balanced classes predicts categories. Scales and penalty come from the items that the
    model is fitted on alone. The control shuffles the target.

    Parameters
    ----------
    features : xarray.DataArray, dims (item, width)
        For example `neuron_tokens(model)`; the first dim may have any name.
    target : xarray.DataArray, dims (item,)
        Numbers, or labels (text or bool), matched by key. Items without a value (NaN, "") are left out.
    groups : xarray.DataArray, dims (item,), optional
        For example the animal. Targets are then shuffled within each group, so that the control keeps what differs between groups. If None, over all.
    folds : int
        Of the cross-validation, stratified for labels. With as many folds as items, each item is left out once.
    n_shuffles : int
        Number of shuffles for the control.
    seed : int
        Seed of folds and shuffles.

    Returns
    -------
    xarray.Dataset
        Dim measure: "r2" and "r" (correlation of predictions and values; by chance a little below 0, since the mean of
        the others is the lower the higher an item is) of numbers, "balanced_accuracy" and "accuracy" of labels.

        - `score` (measure), `control` (measure, shuffle): of the target and of each shuffle
        - `chance`, `chance_high` (measure): mean and 95 % quantile of the control
        - `p` (measure): (1 + shuffles that reach the score) / (1 + n_shuffles), one-sided
        - `predicted`, `target` (item): the held-out prediction in units of the target, and the target, of the items that count

        attrs: those of features and target, kind ("number" or "label"), target (its name), n_items, folds, n_shuffles, seed.

    Raises
    ------
    QfError
        If fewer than 2 x folds items are left (folds apart from one item each), the target does not vary, a label has fewer than 2 items or fewer than
        `folds`, a feature is not finite, or no shuffle within the groups changes the target.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features = xr.DataArray(rng.normal(size=(60, 4)), {"neuron": [f"m/{i}" for i in range(60)]}, ("neuron", "width"))
    >>> found = probe(features, features[:, 0] + 0.1 * features[:, 1], n_shuffles=19)
    >>> found["score"].sel(measure="r2").item() > 0.99, found["p"].sel(measure="r2").item()
    (True, 0.05)
    """
    x, y, items, group = _matched(features, target, groups)
    number = y.dtype.kind == "f"
    _check_probe(y, folds, n_shuffles, number)
    rng = np.random.default_rng(seed)
    parts = _parts(x, y, folds, number, rng)
    orders = _orders(y, group, n_shuffles, rng)
    return _probed(x, y, items, orders, parts, features, target, {"folds": folds, "n_shuffles": n_shuffles, "seed": seed})


def gradient(features, value, groups=None, folds=5, n_shuffles=100, seed=0):
    """The direction of an embedding space along which a number grows, for example tuning strength (CalM, Fig. 5 B).

    It is the direction of the ridge regression of the value on all items. How well it holds is told by the cross-validated predictions and their
    control, as in `probe`.

    Parameters
    ----------
    features : xarray.DataArray, dims (item, width)
    value : xarray.DataArray, dims (item,)
        Numbers.
    groups, folds, n_shuffles, seed
        As for `probe`.

    Returns
    -------
    xarray.Dataset
        As `probe` returns it, with `direction` (width), a unit vector in the space of the features, and `position` (item), how far along it an item
        lies from the mean, in units of the features.

    Raises
    ------
    QfError
        If the value is no number, or as for `probe`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features = xr.DataArray(rng.normal(size=(60, 3)), {"neuron": [f"m/{i}" for i in range(60)]}, ("neuron", "width"))
    >>> np.abs(gradient(features, features[:, 2], n_shuffles=9)["direction"].values).round(2).tolist()
    [0.0, 0.0, 1.0]
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    if np.asarray(value).dtype.kind not in "iuf":
        raise QfError("value: expected numbers, which can grow along a direction, found labels. Take probe, or clusters.")
    found = probe(features, value, groups, folds, n_shuffles, seed)
    x, y, _, _ = _matched(features, value, None)
    scaler = StandardScaler().fit(x)
    slope = RidgeCV(PENALTIES).fit(scaler.transform(x), y).coef_ / np.asarray(scaler.scale_)
    length = np.linalg.norm(slope)
    direction = slope / length if length > 0 else slope
    return found.assign(direction=(features.dims[1], direction), position=(features.dims[0], (x - x.mean(0)) @ direction))


def clusters(features, n_clusters="auto", labels=None, n_shuffles=100, seed=0):
    """Group embeddings by k-means, and compare the groups with labels, for example the variable of the task that a neuron is related to.

    Parameters
    ----------
    features : xarray.DataArray, dims (item, width)
        The dimensions are not scaled: distances are those of the embedding space.
    n_clusters : int or "auto"
        "auto" takes the number from 2 to 8 with the largest silhouette.
    labels : xarray.DataArray, dims (item,), optional
        Labels that the clusters may agree with, matched by key; items without a label count for the clusters alone.
    n_shuffles : int
        Number of shuffles for each control.
    seed : int
        Seed of k-means and shuffles.

    Returns
    -------
    xarray.Dataset
        - `cluster` (item): int from 0, the largest cluster first
        - `silhouette`: from -1 to 1, mean over the items (1000 of them at most); `silhouette_control` (shuffle): the same of features of which each
          dimension is shuffled over the items, which leaves no clusters, with the number of clusters chosen anew; `silhouette_p`
        - with labels: `adjusted_rand`, 1 for the same groups and about 0 by chance; `adjusted_rand_control` (shuffle): with shuffled labels;
          `adjusted_rand_p`

        attrs: n_clusters, n_shuffles, seed, those of features and labels.

    Raises
    ------
    QfError
        If there are fewer than 4 items, `n_clusters` is not from 2 to the number of items - 1, a feature is not finite, or no item has a label.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> kind = np.repeat([0, 1, 2], 20)
    >>> features = xr.DataArray(9 * np.eye(3)[kind] + rng.normal(size=(60, 3)), {"neuron": [f"m/{i}" for i in range(60)]}, ("neuron", "width"))
    >>> found = clusters(features, labels=features[:, 0].copy(data=kind), n_shuffles=19)
    >>> found.attrs["n_clusters"], found["adjusted_rand"].item(), found["adjusted_rand_p"].item()
    (3, 1.0, 0.05)
    """
    from sklearn.metrics import adjusted_rand_score

    x, item = _finite(features), features.dims[0]
    if len(x) < 4 or (n_clusters != "auto" and not 2 <= int(n_clusters) < len(x)):
        raise QfError(f"n_clusters: expected 2 to {len(x) - 1} of {len(x)} items, 4 or more of them, found {n_clusters}. Take 'auto', or more items.")
    if n_shuffles < 1:
        raise QfError(f"n_shuffles: expected at least 1, found {n_shuffles}.")
    rng = np.random.default_rng(seed)
    cluster, silhouette = _clustered(x, n_clusters, seed)
    control = np.array([_clustered(rng.permuted(x, axis=0), n_clusters, seed)[1] for _ in range(n_shuffles)])
    columns = {
        "cluster": (item, cluster),
        "silhouette": silhouette,
        "silhouette_control": ("shuffle", control),
        "silhouette_p": p_of(silhouette, control),
    }
    if labels is not None:
        of = dict(zip(labels[labels.dims[0]].values.astype(str), labels.values, strict=True))
        label = np.array([of.get(k) for k in features[item].values.astype(str)], object)
        has = np.array([is_label(v) for v in label], bool)
        if not has.any():
            raise QfError(f"labels: expected some for the {len(x)} items, found none. Are they of the same {item}s?")
        mine, theirs = cluster[has], label[has].astype(str)
        found = adjusted_rand_score(theirs, mine)
        control = np.array([adjusted_rand_score(rng.permutation(theirs), mine) for _ in range(n_shuffles)])
        columns |= {"adjusted_rand": found, "adjusted_rand_control": ("shuffle", control), "adjusted_rand_p": p_of(found, control)}
    attrs = {**({} if labels is None else labels.attrs), **with_seed(features.attrs, seed)}
    return xr.Dataset(columns, {item: features[item].values}, {**attrs, "n_clusters": int(cluster.max()) + 1, "n_shuffles": n_shuffles})


def session_tokens(model):
    """The learned embeddings of the sessions, as `neuron_tokens` gives those of the neurons.

    Parameters
    ----------
    model : Estimator
        One with a `session_table`.

    Returns
    -------
    xarray.DataArray
        (session, width) float32, without a unit. attrs: model (digest), seed, simulated.

    Raises
    ------
    QfError
        If the model has no embeddings of sessions.
    """
    if not hasattr(model, "session_table"):
        raise QfError(
            f"model: expected one with embeddings of sessions, found {getattr(model, 'name', type(model).__name__)!r}. Fit a population model."
        )
    keys, table = model.session_table()
    known = {"seed": model.seed, "simulated": model.simulated}
    attrs = {"model": model.digest(), **{n: int(v) for n, v in known.items() if v is not None}}
    return xr.DataArray(table, {"session": np.array(keys, object)}, ("session", "width"), "session tokens", attrs)


def identity_probe(model, *, of=("session", "neuron"), identity="subject", folds=5, n_shuffles=100, most=2000, seed=0):
    """Whose embedding it is: the animal (or session) decoded from session embeddings and from neuron embeddings.

    A model that keeps what is individual in the session embeddings, and what is shared in the neuron embeddings, has a high score in the first and one
    near chance in the second (CalM's authors give .930 and .224).

    Parameters
    ----------
    model : Estimator or mapping of str to xarray.DataArray
        One with tables of neurons and sessions, or the tables themselves: "session" (session, width) and "neuron" (neuron, width), with keys.
    of : sequence of {"session", "neuron"}
        Which embeddings to decode from.
    identity : {"subject", "session"}
        What is decoded, as the keys name it. Of session embeddings the subject alone can be decoded.
    folds : int
        If a subject has fewer embeddings than that, each embedding is left out once instead.
    n_shuffles, seed : int
        As for `probe`.
    most : int
        Neurons that are drawn at most.

    Returns
    -------
    xarray.Dataset
        Dims of and measure ("balanced_accuracy", "accuracy"): `score`, `chance`, `chance_high`, `p`, as `probe` gives them; `n_items`, `n_identities`
        (of).

    Raises
    ------
    QfError
        If there are fewer than two identities, or one has a single embedding: it can't be left out and known, too.

    Source
    ------
    CalM (arXiv 2604.04958), Table 20.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> keys = [f"m{i}/{j}" for i in range(3) for j in range(4)]
    >>> table = xr.DataArray(9 * np.eye(3).repeat(4, 0) + rng.normal(size=(12, 3)), {"session": keys}, ("session", "width"))
    >>> identity_probe({"session": table}, of=["session"], n_shuffles=9)["score"].sel(measure="accuracy").values.tolist()
    [1.0]
    """
    of = [of] if isinstance(of, str) else list(of)
    found = []
    for name in of:
        table = _table(model, name, identity)
        if name == "neuron" and len(table) > most:
            table = table.isel(neuron=np.sort(np.random.default_rng(seed).choice(len(table), most, replace=False)))
        label = np.array([_identity(key, identity) for key in table[name].values.astype(str)], object)
        kinds, count = np.unique(label.astype(str), return_counts=True)
        if len(kinds) < 2 or count.min() < 2:
            few = f"one of {kinds[count.argmin()]}" if len(kinds) > 1 else f"{kinds[0]} alone"
            raise QfError(
                f"{name}: expected two {identity}s or more, each with two embeddings of {name}s or more, found {few}. Fit on more, or leave it out: of=[...]."
            )
        few = count.min() < folds
        one = probe(table, xr.DataArray(label, {name: table[name].values}, (name,)), None, len(label) if few else folds, n_shuffles, seed)
        one = one[["score", "chance", "chance_high", "p"]].assign(n_items=len(label), n_identities=len(kinds))
        found.append(one)
    attrs = {**found[0].attrs, "identity": identity}
    return (
        xr.concat(found, "of", combine_attrs="drop")
        .assign_coords(of=of)
        .assign_attrs({k: v for k, v in attrs.items() if k not in ("n_items", "folds")})
    )


def _identity(key, identity):
    parts = key.split("/")
    return parts[0] if identity == "subject" else "/".join(parts[:2])


def _table(model, name, identity):
    if name not in ("session", "neuron") or identity not in ("subject", "session"):
        raise QfError(f"of, identity: expected 'session' or 'neuron', and 'subject' or 'session', found {name!r} and {identity!r}.")
    if name == "session" and identity == "session":
        raise QfError("of: expected neurons, of which a session has many, found session embeddings, of which each has one. Take of=['neuron'].")
    if not isinstance(model, Mapping):
        table = session_tokens(model) if name == "session" else neuron_tokens(model)
    elif name in model:
        table = model[name]
    else:
        raise QfError(f"model: expected a table of {name}s, found {', '.join(map(str, model)) or 'none'}. Add it, or leave it out: of=[...].")
    if identity == "session" and any(k.count("/") < 2 for k in table[name].values.astype(str)):
        raise QfError("identity: expected keys subject/session/cell, found neurons that are matched over sessions. Take identity='subject'.")
    return table


# ---------------------------------------------------------------- what they share


def _finite(features):
    if features.ndim != 2:
        raise QfError(f"features: expected dims (item, width), found {features.dims}. Pass neuron_tokens(model).")
    x = np.asarray(features.values, np.float64)
    if not np.isfinite(x).all():
        raise QfError(f"features: expected finite numbers, found others in {int((~np.isfinite(x).all(1)).sum())} of {len(x)} items. Leave those out.")
    return x


def _matched(features, target, groups):
    """Features, targets (float64, or text), keys and groups (int) of the items that have a target."""
    x, item = _finite(features), features.dims[0]
    keys = features[item].values.astype(str)
    number = target.dtype.kind in "iuf"

    def of(values):
        known = dict(zip(values[values.dims[0]].values.astype(str), values.values, strict=True))
        return [known.get(k) for k in keys]

    y = of(target)
    has = np.array([is_label(v) and (not number or np.isfinite(v)) for v in y], bool)
    group = np.array(["" if groups is None else str(g) for g in (keys if groups is None else of(groups))], object)[has]
    y = np.array([v for v, there in zip(y, has, strict=True) if there])
    return x[has], y.astype(np.float64) if number else y.astype(str), features[item].values[has], np.unique(group.astype(str), return_inverse=True)[1]


def _check_probe(y, folds, n_shuffles, number):
    n = len(y)
    if folds < 2 or n_shuffles < 1:
        raise QfError(f"folds, n_shuffles: expected at least 2 and 1, found {folds} and {n_shuffles}.")
    if folds > n or (folds < n < 2 * folds) or n < 4:
        raise QfError(
            f"folds: expected at least {max(4, 2 * folds)} items with features and a target for {folds} folds, found {n}. Take fewer folds."
        )
    kinds, count = np.unique(y, return_counts=True)
    if len(kinds) < 2:
        raise QfError(f"target: expected values that differ, found {n} of {kinds[0]}. Choose another.")
    least = 2 if folds == n else folds
    if not number and count.min() < least:
        raise QfError(
            f"target: expected at least {least} items of each label, found {count.min()} of {kinds[count.argmin()]!r}. Take fewer folds, or leave it out."
        )


def _orders(y, group, n_shuffles, rng):
    """Orders of the items, (1 + n_shuffles, item): first as they are, then shuffled within the groups."""
    places = [np.flatnonzero(group == g) for g in np.unique(group)]
    if all((y[at] == y[at[0]]).all() for at in places):
        raise QfError(
            "groups: expected a target that varies within groups, found one that each group has alone: no shuffle changes it. Leave groups out."
        )
    out = np.tile(np.arange(len(y)), (1 + n_shuffles, 1))
    for row in out[1:]:
        for at in places:
            row[at] = rng.permutation(at)
    return out


def _parts(x, y, folds, number, rng):
    from sklearn.model_selection import KFold, LeaveOneOut, StratifiedKFold

    if folds == len(y):
        return list(LeaveOneOut().split(x))
    return list((KFold if number else StratifiedKFold)(folds, shuffle=True, random_state=int(rng.integers(2**31))).split(x, y))


def _probed(x, y, items, orders, parts, features, target, attrs):
    if y.dtype.kind == "f":  # all orders are targets of one fit
        kind, measures, every = "number", {"r2": _r2, "r": _r}, y[orders]
        guess = y.mean() + y.std() * held_out_numbers(x, (every.T - y.mean()) / y.std(), parts).T
    else:  # the features are shuffled instead, so that the folds keep their share of each label
        from sklearn.metrics import accuracy_score, balanced_accuracy_score

        kind, measures, every = "label", {"balanced_accuracy": balanced_accuracy_score, "accuracy": accuracy_score}, np.tile(y, (len(orders), 1))
        guess = np.array([held_out_labels(x[order], y, parts) for order in orders])
    scores = np.array([[measure(*pair) for pair in zip(every, guess, strict=True)] for measure in measures.values()])
    control, item = scores[:, 1:], features.dims[0]
    columns = {
        "score": ("measure", scores[:, 0]), "control": (("measure", "shuffle"), control), "chance": ("measure", control.mean(1)),
        "chance_high": ("measure", np.quantile(control, 0.95, axis=1)), "p": ("measure", [p_of(s[0], s[1:]) for s in scores]),
        "predicted": (item, guess[0]), "target": (item, y),
    }  # fmt: skip
    variable = [str(target["variable"].item())] if "variable" in target.coords and not target["variable"].ndim else []
    name = " ".join([*variable, *([str(target.name)] if target.name else [])])
    about = {**target.attrs, **with_seed(features.attrs, attrs["seed"]), **attrs, "kind": kind, "n_items": len(y)}
    return xr.Dataset(columns, {"measure": list(measures), item: items}, about | ({"target": name} if name else {}))


def held_out_labels(x, y, parts):
    """What logistic regression says of items that it was not fitted on.

    Parameters
    ----------
    x : float array, shape (item, width)
    y : str array, shape (item,)
    parts : sequence of (int array, int array)
        Positions to fit on and to predict. Scales of `x` come from the former alone, and so does the penalty, by folds within them where every label
        has as many items.

    Returns
    -------
    str array, shape (item,)
    """
    guess = np.empty_like(y)
    for train, test in parts:
        guess[test] = _logistic(x[train], y[train], x[test])
    return guess


def _logistic(x, y, wanted):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    def said(train, labels, test, c):
        scaler = StandardScaler().fit(train)
        return LogisticRegression(C=c, class_weight="balanced", max_iter=2000).fit(scaler.transform(train), labels).predict(scaler.transform(test))

    if (y == y[0]).all():
        return np.repeat(y[:1], len(wanted))
    # each scaled dimension adds about C to the variance of a logit: with C = 1 / width all dimensions together add 1
    choices = [10 * c / x.shape[1] for c in STRENGTHS]
    if np.unique(y, return_counts=True)[1].min() < INNER:
        return said(x, y, wanted, choices[1])
    folds = list(StratifiedKFold(INNER).split(x, y))
    scores = [np.mean([balanced_accuracy_score(y[b], said(x[a], y[a], x[b], c)) for a, b in folds]) for c in choices]
    return said(x, y, wanted, choices[int(np.argmax(scores))])


def _clustered(x, n_clusters, seed):
    """Cluster of each item, the largest first, and the silhouette."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    some = {"sample_size": MOST_ITEMS, "random_state": seed} if len(x) > MOST_ITEMS else {}
    found = []
    for k in range(2, min(MOST_CLUSTERS, len(x) - 1) + 1) if n_clusters == "auto" else [n_clusters]:
        label = KMeans(k, n_init=STARTS, random_state=seed).fit_predict(x)
        found.append((silhouette_score(x, label, **some), label))
    silhouette, label = max(found, key=lambda f: f[0])
    order = np.argsort(-np.bincount(label), kind="stable")
    return np.argsort(order)[label], float(silhouette)


def _r2(y, guess):
    return 1 - np.square(y - guess).sum() / np.square(y - y.mean()).sum()


def _r(y, guess):
    return np.corrcoef(y, guess)[0, 1] if guess.std() > 0 else 0.0


def p_of(score, control):
    """(1 + shuffles that reach the score) / (1 + shuffles), one-sided."""
    return (1 + int((control >= score - 1e-12).sum())) / (1 + len(control))
