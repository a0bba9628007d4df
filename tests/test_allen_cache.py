"""The Allen Institute's tables and files, from a local server that answers as theirs does, through the real allensdk."""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from allen_files import noise_session
from helpers import refused

from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.recordings.importers import allen_cache, download
from qf_toolkit.recordings.importers.allen import PAPER_CONTAINERS
from qf_toolkit.recordings.importers.allen_cache import AllenCache
from qf_toolkit.recordings.store import Store

pytest.importorskip("allensdk", reason="allensdk is not installed: try `make allen`")

# container: (area, depth, cre line, failed, {session type: experiment})
OBSERVATORY = {
    511510667: ("VISp", 175, "Cux2-CreERT2", False, {"A": 101, "B": 102, "C": 103}),
    511510855: ("VISl", 275, "Rorb-IRES2-Cre", False, {"A": 201, "B": 202, "C2": 203}),
    511999999: ("VISp", 275, "Cux2-CreERT2", True, {"A": 301}),
}


def specimen(cre, container):
    lines = [{"name": cre, "transgenic_line_type_name": "driver"}, {"name": "Ai93(TITL-GCaMP6f)", "transgenic_line_type_name": "reporter"}]
    donor = {"external_donor_name": f"22{container % 1000}", "transgenic_lines": lines, "date_of_birth": "2015-11-01T00:00:00Z", "conditions": []}
    return {"name": f"{cre}-22{container % 1000}", "donor": donor}


def containers():
    return [
        {"id": c, "imaging_depth": depth, "targeted_structure": {"acronym": area}, "specimen": specimen(cre, c), "failed": failed}
        for c, (area, depth, cre, failed, _) in OBSERVATORY.items()
    ]


def experiments():
    return [
        {
            "id": e, "experiment_container_id": c, "imaging_depth": depth, "targeted_structure": {"acronym": area}, "specimen": specimen(cre, c),
            "stimulus_name": f"three_session_{letter}", "date_of_acquisition": "2016-02-18T11:38:34Z", "experiment_container": {"failed": failed},
        }
        for c, (area, depth, cre, failed, sessions) in OBSERVATORY.items() for letter, e in sessions.items()
    ]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server
        site.log.append((self.path, self.headers.get("Range")))
        if site.broken:
            return self.answer(site.broken)
        if "/api/v2/data/" in self.path:
            model = re.search(r"model::(\w+)", self.path)[1]
            if model == "WellKnownFile":
                e = int(re.search(r"attachable_id\$eq(\d+)", self.path.replace("%24", "$"))[1])
                rows = [{"download_link": f"/api/v2/well_known_file_download/{e}"}] if e in site.files else []
            else:
                rows = {"ExperimentContainer": containers, "OphysExperiment": experiments}[model]()
            return self.answer(json.dumps({"success": True, "msg": rows, "num_rows": len(rows), "total_rows": len(rows), "start_row": 0}).encode())
        data = site.files[int(self.path.rsplit("/", 1)[1])]
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", asked)[1]) if (asked := self.headers.get("Range")) else 0
        self.answer(data, start)

    def answer(self, data, start=0):
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"v1"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        part, self.server.cut = data[start:], None if self.server.cut is None else self.server.cut
        if self.server.cut is not None and len(part) > self.server.cut:
            part, self.server.cut = part[: self.server.cut], None
        self.wfile.write(part)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_S", 0)
    monkeypatch.chdir(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.log, server.cut, server.broken, server.files = True, [], None, False, {}
    for container, (*_, sessions) in OBSERVATORY.items():
        for e in sessions.values():
            path = tmp_path / f"original_{e}.nwb"
            noise_session(path, cells=3, seed=e, trials=4, session_type="three_session_A", experiment_id=e, container_id=container,
                          cell_specimen_ids=[7, 5, 1000 + e])  # fmt: skip
            server.files[e] = path.read_bytes()
            path.unlink()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def imported(site, *argv):
    return main(["import", "allen", *map(str, argv), "--url", site.url, "--store", "store", "--quiet"])


def transfers(site):
    return [int(p.rsplit("/", 1)[1]) for p, _ in site.log if "well_known_file_download" in p]


def test_one_command_with_a_container_id_gives_a_store_of_its_sessions(site, tmp_path, capsys):
    assert imported(site, "--container", 511510667) == 0
    store = Store("store")
    assert store.keys() == ["511510667/A_101", "511510667/A_102", "511510667/A_103"]
    assert transfers(site) == [101, 102, 103]
    assert "511510667: 5 cells in 3 sessions, 2 of them in every one" in capsys.readouterr().out
    assert (tmp_path / "data" / "allen" / "ophys_experiment_data" / "101.nwb").read_bytes() == site.files[101]
    # again: nothing is downloaded or imported twice
    before = {p.name: p.stat().st_mtime_ns for p in store.path.iterdir()}
    site.log.clear()
    assert imported(site, "--container", 511510667) == 0 and site.log == []
    assert {p.name: p.stat().st_mtime_ns for p in store.path.iterdir()} == before


def test_an_interrupted_transfer_goes_on_and_an_altered_file_is_fetched_again(site, tmp_path, capsys):
    site.cut = 100_000
    assert imported(site, "--container", 511510667, "--type", "A") == 0
    ranges = [r for p, r in site.log if "well_known_file_download" in p]
    assert ranges[0] is None and ranges[1] == "bytes=100000-"
    path = tmp_path / "data" / "allen" / "ophys_experiment_data" / "101.nwb"
    assert path.read_bytes() == site.files[101]
    for damage in (lambda b: b[:-5000], lambda b: b[:200_000] + bytes([b[200_000] ^ 1]) + b[200_001:]):
        path.write_bytes(damage(site.files[101]))
        assert imported(site, "--container", 511510667, "--type", "A") == 0
        assert path.read_bytes() == site.files[101] and "Fetching it again" in capsys.readouterr().err


def test_the_paper_s_containers_ship_with_the_package(site, capsys):
    assert sum(PAPER_CONTAINERS) == 5_698_565_542 and len(set(PAPER_CONTAINERS)) == 11
    assert imported(site, "--paper") == 2  # this observatory has but two of them
    assert "id: no" in (err := capsys.readouterr().err) or "container: no" in err


def test_lists(site, capsys):
    def listed(*argv):
        assert main(["allen", "list", "--url", site.url, *map(str, argv)]) == 0
        return capsys.readouterr().out

    every = listed()
    assert "511510667" in every and "Rorb-IRES2-Cre" in every and "511999999" not in every  # failed
    assert "511510855" not in listed("--area", "VISp") and "511510667" not in listed("--depth", 275)
    assert "511510667" in listed("--cre-line", "Cux2-CreERT2", "--area", "VISp")
    sessions = listed("--sessions", "--container", 511510855)
    assert all(str(e) in sessions for e in (201, 202, 203)) and "three_session_C2" in sessions and "101" not in sessions
    assert "511999999" in listed("--container", 511999999)  # asked for by its id
    assert "VISp, VISl" in refused(capsys, "allen", "list", "--url", site.url, "--area", "VISpp")
    assert "all of what was chosen together" in refused(capsys, "allen", "list", "--url", site.url, "--area", "VISl", "--depth", "175")


def test_an_existing_cache_is_used_without_network(site, tmp_path, capsys):
    assert imported(site, "--container", 511510667, "--type", "A", "B") == 0
    site.log.clear()
    manifest = tmp_path / "data" / "allen" / "manifest.json"
    argv = ["import", "allen", "--manifest", str(manifest), "--store", str(tmp_path / "two"), "--quiet"]
    assert main(argv) == 0  # all that is there
    assert Store(tmp_path / "two").keys() == ["511510667/A_101", "511510667/A_102"]
    capsys.readouterr()
    assert main([*argv, "--store", str(tmp_path / "three"), "--container", "511510667"]) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert "session 103 is not in the cache" in err[0] and "1 of 3" in err[1] and len(err) == 2
    assert main(["allen", "list", "--manifest", str(manifest), "--area", "VISl"]) == 0 and site.log == []


def test_a_cache_without_network(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "http://127.0.0.1:9"
    line = refused(capsys, "import", "allen", "--container", "511510667", "--url", url, "--store", "store")
    assert "can't be reached" in line and "--files" in line and not list((tmp_path / "store").glob("*"))
    assert "found nothing at" in refused(capsys, "allen", "list", "--manifest", "nowhere/manifest.json")
    AllenCache(tmp_path / "empty" / "manifest.json")
    manifest = tmp_path / "empty" / "manifest.json"
    assert "asks no server" in refused(capsys, "allen", "list", "--manifest", manifest)
    assert "expected session files in the cache" in refused(capsys, "import", "allen", "--manifest", manifest, "--store", "store")
    manifest.write_text("{}")
    assert "expected a manifest of allensdk" in refused(capsys, "allen", "list", "--manifest", manifest)


def test_half_a_table_is_asked_for_again(site, tmp_path):
    cache = AllenCache(tmp_path / "c" / "manifest.json", url=site.url)
    assert len(cache.containers()) == 2
    (tmp_path / "c" / "experiment_containers.json").write_text('[{"id": 5115')
    assert len(AllenCache(tmp_path / "c" / "manifest.json", url=site.url).containers()) == 2
    (tmp_path / "c" / "experiment_containers.json").write_text('[{"id": 5115')
    with pytest.raises(QfError, match="found half of one"):
        AllenCache(tmp_path / "c" / "manifest.json", offline=True).containers()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>sorry</html>", b'{"success": false, "msg": "Query error"}', b'{"success": true, "msg": null}', b"[1, 2]",
        b'{"success": true, "msg": [{"id": 5}], "num_rows": 1, "total_rows": 1, "start_row": 0}',
    ],
)  # fmt: skip
def test_a_server_that_answers_something_else_spoils_no_cache(site, tmp_path, answer):
    site.broken = answer
    cache = AllenCache(tmp_path / "c" / "manifest.json", url=site.url)
    with pytest.raises(QfError, match="expected (an answer|a table) of the Allen API"):
        cache.sessions()
    assert not (tmp_path / "c" / "ophys_experiments.json").exists()
    site.broken = False
    assert len(cache.sessions()) == 6
    (tmp_path / "c" / "experiment_containers.json").write_text(json.dumps("Query error"))  # of an earlier time
    assert len(AllenCache(tmp_path / "c" / "manifest.json", url=site.url).containers()) == 2


def test_a_server_that_never_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(allen_cache, "PATIENCE_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        line = refused(capsys, "allen", "list", "--cache", tmp_path, "--url", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "can't be reached" in line and socket.getdefaulttimeout() is None


def test_tables_take_one_value_or_several(site, tmp_path):
    cache = AllenCache(tmp_path / "c" / "manifest.json", url=site.url)
    assert cache.containers(area="VISl")["id"].tolist() == [511510855] and len(cache.containers(ids=511510667)) == 1
    assert cache.sessions(types="C2")["id"].tolist() == cache.sessions(types=["three_session_C2"])["id"].tolist() == [203]
    assert set(cache.sessions()["id"]) == {101, 102, 103, 201, 202, 203}  # none of the failed container
    assert cache.sessions(containers=511999999)["id"].tolist() == [301]
    assert len(cache.sessions(containers=cache.containers()["id"][0])) == 3


@pytest.mark.parametrize(
    "argv, text",
    [(["--workers", "0"], "workers"), (["--scheduler", "here"], "scheduler"), (["--session", "x"], "--session"), ([], "expected a folder")],
)
def test_a_wrong_command_downloads_nothing(site, tmp_path, capsys, argv, text):
    store = tmp_path / "a_file" if not argv else tmp_path / "store"
    (tmp_path / "a_file").write_text("no store")
    line = refused(capsys, "import", "allen", "--container", 511510667, "--url", site.url, "--store", store, *argv)
    assert text in line and transfers(site) == []


def test_a_page_in_place_of_a_session_is_not_kept(site, tmp_path, capsys):
    site.files[101] = b"<html>gone</html>"
    assert imported(site, "--container", 511510667, "--type", "A") == 2
    assert "found a damaged one in two downloads" in capsys.readouterr().err
    assert transfers(site) == [101, 101] and not list((tmp_path / "data").rglob("*.nwb")) and not list((tmp_path / "data").rglob("*.part"))


def test_unknown_containers_and_missing_files(site, tmp_path, capsys):
    cache = AllenCache(tmp_path / "c" / "manifest.json", url=site.url)
    with pytest.raises(UnknownKeyError, match=r"container: no session of 5; known: 511510667, 511510855"):
        cache.sessions(containers=[5])
    del site.files[102]
    assert imported(site, "--container", 511510667) == 1
    assert "session 102: the Allen API has no file for it" in capsys.readouterr().err
    assert len(Store("store").keys()) == 2


@pytest.mark.parametrize(
    "argv, text",
    [
        (["--store", "s"], "--container ID"),
        (["x.nwb", "--store", "s"], "--files"),
        (["--files", "x.nwb", "--container", "5", "--store", "s"], "without --files"),
        (["--files", "nowhere", "--store", "s"], "found nothing there"),
        (["--manifest", "m.json", "--url", "http://x", "--store", "s"], "--manifest"),
        (["--rate", "30", "--files", "x", "--store", "s"], "--rate"),
    ],
)
def test_wrong_use(tmp_path, monkeypatch, capsys, argv, text):
    monkeypatch.chdir(tmp_path)
    assert text in refused(capsys, "import", "allen", *argv)


def test_options_of_allen_with_another_kind(tmp_path, capsys):
    assert "--container" in refused(capsys, "import", "nwb", "--container", "5", "--store", tmp_path / "s")
    assert "SOURCE" in refused(capsys, "import", "nwb", "--store", tmp_path / "s")
