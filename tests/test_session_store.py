"""The schema of a Session and the store on disk."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import DamagedFileError, QfError, SessionError, UnknownKeyError
from qf_toolkit.recordings.conditions import condition_key
from qf_toolkit.recordings.session import Fingerprint, new_session, signal_of, validate
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.store import Store, _key_of, file_name, open_store


def make(subject="m", session="a", seed=0, n=3, t=300, **options):
    rng = np.random.default_rng(seed)
    trials = pd.DataFrame({"onset_frame": [50, 100, 150], "offset_frame": [60, 110, 160], "angle": [0, 90, np.nan], "stimulus": "bar"})
    options.setdefault("trials", trials)
    return new_session(rng.uniform(90, 110, (n, t)), subject=subject, session=session, rate_hz=10, **options)


def store_at(path):
    return Store(path / "store", create=True)


def test_a_session_comes_back_whole(tmp_path):
    ds = make(neuron_coords={"depth": [1.0, 2.0, 3.0]}, indicator="GCaMP6f", provenance="ä test")
    store = store_at(tmp_path)
    assert store.add(ds) == "m/a" and "m/a" in store and store.keys() == ["m/a"]
    again = open_store(tmp_path / "store")["m/a"]
    for name in ds.variables:
        np.testing.assert_array_equal(again[name].values, ds[name].values)
        assert again[name].dims == ds[name].dims
    assert {k: again.attrs[k] for k in ds.attrs} == ds.attrs
    assert Fingerprint().add(again[signal_of(again)].values).text() == ds.attrs["fingerprint"]
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["m__a.nc"]


def test_a_continuous_recording_comes_back(tmp_path):
    store = store_at(tmp_path)
    store.add(make(trials=None))
    assert open_store(tmp_path / "store")["m/a"].sizes["trial"] == 0
    assert len(open_store(tmp_path / "store").index) == 0
    assert open_store(tmp_path / "store").info("m/a")["trials"] == 0


def test_index_joins_the_trials_of_all(tmp_path):
    store = store_at(tmp_path)
    store.add(make("m", "a"))
    store.add(make("n", "b", seed=1, trials=pd.DataFrame({"onset_frame": [5], "image": ["im1"]})))
    index = store.index
    assert index["session"].tolist() == ["m/a"] * 3 + ["n/b"]
    assert index["condition"].tolist() == ["bar/angle=0", "bar/angle=90", "bar/blank", "stimulus/image=im1"]


def test_the_index_is_kept_until_a_file_changes(tmp_path):
    store = store_at(tmp_path)
    store.add(make("m", "a"))
    first = store.index
    first["stimulus"] = "altered"
    first.loc[0, "angle"] = -1.0
    assert store.index.equals(open_store(store.path).index) and store.index["angle"][0] == 0  # what a caller does to it stays with the caller
    other = open_store(store.path)
    other.add(make("n", "b", seed=1))
    assert store.index["session"].tolist() == ["m/a"] * 3 + ["n/b"] * 3
    other.add(make("n", "b", seed=1, trials=pd.DataFrame({"onset_frame": [7], "image": ["x"]})), overwrite=True)
    assert store.index.equals(open_store(store.path).index) and store.index["onset_frame"].tolist() == [50, 100, 150, 7]
    other.file("m/a").unlink()
    assert store.index["session"].tolist() == ["n/b"]


def test_overwrite_keeps_the_previous_version(tmp_path):
    store = store_at(tmp_path)
    store.add(make(seed=0))
    with pytest.raises(QfError, match="overwrite"):
        store.add(make(seed=1))
    assert store["m/a"].identical(open_store(store.path)["m/a"])
    new = make(seed=1)
    store.add(new, overwrite=True)
    assert store["m/a"].attrs["fingerprint"] == new.attrs["fingerprint"]
    assert sorted(p.name for p in store.path.iterdir()) == ["m__a.nc", "m__a.nc.previous"]
    assert store.keys() == ["m/a"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    store = store_at(tmp_path)
    store.add(make())
    path = store.file("m/a")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for use in (lambda s: s["m/a"], lambda s: s.info("m/a"), lambda s: s.index):
        with pytest.raises(DamagedFileError, match=r"m__a\.nc"):
            use(open_store(store.path))


def test_a_truncated_file_falls_back_to_the_previous_with_a_warning(tmp_path):
    store = store_at(tmp_path)
    old = make(seed=0)
    store.add(old)
    store.add(make(seed=1), overwrite=True)
    path = store.file("m/a")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"m__a\.nc\.previous"):
        ds = open_store(store.path)["m/a"]
    assert ds.attrs["fingerprint"] == old.attrs["fingerprint"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    store = store_at(tmp_path)
    (store.path / "x__y.nc").write_text("no netCDF")
    with pytest.raises(DamagedFileError, match=r"x__y\.nc"):
        store["x/y"]
    make().drop_vars("fluorescence").to_netcdf(store.path / "m__a.nc", engine="h5netcdf")
    with pytest.raises(SessionError, match=r"m__a\.nc: traces"):
        store["m/a"]


def test_a_newer_schema_is_refused(tmp_path):
    store = store_at(tmp_path)
    ds = make()
    ds.attrs["schema_version"] = 99
    with pytest.raises(SessionError, match="newer qf_toolkit"):
        store.add(ds)
    ds.to_netcdf(store.path / "m__a.nc", engine="h5netcdf")
    with pytest.raises(SessionError, match=r"m__a\.nc: schema_version.*newer"):
        store["m/a"]


def test_unknown_keys_get_a_hint(tmp_path):
    store = store_at(tmp_path)
    store.add(make("mouse", "day1"))
    with pytest.raises(UnknownKeyError, match="did you mean mouse/day1"):
        store["mouse/day2"]


def test_missing_stores_and_files_in_their_place(tmp_path):
    with pytest.raises(QfError, match="found nothing"):
        open_store(tmp_path / "none")
    (tmp_path / "f").write_text("")
    with pytest.raises(QfError, match="found the file"):
        open_store(tmp_path / "f")
    with pytest.raises(QfError, match="could not make"):
        Store(tmp_path / "f" / "g", create=True)


FULL = """
import resource, signal, sys
import numpy as np
from qf_toolkit.errors import QfError
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.store import Store
store = Store(sys.argv[1])
ds = new_session(np.random.default_rng(1).uniform(90, 110, (20, 20000)), subject="m", session=sys.argv[2], rate_hz=10)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    store.add(ds, overwrite=True)
except QfError as e:
    print("REFUSED", e)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are POSIX")
@pytest.mark.parametrize("limit", [0, 4096, 700_000])
@pytest.mark.parametrize("session", ["a", "new"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, limit, session):
    store = store_at(tmp_path)
    old = make()
    store.add(old)
    before = {p.name: p.read_bytes() for p in store.path.iterdir()}
    done = subprocess.run([sys.executable, "-c", FULL, str(store.path), session, str(limit)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "REFUSED could not write" in done.stdout, done.stdout + done.stderr[-2000:]
    assert {p.name: p.read_bytes() for p in store.path.iterdir()} == before
    assert open_store(store.path)["m/a"].attrs["fingerprint"] == old.attrs["fingerprint"]


def test_an_interrupted_write_leaves_the_former_file(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    store.add(make(seed=0))
    before = store.file("m/a").read_bytes()

    def stop(self, path, **options):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", stop)
    with pytest.raises(KeyboardInterrupt):
        store.add(make(seed=1), overwrite=True)
    assert [p.name for p in store.path.iterdir()] == ["m__a.nc"] and store.file("m/a").read_bytes() == before


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12)


@given(NAMES, NAMES)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_keys_come_back_from_file_names(subject, session):
    from pathlib import Path

    key = f"{subject}/{session}"
    name = file_name(key)
    assert "/" not in name and _key_of(Path("store") / name) == key


@given(st.lists(st.text("a_./%- 5F", min_size=1, max_size=5).filter(lambda t: "/" not in t), min_size=4, max_size=4))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_two_keys_never_share_a_file(parts):
    one, two = f"{parts[0]}/{parts[1]}", f"{parts[2]}/{parts[3]}"
    assert (one == two) == (file_name(one) == file_name(two))


@pytest.mark.parametrize("subject, session", [("m.1", "2020-01-01 a"), ("ä_ö", "_x_"), ("a__b", "c%2Fd"), ("..a", ".b"), ("-", "50%")])
def test_odd_names_work_on_disk(tmp_path, subject, session):
    store = store_at(tmp_path)
    key = store.add(make(subject, session))
    assert open_store(store.path).keys() == [key] == [f"{subject}/{session}"]
    assert open_store(store.path)[key].attrs["session"] == session


@pytest.mark.parametrize(
    "options, words",
    [
        ({"cells": ["a", "b", "a"]}, "neuron: expected unique keys.*m/a/a"),
        ({"cells": ["a"]}, "expected 3 names"),
        ({"subject": "a/b"}, "without slash"),
        ({"session": ""}, "without slash"),
        ({"trials": pd.DataFrame({"onset": [1]})}, "expected a column onset_frame"),
        ({"trials": pd.DataFrame({"onset_frame": [1, np.nan]})}, "missing in 1 of 2"),
        ({"trials": pd.DataFrame({"onset_frame": [5, 5]})}, "frame 5 twice"),
        ({"trials": pd.DataFrame({"onset_frame": [5, 300]})}, "1 of 2 outside, first 300"),
        ({"trials": pd.DataFrame({"onset_frame": [-1]})}, "outside"),
        ({"trials": pd.DataFrame({"onset_frame": [5], "offset_frame": [5]})}, "offset_frame: expected after"),
        ({"frame_time": np.r_[np.arange(299), 5] / 10}, "expected increasing"),
        ({"frame_time": np.arange(300)}, "are the times in seconds"),
        ({"frame_time": np.arange(10) / 10}, "frame_time: expected 300 seconds"),
        ({"n": 0}, "at least 1 neuron"),
        ({"t": 1, "trials": None}, "at least 2 frames"),
        ({"signal": "spikes"}, "expected one of"),
    ],
)
def test_what_breaks_the_schema_is_named(options, words):
    with pytest.raises(SessionError, match=words):
        make(**options)


def test_duplicate_trials_are_refused():
    ds = make()
    with pytest.raises(SessionError, match="trial: expected unique"):
        validate(ds.assign_coords(trial=[0, 0, 1]))


def test_percent_and_zscores_are_refused_fractions_pass():
    rng = np.random.default_rng(0)
    new_session(rng.normal(0, 0.1, (3, 500)), subject="m", session="a", rate_hz=10, signal="dff")
    for x in (rng.normal(0, 10, (3, 500)), rng.normal(0, 1, (3, 500))):
        with pytest.raises(SessionError, match="percent"):
            new_session(x, subject="m", session="a", rate_hz=10, signal="dff")


def test_odd_neurons_are_kept_and_flagged():
    x = np.random.default_rng(0).uniform(90, 110, (5, 400))
    x[1], x[2], x[3, :300], x[4] = 0, 7, np.nan, x[4] - 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = new_session(x, subject="m", session="a", rate_hz=10)
    assert ds["flag"].values.tolist() == ["", "silent", "constant", "nan", "tiny_f0"]


def test_trials_are_sorted_by_onset_with_their_features():
    ds = make(trials=pd.DataFrame({"onset_frame": [90, 10], "angle": [1.5, 2], "condition": ["late", "early"]}))
    assert ds["onset_frame"].values.tolist() == [10, 90] and ds["angle"].values.tolist() == [2, 1.5]
    assert ds["condition"].values.tolist() == ["stimulus/early", "stimulus/late"]


def test_condition_keys_leave_out_what_is_missing():
    assert condition_key("g", {"a": 45.0, "b": np.float32(0.04), "c": None, "d": np.nan, "e": "im"}) == "g/a=45,b=0.04,e=im"
    assert condition_key("g", {}) == "g/blank"


def test_choosing_and_splitting_trials_reads_no_trace(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    for i, session in enumerate("ab"):
        store.add(toy_session(i, session=session))

    def read(self, key):
        raise AssertionError("a whole session was read")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "__getitem__", read)
        split = split_blocks(open_store(store.path).trials(stimulus="drifting_gratings"))
        assert len(split.train.neurons) == 12 and split.test.rate_hz == 10
    header, whole = store.header("mouse/a"), store["mouse/a"]
    assert "fluorescence" not in header and header.attrs == whole.attrs and header.coords.equals(whole.coords)
