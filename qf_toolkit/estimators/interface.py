"""The one interface that every model and every naive row meets: `fit`, `predict`, `predict_arrays`, optionally `sample`; models also `save` and `load`."""

import math
import os

import numpy as np
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..models.options import Range
from ..recordings.session import TRIAL_COORDS
from ..recordings.trials import check_trials
from ..training.device import told_memory
from .seen import check_unseen

N_SAMPLES, SEED = Range("whole", least=1, most=10**9), Range("whole", least=0, most=2**63 - 1)


class Forecaster:
    """Forecasts the response from what was recorded before the onset, the neuron and the condition.

    Subclasses implement `fit` and `predict_arrays`; a probabilistic one `sample_arrays`, too.

    Attributes
    ----------
    name : str
        Name of its row in a table.
    seen : dict
        Frames that fitting has used; see `seen_frames`.
    """

    name = "forecaster"
    probabilistic = False
    device = "cpu"  # where it computes
    population = False  # whether it reads all neurons of a session at once, so that one of them can't be forecast alone
    patch_frames: int | None = None  # frames of the patches that a forecast is made of, where it is

    def __init__(self):
        self.seen = {}
        self.n_response = None
        self.seed = None

    def fit(self, split):
        """Learn from a Split (train, and validation for choices); returns self."""
        raise NotImplementedError

    def predict_arrays(self, context, neurons, conditions):
        """The forecast from arrays of one session: what `predict` and a stream call.

        Parameters
        ----------
        context : float32 array, shape (trial, neuron, time)
            The baseline in the units of the window's signal, 0 where missing.
        neurons : list of str
            Keys, a row of `context` each.
        conditions : list of str
            Keys, a trial each.

        Returns
        -------
        float32 array, shape (trial, neuron, time)
            The response, frame by frame from the onset on.
        """
        raise NotImplementedError

    def sample_arrays(self, context, neurons, conditions, n_samples, seed):
        """Draws from the forecast distribution, (sample, trial, neuron, time); only where `probabilistic`."""
        raise NotImplementedError(f"{self.name} forecasts one number a frame and can't be sampled.")

    def digest(self):
        """A hash of what was learnt; "" where there are no weights."""
        return ""

    def prepare(self, trials):
        """The trials as this forecaster wants them (its own z-scores, say); raises where they don't fit."""
        return trials

    def predict(self, trials):
        """Forecast the response of every neuron in every trial.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.Dataset
            `forecast` (trial, neuron, time) float32 in the units of the window's signal, NaN where the baseline can't be used; time in
            seconds from the onset; coords of the trials, with the features that all sessions have. Several sessions are joined on outer coords;
            for many large ones go through `trials.by_session()`.
        """
        return self._labelled(trials, lambda *a: {"forecast": (("trial", "neuron", "time"), self.predict_arrays(*a))})

    def sample(self, trials, n_samples=100, seed=0):
        """Draws from the forecast distribution.

        Parameters
        ----------
        trials : Trials
        n_samples : int
        seed : int

        Returns
        -------
        xarray.Dataset
            `samples` (sample, trial, neuron, time) float32, otherwise as `predict`.

        Raises
        ------
        QfError
            If n_samples or seed is out of range, or the draws need more memory than there is.
        """
        check_trials(trials)
        check_draws(n_samples, seed, (len(trials), len(trials.neurons), trials.window.frames(trials.rate_hz)[1]))
        dims = ("sample", "trial", "neuron", "time")
        return self._labelled(trials, lambda *a: {"samples": (dims, self.sample_arrays(*a, n_samples=n_samples, seed=seed))})

    def _labelled(self, trials, call):
        check_trials(trials)
        headers = [trials.source.header(s) for s in trials.sessions]
        features = [c for c in trials.features_of(trials.sessions[0]) if all(c in h.coords for h in headers)]
        parts = []
        for part in self.prepare(trials).by_session():
            ds = part.dataset()
            n = ds.attrs["n_baseline"]
            context = ds[part.window.signal].values[..., :n]
            usable = np.isfinite(context).all(-1)
            neurons, conditions = [str(k) for k in ds["neuron"].values], [str(c) for c in ds["condition"].values]
            with told_memory(self.device, "Forecast fewer trials or neurons at once"):
                found = call(np.nan_to_num(context), neurons, conditions)
            out = xr.Dataset(
                found,
                # plain values: a DataArray would bring along the features that sessions don't share
                {
                    "trial": ds["trial"].values,
                    "neuron": ds["neuron"].values,
                    "time": ds["time"].values[n:],
                    **{c: ("trial", ds[c].values) for c in (*TRIAL_COORDS, *features)},
                },
            )
            out = out.where(xr.DataArray(usable, dims=("trial", "neuron")))
            if len(trials.sessions) > 1:  # trials are numbered anew in each session
                session = part.sessions[0]
                out = out.assign_coords(trial=[f"{session}/{t}" for t in out["trial"].values], session=("trial", [session] * out.sizes["trial"]))
            parts.append(out)
        out = parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")
        return out.assign_attrs(forecaster=self.name, signal=trials.window.signal, **origin(trials, self))

    def check_unseen(self, trials):
        """Refuse trials whose windows share a frame with what fitting has used.

        Raises
        ------
        LeakageError
            Naming the session and the number of trials.
        """
        check_unseen(self.seen, trials, self.name)


def origin(trials, model=None):
    """Where a result comes from: the attrs that every Dataset made of trials and a model carries, and every saved figure names.

    Parameters
    ----------
    trials : Trials
    model : Forecaster or Autoencoder, optional

    Returns
    -------
    dict
        data (hash of the recordings and of what was chosen of them), simulated (0 or 1), and of a model its hash and, where known, its seed.
    """
    found = {"data": trials.digest(), "simulated": int(trials.simulated)}
    if model is not None:
        if model.digest():
            found["model"] = model.digest()
        if model.seed is not None:
            found["seed"] = model.seed
    return found


def check_draws(n_samples, seed, shape):
    """Raise QfError where n_samples or seed is out of range, or draws of `shape` (trial, neuron, time) need more than a quarter of the memory."""
    N_SAMPLES.checked("n_samples", n_samples)
    SEED.checked("seed", seed)
    try:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4  # they are copied on their way
    except (AttributeError, ValueError, OSError):  # Windows doesn't tell
        room = 4e9
    a_draw = 4 * math.prod(shape)
    if n_samples * a_draw > room:
        raise QfError(
            f"n_samples: expected at most {int(room // a_draw)} of these trials and neurons, of which a draw takes {a_draw / 1e6:.3g} MB, "
            f"found {n_samples}. Take fewer samples, trials or neurons."
        )


def check_keys(kind, wanted, known, hint):
    """Raise UnknownKeyError naming what is not known."""
    missing = [k for k in dict.fromkeys(wanted) if k not in known]
    if missing:
        raise UnknownKeyError(
            f"{kind}: {missing[0]!r}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} unknown to the model; "
            f"{did_you_mean(missing[0], known)} {hint}"
        )


def check_rate(rate_hz, trials):
    """Raise QfError where a session's rate differs from the model's by more than 2 %, or its windows have another number of frames."""
    for session in trials.sessions:
        rate = float(trials.source.header(session).attrs["rate_hz"])
        if abs(rate / rate_hz - 1) > 0.02:
            raise QfError(
                f"rate_hz: expected {rate_hz:g} Hz, the model's, found {rate:g} Hz in {session}. Train a model at that rate, or resample the recording."
            )
        ours, theirs = (trials.window.frames(r) for r in (rate_hz, rate))
        if ours != theirs:
            ours, theirs = ("{} + {} frames, F0 of {}".format(*frames) for frames in (ours, theirs))
            raise QfError(
                f"rate_hz: expected windows of {ours}, as at the model's {rate_hz:g} Hz, found {theirs} at {rate:g} Hz in {session}. "
                "Change baseline_s, response_s or f0_s by half a frame, so that both round alike, or leave the session out."
            )
