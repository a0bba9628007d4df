"""One trial of a whole population: what was measured, what was forecast, and the difference, with the neurons in an order that shows structure."""

import numpy as np
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean

ORDERS = {
    "peak": "time of the measured peak", "component": "first principal component of the measured response", "error": "error of the forecast",
    "recorded": "order of the recording",
}  # fmt: skip


def population_view(truth, forecast, trial, *, order="peak"):
    """The population in one trial, neuron by neuron.

    Parameters
    ----------
    truth : xarray.Dataset
        `trials.dataset()` of one session; under signal="zscore" `model.prepare(trials).dataset()`.
    forecast : xarray.Dataset
        `predict(trials)`: `forecast` (trial, neuron, time), of this session or of several.
    trial : int
        Number of the trial in its session.
    order : {"peak", "component", "error", "recorded"}
        Neurons from top to bottom: by the time of the largest measured value after the onset; by their weight in the first principal component of the
        measured response; by the mean squared error, the largest first; or as recorded. Those without a forecast or a whole trace come last.

    Returns
    -------
    xarray.Dataset
        `measured`, `forecast` and `error` (forecast - measured), (neuron, time) float32 in units of the signal; the latter two are NaN before the onset.
        Time is in seconds from the onset. attrs: session, trial, condition, signal, order, n_baseline, forecaster, and those of `origin`.

    Raises
    ------
    QfError
        If the order is unknown, or the forecast is of other neurons or other frames.
    UnknownKeyError
        If the trial is not in the truth or not in the forecast.

    Examples
    --------
    >>> part = split.test.by_session()[0]
    >>> view = population_view(part.dataset(), forecaster.predict(part), int(part.table["trial"].iloc[0]))
    >>> view["error"].dims, view.attrs["order"]
    (('neuron', 'time'), 'peak')
    """
    if order not in ORDERS:
        raise QfError(f"order: expected one of {', '.join(ORDERS)}, found {order!r}.")
    session, signal = str(truth.attrs["session"]), "zscore" if "zscore" in truth else "dff"
    at, theirs = _place(truth, trial, "truth"), _place(forecast, trial, "forecast", session)
    keys, n = truth["neuron"].values.astype(str), truth.attrs["n_baseline"]
    place = {k: i for i, k in enumerate(forecast["neuron"].values.astype(str))}
    if not any(k in place for k in keys):
        raise QfError(f"forecast: expected the neurons of {session}, found none of them. Pass predict(trials) of these trials.")
    measured = truth[signal].isel(trial=at).values
    if forecast.sizes["time"] != measured.shape[1] - n or _onset(truth, at) != _onset(forecast, theirs):
        raise QfError("forecast: expected these trials' onsets and frames, found others. Pass predict(trials) of these trials.")
    values = forecast["forecast"].isel(trial=theirs).transpose("neuron", "time").values
    said = np.full_like(measured, np.nan)
    for i, key in enumerate(keys):
        if key in place:
            said[i, n:] = values[place[key]]
    sorted_by = _order(measured[:, n:], said[:, n:], order)
    found = {"measured": measured, "forecast": said, "error": said - measured}
    known = {k: v for k, v in forecast.attrs.items() if k in ("forecaster", "model", "seed")}
    attrs = {
        **{k: truth.attrs[k] for k in ("data", "simulated") if k in truth.attrs}, **known, "session": session, "trial": int(trial),
        "condition": str(truth["condition"].values[at]), "signal": signal, "order": order, "n_baseline": int(n),
    }  # fmt: skip
    coords = {"neuron": truth["neuron"].values[sorted_by], "time": truth["time"].values}
    return xr.Dataset({name: (("neuron", "time"), x[sorted_by].astype(np.float32)) for name, x in found.items()}, coords, attrs)


def _place(ds, trial, name, session=None):
    """Position of a trial; in a forecast of several sessions, trials are called session/trial."""
    known = ds["trial"].values
    several = session is not None and "session" in ds.coords and ds["session"].dims == ("trial",)
    wanted = f"{session}/{trial}" if several else trial
    found = np.flatnonzero(known == wanted)
    if not len(found):
        raise UnknownKeyError(f"trial: {wanted} is not in {name}; {did_you_mean(wanted, known)}")
    return int(found[0])


def _onset(ds, at):
    return int(ds["onset_frame"].values[at]) if "onset_frame" in ds.coords else -1


def _order(measured, said, order):
    """Positions of the neurons, from top to bottom."""
    error = np.square(said - measured).mean(1)
    known = np.isfinite(error)
    if order == "recorded":
        return np.arange(len(known))
    if order == "peak":
        rank = np.where(np.isfinite(measured), measured, -np.inf).argmax(1).astype(float)
    elif order == "error":
        rank = -error
    else:
        centred = measured - measured.mean(1, keepdims=True)
        left = np.linalg.svd(centred[known], full_matrices=False)[0][:, 0] if known.any() else np.zeros(0)
        rank = np.zeros(len(known))
        rank[known] = -left * (np.sign(left[np.abs(left).argmax()]) if len(left) else 1)
    return np.lexsort((rank, ~known))
