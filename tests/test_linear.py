"""Linear analyses of embeddings: tuning of neurons, probes, clusters, gradients, whose embedding it is; each against a second computation and chance."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import toy_session
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from token_tables import clusters as groups_of_tokens
from token_tables import gaussian, named, probe_data, text_labels

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.interpret.embedding import pca
from qf_toolkit.interpret.linear import clusters, gradient, identity_probe, probe, session_tokens
from qf_toolkit.interpret.neurons import PENALTIES
from qf_toolkit.interpret.tuning import neuron_variables, related_to
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.trials import cut

RATE, N, EFFECT = 10.0, 24, 4.0


def task(seed=0, n_trials=60, session="one", cells=range(N), **options):
    """A session in which c0 to c7 follow the side, c8 to c15 the choice, and the others nothing; odd ones prefer the first category."""
    rng = np.random.default_rng(seed)
    side, choice = (rng.permutation(np.arange(n_trials) % 2) for _ in range(2))
    onset = 60 + 40 * np.arange(n_trials)
    x = 0.3 * rng.standard_normal((len(cells), onset[-1] + 60))
    for t, at in enumerate(onset):
        for i, c in enumerate(cells):
            drive = (side, choice, np.zeros(n_trials))[c // 8][t] * (1 if c % 2 == 0 else -1)
            x[i, at : at + 20] += EFFECT * 0.3 / np.sqrt(20) * drive + 0.3
    table = {"onset_frame": onset, "offset_frame": onset + 20, "stimulus": "cue", "block": np.arange(n_trials) // 20}
    trials = pd.DataFrame(table).assign(side=np.array(["left", "right"])[side], choice=np.array(["left", "right"])[choice])
    return new_session(
        x.astype(np.float32), subject="m", session=session, rate_hz=RATE, signal="dff", trials=trials, cells=[f"c{i}" for i in cells], **options
    )


@pytest.fixture(scope="module")
def trials():
    return cut(task(), baseline_s=2, response_s=2)


@pytest.fixture(scope="module")
def found(trials):
    return neuron_variables(trials, n_halves=100)


def responses(trials):
    ds = trials.dataset()
    return ds["dff"].values[..., ds.attrs["n_baseline"] :].astype(float).mean(-1), ds


# ---- tuning


def test_selectivity_is_that_of_a_second_computation(trials, found):
    response, ds = responses(trials)
    assert list(found["variable"].values) == ["side", "choice"] and set(found["kind"].values) == {"binary"}
    for name in ("side", "choice"):
        right = ds[name].values == "right"
        one = found.sel(variable=name)
        assert (one["first"].item(), one["second"].item()) == ("left", "right")
        sd = np.sqrt((right.sum() * response[right].var(0) + (~right).sum() * response[~right].var(0)) / len(right))
        np.testing.assert_allclose(one["selectivity"], (response[right].mean(0) - response[~right].mean(0)) / sd, rtol=1e-6)
        np.testing.assert_allclose(one["auroc"], [roc_auc_score(right, r) for r in response.T], rtol=1e-9)
        assert (one["preferred"] == np.where(one["selectivity"] > 0, "right", "left")).all() and (one["n_trials"] == 60).all()
    assert found.attrs["simulated"] == 0 and found["selectivity"].attrs["units"] == "d'" and found["strength"].attrs["units"] == "d'"


def test_structure_is_found_and_noise_does_not_look_like_tuning(found):
    strength, reliable = found["strength"].values, found["reliability"].values
    assert (strength[:8, 0] > 2).all() and (strength[8:16, 1] > 2).all() and (reliable[:8, 0] > 0.99).all()
    odd = np.arange(8) % 2 == 1
    assert (found["selectivity"].values[:8, 0][odd] < 0).all() and (found["selectivity"].values[:8, 0][~odd] > 0).all()
    many = [neuron_variables(cut(task(s, cells=range(16, 24)), baseline_s=2, response_s=2)) for s in range(8)]
    values = np.concatenate([m["strength"].values.ravel() for m in many])
    raw = np.concatenate([np.abs(m["selectivity"].values).ravel() for m in many])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values)) + 0.03 and raw.mean() > 0.15
    reliability = np.concatenate([m["reliability"].values.ravel() for m in many])
    assert (reliability > 0.9).mean() < 0.12


def test_neurons_are_related_to_what_drives_them(found):
    kinds = related_to(found)
    assert list(kinds.values[:16]) == ["side"] * 8 + ["choice"] * 8
    assert (kinds.values[16:] == "").sum() >= 6 and kinds.attrs["least"] == 0.9


def test_circular_and_categorical_variables():
    trials = cut(toy_session(n_neurons=5, n_conditions=8, repeats=8))
    circular, category = neuron_variables(trials), neuron_variables(trials, "orientation", circular=())
    response, ds = responses(trials)
    angle = ds["orientation"].values
    mean = np.stack([response[angle == a].mean(0) for a in np.unique(angle)]).clip(0)
    vector = (np.exp(1j * np.deg2rad(np.unique(angle)))[:, None] * mean).sum(0) / mean.sum(0)
    np.testing.assert_allclose(circular["angle"].values[:, 0], np.rad2deg(np.angle(vector)) % 360, rtol=1e-6)
    np.testing.assert_allclose(circular["strength"].values[:, 0], np.abs(vector), atol=0.1)  # that of all trials is a little larger
    assert circular["kind"].item() == "circular" and category["kind"].item() == "category"
    assert np.isnan(category["angle"]).all() and np.isnan(category["selectivity"]).all() and np.isnan(circular["auroc"]).all()
    total = response.var(0)
    between = np.stack([response[angle == a].mean(0) for a in angle]).var(0)
    assert (category["strength"].values[:, 0] <= between / total + 1e-9).all() and (
        category["strength"].values[:, 0] > 0.8 * between / total - 0.1
    ).all()
    best = np.argmax([response[angle == a].mean(0) for a in np.unique(angle)], 0)
    np.testing.assert_array_equal(category["preferred"].values[:, 0], [f"{a:g}" for a in np.unique(angle)[best]])
    half = neuron_variables(cut(toy_session(n_neurons=5, n_conditions=4, repeats=8)))  # angles below 180 turn twice as fast
    assert (half["angle"].values < 180).all()


def test_too_few_trials_are_nan_and_neurons_keep_their_numbers_in_any_order(trials):
    few = neuron_variables(trials.subset(np.arange(6)), least=4)
    one_sided = [v for v in ("side", "choice") if min(np.unique(trials.table[v][:6], return_counts=True)[1]) < 4]
    for name in one_sided:
        assert np.isnan(few.sel(variable=name)["strength"]).all() and (few.sel(variable=name)["preferred"] == "").all()
    assert one_sided
    order = [f"m/one/c{i}" for i in (9, 3, 17)]
    part, whole = neuron_variables(trials.of_neurons(order)), neuron_variables(trials)
    for name in ("strength", "reliability", "selectivity"):
        np.testing.assert_allclose(part[name], whole[name].sel(neuron=part["neuron"]), rtol=1e-9)


def test_a_matched_cell_is_described_by_all_of_its_trials():
    both = cut(
        [task(0, session="one", cells=range(0, 6), matched=True), task(1, session="two", cells=range(4, 10), matched=True)],
        baseline_s=2,
        response_s=2,
    )
    found = neuron_variables(both)
    n = found["n_trials"].sel(variable="side").to_series()
    assert n["m/c0"] == n["m/c9"] == 60 and n["m/c4"] == n["m/c5"] == 120
    assert (found["strength"].sel(variable="side").values[:8] > 2).all()


def test_bad_variables_are_told(trials):
    with pytest.raises(UnknownKeyError, match="variable: 'sides' is no column"):
        neuron_variables(trials, "sides")
    with pytest.raises(QfError, match="stimulus: expected two values or more"):
        neuron_variables(trials, "stimulus")
    with pytest.raises(QfError, match="least, n_halves"):
        neuron_variables(trials, least=1)
    with pytest.raises(QfError, match="condition: expected angles in degrees, found 'drifting_gratings/orientation=0'"):
        neuron_variables(cut(toy_session()), "condition", circular=["condition"])
    with pytest.raises(QfError, match="one kind"):
        related_to(neuron_variables(trials, ["side", "block"]))


# ---- probes


def test_a_probe_of_numbers_is_that_of_scikit_learn():
    tokens, columns = probe_data(60)
    found = probe(tokens, (columns["linear"] + columns["noise"]).assign_attrs(data="d"), n_shuffles=5, seed=3)
    y = (columns["linear"] + columns["noise"]).values
    rng = np.random.default_rng(3)
    guess = np.empty(60)
    for train, test in KFold(5, shuffle=True, random_state=int(rng.integers(2**31))).split(y):
        guess[test] = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(tokens.values[train], y[train]).predict(tokens.values[test])
    np.testing.assert_allclose(found["predicted"], guess, rtol=1e-6)
    assert found["score"].sel(measure="r2").item() == pytest.approx(r2_score(y, guess))
    assert found["score"].sel(measure="r").item() == pytest.approx(np.corrcoef(y, guess)[0, 1])
    assert found.attrs["kind"] == "number" and found.attrs["data"] == "d" and found.attrs["n_items"] == 60


def test_probes_find_structure_and_are_at_chance_without():
    tokens, columns = probe_data(90)
    of = {name: probe(tokens, columns[name], n_shuffles=10) for name in ("linear", "noise", "label", "chance")}
    assert of["linear"]["score"].values.min() > 0.99 and of["noise"]["score"].sel(measure="r") < 0.25
    assert of["label"]["score"].values.min() > 0.85 and of["label"]["p"].values.max() == pytest.approx(1 / 11)
    assert of["chance"]["score"].sel(measure="balanced_accuracy") < 0.5
    for name in ("label", "chance"):
        assert of[name]["control"].sel(measure="balanced_accuracy").mean().item() == pytest.approx(1 / 3, abs=0.07)
    assert -0.3 < of["linear"]["control"].sel(measure="r").mean() < 0.1
    assert set(of["label"]["predicted"].values) <= set(of["label"]["target"].values)


def test_p_values_of_noise_are_spread_evenly():
    ps = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ps.append(probe(gaussian(40, 4, seed), named(rng.normal(size=40)), n_shuffles=19, seed=seed)["p"].sel(measure="r").item())
    assert 0.35 < np.mean(ps) < 0.7 and np.mean(np.array(ps) <= 0.05) < 0.2


def test_shuffles_stay_within_groups():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 15)
    tokens = named(np.eye(4)[group] + 0.1 * rng.normal(size=(60, 4)))
    level = named(group + 0.1 * rng.normal(size=60))  # differs between animals, and in no other way
    free, within = probe(tokens, level, n_shuffles=19), probe(tokens, level, named(group), n_shuffles=19)
    assert free["score"].equals(within["score"]) and free["p"].sel(measure="r") == pytest.approx(0.05)
    assert within["p"].sel(measure="r") > 0.05 and within["chance"].sel(measure="r") > 0.9
    with pytest.raises(QfError, match="groups: expected a target that varies within groups"):
        probe(tokens, named(group.astype(str)), named(group))


def test_items_are_matched_by_key_and_order_changes_no_prediction():
    tokens, columns = probe_data(40)
    found = probe(tokens, columns["linear"][::-1], n_shuffles=2)
    np.testing.assert_array_equal(found["neuron"], tokens["neuron"])
    np.testing.assert_allclose(found["target"], columns["linear"])
    order = np.random.default_rng(1).permutation(40)
    again = probe(tokens[order], columns["linear"], n_shuffles=2, folds=40)
    wanted = probe(tokens, columns["linear"], n_shuffles=2, folds=40)
    np.testing.assert_allclose(again["predicted"], wanted["predicted"].sel(neuron=again["neuron"]), rtol=1e-6)
    with_gap = columns["linear"].copy()
    with_gap[3] = np.nan
    assert probe(tokens, with_gap, n_shuffles=2).attrs["n_items"] == 39


def test_probes_refuse_what_they_cannot_score():
    tokens, columns = probe_data(30)
    with pytest.raises(QfError, match="folds: expected at least 40 items"):
        probe(tokens, columns["linear"], folds=20)
    with pytest.raises(QfError, match="target: expected values that differ"):
        probe(tokens, columns["constant"])
    with pytest.raises(QfError, match="target: expected at least 5 items of each label, found 1"):
        probe(tokens, named(np.array(["a"] * 29 + ["b"], object)))
    with pytest.raises(QfError, match="folds, n_shuffles"):
        probe(tokens, columns["linear"], n_shuffles=0)
    with pytest.raises(QfError, match="features: expected finite"):
        probe(tokens.where(tokens["neuron"] != "m/c0"), columns["linear"])
    with pytest.raises(QfError, match="features: expected dims"):
        probe(tokens[:, 0], columns["linear"])


# ---- gradients, clusters, maps


def test_the_gradient_is_the_direction_along_which_a_value_grows():
    tokens = gaussian(150, 6)
    way = np.array([3.0, 0, 0, 4, 0, 0]) / 5
    found = gradient(tokens, tokens @ named(way).rename(neuron="width").drop_vars("width") + 7, n_shuffles=19)
    np.testing.assert_allclose(found["direction"], way, atol=1e-3)
    np.testing.assert_allclose(found["position"], (tokens.values - tokens.values.mean(0)) @ way, atol=1e-2)
    assert found["score"].sel(measure="r") > 0.999 and found["p"].sel(measure="r") == pytest.approx(0.05)
    rng = np.random.default_rng(2)
    none = gradient(tokens, named(rng.normal(size=150)), n_shuffles=19)
    assert none["score"].sel(measure="r") < 0.25 and np.linalg.norm(none["direction"]) == pytest.approx(1)
    with pytest.raises(QfError, match="value: expected numbers"):
        gradient(tokens, text_labels(np.arange(150)))


def test_clusters_are_found_and_agree_with_their_labels():
    tokens, label = groups_of_tokens()
    found = clusters(tokens, labels=text_labels(label), n_shuffles=19)
    assert found.attrs["n_clusters"] == 4 and found["adjusted_rand"] == 1 and found["adjusted_rand_p"] == pytest.approx(0.05)
    assert found["silhouette"] > found["silhouette_control"].max() and abs(found["adjusted_rand_control"].mean()) < 0.05
    again = clusters(tokens, 4, n_shuffles=1)
    np.testing.assert_array_equal(again["cluster"], found["cluster"])
    assert "adjusted_rand" not in again and sorted(np.bincount(again["cluster"])) == [20] * 4


def test_noise_has_no_more_clusters_than_its_control():
    ps = [clusters(gaussian(60, 3, seed), n_shuffles=9, seed=seed)["silhouette_p"].item() for seed in range(5)]
    assert np.mean(ps) > 0.2
    rng = np.random.default_rng(0)
    tokens, label = groups_of_tokens()
    other = clusters(tokens, labels=text_labels(rng.permutation(label)), n_shuffles=19)
    assert abs(other["adjusted_rand"]) < 0.1
    with pytest.raises(QfError, match="n_clusters: expected 2 to 79"):
        clusters(tokens, 80)
    with pytest.raises(QfError, match="labels: expected some"):
        clusters(tokens, labels=named(np.array(["a"] * 80, object), "other/"), n_shuffles=1)


def test_principal_components_are_those_of_the_covariance():
    tokens = gaussian(30, 5) * np.array([5, 1, 1, 3, 1])
    found = pca(tokens)
    values, vectors = np.linalg.eigh(np.cov(tokens.values.T))
    wanted = (tokens.values - tokens.values.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=1e-6)
    np.testing.assert_allclose(found.attrs["share"], values[[-1, -2]] / values.sum())
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(pca(tokens[order]), found[order], atol=1e-9)
    with pytest.raises(QfError, match="at least 4 items"):
        pca(tokens[:3])


# ---- whose embedding it is


def population(n_subjects=4, n_sessions=5, n_cells=6, seed=0):
    """A model whose session embeddings tell the animal, and whose neuron embeddings do not."""
    rng = np.random.default_rng(seed)
    sessions = [f"m{i}/{j}" for i in range(n_subjects) for j in range(n_sessions)]
    neurons = [f"{s}/c{k}" for s in sessions for k in range(n_cells)]
    own = np.repeat(3 * rng.normal(size=(n_subjects, 8)), n_sessions, 0) + rng.normal(size=(len(sessions), 8))
    tokens = rng.normal(size=(len(neurons), 8)).astype(np.float32)
    return SimpleNamespace(
        name="population", has_tokens=True, neurons=neurons, seed=1, simulated=True, digest=lambda: "digest",
        session_table=lambda: (sessions, own.astype(np.float32)), token_table=lambda: (tokens.copy(), np.zeros_like(tokens)),
    )  # fmt: skip


def test_the_animal_is_in_session_embeddings_and_not_in_those_of_neurons():
    model = population()
    found = identity_probe(model, n_shuffles=9)
    score = found["score"].sel(measure="balanced_accuracy")
    assert score.sel(of="session") > 0.9 and abs(score.sel(of="neuron") - 0.25) < 0.15
    np.testing.assert_allclose(found["chance"].sel(measure="balanced_accuracy"), 0.25, atol=0.12)
    assert found["n_items"].values.tolist() == [20, 120] and found["n_identities"].values.tolist() == [4, 4]
    assert found["p"].sel(of="session").values.max() == pytest.approx(0.1) and found.attrs["model"] == "digest" and found.attrs["simulated"] == 1
    tables = {"session": session_tokens(model)}
    np.testing.assert_allclose(identity_probe(tables, of="session", n_shuffles=1)["score"][0], found["score"].sel(of="session"))
    # fewer sessions an animal than folds: each is left out once
    assert identity_probe(population(n_sessions=3), of="session", n_shuffles=3)["score"].sel(measure="accuracy").item() > 0.8
    drawn = identity_probe(model, of=["neuron"], identity="session", most=100, folds=2, n_shuffles=1)
    assert drawn["n_items"].item() == 100 and drawn["n_identities"].item() == 20


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: identity_probe(population(n_sessions=1)),
            "session: expected two subjects or more, each with two embeddings of sessions or more, found one of m0",
        ),
        (lambda: identity_probe(population(n_subjects=1)), "found m0 alone"),
        (lambda: identity_probe(population(), of="session", identity="session"), "of: expected neurons"),
        (lambda: identity_probe({}, of="session"), "model: expected a table of sessions, found none"),
        (lambda: identity_probe(SimpleNamespace(name="ridge")), "embeddings of sessions, found 'ridge'"),
        (lambda: identity_probe(population(), of="cell"), "of, identity: expected"),
        (lambda: identity_probe({"neuron": gaussian(30)}, of="neuron", identity="session"), "matched over sessions"),
    ],
)
def test_what_cannot_be_decoded_is_told(ask, message):
    with pytest.raises(QfError, match=message):
        ask()


def test_results_keep_where_they_come_from():
    tokens = gaussian(30).assign_attrs(model="abc", seed=7, simulated=1)
    for found in (probe(tokens, tokens[:, 0], n_shuffles=1), clusters(tokens, 2, n_shuffles=1), pca(tokens)):
        assert found.attrs["model"] == "abc" and found.attrs["simulated"] == 1
    assert probe(tokens, tokens[:, 0], n_shuffles=1).attrs["model_seed"] == 7
    assert isinstance(probe(tokens, tokens[:, 0], n_shuffles=1), xr.Dataset)
