"""How much of a neuron's response repeats where conditions are shown again: the ceiling of the STIMULUS-driven part, and the share of it that is forecast.

What repeats is what the condition alone determines. A forecaster that reads the context also knows the state of the brain and the activity before the
onset, which differ between repeats: it may pass this ceiling, and an FEVE above 1 is then no error.

For a neuron, let x be its response in a trial and frame, n the repeats of a condition:

- noise variance: the variance over repeats (ddof 1), averaged over frames and then over conditions
- signal variance: the variance over conditions and frames of the mean response, less what noise adds to it. The mean of n repeats has the n-th part of
  the noise; so it is subtracted, which makes the estimate unbiased for any number of repeats and for noise that is correlated over a trial's frames.
  For one condition this is the signal power of Sahani & Linden 2003; the correction is that of the unbiased r2 of Pospisil & Bair 2021.
- explainable share: signal variance / (signal variance + noise variance)
- snr: signal variance / noise variance
"""

import numpy as np
import pandas as pd

from ..errors import QfError
from ..estimators.interface import origin
from ..recordings.trials import Trials, check_trials
from .measured import truth_of
from .scored import Scored

THRESHOLD = 0.15  # explainable share below which a neuron's FEVE is mostly noise (Cadena et al. 2019)
LEAST_FOR_INTERVAL = 3  # repeats of a condition from which one can be left out
Z = 1.959964  # of a normal 95 % interval
COLUMNS = ("n_conditions", "n_repeats", "signal", "noise", "explainable", "low", "high", "snr", "reason")


def explainable(trials: Trials) -> pd.DataFrame:
    """The explainable share of each neuron's response, with an interval: the ceiling of its STIMULUS-driven part.

    Parameters
    ----------
    trials : Trials
        Whole windows count: those whose scored frames are all valid. Stimuli with windows of different lengths are cut to the shortest.

    Returns
    -------
    pandas.DataFrame
        Indexed by (session, neuron). Columns: n_conditions (shown at least twice), n_repeats (mean over these), signal and noise (variances, in squared
        units of the signal; signal may be below 0 by chance), explainable, low and high (95 % interval), snr, and reason: why there is no number, or
        "". The interval is from the jackknife over trials within conditions, on conditions of at least 3 repeats; NaN if there is none. It is not
        cut to [0, 1]. attrs: data, simulated.

    Raises
    ------
    QfError
        If `trials` are no Trials.

    Examples
    --------
    >>> found = explainable(trials)
    >>> found.columns.tolist()[:5]
    ['n_conditions', 'n_repeats', 'signal', 'noise', 'explainable']
    """
    check_trials(trials)
    tables = []
    for part in trials.by_session():
        truth, mask, ds = truth_of(part)
        k = int(ds["n_score"].values.min())
        conditions = np.unique(ds["condition"].values.astype(str), return_inverse=True)[1]
        names = part.neurons_of(part.sessions[0])
        rows = _of_neurons(truth[..., :k].astype(np.float64), mask[..., :k].all(-1), conditions)
        index = pd.MultiIndex.from_product([part.sessions, names], names=["session", "neuron"])
        tables.append(pd.DataFrame(rows, index, columns=list(COLUMNS)))
    out = pd.concat(tables)
    out.attrs = origin(trials)
    return out


def _of_neurons(x, whole, conditions):
    """The rows of the table: x (trial, neuron, time), whole (trial, neuron), conditions (trial,). Neurons that keep the same trials share a pass."""
    rows = [()] * x.shape[1]
    same = np.unique(whole, axis=1, return_inverse=True)[1].ravel()
    for group in np.unique(same):
        members = np.flatnonzero(same == group)
        kept = whole[:, members[0]]
        for i, row in zip(members, _of_alike(x[kept][:, members], conditions[kept]), strict=True):
            rows[i] = row
    return rows


def _of_alike(x, conditions):
    """The rows of neurons that all have every trial of x (trial, neuron, time)."""
    counts = np.bincount(conditions) if len(conditions) else np.zeros(1, int)
    repeated = np.flatnonzero(counts >= 2)
    if not len(repeated):
        reason = "no condition was shown twice in whole windows" if len(conditions) else "no whole window"
        return [(0, np.nan, *[np.nan] * 6, reason)] * x.shape[1]
    parts = [_Condition(x[conditions == c]) for c in repeated]
    signal, noise = _variances(*(sum(p.sums[i] for p in parts) for i in range(4)), len(parts))
    share = _share(signal, noise)
    variance, any_left_out = np.zeros(x.shape[1]), False
    for part in parts:
        if part.n < LEAST_FOR_INTERVAL:
            continue
        any_left_out = True
        others = [sum(p.sums[i] for p in parts if p is not part) for i in range(4)]
        left = np.stack([_share(*_variances(*(o + w for o, w in zip(others, without, strict=True)), len(parts))) for without in part.without_each()])
        variance += (part.n - 1) / part.n * ((left - left.mean(0)) ** 2).sum(0)
    spread = Z * np.sqrt(variance) if any_left_out else np.full(x.shape[1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = np.where(noise > 0, signal / noise, np.nan)
    n_repeats = float(counts[repeated].mean())
    reasons = np.where(np.isfinite(share), "", "the response never changes")
    return list(
        zip([len(parts)] * len(share), [n_repeats] * len(share), signal, noise, share, share - spread, share + spread, snr, reasons, strict=True)
    )


class _Condition:
    """What one condition adds to the variances; x is (repeat, neuron, time)."""

    def __init__(self, x):
        self.x, self.n = x, len(x)
        self.sums = self._sums(x.mean(0), x.var(0, ddof=1).mean(-1), x.mean(-1).var(0, ddof=1), self.n)

    @staticmethod
    def _sums(mean, noise, of_means, n):
        """Sums over conditions: mean square and mean of the mean response, (neuron,); noise variance; and the two terms that noise adds, below."""
        return (mean**2).mean(-1) - noise / n, mean.mean(-1), noise, of_means / n

    def without_each(self):
        """Yield the sums without each of the repeats in turn."""
        for i in range(self.n):
            x = np.delete(self.x, i, 0)
            yield self._sums(x.mean(0), x.var(0, ddof=1).mean(-1), x.mean(-1).var(0, ddof=1), self.n - 1)


def _variances(square, mean, noise, of_means, n):
    """Signal and noise variance (neuron,) from the sums over n conditions. `of_means` is the variance of each condition's mean over frames, by which
    noise moves the grand mean."""
    return square / n - (mean / n) ** 2 + of_means / n**2, noise / n


def _share(signal, noise):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(signal + noise > 0, signal / (signal + noise), np.nan)


def feve(scored: Scored, repeats: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Share of the repeatable (STIMULUS-driven) variance that each row forecasts: FEVE = 1 - (MSE - noise) / (total - noise).

    total - noise is the signal variance of `explainable`. A forecast of each condition's true mean has an FEVE of 1 in expectation. A forecaster that
    reads the context may pass 1, since it also forecasts what does not repeat.

    Parameters
    ----------
    scored : Scored
        As `score` returns it.
    repeats : pandas.DataFrame
        As `explainable` returns it for the test part: `explainable(split.test)`.
    threshold : float
        Least explainable share of a neuron that counts, between 0 and 1.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster. Columns: feve (mean over neurons of a session, then over sessions; NaN without a neuron), n_neurons (that count), left_out
        (neurons below the threshold or without a number) and reason (why there is no number, or ""). attrs: threshold, data, simulated.

    Raises
    ------
    QfError
        If `threshold` is not between 0 and 1, or `repeats` are of other neurons.

    Examples
    --------
    >>> from qf_toolkit.evaluation.scored import score
    >>> feve(score([], split), explainable(split.test)).columns.tolist()
    ['feve', 'n_neurons', 'left_out', 'reason']
    """
    if not 0 < threshold < 1:
        raise QfError(f"threshold: expected a share between 0 and 1, found {threshold}.")
    rows = {}
    for name, found in scored.neurons.items():
        missing = found.index.difference(repeats.index)
        if len(missing):
            raise QfError(f"repeats: expected all neurons that were scored, found none of {missing[0]}. Pass explainable(split.test).")
        of = repeats.loc[found.index]
        counts = (of["explainable"] >= threshold) & found["mse"].notna()
        values = 1 - (found["mse"] - of["noise"])[counts] / of["signal"][counts]
        reason = "" if counts.any() else _reason(of, threshold)
        mean = values.groupby(level="session").mean().mean()
        rows[name] = (mean, int(counts.sum()), int((~counts).sum()), reason)
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["feve", "n_neurons", "left_out", "reason"])
    out.index.name = "forecaster"
    out.attrs = {"threshold": threshold, **{k: scored.facts[k] for k in ("data", "simulated")}}
    return out


def _reason(repeats, threshold):
    """Why no neuron counts."""
    if repeats["explainable"].notna().any():
        return f"no neuron has an explainable share of {threshold:g} or more"
    return str(repeats["reason"].mode().iloc[0])
