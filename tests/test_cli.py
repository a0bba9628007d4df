"""The command line: every command on small recordings, its exit codes and its one-line errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import refused, toy_session

import qf_toolkit as qf
from qf_toolkit.cli.main import main

SIM = ["--neurons", "4", "--repeats", "15", "--directions", "2", "--temporal-frequencies", "1", "--quiet"]
GRATINGS = ["--condition", *(f"drifting_gratings/orientation={angle},temporal_frequency=1" for angle in (0, 180))]  # not the few blanks
SMALL = ["--patch-frames", "15", "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "store"
    assert main(["simulate", str(path), "--seed", "3", *SIM]) == 0
    return path


@pytest.mark.parametrize("command", ["simulate", "import", "info", "pretrain", "fit", "forecast", "evaluate", "report", "demo"])
def test_help_shows_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"example:\n  qf {command}" in capsys.readouterr().out


def test_unknown_command_exits_with_2():
    assert main(["forcast"]) == 2


def test_import_needs_neither_pynwb_nor_matplotlib_nor_torch():
    code = "import sys, qf_toolkit; sys.exit(any(m in sys.modules for m in ('pynwb', 'matplotlib', 'torch', 'h5netcdf')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_can_be_imported():
    for name in qf.__all__:
        assert getattr(qf, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = qf.nonsense


def test_info_lists_sessions_and_trials(store, capsys):
    assert main(["info", str(store)]) == 0
    out = capsys.readouterr().out
    assert "sim1/A" in out and "drifting_gratings" in out
    assert main(["info", str(store), "sim1/A"]) == 0
    assert "GCaMP6f" in capsys.readouterr().out


def lines_of(capsys, *argv):
    """What `qf info` prints, none of it wider than 100 columns."""
    assert main(["info", *map(str, argv)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    return lines


def test_info_counts_conditions_columns_and_behaviour(tmp_path, capsys):
    session = toy_session(0, n_conditions=3, stimuli=("dots", "bars", "dots")).assign_attrs(ignored_columns="start_time (a time), notes (text)")
    session = session.assign(running_speed=("running_time", np.zeros(50, np.float32))).assign_coords(running_time=np.arange(50) / 20)
    session["running_speed"].attrs["units"] = "cm/s"
    qf.Store(tmp_path / "store", create=True).add(session)
    capsys.readouterr()
    text = "\n".join(lines_of(capsys, tmp_path / "store"))
    assert "dots: 30 trials of 2 conditions in 1 session\n  orientation=0: 15; orientation=90: 15" in text
    text = "\n".join(lines_of(capsys, tmp_path / "store", "mouse/one"))
    assert "columns kept     orientation\n" in text and "columns left out start_time (a time), notes (text)\n" in text
    assert "behaviour kept   running_speed, 20 Hz, cm/s (50 running_time)\n" in text
    assert "bars: 15 trials of 1 conditions in 3 blocks\n  orientation=45: 15" in text


def test_info_sums_up_many_conditions_and_long_names(tmp_path, capsys):
    sizes = {"n_neurons": 1, "images": 30, "orientations": 2, "spatial_frequencies": 1, "phases": 1, "image_repeats": 2, "noise_frames": 200}
    store = qf.simulate(tmp_path / "store", sessions="BC", gap_s=0.5, subject="a very long name of a mouse " * 4, **sizes)
    text = "\n".join(lines_of(capsys, store.path))
    assert "natural_scenes: 62 trials of 31 conditions in 1 session\n  31 conditions 2 times; from blank to image=29" in text
    assert "200 conditions 1 time; from frame=0 to frame=199" in text
    lines_of(capsys, store.path, store.keys()[0])


def test_a_simulation_goes_on_and_says_so(tmp_path, capsys):
    argv = ["simulate", str(tmp_path / "s"), *SIM]
    assert main(argv) == 0 and "kept" not in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nc")}
    assert main([*argv, "--sessions", "A"]) == 0 and "sim1/A is there already, of the same options: kept." in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nc")} == before
    assert "made with seed 0, found 4" in refused(capsys, *argv, "--seed", "4")


def test_unknown_session_and_store_are_one_line(store, tmp_path, capsys):
    assert "did you mean sim1/A" in refused(capsys, "info", store, "sim1/B")
    assert "qf import" in refused(capsys, "info", tmp_path / "nowhere")


def test_damaged_file_is_named_and_the_others_are_shown(tmp_path, capsys):
    path = tmp_path / "store"
    main(["simulate", str(path), *SIM])
    (path / "sim1__cut.nc").write_bytes((path / "sim1__A.nc").read_bytes()[:3000])
    capsys.readouterr()
    assert main(["info", str(path)]) == 2
    shown = capsys.readouterr()
    assert "sim1/A" in shown.out and "sim1__cut.nc" in shown.err


def arrays(tmp_path, name="F.npy"):
    rng = np.random.default_rng(0)
    np.save(tmp_path / name, rng.gamma(4, 25, (3, 600)).astype(np.float32))
    pd.DataFrame({"onset_frame": [100, 250, 400], "direction": [0, 90, 0]}).to_csv(tmp_path / "trials.csv", index=False)
    return tmp_path / name


def test_import_arrays_with_trials(tmp_path, capsys):
    argv = ["import", "arrays", arrays(tmp_path), "--rate", "10", "--trials", tmp_path / "trials.csv", "--subject", "m", "--session", "d1"]
    argv = [str(a) for a in [*argv, "--store", tmp_path / "store"]]
    assert main(argv) == 0
    assert "m/d1: 3 neurons, 600 frames at 10 Hz, 3 trials, flagged: none" in capsys.readouterr().out
    assert list(qf.open_store(tmp_path / "store").index["condition"].unique()) == ["stimulus/direction=0", "stimulus/direction=90"]
    assert main(argv) == 0 and "1 of 1 recordings are in the store already" in capsys.readouterr().out
    pd.DataFrame({"onset_frame": [100, 250], "direction": [0, 90]}).to_csv(tmp_path / "trials.csv", index=False)
    assert "--overwrite" in " ".join([str(main(argv)), capsys.readouterr().err])  # another trial table is another import
    assert main([*argv, "--overwrite"]) == 0 and len(qf.open_store(tmp_path / "store").index) == 2


def test_one_bad_file_is_reported_and_the_good_one_is_stored(tmp_path, capsys):
    good, bad = arrays(tmp_path), tmp_path / "bad.npy"
    bad.write_bytes(good.read_bytes()[:300])
    argv = ["import", "arrays", str(bad), str(good), "--rate", "10", "--subject", "m", "--store", str(tmp_path / "store")]
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert "bad.npy" in shown.err and "1 of 2" in shown.err
    assert qf.open_store(tmp_path / "store").keys() == ["m/F"]


def test_every_roi_and_no_trials(tmp_path, capsys):
    plane = tmp_path / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    np.save(plane / "F.npy", np.random.default_rng(0).uniform(90, 110, (3, 400)).astype(np.float32))
    np.save(plane / "Fneu.npy", np.ones((3, 400), np.float32))
    np.save(plane / "iscell.npy", np.array([[1, 0.9], [0, 0.1], [1, 0.8]]))
    for flags, n in (([], 2), (["--all-rois", "--overwrite"], 3)):
        assert main(["import", "suite2p", str(tmp_path / "suite2p"), "--rate", "10", "--store", str(tmp_path / "store"), *flags]) == 0
        assert f"{n} neurons" in capsys.readouterr().out
    assert "--no-trials" in refused(capsys, "import", "suite2p", tmp_path / "suite2p", "--no-trials", "--store", tmp_path / "store")


def test_options_of_another_importer_are_refused(tmp_path, capsys):
    line = refused(capsys, "import", "nwb", arrays(tmp_path), "--rate", "10", "--store", tmp_path / "store")
    assert "--rate" in line and "import nwb" in line
    assert not (tmp_path / "store").exists()


def test_missing_source_and_rate(tmp_path, capsys):
    assert "nothing there" in refused(capsys, "import", "nwb", tmp_path / "no.nwb", "--store", tmp_path / "store")
    assert main(["import", "arrays", str(arrays(tmp_path)), "--store", str(tmp_path / "store")]) == 2
    assert "--rate" in capsys.readouterr().err


def test_bad_windows_and_splits_are_one_line(store, tmp_path, capsys):
    out = tmp_path / "model"
    assert "f0_s" in refused(capsys, "pretrain", store, "--out", out, "--f0", "9")
    assert "did you mean drifting_gratings" in refused(capsys, "pretrain", store, "--out", out, "--stimulus", "drifting_grating")
    assert "--test" in refused(capsys, "pretrain", store, "--out", out, "--test", "0.5")
    assert "--gap" in refused(capsys, "pretrain", store, "--out", out, "--gap", "1")
    assert "expected a saved model" in refused(capsys, "fit", store, "--pretrained", tmp_path, "--out", out)
    assert not out.exists()


def test_broken_pipe_is_quiet(store):
    process = subprocess.Popen([sys.executable, "-m", "qf_toolkit.cli.main", "info", str(store)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_ctrl_c_exits_with_130(store, tmp_path):
    argv = [
        sys.executable,
        "-u",
        "-m",
        "qf_toolkit.cli.main",
        "pretrain",
        str(store),
        "--out",
        str(tmp_path / "m"),
        "--epochs",
        "100000",
        "--f0",
        "1",
        *SMALL,
    ]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests that run in the background inherit that it is ignored
    )  # fmt: skip
    assert b"Split" in process.stdout.readline()  # it is at work
    for last in (False, False, True):
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=25)
            break
        except subprocess.TimeoutExpired:  # about one in ten is swallowed, probably by torch's own late imports
            if last:
                process.kill()
                raise
    assert process.returncode == 130
    assert b"Traceback" not in err and b"qf: stopped" in err


def test_from_a_store_to_a_table(store, tmp_path, capsys):
    base, forecast, activation = tmp_path / "base", tmp_path / "forecast", tmp_path / "activation"
    assert main(["pretrain", str(store), "--out", str(base), "--f0", "1", "--test", "1", "--epochs", "1", "--quiet", *SMALL, *GRATINGS]) == 0
    settings = json.loads((base / "config.json").read_text())["run"]["settings"]
    assert settings["f0_s"] == 1 and settings["test"] == 1
    for task, out in (("forecast", forecast), ("activation", activation)):
        assert main(["fit", str(store), "--pretrained", str(base), "--task", task, "--out", str(out), "--epochs", "1", "--quiet"]) == 0
        assert json.loads((out / "config.json").read_text())["run"]["settings"] == settings  # reused, not asked for again
    capsys.readouterr()

    file = tmp_path / "out" / "forecasts.nc"
    assert main(["forecast", str(store), "--model", str(forecast), "--out", str(file), "--decode", "argmax"]) == 0
    ds = xr.load_dataset(file, engine="h5netcdf")
    assert ds["forecast"].dims == ("trial", "neuron", "time") and np.isfinite(ds["forecast"]).all()
    assert set(ds["block"].values) == {1} and ds.sizes["time"] == 60
    assert "--decode" in refused(capsys, "forecast", store, "--model", activation, "--out", file, "--decode", "soft")

    argv = ["evaluate", store, "--model", forecast, activation, "--out", tmp_path / "t.csv", "--figures", tmp_path / "figures"]
    assert main([str(a) for a in argv]) == 0
    assert "t.csv" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "t.csv", index_col=0)
    assert "QuantFormer" in table.index and len(table) >= 7 and (table["mse"] > 0).all()
    assert "balanced_accuracy" in pd.read_csv(tmp_path / "t_activation.csv")
    assert {"forecasts.svg", "forecasts.png"} <= {p.name for p in (tmp_path / "figures").iterdir()}
    # two models of one kind are told apart by their folders; one saved from Python brings its window and conditions along
    qf.load(forecast).save(tmp_path / "python")
    argv = [
        "evaluate",
        store,
        "--model",
        forecast,
        tmp_path / "python",
        "--test",
        "1",
        "--out",
        tmp_path / "two.csv",
        "--samples",
        "5",
        "--bootstrap",
    ]
    assert main([str(a) for a in argv]) == 0
    two = pd.read_csv(tmp_path / "two.csv", index_col=0)
    assert list(two.index[:2]) == [f"QuantFormer ({forecast})", f"QuantFormer ({tmp_path / 'python'})"]
    assert two["mse"].iloc[0] == pytest.approx(two["mse"].iloc[1]) and (two["coverage_90"].iloc[:2] > 0).all()
    differences = pd.read_csv(tmp_path / "two_differences.csv")
    assert len(differences) == 2 * 9 and (differences["mse_lower_from"] <= differences["mse_lower_to"]).all()
    assert main(["evaluate", str(store), "--model", str(tmp_path / "python"), "--test", "1", "--quiet"]) == 0
    assert "--figures" in refused(capsys, "evaluate", store, "--model", activation, "--figures", tmp_path / "figures")
    # another split than it was trained with would test on what it has seen
    assert "saw" in refused(capsys, "evaluate", store, "--model", forecast, "--test", "-1")


def test_several_sessions_are_forecast_into_a_file_each(tmp_path, capsys):
    path = tmp_path / "store"
    for i, session in enumerate("ab"):
        qf.Store(path, create=True).add(toy_session(i, session=session))
    base, model = tmp_path / "base", tmp_path / "model"
    assert main(["pretrain", str(path), "--out", str(base), "--epochs", "1", "--quiet", *SMALL, "--patch-frames", "10"]) == 0
    assert main(["fit", str(path), "--pretrained", str(base), "--out", str(model), "--epochs", "1", "--quiet"]) == 0
    assert main(["forecast", str(path), "--model", str(model), "--out", str(tmp_path / "f.nc"), "--quiet"]) == 0
    assert "2 files" in capsys.readouterr().out
    qf.load(model).save(tmp_path / "python")  # brings its window and conditions along
    one = ["forecast", str(path), "--model", str(tmp_path / "python"), "--out", str(tmp_path / "one.nc"), "--session", "mouse/a", "--quiet"]
    assert main(one) == 0 and (tmp_path / "one.nc").is_file()
    for session in "ab":
        ds = xr.load_dataset(tmp_path / "f" / f"mouse__{session}.nc", engine="h5netcdf")
        assert ds.sizes["neuron"] == 6 and np.isfinite(ds["forecast"]).all()


def test_demo_refuses_a_folder_of_something_else(tmp_path, capsys):
    keep = tmp_path / "thesis.txt"
    keep.write_text("mine")
    assert "--out" in refused(capsys, "demo", "--out", tmp_path, "--size", "tiny")
    assert keep.read_text() == "mine" and len(list(Path(tmp_path).iterdir())) == 1
