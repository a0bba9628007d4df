"""Importing NWB files, written here by pynwb."""

import builtins
from pathlib import Path

import h5py
import numpy as np
import pytest
from nwb_files import RATE, T, Writer, dff_data, f_data, simple

from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.importers.nwb import read_nwb
from qf_toolkit.recordings.session import signal_of, trial_features
from qf_toolkit.recordings.store import Store

pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
from pynwb.ophys import DfOverF, Fluorescence  # noqa: E402

DATA = Path(__file__).parents[2] / "shared" / "data"


def test_dff_alone(tmp_path):
    ds = read_nwb(simple(tmp_path / "a.nwb"))
    assert signal_of(ds) == "dff" and ds.attrs["rate_hz"] == RATE
    np.testing.assert_array_equal(ds["dff"].values, dff_data().T)
    assert ds["neuron"].values.tolist() == ["m1/d1/10", "m1/d1/11", "m1/d1/12"]
    assert ds["condition"].values.tolist() == ["trials/condition=go", "trials/condition=nogo"]
    assert ds["onset_frame"].values.tolist() == [50, 150] and ds["offset_frame"].values.tolist() == [60, 160]
    assert ds.attrs["indicator"] == "GCaMP6f" and ds.attrs["area"] == "V1"


def test_fluorescence_is_preferred_and_dff_can_be_asked_for(tmp_path):
    w = Writer()
    table = w.plane()
    w.series(DfOverF, table, dff_data()).series(Fluorescence, table, f_data()).series(Fluorescence, table, f_data(5), container="Neuropil")
    path = w.write(tmp_path / "a.nwb")
    np.testing.assert_array_equal(read_nwb(path)["fluorescence"].values, f_data().T)
    np.testing.assert_array_equal(read_nwb(path, signal="dff")["dff"].values, dff_data().T)
    only = simple(tmp_path / "b.nwb")
    with pytest.raises(QfError, match="Pass signal='dff'"):
        read_nwb(only, signal="fluorescence")


def test_dff_kept_in_a_fluorescence_container_is_still_dff(tmp_path):
    assert signal_of(read_nwb(simple(tmp_path / "a.nwb", Fluorescence, name="dff_traces"))) == "dff"


def test_two_versions_of_the_same_rois_are_for_the_user_to_choose(tmp_path):
    w = Writer()
    table = w.plane()
    w.series(Fluorescence, table, f_data(0), name="one").series(Fluorescence, table, f_data(1), name="two")
    path = w.write(tmp_path / "a.nwb")
    with pytest.raises(QfError, match="Pass plane="):
        read_nwb(path)
    np.testing.assert_array_equal(read_nwb(path, plane="two")["fluorescence"].values, f_data(1).T)


def two_planes(path, **second):
    w = Writer()
    w.series(Fluorescence, w.plane("plane_a"), f_data(0), name="sa")
    t = second.pop("t", T)
    w.series(Fluorescence, w.plane("plane_b", n=2), f_data(1, n=2, t=t), name="sb", **second)
    return w.write(path)


def test_two_planes_are_joined(tmp_path):
    ds = read_nwb(two_planes(tmp_path / "a.nwb", rate=RATE, starting_time=0.03))
    assert ds["plane"].values.tolist() == ["plane_a"] * 3 + ["plane_b"] * 2
    np.testing.assert_array_equal(ds["fluorescence"].values, np.concatenate([f_data(0), f_data(1, n=2)], 1).T)
    assert ds["neuron"].values[0] == "m1/d1/plane_a-10" and ds["neuron"].values[3] == "m1/d1/plane_b-10"


@pytest.mark.parametrize("second", [{"t": T - 5}, {"rate": 12.0}, {"rate": RATE, "starting_time": 3.0}])
def test_planes_that_do_not_fit_need_a_choice(tmp_path, second):
    path = two_planes(tmp_path / "a.nwb", **second)
    with pytest.raises(SessionError, match=r"a\.nwb: planes: .*plane="):
        read_nwb(path)
    assert read_nwb(path, plane="plane_b").sizes["neuron"] == 2
    assert read_nwb(path, plane="sa").sizes["neuron"] == 3
    with pytest.raises(QfError, match="plane_a"):
        read_nwb(path, plane="plane_c")


def test_no_trials_is_a_continuous_recording(tmp_path):
    w = Writer()
    ds = read_nwb(w.series(DfOverF, w.plane(), dff_data()).write(tmp_path / "a.nwb"))
    assert ds.sizes["trial"] == 0
    assert read_nwb(simple(tmp_path / "b.nwb"), trials=False).sizes["trial"] == 0


def test_timestamps_place_the_trials(tmp_path):
    stamps = 2.0 + np.arange(T) / RATE
    stamps[100:] += 30  # a pause
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data(), timestamps=stamps).trials([3.0, 20.0, 45.0], condition=list("abc"))
    with pytest.warns(UserWarning, match="trials/start_time: left out 1 of 3 onsets .* jump, first 20 s"):
        ds = read_nwb(w.write(tmp_path / "a.nwb"))
    np.testing.assert_allclose(ds["frame_time"].values, stamps)
    # the second onset lies in the pause
    assert ds["onset_frame"].values.tolist() == [10, 130] and ds["condition"].values.tolist() == ["trials/condition=a", "trials/condition=c"]
    assert ds.attrs["rate_hz"] == pytest.approx(RATE)


def test_starting_time_counts(tmp_path):
    ds = read_nwb(simple(tmp_path / "a.nwb", rate=RATE, starting_time=2.0))
    assert ds["onset_frame"].values.tolist() == [30, 130] and ds["frame_time"].values[0] == 2.0


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("time", ["rate", "timestamps"])
def test_the_other_orientation_is_turned(tmp_path, time):
    path = simple(tmp_path / "a.nwb", **({"rate": RATE} if time == "rate" else {"timestamps": np.arange(T) / RATE}))
    # pynwb refuses to write this, other writers do not
    with h5py.File(path, "r+") as f:
        group = f["processing/ophys/DfOverF/RoiResponseSeries"]
        attrs = dict(group["data"].attrs)
        del group["data"]
        group["data"] = dff_data().T
        group["data"].attrs.update(attrs)
    ds = read_nwb(path)
    np.testing.assert_array_equal(ds["dff"].values, dff_data().T)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_data_that_fit_no_orientation_are_refused(tmp_path):
    with pytest.raises(SessionError, match="3 ROIs, found shape"):
        read_nwb(simple(tmp_path / "a.nwb", data=dff_data(n=7)))


def test_conversion_and_offset_are_applied(tmp_path):
    ds = read_nwb(simple(tmp_path / "a.nwb", Fluorescence, data=np.round(f_data()).astype(np.int16), conversion=0.5, offset=3.0))
    np.testing.assert_allclose(ds["fluorescence"].values, np.round(f_data()).T * 0.5 + 3)


def test_percent_is_refused_by_name_unless_the_unit_says_so(tmp_path):
    with pytest.raises(SessionError, match=r"p\.nwb: dff: expected a fraction"):
        read_nwb(simple(tmp_path / "p.nwb", data=dff_data() * 100))
    ds = read_nwb(simple(tmp_path / "q.nwb", data=dff_data() * 100, unit="percent"))
    np.testing.assert_allclose(ds["dff"].values, dff_data().T, rtol=1e-5)
    assert "divided by 100" in ds.attrs["provenance"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, share):
    path = simple(tmp_path / "cut.nwb")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedFileError, match=r"cut\.nwb") as error:
        read_nwb(path)
    assert "\n" not in str(error.value)


def test_no_hdf5_no_nwb_and_nwb_1(tmp_path):
    with pytest.raises(QfError, match="found nothing"):
        read_nwb(tmp_path / "none.nwb")
    (tmp_path / "text.nwb").write_text("hello " * 1000)
    with pytest.raises(DamagedFileError, match=r"text\.nwb.*HDF5"):
        read_nwb(tmp_path / "text.nwb")
    with h5py.File(tmp_path / "plain.nwb", "w") as f:
        f["x"] = 1
    with pytest.raises(SessionError, match="without nwb_version"):
        read_nwb(tmp_path / "plain.nwb")
    with h5py.File(tmp_path / "old.nwb", "w") as f:
        f["nwb_version"] = "NWB-1.0.6"
        f["general/subject"] = "x"
    with pytest.raises(SessionError, match=r"old\.nwb.*NWB-1\.0\.6.*convert"):
        read_nwb(tmp_path / "old.nwb")
    with h5py.File(tmp_path / "hollow.nwb", "w") as f:
        f.attrs["nwb_version"] = "2.5.0"
    with pytest.raises(SessionError, match=r"hollow\.nwb"):
        read_nwb(tmp_path / "hollow.nwb")


@pytest.mark.filterwarnings("ignore:ImageSegmentation 'ImageSegmentation' is missing")
def test_no_traces_at_all(tmp_path):
    with pytest.raises(SessionError, match=r"a\.nwb: traces: .*found none"):
        read_nwb(Writer().write(tmp_path / "a.nwb"))
    w = Writer()
    w.series(Fluorescence, w.plane(), f_data(), container="Deconvolved")
    with pytest.raises(SessionError, match="Deconvolved"):
        read_nwb(w.write(tmp_path / "b.nwb"))


@pytest.mark.parametrize("start", [-5.0, 40.5, 1e6])
def test_onsets_outside_are_refused(tmp_path, start):
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data()).trials([5, start], condition=["a", "b"])
    with pytest.raises(SessionError, match=r"a\.nwb: trials/start_time: .*1 of 2 onsets outside"):
        read_nwb(w.write(tmp_path / "a.nwb"))


def test_default_condition_takes_features_and_leaves_outcomes(tmp_path):
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data())
    w.trials([5, 10, 15], orientation=[0.0, 90.0, np.nan], rewarded=[True, False, True], trial_number=[1, 2, 3], block=[0, 0, 1])
    path = w.write(tmp_path / "a.nwb")
    ds = read_nwb(path)
    assert ds["condition"].values.tolist() == ["trials/orientation=0", "trials/orientation=90", "trials/blank"]
    assert trial_features(ds) == ["orientation"] and ds["block"].values.tolist() == [0, 0, 1]
    ds = read_nwb(path, condition_columns=["orientation", "rewarded"], stimulus="gratings")
    assert ds["condition"].values[0] == "gratings/orientation=0,rewarded=1"
    with pytest.raises(QfError, match="did you mean orientation"):
        read_nwb(path, condition_columns=["orientatoin"])


def test_without_known_columns_the_repeating_ones_are_taken(tmp_path):
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data()).trials(
        [5, 10, 15, 20], flavour=["x", "y", "x", "y"], rewarded=[True, False, True, True], note=list("abcd")
    )
    assert read_nwb(w.write(tmp_path / "a.nwb"))["condition"].values.tolist() == [f"trials/flavour={v}" for v in "xyxy"]
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data()).trials([5, 10])
    assert read_nwb(w.write(tmp_path / "b.nwb"))["condition"].values.tolist() == ["trials/all"] * 2


def test_a_stimulus_column_is_the_category_beside_features_and_the_feature_alone(tmp_path):
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data()).trials([5, 10], stimulus=["bar", "disc"], size=[1.0, 2.0])
    assert read_nwb(w.write(tmp_path / "a.nwb"))["condition"].values.tolist() == ["bar/size=1", "disc/size=2"]
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data()).trials([5, 10], stimulus=["bar", "disc"])
    assert read_nwb(w.write(tmp_path / "b.nwb"))["condition"].values.tolist() == ["trials/stimulus=bar", "trials/stimulus=disc"]


def presentations(path):
    w = Writer()
    w.series(DfOverF, w.plane(), dff_data())
    w.intervals(
        "drifting_gratings_presentations", [1, 5], orientation=["45.0", "null"], temporal_frequency=["2.0", "null"], stimulus_block=[0.0, 1.0]
    )
    w.intervals("natural_images_presentations", [10, 12], image_name=["im007", "im008"])
    w.intervals("spontaneous_presentations", [20])
    return w.write(path)


def test_presentation_tables_are_joined(tmp_path):
    path = presentations(tmp_path / "a.nwb")
    ds = read_nwb(path)
    assert ds["stimulus"].values.tolist() == ["drifting_gratings"] * 2 + ["natural_images"] * 2
    assert ds["condition"].values.tolist() == [
        "drifting_gratings/orientation=45,temporal_frequency=2", "drifting_gratings/blank",
        "natural_images/image_name=im007", "natural_images/image_name=im008",
    ]  # fmt: skip
    assert ds["block"].values.tolist() == [0, 1, 0, 0]
    assert read_nwb(path, trials="natural_images_presentations").sizes["trial"] == 2
    with pytest.raises(QfError, match="did you mean natural_images"):
        read_nwb(path, trials="natural_image_presentations")


def test_names_fall_back_to_the_file(tmp_path):
    w = Writer(subject=None, session=None)
    w.series(DfOverF, w.plane(), dff_data())
    w.write(tmp_path / "sub-7_ses-b.nwb")
    ds = read_nwb(tmp_path / "sub-7_ses-b.nwb")
    assert (ds.attrs["subject"], ds.attrs["session"]) == ("7", "b")
    (tmp_path / "sub-7_ses-b.nwb").rename(tmp_path / "mine.nwb")
    ds = read_nwb(tmp_path / "mine.nwb", session="x", matched=True)
    assert (ds.attrs["subject"], ds.attrs["session"]) == ("mine", "x")
    assert ds["neuron"].values[0] == "mine/10"


def test_pynwb_missing_is_told_with_the_command(tmp_path, monkeypatch):
    path = simple(tmp_path / "a.nwb")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pynwb":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(QfError, match="pip install"):
        read_nwb(path)


def test_round_trip_through_a_store(tmp_path):
    ds = read_nwb(presentations(tmp_path / "a.nwb"))
    store = Store(tmp_path / "store", create=True)
    key = store.add(ds)
    again = Store(tmp_path / "store")[key]
    np.testing.assert_array_equal(again["dff"].values, ds["dff"].values)
    for name in ("condition", "neuron", "plane", "onset_frame", "orientation", "image_name"):
        np.testing.assert_array_equal(again[name].values.astype(str), ds[name].values.astype(str))


def test_real_sessions(tmp_path):
    folder = DATA / "s1-gonogo"
    if not folder.exists():
        pytest.skip("the shared recordings are absent")
    store = Store(tmp_path / "store", create=True)
    files = sorted(folder.glob("*.nwb"))
    for path in files:
        ds = read_nwb(path)
        assert set(ds["condition"].values) == {"trials/condition=go", "trials/condition=nogo"}
        assert signal_of(ds) == "dff" and ds.attrs["rate_hz"] == 10.8
        store.add(ds)
    assert len(store.keys()) == len(files) and len(store.index) > 1000
