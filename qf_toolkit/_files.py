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


def _host():
    """A name for the space in which process ids are unique: this machine since its last start, or this container on it."""
    known = [socket.gethostname()]
    for read in (lambda: os.readlink("/proc/self/ns/pid"), lambda: Path("/proc/sys/kernel/random/boot_id").read_text()):
        with contextlib.suppress(OSError):  # only Linux has these files
            known.append(read())
    # host names of a cluster's nodes often differ only in the last letter, and those of containers may be equal: the checksum keeps them apart
    return re.sub(r"\W+", "_", known[0], flags=re.ASCII)[:16] + f"_{zlib.crc32(' '.join(known).encode()):08x}"


HOST = _host()
A_DAY = 24 * 3600
_PART = re.compile(r"\.(?P<host>\w+)-(?P<pid>\d{1,9})(\.(?P<start>\d+))?\.\w+\.part$", re.ASCII)
_swept = set()


@contextlib.contextmanager
def atomic_path(path, exclusive=False):
    """Yield a temporary path beside `path`. If the block ends without an error, the temporary file replaces `path` in one step.

    Parameters
    ----------
    path : str or Path
        The file to be written.
    exclusive : bool
        Never replace an existing file. If several processes write `path`, exactly one succeeds.

    Yields
    ------
    Path
        The temporary file to write. On any error it is removed and `path` stays as it was.

    Raises
    ------
    QfError
        If the disk is full, the folder can't be written, or `path` exists and is not a regular file (a folder, device, pipe...).
    FileExistsError
        If `exclusive` is True and a file exists at `path` when the block ends.
    """
    path = Path(path)
    tmp = None
    try:
        if path.exists() and not path.is_file():
            raise QfError(f"{path}: expected a file to write, found {what_is(path)}. Nothing was changed there. Choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        fd, name = tempfile.mkstemp(**part_name(path.name), dir=path.parent)
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
        # some libraries raise an OSError without strerror: then its text holds the reason
        raise QfError(
            f"could not write {path}: {e.strerror or e}. Nothing was changed there. "
            "Free some space or choose a folder you can write to, then run the same again."
        ) from e
    finally:
        if tmp is not None:
            tmp.unlink(missing_ok=True)


def _put(tmp, path):
    """Put `tmp` at `path`; raise FileExistsError if a file is there already."""
    try:
        os.link(tmp, path)
    except FileExistsError:
        if not os.path.samefile(tmp, path):  # a network drive may lose its answer to the first request: the repeated one finds our own link
            raise
    except OSError:  # exFAT and some network drives have no hard links: an empty file reserves the name first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(tmp, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def part_name(name):
    """Prefix and suffix, as `tempfile` takes them, of a temporary file or folder that becomes `name`.

    The prefix names the host and the process that write it, so that `sweep` can find out whether that process still runs.
    """
    short = name.encode()[:40].decode(errors="ignore")  # a file's name has at most 255 bytes
    return {"prefix": f".{short}.{HOST}-{os.getpid()}.{this_process()['start']}.", "suffix": ".part"}


def what_is(path):
    """The kind of thing at `path`, in words: "a file", "a folder", "a device"..."""
    kinds = {
        "is_file": "a file",
        "is_dir": "a folder",
        "is_fifo": "a pipe",
        "is_socket": "a socket",
        "is_char_device": "a device",
        "is_block_device": "a device",
    }
    return next((words for kind, words in kinds.items() if getattr(path, kind)()), "something else")


def sweep(folder):
    """Remove the temporary files of `atomic_path` that killed processes left in `folder`.

    Files of a running process stay. Files of another machine, of another container or from before a restart stay for a day, since this process
    can't check whether their writers still run.
    """
    for part in Path(folder).glob(".*.part"):
        named = _PART.search(part.name)
        with contextlib.suppress(OSError):
            if named and _is_orphan(part, named):
                if part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part)
                else:
                    part.unlink()


def _sweep_once(folder):
    """Sweep a folder when this process writes there for the first time."""
    key = (os.getpid(), str(folder.resolve()))
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def _is_orphan(part, named):
    gone = is_gone(named["host"], int(named["pid"]), named["start"])
    return time.time() - part.stat().st_mtime > A_DAY if gone is None else gone


def is_gone(host, pid, start):
    """Whether a process has ended.

    Parameters
    ----------
    host : str
        The `HOST` of that process.
    pid : int
    start : str or None
        When it started, as `this_process` has it.

    Returns
    -------
    bool or None
        None if this process can't know it: the other runs on another machine, or this is Windows.
    """
    if host != HOST or sys.platform == "win32":  # on Windows os.kill(pid, 0) would send Ctrl-C
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # the process runs under another user
        pass
    state, now = _state(pid) or ("", start)
    # a killed process keeps its id until its parent waits for it; a process that got the same id later has another start
    return state in ("Z", "X") or (start is not None and now != start)


def this_process():
    """This process as `is_gone` takes it: {host, pid, start}."""
    return {"host": HOST, "pid": os.getpid(), "start": (_state(os.getpid()) or (0, "0"))[1]}


def _state(pid):
    """State and start (clock ticks since the machine started) of a process, as text; None if /proc does not show them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None


def write_text(path, text):
    """Write `text` to `path` in UTF-8, atomically; raises as `atomic_path`."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_netcdf(ds, path):
    """Write a Dataset to `path` as netCDF, atomically; raises as `atomic_path`."""
    with atomic_path(path) as tmp:
        fill_netcdf(ds, tmp)


def reserve(tmp, room):
    """Make sure that the disk has room for the file `tmp` to grow to `room` bytes; raise OSError if it has not."""
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
    """Write a Dataset as netCDF into the temporary file of `atomic_path`; raise OSError if the disk has no room for it."""
    # if the disk fills up under an open file, HDF5 crashes the interpreter at its exit: check the room before
    room = ds.nbytes + ds.nbytes // 50 + sum(v.size * 64 for v in ds.variables.values() if v.dtype.kind in "OU") + (1 << 18)
    reserve(tmp, room)
    with contextlib.ExitStack() as alone:
        if "dask" in sys.modules:  # in a worker of a cluster, or beside a client, xarray would request a lock on this file from the cluster
            import dask.config

            alone.enter_context(dask.config.set(scheduler="synchronous"))
        ds.to_netcdf(tmp, engine="h5netcdf")
