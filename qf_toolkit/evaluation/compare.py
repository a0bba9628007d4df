"""By how much one forecaster is better than another, and how sure that is: paired over neurons."""

import pandas as pd

from ..errors import QfError, UnknownKeyError
from ..training.forecaster import origin
from . import metrics
from .naive import naive_forecasters
from .table import _forecast, _models, _named, _truth


def per_neuron_scores(forecasters, trials):
    """mse and r of every neuron, for a bootstrap over neurons (`metrics.paired_bootstrap`).

    Parameters
    ----------
    forecasters : Forecaster, list or dict, as in `evaluate`
    trials : Trials
        Unseen ones: the test part.

    Returns
    -------
    pandas.DataFrame
        A row a (session, neuron); columns (metric, forecaster), so that `scores["mse"]` is neuron x forecaster. NaN where nothing can be scored.

    Raises
    ------
    LeakageError
        As `evaluate`.
    """
    rows = _named(forecasters)
    for forecaster in rows.values():
        forecaster.check_unseen(trials)
    tables = []
    for part in trials.by_session():
        truth, mask, _ = _truth(part)
        index = pd.MultiIndex.from_product([part.sessions, part.neurons_of(part.sessions[0])], names=["session", "neuron"])
        forecasts = {name: _forecast(f, part, truth, mask) for name, f in rows.items()}
        columns = {
            (metric, name): score(forecast, truth, mask, per_neuron=True)
            for metric, score in (("mse", metrics.mse), ("r", metrics.pearson))
            for name, forecast in forecasts.items()
        }
        tables.append(pd.DataFrame(columns, index=index))
    return pd.concat(tables)


def compare(forecasters, split, *, seed=0):
    """By how much each forecaster beats each naive row on the test part, with a paired bootstrap over neurons.

    Parameters
    ----------
    forecasters : Forecaster, list or dict, as in `evaluate`
    split : Split
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        A row a pair (forecaster, than). Columns: mse_lower, r_higher (means over neurons, positive where the forecaster is better), each with
        the ends of its 95 % interval, *_from and *_to. A neuron counts once in each session it was recorded in. attrs: not_applicable, the rows
        that can't be made on this split, and why.

    Raises
    ------
    LeakageError
        As `evaluate`.
    QfError
        If a forecaster has the name of a naive row.
    """
    mine = _named(forecasters)
    naive, missing = {}, {}
    for row in naive_forecasters():
        if row.name in mine:
            raise QfError(f"{row.name!r}: expected a name of its own, found that of a built-in row. Pass a dict with another name.")
        try:
            row.fit(split).predict(split.test)
            naive[row.name] = row
        except UnknownKeyError as error:
            missing[row.name] = str(error)
    scores = per_neuron_scores({**mine, **naive}, split.test)
    rows = {}
    for name in mine:
        for other in naive:
            row = rows[name, other] = {}
            for column, metric, sign in (("mse_lower", "mse", -1), ("r_higher", "r", 1)):
                better = sign * scores[metric][name], sign * scores[metric][other]
                row[column], row[f"{column}_from"], row[f"{column}_to"] = metrics.paired_bootstrap(*(b.to_numpy() for b in better), seed=seed)
    out = pd.DataFrame(rows).T
    out.index.names = ["forecaster", "than"]
    out.attrs = {"not_applicable": missing, **origin(split.test), **_models({**mine, **naive}), "draw_seed": seed}
    return out
