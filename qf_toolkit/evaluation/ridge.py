"""Ridge regressions, the strongest of the naive forecasters."""

import numpy as np

from ..errors import QfError, UnknownKeyError
from ..recordings.conditions import category_of
from ..training.forecaster import check_keys
from .naive import HINT, _Naive

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
