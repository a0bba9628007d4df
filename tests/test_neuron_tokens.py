"""What neuron tokens know: t-SNE, statistics, neighbours, probes."""

from itertools import permutations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import needs, toy_session, untaught
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from token_tables import clusters, gaussian, named, probe_data, text_labels

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.quantformer.activation import QuantFormerClassifier, fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import Autoencoder, pretrain
from qf_toolkit.estimators.quantformer.response import QuantFormerForecaster, fit_forecaster
from qf_toolkit.estimators.registry import load
from qf_toolkit.estimators.stimulus_tokens import StimulusTokens
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.interpret.neurons import linear_probe, nearest_neighbours, neighbour_agreement, neuron_statistics, neuron_tokens
from qf_toolkit.models.quantformer import QuantFormer, QuantFormerConfig
from qf_toolkit.recordings.simulated.cortex import simulate
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.recordings.window import Window

torch.set_num_threads(1)
needs_tsne = needs("openTSNE", "interpret")
pytestmark = untaught


# ---- t-SNE


@needs_tsne
def test_tsne_gives_the_same_bits_and_keeps_keys_and_attrs():
    tokens = gaussian(30).assign_attrs(model="abc", simulated=1, seed=7)
    one, two, other = tsne(tokens), tsne(tokens), tsne(tokens, seed=1)
    assert one.values.tobytes() == two.values.tobytes() != other.values.tobytes()
    assert one.dims == ("neuron", "axis") and list(one["axis"].values) == ["x", "y"] and np.isfinite(one).all()
    assert list(one["neuron"].values) == list(tokens["neuron"].values)
    assert one.attrs["model"] == "abc" and one.attrs["simulated"] == 1
    assert (one.attrs["seed"], one.attrs["model_seed"], one.attrs["init"]) == (0, 7, "pca") and other.attrs["seed"] == 1
    assert one.attrs["perplexity"] == pytest.approx(29 / 3) and tsne(gaussian(100)).attrs["perplexity"] == 30
    assert tsne(tokens, perplexity=5).attrs["perplexity"] == 5


@needs_tsne
def test_tsne_does_not_depend_on_the_precision_or_memory_layout():
    tokens = gaussian(12).astype(np.float32)
    assert tsne(tokens).values.tobytes() == tsne(tokens.astype(np.float64)).values.tobytes()
    assert tsne(tokens).values.tobytes() == tsne(tokens.copy(data=np.asfortranarray(tokens.values))).values.tobytes()


@needs_tsne
def test_tsne_keeps_clusters_apart_and_neighbours_together():
    tokens, label = clusters()
    found = tsne(tokens).values
    assert trustworthiness(tokens.values, found, n_neighbors=5) > 0.9
    near = NearestNeighbors(n_neighbors=6).fit(found).kneighbors(return_distance=False)
    assert (label[near] == label[:, None]).all()
    # a map of noise has no such groups, so the assertion above can fail
    near = NearestNeighbors(n_neighbors=6).fit(tsne(gaussian(80)).values).kneighbors(return_distance=False)
    assert (label[near] == label[:, None]).mean() < 0.6


@pytest.mark.parametrize("n", [4, 5, 7])
@needs_tsne
def test_tsne_maps_as_few_as_four(n, caplog):
    assert np.isfinite(tsne(gaussian(n))).all() and not caplog.records


@needs_tsne
def test_tsne_refuses_what_has_no_map():
    few, nan, equal = gaussian(3), gaussian(10), named(np.ones((10, 4)))
    nan[3, 2] = np.nan
    for vectors, words in ((few, "at least 4 items.*found 3"), (nan, "1 of 10 items"), (equal, "10 equal ones"), (gaussian(9)[:, :1], "width")):
        with pytest.raises(QfError, match=words):
            tsne(vectors)
    for perplexity, words in ((3.1, "to 3,.*found 3.1"), (0.9, "from 1 to 3"), (np.nan, "from 1"), ("many", "many"), (None, "None")):
        with pytest.raises(QfError, match=words):
            tsne(gaussian(10), perplexity=perplexity)
    assert np.isfinite(tsne(gaussian(10), perplexity=3.0)).all()


# ---- tokens and statistics


def untrained(kind, neurons, seed=3):
    config = QuantFormerConfig(rate_hz=10.0, n_baseline=30, n_response=20, patch_frames=10, codes=4, width=8, layers=1, heads=2)
    autoencoder = Autoencoder(QuantFormer(config), Window(), "neuron", {"": 1.0}, {}, [])
    torch.manual_seed(seed)
    model = kind(autoencoder, neurons, StimulusTokens("condition", ["g/a=1"]))
    model.seed = seed
    return model


@pytest.mark.parametrize("kind", [QuantFormerForecaster, QuantFormerClassifier])
def test_tokens_are_those_of_the_model_by_key(kind):
    model = untrained(kind, ["m/b", "m/a", "m/c"])
    tokens = neuron_tokens(model)
    assert list(tokens["neuron"].values) == ["m/b", "m/a", "m/c"] and tokens.dims == ("neuron", "width")
    np.testing.assert_array_equal(tokens.sel(neuron="m/a"), model.module.neurons(torch.tensor([1]))[0, 0].detach())
    assert tokens.attrs == {"model": model.digest(), "seed": 3, "moved": 0}
    tokens[:] = 0
    assert model.module.neurons.table.weight.abs().sum() > 0  # a copy
    with pytest.raises(QfError, match="found Autoencoder"):
        neuron_tokens(model.autoencoder)


@pytest.mark.parametrize("kind", [QuantFormerForecaster, QuantFormerClassifier])
def test_moved_tokens_are_what_training_added(kind):
    model = untrained(kind, [f"m/{i}" for i in range(5)])
    assert not neuron_tokens(model, moved=True).any()
    step = 0.1 * torch.from_numpy(gaussian(5).values).float()
    with torch.no_grad():
        model.module.neurons.table.weight += step
    found = neuron_tokens(model, moved=True)
    np.testing.assert_allclose(found, step, atol=1e-6)
    assert found.attrs == {"model": model.digest(), "seed": 3, "moved": 1}
    model.module.neurons.start.fill_(np.nan)  # as in a model saved before it was kept
    with pytest.raises(QfError, match="Fit it again"):
        neuron_tokens(model, moved=True)
    assert np.isfinite(neuron_tokens(model)).all()


def test_moved_tokens_of_a_fitted_model_are_small_and_saved_with_it(tmp_path):
    split = split_blocks(cut(toy_session(n_neurons=3, n_conditions=2)))
    autoencoder = pretrain(split, epochs=1, patch_frames=8, width=16, layers=1, heads=2, codes=8, progress=False)
    for fit in (fit_forecaster, fit_classifier):
        model = fit(autoencoder, split, epochs=1, lr=1e-4, seed=6, dropout=0.1, progress=False)
        moved = neuron_tokens(model, moved=True)
        assert 0 < np.abs(moved).max() < 0.01 < np.abs(neuron_tokens(model)).max()
        model.save(tmp_path / model.kind)
        xr.testing.assert_identical(neuron_tokens(load(tmp_path / model.kind), moved=True), moved)


def with_gaps(traces, trials):
    """A blank now and then, and a stretch that is missing from two neurons."""
    trials.loc[::7, "orientation"] = np.nan
    traces[1, 200:260] = np.nan
    traces[2, 500:505] = np.nan


def naive_statistics(trials, neuron):
    """Each observation looked at in turn."""
    frames, responses, conditions, active = [], [], [], []
    for session in trials.sessions:
        ds = trials.dataset(session)
        if neuron not in ds["neuron"].values:
            continue
        for trial in ds["trial"].values:
            one = ds.sel(trial=trial, neuron=neuron)
            x = one[trials.window.signal]
            if not bool(one["valid"].all()):
                continue
            frames += x.values.astype(float).tolist()
            responses.append(float(x.values[ds.attrs["n_baseline"] :][: int(one["n_score"])].astype(float).mean()))
            conditions.append(str(one["condition"].values))
            active.append(bool(one["active"]))
    by_condition = {c: np.mean([r for r, k in zip(responses, conditions, strict=True) if k == c]) for c in conditions if not c.endswith("/blank")}
    best = max(sorted(by_condition), key=by_condition.__getitem__)
    often = [c for c in sorted(by_condition) if conditions.count(c) > 1]
    y = np.array([r for r, c in zip(responses, conditions, strict=True) if c in often])
    design = np.array([[float(c == k) for k in often] for c in conditions if c in often])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    r2 = 1 - residual.var() / y.var()
    return {
        "median": np.median(frames), "sd": np.std(frames), "n_observations": len(active), "n_activations": sum(active),
        "activation_probability": np.mean(active), "mean_response": np.mean(responses), "preferred_condition": best,
        "preferred_response": by_condition[best], "selectivity": 1 - (1 - r2) * (len(y) - 1) / (len(y) - len(often)),
    }  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"score_s": 0.5, "response_s": 1.0}, {"signal": "zscore"}])
def test_statistics_are_those_of_a_loop_over_observations(options):
    """Two sessions, of which four cells are matched and the others are not; missing values; blanks."""
    one = toy_session(0, change=with_gaps, matched=[True] * 4 + [False] * 2, subject="m", session="one")
    two = toy_session(1, n_conditions=3, matched=[True] * 4 + [False] * 2, subject="m", session="two")
    trials = cut([one, two], **options)
    if options.get("signal") == "zscore":
        trials = trials.scaled_on(trials)
    found = neuron_statistics(trials)
    assert list(found["neuron"].values) == trials.neurons and found.sizes["neuron"] == 8
    observations = []
    for neuron in trials.neurons:
        mine, want = found.sel(neuron=neuron), naive_statistics(trials, neuron)
        assert str(mine["preferred_condition"].values) == want.pop("preferred_condition")
        for name, value in want.items():
            np.testing.assert_allclose(float(mine[name]), value, rtol=1e-4, atol=1e-6, err_msg=f"{name} of {neuron}")
        observations.append(want["n_observations"])
    per_session = {s: len(p) for s, p in zip(trials.sessions, trials.by_session(), strict=True)}
    assert observations[0] == sum(per_session.values()) > observations[1] > per_session["m/one"] > observations[-1] - 1
    assert found.attrs["data"] == trials.digest() == found["median"].attrs["data"] and found["sd"].attrs["simulated"] == 0
    assert found["median"].attrs["units"] == ("z-score" if options.get("signal") else "dF/F")


def test_statistics_are_missing_where_nothing_is_valid():
    def change(traces, trials):
        traces[0] = np.where(np.arange(traces.shape[1]) % 40 == 0, np.nan, traces[0])

    found = neuron_statistics(cut(toy_session(change=change))).isel(neuron=0)
    assert int(found["n_observations"]) == int(found["n_activations"]) == 0 and str(found["preferred_condition"].values) == ""
    assert all(np.isnan(float(found[n])) for n in ("median", "sd", "activation_probability", "mean_response", "preferred_response", "selectivity"))


def test_selectivity_tells_tuned_neurons_from_others():
    """A cell whose response is the condition's, one of noise, and one that answers every condition alike."""

    def change(traces, trials):
        rng = np.random.default_rng(5)
        traces[:] = 100 * (1 + 0.05 * rng.standard_normal(traces.shape))
        for onset, orientation in zip(trials["onset_frame"], trials["orientation"], strict=True):
            traces[0, onset : onset + 20] += 50 * (orientation == 45)
            traces[2, onset : onset + 20] += 50
        trials.loc[:8, "orientation"] = np.nan  # blanks, which must not make the third one look tuned

    found = neuron_statistics(cut(toy_session(n_neurons=3, change=change), f0_s=1.0))
    assert found["selectivity"][0] > 0.9 and abs(found["selectivity"][1]) < 0.15 and abs(found["selectivity"][2]) < 0.15
    assert str(found["preferred_condition"][0].values) == "drifting_gratings/orientation=45"


# ---- neighbours


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_those_of_sklearn(metric):
    tokens = gaussian(60)
    found = nearest_neighbours(tokens, 7, metric)
    distance, at = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(tokens.values).kneighbors()
    np.testing.assert_array_equal(found["neighbour"].values, tokens["neuron"].values[at])
    np.testing.assert_allclose(found["distance"].values, distance, rtol=1e-6)
    assert list(found["rank"].values) == list(range(1, 8)) and found.attrs["metric"] == metric


def test_neighbours_in_chunks_are_the_same(monkeypatch):
    whole = nearest_neighbours(gaussian(50), 3)
    monkeypatch.setattr("qf_toolkit.interpret.neurons.MOST", 400)
    xr.testing.assert_identical(nearest_neighbours(gaussian(50), 3), whole)


def test_twins_are_neighbours_and_no_neuron_is_its_own():
    tokens = named(np.repeat(gaussian(5).values, 2, 0))
    found = nearest_neighbours(tokens, 2)
    assert [str(n[0]) for n in found["neighbour"].values] == [f"m/c{i ^ 1}" for i in range(10)]
    assert (found["neighbour"] != found["neuron"]).all()


def test_neighbours_refuse_what_they_cannot_have():
    tokens = gaussian(6)
    for k in (0, 6, 2.5):
        with pytest.raises(QfError, match="k: expected 1 to 5"):
            nearest_neighbours(tokens, k)
    with pytest.raises(QfError, match="'manhattan'"):
        nearest_neighbours(tokens, 2, "manhattan")
    zero = tokens.copy(data=np.concatenate([np.zeros((1, 8)), tokens.values[1:]]))
    with pytest.raises(QfError, match="euclidean"):
        nearest_neighbours(zero, 2)
    assert np.isfinite(nearest_neighbours(zero, 2, "euclidean")["distance"]).all()
    with pytest.raises(QfError, match="1 of 6 neurons"):
        nearest_neighbours(tokens.where(tokens["neuron"] != "m/c2"), 2)


def test_agreement_of_planted_labels_and_of_none():
    tokens, label = clusters(n=10)
    found = neighbour_agreement(tokens, text_labels(label), n_permutations=999)
    assert float(found["share"]) == 1 and float(found["p"]) == 1 / 1000
    assert float(found["expected"]) == pytest.approx(9 / 39)
    ps = [float(neighbour_agreement(gaussian(60, seed=s), text_labels(np.arange(60) % 4), n_permutations=199, seed=s)["p"]) for s in range(60)]
    assert 0.35 < np.mean(ps) < 0.65 and np.mean(np.array(ps) < 0.05) < 0.15 and np.mean(np.array(ps) > 0.8) > 0.05


def test_agreement_is_that_of_all_permutations():
    """Seven neurons: every one of the 5,040 orders of their labels can be looked at."""
    tokens, label = gaussian(7, 5, seed=7), np.array([0, 0, 0, 1, 1, 2, 2])
    at = NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(tokens.values).kneighbors(return_distance=False)
    shares = np.array([(np.array(p)[at] == np.array(p)[:, None]).mean() for p in permutations(label)])
    share = (label[at] == label[:, None]).mean()
    found = neighbour_agreement(tokens, text_labels(label), k=2, n_permutations=20_000)
    assert float(found["share"]) == pytest.approx(share) and float(found["expected"]) == pytest.approx(shares.mean())
    exact = (shares >= share - 1e-9).mean()
    assert 0.02 < exact < 0.98 and float(found["p"]) == pytest.approx(exact, abs=0.015)


def test_agreement_leaves_neurons_without_a_label_out_also_as_neighbours():
    tokens, label = clusters(n=8, kinds=3)
    labels = text_labels(label)
    labels[::3] = ""
    found = neighbour_agreement(tokens, labels, k=3, n_permutations=99)
    kept = np.arange(24) % 3 > 0
    want = neighbour_agreement(tokens[kept], labels[kept], k=3, n_permutations=99)
    assert all(float(found[n]) == float(want[n]) for n in ("share", "expected", "p")) and int(found["n_neurons"]) == 16
    # by key: another order, and neurons that have no token, change nothing
    more = xr.concat([labels[::-1], named(np.array(["x"], object), "other/")], "neuron")
    assert float(neighbour_agreement(tokens, more, k=3, n_permutations=99)["share"]) == float(found["share"])
    numbers = named(np.where(kept, label.astype(float), np.nan))
    assert float(neighbour_agreement(tokens, numbers, k=3, n_permutations=99)["p"]) == float(found["p"])


def test_agreement_in_chunks_is_the_same(monkeypatch):
    tokens, labels = gaussian(20), text_labels(np.arange(20) % 3)
    whole = neighbour_agreement(tokens, labels, n_permutations=50)
    monkeypatch.setattr("qf_toolkit.interpret.neurons.MOST", 700)
    xr.testing.assert_identical(neighbour_agreement(tokens, labels, n_permutations=50), whole)


def test_agreement_refuses_what_it_cannot_tell():
    tokens = gaussian(8)
    with pytest.raises(QfError, match="more than k = 5.*found 4"):
        neighbour_agreement(tokens, text_labels(np.arange(4)))
    with pytest.raises(QfError, match="alone"):
        neighbour_agreement(tokens, text_labels(np.zeros(8, int)))
    with pytest.raises(QfError, match="n_permutations"):
        neighbour_agreement(tokens, text_labels(np.arange(8) % 2), n_permutations=0)


@given(st.integers(0, 10_000), st.integers(6, 25), st.integers(1, 5), st.integers(2, 4))
def test_agreement_is_a_share_and_p_is_never_zero(seed, n, k, kinds):
    labels = text_labels(np.arange(n) % kinds)
    found = neighbour_agreement(gaussian(n, seed=seed), labels, k=k, n_permutations=19, seed=seed)
    assert 0 <= float(found["share"]) <= 1 and 0 < float(found["expected"]) < 1
    assert float(found["p"]) * 20 == pytest.approx(round(float(found["p"]) * 20)) and 1 / 20 <= float(found["p"]) <= 1


# ---- probes


def test_probe_finds_what_is_there_and_nothing_else():
    tokens, statistics = probe_data()
    found = linear_probe(tokens.assign_attrs(model="m", seed=9), statistics, n_shuffles=19)
    score, high, p = (found[n].to_series() for n in ("score", "control_high", "p"))
    assert score["linear"] > 0.99 and p["linear"] == 1 / 20 and high["linear"] < 0.15
    assert score["noise"] < 0.15 and p["noise"] > 0.05 and found["control"].sel(statistic="noise") < 0.02
    assert score["label"] > 0.7 and p["label"] == 1 / 20 and abs(float(found["control"].sel(statistic="label")) - 1 / 3) < 0.05
    assert score["chance"] < 0.55 and p["chance"] > 0.05
    assert np.isnan(score["constant"]) and np.isnan(p["constant"])
    assert list(found["kind"].values) == ["number", "number", "number", "label", "label"]
    assert found.attrs["model"] == "m" and found.attrs["data"] == "d" and (found.attrs["seed"], found.attrs["model_seed"]) == (0, 9)


def test_probe_of_noise_is_above_its_95_percent_line_one_time_in_twenty():
    rng = np.random.default_rng(1)
    statistics = xr.Dataset({f"noise {i}": ("neuron", rng.normal(size=40)) for i in range(40)}, {"neuron": gaussian(40)["neuron"]})
    found = linear_probe(gaussian(40, seed=2), statistics, n_shuffles=60)
    above, reached = (found["score"] > found["control_high"]).values, (found["p"].values * 61).round() - 1
    assert above.mean() < 0.15 and 0.35 < float(found["p"].mean()) < 0.65
    # 3 of 60 shuffles are above the line: a score that one or two of them reach is above it, too
    assert above[reached <= 2].all() and not above[reached > 3].any() and ((reached > 0) & (reached <= 2)).any()


@pytest.mark.parametrize("name", ["linear", "label"])
def test_probe_fits_nothing_on_the_held_out_fold(name, monkeypatch):
    """The scaler, and the regression behind it, only ever see rows that are then not guessed; each row is guessed once."""
    tokens, statistics = probe_data(30)
    row_of = {v: i for i, v in enumerate(tokens.values[:, 0])}
    fitted, guessed, rows_of_model = [], [], []
    fit, transform = StandardScaler.fit, StandardScaler.transform

    def logged_fit(self, x, *args, **kwargs):
        fitted.append({row_of[v] for v in x[:, 0]})
        return fit(self, x, *args, **kwargs)

    def logged_transform(self, x, *args, **kwargs):
        guessed.append({row_of[v] for v in x[:, 0]})
        return transform(self, x, *args, **kwargs)

    monkeypatch.setattr(StandardScaler, "fit", logged_fit)
    monkeypatch.setattr(StandardScaler, "transform", logged_transform)
    for kind in (RidgeCV, LogisticRegression):
        own = kind.fit
        monkeypatch.setattr(kind, "fit", lambda self, x, y, own=own, **kw: rows_of_model.append(len(x)) or own(self, x, y, **kw))
    linear_probe(tokens, statistics[name], folds=5, n_shuffles=1)
    assert len(fitted) in (5, 10) and rows_of_model == [len(f) for f in fitted] and len(guessed) == 2 * len(fitted)
    for f, (trained, held_out) in zip(fitted, zip(guessed[::2], guessed[1::2], strict=True), strict=True):
        assert f == trained and not f & held_out and len(f) + len(held_out) == 30
    assert sorted(i for g in guessed[1:10:2] for i in g) == list(range(30))


def test_probe_matches_by_key_and_leaves_out_what_has_no_value():
    tokens, statistics = probe_data(60)
    statistics["linear"][:7] = np.nan
    statistics["label"][:5] = ""
    statistics["label"][5] = "gratings/orientation=999"  # rarer than there are folds
    found = linear_probe(tokens, statistics[["linear", "label"]], n_shuffles=3)
    assert list(found["n_neurons"].values) == [53, 54] and found["score"][0] > 0.99
    shuffled = statistics[["linear", "label"]].isel(neuron=np.random.default_rng(0).permutation(60))
    xr.testing.assert_identical(linear_probe(tokens, shuffled, n_shuffles=3), found)
    assert linear_probe(tokens, statistics["linear"], n_shuffles=3)["statistic"].item() == "linear"


def test_probe_refuses_too_few_neurons():
    tokens, statistics = probe_data(9)
    with pytest.raises(QfError, match="at least 10 neurons.*found 9"):
        linear_probe(tokens, statistics)
    assert linear_probe(tokens, statistics[["linear"]], folds=4, n_shuffles=1).sizes["statistic"] == 1
    with pytest.raises(QfError, match="variable on neuron"):
        linear_probe(tokens, statistics[[]])
    with pytest.raises(QfError, match="at least 2"):
        linear_probe(tokens, statistics, folds=1)


# ---- the claim


@pytest.mark.slow
def test_training_moves_neurons_of_the_same_preference_the_same_way(tmp_path):
    """On a simulated mouse, small; `benchmarks/neuron_tokens.py` has three mice, other models and the simulator's truth."""
    common = {"seed": 0, "batch_size": 64, "lr": 1e-3, "schedule": "cosine", "progress": False}
    store = simulate(tmp_path, n_neurons=120, repeats=24, directions=4, temporal_frequencies=1, seed=0)
    split = split_blocks(store.trials(f0_s=1.0))
    autoencoder = pretrain(split, width=32, layers=1, heads=4, patch_frames=10, replace_below=0.003, epochs=4, **common)
    model = fit_forecaster(autoencoder, split, epochs=15, expectation_weight=5.0, hide=0.5, **common)
    train, test = neuron_statistics(split.train), neuron_statistics(split.test)
    tuned = (train["selectivity"] >= 0.1).values
    moved = neuron_tokens(model, moved=True)
    found = neighbour_agreement(moved, train["preferred_condition"][tuned])
    assert float(found["p"]) < 0.01 and float(found["share"]) > 1.3 * float(found["expected"])
    assert float(neighbour_agreement(moved, test["preferred_condition"][tuned])["p"]) < 0.05  # on trials that it has not seen
    start = neuron_tokens(model) - moved  # as they are before any training
    assert float(neighbour_agreement(start, train["preferred_condition"][tuned])["p"]) > 0.01
    probe = linear_probe(moved, train[["activation_probability"]], n_shuffles=100)
    assert probe["score"].item() > 0.2 > probe["control_high"].item()
