"""Opening files that others wrote.

A file that the system refuses to read and a damaged file raise different errors. An HDF5 file that leads to other files is refused.
"""

import contextlib
import errno
import math
import os
import stat
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5g, h5i, h5l, h5o

from ..errors import DamagedFileError, QfError, SessionError

MAX_OBJECTS = 200_000  # a Visual Coding session has a few thousand
MAX_DEPTH = 64
MAX_PACKED = 1100  # gzip compresses a thousand bytes into one at best: a dataset that claims a higher ratio was never written
SMALL = 1 << 20  # bytes; a dataset up to this size is not checked


def readable_file(path, what):
    """Check that `path` is a regular file that can be opened. Its content is not checked.

    Parameters
    ----------
    path : str or Path
    what : str
        The kind of file that is expected, for the error: "an NWB file".

    Returns
    -------
    Path

    Raises
    ------
    QfError
        If there is nothing at `path`, it is a folder, a FIFO, a socket or a device, or the system refuses to read it.
    """
    path = as_path(path, what)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as e:
        found = "a link to nothing" if path.is_symlink() else "nothing"
        raise QfError(f"{path}: expected {what}, found {found}. Check the path.") from e
    except OSError as e:
        raise refused(path, e) from e
    if not stat.S_ISREG(mode):
        raise QfError(f"{path}: expected {what}, found {'a folder' if stat.S_ISDIR(mode) else 'a FIFO, socket or device'}. Check the path.")
    try:
        with open(path, "rb") as f:
            f.read(1)
    except OSError as e:
        raise refused(path, e) from e
    return path


def as_path(path, what):
    """Convert `path` to a Path; raise QfError, which names `what` as expected, if it can't be a path."""
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise QfError(f"path: expected that of {what}, found {path!r}. Pass a str or a Path.")
    return Path(path)


def refused(path, error):
    """Make a QfError from the OSError with which the system refused to read `path`. The file itself may well be whole."""
    mend = {
        errno.EACCES: "Change its permissions, or ask its owner to",
        errno.EPERM: "Change its permissions, or ask its owner to",
        errno.EMFILE: "Close some files, or raise the limit (ulimit -n)",
        errno.ENFILE: "Close some files, or ask for a higher limit",
        errno.EAGAIN: "Another program has it open for writing: wait until that ends",
        errno.ENAMETOOLONG: "Give a shorter name",
    }.get(error.errno, "Check the disk or the network drive")
    return QfError(f"{path}: can't be read now ({os.strerror(error.errno) if error.errno else reason(error)}). {mend}, then run the same again.")


def reason(error):
    """The first line of an error's text, at most 120 characters; the name of its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


@contextlib.contextmanager
def open_hdf5(path, damaged, allow_external=False):
    """Open an HDF5 file for reading, after checking that it does not lead to other files.

    Parameters
    ----------
    path : Path
        A regular file, checked by `readable_file`.
    damaged : str
        The message of the error for a damaged file, with the way to mend it. `{reason}` in it is replaced by HDF5's reason, `{kind}` by "one that
        is cut short" or "one that can't be opened".
    allow_external : bool
        Allow links and storage that lead into other files.

    Yields
    ------
    h5py.File

    Raises
    ------
    QfError
        If the system refuses to read the file, or its data do not fit into memory.
    DamagedFileError
        If HDF5 can't read it, at opening or inside the `with` block.
    SessionError
        If it leads to other files, a group holds itself, or it holds too many objects.
    """
    try:
        with h5py.File(path, "r") as f:
            check_inside(f, path, allow_external)
            yield f
    except QfError:
        raise
    except MemoryError as e:
        raise QfError(
            f"{path}: expected data that fit into memory, found more. Is the file what it should be? Use a machine with more memory."
        ) from e
    except OSError as e:
        if e.errno is not None:
            raise refused(path, e) from e
        raise _damaged(path, damaged, e) from e
    # on a file whose bytes were altered, h5py may raise any of these
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, OverflowError, IndexError, SystemError) as e:
        raise _damaged(path, damaged, e) from e


def _damaged(path, text, error):
    kind = "one that is cut short" if "truncated" in str(error) else "one that can't be opened"
    return DamagedFileError(f"{path}: {text.format(reason=reason(error), kind=kind)}")


def check_inside(f, path, allow_external=False):
    """Refuse a file that leads to other files, has a group that holds itself, or holds too many objects. Only hard links are followed.

    Parameters
    ----------
    f : h5py.File
    path : Path
        For the errors.
    allow_external : bool
        Allow links and storage that lead into other files.

    Raises
    ------
    SessionError
        The message names the object.
    """
    left, seen = [(h5g.open(f.id, b"/"), "", (h5o.get_info(f.id).addr,))], 0
    while left:
        group, where, above = left.pop()
        links = []
        group.links.iterate(lambda name, info, links=links: links.append((name, info.type)), info=True)
        seen += len(links)
        if seen > MAX_OBJECTS or len(above) > MAX_DEPTH:
            raise SessionError(
                f"{path}: expected at most {MAX_OBJECTS} objects, {MAX_DEPTH} deep, found more. Is it a recording? Take the file from its source again."
            )
        for name, kind in links:
            here = f"{where}/{name.decode(errors='replace')}"
            if kind == h5l.TYPE_SOFT:
                continue
            if kind != h5l.TYPE_HARD:
                if not allow_external:
                    raise _leads_out(path, here, "a link into another file")
                continue
            found = h5o.open(group, name)
            if isinstance(found, h5g.GroupID):
                address = h5o.get_info(found).addr
                if address in above:
                    raise SessionError(f"{path}: expected groups within groups, found {here}, which holds itself. Write the file again.")
                left.append((found, here, (*above, address)))
            elif isinstance(found, h5d.DatasetID) and not allow_external:
                made = found.get_create_plist()
                if made.get_layout() == h5d.VIRTUAL:
                    raise _leads_out(path, here, "a virtual dataset")
                if made.get_external_count():
                    raise _leads_out(path, here, "a dataset stored in another file")


def _leads_out(path, name, kind):
    return SessionError(
        f"{path}: expected all data inside the file, found {name}, {kind}, by which it could read any file of yours. Where you trust it, "
        "import it with --allow-external (allow_external=True)."
    )


def check_size(found, path, most_packed=MAX_PACKED):
    """Refuse a dataset that is larger than memory, or claims more numbers than its storage can hold.

    Parameters
    ----------
    found : h5py.h5d.DatasetID
    path : Path or str
        For the errors.
    most_packed : float
        Most bytes of numbers per stored byte, beyond the first MB.

    Raises
    ------
    SessionError
        The message states the size of the dataset.
    """
    size = math.prod(found.shape) * found.dtype.itemsize
    if size <= SMALL:
        return
    name = h5i.get_name(found).decode(errors="replace").lstrip("/")
    if size > _memory():
        raise SessionError(
            f"{path}: expected {name} to fit into memory, found shape {found.shape}, {size / 2**30:.3g} GB. Use a machine with more, or a part of it."
        )
    stored = found.get_storage_size()
    if size > SMALL + most_packed * stored and found.get_create_plist().get_layout() != h5d.VIRTUAL:
        raise SessionError(
            f"{path}: expected {name} to hold what it claims, found {size} bytes of numbers in {stored} of storage. Write the file again."
        )


def whole(data, path):
    """Read all data of a field into an array. If it is an h5py.Dataset, `check_size` is called first and may raise SessionError."""
    if isinstance(data, h5py.Dataset):
        check_size(data.id, path)
    return np.asarray(data[:])


def _memory():
    """Bytes of this machine's memory; 1 TiB if the system does not report them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 1 << 40
