"""Which learned token a condition has: its own, that of its stimulus category, or one made of the features in its key."""

import re
import warnings
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import QfError
from ..models.config import STIM_TOKENS
from ..recordings.conditions import category_of, parse_condition
from .checks import check_keys

MIN_REPEATS = 2  # if the median condition of a category has at least so many trials, "auto" gives each of its conditions a token
MOST_TEXTS = 200  # a text feature with more values than this names its condition rather than describes it
IDENTITIES = ("image", "frame", "scene", "movie_frame", "id", "index")  # numbers that name and have no order, like those of *_id and *_index
PERIODS = {"orientation": (360.0,), "direction": (360.0,), "phase": (1.0, 2 * np.pi, 360.0)}  # the first period that holds all values, else the last
WAVES = {"phase": ("sin1", "cos1")}  # other circles also get twice the angle: a cell tuned to the axis of a grating has two peaks per turn
LOGARITHMIC = ("temporal_frequency", "spatial_frequency")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Feature:
    """How one feature of a condition becomes numbers. The training conditions decide it.

    Attributes
    ----------
    name : str
    scale : {"circle", "log2", "linear", "text", "none"}
        "circle": the `waves`; "log2" and "linear": a z-score of the logarithm or of the value; "text": one number for each of `values`; "none": only
        the flag.
    period, mean, sd : float
        The period of a circle in the feature's units; mean and standard deviation of a z-score.
    values : tuple of str
        The values of a text that were seen in training.
    flag : bool
        Whether a last number is added: 1 if the condition has the feature, 0 if it lacks it. If it lacks it, the numbers before are 0, too.
    waves : tuple of str
        For a circle: sin and cos of the angle (sin1, cos1) and of twice the angle (sin2, cos2). The default is for older saved models, which lack it.
    """

    name: str
    scale: str
    period: float = 1.0
    mean: float = 0.0
    sd: float = 1.0
    values: tuple = ()
    flag: bool = False
    waves: tuple = ("sin1", "cos1")

    @classmethod
    def learnt(cls, name, texts):
        """The Feature that training conditions decide, or None if nothing can be learnt about it.

        Parameters
        ----------
        name : str
        texts : list of str or None
            The value of each condition; None if the condition lacks the feature.

        Returns
        -------
        Feature or None
        """
        plain = name.lower().rstrip("_")
        if plain in IDENTITIES or plain.endswith(("_id", "_index")):
            return None
        found = [t for t in texts if t is not None]
        flag, numbers = len(found) < len(texts), [_number(t) for t in found]
        if None in numbers:
            values = tuple(sorted(set(found)))
            return cls(name, "text", values=values) if (1 if flag else 2) <= len(values) <= MOST_TEXTS else None
        x = np.array(numbers)
        if plain in PERIODS:
            period = next((p for p in PERIODS[plain] if np.abs(x).max() <= 1.00001 * p), PERIODS[plain][-1])
            x = x % period
            # the weight of a wave that is the same for all conditions (sin of 0 and 180) learns nothing
            waves = tuple(w for w in WAVES.get(plain, ("sin1", "cos1", "sin2", "cos2")) if np.ptp(_wave(w, 2 * np.pi * x / period)) > 1e-6)
            own = {"scale": "circle", "period": period, "waves": waves}
        else:
            own = {"scale": "log2" if plain in LOGARITHMIC and x.min() > 0 else "linear"}
            x = np.log2(x) if own["scale"] == "log2" else x
            own |= {"mean": float(x.mean()), "sd": float(x.std()) or 1.0}
        if x.min() < x.max():
            return cls(name, **own, flag=flag)
        # the weight of a single value learns nothing, and another value at prediction must not meet a random weight
        return cls(name, "none", flag=True) if flag else None

    def encode(self, text):
        """The numbers of a value, a list of float. `text` is the value, or None for a condition that lacks the feature."""
        if self.scale == "text":
            return [float(text == v) for v in self.values]
        x = None if text is None else _number(text)
        if x is not None and self.scale == "log2":
            x = np.log2(x) if x > 0 else None
        if self.scale == "circle":
            turn = 0.0 if x is None else 2 * np.pi * (x % self.period) / self.period
            out = [0.0 if x is None else _wave(w, turn) for w in self.waves]
        elif self.scale == "none":
            out = []
        else:
            out = [0.0 if x is None else (x - self.mean) / self.sd]
        return [*out, float(x is not None)] if self.flag else out


def _wave(name, turn):
    """The wave of a name (sin1, cos1, sin2...) at angles in radians."""
    return getattr(np, name[:3])(int(name[3:]) * turn)


def _features(conditions):
    """The Features that can be learnt from these training conditions."""
    parsed = [parse_condition(c)[1] for c in conditions]
    found = [Feature.learnt(n, [p.get(n) for p in parsed]) for n in sorted({n for p in parsed for n in p})]
    return [f for f in found if f]


def _number(text):
    """The finite number that a text holds, or None."""
    x = float(text) if _NUMBER.fullmatch(text) else np.inf
    return x if np.isfinite(x) else None


class StimulusTokens:
    """The stimulus tokens of one model: which there are, and which of them a condition has.

    Parameters
    ----------
    kind : {"auto", "condition", "category", "features"}
        - "condition", "category": each condition or category of the training part has a learned token.
        - "auto" decides for each stimulus category. If its conditions are repeated in training (the median condition and subject has at least 2
          trials; blanks don't count), each condition has a token. Otherwise the category has one. Sparse noise shows 9,000 conditions once each:
          nothing can be learnt about any of them, and those of the test part would have no token.
        - "features": the token is a learned linear map of the condition's features, plus a learned embedding of its category (released code: a
          map of four features). A condition that was never seen has a token, too. The features come from the condition's key. orientation and
          direction (degrees) and phase (cycles; radians or degrees if values exceed 1) become sin and cos of the angle, the first two also of twice
          the angle. Other numbers become z-scores (temporal_frequency and spatial_frequency after log2). Texts become a one-hot of the values seen
          in training. A feature with one value in training is left out. Numbers that name rather than measure (image, frame, scene, movie_frame,
          ..._id, ..._index) and texts of more than 200 values are left out as well. A stimulus without any other feature, for example natural
          scenes, then has one token for all its conditions, as under "category".
    keys : list of str
        The keys that have a token: conditions, or categories (without a slash), or both under "auto"; under "features" the categories.
    features : sequence of Feature
        Only under "features".

    Attributes
    ----------
    ids : dict
        {key: position}; under "features" {condition: position} of the conditions described so far.

    Raises
    ------
    QfError
        If `kind` is unknown.
    """

    def __init__(self, kind, keys, features=()):
        self.kind, self.keys, self.features = check_kind(kind), list(keys), tuple(features)
        self._known = frozenset(self.keys)
        self.ids = {} if kind == "features" else {k: i for i, k in enumerate(self.keys)}

    @classmethod
    def learnt(cls, kind, table):
        """The StimulusTokens of a training part.

        Parameters
        ----------
        kind : str
        table : pandas.DataFrame
            The training part's trial table, with the columns stimulus, condition and subject.

        Returns
        -------
        StimulusTokens

        Raises
        ------
        QfError
            If `kind` is unknown.
        """
        check_kind(kind)
        conditions, categories = (sorted(table[c].unique()) for c in ("condition", "stimulus"))
        if kind == "features":
            return cls(kind, categories, _features(conditions))
        if kind == "auto":
            # per subject, because noise that ten mice saw once each is repeated to none of them; the median, because a few frequent conditions prove
            # nothing about the rest
            shown = table[table["condition"] != table["stimulus"] + "/blank"].groupby(["stimulus", "subject", "condition"]).size()
            shown = shown.groupby("stimulus").median()
            once = set(shown.index[shown < MIN_REPEATS])
            for name in sorted(once):
                hint = ' stim_token="features" (--stim-token features) tells those apart whose keys hold quantities.'
                told = any(f.scale != "none" for f in _features(c for c in conditions if category_of(c) == name and c != f"{name}/blank"))
                often = "once" if shown[name] == 1 else f"{shown[name]:.2g} times"
                warnings.warn(
                    f"stim_token: the conditions of {name} are shown {often} each in training, too few to learn a token of each: "
                    f"one for all of them.{hint * told}",
                    stacklevel=4,
                )
            return cls(kind, sorted({*once, *(c for c in conditions if category_of(c) not in once)}))
        return cls(kind, conditions if kind == "condition" else categories)

    @property
    def size(self):
        """The number of tokens; under "features" a tuple of the numbers of categories and of encoded features."""
        return (len(self.keys), len(self.encode({}))) if self.kind == "features" else len(self.keys)

    def encode(self, features):
        """The numbers of a condition's features, {name: text}, as one list of float, feature after feature."""
        return [v for f in self.features for v in f.encode(features.get(f.name))]

    def describe(self, conditions):
        """Give new conditions the next positions; only under "features".

        Parameters
        ----------
        conditions : sequence of str
            Those that have a position already, or whose category has no embedding, are skipped.

        Returns
        -------
        category : int64 array, shape (n,)
            Positions of the new conditions' categories.
        features : float32 array, shape (n, F)
            Their encoded features.
        """
        new = [c for c in sorted(set(conditions) - self.ids.keys()) if category_of(c) in self.keys]
        self.ids |= {c: len(self.ids) + i for i, c in enumerate(new)}
        return self.numbers_of(new)

    def numbers_of(self, conditions):
        """The inputs of tokens under "features": positions of the conditions' categories, int64 (n,), and their encoded features, float32 (n, F)."""
        parsed = [parse_condition(c) for c in conditions]
        category = np.array([self.keys.index(k) for k, _ in parsed], np.int64)
        return category, np.array([self.encode(f) for _, f in parsed], np.float32).reshape(len(parsed), self.size[1])

    def lacking(self, conditions):
        """The conditions that have no token, each once."""
        return [c for c in dict.fromkeys(conditions) if c not in self._known and category_of(c) not in self._known]

    def check(self, conditions):
        """Raise UnknownKeyError if a condition has no token; it names the condition, or under "category" and "features" the category."""
        lacking, hint = self.lacking(conditions), "Train with trials of it, or choose other trials."
        if self.kind in ("category", "features"):
            check_keys("stimulus", map(category_of, lacking), self.keys, hint)
        elif lacking and category_of(lacking[0]) in map(category_of, self.keys):
            hint = 'Train with trials of it, or with stim_token="category" or "features" (--stim-token), which take conditions never seen.'
        check_keys("condition", lacking, self.keys, hint)

    def note(self):
        """The dict for config.json."""
        return {"stim_token": self.kind, "stimuli": self.keys, "features": [asdict(f) for f in self.features]}

    @classmethod
    def from_note(cls, note, default):
        """The StimulusTokens of a dict that `note` returned; `default` is the kind for older saved models, whose notes lack it."""
        features = [Feature(**{k: tuple(v) if isinstance(v, list) else v for k, v in f.items()}) for f in note.get("features", ())]
        return cls(note.get("stim_token", default), note["stimuli"], features)


def check_kind(kind):
    """Return `kind`, or raise QfError if it is none of STIM_TOKENS."""
    if kind not in STIM_TOKENS:
        raise QfError(f"stim_token: expected one of {STIM_TOKENS}, found {kind!r}.")
    return kind
