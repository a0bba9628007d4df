"""Writing files so that a crash, a full disk or a kill never leaves half of one behind."""

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import QfError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; when the block ends well it replaces `path` in one step.

    Parameters
    ----------
    path : str or Path
        The file to be written.

    Yields
    ------
    Path
        Where to write. On any error it is removed and `path` stays as it was.

    Raises
    ------
    QfError
        If the disk is full or the folder can't be written.
    """
    path = Path(path)
    tmp = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(fd)
        tmp = Path(name)
        yield tmp
        with open(tmp, "rb+") as f:
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(tmp, 0o666 & ~umask)
        os.replace(tmp, path)
        tmp = None
    except OSError as e:
        # some libraries raise a bare OSError whose text holds the reason
        raise QfError(
            f"could not write {path}: {e.strerror or e}. Nothing was changed there. "
            "Free some space or choose a folder you can write to, then run the same again."
        ) from e
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` to `path` atomically."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_netcdf(ds, path):
    """Write a Dataset to `path` atomically."""
    with atomic_path(path) as tmp:
        # built in memory first: HDF5 crashes the interpreter at its exit when the disk fills up under an open file
        tmp.write_bytes(ds.to_netcdf(engine="h5netcdf"))
