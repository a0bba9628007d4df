"""Our family of scores of forecasts; the paper's stands in `paper_scores`.

Arrays are `forecast`, `truth` and `mask`, shape (trial, neuron, time); a window is one (trial, neuron). `mask` is False where a frame must not
count. All sums run in float64.
"""

import numpy as np

from ..errors import QfError

FLAT = 1e-6  # a window whose range is below this share of its largest value is constant: float32 rounding alone makes that much


def _arrays(forecast, truth, mask):
    forecast, truth = np.asarray(forecast, np.float64), np.asarray(truth, np.float64)
    if forecast.shape != truth.shape:
        raise QfError(f"forecast: expected the shape of the truth, {truth.shape}, found {forecast.shape}. Align them by trial, neuron and time.")
    mask = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), truth.shape)
    # NaN times a False mask is still NaN, so what does not count becomes 0
    return np.where(mask, forecast, 0.0), np.where(mask, truth, 0.0), mask


def _mean(values, mask, per_neuron):
    """Pooled over everything that counts, or per neuron (axis 1); NaN where nothing does."""
    axes = (0, 2) if per_neuron else None
    n = mask.sum(axis=axes)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = values.sum(axis=axes) / np.where(n > 0, n, np.nan)
    return out if per_neuron else float(out)


def mse(forecast, truth, mask=None, per_neuron=False):
    """Mean squared error over all frames that count.

    Parameters
    ----------
    forecast, truth : array, shape (trial, neuron, time)
    mask : bool array, broadcast to their shape, optional
    per_neuron : bool
        Return an array (neuron,), NaN for a neuron without a frame.

    Returns
    -------
    float or array, in squared units of the signal

    Raises
    ------
    QfError
        If the shapes differ.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0, 3.0]]])  # one trial of one neuron
    >>> mse(truth + 1, truth)
    1.0
    >>> mse(truth * [1, 1, 1, 2], truth, mask=[True, True, True, False])
    0.0
    """
    f, t, mask = _arrays(forecast, truth, mask)
    return _mean((f - t) ** 2, mask, per_neuron)


def mae(forecast, truth, mask=None, per_neuron=False):
    """Mean absolute error over all frames that count; arguments as for `mse`.

    Examples
    --------
    >>> mae(np.array([[[1.0, -1.0]]]), np.array([[[0.0, 0.0]]]))
    1.0
    """
    f, t, mask = _arrays(forecast, truth, mask)
    return _mean(np.abs(f - t), mask, per_neuron)


def _constant(x, mask):
    high = np.where(mask, x, -np.inf).max(-1, initial=-np.inf)
    low = np.where(mask, x, np.inf).min(-1, initial=np.inf)
    return ~(high - low > FLAT * np.maximum(np.abs(high), np.abs(low)))


def constant_windows(truth, mask=None):
    """Windows in which the truth does not change (silent): Pearson's r is not defined there.

    Returns
    -------
    bool array, shape (trial, neuron)
        False where fewer than 2 frames count: such a window is missing, not silent.

    Examples
    --------
    >>> constant_windows(np.array([[[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]])).tolist()
    [[True, False]]
    """
    _, t, mask = _arrays(truth, truth, mask)
    return _constant(t, mask) & (mask.sum(-1) >= 2)


def window_r(forecast, truth, mask=None):
    """Signed Pearson correlation of every window.

    Returns
    -------
    array, shape (trial, neuron)
        NaN where the truth is constant or fewer than 2 frames count; 0 where only the forecast is constant: it says nothing of the course.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0, 3.0]]])
    >>> window_r(-2 * truth, truth).round(3).tolist()
    [[-1.0]]
    """
    f, t, mask = _arrays(forecast, truth, mask)
    n = np.maximum(mask.sum(-1, keepdims=True), 1)
    fc = np.where(mask, f - f.sum(-1, keepdims=True) / n, 0.0)
    tc = np.where(mask, t - t.sum(-1, keepdims=True) / n, 0.0)
    flat = _constant(f, mask)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (fc * tc).sum(-1) / np.sqrt((fc**2).sum(-1) * (tc**2).sum(-1))
    r = np.where(flat, 0.0, r)
    return np.where(_constant(t, mask) | (mask.sum(-1) < 2), np.nan, r)


def pearson(forecast, truth, mask=None, per_neuron=False):
    """Mean over windows of the signed Pearson correlation; windows with constant truth are left out (count them: `constant_windows`).

    Returns
    -------
    float, or array (neuron,) under `per_neuron`; NaN where no window counts

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]])  # the second neuron is silent and left out
    >>> round(pearson(truth, truth), 3)
    1.0
    """
    return mean_of_windows(window_r(forecast, truth, mask), per_neuron)


def mean_of_windows(values, per_neuron=False):
    """Mean of a score of each window, (trial, neuron), over those that have one; an array (neuron,) under `per_neuron`."""
    counts = ~np.isnan(values)
    axis = 0 if per_neuron else None
    n = counts.sum(axis)
    out = np.where(counts, values, 0.0).sum(axis) / np.where(n > 0, n, np.nan)
    return out if per_neuron else float(out)


def crps_samples(samples, truth, mask=None):
    """Continuous ranked probability score of an ensemble, the fair (unbiased in the number of samples) estimator.

    mean |x - y| - sum_ij |x_i - x_j| / (2 S (S - 1)), averaged over frames; for one sample it is the absolute error.

    Parameters
    ----------
    samples : array, shape (sample, trial, neuron, time)
    truth : array, shape (trial, neuron, time)
    mask : bool array, optional

    Returns
    -------
    float, in units of the signal

    Examples
    --------
    >>> crps_samples(np.array([[[[0.0]]], [[[2.0]]]]), np.array([[[1.0]]]))  # draws 0 and 2 of a truth of 1
    0.0
    """
    samples = np.asarray(samples)
    truth = np.asarray(truth)
    if samples.shape[1:] != truth.shape:
        raise QfError(f"samples: expected shape (sample, {', '.join(map(str, truth.shape))}), found {samples.shape}.")
    mask = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), truth.shape)
    x, y = samples[:, mask].astype(np.float64), truth[mask].astype(np.float64)
    if y.size == 0:
        return float("nan")
    s = len(x)
    error = np.abs(x - y).mean(0)
    if s > 1:
        # sum_{i<j} |x_i - x_j| is a weighted sum of the sorted samples: no S x S array
        weight = 2 * np.arange(s) - s + 1
        error = error - np.tensordot(weight, np.sort(x, 0), 1) / (s * (s - 1))
    return float(error.mean())


def central_interval(samples, level=0.9):
    """Ends of the central interval of an ensemble, which holds a share `level` of what the ensemble is drawn from.

    Quantiles at k / (S + 1) (Weibull), with which exchangeable samples cover exactly `level`; below about 2 / (1 - level) samples (20 for 90 %)
    the interval ends at the extreme samples and covers less.

    Parameters
    ----------
    samples : array, shape (sample, ...)
    level : float
        Between 0 and 1.

    Returns
    -------
    low, high : arrays, shape (...)

    Raises
    ------
    QfError
        If `level` is not between 0 and 1.

    Examples
    --------
    >>> low, high = central_interval(np.arange(1.0, 20.0), 0.9)
    >>> float(low), float(high)
    (1.0, 19.0)
    """
    if not 0 < level < 1:
        raise QfError(f"level: expected a share between 0 and 1, found {level}.")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    return low, high


def jump(traces, patch_frames, used=None):
    """How much larger the steps of a trace are at the borders of patches than inside them: mean |step| at the borders over mean |step| inside.

    A trace without seams scores about 1.

    Parameters
    ----------
    traces : array, shape (trial, neuron, time)
        From the onset on, where a patch begins.
    patch_frames : int
    used : bool array, shape (trial, neuron), optional
        Windows that count.

    Returns
    -------
    float
        NaN where there is no border, or no step inside.

    Examples
    --------
    >>> jump(np.array([[[0.0, 1.0, 3.0, 4.0]]]), 2)
    2.0
    """
    steps = np.abs(np.diff(np.asarray(traces, np.float64), axis=-1))
    if used is not None:
        steps = steps[used]
    border = np.arange(1, steps.shape[-1] + 1) % patch_frames == 0
    inside = steps[..., ~border]
    if not border.any() or not inside.size or not inside.mean() > 0:
        return float("nan")
    return float(steps[..., border].mean() / inside.mean())


def nan_mean(values):
    """Mean of the numbers among some values; NaN where there is none."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else float("nan")


def coverage(samples, truth, level=0.9, mask=None):
    """Share of the frames inside the central interval of the samples, see `central_interval`; a calibrated forecast scores `level`.

    Parameters
    ----------
    samples : array, shape (sample, trial, neuron, time)
    truth : array, shape (trial, neuron, time)
    level : float
        Between 0 and 1.
    mask : bool array, optional

    Returns
    -------
    float

    Examples
    --------
    >>> draws = np.arange(1.0, 20.0).reshape(19, 1, 1, 1)
    >>> coverage(draws, np.array([[[10.0]]]))
    1.0
    """
    samples, truth = np.asarray(samples), np.asarray(truth)
    mask = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), truth.shape)
    if not mask.any():
        return float("nan")
    low, high = central_interval(samples[:, mask], level)
    y = truth[mask]
    return float(((y >= low) & (y <= high)).mean())


def explained_share(mse_model, mse_zero, mse_ceiling):
    """E = (MSE_0 - MSE) / (MSE_0 - MSE_ceiling): 0 for the forecast dF/F = 0, 1 for the best that can be known; NaN where nothing is explainable.

    Examples
    --------
    >>> explained_share(mse_model=0.6, mse_zero=1.0, mse_ceiling=0.5)
    0.8
    """
    explainable = mse_zero - mse_ceiling
    return (mse_zero - mse_model) / explainable if explainable > 0 else float("nan")


# --- the paper's family ---
