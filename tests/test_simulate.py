"""The simulated cortex: deterministic, positive, the protocol's conditions and blocks, and a ceiling that is the conditional mean."""

import json

import numpy as np
import pytest

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.recordings.simulated import cortex as simulation
from qf_toolkit.recordings.simulated.conditional_mean import conditional_mean
from qf_toolkit.recordings.simulated.cortex import SUBTRACTED, Physiology, load_truth, simulate
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.store import Store

SMALL = {
    "n_neurons": 8, "repeats": 3, "directions": 2, "temporal_frequencies": 2, "images": 4, "orientations": 2, "spatial_frequencies": 2, "phases": 2,
    "noise_frames": 30, "image_repeats": 4, "gap_s": 4.0,
}  # fmt: skip
# no noise but that of the spikes, and calcium linear in them: the conditional mean has a closed form
LINEAR = Physiology(gain_sd=0.0, fluctuation=0.0, focus_sd=0.0, neuropil_gain=0.0, saturation=float("inf"), base_rate=1.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("sim") / "store", sessions="ABC", seed=1, **SMALL)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(store, tmp_path):
    again = simulate(tmp_path / "again", sessions="A", seed=1, **SMALL)
    other = simulate(tmp_path / "other", sessions="A", seed=2, **SMALL)
    mouse = simulate(tmp_path / "mouse", sessions="A", seed=1, subject="sim2", **SMALL)
    first = store["sim1/A"]
    # alone or beside B and C, A is the same
    assert first.identical(again["sim1/A"])
    assert load_truth(store, "sim1/A").identical(load_truth(again, "sim1/A"))
    assert not np.allclose(first["fluorescence"], other["sim1/A"]["fluorescence"])
    assert not np.allclose(first["fluorescence"], mouse["sim2/A"]["fluorescence"])


def test_fluorescence_is_positive_and_no_neuron_is_flagged(store):
    for key in ("sim1/A", "sim1/B", "sim1/C"):
        ds = store[key]
        assert (ds["fluorescence"].values > 0).all()
        assert set(ds["flag"].values.astype(str)) == {""}
        assert ds.attrs["source"] == "simulation"
        assert json.loads(ds.attrs["provenance"])["seed"] == 1


def test_neurons_are_matched_across_sessions(store):
    names = [list(store[k]["neuron"].values) for k in ("sim1/A", "sim1/B", "sim1/C")]
    assert names[0] == names[1] == names[2]
    assert names[0][0].split("/")[0] == "sim1" and names[0][0].count("/") == 1
    a, b = load_truth(store, "sim1/A"), load_truth(store, "sim1/B")
    np.testing.assert_array_equal(a["param_direction"], b["param_direction"])


@pytest.mark.parametrize(
    ("session", "stimulus", "conditions", "repeats", "example"),
    [
        ("A", "drifting_gratings", 4, 3, "drifting_gratings/orientation=180,temporal_frequency=2"),
        ("B", "static_gratings", 8, 4, "static_gratings/orientation=90,spatial_frequency=0.04,phase=0.5"),
        ("B", "natural_scenes", 4, 4, "natural_scenes/image=3"),
        ("C", "locally_sparse_noise", 30, 1, "locally_sparse_noise/frame=29"),
    ],
)
def test_conditions_blocks_and_repeats(store, session, stimulus, conditions, repeats, example):
    table = store.index
    table = table[(table["session"] == f"sim1/{session}") & (table["stimulus"] == stimulus)]
    blank = table["condition"] == f"{stimulus}/blank"
    assert blank.any() == (session != "C")
    shown = table[~blank]
    counts = shown["condition"].value_counts()
    assert example in counts.index
    assert len(counts) == conditions and set(counts) == {repeats}
    assert sorted(table["block"].unique()) == [0, 1, 2]
    shares = shown.groupby(["condition", "block"]).size().unstack(fill_value=0)
    assert (shares.max(axis=1) - shares.min(axis=1) <= 1).all()
    totals = table.groupby("block").size()
    assert totals.max() - totals.min() <= 2
    on = (table["offset_frame"] - table["onset_frame"]).unique()
    assert set(on) <= ({60} if session == "A" else {7, 8})
    # the order is shuffled: a sorted one would be no pseudo-random design
    assert not shown["condition"].is_monotonic_increasing


def test_the_real_protocol_has_the_published_counts(tmp_path):
    full = simulate(tmp_path / "s", n_neurons=1, sessions="A", gap_s=0.0, rate_hz=3.0)
    table = full.index
    assert len(table) == 630
    assert (table["condition"] == "drifting_gratings/blank").sum() == 30
    shares = table[table["condition"] != "drifting_gratings/blank"].groupby(["condition", "block"]).size()
    assert len(shares) == 120 and set(shares) == {5}


def test_blocks_of_session_b_are_interleaved_and_can_be_split(store):
    table = store.index.query("session == 'sim1/B'").sort_values("onset_frame")
    order = table.drop_duplicates(["stimulus", "block"])["stimulus"].tolist()
    assert order == ["static_gratings", "natural_scenes"] * 3
    split = split_blocks(store.trials(stimulus="drifting_gratings", f0_s=1.0))
    assert set(split.test.table["block"]) == {2} and len(split.fitting) > 0


def test_spikes_follow_the_rate_and_calcium_follows_the_spikes(tmp_path):
    made = simulate(tmp_path / "s", sessions="A", **{**SMALL, "n_neurons": 12, "gap_s": 60.0})
    truth = load_truth(made, "sim1/A").load()
    dt = 1 / truth.attrs["rate_hz"]
    expected, spikes = truth["rate"].values.sum(1) * dt, truth["spikes"].values.sum(1)
    assert (np.abs(spikes - expected) < 4 * np.sqrt(expected) + 1).all() and spikes.sum() > 200
    slow = truth["slow"].values
    rebuilt = truth["param_slow_keep"].values[:, None] * slow[:, :-1] + truth["spikes"].values[:, 1:]
    np.testing.assert_allclose(slow[:, 1:], rebuilt, rtol=1e-4, atol=1e-4)
    assert truth["rate"].values.min() >= 0


def test_the_ceiling_is_the_closed_form_where_there_is_one(tmp_path):
    made = simulate(tmp_path / "s", sessions="A", physiology=LINEAR, seed=3, **SMALL)
    truth = load_truth(made, "sim1/A").load()
    p = {k[6:]: v.values for k, v in truth.data_vars.items() if k.startswith("param_")}
    onsets, n = store_onsets(made)[:4], 45
    got = conditional_mean(made, "sim1/A", onsets, n, n_samples=3000)
    dt = 1 / truth.attrs["rate_hz"]
    for i, onset in enumerate(onsets):
        slow, quick = truth["slow"].values[:, onset - 1].astype(float), truth["quick"].values[:, onset - 1].astype(float)
        for k in range(n):
            mean_spikes = np.maximum(p["base"] + truth["drive"].values[:, onset + k], 0) * dt
            slow, quick = p["slow_keep"] * slow + mean_spikes, p["quick_keep"] * quick + mean_spikes
            light = 1 - p["bleach"] * (1 - np.exp(-(onset + k) * dt / 900))
            dff = p["spike_dff"] * (slow - quick) / p["kernel_peak"]
            want = p["f0"] * light * (1 + dff) + (p["neuropil_factor"] - SUBTRACTED) * p["neuropil0"] * light
            # a sum of Poisson spikes: its variance is at most its mean, in units of one spike's dF/F
            sd = p["f0"] * p["spike_dff"] / p["kernel_peak"] * np.sqrt(slow + 0.01) / np.sqrt(3000)
            assert (np.abs(got[i, :, k] - want) < 5.5 * sd + 1e-3 * want).all()


def store_onsets(store, session="sim1/A"):
    """Onsets of a session with a whole second before them."""
    onsets = store[session]["onset_frame"].values
    return onsets[onsets > 30]


def test_the_ceiling_forecasts_better_than_the_last_value_and_is_unbiased(tmp_path):
    made = simulate(tmp_path / "s", sessions="A", seed=5, **{**SMALL, "n_neurons": 20, "directions": 4, "repeats": 9})
    f = made["sim1/A"]["fluorescence"].values
    onsets = store_onsets(made)
    ceiling = conditional_mean(made, "sim1/A", onsets, 60)
    f0 = np.median(f, 1)[None, :, None]
    real = np.stack([f[:, o : o + 60] for o in onsets]) / f0
    last = np.stack([f[:, o - 30 : o].mean(1) for o in onsets])[..., None] / f0
    error = real - ceiling / f0
    assert (error**2).mean() < 0.8 * ((real - last) ** 2).mean()
    # mean error per trial, whose standard error over trials (shared noise included) bounds the bias
    by_trial = error.mean((1, 2))
    assert abs(by_trial.mean()) < 4 * by_trial.std() / np.sqrt(len(by_trial))
    again = conditional_mean(made, "sim1/A", onsets[:10], 60, n_samples=512, seed=9) / f0
    assert np.abs(again - ceiling[:10] / f0).mean() < 0.05


def test_the_ceiling_depends_on_nothing_after_the_onset(store, tmp_path):
    copy = simulate(tmp_path / "copy", sessions="A", seed=1, **SMALL)
    onsets = store_onsets(copy)[3:5]
    before = conditional_mean(copy, "sim1/A", onsets, 30, seed=4)
    path = next((copy.path / "truth").glob("*.nc"))
    with load_truth(copy, "sim1/A") as ds:
        truth = ds.load()
    later = np.ones(truth.sizes["frame"], bool)
    later[onsets - 1] = False
    for name in ("rate", "spikes", "slow", "quick", "private", "shared", "neuropil"):
        truth[name].values[..., later] = 7
    truth.to_netcdf(path, engine="h5netcdf")
    np.testing.assert_array_equal(before, conditional_mean(copy, "sim1/A", onsets, 30, seed=4))
    for name in ("slow", "private"):
        truth[name].values[..., onsets - 1] += 2
    truth.to_netcdf(path, engine="h5netcdf")
    assert np.abs(before - conditional_mean(copy, "sim1/A", onsets, 30, seed=4)).max() > 1


def test_seconds_of_one_neuron_work(tmp_path):
    tiny = dict.fromkeys(SMALL, 1) | {"gap_s": 0.5}
    made = simulate(tmp_path / "s", sessions="ABC", **tiny)
    assert made.keys() == ["sim1/A", "sim1/B", "sim1/C"]
    assert made.info("sim1/A")["minutes"] * 60 < 15 and made.info("sim1/C")["minutes"] * 60 < 8
    assert {"drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise"} == set(made.index["stimulus"])


def stopped(monkeypatch, name, at, call):
    """Run `call` until the function `name` of simulate.py is called for the `at`-th time."""
    original, calls = getattr(simulation, name), []

    def stop(*args, **options):
        calls.append(name)
        if len(calls) == at:
            raise KeyboardInterrupt
        return original(*args, **options)

    with monkeypatch.context() as m:
        m.setattr(simulation, name, stop)
        with pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.parametrize(("name", "at"), [("record", 2), ("_save_truth", 1), ("_save_truth", 2), ("_save_truth", 3)])
def test_a_stopped_simulation_goes_on_to_the_same_bits(store, tmp_path, monkeypatch, name, at):
    path = tmp_path / "s"
    stopped(monkeypatch, name, at, lambda: simulate(path, sessions="ABC", seed=1, **SMALL))
    there = {p: p.stat().st_mtime_ns for p in path.rglob("*.nc")}
    again = simulate(path, sessions="ABC", seed=1, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in there} == there  # what is there is kept
    for key in sorted(store.keys()):
        assert again[key].identical(store[key])
        with load_truth(again, key) as ours, load_truth(store, key) as theirs:
            assert ours.identical(theirs)


def test_a_truth_without_its_session_is_completed(store, tmp_path):
    path = tmp_path / "s"
    (path / "truth").mkdir(parents=True)
    (path / "truth" / "sim1__A.nc").write_bytes((store.path / "truth" / "sim1__B.nc").read_bytes())  # as good as any: of nothing that is there
    made = simulate(path, sessions="A", seed=1, **SMALL)
    with load_truth(made, "sim1/A") as ours, load_truth(store, "sim1/A") as theirs:
        assert ours.identical(theirs)
    (path / "truth" / "sim1__A.nc").write_bytes(b"cut short")
    with load_truth(simulate(path, sessions="A", seed=1, **SMALL), "sim1/A") as ours, load_truth(store, "sim1/A") as theirs:
        assert ours.identical(theirs)


def test_of_two_at_once_with_other_seeds_one_is_kept_whole(tmp_path, monkeypatch):
    path, record = tmp_path / "s", simulation.record
    settings = {**SMALL, "sessions": "A"}

    def overtaken(*args, **options):
        with monkeypatch.context() as m:
            m.setattr(simulation, "record", record)
            simulate(path, seed=2, **settings)  # another process starts and ends meanwhile
        return record(*args, **options)

    monkeypatch.setattr(simulation, "record", overtaken)
    with pytest.raises(QfError, match="already, made with seed 2, found 1"):
        simulate(path, seed=1, **settings)
    made, alone = Store(path), simulate(tmp_path / "alone", seed=2, **settings)
    with load_truth(made, "sim1/A") as ours, load_truth(alone, "sim1/A") as theirs:
        assert ours.identical(theirs) and made["sim1/A"].identical(alone["sim1/A"])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 2}, "made with seed 1, found 2"),
        ({"n_neurons": 3}, "made with n_neurons 8, found 3"),
        ({"physiology": LINEAR}, "made with physiology other values, found these"),
    ],
)
def test_a_session_of_other_arguments_is_refused_by_what_differs(store, other, words):
    before = {p: p.read_bytes() for p in store.path.rglob("*.nc")}
    with pytest.raises(QfError, match=words):
        simulate(store.path, sessions="A", **{"seed": 1, **SMALL, **other})
    assert {p: p.read_bytes() for p in store.path.rglob("*.nc")} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_neurons": 10**8}, "n_neurons: expected a whole number from 1 to 10000"),
        ({"n_neurons": float("nan")}, "n_neurons"),
        ({"repeats": "3"}, "repeats"),
        ({"n_neurons": 10**4, "repeats": 10**5}, "neurons x frames"),
        ({"gap_s": float("inf")}, "gap_s"),
        ({"rate_hz": float("nan")}, "rate_hz"),
        ({"seed": 2**70}, "seed: expected a whole number from 0 to 4294967295"),
        ({"subject": "a/b"}, "subject"),
        ({"subject": "鼠" * 100}, "subject"),
    ],
)
def test_arguments_out_of_range_leave_no_store(tmp_path, options, words):
    with pytest.raises(QfError, match=words):
        simulate(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_told(store, tmp_path):
    with pytest.raises(QfError, match="already"):
        simulate(store.path, sessions="A", **SMALL)
    with pytest.raises(QfError, match="n_neurons"):
        simulate(tmp_path / "a", n_neurons=0)
    with pytest.raises(QfError, match="'D'"):
        simulate(tmp_path / "b", sessions="AD")
    with pytest.raises(QfError, match="at least 8 Hz"):
        simulate(tmp_path / "c", sessions="B", rate_hz=3.0)
    with pytest.raises(UnknownKeyError, match="sim1/A"):
        conditional_mean(store, "sim1/Z", [100], 10)
    end = store["sim1/A"].sizes["frame"]
    for onset in (0, end - 5):
        with pytest.raises(QfError, match="onset_frames"):
            conditional_mean(store, "sim1/A", [onset], 10)
    bare = Store(tmp_path / "bare", create=True)
    bare.add(store["sim1/A"])
    with pytest.raises(QfError, match="have a truth"):
        load_truth(bare, "sim1/A")
    mixed = simulate(tmp_path / "mixed", sessions="A", **SMALL | {"n_neurons": 2})
    (mixed.path / "truth" / "sim1__A.nc").write_bytes((store.path / "truth" / "sim1__A.nc").read_bytes())
    with pytest.raises(QfError, match="another recording"):
        load_truth(mixed, "sim1/A")
