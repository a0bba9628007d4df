"""`qf`: the library from a shell. Thin: every command reads its options, calls the library and prints what came of it.

Exit codes: 0 well, 1 some of several recordings could not be imported or notebooks failed, 2 bad input or use, 130 stopped with Ctrl-C.
"""

import errno
import gc
import sys
import warnings
from importlib import import_module

from .._version import __version__
from ..errors import QfError, did_you_mean
from .console import console
from .options import COMMANDS, Common
from .parsing import Group, parse

PRINT = ("info", "allen")  # commands whose result is what they print
ABOUT = """usage: qf [--help] [--version] COMMAND ...

Forecast neural activity from two-photon calcium recordings.

commands (qf COMMAND --help says more):
{commands}

example:
  qf simulate store
  qf pretrain store --out runs/base
  qf fit store --pretrained runs/base --task forecast --out runs/forecast
  qf evaluate store --model runs/forecast --out table.csv
"""


def main(argv=None):
    """Run `qf`.

    Parameters
    ----------
    argv : list of str, optional
        Arguments, those of the process where left out.

    Returns
    -------
    int
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with console() as out, warnings.catch_warnings():
        # a library's notes to its programmers are none of the user's business; all others are one line each, and stop nothing
        warnings.simplefilter("default", UserWarning)
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = _one_line
        code = _run(argv)
        if code:
            gc.collect()  # what a library can't close after the error, it fails to close while `console` listens
        out.flush()
        # whoever read our output may close it (`qf info | head`), or not have wanted it; else it is missed
        lost = out.lost
        missed = lost is not None and lost.errno != errno.EPIPE and (lost.errno != errno.EBADF or (argv[:1] and argv[0] in PRINT))
        if code == 0 and lost is not None and missed:
            return _say_error(f"standard output: could not be written ({lost.strerror}). What the command saved is whole.")
        return code


def _run(argv):
    """Run a command; what a user can cause becomes one line. Returns the exit code."""
    args = None
    try:
        name, *rest = argv or [""]
        if name in ("-h", "--help"):
            print(ABOUT.format(commands="\n".join(f"  {name:10} {command.about}" for name, command in COMMANDS.items())), end="")
            return 0
        if name == "--version":
            print(f"qf {__version__}")
            return 0
        if name not in COMMANDS:
            raise QfError(f"COMMAND: expected one, found {name[:60]!r}; {did_you_mean(name, COMMANDS, most=len(COMMANDS))} See qf --help.")
        command = COMMANDS[name]
        about = f"{command.about[0].upper()}{command.about[1:]}.\n\nexample:\n  {command.example}"
        args = parse(f"qf {name} {command.under(rest)}".strip(), about, [*command.groups(rest), Group("", Common)], rest)
        module, _, function = command.run.partition(":")
        return getattr(import_module(f".{module}", __package__), function)(args) or 0
    except SystemExit as end:  # after the help
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("qf: stopped; the same command again goes on from the last checkpoint, where there is one.", file=sys.stderr)
        return 130
    except (QfError, OSError) as error:
        return _say_error(str(error) if args is None else args.as_typed(str(error)))
    except MemoryError:
        return _say_error("memory: expected enough for this, found too little. Take fewer neurons, sessions or samples at a time.")
    except ModuleNotFoundError as error:
        return _say_error(f"{error.name} is not installed. Install it: pip install 'qf_toolkit[nwb]' (pynwb) or pip install {error.name}")


def _say_error(text):
    print(f"qf: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _one_line(message, category, filename, lineno, file=None, line=None):
    print(f"qf: note: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
