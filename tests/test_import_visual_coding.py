"""Visual Coding sessions in NWB 2, and tables of stimuli of other laboratories."""

import numpy as np
import pandas as pd
import pytest
from nwb_files import RATE, Writer, dff_data, f_data

from qf_toolkit.recordings.importers.nwb import read_nwb

pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
from pynwb.epoch import TimeIntervals  # noqa: E402
from pynwb.ophys import DfOverF, Fluorescence  # noqa: E402

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
