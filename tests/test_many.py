"""Importing many recordings at once: in processes, on a cluster, killed half way and started again."""

import functools
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from readers_for_many import read_nothing, read_planes, read_seed

from qf_toolkit import _files
from qf_toolkit._files import HOST, atomic_path, sweep
from qf_toolkit.errors import QfError
from qf_toolkit.recordings import store
from qf_toolkit.recordings.importers import many
from qf_toolkit.recordings.importers.many import import_many
from qf_toolkit.recordings.store import Store, open_store


def seeds(folder, *names, first=0):
    """Sources of those names; a name's end tells the readers what to make of it."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names, first):
        np.save(folder / f"{name}.npy", seed)
    return [folder / f"{name}.npy" for name in names]


def written(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.nc")}


def one_line(result, *words):
    """Whether a result holds one line of error, with the source and `words` in it."""
    assert result.error and "\n" not in result.error and result.source in result.error, result
    assert all(w in result.error for w in words), result.error


def test_three_bad_files_of_twelve_are_named_and_the_rest_is_skipped_the_next_time(tmp_path):
    sources = seeds(tmp_path / "raw", *(f"r{i:02}" for i in range(12)))
    np.save(sources[1], -1)
    np.save(sources[5], -2)
    sources[7].write_bytes(b"")
    ended = []
    results = import_many(read_seed, sources, tmp_path / "store", workers=2, progress=False, on_done=ended.append)
    assert [r.source for r in results] == [str(s) for s in sources] and sorted(ended, key=lambda r: r.source) == results
    good = [r for r in results if r.error is None]
    assert [r.keys for r in good] == [(f"m/{s.stem}",) for i, s in enumerate(sources) if i not in (1, 5, 7)]
    assert good[0].summary == ("m/r00: 3 neurons, 300 frames at 10 Hz, 0 trials, flagged: none",)
    one_line(results[1], "expected a seed, found -1")
    one_line(results[5], "could not be read (KeyError: 'ophys'); the file may be damaged, or this is a fault of qf_toolkit")
    one_line(results[7], "EOFError")
    before = written(tmp_path / "store")
    assert len(before) == 9

    again = import_many(read_seed, [str(s) for s in sources], tmp_path / "store", workers=2, progress=False)
    assert [(r.source, r.keys, r.error) for r in again] == [(r.source, r.keys, r.error) for r in results]
    assert [r.skipped for r in again] == [r.error is None for r in results] and written(tmp_path / "store") == before


def test_in_this_very_process_nothing_that_a_reader_does_stops_the_rest(tmp_path, recwarn):
    sources = seeds(tmp_path, "a", "b_memory", "c", "d_odd", "e")
    np.save(sources[2], -3)
    pid, ended = os.getpid(), []
    results = import_many(read_seed, sources, tmp_path / "store", workers=1, on_done=lambda r: ended.append((os.getpid(), r)))
    assert ended == [(pid, r) for r in results] and [r.source for r in results] == [str(s) for s in sources]
    one_line(results[1], "memory")
    one_line(results[2], "SystemExit: 5")
    assert results[3].notes == (f"{sources[3]}: two lines of a warning",) and not recwarn
    assert open_store(tmp_path / "store").keys() == ["m/a", "m/d_odd", "m/e"]


def test_other_options_or_another_content_are_no_recording_that_is_there(tmp_path):
    (source,) = seeds(tmp_path, "r")
    (tmp_path / "gain.csv").write_text("1")
    run = functools.partial(import_many, read_seed, [source], tmp_path / "store")
    key_file = tmp_path / "store" / "m__r.nc"
    assert run()[0].error is None and run()[0].skipped
    assert run(options={"gain": 1.0})[0].skipped and run(options={"gain": 2.0})[0].error  # 1 is the default
    assert run(options={"gain": 2.0}, overwrite=True)[0].error is None and run(options={"gain": 2.0})[0].skipped
    inode = key_file.stat().st_ino
    np.save(source, 5)
    one_line(run(options={"gain": 2.0})[0], "m/r", "already", "--overwrite")
    assert key_file.stat().st_ino == inode
    assert run(options={"gain": 2.0}, overwrite=True)[0].keys == ("m/r",) and key_file.stat().st_ino != inode


def test_what_tells_sources_apart(tmp_path):
    (one,) = seeds(tmp_path, "one")
    ids = {many._source_id("recipe", one, tmp_path / "store")}
    np.save(one, 1)
    ids.add(many._source_id("recipe", one, tmp_path / "store"))
    ids.add(many._source_id("other", one, tmp_path / "store"))
    ids.add(many._source_id("recipe", one.rename(tmp_path / "two.npy"), tmp_path / "store"))
    folder = tmp_path / "suite2p"
    seeds(folder, "F", "Fneu")
    ids.add(many._source_id("recipe", folder, folder / "store"))
    Store(folder / "store", create=True).add(read_seed(folder / "F.npy"))
    ids.add(many._source_id("recipe", folder, folder / "store"))  # the store in it is none of it
    assert len(ids) == 5
    (folder / "F.npy").rename(folder / "G.npy")
    assert many._source_id("recipe", folder, folder / "store") not in ids
    table = tmp_path / "trials.csv"
    table.write_text("1")
    told = many._told(table)
    table.write_text("2")
    assert many._told(str(table)) != told and many._told(1.0) == "1.0" and many._told(np.arange(3000)) != many._told(np.arange(3000) % 2999)


def test_a_big_file_is_known_by_both_ends(tmp_path):
    path = tmp_path / "big"
    data = bytearray(3 * many.FILE_EDGE)
    digests = []
    for at in (None, 0, many.FILE_EDGE - 1, len(data) - 1):
        if at is not None:
            data[at] = 1
        path.write_bytes(data)
        digests.append(many._content(path))
    path.write_bytes(data + b"0")
    assert len({*digests, many._content(path)}) == 5


def test_of_several_planes_only_the_missing_are_stored(tmp_path):
    (source,) = seeds(tmp_path, "r")
    run = functools.partial(import_many, read_planes, [source], tmp_path / "store")
    keys = tuple(f"m/r_p{i}" for i in range(3))
    assert run()[0].keys == keys and run()[0].skipped and run()[0].keys == keys
    before = written(tmp_path / "store")
    (tmp_path / "store" / "m__r_p1.nc").unlink()
    (result,) = run()
    assert result.keys == keys and result.error is None and not result.skipped
    after = written(tmp_path / "store")
    assert {n for n in before if before[n] == after[n]} == {"m__r_p0.nc", "m__r_p2.nc"} and run()[0].skipped


def test_a_plane_that_is_taken_stops_no_other(tmp_path):
    (source,) = seeds(tmp_path, "r")
    Store(tmp_path / "store", create=True).add(read_seed(source, key="r_p1"))
    (result,) = import_many(read_planes, [source], tmp_path / "store")
    one_line(result, "m/r_p1 is in", "already")
    assert result.keys == ("m/r_p0", "m/r_p2") == tuple(line.split(":")[0] for line in result.summary)


def test_a_reader_that_finds_nothing(tmp_path):
    one_line(import_many(read_nothing, seeds(tmp_path, "r"), tmp_path / "store")[0], "expected a recording, found none")


@pytest.mark.parametrize("cut", [0, 1000, -1])
def test_a_damaged_file_in_the_store_is_replaced(tmp_path, cut):
    sources = seeds(tmp_path, "a", "b")
    run = functools.partial(import_many, read_seed, sources, tmp_path / "store", workers=1, progress=False)
    assert [r.error for r in run()] == [None, None]
    whole, path = (tmp_path / "store" / "m__a.nc").read_bytes(), tmp_path / "store" / "m__a.nc"
    path.write_bytes(whole[:cut])
    a, b = run()
    assert a.keys == ("m/a",) and not a.skipped and "was damaged" in a.notes[0] and a.error is None and b.skipped
    previous = path.with_suffix(".nc.previous")
    assert previous.read_bytes() == whole[:cut] and open_store(tmp_path / "store")["m/a"].attrs["source_id"]
    # a good version that was kept before is not pushed out by a damaged file
    previous.write_bytes(whole)
    path.write_bytes(whole[:cut])
    assert run()[0].notes and previous.read_bytes() == whole


def test_a_file_that_is_no_damaged_session_is_not_replaced(tmp_path, monkeypatch):
    (source,) = seeds(tmp_path, "a")
    newer = read_seed(source)
    newer.attrs["schema_version"] = 99
    (tmp_path / "store").mkdir()
    newer.to_netcdf(tmp_path / "store" / "m__a.nc", engine="h5netcdf")
    before = written(tmp_path / "store")
    one_line(import_many(read_seed, [source], tmp_path / "store")[0], "already")

    def refuse(*args, **kwargs):
        raise BlockingIOError(11, "unable to lock file")

    monkeypatch.setattr("h5py.File", refuse)
    one_line(import_many(read_seed, [source], tmp_path / "store")[0], "already")
    assert written(tmp_path / "store") == before


def test_a_worker_that_dies_is_named_and_the_rest_is_stored(tmp_path):
    sources = seeds(tmp_path, "a", "b", "c_stop", "d", "e", "f_sigkill", "g")
    results = import_many(read_seed, sources, tmp_path / "store", workers=2, progress=False)
    assert [r.error is None for r in results] == [True, True, False, True, True, False, True]
    for i in (2, 5):
        one_line(results[i], "the process that read it died; out of memory? Try --workers 1")
    assert open_store(tmp_path / "store").keys() == ["m/a", "m/b", "m/d", "m/e", "m/g"]
    assert all(r.summary for r in results if not r.error) and not list((tmp_path / "store").glob(".*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_of_two_sources_of_one_key_one_is_stored(tmp_path, workers):
    sources = seeds(tmp_path / "one", "r") + seeds(tmp_path / "two", "r", first=1)
    results = import_many(read_seed, sources, tmp_path / "store", workers=workers, progress=False)
    good, bad = sorted(results, key=lambda r: r.error is not None)
    one_line(bad, "m/r is in", "already")
    assert good.keys == ("m/r",) and bad.keys == () and [p.name for p in (tmp_path / "store").iterdir()] == ["m__r.nc"]


def test_overwriting_names_two_sources_of_one_key(tmp_path):
    sources = seeds(tmp_path / "one", "r") + seeds(tmp_path / "two", "r", first=1)
    first, second = import_many(read_seed, sources, tmp_path / "store", workers=1, overwrite=True, progress=False)
    assert first.error is None
    one_line(second, "gives m/r", str(sources[0]))


def test_a_store_is_first_come_first_served_at_the_last_moment_too(tmp_path, monkeypatch):
    one, two = (read_seed(s, key="r") for s in seeds(tmp_path, "a", "b"))
    mine, rival, write = Store(tmp_path / "store", create=True), Store(tmp_path / "store"), store.write_session

    def slow(session, path):
        monkeypatch.setattr(store, "write_session", write)
        rival.add(two)
        return write(session, path)

    monkeypatch.setattr(store, "write_session", slow)
    with pytest.raises(QfError, match="m/r is in .* already"):
        mine.add(one)
    assert mine["m/r"].identical(two) and [p.name for p in mine.path.iterdir()] == ["m__r.nc"]


@pytest.mark.parametrize("links", [True, False])
def test_exclusive_writing_replaces_nothing(tmp_path, monkeypatch, links):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "f"
    with atomic_path(path, exclusive=True) as tmp:
        tmp.write_text("mine")
        assert HOST in tmp.name and f"-{os.getpid()}." in tmp.name
    with pytest.raises(FileExistsError), atomic_path(path, exclusive=True) as tmp:
        tmp.write_text("yours")
    assert path.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["f"] and path.stat().st_nlink == 1
    with pytest.raises(QfError, match="could not write"), atomic_path(path / "in a file", exclusive=True):
        pass


def test_sweeping_leaves_what_is_still_written(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stay = [f".a.nc.{HOST}-{os.getpid()}.x1_y.part", ".a.nc.elsewhere-1.x1.part", ".old.nc.x1.part", "download.part", "a.nc"]
    go = [f".a.nc.{HOST}-{dead.pid}.x1_y.part", ".b.elsewhere-1.x2.part"]
    for name in stay + go:
        (tmp_path / name).write_text("")
    os.utime(tmp_path / go[1], (0, time.time() - 2 * _files.A_DAY))
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(stay)


SCRIPT = """
import sys
from pathlib import Path
from readers_for_many import read_seed
from qf_toolkit.recordings.importers.many import import_many
if {guard}:
    import_many(read_seed, sorted(Path(sys.argv[1]).glob("*.npy")), sys.argv[1] + "/store", options={{"sleep_s": float(sys.argv[2])}},
                workers=2, progress=False, on_done=lambda r: print(r.source, r.error, flush=True))
"""


def script(tmp_path, guard='__name__ == "__main__"'):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(guard=guard))
    return [sys.executable, str(path), str(tmp_path)]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_killed_import_goes_on_where_it_was(tmp_path):
    sources = seeds(tmp_path, *(f"r{i:02}" for i in range(16)))
    mark = uuid.uuid4().hex
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "QF_TEST": mark}

    def alive():
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                found += [path.parent.name] if mark.encode() in path.read_bytes() else []
            except OSError:
                continue
        return found

    with subprocess.Popen([*script(tmp_path), "0.25"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        for _ in range(5):
            run.stdout.readline()
        workers = len(alive()) - 1
        run.kill()
    assert workers >= 2
    deadline = time.time() + 20
    while alive() and time.time() < deadline:
        time.sleep(0.05)
    assert not alive()
    before = written(tmp_path / "store")
    assert 5 <= len(before) < 16
    # what a kill in the midst of writing leaves behind
    (tmp_path / "store" / f".m__r15.nc.{HOST}-{run.pid}.abc_1234.part").write_bytes(b"half")

    results = import_many(read_seed, sources, tmp_path / "store", options={"sleep_s": 0.25}, workers=2, progress=False)
    assert [r.error for r in results] == [None] * 16 and sum(r.skipped for r in results) == len(before)
    after = written(tmp_path / "store")
    assert {n: after[n] for n in before} == before
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [f"m__r{i:02}.nc" for i in range(16)]
    for i, key in enumerate(open_store(tmp_path / "store").keys()):
        assert open_store(tmp_path / "store")[key].attrs["fingerprint"] == read_seed(sources[i]).attrs["fingerprint"]


def test_a_script_that_can_not_be_imported_by_its_workers_is_told_so(tmp_path):
    seeds(tmp_path, "a", "b")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*script(tmp_path, "True"), "0"], env=env, capture_output=True, text=True, timeout=60)
    # multiprocessing may warn of leaked semaphores below the error
    told = [line for line in done.stderr.splitlines() if "QfError: workers: expected processes that start" in line]
    assert done.returncode and told and "__main__" in told[-1]


@pytest.mark.parametrize(
    "read, options, words",
    [
        (lambda path: None, {"workers": 2}, "a function at the top of a module"),
        (functools.partial(read_seed, gain=2), {}, "expected a function, found partial"),
        (read_seed, {"workers": 0}, "workers: expected a whole number of processes"),
        (read_seed, {"scheduler": "cluster"}, "scheduler: expected 'local' or the address"),
    ],
)
def test_bad_use_is_one_line(tmp_path, read, options, words):
    with pytest.raises(QfError, match=words) as error:
        import_many(read, seeds(tmp_path, "a", "b"), tmp_path / "store", progress=False, **options)
    assert "\n" not in str(error.value)


def test_on_a_cluster_of_this_machine(tmp_path):
    pytest.importorskip("distributed")
    sources = seeds(tmp_path, "a", "b", "c", "d_odd")
    np.save(sources[1], -2)
    ended = []
    results = import_many(read_seed, sources, tmp_path / "store", workers=2, scheduler="local", progress=False, on_done=ended.append)
    one_line(results[1], "KeyError: 'ophys'")
    assert [r.keys for r in results] == [("m/a",), (), ("m/c",), ("m/d_odd",)] and results[3].notes == (f"{sources[3]}: two lines of a warning",)
    assert [r.source for r in results] == [str(s) for s in sources] and len(ended) == 4
    # sessions of a cluster are known again without one
    assert [r.skipped for r in import_many(read_seed, sources, tmp_path / "store", workers=1, progress=False)] == [True, False, True, True]


@pytest.mark.parametrize("missing", [False, True])
def test_a_cluster_that_is_not_there(tmp_path, monkeypatch, missing):
    if missing:
        monkeypatch.setitem(sys.modules, "distributed", None)
    else:
        pytest.importorskip("distributed")
    monkeypatch.setattr(many, "PATIENCE_S", 1)
    words = r"pip install 'qf_toolkit\[cluster\]'" if missing else "expected a Dask cluster at tcp://127.0.0.1:1"
    with pytest.raises(QfError, match=words) as error:
        import_many(read_seed, seeds(tmp_path, "a"), tmp_path / "store", scheduler="tcp://127.0.0.1:1")
    assert "\n" not in str(error.value)
