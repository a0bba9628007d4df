"""Visual Coding files that are damaged or ask for what can't be: named in one line."""

import warnings

import h5py
import numpy as np
import pytest
from allen_files import noise_session
from helpers import refused

from qf_toolkit.cli.main import main
from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.importers.allen import PIPELINE, read_allen
from qf_toolkit.recordings.simulated.visual_coding_files import simulate_container
from qf_toolkit.recordings.store import Store
from qf_toolkit.recordings.window import Window

pytest.importorskip("allensdk", reason="allensdk is not installed: try `make allen`")


# --- bad input


def cut_short(path):
    with open(path, "r+b") as f:
        f.truncate(path.stat().st_size * 2 // 3)


def remove(*names):
    def change(path):
        with h5py.File(path, "a") as f:
            for name in names:
                del f[name]

    return change


def rename_features(path):
    with h5py.File(path, "a") as f:
        del f["stimulus/presentation/drifting_gratings_stimulus/features"]
        f["stimulus/presentation/drifting_gratings_stimulus/features"] = np.array(["TF", "Ori", "blank_sweep"], "S")


def shuffle_times(path):
    with h5py.File(path, "a") as f:
        f[f"{PIPELINE}/Fluorescence/imaging_plane_1/timestamps"][7] = np.nan


def traces_are_a_group(path):
    with h5py.File(path, "a") as f:
        del f[f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response/data"]
        f.create_group(f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response/data")


def damage_a_mask(path):
    with h5py.File(path, "r") as f:
        at = f[f"{PIPELINE}/ImageSegmentation/imaging_plane_1/roi_002/img_mask"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(b"\xff" * 40)


BAD = {
    "no HDF5 file": (lambda p: p.write_bytes(b"not at all"), DamagedFileError, "can't be opened"),
    "truncated": (cut_short, DamagedFileError, "cut short"),
    "no session": (remove(PIPELINE), SessionError, "expected a two-photon session of Visual Coding"),
    "missing stimulus": (remove("stimulus/presentation/drifting_gratings_stimulus"), SessionError, "expected the stimulus drifting_gratings of a three_session_A"),
    "half a stimulus": (remove("stimulus/presentation/drifting_gratings_stimulus/frame_duration"), SessionError, "as allensdk reads it, found one that it can't read"),
    "missing neuropil": (remove(f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response"), SessionError, "--traces raw or dff"),
    "other columns": (rename_features, SessionError, "drifting_gratings: expected the columns orientation, temporal_frequency, found TF, Ori, blank_sweep"),
    "no frames in order": (shuffle_times, SessionError, "timestamps: expected increasing seconds"),
    "a group for traces": (traces_are_a_group, SessionError, "expected a Visual Coding session"),
    "a damaged mask": (damage_a_mask, DamagedFileError, "found data that can't be read"),
    "missing dF/F": (remove(f"{PIPELINE}/DfOverF"), SessionError, "for the dff traces, found none. Take other --traces"),
    "missing timestamps": (remove(f"{PIPELINE}/Fluorescence/imaging_plane_1/timestamps"), SessionError, "expected a two-photon session"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_in_one_line(tmp_path, capsys, name):
    change, error, text = BAD[name]
    traces = "dff" if "dF/F" in name else "corrected"
    path = tmp_path / "a.nwb"
    noise_session(path)
    change(path)
    with pytest.raises(error, match=text):
        read_allen(path, traces=traces)
    store = tmp_path / "store"
    assert main(["import", "allen", "--files", str(path), "--store", str(store), "--traces", traces]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([x for x in lines if text in x and str(path) in x]) == 1 and "Traceback" not in "".join(lines)
    assert not list(store.glob("*")) and not list(store.glob(".*"))
    if "neuropil" in name:
        assert read_allen(path, traces="raw").sizes["neuron"] == 5


def test_nwb_2_given_as_nwb_1_and_the_other_way(tmp_path, capsys):
    with h5py.File(tmp_path / "two.nwb", "w") as f:
        f.attrs["nwb_version"] = "2.7.0"
    noise_session(tmp_path / "one.nwb")
    with pytest.raises(SessionError, match="qf import nwb"):
        read_allen(tmp_path / "two.nwb")
    assert main(["import", "nwb", str(tmp_path / "one.nwb"), "--store", str(tmp_path / "s")]) == 2
    assert "qf import allen --files" in capsys.readouterr().err


def test_no_complete_window_left(tmp_path, capsys):
    noise_session(tmp_path / "a.nwb", frames=2600)
    assert main(["import", "allen", "--files", str(tmp_path / "a.nwb"), "--store", str(tmp_path / "s")]) == 0
    capsys.readouterr()
    line = refused(capsys, "pretrain", tmp_path / "s", "--out", tmp_path / "m", "--baseline", "60", "--response", "60")
    assert "no observation is left (36 of 36 windows" in line and not (tmp_path / "m").exists()


def test_wrong_arguments(tmp_path):
    noise_session(tmp_path / "a.nwb")
    with pytest.raises(QfError, match="traces: expected one of 'corrected'"):
        read_allen(tmp_path / "a.nwb", traces="best")
    with pytest.raises(QfError, match="found nothing"):
        read_allen(tmp_path / "b.nwb")
    with pytest.raises(QfError, match="found a folder"):
        read_allen(tmp_path)


def test_a_quiet_import_warns_of_nothing(tmp_path):
    noise_session(tmp_path / "a.nwb")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_allen(tmp_path / "a.nwb")
    assert Window().frames(30.1) == (90, 60, 60)


@pytest.mark.parametrize("wrong", [{"sessions": ("D",)}, {"repeats": 0}, {"seed": -1}, {"rate_hz": 4.0}, {"gap_s": 3.0}, {"shared": 2.0}])
def test_a_container_that_can_t_be_simulated(tmp_path, wrong):
    with pytest.raises(QfError, match="expected|not in the protocol"):
        simulate_container(tmp_path / "c", **wrong)
    assert not (tmp_path / "c").exists()


def test_a_folder_gives_each_session_file_once(tmp_path, capsys):
    (tmp_path / "in" / "x.nwb").mkdir(parents=True)
    noise_session(tmp_path / "in" / "A.NWB", cells=2, frames=1200, trials=4)
    (tmp_path / "in" / "._A.NWB").write_bytes(b"a resource fork")
    argv = ["import", "allen", "--files", str(tmp_path / "in"), str(tmp_path / "in" / "A.NWB"), "--store", str(tmp_path / "s")]
    assert main(argv) == 0 and Store(tmp_path / "s").keys() == ["7/A_42"]
    assert main([*argv, "--traces", "corrected"]) == 0 and "1 of 1 recordings are in the store already" in capsys.readouterr().out
    assert main([*argv, "--traces", "raw"]) == 2 and "--overwrite" in capsys.readouterr().err


def test_a_damaged_session_of_the_container_hides_no_report(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "7__Z.nc").write_bytes(b"junk")
    noise_session(tmp_path / "a.nwb", cells=2, frames=1200, trials=4)
    (tmp_path / "b.nwb").write_bytes(b"junk")
    assert main(["import", "allen", "--files", str(tmp_path / "a.nwb"), str(tmp_path / "b.nwb"), "--store", str(tmp_path / "s")]) == 1
    err = capsys.readouterr().err
    assert "b.nwb" in err and "1 of 2 recordings were not imported" in err and "7__Z.nc" in err
