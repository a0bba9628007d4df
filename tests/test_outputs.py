"""What may be written to, and what killed processes leave: nothing of the user's is destroyed, and the next run cleans up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr
from helpers import refused, toy_session

from qf_toolkit import _files
from qf_toolkit._files import HOST, atomic_path, part_name, sweep, write_text
from qf_toolkit.cli.main import main
from qf_toolkit.cli.outputs import claim_output
from qf_toolkit.errors import QfError
from qf_toolkit.recordings.store import Store

QUICK = ["--f0", "1", "--epochs", "1", "--patch-frames", "10", "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8", "--quiet"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices are POSIX")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store, a pre-trained model and a forecaster."""
    path = tmp_path_factory.mktemp("outputs")
    Store(path / "store", create=True).add(toy_session(0, n_conditions=2))
    assert main(["pretrain", str(path / "store"), "--out", str(path / "base"), *QUICK]) == 0
    assert main(["fit", str(path / "store"), "--pretrained", str(path / "base"), "--out", str(path / "model"), "--epochs", "1", "--quiet"]) == 0
    return path


def tree(folder):
    """{path: content} of everything below a folder; pipes and devices by their kind."""
    return {p: p.read_bytes() if p.is_file() else _files.what_is(p) for p in sorted(folder.rglob("*"))}


# ---------------------------------------------------------------- left by killed processes


def gone():
    """The name of a temporary file of a process that was killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        start = _files._state(process.pid)
        process.kill()
    return f".x.nc.{HOST}-{process.pid}.{start[1] if start else 0}.abc_1.part"


def test_the_first_writing_in_a_folder_removes_what_a_killed_process_left(tmp_path):
    left = tmp_path / gone()
    left.write_text("half")
    write_text(tmp_path / "note.txt", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="a process's start is read from /proc")
def test_a_number_given_anew_and_a_process_nobody_waited_for_are_gone(tmp_path):
    own = part_name("f")["prefix"] + "abc.part"
    reused = own.replace(f"-{os.getpid()}.{_files._state(os.getpid())[1]}.", f"-{os.getpid()}.1.")
    with subprocess.Popen([sys.executable, "-c", ""]) as zombie:
        deadline = time.monotonic() + 20
        while _files._state(zombie.pid)[0] != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        dead = f".f.{HOST}-{zombie.pid}.{_files._state(zombie.pid)[1]}.abc.part"
        for name in (own, reused, dead):
            (tmp_path / name).write_text("")
        sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [own]


def test_another_container_of_the_same_host_name_is_another_host(monkeypatch):
    ours = _files._host()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    assert _files._host() != ours and _files._host().split("_")[0] == ours.split("_")[0]


def test_long_names_leave_room_for_the_writer(tmp_path):
    with atomic_path(tmp_path / ("鼠" * 80 + ".txt")) as tmp:
        tmp.write_text("x")
        assert len(os.fsencode(tmp.name)) < 255
    assert [p.name for p in tmp_path.iterdir()] == ["鼠" * 80 + ".txt"]


@posix
def test_a_killed_command_is_cleaned_up_after_by_the_next_one(trained, tmp_path):
    out, file = tmp_path / "model", tmp_path / "forecasts" / "f.nc"
    for folder in (out, out / "checkpoint", file.parent, tmp_path / "store", tmp_path / "store" / "truth"):
        folder.mkdir(parents=True)
        (folder / gone()).write_text("half")
    assert main(["pretrain", str(trained / "store"), "--out", str(out), *QUICK]) == 0
    assert main(["forecast", str(trained / "store"), "--model", str(trained / "model"), "--out", str(file), "--quiet"]) == 0
    simulate = ["simulate", str(tmp_path / "store"), "--neurons", "2", "--repeats", "3", "--directions", "2", "--temporal-frequencies", "1"]
    assert main(simulate) == 0
    assert not list(tmp_path.rglob("*.part"))
    (tmp_path / "store" / gone()).write_text("half")  # a run that finds all done cleans up, too
    assert main(simulate) == 0 and not list(tmp_path.rglob("*.part"))


@posix
def test_ended_by_the_system_it_leaves_nothing_that_the_next_run_keeps(trained, tmp_path):
    out = tmp_path / "model"
    argv = [sys.executable, "-u", "-m", "qf_toolkit.cli.main", "pretrain", str(trained / "store"), "--out", str(out), *QUICK, "--epochs", "1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 60
        while not (out / "checkpoint" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM and not (out / "config.json").exists()
    claim_output(out, "autoencoder")
    assert {p.name for p in out.rglob("*")} <= {"checkpoint", "checkpoint.safetensors", "checkpoint.previous.safetensors"}


# ---------------------------------------------------------------- refused before any work


def commands(trained, out):
    """A command for each output, `out` being what is written."""
    store, base, model = (str(trained / name) for name in ("store", "base", "model"))
    return {
        "pretrain": ["pretrain", store, "--out", out, *QUICK],
        "fit": ["fit", store, "--pretrained", base, "--out", out, "--epochs", "1", "--quiet"],
        "forecast": ["forecast", store, "--model", model, "--out", out, "--quiet"],
        "evaluate": ["evaluate", store, "--model", model, "--out", out, "--quiet"],
        "evaluate --figures": ["evaluate", store, "--model", model, "--figures", out, "--quiet"],
        "demo": ["demo", "--out", out, "--size", "tiny", "--quiet"],
        "figures": ["figures", "--out", out, "--quiet"],
        "simulate": ["simulate", out, "--neurons", "2"],
        "import": ["import", "arrays", str(trained / "F.npy"), "--rate", "10", "--store", out],
    }


@posix
@pytest.mark.parametrize("command", list(commands(Path(), "")))
@pytest.mark.parametrize("what", ["pipe", "device", "link to a pipe", "below a file"])
def test_devices_and_pipes_are_no_outputs(trained, tmp_path, capsys, command, what):
    place = tmp_path / "out"
    if what == "device":
        try:
            os.mknod(place, 0o600 | 0o020000, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device needs root")
    elif what == "below a file":
        (tmp_path / "file").write_text("mine")
        place = tmp_path / "file" / "out"
    else:
        os.mkfifo(tmp_path / "fifo" if what.startswith("link") else place)
        if what.startswith("link"):
            place.symlink_to(tmp_path / "fifo")
    before = tree(tmp_path)
    words = {"device": "a device", "below a file": "below a file"}.get(what, "a pipe")
    assert words in refused(capsys, *commands(trained, str(place))[command])
    assert tree(tmp_path) == before


@posix
def test_the_library_replaces_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "f")
    with pytest.raises(QfError, match="found a pipe"):
        write_text(tmp_path / "f", "x")
    assert (tmp_path / "f").is_fifo()


@pytest.mark.parametrize("command", ["pretrain", "fit", "forecast", "evaluate", "evaluate --figures", "demo", "figures"])
@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_written_into_a_store(trained, tmp_path, capsys, command, link):
    before = tree(trained)
    store = trained / "store"
    if link:
        (tmp_path / "link").symlink_to(store)
        store = tmp_path / "link"
    places = {"forecast": [store / "mouse__one.nc", store / "new.nc"], "evaluate": [store / "mouse__one.nc", store / "table.csv"]}.get(
        command, [store]
    )
    for place in places:
        assert "store" in refused(capsys, *commands(trained, str(place))[command])
    assert tree(trained) == before


def test_a_store_that_is_not_read_is_known_by_its_files(trained, tmp_path, capsys):
    Store(tmp_path / "other", create=True).add(toy_session(1))
    for command, place in (("forecast", tmp_path / "other" / "mouse__one.nc"), ("pretrain", tmp_path / "other")):
        line = refused(capsys, *commands(trained, str(place))[command], "--overwrite")
        assert "folder of its recordings" in line
    assert Store(tmp_path / "other")["mouse/one"].sizes["neuron"] == 6


def test_models_are_not_written_over_by_others(trained, tmp_path, capsys):
    before = tree(trained)
    fit, pretrain = commands(trained, str(trained / "base"))["fit"], commands(trained, str(trained / "model"))["pretrain"]
    assert "for both" in refused(capsys, *fit, "--overwrite")
    (tmp_path / "link").symlink_to(trained / "base")
    assert "for both" in refused(capsys, *commands(trained, str(tmp_path / "link"))["fit"])
    assert "expected a new folder or that of an auto-encoder, found a forecaster" in refused(capsys, *pretrain)
    assert "saved model" in refused(capsys, *commands(trained, str(trained / "model"))["simulate"])
    assert tree(trained) == before
    assert main(commands(trained, str(trained / "model"))["fit"]) == 0  # its own folder: the same command goes on


@pytest.mark.parametrize("name", ["thesis.txt", "config.json", "model.safetensors", "checkpoint/epoch1.pt"])
def test_a_folder_of_something_else_needs_overwrite(trained, tmp_path, capsys, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('{"architectures": ["theirs"]}')
    argv = commands(trained, str(tmp_path / "out"))["pretrain"]
    assert "--overwrite" in refused(capsys, *argv) and list(tree(tmp_path / "out"))[-1] == mine
    assert main([*argv, "--overwrite"]) == 0 and (tmp_path / "out" / "config.json").exists()
    if name == "thesis.txt":
        assert mine.exists()


def test_forecasts_are_replaced_and_other_files_are_not(trained, tmp_path, capsys):
    file = tmp_path / "f.nc"
    argv = commands(trained, str(file))["forecast"]
    assert main(argv) == 0 and main(argv) == 0  # its own
    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(file, engine="h5netcdf")
    before = file.read_bytes()
    assert "--overwrite" in refused(capsys, *argv) and file.read_bytes() == before
    (tmp_path / "link.nc").symlink_to(file)
    assert "--overwrite" in refused(capsys, *commands(trained, str(tmp_path / "link.nc"))["forecast"])
    assert main([*commands(trained, str(tmp_path / "link.nc"))["forecast"], "--overwrite"]) == 0
    assert (tmp_path / "link.nc").is_symlink() and "forecast" in xr.load_dataset(file, engine="h5netcdf")  # written where the link leads


def test_tables_are_known_by_their_sidecar(tmp_path):
    table, side = tmp_path / "t.csv", tmp_path / "t.json"
    assert claim_output(table) == table
    pd.DataFrame({"a": [1]}).to_csv(table)
    with pytest.raises(QfError, match="--overwrite"):
        claim_output(table)
    side.write_text(json.dumps({"qf_toolkit": "0.1.0"}))
    assert claim_output(table) == table
    side.write_text(json.dumps({"versions": {"qf_toolkit": "0.1.0"}}))  # of a figure
    assert claim_output(tmp_path / "t.png") == tmp_path / "t.png"
    table.unlink()
    side.write_text("[]")
    with pytest.raises(QfError, match=r"t\.json"):  # it would be written over with the table
        claim_output(table)
    assert claim_output(table, overwrite=True) == table


@pytest.mark.parametrize("what", ["table", "figure"])
def test_what_was_stopped_between_two_files_is_still_known(tmp_path, monkeypatch, what):
    import matplotlib.figure

    from qf_toolkit.evaluation.table import write_table
    from qf_toolkit.plots.style import save_figure

    replace, calls = os.replace, []

    def stop_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, "replace", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        if what == "table":
            write_table(pd.DataFrame({"mse": [1.0]}), tmp_path / "t.csv")
        else:
            save_figure(matplotlib.figure.Figure(), tmp_path / "t")
    assert len(list(tmp_path.iterdir())) == 1
    for name in ("t.csv", "t.svg", "t.png"):
        assert claim_output(tmp_path / name) == tmp_path / name


def test_places_that_can_not_be_written_are_told(tmp_path, monkeypatch):
    with pytest.raises(QfError, match="File name too long"):
        claim_output(tmp_path / ("x" * 300 + ".csv"))
    with pytest.raises(QfError, match="found a folder"):
        claim_output(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(QfError, match="read-only"):
        claim_output(tmp_path / "new" / "t.csv")
    assert list(tmp_path.iterdir()) == []
