"""The arguments of a command, made by tyro from dataclasses of options; what is wrong with them is told in one line.

Every option may also stand in a file, `--config FILE`; the command line wins over it.
"""

import contextlib
import io
import os
import re
import shutil
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Annotated, Any

from ..errors import QfError, did_you_mean
from ..models.options import Range, shown
from .config import read_config

NARROWEST = 60  # columns; on fewer tyro's help finds no end


@dataclass(frozen=True, eq=False)
class Group:
    """Some options of a command, under one heading of its help.

    Attributes
    ----------
    title : str
        One word; "" for those without a heading.
    kind : type
        A dataclass whose fields are made with `option`.
    without : tuple of str
        Names of fields that the command leaves out.
    own : dict
        {name: default} where the command's is another than the field's.
    note : str
        What the help says of all of them.
    """

    title: str
    kind: type
    without: tuple = ()
    own: dict = field(default_factory=dict)
    note: str = ""

    @property
    def options(self):
        """The options, one `Option` a field."""
        return [Option(f, self.own.get(f.name, f.default)) for f in fields(self.kind) if f.name not in self.without]


class Option:
    """An option as the command line knows it.

    Attributes
    ----------
    name : str
        As in Python and in files.
    flag : str
        As on the command line, "--baseline"; the upper-case word of the usage for an option that is taken by its place.
    off : str or None
        The flag that sets it to False.
    default : object
    required : bool
    allowed : Range
    """

    def __init__(self, f, default):
        self.name, self.facts = f.name, f.metadata
        self.allowed: Range = f.metadata["range"]
        self.required = default is MISSING
        self.default = None if self.required else default
        self.place = f.metadata["place"]
        self.flag = self.place or _dashed(f.metadata["flag"] or f.name)
        self.off = f.metadata["off"] and _dashed(f.metadata["off"])

    @property
    def flags(self):
        """Everything that the command line may call it by."""
        own = [] if self.place else [self.flag, f"--no-{self.flag[2:]}"] if self.allowed.kind == "flag" else [self.flag]
        return [*own, *filter(None, [self.off])]

    def read(self, texts):
        """The value of what stands behind it on the command line."""
        if not self.allowed.several:
            return self.allowed.read(self.flag, texts[0])
        if not texts:
            raise QfError(f"{self.flag}: expected one value or more, found none.")
        return tuple(self.allowed.read(self.flag, text) for text in texts)

    def checked(self, where, value):
        """A value of a file."""
        return False if self.off and value is False else self.allowed.checked(where, value)

    def tyro_fields(self, tyro):
        """The fields that stand for it in what tyro reads, all None where they are not given."""
        known, kind = self.allowed.known, self.allowed.kind
        hint = (
            "(required)"
            if self.required
            else ""
            if self.default is None or self.default is False or self.default == ()
            else f"(default: {_told(self.default)})"
        )
        text = (f"{self.facts['task']}: " if self.facts["task"] else "") + self.facts["help"]
        if kind == "flag":
            flag = tyro.conf.arg(name=self.flag[2:], help=text, help_behavior_hint=hint)
            found = [(self.name, Annotated[tyro.conf.DisallowNone[bool | None], flag], field(default=None))]
        else:
            word = self.place or ("{" + ",".join(known) + "}" if known else {"whole": "N", "number": "X", "path": "PATH"}.get(kind, "TEXT"))
            several = self.allowed.several
            spec = tyro.constructors.PrimitiveConstructorSpec(
                nargs="*" if several else 1, metavar=f"{word} ..." if several else word, instance_from_str=list,  # read below, since tyro would put a wrong value into a message of its own

                is_instance=lambda value: True, str_from_instance=lambda value: [str(value)],
            )  # fmt: skip
            name = self.place.lower() if self.place else self.flag[2:]
            kinds = (spec, tyro.conf.arg(name=name, metavar=spec.metavar, help=text, help_behavior_hint=hint))
            found = [(self.name, Annotated[(object, *kinds, *[tyro.conf.Positional] * bool(self.place))], field(default=None))]
        if self.off:
            flag = tyro.conf.arg(name=self.off[2:], help=f"{self.name}: False", help_behavior_hint="")
            found.append(
                (f"{self.name}_off", Annotated[tyro.conf.FlagCreatePairsOff[tyro.conf.DisallowNone[bool | None]], flag], field(default=None))
            )
        return found


class Arguments:
    """What a command was given: an attribute an option, its default where it was not given.

    Attributes
    ----------
    given : dict
        {name: value} of what was given, on the command line or in a file.
    groups : sequence of Group
    """

    def __init__(self, groups, options, typed, file, filed):
        self.given, self.groups = {**filed, **typed}, groups
        self._options, self._typed, self._file = options, typed, file
        vars(self).update({o.name: self.given.get(o.name, o.default) for o in options.values()})

    def __getattr__(self, name) -> Any:
        raise AttributeError(name)

    def of(self, *kinds):
        """What was given of the options of some dataclasses, {name: value}."""
        names = {f.name for kind in kinds for f in fields(kind)}
        return {n: v for n, v in self.given.items() if n in names}

    def all(self, *kinds):
        """Every option of some dataclasses that the command has, {name: value}."""
        return {f.name: getattr(self, f.name) for kind in kinds for f in fields(kind) if f.name in self._options}

    def as_typed(self, text):
        """An error's text with the name it begins with as the user gave it: `--epochs` for epochs, or with the file that it stands in."""
        name, colon, rest = text.partition(":")
        if colon and name in self._typed:
            return f"{self._options[name].flag}:{rest}"
        return f"{self._file}: {text}" if colon and name in self.given else text


def parse(prog, about, groups, argv):
    """The arguments of a command.

    Parameters
    ----------
    prog : str
        `qf fit`.
    about : str
        Shown at the head of its help.
    groups : sequence of Group
    argv : sequence of str
        What stands behind `prog`.

    Returns
    -------
    Arguments

    Raises
    ------
    QfError
        Naming the option, what was expected and what was found. SystemExit after the help.
    """
    options = {o.name: o for group in groups for o in group.options}
    typed, unknown = _read(prog, about, groups, _completed(argv, options.values()))
    if unknown:
        known = [flag for o in options.values() for flag in o.flags]
        hint = f"an option of `{prog}`; {did_you_mean(unknown[0], known)}" if unknown[0].startswith("-") else "no further argument."
        raise QfError(f"{_short(unknown[0])}: expected {hint} See {prog} --help.")
    filed = _filed(prog, typed["config"], options) if "config" in typed else {}
    for option in options.values():
        if option.required and option.name not in typed and option.name not in filed:
            raise QfError(f"{option.flag}: expected {option.facts['help']}, found nothing. See {prog} --help.")
    return Arguments(groups, options, typed, typed.get("config"), filed)


def value_of(argv, flag):
    """What stands behind a flag, before all is parsed; None where it doesn't stand there."""
    for i, text in enumerate(argv):
        if text == flag and i + 1 < len(argv):
            return argv[i + 1]
        if text.startswith(f"{flag}="):
            return text[len(flag) + 1 :]
    return None


def _completed(argv, options):
    """The arguments, with the values that options have where their name stands alone; refuses others that stand alone."""
    alone = {o.flag: o for o in options if not o.place and o.allowed.kind != "flag" and not o.allowed.several}
    out = []
    for i, text in enumerate(argv):
        out.append(text)
        if text in alone and (i + 1 == len(argv) or argv[i + 1].startswith("--")):
            if alone[text].facts["bare"] is None:
                raise QfError(f"{text}: expected a value, found none.")
            out.append(alone[text].facts["bare"])
    return out


def _read(prog, about, groups, argv):
    """({name: value} of what was given, what is no option)."""
    # without boxes around the help
    os.environ.setdefault("PYTHON_TYRO_UTF8_BOXES", "False")
    import tyro

    inner = {g: [f for o in g.options for f in o.tyro_fields(tyro)] for g in groups}
    outer = [f for g in groups if not g.title for f in inner[g]]
    for g in groups:
        if g.title:
            made = make_dataclass(g.title, inner[g], frozen=True)
            about_group = tyro.conf.arg(name=g.title, help=" ".join([(g.kind.__doc__ or "").partition("\n")[0], g.note]).strip())
            outer.append((f"group_{g.title}", Annotated[made, about_group], field(default=made())))
    command = make_dataclass("Command", outer, frozen=True)
    told = io.StringIO()
    with _wide_enough(), contextlib.redirect_stderr(told):
        try:
            made, unknown = tyro.cli(tyro.conf.OmitArgPrefixes[command], prog=prog, description=about, args=argv, return_unknown_args=True)
        except SystemExit as end:
            if not end.code:
                raise
            words = " ".join(re.sub(r"[^\w\s'\"`.,:;()/=<>-]|--{2,}", " ", told.getvalue()).split())
            raise QfError(words.partition(" For full helptext")[0]) from None
    values = {}
    for g in groups:
        part = getattr(made, f"group_{g.title}") if g.title else made
        for o in g.options:
            if o.off and getattr(part, f"{o.name}_off"):
                if getattr(part, o.name) not in (None, False):
                    raise QfError(f"{o.off}: expected without {o.flag}, found both. Leave one of them out.")
                values[o.name] = False
            elif (value := getattr(part, o.name)) is not None and not (o.place and value == []):
                values[o.name] = o.read(value) if isinstance(value, list) else value
    return values, unknown


def _filed(prog, path, options):
    """The options that stand in a file, {name: value}."""
    by_name = {_plain(n): o for o in options.values() for n in (o.flag, o.name)}
    values = {}
    for key, value in read_config(path).items():
        if _plain(key) not in by_name:
            raise QfError(f"{path}: {_short(key)}: no option of `{prog}`; {did_you_mean(key, [o.name for o in options.values()])}")
        option = by_name[_plain(key)]
        if option.name in values:
            raise QfError(f"{path}: {_short(key)}: expected once, found {option.name} under two names.")
        values[option.name] = option.checked(f"{path}: {option.name}", value)
    return values


@contextlib.contextmanager
def _wide_enough():
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(NARROWEST, shutil.get_terminal_size().columns))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _plain(name):
    return str(name).lstrip("-").lower().replace("-", "_")


def _dashed(name):
    return "--" + name.replace("_", "-")


def _told(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(text):
    return shown(text)[1:-1] if isinstance(text, str) else shown(text)
