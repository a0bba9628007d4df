"""What importers refuse, in one line that is never a fault of qf_toolkit; and what they keep, and say that they leave out."""

import errno
import os

import h5py
import numpy as np
import pandas as pd
import pytest
from robustness.seeds import SEEDS

from qf_toolkit.cli.main import main
from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.importers.arrays import from_arrays, read_arrays
from qf_toolkit.recordings.importers.nwb import read_nwb
from qf_toolkit.recordings.importers.suite2p import read_suite2p
from qf_toolkit.recordings.store import Store, open_store

RATE, FRAMES = 10.0, 600


@pytest.fixture
def raw(tmp_path):
    SEEDS["arrays"].make(tmp_path)
    return tmp_path


def table(**columns):
    onset = 40 + 50 * np.arange(10)
    return pd.DataFrame({"onset_frame": onset, **columns})


def imported(folder, capsys, *argv):
    """(exit code, lines on stderr) of an import, which must not be called a fault of ours."""
    capsys.readouterr()
    code = main(["import", *map(str, argv), "--store", str(folder / "store"), "--quiet"])
    err = capsys.readouterr().err
    assert "fault of qf_toolkit" not in err and "Traceback" not in err and "pickle" not in err and "unsafe" not in err, err
    return code, err


# ---------------------------------------------------------------- columns of the trial table


@pytest.mark.parametrize("name", ["a/b", "/", ".", "a\tb"])
def test_names_that_no_file_can_hold_are_refused_by_name(raw, capsys, name):
    table(**{name: 1.0}).to_csv(raw / "trials.csv", index=False)
    code, err = imported(raw, capsys, "arrays", raw / "F.npy", "--rate", RATE, "--trials", raw / "trials.csv")
    assert code == 2 and repr(name) in err and "Rename it" in err and len(err.strip().splitlines()) == 2
    with pytest.raises(SessionError, match="Rename it"):
        from_arrays(np.load(raw / "F.npy"), subject="m", session="a", rate_hz=RATE, trials=table(**{name: 1.0}))


@pytest.mark.parametrize("name", ["grating angle", "größe", "方向", "a  b", "x=y", "50 %", "..", "a.b", "coordinates", "x" * 200])
def test_names_that_a_file_can_hold_are_kept(raw, capsys, name):
    values = np.tile([1.5, 2.5], 5)
    table(**{name: values, "text col": list("ab") * 5}).to_csv(raw / "trials.csv", index=False)
    code, err = imported(raw, capsys, "arrays", raw / "F.npy", "--rate", RATE, "--trials", raw / "trials.csv")
    assert code == 0, err
    store = open_store(raw / "store")
    for ds in (store["F/F"], store.header("F/F")):
        assert ds.coords[name].values.tolist() == values.tolist() and ds.coords["text col"].values.tolist() == list("ab") * 5
    assert store.index[name].tolist() == values.tolist()
    assert store.trials(baseline_s=1, response_s=1).dataset().coords[name].values.tolist() == values.tolist()


def test_blanks_around_a_name_are_cut_and_two_of_one_name_are_refused(raw, capsys):
    table(**{" angle ": 1.0}).to_csv(raw / "trials.csv", index=False)
    ds = read_arrays(raw / "F.npy", rate_hz=RATE, signal="fluorescence", trials=raw / "trials.csv")
    assert "angle" in ds.coords
    for header in ("onset_frame,angle,angle", "onset_frame,angle, angle "):
        (raw / "trials.csv").write_text(f"{header}\n50,1,2\n")
        code, err = imported(raw, capsys, "arrays", raw / "F.npy", "--rate", RATE, "--trials", raw / "trials.csv")
        assert code == 2 and "'angle' more than once" in err
    with pytest.raises(SessionError, match="'angle' more than once"):
        from_arrays(
            np.load(raw / "F.npy"),
            subject="m",
            session="a",
            rate_hz=RATE,
            trials=pd.DataFrame([[50, 1, 2]], columns=["onset_frame", "angle", "angle"]),
        )


def test_names_that_would_be_one_when_stored(raw):
    with pytest.raises(SessionError, match="'time', stored as 'time_'"):
        from_arrays(np.load(raw / "F.npy"), subject="m", session="a", rate_hz=RATE, trials=table(time_=1.0, time=2.0))
    ds = from_arrays(np.load(raw / "F.npy"), subject="m", session="a", rate_hz=RATE, trials=table(x=1.0), neuron_coords={"x": np.arange(4.0)})
    assert ds["x"].values.tolist() == [0, 1, 2, 3] and set(ds["x_"].values) == {1.0}


def test_a_column_without_a_name_and_others_are_said_to_be_ignored(raw):
    (raw / "trials.csv").write_text(
        "trial,onset_frame,angle,reaction_s,outcome,\n" + "".join(f"{i},{40 + 50 * i},{i % 2},0.5,1,9\n" for i in range(8))
    )
    read = {"rate_hz": RATE, "signal": "fluorescence", "trials": raw / "trials.csv"}
    ds = read_arrays(raw / "F.npy", **read)
    assert ds.attrs["ignored_columns"] == "trial (a counter), reaction_s (a time), Unnamed: 5 (no name)"
    ds = read_arrays(raw / "F.npy", **read, condition_columns=["angle"])
    assert "outcome (not among the condition columns)" in ds.attrs["ignored_columns"] and "angle" not in ds.attrs["ignored_columns"]
    assert "ignored_columns" not in from_arrays(np.load(raw / "F.npy"), subject="m", session="a", rate_hz=RATE, trials=table(angle=1.0)).attrs
    store = Store(raw / "store", create=True)
    store.add(ds)
    assert open_store(raw / "store").info("F/F")["ignored_columns"] == ds.attrs["ignored_columns"]


@pytest.mark.parametrize("name", ["onset_frame", "direction", "onset_s"])
def test_numbers_of_hundreds_of_digits(raw, capsys, name):
    cells = [str(40 + 50 * i) for i in range(9)] + ["1" * 400]
    pd.DataFrame({"onset_frame": 40 + 50 * np.arange(10), name: cells}).to_csv(raw / "trials.csv", index=False)
    if name == "onset_s":
        pd.DataFrame({name: cells}).to_csv(raw / "trials.csv", index=False)
    code, err = imported(raw, capsys, "arrays", raw / "F.npy", "--rate", RATE, "--trials", raw / "trials.csv")
    assert code == (0 if name == "direction" else 2) and (code == 0 or name in err), err


@pytest.mark.slow
def test_three_thousand_columns(raw):
    import time

    rng = np.random.default_rng(0)
    many = table(**{f"c{i}": rng.integers(0, 3, 10) for i in range(3000)})
    begin = time.perf_counter()
    store = Store(raw / "store", create=True)
    store.add(from_arrays(np.load(raw / "F.npy"), subject="m", session="a", rate_hz=RATE, trials=many))
    opened = open_store(raw / "store")
    assert opened.index["c2999"].tolist() == many["c2999"].tolist() and len(opened["m/a"].coords) > 3000
    assert time.perf_counter() - begin < 60  # 102 s at a growth by the square


def test_many_columns_are_stored_like_few(tmp_path):
    import xarray as xr

    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.integers(0, 3, 10) for i in range(105)} | {"text": list("äbcde") * 2}
    ds = from_arrays(rng.uniform(90, 110, (3, FRAMES)), subject="m", session="a", rate_hz=RATE, trials=table(**columns))
    store = Store(tmp_path / "store", create=True)
    store.add(ds)
    assert open_store(store.path)["m/a"].identical(ds)
    with xr.open_dataset(store.file("m/a"), engine="h5netcdf") as plain:
        assert plain["c104"].values.tolist() == ds["c104"].values.tolist() and plain["text"].dims == ("trial",)
        assert plain["text"].values.tolist() == ds["text"].values.tolist()


# ---------------------------------------------------------------- numpy files


ARRAYS = {
    "a pickle": lambda p: np.save(p, np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "objects": lambda p: np.save(p, np.array([[1, None]], dtype=object), allow_pickle=True),
    "text": lambda p: np.save(p, np.full((3, 9), "x")), "complex": lambda p: np.save(p, np.ones((3, 9), complex)), "bool": lambda p: np.save(p, np.ones((3, 9), bool)),
    "0 dims": lambda p: np.save(p, np.float32(1)), "1 dim": lambda p: np.save(p, np.ones(9)), "3 dims": lambda p: np.save(p, np.ones((2, 3, 9))),
    "empty": lambda p: np.save(p, np.zeros((0, 9))), "no frame": lambda p: np.save(p, np.zeros((9, 0))), "nothing": lambda p: p.write_bytes(b""),
    "text file": lambda p: p.write_text("1 2 3\n4 5 6\n"), "a huge claim": lambda p: p.write_bytes(npy(b"(1000000, 1000000)")), "an unclosed header": lambda p: p.write_bytes(npy(b"(2, (3")),
}  # fmt: skip


def npy(shape):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }"
    return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_no_traces(tmp_path, capsys, case):
    ARRAYS[case](tmp_path / "F.npy")
    code, err = imported(tmp_path, capsys, "arrays", tmp_path / "F.npy", "--rate", RATE, "--orientation", "neuron,frame")
    assert code == 2 and "F.npy" in err, err


def test_arrays_in_any_order_and_type_are_read_alike(tmp_path):
    x = np.random.default_rng(0).integers(90, 110, (4, FRAMES))
    wanted = x.astype(np.float32)
    for y in (x.astype("f8"), x.astype(">f4"), x.astype("f2"), x.astype("u1"), x.astype(">i2"), np.asfortranarray(x.astype("f4"))):
        np.save(tmp_path / "F.npy", y)
        ds = read_arrays(tmp_path / "F.npy", rate_hz=RATE, signal="fluorescence")
        assert np.array_equal(ds["fluorescence"].values, wanted) and ds["fluorescence"].dtype.isnative
        store = Store(tmp_path / f"store{y.dtype.str[1:]}{y.flags.f_contiguous}", create=True)
        store.add(ds)
        assert np.array_equal(open_store(store.path)["F/F"]["fluorescence"].values, wanted)


def test_nan_alone_is_flagged(tmp_path, capsys):
    np.save(tmp_path / "F.npy", np.full((3, 50), np.nan, "f4"))
    code, _ = imported(tmp_path, capsys, "arrays", tmp_path / "F.npy", "--rate", RATE)
    assert code == 0 and set(open_store(tmp_path / "store")["F/F"]["flag"].values) == {"nan"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_sources_that_the_system_refuses_are_not_called_damaged(raw, capsys, monkeypatch, number):
    usual = open

    def refuse(path, *args, **options):
        if os.path.basename(str(path)) in ("F.npy", "trials.csv", "x.nwb"):
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, *args, **options)

    (raw / "x.nwb").write_bytes(b"")
    monkeypatch.setattr("builtins.open", refuse)
    for read in (
        lambda: read_arrays(raw / "F.npy", rate_hz=RATE, signal="fluorescence"),
        lambda: read_arrays(raw / "F.npz", rate_hz=RATE, signal="fluorescence", trials=raw / "trials.csv"),
        lambda: read_nwb(raw / "x.nwb"),
    ):
        with pytest.raises(QfError, match=os.strerror(number)) as told:
            read()
        assert not isinstance(told.value, DamagedFileError)


# ---------------------------------------------------------------- suite2p


@pytest.mark.parametrize("name", ["F.npy", "Fneu.npy", "iscell.npy"])
@pytest.mark.parametrize("kind", ["npz", "text", "pickle"])
def test_another_kind_of_file_in_a_suite2p_folder(tmp_path, capsys, name, kind):
    SEEDS["suite2p"].make(tmp_path)
    file = tmp_path / "suite2p" / "plane0" / name
    if kind == "npz":
        np.savez(tmp_path / "x.npz", a=np.ones(3))
        (tmp_path / "x.npz").replace(file)
    elif kind == "text":
        file.write_text("1 2 3\n")
    else:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    code, err = imported(tmp_path, capsys, "suite2p", tmp_path / "suite2p", "--rate", RATE)
    assert code == 2 and name in err and "numpy.save" in err, err


@pytest.mark.parametrize("ops", [None, b"", b"text", "pickle"])
def test_an_import_of_suite2p_never_hinges_on_ops(tmp_path, ops):
    SEEDS["suite2p"].make(tmp_path)
    file = tmp_path / "suite2p" / "plane0" / "ops.npy"
    file.unlink()
    if ops == "pickle":
        np.save(file, np.array([print], dtype=object), allow_pickle=True)
    elif ops is not None:
        file.write_bytes(ops)
    assert read_suite2p(tmp_path / "suite2p", rate_hz=RATE).sizes["neuron"] == 3
    with pytest.raises(QfError, match="--rate"):
        read_suite2p(tmp_path / "suite2p")


@pytest.mark.parametrize("cells", [np.ones((3, 2)), np.ones(9), np.ones((4, 0)), np.full((4, 2), "x"), np.float32(1)])
def test_iscell_of_another_run(tmp_path, capsys, cells):
    SEEDS["suite2p"].make(tmp_path)
    np.save(tmp_path / "suite2p" / "plane0" / "iscell.npy", cells)
    code, err = imported(tmp_path, capsys, "suite2p", tmp_path / "suite2p", "--rate", RATE)
    assert code == 2 and "iscell.npy" in err


# ---------------------------------------------------------------- NWB


@pytest.fixture
def nwb(tmp_path):
    pytest.importorskip("pynwb", reason="pynwb is not installed")
    SEEDS["nwb"].make(tmp_path)
    return tmp_path / "x.nwb"


SERIES = "processing/ophys/DfOverF/RoiResponseSeries/data"


def secret(folder):
    with h5py.File(folder / "secret.h5", "w") as f:
        f["x"] = np.random.default_rng(5).normal(0, 0.1, (400, 3)).astype("f4")
    return "secret.h5"


def by_link(f, folder):
    f[SERIES] = h5py.ExternalLink(secret(folder), "/x")


def by_storage(f, folder):
    (folder / "secret.bin").write_bytes(np.random.default_rng(5).normal(0, 0.1, (400, 3)).astype("f4").tobytes())
    f.create_dataset(SERIES, shape=(400, 3), dtype="f4", external=[(str(folder / "secret.bin"), 0, 4800)])


def by_virtual(f, folder):
    layout = h5py.VirtualLayout(shape=(400, 3), dtype="f4")
    layout[...] = h5py.VirtualSource(str(folder / secret(folder)), "x", shape=(400, 3))
    f.create_virtual_dataset(SERIES, layout)


@pytest.mark.parametrize(
    "how, words", [(by_link, "a link into another file"), (by_storage, "stored in another file"), (by_virtual, "a virtual dataset")]
)
def test_nwb_reads_no_other_file_unless_allowed(nwb, tmp_path, capsys, how, words):
    with h5py.File(nwb, "r+") as f:
        told = dict(f[SERIES].attrs)
        del f[SERIES]
        how(f, tmp_path)
        if how is not by_link:
            f[SERIES].attrs.update(told)
    code, err = imported(tmp_path, capsys, "nwb", nwb)
    assert code == 2 and words in err and "--allow-external" in err, err
    with pytest.raises(SessionError, match=words):
        read_nwb(nwb)
    if how is by_link:  # the standard wants attributes on what is linked
        with h5py.File(tmp_path / "secret.h5", "r+") as f:
            f["x"].attrs.update(told)
    code, err = imported(tmp_path, capsys, "nwb", nwb, "--allow-external")
    assert code == 0, err
    wanted = np.random.default_rng(5).normal(0, 0.1, (400, 3)).astype("f4")
    np.testing.assert_array_equal(open_store(tmp_path / "store")["m1/d1"]["dff"].values, wanted.T)


def test_links_inside_an_nwb_file_are_followed(nwb):
    import pynwb

    with pynwb.NWBHDF5IO(nwb, "a") as io:
        file = io.read()
        file.add_acquisition(pynwb.TimeSeries(name="whole", data=np.random.default_rng(7).normal(0, 0.1, (400, 3)), unit="n", rate=10.0))
        io.write(file)
    with h5py.File(nwb, "r+") as f:
        del f[SERIES]
        f[SERIES] = h5py.SoftLink("/acquisition/whole/data")
        wanted = f["acquisition/whole/data"][()]
    np.testing.assert_array_equal(read_nwb(nwb)["dff"].values, wanted.T.astype(np.float32))


def test_an_nwb_file_that_holds_itself_or_a_horde(nwb, monkeypatch):
    with h5py.File(nwb, "r+") as f:
        f["processing/ophys/again"] = f["processing"]
    with pytest.raises(SessionError, match="again, which holds itself"):
        read_nwb(nwb)
    with h5py.File(nwb, "r+") as f:
        del f["processing/ophys/again"]
    assert read_nwb(nwb).sizes["neuron"] == 3
    monkeypatch.setattr("qf_toolkit.recordings.hdf5.MAX_OBJECTS", 20)
    with pytest.raises(SessionError, match="at most 20 objects"):
        read_nwb(nwb)


def test_rois_that_are_not_in_their_table(nwb, tmp_path, capsys):
    with h5py.File(nwb, "r+") as f:
        f["processing/ophys/DfOverF/RoiResponseSeries/rois"][...] = [0, 1, 99]
    code, err = imported(tmp_path, capsys, "nwb", nwb)
    assert code == 2 and "expected ROIs of its table, 0 to 2, found 0 to 99" in err, err


def test_an_nwb_series_that_claims_more_than_it_stores(nwb, tmp_path, capsys):
    with h5py.File(nwb, "r+") as f:
        told = dict(f[SERIES].attrs)
        del f[SERIES]
        f.create_dataset(SERIES, shape=(10**9, 3), dtype="f4", chunks=(10**5, 3)).attrs.update(told)
    code, err = imported(tmp_path, capsys, "nwb", nwb)
    assert code == 2 and "expected" in err and ("hold what it claims" in err or "memory" in err), err


def test_nwb_says_which_columns_and_behaviour_it_ignores(nwb):
    import pynwb

    with pynwb.NWBHDF5IO(nwb, "a") as io:
        file = io.read()
        module = file.create_processing_module("behavior", "where the animal is")
        module.add(pynwb.TimeSeries(name="position", data=np.ones((5, 2)), unit="cm", rate=1.0))
        io.write(file)
    ds = read_nwb(nwb)
    assert ds.attrs["ignored_columns"] == "rewarded (an outcome or a time)" and ds.attrs["ignored_behaviour"] == "position (2 dims)"
    ds = read_nwb(nwb, condition_columns=["rewarded"])
    assert ds.attrs["ignored_columns"] == "condition (not among the condition columns)"


def test_paths_that_are_none(tmp_path):
    for read in (
        read_nwb, lambda p: read_arrays(p, rate_hz=10, signal="dff"), read_suite2p, lambda p: from_arrays(np.ones((2, 9)), subject="a", session="b", rate_hz=1, trials=p)
    ):  # fmt: skip
        for path in (3, "a\0b", ["x"], tmp_path):
            with pytest.raises(QfError):
                read(path)
