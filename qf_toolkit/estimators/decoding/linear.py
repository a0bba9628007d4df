"""What the decoders of traces share: features, one fit a session, the choice of a setting on validation, and saving.

A decoder of traces is linear: features of a frame (or of a trial) times weights, then a link. Families differ in how they learn the weights alone, so
that all of them see the same features. Neurons, and so the weights, are those of a session.

A setting (a penalty, a rank) is chosen on the validation part, for each session and each group of variables. Where a session has nothing to validate on,
it takes the setting that is best for the others. The weights are then learnt again on train and validation together, as those of the ridges that forecast.
"""

import hashlib
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from ...errors import QfError, UnknownKeyError, did_you_mean
from ...models.options import check_options
from .. import schema
from ..checks import check_keys
from ..interface import observations_of
from ..naive import HINT, Naive
from .decoder import Decoder, behaviour_values, category_values, classes_in, is_category, window_frames
from .features import averaged, lagged, moments, standardised
from .options import DecodingWindow, TraceOptions

ABSENT = -30.0  # score of a class that a session never showed: a probability of 1e-13
LATE_F0 = 'signal="dff": F0 of a window is the mean of its baseline\'s end, which frames before the onset could not know yet; signal="zscore" knows no later frame.'


@dataclass
class Fit:
    """What was learnt of a session.

    Attributes
    ----------
    neurons : list of str
    center, scale : float64 arrays, shape (neuron,)
        Mean and standard deviation in training.
    weights : float64 array, shape (feature, variable or class)
    intercept : float64 array, shape (variable or class,)
    most : float64 array, shape (variable or class,)
        The greatest value of each variable in training; 0 for classes.
    """

    neurons: list
    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    most: np.ndarray


ARRAYS = tuple(f.name for f in fields(Fit) if f.name != "neurons")


class WindowDecoder(Naive, Decoder):
    """The base of decoders that are fitted on the windows of a Split, each session apart.

    Attributes
    ----------
    counts : list of bool
        Which of the variables are counts: events, or whole numbers of 0 or more in all of training. Empty for a category.
    """

    decodes: ClassVar[tuple[str, ...]] = ("behaviour", "category")
    options: ClassVar[dict] = {"variables": schema.KEYS, **{n: schema.number(optional=True) for n in ("from_s", "to_s")}}
    learnt: ClassVar[dict] = {"classes": schema.KEYS, "counts": schema.listing(schema.flag())}

    def __init__(self, variables, *, from_s=DecodingWindow.from_s, to_s=DecodingWindow.to_s):
        super().__init__()
        self.variables = (variables,) if isinstance(variables, str) else tuple(variables)
        vars(self).update(check_options(DecodingWindow, {"from_s": from_s, "to_s": to_s}))
        self.counts = []

    def _target(self, split):
        """Find out what the variables are: sets `classes` and `counts`."""
        category = is_category(split.fitting, self.variables)
        if ("category" if category else "behaviour") not in self.decodes:
            what = "a category of the trials" if category else "behaviour"
            raise QfError(f"{self.name}: expected {' or '.join(self.decodes)}, found {what}, {', '.join(self.variables)}. Take another decoder.")
        self.classes = classes_in(split.train, self.variables[0]) if category else ()
        if not category and (self.from_s is not None or self.to_s is not None):
            raise QfError("from_s: expected only for a category of the trials; behaviour is decoded in every frame. Leave from_s and to_s out.")
        if self.window.signal == "dff":
            self.notes.append(LATE_F0)
        if category:
            self._frames()  # told before any fit
        self.counts = [] if category else np.all([self._counted(part) for part in split.train.by_session()], 0).tolist()

    def _counted(self, part):
        """Which variables of one session are counts."""
        values, events = behaviour_values(part, self.variables)
        known = np.nan_to_num(values)
        return [e or bool(((v >= 0) & (v == v.round())).all()) for v, e in zip(known.transpose(1, 0, 2), events, strict=True)]

    def _frames(self):
        """The frames of a category's window, first and one past last."""
        return window_frames(self.from_s, self.to_s, self.n_context, self.n_context + self.n_response, self.rate_hz)

    def _truth(self, part):
        """What is to be decoded in the trials of one session: behaviour, float64 (trial, variable, time), NaN where unknown; or the position of each trial's
        class, int (trial,), -1 where unknown."""
        if self.classes:
            places = {name: i for i, name in enumerate(self.classes)}
            return np.array([places.get(n, -1) for n in category_values(part, self.variables[0])], np.int64)
        return behaviour_values(part, self.variables)[0]

    def facts(self):
        return {"classes": list(self.classes), "counts": list(self.counts)}

    def restore(self, note, arrays):
        self.variables, self.classes, self.counts = tuple(note["variables"]), tuple(note["classes"]), note["counts"]

    def note(self):
        return {**super().note(), "variables": list(self.variables)}


class TraceDecoder(WindowDecoder):
    """The base of the decoders of traces.

    Parameters
    ----------
    variables : str or sequence of str
        Behaviours, or one category of the trials.
    lag_s : float
        Seconds of the past that decode behaviour in a frame, beside the frame itself. Frames before the window count as missing.
    bins : int
        At most so many time bins, in which those frames, or the frames of a category's window, are averaged.
    from_s, to_s : float, optional
        The window from which a category is decoded, in seconds from the onset. If None, from the onset to the end of the response.

    Attributes
    ----------
    fits : dict of str to Fit
        By session.
    chosen : dict of str to list of str
        By session, the setting of each group of variables, in words.
    """

    settings: ClassVar[tuple] = ((),)
    options: ClassVar[dict] = {**WindowDecoder.options, "lag_s": schema.number(least=0), "bins": schema.whole(least=1)}
    learnt: ClassVar[dict] = {
        **WindowDecoder.learnt,
        "fits": schema.listing(schema.record({"session": schema.text(), "neurons": schema.KEYS, "chosen": schema.listing(schema.text())})),
    }

    def __init__(self, variables, *, lag_s=TraceOptions.lag_s, bins=TraceOptions.bins, from_s=TraceOptions.from_s, to_s=TraceOptions.to_s):
        super().__init__(variables, from_s=from_s, to_s=to_s)
        vars(self).update(check_options(TraceOptions, {"lag_s": lag_s, "bins": bins}))
        self.fits, self.chosen = {}, {}

    # ------------------------------------------------------------ what a family defines

    def _groups(self):
        """Positions of the variables that share a setting, a list of lists; a category is one group."""
        return [[0]] if self.classes else [[i] for i in range(len(self.variables))]

    def _solve(self, x, y, which, settings):
        """Learn with each of some settings.

        Parameters
        ----------
        x : float64 array, shape (row, feature)
        y : float64 array, shape (row, variable), or int array, shape (row,), of classes from 0 on, each of them there
        which : list of int
            Positions of the variables.
        settings : sequence
            Of those in `settings`.

        Returns
        -------
        list of (weights (feature, k), intercept (k,))
        """
        raise NotImplementedError

    def _loss(self, scores, y, which, most):
        """The mean loss of scores (row, k) on validation; lower is better. `most`: see `Fit`."""
        if y.ndim == 1:
            return float((scores.argmax(1) != y).mean())
        return float(((self._linked(scores, which, most) - y) ** 2).mean())

    def _linked(self, scores, which, most):
        """Scores (..., variable) of behaviour as values in the variables' units. `most`: see `Fit`."""
        return scores

    # ------------------------------------------------------------ fit

    def _learn(self, split):
        self._target(split)
        self.fits, self.chosen, losses = {}, {}, {}
        parts = [{p.sessions[0]: p for p in part.by_session()} for part in (split.train, split.validation)]
        for session, train in parts[0].items():
            ds = train.dataset()
            x = ds[train.window.signal].values
            center, scale = moments(x, np.isfinite(x))
            self.fits[session] = Fit(train.neurons_of(session), center, scale, np.zeros((0, 0)), np.zeros(0), np.zeros(0))
            losses[session] = self._losses(train, parts[1].get(session))
        best = self._chosen(losses)
        for session, train in parts[0].items():
            rows = [self._rows(part) for part in (train, parts[1].get(session)) if part is not None]
            x, y = (np.concatenate(values) for values in zip(*rows, strict=True))
            solved = [self._final(x, y, which, best[session][g], session) for g, which in enumerate(self._groups())]
            self.fits[session].weights, self.fits[session].intercept = (np.concatenate(values, -1) for values in zip(*solved, strict=True))
            self.fits[session].most = np.zeros(len(self.classes)) if self.classes else np.nanmax(y, 0)
            self.chosen[session] = [self._words(self.settings[k]) for k in best[session] if len(self.settings) > 1]

    def _words(self, setting):
        return ", ".join(f"{name} {value:.3g}" for name, value in zip(("penalty", "rank"), setting, strict=False))

    def _final(self, x, y, which, setting, session):
        """The weights and intercept of a group with the setting that was chosen."""
        x, y, present = self._known(x, y, which)
        if not len(y):
            names = ", ".join(self.variables[i] for i in which)
            raise QfError(f"{names}: expected values in the training part of {session}, found none recorded. Choose other sessions or variables.")
        weights, intercept = self._solve(x, y, which, [self.settings[setting]])[0]
        if not self.classes or len(present) == len(self.classes):
            return weights, intercept
        whole = np.zeros((len(weights), len(self.classes))), np.full(len(self.classes), ABSENT)
        whole[0][:, present], whole[1][present] = weights, intercept
        return whole

    def _known(self, x, y, which):
        """The rows of which all variables of a group are known, and the classes that are there, sorted."""
        if self.classes:
            present, found = np.unique(y[y >= 0], return_inverse=True)
            return x[y >= 0], found, present
        keep = np.isfinite(y[:, which]).all(1)
        return x[keep], y[keep][:, which], None

    def _losses(self, train, validation):
        """The loss of each setting on validation over that of the mean or the classes' frequencies, float64 (group, setting); NaN where there is none."""
        out = np.full((len(self._groups()), len(self.settings)), np.nan)
        if validation is None or len(self.settings) == 1:
            return out
        x, y = self._rows(train)
        x_new, y_new = self._rows(validation)
        for g, which in enumerate(self._groups()):
            x_g, y_g, present = self._known(x, y, which)
            if present is not None:
                place = np.full(len(self.classes), -1)
                place[present] = np.arange(len(present))
                known = np.where(y_new >= 0, place[y_new], -1)
                x_v, y_v = x_new[known >= 0], known[known >= 0]
            else:
                x_v, y_v, _ = self._known(x_new, y_new, which)
                spread = y_g.std(0) if len(y_g) else np.ones(len(which))
                if not (spread > 0).all() or not len(y_v):
                    continue
            if len(y_v) and len(y_g):
                out[g] = [self._loss(x_v @ w + b, y_v, which, y_g.max(0)) for w, b in self._solve(x_g, y_g, which, self.settings)]
                out[g] /= 1 if present is not None else float(np.var(y_g, 0).mean())
        return out

    def _chosen(self, losses):
        """The position of each session's setting for each group: the least loss, at equal losses the later setting, which is the stronger penalty."""
        table = np.stack(list(losses.values()))
        pooled = np.where(np.isfinite(table).all(-1, keepdims=True), table, 0).sum(0)
        unknown = ~np.isfinite(table).all(-1)
        if unknown.any() and len(self.settings) > 1:
            self.notes.append(
                f"{int(unknown.any(1).sum())} of {len(table)} sessions have nothing to choose a setting by; they take the one that is best for the others."
            )

        def last_least(row):
            return len(row) - 1 - int(np.argmin(row[::-1]))

        return {session: [last_least(pooled[g] if unknown[s, g] else table[s, g]) for g in range(table.shape[1])] for s, session in enumerate(losses)}

    def _rows(self, part):
        """Features and truth of one session: rows are frames, or trials for a category."""
        asked, _ = observations_of(part.dataset(), part.window.signal, whole=True)
        x, y = self._features(asked, self.fits[part.sessions[0]]), self._truth(part)
        return (x, y) if self.classes else (x.reshape(-1, x.shape[-1]), y.transpose(0, 2, 1).reshape(-1, len(self.variables)))

    def _features(self, asked, fit):
        """Features of windows: (trial, time, feature), for a category (trial, feature). Neurons that the windows lack are at their training mean."""
        check_keys("neuron", asked.neurons, fit.neurons, HINT)
        at = np.array([fit.neurons.index(n) for n in asked.neurons], int)
        z = np.zeros((len(asked.context), len(fit.neurons), asked.context.shape[-1]))
        valid = np.ones(asked.context.shape, bool) if asked.valid is None else asked.valid
        z[:, at] = standardised(asked.context, valid, fit.center[at], fit.scale[at])
        return averaged(z, *self._frames(), self.bins) if self.classes else lagged(z, self._past(), self.bins)

    def _past(self):
        """Frames that decode a frame, itself included."""
        return 1 + round(self.lag_s * self.rate_hz)

    # ------------------------------------------------------------ answers

    def predict_arrays(self, asked):
        fit = self._fit_of(asked.session)
        scores = self._features(asked, fit) @ fit.weights + fit.intercept
        if not self.classes:
            return self._linked(scores, list(range(len(self.variables))), fit.most).transpose(0, 2, 1).astype(np.float32)
        return (softmax(scores) if self.has_probability else scores).astype(np.float32)

    def _fit_of(self, session):
        if not session and len(self.fits) == 1:
            return next(iter(self.fits.values()))
        if session not in self.fits:
            raise UnknownKeyError(f"session: {session!r} has no decoder here; {did_you_mean(session, sorted(self.fits))} Fit on trials of it.")
        return self.fits[session]

    def digest(self):
        """The digest of its class, its options and the trials it was fitted on, which decide all its answers; "" before `fit`."""
        learnt = super().digest()
        options = {n: getattr(self, n) for n in self.options}
        return hashlib.blake2b(f"{learnt} {options}".encode(), digest_size=12).hexdigest() if learnt else ""

    # ------------------------------------------------------------ saved

    def facts(self):
        fits = [{"session": s, "neurons": list(f.neurons), "chosen": self.chosen[s]} for s, f in self.fits.items()]
        return {**super().facts(), "fits": fits}

    def arrays(self):
        return {f"{i}.{n}": getattr(f, n) for i, f in enumerate(self.fits.values()) for n in ARRAYS}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        k = len(note["classes"]) or len(note["variables"])
        length = 1 + round(note["lag_s"] * note["rate_hz"])
        if note["classes"]:
            start, stop = window_frames(note["from_s"], note["to_s"], n_context, n_context + n_response, note["rate_hz"])
            length = stop - start
        found = {}
        for i, fit in enumerate(note["fits"]):
            n = len(fit["neurons"])
            shapes = {"center": (n,), "scale": (n,), "weights": (n * min(note["bins"], length), k), "intercept": (k,), "most": (k,)}
            found |= {f"{i}.{name}": shape for name, shape in shapes.items()}
        return found

    def restore(self, note, arrays):
        super().restore(note, arrays)
        for i, kept in enumerate(note["fits"]):
            self.fits[kept["session"]] = Fit(kept["neurons"], *(arrays[f"{i}.{n}"] for n in ARRAYS))
            self.chosen[kept["session"]] = kept["chosen"]


def softmax(scores):
    """Probabilities of scores (..., class), in float64."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
