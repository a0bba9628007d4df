"""The ceiling of simulated recordings: a row of the table that no forecast can beat."""

import numpy as np
import xarray as xr

from ..errors import QfError
from ..recordings.store import Store
from ..recordings.window import as_fluorescence, gather
from .interface import Forecaster


class SimulatorCeiling(Forecaster):
    """The best possible forecast of simulated data: the expected fluorescence given all that happened up to the onset, by Monte Carlo on the simulator.

    The mean of `n_samples` samples differs from the expectation; its expected squared difference is their variance / n_samples. `predict` estimates it
    for every frame. `evaluate` subtracts it from the row's squared error, so that the error of the expectation itself remains, and measures E against
    that.

    Parameters
    ----------
    n_samples : int
        Monte Carlo samples per trial.
    seed : int
    """

    name = "ceiling (simulator's truth)"

    def __init__(self, n_samples=64, seed=0):
        super().__init__()
        self.n_samples, self.seed = n_samples, seed

    def fit(self, split):
        return self  # nothing to learn

    def predict(self, trials):
        """As `Forecaster.predict`, with a second variable: `monte_carlo` (trial, neuron, time), float32, the expected square of the sampling error.

        Raises
        ------
        QfError
            If the trials don't come from a store of simulated sessions.
        """
        from ..recordings.simulated.conditional_mean import conditional_mean

        if not isinstance(trials.source, Store):
            raise QfError("ceiling: expected trials from a Store, where the simulator keeps its truth, found sessions in memory. Use `qf simulate`.")
        parts = []
        for part in trials.by_session():
            session = part.sessions[0]
            ds = part.source[session]
            if str(ds.attrs.get("source", "")) != "simulation":
                raise QfError(
                    f"ceiling: expected a simulated recording, found source {ds.attrs.get('source', '')!r} in {session}. Pass ceiling=False."
                )
            n_baseline, n_response, n_f0 = part.window.frames(float(ds.attrs["rate_hz"]))
            rows, onsets = part.rows[session], part.table["onset_frame"].to_numpy()
            found = conditional_mean(part.source, session, onsets, n_response, self.n_samples, self.seed, with_error=True)
            expected, error = (x[:, rows] for x in found)
            traces, floor = as_fluorescence(ds)
            baseline = gather(traces, rows, onsets - n_baseline, n_baseline)
            f0 = baseline[..., n_baseline - n_f0 :].mean(-1)
            usable = np.isfinite(baseline).all(-1) & (f0 > floor[rows])
            if part.window.signal == "zscore":
                mean, sd = part.scale_of(session)
                forecast, error = (expected - mean[:, None]) / sd[:, None], error / sd[:, None] ** 2
            else:
                safe = np.where(usable, f0, 1.0)[..., None]
                forecast, error = (expected - safe) / safe, error / safe**2
            coords = {
                "trial": part.table["trial"].to_numpy() if len(trials.sessions) == 1 else [f"{session}/{t}" for t in part.table["trial"]],
                "neuron": np.array(part.neurons_of(session), dtype=object),
                "time": np.arange(n_response) / float(ds.attrs["rate_hz"]),
            }
            values = {name: np.where(usable[..., None], x, np.nan).astype(np.float32) for name, x in (("forecast", forecast), ("monte_carlo", error))}
            parts.append(xr.Dataset({name: (("trial", "neuron", "time"), x) for name, x in values.items()}, coords))
        out = parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")
        return out.assign_attrs(forecaster=self.name, signal=trials.window.signal)
