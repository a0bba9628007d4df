"""Where a forecast is better than the best naive row: at which horizon, in which neurons, windows and stimuli. Computed from the sums of one pass."""

import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from .options import EvaluateOptions
from .scored import Scored
from .significance import DRAWS, intervals, levels, macro_means
from .sums import Sums


def best_naive(scored: Scored) -> str:
    """The name of the naive row with the least mse_ratio. It is chosen on the test part itself, which favours the naive rows.

    Raises
    ------
    QfError
        If the pass scored no naive row.

    Examples
    --------
    >>> from qf_toolkit.evaluation.scored import score
    >>> found = score([], split)
    >>> best_naive(found) in found.naive
    True
    """
    found = {name: np.mean([s["mse_ratio"] for s in scored.sessions[name]]) for name in scored.naive if name in scored.sessions}
    if not found:
        raise QfError("reference: expected naive rows to measure by, found none. Score with naive=True, or name a reference.")
    return min(found, key=lambda name: found[name])


def skill_by_horizon(scored: Scored, reference: str | None = None, *, n: int = DRAWS, seed: int = EvaluateOptions.seed) -> pd.DataFrame:
    """Skill of each row at each horizon step: 1 - MSE(row, step) / MSE(reference, step), averaged over sessions.

    Parameters
    ----------
    scored : Scored
        As `score` returns it.
    reference : str, optional
        Name of the row to measure by. If None, the naive row that `best_naive` names.
    n, seed : int
        Number and seed of the bootstrap's draws.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster and step. Columns: forecaster, step (from 1), time_s (seconds from the onset to the step's end), frames (scored at
        this step), mse (squared units of the signal), crps (its units; NaN where nothing was sampled), skill, and skill_from and skill_to, the ends of its 95 % interval from a
        bootstrap over animals, sessions and blocks of trials (see `significance`). All are means over sessions. attrs: reference, data, simulated,
        models, seeds, split, n_animals, n_sessions, n_blocks, n_trials, draws, draw_seed.

    Raises
    ------
    UnknownKeyError
        If the pass holds no row of the name `reference`.
    QfError
        If no reference is named and there is no naive row.

    Examples
    --------
    >>> from qf_toolkit.evaluation.scored import score
    >>> found = skill_by_horizon(score([forecaster], split), n=200)
    >>> found.loc[found["forecaster"] == "QuantFormer", "time_s"].tolist()[:2]
    [0.1, 0.2]
    """
    return _by_key(scored, scored.by_step, reference, n, seed)


def by_group(scored: Scored, reference: str | None = None, *, n: int = DRAWS, seed: int = EvaluateOptions.seed) -> pd.DataFrame:
    """Skill of each row in groups of windows: by the neurons' signal-to-noise ratio, in active and inactive windows, and by stimulus category.

    Parameters
    ----------
    scored, reference, n, seed
        As for `skill_by_horizon`.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster and group. Columns: forecaster, grouping, group (see `session_scores.group_keys`), frames (scored in the group), mse, r,
        crps, skill, skill_from, skill_to; NaN for a group without windows. The signal-to-noise ratio comes from the training part alone; whether a
        window is active is known only afterwards, so no forecaster can choose by it. attrs as for `skill_by_horizon`.

    Raises
    ------
    UnknownKeyError, QfError
        As `skill_by_horizon`.

    Examples
    --------
    >>> from qf_toolkit.evaluation.scored import score
    >>> found = by_group(score([], split), "training mean", n=200)
    >>> found.loc[found["forecaster"] == "ridge, own trace", "group"].tolist()
    ['low', 'middle', 'high', 'active', 'inactive', 'drifting_gratings']
    """
    return _by_key(scored, scored.by_group, reference, n, seed)


def informative_to(skill: pd.DataFrame) -> pd.DataFrame:
    """How far ahead each row is informative: up to the step before the interval of its skill first meets zero.

    Parameters
    ----------
    skill : pandas.DataFrame
        As `skill_by_horizon` returns it.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster. Columns: informative_s (seconds from the onset; 0 if the first step's interval meets zero, NaN without a skill) and
        to_end (True if no step's interval meets zero, so that the row is informative at least so far). attrs of `skill`.

    Examples
    --------
    >>> skill = pd.DataFrame({"forecaster": ["a"] * 3, "time_s": [0.1, 0.2, 0.3], "skill": [0.4, 0.3, 0.1], "skill_from": [0.2, 0.1, -0.1]})
    >>> float(informative_to(skill).loc["a", "informative_s"])
    0.2
    """
    found = {}
    for name, rows in skill.groupby("forecaster", sort=False):
        if np.isnan(rows["skill"].to_numpy(np.float64)).all():
            found[name] = (np.nan, False)
            continue
        known = rows.dropna(subset="skill").sort_values("time_s")
        above = (known["skill_from"] > 0).to_numpy()
        n = len(above) if above.all() else int(np.argmin(above))
        found[name] = (float(known["time_s"].iloc[n - 1]) if n else 0.0, n == len(above))
    out = pd.DataFrame.from_dict(found, orient="index", columns=["informative_s", "to_end"])
    out.index.name, out.attrs = "forecaster", dict(skill.attrs)
    return out


def _by_key(scored: Scored, sums: Sums, reference: str | None, n: int, seed: int) -> pd.DataFrame:
    reference = best_naive(scored) if reference is None else reference
    if reference not in sums.squared:
        raise UnknownKeyError(f"reference: {reference!r} is no row of this pass; {did_you_mean(reference, list(sums.squared))}")
    names, units, keys = list(sums.squared), scored.units, sums.keys
    of_reference = sums.squared[reference]
    lower = np.concatenate([of_reference - sums.squared[name] for name in names], 1)
    below = np.tile(of_reference, (1, len(names)))

    def skills(counts):
        return macro_means(units, lower, below, counts)

    once = np.ones((1, len(units)), np.int32)
    low, high = intervals(units, skills, n, seed)
    tables = []
    for i, name in enumerate(names):
        at = slice(i * len(keys), (i + 1) * len(keys))
        columns = {"mse": (sums.squared[name], sums.frames)}
        columns |= {"r": (sums.r[name], sums.windows)} if sums.r else {}
        columns |= {"crps": (sums.crps[name], sums.frames)} if name in sums.crps else {}
        found = {column: macro_means(units, *of, once)[0] for column, of in columns.items()}
        found = {**found, "crps": found.get("crps", np.nan), "skill": skills(once)[0][at], "skill_from": low[at], "skill_to": high[at]}
        tables.append(pd.DataFrame({"forecaster": name, **keys, "frames": sums.frames.sum(0).astype(int), **found}))
    out = pd.concat(tables, ignore_index=True)
    shared = ("data", "simulated", "models", "seeds", "split")
    out.attrs = {"reference": reference, **{k: scored.facts[k] for k in shared if k in scored.facts}, **levels(units, scored.facts["n_trials"])}
    out.attrs |= {"draws": n, "draw_seed": seed}
    return out
