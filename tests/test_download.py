"""Downloads against a local server that breaks off, lies, changes and forgets."""

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest

from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.recordings.importers import download
from qf_toolkit.recordings.importers.download import believed, fetch

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


@pytest.fixture
def site(monkeypatch):
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


def test_a_download_is_the_file_and_is_not_asked_for_again(site, tmp_path):
    path = tmp_path / "deep" / "er" / "f.bin"
    assert get(site, path) == path and whole(site, path)
    record = json.loads(path.with_name("f.bin.download.json").read_text())
    assert record == {"url": site.url, "size": SIZE, "validator": '"one"', "blake2b": hashlib.blake2b(site.data).hexdigest()}
    assert site.transfers() == [(None, SIZE)]
    assert get(site, str(path)) == path and believed(path) and believed(path, url=site.url)
    assert len(site.log) == 1


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE])
def test_sizes_at_the_edge_of_a_piece(site, tmp_path, size):
    site.data = noise(size=size)
    assert whole(site, get(site, tmp_path / "f"))


def test_the_bar_counts_bytes_from_where_it_goes_on(site, tmp_path, monkeypatch):
    part_on_disk(site, tmp_path / "f")
    bars = []

    class Bar(download.tqdm):
        def __init__(self, **options):
            bars.append((options, self))
            super().__init__(**options)

    monkeypatch.setattr(download, "tqdm", Bar)
    fetch(site.url, tmp_path / "f", label="a mouse")
    options, bar = bars[0]
    assert (options["desc"], options["unit"], options["initial"], options["total"]) == ("a mouse", "B", 8 * PIECE, SIZE)
    assert bar.n == SIZE and len(bars) == 1
    site.ranges = False
    part_on_disk(site, tmp_path / "g")
    fetch(site.url, tmp_path / "g")
    options, bar = bars[-1]
    assert (options["desc"], options["initial"]) == ("g", 8 * PIECE) and (bar.n, bar.initial) == (SIZE, 0)


def test_no_bar_when_none_is_wanted(site, tmp_path, capfd):
    get(site, tmp_path / "f")
    assert capfd.readouterr() == ("", "")


KILLED = """
import sys
from qf_toolkit.recordings.importers import download
download.PIECE = int(sys.argv[3])
download.fetch(sys.argv[1], sys.argv[2], progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_download_goes_on(site, tmp_path):
    path, notes = tmp_path / "f", tmp_path / ".f.part.json"
    site.hold = 9 * PIECE + PIECE // 2
    process = subprocess.Popen([sys.executable, "-c", KILLED, site.url, str(path), str(PIECE)])
    try:
        deadline = time.monotonic() + 60
        while not (notes.exists() and len(json.loads(notes.read_text())["digests"]) == 9):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not path.exists() and (tmp_path / ".f.part").stat().st_size >= 9 * PIECE
    site.hold, site.log = None, []
    site.go.set()
    (tmp_path / "..f.part.json.a1b2c3.part").write_text("")  # as a kill while the notes are written leaves it
    assert whole(site, get(site, path))
    assert site.transfers() == [(f"bytes={9 * PIECE}-", SIZE - 9 * PIECE)]


def test_a_transfer_that_breaks_off_goes_on(site, tmp_path):
    site.cuts = [5 * PIECE + 7, 3 * PIECE, 0, 1]
    assert whole(site, get(site, tmp_path / "f"))
    starts = [0, 5 * PIECE + 7, 8 * PIECE + 7, 8 * PIECE + 7, 8 * PIECE + 8]
    assert [asked for asked, _ in site.transfers()] == [None, *(f"bytes={n}-" for n in starts[1:])]


def test_progress_resets_the_count_of_retries(site, tmp_path):
    site.cut = 3 * PIECE
    assert whole(site, get(site, tmp_path / "f", retries=1)) and len(site.log) == 6
    site.cut, site.log = 0, []
    with pytest.raises(QfError, match=f"expected {SIZE} bytes, the connection ended after 0"):
        get(site, tmp_path / "g", retries=3)
    assert len(site.log) == 4 and names(tmp_path) == ["f", "f.download.json"]


@pytest.mark.parametrize("status", [503, 408, 429, 500])
def test_a_status_that_passes_is_tried_again(site, tmp_path, status):
    site.statuses = [status]
    assert whole(site, get(site, tmp_path / "f")) and len(site.log) == 2


def test_a_server_without_ranges_sends_all_again(site, tmp_path):
    part_on_disk(site, tmp_path / "f")
    site.ranges = False
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(f"bytes={8 * PIECE}-", SIZE)]


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(site, tmp_path):
    site.ranges, site.cut = False, 3 * PIECE
    with pytest.raises(QfError, match="ended after"):
        get(site, tmp_path / "f", retries=2)
    assert len(site.log) == 4


@pytest.mark.parametrize("how", ["etag", "no etag", "ignores If-Range", "terse", "size", "no validator", "shorter"])
def test_a_file_that_changed_on_the_server_starts_anew(site, tmp_path, how):
    if how in ("no etag", "no validator"):
        site.etag, site.date = None, DATE if how == "no etag" else None
    part_on_disk(site, tmp_path / "f")
    site.data, site.if_range = noise(1), how != "ignores If-Range"
    site.terse = how == "terse"
    if how in ("etag", "ignores If-Range", "terse"):
        site.etag = '"two"'
    elif how == "no etag":
        site.date = "Tue, 02 Jan 2024 00:00:00 GMT"
    else:
        site.data = noise(1, PIECE if how == "shorter" else SIZE + 1)
    assert whole(site, get(site, tmp_path / "f"))
    assert site.log[0][1] == f"bytes={8 * PIECE}-" and site.transfers()[-1][1] == len(site.data)
    assert len(site.log) == (1 if how in ("etag", "no etag", "terse") else 2)


@pytest.mark.parametrize(("etag", "date"), [(None, DATE), ('W/"weak"', DATE), (None, None)])
def test_a_date_or_a_size_is_enough_to_go_on(site, tmp_path, etag, date):
    site.etag, site.date, site.cuts, site.terse = etag, date, [8 * PIECE], True
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(None, 8 * PIECE), (f"bytes={8 * PIECE}-", SIZE - 8 * PIECE)]


def test_a_version_without_a_size_is_enough_to_go_on(site, tmp_path):
    site.announced, site.cuts = "chunked", [8 * PIECE]
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(None, 8 * PIECE), (f"bytes={8 * PIECE}-", SIZE - 8 * PIECE)]


def test_a_redirect_is_followed(site, tmp_path):
    site.cuts, address = [8 * PIECE], site.url
    site.url = address.replace("f.bin", "moved")
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(None, 8 * PIECE), (f"bytes={8 * PIECE}-", SIZE - 8 * PIECE)]
    site.url = address.replace("f.bin", "loop")
    with pytest.raises(QfError, match="answered 302") as e:
        get(site, tmp_path / "g")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("span", [f"bytes 0-9/{SIZE}", "bytes */1", "nonsense", f"bytes {8 * PIECE}-{SIZE - 1}/*"])
def test_a_range_that_was_not_asked_for_is_not_used(site, tmp_path, span):
    part_on_disk(site, tmp_path / "f")
    site.span = span
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers()[-1] == (None, SIZE)


def test_a_file_of_unknown_size_and_version_starts_anew(site, tmp_path):
    site.etag = site.date = None
    site.announced, site.cuts = "chunked", [4 * PIECE, 8 * PIECE]
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(None, 4 * PIECE), (None, 8 * PIECE), (None, SIZE)]
    site.cuts, site.statuses = [8 * PIECE], [200, 503]
    with pytest.raises(QfError, match="503"):
        get(site, tmp_path / "g", retries=0)
    assert names(tmp_path) == ["f", "f.download.json"]


def test_a_size_that_is_never_reached(site, tmp_path):
    site.announced = SIZE + 10
    with pytest.raises(QfError, match=f"expected {SIZE + 10} bytes") as e:
        get(site, tmp_path / "f", retries=2)
    assert "\n" not in str(e.value) and len(site.log) == 4 and not (tmp_path / "f").exists()


@pytest.mark.parametrize("piece", [0, 3, 7])
def test_altered_bytes_in_the_part_are_not_believed(site, tmp_path, piece):
    part = part_on_disk(site, tmp_path / "f")
    data = bytearray(part.read_bytes())
    data[piece * PIECE + 11] ^= 1
    part.write_bytes(data)
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(f"bytes={piece * PIECE}-" if piece else None, SIZE - piece * PIECE)]


@pytest.mark.parametrize("alter", [None, lambda s: "", lambda s: "[]", lambda s: "{}", lambda s: s[:-9], lambda s: s.replace("f.bin", "g.bin")])
def test_a_part_without_its_notes_is_not_believed(site, tmp_path, alter):
    part_on_disk(site, tmp_path / "f")
    notes = tmp_path / ".f.part.json"
    if alter is None:
        notes.unlink()
    else:
        notes.write_text(alter(notes.read_text()))
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers() == [(None, SIZE)]


@pytest.mark.parametrize("keep", [SIZE, SIZE // 2, 0])
def test_a_finished_file_that_was_altered_is_fetched_again(site, tmp_path, keep):
    path = get(site, tmp_path / "f")
    data = bytearray(site.data)
    data[SIZE // 3] ^= 1
    path.write_bytes(data[:keep])
    assert not believed(path)
    with pytest.warns(UserWarning, match=r"f: expected the .*bytes that were downloaded, found .* Fetching it again") as caught:
        fetch(site.url, path, progress=False)
    assert whole(site, path) and len(caught) == 1 and "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_old_file_stays_until_the_new_one_is_whole(site, tmp_path):
    path = get(site, tmp_path / "f")
    path.write_bytes(b"old")
    site.statuses = [404]
    with pytest.warns(UserWarning, match="Fetching it again"), pytest.raises(QfError, match="404"):
        get(site, path)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["f", "f.download.json"]


def test_a_file_of_another_address_is_fetched_again(site, tmp_path):
    path = get(site, tmp_path / "f")
    assert not believed(path, url=site.url + "?2")
    with pytest.warns(UserWarning, match="found one of http"):
        fetch(site.url + "?2", path, progress=False)
    assert whole(site, path)


@pytest.mark.parametrize("head", [True, False])
def test_a_file_put_there_by_hand_needs_the_right_size_and_to_open(site, tmp_path, head):
    site.head = head
    path = tmp_path / "f"
    path.write_bytes(site.data)
    assert get(site, path, check=damaged_at(0)) == path
    assert sum(sent for _, sent in site.transfers()) <= 1 and names(tmp_path) == ["f"]
    path.write_bytes(site.data[:-1])
    assert not believed(path, url=site.url) and believed(path) and not believed(tmp_path / "none")
    with pytest.warns(UserWarning, match=f"expected {SIZE} bytes as on the server, found {SIZE - 1}"):
        get(site, path)
    assert whole(site, path)
    path.with_name("f.download.json").unlink()
    with pytest.warns(UserWarning, match=r"found a damaged one .*no good"):
        get(site, path, check=damaged_at(2))  # both looks at the old file
    assert whole(site, path)


def test_a_file_put_there_by_hand_is_enough_without_network(tmp_path, site):
    path = tmp_path / "f"
    path.write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch("http://127.0.0.1:1/f", path, check=damaged_at(0)) == path


def test_a_file_that_does_not_open_is_fetched_anew_once(site, tmp_path):
    site.altered = 1
    good = hashlib.blake2b(site.data).digest()

    def check(path):
        if hashlib.blake2b(path.read_bytes()).digest() != good:
            raise DamagedFileError(f"{path}: altered")

    assert whole(site, get(site, tmp_path / "f", check=check))
    assert site.transfers() == [(None, SIZE)] * 2


def test_a_file_that_never_opens_leaves_nothing(site, tmp_path):
    check = damaged_at(9)
    with pytest.raises(DamagedFileError, match=f"{site.url}: .*two downloads") as e:
        get(site, tmp_path / "f", check=check)
    assert "\n" not in str(e.value) and names(tmp_path) == []
    assert len(check.calls) == 2 and site.transfers() == [(None, SIZE)] * 2


def test_a_check_may_open_the_part_as_hdf5(site, tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as f:
        f["x"] = np.arange(100000)
    site.data = (tmp_path / "source.h5").read_bytes()

    def check(path):
        with h5py.File(path) as f:
            assert f["x"][-1] == 99999

    assert get(site, tmp_path / "f.h5", check=check).read_bytes() == site.data


def test_an_interrupt_passes_and_the_part_stays(site, tmp_path):
    def interrupted(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path / "f", check=interrupted)
    assert names(tmp_path) == [".f.part", ".f.part.json"]
    assert whole(site, get(site, tmp_path / "f"))
    assert site.transfers()[1] == (f"bytes={16 * PIECE}-", SIZE - 16 * PIECE)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(site, tmp_path, status):
    site.statuses = [status] * 9
    with pytest.raises(QfError, match=f"{site.url}: expected a file, the server answered {status}") as e:
        get(site, tmp_path / "f")
    assert "\n" not in str(e.value) and len(site.log) == 1 and names(tmp_path) == []


def test_no_server_is_one_line(site, tmp_path):
    with pytest.raises(QfError, match=r"^http://127.0.0.1:1/f: can't be reached \(Connection refused\)\. Check the network") as e:
        fetch("http://127.0.0.1:1/f", tmp_path / "f", progress=False)
    assert "\n" not in str(e.value) and names(tmp_path) == []


def test_a_silent_server_times_out(site, tmp_path):
    site.hold = 2 * PIECE
    with pytest.raises(QfError, match=rf"broke after {2 * PIECE} bytes \(timed out\)"):
        fetch(site.url, tmp_path / "f", progress=False, retries=0, timeout_s=0.2)
    site.go.set()
    assert whole(site, get(site, tmp_path / "f"))


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "file:///etc/hostname", "f.nwb", "", None, "http://", "http://[1", "http://a b/c", "http://a/b\nc", "http://a:x/"]
)
def test_an_address_that_is_none(tmp_path, url):
    with pytest.raises(QfError, match="expected an (http or https )?address") as e:
        fetch(url, tmp_path / "f", progress=False)
    assert "\n" not in str(e.value) and names(tmp_path) == []


def test_places_that_can_not_be_written(site, tmp_path):
    with pytest.raises(QfError, match="found the folder"):
        get(site, tmp_path)
    (tmp_path / "f").write_text("")
    with pytest.raises(QfError, match="could not be read or written"):
        get(site, tmp_path / "f" / "g")


FULL = """
import resource, signal, sys
from qf_toolkit.errors import QfError
from qf_toolkit.recordings.importers import download
download.PIECE = int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    download.fetch(sys.argv[1], sys.argv[2], progress=False)
except QfError as e:
    print("REFUSED", e)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_is_one_line_and_the_part_stays(site, tmp_path):
    argv = [sys.executable, "-c", FULL, site.url, str(tmp_path / "f"), str(PIECE), str(6 * PIECE + 10)]
    run = subprocess.run(argv, capture_output=True, text=True)
    assert run.stderr == "" and re.fullmatch(r"REFUSED .*/f: could not be read or written \(.*\n", run.stdout), run
    assert whole(site, get(site, tmp_path / "f")) and site.transfers()[-1][0] == f"bytes={6 * PIECE}-"


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_at_once_download_once(site, tmp_path, capfd):
    site.hold = 4 * PIECE
    threads = [threading.Thread(target=fetch, args=(site.url, tmp_path / "f")) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline, said = time.monotonic() + 30, ""
    while said.count("waiting for that") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        said += capfd.readouterr().err
    site.go.set()
    for thread in threads:
        thread.join(30)
    assert whole(site, tmp_path / "f") and site.transfers() == [(None, SIZE)]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_lock_that_was_waited_for_keeps_others_out(tmp_path, capfd):
    inside, leave, late = threading.Event(), threading.Event(), threading.Event()

    def hold(entered, until):
        with download._locked(tmp_path / "f", True):
            entered.set()
            until.wait(30)

    def until(condition, text=""):
        deadline = time.monotonic() + 30
        while not condition(text):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            text += capfd.readouterr().err

    second = threading.Thread(target=hold, args=(inside, leave))
    third = threading.Thread(target=hold, args=(late, leave))
    with download._locked(tmp_path / "f", True):
        second.start()
        until(lambda text: "waiting" in text)
    assert inside.wait(30)
    third.start()
    until(lambda text: "waiting" in text or late.is_set())
    assert not late.is_set()
    leave.set()
    second.join(30)
    third.join(30)
    assert late.is_set() and names(tmp_path) == []
