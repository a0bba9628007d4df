"""Bad input as a user meets it, at the command line: one clear line, an exit code, and nothing half-written."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from helpers import refused, toy_session

from qf_toolkit.cli.main import main
from qf_toolkit.recordings.store import Store

RATE, N_FRAMES = 10.0, 3000
QUICK = ["--f0", "1", "--epochs", "1", "--patch-frames", "10", "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8", "--quiet"]


@pytest.fixture
def raw(tmp_path):
    """Fluorescence of 4 neurons (F.npy) and 60 trials of 2 directions (trials.csv)."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "F.npy", (100 + 5 * rng.standard_normal((4, N_FRAMES))).astype(np.float32))
    onsets = 60 + 45 * np.arange(60)
    pd.DataFrame({"onset_frame": onsets, "direction": 90 * (np.arange(60) % 2)}).to_csv(tmp_path / "trials.csv", index=False)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of one toy recording, with a pre-trained and a fitted model."""
    path = tmp_path_factory.mktemp("trained")
    Store(path / "store", create=True).add(toy_session(0, n_conditions=2))
    assert main(["pretrain", str(path / "store"), "--out", str(path / "base"), *QUICK]) == 0
    assert main(["fit", str(path / "store"), "--pretrained", str(path / "base"), "--out", str(path / "model"), "--epochs", "1", "--quiet"]) == 0
    return path


def edit(raw, change):
    x = np.load(raw / "F.npy")
    change(x)
    np.save(raw / "F.npy", x)


def arrays(raw, *more):
    return ["import", "arrays", str(raw / "F.npy"), "--rate", str(RATE), "--trials", str(raw / "trials.csv"), "--store", str(raw / "store"), *more]


def not_imported(raw, capsys, *more):
    """The reason of a refused import, which must leave nothing in the store."""
    assert main(arrays(raw, *more)) == 2
    reason, count = capsys.readouterr().err.strip().splitlines()
    assert reason.startswith("qf: ") and "1 of 1" in count
    assert not (raw / "store").exists() or list((raw / "store").iterdir()) == []
    return reason


# ---------------------------------------------------------------- flagged and left out, with a count


def left_out(folder, capsys, *more):
    """What `qf pretrain` says of what it leaves out; the run itself must succeed."""
    capsys.readouterr()
    argv = ["pretrain", str(folder / "store"), "--out", str(folder / "model"), "--split", "chronological", *QUICK, *more]
    assert main(argv) == 0
    return " ".join(line for line in capsys.readouterr().err.splitlines() if line.startswith("qf: note: left out"))


def test_silent_constant_dark_and_missing_neurons(raw, capsys):
    def change(x):
        x[0] = 0
        x[1] = 42
        x[2, : N_FRAMES * 2 // 3] = np.nan

    edit(raw, change)
    x = np.load(raw / "F.npy")
    np.save(raw / "F.npy", np.concatenate([x, [x[3] / 1000], x[3:] + 1]))
    assert main(arrays(raw)) == 0
    assert "flagged: 1 constant, 1 nan, 1 silent, 1 tiny_f0" in capsys.readouterr().out
    assert "1 of 6 neurons (constant), 1 of 6 neurons (nan), 1 of 6 neurons (silent), 1 of 6 neurons (tiny_f0)" in left_out(raw, capsys)


def test_a_stretch_of_nan_costs_its_observations_alone(raw, capsys):
    edit(raw, lambda x: x[1].__setitem__(slice(500, 600), np.nan))
    assert main(arrays(raw)) == 0
    assert "flagged: none" in capsys.readouterr().out
    onsets = pd.read_csv(raw / "trials.csv")["onset_frame"]
    touched = ((onsets - 30 < 600) & (onsets + 20 > 500)).sum()  # all of them in the training part
    assert f"left out: {touched} of " in left_out(raw, capsys)


def test_windows_over_the_end_are_counted(raw, capsys):
    table = pd.read_csv(raw / "trials.csv")
    table.loc[len(table)] = [N_FRAMES - 5, 0]
    table.loc[len(table)] = [10, 0]
    table.to_csv(raw / "trials.csv", index=False)
    assert main(arrays(raw)) == 0
    assert "2 of 62 windows (not whole inside the recording)" in left_out(raw, capsys)


def test_tiny_f0_in_some_windows(raw, capsys):
    edit(raw, lambda x: x[1].__setitem__(slice(500, 600), 0.01))
    assert main(arrays(raw)) == 0
    assert "F0 too small" in left_out(raw, capsys)


# ---------------------------------------------------------------- refused at import


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_no_neuron_is_left(raw, capsys, value):
    edit(raw, lambda x: x.fill(value))
    assert main(arrays(raw)) == 0  # a recording may be looked at; it can't be learnt from
    assert "flagged: 4" in capsys.readouterr().out
    line = refused(capsys, "pretrain", raw / "store", "--out", raw / "model", *QUICK)
    assert "no observation is left" in line and "4 of 4 neurons" in line and not (raw / "model").exists()


def test_no_trial_is_left(raw, capsys):
    assert main(arrays(raw)) == 0
    line = refused(capsys, "pretrain", raw / "store", "--out", raw / "model", *QUICK, "--baseline", "400")
    assert "no observation is left" in line and "60 of 60 windows" in line and not (raw / "model").exists()


@pytest.mark.parametrize("onset", [-1, N_FRAMES, 10 * N_FRAMES])
def test_onset_outside_the_recording(raw, capsys, onset):
    table = pd.read_csv(raw / "trials.csv")
    table.loc[3, "onset_frame"] = onset
    table.to_csv(raw / "trials.csv", index=False)
    line = not_imported(raw, capsys)
    assert f"expected 0 to {N_FRAMES - 1}" in line and str(onset) in line and "onset_s" in line


def test_duplicate_keys(raw, capsys):
    table = pd.read_csv(raw / "trials.csv")
    pd.concat([table, table.iloc[[5]]]).to_csv(raw / "trials.csv", index=False)
    assert "found frame 285 twice" in not_imported(raw, capsys)
    table.to_csv(raw / "trials.csv", index=False)
    assert main(arrays(raw)) == 0
    before = {p.name: p.read_bytes() for p in (raw / "store").iterdir()}
    np.save(raw / "F.npy", np.load(raw / "F.npy") + 1)
    assert main(arrays(raw)) == 2  # another recording, and a session of that name is there
    assert "--overwrite" in capsys.readouterr().err and {p.name: p.read_bytes() for p in (raw / "store").iterdir()} == before


def test_percent(raw, capsys):
    np.save(raw / "F.npy", np.random.default_rng(0).normal(5, 20, (4, N_FRAMES)).astype(np.float32))
    line = not_imported(raw, capsys, "--signal", "dff")
    assert "percent" in line and "Divide percent by 100" in line


@pytest.mark.parametrize("content", [b"", b"not a recording", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_no_nwb_file(raw, capsys, content):
    (raw / "x.nwb").write_bytes(content)
    assert main(["import", "nwb", str(raw / "x.nwb"), "--store", str(raw / "store")]) == 2
    assert "x.nwb" in capsys.readouterr().err and list((raw / "store").iterdir()) == []


def test_no_suite2p_folder(raw, capsys):
    assert main(["import", "suite2p", str(raw), "--rate", "30", "--store", str(raw / "store")]) == 2
    err = capsys.readouterr().err
    assert "iscell" in err or "Fneu" in err
    (raw / "empty").mkdir()
    assert main(["import", "suite2p", str(raw / "empty"), "--rate", "30", "--store", str(raw / "store")]) == 2
    assert "F.npy" in capsys.readouterr().err and list((raw / "store").iterdir()) == []


def nwb(path, traces=True):
    pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

    file = pynwb.NWBFile("test", "id", datetime(2020, 1, 1, tzinfo=UTC), session_id="d1")
    file.subject = pynwb.file.Subject(subject_id="m1", species="Mus musculus")
    module = file.create_processing_module("ophys", "traces")
    if traces:
        channel = OpticalChannel(name="green", description="d", emission_lambda=520.0)
        plane = file.create_imaging_plane(
            name="plane", optical_channel=channel, description="d", device=file.create_device("scope"), excitation_lambda=920.0,
            indicator="GCaMP6f", location="V1", imaging_rate=RATE,
        )  # fmt: skip
        segmentation = ImageSegmentation()
        module.add(segmentation)
        table = segmentation.create_plane_segmentation(name="rois", description="d", imaging_plane=plane)
        for i in range(3):
            table.add_roi(pixel_mask=[(0, i, 1.0)])
        rois = table.create_roi_table_region(region=[0, 1, 2], description="all")
        data = np.random.default_rng(0).normal(0, 0.1, (400, 3)).astype(np.float32)
        module.add(DfOverF(roi_response_series=RoiResponseSeries(name="RoiResponseSeries", data=data, rois=rois, unit="lumens", rate=RATE)))
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(file)


def test_nwb_with_neither_fluorescence_nor_dff(tmp_path, capsys):
    nwb(tmp_path / "x.nwb", traces=False)
    assert main(["import", "nwb", str(tmp_path / "x.nwb"), "--store", str(tmp_path / "store")]) == 2
    err = capsys.readouterr().err
    assert "x.nwb" in err and "DfOverF" in err and "Fluorescence" in err and list((tmp_path / "store").iterdir()) == []


def test_nwb_without_trials_is_a_continuous_recording(tmp_path, capsys):
    nwb(tmp_path / "x.nwb")
    assert main(["import", "nwb", str(tmp_path / "x.nwb"), "--store", str(tmp_path / "store")]) == 0
    assert "m1/d1: 3 neurons, 400 frames at 10 Hz, 0 trials" in capsys.readouterr().out
    assert "continuous" in refused(capsys, "pretrain", tmp_path / "store", "--out", tmp_path / "model")


# ---------------------------------------------------------------- refused in training and at prediction


def test_a_rate_that_makes_a_window_shorter_than_a_patch(trained, tmp_path, capsys):
    line = refused(capsys, "pretrain", trained / "store", "--out", tmp_path / "m", "--response", "1", "--patch-frames", "16")
    assert "patch_frames" in line and "10 Hz" in line and "found 16" in line and not (tmp_path / "m").exists()


def another(tmp_path, **options):
    """A copy of the trained store's recording under other conditions of recording."""
    Store(tmp_path / "other", create=True).add(toy_session(1, **{"n_conditions": 2, **options}))
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_hz": 30.0}, "expected 10 Hz, the model's, found 30 Hz"),
        ({"n_neurons": 7, "matched": True}, "unknown to the model"),
        ({"n_neurons": 7}, "neuron: 'mouse/one/6' unknown to the model; did you mean"),
        ({"n_conditions": 3}, "condition: 'drifting_gratings/orientation=90' unknown to the model; did you mean"),
    ],
)
def test_other_recordings_than_the_model_knows(trained, tmp_path, capsys, options, words):
    out = tmp_path / "f.nc"
    assert words in refused(capsys, "forecast", another(tmp_path, **options), "--model", trained / "model", "--out", out)
    assert words in refused(capsys, "evaluate", tmp_path / "other", "--model", trained / "model", "--out", tmp_path / "t.csv")
    assert not out.exists() and not (tmp_path / "t.csv").exists()


def test_a_store_of_a_newer_schema(trained, tmp_path, capsys):
    import h5py

    shutil.copytree(trained / "store", tmp_path / "store")
    (file,) = (tmp_path / "store").glob("*.nc")
    with h5py.File(file, "r+") as f:
        f.attrs["schema_version"] = 99
    line = refused(capsys, "info", tmp_path / "store")
    assert file.name in line and "99" in line and "newer qf_toolkit" in line
    assert "99" in refused(capsys, "pretrain", tmp_path / "store", "--out", tmp_path / "m") and not (tmp_path / "m").exists()


def test_odd_models_are_named(trained, tmp_path, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    config, file = tmp_path / "model" / "config.json", tmp_path / "model" / "model.safetensors"
    kept = config.read_text()
    config.write_text(kept.replace('"validation": 0.15', '"validation": "x"'))
    forecast = ["forecast", trained / "store", "--model", tmp_path / "model", "--out", tmp_path / "f.nc"]
    assert "run.settings.validation: expected a share between 0 and 1" in refused(capsys, *forecast)
    config.write_text(kept)
    file.write_bytes(file.read_bytes()[:1000])
    line = refused(capsys, "forecast", trained / "store", "--model", tmp_path / "model", "--out", tmp_path / "f.nc")
    assert "model.safetensors" in line and not (tmp_path / "f.nc").exists()
    assert "auto-encoder" in refused(capsys, "evaluate", trained / "store", "--model", trained / "base")
    shutil.copytree(trained / "base", tmp_path / "base")
    note = json.loads((tmp_path / "base" / "config.json").read_text())
    note["model"]["future"] = 1
    (tmp_path / "base" / "config.json").write_text(json.dumps(note))
    line = refused(capsys, "fit", trained / "store", "--pretrained", tmp_path / "base", "--out", tmp_path / "m")
    assert "another version" in line and "future" in line
    assert "--pretrained" in refused(capsys, "fit", trained / "store", "--pretrained", trained / "model", "--out", tmp_path / "m")


# a real limit on the size of files stands for a disk that is full half way
FULL = """
import resource, signal, sys
from qf_toolkit.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are POSIX")
@pytest.mark.parametrize("command", ["import", "simulate", "pretrain", "fit", "forecast", "evaluate"])
def test_a_full_disk_half_way(trained, raw, command):
    store, out = str(trained / "store"), raw / "out"
    argv = {
        "import": arrays(raw),
        "simulate": ["simulate", str(raw / "store"), "--neurons", "2", "--repeats", "3", "--directions", "2", "--temporal-frequencies", "1"],
        "pretrain": ["pretrain", store, "--out", str(out), *QUICK],
        "fit": ["fit", store, "--pretrained", str(trained / "base"), "--out", str(out), "--epochs", "1"],
        "forecast": ["forecast", store, "--model", str(trained / "model"), "--out", str(out / "f.nc")],
        "evaluate": ["evaluate", store, "--model", str(trained / "model"), "--figures", str(out)],
    }[command]
    limit = "6000" if command in ("evaluate", "forecast") else "20000"
    done = subprocess.run([sys.executable, "-c", FULL, limit, *argv], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "could not write" in done.stderr, done.stderr
    written = [p for folder in (raw / "store", out) if folder.exists() for p in folder.rglob("*") if p.is_file()]
    # small files that were whole before the disk was full may stay; none is cut short, and no temporary one is left
    assert not [p for p in written if p.suffix in (".nc", ".safetensors", ".svg", ".png") or p.suffix == ".part"], written


# ---------------------------------------------------------------- odd, and taken


def test_columns_named_like_parts_of_a_session(raw, capsys):
    """A feature may be called anything: the store, the windows and the forecasts must still work."""
    table = pd.read_csv(raw / "trials.csv")
    for name in ("subject", "session", "time", "active", "valid", "dff", "frame", "forecast"):
        table[name] = 1.0
    table.to_csv(raw / "trials.csv", index=False)
    assert main(arrays(raw)) == 0
    assert left_out(raw, capsys) == ""
    capsys.readouterr()
    assert main(["info", str(raw / "store")]) == 0
    fit = ["fit", str(raw / "store"), "--pretrained", str(raw / "model"), "--out", str(raw / "fit"), "--epochs", "1", "--quiet"]
    assert main(fit) == 0
    assert main(["forecast", str(raw / "store"), "--model", str(raw / "fit"), "--out", str(raw / "f.nc"), "--part", "all"]) == 0
    assert "60 trials forecast" in capsys.readouterr().out


def test_each_trial_a_condition_of_its_own(raw, capsys):
    table = pd.read_csv(raw / "trials.csv").assign(reaction_time=np.random.default_rng(0).random(60).round(6))
    table.to_csv(raw / "trials.csv", index=False)
    assert main(arrays(raw)) == 0
    argv = ["pretrain", raw / "store", "--out", raw / "model", "--split", "chronological", *QUICK]
    assert main([str(a) for a in argv]) == 0
    fit = ["fit", raw / "store", "--pretrained", raw / "model", "--epochs", "1", "--quiet", "--out", raw / "fit"]
    assert main([str(a) for a in fit]) == 0 and "one for all of them" in capsys.readouterr().err  # its category has it
    line = refused(capsys, *fit[:-1], raw / "other", "--stim-token", "condition")
    assert "without a token" in line and "--stim-token category" in line
    assert main(arrays(raw, "--overwrite", "--condition-columns", "direction")) == 0
    assert Store(raw / "store").index["condition"].nunique() == 2


def test_trials_shorter_than_a_frame(raw):
    table = pd.read_csv(raw / "trials.csv")
    onset = (table["onset_frame"] / RATE).round(3)
    pd.DataFrame({"onset_s": onset, "offset_s": onset + 0.05, "direction": table["direction"]}).to_csv(raw / "trials.csv", index=False)
    assert main(arrays(raw)) == 0
    index = Store(raw / "store").index
    assert (index["offset_frame"] == index["onset_frame"] + 1).all()


def test_a_stimulus_with_a_slash(raw, capsys):
    pd.read_csv(raw / "trials.csv").assign(stimulus="gratings/left").to_csv(raw / "trials.csv", index=False)
    assert "without slash, found 'gratings/left'" in not_imported(raw, capsys)


def test_settings_out_of_range(trained, tmp_path, capsys):
    base = ["pretrain", trained / "store", "--out", tmp_path / "m", *QUICK]
    wrong = {"--device": "gpu", "--heads": "0", "--layers": "0", "--width": "-8", "--seed": "99999999999999999", "--patience": "-1", "--lr": "0"}
    for option, value in {**wrong, "--replace-below": "0.5"}.items():
        line = refused(capsys, *base, option, value)
        assert line.startswith(f"qf: {option}: ") and (value in line or "found 0" in line), line
    assert "--gap" in refused(capsys, *base, "--split", "chronological", "--gap", "-1")
    assert not (tmp_path / "m" / "config.json").exists()


def test_windows_of_rates_that_round_differently(tmp_path, capsys):
    store = Store(tmp_path / "store", create=True)
    store.add(toy_session(0, n_conditions=2, session="a", rate_hz=30.0))
    store.add(toy_session(1, n_conditions=2, session="b", rate_hz=30.2))
    line = refused(capsys, "pretrain", store.path, "--out", tmp_path / "m", *QUICK)
    assert "expected windows of 90 + 60 frames" in line and "found 91 + 60" in line and "mouse/b" in line
