"""What surrounds a command: standard output and error that may be closed, full or unable to show a character, and odd environments."""

import errno
import os
import sys
from contextlib import contextmanager, suppress


class Stream:
    """Text to standard output or error that never stops the work: what can't be written is dropped, and the first reason is kept in `lost`.

    Parameters
    ----------
    stream : text stream or None
        None where it was closed before the program started.
    """

    def __init__(self, stream):
        self.lost = None if stream is not None else OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(self._stream, "reconfigure"):  # a name may hold what the terminal has no character for
            self._stream.reconfigure(errors="replace")

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._try(self._stream.write, text)
        return len(text)

    def flush(self):
        self._try(self._stream.flush)

    def _try(self, call, *args):
        try:
            call(*args)
        except OSError as error:
            self.lost = self.lost or error
            with suppress(OSError), open(os.devnull, "w") as nowhere:  # where what is still in its buffer goes, too
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def console():
    """Standard output and error as Streams, for as long as a command runs.

    Yields
    ------
    Stream
        That of standard output.
    """
    for fd in range(3):  # a file that is written must not get the number of a closed stream, on which libraries complain
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before, hook = (sys.stdout, sys.stderr), sys.unraisablehook
    sys.stdout, sys.stderr = Stream(before[0]), Stream(before[1])
    sys.unraisablehook = _one_line
    # everything is drawn into files, whatever backend the environment names; notebooks choose their own
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield sys.stdout
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        sys.unraisablehook = hook
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _one_line(unraisable):
    """A note on what a library failed to clean up; none on a file that h5netcdf could not open and tries to close: that error is told anyway."""
    if not getattr(unraisable.object, "__module__", "").startswith("h5netcdf"):
        print(f"qf: note: {' '.join(str(unraisable.exc_value or unraisable.exc_type).split())}", file=sys.stderr)
