"""Naive forecasters: the rows that every table of forecasts holds.

All rows except the ridges (ridge.py) learn from train and validation together. They have nothing to choose on validation, and more data makes them
stronger, so that the comparison is more honest. The ridges choose their penalty on validation and are then fitted again on both.

The rows learn only from observations (trial, neuron) whose baseline and response are whole. Rows that learn something about each neuron raise
UnknownKeyError for a neuron they never saw.
"""

import hashlib
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import QfError
from ..recordings.conditions import category_of
from ..recordings.splits import check_split
from ..recordings.trials import scaling_by_session
from ..recordings.window import Window
from . import schema
from .checks import check_keys, check_rate, check_window
from .interface import Estimator, Forecaster
from .notes import refuse
from .seen import seen_frames

HINT = "Fit on trials of these neurons, or choose the neurons it knows."


class Naive(Estimator):
    """The base of all naive rows: it keeps the window of `fit`, reads arrays session by session, and saves.

    Attributes
    ----------
    window : Window or None
        The window of the trials in `fit`; None before `fit`.
    rate_hz : float
        Frames per second of the trials in `fit`.
    n_context, n_response : int
        Frames before and after the onset.
    scaling : dict or None
        The z-scores of the training part; see `Trials.scaling`.
    notes : list of str
        One sentence for each thing that the last `fit` had to do in another way, for example if validation could not choose a penalty.
    """

    learns_from_validation = True

    def __init__(self):
        super().__init__()
        self.notes = []
        self.window: Any = None

    def fit(self, split):
        """Learn from train and validation.

        Parameters
        ----------
        split : Split

        Returns
        -------
        Naive
            Itself.

        Raises
        ------
        QfError
            If `split` is no Split, if the sessions' rates are more than 2 % apart, or if their windows differ in frames.
        """
        check_split(split)
        self.notes = []
        self._remember(split.fitting)
        self.seen, self.simulated = seen_frames(split.train, split.validation), split.train.simulated
        self._learn(split)
        self._learnt_from = f"{type(self).__name__} {split.train.digest()} {split.validation.digest()}"
        return self

    def digest(self):
        """The digest of its class and of the trials it was fitted on, which decide all its answers; "" before `fit`."""
        known = getattr(self, "_learnt_from", "")
        return hashlib.blake2b(known.encode(), digest_size=12).hexdigest() if known else ""

    def _remember(self, trials):
        self.rate_hz, self.window, self.scaling = trials.rate_hz, trials.window, trials.scaling
        check_rate(self.rate_hz, trials)
        self.n_context, self.n_response = self.window.frames(self.rate_hz)[:2]

    def _learn(self, split):
        """Learn from a Split. Rows that use only the context have nothing to learn."""

    def prepare(self, trials):
        """Check that the trials fit this row, and give them the z-scores of the training part.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        Trials
            The same trials; under signal="zscore" with the z-scores of the training part.

        Raises
        ------
        QfError
            If the row is not fitted yet, or if the window or the rate is not that of `fit`.
        """
        if self.window is None:
            raise QfError(f"{self.name}: not fitted yet. Call fit(split) first.")
        return check_window(self.window, self.rate_hz, trials, self.scaling if self.window.signal == "zscore" else None)

    # ------------------------------------------------------------ saved models

    options: ClassVar[dict] = {}  # arguments of __init__: {name: check of `schema`}
    learnt: ClassVar[dict] = {}  # learnt values that are no arrays: {name: check of `schema`}

    def facts(self):
        """The learnt values that are no arrays, {name: value that JSON can hold}, with the names of `learnt`."""
        return {}

    def arrays(self):
        """The learnt arrays, {name: array}."""
        return {}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        """The shapes of the arrays that belong to a note.

        Parameters
        ----------
        note : dict
            The checked content of config.json.
        n_context, n_response : int
            Frames of the window before and after the onset.

        Returns
        -------
        dict
            {name: tuple of int}.
        """
        return {}

    def restore(self, note, arrays):
        """Set the learnt attributes from a checked note and its arrays, {name: array}."""

    def note(self):
        if self.window is None:
            raise QfError(f"{self.name}: not fitted yet. Call fit(split) first.")
        return {
            "window": asdict(self.window), "rate_hz": self.rate_hz, "scaling": self.scaling, "seen": self.seen, "simulated": self.simulated,
            "notes": self.notes, "learnt_from": self._learnt_from, **{n: getattr(self, n) for n in self.options}, **self.facts(),
        }  # fmt: skip

    def tensors(self):
        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in self.arrays().items()}

    @classmethod
    def checks(cls):
        shared = {
            "window": schema.WINDOW, "rate_hz": schema.number(above=0, most=1e6), "scaling": schema.maybe(schema.scaling), "seen": schema.SEEN,
            "simulated": schema.flag(optional=True), "notes": schema.listing(schema.text()), "learnt_from": schema.text(),
        }  # fmt: skip
        return schema.record({**shared, **cls.options, **cls.learnt}, {"run": schema.maybe(schema.RUN)})

    @classmethod
    def from_note(cls, note, tensors, device, folder):
        try:
            self, window = cls(**{n: note[n] for n in cls.options}), Window(**note["window"])
        except QfError as e:
            refuse(folder, "window", "values that go together", e)
        n_context, n_response = window.frames(note["rate_hz"])[:2]
        wanted, found = cls.shapes(note, n_context, n_response), {name: tuple(t.shape) for name, t in tensors.items()}
        for name in sorted({*wanted, *found}):
            if wanted.get(name) != found.get(name):
                refuse(folder, name, f"an array of shape {wanted.get(name)}, as its keys have it", found.get(name))
        self.window, self.rate_hz, self.scaling = window, note["rate_hz"], scaling_by_session(note["scaling"])
        self.n_context, self.n_response = n_context, n_response
        self.seen, self.simulated, self.notes, self._learnt_from = (note[n] for n in ("seen", "simulated", "notes", "learnt_from"))
        self.restore(note, {name: t.numpy() for name, t in tensors.items()})
        return self

    # ------------------------------------------------------------ reading

    def _observations(self, trials):
        """Yield for each session: neurons, conditions, context and response, both float64 (trial, neuron, time) with 0 where a value is missing, and
        whole, bool (trial, neuron)."""
        for part in trials.by_session():
            ds = part.dataset()
            x = ds[part.window.signal].values.astype(np.float64)
            if (ds.attrs["n_baseline"], x.shape[-1]) != (self.n_context, self.n_context + self.n_response):
                raise QfError(
                    f"{self.name}: expected {self.n_context} + {self.n_response} frames a window, found {ds.attrs['n_baseline']} + "
                    f"{x.shape[-1] - ds.attrs['n_baseline']} in {part.sessions[0]}. Take sessions of one rate."
                )
            whole = np.isfinite(x).all(-1)
            x = np.nan_to_num(x)
            yield (
                part.neurons_of(part.sessions[0]),
                [str(c) for c in ds["condition"].values],
                x[..., : self.n_context],
                x[..., self.n_context :],
                whole,
            )


class Zero(Naive, Forecaster):
    """Forecasts 0 in every frame (for dF/F: the response stays at F0). This forecast is the zero of the explained share E."""

    kind = "zero"
    name = "zero"

    def predict_arrays(self, asked):
        return np.zeros((*asked.context.shape[:2], self.n_response), np.float32)


class CopyLast(Naive, Forecaster):
    """Forecasts the last frame of the baseline in every frame of the response."""

    kind = "copy_last"
    name = "copy last"

    def predict_arrays(self, asked):
        return np.repeat(asked.context[..., -1:], self.n_response, -1)


class ContextMean(Naive, Forecaster):
    """Forecasts the mean of the whole baseline in every frame of the response."""

    kind = "context_mean"
    name = "mean of the context"

    def predict_arrays(self, asked):
        return np.repeat(asked.context.mean(-1, keepdims=True), self.n_response, -1)


class _Means(Naive, Forecaster):
    """Learns each neuron's mean response, frame by frame: over all trials, for each stimulus category, and for each condition.

    Attributes
    ----------
    means : dict
        {"condition", "category" or "neuron": float32 array (key, neuron, time)}, in units of the window's signal. A mean of a condition is NaN if the
        neuron has no whole observation of it.
    """

    gaps = ("condition",)  # NaN for a neuron without a whole observation of the condition

    learnt: ClassVar[dict] = {"neurons": schema.KEYS, "levels": schema.record(dict.fromkeys(("condition", "category", "neuron"), schema.KEYS))}

    def _learn(self, split):
        self._index(split.fitting)
        sums, counts = self._sums(split.fitting)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {level: sums[level] / counts[level][..., None] for level in sums}
        # a neuron without a whole observation gets 0, the baseline itself
        means["neuron"] = np.nan_to_num(means["neuron"])
        means["category"] = np.where(np.isnan(means["category"]), means["neuron"], means["category"])
        self.means = {level: m.astype(np.float32) for level, m in means.items()}

    def _index(self, trials):
        """Number the neurons and the keys of each level."""
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        levels = {"condition": trials.conditions, "category": sorted({category_of(c) for c in trials.conditions}), "neuron": [""]}
        self.levels = {level: {k: i for i, k in enumerate(keys)} for level, keys in levels.items()}

    def _sums(self, trials):
        """Sums of the whole responses, (key, neuron, time), and their numbers, (key, neuron), for each level."""
        sums = {level: np.zeros((len(keys), len(self.neurons), self.n_response)) for level, keys in self.levels.items()}
        counts = {level: np.zeros((len(keys), len(self.neurons))) for level, keys in self.levels.items()}
        for neurons, conditions, _, response, whole in self._observations(trials):
            columns = np.array([self.neurons[n] for n in neurons])
            total = np.where(whole[..., None], response, 0.0)
            for level, index in self.levels.items():
                rows = np.array([index[_at(level, c)] for c in conditions])
                for row in np.unique(rows):
                    sums[level][row, columns] += total[rows == row].sum(0)
                    counts[level][row, columns] += whole[rows == row].sum(0)
        return sums, counts

    def facts(self):
        return {"neurons": list(self.neurons), "levels": {level: list(keys) for level, keys in self.levels.items()}}

    def arrays(self):
        return self.means

    @classmethod
    def shapes(cls, note, n_context, n_response):
        return {level: (len(keys), len(note["neurons"]), n_response) for level, keys in note["levels"].items()}

    def restore(self, note, arrays):
        self.neurons = {n: i for i, n in enumerate(note["neurons"])}
        self.levels = {level: {k: i for i, k in enumerate(keys)} for level, keys in note["levels"].items()}
        self.means = arrays

    def _columns(self, neurons):
        check_keys("neuron", neurons, self.neurons, HINT)
        return np.array([self.neurons[n] for n in neurons])


class TrainingMean(_Means):
    """Forecasts each neuron's mean response over all trials and frames of train and validation.

    Parameters
    ----------
    time_resolved : bool
        Forecast the mean response frame by frame instead of one number per neuron.
    """

    kind = "training_mean"
    name = "training mean"

    options: ClassVar[dict] = {"time_resolved": schema.flag()}

    def __init__(self, time_resolved=False):
        super().__init__()
        self.time_resolved = time_resolved

    def predict_arrays(self, asked):
        mean = self.means["neuron"][0, self._columns(asked.neurons)]
        if not self.time_resolved:
            mean = np.repeat(mean.mean(-1, keepdims=True), self.n_response, -1)
        return np.repeat(mean[None], len(asked.conditions), 0)


class StimulusMean(_Means):
    """Forecasts each neuron's mean response to the condition, frame by frame (PSTH).

    If the condition was not in training, or the neuron has no whole observation of it, the mean over its stimulus category stands in. If the category
    is new, too, the neuron's mean over all trials does.
    """

    kind = "stimulus_mean"
    name = "stimulus mean (PSTH)"

    def predict_arrays(self, asked):
        return self._means_of(asked.conditions, self._columns(asked.neurons))

    def _means_of(self, conditions, columns):
        """The mean response to each condition of the neurons in some columns, float32 (condition, neuron, time)."""
        out = np.empty((len(conditions), len(columns), self.n_response), np.float32)
        for i, condition in enumerate(conditions):
            for level in ("condition", "category", "neuron"):
                row = self.levels[level].get(_at(level, condition))
                if row is not None:
                    break
            mean = self.means[level][row, columns]
            if level == "condition" and np.isnan(mean).any():
                mean = np.where(np.isnan(mean), self.means["category"][self.levels["category"][category_of(condition)], columns], mean)
            out[i] = mean
        return out


def _at(level, condition):
    """The key under which `_Means` averages a condition at that level."""
    return {"condition": condition, "category": category_of(condition), "neuron": ""}[level]


def scored(ds):
    """Which frames of the response are scored: those that are valid, lie within the trial's first `n_score` frames and follow a whole baseline.

    Parameters
    ----------
    ds : xarray.Dataset
        A Dataset that `Trials.dataset` cut.

    Returns
    -------
    bool array, shape (trial, neuron, attrs["n_score"])
    """
    n, k = ds.attrs["n_baseline"], ds.attrs["n_score"]
    valid = ds["valid"].values
    inside = np.arange(k) < ds["n_score"].values[:, None]
    return valid[..., n : n + k] & valid[..., :n].all(-1)[..., None] & inside[:, None]


def scored_whole(ds):
    """Which observations have all frames of the trial's own scored window: bool array (trial, neuron)."""
    return scored(ds).sum(-1) == ds["n_score"].values[:, None]
