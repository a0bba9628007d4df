"""Single observations (one neuron in one trial): the measured trace, its forecasts and its codes in one labelled Dataset."""

from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..estimators.interface import Observations, origin
from ..estimators.seen import seen_trials
from ..evaluation.scores import central_interval
from ..recordings.trials import check_trials

LEVEL = 0.9  # share of the draws inside an interval
KEPT = 16  # neurons whose windows stay in memory


@contextmanager
def one_thread():
    """Run torch on one thread. For a few observations, more threads only slow it down, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Observer:
    """Collects everything about single observations of some trials.

    Parameters
    ----------
    trials : Trials
        Of one or more sessions.
    models : sequence of Forecaster and Classifier
        Fitted models; naive rows may be among them. Forecasters need names that differ, and so do classifiers.
    autoencoder : Autoencoder, optional
        Its codes are shown. If None, the auto-encoder of the first model that has codes.
    n_samples : int
        Draws for the intervals of models that forecast a distribution; 0 for none.
    seed : int
        Seed of the draws.

    Raises
    ------
    QfError
        If there is no trial, two models of one task share a name, a model can't forecast a single observation, or `autoencoder` is none, or has
        no codes.
    """

    def __init__(self, trials, models=(), *, autoencoder=None, n_samples=64, seed=0):
        check_trials(trials)
        models = _checked(models)
        if autoencoder is not None and getattr(autoencoder, "task", None) != "codes":
            raise QfError(f"autoencoder: expected an Autoencoder, found {type(autoencoder).__name__}. Pass model.autoencoder.")
        if autoencoder is not None and not autoencoder.has_codes:
            raise QfError("autoencoder: expected one with codes, found one without a codebook (quantise=False). Leave it out.")
        self.classifiers = {m.name: m for m in models if m.task == "activation"}
        self.forecasters = {m.name: m for m in models if m.task == "forecast"}
        if len(self.classifiers) + len(self.forecasters) < len(models):
            raise QfError("models: expected names that differ, found one twice. Give one of them another: model.name = ...")
        coded = [m.autoencoder for m in models if m.has_codes]
        self.trials, self.autoencoder = trials, autoencoder or (coded[0] if coded else None)
        self.n_samples, self.seed = n_samples, seed
        if trials.window.signal == "zscore" and trials.scaling is None and self.autoencoder is not None:
            self.trials = self.autoencoder.prepare(trials)
        self._by_session = {part.sessions[0]: part for part in self.trials.by_session()}
        self._kept = OrderedDict()
        self._seen = [(m.name, seen_trials(m.seen, self.trials)) for m in models if m.seen]
        # a code means something else in each codebook: only codes of the shown auto-encoder are shown
        same = self.autoencoder.digest() if coded and self.autoencoder is not None else None
        self._coded = {m.name for m in models if m.task == "forecast" and m.has_codes and m.autoencoder.digest() == same}
        self._origin = {}

    @property
    def sessions(self):
        """Keys of the sessions."""
        return list(self._by_session)

    def of(self, session):
        """The Trials of one session, given by its key.

        Raises
        ------
        UnknownKeyError
            If `session` is not among `sessions`.
        """
        if session not in self._by_session:
            raise UnknownKeyError(f"session: {session!r} is not among these; {did_you_mean(session, self.sessions)}")
        return self._by_session[session]

    def windows(self, session, neuron):
        """All windows of one neuron in one session.

        Parameters
        ----------
        session, neuron : str
            Keys.

        Returns
        -------
        xarray.Dataset
            `Trials.dataset()` of only this neuron: the signal (trial, 1, time), and its labels.

        Raises
        ------
        UnknownKeyError
            If the session or neuron is not there.
        """
        if (session, neuron) not in self._kept:
            self._kept[session, neuron] = self.of(session).of_neurons(neuron).dataset()
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end((session, neuron))
        return self._kept[session, neuron]

    def look(self, session, neuron, trial, models=None):
        """Everything about one observation.

        Parameters
        ----------
        session, neuron : str
            Keys.
        trial : int
            Number of the trial in its session.
        models : sequence of str, optional
            Names of the forecasters to ask. If None, all.

        Returns
        -------
        xarray.Dataset
            - `measured`, `psth`, `psth_sd` (time), in units of the signal: the trace, and mean and standard deviation over the condition's trials;
            - `forecast`, `low`, `high` (model, time), in units of the signal: NaN before the onset, and where a model gives no interval;
            - `reconstruction` (time), in units of the signal, `code` (patch) and `forecast_code` (model, patch) int64, only with an auto-encoder: -1
              for a patch without a code;
            - `active` bool; `probability` (classifier), from 0 to 1.

            Coords: time, start_s (patch), both in seconds from the onset. attrs: session, neuron, trial, condition, stimulus, signal, n_baseline,
            n_score, n_same (number of trials of the condition that the PSTH averages), patch_s, forecasters (names of all forecasters),
            seen (names of the models that saw this trial in training), notes (what a model could not do, and why), data, simulated, models (digests),
            seeds, draws, draw_seed.

        Raises
        ------
        UnknownKeyError
            If the session, neuron or trial is not there.
        """
        ds = self.windows(session, neuron)
        numbers = ds["trial"].values
        if trial not in numbers:
            raise UnknownKeyError(f"trial: {trial} is not among those of {session}; {did_you_mean(trial, numbers)}")
        at = int(np.flatnonzero(numbers == trial)[0])
        part = self.of(session).of_neurons(neuron).subset([at])
        signal, n = part.window.signal, ds.attrs["n_baseline"]
        x = ds[signal].values[:, 0]
        same = ds["condition"].values == ds["condition"].values[at]
        like = x[same & np.isfinite(x).all(1)]
        nothing = np.full(x.shape[1], np.nan, np.float32)
        psth, psth_sd = (like.mean(0), like.std(0)) if len(like) else (nothing, nothing)
        usable, notes = np.isfinite(x[at, :n]).all(), []
        if not usable:
            notes.append("the baseline has missing values or too small an F0: nothing is forecast")
        with one_thread():
            wanted = [m for m in self.forecasters if models is None or m in models]
            asked = part, (session, neuron, at)
            forecasts = {name: self._forecast(self.forecasters[name], *asked, n, notes) if usable else {} for name in wanted}
            probabilities = {name: self._probability(m, *asked, n, notes) if usable else np.nan for name, m in self.classifiers.items()}
            codes = self._codes(*asked, notes)
        found = {"measured": ("time", x[at]), "psth": ("time", psth), "psth_sd": ("time", psth_sd), "active": ((), bool(ds["active"].values[at, 0]))}
        coords, attrs = {"time": ds["time"].values, "model": np.array(wanted, dtype=object)}, {}
        for name in ("forecast", "low", "high"):
            rows = [np.concatenate([nothing[:n], f[name]]) if name in f else nothing for f in forecasts.values()]
            found[name] = (("model", "time"), np.array(rows, np.float32).reshape(len(wanted), x.shape[1]))
        if self.classifiers:
            found["probability"] = ("classifier", list(probabilities.values()))
            coords["classifier"] = np.array(list(probabilities), dtype=object)
        if codes is not None and self.autoencoder is not None:
            c = self.autoencoder.config
            rows = [f.get("code", np.full(c.patches, -1)) for f in forecasts.values()]
            found["reconstruction"], found["code"] = ("time", codes[1][0, 0]), ("patch", codes[0][0, 0])
            found["forecast_code"] = (("model", "patch"), np.array(rows, np.int64).reshape(len(wanted), c.patches))
            coords["start_s"], attrs["patch_s"] = ("patch", c.patch_starts), c.patch_frames / c.rate_hz
        here = part.table.iloc[0]
        # built in one call: each later assignment takes xarray as long as a small model takes to forecast
        return xr.Dataset(found, coords, attrs).assign_attrs(
            session=session, neuron=neuron, trial=int(trial), condition=str(here["condition"]), stimulus=str(here["stimulus"]), signal=signal,
            n_baseline=n, n_score=int(ds["n_score"].values[at]), n_same=len(like),
            forecasters=list(self.forecasters), seen=list(dict.fromkeys(name for name, by in self._seen if session in by and by[session][at])), notes=notes, **self._from(session),
        )  # fmt: skip

    def _from(self, session):
        """Attrs that name the origin of a session's observations; data and weights are hashed once per session."""
        if session not in self._origin:
            classifiers = {f"{name} (classifier)" if name in self.forecasters else name: m for name, m in self.classifiers.items()}
            models = {name: m.digest() for name, m in {**self.forecasters, **classifiers}.items()}
            if self.autoencoder is not None:
                models["codes"] = self.autoencoder.digest()
            models = {name: found for name, found in models.items() if found}
            seeds = {name: m.seed for name, m in {**self.forecasters, **classifiers}.items() if m.seed is not None}
            drawn = {"draws": self.n_samples, "draw_seed": self.seed} if any(m.probabilistic for m in self.forecasters.values()) else {}
            self._origin[session] = {
                **origin(self.of(session)),
                **({"models": models} if models else {}),
                **({"seeds": seeds} if seeds else {}),
                **drawn,
            }
        return self._origin[session]

    def _windows(self, model, part, key):
        """Windows (1, neuron, time) of one neuron, or of all neurons for a population model; the keys of these neurons, and the condition."""
        session, neuron, at = key
        part = model.prepare(self.of(session).subset([at]) if model.population else part)
        if part.window.signal == "zscore" or model.population:
            x = part.dataset()[part.window.signal].values
        else:  # dF/F windows are the same for all models, and they are cut already
            x = self.windows(session, neuron)[part.window.signal].values[[at]]
        return x, part.neurons if model.population else [neuron], [str(part.table["condition"].iloc[0])]

    def _forecast(self, model, part, key, n, notes):
        """{"forecast", "low", "high": (time,), "code": (patch,)}, as far as the model has them. If it fails, {} and a note that gives the reason.

        `n` is the number of baseline frames.
        """
        try:
            x, names, conditions = self._windows(model, part, key)
            mine, asked = names.index(key[1]), Observations(np.nan_to_num(x[..., :n]), names, conditions, np.isfinite(x[..., :n]), session=key[0])
            wanted = ("forecast", *(("samples",) if self.n_samples else ()), *(("codes",) if model.name in self._coded else ()))
            parts = model.forecast_arrays(asked, wanted, self.n_samples, self.seed)
            found = {"forecast": parts["forecast"][0, mine]}
            if "samples" in parts:
                found["low"], found["high"] = central_interval(parts["samples"][:, 0, mine], LEVEL)
            if "codes" in parts:
                found["code"] = parts["codes"][0, mine]
        except QfError as error:
            notes.append(_named(model.name, error))
            return {}
        return found

    def _probability(self, model, part, key, n, notes):
        try:
            x, names, conditions = self._windows(model, part, key)
            asked = Observations(np.nan_to_num(x[..., :n]), names, conditions, np.isfinite(x[..., :n]), session=key[0])
            return float(model.predict_arrays(asked)[0, names.index(key[1])])
        except QfError as error:
            notes.append(_named(f"{model.name} (classifier)", error))
            return np.nan

    def _codes(self, part, key, notes):
        """The auto-encoder's codes of the whole measured window. They include the response, so they describe what happened, not a forecast."""
        if self.autoencoder is None:
            return None
        try:
            x, names, _ = self._windows(self.autoencoder, part, key)
            return self.autoencoder.codes_arrays(x, names)
        except QfError as error:
            notes.append(f"codes: {error}")
            return None


def _named(name, error):
    """A model's error as a note that begins with its name."""
    return str(error) if str(error).startswith(f"{name}:") else f"{name}: {error}"


def _checked(models):
    """The models as a list. Raises QfError if one of them can't forecast a single observation."""
    models = [models] if hasattr(models, "predict_arrays") else list(models or ())
    for m in models:
        if getattr(m, "task", None) not in ("forecast", "activation") or not m.has_arrays:
            raise QfError(
                f"models: expected forecasters and classifiers, found {getattr(m, 'name', m)!r} ({type(m).__name__}), which can't forecast a single "
                "observation. Leave it out."
            )
    return models
