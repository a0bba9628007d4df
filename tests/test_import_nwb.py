"""Importing NWB files, written here by pynwb."""

import builtins
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.importers.nwb import read_nwb
from qf_toolkit.recordings.session import signal_of, trial_features
from qf_toolkit.recordings.store import Store

pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
from pynwb.epoch import TimeIntervals  # noqa: E402
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries  # noqa: E402

DATA = Path(__file__).parents[2] / "shared" / "data"
T, N, RATE = 400, 3, 10.0


def f_data(seed=0, n=N, t=T):
    return np.random.default_rng(seed).uniform(90, 110, (t, n)).astype(np.float32)


def dff_data(seed=0, n=N, t=T):
    return np.random.default_rng(seed).normal(0, 0.1, (t, n)).astype(np.float32)


class Writer:
    """A small NWB file, part by part."""

    def __init__(self, subject="m1", session="d1"):
        self.file = pynwb.NWBFile("test", "id", datetime(2020, 1, 1, tzinfo=UTC), session_id=session)
        if subject:
            self.file.subject = pynwb.file.Subject(subject_id=subject, species="Mus musculus")
        self.module = self.file.create_processing_module("ophys", "traces")
        self.segmentation = ImageSegmentation()
        self.module.add(self.segmentation)
        self.device = self.file.create_device("scope")
        self.containers = {}

    def plane(self, name="plane_a", n=N, first_id=10):
        channel = OpticalChannel(name="green", description="d", emission_lambda=520.0)
        optical = self.file.create_imaging_plane(
            name=name, optical_channel=channel, description="d", device=self.device, excitation_lambda=920.0, indicator="GCaMP6f", location="V1",
            imaging_rate=RATE,
        )  # fmt: skip
        table = self.segmentation.create_plane_segmentation(name=f"rois_{name}", description="d", imaging_plane=optical)
        for i in range(n):
            table.add_roi(pixel_mask=[(0, i, 1.0)], id=first_id + i)
        return table

    def series(self, kind, table, data, name="RoiResponseSeries", container=None, **options):
        if not {"rate", "timestamps"} & set(options):
            options["rate"] = RATE
        container = container or kind.__name__
        if container not in self.containers:
            self.containers[container] = kind(name=container)
            self.module.add(self.containers[container])
        region = table.create_roi_table_region(region=list(range(len(table))), description="all")
        options.setdefault("unit", "n.a.")
        self.containers[container].add_roi_response_series(RoiResponseSeries(name=name, data=data, rois=region, **options))
        return self

    def trials(self, starts, stops=None, **columns):
        for name in columns:
            self.file.add_trial_column(name, name)
        for i, start in enumerate(starts):
            stop = start + 1 if stops is None else stops[i]
            self.file.add_trial(start_time=float(start), stop_time=float(stop), **{k: v[i] for k, v in columns.items()})
        return self

    def intervals(self, name, starts, stops=None, **columns):
        table = TimeIntervals(name=name, description="d")
        for c in columns:
            table.add_column(c, c)
        for i, start in enumerate(starts):
            stop = float(start) + 1 if stops is None else float(stops[i])
            table.add_row(start_time=float(start), stop_time=stop, **{k: v[i] for k, v in columns.items()})
        self.file.add_time_intervals(table)
        return self

    def write(self, path):
        with pynwb.NWBHDF5IO(str(path), "w") as io:
            io.write(self.file)
        return path


def simple(path, kind=DfOverF, data=None, **options):
    w = Writer()
    return w.series(kind, w.plane(), dff_data() if data is None else data, **options).trials([5, 15], condition=["go", "nogo"]).write(path)


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


# --- Visual Coding in NWB 2


def visual_coding(path, letter, dandi=False):
    """A container's session of the simulator, told as NWB 2; returns the Session that its NWB 1.0 file gives.

    `dandi`: as the converter of dandiset 000728 does, with tables and index series among the stimuli, units in the names of the columns,
    a coarse table of epochs, and cells by global_roi_id.
    """
    from qf_toolkit.recordings.importers.allen import read_allen
    from qf_toolkit.recordings.session import epoch_table, trial_table
    from qf_toolkit.recordings.simulated.visual_coding_files import simulate_container

    ds = read_allen(simulate_container(path.parent / "one", sessions=(letter,), n_neurons=3, noise_frames=90, images=4)[0])
    time = ds["frame_time"].values
    w = Writer(subject=ds.attrs["subject"], session=ds.attrs["session"])
    table = w.plane(n=3)
    table.add_column(
        "global_roi_id" if dandi else "cell_specimen_id", "as in the cell table", data=[int(k.split("/")[1]) for k in ds["neuron"].values]
    )
    w.series(Fluorescence, table, ds["fluorescence"].values.T, name="Corrected", timestamps=time)
    if dandi:
        w.series(Fluorescence, table, f_data(1, 3, len(time)), name="Demixed", timestamps=time)
        w.series(DfOverF, table, dff_data(1, 3, len(time)), name="DfOverF", timestamps=time)
        w.series(DfOverF, table, dff_data(2, 3, len(time)), name="DfOverFEvents", timestamps=time)
    behavior = w.file.create_processing_module("behavior", "running")
    behavior.add(pynwb.TimeSeries(name="running_speed", data=ds["running_speed"].values, timestamps=ds["running_time"].values, unit="cm/s"))
    units = {"orientation": "orientation_in_degrees", "temporal_frequency": "temporal_frequency_in_hz",
             "spatial_frequency": "spatial_frequency_in_cycles_per_degree", "blank_sweep": "is_blank_sweep"} if dandi else {}  # fmt: skip

    def tell(name, start, stop, **columns):
        if not dandi:
            return w.intervals(name, start, stops=stop, **columns)
        if "frame" in columns:
            data = np.array(columns["frame"]).astype(np.int64).astype(np.uint32)  # -1 wraps around
            images = pynwb.base.Images(
                name=f"{name}_template", images=[pynwb.image.GrayscaleImage(name=f"i{i}", data=np.zeros((2, 2))) for i in range(2)]
            )
            w.file.add_stimulus_template(images)
            return w.file.add_stimulus(
                pynwb.image.IndexSeries(name=f"{name}_stimulus", data=data, indexed_images=images, unit="N/A", timestamps=start)
            )
        table = TimeIntervals(name=name, description="d")
        for c in columns:
            table.add_column(units.get(c, c), c)
        for i in range(len(start)):
            row = {units.get(c, c): v[i] for c, v in columns.items()}
            table.add_row(start_time=float(start[i]), stop_time=float(stop[i]), **row)
        return w.file.add_stimulus(table)

    shown = trial_table(ds)
    for stimulus, rows in shown.groupby("stimulus"):
        columns = {
            c: rows[c].tolist() for c in ("orientation", "temporal_frequency", "spatial_frequency", "phase") if c in rows and rows[c].notna().any()
        }
        if stimulus == "natural_scenes":
            columns = {"frame": rows["image"].fillna(-1).tolist()}
        if stimulus.startswith("locally"):
            columns = {"frame": rows["frame_"].tolist()}
        if stimulus == "drifting_gratings":
            columns["blank_sweep"] = [bool(b) for b in rows["orientation"].isna()]
        # with and without the suffix
        name = f"{stimulus}_presentations" if stimulus == "drifting_gratings" and not dandi else stimulus
        tell(name, time[rows["onset_frame"]], time[rows["offset_frame"]], **columns)
    movie = epoch_table(ds).query("stimulus == 'natural_movie_one'").iloc[0]
    frames = np.arange(movie["start_frame"], movie["stop_frame"])
    tell("natural_movie_one" if dandi else "natural_movie_one_presentations", time[frames], time[frames + 1], frame=list(frames % 30))
    rest = epoch_table(ds).query("stimulus == 'spontaneous'").iloc[0]
    tell("spontaneous_stimulus" if dandi else "spontaneous", time[[rest["start_frame"]]], time[[rest["stop_frame"]]])
    if dandi:
        epochs = epoch_table(ds)
        w.intervals("epochs", time[epochs["start_frame"]], stops=time[epochs["stop_frame"]], stimulus_type=epochs["stimulus"].tolist())
    w.write(path)
    return ds


@pytest.mark.parametrize("letter", ["A", "B", "C2"])
@pytest.mark.parametrize("dandi", [False, True], ids=["intervals", "dandi"])
def test_visual_coding_in_nwb_2_gives_the_session_of_its_nwb_1_file(tmp_path, letter, dandi):
    pytest.importorskip("allensdk", reason="allensdk is not installed")
    from qf_toolkit.recordings.session import epoch_table, trial_table

    expected = visual_coding(tmp_path / "two.nwb", letter, dandi)
    ds = read_nwb(tmp_path / "two.nwb")
    if dandi:  # an index series tells when a frame came, and of its end no more than when the next one came
        expected = expected.assign_coords(offset_frame=ds["offset_frame"])
        assert (abs(ds["offset_frame"].values - trial_table(expected)["offset_frame"]) <= 1).all()
        assert read_nwb(tmp_path / "two.nwb", signal="dff")["dff"].shape == expected["fluorescence"].shape
    pd.testing.assert_frame_equal(trial_table(ds)[list(trial_table(expected))], trial_table(expected))
    assert epoch_table(ds)["stimulus"].tolist() == epoch_table(expected)["stimulus"].tolist()
    late = abs(epoch_table(ds)["stop_frame"] - epoch_table(expected)["stop_frame"])
    assert (late <= int(dandi)).all() and epoch_table(ds).drop(columns="stop_frame").equals(epoch_table(expected).drop(columns="stop_frame"))
    assert ds["neuron"].values.tolist() == expected["neuron"].values.tolist()  # matched: named by cell_specimen_id
    np.testing.assert_array_equal(ds["fluorescence"], expected["fluorescence"])
    np.testing.assert_array_equal(ds["running_speed"], expected["running_speed"])
    assert read_nwb(tmp_path / "two.nwb", trials=False).sizes["trial"] == 0


def gratings(w, name="drifting_gratings", starts=(5, 10, 15), **columns):
    w.intervals(name, list(starts), **columns)
    return w


def with_traces(**options):
    w = Writer()
    return w.series(DfOverF, w.plane(), dff_data(), **options)


def test_a_table_that_lacks_a_feature_keeps_its_own_columns(tmp_path):
    w = gratings(with_traces(), starts=(3, 5, 20, 22), contrast=[0.1, 0.2, 0.1, 0.2], orientation=[0.0, 0.0, 90.0, 90.0])
    ds = read_nwb(w.write(tmp_path / "a.nwb"))
    assert ds["condition"].values[1] == "drifting_gratings/contrast=0.2,orientation=0"
    assert ds["block"].values.tolist() == [0, 0, 1, 1]  # the pause tells


def test_movies_alone_are_no_trials(tmp_path):
    w = gratings(with_traces(), "natural_movie_one", starts=range(3, 20), frame=list(range(17))).intervals("spontaneous", [30])
    ds = read_nwb(w.write(tmp_path / "a.nwb"))
    assert ds.sizes["trial"] == 0 and set(ds["epoch_stimulus"].values) == {"natural_movie_one", "spontaneous"}


def test_a_table_of_epochs_that_can_t_be_placed_is_left_out(tmp_path):
    w = with_traces(starting_time=2.0, rate=RATE).trials([5, 15], condition=["go", "nogo"]).intervals("spontaneous_presentations", [0.5])
    path = w.write(tmp_path / "a.nwb")
    for trials, n in ((None, 2), ("trials", 2), (False, 0)):
        with pytest.warns(UserWarning, match="Its epochs are left out"):
            assert read_nwb(path, trials=trials).sizes["trial"] == n


@pytest.mark.parametrize("unit, factor", [("cm/s", 1), ("m/s", 100), ("meters per second", 100), ("m / s", 100), ("mm/s", 0.1), ("V", None)])
def test_running_speed_is_in_cm_per_s_or_left_out(tmp_path, unit, factor):
    w = with_traces().trials([5])
    w.file.create_processing_module("behavior", "d").add(pynwb.TimeSeries(name="running_speed", data=np.arange(5.0), rate=1.0, unit=unit))
    path = w.write(tmp_path / "a.nwb")
    if factor is None:
        with pytest.warns(UserWarning, match="expected a speed in cm/s or m/s, found 'v'"):
            assert "running_speed" not in read_nwb(path)
    else:
        np.testing.assert_allclose(read_nwb(path)["running_speed"].values, np.arange(5) * factor, rtol=1e-6)


def index_series(w, name, frames, starts):
    images = pynwb.base.Images(name="images", images=[pynwb.image.GrayscaleImage(name=f"i{i}", data=np.zeros((2, 2))) for i in range(2)])
    w.file.add_stimulus_template(images)
    data = np.array(frames, np.uint32)
    w.file.add_stimulus(pynwb.image.IndexSeries(name=name, data=data, indexed_images=images, unit="N/A", timestamps=np.array(starts, float)))
    return w


def test_trials_come_from_the_trials_table_rather_than_from_a_series_of_images(tmp_path):
    w = index_series(with_traces().trials([5, 15], stimulus_name=["a", "b"]), "natural_scenes", [0, 1, 0], [3, 4, 5])
    assert read_nwb(w.write(tmp_path / "a.nwb"))["condition"].values.tolist() == ["trials/stimulus_name=a", "trials/stimulus_name=b"]


def test_a_stimulus_told_twice_is_taken_once(tmp_path):
    w = index_series(
        with_traces().intervals("natural_scenes_presentations", [3, 4, 5], frame=[0, 1, 0]), "natural_scenes_stimulus", [0, 1, 0], [3, 4, 5]
    )
    assert read_nwb(w.write(tmp_path / "a.nwb"))["condition"].values.tolist() == [f"natural_scenes/image={i}" for i in (0, 1, 0)]


def test_two_tables_of_one_stimulus_are_joined(tmp_path):
    w = with_traces()
    for name, starts in (("drifting_gratings", [3, 5]), ("drifting_gratings_presentations", [20, 22])):
        gratings(w, name, starts, orientation=[0.0, 90.0], temporal_frequency=[1.0, 1.0])
    ds = read_nwb(w.write(tmp_path / "a.nwb"))
    assert ds["onset_frame"].values.tolist() == [30, 50, 200, 220] and ds["block"].values.tolist() == [0, 0, 1, 1]


def test_blank_sweeps_of_a_table_that_lacks_a_feature(tmp_path):
    w = gratings(with_traces(), starts=(3, 5, 7, 9), orientation=[0.0, 90.0, 0.0, 90.0], blank_sweep=[0.0, 0.0, 1.0, 1.0])
    ds = read_nwb(w.write(tmp_path / "a.nwb"))
    assert ds["condition"].values.tolist() == [f"drifting_gratings/{c}" for c in ("orientation=0", "orientation=90", "blank", "blank")]


def test_the_user_s_column_may_be_named_with_its_unit(tmp_path):
    w = gratings(with_traces(), starts=(3, 5), orientation_in_degrees=[0.0, 90.0], contrast=[1.0, 1.0])
    ds = read_nwb(w.write(tmp_path / "a.nwb"), condition_columns=["orientation_in_degrees"])
    assert ds["condition"].values.tolist() == ["drifting_gratings/orientation=0", "drifting_gratings/orientation=90"]


@pytest.mark.parametrize("name", ["neuropil_corrected", "DfOverF_background_subtracted"])
def test_dff_of_any_name_but_events(tmp_path, name):
    w = Writer()
    table = w.plane()
    w.series(DfOverF, table, dff_data(), name=name).series(DfOverF, table, dff_data(3), name="DfOverFEvents")
    np.testing.assert_array_equal(read_nwb(w.write(tmp_path / "a.nwb"))["dff"].values, dff_data().T)


def test_cells_without_a_global_id_are_not_matched(tmp_path):
    w = Writer()
    table = w.plane()
    table.add_column("global_roi_id", "g", data=[5, -1, 7])
    assert read_nwb(w.series(DfOverF, table, dff_data()).write(tmp_path / "a.nwb"))["neuron"].values.tolist() == ["m1/d1/10", "m1/d1/11", "m1/d1/12"]
