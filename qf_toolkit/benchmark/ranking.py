"""Who is first in a benchmark, and how sure that is."""

import numpy as np
import pandas as pd

from ..evaluation.compare import compare
from ..evaluation.scored import Scored
from .tables import Results


def as_scored(results: Results) -> Scored | None:
    """The runs of forecasts as one pass over the test parts, for paired comparisons: sums over blocks of trials, the mean over seeds.

    Parameters
    ----------
    results : Results

    Returns
    -------
    Scored or None
        None if no row has a result for every subject and stimulus. Each recording with each stimulus counts as a session. A row that failed
        somewhere is left out.
    """
    runs = results.runs[results.runs["task"] == "forecast"]
    places = list(runs.groupby(["subject", "stimulus"], sort=False).groups)
    units, sums = [], {name: {} for name in ("squared", "r")}
    rows = []
    for row in results.order:
        of = runs[runs["row"] == row]
        if len(of) and not any(of["error"]) and len(of.groupby(["subject", "stimulus"])) == len(places):
            rows.append(row)
    if not rows:
        return None
    for place, at in runs.groupby(["subject", "stimulus"], sort=False):
        for row in rows:
            blocks = [results.by_run[r]["blocks"] for r in at.loc[at["row"] == row, "run"]]
            for name, kept in sums.items():
                own = [b[name].get(row) or next(iter(b[name].values())) for b in blocks]
                kept.setdefault(row, []).append(np.mean(own, 0))
        found = pd.DataFrame(results.by_run[at.loc[at["row"] == rows[0], "run"].iloc[0]]["blocks"]["units"])
        units.append(found.assign(session=found["session"] + f", {place[1]}"))
    of_naive = set(runs.loc[runs["naive"], "row"])
    naive = [row for row in rows if row in of_naive]
    units = pd.concat(units, ignore_index=True)
    joined = {name: {row: np.concatenate(v) for row, v in kept.items()} for name, kept in sums.items()}
    n_trials = sum(results.by_run[r]["facts"]["n_trials"] for r in runs.drop_duplicates(["subject", "stimulus"])["run"])
    facts = {"data": " ".join(sorted({r.data for r in results.plan.runs.values()})), "simulated": int(results.plan.simulated), "models": {},
             "seeds": {}, "n_trials": n_trials, "not_applicable": {}}  # fmt: skip
    return Scored(
        rows=dict.fromkeys([*(r for r in rows if r not in naive), *naive]), built_in=naive, missing={}, sessions={}, zero_mse=[], units=units,
        squared=joined["squared"], r=joined["r"], neurons={}, kept={}, facts=facts,
    )  # fmt: skip


def differences(results: Results, seed: int = 0) -> pd.DataFrame | None:
    """By how much each model beats each naive row, with intervals over animals, recordings and blocks of trials; see `evaluation.compare`.

    Parameters
    ----------
    results : Results
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame or None
        None if there are no forecasts to compare.
    """
    scored = as_scored(results)
    return None if scored is None or not scored.models or not scored.naive else compare(scored, None, seed=seed)
