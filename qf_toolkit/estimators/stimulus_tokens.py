"""Which learned token a condition has: its own, that of its stimulus category, or one made of the features in its key."""

import re
import warnings
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import QfError
from ..models.config import STIM_TOKENS
from ..recordings.conditions import category_of, parse_condition
from .checks import check_keys

MIN_REPEATS = 2  # trials a condition (the median) from which "auto" gives each condition of a category a token of its own
MOST_TEXTS = 200  # a text with more values than this names its condition rather than describes it
IDENTITIES = ("image", "frame", "scene", "movie_frame", "id", "index")  # numbers that name and have no order, as those of *_id and *_index
PERIODS = {"orientation": (360.0,), "direction": (360.0,), "phase": (1.0, 2 * np.pi, 360.0)}  # the first that holds all values, else the last
WAVES = {"phase": ("sin1", "cos1")}  # of the angle; elsewhere also of twice the angle: a cell tuned to the axis of a grating has two peaks a turn
LOGARITHMIC = ("temporal_frequency", "spatial_frequency")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Feature:
    """How one feature becomes numbers, as the training conditions decided.

    Attributes
    ----------
    name : str
    scale : {"circle", "log2", "linear", "text", "none"}
        `waves`; a z-score, of the logarithm or of the value itself; one number for each of `values`; nothing but the flag.
    period, mean, sd : float
    values : tuple of str
    flag : bool
        Whether a last number says that the condition has the feature (1) or lacks it (0, as are the numbers before it).
    waves : tuple of str
        Of a circle: sin and cos of the angle (sin1, cos1: all that models saved before there were more have) and of twice the angle (sin2, cos2).
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
        """The Feature of training conditions, or None where they tell nothing of it; `texts` has one a condition, None where it lacks the feature."""
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
            # a wave that is the same for all (sin of 0 and 180) has taught no weight
            waves = tuple(w for w in WAVES.get(plain, ("sin1", "cos1", "sin2", "cos2")) if np.ptp(_wave(w, 2 * np.pi * x / period)) > 1e-6)
            own = {"scale": "circle", "period": period, "waves": waves}
        else:
            own = {"scale": "log2" if plain in LOGARITHMIC and x.min() > 0 else "linear"}
            x = np.log2(x) if own["scale"] == "log2" else x
            own |= {"mean": float(x.mean()), "sd": float(x.std()) or 1.0}
        if x.min() < x.max():
            return cls(name, **own, flag=flag)
        # one value alone has taught no weight: another one at prediction must not meet a random weight
        return cls(name, "none", flag=True) if flag else None

    def encode(self, text):
        """The numbers of a value, given as text, or of a condition that lacks the feature, given as None."""
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
    """sin1, cos1, sin2... of angles in radians."""
    return getattr(np, name[:3])(int(name[3:]) * turn)


def _features(conditions):
    """The features that these training conditions tell something of."""
    parsed = [parse_condition(c)[1] for c in conditions]
    found = [Feature.learnt(n, [p.get(n) for p in parsed]) for n in sorted({n for p in parsed for n in p})]
    return [f for f in found if f]


def _number(text):
    """The finite number that a text is, or None."""
    x = float(text) if _NUMBER.fullmatch(text) else np.inf
    return x if np.isfinite(x) else None


class StimulusTokens:
    """The stimulus tokens of one model: which there are, and which of them a condition has.

    Parameters
    ----------
    kind : {"auto", "condition", "category", "features"}
        - "condition", "category": a learned token for each of the training part.
        - "auto": per stimulus category, a token for each condition where these are repeated in training (2 trials a condition and subject or
          more, as the median; blanks don't count), else one for the category. Sparse noise shows 9,000 conditions once each: nothing can be
          learnt of any of them, and those of the test part would have no token.
        - "features": a learned linear map of the condition's features, plus a learned embedding of its category (released code: a map of four
          features), which says something of conditions never seen, too. Features are read from the condition's key. orientation and direction
          (degrees) and phase (cycles; radians or degrees where values exceed 1) become sin and cos, the first two also of twice the angle, other
          numbers z-scores (temporal_frequency and spatial_frequency of their log2), texts a one-hot of those seen in training; a feature of one
          value in training is left out. Numbers that name rather than measure (image, frame, scene, movie_frame, ..._id, ..._index) and texts of
          more than 200 values are left out as well: a stimulus that has no other feature, natural scenes say, then has one token for all its
          conditions, as under "category".
    keys : list of str
        What has a token of its own: conditions, or categories (without a slash), or under "auto" both; under "features" the categories.
    features : sequence of Feature
        Only under "features".

    Attributes
    ----------
    ids : dict
        {key: position}; under "features" of the conditions described so far.
    """

    def __init__(self, kind, keys, features=()):
        self.kind, self.keys, self.features = check_kind(kind), list(keys), tuple(features)
        self._known = frozenset(self.keys)
        self.ids = {} if kind == "features" else {k: i for i, k in enumerate(self.keys)}

    @classmethod
    def learnt(cls, kind, table):
        """Of the trial table of a training part (columns stimulus, condition, subject)."""
        check_kind(kind)
        conditions, categories = (sorted(table[c].unique()) for c in ("condition", "stimulus"))
        if kind == "features":
            return cls(kind, categories, _features(conditions))
        if kind == "auto":
            # per subject: noise that ten mice have seen once each is repeated to none of them; the median: a few frequent ones say nothing of the rest
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
        """Number of tokens; under "features" the numbers of categories and of encoded features."""
        return (len(self.keys), len(self.encode({}))) if self.kind == "features" else len(self.keys)

    def encode(self, features):
        """The numbers of {feature: text}, all features one after the other."""
        return [v for f in self.features for v in f.encode(features.get(f.name))]

    def describe(self, conditions):
        """Give those of `conditions` that have no position yet the next ones; only under "features".

        Returns
        -------
        category : int64 array, shape (n,)
            Positions of their categories.
        features : float32 array, shape (n, F)
        """
        new = [c for c in sorted(set(conditions) - self.ids.keys()) if category_of(c) in self.keys]
        self.ids |= {c: len(self.ids) + i for i, c in enumerate(new)}
        return self.numbers_of(new)

    def numbers_of(self, conditions):
        """What a token under "features" is made of: positions of the conditions' categories, int64 (n,), and their features, float32 (n, F)."""
        parsed = [parse_condition(c) for c in conditions]
        category = np.array([self.keys.index(k) for k, _ in parsed], np.int64)
        return category, np.array([self.encode(f) for _, f in parsed], np.float32).reshape(len(parsed), self.size[1])

    def lacking(self, conditions):
        """Those of `conditions` without a token, each once."""
        return [c for c in dict.fromkeys(conditions) if c not in self._known and category_of(c) not in self._known]

    def check(self, conditions):
        """Raise UnknownKeyError naming a condition without a token, or under "category" and "features" its category."""
        lacking, hint = self.lacking(conditions), "Train with trials of it, or choose other trials."
        if self.kind in ("category", "features"):
            check_keys("stimulus", map(category_of, lacking), self.keys, hint)
        elif lacking and category_of(lacking[0]) in map(category_of, self.keys):
            hint = 'Train with trials of it, or with stim_token="category" or "features" (--stim-token), which take conditions never seen.'
        check_keys("condition", lacking, self.keys, hint)

    def note(self):
        """What goes into config.json."""
        return {"stim_token": self.kind, "stimuli": self.keys, "features": [asdict(f) for f in self.features]}

    @classmethod
    def from_note(cls, note, default):
        """From what `note` gave; `default` is the kind of models saved before it was theirs to choose."""
        features = [Feature(**{k: tuple(v) if isinstance(v, list) else v for k, v in f.items()}) for f in note.get("features", ())]
        return cls(note.get("stim_token", default), note["stimuli"], features)


def check_kind(kind):
    """Raise QfError where `kind` is none of STIM_TOKENS; returns it."""
    if kind not in STIM_TOKENS:
        raise QfError(f"stim_token: expected one of {STIM_TOKENS}, found {kind!r}.")
    return kind
