"""Decoding: decoders against second computations, against simulated truth, causality, missing values, saving and refusals."""

import numpy as np
import pytest
import xarray as xr
from helpers import refused, toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score, roc_auc_score
from test_no_float64 import NoFloat64

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators import registry, schema
from qf_toolkit.estimators.decoding.backbone import BackboneDecoder
from qf_toolkit.estimators.decoding.decoder import class_names
from qf_toolkit.estimators.decoding.features import averaged, lagged
from qf_toolkit.estimators.decoding.glm import GLMDecoder
from qf_toolkit.estimators.decoding.ridge import ReducedRankDecoder, RidgeDecoder, ridge_path
from qf_toolkit.estimators.interface import Estimator, Observations, observations_of
from qf_toolkit.evaluation.behaviour_scores import decoding_table, show_decoding
from qf_toolkit.recordings.behaviour import with_behaviour
from qf_toolkit.recordings.simulated.network import simulate_network

TURN, BOTH = "angular_velocity", ["angular_velocity", "speed"]
QUICK = {"epochs": 15, "progress": False, "device": "cpu"}
ROWS = [("ridge", BOTH), ("reduced_rank", BOTH), ("glm", [*BOTH, "licks"]), ("mean", BOTH), ("backbone", BOTH), ("probe", BOTH)]
CATEGORIES = ["glm", "svm", "mean", "backbone", "probe"]


class Smooth(Estimator):
    """A backbone of fixed random features: the state after a token is a random map of the neuron's smoothed past, and of the population's."""

    name, has_states, patch_frames, width = "smooth", True, 4, 6

    def digest(self):
        return "smooth"

    def states_arrays(self, asked):
        x, kept = np.concatenate([asked.context, np.broadcast_to(asked.context.mean(1, keepdims=True), asked.context.shape)], -1), []
        n = asked.context.shape[-1]
        assert n % self.patch_frames == 0
        for share in (1.0, 0.5, 0.2):
            state = np.zeros((*x.shape[:2], 2))
            smooth = []
            for t in range(n):
                state = (1 - share) * state + share * x[..., [t, n + t]]
                smooth.append(state)
            kept.append(np.stack(smooth, 2)[:, :, self.patch_frames - 1 :: self.patch_frames])
        mix = np.random.default_rng(0).standard_normal((6, self.width))
        return np.tanh(np.concatenate(kept, -1) @ mix / 2).astype(np.float32)


class Saved(Smooth):
    """The same, which can be saved."""

    kind = "smooth"

    def note(self):
        return {}

    @classmethod
    def checks(cls):
        return schema.record({}, {"run": schema.maybe(schema.RUN)})

    @classmethod
    def from_note(cls, note, tensors, device, folder):
        return cls()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate_network(tmp_path_factory.mktemp("decoding") / "net", n_neurons=40, subjects=1, seconds=200, cue_every_s=5, seed=1, own=0.2)


@pytest.fixture(scope="module")
def split(store):
    return qf.split_chronological(store.trials(baseline_s=1, response_s=2.6, signal="zscore"), validation=0.25)


@pytest.fixture(scope="module")
def fitted(split):
    """Decoders by name, fitted when first asked for."""
    kept = {}

    def of(decoder, variables, **options):
        key = decoder, str(variables), str(options)
        if key not in kept:
            over = {"backbone": Smooth(), **QUICK} if decoder in ("backbone", "probe") else {}
            kept[key] = qf.decode(split, variables, decoder, **over, **options)
        return kept[key]

    return of


def asked_of(part):
    ds = part.dataset()
    return observations_of(ds, part.window.signal, whole=True)[0]


# ---------------------------------------------------------------- second computations


@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_ridge_is_that_of_scikit_learn(seed, n, p, penalty):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, p)) + 1, rng.standard_normal((n, 2)) * 3 + 5
    (weights, intercept), _ = ridge_path(x, y, [penalty, 1.0])
    other = Ridge(alpha=penalty * n, solver="svd").fit(x, y)
    np.testing.assert_allclose(x @ weights + intercept, other.predict(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(weights.T, other.coef_, atol=1e-6)


def test_a_ridge_decoder_is_a_regression_on_lagged_traces(split, fitted):
    """The same by hand: standardise on train, average the past in bins, choose on validation, fit on both."""
    decoder = fitted("ridge", TURN, lag_s=0.3, bins=2)
    parts = [p.dataset(behaviour=TURN) for p in (split.train, split.validation, split.test)]
    train = parts[0]["zscore"].values.astype(float)
    mean, sd = train.mean((0, 2))[:, None], train.std((0, 2))[:, None]

    def features(ds):
        z = (ds["zscore"].values - mean) / sd
        padded = np.concatenate([np.zeros((*z.shape[:2], 6)), z], -1)
        past = np.stack([padded[..., 6 - k : 6 - k + z.shape[-1]] for k in range(7)], -1)  # 0.3 s at 20 Hz before the frame itself
        cut = round(7 / 2)
        return np.stack([past[..., :cut].mean(-1), past[..., cut:].mean(-1)], -1).transpose(0, 2, 1, 3).reshape(-1, 2 * z.shape[1])

    x, y = [features(ds) for ds in parts], [ds[TURN].values.ravel() for ds in parts]
    errors = {p: np.mean((Ridge(p * len(x[0])).fit(x[0], y[0]).predict(x[1]) - y[1]) ** 2) for p in np.logspace(-4, 4, 17)}
    penalty = min(errors, key=errors.get)
    assert decoder.chosen[split.train.sessions[0]] == [f"penalty {penalty:.3g}"]
    both = Ridge(penalty * (len(x[0]) + len(x[1]))).fit(np.concatenate(x[:2]), np.concatenate(y[:2]))
    np.testing.assert_allclose(decoder.predict(split.test)["decoded"].values.ravel(), both.predict(x[2]), rtol=1e-3, atol=1e-3)


@given(st.integers(0, 500), st.floats(1e-2, 10))
@settings(max_examples=20)
def test_reduced_rank_is_least_squares_of_that_rank(seed, penalty):
    """No weights of the rank have less penalised error: alternating least squares, started anywhere, ends no lower."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 5))
    y = x @ rng.standard_normal((5, 3)) + rng.standard_normal((60, 3))
    x, y = x - x.mean(0), (y - y.mean(0)) / y.std(0)
    decoder = ReducedRankDecoder(["a", "b", "c"])
    low, full = (decoder._solve(x, y, [0, 1, 2], [(penalty, r)])[0][0] for r in (1, 3))
    np.testing.assert_allclose(full, ridge_path(x, y, [penalty])[0][0], atol=1e-9)
    assert np.linalg.matrix_rank(low, tol=1e-8) == 1
    loss = lambda w: ((y - x @ w) ** 2).sum() / len(x) + penalty * (w**2).sum()  # noqa: E731
    b = rng.standard_normal(3)
    for _ in range(500):
        b /= np.linalg.norm(b)
        a = np.linalg.solve(x.T @ x / len(x) + penalty * np.eye(5), x.T @ (y @ b) / len(x))
        b = y.T @ (x @ a) / len(x)
    assert loss(low) <= loss(np.outer(a, b / (a @ (x.T @ x / len(x) + penalty * np.eye(5)) @ a))) + 1e-6


def test_a_logistic_decoder_gives_the_probabilities_of_scikit_learn(split, fitted):
    decoder = fitted("glm", "side")
    fit = next(iter(decoder.fits.values()))
    x = [
        averaged((p.dataset()["zscore"].values - fit.center[:, None]) / fit.scale[:, None], 20, 72, 4)
        for p in (split.train, split.validation, split.test)
    ]
    y = np.concatenate([split.train.table["side"], split.validation.table["side"]])
    penalty = float(decoder.chosen[split.train.sessions[0]][0].split()[1])
    other = LogisticRegression(C=1 / (penalty * len(y)), max_iter=2000).fit(np.concatenate(x[:2]), y)
    found = decoder.predict(split.test)
    np.testing.assert_allclose(found["probability"], other.predict_proba(x[2]), atol=0.02)  # the penalty is read with three digits
    assert (found["decoded"].values == other.predict(x[2])).all() and found["class"].values.tolist() == ["left", "right"]


def test_scores_are_those_of_scikit_learn(split, fitted):
    decoders = {"r": fitted("ridge", BOTH), "g": fitted("glm", "side", to_s=0.2), "s": fitted("svm", "side")}
    table = decoding_table(decoders, split.test)
    truth = split.test.dataset(behaviour=BOTH)
    decoded = decoders["r"].predict(split.test)["decoded"]
    for i, name in enumerate(BOTH):
        a, b = truth[name].values.ravel(), decoded.values[:, i].ravel()
        np.testing.assert_allclose(table.loc[("r", name), ["r2", "r"]].astype(float), [r2_score(a, b), np.corrcoef(a, b)[0, 1]], rtol=1e-5)
    side = split.test.table["side"].to_numpy()
    found = decoders["g"].predict(split.test)
    p = found["probability"].values.astype(float)
    row = table.loc[("g", "side")]
    assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(side, found["decoded"].values))
    assert row["auroc"] == pytest.approx(roc_auc_score(side == "right", p[:, 1]))
    assert row["cross_entropy"] == pytest.approx(log_loss(side, p / p.sum(1, keepdims=True)), rel=1e-4)
    assert np.isnan(table.loc[("s", "side"), "cross_entropy"]) and row["balanced_accuracy_chance"] == 0.5
    for name, score in ((("r", TURN), "r2"), (("g", "side"), "accuracy"), (("g", "side"), "auroc")):
        assert table.loc[name, f"{score}_from"] <= table.loc[name, score] <= table.loc[name, f"{score}_to"]
    assert "95% interval" in show_decoding(table) and table.attrs["n_animals"] == 1 and table.attrs["models"].keys() == decoders.keys()


# ---------------------------------------------------------------- what they are for


def test_all_decoders_beat_the_mean_where_behaviour_is_driven(split, fitted):
    decoders = {name: fitted(name, variables) for name, variables in ROWS}
    table = decoding_table(decoders, split.test)
    r2 = table["r2"].unstack("variable")
    assert r2.loc["mean"].max() <= 0 and (r2.drop("mean")[BOTH] > 0.3).all(axis=None)
    assert (r2.loc[["ridge", "reduced_rank", "glm"], BOTH] > 0.7).all(axis=None)
    table = decoding_table({name: fitted(name, "side") for name in CATEGORIES}, split.test)["accuracy"].droplevel("variable")
    assert (table[["glm", "svm"]] > 0.9).all() and (table[["backbone", "probe"]] > 0.7).all() and table["mean"] < 0.7


def test_events_are_decoded_as_counts(split, fitted):
    decoder = fitted("glm", [*BOTH, "licks"])
    assert decoder.counts == [False, False, True]
    decoded = decoder.predict(split.test)["decoded"].sel(behaviour="licks")
    assert (decoded >= 0).all() and decoded.max() <= 5
    assert not fitted("ridge", BOTH).predict(split.test)["decoded"].isnull().any()


# ---------------------------------------------------------------- causality


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5))
def test_lagged_features_know_no_later_frame(seed, length, bins):
    z = np.random.default_rng(seed).standard_normal((2, 3, 20))
    later = z.copy()
    later[..., 11:] += 5
    a, b = lagged(z, length, bins), lagged(later, length, bins)
    np.testing.assert_array_equal(a[:, :11], b[:, :11])
    assert not np.array_equal(a[:, 11:], b[:, 11:]) and a.shape == (2, 20, 3 * min(length, bins))


@pytest.mark.parametrize(("decoder", "variables"), [*ROWS, ("backbone", TURN)])
def test_what_comes_later_changes_nothing_earlier(split, fitted, decoder, variables):
    model = fitted(decoder, variables, **({"smooth": 5} if variables == TURN else {}))
    asked, t = asked_of(split.test), 31
    first = model.predict_arrays(asked)
    asked.context[..., t:] += 3
    second = model.predict_arrays(asked)
    np.testing.assert_allclose(second[..., :t], first[..., :t], rtol=0, atol=1e-5)
    assert decoder == "mean" or (np.abs(second - first)[..., t:] > 1e-3).any()


def test_from_the_recording_on_later_frames_change_nothing_earlier(store, split, fitted):
    session = store[store.keys()[0]].load()
    onset, whole = int(split.test.table["onset_frame"].iloc[0]), store.trials(baseline_s=1, response_s=2.6, signal="zscore").table
    n = int(np.flatnonzero(whole["onset_frame"] == onset)[0])
    for after in (-10, 15):  # frames from the onset; the z-scores are those of training, so that the baseline knows no later frame either
        changed = session.copy(deep=True)
        changed["dff"][:, onset + after :] = 9.0
        a, b = (
            fitted("ridge", BOTH).predict(_in_memory(ds).trials(baseline_s=1, response_s=2.6, signal="zscore").subset([n]))["decoded"].values[0]
            for ds in (session, changed)
        )
        np.testing.assert_array_equal(a[:, : 20 + after], b[:, : 20 + after])
        assert (np.abs(a - b)[:, 20 + after :] > 0.1).any()


def test_within_the_paper_a_frame_takes_the_state_of_its_token(split, fitted):
    model = fitted("probe", TURN, within=True)
    asked = asked_of(split.test)
    first = model.predict_arrays(asked)
    asked.context[..., 31] += 3  # the last frame of a token of 4, which is of frames 28 to 31
    second = np.abs(model.predict_arrays(asked) - first)[:, 0]
    assert (second[:, 28:31] > 1e-4).any() and second[:, :28].max() < 1e-5


@pytest.mark.parametrize("decoder", CATEGORIES)
def test_a_category_is_read_from_its_window_alone(split, fitted, decoder):
    model = fitted(decoder, "side", from_s=0.0, to_s=1.0)
    asked = asked_of(split.test)
    first = model.predict_arrays(asked)
    asked.context[..., 40:] += 3
    np.testing.assert_allclose(model.predict_arrays(asked), first, atol=1e-6)
    if decoder in ("glm", "svm"):
        asked.context[..., :20] += 3
        np.testing.assert_allclose(model.predict_arrays(asked), first, atol=1e-6)


# ---------------------------------------------------------------- missing values


@pytest.mark.parametrize("decoder", ["ridge", "backbone"])
def test_a_missing_neuron_is_at_its_training_mean(split, fitted, decoder):
    model, asked = fitted(decoder, BOTH), asked_of(split.test)
    less = Observations(np.delete(asked.context, 3, 1), [n for i, n in enumerate(asked.neurons) if i != 3], asked.conditions, session=asked.session)
    valid = np.ones(asked.context.shape, bool)
    valid[:, 3] = False
    blank = Observations(asked.context, asked.neurons, asked.conditions, valid, asked.session)
    found = model.predict_arrays(less)
    if decoder == "ridge":  # the states of a backbone read the neuron's values
        np.testing.assert_allclose(found, model.predict_arrays(blank), atol=1e-4)
        mean = np.where(valid, asked.context, model.fits[asked.session].center[:, None])
        same = Observations(mean, asked.neurons, asked.conditions, session=asked.session)
        np.testing.assert_allclose(found, model.predict_arrays(same), atol=1e-4)
    assert np.isfinite(found).all()
    with pytest.raises(UnknownKeyError, match="neuron: 'stranger' unknown to the model"):
        model.predict_arrays(Observations(asked.context[:, :1], ["stranger"], asked.conditions, session=asked.session))


def _session(seed=0, behaviour=True, **how):
    """A toy recording whose speed is the first neuron's trace."""
    ds = toy_session(seed, **how)
    x = ds["fluorescence"].values
    if not behaviour:
        return ds
    speed = x[0] - x[0].mean()
    speed[: len(speed) // 4] = np.nan
    return with_behaviour(ds, {"speed": speed.astype(np.float32)})


def _in_memory(*sessions):
    from qf_toolkit.recordings.trials import cut

    class Cut:
        def trials(self, **how):
            return cut(list(sessions), **how)

    return Cut()


@pytest.mark.filterwarnings("ignore:.*left out")
def test_frames_without_behaviour_enter_neither_fit_nor_score():
    split = qf.split_blocks(_in_memory(_session()).trials(baseline_s=1, response_s=1, signal="zscore"))
    first = qf.decode(split, "speed", bins=1, lag_s=0)
    table = decoding_table(first, split.test)
    truth = split.test.dataset(behaviour="speed")["speed"].values
    assert table["n"].iloc[0] == np.isfinite(truth).sum() and table["r2"].iloc[0] > 0.95
    known = np.isfinite(split.train.dataset(behaviour="speed")["speed"].values)
    assert 0 < known.mean() < 1


# ---------------------------------------------------------------- saved


@pytest.mark.parametrize(("decoder", "variables"), [*ROWS, *((c, "side") for c in CATEGORIES)])
def test_a_saved_decoder_decodes_the_same(split, fitted, tmp_path, decoder, variables):
    model = fitted(decoder, variables)
    model.save(tmp_path / "m")
    if decoder in ("backbone", "probe"):
        with pytest.raises(QfError, match="backbone: expected the model whose states it reads"):
            qf.load(tmp_path / "m", device="cpu")
        again = BackboneDecoder.load(tmp_path / "m", device="cpu", backbone=Smooth())
    else:
        again = qf.load(tmp_path / "m")
    assert type(again) is type(model) and again.digest() == model.digest() and again.name == model.name
    xr.testing.assert_identical(again.predict(split.test), model.predict(split.test))
    with pytest.raises(LeakageError):
        again.check_unseen(split.validation)


def test_a_backbone_that_can_be_saved_is_saved_within(split, tmp_path, monkeypatch):
    find = registry.find
    monkeypatch.setitem(registry.KINDS, "smooth", "")
    monkeypatch.setattr(registry, "find", lambda table, name: Saved if name == "smooth" else find(table, name))
    model = qf.decode(split, TURN, "backbone", backbone=Saved(), epochs=2, progress=False, device="cpu")
    model.save(tmp_path / "m")
    xr.testing.assert_identical(qf.load(tmp_path / "m", device="cpu").predict(split.test), model.predict(split.test))


def test_another_backbone_is_refused(fitted, tmp_path):
    fitted("probe", BOTH).save(tmp_path / "m")
    other = Smooth()
    other.digest = lambda: "other"
    with pytest.raises(QfError, match="backbone: expected the one of digest smooth"):
        BackboneDecoder.load(tmp_path / "m", backbone=other)


def test_what_the_backbone_saw_the_decoder_has_seen(split):
    from qf_toolkit.estimators.seen import seen_frames

    backbone = Smooth()
    backbone.seen = seen_frames(split.test)
    model = qf.decode(split, TURN, "probe", backbone=backbone, epochs=1, progress=False, device="cpu")
    with pytest.raises(LeakageError):
        decoding_table(model, split.test)


@pytest.mark.parametrize("variables", [TURN, "side"])
def test_heads_need_no_float64(split, variables):
    with NoFloat64():
        model = qf.decode(split, variables, "backbone", backbone=Smooth(), smooth=0 if variables == "side" else 3, **{**QUICK, "epochs": 1})
        model.predict_arrays(asked_of(split.test))


# ---------------------------------------------------------------- refusals


def test_what_a_user_can_get_wrong_is_told(split):
    for call, why in (
        (lambda: qf.decode(split, "velocity"), "variables: 'velocity' is neither a behaviour.*did you mean angular_velocity"),
        (lambda: qf.decode(split, []), "variables: expected names, each once"),
        (lambda: qf.decode(split, ["speed", "side"]), "expected behaviours, or one category alone"),
        (lambda: qf.decode(split, "side"), "ridge: expected behaviour, found a category"),
        (lambda: qf.decode(split, "speed", "svm"), "SVM: expected category, found behaviour"),
        (lambda: qf.decode(split, "speed", "reduced_rank"), "expected at least 2 for a reduced rank"),
        (lambda: qf.decode(split, "stimulus", "svm"), "stimulus: expected at least two classes"),
        (lambda: qf.decode(split, "side", "svm", from_s=9.0), "from_s: expected a window of at least a frame between -1 and 2.6 s"),
        (lambda: qf.decode(split, "side", "svm", from_s=1.0, to_s=0.5), "to_s: expected a window"),
        (lambda: qf.decode(split, "speed", from_s=0.0), "from_s: expected only for a category"),
        (lambda: qf.decode(split, "speed", lag=1), "lag: no option of decode; did you mean lag_s"),
        (lambda: qf.decode(split, "speed", lag_s=-1), "lag_s: expected seconds"),
        (lambda: qf.decode(split, "speed", "rigde"), "decoder: expected one of.*did you mean ridge"),
        (lambda: qf.decode(split, "speed", "backbone"), "backbone: expected a fitted model that has states, found none"),
        (lambda: qf.decode(split, "speed", "ridge", backbone=Smooth()), "backbone: expected only with decoder backbone or probe"),
        (lambda: qf.decode(split, "speed", "probe", backbone=RidgeDecoder("speed")), "backbone: expected a model with states"),
        (lambda: decoding_table([], split.test), "decoders: expected at least one"),
        (lambda: decoding_table([RidgeDecoder("speed")] * 2, split.test), "found 'ridge' twice"),
        (lambda: RidgeDecoder("speed").predict(split.test), "ridge: not fitted yet"),
    ):
        with pytest.raises(QfError, match=why) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_other_windows_sessions_and_seen_trials_are_refused(store, split, fitted):
    model = fitted("ridge", BOTH)
    with pytest.raises(QfError, match="response_s: expected 2.6, the model's"):
        model.predict(store.trials(baseline_s=1, response_s=2, signal="zscore"))
    with pytest.raises(LeakageError, match="ridge saw"):
        decoding_table(model, split.train)
    asked = asked_of(split.test)
    object.__setattr__(asked, "session", "net9/1")
    with pytest.raises(UnknownKeyError, match="session: 'net9/1' has no decoder here"):
        model.predict_arrays(asked)


@pytest.mark.filterwarnings("ignore:.*left out", "ignore:split. block")
def test_sessions_without_behaviour_and_classes_never_seen_are_told():
    trials = _in_memory(_session(), _session(1, behaviour=False, subject="rat")).trials(baseline_s=1, response_s=1, signal="zscore")
    split = qf.split_blocks(trials)
    with pytest.raises(QfError, match="variables: expected 'speed' in every session, found none in rat/one"):
        qf.decode(split, "speed")
    one = qf.split_blocks(_in_memory(_session()).trials(baseline_s=1, response_s=1, signal="zscore"))
    model = qf.decode(one, "condition", "glm")
    model.classes = (*model.classes[:-1], "another")
    with pytest.raises(UnknownKeyError, match="is no class of the decoder, which never saw it in training"):
        decoding_table(model, one.test)
    assert isinstance(model, GLMDecoder)


@given(st.lists(st.one_of(st.floats(), st.text(max_size=3), st.booleans(), st.integers(-100, 100)), max_size=5))
def test_classes_are_named_by_texts(values):
    names = class_names(values)
    assert len(names) == len(values) and all(isinstance(n, str) for n in names)


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_saves_the_decoder(store, tmp_path, capsys):
    how = ["--baseline", "1", "--response", "2.6", "--signal", "zscore", "--split", "chronological"]
    assert main(["decode", str(store.path), *BOTH, "--decoder", "reduced_rank", "--lag", "0.2", "--out", str(tmp_path / "m"), *how]) == 0
    out = capsys.readouterr().out
    assert "reduced rank" in out and "training mean" in out and TURN in out and "SIMULATED DATA" in out
    model = qf.load(tmp_path / "m")
    assert model.variables == tuple(BOTH) and model.lag_s == 0.2 and model.run["command"] == "decode"
    assert main(["decode", str(store.path), "--config", str(tmp_path / "m"), "--out", str(tmp_path / "again")]) == 0
    assert qf.load(tmp_path / "again").digest() == model.digest()
    assert "did you mean speed" in refused(capsys, "decode", store.path, "sped", "--out", tmp_path / "n", *how)
    assert "--backbone: expected with" in refused(capsys, "decode", store.path, "speed", "--decoder", "probe", "--out", tmp_path / "n", *how)
    line = refused(capsys, "decode", store.path, "speed", "--decoder", "probe", "--backbone", _zero(store, tmp_path), "--out", tmp_path / "n", *how)
    assert "expected a model with states (has_states), found zero" in line
    assert not (tmp_path / "n").exists()


def _zero(store, tmp_path):
    from qf_toolkit.estimators.naive import Zero

    Zero().fit(qf.split_chronological(store.trials(baseline_s=1, response_s=2.6, signal="zscore"))).save(tmp_path / "zero")
    return tmp_path / "zero"
