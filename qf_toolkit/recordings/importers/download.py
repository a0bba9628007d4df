"""Downloads that survive a broken connection, a kill and a damaged disk: a file is there as a whole or not at all."""

import contextlib
import glob
import hashlib
import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from ..._files import write_text
from ...errors import DamagedFileError, QfError

PIECE = 4 << 20  # bytes; a kill loses at most one piece
BACKOFF_S = 0.25  # seconds before a new try; doubled with each try in a row that brought nothing
GO_ON = "Check the network and run the same again: the download goes on where it stopped."


class _BrokenError(QfError):
    """A failure of a connection that may be temporary."""


def fetch(url, path, *, check=None, progress=True, label=None, retries=5, timeout_s=30.0):
    """Download a file, continuing where an earlier attempt stopped.

    A file that exists and passes `believed` is kept. One that does not pass is downloaded again with a warning, and replaced when the new file is
    whole. `{name}.download.json` beside the file keeps its address, size, validator and blake2b digest.

    Parameters
    ----------
    url : str
        An http or https address.
    path : str or Path
        The file to write; missing folders are made.
    check : callable, optional
        Called with the path of the whole file, which still ends in `.part`. It raises DamagedFileError if the file can't be opened; after the first
        such error the file is downloaded anew.
    progress : bool
        Show a progress bar.
    label : str, optional
        Name of the progress bar. If None, the file's name.
    retries : int
        How many new tries in a row may bring nothing before `fetch` gives up.
    timeout_s : float
        Seconds to wait for the server's next bytes.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DamagedFileError
        If `check` refused two whole downloads; nothing of them is kept.
    QfError
        If the address is not valid, the server refuses or can't be reached, or the disk is full.
    """
    url, path = _address(url), Path(path)
    if path.is_dir():
        raise QfError(f"path: expected a file to be written, found the folder {path}. Give a name inside it.")
    try:
        if not _doubt(path, check, url, timeout_s):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, progress):
            why = _doubt(path, check, url, timeout_s)  # again: another process may have fetched it meanwhile
            if why and path.exists():
                warnings.warn(f"{path}: {why}. Fetching it again from {url}.", stacklevel=2)
            if why:
                _download(url, path, check, retries, timeout_s, {"desc": label or path.name, "disable": not progress})
    except OSError as e:
        raise QfError(
            f"{path}: could not be read or written ({_reason(e)}). What came so far is kept. "
            "Free some space or choose a folder you can write to, then run the same again."
        ) from e
    return path


def believed(path, check=None, *, url=None, timeout_s=30.0):
    """Whether a file exists and is whole, a bool.

    If `.download.json` lies beside it, its size and digest must match those (and its address, if `url` is given); no server is asked. Otherwise its
    size must equal that on the server, if `url` is given and the server reports a size, and `check` must pass. For the parameters see `fetch`.
    """
    return not _doubt(Path(path), check, url and _address(url), timeout_s)


def _doubt(path, check, url, timeout_s):
    """The reason for which `believed` refuses `path`, or an empty string."""
    if not path.is_file():
        return "expected a file, found none"
    size, record = path.stat().st_size, _read_json(path.with_name(f"{path.name}.download.json"))
    if record:
        if url and record.get("url") != url:
            return f"expected a download of this address, found one of {record.get('url')}"
        if record.get("size") != size:
            return f"expected the {record.get('size')} bytes that were downloaded, found {size}"
        with open(path, "rb") as f:
            same = hashlib.file_digest(f, "blake2b").hexdigest() == record.get("blake2b")
        return "" if same else "expected the bytes that were downloaded, found others"
    expected = _size_at(url, timeout_s) if url else None
    if expected not in (None, size):
        return f"expected {expected} bytes as on the server, found {size}"
    try:
        if check:
            check(path)
    except DamagedFileError as e:
        return f"expected a file that can be opened, found a damaged one ({_reason(e)})"
    return ""


def _download(url, path, check, retries, timeout_s, bar):
    part = _Part(path, url)
    try:
        for last in (False, True):
            _fill(part, retries, timeout_s, bar)
            part.flush()
            try:
                if check:
                    check(part.path)
                break
            except DamagedFileError as e:
                part.restart()
                if last:
                    raise DamagedFileError(
                        f"{url}: expected a file that can be opened, found a damaged one in two downloads ({_reason(e)}). "
                        "Nothing of them was kept. Check the address, or try again later."
                    ) from e
        part.file.seek(0)
        digest = hashlib.file_digest(part.file, "blake2b").hexdigest()
        part.file.close()  # Windows can't rename an open file
        os.replace(part.path, path)
        # the record is written last: after a crash in between, the record of a former file does not match this one
        record = {"url": url, "size": part.size, "validator": part.validator, "blake2b": digest}
        write_text(path.with_name(f"{path.name}.download.json"), json.dumps(record))
    finally:
        part.close()


def _fill(part, retries, timeout_s, bar):
    """Connect again and again until the part is whole."""
    best, tries = part.size, 0
    with tqdm(total=part.total, initial=part.size, unit="B", unit_scale=True, **bar) as shown:
        while part.size != part.total:
            try:
                return _receive(part, timeout_s, shown)
            except _BrokenError:
                # only bytes that no earlier try reached are progress: else a server without ranges that always breaks off would be tried for ever
                tries = 0 if part.size > best else tries + 1
                best = max(best, part.size)
                if tries > retries:
                    raise
                shown.set_postfix_str("trying again")
                time.sleep(BACKOFF_S * 2 ** min(tries, 5))


def _receive(part, timeout_s, bar):
    """Append to the part the bytes that one connection brings."""
    asked = {"Range": f"bytes={part.size}-"} if part.size and part.resumable else {}
    if asked and part.validator:
        asked["If-Range"] = part.validator
    try:
        answer = _open(part.url, timeout_s, asked)
    except _BrokenError as e:
        if getattr(e.__cause__, "code", None) != 416:
            raise
        said = f"{part.url}: expected {part.total} bytes, the server has no more than {part.size}. Try again later."
        part.restart()
        raise _BrokenError(said) from e
    with answer:
        start, total, validator = _told(answer)
        if answer.status == 200:
            part.restart(total, validator)
            bar.reset(total)
            bar.initial = 0
        elif answer.status != 206:
            raise QfError(f"{part.url}: expected a file, the server answered {answer.status}. Check the address.")
        elif (start, total) != (part.size, part.total) or validator not in (None, part.validator):  # an answer 206 need not repeat the date
            part.restart()
            raise _BrokenError(f"{part.url}: expected the rest of the file, the server sent another part or version. Try again later.")
        bar.set_postfix_str("", refresh=False)
        while True:
            try:
                data = answer.read1(1 << 16)
            except (OSError, http.client.HTTPException) as e:
                raise _BrokenError(f"{part.url}: the connection broke after {part.size} bytes ({_reason(e)}). {GO_ON}") from e
            if not data:
                break
            part.add(data)
            bar.update(len(data))
    if part.total not in (None, part.size):
        raise _BrokenError(f"{part.url}: expected {part.total} bytes, the connection ended after {part.size}. {GO_ON}")


class _Part:
    """The bytes so far, and notes from which a later process continues: address, size and validator of the file, and the digest of each piece."""

    def __init__(self, path, url):
        self.url, self.path, self.notes = url, path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
        self.file = open(self.path, "a+b")  # noqa: SIM115
        notes, digests = _read_json(self.notes), []
        if notes.get("url") != url:
            notes = {}
        self.file.seek(0)
        for digest in notes.get("digests", []):
            if hashlib.blake2b(self.file.read(PIECE)).hexdigest() != digest:
                break
            digests.append(digest)
        self.restart(notes.get("size"), notes.get("validator"), digests)

    def restart(self, total=None, validator=None, digests=()):
        self.total, self.validator, self.digests = total, validator, list(digests)
        self.resumable = total is not None or validator is not None
        self.size, self.hash = len(self.digests) * PIECE, hashlib.blake2b()
        self.file.truncate(self.size)
        self._note()

    def _note(self):
        if self.resumable:
            notes = {"url": self.url, "size": self.total, "validator": self.validator, "digests": self.digests}
            write_text(self.notes, json.dumps(notes))

    def add(self, data):
        while data:
            head, data = data[: PIECE - self.size % PIECE], data[PIECE - self.size % PIECE :]
            self.file.write(head)
            self.hash.update(head)
            self.size += len(head)
            if self.size % PIECE == 0:
                self.flush()
                self.digests.append(self.hash.hexdigest())
                self.hash = hashlib.blake2b()
                self._note()

    def flush(self):
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self):
        """Close the part, and remove its files unless a later attempt can continue from them."""
        try:
            self.file.close()
        finally:
            if not (self.digests and self.resumable and self.path.exists()):
                strays = self.path.parent.glob(f".{glob.escape(self.notes.name)}.*.part")  # files that a kill inside write_text left
                for file in (self.path, self.notes, *strays):
                    file.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path, progress):
    """Let one process at a time download a file. The lock is a file of its own: HDF5 locks what it opens, and could not check a locked part."""
    if os.name != "posix":
        yield
        return
    import fcntl

    lock, held = path.with_name(f".{path.name}.part.lock"), False
    while not held:
        with open(lock, "a") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if progress:
                    tqdm.write(f"{path.name}: another process is downloading it, waiting for that.", file=sys.stderr)
                fcntl.flock(f, fcntl.LOCK_EX)
            except OSError:  # some network drives do not support locks
                pass
            with contextlib.suppress(FileNotFoundError):  # the process that held the lock may have removed the file
                held = os.path.samestat(os.fstat(f.fileno()), lock.stat())
            if held:
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)


def _open(url, timeout_s, headers, method="GET"):
    request = urllib.request.Request(url, headers={"User-Agent": "qf_toolkit", **headers}, method=method)
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as e:
        e.close()
        said = f"{url}: expected a file, the server answered {e.code} {_reason(e)}."
        if e.code < 500 and e.code not in (408, 416, 429):
            raise QfError(f"{said} Check the address.") from e
        raise _BrokenError(f"{said} Try again later: the download goes on where it stopped.") from e
    except (ValueError, http.client.InvalidURL) as e:
        raise QfError(f"{url}: expected an http or https address, found one that can't be used ({_reason(e)}). Correct it.") from e
    except (OSError, http.client.HTTPException) as e:
        passing = not isinstance(getattr(e, "reason", e), ssl.SSLCertVerificationError)
        raise (_BrokenError if passing else QfError)(f"{url}: can't be reached ({_reason(e)}). {GO_ON}") from e


def _size_at(url, timeout_s):
    """Bytes of the file on the server; None if the server does not report them."""
    for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
        with contextlib.suppress(QfError), _open(url, timeout_s, headers, method) as answer:
            if size := _told(answer)[1]:
                return size
    return None


def _told(answer):
    """First byte that the answer holds, size of the whole file, and its validator; None for each that the server does not report."""
    etag, start, total = answer.headers.get("ETag", "W/"), "0", answer.headers.get("Content-Length", "")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        start, total = found.groups() if found else ("", "")
    validator = answer.headers.get("Last-Modified") if etag.startswith("W/") else etag  # a weak ETag does not guarantee equal bytes
    return int(start) if start else None, int(total) if total.isdecimal() else None, validator


def _address(url):
    try:
        fits = urlsplit(str(url)).scheme in ("http", "https") and urlsplit(str(url)).hostname and not re.search(r"\s", str(url))
    except ValueError:
        fits = False
    if not fits:
        raise QfError(f"url: expected an address that starts with http:// or https://, found {str(url)!r}. Give the file's full address.")
    return str(url)


def _read_json(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error):
    error = getattr(error, "reason", error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
