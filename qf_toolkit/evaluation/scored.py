"""One pass over the test part: each row forecasts each session once, and the pass keeps all that tables, comparisons and figures need.

Only one session at a time is in memory. The pass keeps no forecasts but sums over the session, over its blocks of trials and over each neuron, and
the few observations that a figure shows. So the forecasts of all sessions never lie in memory together.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..errors import QfError, UnknownKeyError
from ..estimators.ceiling import SimulatorCeiling
from ..estimators.interface import origin
from ..estimators.naive import ContextMean, CopyLast, Zero
from ..estimators.residuals import WithResiduals
from ..estimators.rows import naive_forecasters
from ..models.options import check_options
from ..recordings.conditions import category_of
from ..recordings.splits import check_split
from . import scores as metrics
from .options import EvaluateOptions
from .session_scores import SessionScores, group_keys
from .sums import Sums, joined

SCORED = {"forecast": ("forecaster", "evaluate"), "activation": ("classifier", "evaluate_classifier")}  # task -> kind of model, and its function


@dataclass
class Scored:
    """Results of a pass. The dicts by name hold one entry per row of the table.

    Attributes
    ----------
    rows : dict of str to Forecaster
        Rows by name in the order of the table: the given rows, the naive rows, the ceiling.
    built_in : list of str
        Names of the naive rows and of the ceiling.
    missing : dict of str to str
        Rows that could not be made on this split, and why.
    sessions : dict of str to list of dict
        Scores of each row, one dict per session.
    zero_mse : list of float
        Mean squared error of the constant forecast 0 in each session, in squared units of the signal. Empty without a ceiling.
    units : pandas.DataFrame
        One row per block of test trials. Columns: animal, session, and the denominators that all rows share: `frames` (number of scored frames),
        `windows` (number of windows whose truth is not constant), `reference` (summed squared error of the mean of the context).
    squared, r : dict of str to float64 array, shape (block,)
        Summed squared error of each row, in squared units of the signal, and its sum of r over windows.
    neurons : dict of str to pandas.DataFrame
        Columns `mse` and `r` of each row, indexed by (session, neuron).
    by_step, by_group : Sums
        Sums over blocks for each horizon step, and for each group of windows (see `session_scores.group_keys`).
    pit : dict of str to float64 array, shape (10,)
        PIT histogram of each row that was sampled, averaged over sessions; see `distribution_scores.pit_histogram`.
    kept : dict of str to dict of str to xarray.Dataset
        By row and session, the forecasts that the caller asked to keep: `forecast` (trial, neuron, time), in units of the signal, and, for rows that
        can be sampled, `low` and `high`.
    facts : dict
        Facts about the data and the rows; the attrs of the table.
    step_r : dict of str to list of float64 array, shape (step,)
        By row and session, the correlation over trials at each step; see `scores.step_r`.
    """

    rows: dict
    built_in: list
    missing: dict
    sessions: dict
    zero_mse: list
    units: pd.DataFrame
    squared: dict
    r: dict
    neurons: dict
    by_step: Sums
    by_group: Sums
    pit: dict
    kept: dict
    facts: dict
    step_r: dict = field(default_factory=dict)

    @property
    def models(self):
        """Names of the rows that the caller gave."""
        return [name for name in self.rows if name not in self.built_in]

    @property
    def naive(self):
        """Names of the naive rows that could be made."""
        return [name for name in self.built_in if name not in self.missing and name != SimulatorCeiling.name]


def score(
    forecasters,
    split,
    *,
    naive=EvaluateOptions.naive,
    ceiling=EvaluateOptions.ceiling,
    n_samples=EvaluateOptions.n_samples,
    seed=EvaluateOptions.seed,
    ceiling_samples=EvaluateOptions.ceiling_samples,
    keep=None,
    labels=None,
    progress=False,
):
    """Forecast the test part of a split, session by session, and score the forecasts.

    Parameters
    ----------
    forecasters, split, naive, ceiling, n_samples, seed, ceiling_samples, progress
        As for `evaluate`.
    keep : dict, optional
        {session: (trial numbers, neuron keys)}: the observations whose forecasts and intervals are kept. If None, none.
    labels : callable, optional
        Further groups of trials to score apart in `Scored.by_group`: it takes the test trials of one session and returns {grouping: group of each
        trial}, arrays of str with "" for a trial in no group.

    Returns
    -------
    Scored

    Raises
    ------
    LeakageError
        If a forecaster saw a frame of the test windows in training.
    QfError
        If a forecaster returns NaN where the truth can be scored, two rows share a name, or nothing can be scored.
    """
    check_split(split)
    check_options(EvaluateOptions, {"naive": naive, "ceiling": ceiling, "n_samples": n_samples, "seed": seed, "ceiling_samples": ceiling_samples})
    split = split.keeping()
    rows, built_in = _rows(forecasters, split, naive, [SimulatorCeiling(ceiling_samples, seed)] if ceiling else [])
    context_mean, copy_last, zero = (row.fit(split) for row in (ContextMean(), CopyLast(), Zero()))
    patch_frames = next((f.patch_frames for f in rows.values() if getattr(f, "patch_frames", None)), None)
    sampler = _Sampler(split, n_samples, seed)
    training = {part.sessions[0]: part for part in split.train.by_session()}
    missing, zero_mse, kept, counted, times = {}, [], {}, [], np.zeros(0)
    units, frames, group_frames, group_windows, of_rows = [], [], [], [], {}
    parts = split.test.by_session()
    labelled = {p.sessions[0]: {"category": np.array([category_of(c) for c in p.table["condition"]]), **(labels(p) if labels else {})} for p in parts}
    keys = group_keys(labelled.values())
    bar = tqdm(total=len(parts) * len(rows), desc="evaluate", unit="row", disable=None if progress else True, leave=False)
    for part in parts:
        session = SessionScores(part, training.get(part.sessions[0]), keys, labelled[part.sessions[0]])
        counted.append(session.facts(patch_frames))
        if not session.used.any():
            continue
        reference = session.forecast(context_mean)[0]
        session.prepare(reference, session.forecast(copy_last)[0])
        if ceiling:  # only the column E needs the error of the constant forecast
            zero_mse.append(metrics.mse(session.forecast(zero)[0], session.truth, session.mask))
        units.append(session.units(reference))
        frames.append(session.step_frames)
        group_frames.append(session.group_frames)
        group_windows.append(session.group_windows)
        times = max(times, session.time_s(), key=len)
        for name, row in rows.items():
            bar.update()
            if name in missing:
                continue
            try:
                forecast, whole, monte_carlo = session.forecast(row)
            except UnknownKeyError as problem:
                # a naive row that knows only the training neurons can't be made when a subject is left out: the table shows the reason, not a number
                if name not in built_in:
                    raise
                missing[name] = str(problem)
                continue
            r, errors = metrics.window_r(forecast, session.truth, session.mask), session.errors(forecast)
            squares = errors**2
            scores = session.scores(forecast, errors, squares, r, monte_carlo)
            length = getattr(row, "patch_frames", None) or patch_frames
            scores["jump"] = metrics.jump(whole, length, session.used) if length else np.nan
            found = {
                "squared": session.by_block(squares.sum((1, 2))), "r": session.by_block(np.nansum(r, 1)), "neurons": session.per_neuron(squares, r),
                "step_squared": session.by_block(squares.sum(1)), "group_squared": session.by_group(squares.sum(-1)),
                "group_r": session.by_group(np.nan_to_num(r)), "step_r": metrics.step_r(forecast, session.truth, session.mask),
            }  # fmt: skip
            drawn = sampler.draw(name, row, session, whole)
            if drawn is not None:
                crps = np.concatenate(drawn.crps)
                scores |= drawn.scores()
                found |= {"step_crps": session.by_block(crps.sum(1)), "group_crps": session.by_group(crps.sum(-1)), "pit": drawn.histogram()}
            elif not n_samples and not row.probabilistic:
                scores["crps"] = scores["mae"]
            for what, value in {"scores": scores, **found}.items():
                of_rows.setdefault(what, {}).setdefault(name, []).append(value)
            if keep and session.key in keep:
                kept.setdefault(name, {})[session.key] = session.kept(row, whole, keep[session.key], seed)
    bar.close()
    if not units:
        raise QfError(
            "evaluate: expected observations to score in the test part, found none with a whole baseline. Look at the recording with `qf info`."
        )

    def of(what, join=lambda parts: parts):
        return {name: join(parts) for name, parts in of_rows.get(what, {}).items() if name not in missing}

    units = pd.concat(units, ignore_index=True)
    steps = pd.DataFrame({"step": np.arange(1, len(times) + 1), "time_s": times})
    by_step = joined(steps, frames, [], squared=of("step_squared"), crps=of("step_crps"))
    grouped = {name: of(f"group_{name}") for name in ("squared", "crps", "r")}
    by_group = joined(keys, group_frames, group_windows, **grouped)
    facts = {**_total(counted, units), **facts_of(rows, split, missing, built_in)}
    facts |= {"draws": n_samples, "draw_seed": seed} if n_samples else {}
    facts |= {"residuals": [n for n in sampler.residuals if n not in missing], "notes": [*facts["notes"], *sampler.notes]}
    return Scored(
        rows, built_in, missing, of("scores"), zero_mse, units, of("squared", np.concatenate), of("r", np.concatenate), of("neurons", pd.concat),
        by_step, by_group, of("pit", lambda parts: np.mean(parts, 0)), kept, facts, of("step_r"),
    )  # fmt: skip


class _Sampler:
    """Draws from the rows of a table. A row that forecasts one number a frame gets residuals, fitted when it is first asked for."""

    def __init__(self, split, n_samples, seed):
        self.split, self.n_samples, self.seed = split, n_samples, seed
        self.residuals, self.notes, self._without = {}, [], set()

    def draw(self, name, row, session, whole):
        """The `Ensemble` of a row in a session, or None if nothing is drawn."""
        if not self.n_samples or name in self._without:
            return None
        if not row.probabilistic and name not in self.residuals:
            try:
                self.residuals[name] = WithResiduals(row).fit(self.split)
                self.notes += [f"{name}: {note}" for note in self.residuals[name].notes]
            except QfError as problem:  # the row keeps its other scores, and the table says why it has none of these
                self._without.add(name)
                self.notes.append(f"no crps, coverage, energy and pit: {problem}")
                return None
        return session.sampled(row, self.residuals.get(name), whole, self.n_samples, self.seed)


def _rows(forecasters, split, naive, ceiling):
    """Fit the built-in rows. Return all rows by name, and the names of the built-in rows."""
    rows = named(forecasters)
    for row in rows.values():
        row.check_unseen(split.test)
    built_in = [*(naive_forecasters() if naive else []), *ceiling]
    for row in built_in:
        if row.name in rows:
            raise QfError(f"{row.name!r}: expected a name of its own, found that of a built-in row. Pass a dict with another name, or naive=False.")
    for row in built_in:
        rows[row.name] = row.fit(split)
        row.check_unseen(split.test)
    return rows, [row.name for row in built_in]


def _total(counted, units):
    """Add up the facts of all sessions."""
    names = ("n_trials", "n_sessions", "n_observations", "constant_truth_windows", "unusable")
    total = {name: sum(c.get(name, 0) for c in counted) for name in names}
    total["n_animals"] = int(units["animal"].nunique())
    total["n_neurons"] = len(set().union(*(c.get("neurons", ()) for c in counted)))
    total["active_fraction"] = sum(c.get("active", 0) for c in counted) / total["n_observations"]
    jumps = [c["truth_jump"] for c in counted if "truth_jump" in c]
    return {**total, "truth_jump": metrics.nan_mean(jumps)} if jumps else total


def facts_of(rows, split, missing, built_in):
    """The attrs of a table, without the counts: where its data and its rows come from, and the notes that a reader needs.

    Parameters
    ----------
    rows : dict of str to estimator
    split : Split
    missing : dict of str to str
        Rows that could not be made, and why.
    built_in : list of str
        Names of the rows that the toolkit adds.

    Returns
    -------
    dict
        data, simulated, models, seeds, split, not_applicable, naive, notes.
    """
    notes = [f"{name}: {note}" for name, row in rows.items() for note in getattr(row, "notes", ())]
    return {**origin(split.test), **models_of(rows), "split": split.rule, "not_applicable": missing, "naive": built_in, "notes": notes}


def named(rows, task="forecast"):
    """Name the rows of a table.

    Parameters
    ----------
    rows : estimator, list or dict of str to estimator
        Rows in a list are named by their `name`.
    task : {"forecast", "activation"}
        The task that every row must have.

    Returns
    -------
    dict of str to estimator

    Raises
    ------
    QfError
        If two rows share a name, or one of them is no fitted model of this task.
    """
    if isinstance(rows, dict):
        rows = dict(rows)
    else:
        listed = rows if isinstance(rows, list | tuple) else [rows]
        for row in listed:
            if not hasattr(row, "task"):
                raise QfError(
                    f"forecasters: expected fitted models, found {type(row).__name__}. Pass what fit_forecaster or fit_classifier returned."
                )
        rows = {row.name: row for row in listed}
        if len(rows) < len(listed):
            raise QfError("forecasters: expected a name each, found one twice. Pass a dict of name to forecaster.")
    for name, row in rows.items():
        found = getattr(row, "task", None)
        if found not in SCORED:
            raise QfError(f"{name}: expected a fitted {SCORED[task][0]}, found {type(row).__name__}. Fit one with fit_{SCORED[task][0]}.")
        if found != task:
            raise QfError(f"{name}: expected a {SCORED[task][0]}, found a {SCORED[found][0]}. Score it with {SCORED[found][1]}.")
    return rows


def models_of(rows):
    """Digests and seeds of the rows, by name. Rows that have none are left out.

    Parameters
    ----------
    rows : dict of str to estimator

    Returns
    -------
    dict
        `models`: {name: digest of what the row learnt}; `seeds`: {name: seed of its training}.
    """
    found = {name: row.digest() for name, row in rows.items() if hasattr(row, "digest")}
    seeds = {name: row.seed for name, row in rows.items() if getattr(row, "seed", None) is not None}
    return {"models": {name: value for name, value in found.items() if value}, "seeds": seeds}
