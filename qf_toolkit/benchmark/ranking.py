"""Who is first in a benchmark, and how sure that is."""

import numpy as np
import pandas as pd

from ..evaluation.compare import compare
from ..evaluation.directions import HIGHER, LOWER
from ..evaluation.horizon import by_group, informative_to, skill_by_horizon
from ..evaluation.over_runs import leaderboard, wilcoxon_over_runs
from ..evaluation.scored import Scored
from ..evaluation.sums import Sums
from .options import CALM_TABLES
from .roster import BOUND_NAME, NAIVE
from .tables import COLUMNS, Results

CLAIMED = {
    "table3": "+ quantisation",
    "table4": "all in pre-training",
    "tableA2": "K = 32",
    "tableA3": "K = 32",
    **dict.fromkeys(CALM_TABLES, "CalM"),
}  # in all others: QuantFormer
BEYOND = 10.0  # an infinite score is ranked as this many times the largest finite one
SHARED = 0.9  # share of the most frames of a step: with fewer, a step is of other sessions
ERRORS = {"forecast": "mse_ratio", "activation": "balanced_error"}  # balanced_error: 1 - balanced accuracy


def as_scored(results: Results) -> Scored | None:
    """The runs of forecasts as one pass over the test parts, for comparisons and for skill by horizon and by group.

    Parameters
    ----------
    results : Results

    Returns
    -------
    Scored or None
        None if no row has a result for every subject and stimulus of which the naive rows have one. Each recording with each stimulus counts as a
        session; the sums are means over seeds. A row that failed somewhere else is left out.
    """
    runs = results.runs[results.runs["task"] == "forecast"]
    runs = runs[~_at(runs, without_naive(results, "forecast"))]
    places = list(dict.fromkeys(zip(runs["subject"], runs["stimulus"], strict=True)))
    rows = []
    for row in results.order:
        of = runs[runs["row"] == row]
        if len(of) and not any(of["error"]) and len(of.groupby(["subject", "stimulus"])) == len(places):
            rows.append(row)
    if not rows:
        return None
    found = {}
    for place in places:
        at = runs[(runs["subject"] == place[0]) & (runs["stimulus"] == place[1])]
        found[place] = {row: [results.by_run[r] for r in at.loc[at["row"] == row, "run"]] for row in rows}
    units = []
    for (_, stimulus), of in found.items():
        shared = pd.DataFrame(_first(of)["blocks"]["units"])
        units.append(shared.assign(session=shared["session"] + f", {stimulus}"))
    of_naive = set(runs.loc[runs["naive"], "row"])
    naive = [row for row in rows if row in of_naive]
    facts = {
        "data": runs.attrs["data"], "simulated": int(results.plan.simulated), "models": {}, "seeds": {}, "not_applicable": {},
        "split": _first(next(iter(found.values())))["facts"]["split"], "n_trials": sum(_first(of)["facts"]["n_trials"] for of in found.values()),
    }  # fmt: skip

    def joined(*where):
        return {row: np.concatenate([_mean(of[row], row, *where) for of in found.values()]) for row in rows}

    return Scored(
        rows=dict.fromkeys([*(row for row in rows if row not in of_naive), *naive]), built_in=naive, missing={},
        sessions={row: [_mean_scores(of[row], row) for of in found.values()] for row in rows}, zero_mse=[], units=pd.concat(units, ignore_index=True),
        squared=joined("squared"), r=joined("r"), neurons={}, by_step=_sums(found, rows, "by_step", ["step"]),
        by_group=_sums(found, rows, "by_group", ["grouping", "group"]), pit={}, kept={}, facts=facts,
    )  # fmt: skip


def _first(of):
    """A result of a place; what all rows share is the same in each."""
    return next(iter(of.values()))[0]


def _own(result, row, *where):
    """An entry that a result holds by row. A model's run holds that of one row, whatever its name in the table is."""
    entry = result
    for name in where:
        entry = entry[name]
    return entry.get(row, None if result["run"]["model"] == NAIVE else next(iter(entry.values()), None))


def _mean(of_row, row, *where):
    """Mean over seeds of an array that results hold by row; None if one lacks it."""
    arrays = [_own(result, row, "blocks", *where) for result in of_row]
    return None if any(a is None for a in arrays) else np.mean(np.asarray(arrays, float), 0)


def _mean_scores(of_row, row):
    scores = pd.DataFrame([_own(result, row, "rows")["scores"] for result in of_row]).astype(float)
    return scores.mean().to_dict()


def _sums(found, rows, which, names):
    """The `Sums` of all places. A place with fewer keys (shorter windows, another stimulus) counts 0 at the others."""
    tables = [pd.DataFrame(_first(of)["blocks"][which]["keys"]) for of in found.values()]
    keys = pd.concat(tables).drop_duplicates(names).reset_index(drop=True)
    index = pd.MultiIndex.from_frame(keys[names])
    places = [index.get_indexer(pd.MultiIndex.from_frame(table[names])) for table in tables]

    def spread(arrays):
        out = []
        for array, at in zip(arrays, places, strict=True):
            out.append(np.zeros((len(array), len(keys))))
            out[-1][:, at] = array
        return np.concatenate(out)

    def shared(what):
        return spread([np.asarray(_first(of)["blocks"][which][what], float) for of in found.values()])

    def of_rows(what):
        parts = {row: [_mean(of[row], row, which, what) for of in found.values()] for row in rows}
        return {row: spread(arrays) for row, arrays in parts.items() if all(a is not None for a in arrays)}

    windows = shared("windows") if which == "by_group" else np.zeros((0, len(keys)))
    return Sums(keys, shared("frames"), windows, of_rows("squared"), of_rows("crps"), of_rows("r"))


def without_naive(results: Results, task: str) -> list[tuple[str, str]]:
    """The (subject, stimulus) of a task in which the naive rows were planned, and failed: nothing can be measured by them there."""
    of = results.runs[(results.runs["task"] == task) & results.runs["naive"]]
    failed = of.assign(failed=of["error"] != "").groupby(["subject", "stimulus"], sort=False)["failed"].all()
    return list(failed.index[failed.to_numpy(bool)].to_frame().itertuples(index=False, name=None))


def _at(runs, places):
    """Whether each row of a table is at one of the places, bool (row,)."""
    return np.array([place in places for place in zip(runs["subject"], runs["stimulus"], strict=True)], bool)


def statistics(results: Results, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Every statistic of a benchmark that there is data for, by name.

    Parameters
    ----------
    results : Results
    seed : int
        Of the bootstraps.

    Returns
    -------
    dict of str to pandas.DataFrame
        leaderboard, wilcoxon, step_r (tables of populations alone; see `r_by_step`), differences (see `evaluation.compare`), horizon (see `evaluation.horizon.skill_by_horizon`), and groups (see
        `evaluation.horizon.by_group`), those that can be made of the runs. attrs of each: simulated and what its function tells.
    """
    found = {"leaderboard": leaders(results, seed), "wilcoxon": wilcoxon(results)}
    if results.plan.table in CALM_TABLES:
        found["step_r"] = r_by_step(results)
    scored = as_scored(results)
    if scored is not None and scored.naive:
        found |= {"horizon": skill_by_horizon(scored, seed=seed), "groups": by_group(scored, seed=seed)}
        if scored.models:
            found["differences"] = compare(scored, None, seed=seed)
    found = {name: table for name, table in found.items() if table is not None}
    for table in found.values():
        table.attrs["simulated"] = results.plan.simulated
    return found


def leaders(results: Results, seed: int = 0) -> pd.DataFrame | None:
    """Skill and win rate of every row over the runs of each task; see `evaluation.over_runs.leaderboard`.

    The error is mse_ratio for forecasts and 1 - balanced accuracy for classifiers.

    Parameters
    ----------
    results : Results
    seed : int
        Of the bootstrap over runs.

    Returns
    -------
    pandas.DataFrame or None
        The leaderboards of the tasks below each other, with a column `task`, one `than`, the best naive row, and one `left_out`, what `without_naive`
        tells, as text; None where no naive row has an error in every other run.
    """
    tables = []
    for task, error in ERRORS.items():
        frame, lost = _tidy(results, task), without_naive(results, task)
        frame = frame[~_at(frame, lost)].copy()
        if "balanced_accuracy" in frame:
            frame["balanced_error"] = 1 - frame["balanced_accuracy"]
        if error not in frame:
            continue
        whole = frame.assign(known=frame[error].notna()).groupby("model", sort=False)[["naive", "known"]].all()
        naive = whole.index[whole.all(axis=1)].tolist()
        if naive:
            table = leaderboard(frame.drop(columns="naive"), naive, error, seed=seed)
            left_out = "; ".join(map(", ".join, lost))
            tables.append(table.assign(task=task, than=table.attrs["reference"], runs=table.attrs["n_runs"], left_out=left_out))
    return pd.concat(tables) if tables else None


def wilcoxon(results: Results) -> pd.DataFrame | None:
    """The paper's test, for each score of the table: one-sided Wilcoxon over runs of whether QuantFormer is better, with Holm's correction.

    Parameters
    ----------
    results : Results

    Returns
    -------
    pandas.DataFrame or None
        The tests of `evaluation.over_runs.wilcoxon_over_runs` below each other, with columns `task` and `score`; each score is corrected for its own
        rows. A run whose score is missing is left out for that row, and counted. An infinite score is worse than every finite one, and two of them are
        equal. None if the claimed row has no score.
    """
    claimed, tables = CLAIMED.get(results.plan.table, "QuantFormer"), []
    for task, columns in COLUMNS.get(results.plan.table, {}).items():
        frame = _tidy(results, task)
        for score in (c for c in columns if c in frame and c in LOWER + HIGHER):
            known = frame[["model", "subject", "stimulus", "seed", score]]
            names = set(known.loc[known[score].notna(), "model"])
            known = known[known["model"].isin(names)]
            infinite = np.isinf(known[score])
            worst = BEYOND * known.loc[~infinite, score].abs().max()
            if claimed in names and len(names) > 1 and np.isfinite(worst):
                finite = known.assign(**{score: known[score].clip(-worst, worst)})
                found = wilcoxon_over_runs(finite, claimed, score, lower_is_better=score in LOWER)
                by_name = infinite.groupby(known["model"]).any()
                worse = np.where(by_name[found.index], np.inf, 0.0) - (np.inf if by_name[claimed] else 0.0)  # NaN where both are infinite
                tables.append(found.assign(task=task, score=score, better_by=found["better_by"] + worse))
    if not tables:
        return None
    out = pd.concat(tables)
    out.attrs = {"reference": claimed, "alternative": f"{claimed} is better"}
    return out


def r_by_step(results: Results) -> pd.DataFrame | None:
    """The correlation over trials of each row at the first, the middle and the last horizon step; see `evaluation.scores.step_r`.

    Parameters
    ----------
    results : Results

    Returns
    -------
    pandas.DataFrame or None
        Indexed by row, a column for each step by the seconds to its end; means over neurons, sessions, places and seeds. None where nothing was forecast.
    """
    runs, found, times = results.runs[(results.runs["task"] == "forecast") & (results.runs["error"] == "")], {}, []
    for row, of in runs.groupby("row", sort=False):
        sessions = []
        for name in of["run"]:
            blocks = results.by_run[name]["blocks"]
            times = max(times, blocks["by_step"]["keys"]["time_s"], key=len)
            sessions += [np.array(r, float) for r in _own(results.by_run[name], row, "blocks", "step_r")]
        longest = max(map(len, sessions))
        found[row] = np.nanmean([np.pad(r, (0, longest - len(r)), constant_values=np.nan) for r in sessions], 0)
    if not found:
        return None
    shown = sorted({0, (len(times) - 1) // 2, len(times) - 1})
    table = {row: [r[i] if i < len(r) else np.nan for i in shown] for row, r in found.items()}
    return pd.DataFrame(table, [round(times[i], 3) for i in shown]).T.reindex([row for row in results.order if row in table])


def ahead(skill: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """How far ahead each row is informative, and in which windows it is better than the best naive row.

    Parameters
    ----------
    skill, groups : pandas.DataFrame
        As `skill_by_horizon` and `by_group` return them.

    Returns
    -------
    pandas.DataFrame
        Indexed by row. Columns: informative_s and to_end (see `informative_to`), first and last (the skill at the first step, and at the last one at
        which as much is scored: in longer windows than the shortest fewer sessions are left), and the skill in each third of the neurons by signal-to-noise ratio and in active and inactive windows. attrs: reference.
    """
    of = groups[groups["grouping"].isin(["trace_snr", "activity"])]
    wide = of.set_index(["forecaster", "group"])["skill"].unstack("group").reindex(columns=list(dict.fromkeys(of["group"])))  # noqa: PD010
    known = skill.dropna(subset="skill")
    steps = known[known["frames"] >= SHARED * known["frames"].max()].groupby("forecaster", sort=False)["skill"]
    out = informative_to(skill).join(pd.DataFrame({"first": steps.first(), "last": steps.last()})).join(wide)
    out.attrs = {"reference": skill.attrs["reference"]}
    return out


def _tidy(results, task):
    """One row per run, seed and table row, as `evaluation.over_runs` takes them."""
    of = results.runs[(results.runs["task"] == task) & (results.runs["row"] != BOUND_NAME)]  # which does not compete
    return of.drop(columns="run").rename(columns={"row": "model"})
