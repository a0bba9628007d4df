"""Checks of config.json of a saved model. Each check takes a value and its key, and raises `Unfit` if the value is not allowed there."""

import re
from dataclasses import fields

from ..errors import QfError
from ..models.options import Range, shown
from ..recordings.options import SETTINGS, WindowOptions

HUGE = 1e30  # float32 ends at 3.4e38; no number that decides a forecast comes near it


class Unfit(Exception):
    """Raised if a file holds a wrong value: "key: expected X, found Y". `version` is True if another version of qf_toolkit may have written it."""

    def __init__(self, where, expected, found, version=False):
        super().__init__(f"{where}: expected {expected}, found {found}")
        self.version = version


def number(least=-HUGE, most=HUGE, above=None, optional=False):
    """A finite number."""
    return within(Range("number", least=least if above is None else None, most=most, above=above, optional=optional))


def whole(least=0, most=2**63 - 1, optional=False):
    """An integer."""
    return within(Range("whole", least=least, most=most, optional=optional))


def flag(optional=False):
    """True or False."""
    return within(Range("flag", optional=optional))


def choice(*known, optional=False):
    """One of some texts."""
    return within(Range("text", known=known, optional=optional))


def within(allowed):
    """A value that a Range allows."""

    def check(value, where):
        try:
            allowed.checked("", value)
        except QfError:
            raise Unfit(where, allowed, shown(value)) from None

    return check


def text(pattern=None, what="a text"):
    """A text; if a pattern is given, one that matches it."""

    def check(value, where):
        if not isinstance(value, str) or (pattern and not re.fullmatch(pattern, value)):
            raise Unfit(where, what, shown(value))

    return check


def maybe(check):
    """None, or a value that `check` accepts."""
    return lambda value, where: None if value is None else check(value, where)


def listing(check, unique=False, size=None):
    """A list of values that `check` accepts."""

    def checked(value, where):
        if not isinstance(value, list) or (size is not None and len(value) != size):
            raise Unfit(where, "a list" if size is None else f"a list of {size}", shown(value))
        for i, item in enumerate(value):
            check(item, f"{where}[{i}]")
        if unique and len(set(value)) < len(value):
            raise Unfit(where, "each key once", shown(next(v for i, v in enumerate(value) if v in value[:i])) + " twice")

    return checked


def mapping(check):
    """A dict with any keys, whose values `check` accepts."""

    def checked(value, where):
        if not isinstance(value, dict):
            raise Unfit(where, "a mapping", shown(value))
        for key, item in value.items():
            check(item, f"{where}.{key[:60]}")

    return checked


def record(required, optional=None):
    """A dict of known keys, each with its check."""
    optional = optional or {}

    def checked(value, where):
        if not isinstance(value, dict):
            raise Unfit(where or "config", "a mapping", shown(value))
        at = f"{where}." if where else ""
        for key in required:
            if key not in value:
                raise Unfit(f"{at}{key}", "a value", "none", version=True)
        for key, item in value.items():
            check = required.get(key) or optional.get(key)
            if check is None:
                raise Unfit(f"{at}{key[:60]}", "no such key", shown(item), version=True)
            check(item, f"{at}{key}")

    return checked


def options(*kinds, required=()):
    """A record with the fields of dataclasses that `option` made; fields that are not `required` may be missing."""
    checks = {f.name: within(f.metadata["range"]) for kind in kinds for f in fields(kind)}
    return record({n: c for n, c in checks.items() if n in required}, {n: c for n, c in checks.items() if n not in required})


def _interval(value, where):
    listing(whole(least=-(2**40), most=2**62), size=2)(value, where)
    if value[0] >= value[1]:
        raise Unfit(where, "a first frame before one past the last", shown(value))


def scaling(value, where):
    """{session: {neuron: [mean, sd]}}, or {neuron: [mean, sd]} in older saved models, whose sessions share their z-scores."""
    pair = listing(number(), size=2)

    def mean_sd(value, where):
        pair(value, where)
        number(above=0)(value[1], f"{where}[1]")

    mapping(lambda v, w: mapping(mean_sd)(v, w) if isinstance(v, dict) else mean_sd(v, w))(value, where)
    if len({isinstance(v, dict) for v in value.values()}) > 1:
        raise Unfit(where, "either scales by session or by neuron", "both")


KEYS = listing(text(), unique=True)
DIVISORS = mapping(number(least=1e-30))
SEED = whole(-(2**63), 2**64 - 1, optional=True)
WINDOW = options(WindowOptions, required=("baseline_s", "response_s", "f0_s", "signal"))
SEEN = mapping(record({"fingerprint": text(), "intervals": listing(_interval)}, {"session": text()}))
FEATURE = record(
    {"name": text(), "scale": choice("circle", "log2", "linear", "text", "none")},
    {"period": number(above=0), "mean": number(), "sd": number(above=0), "values": KEYS, "flag": flag(),
     "waves": listing(choice("sin1", "cos1", "sin2", "cos2"), unique=True)},
)  # fmt: skip
REFERENCE = record({"epoch": whole(), "epochs": whole(), **{n: number() for n in ("score", "stimulus_mean", "mean")}})


def plain(value, where):
    """None, a number, a text, True or False, or a list of such values."""
    if isinstance(value, list):
        listing(plain)(value, where)
    elif value is not None and not isinstance(value, bool | str):
        number()(value, where)


# the options of the command line that a model was trained with: `settings` chose the data, `options` the training
RUN = record(
    {"qf_toolkit": text(), "settings": options(*SETTINGS)},
    {"command": choice("pretrain", "fit", "decode"), "options": mapping(plain)},
)


def history(value, where):
    numbers = {k: number() for entry in value if isinstance(entry, dict) for k in entry} if isinstance(value, list) else {}
    listing(record({"epoch": whole(), "loss": number(), "score": number()}, numbers))(value, where)


# the keys that `write_model` adds to every saved model
ABOUT = {"format": whole(least=1), "kind": text(), "weights": text("[0-9a-f]{24}", "a hash"), "torch": text()}
