"""The paper's family of scores of forecasts, as its tables define them (quirks included).

Arrays are those of `scores`. Whole windows only are taken: one with a masked frame is left out, since a sum of absolute differences or a global
SSIM over a gap means nothing. Where trials are scored over windows of different lengths, `n_score` (trial,) has the frames of each: every window is
then taken for as long as its own, and all count alike.
"""

import numpy as np

from .scores import _arrays, _constant, _mean, constant_windows, mean_of_windows, window_r


def _whole(forecast, truth, mask, n_score):
    """Whole windows as rows: forecast and truth (window, time) of each length there is, by default that of the arrays."""
    f, t, mask = _arrays(forecast, truth, mask)
    lengths = np.full(len(t), t.shape[-1]) if n_score is None else np.asarray(n_score)
    for k in np.unique(lengths):
        keep = mask[..., :k].all(-1) & (lengths == k)[:, None]
        yield f[keep, :k], t[keep, :k]


def _mean_of_windows(values):
    """Mean over windows of some value of each, or of each of its frames: arrays (window, ...) of every length; NaN without a window."""
    values = [v for v in values if v.size]
    if len(values) > 1:
        values = [np.concatenate([v.reshape(len(v), -1).mean(1) for v in values])]
    return float(values[0].mean()) if values else float("nan")


def paper_normalise(x):
    """A signal divided by the sum of its absolute differences (paper, appendix III); a constant one becomes inf, as the paper says.

    Parameters
    ----------
    x : array, shape (..., time)

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
    """Normalised windows whose truth is not constant (its own normalisation would be inf whatever the forecast)."""
    for f, t in _whole(forecast, truth, mask, n_score):
        keep = ~constant_windows(t)
        yield paper_normalise(f[keep]), paper_normalise(t[keep])


def paper_mse(forecast, truth, mask=None, n_score=None):
    """MSE of normalised signals (Table 2); inf as soon as one forecast window is constant. Windows of constant truth are left out.

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0]]])
    >>> paper_mse(10 * truth, truth)  # normalised, they are equal
    0.0
    """
    return _mean_of_windows([(f - t) ** 2 for f, t in _normalised(forecast, truth, mask, n_score)])


def paper_mae(forecast, truth, mask=None, n_score=None):
    """MAE of normalised signals (Table A-1); inf as soon as one forecast window is constant. Windows of constant truth are left out."""
    return _mean_of_windows([np.abs(f - t) for f, t in _normalised(forecast, truth, mask, n_score)])


def smape(forecast, truth, mask=None):
    """Mean of |p - t| / ((|p| + |t|) / 2), between 0 and 2; 0 where both are 0, and 2, its limit, for an infinite (normalised constant) p.

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
    """Mean of abs(r) over windows, the released code's Corr: an anti-correlated forecast scores 1.

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
    """Structural similarity by the global formula (one window, the whole signal), averaged over observations.

    Parameters
    ----------
    forecast, truth : array, shape (trial, neuron, time)
    mask : bool array, optional
    n_score : int array, shape (trial,), optional
        Frames of each trial's own window.
    reference_bias : bool
        The released code's quirk: unbiased variances with a biased covariance, so that identical signals score (T - 1) / T, 0.975 at T = 40.
        False takes both unbiased, and identical signals score 1.
    data_range : float
        Sets the stabilising constants (0.01 L)^2 and (0.03 L)^2; 1 for dF/F as a fraction.

    Returns
    -------
    float

    Examples
    --------
    >>> truth = np.array([[[0.0, 1.0, 2.0]]])
    >>> round(ssim_global(truth, truth), 3), round(ssim_global(truth, truth, reference_bias=False), 3)
    (0.667, 1.0)
    """
    return _mean_of_windows([_ssim(f, t, reference_bias, data_range) for f, t in _whole(forecast, truth, mask, n_score)])


def _ssim(f, t, reference_bias, data_range):
    """Of each window, (window,)."""
    if not t.size:
        return np.empty(0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mf, mt = f.mean(-1), t.mean(-1)
    n = t.shape[-1]
    covariance = ((f - mf[:, None]) * (t - mt[:, None])).sum(-1) / (n if reference_bias else n - 1)
    luminance = (2 * mf * mt + c1) / (mf**2 + mt**2 + c1)
    structure = (2 * covariance + c2) / (f.var(-1, ddof=1) + t.var(-1, ddof=1) + c2)
    return luminance * structure
