"""The simulated networks: the same arguments, the same bits; animals that resemble each other; a truth that bounds every forecast."""

import numpy as np
import pytest
from helpers import toy_session

from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.ceiling import RolloutBound
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.simulated.cortex import load_truth
from qf_toolkit.recordings.simulated.network import DFF, NOISE, connections, rollout, simulate_network
from qf_toolkit.recordings.splits import split_chronological
from qf_toolkit.recordings.store import Store
from qf_toolkit.recordings.trials import cut

SMALL = {"n_neurons": 60, "subjects": 2, "seconds": 120.0, "seed": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate_network(tmp_path_factory.mktemp("network") / "store", **SMALL)


def fingerprints(store):
    keys = store.keys()
    return {key: store.info(key)["fingerprint"] for key in keys}


def test_the_same_arguments_give_the_same_bits_and_are_kept(store, tmp_path):
    again = simulate_network(tmp_path / "again", **SMALL)
    assert fingerprints(again) == fingerprints(store)
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "again").rglob("*.nc")}
    more = simulate_network(tmp_path / "again", **{**SMALL, "subjects": 3})
    assert more.keys() == ["net1/1", "net2/1", "net3/1"] and {f: f.stat().st_mtime_ns for f in files} == files
    with pytest.raises(QfError, match="made with own 0.5, found 0.1"):
        simulate_network(tmp_path / "again", **SMALL, own=0.1)
    other = simulate_network(tmp_path / "other", **{**SMALL, "seed": 4})
    assert other.info("net1/1")["fingerprint"] != store.info("net1/1")["fingerprint"]


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0])
def test_animals_share_what_is_not_their_own(own):
    a, b = (connections(200, own, 0, subject).ravel() for subject in ("net1", "net2"))
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(1 - own**2, abs=0.02)
    assert a.std() == pytest.approx(2 / np.sqrt(200), rel=0.02)  # whatever is mixed, the network is as chaotic


def test_the_traces_are_calcium_with_noise(store):
    with load_truth(store, "net1/1") as truth:
        left = store["net1/1"]["dff"].values - DFF * truth["calcium"].values
        rate = (1 + np.tanh(truth["h"].values)) / 2
        calcium = truth["calcium"].values
    assert left.mean() == pytest.approx(0, abs=0.005) and left.std() == pytest.approx(NOISE, rel=0.02)
    assert abs(np.corrcoef(left[:, 1:].ravel(), left[:, :-1].ravel())[0, 1]) < 0.02
    # calcium follows the rate with a decay of 0.45 s: a second computation from the rates at the frames' ends
    keep = np.exp(-0.05 / 0.45)
    again = np.empty_like(calcium)
    again[:, 0] = calcium[:, 0]
    for t in range(1, calcium.shape[1]):
        again[:, t] = keep * again[:, t - 1] + (1 - keep) * (rate[:, t] + rate[:, t - 1]) / 2
    assert np.abs(again - calcium).max() < 0.02


def test_behaviour_is_of_the_latent_variables(store):
    session = store["net1/1"]
    with load_truth(store, "net1/1") as truth:
        latent = dict(zip(truth["variable"].values.tolist(), truth["latent"].values, strict=True))
    for name, of in (("angular_velocity", "turn"), ("pupil", "arousal")):
        assert np.corrcoef(session[name].values, latent[of])[0, 1] > 0.98
    assert (session["speed"] >= 0).all()
    choice = session["choice"].values == "right"
    at = session["onset_frame"].values + 40
    assert ((latent["choice"][np.minimum(at, len(latent["choice"]) - 1)] > 0) == choice).all()


def test_cues_push_and_are_balanced(store):
    table = store.index
    assert table.groupby("condition").size().max() - table.groupby("condition").size().min() <= 2
    without = simulate_network(store.path.parent / "without", **SMALL, cue_every_s=0)
    assert len(without.index) == 0


def test_the_rollout_of_the_truth_is_above_every_naive_row(store):
    trials = store.trials(baseline_s=2, response_s=0.8, signal="zscore", score_s=0.8)
    split = split_chronological(trials)
    table = evaluate([], split)
    squared, of_mean = [], []
    for part in split.test.by_session():
        session = part.sessions[0]
        mean, sd = part.scale_of(session)
        ds = part.dataset()
        truth = ds["zscore"].values[..., ds.attrs["n_baseline"] :]
        found = rollout(store, session, part.table["onset_frame"].to_numpy(), truth.shape[-1], n_samples=16)
        answer = (found - mean[:, None]) / sd[:, None]
        squared.append(((answer - truth) ** 2).mean())
        of_mean.append(((ds["zscore"].values[..., : ds.attrs["n_baseline"]].mean(-1, keepdims=True) - truth) ** 2).mean())
    assert np.mean(np.divide(squared, of_mean)) < table["mse_ratio"].min()


def test_a_truth_that_a_kill_left_out_is_made_again(store, tmp_path):
    again = simulate_network(tmp_path, **SMALL)
    file = tmp_path / "truth" / again.file("net2/1").name
    file.unlink()
    simulate_network(tmp_path, **SMALL)
    with load_truth(store, "net2/1") as wanted, load_truth(again, "net2/1") as found:
        assert file.is_file() and wanted.equals(found)


def test_the_ceiling_of_the_cortex_is_refused(store):
    split = split_chronological(store.trials(baseline_s=2, response_s=0.8, signal="zscore", score_s=0.8))
    with pytest.raises(QfError, match="ceiling: expected a simulated cortex, found net1/1, a simulated network"):
        evaluate([], split, ceiling=True)


def test_a_network_that_settles_says_so(tmp_path):
    with pytest.warns(UserWarning, match="the network has settled"):
        simulate_network(tmp_path, n_neurons=60, subjects=3, seconds=120.0, cue_every_s=0, seed=0)


def test_the_command(tmp_path, capsys):
    run = ["simulate", str(tmp_path / "n"), "--kind", "network", "--neurons", "40", "--subjects", "2", "--seconds", "20", "--seed", "5"]
    assert main(run) == 0 and "net2/1" in capsys.readouterr().out
    wanted = simulate_network(tmp_path / "again", n_neurons=40, subjects=2, seconds=20, seed=5)
    assert fingerprints(Store(tmp_path / "n")) == fingerprints(wanted)
    assert main(run) == 0 and "net1/1 is there already" in capsys.readouterr().out
    assert main([*run, "--sessions", "A"]) == 2 and main(["simulate", str(tmp_path / "x"), "--kind", "brain"]) == 2


def test_bad_arguments_are_told_in_a_line(tmp_path, store):
    for wrong in ({"n_neurons": 1}, {"own": 1.5}, {"rate_hz": 99}, {"seconds": 1}):
        with pytest.raises(QfError, match=next(iter(wrong))):
            simulate_network(tmp_path, **wrong)
    with pytest.raises(QfError, match="onset_frames: expected 1 to"):
        rollout(store, "net1/1", [10**6], 4)
    with pytest.raises(QfError, match="rollout: expected"):
        rollout(store, "net1/1", [10], 0)


def test_the_upper_bound_is_a_row_that_no_other_reaches(store):
    split = split_chronological(store.windows(length_s=1.6, response_s=0.8, signal="zscore"), test=0.3)
    table = evaluate(RolloutBound(16), split)
    assert table["mse"].idxmin() == RolloutBound.name and table.loc[RolloutBound.name, "r"] == table["r"].max()
    part = split.test.by_session()[0].subset([0, 1])
    dff = rollout(store, "net1/1", part.table["onset_frame"].to_numpy(), 16, 16, 0)
    mean, sd = part.scale_of("net1/1")
    assert np.allclose(RolloutBound(16).predict(part)["forecast"].values, (dff - mean[:, None]) / sd[:, None], atol=1e-4)
    with pytest.raises(QfError, match="from a Store"):
        RolloutBound().predict(cut([toy_session()]))
