"""Options as fields of dataclasses: each states its default, its range and its help once, for Python, the command line and saved files alike."""

import math
import numbers
from dataclasses import MISSING, dataclass, field, fields

from ..errors import QfError, did_you_mean


@dataclass(frozen=True)
class Range:
    """What an option may be.

    Attributes
    ----------
    kind : {"number", "whole", "text", "flag"}
        A finite number; an integer; one of `known`; True or False.
    least, most : number, optional
        Bounds that are allowed.
    above, below : number, optional
        Bounds that are not.
    known : tuple of str
    optional : bool
        Whether None is allowed, too.
    """

    kind: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    known: tuple = ()
    optional: bool = False

    def __str__(self):
        if self.kind == "flag":
            return "True or False"
        if self.kind == "text":
            return "one of " + ", ".join(map(repr, self.known)) + " or None" * self.optional
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        said = " and ".join(f"{word} {bound:.15g}" for word, bound in bounds.items() if bound is not None)
        return f"a {'whole number' if self.kind == 'whole' else 'number'} {said}{', or None' * self.optional}"

    def checked(self, name, value):
        """`value` as a plain int, float, str or bool.

        Raises
        ------
        QfError
            If it is of another type, no finite number, or out of range; the message begins with `name`.
        """
        if value is None and self.optional:
            return None
        plain = self._plain(value)
        if plain is None or not self._inside(plain):
            raise QfError(f"{name}: expected {self}, found {shown(value)}.")
        return plain

    def _plain(self, value):
        if self.kind == "flag":
            return bool(value) if type(value).__name__ == "bool" else None  # numpy's, too
        if self.kind == "text":
            return str(value) if isinstance(value, str) else None
        wanted = numbers.Integral if self.kind == "whole" else numbers.Real
        if isinstance(value, bool) or not isinstance(value, wanted):
            return None
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    def _inside(self, value):
        if self.kind in ("flag", "text"):
            return not self.known or value in self.known
        bounds = (self.least, value, True), (value, self.most, True), (self.above, value, False), (value, self.below, False)
        finite = isinstance(value, int) or math.isfinite(value)
        return finite and all(low is None or high is None or low < high or (equal and low == high) for low, high, equal in bounds)


def shown(value):
    """A value in at most 60 characters, for a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def option(default, kind="number", *, help, flag=None, **bounds):
    """A field of a dataclass of options.

    Parameters
    ----------
    default : object
    kind : str
        Of its `Range`.
    help : str
        What it is, with its unit.
    flag : str, optional
        Its name on the command line where that is not its own.
    **bounds
        Of its `Range`.

    Returns
    -------
    dataclasses.Field
    """
    return field(default=default, metadata={"range": Range(kind, **bounds), "help": help, "flag": flag})


def check_options(kind, given):
    """The values of some options of a dataclass, each as a plain int, float, str or bool.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are made with `option`.
    given : dict
        {name: value}; those that `kind` has no field of are left out.

    Returns
    -------
    dict

    Raises
    ------
    QfError
        If one is of a wrong type or out of range.
    """
    return {f.name: f.metadata["range"].checked(f.name, given[f.name]) for f in fields(kind) if f.name in given}


class Options:
    """What dataclasses of options share: every value is checked when one is made."""

    def __post_init__(self):
        for name, value in check_options(type(self), vars(self)).items():
            object.__setattr__(self, name, value)


def defaults(kind):
    """{name: default} of a dataclass."""
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


def refuse_unknown(call, given, known):
    """Raise QfError where `call` is given an option that it does not know."""
    for name in given:
        if name not in known:
            raise QfError(f"{name}: no option of {call}; {did_you_mean(name, known)} Known: {', '.join(known)}.")
