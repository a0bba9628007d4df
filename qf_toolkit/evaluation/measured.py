"""What was measured in a session, and what a row forecasts there, in the same units and at the same frames."""

import numpy as np

from ..errors import QfError
from ..estimators.naive import scored


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
    whole = in_units_of(part, forecaster, ds["forecast"].transpose("trial", "neuron", "time").values)
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


def in_units_of(part, forecaster, values):
    """Convert forecasts to the units of the truth: a model trained on another split has z-scores of its own.

    Parameters
    ----------
    part : Trials
        Of one session.
    forecaster : Forecaster
    values : array, shape (..., neuron, time)
        In the units of the forecaster.

    Returns
    -------
    array, shape (..., neuron, time)
    """
    if part.window.signal != "zscore":
        return values
    session = part.sessions[0]
    (mean, sd), (their_mean, their_sd) = part.scale_of(session), forecaster.prepare(part).scale_of(session)
    if np.array_equal(mean, their_mean) and np.array_equal(sd, their_sd):
        return values
    return (values * their_sd[:, None] + their_mean[:, None] - mean[:, None]) / sd[:, None]
