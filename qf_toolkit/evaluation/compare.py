"""By how much one forecaster is better than another, and how sure that is: paired, over animals, sessions and blocks of trials."""

import numpy as np
import pandas as pd

from ..errors import QfError
from ..estimators.interface import origin
from . import scores as metrics
from .options import EvaluateOptions
from .scored import Scored, forecast_of, models_of, named, score, truth_of
from .significance import DRAWS, intervals, levels, macro_means

COLUMNS = ("ratio_lower", "r_higher", "mse_lower")


def per_neuron_scores(forecasters, trials=None):
    """mse and r of every neuron, to look at how they are spread; neurons of a session are no independent witnesses.

    Parameters
    ----------
    forecasters : Forecaster, list or dict, as in `evaluate`; or a Scored, of which nothing is forecast again
    trials : Trials
        Unseen ones: the test part. Not needed with a Scored.

    Returns
    -------
    pandas.DataFrame
        A row a (session, neuron); columns (metric, forecaster), so that `scores["mse"]` is neuron x forecaster. NaN where nothing can be scored.

    Raises
    ------
    LeakageError
        As `evaluate`.
    """
    if isinstance(forecasters, Scored):
        of_rows = forecasters.neurons
        out = pd.DataFrame({(metric, name): found[metric] for metric in ("mse", "r") for name, found in of_rows.items()})
        out.attrs = {n: forecasters.facts[n] for n in ("data", "simulated", "models", "seeds")}
        return out
    if trials is None:
        raise QfError("trials: expected Trials to score forecasters on, found nothing. Pass split.test.")
    if trials is None:
        raise QfError("trials: expected Trials to score forecasters on, found nothing. Pass split.test.")
    rows = named(forecasters)
    for forecaster in rows.values():
        forecaster.check_unseen(trials)
    tables = []
    for part in trials.by_session():
        truth, mask, _ = truth_of(part)
        index = pd.MultiIndex.from_product([part.sessions, part.neurons_of(part.sessions[0])], names=["session", "neuron"])
        forecasts = {name: forecast_of(f, part, truth, mask)[0] for name, f in rows.items()}
        columns = {
            (metric, name): of(forecast, truth, mask, per_neuron=True)
            for metric, of in (("mse", metrics.mse), ("r", metrics.pearson))
            for name, forecast in forecasts.items()
        }
        tables.append(pd.DataFrame(columns, index=index))
    out = pd.concat(tables)
    out.attrs = {**origin(trials), **models_of(rows)}
    return out


def compare(forecasters, split, *, seed=EvaluateOptions.seed):
    """By how much each forecaster beats each naive row on the test part, with a 95 % interval.

    Parameters
    ----------
    forecasters : Forecaster, list or dict, as in `evaluate`; or a Scored, of which nothing is forecast again
    split : Split
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        A row a pair (forecaster, than). Columns: ratio_lower, r_higher and mse_lower, the differences of the table's columns mse_ratio, r and mse
        (means over sessions, positive where the forecaster is better), each with the ends of its interval, *_from and *_to: a bootstrap that draws
        animals, sessions and blocks of trials, paired (see `significance`). attrs: n_animals, n_sessions, n_blocks, n_trials, and not_applicable,
        the rows that can't be made on this split, and why.

    Raises
    ------
    LeakageError
        As `evaluate`.
    QfError
        If a forecaster has the name of a naive row.

    Examples
    --------
    >>> differences = compare([forecaster], split)
    >>> differences[["ratio_lower_from", "ratio_lower", "ratio_lower_to"]].columns.size
    3
    """
    scored = forecasters if isinstance(forecasters, Scored) else score(forecasters, split)
    pairs = [(name, other) for name in scored.models for other in scored.naive]
    out = pd.DataFrame(index=pd.MultiIndex.from_tuples(pairs, names=["forecaster", "than"]))
    facts = scored.facts
    out.attrs = {
        **{n: facts[n] for n in ("data", "simulated", "models", "seeds", "split", "not_applicable") if n in facts},
        **levels(scored.units, facts["n_trials"]), "draws": DRAWS, "draw_seed": seed,
    }  # fmt: skip
    if not pairs:
        return out.assign(**{f"{c}{end}": pd.Series(dtype=float) for c in COLUMNS for end in ("", "_from", "_to")})
    units, better, below = scored.units, [], []
    for sums, denominator, sign in ((scored.squared, "reference", -1), (scored.r, "windows", 1), (scored.squared, "frames", -1)):  # as in COLUMNS
        better += [sign * (sums[name] - sums[other]) for name, other in pairs]
        below += [units[denominator].to_numpy(np.float64)] * len(pairs)
    better, below = np.stack(better, 1), np.stack(below, 1)

    def differences(counts):
        return macro_means(units, better, below, counts)

    found = (differences(np.ones((1, len(units)), np.int32))[0], *intervals(units, differences, seed=seed))
    for i, column in enumerate(COLUMNS):
        for end, values in zip(("", "_from", "_to"), found, strict=True):
            out[f"{column}{end}"] = values[i * len(pairs) : (i + 1) * len(pairs)]
    return out


def marks(differences):
    """What the differences of `compare` allow to say of each forecaster.

    Parameters
    ----------
    differences : pandas.DataFrame
        What `compare` returned.

    Returns
    -------
    dict
        {column of the table: {forecaster: "+" (better than every naive row, each interval above 0) or "-" (worse than one, its interval below 0)}},
        of mse, mse_ratio and r; nothing where neither holds.
    """
    found = {}
    for column, difference in (("mse", "mse_lower"), ("mse_ratio", "ratio_lower"), ("r", "r_higher")):
        for name, rows in differences.groupby(level=0, sort=False):
            if (rows[f"{difference}_from"] > 0).all():
                found.setdefault(column, {})[name] = "+"
            elif (rows[f"{difference}_to"] < 0).any():
                found.setdefault(column, {})[name] = "-"
    return found


def show_differences(differences):
    """The differences of `compare` as text, at most 100 columns wide: each with its interval, and * where that excludes 0."""
    a = differences.attrs
    lines = [f"95 % intervals, drawn over {_counted(a)}.", "Positive: better. *: the interval excludes 0."]
    if a["n_animals"] == 1:
        lines.append("Of one animal they say nothing of others.")
    for name, rows in differences.groupby(level=0, sort=False):
        shown = pd.DataFrame(
            {c: [_interval(*v) for v in rows[[c, f"{c}_from", f"{c}_to"]].to_numpy()] for c in COLUMNS}, [t[:24] for _, t in rows.index]
        )
        lines += ["", f"{shortened(name, 90)} against", shown.to_string()]
    lines += ["", "ratio_lower: of mse_ratio, r_higher: of r, mse_lower: of mse"]
    return "\n".join([*lines, *(f"not applicable: {name} ({why})" for name, why in a["not_applicable"].items())])


def shortened(name, most):
    """A name of at most `most` characters, its middle left out."""
    return name if len(name) <= most else f"{name[: (most - 3) // 2]}...{name[-((most - 2) // 2) :]}"


def _counted(a):
    words = {"n_animals": "animal", "n_sessions": "session", "n_blocks": "block"}
    parts = [f"{a[n]} {word}{'s' * (a[n] != 1)}" for n, word in words.items()]
    return f"{', '.join(parts)} of {a['n_trials']} trials"


def _interval(value, low, high):
    return f"{value:.3g} [{low:.3g}, {high:.3g}]{'*' if low > 0 or high < 0 else ' '}"
