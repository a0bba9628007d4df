"""Options as fields of dataclasses. Each field states its default, its range and its help once, for Python, the command line and saved files."""

import math
import numbers
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ..errors import QfError, did_you_mean

KINDS = ("number", "whole", "text", "flag", "path")


@dataclass(frozen=True)
class Range:
    """The values that an option allows.

    Attributes
    ----------
    kind : {"number", "whole", "text", "flag", "path"}
        A finite number; an integer; a text, or one of `known` if that is given; True or False; a file or folder.
    least, most : number, optional
        Bounds that are allowed themselves.
    above, below : number, optional
        Bounds that are not allowed themselves.
    known : tuple of str
        The texts that are allowed; empty allows any.
    optional : bool
        Whether None is allowed, too.
    several : bool
        Whether the option takes one value or a list of values; `checked` returns them as a tuple.
    words : tuple of str
        Texts that are allowed besides numbers.
    texts : bool
        Whether any text is allowed besides numbers, as the name of something that holds numbers.
    noun : str
        The name of a value in messages, with its unit: "seconds", "a share"...
    hint : str
        A sentence that advises how to correct a wrong value.
    """

    kind: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    known: tuple = ()
    optional: bool = False
    several: bool = False
    words: tuple = ()
    texts: bool = False
    noun: str = ""
    hint: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, found {self.kind!r}")

    def __str__(self):
        if self.kind == "flag":
            return "True or False"
        noun = self.noun or {"whole": "a whole number", "number": "a number", "path": "a path"}.get(self.kind, "a text")
        if self.known:
            noun = "one of " + ", ".join(map(repr, self.known))
        parts = [f"{noun} {self._bounds()}".rstrip(), *(f"{w!r}" for w in self.words), *["a name"] * self.texts, *["None"] * self.optional]
        return " or ".join(parts) + ", one or a list" * self.several

    def _bounds(self):
        if self.least is not None and self.most is not None:
            return f"from {self.least:.15g} to {self.most:.15g}"
        if self.above is not None and self.below is not None:
            return f"between {self.above:.15g} and {self.below:.15g}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:.15g}" for word, bound in bounds.items() if bound is not None)

    def checked(self, name: str, value: Any) -> Any:
        """`value` as a plain int, float, str or bool, or a tuple of such values; None stays None if it is allowed.

        Raises
        ------
        QfError
            If it is of another type, no finite number, or out of range; the message begins with `name`.
        """
        if value is None and self.optional:
            return None
        if not self.several:
            return self._one(name, value)
        values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        return tuple(self._one(name, v) for v in values)

    def read(self, name: str, text: str) -> Any:
        """The checked value of a text from the command line; errors as of `checked`."""
        value = text
        if self.kind in ("number", "whole") and text not in self.words:
            try:
                value = (int if self.kind == "whole" else float)(text)
            except ValueError:  # the text is no number, or a number of thousands of digits
                value = text
        return self._one(name, value)

    def _one(self, name, value):
        plain = self._plain(value)
        if plain is None or not self._inside(plain):
            close = did_you_mean(value, self.known) if self.known and isinstance(value, str) else ""
            close = f"; {close}" if close.startswith("did") else "."
            raise QfError(f"{name}: expected {self}, found {shown(value)}{close}{' ' * bool(self.hint)}{self.hint}")
        return plain

    def _plain(self, value):
        if self.kind == "flag":
            return bool(value) if type(value).__name__ == "bool" else None  # also numpy's bool
        if isinstance(value, str) and (self.kind == "text" or self.texts or value in self.words):
            return str(value)
        if self.kind == "path":
            path = value if isinstance(value, str) else value.__fspath__() if hasattr(value, "__fspath__") else None
            return path if isinstance(path, str) and "\0" not in path else None
        wanted = numbers.Integral if self.kind == "whole" else numbers.Real
        if self.kind == "text" or isinstance(value, bool) or not isinstance(value, wanted):
            return None
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    def _inside(self, value):
        if isinstance(value, bool | str):
            return not self.known or value in self.known
        bounds = (self.least, value, True), (value, self.most, True), (self.above, value, False), (value, self.below, False)
        finite = isinstance(value, int) or math.isfinite(value)
        return finite and all(low is None or high is None or low < high or (equal and low == high) for low, high, equal in bounds)


def shown(value):
    """The repr of a value in at most 60 characters, for messages."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


REQUIRED = object()
"""The default of an option that must be given."""


def option(default, kind="number", *, help, flag=None, off=None, bare=None, place=None, task=None, **allowed) -> Any:
    """A field of a dataclass of options.

    Parameters
    ----------
    default : object
        `REQUIRED` if there is no default.
    kind : str
        The `kind` of its `Range`.
    help : str
        A description with the unit.
    flag : str, optional
        Its name on the command line, without its unit; None takes the field's name.
    off : str, optional
        A flag of the command line that sets it to False.
    bare : str, optional
        Its value if the command line has only its name, without a value.
    place : str, optional
        Its name in the usage of a command that takes it by its place, not by its name.
    task : str, optional
        The task of a fit, if the option belongs to one task only.
    **allowed
        Other attributes of its `Range`.

    Returns
    -------
    dataclasses.Field
    """
    facts = {"range": Range(kind, **allowed), "help": help, "flag": flag, "off": off, "bare": bare, "place": place, "task": task}
    return field(**({} if default is REQUIRED else {"default": default}), metadata=facts, kw_only=default is REQUIRED)


def check_options(kind, given):
    """Check the values of some options of a dataclass.

    Parameters
    ----------
    kind : type
        A dataclass whose fields `option` made.
    given : dict
        {name: value}; names that `kind` has no field for are left out.

    Returns
    -------
    dict
        {name: value}, with values as `Range.checked` returns them.

    Raises
    ------
    QfError
        If a value has a wrong type or is out of range.
    """
    return {f.name: f.metadata["range"].checked(f.name, given[f.name]) for f in fields(kind) if f.name in given}


class Options:
    """The base of all dataclasses of options. It checks every value when an instance is made, and raises QfError if one is not allowed."""

    def __post_init__(self):
        for name, value in check_options(type(self), vars(self)).items():
            object.__setattr__(self, name, value)


def check_heads(width, heads):
    """Raise QfError unless `heads` of attention divide the `width` of a token."""
    if width % heads:
        raise QfError(f"heads: expected a divisor of width = {width}, found {heads}.")


def defaults(kind):
    """The defaults of a dataclass, {name: default}; fields without a default are left out."""
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


def refuse_unknown(call, given, known):
    """Raise QfError if a name in `given` is not in `known`; `call` is the name of the function in the message."""
    for name in given:
        if name not in known:
            raise QfError(f"{name}: no option of {call}; {did_you_mean(name, known)} Known: {', '.join(known)}.")
