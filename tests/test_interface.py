"""What all estimators share: what they are asked, what they say of themselves, their hashes, and what a prediction leaves behind: nothing."""

import copy

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from safetensors.torch import load_file

import qf_toolkit as qf
from qf_toolkit.errors import LeakageError, QfError
from qf_toolkit.estimators import digests
from qf_toolkit.estimators.ceiling import SimulatorCeiling
from qf_toolkit.estimators.decoding.decoder import Decoder
from qf_toolkit.estimators.interface import TASKS, Estimator, Forecaster, Observations, observations_of
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import KINDS, find
from qf_toolkit.estimators.seen import seen_frames
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
TINY = {"patch_frames": 10, "width": 16, "layers": 1, "heads": 2, "codes": 8, "epochs": 1, "progress": False}
FIT = {"epochs": 1, "progress": False}


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(0)))


@pytest.fixture(scope="module")
def autoencoder(split):
    return pretrain(split, **TINY)


@pytest.fixture(scope="module")
def models(split, autoencoder):
    return autoencoder, fit_forecaster(autoencoder, split, **FIT), fit_classifier(autoencoder, split, **FIT)


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    "context, valid, words",
    [
        (np.zeros((2, 3)), None, r"context: expected an array \(trial, neuron, time\) of 2 conditions and 3 neurons, found shape \(2, 3\)"),
        (np.zeros((3, 3, 5)), None, "found shape"),
        (np.zeros((2, 1, 5)), None, "found shape"),
        (np.zeros((2, 3, 5)), np.ones((2, 3)), r"valid: expected the shape of context, \(2, 3, 5\), found \(2, 3\)"),
    ],
)
def test_what_is_asked_has_a_row_for_each_key(context, valid, words):
    with pytest.raises(QfError, match=words):
        Observations(context, ["a", "b", "c"], ["x", "y"], valid)


def test_what_a_window_holds_is_asked(split):
    def gap(traces, trials):
        traces[1, trials["onset_frame"].iloc[0] - 3] = np.nan

    part = cut(toy_session(0, change=gap))
    ds = part.dataset()
    asked, usable = observations_of(ds, "dff")
    n = ds.attrs["n_baseline"]
    assert asked.context.shape == (len(part), 6, n) and asked.context.dtype == np.float32 and np.isfinite(asked.context).all()
    assert not usable[0, 1] and usable.sum() == usable.size - 1
    np.testing.assert_array_equal(asked.valid, np.isfinite(ds["dff"].values[..., :n]))
    assert (asked.session, asked.rate_hz, list(asked.neurons)) == ("mouse/one", 10.0, part.neurons)


# ---------------------------------------------------------------- what they say of themselves


def test_every_estimator_names_its_task_and_is_able_to_do_what_it_says(models):
    kinds = [find(KINDS, kind) for kind in KINDS]
    for kind in kinds:
        assert issubclass(kind, Estimator) and kind.task in TASKS and kind.kind in KINDS
    autoencoder, forecaster, classifier = models
    assert [m.task for m in models] == ["codes", "forecast", "activation"]
    assert [m.has_codes for m in models] == [True] * 3 and autoencoder.autoencoder is autoencoder
    assert [m.has_attention for m in models] == [m.has_tokens for m in models] == [False, True, True]
    assert [m.probabilistic for m in models] == [False, True, False]
    assert [m.patch_frames for m in models] == [10] * 3
    assert forecaster.has_arrays and classifier.has_arrays and not SimulatorCeiling().has_arrays


class Mean(Forecaster):
    """The mean of the context, without anything that it need not write."""

    name = "own"

    def predict_arrays(self, asked):
        return np.repeat(asked.context.mean(-1, keepdims=True), 20, -1)


def test_a_forecaster_that_writes_one_method_is_a_row_of_the_table(split):
    table = evaluate(Mean(), split)
    np.testing.assert_allclose(table.loc["own"].iloc[:4].to_numpy(float), table.loc["mean of the context"].iloc[:4].to_numpy(float), rtol=1e-6)
    found = Mean().forecast_arrays(Observations(np.ones((1, 1, 30)), ["n"], ["c"]), ("forecast", "samples", "codes"))
    assert list(found) == ["forecast"]  # what it is unable to give is left out
    with pytest.raises(QfError, match="own: expected a model that can be saved"):
        Mean().save("nowhere")
    with pytest.raises(QfError, match="own: expected one that can be fitted again"):
        Mean().fit(split)


class Speed(Decoder):
    """The population's mean as the animal's speed: no good decoder, but one."""

    name, variables = "mean activity", ("speed",)

    def fit(self, split):
        self.seen = seen_frames(split.train, split.validation)
        return self

    def predict_arrays(self, asked):
        return asked.context.mean(1)[:, None]


def test_a_decoder_answers_in_the_frames_it_reads(split):
    decoder = Speed().fit(split)
    decoder.check_unseen(split.test)
    with pytest.raises(LeakageError):
        decoder.check_unseen(split.train)
    found = decoder.predict(split.test)
    ds = split.test.dataset()
    assert found["decoded"].dims == ("trial", "behaviour", "time") and list(found["behaviour"].values) == ["speed"]
    np.testing.assert_array_equal(found["time"], ds["time"].values)  # decoding is no forecast: the response is read, too
    np.testing.assert_allclose(found["decoded"].sel(behaviour="speed"), ds["dff"].values.mean(1), rtol=1e-5, atol=1e-7)
    with pytest.raises(QfError, match="expected a fitted forecaster, found Speed"):
        evaluate(decoder, split)


# ---------------------------------------------------------------- hashes


def test_weights_are_hashed_once_and_again_where_they_change(models, split, monkeypatch):
    _, forecaster, _ = models
    forecaster, hashed, real = copy.deepcopy(forecaster), [], digests.digest
    monkeypatch.setattr(digests, "digest", lambda *a: hashed.append(None) or real(*a))
    before = forecaster.digest()
    hashed.clear()
    for part in (split.test, split.validation):
        assert forecaster.predict(part).attrs["model"] == before
        assert forecaster.sample(part, 2).attrs["model"] == before
    assert not hashed
    with torch.no_grad():
        next(forecaster.module.head.parameters()).add_(1e-3)
    assert forecaster.digest() != before
    other = forecaster.digest()
    forecaster.temperature = 1.1
    assert forecaster.digest() not in (before, other)


# ---------------------------------------------------------------- what stays behind


def test_predictions_leave_no_conditions_behind(split, autoencoder):
    """Noise of which every frame is a condition of its own may be forecast for hours."""
    model = fit_forecaster(autoencoder, split, stim_token="features", **FIT)
    tokens, neurons = model.module.stimuli, model.neurons[:1]
    before, known, buffers = model.digest(), dict(model.tokens.ids), (tokens.category.clone(), tokens.features.clone())
    ask = lambda angle: model.predict_arrays(Observations(np.zeros((1, 1, 30)), neurons, [f"drifting_gratings/orientation={angle}"]))  # noqa: E731
    first = ask(12.5)
    for angle in np.linspace(1, 179, 40):
        ask(angle)
    assert model.digest() == before and model.tokens.ids == known
    assert torch.equal(tokens.category, buffers[0]) and torch.equal(tokens.features, buffers[1])
    np.testing.assert_array_equal(ask(12.5), first)
    train = model.bank(split.train)  # a bank that was made before a prediction is right after it
    wanted = model.module(train.batch(torch.arange(8)).x[:, 0, :30], train.neuron(torch.arange(8)), train.condition(torch.arange(8)))
    ask(77.0)
    found = model.module(train.batch(torch.arange(8)).x[:, 0, :30], train.neuron(torch.arange(8)), train.condition(torch.arange(8)))
    assert torch.equal(found, wanted)


def test_the_frozen_autoencoder_is_held_and_saved_once(models, split, tmp_path):
    autoencoder, forecaster, _ = models
    assert forecaster.module.autoencoder is autoencoder.module
    before = autoencoder.digest()
    forecaster.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = [n.split(".", 1)[1] for n in tensors if n.startswith("pretrained.")]
    assert sorted(names) == sorted(autoencoder.module.state_dict()) and not any(n.startswith("task.autoencoder.") for n in tensors)
    loaded = qf.load(tmp_path, device="cpu")
    assert loaded.digest() == forecaster.digest() and loaded.predict(split.test).identical(forecaster.predict(split.test))
    assert autoencoder.digest() == before
