"""Statistics over runs, one score a run and model: means, Wilcoxon's test as in the paper, and the numbers of a leaderboard.

The tables that come in are tidy: one row per run, seed and model, with a column `model`, a column of scores and the columns that name a run (`subject` and
`stimulus`, or `run`). A run that failed is a row whose score is NaN, or no row at all; both count as failures. Seeds of one run differ by chance
alone, so that they are no runs of their own: the mean over seeds comes first, and a run of which every seed failed has failed.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from ..errors import QfError, UnknownKeyError, did_you_mean

RUN = ("run", "subject", "stimulus")  # the columns that name a run, those of them that a table has
CLIPPED = (0.01, 100.0)  # relative errors: one run that went very well or very badly does not decide a mean
LEVEL = 0.95


def mean_over_seeds(frame: pd.DataFrame, score: str = "score") -> pd.DataFrame:
    """One score per run and model: the mean over seeds.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns: model, the column `score`, and at least one of run, subject and stimulus; other columns (seed) are averaged over.
    score : str
        Name of the column of scores.

    Returns
    -------
    pandas.DataFrame
        Indexed by run (a MultiIndex if several columns name it), one column per model; NaN where a model has no score in a run.

    Raises
    ------
    QfError
        If a column is missing, no score is there, or a score is infinite.

    Examples
    --------
    >>> frame = pd.DataFrame({"run": ["a", "a", "b"], "seed": [0, 1, 0], "model": "lstm", "score": [1.0, 3.0, 4.0]})
    >>> mean_over_seeds(frame)["lstm"].tolist()
    [2.0, 4.0]
    """
    by = [c for c in RUN if c in frame]
    missing = [c for c in ("model", score) if c not in frame] or ([] if by else ["run"])
    if missing:
        raise QfError(
            f"{missing[0]}: expected a column of this name, found {', '.join(map(str, frame.columns)) or 'none'}. Name runs, models and scores."
        )
    if not len(frame):
        raise QfError("frame: expected scores of runs, found none. Run the benchmark first.")
    if np.isinf(frame[score].to_numpy(np.float64)).any():
        raise QfError(f"{score}: expected finite numbers, found infinite ones. Take another score, or leave out the model.")
    found = frame.groupby([*by, "model"], sort=True)[score].mean().unstack("model")  # noqa: PD010
    return found.reindex(columns=list(dict.fromkeys(frame["model"])))


def over_runs(frame: pd.DataFrame, score: str = "score") -> pd.DataFrame:
    """Mean and standard deviation over runs, as the paper's tables have them.

    Parameters
    ----------
    frame, score
        As for `mean_over_seeds`.

    Returns
    -------
    pandas.DataFrame
        Indexed by model. Columns: mean, sd (over runs, ddof 1; NaN for one run), n_runs (with a score), n_failed (without one), and seed_sd, the root
        mean square over runs of the standard deviation over seeds (ddof 1), NaN without several seeds.

    Raises
    ------
    QfError
        As `mean_over_seeds`.

    Examples
    --------
    >>> frame = pd.DataFrame({"run": ["a", "b", "c"], "model": "lstm", "score": [1.0, 3.0, np.nan]})
    >>> over_runs(frame).loc["lstm", ["mean", "n_failed"]].tolist()
    [2.0, 1.0]
    """
    runs = mean_over_seeds(frame, score)
    by = [c for c in RUN if c in frame]
    seeds = np.sqrt(frame.groupby([*by, "model"])[score].var(ddof=1).groupby("model").mean())
    found = {"mean": runs.mean(), "sd": runs.std(ddof=1), "n_runs": runs.notna().sum(), "n_failed": runs.isna().sum()}
    return pd.DataFrame({**found, "seed_sd": seeds.reindex(runs.columns)}).rename_axis("model")


def wilcoxon_over_runs(frame: pd.DataFrame, reference: str, score: str = "score", *, lower_is_better: bool = True) -> pd.DataFrame:
    """One-sided Wilcoxon signed-rank tests over runs, as in the paper: is the reference better than each other model? With Holm's correction.

    Parameters
    ----------
    frame, score
        As for `mean_over_seeds`.
    reference : str
        The model that is claimed to be better.
    lower_is_better : bool
        Whether the score is an error.

    Returns
    -------
    pandas.DataFrame
        Indexed by model, the reference left out. Columns: better_by (mean over runs of how much better the reference is, in units of the score), n_runs
        (in which both have a score), n_failed (runs in which one of them has none), statistic (sum of the ranks of the runs in which the reference
        is better), p, and p_holm, corrected for all tests of the table. p is NaN if there is no run or no difference in any. With n runs p is at
        least 2^-n: five runs are needed for p < 0.05.

    Raises
    ------
    UnknownKeyError
        If there is no model of the name `reference`.
    QfError
        As `mean_over_seeds`.

    Examples
    --------
    >>> frame = pd.DataFrame({"run": [0, 1, 2, 3, 4] * 2, "model": ["ours"] * 5 + ["lstm"] * 5, "score": [1, 2, 3, 4, 5, 2, 4, 6, 8, 10]})
    >>> wilcoxon_over_runs(frame, "ours").loc["lstm", ["better_by", "p"]].tolist()
    [3.0, 0.03125]
    """
    runs = mean_over_seeds(frame, score)
    if reference not in runs:
        raise UnknownKeyError(f"reference: {reference!r} is no model of this table; {did_you_mean(reference, list(runs))}")
    rows = {}
    for model in runs.columns.drop(reference):
        better = (runs[model] - runs[reference]) * (1 if lower_is_better else -1)
        known = better.dropna().to_numpy()
        statistic = p = np.nan
        if (known != 0).any():
            statistic, p = (float(v) for v in wilcoxon(known, alternative="greater"))
        rows[model] = (known.mean() if len(known) else np.nan, len(known), len(better) - len(known), statistic, p)
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["better_by", "n_runs", "n_failed", "statistic", "p"]).rename_axis("model")
    out["p_holm"] = holm(out["p"].to_numpy(np.float64))
    out.attrs = {"reference": reference, "score": score, "alternative": "the reference is better"}
    return out


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p values for their number.

    Parameters
    ----------
    p : float array, shape (test,)
        NaN for a test that could not be made; it is not counted.

    Returns
    -------
    float64 array, shape (test,)

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    out = np.full(p.shape, np.nan)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return out


def leaderboard(frame: pd.DataFrame, naive: Sequence[str], score: str = "score", *, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Skill and win rate of each model over all runs, as fev has them, with bootstrap intervals over runs.

    skill = 1 - geometric mean over runs of the model's error over that of the best naive row, clipped to [0.01, 100]. The best naive row is the one
    with the least geometric mean of errors over runs; it is the same for all models and runs, and its skill is 0. A run that a model failed counts as if
    the model had the reference's error there, and is counted in n_failed; one that failed in all has no skill (NaN) and stands last. win_rate is the share of all (run, other model) in which the model has the
    lower error; equal errors count half, and a failure loses to everything but another failure.

    Parameters
    ----------
    frame, score
        As for `mean_over_seeds`. The score is an error: lower is better, above 0.
    naive : sequence of str
        Names of the naive rows.
    n, seed : int
        Number and seed of the bootstrap's draws of runs.

    Returns
    -------
    pandas.DataFrame
        Indexed by model, best skill first. Columns: skill, skill_from, skill_to, win_rate, win_rate_from, win_rate_to (95 % intervals; NaN of one run,
        which tells nothing of others), n_runs, n_failed.
        attrs: reference (the best naive row), draws, draw_seed, n_runs.

    Raises
    ------
    UnknownKeyError
        If none of the naive rows is in the table.
    QfError
        As `mean_over_seeds`; also if an error is below 0, or no naive row has an error in every run.

    Examples
    --------
    >>> frame = pd.DataFrame({"run": [0, 1] * 2, "model": ["psth"] * 2 + ["ours"] * 2, "score": [1.0, 2.0, 0.5, 1.0]})
    >>> leaderboard(frame, ["psth"]).loc["ours", ["skill", "win_rate"]].tolist()
    [0.5, 1.0]
    """
    runs = mean_over_seeds(frame, score)
    if (runs.to_numpy(np.float64) < 0).any():
        raise QfError(
            f"{score}: expected errors of 0 or more, found {np.nanmin(runs.to_numpy(np.float64)):g}. Take a score of which lower is better."
        )
    known = [m for m in naive if m in runs]
    if not known:
        raise UnknownKeyError(f"naive: none of {', '.join(naive) or 'no names'} is a model of this table; it holds {', '.join(map(str, runs))}")
    whole = [m for m in known if np.isfinite(runs[m].to_numpy(np.float64)).all()]
    if not whole:
        raise QfError("naive: expected a naive row with an error in every run, found none. Run the naive rows everywhere.")
    tiny = np.finfo(np.float64).tiny
    reference = min(whole, key=lambda m: float(np.log(runs[m].clip(lower=tiny)).mean()))
    below = runs[reference].clip(lower=tiny)
    # equal errors are equal also where both are 0
    relative = runs.clip(lower=tiny).div(below, axis=0).clip(*CLIPPED).fillna(1.0)
    logs, wins = np.log(relative.to_numpy()), _wins(runs.to_numpy())
    counts = np.random.default_rng(seed).multinomial(len(runs), np.full(len(runs), 1 / len(runs)), n)
    drawn = np.concatenate([np.ones((1, len(runs))), counts]) / len(runs)
    columns, tail = {}, (1 - LEVEL) / 2
    for column, found in (("skill", 1 - np.exp(drawn @ logs)), ("win_rate", drawn @ wins)):
        low, high = np.quantile(found[1:], [tail, 1 - tail], axis=0) if len(runs) > 1 else np.full((2, len(found[0])), np.nan)
        columns |= {column: found[0], f"{column}_from": low, f"{column}_to": high}
    out = pd.DataFrame({**columns, "n_runs": runs.notna().sum().to_numpy(), "n_failed": runs.isna().sum().to_numpy()}, index=runs.columns)
    out.loc[out["n_runs"] == 0, ["skill", "skill_from", "skill_to"]] = np.nan
    out = out.rename_axis("model").sort_values("skill", ascending=False, kind="stable")
    out.attrs = {"reference": reference, "score": score, "draws": n, "draw_seed": seed, "n_runs": len(runs)}
    return out


def _wins(errors):
    """Share of the other models that each model beats in each run, (run, model); NaN errors lose."""
    filled = np.where(np.isnan(errors), np.inf, errors)
    mine, theirs = filled[:, :, None], filled[:, None]
    won = (mine < theirs) + 0.5 * (mine == theirs)
    n = errors.shape[1]
    return (won.sum(-1) - 0.5) / (n - 1) if n > 1 else np.full(errors.shape, np.nan)
