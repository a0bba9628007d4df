"""What single neurons tell of the task: their selectivity for cue, choice or condition, measured so that noise does not look like tuning."""

from zlib import crc32

import numpy as np
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..estimators.interface import origin
from ..recordings.trials import check_trials
from .embedding import with_seed
from .neurons import mean_responses

CIRCULAR = ("direction", "orientation")
MOST_VALUES = 24  # a feature with more values is a measurement of each trial, no variable of the task


def neuron_variables(trials, variables=None, *, circular=CIRCULAR, least=4, n_halves=40, seed=0):
    """How each neuron is tuned to variables of the task, from trials alone.

    A neuron's response in a trial is the mean of its scored part. The best of a few noisy means always looks like tuning, so that strength and
    reliability compare two halves of the trials, which are drawn at random many times, each category in equal parts: one half says which way a neuron is
    tuned, the other how much. Both are about 0 for a neuron without tuning, and may be negative.

    Parameters
    ----------
    trials : Trials
        A cell that is matched over several sessions is described by all of its trials together.
    variables : str or sequence of str, optional
        Columns of the table of trials: features such as `side` or `choice`, or `condition`, `stimulus`, `block`. If None, all features that have 2 to
        24 values, and `condition` if there is none.
    circular : sequence of str
        Variables whose values are angles in degrees. Their period is 180 if all values are below 180 (orientation), else 360 (direction).
    least : int
        Trials of a category, at least 2, that a neuron needs; it is judged on the categories of which it has as many.
    n_halves : int
        How many times the trials are halved.
    seed : int
        Seed of the halves.

    Returns
    -------
    xarray.Dataset
        Dims neuron (in the order of `trials.neurons`) and variable, float64 unless noted.

        - `selectivity`: d', signed, of two categories: (mean in the `second` - mean in the `first`) / sd, where sd is that of single responses within
          a category; NaN for variables of more categories
        - `auroc`: probability that a response in the second of two categories exceeds one in the first; NaN for variables of more
        - `strength`: tuning strength, cross-validated. binary: d' of one half in the direction that the other half prefers. category: eta², the share
          of the variance of single responses that the variable explains. circular: 1 - circular variance, the length of the vector sum of the mean
          responses (negative ones count as 0) over their sum
        - `reliability`: correlation of the tuning curves of two halves, from -1 to 1, without unit; of two categories, how often both halves prefer the
          same one, as 2 x share - 1, which exceeds 0.9 in about 5 % of the neurons without tuning
        - `preferred`: str, the category with the largest mean response
        - `angle`: degrees, direction of the vector sum; NaN unless circular
        - `n_trials`: int, trials that count

        Coords on variable: `kind` ("binary", "category" or "circular"), `first` and `second` (str, the two categories of a binary one, in order).
        What has too few trials is NaN, or "". attrs: those of `origin`, seed, least, n_halves, signal.

    Raises
    ------
    UnknownKeyError
        If a variable is no column of the table.
    QfError
        If there is no trial or no variable, a variable has one value only, a circular one is no number, or `least` or `n_halves` is too small.

    Source
    ------
    d' and AUROC: Green and Swets 1966, Signal Detection Theory and Psychophysics. 1 - circular variance: Ringach et al. 2002, J Neurosci 22:5639.

    Examples
    --------
    >>> found = neuron_variables(trials)
    >>> found["kind"].to_series().to_dict()
    {'orientation': 'circular'}
    >>> found["strength"].dims
    ('neuron', 'variable')
    """
    check_trials(trials)
    if least < 2 or n_halves < 1:
        raise QfError(f"least, n_halves: expected at least 2 and 1, found {least} and {n_halves}.")
    labels = {name: _labels(trials.table[name]) for name in _names(trials, variables)}
    about = {name: _about(name, label, name in circular) for name, label in labels.items()}
    columns = {
        name: np.full((len(trials.neurons), len(labels)), np.nan) for name in ("selectivity", "auroc", "strength", "reliability", "angle", "n_trials")
    }
    columns["preferred"] = np.full((len(trials.neurons), len(labels)), "", object)
    place = {n: i for i, n in enumerate(trials.neurons)}
    for sessions, neurons in _together(trials).items():
        at, response = [place[n] for n in neurons], _responses(trials, sessions, neurons)
        rows = np.concatenate([trials.positions(s) for s in sessions])
        for v, (name, label) in enumerate(labels.items()):
            rng = np.random.default_rng([seed, *(crc32(text.encode()) for text in (name, *sessions))])
            kind, categories, period = about[name]
            which = np.array([categories.get(c, -1) for c in label[rows]])
            found = _tuning(response, which, list(categories), kind, period, least, n_halves, rng)
            for column, values in found.items():
                columns[column][at, v] = values
    columns["n_trials"] = columns["n_trials"].astype(np.int64)
    kinds = [about[name][0] for name in labels]
    ends = [[list(c)[i] if k == "binary" else "" for k, c, _ in about.values()] for i in (0, 1)]
    coords = {
        "neuron": np.array(trials.neurons, object), "variable": np.array(list(labels), object), "kind": ("variable", np.array(kinds, object)),
        "first": ("variable", np.array(ends[0], object)), "second": ("variable", np.array(ends[1], object)),
    }  # fmt: skip
    attrs = {**with_seed(origin(trials), seed), "least": least, "n_halves": n_halves, "signal": trials.window.signal}
    units = {"selectivity": "d'", "strength": _unit(kinds), "angle": "degrees", "n_trials": "trials"}
    return xr.Dataset({n: (("neuron", "variable"), x, {**attrs, "units": units.get(n, "")}) for n, x in columns.items()}, coords, attrs)


def related_to(variables, *, least=0.9):
    """The variable of the task that each neuron is related to most.

    Parameters
    ----------
    variables : xarray.Dataset
        As `neuron_variables` returns it; choose variables of one kind (`variables.sel(variable=["side", "choice"])`), whose strengths compare.
    least : float
        Reliability from which on a neuron counts as related to a variable.

    Returns
    -------
    xarray.DataArray
        (neuron,) str, the name of the variable with the largest strength among those that are reliable; "" if none is.

    Raises
    ------
    QfError
        If the variables are of several kinds.

    Examples
    --------
    >>> set(related_to(neuron_variables(trials)).values.tolist()) <= {"", "orientation"}
    True
    """
    kinds = sorted(set(variables["kind"].values.tolist()))
    if len(kinds) != 1:
        raise QfError(
            f"variables: expected those of one kind, whose strengths compare, found {', '.join(kinds)}. Choose: variables.sel(variable=[...])."
        )
    strength = np.where((variables["reliability"] >= least) & (variables["strength"] > 0), variables["strength"].values, -np.inf)
    names = np.where(np.isfinite(strength.max(1)), variables["variable"].values[strength.argmax(1)], "")
    return xr.DataArray(names.astype(object), {"neuron": variables["neuron"].values}, ("neuron",), "related to", {**variables.attrs, "least": least})


def strength_unit(kind):
    """The unit of the tuning strength of a variable of a kind, a str."""
    return {"binary": "d'", "category": "eta²", "circular": "1 - circular variance"}[kind]


def _unit(kinds):
    return strength_unit(kinds[0]) if len(set(kinds)) == 1 else ""


def _names(trials, variables):
    table = trials.table
    if variables is not None:
        names = [variables] if isinstance(variables, str) else list(variables)
        for name in names:
            if name not in table:
                raise UnknownKeyError(f"variable: {name!r} is no column of the trials; {did_you_mean(name, list(table))}")
    else:
        features = dict.fromkeys(f for s in trials.sessions for f in trials.features_of(s))
        names = [f for f in features if 2 <= table[f].nunique() <= MOST_VALUES] or ["condition"]
    if not names:
        raise QfError("variables: expected at least one, found none. Name a column of the table of trials.")
    return names


def _labels(column):
    """The values as text, "" where there is none."""
    return np.array(["" if v is None or v != v else f"{v:g}" if isinstance(v, float | np.floating) else str(v) for v in column.tolist()], object)


def _about(name, label, circular):
    """Kind of a variable, {category: its number} in order, and the period in degrees (0 unless circular)."""
    found = sorted(set(label) - {""})
    numbers = [_number(c) for c in found]
    if None not in numbers:
        found = [c for _, c in sorted(zip(numbers, found, strict=True))]
    if len(found) < 2:
        raise QfError(f"{name}: expected two values or more among the trials, found {', '.join(found) or 'none'}. Choose others, or more trials.")
    categories = {c: i for i, c in enumerate(found)}
    if len(found) == 2:
        return "binary", categories, 0
    if not circular:
        return "category", categories, 0
    if None in numbers:
        raise QfError(f"{name}: expected angles in degrees, found {found[0]!r}. Leave it out of circular=...")
    return "circular", categories, 360 if max(numbers) >= 180 else 180


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _together(trials):
    """{sessions: neurons}: the neurons that are in the same sessions, and so have the same trials."""
    homes, out = {}, {}
    for session in trials.sessions:
        for neuron in trials.neurons_of(session):
            homes.setdefault(neuron, []).append(session)
    for neuron, sessions in homes.items():
        out.setdefault(tuple(sessions), []).append(neuron)
    return out


def _responses(trials, sessions, neurons):
    """Responses of the neurons in the trials of these sessions, float64 (trial, neuron), NaN where the window is not whole."""
    parts = []
    for session in sessions:
        part = trials.subset(trials.positions(session)).of_neurons(neurons)
        ds = part.dataset()
        order = {n: i for i, n in enumerate(part.neurons)}
        response = np.where(ds["valid"].values.all(-1), mean_responses(ds, trials.window.signal), np.nan)
        parts.append(response[:, [order[n] for n in neurons]])
    return np.concatenate(parts)


def _tuning(response, which, categories, kind, period, least, n_halves, rng):
    """{column: (neuron,)} of one variable; `which` (trial,) is the number of the category, -1 for none."""
    response, which = response[which >= 0], which[which >= 0]
    count = _sums(np.isfinite(response), which, len(categories))
    keep = count >= least
    response = np.where(keep[which], response, np.nan)  # categories with too few trials say nothing
    enough = keep.sum(0) >= 2
    mean = _means(response, which, len(categories))
    turns = np.array([float(c) for c in categories]) / period if period else None
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        within = _sums((response - mean[which]) ** 2, which, len(categories)).sum(0) / (count * keep).sum(0).clip(1)
        sd, variance = np.sqrt(within), within + _spread(mean, keep * count)
        scale = {"binary": sd, "category": variance, "circular": np.ones_like(sd)}[kind]
        strength, reliability = [], []
        for _ in range(n_halves):
            half = _halved(which, rng)
            means = [_means(response[half == i], which[half == i], len(categories)) for i in (0, 1)]
            strength += [_agreement(*pair, kind, turns, keep * count) / scale for pair in (means, means[::-1])]
            reliability.append(_correlation(*means))
        found |= {"strength": _mean(strength), "reliability": _mean(reliability)}
        if kind == "binary":
            found |= {"selectivity": (mean[1] - mean[0]) / sd, "auroc": _auroc(response, which)}
        if kind == "circular":
            found["angle"] = np.angle(_vector(mean, turns)) / (2 * np.pi) % 1 * period
    found = {name: np.where(enough & np.isfinite(x), x, np.nan) for name, x in found.items()}
    best = np.where(np.isfinite(mean), mean, -np.inf).argmax(0)
    found["preferred"] = np.array([categories[b] if e else "" for b, e in zip(best, enough, strict=True)], object)
    found["n_trials"] = np.where(enough, (keep * count).sum(0), 0)
    return found


def _agreement(mean, other, kind, turns, count):
    """How much the means (category, neuron) of one half are tuned in the way of the other half, (neuron,)."""
    if kind == "binary":
        return (mean[1] - mean[0]) * np.sign(other[1] - other[0])
    if kind == "circular":
        towards = _vector(other, turns)
        return np.real(_vector(mean, turns) * np.conj(towards) / np.abs(towards))
    return _spread(mean, count, other)


def _spread(mean, count, other=None):
    """Covariance (neuron,) over the categories of two sets of means (category, neuron), weighted by trials; of one set the variance."""
    share = count / count.sum(0).clip(1)
    deviations = [m - np.nansum(share * m, 0) for m in (mean, mean if other is None else other)]
    return np.nansum(share * deviations[0] * deviations[1], 0)


def _correlation(mean, other):
    """Correlation of the tuning curves (category, neuron) of two halves, (neuron,)."""
    known = np.isfinite(mean) & np.isfinite(other)
    a, b = (np.where(known, m, 0) - (np.where(known, m, 0).sum(0) / known.sum(0)) for m in (mean, other))
    a, b = (np.where(known, m, 0) for m in (a, b))
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def _vector(mean, turns):
    """Vector sum of the means (category, neuron) over their sum, complex (neuron,)."""
    mean = np.nan_to_num(np.clip(mean, 0, None))
    return np.exp(2j * np.pi * turns) @ mean / mean.sum(0)


def _halved(which, rng):
    """0 or 1 for each trial: half of the trials of each category, at random; of an odd number, either half may have one more."""
    half = np.empty(len(which), int)
    for category in np.unique(which):
        at = rng.permutation(np.flatnonzero(which == category))
        half[at] = (np.arange(len(at)) + rng.integers(2)) % 2
    return half


def _sums(values, which, n):
    """Sums over the trials of each category, (category, neuron), without missing ones."""
    return (which == np.arange(n)[:, None]).astype(float) @ np.nan_to_num(values.astype(float))


def _means(response, which, n):
    count = _sums(np.isfinite(response), which, n)
    return np.where(count > 0, _sums(response, which, n) / np.maximum(count, 1), np.nan)


def _auroc(response, which):
    from scipy.stats import rankdata

    known = np.isfinite(response)
    ranks = np.nan_to_num(rankdata(response, axis=0, nan_policy="omit"))
    second = known & (which == 1)[:, None]
    n = second.sum(0)
    return ((ranks * second).sum(0) - n * (n + 1) / 2) / (n * (known.sum(0) - n))


def _mean(rows):
    """Mean over rows (neuron,), without the halvings in which a neuron had no answer."""
    rows = np.array(rows)
    known = np.isfinite(rows)
    return np.where(known, rows, 0).sum(0) / known.sum(0)
