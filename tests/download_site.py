"""A local server that breaks off, lies, changes and forgets, and what it leaves on the disk."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.recordings.importers import download
from qf_toolkit.recordings.importers.download import fetch

PIECE = 1 << 16
SIZE = 16 * PIECE + 1234
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


def noise(seed=0, size=SIZE):
    return np.random.default_rng(seed).bytes(size)


class Site:
    """What the server has and how it behaves; a request's entry in `log` is [method, range, bytes sent]."""

    def __init__(self):
        self.data, self.etag, self.date = noise(), '"one"', DATE
        self.ranges = self.if_range = self.head = True  # false where the server does not know of it
        self.announced = None  # size told, if not the true one; "chunked" for none
        self.terse = False  # leaves the validators out of a 206
        self.statuses = []  # answered before any other
        self.cuts = []  # bytes after which the next transfers end
        self.cut = None  # ... and all others
        self.altered = 0  # transfers with a byte flipped
        self.span = None  # a Content-Range that is a lie
        self.hold, self.go = None, threading.Event()  # after so many bytes a transfer waits for go
        self.log = []

    def transfers(self):
        return [(asked, sent) for method, asked, sent in self.log if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        site, asked = self.server.site, self.headers.get("Range")
        if self.path in ("/moved", "/loop"):
            self.send_response(302)
            self.send_header("Location", self.path if self.path == "/loop" else "/f.bin")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        site.log.append([self.command, asked, 0])
        entry, self.close_connection = site.log[-1], True
        status = site.statuses.pop(0) if site.statuses else 200 if site.head or self.command == "GET" else 405
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        data, start, stop = site.data, 0, len(site.data)
        condition = self.headers.get("If-Range")
        same = not site.if_range or condition is None or (condition in (site.etag, site.date) and not condition.startswith("W/"))
        if asked and site.ranges and same:
            start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            start, stop = int(start), int(end) + 1 if end else stop
            status = 206 if start < len(data) else 416
        self.send_response(status)
        chunked = site.announced == "chunked"
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", {200: str(site.announced or len(data)), 206: str(stop - start), 416: "0"}[status])
        if status == 206:
            self.send_header("Content-Range", site.span or f"bytes {start}-{stop - 1}/{'*' if chunked else site.announced or len(data)}")
        for name, value in (("ETag", site.etag), ("Last-Modified", site.date)):
            if value and not (status == 206 and site.terse):
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or status == 416:
            return
        body = bytearray(data[start:stop])
        if site.altered:
            site.altered -= 1
            body[len(body) // 2] ^= 1
        cut = site.cuts.pop(0) if site.cuts else site.cut
        with contextlib.suppress(ConnectionError):
            for i in range(0, len(body) if cut is None else min(cut, len(body)), 1 << 14):
                if site.hold is not None and start + i >= site.hold:
                    site.go.wait(30)
                block = body[i : i + (1 << 14)] if cut is None else body[i : min(cut, i + (1 << 14))]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                entry[2] += len(block)
            if chunked and cut is None:
                self.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serve(monkeypatch):
    """The Site behind a server at `site.url`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PIECE", PIECE)
    monkeypatch.setattr(download, "BACKOFF_S", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.site = True, Site()
    server.site.url = f"http://127.0.0.1:{server.server_port}/f.bin"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server.site
    server.site.go.set()
    server.shutdown()
    server.server_close()


def get(site, path, **options):
    return fetch(site.url, path, progress=False, timeout_s=10, **options)


def names(path):
    return sorted(p.name for p in path.iterdir())


def whole(site, path):
    """The file is the server's and nothing but its record lies beside it."""
    assert path.read_bytes() == site.data
    assert names(path.parent) == [path.name, f"{path.name}.download.json"]
    return True


def part_on_disk(site, path, pieces=8, more=100):
    """Leave what a kill would have left: whole pieces and some bytes after them."""
    site.cuts, site.statuses = [pieces * PIECE + more], [200, 503]
    with pytest.raises(QfError, match="503 .* goes on where it stopped"):
        get(site, path, retries=0)
    site.log = []
    notes = json.loads((path.parent / f".{path.name}.part.json").read_text())
    assert len(notes["digests"]) == pieces and (notes["url"], notes["size"], notes["validator"]) == (site.url, SIZE, site.etag or site.date)
    return path.parent / f".{path.name}.part"


def damaged_at(times):
    """A check that refuses its first calls."""
    calls = []

    def check(path):
        calls.append(path)
        if len(calls) <= times:
            raise DamagedFileError(f"{path}: no good")

    check.calls = calls
    return check
