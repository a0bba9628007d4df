"""Files of a store that were altered, copied, made elsewhere or may not be read: each is told apart, and none is read with other data."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import refused, toy_session

from qf_toolkit.cli.main import main
from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.session import new_session, validate
from qf_toolkit.recordings.store import Store, open_store

TRIALS = {"onset_frame": [50, 100, 150], "offset_frame": [60, 110, 160], "angle": [0.0, 90.0, 0.0], "block": [0, 0, 1]}
posix_root = pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes its user, as root can")


def make(seed=0, subject="m", session="a", **options):
    x = np.random.default_rng(seed).uniform(90, 110, (3, 300))
    options.setdefault("trials", pd.DataFrame(TRIALS))
    return new_session(x, subject=subject, session=session, rate_hz=10, **options)


@pytest.fixture
def store(tmp_path):
    """A store of one recording, m/a."""
    store = Store(tmp_path / "store", create=True)
    store.add(make())
    return store


# ---------------------------------------------------------------- what may not be read is not called damaged


def not_damaged(text):
    return "elete" not in text and "damaged" not in text and "cut short" not in text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_file_that_the_system_refuses_is_not_called_damaged(store, monkeypatch, capsys, number):
    store.add(make(1), overwrite=True)  # there is a previous version, which must not take its place

    def refuse(path, *args, **options):
        if str(path).endswith(".nc"):
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, *args, **options)

    usual = open
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(h5py, "File", refuse)
    for use in (lambda s: s["m/a"], lambda s: s.header("m/a"), lambda s: s.index):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(QfError, match=os.strerror(number)) as told:
                use(open_store(store.path))
        assert not isinstance(told.value, DamagedFileError) and not_damaged(str(told.value)) and "m__a.nc" in str(told.value)
    line = refused(capsys, "info", store.path)
    assert os.strerror(number) in line and not_damaged(line)


AS_NOBODY = """
import contextlib, io, os, sys
from qf_toolkit.cli.main import main
from qf_toolkit.recordings import store
with contextlib.redirect_stdout(io.StringIO()):  # imports what a command needs, which nobody may not be allowed to read
    main(["info", "--help"])
os.setuid(65534)
sys.exit(main(["info", sys.argv[1]]))
"""


@posix_root
@pytest.mark.parametrize("what", ["file", "folder"])
def test_without_permission_nothing_is_called_damaged_or_empty(what):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o755)
        store = Store(Path(folder) / "store", create=True)
        store.add(make())
        os.chmod(store.file("m/a") if what == "file" else store.path, 0o000)
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(store.path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "Permission denied" in done.stderr and "permissions" in done.stderr, done.stderr
    assert not_damaged(done.stderr) and "no session yet" not in done.stdout


def test_folders_fifos_and_links_to_nothing_in_a_store(store, tmp_path, capsys):
    (store.path / "m__folder.nc").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(store.path / "m__fifo.nc")
    assert store.keys() == ["m/a"] and main(["info", str(store.path)]) == 0
    (store.path / "m__link.nc").symlink_to(tmp_path / "nowhere")
    with pytest.raises(QfError, match=r"m__link\.nc: expected the file of a Session, found a link to nothing"):
        store.header("m/link")
    with pytest.raises(QfError, match="Move it away"):
        store.add(make(1, session="folder"), overwrite=True)
    capsys.readouterr()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("kind, more", [("nwb", ()), ("arrays", ("--rate", "10"))])
def test_a_fifo_as_a_source_is_refused(tmp_path, capsys, kind, more):
    os.mkfifo(tmp_path / "x.npy")
    assert main(["import", kind, str(tmp_path / "x.npy"), "--store", str(tmp_path / "store"), *more]) == 2
    assert "found a FIFO, socket or device" in capsys.readouterr().err


# ---------------------------------------------------------------- altered


def alter_traces(f):
    f["fluorescence"][1, 7] += 1


def alter_table(f):
    f["angle"][1] = 45.0


def alter_time(f):
    f["frame_time"][...] = f["frame_time"][()] + 1


def alter_text(f):
    f["condition"][0] = "stimulus/angle=90"


def alter_attr(f):
    f.attrs["area"] = "VISl"


def alter_type(f):
    f.attrs["f0_floor"] = np.float32(f.attrs["f0_floor"][0])


def swap_columns(f):
    f.move("onset_frame", "x")
    f.move("offset_frame", "onset_frame")
    f.move("x", "offset_frame")


@pytest.mark.parametrize("change", [alter_traces, alter_table, alter_time, alter_text, alter_attr, alter_type, swap_columns])
def test_an_altered_file_is_reported(store, change):
    with h5py.File(store.file("m/a"), "r+") as f:
        change(f)
    with pytest.raises((DamagedFileError, SessionError), match=r"m__a\.nc"):
        open_store(store.path)["m/a"]
    if change is not alter_traces:
        with pytest.raises((DamagedFileError, SessionError), match=r"m__a\.nc"):
            _ = open_store(store.path).index


def test_headers_alone_read_no_trace(store):
    with h5py.File(store.file("m/a"), "r+") as f:
        alter_traces(f)
    opened = open_store(store.path)
    assert len(opened.index) == 3 and opened.info("m/a")["frames"] == 300
    with pytest.raises(DamagedFileError, match="fingerprint"):
        _ = opened["m/a"]


def test_altered_traces_do_not_bring_back_the_previous_version_under_the_new_header(store):
    store.add(make(1), overwrite=True)
    with h5py.File(store.file("m/a"), "r+") as f:
        alter_traces(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DamagedFileError, match=r"kept as m__a\.nc\.previous: rename it"):
            open_store(store.path)["m/a"]


def test_files_without_a_digest_are_read(store):
    with h5py.File(store.file("m/a"), "r+") as f:
        del f.attrs["_digest"]
    assert open_store(store.path)["m/a"].identical(make())


def test_the_digest_belongs_to_the_file_and_not_to_the_session(store):
    ds = store["m/a"]
    assert ds.identical(make()) and "_digest" not in ds.attrs
    store.add(ds.assign_attrs(area="VISl"), overwrite=True)
    assert store["m/a"].attrs["area"] == "VISl"
    with xr.open_dataset(store.file("m/a"), engine="h5netcdf") as plain:
        assert plain["fluorescence"].equals(ds["fluorescence"])


# ---------------------------------------------------------------- copies and names


def test_a_renamed_copy_is_reported(store, capsys):
    shutil.copy(store.file("m/a"), store.path / "m__b.nc")
    with pytest.raises(SessionError, match=r"m__b\.nc: expected the session m/b.*found m/a. Call the file m__a\.nc"):
        _ = open_store(store.path).index
    assert "m__b.nc" in refused(capsys, "info", store.path)


def test_a_recording_imported_twice_is_told(store):
    store.add(make(0, subject="other", session="name"))
    with pytest.warns(UserWarning, match="m/a and other/name hold the same recording"):
        _ = open_store(store.path).index
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.add(make(1, subject="third"))
        opened = open_store(store.path)
        with pytest.warns(UserWarning):
            _ = opened.index
        _ = opened.index  # said once


@pytest.mark.parametrize("name", [".", "..", "a\0b", "a\nb", "a/b", " a", "", None, 3.5, ["a"]])
def test_names_that_can_be_no_key(name):
    for which in ("subject", "session"):
        with pytest.raises(SessionError, match=f"{which}: expected a name"):
            make(**{which: name})


def test_names_too_long_or_equal_but_for_case(store):
    with pytest.raises(SessionError, match="at most 255 bytes"):
        store.add(make(1, session="ä" * 60))
    with pytest.raises(SessionError, match="differ in more than case, found M/a beside m/a"):
        store.add(make(1, subject="M"))
    assert store.keys() == ["m/a"]


def test_files_that_come_and_go_are_noticed(store):
    opened = open_store(store.path)
    assert len(opened.index) == 3
    store.add(make(1, session="b"))
    assert opened.index["session"].unique().tolist() == ["m/a", "m/b"]
    store.add(make(2, session="b", trials=pd.DataFrame({"onset_frame": [5]})), overwrite=True)
    assert len(opened.index) == 4 and opened["m/b"].sizes["trial"] == 1
    store.file("m/a").unlink()
    assert opened.index["session"].unique().tolist() == ["m/b"]


# ---------------------------------------------------------------- what is no Session


def variable(name, values):
    return lambda ds: ds.assign_coords({name: (ds[name].dims, np.asarray(values))})


def traces(change):
    return lambda ds: ds.assign(fluorescence=(("neuron", "frame"), change(ds["fluorescence"].values)))


WRONG = {
    "traces as text": (traces(lambda x: x.astype(str)), "fluorescence: expected numbers as float32"),
    "traces as int": (traces(lambda x: x.astype(int)), "fluorescence: expected numbers as float32, found int64"),
    "traces as float64": (traces(lambda x: x.astype(float)), "fluorescence: expected numbers as float32, found float64"),
    "traces as bool": (traces(lambda x: x > 0), "fluorescence: expected numbers as float32"),
    "traces as complex": (traces(lambda x: x.astype(complex)), "fluorescence: expected numbers as float32"),
    "frame_time as text": (variable("frame_time", [f"t{i:03}" for i in range(300)]), "frame_time: expected seconds"),
    "frame_time as dates": (variable("frame_time", np.datetime64("2020-01-01") + np.arange(300)), "frame_time: expected seconds"),
    "frame_time to infinity": (variable("frame_time", np.r_[np.arange(299) / 10, np.inf]), "frame_time: expected finite"),
    "onset_frame NaN": (variable("onset_frame", [50.0, np.nan, 150.0]), "onset_frame: expected whole numbers"),
    "onset_frame 0.5": (variable("onset_frame", [50.0, 100.5, 150.0]), "onset_frame: expected whole numbers"),
    "onset_frame text": (variable("onset_frame", ["50", "100", "150"]), "onset_frame: expected whole numbers"),
    "stimulus int": (variable("stimulus", [1, 2, 3]), "stimulus: expected text"),
    "condition int": (variable("condition", [1, 2, 3]), "condition: expected text"),
    "condition of another stimulus": (variable("condition", ["x/a", "x/b", "x/a"]), "condition: expected keys that begin with their stimulus"),
    "block -1": (variable("block", [0, -1, 1]), "block: expected whole numbers from 0 on, found -1"),
    "block 2**60": (variable("block", [0, 2**60, 1]), "block: expected whole numbers from 0 on"),
    "feature of dates": (variable("angle", np.datetime64("2020-01-01") + np.arange(3)), "angle: expected real numbers or text"),
    "flag as numbers": (variable("flag", [0, 0, 1]), "flag: expected text"),
    "rate as text": (lambda ds: ds.assign_attrs(rate_hz="ten"), "rate_hz: expected a number, found 'ten'"),
    "rate as list": (lambda ds: ds.assign_attrs(rate_hz=[1.0, 2.0]), "rate_hz: expected a number"),
    "version as text": (lambda ds: ds.assign_attrs(schema_version="1"), "schema_version: expected a number"),
    "version 0": (lambda ds: ds.assign_attrs(schema_version=0), "schema_version: expected at least 1"),
    "subject as number": (lambda ds: ds.assign_attrs(subject=3), "subject: expected a name"),
    "f0_floor as text": (lambda ds: ds.assign_attrs(f0_floor="low"), "f0_floor: expected a number"),
    "f0_floor NaN": (lambda ds: ds.assign_attrs(f0_floor=np.nan), "f0_floor: expected a number of at least 0"),
    "ragged epochs": (
        lambda ds: ds.assign_coords(
            epoch_stimulus=("epoch", ["x", "y"]), epoch_start_frame=("epoch", [0, 9]), epoch_stop_frame=("other", [5]), epoch_block=("epoch", [0, 0])
        ),
        "epoch_stop_frame: expected a coord on epoch",
    ),
    "epochs without an end": (lambda ds: ds.assign_coords(epoch_stimulus=("epoch", ["x"])), "epoch_start_frame: expected a coord on epoch, found none"),
    "a name with a slash": (lambda ds: ds.assign_coords({"a/b": ("trial", [1.0, 2.0, 3.0])}), "expected columns with names that a file can hold, found 'a/b'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_session_is_one_line_in_memory_and_from_a_file(store, tmp_path, capsys, case):
    change, words = WRONG[case]
    bad = change(make(1, session="bad"))
    for use in (validate, store.add, lambda ds: open_store(store.path).add(ds)):
        with pytest.raises(SessionError, match=words):
            use(bad)
    if case in ("traces as complex", "a name with a slash", "traces as bool"):  # netCDF has no word for them
        return
    bad.to_netcdf(store.path / "m__bad.nc", engine="h5netcdf")
    line = refused(capsys, "info", store.path)
    assert "m__bad.nc" in line, line
    with pytest.raises((SessionError, DamagedFileError), match=r"m__bad\.nc"):
        _ = open_store(store.path)["m/bad"]


def test_no_session_at_all(store):
    for thing in (None, 3, "x", np.zeros(3), pd.DataFrame()):
        with pytest.raises(SessionError, match="expected a Session"):
            store.add(thing)


def test_masked_traces_are_missing_where_they_are_masked(store):
    x = np.ma.masked_array(np.random.default_rng(1).uniform(90, 110, (3, 300)), mask=False)
    x[1, 20:30] = np.ma.masked
    ds = new_session(x, subject="m", session="masked", rate_hz=10)
    assert np.isnan(ds["fluorescence"].values[1, 20:30]).all() and np.isfinite(ds["fluorescence"].values[0]).all()
    store.add(ds)
    np.testing.assert_array_equal(open_store(store.path)["m/masked"]["fluorescence"].values, ds["fluorescence"].values)


@pytest.mark.parametrize(
    "traces", [np.ones((2, 9), complex), np.ones((2, 9), bool), np.full((2, 9), "x"), [[1, 2], [3]], np.ones(9), np.float32(1), None]
)
def test_traces_that_are_none(traces):
    with pytest.raises(SessionError, match="traces: expected"):
        new_session(traces, subject="m", session="a", rate_hz=10)


# ---------------------------------------------------------------- hostile files


def outside(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as f:
        f["x"] = np.arange(900.0, dtype=np.float32).reshape(3, 300)
    return str(tmp_path / "secret.h5")


def external_link(f, tmp_path):
    f["fluorescence_"] = h5py.ExternalLink(outside(tmp_path), "/x")


def external_storage(f, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"s" * 3600)
    f.create_dataset("area_", shape=(3, 300), dtype="f4", external=[(str(secret), 0, 3600)])


def virtual(f, tmp_path):
    layout = h5py.VirtualLayout(shape=(3, 300), dtype="f4")
    layout[...] = h5py.VirtualSource(outside(tmp_path), "x", shape=(3, 300))
    f.create_virtual_dataset("v", layout)


def loop(f, tmp_path):
    f["g/h"] = 1.0
    f["g/again"] = f["g"]


def a_group(f, tmp_path):
    f.create_group("g")


def huge(f, tmp_path):
    del f["angle"]
    f.create_dataset("angle", shape=(10**6, 10**6), chunks=(1000, 1000), dtype="f4")
    for axis in (0, 1):
        f["angle"].dims[axis].attach_scale(f["trial"])


def bomb(f, tmp_path):
    del f["angle"]
    f.create_dataset("angle", shape=(2**24,), chunks=(2**20,), dtype="f8", compression="gzip", fillvalue=0)
    f["angle"][:] = 0
    f["angle"].dims[0].attach_scale(f["trial"])


@pytest.mark.parametrize("attack", [external_link, external_storage, virtual, loop, a_group, huge, bomb])
def test_a_hostile_store_file_is_refused(store, tmp_path, capsys, attack):
    with h5py.File(store.file("m/a"), "r+") as f:
        attack(f, tmp_path)
    line = refused(capsys, "info", store.path)
    assert "m__a.nc: expected" in line, line
    with pytest.raises(QfError, match="expected"):
        open_store(store.path)["m/a"]


# ---------------------------------------------------------------- Python calls


@pytest.mark.parametrize(
    "options",
    [
        {"stimulus": 3}, {"neurons": 5}, {"baseline_s": "3"}, {"baseline_s": float("inf")}, {"baseline_s": 1e308}, {"response_s": None}, {"f0_s": [1]},
        {"block": "first"}, {"block": 0.5}, {"subject": 3.5}, {"session": ["a", 4]}, {"condition": [None]}, {"active_gain": "much"}, {"score_s": True},
        {"signal": 3}, {"neurons": [1, 2]},
    ],
)  # fmt: skip
def test_wrong_arguments_of_trials_are_one_line(tmp_path, options):
    store = Store(tmp_path / "store", create=True)
    store.add(toy_session())
    with pytest.raises(QfError, match=next(iter(options))):
        store.trials(**options)


def test_wrong_arguments_elsewhere(tmp_path):
    from qf_toolkit.recordings.trials import cut

    store = Store(tmp_path / "store", create=True)
    store.add(toy_session())
    trials = store.trials()
    for use in (
        lambda: cut(3), lambda: cut([1, 2]), lambda: cut("store"), lambda: open_store(3), lambda: open_store(None), lambda: store[3], lambda: store["x"], lambda: store.info(None),
        lambda: trials.dataset("mouse/none"), lambda: trials.neurons_of("x"), lambda: trials.of_neurons(5), lambda: trials.subset("x"), lambda: trials.subset([999]),
        lambda: trials.subset(np.ones(3, bool)), lambda: trials.intervals("x"), lambda: make(cells=5), lambda: make(cells="abc"), lambda: make(matched="yes"),
        lambda: make(matched=[True]), lambda: make(attrs=3), lambda: make(neuron_coords={"x": [1]}), lambda: make(neuron_coords=[1]), lambda: make(epochs=[1]),
        lambda: make(trials=[1]), lambda: make(frame_time="x"), lambda: new_session(np.ones((2, 9)), subject="m", session="a", rate_hz="10"),
        lambda: make(trials=pd.DataFrame({"onset_frame": [0.5]})), lambda: make(trials=pd.DataFrame({"onset_frame": ["x"]})),
        lambda: store.add(make(attrs={"x": {"a": 1}})), lambda: store.add(make(attrs={"x": None})),
    ):  # fmt: skip
        with pytest.raises(QfError):
            use()
