"""Cut trials (sweeps), and clocks that jump."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError, SessionError
from qf_toolkit.recordings.clock import frames_at, jumps, outside_jumps, recorded_s, stretches
from qf_toolkit.recordings.importers.arrays import from_arrays, read_arrays
from qf_toolkit.recordings.trials import cut

DATA = Path(__file__).parents[2] / "shared" / "data"
N_SWEEPS, N_NEURONS, LENGTH = 24, 3, 49
ME = {"subject": "m", "session": "s", "rate_hz": 16, "signal": "dff"}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    direction = np.tile([0, 90, 180, 270], N_SWEEPS // 4).astype(np.uint16)
    dff = rng.normal(0, 0.2, (N_SWEEPS, N_NEURONS, LENGTH)) + rng.normal(0, 0.1, (N_SWEEPS, N_NEURONS, 1))
    dff[..., 20:40] += 0.3 * (direction[:, None, None] == 90)
    return {
        "dff": dff.astype(np.float32), "direction_deg": direction, "t": np.arange(LENGTH) / 16 - 1, "rate_hz": np.float64(16),
        "pupil": rng.normal(size=(N_SWEEPS, LENGTH)).astype(np.float32), "speed": rng.normal(size=(N_SWEEPS, LENGTH)).astype(np.float32),
    }  # fmt: skip


def test_one_command_brings_all_in(tmp_path, arrays, capsys):
    np.savez(tmp_path / "mouse_1.npz", **arrays)
    argv = ["--key", "dff", "--signal", "dff", "--rate", "16", "--sweep-onset", "t", "--stimulus", "gratings", "--behaviour", "pupil", "speed"]
    assert main(["import", "arrays", str(tmp_path / "mouse_1.npz"), "--store", str(tmp_path / "store"), *argv]) == 0, capsys.readouterr().err
    store = qf.open_store(tmp_path / "store")
    ds = store["mouse_1/mouse_1"]
    assert ds.attrs["sweep_frames"] == LENGTH and store.info("mouse_1/mouse_1")["minutes"] == round((N_SWEEPS * LENGTH - 1) / 16 / 60, 2)
    trials = store.trials(baseline_s=1, response_s=33 / 16, signal="zscore")
    assert len(trials) == N_SWEEPS and trials.counts["incomplete"] == 0
    assert trials.conditions == [f"gratings/direction_deg={d}" for d in (0, 180, 270, 90)]
    data = trials.scaled_on(trials).dataset(behaviour=True)
    for name in ("pupil", "speed"):
        np.testing.assert_array_equal(data[name], arrays[name])
    np.testing.assert_array_equal(data["direction_deg"], arrays["direction_deg"])
    np.testing.assert_allclose(data["time"], arrays["t"])
    x = arrays["dff"].astype(np.float64)
    z = (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)
    np.testing.assert_allclose(data["zscore"], z, atol=1e-5)
    with pytest.raises(QfError, match="24 of 24 windows"):
        store.trials(baseline_s=1.1, response_s=2)  # reaches into the sweep before


def test_sweeps_one_after_another_are_the_same(tmp_path, arrays):
    shown = pd.DataFrame({"direction_deg": arrays["direction_deg"]})
    expected = from_arrays(arrays["dff"], trials=shown, sweep_onset=1.0, behaviour={"pupil": arrays["pupil"]}, **ME)
    flat = arrays["dff"].swapaxes(0, 1).reshape(N_NEURONS, -1)
    shown.to_csv(tmp_path / "t.csv", index=False)
    for traces, orientation, options in (
        (flat, "neuron,frame", {"sweep_frames": LENGTH}), (flat.T, "frame,neuron", {"sweep_frames": LENGTH}),
        (arrays["dff"], None, {}), (arrays["dff"].transpose(2, 1, 0), "time,neuron,trial", {}),
    ):  # fmt: skip
        np.savez(tmp_path / "x.npz", traces=traces, pupil=arrays["pupil"].ravel())
        found = read_arrays(
            tmp_path / "x.npz",
            key="traces",
            orientation=orientation,
            trials=tmp_path / "t.csv",
            sweep_onset=1.0,
            behaviour=["pupil"],
            **options,
            **ME,
        )
        assert found.drop_attrs().equals(expected.drop_attrs()) and found.attrs["fingerprint"] == expected.attrs["fingerprint"]
    assert expected["onset_frame"].values.tolist() == [16 + LENGTH * i for i in range(N_SWEEPS)]


def test_sweeps_without_an_onset_are_continuous_and_those_without_a_table_are_one_condition(arrays):
    ds = from_arrays(arrays["dff"], **ME)
    assert ds.sizes["trial"] == 0
    windows = qf.recordings.sliding.slide(ds, length_s=2, response_s=1, every_s=1)
    assert len(windows) == 2 * N_SWEEPS and (windows.intervals("m/s")[:, 0] // LENGTH == (windows.intervals("m/s")[:, 1] - 1) // LENGTH).all()
    assert from_arrays(arrays["dff"], sweep_onset=1.0, **ME)["condition"].values.tolist() == ["stimulus/all"] * N_SWEEPS


def test_true_times_of_the_sweeps_are_kept(arrays):
    time = np.arange(N_SWEEPS)[:, None] * 10.0 + np.arange(LENGTH) / 16
    ds = from_arrays(arrays["dff"], frame_time=time, sweep_onset=1.0, **{**ME, "rate_hz": None})
    np.testing.assert_array_equal(ds["frame_time"], time.ravel())
    assert ds.attrs["rate_hz"] == 16


def test_naive_rows_are_those_of_a_second_computation(arrays):
    ds = from_arrays(arrays["dff"], trials=pd.DataFrame({"direction_deg": arrays["direction_deg"]}), sweep_onset=1.0, **ME)
    split = qf.split_chronological(cut(ds, baseline_s=1, response_s=33 / 16, signal="zscore"))
    at = [part.table["trial"].to_numpy() for part in (split.train, split.validation, split.test)]
    assert sum(map(len, at)) == N_SWEEPS - split.dropped == N_SWEEPS - 2  # a sweep between two parts
    x = arrays["dff"].astype(np.float64)
    x = (x - x[at[0]].mean((0, 2), keepdims=True)) / x[at[0]].std((0, 2), keepdims=True)
    fit, test = np.concatenate(at[:2]), at[2]
    context, y = x[test][..., :16], x[test][..., 16:]
    forecasts = {
        "copy last": context[..., -1:], "mean of the context": context.mean(2, keepdims=True), "training mean": x[fit][..., 16:].mean((0, 2))[:, None],
        "stimulus mean (PSTH)": np.stack([x[fit][arrays["direction_deg"][fit] == arrays["direction_deg"][i]][..., 16:].mean(0) for i in test]),
    }  # fmt: skip
    table = qf.evaluate([], split)
    for name, forecast in forecasts.items():
        assert table.loc[name, "mse"] == pytest.approx(((y - forecast) ** 2).mean(), rel=1e-4), name


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sweep_frames": 48}, "sweep_frames: expected 49, the length of axis time"),
        ({"sweep_onset": 4.0}, "inside the 3.0625 s of a sweep, found 4 s"),
        ({"sweep_onset": -0.5}, "inside the 3.0625 s of a sweep, found -0.5 s"),
        ({"sweep_onset": np.arange(49) / 10 - 1}, "expected frames at 16 Hz, found seconds at 10 Hz"),
        ({"sweep_onset": np.arange(48) / 16 - 1}, "the 49 increasing seconds of its frames"),
        ({"sweep_onset": np.arange(49) / 16 + 1}, "found 1 to 4 s"),
        ({"trials": pd.DataFrame({"angle": np.arange(24)})}, "sweep_onset: expected seconds"),
        ({"trials": pd.DataFrame({"angle": [1]}), "sweep_onset": 1.0}, "a row for each of 24 sweeps, in their order, found 1"),
        ({"trials": pd.DataFrame({"onset_s": np.arange(24)}), "sweep_onset": 1.0}, "no column onset_s beside sweeps"),
        ({"stimulus": "bar"}, "stimulus: expected trials to name 'bar', found none"),
    ],
)
def test_refusals(arrays, options, words):
    with pytest.raises(QfError, match=words):
        from_arrays(arrays["dff"], **ME, **options)


def test_refusals_of_flat_arrays(arrays):
    flat = arrays["dff"].swapaxes(0, 1).reshape(N_NEURONS, -1)
    for length in (50, 2, 0, "49", 49.5):
        with pytest.raises(SessionError, match="sweep_frames: expected whole sweeps of at least 3 frames"):
            from_arrays(flat, sweep_frames=length, **ME)
    with pytest.raises(QfError, match="sweep_onset: expected with sweeps alone"):
        from_arrays(flat, sweep_onset=1.0, **ME)


def test_the_command_line_refuses_in_one_line(tmp_path, arrays, capsys):
    np.savez(tmp_path / "a.npz", **arrays)
    argv = ["import", "arrays", tmp_path / "a.npz", "--store", tmp_path / "s", "--key", "dff", "--signal", "dff", "--rate", 16]
    for more, words in (
        (["--sweep-onset", "tt"], "sweep_onset: 'tt' is no array in"),
        (["--sweep-onset", "t", "--behaviour", "pupl"], "did you mean pupil"),
        (["--sweep-onset", "t", "--condition-columns", "pupil"], "expected 24 values of pupil, one a sweep"),
        (["--orientation", "trial,time"], "orientation: expected one of"),
    ):
        assert main([str(a) for a in (*argv, *more, "--quiet")]) == 2
        error, summary = capsys.readouterr().err.strip().splitlines()
        assert error.startswith("qf: ") and words in error and summary == "qf: 1 of 1 recordings were not imported."


def test_the_real_mice():
    path = DATA / "v1-gratings-mice" / "mouse_29.npz"
    if not path.exists():
        pytest.skip("the shared recordings are absent")
    ds = read_arrays(path, key="dff", signal="dff", rate_hz=16, sweep_onset="t", stimulus="gratings", behaviour=["pupil_zscore", "speed"])
    trials = cut(ds, baseline_s=1, response_s=33 / 16)
    with np.load(path) as raw:
        np.testing.assert_array_equal(trials.fluorescence(trials.sessions[0]), raw["dff"] + np.float32(1))
        data = trials.dataset(behaviour=True)
        for name in ("pupil_zscore", "speed", "direction_deg"):
            np.testing.assert_array_equal(data[name], raw[name])


def jumping():
    time = np.arange(300) / 10
    time[100:] += 50
    time[200:] += 0.35
    return time


def test_a_clock_that_jumps():
    time = jumping()
    assert np.flatnonzero(jumps(time, 10)).tolist() == [99, 199] and stretches(time, 10).tolist() == [[0, 100], [100, 200], [200, 300]]
    assert recorded_s(time, 10) == pytest.approx(29.9) and recorded_s(time[:100], 10) == time[99]
    assert frames_at([9.95, 60.0, 60.05, 75.0], None, time).tolist() == [100, 100, 101, 247]
    with pytest.warns(UserWarning, match="onset_s: left out 2 of 5 onsets .* first 9.95 s"):
        assert outside_jumps([9.9, 9.95, 30.0, 59.95, 60.0], time, "onset_s").tolist() == [True, False, False, True, True]


def test_arrays_with_times_that_jump(tmp_path):
    time, x = jumping(), np.random.default_rng(0).uniform(90, 110, (2, 300))
    np.savez(tmp_path / "x.npz", x=x, seconds=time)
    np.save(tmp_path / "t.npy", time)
    (tmp_path / "t.csv").write_text("seconds\n" + "\n".join(map(repr, time.tolist())), encoding="utf-8")
    (tmp_path / "trials.csv").write_text("onset_s,duration_s,angle\n5,1,0\n30,1,45\n62,1,90\n75.2,1,90\n", encoding="utf-8")
    for given in ("seconds", tmp_path / "t.npy", str(tmp_path / "t.csv")):
        with pytest.warns(UserWarning, match="left out 1 of 4 onsets"):
            ds = read_arrays(tmp_path / "x.npz", key="x", signal="fluorescence", frame_time=given, trials=tmp_path / "trials.csv")
        np.testing.assert_array_equal(ds["frame_time"], time)
        assert ds.attrs["rate_hz"] == pytest.approx(10) and ds["onset_frame"].values.tolist() == [50, 120, 249]
        assert ds["stimulus"].size == 3 and ds["condition"].values.tolist() == ["stimulus/angle=0", "stimulus/angle=90", "stimulus/angle=90"]
    with pytest.warns(UserWarning, match="1 of 3 windows"):
        assert cut(ds, baseline_s=3, response_s=1).table["onset_frame"].tolist() == [50, 249]
    (tmp_path / "bad.csv").write_text("1\nsoon\n3\n", encoding="utf-8")
    for given, words in (("second", "a file of the frames' seconds"), (tmp_path / "bad.csv", "expected seconds alone")):
        with pytest.raises(QfError, match=words):
            read_arrays(tmp_path / "x.npz", key="x", signal="fluorescence", frame_time=given)
