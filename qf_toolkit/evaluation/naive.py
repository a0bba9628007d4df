"""Naive forecasters, the rows that every table of forecasts holds.

All but the ridges learn on train and validation together (they have no choice to make, so the more data is the stronger, more honest row).
The ridges choose their penalty on validation and are then fitted again on both.

Only observations (trial, neuron) whose baseline and response are whole are learnt from. Rows that learn something of each neuron raise
UnknownKeyError for one they never saw.
"""

import hashlib
from dataclasses import replace

import numpy as np
import xarray as xr

from ..errors import QfError, UnknownKeyError
from ..recordings.conditions import category_of
from ..training.forecaster import Forecaster, check_keys, check_rate, seen_frames

HINT = "Fit on trials of these neurons, or choose the neurons it knows."


class _Naive(Forecaster):
    """What the naive rows share: the window they were fitted with, and the session-wise reading of arrays."""

    def fit(self, split):
        """Learn from a Split; returns self.

        Raises
        ------
        QfError
            If the sessions' windows differ in frames (rates more than 2 % apart).
        """
        self._remember(split.fitting)
        self.seen = seen_frames(split.train, split.validation)
        self._learn(split)
        self._learnt_from = f"{type(self).__name__} {split.train.digest()} {split.validation.digest()}"
        return self

    def digest(self):
        """A hash of what it is and what it was fitted on, which decide all it does; "" before `fit`."""
        known = getattr(self, "_learnt_from", "")
        return hashlib.blake2b(known.encode(), digest_size=12).hexdigest() if known else ""

    def _remember(self, trials):
        self.rate_hz, self.window, self.scaling = trials.rate_hz, trials.window, trials.scaling
        check_rate(self.rate_hz, trials)
        self.n_context, self.n_response = self.window.frames(self.rate_hz)[:2]

    def _learn(self, split):
        """Nothing to learn where the context is all that is used."""

    def prepare(self, trials):
        """The same trials with the z-scores of the training part; raises QfError where window or rate are not those of `fit`."""
        if self.n_response is None:
            raise QfError(f"{self.name}: not fitted yet. Call fit(split) first.")
        ours, theirs = (tuple(getattr(w, n) for n in ("baseline_s", "response_s", "f0_s", "signal")) for w in (self.window, trials.window))
        if ours != theirs:
            raise QfError(
                f"{self.name}: expected windows (baseline_s, response_s, f0_s, signal) = {ours}, as fitted, found {theirs}. Cut them alike."
            )
        check_rate(self.rate_hz, trials)
        return replace(trials, scaling=self.scaling) if self.window.signal == "zscore" else trials

    def _observations(self, trials):
        """For each session: neurons, conditions, context and response float64 (trial, neuron, time; 0 where missing), whole (trial, neuron)."""
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


class Zero(_Naive):
    """The constant forecast 0 (for dF/F: the response stays at F0): the zero of the explained share E."""

    name = "zero"

    def predict_arrays(self, context, neurons, conditions):
        return np.zeros((*context.shape[:2], self.n_response), np.float32)


class CopyLast(_Naive):
    """The last frame of the baseline, held."""

    name = "copy last"

    def predict_arrays(self, context, neurons, conditions):
        return np.repeat(context[..., -1:], self.n_response, -1)


class ContextMean(_Naive):
    """The mean of the whole baseline, held."""

    name = "mean of the context"

    def predict_arrays(self, context, neurons, conditions):
        return np.repeat(context.mean(-1, keepdims=True), self.n_response, -1)


class _Means(_Naive):
    """Time-resolved response means per neuron, neuron x stimulus category, neuron x condition."""

    def _learn(self, split):
        trials = split.fitting
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        levels = {"condition": trials.conditions, "category": sorted({category_of(c) for c in trials.conditions}), "neuron": [""]}
        self.levels = {level: {k: i for i, k in enumerate(keys)} for level, keys in levels.items()}
        sums = {level: np.zeros((len(keys), len(self.neurons), self.n_response)) for level, keys in levels.items()}
        counts = {level: np.zeros((len(keys), len(self.neurons))) for level, keys in levels.items()}
        for neurons, conditions, _, response, whole in self._observations(trials):
            columns = np.array([self.neurons[n] for n in neurons])
            total = np.where(whole[..., None], response, 0.0)
            for level, index in self.levels.items():
                rows = np.array([index[_at(level, c)] for c in conditions])
                for row in np.unique(rows):
                    sums[level][row, columns] += total[rows == row].sum(0)
                    counts[level][row, columns] += whole[rows == row].sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {level: sums[level] / counts[level][..., None] for level in levels}
        # a neuron without one whole observation says nothing: 0, the baseline itself
        means["neuron"] = np.nan_to_num(means["neuron"])
        means["category"] = np.where(np.isnan(means["category"]), means["neuron"], means["category"])
        self.means = {level: m.astype(np.float32) for level, m in means.items()}

    def _columns(self, neurons):
        check_keys("neuron", neurons, self.neurons, HINT)
        return np.array([self.neurons[n] for n in neurons])


class TrainingMean(_Means):
    """The mean response of each neuron over all trials and frames of the training part.

    Parameters
    ----------
    time_resolved : bool
        Keep the mean's course over the response instead of one number a neuron.
    """

    name = "training mean"

    def __init__(self, time_resolved=False):
        super().__init__()
        self.time_resolved = time_resolved

    def predict_arrays(self, context, neurons, conditions):
        mean = self.means["neuron"][0, self._columns(neurons)]
        if not self.time_resolved:
            mean = np.repeat(mean.mean(-1, keepdims=True), self.n_response, -1)
        return np.repeat(mean[None], len(conditions), 0)


class StimulusMean(_Means):
    """The mean course of each neuron for each condition (PSTH).

    A condition that was not in training (or of which that neuron has no whole observation) takes the mean of its stimulus category, and
    where that is new, too, the neuron's mean.
    """

    name = "stimulus mean (PSTH)"

    def predict_arrays(self, context, neurons, conditions):
        columns = self._columns(neurons)
        out = np.empty((len(conditions), len(neurons), self.n_response), np.float32)
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
    """The key under which a condition is averaged at that level."""
    return {"condition": condition, "category": category_of(condition), "neuron": ""}[level]


PENALTIES = np.logspace(-3, 4, 15)  # of features scaled so that the context, as a block, has total variance 1, like the one-hot of the conditions
MOST_ONE_HOT = 200  # more conditions than this (sparse noise has 9,000, each shown once) are coded by their stimulus category
MOST_BINS = 8  # time bins of each neuron's context in the population ridge: 60 neurons x 90 frames would be 5,400 features for 400 trials


class _Ridge(_Naive):
    """What the two ridges share: how conditions become features."""

    def _code_conditions(self, split):
        trials = split.fitting
        self.by_condition = len(trials.conditions) <= MOST_ONE_HOT
        keys = trials.conditions if self.by_condition else sorted({category_of(c) for c in trials.conditions})
        self.columns = {k: i for i, k in enumerate(keys)}

    def _one_hot(self, conditions):
        """(trial, column); a condition that was not in training is spread over those of its category, or over all."""
        out = np.zeros((len(conditions), len(self.columns)))
        for i, condition in enumerate(conditions):
            key = condition if self.by_condition else category_of(condition)
            same = [self.columns[key]] if key in self.columns else [j for k, j in self.columns.items() if category_of(k) == category_of(condition)]
            same = same or list(self.columns.values())
            out[i, same] = 1 / len(same)
        return out


class RidgeOwn(_Ridge):
    """Ridge regression of a neuron's response on its own baseline, frame by frame, and the one-hot of the condition; a regression a neuron.

    One penalty for all neurons, the best by squared error on validation (15 % of the trials are too few to choose one a neuron). Solved from the
    neurons' normal equations, which add up over sessions where cells are matched.
    """

    name = "ridge, own trace"

    def _learn(self, split):
        self._code_conditions(split)
        self.neurons = {n: i for i, n in enumerate(split.fitting.neurons)}
        train, validation = self._sums(split.train), self._sums(split.validation)
        self.scale = self._scale(train)
        for sums in (train, validation):
            sums["x"] *= self.scale
            sums["xy"] *= self.scale[..., None]
            sums["xx"] *= self.scale[..., None] * self.scale[:, None]
        x, y, xx, xy = _centred(train)
        values, vectors = np.linalg.eigh(xx)
        turned = vectors.transpose(0, 2, 1)
        target = turned @ xy
        # the validation part's sums about the training means, in the eigenvectors' coordinates: a penalty then costs next to nothing
        n = validation["n"][:, None, None]
        cross = validation["x"][:, :, None] * x[:, None]
        xx = turned @ (validation["xx"] - cross - cross.transpose(0, 2, 1) + n * x[:, :, None] * x[:, None]) @ vectors
        xy = turned @ (validation["xy"] - validation["x"][:, :, None] * y[:, None] - x[:, :, None] * (validation["y"] - n[..., 0] * y)[:, None])
        self.errors = []
        for penalty in PENALTIES:
            weights = target / (np.clip(values, 0, None) + penalty)[..., None]
            self.errors.append(float((weights * (xx @ weights - 2 * xy)).sum()))  # less a term that no penalty changes
        self.penalty = float(PENALTIES[int(np.argmin(self.errors))])
        x, y, xx, xy = _centred({k: train[k] + validation[k] for k in train})
        self.weights = np.linalg.solve(xx + self.penalty * np.eye(xx.shape[-1]), xy)
        self.intercept = y - (x[:, None] @ self.weights)[:, 0]

    def _sums(self, trials):
        p, t, n = self.n_context + len(self.columns), self.n_response, len(self.neurons)
        sums = {"n": np.zeros(n), "x": np.zeros((n, p)), "y": np.zeros((n, t)), "xx": np.zeros((n, p, p)), "xy": np.zeros((n, p, t))}
        for neurons, conditions, context, response, whole in self._observations(trials):
            one_hot = self._one_hot(conditions)
            for i, name in enumerate(neurons):
                keep, at = whole[:, i], self.neurons[name]
                x, y = np.concatenate([context[keep, i], one_hot[keep]], 1), response[keep, i]
                for key, value in {"n": len(x), "x": x.sum(0), "y": y.sum(0), "xx": x.T @ x, "xy": x.T @ y}.items():
                    sums[key][at] += value
        return sums

    def _scale(self, sums):
        n = np.maximum(sums["n"], 1)[:, None]
        variance = np.diagonal(sums["xx"], axis1=1, axis2=2) / n - (sums["x"] / n) ** 2
        total = variance[:, : self.n_context].sum(1)
        scale = np.ones_like(variance)
        scale[:, : self.n_context] = (1 / np.sqrt(np.where(total > 1e-12, total, 1.0)))[:, None]
        return scale

    def predict_arrays(self, context, neurons, conditions):
        check_keys("neuron", neurons, self.neurons, HINT)
        at = np.array([self.neurons[n] for n in neurons])
        weights = self.weights[at] * self.scale[at][..., None]
        own = np.matmul(context.transpose(1, 0, 2).astype(np.float64), weights[:, : self.n_context]).transpose(1, 0, 2)
        driven = np.einsum("bc,nct->bnt", self._one_hot(conditions), weights[:, self.n_context :])
        return (own + driven + self.intercept[at]).astype(np.float32)


def _centred(sums):
    """Means of x and y, and the sums of products about them."""
    n = np.maximum(sums["n"], 1)[:, None]
    x, y = sums["x"] / n, sums["y"] / n
    return x, y, sums["xx"] - n[..., None] * x[:, :, None] * x[:, None], sums["xy"] - n[..., None] * x[:, :, None] * y[:, None]


class RidgePopulation(_Ridge):
    """Ridge regression of each neuron's response on the baseline of the whole population and the one-hot of the condition; one a session.

    The baseline of every neuron is averaged into at most 8 time bins. Sessions with the same neurons are pooled. A neuron whose baseline is
    missing in a trial counts as 0 there. One penalty a population, the best by squared error on validation. Solved by one SVD for all penalties.
    """

    name = "ridge, population"
    population = True

    def _learn(self, split):
        self._code_conditions(split)
        data = {}
        for part, trials in (("train", split.train), ("validation", split.validation)):
            for neurons, conditions, context, response, whole in self._observations(trials):
                rows = data.setdefault(tuple(neurons), {"train": [], "validation": []})
                rows[part].append((self._bins(context), self._one_hot(conditions), response, whole))
        self.populations = {neurons: self._solve(rows) for neurons, rows in data.items()}

    def _bins(self, context):
        n_bins = min(MOST_BINS, context.shape[-1])
        edges = np.linspace(0, context.shape[-1], n_bins + 1).round().astype(int)
        means = np.add.reduceat(context.astype(np.float64), edges[:-1], axis=-1) / np.diff(edges)
        return means.reshape(len(context), -1)

    def _solve(self, rows):
        parts = {k: [np.concatenate(a) for a in zip(*v, strict=True)] for k, v in rows.items() if v}
        if "train" not in parts:
            raise QfError(f"{self.name}: expected training trials in every session, found one without. Take a smaller validation share.")
        bins = parts["train"][0]
        total = bins.var(0).sum()
        scale = 1 / np.sqrt(total) if total > 1e-12 else 1.0
        x = {k: np.concatenate([p[0] * scale, p[1]], 1) for k, p in parts.items()}
        y, kept = {k: p[2] for k, p in parts.items()}, {k: p[3] for k, p in parts.items()}
        # neurons that miss the same trials share a design matrix: nearly always all of them
        group = np.unique(np.concatenate([kept[k] for k in parts]), axis=1, return_inverse=True)[1].ravel()
        groups = [np.flatnonzero(group == g) for g in np.unique(group)]
        errors = np.zeros(len(PENALTIES))
        for members in groups:
            fit = _svd(x["train"], y["train"], kept["train"], members)
            if fit is None or "validation" not in parts or not kept["validation"][:, members[0]].any():
                continue
            seen = kept["validation"][:, members[0]]
            scores = (x["validation"][seen] - fit["x"]) @ fit["v"].T
            target = y["validation"][seen][:, members].reshape(len(scores), -1) - fit["y"]
            for i, penalty in enumerate(PENALTIES):
                errors[i] += ((target - (scores * (fit["s"] / (fit["s"] ** 2 + penalty))) @ fit["uy"]) ** 2).sum()
        penalty = float(PENALTIES[int(np.argmin(errors))])
        both = [np.concatenate([d[k] for k in parts]) for d in (x, y, kept)]
        solved = []
        for members in groups:
            fit = _svd(*both, members)
            if fit is not None:
                # kept as two factors: far smaller than the weights where features outnumber trials
                weights = (fit["s"] / (fit["s"] ** 2 + penalty))[:, None] * fit["uy"]
                solved.append((members, fit["x"], fit["y"], fit["v"].astype(np.float32), weights.astype(np.float32)))
        return {"scale": scale, "penalty": penalty, "errors": errors, "solved": solved}

    def predict_arrays(self, context, neurons, conditions):
        population = self.populations.get(tuple(neurons))
        if population is None:
            check_keys("neuron", neurons, {n for p in self.populations for n in p}, HINT)
            raise UnknownKeyError(
                f"{self.name}: expected all neurons of one fitted session, found {len(neurons)} others. Choose the same neurons as in fit."
            )
        x = np.concatenate([self._bins(context) * population["scale"], self._one_hot(conditions)], 1)
        out = np.zeros((*context.shape[:2], self.n_response), np.float32)
        for members, mean_x, mean_y, v, weights in population["solved"]:
            scores = ((x - mean_x) @ v.T).astype(weights.dtype)  # else the weights, far larger, are converted at each call
            out[:, members] = (scores @ weights + mean_y).reshape(len(x), len(members), -1)
        return out


def _svd(x, y, kept, members):
    """SVD of the centred features in the trials that these neurons keep, and their responses in its coordinates; None without a trial."""
    rows = kept[:, members[0]]
    if not rows.any():
        return None
    x, y = x[rows], y[rows][:, members].reshape(int(rows.sum()), -1)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(x - mean_x, full_matrices=False)
    return {"x": mean_x, "y": mean_y, "s": s, "v": v, "uy": u.T @ (y - mean_y)}


class FrequencyClassifier(_Naive):
    """How often a neuron was active for a condition in training: the naive row of activation.

    Parameters
    ----------
    shrinkage : float
        Weight, in trials, of the neuron's own frequency (by Laplace's rule) in that of the condition. A condition that was not in training (or of
        which that neuron has no whole observation) takes the frequency of its stimulus category, and where that is new, too, the neuron's own.
    """

    name = "frequency of activation"

    def __init__(self, shrinkage=2.0):
        super().__init__()
        if not shrinkage > 0:
            raise QfError(f"shrinkage: expected trials above 0, found {shrinkage}.")
        self.shrinkage = shrinkage

    def fit_on(self, trials):
        """Learn from these Trials alone; returns self."""
        self._remember(trials)
        self.seen = seen_frames(trials)
        self._count(trials)
        return self

    def _learn(self, split):
        self._count(split.fitting)

    def _count(self, trials):
        self.neurons = {n: i for i, n in enumerate(trials.neurons)}
        # categories stand below the conditions: no key of the one is a key of the other, which holds a slash
        conditions, categories = trials.conditions, sorted({category_of(c) for c in trials.conditions})
        self.rows = {k: i for i, k in enumerate([*conditions, *categories])}
        hits, total = (np.zeros((len(self.rows), len(self.neurons))) for _ in range(2))
        for part in trials.by_session():
            ds = part.dataset()
            known = scored_whole(ds)
            columns = np.array([self.neurons[n] for n in part.neurons_of(part.sessions[0])])
            for key in (str, category_of):
                at = np.ix_(np.array([self.rows[key(c)] for c in ds["condition"].values]), columns)
                np.add.at(hits, at, ds["active"].values & known)
                np.add.at(total, at, known)
        n = len(conditions)
        self.own = (hits[:n].sum(0) + 1) / (total[:n].sum(0) + 2)
        self.frequency = (hits + self.shrinkage * self.own) / (total + self.shrinkage)
        of_category = self.frequency[[self.rows[category_of(c)] for c in conditions]]
        self.frequency[:n] = np.where(total[:n] > 0, self.frequency[:n], of_category)

    def predict_probability(self, trials):
        """Probability of being active.

        Returns
        -------
        xarray.DataArray
            (trial, neuron), for the trials of one session.

        Raises
        ------
        UnknownKeyError
            For a neuron it never saw.
        QfError
            If the trials are of several sessions; go through `trials.by_session()`.
        """
        trials = self.prepare(trials)
        if len(trials.sessions) != 1:
            raise QfError(f"predict_probability: expected trials of one session, found {len(trials.sessions)}. Go through trials.by_session().")
        neurons = trials.neurons_of(trials.sessions[0])
        check_keys("neuron", neurons, self.neurons, HINT)
        columns = np.array([self.neurons[n] for n in neurons])
        rows = [self.rows.get(c, self.rows.get(category_of(c))) for c in trials.table["condition"]]
        p = np.stack([(self.own if row is None else self.frequency[row])[columns] for row in rows])
        coords = {"trial": trials.table["trial"].to_numpy(), "neuron": np.array(neurons, dtype=object)}
        return xr.DataArray(p, coords, ("trial", "neuron"), name="probability")


def scored(ds):
    """Which frames of the response are scored: valid, inside the trial's first `n_score`, after a baseline without a gap.

    Returns
    -------
    bool array, shape (trial, neuron, attrs["n_score"])
    """
    n, k = ds.attrs["n_baseline"], ds.attrs["n_score"]
    valid = ds["valid"].values
    inside = np.arange(k) < ds["n_score"].values[:, None]
    return valid[..., n : n + k] & valid[..., :n].all(-1)[..., None] & inside[:, None]


def scored_whole(ds):
    """Observations of which every frame that is to be scored counts, those of the trial's own window: bool array (trial, neuron)."""
    return scored(ds).sum(-1) == ds["n_score"].values[:, None]


def naive_forecasters():
    """The six naive rows, not yet fitted."""
    return [CopyLast(), ContextMean(), TrainingMean(), StimulusMean(), RidgeOwn(), RidgePopulation()]
