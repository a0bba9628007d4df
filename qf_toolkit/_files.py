"""Writing files so that a crash, a full disk or a kill never leaves half of one behind."""

import contextlib
import errno
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import zlib
from pathlib import Path

from .errors import QfError

# nodes of a cluster often differ in the last letter alone: the digest keeps them apart where the name is cut
HOST = re.sub(r"\W+", "_", socket.gethostname(), flags=re.ASCII)[:16] + f"_{zlib.crc32(socket.gethostname().encode()):08x}"
A_DAY = 24 * 3600
_PART = re.compile(r"\.(?P<host>\w+)-(?P<pid>\d{1,9})\.\w+\.part$", re.ASCII)


@contextlib.contextmanager
def atomic_path(path, exclusive=False):
    """Yield a temporary path beside `path`; when the block ends well it replaces `path` in one step.

    Parameters
    ----------
    path : str or Path
        The file to be written.
    exclusive : bool
        Replace nothing: of several processes that write `path`, one succeeds.

    Yields
    ------
    Path
        Where to write. On any error it is removed and `path` stays as it was.

    Raises
    ------
    QfError
        If the disk is full or the folder can't be written.
    FileExistsError
        If `exclusive` and there is a file at `path` when the block ends.
    """
    path = Path(path)
    tmp = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # who writes it is in its name, for `sweep`; cut, since names end at 255 bytes
        fd, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.{HOST}-{os.getpid()}.", suffix=".part", dir=path.parent)
        os.close(fd)
        tmp = Path(name)
        yield tmp
        with open(tmp, "rb+") as f:
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(tmp, 0o666 & ~umask)
        if exclusive:
            _put(tmp, path)
        else:
            os.replace(tmp, path)
            tmp = None
    except OSError as e:
        if exclusive and tmp is not None and isinstance(e, FileExistsError):
            raise
        # some libraries raise a bare OSError whose text holds the reason
        raise QfError(
            f"could not write {path}: {e.strerror or e}. Nothing was changed there. "
            "Free some space or choose a folder you can write to, then run the same again."
        ) from e
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def _put(tmp, path):
    """Put `tmp` at `path` where nothing is yet."""
    try:
        os.link(tmp, path)
    except FileExistsError:
        if not os.path.samefile(tmp, path):  # a network drive may have lost its first answer, and was asked twice
            raise
    except OSError:  # exFAT and some network drives have no links: an empty file takes the place first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(tmp, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def sweep(folder):
    """Remove what killed processes left half-written in `folder`: the temporary files of `atomic_path`.

    Those of a living process stay; so do, for a day, those of other machines, which can't be asked.
    """
    for part in Path(folder).glob(".*.part"):
        named = _PART.search(part.name)
        with contextlib.suppress(OSError):
            if named and (time.time() - part.stat().st_mtime > A_DAY or _is_orphan(named)):
                part.unlink()


def _is_orphan(named):
    if named["host"] != HOST or sys.platform == "win32":  # there, os.kill(pid, 0) is Ctrl-C
        return False
    try:
        os.kill(int(named["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it lives, under another user
        pass
    return False


def write_text(path, text):
    """Write `text` to `path` atomically."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_netcdf(ds, path):
    """Write a Dataset to `path` atomically."""
    with atomic_path(path) as tmp:
        fill_netcdf(ds, tmp)


def reserve(tmp, room):
    """See that the file `tmp` may grow to `room` bytes; raises OSError where it can't."""
    with open(tmp, "ab") as f:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(f.fileno(), 0, room)
            except OSError as e:
                if e.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                    raise
        elif shutil.disk_usage(tmp.parent).free < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_netcdf(ds, tmp):
    """Write a Dataset into the temporary file of `atomic_path`."""
    # HDF5 crashes the interpreter at its exit when the disk fills up under an open file: see before that there is room
    room = ds.nbytes + ds.nbytes // 50 + sum(v.size * 64 for v in ds.variables.values() if v.dtype.kind in "OU") + (1 << 18)
    reserve(tmp, room)
    with contextlib.ExitStack() as alone:
        if "dask" in sys.modules:  # in a worker, or beside a client, xarray would ask the cluster for a lock on this file
            import dask.config

            alone.enter_context(dask.config.set(scheduler="synchronous"))
        ds.to_netcdf(tmp, engine="h5netcdf")
