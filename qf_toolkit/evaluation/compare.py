"""By how much one forecaster is better than another, and how sure that is. Differences are paired, over animals, sessions and blocks of trials."""

import numpy as np
import pandas as pd

from ..errors import QfError
from ..estimators.interface import origin
from . import scores as metrics
from .measured import forecast_of, truth_of
from .options import EvaluateOptions
from .scored import Scored, models_of, named, score
from .significance import DRAWS, intervals, levels, macro_means

COLUMNS = ("ratio_lower", "r_higher", "mse_lower")


def per_neuron_scores(forecasters, trials=None):
    """Score every neuron by mse and r, to see how the scores are spread. Neurons of one session are not independent samples.

    Parameters
    ----------
    forecasters : Forecaster, list, dict or Scored
        As in `evaluate`. A Scored is used as it is: nothing is forecast again.
    trials : Trials, optional
        Trials that no forecaster has seen: the test part. Not needed with a Scored.

    Returns
    -------
    pandas.DataFrame
        One row per (session, neuron); columns (metric, forecaster), so that `scores["mse"]` is neuron x forecaster. mse is in squared units of the
        signal. NaN where nothing can be scored.

    Raises
    ------
    LeakageError
        If a forecaster saw a frame of these trials in training.
    QfError
        If two rows share a name, or a forecaster lacks frames or returns NaN where the truth can be scored.
    """
    if isinstance(forecasters, Scored):
        of_rows = forecasters.neurons
        out = pd.DataFrame({(metric, name): found[metric] for metric in ("mse", "r") for name, found in of_rows.items()})
        out.attrs = {n: forecasters.facts[n] for n in ("data", "simulated", "models", "seeds")}
        return out
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
    forecasters : Forecaster, list, dict or Scored
        As in `evaluate`. A Scored is used as it is: nothing is forecast again.
    split : Split
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per pair (forecaster, than), where `than` is a naive row. Columns: ratio_lower, r_higher and mse_lower, the differences in the table's
        columns mse_ratio, r and mse (means over sessions, positive if the forecaster is better). *_from and *_to are the ends of each interval, from
        a paired bootstrap over animals, sessions and blocks of trials (see `significance`). attrs: data, simulated, models, seeds, split, n_animals,
        n_sessions, n_blocks, n_trials, draws, draw_seed, and not_applicable ({row: why it could not be made on this split}).

    Raises
    ------
    LeakageError
        If a forecaster saw a frame of the test windows in training.
    QfError
        If a forecaster has the name of a naive row, lacks frames, or returns NaN where the truth can be scored, or nothing can be scored.

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
    """Mark the forecasters that are surely better than all naive rows, or surely worse than one.

    Parameters
    ----------
    differences : pandas.DataFrame
        As `compare` returns it.

    Returns
    -------
    dict
        {column of the table: {forecaster: mark}} for the columns mse, mse_ratio and r. "+" means better than every naive row (every interval lies
        above 0), "-" means worse than one (an interval lies below 0). A forecaster without a mark is left out.
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
    """Format the differences of `compare` as text of at most 100 columns. Each has its interval, and a * if the interval excludes 0.

    Parameters
    ----------
    differences : pandas.DataFrame
        As `compare` returns it.

    Returns
    -------
    str
    """
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
    """Shorten a name to at most `most` characters: dots replace its middle."""
    return name if len(name) <= most else f"{name[: (most - 3) // 2]}...{name[-((most - 2) // 2) :]}"


def _counted(a):
    words = {"n_animals": "animal", "n_sessions": "session", "n_blocks": "block"}
    parts = [f"{a[n]} {word}{'s' * (a[n] != 1)}" for n, word in words.items()]
    return f"{', '.join(parts)} of {a['n_trials']} trials"


def _interval(value, low, high):
    return f"{value:.3g} [{low:.3g}, {high:.3g}]{'*' if low > 0 or high < 0 else ' '}"
