"""Argument parsing that takes options and positional arguments in any order, and tells of a mistake in one line."""

import argparse
import re
import sys

from ..errors import did_you_mean

_VALUE = {"int": "a whole number", "float": "a number"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, `qf: --option: expected ..., found ...`, and end the program with 2."""

    _halfway = False

    def parse_known_args(self, args=None, namespace=None):
        """As the base class, but positional arguments may stand between options."""
        if self._subparsers is not None or self._halfway:
            return super().parse_known_args(args, namespace)
        self._halfway = True  # what follows comes back here for each of its two passes
        try:
            namespace, extras = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._halfway = False
        if extras:
            known = [s for action in self._actions for s in action.option_strings]
            hint = f"an option of `{self.prog}`; {did_you_mean(extras[0], known)}" if extras[0].startswith("-") else "no further argument."
            self.error(f"{_short(extras[0])}: expected {hint} See {self.prog} --help.")
        return namespace, extras

    def error(self, message):
        """Print the message in one line and end with 2."""
        message = re.sub(r"^argument ", "", message)
        message = re.sub(r"invalid (int|float) value: (.*)$", lambda m: f"expected {_VALUE[m[1]]}, found {_short(m[2])}.", message)
        message = re.sub(r"expected one argument$", "expected a value, found none.", message)
        message = re.sub(r"expected at least one argument$", "expected one value or more, found none.", message)
        message = re.sub(
            r"^the following arguments are required: (.*)$", lambda m: f"{m[1]}: expected, found nothing. See {self.prog} --help.", message
        )
        self.exit(2, f"qf: {' '.join(message.split())}\n")

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            hint = did_you_mean(value, action.choices)
            hint = f"; {hint}" if hint.startswith("did") else "."
            raise argparse.ArgumentError(action, f"expected one of {choices}, found {_short(repr(value))}{hint}")

    def exit(self, status=0, message=None):
        """Print the message, if any, and end; what was printed is written out before."""
        if message:
            print(message, end="", file=sys.stderr)
        sys.exit(status)


def _short(text):
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_typed(text, args):
    """An error's text with the name it begins with as the option that the user gave, `--epochs` for epochs say."""
    name, colon, rest = text.partition(":")
    flag = args.flags.get(name)
    return f"{flag}:{rest}" if colon and flag and getattr(args, name, None) is not None else text


def flags(parser):
    """The option that sets each name of a parser."""
    return {a.dest: a.option_strings[-1] for a in parser._actions if a.option_strings}
