"""The paper's family of scores of forecasts, as its tables define them (quirks included).

Arrays are those of `scores`: `forecast` and `truth`, shape (trial, neuron, time), and `mask`, a bool array that is broadcast to this shape (if None,
all frames count). Only whole windows count. A window with a masked frame is left out, since a sum of absolute differences, or a global SSIM, over a
gap means nothing. If trials are scored over windows of different lengths, `n_score`, an int array of shape (trial,), holds the number of frames of
each. Every window is then cut to its own length, and all windows count alike. Every score is a float without a unit, NaN where no window counts, and
raises QfError if the shapes of forecast and truth differ.
"""

import numpy as np

from .scores import _arrays, _constant, _mean, constant_windows, mean_of_windows, window_r


def _whole(forecast, truth, mask, n_score):
    """Yield the whole windows as rows: forecast and truth, (window, time), for each length in `n_score` (by default that of the arrays)."""
    f, t, mask = _arrays(forecast, truth, mask)
    lengths = np.full(len(t), t.shape[-1]) if n_score is None else np.asarray(n_score)
    for k in np.unique(lengths):
        keep = mask[..., :k].all(-1) & (lengths == k)[:, None]
        yield f[keep, :k], t[keep, :k]


def _mean_of_windows(values):
    """Mean over windows. `values` holds one array (window, ...) per window length, with a value per window or per frame; NaN without a window."""
    values = [v for v in values if v.size]
    if len(values) > 1:
        values = [np.concatenate([v.reshape(len(v), -1).mean(1) for v in values])]
    return float(values[0].mean()) if values else float("nan")


def paper_normalise(x):
    """Divide a signal by the sum of its absolute differences (paper, appendix III). A constant signal becomes inf, as in the paper.

    Parameters
    ----------
    x : array, shape (..., time)
        In any unit.

    Returns
    -------
    float64 array, shape (..., time)
        Without a unit.

    Examples
    --------
    >>> paper_normalise(np.array([[[0.0, 1.0, 2.0]]])).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    x = np.asarray(x, np.float64)
    scale = np.abs(np.diff(x, axis=-1)).sum(-1, keepdims=True)
    flat = _constant(x, np.ones(x.shape, bool))[..., None]
    return np.where(flat, np.inf, x / np.where(flat, 1.0, scale))


def _normalised(forecast, truth, mask, n_score):
    """Yield normalised windows without those of constant truth, which would become inf whatever the forecast is."""
    for f, t in _whole(forecast, truth, mask, n_score):
        keep = ~constant_windows(t)
        yield paper_normalise(f[keep]), paper_normalise(t[keep])


def paper_mse(forecast, truth, mask=None, n_score=None):
    """MSE of normalised signals (Table 2). It is inf if one forecast window is constant. Windows of constant truth are left out.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0]]])
    >>> paper_mse(10 * truth, truth)  # normalised, they are equal
    0.0
    """
    return _mean_of_windows([(f - t) ** 2 for f, t in _normalised(forecast, truth, mask, n_score)])


def paper_mae(forecast, truth, mask=None, n_score=None):
    """MAE of normalised signals (Table A-1). It is inf if one forecast window is constant. Windows of constant truth are left out."""
    return _mean_of_windows([np.abs(f - t) for f, t in _normalised(forecast, truth, mask, n_score)])


def smape(forecast, truth, mask=None):
    """Mean over frames of |p - t| / ((|p| + |t|) / 2), between 0 and 2.

    A frame scores 0 where both are 0. It scores 2, the limit, where p is infinite (a constant forecast, normalised).

    Examples
    --------
    >>> round(smape(np.array([[[1.0, 3.0]]]), np.array([[[1.0, 1.0]]])), 3)
    0.5
    """
    f, t, mask = _arrays(forecast, truth, mask)
    return _mean(np.where(mask, _relative_error(f, t), 0.0), mask, False)


def _relative_error(f, t):
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(f - t) / ((np.abs(f) + np.abs(t)) / 2)
    return np.where((f == 0) & (t == 0), 0.0, np.where(np.isinf(f) & np.isfinite(t), 2.0, ratio))


def paper_smape(forecast, truth, mask=None, n_score=None):
    """SMAPE of normalised signals (Table 2); a constant forecast window scores 2."""
    return _mean_of_windows([_relative_error(f, t) for f, t in _normalised(forecast, truth, mask, n_score)])


def corr_abs(forecast, truth, mask=None, n_score=None):
    """Mean of abs(r) over windows, which the released code calls Corr. An anti-correlated forecast scores 1.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0]]])
    >>> round(corr_abs(-truth, truth), 3)
    1.0
    """
    _, t, mask = _arrays(forecast, truth, mask)
    own = np.arange(t.shape[-1]) < (t.shape[-1] if n_score is None else np.asarray(n_score)[:, None, None])
    r = window_r(forecast, truth, mask & own)
    return mean_of_windows(np.where((mask | ~own).all(-1), np.abs(r), np.nan))


def ssim_global(forecast, truth, mask=None, n_score=None, reference_bias=True, data_range=1.0):
    """Structural similarity by the global formula (its one window is the whole signal), averaged over observations.

    Parameters
    ----------
    forecast, truth : array, shape (trial, neuron, time)
    mask : bool array, optional
        True where a frame counts. If None, all frames count.
    n_score : int array, shape (trial,), optional
        Frames of each trial's own window. If None, all frames of the arrays.
    reference_bias : bool
        True repeats a quirk of the released code, which combines unbiased variances with a biased covariance: identical signals of T frames score
        (T - 1) / T, 0.975 at T = 40. False takes unbiased estimates of both: identical signals score 1.
    data_range : float
        L in the stabilising constants (0.01 L)^2 and (0.03 L)^2, in units of the signal; 1 for dF/F as a fraction.

    Returns
    -------
    float
        At most 1, without a unit; NaN where no window counts.

    Raises
    ------
    QfError
        If the shapes of forecast and truth differ.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0]]])
    >>> round(ssim_global(truth, truth), 3), round(ssim_global(truth, truth, reference_bias=False), 3)
    (0.667, 1.0)
    """
    return _mean_of_windows([_ssim(f, t, reference_bias, data_range) for f, t in _whole(forecast, truth, mask, n_score)])


def _ssim(f, t, reference_bias, data_range):
    """SSIM of each window: forecast and truth (window, time) -> (window,)."""
    if not t.size:
        return np.empty(0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mf, mt = f.mean(-1), t.mean(-1)
    n = t.shape[-1]
    covariance = ((f - mf[:, None]) * (t - mt[:, None])).sum(-1) / (n if reference_bias else n - 1)
    luminance = (2 * mf * mt + c1) / (mf**2 + mt**2 + c1)
    structure = (2 * covariance + c2) / (f.var(-1, ddof=1) + t.var(-1, ddof=1) + c2)
    return luminance * structure
