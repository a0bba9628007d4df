"""CalM as an estimator: from quantiser to forecast, draws, states, tables, saved folders, other sessions, and refusals."""

import json

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught

from qf_toolkit.cli.main import main
from qf_toolkit.errors import DamagedFileError, LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators.calm.fit import fit_calm
from qf_toolkit.estimators.calm.forecaster import CalmForecaster
from qf_toolkit.estimators.calm.quantizer import pretrain_calm_quantizer
from qf_toolkit.estimators.decoding.decode import decode
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.registry import load
from qf_toolkit.evaluation.behaviour_scores import decoding_table
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.interpret.codes import codebook, swap
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.recordings.simulated.network import simulate_network
from qf_toolkit.recordings.splits import split_blocks, split_chronological
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets.code_explorer import CodeExplorer

torch.set_num_threads(1)
pytestmark = untaught
CODES = {"width": 16, "layers": 1, "heads": 2, "codes": 8, "epochs": 4, "batch_size": 64, "lr": 3e-3, "progress": False}
AXES = {"width": 16, "layers": 1, "heads": 2, "epochs": 3, "lr": 3e-3, "token_width": 4, "progress": False}
SESSIONS = [toy_session(0), toy_session(1, session="two")]


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(SESSIONS, signal="zscore", f0_s=1.0))


@pytest.fixture(scope="module")
def quantizer(split):
    return pretrain_calm_quantizer(split, **CODES)


@pytest.fixture(scope="module")
def calm(split, quantizer):
    return fit_calm(split, quantizer, **AXES)


def asked_of(model, trials):
    part = trials.by_session()[0]
    ds = model.prepare(part).dataset()
    x = ds["zscore"].values
    return Observations(
        np.nan_to_num(x[..., : ds.attrs["n_baseline"]]), part.neurons, list(ds["condition"].values), np.isfinite(x[..., : ds.attrs["n_baseline"]]),
        part.sessions[0],
    ), x  # fmt: skip


def test_from_recording_to_table(split, calm):
    table = evaluate(calm, split, n_samples=8)
    assert np.isfinite(table.loc["CalM", ["mse", "r", "crps"]].astype(float)).all()
    assert calm.population and calm.probabilistic and calm.has_codes and calm.has_states and calm.has_neuron_attention
    assert calm.reference["score"] == min(calm.chosen.values()) and set(calm.chosen) == {"argmax", "soft", "sample"}


def test_no_frame_after_the_onset_changes_a_forecast(split, calm):
    asked, x = asked_of(calm, split.test)
    n = asked.context.shape[-1]
    whole = Observations(np.nan_to_num(x), asked.neurons, asked.conditions, np.isfinite(x), asked.session)
    states, later = calm.states_arrays(whole), calm.states_arrays(asked)
    first = x.shape[-1] % 4  # tokens of the two begin at different frames unless the lengths agree modulo 4
    if first == n % 4:
        assert np.allclose(states[:, :, : later.shape[2]], later, atol=1e-4)
    assert states.shape == (*x.shape[:2], x.shape[-1] // 4, 16)


def test_forecasts_do_not_depend_on_the_company_of_trials_or_the_order_of_neurons(calm, split):
    asked, _ = asked_of(calm, split.test)
    whole, draws = calm.predict_arrays(asked), calm.sample_arrays(asked, 5, seed=3)
    one = Observations(asked.context[:1], asked.neurons, asked.conditions[:1], asked.valid[:1], asked.session)
    order = np.random.default_rng(0).permutation(len(asked.neurons))
    other = Observations(asked.context[:, order], [asked.neurons[i] for i in order], asked.conditions, asked.valid[:, order], asked.session)
    for how in ("argmax", "soft", "sample"):
        calm.decode, kept = how, calm.decode
        whole = calm.predict_arrays(asked)
        assert np.allclose(calm.predict_arrays(one), whole[:1], atol=1e-4)
        assert np.allclose(calm.predict_arrays(other), whole[:, order], atol=1e-4)
        calm.decode = kept
    assert np.allclose(calm.sample_arrays(other, 5, seed=3), draws[:, :, order], atol=1e-4)
    assert np.array_equal(calm.sample_arrays(asked, 5, seed=3), draws) and not np.allclose(calm.sample_arrays(asked, 5, seed=4), draws)


def test_the_mean_of_many_draws_is_the_forecast_by_draws(calm, split):
    asked, _ = asked_of(calm, split.test)
    one = Observations(asked.context[:2], asked.neurons, asked.conditions[:2], asked.valid[:2], asked.session)
    draws = calm.sample_arrays(one, 400)
    calm.decode, kept = "sample", calm.decode
    mean, spread = calm.predict_arrays(one), draws.std(0)
    calm.decode = kept
    assert np.abs(draws.mean(0) - mean).mean() < 3 * (spread / np.sqrt(32)).mean()


def test_one_model_answers_with_and_without_the_condition(split, calm):
    asked, _ = asked_of(calm, split.test)
    other = Observations(asked.context, asked.neurons, asked.conditions[::-1], asked.valid, asked.session)
    with torch.no_grad():
        calm.module.told.normal_()
    told = calm.predict_arrays(asked)
    assert not np.allclose(told, calm.predict_arrays(other))
    calm.tell = False
    try:
        untold = calm.predict_arrays(asked)
        assert np.array_equal(untold, calm.predict_arrays(other)) and not np.allclose(untold, told)
    finally:
        calm.tell = True
        with torch.no_grad():
            calm.module.told.zero_()
    assert fit_calm(split, calm.quantizer, **{**AXES, "token_width": 0, "epochs": 1}).name == "CalM, condition not told"


def test_a_model_of_patches_has_no_codes_and_no_draws(split):
    model = fit_calm(split, tokens="patches", **AXES)
    assert model.name == "CalM, patches" and not model.has_codes and not model.probabilistic
    assert np.isfinite(model.predict(split.test)["forecast"].values).any()


def test_rows_of_attention_sum_to_one_and_missing_neurons_are_not_looked_at(calm, split):
    asked, _ = asked_of(calm, split.test)
    seen = calm.neuron_attention_arrays(asked)
    n = len(asked.neurons)
    assert seen.shape == (1, 2, n, n) and np.allclose(seen.sum(-1), 1, atol=1e-5)
    valid = asked.valid.copy()
    valid[:, 0] = False
    assert (calm.neuron_attention_arrays(Observations(asked.context, asked.neurons, asked.conditions, valid, asked.session))[..., 0] == 0).all()


def test_codes_go_to_the_explorer_and_the_inspector(quantizer, calm, split):
    part = split.test.by_session()[0]
    coded = quantizer.codes(part)
    c = quantizer.config
    assert coded["code"].shape[-1] == c.patches and coded["start_s"].values[c.baseline_patches] == 0
    reconstruction = coded["reconstruction"].values
    assert np.isnan(reconstruction[..., : c.first]).all() and np.isfinite(reconstruction[..., c.first : c.first + c.n_baseline]).all()
    book = codebook(quantizer, part)
    assert int(book["count"].sum()) == (coded["code"].values >= 0).sum()
    sequence = coded["code"].values[0, 0]
    assert swap(quantizer, sequence, 2, (int(sequence[1]) + 1) % 8).attrs["replaced"] == sequence[1]
    assert CodeExplorer(quantizer, part).model is quantizer
    found = Observer(part, [calm]).look(part.sessions[0], part.neurons[0], int(part.table["trial"].iloc[0]))
    assert found["code"].shape == found["forecast_code"].shape[1:] == (c.patches,)
    assert np.array_equal(found["forecast_code"].values[0, : c.baseline_patches], found["code"].values[: c.baseline_patches])


def test_a_saved_model_answers_the_same_bits(tmp_path, quantizer, calm, split):
    quantizer.save(tmp_path / "quantizer")
    calm.save(tmp_path / "calm")
    again, coder = load(tmp_path / "calm", device="cpu"), load(tmp_path / "quantizer", device="cpu")
    asked, _ = asked_of(calm, split.test)
    assert isinstance(again, CalmForecaster) and again.digest() == calm.digest() and coder.digest() == quantizer.digest()
    assert np.array_equal(again.predict_arrays(asked), calm.predict_arrays(asked))
    assert np.array_equal(again.sample_arrays(asked, 3), calm.sample_arrays(asked, 3))
    assert np.array_equal(coder.codes(split.test.by_session()[0])["code"], again.quantizer.codes(split.test.by_session()[0])["code"])
    with pytest.raises(LeakageError):
        again.check_unseen(split.train)
    for key, value in {"sessions": ["a/b"], "decode": "other", "quantizer": None}.items():
        note = json.loads((tmp_path / "calm" / "config.json").read_text())
        (tmp_path / "calm" / "config.json").write_text(json.dumps({**note, key: value}))
        with pytest.raises((DamagedFileError, QfError)):
            load(tmp_path / "calm", device="cpu")
        (tmp_path / "calm" / "config.json").write_text(json.dumps(note))


@pytest.mark.parametrize("stage", ["quantizer", "forecaster"])
def test_an_interrupted_training_ends_at_the_same_weights(tmp_path, split, quantizer, stage):
    from qf_toolkit.training import loop

    def train(**more):
        if stage == "quantizer":
            return pretrain_calm_quantizer(split, **{**CODES, "reset_every": 1, "dropout": 0.2}, **more)
        return fit_calm(split, quantizer, **AXES, **more)

    class Stop(Exception):
        pass

    real, count = loop.save_checkpoint, []

    def stop(*args):
        real(*args)
        count.append(1)
        if len(count) == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop)
        with pytest.raises(Stop):
            train(checkpoint=tmp_path)
    whole, resumed = train(), train(checkpoint=tmp_path)
    assert whole.history == resumed.history
    assert all(torch.equal(v, resumed.module.state_dict()[k]) for k, v in whole.module.state_dict().items())


def test_new_sessions_learn_by_embeddings_alone(calm, quantizer):
    new = split_blocks(cut([toy_session(2, session="three")], signal="zscore", f0_s=1.0))
    with pytest.raises(UnknownKeyError):
        calm.prepare(new.test)
    before = {k: v.clone() for k, v in calm.module.state_dict().items()}
    model = fit_calm(new, calm, tuning="embeddings", epochs=2, lr=1e-2, progress=False)
    n = len(calm.neurons)
    for name, value in model.module.state_dict().items():
        old = before[name]
        if name == "neurons.table.weight":
            assert torch.equal(value[:n], old) and len(value) == n + len(new.train.neurons)
            assert (value[n:].std() > 0) and not torch.equal(value[n:], model.module.neurons.start[n:])
        elif name == "sessions.weight":
            assert torch.equal(value[:2], old) and len(value) == 3
        elif name not in ("neurons.start", "stimuli.table.weight", "stimuli.start"):
            assert torch.equal(value, old), name
    assert np.isfinite(model.predict(new.test)["forecast"].values).any()
    with pytest.raises(LeakageError):
        model.check_unseen(new.train)
    assert set(calm.seen) < set(model.seen)


def test_what_does_not_fit_is_refused_in_a_line(split, quantizer, calm):
    short = split_blocks(cut(SESSIONS, signal="zscore", f0_s=0.1, baseline_s=0.1, response_s=0.1, score_s=0.1))
    for call, message in [
        (lambda: fit_calm(split), "pretrained: expected a quantiser"),
        (lambda: fit_calm(split, quantizer, tokens="patches"), "pretrained: expected none"),
        (lambda: fit_calm(split, "runs/x"), "pretrained: expected CalM's"),
        (lambda: fit_calm(split, quantizer, tuning="embeddings"), "tuning: expected"),
        (lambda: fit_calm(split, calm, width=32), "width: expected 16"),
        (lambda: fit_calm(split, quantizer, normalise="none"), "normalise: expected 'neuron'"),
        (lambda: fit_calm(split, quantizer, codes=3), "codes"),
        (lambda: pretrain_calm_quantizer(short), "baseline_s, response_s: expected at least 4 frames"),
        (lambda: calm.states_arrays(Observations(np.zeros((1, 1, 3)), calm.neurons[:1], ["x"])), "context: expected at least 4 frames"),
    ]:
        with pytest.raises(QfError, match=message):
            call()


def test_behaviour_is_read_from_its_states_without_later_frames(tmp_path):
    with pytest.warns(UserWarning, match="settled"):
        store = simulate_network(tmp_path / "networks", n_neurons=6, subjects=2, seconds=100)
    split = split_chronological(store.windows(length_s=3.2, response_s=0.8, signal="zscore"))
    model = fit_calm(split, pretrain_calm_quantizer(split, **CODES), **{**AXES, "token_width": 0})
    decoder = decode(split, ["speed", "pupil"], "probe", backbone=model, epochs=2, progress=False)
    assert np.isfinite(decoding_table(decoder, split.test)["r"]).all()
    decoder.save(tmp_path / "decoder")
    again = load(tmp_path / "decoder", device="cpu")
    part = split.test.by_session()[0]
    assert np.array_equal(again.predict(part)["decoded"], decoder.predict(part)["decoded"])
    with pytest.raises(LeakageError):
        decoder.check_unseen(split.train)


def test_from_the_shell(tmp_path, capsys):
    store, base, model, new = (str(tmp_path / name) for name in ("store", "base", "model", "new"))
    assert main(["simulate", store, "--kind", "network", "--neurons", "6", "--subjects", "2", "--seconds", "100"]) == 0
    windows = ["--windows", "sliding", "--length", "3.2", "--response", "0.8", "--signal", "zscore", "--split", "chronological"]
    small = ["--width", "16", "--layers", "1", "--heads", "2", "--lr", "3e-3", "--quiet", "--device", "cpu"]
    one = ["--subject", "net1"]
    assert main(["pretrain", store, "--model", "calm", "--out", base, *windows, *one, *small, "--codes", "8", "--epochs", "4"]) == 0
    assert main(["fit", store, "--model", "calm", "--pretrained", base, "--out", model, *small, "--epochs", "3", "--token-width", "0"]) == 0
    assert (
        main(
            [
                "fit",
                store,
                "--model",
                "calm",
                "--pretrained",
                model,
                "--tuning",
                "embeddings",
                "--subject",
                "net2",
                "--epochs",
                "2",
                "--out",
                new,
                "--quiet",
            ]
        )
        == 0
    )
    assert main(["evaluate", store, "--model", new, "--quiet", "--samples", "0"]) == 0
    assert "CalM, condition not told" in capsys.readouterr().out
    out = str(tmp_path / "forecasts.nc")
    assert main(["forecast", store, "--model", new, "--decode", "argmax", "--out", out, "--quiet"]) == 0
    assert main(["evaluate", store, "--model", new, "--part", "train"]) == 2
    capsys.readouterr()
    for wrong, message in [
        (["fit", store, "--model", "calm", "--out", new, *windows], "pretrained: expected a quantiser"),
        (["fit", store, "--model", "calm", "--task", "activation", "--out", new], "--task: expected forecast"),
        (["fit", store, "--model", "calm", "--pretrained", str(tmp_path), "--out", new], "expected a saved model"),
        (["pretrain", store, "--model", "calm", "--out", base, *windows, "--heads", "3"], "heads: expected a divisor"),
    ]:
        assert main([*wrong, "--quiet"]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


MATCHED = {"matched": True, "n_neurons": 5}


def test_a_cell_in_a_new_session_is_zscored_by_that_session():
    """Of a matched cell the new session may be brighter: forecaster and quantiser both measure it there."""
    one = split_blocks(cut([toy_session(0, **MATCHED)], signal="zscore", f0_s=1.0))
    bright = toy_session(1, session="two", **MATCHED)
    bright["fluorescence"] = 3 * bright["fluorescence"]
    two = split_blocks(cut([bright], signal="zscore", f0_s=1.0))
    first = fit_calm(one, pretrain_calm_quantizer(one, **CODES), **AXES)
    model = fit_calm(two, first, epochs=1, progress=False)
    for coder in (model, model.quantizer):
        x = coder.prepare(two.test).dataset()["zscore"].values
        assert np.abs(np.nanmean(x)) < 1.5 and 0.3 < np.nanstd(x) < 3
        assert coder.scaling["mouse/one"] == first.scaling["mouse/one"]
    assert np.isfinite(model.predict(two.test)["forecast"].values).any()
    asked, _ = asked_of(model, two.test)
    mine = model.quantizer.codes(two.test)["code"].values[..., : model.places.baseline_patches]
    assert np.array_equal(model.forecast_arrays(asked, ("codes",))["codes"][..., : mine.shape[-1]], mine)


def test_a_known_session_keeps_its_scales_and_takes_new_neurons(split, quantizer):
    keys = split.train.neurons_of(split.train.sessions[0])
    few = split_blocks(cut(SESSIONS[:1], signal="zscore", f0_s=1.0, neurons=keys[:4]))
    whole = split_blocks(cut(SESSIONS[:1], signal="zscore", f0_s=1.0))
    first = fit_calm(few, pretrain_calm_quantizer(few, **CODES), **AXES)
    model = fit_calm(whole, first, epochs=1, progress=False)
    assert {n: model._scale[n] for n in keys[:4]} == {n: first._scale[n] for n in keys[:4]}
    assert np.isfinite(model.predict(whole.test)["forecast"].values).any()
    tuned = fit_calm(whole, first, tuning="embeddings", epochs=1, progress=False)
    assert tuned.decode == first.decode


def test_tokens_made_of_features_go_on_to_another_fit(split, quantizer):
    first = fit_calm(split, quantizer, **{**AXES, "stim_token": "features"})
    asked, _ = asked_of(first, split.test)
    before = first.predict_arrays(asked)
    again = fit_calm(split, first, epochs=1, progress=False)
    assert np.isfinite(again.predict_arrays(asked)).all() and np.array_equal(first.predict_arrays(asked), before)


def test_a_model_that_is_told_nothing_takes_any_condition(split, quantizer):
    model = fit_calm(split, quantizer, **{**AXES, "token_width": 0, "epochs": 1})
    asked, _ = asked_of(model, split.test)
    other = Observations(asked.context, asked.neurons, ["never/seen=1"] * len(asked.conditions), asked.valid, asked.session)
    assert np.array_equal(model.predict_arrays(asked), model.predict_arrays(other))


def test_the_digest_knows_the_keys_but_states_do_not_depend_on_how_forecasts_go_on(calm):
    known, states = calm.digest(), calm.states_digest()
    kept, calm.decode = calm.decode, "argmax" if calm.decode != "argmax" else "soft"
    assert calm.digest() != known and calm.states_digest() == states
    calm.decode, neurons = kept, calm.neurons
    calm.neurons = neurons[::-1]
    assert calm.digest() != known and calm.states_digest() != states
    calm.neurons = neurons
    assert calm.digest() == known
