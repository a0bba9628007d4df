"""One pass over the test part: each row forecasts each session once, and the pass keeps all that tables, comparisons and figures need.

Only one session at a time is in memory. The pass keeps no forecasts but sums over the session, over its blocks of trials and over each neuron, and
the few observations that a figure shows. So the forecasts of all sessions never lie in memory together.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from ..errors import QfError, UnknownKeyError
from ..estimators.ceiling import SimulatorCeiling
from ..estimators.interface import origin
from ..estimators.naive import ContextMean, Zero, scored
from ..estimators.rows import naive_forecasters
from ..models.options import check_options
from ..recordings.splits import check_split
from . import paper_scores
from . import scores as metrics
from .options import EvaluateOptions
from .significance import animal_of, blocks_of

MOST_SAMPLED = 20_000_000  # values held at once while sampling (80 MB)
COVERAGE = 0.9
SCORED = {"forecast": ("forecaster", "evaluate"), "activation": ("classifier", "evaluate_classifier")}  # task -> kind of model, and its function
SHOWN_DRAWS = 64  # draws for the intervals of the observations that are kept


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
    kept : dict of str to dict of str to xarray.Dataset
        By row and session, the forecasts that the caller asked to keep: `forecast` (trial, neuron, time), in units of the signal, and, for rows that
        can be sampled, `low` and `high`.
    facts : dict
        Facts about the data and the rows; the attrs of the table.
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
    kept: dict
    facts: dict

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
    progress=False,
):
    """Forecast the test part of a split, session by session, and score the forecasts.

    Parameters
    ----------
    forecasters, split, naive, ceiling, n_samples, seed, ceiling_samples, progress
        As for `evaluate`.
    keep : dict, optional
        {session: (trial numbers, neuron keys)}: the observations whose forecasts and intervals are kept. If None, none.

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
    context_mean, zero = ContextMean().fit(split), Zero().fit(split)
    patch_frames = next((f.patch_frames for f in rows.values() if getattr(f, "patch_frames", None)), None)
    missing, zero_mse, kept, counted = {}, [], {}, []
    sessions, units, squared, r, neurons = {}, [], {}, {}, {}
    parts = split.test.by_session()
    bar = tqdm(total=len(parts) * len(rows), desc="evaluate", unit="row", disable=None if progress else True, leave=False)
    for part in parts:
        session = _Session(part)
        counted.append(session.facts(patch_frames))
        if not session.used.any():
            continue
        reference = session.forecast(context_mean)[0]
        reference_mse = metrics.mse(reference, session.truth, session.mask)
        if ceiling:  # only the column E needs the error of the constant forecast
            zero_mse.append(metrics.mse(session.forecast(zero)[0], session.truth, session.mask))
        units.append(session.units(reference))
        for name, row in rows.items():
            bar.update()
            if name in missing:
                continue
            try:
                forecast, whole, error = session.forecast(row)
            except UnknownKeyError as problem:
                # a naive row that knows only the training neurons can't be made when a subject is left out: the table shows the reason, not a number
                if name not in built_in:
                    raise
                missing[name] = str(problem)
                continue
            of_windows = metrics.window_r(forecast, session.truth, session.mask)
            scores = session.scores(forecast, of_windows, error, reference_mse)
            scores["crps"], scores["coverage_90"] = session.sampled(row, n_samples, seed) if row.probabilistic else (scores["mae"], np.nan)
            length = getattr(row, "patch_frames", None) or patch_frames
            scores["jump"] = metrics.jump(whole, length, session.used) if length else np.nan
            sessions.setdefault(name, []).append(scores)
            squared.setdefault(name, []).append(session.by_block(session.squares(forecast)))
            r.setdefault(name, []).append(session.by_block(np.nansum(of_windows, 1)))
            neurons.setdefault(name, []).append(session.per_neuron(forecast, of_windows))
            if keep and session.key in keep:
                kept.setdefault(name, {})[session.key] = session.kept(row, whole, keep[session.key], seed)
    bar.close()
    if not units:
        raise QfError(
            "evaluate: expected observations to score in the test part, found none with a whole baseline. Look at the recording with `qf info`."
        )
    sessions, squared, r, neurons = ({n: v for n, v in of.items() if n not in missing} for of in (sessions, squared, r, neurons))
    units = pd.concat(units, ignore_index=True)
    return Scored(
        rows, built_in, missing, sessions, zero_mse, units, *({n: np.concatenate(v) for n, v in of.items()} for of in (squared, r)),
        {n: pd.concat(v) for n, v in neurons.items()}, kept, {**_total(counted, units), **facts_of(rows, split, missing, built_in)},
    )  # fmt: skip


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


class _Session:
    """The test trials of one session. Its methods score a forecast of them."""

    def __init__(self, part):
        self.part, self.key = part, part.sessions[0]
        self.truth, self.mask, self.ds = truth_of(part)
        self.used = self.mask.any(-1)
        self.block = blocks_of(len(part))

    def facts(self, patch_frames):
        """Counts of trials, neurons and observations; with `patch_frames` also the score `jump` of the truth."""
        found = {"unusable": int((~self.used).sum())}
        if not self.used.any():
            return found
        found |= {"n_sessions": 1, "n_trials": len(self.part), "n_observations": int(self.used.sum()), "neurons": self.part.neurons}
        found |= {"constant_truth_windows": int(metrics.constant_windows(self.truth, self.mask).sum())}
        found["active"] = int((self.ds["active"].values & self.used).sum())
        if patch_frames:
            response = self.ds[self.part.window.signal].values[..., self.ds.attrs["n_baseline"] :]
            found["truth_jump"] = metrics.jump(response, patch_frames, self.used & np.isfinite(response).all(-1))
        return found

    def by_block(self, values):
        """Sum values over the trials of each block: (trial,) -> (block,)."""
        return np.bincount(self.block, weights=values)

    def units(self, reference):
        animal = animal_of(self.part.source.header(self.key))
        windows = ((self.mask.sum(-1) >= 2) & ~metrics.constant_windows(self.truth, self.mask)).sum(1)
        sums = {"frames": self.mask.sum((1, 2)), "windows": windows, "reference": self.squares(reference)}
        return pd.DataFrame({"animal": animal, "session": self.key, **{n: self.by_block(v) for n, v in sums.items()}})

    def forecast(self, row):
        return forecast_of(row, self.part, self.truth, self.mask)

    def squares(self, forecast):
        """Summed squared error of each trial, float64 (trial,)."""
        return np.where(self.mask, (forecast.astype(np.float64) - self.truth) ** 2, 0.0).sum((1, 2))

    def scores(self, forecast, r, error, reference_mse):
        """Scores of a forecast over the session. `r` holds the r of its windows; the forecast's Monte Carlo `error` is subtracted from its mse."""
        of, n_score = (forecast, self.truth, self.mask), self.ds["n_score"].values
        mse = metrics.mse(*of) - error
        return {
            "mse": mse, "mse_ratio": mse / reference_mse, "mae": metrics.mae(*of), "r": metrics.mean_of_windows(r), "crps": np.nan, "coverage_90": np.nan,
            "jump": np.nan, "paper_mse": paper_scores.paper_mse(*of, n_score), "paper_smape": paper_scores.paper_smape(*of, n_score),
            "paper_corr": paper_scores.corr_abs(*of, n_score), "paper_ssim": paper_scores.ssim_global(*of, n_score),
        }  # fmt: skip

    def per_neuron(self, forecast, r):
        index = pd.MultiIndex.from_product([[self.key], self.part.neurons_of(self.key)], names=["session", "neuron"])
        mse = metrics.mse(forecast, self.truth, self.mask, per_neuron=True)
        return pd.DataFrame({"mse": mse, "r": metrics.mean_of_windows(r, per_neuron=True)}, index=index)

    def sampled(self, row, n_samples, seed):
        """The scores crps and coverage, computed for a few trials at a time, so that the samples fit into memory; NaN if `n_samples` is 0."""
        if not n_samples:
            return np.nan, np.nan
        part, k = self.part, self.truth.shape[-1]
        rate = float(part.source.header(self.key).attrs["rate_hz"])
        step = max(1, MOST_SAMPLED // (n_samples * self.truth.shape[1] * part.window.frames(rate)[1]))
        crps = covered = n = 0
        for i, start in enumerate(range(0, len(part), step)):
            at = np.arange(start, min(start + step, len(part)))
            samples = row.sample(part.subset(at), n_samples, seed + i)["samples"].transpose("sample", "trial", "neuron", "time").values[..., :k]
            samples = _in_units_of(part, row, samples)
            count = int(self.mask[at].sum())
            if count:
                crps += count * metrics.crps_samples(samples, self.truth[at], self.mask[at])
                covered += count * metrics.coverage(samples, self.truth[at], COVERAGE, self.mask[at])
                n += count
        return crps / n, covered / n

    def kept(self, row, whole, wanted, seed):
        """The forecast of the wanted trials and neurons, with its interval if the row is probabilistic."""
        ds, part, dims, n = self.ds, self.part, ("trial", "neuron", "time"), self.ds.attrs["n_baseline"]
        at = np.flatnonzero(np.isin(ds["trial"].values, wanted[0]))
        columns = np.flatnonzero(np.isin(ds["neuron"].values.astype(str), wanted[1]))
        found = {"forecast": (dims, whole[np.ix_(at, columns)])}
        attrs = {"forecaster": row.name, "signal": part.window.signal, **origin(part, row)}
        if row.probabilistic:
            few = part.subset(at) if row.population else part.subset(at).of_neurons([str(n) for n in ds["neuron"].values[columns]])
            drawn = _in_units_of(few, row, row.sample(few, SHOWN_DRAWS, seed)["samples"].transpose("sample", *dims).values)
            drawn = drawn[:, :, columns] if row.population else drawn
            ends = metrics.central_interval(drawn, COVERAGE)
            found |= {name: (dims, end.astype(np.float32)) for name, end in zip(("low", "high"), ends, strict=True)}
            attrs |= {"level": COVERAGE, "draws": SHOWN_DRAWS, "draw_seed": seed}
        coords = {"trial": ds["trial"].values[at], "neuron": ds["neuron"].values[columns], "time": ds["time"].values[n : n + whole.shape[-1]]}
        return xr.Dataset(found, {**coords, "onset_frame": ("trial", ds["onset_frame"].values[at])}, attrs)


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


def truth_of(part):
    """The measured response of one session, as far as it is scored.

    Parameters
    ----------
    part : Trials
        Of one session.

    Returns
    -------
    truth : float32 array, shape (trial, neuron, n_score)
        In units of the signal; 0 where a value is missing.
    mask : bool array, shape (trial, neuron, n_score)
        True where a frame is scored.
    ds : xarray.Dataset
        `part.dataset()`.
    """
    ds = part.dataset()
    n, k = ds.attrs["n_baseline"], ds.attrs["n_score"]
    return np.nan_to_num(ds[part.window.signal].values[..., n : n + k]), scored(ds), ds


def forecast_of(forecaster, part, truth, mask):
    """Forecast one session.

    Parameters
    ----------
    forecaster : Forecaster
    part : Trials
        Of one session.
    truth, mask
        As `truth_of` returns them.

    Returns
    -------
    forecast : array, shape (trial, neuron, n_score)
        In the units of the truth; 0 at frames that don't count.
    whole : array, shape (trial, neuron, time)
        The forecast of all frames.
    error : float
        Mean squared Monte Carlo error of the forecast on the scored frames, in squared units of the truth. Only a ceiling has one; else 0.

    Raises
    ------
    QfError
        If the forecast lacks frames, or is NaN or infinite where the truth can be scored: rows would then be scored on different observations.
    """
    ds = forecaster.predict(part)
    whole = _in_units_of(part, forecaster, ds["forecast"].transpose("trial", "neuron", "time").values)
    k = truth.shape[-1]
    if whole.shape[:2] != truth.shape[:2] or whole.shape[-1] < k:
        raise QfError(f"{forecaster.name}: expected a forecast of at least {truth.shape}, found {whole.shape}. Forecast score_s seconds at least.")
    forecast = whole[..., :k]
    missing = mask & ~np.isfinite(forecast)
    if missing.any():
        raise QfError(
            f"{forecaster.name}: expected a number for every scored frame, found {int(missing.sum())} NaN or infinite of {int(mask.sum())} "
            f"in {part.sessions[0]}. Look for diverged training or zero scales."
        )
    error = float(ds["monte_carlo"].values[..., :k][mask].mean(dtype=np.float64)) if "monte_carlo" in ds else 0.0
    return np.where(mask, forecast, 0.0), whole, error


def _in_units_of(part, forecaster, values):
    """Convert forecasts (..., neuron, time) to the units of the truth: a model trained on another split has z-scores of its own."""
    if part.window.signal != "zscore":
        return values
    session = part.sessions[0]
    (mean, sd), (their_mean, their_sd) = part.scale_of(session), forecaster.prepare(part).scale_of(session)
    if np.array_equal(mean, their_mean) and np.array_equal(sd, their_sd):
        return values
    return (values * their_sd[:, None] + their_mean[:, None] - mean[:, None]) / sd[:, None]
