"""Scores of forecasts that are distributions, estimated from an ensemble of draws.

Arrays: `samples` (sample, trial, neuron, time), `truth` and `mask` (trial, neuron, time). The estimators of crps and energy are the fair ones, whose
expectation does not depend on the number of draws (Ferro 2014); scores that other tables call "CRPS" are often means of a few quantile losses, which are
larger or smaller by their own bias. Coverage takes the Weibull quantiles of `scores.central_interval`.
"""

from dataclasses import dataclass, field

import numpy as np

from ..errors import QfError
from . import scores as metrics

LEVELS = (0.5, 0.8, 0.9)  # of the central intervals whose coverage is scored
PIT_BINS = 10


def energy_score(samples: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Energy score of each trial, over all its neurons and frames at once: the CRPS of a vector (Gneiting & Raftery 2007, equation 22).

    The estimator is the fair one: mean ||x_i - y|| - sum_ij ||x_i - x_j|| / (2 S (S - 1)) for S draws, with Euclidean norms over (neuron, time),
    divided by the square root of the number of values that count, so that trials of different sizes compare.

    Parameters
    ----------
    samples : array, shape (sample, trial, neuron, time)
    truth : array, shape (trial, neuron, time)
    mask : bool array, optional
        True where a frame counts; broadcast to the shape of `truth`. If None, all frames count.

    Returns
    -------
    float64 array, shape (trial,)
        In units of the signal; NaN where no frame counts.

    Raises
    ------
    QfError
        If the shape of `samples`, without the first dim, differs from that of `truth`.

    Examples
    --------
    >>> draws = np.array([[[[0.0, 0.0]]], [[[2.0, 2.0]]]])
    >>> energy_score(draws, np.array([[[1.0, 1.0]]])).tolist()  # of one trial
    [0.0]
    """
    samples, truth, mask = _ensemble(samples, truth, mask)
    return np.array([_energy(samples[:, i][:, mask[i]], truth[i][mask[i]]) for i in range(len(truth))])


def pit_histogram(samples: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Histogram of the probability integral transform: where in the forecast distribution the truth lies.

    With S draws, of which r lie below the truth, the transform is uniform over [r, r + 1] / (S + 1). Its mass is spread over that interval (a
    randomised transform without the chance; Czado, Gneiting & Held 2009); draws that equal the truth widen the interval. So the histogram of a
    calibrated forecast is flat for every S.

    Parameters
    ----------
    samples, truth, mask
        As for `energy_score`.

    Returns
    -------
    float64 array, shape (10,)
        Shares that sum to 1, from the lowest tenth of the forecast distribution to the highest; NaN where no frame counts. A hill: the forecast is
        too wide. A valley: too narrow. A slope: too low or too high.

    Raises
    ------
    QfError
        If the shape of `samples`, without the first dim, differs from that of `truth`.

    Examples
    --------
    >>> draws = np.arange(9.0).reshape(9, 1, 1, 1)
    >>> pit_histogram(draws, np.array([[[100.0]]])).round(2).tolist()  # the truth lies above all draws
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    """
    samples, truth, mask = _ensemble(samples, truth, mask)
    return _pit(samples[:, mask], truth[mask]) / max(int(mask.sum()), 1) if mask.any() else np.full(PIT_BINS, np.nan)


def pit_deviation(histogram: np.ndarray) -> float:
    """How far a PIT histogram is from flat: half the sum of the absolute differences to 1 / 10 (the total variation distance).

    Parameters
    ----------
    histogram : array, shape (10,)
        As `pit_histogram` returns it.

    Returns
    -------
    float
        0 for a calibrated forecast, 0.9 if the truth always falls into one tenth; NaN for a histogram of NaN.

    Examples
    --------
    >>> pit_deviation(np.full(10, 0.1))
    0.0
    """
    histogram = np.asarray(histogram, np.float64)
    return float(np.abs(histogram - 1 / len(histogram)).sum() / 2)


def sd_ratio(forecast: np.ndarray, mask: np.ndarray, training_sd: np.ndarray) -> float:
    """Standard deviation of the forecasts over that of the training responses, for each neuron, averaged over neurons.

    A forecast that has become the training mean has a ratio of 0; one that moves as much as the signal does has 1.

    Parameters
    ----------
    forecast : array, shape (trial, neuron, time)
    mask : bool array, shape (trial, neuron, time)
        True where a frame counts.
    training_sd : array, shape (neuron,)
        Standard deviation of each neuron's scored responses in the training part, over trials and frames, in units of the signal.

    Returns
    -------
    float
        NaN if no neuron has both.

    Examples
    --------
    >>> sd_ratio(np.array([[[0.0, 2.0]]]), np.ones((1, 1, 2), bool), np.array([2.0]))
    0.5
    """
    n = mask.sum((0, 2)).astype(np.float64)
    f = np.where(mask, forecast, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = f.sum((0, 2)) / n
        spread = np.sqrt(np.where(mask, (f - mean[:, None]) ** 2, 0.0).sum((0, 2)) / n)
        spread = np.where(spread > metrics.FLAT * np.abs(mean), spread, 0.0)
        return metrics.nan_mean(np.where(training_sd > 0, spread / training_sd, np.nan))


@dataclass
class Ensemble:
    """Scores of draws that come a few trials at a time, so that the draws of all trials never lie in memory together.

    Attributes
    ----------
    crps : list of float64 array, shape (trial, neuron, time)
        By chunk, the crps of each frame; 0 where a frame doesn't count.
    energy : list of float64 array, shape (trial,)
    """

    crps: list = field(default_factory=list)
    energy: list = field(default_factory=list)
    _crps: float = 0.0
    _covered: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVELS)))
    _pit: np.ndarray = field(default_factory=lambda: np.zeros(PIT_BINS))
    _n: int = 0

    def add(self, samples: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> None:
        """Score the draws of some trials: `samples` (sample, trial, neuron, time), `truth` and `mask` (trial, neuron, time)."""
        frames = np.zeros(truth.shape)
        energy = np.full(len(truth), np.nan)
        for i in range(len(truth)):  # one trial at a time stays in the processor's cache
            whole = mask[i].all()
            x, y = (samples[:, i].reshape(len(samples), -1), truth[i].ravel()) if whole else (samples[:, i][:, mask[i]], truth[i][mask[i]])
            if not y.size:
                continue
            ordered = np.sort(x, 0)
            frames[i][mask[i]] = found = metrics.crps_of_frames(x, y, ordered)
            energy[i] = _energy(x, y)
            self._crps += float(found.sum())
            self._covered += [int(((y >= low) & (y <= high)).sum()) for low, high in (metrics.interval_of(ordered, level) for level in LEVELS)]
            self._pit += _pit(ordered, y)
            self._n += y.size
        self.crps.append(frames)
        self.energy.append(energy)

    def scores(self) -> dict[str, float]:
        """The scores of all trials that were added: crps, coverage_50, coverage_80, coverage_90, energy and pit; NaN where no frame counts."""
        if not self._n:
            return dict.fromkeys(names(), float("nan"))
        covered = {f"coverage_{round(100 * level)}": float(c) / self._n for level, c in zip(LEVELS, self._covered, strict=True)}
        energy = metrics.nan_mean(np.concatenate(self.energy))
        return {"crps": self._crps / self._n, **covered, "energy": energy, "pit": pit_deviation(self.histogram())}

    def histogram(self) -> np.ndarray:
        """The PIT histogram of all trials that were added, float64 (10,); see `pit_histogram`."""
        return self._pit / self._n if self._n else np.full(PIT_BINS, np.nan)


def names() -> list[str]:
    """The names of the scores of an `Ensemble`."""
    return ["crps", *(f"coverage_{round(100 * level)}" for level in LEVELS), "energy", "pit"]


def _ensemble(samples, truth, mask):
    samples, truth = np.asarray(samples), np.asarray(truth)
    if samples.shape[1:] != truth.shape:
        raise QfError(f"samples: expected shape (sample, {', '.join(map(str, truth.shape))}), found {samples.shape}.")
    return samples, truth, np.ones(truth.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), truth.shape)


def _energy(samples, truth):
    """The energy score of one trial: samples (sample, value), truth (value,)."""
    if not truth.size:
        return np.nan
    x = samples.astype(np.float64) - truth
    products = x @ x.T
    squares = np.diagonal(products)
    error, s = np.sqrt(squares).mean(), len(x)
    if s > 1:
        between = np.sqrt(np.clip(squares[:, None] + squares - 2 * products, 0, None))
        np.fill_diagonal(between, 0.0)
        error -= between.sum() / (2 * s * (s - 1))
    return error / np.sqrt(truth.size)


def _pit(samples, truth):
    """The sums of the shares of each bin over frames: samples (sample, frame), truth (frame,) -> (bin,)."""
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    edges = np.linspace(0, 1, PIT_BINS + 1)[:, None] * (len(samples) + 1)
    return np.diff(np.clip((edges - below) / (equal + 1), 0, 1).sum(1))
