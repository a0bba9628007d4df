"""Our family of scores of forecasts. The paper's family is in `paper_scores`.

`forecast`, `truth` and `mask` have shape (trial, neuron, time). A window is one (trial, neuron). `mask` is False at every frame that must not
count. All sums are computed in float64.
"""

import numpy as np

from ..errors import QfError

FLAT = 1e-6  # a window is constant if its range is below this share of its largest value, since float32 rounding causes as much


def _arrays(forecast, truth, mask):
    forecast, truth = np.asarray(forecast, np.float64), np.asarray(truth, np.float64)
    if forecast.shape != truth.shape:
        raise QfError(f"forecast: expected the shape of the truth, {truth.shape}, found {forecast.shape}. Align them by trial, neuron and time.")
    mask = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), truth.shape)
    # NaN times a False mask is still NaN, so frames that do not count become 0
    return np.where(mask, forecast, 0.0), np.where(mask, truth, 0.0), mask


def _mean(values, mask, per_neuron):
    """Mean over all frames that count, or over those of each neuron (axis 1); NaN where no frame counts."""
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
        In units of the signal.
    mask : bool array, optional
        True where a frame counts; broadcast to the shape of `truth`. If None, all frames count.
    per_neuron : bool
        Return one error per neuron.

    Returns
    -------
    float, or float64 array, shape (neuron,), under `per_neuron`
        In squared units of the signal; NaN where no frame counts.

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
    """Mean absolute error over all frames that count.

    Parameters
    ----------
    forecast, truth, mask, per_neuron
        As for `mse`.

    Returns
    -------
    float, or float64 array, shape (neuron,), under `per_neuron`
        In units of the signal; NaN where no frame counts.

    Raises
    ------
    QfError
        If the shapes differ.

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
    """Find the silent windows, in which the truth does not change and Pearson's r is not defined.

    Parameters
    ----------
    truth : array, shape (trial, neuron, time)
    mask : bool array, optional
        As for `mse`.

    Returns
    -------
    bool array, shape (trial, neuron)
        True in a silent window. False where fewer than 2 frames count, since such a window is missing and not silent.

    Examples
    --------
    >>> constant_windows(np.array([[[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]])).tolist()
    [[True, False]]
    """
    _, t, mask = _arrays(truth, truth, mask)
    return _constant(t, mask) & (mask.sum(-1) >= 2)


def window_r(forecast, truth, mask=None):
    """Signed Pearson correlation of every window.

    Parameters
    ----------
    forecast, truth, mask
        As for `mse`.

    Returns
    -------
    float64 array, shape (trial, neuron)
        NaN where the truth is constant or fewer than 2 frames count; 0 where only the forecast is constant, since it then predicts no change.

    Raises
    ------
    QfError
        If the shapes differ.

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


def step_r(forecast, truth, mask=None):
    """Signed Pearson correlation over trials of each neuron at each horizon step, mean over neurons.

    Unlike `window_r` it counts what a neuron's level is from trial to trial, too.

    Parameters
    ----------
    forecast, truth, mask
        As for `mse`.

    Returns
    -------
    float64 array, shape (time,)
        NaN where no neuron varies over trials; 0 counts for neurons whose forecast is constant.

    Raises
    ------
    QfError
        If the shapes differ.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0]], [[1.0, 3.0]], [[2.0, 2.0]]])
    >>> step_r(truth + 5, truth).tolist()
    [1.0, 1.0]
    """
    f, t, mask = (array.transpose(2, 1, 0) for array in _arrays(forecast, truth, mask))
    r = window_r(f, t, mask)
    counts = ~np.isnan(r)
    return np.where(counts.any(1), np.where(counts, r, 0.0).sum(1) / np.maximum(counts.sum(1), 1), np.nan)


def pearson(forecast, truth, mask=None, per_neuron=False):
    """Mean over windows of the signed Pearson correlation. Windows with constant truth are left out; `constant_windows` finds them.

    Parameters
    ----------
    forecast, truth, mask, per_neuron
        As for `mse`.

    Returns
    -------
    float, or float64 array, shape (neuron,), under `per_neuron`
        NaN where no window counts.

    Raises
    ------
    QfError
        If the shapes differ.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]])  # the second neuron is silent and left out
    >>> round(pearson(truth, truth), 3)
    1.0
    """
    return mean_of_windows(window_r(forecast, truth, mask), per_neuron)


def mean_of_windows(values, per_neuron=False):
    """Mean over windows of a score that each window has.

    Parameters
    ----------
    values : float array, shape (trial, neuron)
        One score per window; NaN where a window has none.
    per_neuron : bool
        Return one mean per neuron.

    Returns
    -------
    float, or float64 array, shape (neuron,), under `per_neuron`
        NaN where no window has a score.
    """
    counts = ~np.isnan(values)
    axis = 0 if per_neuron else None
    n = counts.sum(axis)
    out = np.where(counts, values, 0.0).sum(axis) / np.where(n > 0, n, np.nan)
    return out if per_neuron else float(out)


def crps_samples(samples, truth, mask=None):
    """Continuous ranked probability score of an ensemble.

    The estimator is the fair one, whose expectation does not depend on the number of samples S: mean |x - y| - sum_ij |x_i - x_j| / (2 S (S - 1)),
    averaged over frames. For one sample it is the absolute error.

    Parameters
    ----------
    samples : array, shape (sample, trial, neuron, time)
    truth : array, shape (trial, neuron, time)
    mask : bool array, optional
        As for `mse`.

    Returns
    -------
    float
        In units of the signal; NaN where no frame counts.

    Raises
    ------
    QfError
        If the shape of `samples`, without the first dim, differs from that of `truth`.

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
    x, y = samples[:, mask], truth[mask]
    return float(crps_of_frames(x, y, np.sort(x, 0)).mean()) if y.size else float("nan")


def crps_of_frames(samples, truth, ordered):
    """The score of `crps_samples` for each frame.

    Parameters
    ----------
    samples : array, shape (sample, frame)
    truth : array, shape (frame,)
    ordered : array, shape (sample, frame)
        The samples of each frame in ascending order.

    Returns
    -------
    float64 array, shape (frame,)
        In units of the signal.
    """
    s = len(samples)
    truth = truth.astype(np.float64)
    error = sum(np.abs(x - truth) for x in samples) / s
    if s > 1:
        # sum_{i<j} |x_i - x_j| is a weighted sum of the sorted samples: no S x S array
        weight = 2 * np.arange(s) - s + 1
        error = error - sum(w * x for w, x in zip(weight.astype(np.float64), ordered, strict=True)) / (s * (s - 1))
    return error


def central_interval(samples, level=0.9):
    """Ends of the central interval of an ensemble. The interval holds a share `level` of the distribution that the ensemble is drawn from.

    The k-th of S sorted samples is the quantile k / (S + 1) (Weibull), so that exchangeable samples cover exactly `level`. With fewer than about
    2 / (1 - level) samples (20 for 90 %) the interval ends at the extreme samples and covers less.

    Parameters
    ----------
    samples : array, shape (sample, ...)
        In any unit.
    level : float
        Between 0 and 1.

    Returns
    -------
    low, high : float arrays, shape (...)
        In the unit of `samples`.

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


def interval_of(ordered, level):
    """The ends of `central_interval` for samples (sample, ...) that are in ascending order, which need no second sorting."""
    s, ends = len(ordered), []
    for share in ((1 - level) / 2, (1 + level) / 2):
        place = np.clip(share * (s + 1) - 1, 0, s - 1)
        below = min(int(place), max(s - 2, 0))
        above = min(below + 1, s - 1)
        ends.append(ordered[below] + (place - below) * (ordered[above] - ordered[below]))
    return tuple(ends)


def jump(traces, patch_frames, used=None):
    """How much larger the steps of a trace are at the borders of patches than inside them.

    The score is the mean |step| at the borders divided by the mean |step| inside. A trace without seams scores about 1.

    Parameters
    ----------
    traces : array, shape (trial, neuron, time)
        From the onset on; a patch begins at the first frame.
    patch_frames : int
        Frames in a patch.
    used : bool array, shape (trial, neuron), optional
        Windows that count. If None, all do.

    Returns
    -------
    float
        NaN if there is no border, or no step inside a patch.

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
    """Mean of the finite numbers in an array of any shape; NaN if there is none."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else float("nan")


def coverage(samples, truth, level=0.9, mask=None):
    """Share of the frames whose truth lies inside the central interval of the samples (`central_interval`). A calibrated forecast scores `level`.

    Parameters
    ----------
    samples : array, shape (sample, trial, neuron, time)
    truth : array, shape (trial, neuron, time)
    level : float
        Between 0 and 1.
    mask : bool array, optional
        As for `mse`.

    Returns
    -------
    float
        Between 0 and 1; NaN where no frame counts.

    Raises
    ------
    QfError
        If `level` is not between 0 and 1.

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
    """Share E of the explainable error that a model explains: E = (MSE_0 - MSE) / (MSE_0 - MSE_ceiling).

    Parameters
    ----------
    mse_model, mse_zero, mse_ceiling : float
        Mean squared errors of the model, of the forecast dF/F = 0 and of the best possible forecast, in squared units of the signal.

    Returns
    -------
    float
        0 for the forecast dF/F = 0, 1 for the best possible forecast; NaN if no error can be explained.

    Examples
    --------
    >>> explained_share(mse_model=0.6, mse_zero=1.0, mse_ceiling=0.5)
    0.8
    """
    explainable = mse_zero - mse_ceiling
    return (mse_zero - mse_model) / explainable if explainable > 0 else float("nan")
