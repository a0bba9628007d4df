"""Importing .npy, .npz and trial tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qf_toolkit.errors import DamagedFileError, QfError, SessionError
from qf_toolkit.recordings.clock import frames_at
from qf_toolkit.recordings.conditions import condition_key
from qf_toolkit.recordings.importers.arrays import from_arrays, read_arrays
from qf_toolkit.recordings.importers.trial_tables import as_trials, read_trials_csv
from qf_toolkit.recordings.session import signal_of, trial_features

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def traces():
    return np.random.default_rng(0).uniform(50, 60, (4, 300)).astype(np.float32)


def csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_trials_csv_takes_frames_and_drops_counters_and_times(tmp_path):
    path = csv(tmp_path / "t.csv", "trial,onset_s,onset_frame,offset_frame,direction_deg\n0,1.0,11,20,45\n1,3.0,31,40,90\n")
    table = read_trials_csv(path, 10)
    assert list(table.columns) == ["onset_frame", "offset_frame", "direction_deg"]
    assert table["onset_frame"].tolist() == [11, 31]


def test_trials_csv_turns_seconds_into_the_first_frame_at_or_after(tmp_path):
    path = csv(tmp_path / "t.csv", "onset_s,offset_s,stimulus,block,angle\n1.0,2.0,bar,0,45\n1.01,2.05,bar,1,90\n")
    table = read_trials_csv(path, 10)
    assert table["onset_frame"].tolist() == [10, 11]
    assert table["offset_frame"].tolist() == [20, 21]
    assert table["block"].tolist() == [0, 1]
    late = read_trials_csv(path, None, frame_time=0.5 + np.arange(50) / 10)
    assert late["onset_frame"].tolist() == [5, 6]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_trials_csv_of_other_separators_and_a_byte_order_mark(tmp_path, separator):
    path = csv(tmp_path / "t.csv", "\ufeffonset_frame,angle\n5,45\n9,90\n".replace(",", separator))
    assert read_trials_csv(path, 10)["angle"].tolist() == [45, 90]


@pytest.mark.parametrize(
    "text, words",
    [
        ("trial,angle\n0,45\n", "onset_frame or onset_s"),
        ("onset_s,angle\nsoon,45\n", "'soon' in row 0"),
        ("onset_s,angle\n,45\n", "row 0"),
        ("onset_frame,angle\n1.5,45\n", "whole numbers"),
        ("onset_frame,stimulus\n1,\n", "1 empty"),
        ("", "can't be read"),
        ('onset_s,a\n1,2\n1,2,3,4\n"', "can't be read"),
    ],
)
def test_trials_csv_errors_name_the_file_and_the_fault(tmp_path, text, words):
    path = csv(tmp_path / "mine.csv", text)
    with pytest.raises(QfError, match=words) as error:
        read_trials_csv(path, 10)
    assert "mine.csv" in str(error.value) and "\n" not in str(error.value)


def test_trials_csv_missing_or_binary(tmp_path):
    with pytest.raises(QfError, match="found nothing"):
        read_trials_csv(tmp_path / "none.csv", 10)
    (tmp_path / "b.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DamagedFileError, match="b.csv"):
        read_trials_csv(tmp_path / "b.csv", 10)


def test_onsets_outside_the_recording_are_refused(tmp_path, traces):
    path = csv(tmp_path / "t.csv", "onset_s\n10\n400\n")
    with pytest.raises(SessionError, match="outside"):
        from_arrays(traces, subject="m", session="a", rate_hz=10, trials=path)
    with pytest.raises(SessionError, match="1 of 2 onsets outside"):
        from_arrays(traces, subject="m", session="a", frame_time=np.arange(300) / 10, trials=path)


def test_from_arrays_takes_a_table_or_its_file(tmp_path, traces):
    table = pd.DataFrame({"onset_frame": [50, 20], "angle": [90, 45]})
    table.to_csv(tmp_path / "t.csv", index=False)
    a = from_arrays(traces, subject="m", session="a", rate_hz=10, trials=table)
    b = from_arrays(traces, subject="m", session="a", rate_hz=10, trials=tmp_path / "t.csv")
    assert a.identical(b)
    assert a["condition"].values.tolist() == ["stimulus/angle=45", "stimulus/angle=90"]
    assert trial_features(a) == ["angle"]


def test_large_ids_stay_apart_in_the_condition_key():
    assert condition_key("image", {"id": 1234567}) != condition_key("image", {"id": 1234568.0})
    assert condition_key("g", {"sf": 0.04000000001, "tf": 2.0}) == "g/sf=0.04,tf=2"


def test_frames_at_needs_a_rate():
    with pytest.raises(SessionError, match="--rate"):
        frames_at(np.array([1.0]), None)


@pytest.mark.filterwarnings("ignore:.*since a recording has more frames than neurons")
def test_npy_either_way_round_gives_the_same(tmp_path, traces):
    np.save(tmp_path / "a.npy", traces)
    np.save(tmp_path / "b.npy", traces.T)
    a = read_arrays(tmp_path / "a.npy", rate_hz=10, signal="fluorescence", subject="m", session="s")
    with pytest.warns(UserWarning, match="b.npy: taken for 300 frames of 4 neurons"):
        b = read_arrays(tmp_path / "b.npy", rate_hz=10, signal="fluorescence", subject="m", session="s")
    assert a.attrs["fingerprint"] == b.attrs["fingerprint"]
    np.testing.assert_array_equal(a["fluorescence"].values, traces)
    forced = read_arrays(tmp_path / "a.npy", rate_hz=10, signal="fluorescence", orientation="frame,neuron")
    assert dict(forced.sizes) == {"neuron": 300, "frame": 4, "trial": 0}


def test_square_arrays_need_an_orientation(tmp_path):
    np.save(tmp_path / "q.npy", np.random.default_rng(0).uniform(1, 2, (5, 5)))
    with pytest.raises(SessionError, match="orientation"):
        read_arrays(tmp_path / "q.npy", rate_hz=10, signal="fluorescence")


def test_npz_needs_a_key_only_where_there_are_several(tmp_path, traces):
    np.savez(tmp_path / "one.npz", traces)
    np.savez(tmp_path / "two.npz", calcium=traces, time=np.arange(300))
    assert read_arrays(tmp_path / "one.npz", rate_hz=10, signal="fluorescence").sizes["neuron"] == 4
    with pytest.raises(QfError, match="calcium, time"):
        read_arrays(tmp_path / "two.npz", rate_hz=10, signal="fluorescence")
    with pytest.raises(QfError, match="did you mean calcium"):
        read_arrays(tmp_path / "two.npz", rate_hz=10, signal="fluorescence", key="calcum")
    with pytest.raises(SessionError, match="2 dims"):
        read_arrays(tmp_path / "two.npz", rate_hz=10, signal="fluorescence", key="time")
    assert read_arrays(tmp_path / "two.npz", rate_hz=10, signal="fluorescence", key="calcium").sizes["frame"] == 300


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # numpy leaves the file of a broken archive open
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, traces, suffix, share):
    path = tmp_path / f"cut.{suffix}"
    np.save(path, traces) if suffix == "npy" else np.savez_compressed(path, traces)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DamagedFileError, match=f"cut.{suffix}"):
        read_arrays(path, rate_hz=10, signal="fluorescence")


def test_a_pickle_is_never_loaded(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DamagedFileError, match="o.npy"):
        read_arrays(tmp_path / "o.npy", rate_hz=10, signal="dff")


def test_percent_is_refused_with_the_name(tmp_path):
    np.save(tmp_path / "percent.npy", np.random.default_rng(0).normal(0, 10, (3, 400)))
    with pytest.raises(SessionError, match=r"percent.npy: dff: expected a fraction"):
        read_arrays(tmp_path / "percent.npy", rate_hz=10, signal="dff")


@pytest.mark.filterwarnings("ignore:.*taken for 3137 frames of 109 neurons")
def test_real_worm():
    path = DATA / "celegans" / "worm_1.npz"
    if not path.exists():
        pytest.skip("the shared recordings are absent")
    ds = read_arrays(path, rate_hz=2.9, signal="dff", subject="worm1", session="kato")
    assert signal_of(ds) == "dff" and dict(ds.sizes) == {"neuron": 109, "frame": 3137, "trial": 0}


def test_onsets_in_both_units_and_durations():
    table = pd.DataFrame({"onset_frame": [100, 200], "onset_s": [10.0, 20.0], "offset_s": [12.0, 22.0], "angle": [0, 90]})
    assert as_trials(table, 10.0)["offset_frame"].tolist() == [120, 220]
    for column, values, words in (
        ("offset_s", [9.0, 22.0], "offset_s after onset_s, found 9"),
        ("duration_s", [-1.0, 2.0], "above 0 in duration_s, found -1"),
    ):
        with pytest.raises(SessionError, match=words):
            as_trials(table.drop(columns="offset_s").assign(**{column: values}), 10.0)


def test_condition_columns_make_the_condition():
    table = pd.DataFrame(
        {"onset_frame": [100, 200, 300], "condition": ["p", "q", "p"], "angle": [0, 90, 0], "lick": [0.1, 0.2, 0.3], "block": [0, 0, 1]}
    )
    x = np.random.default_rng(0).uniform(90, 110, (2, 400))
    make = lambda columns: from_arrays(x, subject="m", session="s", rate_hz=10, trials=table, condition_columns=columns)  # noqa: E731
    assert make(["angle"])["condition"].values.tolist() == ["stimulus/angle=0", "stimulus/angle=90", "stimulus/angle=0"]
    assert make(["condition"])["condition"].values.tolist() == ["stimulus/p", "stimulus/q", "stimulus/p"]
    assert "lick" not in make(["angle"]).coords and make(["angle"])["block"].values.tolist() == [0, 0, 1]
    for column, words in (("block", "says something else"), ("angel", "did you mean angle")):
        with pytest.raises(SessionError, match=words):
            make([column])
