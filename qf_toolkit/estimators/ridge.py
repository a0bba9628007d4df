"""Ridge regressions, the strongest of the naive forecasters.

`fit` chooses the penalty on validation, then fits again on train and validation together. Validation can fail to separate the penalties, for example
if it has no whole observation. Then a fit takes the penalty that is best for the other sessions. If there is none, it takes the best one in
cross-validation inside the training part. `notes` reports both cases.
"""

from typing import ClassVar

import numpy as np

from ..errors import UnknownKeyError
from ..recordings.conditions import category_of
from . import schema
from .checks import check_keys
from .interface import Forecaster
from .naive import HINT, Naive

PENALTIES = np.logspace(-3, 4, 15)  # for features scaled so that the context, as a block, has total variance 1, like the one-hot of the conditions
FOLDS = 5  # of the cross-validation: stretches of consecutive training trials
MOST_ONE_HOT = 200  # more conditions than this (sparse noise has 9,000, each shown once) are coded by their stimulus category
SOLVED = ("mean_x", "mean_y", "v", "weights")  # names of the arrays of a group of neurons; see `_solved`
MOST_BINS = 8  # time bins of each neuron's context in the population ridge: 60 neurons x 90 frames would be 5,400 features for 400 trials


_CODED = {"by_condition": schema.flag(), "columns": schema.KEYS}


class _Ridge(Naive, Forecaster):
    """The base of the two ridges: it turns conditions into features."""

    def _code_conditions(self, split):
        trials = split.fitting
        self.by_condition = len(trials.conditions) <= MOST_ONE_HOT
        keys = trials.conditions if self.by_condition else sorted({category_of(c) for c in trials.conditions})
        self.columns = {k: i for i, k in enumerate(keys)}

    def _coded(self):
        """The coding of the conditions, as a dict that JSON can hold."""
        return {"by_condition": self.by_condition, "columns": list(self.columns)}

    def _restore_coded(self, note):
        self.by_condition, self.columns = note["by_condition"], {k: i for i, k in enumerate(note["columns"])}

    def _one_hot(self, conditions):
        """One-hot features, float64 (trial, column). The 1 of a condition that was not in training is spread over the columns of its category, or over
        all columns if the category is new, too."""
        out = np.zeros((len(conditions), len(self.columns)))
        for i, condition in enumerate(conditions):
            key = condition if self.by_condition else category_of(condition)
            same = [self.columns[key]] if key in self.columns else [j for k, j in self.columns.items() if category_of(k) == category_of(condition)]
            same = same or list(self.columns.values())
            out[i, same] = 1 / len(same)
        return out


def _tells(errors, of_mean):
    """Whether the errors (penalty,) differ by more than rounding, measured against `of_mean`, the error of forecasting the mean."""
    return bool(of_mean > 0 and np.ptp(errors) > 1e-9 * of_mean)


def _best(errors):
    """The penalty of least error. If the errors are None, the strongest penalty, which leaves little more than the mean of the condition."""
    return float(PENALTIES[-1 if errors is None else int(np.argmin(errors))])


def _folds(n):
    """Which of `n` consecutive trials each fold holds out: a list of bool arrays, empty for a single trial."""
    return [np.isin(np.arange(n), at) for at in np.array_split(np.arange(n), min(FOLDS, n))] if n > 1 else []


class RidgeOwn(_Ridge):
    """Ridge regression of a neuron's response on its own baseline, frame by frame, and on the one-hot of the condition; one regression per neuron.

    All neurons share one penalty, the best by squared error on validation; 15 % of the trials are too few to choose one per neuron. If validation can't
    separate the penalties, the best one in cross-validation inside the training part is taken (5 stretches of each session's trials, each held out
    once). `fit` solves the neurons' normal equations, whose sums add up over sessions with matched cells.

    Attributes
    ----------
    penalty : float
    errors : float64 array, shape (penalty,), or None
        Squared errors of `PENALTIES` in the last `fit`, minus those of the mean; None if they could not be measured.
    scale : float64 array, shape (neuron, feature)
        Features are multiplied by it before the weights.
    weights : float64 array, shape (neuron, feature, time)
    intercept : float64 array, shape (neuron, time)
        In units of the window's signal.
    """

    kind = "ridge_own"
    name = "ridge, own trace"
    learnt: ClassVar[dict] = {**_CODED, "neurons": schema.KEYS, "penalty": schema.number(least=0)}

    def _learn(self, split):
        self._code_conditions(split)
        self.neurons = {n: i for i, n in enumerate(split.fitting.neurons)}
        self._allocate()
        subjects = sorted(split.fitting.table["subject"].unique())  # a cell belongs to one subject, so memory holds the sums of one subject at a time
        found = [self._errors(*self._of_subject(split, subject)[1:]) for subject in subjects]
        self.errors, of_mean = np.sum([e for e, _ in found], 0), sum(m for _, m in found)
        if not _tells(self.errors, of_mean):
            found = [part for subject in subjects for part in self._cross_validated(split, subject)]
            self.errors = np.sum([e for e, _ in found], 0) if found else None
            self.errors = self.errors if found and _tells(self.errors, sum(m for _, m in found)) else None
            self.notes.append("validation holds too little to choose a penalty by; it was chosen in cross-validation inside the training part.")
        self.penalty = _best(self.errors)
        self._solve(split)

    def _solve(self, split, both=True):
        """Solve for the weights and intercepts, from train and validation together or from train alone."""
        for subject in sorted(split.fitting.table["subject"].unique()):
            at, train, validation = self._of_subject(split, subject)
            x, y, xx, xy = _centred({k: train[k] + validation[k] for k in train} if both else train)
            self.weights[at] = np.linalg.solve(xx + self.penalty * np.eye(xx.shape[-1]), xy)
            self.intercept[at] = y - (x[:, None] @ self.weights[at])[:, 0]

    def _allocate(self):
        p, t, n = self.n_context + len(self.columns), self.n_response, len(self.neurons)
        self.scale, self.weights, self.intercept = np.ones((n, p)), np.zeros((n, p, t)), np.zeros((n, t))

    def _of_subject(self, split, subject):
        """Positions of a subject's neurons, and the scaled sums of its training part and of its validation part over these neurons."""
        parts = [part.subset((part.table["subject"] == subject).to_numpy()) for part in (split.train, split.validation)]
        names = list(dict.fromkeys(n for part in parts for n in part.neurons))
        train, validation = (self._sums(part, names) for part in parts)
        at = np.array([self.neurons[n] for n in names])
        self.scale[at] = self._scale(train)
        return at, *(self._rescale(sums, at) for sums in (train, validation))

    def _errors(self, train, validation):
        """The squared error of each penalty on validation minus that of the training mean, (penalty,), and the training mean's own, a float; both are
        summed over all neurons."""
        x, y, xx, xy = _centred(train)
        values, vectors = np.linalg.eigh(xx)
        turned = vectors.transpose(0, 2, 1)
        target = turned @ xy
        # the validation part's sums about the training means, in the eigenvectors' coordinates: each further penalty then costs next to nothing
        n = validation["n"][:, None, None]
        cross = validation["x"][:, :, None] * x[:, None]
        xx = turned @ (validation["xx"] - cross - cross.transpose(0, 2, 1) + n * x[:, :, None] * x[:, None]) @ vectors
        xy = turned @ (validation["xy"] - validation["x"][:, :, None] * y[:, None] - x[:, :, None] * (validation["y"] - n[..., 0] * y)[:, None])
        errors = []
        for penalty in PENALTIES:
            weights = target / (np.clip(values, 0, None) + penalty)[..., None]
            errors.append(float((weights * (xx @ weights - 2 * xy)).sum()))
        return errors, float((validation["yy"] - 2 * validation["y"] * y + n[..., 0] * y**2).sum())

    def _cross_validated(self, split, subject):
        """Yield the result of `_errors` for each fold of a subject's training part."""
        at, whole, _ = self._of_subject(split, subject)
        mine = split.train.subset((split.train.table["subject"] == subject).to_numpy())
        names = np.array(list(self.neurons), dtype=object)[at]
        for fold in _by_session(mine):
            held_out = self._rescale(self._sums(mine.subset(fold), names), at)
            yield self._errors({k: whole[k] - held_out[k] for k in whole}, held_out)

    def _rescale(self, sums, at):
        """Scale the features in the sums of the neurons `at`; changes `sums` in place and returns it."""
        scale = self.scale[at]
        sums["x"] *= scale
        sums["xy"] *= scale[..., None]
        sums["xx"] *= scale[..., None] * scale[:, None]
        return sums

    def _sums(self, trials, names):
        p, t, n = self.n_context + len(self.columns), self.n_response, len(names)
        place = {name: i for i, name in enumerate(names)}
        sums = {
            "n": np.zeros(n),
            "x": np.zeros((n, p)),
            "y": np.zeros((n, t)),
            "yy": np.zeros((n, t)),
            "xx": np.zeros((n, p, p)),
            "xy": np.zeros((n, p, t)),
        }
        for neurons, conditions, context, response, whole in self._observations(trials):
            one_hot = self._one_hot(conditions)
            for i, name in enumerate(neurons):
                keep, at = whole[:, i], place[name]
                x, y = np.concatenate([context[keep, i], one_hot[keep]], 1), response[keep, i]
                for key, value in {"n": len(x), "x": x.sum(0), "y": y.sum(0), "yy": (y**2).sum(0), "xx": x.T @ x, "xy": x.T @ y}.items():
                    sums[key][at] += value
        return sums

    def _scale(self, sums):
        n = np.maximum(sums["n"], 1)[:, None]
        variance = np.diagonal(sums["xx"], axis1=1, axis2=2) / n - (sums["x"] / n) ** 2
        total = variance[:, : self.n_context].sum(1)
        scale = np.ones_like(variance)
        scale[:, : self.n_context] = (1 / np.sqrt(np.where(total > 1e-12, total, 1.0)))[:, None]
        return scale

    def predict_arrays(self, asked):
        check_keys("neuron", asked.neurons, self.neurons, HINT)
        return self._forecast(asked.context, asked.neurons, asked.conditions).astype(np.float32)

    def _forecast(self, context, neurons, conditions):
        at = np.array([self.neurons[n] for n in neurons])
        weights = self.weights[at] * self.scale[at][..., None]
        own = np.matmul(context.transpose(1, 0, 2).astype(np.float64), weights[:, : self.n_context]).transpose(1, 0, 2)
        driven = np.einsum("bc,nct->bnt", self._one_hot(conditions), weights[:, self.n_context :])
        return own + driven + self.intercept[at]

    def facts(self):
        return {**self._coded(), "neurons": list(self.neurons), "penalty": self.penalty}

    def arrays(self):
        return {"scale": self.scale, "weights": self.weights, "intercept": self.intercept}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        n, p = len(note["neurons"]), n_context + len(note["columns"])
        return {"scale": (n, p), "weights": (n, p, n_response), "intercept": (n, n_response)}

    def restore(self, note, arrays):
        self._restore_coded(note)
        self.neurons, self.penalty = {n: i for i, n in enumerate(note["neurons"])}, note["penalty"]
        self.scale, self.weights, self.intercept = (arrays[name] for name in ("scale", "weights", "intercept"))


def _by_session(trials):
    """The folds of `_folds`, cut within each session: a list of bool arrays (trial,) without empty folds."""
    out = np.zeros((FOLDS, len(trials)), bool)
    for session in trials.sessions:
        here = np.flatnonzero((trials.table["session"] == session).to_numpy())
        for fold, held_out in zip(out, _folds(len(here)), strict=False):
            fold[here] = held_out
    return [fold for fold in out if fold.any()]


def _centred(sums):
    """The means of x and y, and the sums of products about these means."""
    n = np.maximum(sums["n"], 1)[:, None]
    x, y = sums["x"] / n, sums["y"] / n
    return x, y, sums["xx"] - n[..., None] * x[:, :, None] * x[:, None], sums["xy"] - n[..., None] * x[:, :, None] * y[:, None]


class RidgePopulation(_Ridge):
    """Ridge regression of each neuron's response on the baseline of the whole population and the one-hot of the condition; one regression per population.

    The neurons of a session are a population; sessions with the same neurons are pooled. The baseline of every neuron is averaged into at most 8 time
    bins. A value that is missing in a baseline counts as 0. Each population has one penalty, the best by squared error on validation. If validation
    can't separate the penalties of a population, it takes the penalty that is best for the other populations. Each of their errors is divided by that
    of the training mean and then summed, so that a loud recording counts no more than a calm one. If validation can't separate the penalties of any
    population, cross-validation inside the training part (5 stretches of trials, each held out once) replaces validation. One SVD serves all penalties.

    Attributes
    ----------
    populations : dict
        {tuple of neuron keys: {"scale": float, "penalty": float, "errors": array (penalty,) or None, "solved": see `_solved`}}.
    """

    kind = "ridge_population"
    name = "ridge, population"
    learnt: ClassVar[dict] = {
        **_CODED,
        "populations": schema.listing(
            schema.record(
                {
                    "neurons": schema.KEYS, "scale": schema.number(), "penalty": schema.number(least=0),
                    "groups": schema.listing(schema.record({"members": schema.listing(schema.whole()), "rank": schema.whole()})),
                }
            )
        ),
    }  # fmt: skip
    population = True

    def _learn(self, split):
        self._code_conditions(split)
        sessions = {}  # {neurons of a population: its sessions}; memory holds the data of one population at a time
        for session in split.fitting.sessions:
            sessions.setdefault(tuple(split.fitting.neurons_of(session)), []).append(session)
        by = "validation"
        errors = {k: _validated(self._data(split, of)) for k, of in sessions.items()}
        if all(e is None for e in errors.values()):
            by = "cross-validation inside the training part"
            errors = {k: _cross_validated(self._data(split, of)) for k, of in sessions.items()}
            self.notes.append(f"validation holds too little to choose a penalty by; {by} stood in for it.")
        told = [e / of_mean for e, of_mean in filter(None, errors.values())]
        self.populations = {}
        for neurons, of in sessions.items():
            own = errors[neurons]
            found = own[0] if own else np.sum(told, 0) if told else None
            penalty = _best(found)
            if not own:
                source = "the best for the other sessions" if told else "the strongest there is"
                self.notes.append(f"{by} holds too little of {', '.join(of)} to choose a penalty by; it has {penalty:g}, {source}.")
            d = self._data(split, of)
            self.populations[neurons] = {"scale": d["scale"], "penalty": penalty, "errors": found, "solved": _solved(d, penalty)}

    def _data(self, split, sessions):
        """The data of one population: features x (trial, feature), responses y (trial, neuron, time), kept (trial, neuron), train (trial,), the scale of
        the bins, and the groups of neurons."""
        parts = []
        for is_train, trials in ((True, split.train), (False, split.validation)):
            mine = trials.subset(trials.table["session"].isin(sessions).to_numpy())
            for _, conditions, context, response, whole in self._observations(mine):
                parts.append((self._bins(context), self._one_hot(conditions), response, whole, np.full(len(conditions), is_train)))
        bins, one_hot, y, kept, train = (np.concatenate(a) for a in zip(*parts, strict=True))
        total = (bins[train] if train.any() else bins).var(0).sum()
        scale = 1 / np.sqrt(total) if total > 1e-12 else 1.0
        # neurons that miss the same trials share a design matrix; nearly always all neurons do
        group = np.unique(kept, axis=1, return_inverse=True)[1].ravel()
        groups = [np.flatnonzero(group == g) for g in np.unique(group)]
        return {"x": np.concatenate([bins * scale, one_hot], 1), "y": y, "kept": kept, "train": train, "scale": scale, "groups": groups}

    def _bins(self, context):
        n_bins = _n_bins(context.shape[-1])
        edges = np.linspace(0, context.shape[-1], n_bins + 1).round().astype(int)
        means = np.add.reduceat(context.astype(np.float64), edges[:-1], axis=-1) / np.diff(edges)
        return means.reshape(len(context), -1)

    def predict_arrays(self, asked):
        population = self.populations.get(tuple(asked.neurons))
        if population is None:
            check_keys("neuron", asked.neurons, {n for p in self.populations for n in p}, HINT)
            raise UnknownKeyError(
                f"{self.name}: expected all neurons of one fitted session, found {len(asked.neurons)} others. Choose the same neurons as in fit."
            )
        x = np.concatenate([self._bins(asked.context) * population["scale"], self._one_hot(asked.conditions)], 1)
        out = np.zeros((*asked.context.shape[:2], self.n_response), np.float32)
        for members, mean_x, mean_y, v, weights in population["solved"]:
            scores = ((x - mean_x) @ v.T).astype(weights.dtype)  # otherwise each call would convert the weights, which are far larger
            out[:, members] = (scores @ weights + mean_y).reshape(len(x), len(members), -1)
        return out

    def facts(self):
        found = []
        for neurons, of in self.populations.items():
            groups = [{"members": [int(m) for m in members], "rank": len(v)} for members, _, _, v, _ in of["solved"]]
            found.append({"neurons": list(neurons), "scale": float(of["scale"]), "penalty": of["penalty"], "groups": groups})
        return {**self._coded(), "populations": found}

    def arrays(self):
        return {
            f"{i}.{g}.{name}": x
            for i, of in enumerate(self.populations.values())
            for g, (_, *solved) in enumerate(of["solved"])
            for name, x in zip(SOLVED, solved, strict=True)
        }

    @classmethod
    def shapes(cls, note, n_context, n_response):
        found = {}
        for i, of in enumerate(note["populations"]):
            p = len(of["neurons"]) * _n_bins(n_context) + len(note["columns"])
            for g, group in enumerate(of["groups"]):
                rank, out = group["rank"], len(group["members"]) * n_response
                sizes = (p,), (out,), (rank, p), (rank, out)
                found |= {f"{i}.{g}.{name}": size for name, size in zip(SOLVED, sizes, strict=True)}
        return found

    def restore(self, note, arrays):
        self._restore_coded(note)
        self.populations = {}
        for i, of in enumerate(note["populations"]):
            solved = [(np.array(group["members"]), *(arrays[f"{i}.{g}.{name}"] for name in SOLVED)) for g, group in enumerate(of["groups"])]
            self.populations[tuple(of["neurons"])] = {"scale": of["scale"], "penalty": of["penalty"], "errors": None, "solved": solved}


def _n_bins(n_context):
    return min(MOST_BINS, n_context)


def _held_out(d, fit, held_out):
    """Learn from the trials `fit` and measure in the trials `held_out`: the squared error of each penalty, (penalty,), and that of the mean, a float.
    None if the errors don't separate the penalties."""
    errors, of_mean = np.zeros(len(PENALTIES)), 0.0
    (x, y, kept), (test_x, test_y, test_kept) = ([d[k][rows] for k in ("x", "y", "kept")] for rows in (fit, held_out))
    for members in d["groups"]:
        found = _svd(x, y, kept, members)
        seen = test_kept[:, members[0]]
        if found is None or not seen.any():
            continue
        scores = (test_x[seen] - found["x"]) @ found["v"].T
        target = test_y[seen][:, members].reshape(len(scores), -1) - found["y"]
        of_mean += (target**2).sum()
        for i, penalty in enumerate(PENALTIES):
            errors[i] += ((target - (scores * (found["s"] / (found["s"] ** 2 + penalty))) @ found["uy"]) ** 2).sum()
    return (errors, of_mean) if _tells(errors, of_mean) else None


def _validated(d):
    """The result of `_held_out` for the validation part."""
    return _held_out(d, d["train"], ~d["train"])


def _cross_validated(d):
    """The results of `_held_out`, summed over the folds of the training part; None if no fold has one."""
    train = np.flatnonzero(d["train"])
    parts = [_held_out(d, train[~fold], train[fold]) for fold in _folds(len(train))]
    found = [part for part in parts if part is not None]
    return tuple(sum(values) for values in zip(*found, strict=True)) if found else None


def _solved(d, penalty):
    """Solve for the weights from all trials: one tuple per group of neurons, of their positions, the means of x and y, and the weights' two factors."""
    solved = []
    for members in d["groups"]:
        found = _svd(d["x"], d["y"], d["kept"], members)
        if found is not None:
            # if features outnumber trials, the two factors are far smaller than their product
            weights = (found["s"] / (found["s"] ** 2 + penalty))[:, None] * found["uy"]
            solved.append((members, found["x"], found["y"], found["v"].astype(np.float32), weights.astype(np.float32)))
    return solved


def _svd(x, y, kept, members):
    """The SVD of the centred features in the trials that these neurons keep, and their responses in its coordinates; None if they keep no trial."""
    rows = kept[:, members[0]]
    if not rows.any():
        return None
    x, y = x[rows], y[rows][:, members].reshape(int(rows.sum()), -1)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(x - mean_x, full_matrices=False)
    return {"x": mean_x, "y": mean_y, "s": s, "v": v, "uy": u.T @ (y - mean_y)}
