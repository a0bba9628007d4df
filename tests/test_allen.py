"""Visual Coding files, read by the real allensdk."""

import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
from allen_files import noise_session

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.naive import scored
from qf_toolkit.recordings.importers import allen
from qf_toolkit.recordings.importers.allen import PIPELINE, read_allen
from qf_toolkit.recordings.session import Fingerprint, epoch_table, trial_table
from qf_toolkit.recordings.simulated.visual_coding_files import simulate_container
from qf_toolkit.recordings.splits import leave_one_out, split_blocks
from qf_toolkit.recordings.store import Store
from qf_toolkit.recordings.trials import cut

pytest.importorskip("allensdk", reason="allensdk is not installed: try `make allen`")

LETTERS = ("A", "B", "C", "C2")


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """Files of a simulated container, by letter."""
    return dict(zip(LETTERS, simulate_container(tmp_path_factory.mktemp("container"), sessions=LETTERS, n_neurons=6, noise_frames=150), strict=True))


@pytest.fixture(scope="module")
def sessions(container):
    return {letter: read_allen(path) for letter, path in container.items()}


FAMILIES = {"A": ["drifting_gratings"], "B": ["natural_scenes", "static_gratings"], "C": ["locally_sparse_noise"],
            "C2": ["locally_sparse_noise_4deg", "locally_sparse_noise_8deg"]}  # fmt: skip


def sdk(path):
    """allensdk's own object, unchanged."""
    return allen._cured("allensdk.core.brain_observatory_nwb_data_set").BrainObservatoryNwbDataSet(str(path))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_traces_are_those_of_allensdk(tmp_path, dtype, compression, monkeypatch):
    monkeypatch.setattr(allen, "CHUNK_BYTES", 2 * 8 * 3000)  # two cells at a time, the last alone
    x = noise_session(tmp_path / "a.nwb", dtype=dtype, compression=compression)
    theirs = sdk(tmp_path / "a.nwb")
    for traces, get in {
        "corrected": theirs.get_corrected_fluorescence_traces, "raw": theirs.get_fluorescence_traces, "demixed": theirs.get_demixed_traces,
        "dff": theirs.get_dff_traces,
    }.items():  # fmt: skip
        ds = read_allen(tmp_path / "a.nwb", traces=traces)
        time, expected = get()
        got = ds["dff" if traces == "dff" else "fluorescence"]
        assert got.dtype == np.float32 and (got.values == expected.astype(np.float32)).all()
        assert (ds["frame_time"].values == time).all()
    # a second computation, without allensdk
    corrected = (x["demixed"] - x["neuropil"] * x["r"][:, None]).astype(np.float32)
    assert (read_allen(tmp_path / "a.nwb")["fluorescence"].values == corrected).all()


def test_cells_in_no_order_keep_their_traces(tmp_path):
    noise_session(tmp_path / "a.nwb", cells=9)
    theirs, ds = sdk(tmp_path / "a.nwb"), read_allen(tmp_path / "a.nwb")
    ids = theirs.get_cell_specimen_ids()
    assert (np.diff(ids) < 0).any()
    for i in ids:
        row = ds["fluorescence"].sel(neuron=f"7/{i}").values
        assert (row == theirs.get_corrected_fluorescence_traces([i])[1][0].astype(np.float32)).all()


@pytest.mark.parametrize("letter", LETTERS)
def test_every_trial_is_a_row_of_the_stimulus_table(container, sessions, letter):
    theirs, ds = sdk(container[letter]), sessions[letter]
    trials = trial_table(ds)
    assert sorted(trials["stimulus"].unique()) == FAMILIES[letter]
    for stimulus in FAMILIES[letter]:
        table = theirs.get_stimulus_table(stimulus)
        ours = trials[trials["stimulus"] == stimulus]
        assert len(ours) == len(table) > 0
        assert (ours["onset_frame"].to_numpy() == table["start"].to_numpy()).all()
        assert (ours["offset_frame"].to_numpy() == table["end"].to_numpy() + 1).all()
        names = {"frame": "image" if stimulus == "natural_scenes" else "frame_"}
        for column in set(table.columns) - {"start", "end", "blank_sweep"}:
            shown = table[column].to_numpy(float)
            blank = shown == -1 if column == "frame" else table["blank_sweep"].to_numpy() == 1 if "blank_sweep" in table else np.isnan(shown)
            np.testing.assert_array_equal(ours[names.get(column, column)].to_numpy(float), np.where(blank, np.nan, shown))
        assert ((ours["condition"] == f"{stimulus}/blank").to_numpy() == blank).all()
        assert blank.any() == (not stimulus.startswith("locally"))


@pytest.mark.parametrize("letter", LETTERS)
def test_blocks_and_epochs_are_those_of_the_epoch_table(container, sessions, letter):
    table, epochs = sdk(container[letter]).get_stimulus_epoch_table(), epoch_table(sessions[letter])
    assert epochs["stimulus"].tolist() == table["stimulus"].tolist()
    assert (epochs["start_frame"].to_numpy() == table["start"]).all() and (epochs["stop_frame"].to_numpy() == table["end"] + 1).all()
    assert {"natural_movie_one", "spontaneous"} <= set(epochs["stimulus"])
    for stimulus in FAMILIES[letter]:
        mine = epochs[epochs["stimulus"] == stimulus]
        assert mine["block"].tolist() == [0, 1, 2]
        for row in trial_table(sessions[letter]).query("stimulus == @stimulus").itertuples():
            inside = mine[(mine["start_frame"] <= row.onset_frame) & (row.offset_frame <= mine["stop_frame"])]
            assert inside["block"].tolist() == [row.block]


def test_what_is_told_of_a_session(tmp_path):
    x = noise_session(tmp_path / "a.nwb", centres=np.array([[10 + 20 * i, 30 + i] for i in range(5)]))
    ds = read_allen(tmp_path / "a.nwb")
    about = {"subject": "7", "session": "A_42", "container": 7, "experiment": 42, "session_type": "three_session_A", "cre_line": "Cux2-CreERT2/wt",
             "imaging_depth_um": 175, "area": "VISp", "indicator": "GCaMP6f", "sex": "female", "age_days": 104, "source": "allen"}  # fmt: skip
    assert {k: ds.attrs[k] for k in about} == about and ds.attrs["rate_hz"] == pytest.approx(30.1)
    np.testing.assert_allclose(ds["x"], 10 + 20 * np.arange(5))
    np.testing.assert_allclose(ds["y"], 30 + np.arange(5))
    speed, seconds = sdk(tmp_path / "a.nwb").get_running_speed()
    np.testing.assert_array_equal(ds["running_speed"].values, speed.astype(np.float32))
    np.testing.assert_array_equal(ds["running_time"].values, seconds)
    assert ds["running_speed"].dims == ("running_time",) and len(seconds) == len(x["timestamps"])
    store = Store(tmp_path / "store", create=True)
    store.add(ds)
    again = store["7/A_42"]
    np.testing.assert_array_equal(again["running_speed"], ds["running_speed"])
    assert epoch_table(again).equals(epoch_table(ds)) and "running_speed" not in store.header("7/A_42")


def test_a_file_without_running_or_masks_is_imported(tmp_path):
    noise_session(tmp_path / "a.nwb", running=None)
    with h5py.File(tmp_path / "a.nwb", "a") as f:
        del f[f"{PIPELINE}/ImageSegmentation/imaging_plane_1"]
    ds = read_allen(tmp_path / "a.nwb")
    assert "running_speed" not in ds and "x" not in ds.coords


def test_files_of_the_first_pipeline_are_corrected_from_the_undemixed_traces(tmp_path):
    x = noise_session(tmp_path / "a.nwb", pipeline="0.9")
    with h5py.File(tmp_path / "a.nwb", "a") as f:
        light = f[f"{PIPELINE}/Fluorescence"]
        light["imaging_plane_1/neuropil_traces"] = light["imaging_plane_1_neuropil_response/data"][()]
        light["imaging_plane_1/r"] = light["imaging_plane_1_neuropil_response/r"][()]
        del light["imaging_plane_1_neuropil_response"], light["imaging_plane_1_demixed_signal"]
    got = read_allen(tmp_path / "a.nwb")["fluorescence"].values
    assert (got == (x["raw"] - x["neuropil"] * x["r"][:, None]).astype(np.float32)).all()


def test_cells_are_matched_across_the_sessions_of_a_container(sessions):
    found = [set(sessions[s]["neuron"].values) for s in LETTERS]
    common = set.intersection(*found)
    assert len(common) == 4 and all(len(f) == 6 for f in found)  # shared=0.7 of 6
    assert all(n.startswith("900000001/517") for n in common)


def test_the_cells_of_a_store(tmp_path, sessions):
    store = Store(tmp_path / "store", create=True)
    assert len(store.neurons()) == 0
    for ds in sessions.values():
        store.add(ds)
    found = store.neurons("900000001").groupby("neuron")["session"].nunique()
    assert (found == 4).sum() == 4 and (found == 1).sum() == 8 and len(store.neurons("another")) == 0


@pytest.mark.parametrize("ids", [None, np.full(5, np.nan), np.full(5, -1), np.array([b"None"] * 5)])
def test_a_session_without_matched_cells_is_imported_and_says_so(tmp_path, ids):
    noise_session(tmp_path / "a.nwb", cell_specimen_ids=ids)
    with pytest.warns(UserWarning, match="none of its 5 cells matched across sessions"):
        ds = read_allen(tmp_path / "a.nwb")
    assert all(n.startswith("7/A_42/42") for n in ds["neuron"].values)


def test_some_cells_without_a_match(tmp_path):
    noise_session(tmp_path / "a.nwb", cell_specimen_ids=np.array([5, np.nan, 3, 0, 8]))
    with pytest.warns(UserWarning, match="2 of its 5 cells"):
        ds = read_allen(tmp_path / "a.nwb")
    assert [n.count("/") for n in ds["neuron"].values] == [1, 2, 1, 2, 1]


def test_blocks_where_allensdk_cant_cut_the_epochs(tmp_path):
    noise_session(tmp_path / "a.nwb", trials=12)
    with h5py.File(tmp_path / "a.nwb", "a") as f:
        frames = f["stimulus/presentation/drifting_gratings_stimulus/frame_duration"]
        when = frames[()]
        when[[5, 6, 7, 8, 9, 10, 11]] += 60  # dropped frames inside the first block: more cuts than allensdk takes
        frames[...] = when
    with pytest.warns(UserWarning, match="two longest pauses"):
        ds = read_allen(tmp_path / "a.nwb")
    assert np.bincount(ds["block"].values).tolist() == [12, 12, 12]


def change_frames(path, change, stimulus="drifting_gratings"):
    with h5py.File(path, "a") as f:
        frames = f[f"stimulus/presentation/{stimulus}_stimulus/frame_duration"]
        when = frames[()]
        change(when)
        frames[...] = when


@pytest.mark.parametrize("row", [[5000, 5011], [-20, -9]])
def test_trials_that_cant_be_are_left_out_and_move_no_block(tmp_path, row):
    noise_session(tmp_path / "a.nwb")

    def change(when):
        when[-1 if row[0] > 0 else 0] = row
        when[3] = when[2]

    change_frames(tmp_path / "a.nwb", change)
    with pytest.warns(UserWarning) as told:
        ds = read_allen(tmp_path / "a.nwb")
    told = [str(w.message) for w in told]
    assert any("1 of 36 presentations of drifting_gratings left out (outside the recording)" in t for t in told)
    assert any("1 of 35 trials left out (at the onset of another one)" in t for t in told)
    expected = [11, 12, 11] if row[0] > 0 else [10, 12, 12]
    assert np.bincount(ds["block"].values).tolist() == expected
    epochs = epoch_table(ds)
    assert (epochs["start_frame"] >= 0).all() and (epochs["stop_frame"] <= ds.sizes["frame"]).all() and len(epochs) == 5


def test_a_stimulus_that_is_no_trial_and_can_t_be_read_is_left_out(tmp_path):
    noise_session(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "a") as f:
        shown = f["stimulus/presentation"]
        shown["flashes_stimulus/data"], shown["flashes_stimulus/frame_duration"] = np.zeros(3), np.zeros((3, 2))
        shown["natural_movie_one_stimulus/data"][5] = 77  # a frame is shown once more than the others
    with pytest.warns(UserWarning) as told:
        ds = read_allen(tmp_path / "a.nwb")
    told = " ".join(str(w.message) for w in told)
    assert "flashes left out" in told and "natural_movie_one left out" in told
    assert np.bincount(ds["block"].values).tolist() == [12, 12, 12]


def test_a_session_type_that_allensdk_doesnt_know(tmp_path):
    noise_session(tmp_path / "a.nwb", session_type="three_session_D")
    with pytest.warns(UserWarning, match="a session type that it doesn't know"):
        ds = read_allen(tmp_path / "a.nwb")
    assert ds.attrs["session"] == "D_42" and np.bincount(ds["block"].values).tolist() == [12, 12, 12]


def test_dropped_frames_in_a_block_cut_no_fourth_one(tmp_path):
    noise_session(tmp_path / "a.nwb", trials=12, frames=6000)
    change_frames(tmp_path / "a.nwb", lambda when: when.__setitem__(slice(6, 12), when[6:12] + 25))
    change_frames(tmp_path / "a.nwb", lambda when: when.__setitem__(slice(30, 36), when[30:36] + 25))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.bincount(read_allen(tmp_path / "a.nwb")["block"].values).tolist() == [12, 12, 12]


@pytest.mark.parametrize("where, value", [("general/subject/age", "P104D"), ("general/devices/2-photon microscope", "a microscope")])
def test_metadata_that_allensdk_can_t_parse_are_kept_as_written(tmp_path, where, value):
    noise_session(tmp_path / "a.nwb", metadata={where: value})
    with pytest.warns(UserWarning, match="Taken as it is written"):
        ds = read_allen(tmp_path / "a.nwb")
    about = {"subject": "7", "session": "A_42", "cre_line": "Cux2-CreERT2/wt", "imaging_depth_um": 175, "area": "VISp", "pipeline_version": "3.0"}
    assert {k: ds.attrs[k] for k in about} == about and ds.attrs["age"] == ("P104D" if "age" in where else "104 days")
    assert (ds["fluorescence"].values == sdk_corrected(tmp_path / "a.nwb")).all()


def sdk_corrected(path):
    with h5py.File(path) as f:
        light = f[f"{PIPELINE}/Fluorescence"]
        return (
            light["imaging_plane_1_demixed_signal/data"][()]
            - light["imaging_plane_1_neuropil_response/data"][()] * light["imaging_plane_1_neuropil_response/r"][()][:, None]
        ).astype(np.float32)


def test_running_that_shares_no_timestamp_is_left_out(tmp_path):
    x = noise_session(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "a") as f:
        f[f"{PIPELINE}/BehavioralTimeSeries/running_speed/timestamps"][0] += 0.001
    with pytest.warns(UserWarning, match="running speed left out, since no two-photon frame"):
        assert "running_speed" not in read_allen(tmp_path / "a.nwb")
    noise_session(tmp_path / "b.nwb", running=(np.zeros(10), x["timestamps"]))
    with pytest.warns(UserWarning, match="running speed left out"):
        read_allen(tmp_path / "b.nwb")


def test_dff_has_its_own_clock(tmp_path):
    noise_session(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "a") as f:
        f[f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps"][...] += 0.5
    time, _ = sdk(tmp_path / "a.nwb").get_dff_traces()
    assert (read_allen(tmp_path / "a.nwb", traces="dff")["frame_time"].values == time).all()
    assert read_allen(tmp_path / "a.nwb")["frame_time"].values[0] == time[0] - 0.5


def test_the_fingerprint_is_that_of_the_traces(tmp_path, monkeypatch):
    monkeypatch.setattr(allen, "CHUNK_BYTES", 8 * 3000)
    noise_session(tmp_path / "a.nwb")
    ds = read_allen(tmp_path / "a.nwb")
    assert ds.attrs["fingerprint"] == Fingerprint().add(ds["fluorescence"].values).text() and ds.attrs["mouse"] == "7"


# --- trials, labels, splits


def test_overlapping_windows_of_short_stimuli_are_the_frames_around_each_onset(sessions):
    ds = sessions["B"]
    trials = cut(ds, "natural_scenes", score_s=0.5)
    onset = trials.table["onset_frame"].to_numpy()
    assert (np.diff(onset) < 10).any()  # 0.25 s at 30 Hz: a window of 150 frames overlaps with some twenty others
    out = trials.dataset()["dff"].values
    f = ds["fluorescence"].values[trials.rows[trials.sessions[0]]].astype(np.float64)
    for i in range(0, len(onset), 7):
        x = f[:, onset[i] - 90 : onset[i] + 60]
        f0 = x[:, 30:90].mean(1, keepdims=True)
        np.testing.assert_allclose(out[i], (x - f0) / f0, rtol=2e-5, atol=2e-6)


def test_incomplete_windows_are_dropped_and_counted(tmp_path):
    noise_session(tmp_path / "a.nwb")
    ds = read_allen(tmp_path / "a.nwb")
    onset = ds["onset_frame"].values
    before, after = round(6 * 30.1), round(25 * 30.1)
    incomplete = int(((onset < before) | (onset + after > ds.sizes["frame"])).sum())
    assert incomplete > 2
    with pytest.warns(UserWarning, match=f"{incomplete} of 36 windows"):
        trials = cut(ds, baseline_s=6, response_s=25)
    assert trials.counts["incomplete"] == incomplete and len(trials) == 36 - incomplete


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_labels_by_both_rules(sessions, letter):
    score = 2.0 if letter == "A" else 0.5  # paper, table A-1
    n = round(score * 30)
    for stimulus in FAMILIES[letter]:
        for rule in ("gain", "abs_dff"):
            ds = cut(sessions[letter], stimulus, score_s=score, active_rule=rule).dataset()
            response = ds["dff"].values[..., 90 : 90 + n].astype(np.float64)
            expected = response.mean(-1) >= 0.1 if rule == "gain" else np.abs(response).mean(-1) > 0.1
            assert (ds["active"].values == expected).all() and 0 < expected.mean() < 1


def test_the_paper_s_response_window_of_each_stimulus(tmp_path, sessions):
    store = Store(tmp_path / "store", create=True)
    for ds in sessions.values():
        store.add(ds)
    trials = store.trials(score_s="paper")
    for part in trials.by_session():
        ds = part.dataset()
        for stimulus, here in ds.groupby("stimulus"):
            alone = store.trials(stimulus, session=part.sessions[0], score_s=2.0 if stimulus == "drifting_gratings" else 0.5).dataset()
            assert (here["active"].values == alone["active"].values).all() and (scored(here) == scored(alone)).all()
    with pytest.raises(QfError, match="or 'paper' or None, found 'best'"):
        store.trials(score_s="best")


def test_splits_of_a_container(tmp_path, sessions):
    store = Store(tmp_path / "store", create=True)
    for ds in sessions.values():
        store.add(ds)
    other = simulate_container(tmp_path / "other", container_id=900000777, sessions=("B",), n_neurons=4)
    store.add(read_allen(other[0]))
    trials = store.trials(stimulus=["static_gratings", "natural_scenes"], score_s=0.5)
    split = split_blocks(trials)
    assert set(split.test.table["block"]) == {2} and set(split.train.table["block"]) == set(split.validation.table["block"]) == {0, 1}
    category = leave_one_out(trials, stimulus="natural_scenes")
    assert set(category.test.table["stimulus"]) == {"natural_scenes"} and set(category.fitting.table["stimulus"]) == {"static_gratings"}
    mouse = leave_one_out(trials, subject="900000777")
    assert set(mouse.test.table["subject"]) == {"900000777"} and set(mouse.fitting.table["subject"]) == {"900000001"}
    for s in (split, category, mouse):
        for session in s.test.sessions:
            frames = [
                {f for a, b in p.intervals(session) for f in range(a, b)} if session in p.sessions else set() for p in (s.train, s.validation, s.test)
            ]
            assert not (frames[0] & frames[1] or frames[0] & frames[2] or frames[1] & frames[2])


@pytest.mark.filterwarnings("ignore:.* hold the same recording")  # the three differ in their names alone
def test_two_containers_of_one_mouse_are_told(tmp_path):
    store = Store(tmp_path / "store", create=True)
    for i in (7, 8, 9):
        specimen = {"general/specimen_name": f"Cux2-CreERT2;Camk2a-tTA;Ai93-{'222' if i < 9 else '333'}"}
        noise_session(tmp_path / "a.nwb", container_id=i, metadata=specimen, cells=2)
        store.add(read_allen(tmp_path / "a.nwb"))
    trials = store.trials(response_s=1, baseline_s=1)
    with pytest.warns(UserWarning, match="8 is of the same mouse as 7"):
        leave_one_out(trials, subject="7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leave_one_out(trials, subject="9")


# --- what allensdk needs, and what is left alone


def test_nothing_outside_allensdk_is_changed():
    code = """
import sys, numpy as np, scipy, logging, statsmodels.sandbox.stats.multicomp as m
before = set(dir(np)), set(dir(m)), "pkg_resources" in sys.modules, list(logging.getLogger().handlers)
from qf_toolkit.estimators.naive import scored
from qf_toolkit.recordings.importers import allen
allen._dataset_class(); allen.cache_classes()
assert before == (set(dir(np)), set(dir(m)), "pkg_resources" in sys.modules, list(logging.getLogger().handlers))
assert not hasattr(np, "string_") and not hasattr(np, "NaN")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_that_fails_leaves_nothing_behind():
    code = """
import sys, numpy as np
from qf_toolkit.errors import QfError
from qf_toolkit.recordings.importers import allen
before = set(dir(np)), "pkg_resources" in sys.modules
sys.modules["statsmodels.sandbox.stats.multicomp"] = None
try:
    allen.need_allensdk()
except QfError as e:
    assert "pip install --no-deps allensdk==2.16.2" in str(e)
else:
    raise AssertionError("imported")
assert before == (set(dir(np)), "pkg_resources" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_that_read_first_leave_nothing_behind(tmp_path):
    noise_session(tmp_path / "a.nwb", cells=2, frames=1200, trials=4)
    code = f"""
import sys, warnings, logging
from concurrent.futures import ThreadPoolExecutor
import qf_toolkit.recordings.importers.allen as allen, h5py, pandas, xarray, statsmodels.api
before = list(warnings.filters), "pkg_resources" in sys.modules, list(logging.getLogger().handlers)
with ThreadPoolExecutor(4) as pool:
    out = list(pool.map(lambda _: allen.read_allen(r"{tmp_path / "a.nwb"}").attrs["fingerprint"], range(8)))
assert len(set(out)) == 1
after = list(warnings.filters), "pkg_resources" in sys.modules, list(logging.getLogger().handlers)
assert before == after, [f for f in after[0] if f not in before[0]]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_allensdk_is_imported_on_use_alone():
    code = "import sys, qf_toolkit, qf_toolkit.cli.main, qf_toolkit.recordings.importers.allen; assert not any(m.startswith('allensdk') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_allensdk_one_line_says_how_to_install_it(tmp_path):
    noise_session(tmp_path / "a.nwb")
    code = f"""
import sys
sys.modules["allensdk"] = None
from qf_toolkit.cli.main import main
sys.exit(main(["import", "allen", "--files", r"{tmp_path / "a.nwb"}", "--store", r"{tmp_path / "store"}"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install --no-deps allensdk==2.16.2" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "store").glob("*.nc"))
