"""Stimulus tokens: which conditions have one, and what features say of conditions never seen. On toy recordings, with tiny models."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_session, untaught
from hypothesis import given
from hypothesis import strategies as st

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import load
from qf_toolkit.estimators.stimulus_tokens import Feature, StimulusTokens
from qf_toolkit.recordings.conditions import category_of, condition_key, parse_condition
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False}
FIT = {"batch_size": 64, "progress": False}
BOTH = pytest.mark.parametrize(("fit", "name"), [(fit_forecaster, "forecast"), (fit_classifier, "probability")])


def noise(traces, trials):
    """Every trial is a condition of its own."""
    trials["stimulus"] = "locally_sparse_noise"
    trials["frame"] = np.arange(len(trials))
    del trials["orientation"]


def half_noise(traces, trials):
    """Two of four conditions stay gratings, the others' trials become frames of noise."""
    is_noise = trials["orientation"] >= 90
    trials["stimulus"] = np.where(is_noise, "locally_sparse_noise", "drifting_gratings")
    trials["frame"] = np.where(is_noise, np.arange(len(trials)), np.nan)
    trials.loc[is_noise, "orientation"] = np.nan


def toy_split(change=None, **options):
    return split_blocks(cut(toy_session(change=change, **options)))


def without(split, condition):
    """The split whose training and validation part lack a condition."""
    part = lambda p: p.subset((p.table["condition"] != condition).to_numpy())  # noqa: E731
    return replace(split, train=part(split.train), validation=part(split.validation))


def only(trials, condition):
    return trials.subset((trials.table["condition"] == condition).to_numpy())


def tensors(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def toy():
    split = toy_split()
    return split, pretrain(split, epochs=1, **TINY)


# ---------------------------------------------------------------- auto


@BOTH
def test_auto_is_condition_where_conditions_are_repeated(toy, tmp_path, fit, name):
    split, autoencoder = toy
    assert autoencoder.config.stim_token == "auto"
    models = {kind: fit(autoencoder, split, epochs=2, hide=0.3, stim_token=kind, **FIT) for kind in (None, "auto", "condition")}
    notes = {}
    for kind, model in models.items():
        model.save(tmp_path / str(kind))
        notes[kind] = json.loads((tmp_path / str(kind) / "config.json").read_text())
        assert notes[kind].pop("stim_token") == (kind or "auto")
        assert same(tensors(model), tensors(models["condition"])) and model.stimuli == split.train.conditions
    assert notes[None] == notes["auto"] == notes["condition"]
    files = [(tmp_path / str(kind) / "model.safetensors").read_bytes() for kind in models]
    assert files[0] == files[1] == files[2]
    a, b = (models[kind].predict(split.test)[name].values for kind in ("auto", "condition"))
    np.testing.assert_array_equal(a, b)


@BOTH
@pytest.mark.parametrize(
    ("change", "stimuli"),
    [
        (noise, ["locally_sparse_noise"]),
        (half_noise, ["drifting_gratings/orientation=0", "drifting_gratings/orientation=45", "locally_sparse_noise"]),
    ],
)
def test_what_is_shown_once_has_the_token_of_its_category(tmp_path, fit, name, change, stimuli):
    split = toy_split(change)
    assert set(split.test.conditions) - set(split.train.conditions)
    autoencoder = pretrain(split, epochs=1, **TINY)
    with pytest.warns(UserWarning, match="locally_sparse_noise are shown once each in training.*one for all of them"):
        model = fit(autoencoder, split, epochs=1, **FIT)
    assert (model.stim_token, model.stimuli) == ("auto", stimuli)
    out = model.predict(split.test)[name]
    assert out.sizes["trial"] == len(split.test) and np.isfinite(out).all()
    model.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert (again.stim_token, again.stimuli) == ("auto", stimuli) and same(tensors(again), tensors(model))
    np.testing.assert_allclose(again.predict(split.test)[name], out, atol=1e-6)  # where tensors lie in memory may move a sum's last bit


def test_repeated_means_by_the_same_subject():
    def table(*subjects):
        rows = [("noise", s, f"noise/frame={i}") for s in subjects for i in range(3)]
        return pd.DataFrame(rows, columns=["stimulus", "subject", "condition"])

    with pytest.warns(UserWarning, match="one for all of them"):
        assert StimulusTokens.learnt("auto", table("a", "b", "c")).keys == ["noise"]
    assert StimulusTokens.learnt("auto", table("a", "a")).keys == ["noise/frame=0", "noise/frame=1", "noise/frame=2"]


def shows(**counts):
    """A trial table in which each condition (its features, "__" for "=") is shown so many times."""
    rows = [("images", "m", "images/" + k.replace("__", "=")) for k, n in counts.items() for _ in range(n)]
    return pd.DataFrame(rows, columns=["stimulus", "subject", "condition"])


def test_a_frequent_blank_says_nothing_of_the_images():
    images = {f"image__{i}": 1 for i in range(25)}
    for often in ({"blank": 50}, {"image__25": 50}, {"blank": 50, "image__25": 50}):
        with pytest.warns(UserWarning, match="images are shown once each"):
            assert StimulusTokens.learnt("auto", shows(**images, **often)).keys == ["images"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(StimulusTokens.learnt("auto", shows(**dict.fromkeys(images, 2), blank=1)).keys) == 26
        assert StimulusTokens.learnt("auto", shows(blank=1)).keys == ["images/blank"]


@pytest.mark.parametrize(("feature", "told"), [("image", False), ("contrast", True)])
def test_features_are_recommended_only_where_they_would_tell(feature, told):
    with pytest.warns(UserWarning, match="one for all of them") as said:
        StimulusTokens.learnt("auto", shows(blank=5, **{f"{feature}__{i}": 1 for i in range(5)}))
    assert ("--stim-token features" in str(said[0].message)) == told


def test_what_has_no_token_is_named(toy):
    split, autoencoder = toy
    unseen = split.validation.conditions[-1]
    kept = without(split, unseen)
    for kind in (None, "condition"):
        with pytest.warns(UserWarning, match="left out: .*a neuron or stimulus without a token"):
            model = fit_forecaster(autoencoder, replace(kept, validation=split.validation), epochs=1, stim_token=kind, **FIT)
        with pytest.raises(UnknownKeyError, match=f'condition: .{unseen}. unknown.*stim_token="category" or "features"'):
            model.predict(split.test)
        with pytest.raises(UnknownKeyError, match=f"condition: .{unseen}"):
            model.predict_arrays(Observations(np.zeros((1, 6, 30)), split.test.neurons, [unseen]))
    other = cut(toy_session(stimuli=("scenes",)))
    assert model.tokens.lacking([*other.conditions, *kept.train.conditions]) == other.conditions
    for kind, unknown in (("auto", "condition: 'scenes/"), ("category", "stimulus: 'scenes'"), ("features", "stimulus: 'scenes'")):
        with pytest.raises(UnknownKeyError, match=f"{unknown}.*Train with trials of it, or choose other trials"):
            fit_forecaster(autoencoder, split, epochs=1, stim_token=kind, **FIT).predict(other)


def test_kinds_are_checked(toy):
    split, autoencoder = toy
    for call in (fit_forecaster, fit_classifier):
        with pytest.raises(QfError, match="stim_token: expected one of .*'auto', 'condition', 'category', 'features'.*found 'orientation'"):
            call(autoencoder, split, stim_token="orientation", **FIT)
    with pytest.raises(QfError, match="stim_token: expected one of .*found 'none'"):
        pretrain(split, stim_token="none", **TINY)


@pytest.mark.parametrize("kind", ["condition", "category"])
def test_models_saved_before_the_choice_was_theirs_come_back(toy, tmp_path, kind):
    split, autoencoder = toy
    model = fit_forecaster(autoencoder, split, epochs=1, stim_token=kind, **FIT)
    model.save(tmp_path)
    note = json.loads((tmp_path / "config.json").read_text())
    del note["stim_token"], note["features"]
    note["autoencoder"]["model"]["stim_token"] = kind
    (tmp_path / "config.json").write_text(json.dumps(note))
    again = load(tmp_path, device="cpu")
    assert (again.stim_token, again.stimuli) == (kind, model.stimuli)
    np.testing.assert_allclose(again.predict(split.test)["forecast"], model.predict(split.test)["forecast"], atol=1e-6)


def test_models_saved_with_the_former_circle_keep_it(toy, tmp_path):
    split, autoencoder = toy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qf_toolkit.estimators.stimulus_tokens.WAVES", {"orientation": ("sin1", "cos1")})
        model = fit_forecaster(autoencoder, split, epochs=1, stim_token="features", **FIT)
    model.save(tmp_path)
    note = json.loads((tmp_path / "config.json").read_text())
    assert note["features"][0].pop("waves") == ["sin1", "cos1"]
    (tmp_path / "config.json").write_text(json.dumps(note))
    again = load(tmp_path, device="cpu")
    assert again.tokens.size == (1, 2) and again.tokens.features == model.tokens.features
    np.testing.assert_allclose(again.predict(split.test)["forecast"], model.predict(split.test)["forecast"], atol=1e-6)


# ---------------------------------------------------------------- features


@BOTH
def test_features_take_conditions_never_seen(toy, tmp_path, fit, name):
    split, autoencoder = toy
    seen, unseen = split.test.conditions[0], split.test.conditions[-1]
    model = fit(autoencoder, without(split, unseen), epochs=1, stim_token="features", **FIT)
    model.save(tmp_path)
    weights = tensors(model)
    x = split.test.dataset()["dff"].values[:2, :, :30]
    predict = lambda m, *conditions: m.predict_arrays(Observations(x[: len(conditions)], split.test.neurons, list(conditions)))  # noqa: E731
    before, alone = predict(model, seen, split.test.conditions[1]), predict(model, seen)
    both = predict(model, seen, unseen)
    np.testing.assert_array_equal(both[0], before[0])  # the same bits: in the same place of a call of the same size,
    np.testing.assert_array_equal(predict(model, seen), alone)  # and in any later call
    np.testing.assert_allclose(both[0], alone[0], atol=1e-5)
    assert not np.allclose(both[1], before[1], atol=1e-6)
    assert same(tensors(model), weights)
    again = load(tmp_path, device="cpu")
    predict(again, "drifting_gratings/orientation=300")  # others met before move it to another row
    np.testing.assert_allclose(predict(again, seen, unseen), both, atol=1e-6)
    assert (again.stim_token, again.stimuli, again.tokens.note()) == ("features", ["drifting_gratings"], model.tokens.note())
    assert np.isfinite(again.predict(split.test)[name]).all()


def tuned_session(n_neurons=8, repeats=5, peaks=1):
    """Responses that depend on the orientation smoothly, with so many peaks a turn."""
    rng, rows, at = np.random.default_rng(0), [], 60
    for block in range(3):
        for orientation in rng.permutation(np.repeat(np.arange(0.0, 360, 45), repeats)):
            rows.append((at, at + 20, "drifting_gratings", orientation, block))
            at += 30
        at += 60
    trials = pd.DataFrame(rows, columns=["onset_frame", "offset_frame", "stimulus", "orientation", "block"])
    dff = 0.02 * rng.standard_normal((n_neurons, at + 60))
    preferred = np.arange(n_neurons) * 360 / n_neurons
    for onset, orientation in zip(trials["onset_frame"], trials["orientation"], strict=True):
        dff[:, onset : onset + 20] += 0.5 + 0.5 * np.cos(np.deg2rad(peaks * (orientation - preferred)))[:, None]
    return new_session(100 * (1 + dff), subject="m", session="s", rate_hz=10.0, trials=trials)


@pytest.mark.parametrize(("peaks", "n_neurons"), [(1, 8), (2, 12)])  # direction tuning, and the axis tuning that most cells have
def test_features_forecast_an_orientation_never_seen_better_than_its_category(peaks, n_neurons):
    split, unseen = split_blocks(cut(tuned_session(n_neurons, peaks=peaks))), "drifting_gratings/orientation=90"
    kept, how = without(split, unseen), {"epochs": 40, "lr": 3e-3, "batch_size": 64, "progress": False}
    autoencoder = pretrain(kept, patch_frames=10, width=32, layers=1, heads=2, codes=16, **how)
    test = only(split.test, unseen)
    truth, error = test.dataset()["dff"].values[..., 30:], {}
    for kind in ("category", "features"):
        forecast = fit_forecaster(autoencoder, kept, stim_token=kind, **how).predict(test)["forecast"].values
        error[kind] = np.square(forecast - truth).mean()
    assert error["features"] < 0.6 * error["category"]  # about 0.4 and 0.1


@BOTH
def test_numbers_that_only_name_leave_the_category(fit, name):
    split = toy_split(noise)
    autoencoder = pretrain(split, epochs=1, **TINY)
    a, b = (fit(autoencoder, split, epochs=1, stim_token=kind, **FIT) for kind in ("category", "features"))
    assert b.tokens.size == (1, 0)
    np.testing.assert_array_equal(a.predict(split.test)[name], b.predict(split.test)[name])


@BOTH
def test_a_resumed_fit_ends_at_the_same_weights(tmp_path, fit, name):
    split = toy_split(half_noise)
    autoencoder, how = pretrain(split, epochs=1, **TINY), {"epochs": 3, "stim_token": "features", "hide": 0.3, **FIT}
    whole = fit(autoencoder, split, **how)
    from qf_toolkit.training import loop

    real = loop.save_checkpoint

    def stop(*args):
        real(*args)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(autoencoder, split, checkpoint=tmp_path, **how)
    resumed = fit(autoencoder, split, checkpoint=tmp_path, **how)
    assert same(tensors(whole), tensors(resumed)) and whole.history == resumed.history
    with pytest.warns(UserWarning), pytest.raises(QfError, match="differing: features, stim_token, stimuli, train, validation"):
        fit(autoencoder, split, checkpoint=tmp_path, **{**how, "stim_token": "auto"})
    # going on with it: what was forecast in between decides the rows of conditions, but nothing that is learnt
    resumed.save(tmp_path / "saved")
    resumed = load(tmp_path / "saved", device="cpu")
    resumed.predict(split.test)
    more = {"epochs": 2, "checkpoint": tmp_path / "more", **FIT}
    history = whole.fit(split, **more).history
    assert resumed.fit(split, **more).history == history and same(tensors(whole), tensors(resumed))


@pytest.mark.parametrize("fit", [fit_forecaster, fit_classifier])
def test_features_with_new_neurons_and_prompt_tuning(toy, fit):
    split, autoencoder = toy
    model = fit(autoencoder, split, epochs=1, tuning="prompt", stim_token="features", **FIT)
    assert same(autoencoder.module.encoder.state_dict(), model.module.encoder.state_dict())
    before = tensors(model)
    model.fit(split, epochs=1, tuning="prompt", **FIT)
    learnt = tensors(model)
    assert all(not torch.equal(before[k], learnt[k]) for k in ("stimuli.weight", "stimuli.categories.weight"))
    second = split_blocks(cut(toy_session(5, session="two", n_conditions=5)))  # a condition more
    assert model.add_neurons(second, epochs=1, **FIT) == second.train.neurons
    after = tensors(model)
    for name in ("neurons.table.weight", "neurons.start"):
        assert torch.equal(after.pop(name)[:6], learnt.pop(name))
    assert same(after, learnt)
    assert model.predict(second.test).sizes["trial"] == len(second.test)


# ---------------------------------------------------------------- keys and numbers


NAMES = st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True)
NUMBERS = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-9)


@given(st.dictionaries(NAMES, st.one_of(NUMBERS, st.integers(-(10**9), 10**9), st.from_regex(r"[A-Za-z ./;-]{0,9}", fullmatch=True)), max_size=4))
def test_keys_come_apart_as_they_were_put_together(features):
    category, found = parse_condition(condition_key("static_gratings", features))
    assert category == "static_gratings" and list(found) == list(features)
    for name, value in features.items():
        assert found[name] == value if isinstance(value, str) else float(found[name]) == pytest.approx(value, rel=1e-5)


def test_keys_of_other_forms():
    assert category_of("gratings/orientation=3") == category_of("gratings") == "gratings"
    assert parse_condition("gratings/blank") == ("gratings", {})
    assert parse_condition("gratings") == ("gratings", {})
    assert parse_condition("flashes/left, top") == ("flashes", {"": "left, top"})
    assert parse_condition("s/side=left,top,size=2") == ("s", {"side": "left,top", "size": "2"})


@given(st.lists(st.integers(-720, 720), min_size=1, max_size=6), st.sampled_from(["orientation", "direction"]))
def test_angles_are_circular(angles, name):
    feature = Feature.learnt(name, ["0", "45", "90", *map(str, angles)])
    for angle in angles:
        numbers = feature.encode(str(angle))
        assert numbers == feature.encode(str(angle + 360)) == feature.encode(str(angle - 360))
        np.testing.assert_allclose(numbers, [f(np.deg2rad(h * angle)) for h in (1, 2) for f in (np.sin, np.cos)], atol=1e-9)
    assert feature.encode("0") == feature.encode("360") == [0.0, 1.0, 0.0, 1.0] and feature.encode(None) == [0.0] * 4


def test_a_wave_that_was_the_same_for_all_is_left_out():
    """Its weight stays random; what was never told apart must not be so at prediction."""
    cardinal = Feature.learnt("orientation", ["0", "90", "180", "270"])
    assert cardinal.waves == ("sin1", "cos1", "cos2")
    np.testing.assert_allclose(cardinal.encode("45"), [0.5**0.5, 0.5**0.5, 0.0], atol=1e-12)
    assert Feature.learnt("direction", ["0", "180"]).waves == ("cos1",)


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9), st.sampled_from(["temporal_frequency", "spatial_frequency", "contrast"]), st.booleans()
)
def test_numbers_are_z_scores_of_the_training_conditions(values, name, some_lack_it):
    texts = [f"{v:g}" for v in values]
    x = np.array([float(t) for t in texts])
    feature = Feature.learnt(name, [*texts, None] if some_lack_it else texts)
    if x.min() == x.max():
        assert feature is None if not some_lack_it else feature.encode("7") == [1.0]
        return
    numbers = np.array([feature.encode(t) for t in texts])
    x = x if name == "contrast" else np.log2(x)
    np.testing.assert_allclose(numbers[:, 0], (x - x.mean()) / x.std(), atol=1e-9)
    assert numbers.shape[1] == 1 + some_lack_it and np.isfinite(numbers).all() and (numbers[:, 1:] == 1).all()
    for missing in (None, "left", "nan", "1_0", *(() if name == "contrast" else ("0", "-1"))):
        assert feature.encode(missing) == [0.0] * (1 + some_lack_it)


def test_phases_texts_and_names():
    numbers = np.array([Feature.learnt("phase", ["0", "0.25", "0.5", "0.75"]).encode(t) for t in ("0", "0.25", "0.5", "1")])
    np.testing.assert_allclose(numbers, [[0, 1], [1, 0], [0, -1], [0, 1]], atol=1e-12)
    in_degrees = Feature.learnt("phase", ["0", "90", "180", "270"])
    np.testing.assert_allclose([in_degrees.encode(t) for t in ("90", "180")], [[1, 0], [0, -1]], atol=1e-12)
    side = Feature.learnt("side", ["left", "right", None])
    assert [side.encode(t) for t in ("left", "right", "top", None)] == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    for name in ("image", "frame", "frame_", "scene", "movie_frame", "cell_id", "stimulus_index"):
        assert Feature.learnt(name, ["1", "2"]) is None
    assert Feature.learnt("pattern", [f"p{i}" for i in range(500)]) is None
    assert Feature.learnt("contrast", ["80", "80"]) is None  # it varies with nothing, so nothing can be learnt of it


def test_each_condition_is_encoded_alone_and_comes_back_from_json():
    conditions = [condition_key("static", {"orientation": o, "spatial_frequency": f}) for o in (0.0, 30.0, 60.0) for f in (0.02, 0.04, 0.32)]
    conditions += ["static/blank", *(f"noise/frame={i}" for i in range(5))]
    table = pd.DataFrame({"condition": conditions, "stimulus": [c.split("/")[0] for c in conditions], "subject": "m"})
    tokens = StimulusTokens.learnt("features", table)
    assert tokens.keys == ["noise", "static"] and tokens.size == (
        2,
        7,
    )  # sin and cos of the angle and of twice the angle, and a flag; a z-score and a flag
    again = StimulusTokens.from_note(json.loads(json.dumps(tokens.note())), "condition")
    assert again.features == tokens.features
    new = [*conditions, "static/orientation=45,spatial_frequency=0.08", "unknown/orientation=3"]
    category, features = tokens.describe(new)
    assert list(tokens.ids) == sorted(new)[:-1] and features.shape == (len(new) - 1, 7) and features.dtype == np.float32
    assert not len(tokens.describe(conditions)[0])
    for condition in reversed(sorted(new)[:-1]):  # one at a time, in another order
        at = tokens.ids[condition]
        (own,), (numbers,) = again.describe([condition])
        assert own == category[at] and np.array_equal(numbers, features[at])
