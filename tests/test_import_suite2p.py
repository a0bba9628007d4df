"""Importing suite2p folders."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.importers.suite2p import read_suite2p

DATA = Path(__file__).parents[2] / "shared" / "data"
N, T = 5, 200


def write_plane(folder, n=N, t=T, seed=0, fs=None, cells=(1, 0, 1, 1, 0)):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    f, neu = rng.uniform(100, 200, (n, t)).astype(np.float32), rng.uniform(10, 20, (n, t)).astype(np.float32)
    np.save(folder / "F.npy", f)
    np.save(folder / "Fneu.npy", neu)
    np.save(folder / "iscell.npy", np.stack([np.array(cells, float), np.full(n, 0.5)], 1))
    if fs is not None:
        np.save(folder / "ops.npy", {"fs": np.float64(fs), "meanImg": np.ones((3, 3)), "save_path": folder}, allow_pickle=True)
    return f, neu


def test_neuropil_is_subtracted_and_cells_are_kept_by_iscell(tmp_path):
    f, neu = write_plane(tmp_path / "rec" / "suite2p" / "plane0")
    ds = read_suite2p(tmp_path / "rec" / "suite2p", rate_hz=30)
    np.testing.assert_allclose(ds["fluorescence"].values, (f - 0.7 * neu)[[0, 2, 3]], rtol=1e-5)
    assert ds["fluorescence"].dtype == np.float32
    assert ds["neuron"].values.tolist() == ["rec/rec/0", "rec/rec/2", "rec/rec/3"]
    assert "F - 0.7 Fneu" in ds.attrs["provenance"] and ds.attrs["rate_hz"] == 30
    every = read_suite2p(tmp_path / "rec", rate_hz=30, iscell=False, neuropil=0)
    np.testing.assert_array_equal(every["fluorescence"].values, f)


def test_planes_are_joined_trimmed_and_named(tmp_path):
    f0, _ = write_plane(tmp_path / "suite2p" / "plane0", seed=0)
    f1, _ = write_plane(tmp_path / "suite2p" / "plane1", seed=1, t=T - 1)
    write_plane(tmp_path / "suite2p" / "combined", n=10, cells=[1] * 10)
    ds = read_suite2p(tmp_path / "suite2p", rate_hz=10, neuropil=0, subject="m", session="s")
    assert [k.split("/")[-1] for k in ds["neuron"].values] == ["p0_0", "p0_2", "p0_3", "p1_0", "p1_2", "p1_3"]
    assert ds["plane"].values.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(ds["fluorescence"].values, np.concatenate([f0[[0, 2, 3], :-1], f1[[0, 2, 3]]]))
    alone = read_suite2p(tmp_path / "suite2p", rate_hz=10, neuropil=0, subject="m", session="s", plane=1)
    assert alone["neuron"].values.tolist() == ds["neuron"].values[3:].tolist()
    folder = read_suite2p(tmp_path / "suite2p" / "plane1", rate_hz=10, neuropil=0, subject="m", session="s")
    assert folder.identical(alone)
    with pytest.raises(QfError, match="did you mean plane1|known: plane0, plane1"):
        read_suite2p(tmp_path / "suite2p", rate_hz=10, plane=7)


def test_planes_of_other_lengths_are_refused(tmp_path):
    write_plane(tmp_path / "plane0")
    write_plane(tmp_path / "plane1", t=T - 2)
    with pytest.raises(SessionError, match="198 to 200 frames"):
        read_suite2p(tmp_path, rate_hz=10)


def test_rate_comes_from_ops(tmp_path):
    write_plane(tmp_path / "a" / "plane0", fs=15.5)
    assert read_suite2p(tmp_path / "a").attrs["rate_hz"] == 15.5
    assert read_suite2p(tmp_path / "a", rate_hz=20).attrs["rate_hz"] == 20
    write_plane(tmp_path / "b" / "plane0")
    with pytest.raises(QfError, match="--rate"):
        read_suite2p(tmp_path / "b")


class Evil:
    """A pickle that would run code."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_ops_runs_no_code_and_broken_ops_are_named(tmp_path):
    write_plane(tmp_path / "plane0", fs=10)
    ops = tmp_path / "plane0" / "ops.npy"
    np.save(ops, np.array({"fs": Evil(tmp_path / "ran")}, dtype=object), allow_pickle=True)
    with pytest.raises(DamagedFileError, match=r"ops\.npy.*--rate"):
        read_suite2p(tmp_path)
    assert not (tmp_path / "ran").exists()
    for content in (b"", b"hello", pickle.dumps({"fs": 1})):
        ops.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"ops\.npy"):
            read_suite2p(tmp_path)
    np.save(ops, {"nplanes": 1}, allow_pickle=True)
    with pytest.raises(QfError, match="under fs"):
        read_suite2p(tmp_path)


def test_trials_from_a_table_and_its_file(tmp_path):
    write_plane(tmp_path / "plane0")
    table = pd.DataFrame({"onset_s": [2.0, 5.0], "offset_s": [3.0, 6.0], "orientation": [0, 90], "stimulus": "gratings"})
    table.to_csv(tmp_path / "t.csv", index=False)
    a, b = (read_suite2p(tmp_path, rate_hz=10, trials=t) for t in (table, tmp_path / "t.csv"))
    assert a.identical(b)
    assert a["onset_frame"].values.tolist() == [20, 50] and a["offset_frame"].values.tolist() == [30, 60]
    assert a["condition"].values.tolist() == ["gratings/orientation=0", "gratings/orientation=90"]


def test_missing_and_odd_folders(tmp_path):
    with pytest.raises(QfError, match="found nothing"):
        read_suite2p(tmp_path / "none", rate_hz=10)
    with pytest.raises(QfError, match="expected a suite2p folder"):
        read_suite2p(tmp_path, rate_hz=10)
    plane = tmp_path / "plane0"
    write_plane(plane)
    (plane / "Fneu.npy").unlink()
    with pytest.raises(QfError, match="neuropil=0"):
        read_suite2p(tmp_path, rate_hz=10)
    assert read_suite2p(tmp_path, rate_hz=10, neuropil=0).sizes["neuron"] == 3
    (plane / "iscell.npy").unlink()
    with pytest.raises(QfError, match="iscell=False"):
        read_suite2p(tmp_path, rate_hz=10, neuropil=0)


@pytest.mark.parametrize("name, shape", [("Fneu.npy", (N, T - 1)), ("iscell.npy", (N - 1, 2)), ("F.npy", (N,))])
def test_shapes_that_differ_are_refused(tmp_path, name, shape):
    write_plane(tmp_path / "plane0")
    np.save(tmp_path / "plane0" / name, np.ones(shape))
    with pytest.raises(SessionError, match=name):
        read_suite2p(tmp_path, rate_hz=10)


@pytest.mark.parametrize("name", ["F.npy", "Fneu.npy", "iscell.npy"])
def test_truncated_files_are_named(tmp_path, name):
    write_plane(tmp_path / "plane0")
    path = tmp_path / "plane0" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DamagedFileError, match=name):
        read_suite2p(tmp_path, rate_hz=10)


def test_no_cell_left(tmp_path):
    write_plane(tmp_path / "plane0", cells=(0, 0, 0, 0, 0))
    with pytest.raises(SessionError, match="iscell=False"):
        read_suite2p(tmp_path, rate_hz=10)


def test_real_gratings():
    folder = DATA / "v1-gratings"
    if not folder.exists():
        pytest.skip("the shared recordings are absent")
    ds = read_suite2p(folder / "suite2p", rate_hz=30, trials=folder / "trials.csv", subject="m1", session="s1")
    keep = np.load(folder / "suite2p" / "plane0" / "iscell.npy")[:, 0] > 0
    assert ds.sizes["neuron"] == keep.sum() and ds.sizes["trial"] == 80
    assert len(set(ds["condition"].values)) == 8
