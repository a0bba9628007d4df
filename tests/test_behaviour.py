"""Behaviour beside the traces: kept by the store, aligned to the frames on use."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import DamagedFileError, QfError, SessionError, UnknownKeyError
from qf_toolkit.recordings.behaviour import Behaviour, aligned, behaviour_of, with_behaviour
from qf_toolkit.recordings.importers.arrays import from_arrays
from qf_toolkit.recordings.importers.nwb import read_nwb
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.store import open_store
from qf_toolkit.recordings.trials import cut

DATA = Path(__file__).parents[2] / "shared" / "data"


def recording(time, **behaviour):
    x = np.random.default_rng(0).uniform(90, 110, (2, len(time)))
    return new_session(x, subject="m", session="s", frame_time=time, behaviour=behaviour)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.floats(3, 40), st.booleans(), st.booleans())
def test_a_straight_line_stays_one(seed, rate_hz, frames_jump, samples_pause):
    rng = np.random.default_rng(seed)
    time = 5 + np.arange(60) / 10
    time[30:] += 20 * frames_jump
    seconds = np.arange(time[0] + rng.uniform(0, 1), time[-1] - rng.uniform(0, 1), 1 / rate_hz)
    low, high = time[40] - 0.01, time[40] + 4 / min(rate_hz, 10)
    if samples_pause:
        seconds = seconds[(seconds < low) | (seconds > high)]
    found = aligned(recording(time, pupil=(3 * seconds - 1, seconds)))["pupil"]
    assert found.dims == ("frame",) and found.dtype == np.float32
    outside = (time < seconds[0]) | (time > seconds[-1])
    paused = (time > seconds[seconds < low].max()) & (time < seconds[seconds > high].min()) if samples_pause and (seconds > high).any() else outside
    np.testing.assert_array_equal(np.isnan(found.values), outside | paused)
    there = np.isfinite(found.values)
    np.testing.assert_allclose(found.values[there], 3 * time[there] - 1, rtol=1e-5)


@settings(max_examples=50)
@given(st.lists(st.integers(-20, 1000), max_size=30), st.integers(1, 59))
def test_events_are_counted_in_the_first_frame_at_or_after_them(centiseconds, jump):
    time = np.arange(60) / 10
    time[jump:] += 2
    seconds = np.sort(np.array(centiseconds) / 100 + 0.003)
    found = aligned(recording(time, licks=(None, seconds)))["licks"]
    expected = np.zeros(60)
    for at in seconds:
        after = [f for f in range(60) if time[f] >= at - 0.001]
        if after and time[after[0]] - at < 0.15:
            expected[after[0]] += 1
    np.testing.assert_array_equal(found.values, expected)
    assert found.attrs == {"kind": "events"}


def test_amounts_add_up_and_missing_samples_are_missing():
    time = np.arange(20) / 10
    ds = recording(time, reward=Behaviour([2.0, 3.0], [0.31, 0.36], "ul", True), pupil=np.where(np.arange(20) == 7, np.nan, 1.0))
    assert behaviour_of(ds) == ["pupil", "reward"]
    found = aligned(ds)
    assert found["reward"].values[4] == 5 and found["reward"].attrs == {"units": "ul", "kind": "events"}
    assert np.flatnonzero(np.isnan(found["pupil"].values)).tolist() == [7]


def test_a_store_keeps_it_and_the_fingerprint_is_of_the_traces(tmp_path):
    from qf_toolkit import Store

    plain = toy_session(0)
    n = plain.sizes["frame"]
    ds = toy_session(0, behaviour={"pupil": np.sin(np.arange(n) / 9), "running_speed": ([1.0, 2.0], [0.0, 90.0], "cm/s"), "licks": (None, [])})
    assert ds.attrs == plain.attrs
    store = Store(tmp_path / "s", create=True)
    store.add(ds)
    again = open_store(store.path)["mouse/one"]
    assert again.drop_attrs().equals(ds.drop_attrs()) and again["running_speed"].dims == ("running_time",)
    assert [again[name].attrs for name in behaviour_of(again)] == [{"kind": "events"}, {}, {"units": "cm/s"}]
    assert behaviour_of(store.header("mouse/one")) == []
    one, other = (cut(s).dataset() for s in (plain, again))
    assert one.identical(other)
    with h5py.File(store.file("mouse/one"), "r+") as f:
        f["pupil"][3] = 7
    with pytest.raises(DamagedFileError, match="altered"):
        open_store(store.path)["mouse/one"]


def test_windows_hold_it_frame_by_frame():
    n = toy_session(0).sizes["frame"]
    pupil = np.random.default_rng(1).normal(size=n).astype(np.float32)
    ds = toy_session(0, behaviour={"pupil": pupil, "speed": (np.arange(n), np.arange(n) / 10, "cm/s")})
    trials = cut(ds, baseline_s=2, response_s=1)
    data = trials.dataset(behaviour=True)
    assert data["pupil"].dims == ("trial", "time") and data["pupil"].dtype == np.float32 and data["speed"].attrs == {"units": "cm/s"}
    for row, (start, stop) in zip(data["pupil"].values, trials.intervals("mouse/one"), strict=True):
        np.testing.assert_array_equal(row, pupil[start:stop])
    assert data.drop_vars(["pupil", "speed"]).identical(trials.dataset())
    assert "pupil" not in trials.dataset(behaviour="speed") and "speed" in trials.dataset(behaviour=("speed",))
    with pytest.raises(UnknownKeyError, match="behaviour: 'pupill' is not in mouse/one; did you mean pupil"):
        trials.dataset(behaviour=("pupill",))
    with pytest.raises(UnknownKeyError, match="it has none"):
        cut(toy_session(0)).dataset(behaviour="pupil")
    assert cut(toy_session(0)).dataset(behaviour=True).identical(cut(toy_session(0)).dataset())


@pytest.mark.parametrize(
    "behaviour, words",
    [
        ({"pupil": np.ones(3)}, r"expected 40 values of pupil, one a frame, or \(values, seconds\) of one length, found shapes \(3,\) and \(40,\)"),
        ({"pupil": (np.ones(3), np.ones(2))}, "of one length"),
        ({"pupil": (np.ones(3), [0, 2, 1])}, "increasing seconds for pupil"),
        ({"pupil": (["a"], [1])}, "expected numbers for pupil"),
        ({"pupil": None}, "neither values nor seconds"),
        ({"pupil": (1, 2, 3, 4, 5)}, "expected numbers for pupil"),
        ({"neuron": np.ones(40)}, "name of its own, found 'neuron'"),
        ({"flag": np.ones(40)}, "name of its own, found 'flag'"),
        ({"a/b": np.ones(40)}, "behaviour: expected columns with names that a file can hold"),
        ([np.ones(40)], "expected a mapping of names"),
    ],
)
def test_refusals(behaviour, words):
    with pytest.raises(SessionError, match=words):
        from_arrays(np.random.default_rng(0).uniform(9, 11, (2, 40)), subject="m", session="s", rate_hz=10, behaviour=behaviour)


def test_times_of_an_older_store_that_do_not_increase_are_refused_on_use():
    ds = with_behaviour(recording(np.arange(20) / 10), {"speed": ([1, 2, 3], [0, 1, 2])}).assign_coords(speed_time=[0.0, 2.0, 1.0])
    with pytest.raises(SessionError, match="speed: expected increasing seconds"):
        aligned(ds)


@pytest.mark.filterwarnings("ignore:BehavioralEvents is deprecated")
def test_nwb_brings_series_and_events(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    from test_import_nwb import RATE, DfOverF, T, Writer, dff_data

    w = Writer()
    w.series(DfOverF, w.plane(), dff_data()).trials([3.0, 20.0], condition=["a", "b"])
    module = w.file.create_processing_module("behavior", "b")
    seconds = np.arange(100) / 30 + 0.5
    pupil = pynwb.behavior.PupilTracking(name="PupilTracking")
    pupil.add_timeseries(pynwb.TimeSeries(name="pupil_diameter", data=np.arange(100), timestamps=seconds, unit="mm", conversion=0.5))
    licks = pynwb.behavior.BehavioralEvents(name="BehavioralEvents")
    licks.add_timeseries(pynwb.TimeSeries(name="licks", data=np.ones(3), timestamps=[1.0, 1.01, 7.5], unit="n.a."))
    position = pynwb.behavior.Position(name="Position")
    position.add_spatial_series(pynwb.behavior.SpatialSeries(name="xy", data=np.ones((9, 2)), rate=1.0, reference_frame="r"))
    for item in (pupil, licks, position, pynwb.TimeSeries(name="time", data=np.arange(T) > 5, rate=RATE, unit="n.a.")):
        module.add(item)
    names = ["licks", "pupil_diameter", "time_"]
    if hasattr(w.file, "create_events_table"):  # of newer pynwb
        table = w.file.create_events_table(name="rewards", description="d")
        table.add_row(timestamp=2.0)
        names.insert(2, "rewards")
    path = w.write(tmp_path / "a.nwb")
    ds = read_nwb(path)
    assert behaviour_of(ds) == names and ds.attrs["ignored_behaviour"] == "xy (2 dims)"
    np.testing.assert_array_equal(ds["pupil_diameter"], np.arange(100) / 2)
    np.testing.assert_array_equal(ds["pupil_diameter_time"], seconds)
    assert ds["pupil_diameter"].attrs == {"units": "mm"} and ds["licks"].attrs == {"kind": "events"}
    found = aligned(ds)
    assert found["licks"].values[[10, 11, 75]].tolist() == [1, 1, 1] and found["licks"].values.sum() == 3
    np.testing.assert_array_equal(found["time_"].values, np.arange(T) > 5)
    assert behaviour_of(read_nwb(path, behaviour=["licks"])) == ["licks"] and behaviour_of(read_nwb(path, behaviour=False)) == []
    for name, words in (("lick", "no series 'lick' in the file; did you mean licks"), ("xy", "in xy, found 2 dims")):
        with pytest.raises(QfError, match=words):
            read_nwb(path, behaviour=name)


@pytest.mark.filterwarnings("ignore:left out. 1 of 233 windows")
def test_real_licks_lie_frame_by_frame():
    path = DATA / "s1-gonogo" / "sub-0301_ses-20180323.nwb"
    if not path.exists():
        pytest.skip("the shared recordings are absent")
    pytest.importorskip("pynwb")
    with h5py.File(path) as f:
        licks = f["processing/behavior/licks/data"][:]
    ds = read_nwb(path)
    np.testing.assert_array_equal(aligned(ds)["licks"].values, licks)
    data = cut(ds, baseline_s=2, response_s=1.5).dataset(behaviour="licks")["licks"]
    assert data.sel(time=slice(-1.5, -0.2)).mean() < 0.01 < 0.5 < data.sel(time=slice(1, None)).mean()  # licks follow the cue
