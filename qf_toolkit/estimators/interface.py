"""The interface of models and naive rows: all that tables, plots and widgets may ask of any of them.

An estimator has one `task`, and its attributes name its abilities (`probabilistic`, `population`, `has_codes`, `has_attention`, `has_tokens`). Callers
look at these attributes, never at the class. A new estimator implements `fit` and `predict_arrays`; to be saved, it also implements `note`, `tensors`,
`checks` and `from_note`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr

from ..errors import QfError
from ..recordings.session import TRIAL_COORDS
from ..recordings.splits import Split
from ..recordings.trials import Trials, check_trials
from ..training.device import pick_device, told_memory
from .checks import check_draws
from .saving import read_model, write_model
from .seen import check_unseen

TASKS = ("codes", "masked", "forecast", "activation", "behaviour")


@dataclass(frozen=True, eq=False)
class Observations:
    """The question to an estimator: trials of one session up to their onsets; to a decoder, their whole windows.

    Parameters
    ----------
    context : float32 array, shape (trial, neuron, time)
        The baseline (to a decoder: baseline and response) in the units of the window's signal, 0 where a value is missing. An array of another dtype is converted.
    neurons : sequence of str
        Keys, one per neuron of `context`.
    conditions : sequence of str
        Keys, one per trial of `context`.
    valid : bool array, shape (trial, neuron, time), optional
        True where `context` was measured. If None, all of it was measured.
    session : str
        Key of the session, or "" if the recording is not known.
    rate_hz : float, optional
        Frames per second.
    behaviour : mapping of str to float32 array, shape (trial, time)
        {name: the animal's behaviour in the same frames}.

    Raises
    ------
    QfError
        If the shape of `context` does not match the numbers of conditions and neurons, or the shape of `valid` is not that of `context`.

    Examples
    --------
    >>> import numpy as np
    >>> asked = Observations(np.zeros((2, 1, 30)), ["mouse/1"], ["gratings/direction=0", "gratings/direction=90"])
    >>> asked.context.shape, asked.context.dtype.name
    ((2, 1, 30), 'float32')
    """

    context: np.ndarray
    neurons: Sequence[str]
    conditions: Sequence[str]
    valid: np.ndarray | None = None
    session: str = ""
    rate_hz: float | None = None
    behaviour: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "context", np.asarray(self.context, np.float32))
        wanted = (len(self.conditions), len(self.neurons))
        if self.context.ndim != 3 or self.context.shape[:2] != wanted:
            raise QfError(
                f"context: expected an array (trial, neuron, time) of {wanted[0]} conditions and {wanted[1]} neurons, found shape "
                f"{self.context.shape}. Give a row for each key."
            )
        if self.valid is not None and np.shape(self.valid) != self.context.shape:
            raise QfError(
                f"valid: expected the shape of context, {self.context.shape}, found {np.shape(self.valid)}. Leave it out where all is measured."
            )


class Estimator:
    """The base of every model and every naive row.

    Attributes
    ----------
    task : {"codes", "masked", "forecast", "activation", "behaviour"}
        "masked": it was trained to fill in hidden patches, and is to be fitted to a task first.
    kind : str
        Key of the class in `registry.KINDS`; "" if the estimator can't be saved.
    name : str
        Name of its row in a table.
    probabilistic : bool
        Whether it can draw samples of its forecast.
    population : bool
        Whether it reads all neurons of a session at once. Callers then always ask about all of them.
    learns_from_validation : bool
        Whether `fit` learns from the validation part, too, and not only chooses on it. Its errors there are then no fair sample of its errors.
    has_arrays : bool
        Whether it has a `predict_arrays` of its own. A row that reads more than the context (F0, the simulator's truth) only answers `predict`.
    has_codes : bool
        Whether it is an auto-encoder with a codebook, or has an `autoencoder` whose codes it uses.
    has_attention : bool
        Whether `interpret.attention` can read its attention.
    has_states, has_neuron_attention : bool
        Whether `states_arrays` gives its states after each token, and whether `neuron_attention_arrays` says which neurons look at which.
    has_tokens : bool
        Whether it has learnt a token for each neuron.
    has_stimulus_tokens : bool
        Whether it has learnt tokens of conditions or stimulus categories.
    patch_frames : int or None
        Frames of a patch; None if its forecast is not made of patches.
    device : torch.device or str
        The device that it computes on.
    n_response : int or None
        Frames of its forecast; None if that is not known.
    seen : dict
        Frames that `fit` has used; see `seen.seen_frames`.
    seed : int or None
        Seed of its training.
    simulated : bool or None
        Whether it was fitted on simulated recordings; None if that is not known.
    run : dict or None
        The version of qf_toolkit and the settings with which the command line fitted it; None if it was fitted from Python.
    """

    task: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    name: str = ""
    probabilistic: bool = False
    population: bool = False
    learns_from_validation: bool = False
    has_arrays: bool = False
    has_codes: bool = False
    has_attention: bool = False
    has_neuron_attention: bool = False
    has_states: bool = False
    has_tokens: bool = False
    has_stimulus_tokens: bool = False
    patch_frames: int | None = None
    device: Any = "cpu"
    n_response: int | None = None
    seed: int | None = None
    simulated: bool | None = None
    run: dict | None = None

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "predict_arrays" in vars(cls) and cls.__module__ != __name__:
            cls.has_arrays = True

    def __init__(self) -> None:
        self.seen: dict = {}

    def fit(self, split: Split) -> Self:
        """Learn from the training part of a Split, and choose on its validation part; returns self. Raises QfError if a call makes a new one instead."""
        raise QfError(f"{self.name}: expected one that can be fitted again, found none. Fit a new one: pretrain, fit_network...")

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """Answer `Observations` of one session. `predict` and streams call this method."""
        raise NotImplementedError

    def predict(self, trials: Trials) -> xr.Dataset:
        """Answer for every neuron, or for the population, in every trial, as a labelled Dataset."""
        raise NotImplementedError

    def digest(self) -> str:
        """A hash of all that was learnt; "" if there is nothing learnt."""
        return ""

    def prepare(self, trials: Trials) -> Trials:
        """The trials in the form that this estimator needs, for example with its own z-scores; raises QfError if they don't fit it."""
        return trials

    def check_unseen(self, trials: Trials) -> None:
        """Raise LeakageError if windows of the trials share a frame with those that `fit` has used."""
        check_unseen(self.seen, trials, self.name)

    # ------------------------------------------------------------ saved models

    gaps: ClassVar[tuple[str, ...]] = ()  # ends of the names of tensors that may hold NaN

    def note(self) -> dict:
        """The dict for config.json, of values that JSON can hold; raises QfError if the estimator can't be saved."""
        raise QfError(f"{self.name}: expected a model that can be saved, found one that has nothing to save. Fit it again where it is needed.")

    def tensors(self) -> dict:
        """The learnt tensors, {name: tensor}."""
        return {}

    @classmethod
    def checks(cls) -> Callable[[Any, str], None]:
        """The check, made of `schema`, for the dict that `note` returns."""
        raise NotImplementedError

    @classmethod
    def from_note(cls, note: dict, tensors: dict, device: Any, folder: Path) -> Self:
        """Build an estimator from a checked note and its tensors; `folder` is named in errors."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, over a model that is there.

        Raises
        ------
        QfError
            If the estimator can't be saved, or the folder can't be written.
        """
        write_model(folder, self.kind, {**self.note(), "run": self.run}, self.tensors())

    @classmethod
    def load(cls, folder: str | Path, device: Any = "auto") -> Self:
        """Read a model that `save` wrote.

        Raises
        ------
        QfError
            If the folder holds no saved model of this kind, or one of another version, or the device's memory is full.
        DamagedFileError
            If a file is cut short or altered.
        """
        device = pick_device(device)
        note, tensors = read_model(folder, cls.kind, cls.checks(), cls.gaps)
        with told_memory(device, "Load a smaller model"):
            self = cls.from_note(note, tensors, device, Path(folder))
        self.run = note.get("run")
        return self

    # ------------------------------------------------------------ what predictions share

    def labelled(self, trials: Trials, answer: Callable[[Observations], dict[str, tuple[tuple[str, ...], np.ndarray]]]) -> xr.Dataset:
        """Call `answer` for each session in turn, and label the arrays that it returns.

        Parameters
        ----------
        trials : Trials
        answer : callable
            Observations -> {name: (dims, array)}; the dims trial, neuron and time (seconds from the onset) get coords.

        Returns
        -------
        xarray.Dataset
            Values on the dims trial and neuron are NaN where the baseline can't be used.

        Raises
        ------
        QfError
            If the trials don't fit this estimator, or the device's memory is full.
        """
        check_trials(trials)
        headers = [trials.source.header(s) for s in trials.sessions]
        features = [c for c in trials.features_of(trials.sessions[0]) if all(c in h.coords for h in headers)]
        parts = []
        for part in self.prepare(trials).by_session():
            ds = part.dataset()
            decodes = self.task == "behaviour"
            asked, usable = observations_of(ds, part.window.signal, whole=decodes)
            with told_memory(self.device, "Forecast fewer trials or neurons at once"):
                found = answer(asked)
            out = xr.Dataset(
                found,
                # plain values: a DataArray would bring along the features that sessions don't share
                {
                    "trial": ds["trial"].values,
                    "neuron": ds["neuron"].values,
                    "time": ds["time"].values[0 if decodes else ds.attrs["n_baseline"] :],
                    **{c: ("trial", ds[c].values) for c in (*TRIAL_COORDS, *features)},
                },
            )
            if not decodes:
                out = out.where(xr.DataArray(usable, dims=("trial", "neuron")))
            if len(trials.sessions) > 1:  # trials are numbered anew in each session
                session = part.sessions[0]
                out = out.assign_coords(trial=[f"{session}/{t}" for t in out["trial"].values], session=("trial", [session] * out.sizes["trial"]))
            parts.append(out)
        out = parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")
        return out.assign_attrs(forecaster=self.name, signal=trials.window.signal, **origin(trials, self))


class Forecaster(Estimator):
    """Forecasts the response from the frames before the onset, the neuron and the condition.

    Subclasses implement `fit` and `predict_arrays`; a probabilistic one also implements `sample_arrays`.
    """

    task = "forecast"
    name = "forecaster"

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """Forecast the response, frame by frame from the onset on.

        Parameters
        ----------
        asked : Observations

        Returns
        -------
        float32 array, shape (trial, neuron, time)
            In the units of the context.
        """
        raise NotImplementedError

    def sample_arrays(self, asked: Observations, n_samples: int = 100, seed: int = 0) -> np.ndarray:
        """Draws from the forecast distribution, float32 (sample, trial, neuron, time), in the units of the context. A forecaster that is not
        `probabilistic` raises NotImplementedError."""
        raise NotImplementedError(f"{self.name} forecasts one number a frame and can't be sampled.")

    def forecast_arrays(
        self, asked: Observations, wanted: Sequence[str] = ("forecast",), n_samples: int = 100, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Compute several results at once. A model that can compute them in one pass overrides this method.

        Parameters
        ----------
        asked : Observations
        wanted : sequence of {"forecast", "samples", "codes"}
            A result that the model can't compute is missing in the answer.
        n_samples, seed : int
            Number and seed of the samples.

        Returns
        -------
        dict
            `forecast` (trial, neuron, time) and `samples` (sample, trial, neuron, time), float32 in the units of the context; `codes`
            (trial, neuron, patch), int64: the codes of the baseline, then the likeliest codes of the response.
        """
        found = {"forecast": self.predict_arrays(asked)} if "forecast" in wanted else {}
        if "samples" in wanted and self.probabilistic:
            found["samples"] = self.sample_arrays(asked, n_samples, seed)
        return found

    def predict(self, trials: Trials) -> xr.Dataset:
        """Forecast the response of every neuron in every trial.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.Dataset
            `forecast` (trial, neuron, time), float32 in the units of the window's signal, NaN where the baseline can't be used; time is in
            seconds from the onset. The trials keep their coords and the features that all sessions have. Several sessions are joined on outer
            coords; for many large sessions call `predict` on each part of `trials.by_session()`.

        Raises
        ------
        UnknownKeyError
            If the model does not know a neuron or a condition.
        QfError
            If window or rate are not the model's, or the device's memory is full.
        """
        return self.labelled(trials, lambda asked: {"forecast": (("trial", "neuron", "time"), self.predict_arrays(asked))})

    def sample(self, trials: Trials, n_samples: int = 100, seed: int = 0) -> xr.Dataset:
        """Draw from the forecast distribution of every neuron in every trial.

        Parameters
        ----------
        trials : Trials
        n_samples : int
        seed : int

        Returns
        -------
        xarray.Dataset
            `samples` (sample, trial, neuron, time), float32, with the units and coords of `predict`.

        Raises
        ------
        QfError
            If n_samples or seed is out of range, or the draws need more memory than there is.
        """
        check_trials(trials)
        check_draws(n_samples, seed, (len(trials), len(trials.neurons), trials.window.frames(trials.rate_hz)[1]))
        dims = ("sample", "trial", "neuron", "time")
        return self.labelled(trials, lambda asked: {"samples": (dims, self.sample_arrays(asked, n_samples=n_samples, seed=seed))})


class Classifier(Estimator):
    """Estimates how probable it is that a neuron will be active after the onset.

    Attributes
    ----------
    threshold : float
        Probability above which an observation counts as active.
    """

    task = "activation"
    name = "classifier"
    threshold = 0.5

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """The probability that each neuron is active, float32 (trial, neuron)."""
        raise NotImplementedError

    def predict(self, trials: Trials) -> xr.Dataset:
        """Forecast the activation of every neuron in every trial.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.Dataset
            `probability` and `active` (1 above the threshold, else 0), both (trial, neuron) and NaN where the baseline can't be used.
        """
        out = self.labelled(trials, lambda asked: {"probability": (("trial", "neuron"), self.predict_arrays(asked))})
        out["active"] = (out["probability"] > self.threshold).where(out["probability"].notnull())
        return out

    def predict_probability(self, trials: Trials) -> xr.DataArray:
        """`probability` of `predict` only, DataArray (trial, neuron)."""
        return self.predict(trials)["probability"]


def observations_of(ds: xr.Dataset, signal: str, whole: bool = False) -> tuple[Observations, np.ndarray]:
    """The Observations in a Dataset that `Trials.dataset` cut.

    Parameters
    ----------
    ds : xarray.Dataset
    signal : {"dff", "zscore"}
        The variable of `ds` that holds the signal.
    whole : bool
        Whether `context` holds all frames of the windows, as decoders read them, not those before the onset alone.

    Returns
    -------
    Observations
    usable : bool array, shape (trial, neuron)
        True if the whole context was measured.
    """
    n = ds.sizes["time"] if whole else ds.attrs["n_baseline"]
    context = ds[signal].values[..., :n]
    measured = np.isfinite(context)
    asked = Observations(
        np.nan_to_num(context), [str(k) for k in ds["neuron"].values], [str(c) for c in ds["condition"].values], measured,
        str(ds.attrs.get("session", "")), ds.attrs.get("rate_hz"),
        {str(k): v.values[:, :n] for k, v in ds.data_vars.items() if v.dims == ("trial", "time")},
    )  # fmt: skip
    return asked, np.asarray(measured.all(-1))


def origin(trials: Trials, model: Estimator | None = None) -> dict:
    """The origin of a result, as attrs. Every Dataset that is computed from trials and a model carries them, and every saved figure names them.

    Parameters
    ----------
    trials : Trials
    model : Estimator, optional

    Returns
    -------
    dict
        data (digest of the recordings, the chosen trials and neurons, and the window) and simulated (0 or 1); with a model also model (its digest) and
        seed, each if it is known.
    """
    found: dict = {"data": trials.digest(), "simulated": int(trials.simulated)}
    if model is not None:
        if model.digest():
            found["model"] = model.digest()
        if model.seed is not None:
            found["seed"] = model.seed
    return found
