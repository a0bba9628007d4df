"""Rows that know the simulator's truth: the ceiling of a simulated cortex, and the upper bound of a simulated network."""

import numpy as np
import xarray as xr

from ..errors import QfError
from ..recordings.store import Store
from ..recordings.window import as_fluorescence, gather
from .interface import Forecaster


class TruthRow(Forecaster):
    """A forecast from the simulator's truth. A subclass says what it expects.

    Parameters
    ----------
    n_samples : int
        Monte Carlo samples per trial.
    seed : int
    """

    def __init__(self, n_samples: int = 64, seed: int = 0):
        super().__init__()
        self.n_samples, self.seed = n_samples, seed

    def fit(self, split):
        return self  # nothing to learn

    def _expected(self, store, session, onsets, n_response):
        """{name: values}: "forecast", float array (trial, neuron, time) of all neurons in units of fluorescence, and what is squared like "monte_carlo"."""
        raise NotImplementedError

    def predict(self, trials):
        """As `Forecaster.predict`.

        Raises
        ------
        QfError
            If the trials don't come from a store of simulated sessions.
        """
        if not isinstance(trials.source, Store):
            raise QfError(
                f"{self.name}: expected trials from a Store, where the simulator keeps its truth, found sessions in memory. Use `qf simulate`."
            )
        parts = []
        for part in trials.by_session():
            session = part.sessions[0]
            ds = part.source[session]
            if str(ds.attrs.get("source", "")) != "simulation":
                raise QfError(
                    f"{self.name}: expected a simulated recording, found source {ds.attrs.get('source', '')!r} in {session}. Leave this row out."
                )
            n_baseline, n_response, n_f0 = part.window.frames(float(ds.attrs["rate_hz"]))
            rows, onsets = part.rows[session], part.table["onset_frame"].to_numpy()
            found = {name: x[:, rows] for name, x in self._expected(part.source, session, onsets, n_response).items()}
            traces, floor = as_fluorescence(ds)
            baseline = gather(traces, rows, onsets - n_baseline, n_baseline)
            f0 = baseline[..., n_baseline - n_f0 :].mean(-1)
            usable = np.isfinite(baseline).all(-1)
            if part.window.signal == "zscore":
                mean, divisor = part.scale_of(session)
                level, divisor = (mean + ("dff" in ds))[:, None], divisor[:, None]
            else:
                usable &= f0 > floor[rows]
                level = divisor = np.where(usable, f0, 1.0)[..., None]
            values = {name: x / divisor**2 if name == "monte_carlo" else (x - level) / divisor for name, x in found.items()}
            coords = {
                "trial": part.table["trial"].to_numpy() if len(trials.sessions) == 1 else [f"{session}/{t}" for t in part.table["trial"]],
                "neuron": np.array(part.neurons_of(session), dtype=object),
                "time": np.arange(n_response) / float(ds.attrs["rate_hz"]),
            }
            values = {name: np.where(usable[..., None], x, np.nan).astype(np.float32) for name, x in values.items()}
            parts.append(xr.Dataset({name: (("trial", "neuron", "time"), x) for name, x in values.items()}, coords))
        out = parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")
        return out.assign_attrs(forecaster=self.name, signal=trials.window.signal)


class SimulatorCeiling(TruthRow):
    """The best possible forecast of a simulated cortex: the expected fluorescence given all that happened up to the onset, by Monte Carlo.

    The mean of `n_samples` samples differs from the expectation; its expected squared difference is their variance / n_samples. `predict` estimates it
    for every frame, as `monte_carlo` (trial, neuron, time), float32. `evaluate` subtracts it from the row's squared error, so that the error of the
    expectation itself remains, and measures E against that.
    """

    name = "ceiling (simulator's truth)"

    def _expected(self, store, session, onsets, n_response):
        from ..recordings.simulated.conditional_mean import conditional_mean

        found = conditional_mean(store, session, onsets, n_response, self.n_samples, self.seed, with_error=True)
        return dict(zip(("forecast", "monte_carlo"), found, strict=True))


class RolloutBound(TruthRow):
    """The upper bound of a simulated network: the mean of what follows from its TRUE state at the last frame of the context, with fresh noise.

    No model can reach it: a model sees calcium with noise and not the state, and is not told which cues come. The traces of the future hold noise of
    their own, which not even this row knows.
    """

    name = "upper bound (true state)"

    def _expected(self, store, session, onsets, n_response):
        from ..recordings.simulated.network import rollout

        return {"forecast": 1.0 + rollout(store, session, onsets, n_response, self.n_samples, self.seed)}  # fluorescence is 1 + dF/F
