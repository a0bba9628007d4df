"""What is fitted and asked: all that tables, plots and widgets may ask of any model or naive row.

An estimator does one `task` and says what it is able to do (`probabilistic`, `population`, `has_codes`, `has_attention`, `has_tokens`); nobody looks at
its class. Whoever adds one writes `fit`, `predict_arrays` and, so that it can be saved, `note`, `tensors`, `checks` and `from_note`.
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

TASKS = ("codes", "forecast", "activation", "behaviour")


@dataclass(frozen=True, eq=False)
class Observations:
    """Trials of one session up to their onsets: what an estimator is asked about.

    Parameters
    ----------
    context : float32 array, shape (trial, neuron, time)
        The baseline in the units of the window's signal, 0 where missing. An array of another dtype is converted.
    neurons : sequence of str
        Keys, a row of `context` each.
    conditions : sequence of str
        Keys, a trial each.
    valid : bool array, shape (trial, neuron, time), optional
        Where `context` was measured; everywhere where left out.
    session : str
        Key, "" where it is of no recording that is known.
    rate_hz : float, optional
        Frames a second.
    behaviour : mapping of str to float32 array, shape (trial, time)
        What the animal did in the same frames.

    Raises
    ------
    QfError
        If the shape of `context` or `valid` is not that of trials x neurons x time.

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
    """What every model and every naive row meets.

    Attributes
    ----------
    task : {"codes", "forecast", "activation", "behaviour"}
    kind : str
        Under which a saved one is found in the registry; "" where it can't be saved.
    name : str
        Of its row in a table.
    probabilistic : bool
        Whether it can be sampled.
    population : bool
        Whether it reads all neurons of a session at once, so that one of them can't be asked about without the others.
    has_arrays : bool
        Whether it has a `predict_arrays` of its own; a row that reads more than the context (F0, the simulator's truth) answers about trials only.
    has_codes : bool
        Whether there is an `autoencoder` whose codes it forecasts, or is one.
    has_attention : bool
        Whether `interpret.attention` can look into it.
    has_tokens : bool
        Whether it has learnt a token for each neuron.
    patch_frames : int or None
        Frames of the patches that a forecast is made of, where it is.
    device : torch.device or str
        Where it computes.
    seen : dict
        Frames that fitting has used; see `seen.seen_frames`.
    seed : int or None
        Of its training.
    simulated : bool or None
        Whether it was fitted on simulated recordings; None where that is not known.
    run : dict or None
        How the command line made it (qf_toolkit, settings); None where it was fitted from Python.
    """

    task: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    name: str = ""
    probabilistic: bool = False
    population: bool = False
    has_arrays: bool = False
    has_codes: bool = False
    has_attention: bool = False
    has_tokens: bool = False
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
        """Learn from a Split (train, and validation for choices); returns self."""
        raise NotImplementedError

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """The answer to `Observations` of one session: what `predict` and a stream call."""
        raise NotImplementedError

    def predict(self, trials: Trials) -> xr.Dataset:
        """The answer of every neuron, or of the population, in every trial, labelled."""
        raise NotImplementedError

    def digest(self) -> str:
        """A hash of what was learnt; "" where there are no weights."""
        return ""

    def prepare(self, trials: Trials) -> Trials:
        """The trials as this estimator wants them (its own z-scores, say); raises QfError where they don't fit."""
        return trials

    def check_unseen(self, trials: Trials) -> None:
        """Refuse trials whose windows share a frame with what fitting has used.

        Raises
        ------
        LeakageError
            Naming the session and the number of trials.
        """
        check_unseen(self.seen, trials, self.name)

    # ------------------------------------------------------------ saved models

    gaps: ClassVar[tuple[str, ...]] = ()  # ends of the names of tensors that may hold NaN

    def note(self) -> dict:
        """What config.json holds of it: plain JSON."""
        raise QfError(f"{self.name}: expected a model that can be saved, found one that has nothing to save. Fit it again where it is needed.")

    def tensors(self) -> dict:
        """{name: tensor} of what it learnt."""
        return {}

    @classmethod
    def checks(cls) -> Callable[[Any, str], None]:
        """The check, of `schema`, of what `note` gave."""
        raise NotImplementedError

    @classmethod
    def from_note(cls, note: dict, tensors: dict, device: Any, folder: Path) -> Self:
        """Build it from a checked note and its tensors."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, over a model that is there.

        Raises
        ------
        QfError
            If the folder can't be written.
        """
        write_model(folder, self.kind, {**self.note(), "run": self.run}, self.tensors())

    @classmethod
    def load(cls, folder: str | Path, device: Any = "auto") -> Self:
        """Read what `save` wrote.

        Raises
        ------
        QfError
            If it is no such saved model, or one of another version; DamagedFileError if a file is cut short or altered.
        """
        device = pick_device(device)
        note, tensors = read_model(folder, cls.kind, cls.checks(), cls.gaps)
        with told_memory(device, "Load a smaller model"):
            self = cls.from_note(note, tensors, device, Path(folder))
        self.run = note.get("run")
        return self

    # ------------------------------------------------------------ what predictions share

    def labelled(self, trials: Trials, answer: Callable[[Observations], dict[str, tuple[tuple[str, ...], np.ndarray]]]) -> xr.Dataset:
        """Ask about each session in turn, and label what comes.

        Parameters
        ----------
        trials : Trials
        answer : callable
            Observations -> {name: (dims, array)}; dims trial, neuron and time (seconds from the onset) get coords.

        Returns
        -------
        xarray.Dataset
            What stands on trial and neuron is NaN where the baseline can't be used.
        """
        check_trials(trials)
        headers = [trials.source.header(s) for s in trials.sessions]
        features = [c for c in trials.features_of(trials.sessions[0]) if all(c in h.coords for h in headers)]
        parts = []
        for part in self.prepare(trials).by_session():
            ds = part.dataset()
            n = ds.attrs["n_baseline"]
            asked, usable = observations_of(ds, part.window.signal)
            with told_memory(self.device, "Forecast fewer trials or neurons at once"):
                found = answer(asked)
            out = xr.Dataset(
                found,
                # plain values: a DataArray would bring along the features that sessions don't share
                {
                    "trial": ds["trial"].values,
                    "neuron": ds["neuron"].values,
                    "time": ds["time"].values[:n] if self.task == "behaviour" else ds["time"].values[n:],
                    **{c: ("trial", ds[c].values) for c in (*TRIAL_COORDS, *features)},
                },
            )
            if self.task != "behaviour":
                out = out.where(xr.DataArray(usable, dims=("trial", "neuron")))
            if len(trials.sessions) > 1:  # trials are numbered anew in each session
                session = part.sessions[0]
                out = out.assign_coords(trial=[f"{session}/{t}" for t in out["trial"].values], session=("trial", [session] * out.sizes["trial"]))
            parts.append(out)
        out = parts[0] if len(parts) == 1 else xr.concat(parts, "trial", join="outer")
        return out.assign_attrs(forecaster=self.name, signal=trials.window.signal, **origin(trials, self))


class Forecaster(Estimator):
    """Forecasts the response from what was recorded before the onset, the neuron and the condition.

    Subclasses write `fit` and `predict_arrays`; a probabilistic one `sample_arrays`, too.
    """

    task = "forecast"
    name = "forecaster"

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """The response, frame by frame from the onset on.

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
        """Draws from the forecast distribution, float32 (sample, trial, neuron, time); only where `probabilistic`."""
        raise NotImplementedError(f"{self.name} forecasts one number a frame and can't be sampled.")

    def forecast_arrays(
        self, asked: Observations, wanted: Sequence[str] = ("forecast",), n_samples: int = 100, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """All that is wanted of a forecast; a model that can answer several from one pass does so.

        Parameters
        ----------
        asked : Observations
        wanted : sequence of {"forecast", "samples", "codes"}
            What the model is unable to give is left out.
        n_samples, seed : int
            Of the samples.

        Returns
        -------
        dict
            `forecast` (trial, neuron, time) and `samples` (sample, trial, neuron, time) float32, units of the context; `codes`
            (trial, neuron, patch) int64, those of the baseline and the likeliest ones of the response.
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
            `forecast` (trial, neuron, time) float32 in the units of the window's signal, NaN where the baseline can't be used; time in
            seconds from the onset; coords of the trials, with the features that all sessions have. Several sessions are joined on outer coords;
            for many large ones go through `trials.by_session()`.
        """
        return self.labelled(trials, lambda asked: {"forecast": (("trial", "neuron", "time"), self.predict_arrays(asked))})

    def sample(self, trials: Trials, n_samples: int = 100, seed: int = 0) -> xr.Dataset:
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
        return self.labelled(trials, lambda asked: {"samples": (dims, self.sample_arrays(asked, n_samples=n_samples, seed=seed))})


class Classifier(Estimator):
    """Says how probable it is that a neuron will be active after the onset.

    Attributes
    ----------
    threshold : float
        Probability above which an observation counts as active.
    """

    task = "activation"
    name = "classifier"
    threshold = 0.5

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """Probability of being active, float32 (trial, neuron)."""
        raise NotImplementedError

    def predict(self, trials: Trials) -> xr.Dataset:
        """Activation of every neuron in every trial.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.Dataset
            `probability` and `active` (trial, neuron), NaN where the baseline can't be used.
        """
        out = self.labelled(trials, lambda asked: {"probability": (("trial", "neuron"), self.predict_arrays(asked))})
        out["active"] = (out["probability"] > self.threshold).where(out["probability"].notnull())
        return out

    def predict_probability(self, trials: Trials) -> xr.DataArray:
        """Probability of being active, DataArray (trial, neuron)."""
        return self.predict(trials)["probability"]


class Decoder(Estimator):
    """Reads what the animal does from the activity of the population.

    Attributes
    ----------
    behaviour : tuple of str
        What it decodes, each a variable of the sessions' behaviour.
    """

    task = "behaviour"
    name = "decoder"
    population = True
    behaviour: tuple[str, ...] = ()

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """The behaviour in the frames of the context, float32 (trial, behaviour, time), in the order of `behaviour`."""
        raise NotImplementedError

    def predict(self, trials: Trials) -> xr.Dataset:
        """The behaviour of the animal in every trial.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.Dataset
            `decoded` (trial, behaviour, time) in the units of each, frame by frame of the baseline; time in seconds from the onset.
        """
        found = self.labelled(trials, lambda asked: {"decoded": (("trial", "behaviour", "time"), self.predict_arrays(asked))})
        return found.assign_coords(behaviour=list(self.behaviour))


def observations_of(ds: xr.Dataset, signal: str) -> tuple[Observations, np.ndarray]:
    """What there is to ask about in a Dataset that `Trials.dataset` cut.

    Parameters
    ----------
    ds : xarray.Dataset
    signal : str
        Its variable, dff or zscore.

    Returns
    -------
    Observations
    usable : bool array, shape (trial, neuron)
        Whose whole baseline was measured.
    """
    n = ds.attrs["n_baseline"]
    context = ds[signal].values[..., :n]
    measured = np.isfinite(context)
    asked = Observations(
        np.nan_to_num(context), [str(k) for k in ds["neuron"].values], [str(c) for c in ds["condition"].values], measured,
        str(ds.attrs.get("session", "")), ds.attrs.get("rate_hz"),
        {str(k): v.values[:, :n] for k, v in ds.data_vars.items() if v.dims == ("trial", "time")},
    )  # fmt: skip
    return asked, np.asarray(measured.all(-1))


def origin(trials: Trials, model: Estimator | None = None) -> dict:
    """Where a result comes from: the attrs that every Dataset made of trials and a model carries, and every saved figure names.

    Parameters
    ----------
    trials : Trials
    model : Estimator, optional

    Returns
    -------
    dict
        data (hash of the recordings and of what was chosen of them), simulated (0 or 1), and of a model its hash and, where known, its seed.
    """
    found: dict = {"data": trials.digest(), "simulated": int(trials.simulated)}
    if model is not None:
        if model.digest():
            found["model"] = model.digest()
        if model.seed is not None:
            found["seed"] = model.seed
    return found
