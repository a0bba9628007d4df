"""What a download finds on the disk and leaves there: parts, old files, files put there by hand, full disks, locks."""

import hashlib
import re
import subprocess
import sys
import threading
import time
import warnings

import h5py
import numpy as np
import pytest
from download_site import PIECE, SIZE, damaged_at, get, names, part_on_disk, whole

from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.recordings.importers import download
from qf_toolkit.recordings.importers.download import believed, fetch


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
