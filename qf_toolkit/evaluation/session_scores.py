"""Scores of one session's test trials, row by row."""

import numpy as np
import pandas as pd
import xarray as xr

from ..estimators.interface import origin
from ..estimators.naive import scored
from . import paper_scores
from . import scores as metrics
from .distribution_scores import LEVELS, Ensemble, names, sd_ratio
from .measured import forecast_of, in_units_of, truth_of
from .significance import animal_of, blocks_of

MOST_SAMPLED = 20_000_000  # values held at once while sampling (80 MB)
MOST_DRAWN = 2_000_000  # values of residuals drawn at once: few enough for the processor's cache
COVERAGE = LEVELS[-1]  # of the intervals that figures show
SHOWN_DRAWS = 64  # draws for the intervals of the observations that are kept
THIRDS = ("low", "middle", "high")
ACTIVITY = ("active", "inactive")
MAD = 1.4826  # standard deviation of a normal variable over its median absolute deviation


def group_keys(labels):
    """The groups of windows that are scored apart.

    Parameters
    ----------
    labels : iterable of dict of str to array of str, shape (trial,)
        One for each session: {grouping: group of each trial}, among them `category`; "" stands for a trial in no group.

    Returns
    -------
    pandas.DataFrame
        Columns `grouping` and `group`, one row per group: `trace_snr` (low, middle, high: thirds of a session's neurons by the signal-to-noise ratio
        of their training traces), `activity` (active or inactive windows, by the rule of the window), and the groupings of `labels`, with their
        groups in alphabetical order.
    """
    of: dict = {"trace_snr": THIRDS, "activity": ACTIVITY}
    for mine in labels:
        for grouping, groups in mine.items():
            of[grouping] = sorted({*of.get(grouping, ()), *map(str, groups)} - {""})
    return pd.DataFrame([(grouping, group) for grouping, groups in of.items() for group in groups], columns=["grouping", "group"])


class TrainingFacts:
    """What the training part says of a session's neurons. A session that training doesn't hold has NaN.

    Parameters
    ----------
    trials : Trials or None
        The session's training trials.
    n_neurons : int

    Attributes
    ----------
    sd : float64 array, shape (neuron,)
        Standard deviation of the scored responses over trials and frames, in units of the signal.
    trace_snr : float64 array, shape (neuron,)
        Standard deviation of the windows over their noise, which is estimated from the differences of neighbouring frames: their median absolute
        value times 1.4826 / sqrt(2) (after Rupprecht et al. 2021), or their root mean square / sqrt(2) where most differences are 0.
    """

    def __init__(self, trials, n_neurons):
        self.sd, self.trace_snr = np.full((2, n_neurons), np.nan)
        if trials is None:
            return
        ds = trials.dataset()
        x, valid = ds[trials.window.signal].values, ds["valid"].values
        n, k, mask = ds.attrs["n_baseline"], ds.attrs["n_score"], scored(ds)
        for i in range(n_neurons):
            responses, windows = x[:, i, n : n + k][mask[:, i]], x[:, i][valid[:, i].all(-1)]
            if responses.size:
                self.sd[i] = responses.std(dtype=np.float64)
            if windows.size:
                steps = np.abs(np.diff(windows, axis=-1))
                noise = MAD * np.median(steps) or np.sqrt((steps**2).mean(dtype=np.float64))
                self.trace_snr[i] = np.sqrt(2) * windows.std(dtype=np.float64) / noise if noise > 0 else 0.0

    def thirds(self):
        """The third of each neuron by its trace_snr, bool array (neuron, 3); no third for a neuron without one."""
        known = np.isfinite(self.trace_snr)
        rank = np.argsort(np.argsort(np.where(known, self.trace_snr, np.inf), kind="stable"), kind="stable")
        third = rank * len(THIRDS) // max(int(known.sum()), 1)
        return (third[:, None] == np.arange(len(THIRDS))) & known[:, None]


class SessionScores:
    """The test trials of one session. Its methods score a forecast of them.

    Parameters
    ----------
    part : Trials
        The test trials of one session.
    training : Trials or None
        Its training trials, if there are any.
    keys : pandas.DataFrame
        As `group_keys` returns it.
    labels : dict of str to array of str, shape (trial,)
        The session's own of those that `group_keys` read.
    """

    def __init__(self, part, training, keys, labels):
        self.part, self.key = part, part.sessions[0]
        self.truth, self.mask, self.ds = truth_of(part)
        self.used = self.mask.any(-1)
        self.block = blocks_of(len(part))
        self._starts = np.searchsorted(self.block, np.arange(self.block[-1] + 1))
        groups = [(grouping, group) for grouping, group in keys.to_numpy() if grouping not in ("trace_snr", "activity")]
        of = [np.asarray(labels.get(grouping, np.full(len(part), ""))) == group for grouping, group in groups]
        self._training, self._labelled = training, np.stack(of, -1).astype(np.float64)

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

    def prepare(self, reference, copy_last):
        """Score the two forecasts that others are measured by, and read the training part. Call it before any of the methods below.

        Parameters
        ----------
        reference, copy_last : array, shape (trial, neuron, time)
            Forecasts of the mean of the context, and of its last frame.
        """
        self.reference_mse = metrics.mse(reference, self.truth, self.mask)
        self.copy_mse = metrics.mse(copy_last, self.truth, self.mask)
        self.training = TrainingFacts(self._training, self.truth.shape[1])
        self._thirds, active = self.training.thirds().astype(np.float64), self.ds["active"].values
        self._activity = np.stack([active, ~active], -1).astype(np.float64)
        self._measured = (self.mask.sum(-1) >= 2) & ~metrics.constant_windows(self.truth, self.mask)
        self.step_frames = self.by_block(self.mask.sum(1))
        self.group_frames, self.group_windows = (self.by_group(v) for v in (self.mask.sum(-1), self._measured))

    def by_block(self, values):
        """Sum values over the trials of each block: (trial,) -> (block,), or (trial, key) -> (block, key)."""
        if values.ndim == 1:
            return np.bincount(self.block, weights=values)
        return np.add.reduceat(values.astype(np.float64), self._starts, 0)

    def by_group(self, values):
        """Sum the values of windows, (trial, neuron), over each block and group: (block, group)."""
        values = values.astype(np.float64)
        groups = values @ self._thirds, np.einsum("tn,tna->ta", values, self._activity), values.sum(1)[:, None] * self._labelled
        return self.by_block(np.concatenate(groups, 1))

    def units(self, reference):
        """The table of blocks, with the sums that all rows share; see `Scored.units`."""
        animal = animal_of(self.part.source.header(self.key))
        sums = {"frames": self.mask.sum((1, 2)), "windows": self._measured.sum(1), "reference": (self.errors(reference) ** 2).sum((1, 2))}
        return pd.DataFrame({"animal": animal, "session": self.key, **{n: self.by_block(v) for n, v in sums.items()}})

    def time_s(self):
        """Seconds from the onset to the end of each scored step, float64 (step,)."""
        return np.arange(1, self.truth.shape[-1] + 1) / float(self.ds.attrs["rate_hz"])

    def forecast(self, row):
        """See `measured.forecast_of`."""
        return forecast_of(row, self.part, self.truth, self.mask)

    def errors(self, forecast):
        """Forecast less truth, float64 (trial, neuron, time); 0 at frames that don't count."""
        return np.where(self.mask, forecast.astype(np.float64) - self.truth, 0.0)

    def scores(self, forecast, errors, squares, r, monte_carlo):
        """Scores of a forecast over the session.

        Parameters
        ----------
        forecast, errors, squares : array, shape (trial, neuron, time)
            The forecast, its `errors`, and their squares.
        r : float64 array, shape (trial, neuron)
            The r of its windows.
        monte_carlo : float
            The forecast's Monte Carlo error, which is subtracted from its mse.

        Returns
        -------
        dict of str to float
        """
        of, n_score, n = (forecast, self.truth, self.mask), self.ds["n_score"].values, self.mask.sum()
        mse = float(squares.sum() / n) - monte_carlo
        return {
            "mse": mse, "mse_ratio": mse / self.reference_mse, "mae": float(np.abs(errors).sum() / n), "r": metrics.mean_of_windows(r),
            "crps": np.nan, "coverage_90": np.nan, "jump": np.nan,
            "paper_mse": paper_scores.paper_mse(*of, n_score), "paper_smape": paper_scores.paper_smape(*of, n_score),
            "paper_corr": paper_scores.corr_abs(*of, n_score), "paper_ssim": paper_scores.ssim_global(*of, n_score),
            "paper_mae": paper_scores.paper_mae(*of, n_score),
            "poco": 1 - mse / self.copy_mse if self.copy_mse > 0 else np.nan, "sd_ratio": sd_ratio(forecast, self.mask, self.training.sd),
            **{name: np.nan for name in names() if name not in ("crps", "coverage_90")},
            "smape": paper_scores.smape(*of),
        }  # fmt: skip

    def per_neuron(self, squares, r):
        """Columns `mse` and `r` of each neuron, indexed by (session, neuron)."""
        index = pd.MultiIndex.from_product([[self.key], self.part.neurons_of(self.key)], names=["session", "neuron"])
        n = self.mask.sum((0, 2))
        mse = squares.sum((0, 2)) / np.where(n > 0, n, np.nan)
        return pd.DataFrame({"mse": mse, "r": metrics.mean_of_windows(r, per_neuron=True)}, index=index)

    def sampled(self, row, residuals, whole, n_samples, seed):
        """The `Ensemble` of draws of a row.

        Parameters
        ----------
        row : Forecaster
        residuals : WithResiduals or None
            The residuals that are added to its forecast; None if the row draws for itself.
        whole : array, shape (trial, neuron, time)
            The forecast of all frames, in units of the truth.
        n_samples, seed : int

        Returns
        -------
        Ensemble
            The draws are made for a few trials at a time, so that they fit into memory.
        """
        part, k, found = self.part, self.truth.shape[-1], Ensemble()
        rate = float(part.source.header(self.key).attrs["rate_hz"])
        most = MOST_SAMPLED if residuals is None else MOST_DRAWN
        step = max(1, most // (n_samples * self.truth.shape[1] * part.window.frames(rate)[1]))
        scale = None if residuals is None else self._scale(row)
        for i, start in enumerate(range(0, len(part), step)):
            at = np.arange(start, min(start + step, len(part)))
            if residuals is not None:
                samples = residuals.residuals(self.key, part.neurons_of(self.key), len(at), k, n_samples, seed + i)
                samples *= scale
                samples += whole[at, :, :k]
            else:
                samples = row.sample(part.subset(at), n_samples, seed + i)["samples"].transpose("sample", "trial", "neuron", "time").values[..., :k]
                samples = in_units_of(part, row, samples)
            found.add(samples, self.truth[at], self.mask[at])
        return found

    def _scale(self, row):
        """Units of the row in one unit of the truth, (neuron, 1); 1 unless z-scores differ."""
        one = np.ones((self.truth.shape[1], 1), np.float32)
        return in_units_of(self.part, row, one) - in_units_of(self.part, row, 0 * one)

    def kept(self, row, whole, wanted, seed):
        """The forecast of the wanted trials and neurons, with its interval if the row is probabilistic."""
        ds, part, dims, n = self.ds, self.part, ("trial", "neuron", "time"), self.ds.attrs["n_baseline"]
        at = np.flatnonzero(np.isin(ds["trial"].values, wanted[0]))
        columns = np.flatnonzero(np.isin(ds["neuron"].values.astype(str), wanted[1]))
        found = {"forecast": (dims, whole[np.ix_(at, columns)])}
        attrs = {"forecaster": row.name, "signal": part.window.signal, **origin(part, row)}
        if row.probabilistic:
            few = part.subset(at) if row.population else part.subset(at).of_neurons([str(n) for n in ds["neuron"].values[columns]])
            drawn = in_units_of(few, row, row.sample(few, SHOWN_DRAWS, seed)["samples"].transpose("sample", *dims).values)
            drawn = drawn[:, :, columns] if row.population else drawn
            ends = metrics.central_interval(drawn, COVERAGE)
            found |= {name: (dims, end.astype(np.float32)) for name, end in zip(("low", "high"), ends, strict=True)}
            attrs |= {"level": COVERAGE, "draws": SHOWN_DRAWS, "draw_seed": seed}
        coords = {"trial": ds["trial"].values[at], "neuron": ds["neuron"].values[columns], "time": ds["time"].values[n : n + whole.shape[-1]]}
        return xr.Dataset(found, {**coords, "onset_frame": ("trial", ds["onset_frame"].values[at])}, attrs)
