"""Downloads against a local server that breaks off, lies, changes and forgets."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest
from download_site import DATE, PIECE, SIZE, get, names, noise, part_on_disk, whole

from qf_toolkit.errors import QfError
from qf_toolkit.recordings.importers import download
from qf_toolkit.recordings.importers.download import believed, fetch


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
