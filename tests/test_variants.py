"""The ablations of QuantFormer: without a quantiser, without the neuron's token, from scratch."""

import json

import numpy as np
import pytest
import torch
from helpers import refused, toy_session, untaught
from small_store import store_of
from small_training import FIT, TINY, same, toy_split, weights

from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain, untrained
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.quantformer.variants import VARIANTS, fit_variant, pretrain_variant
from qf_toolkit.estimators.registry import load
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.interpret.attention import attention_rollout
from qf_toolkit.interpret.codes import codebook
from qf_toolkit.interpret.neurons import neuron_tokens
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.models.config import QuantFormerConfig
from qf_toolkit.models.quantformer import QuantFormer

torch.set_num_threads(1)
pytestmark = untaught
SIZES = {n: TINY[n] for n in ("patch_frames", "width", "layers", "heads", "codes")}
TASKS = ("forecast", "activation")


@pytest.fixture(scope="module")
def split():
    return toy_split()


@pytest.fixture(scope="module")
def pretrained(split):
    return {name: pretrain_variant(name, split, epochs=3, **TINY) for name in VARIANTS}


@pytest.fixture(scope="module")
def fitted(split, pretrained):
    how = {"epochs": 6, "lr": 3e-3, **FIT}
    return {(name, task): fit_variant(name, pretrained[name], split, task, **how) for name in VARIANTS for task in TASKS}


# ------------------------------------------------------------ formulas


def plain_and_coded(codes=400):
    config = QuantFormerConfig(rate_hz=10.0, n_baseline=30, n_response=20, patch_frames=8, width=12, layers=2, heads=2, codes=codes)
    torch.manual_seed(0)
    coded = QuantFormer(config).eval()
    plain = QuantFormer(QuantFormerConfig(**{**vars(config), "quantise": False})).eval()
    left = plain.load_state_dict(coded.state_dict(), strict=False)
    assert not left.missing_keys and all(name.startswith("quantizer.") for name in left.unexpected_keys)
    return plain, coded


def test_without_quantiser_the_decoder_reads_the_encoder():
    plain, coded = plain_and_coded()
    x = torch.randn(50, 50)
    with torch.no_grad():
        found, codes, loss = plain(x)
        # a codebook of the encoder's outputs themselves quantises nothing away
        outputs = coded.encoder(coded.patchify(x)).flatten(0, 1)
        coded.quantizer.codebook[: len(outputs)] = outputs
        coded.quantizer.codebook[len(outputs) :] = 1e3
        wanted, taken, _ = coded(x)
    assert codes is None and float(loss) == 0 and torch.equal(taken.flatten(), torch.arange(len(outputs)))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_its_loss_is_equation_2_alone(split):
    plain, _ = plain_and_coded()
    plain.train()
    autoencoder = untrained(split, quantise=False, **SIZES)
    bank_x = torch.from_numpy(split.train.dataset()["dff"].values[:4]).flatten(0, 1)
    mask = torch.zeros(len(bank_x), 7, dtype=torch.bool)
    mask[:, 2] = mask[::2, 5] = True
    out = plain(bank_x, mask)[0]
    active, valid = torch.arange(len(bank_x)) % 3 == 0, torch.ones_like(bank_x, dtype=torch.bool)
    found = float(plain.reconstruction_loss(out, bank_x, valid, mask, active.float(), 5.0).detach())
    # patches 2 and 5 of 8 frames begin 2 frames before the window
    total, norm = 0.0, 0.0
    for i in range(len(bank_x)):
        hidden = np.zeros(50, bool)
        hidden[14:22] = True
        if i % 2 == 0:
            hidden[38:46] = True
        error = (out[i] - bank_x[i]).detach().numpy() ** 2
        weight = 1 + 5.0 * float(active[i])
        total += weight * (2 * error[hidden].mean() + error[~hidden].mean())
        norm += weight
    assert found == pytest.approx(total / norm, rel=1e-5)
    assert autoencoder.module.quantizer is None and not [n for n in autoencoder.tensors() if "quantizer" in n]


def test_the_regression_head_reads_the_masked_places(split, fitted):
    model = fitted["baseline", "forecast"]
    module, ds = model.module, split.test.dataset()
    found = model.predict(split.test)["forecast"]
    with torch.no_grad():
        for trial, neuron in ((0, 0), (7, 3)):
            divisor = model.autoencoder.divisor(split.test.neurons[neuron])
            x = torch.from_numpy(ds["dff"].values[trial, neuron, :30] / np.float32(divisor))
            patches = torch.cat([torch.zeros(2), x]).view(4, 8)
            encoder = module.encoder
            tokens = torch.cat([encoder.project(patches), encoder.mask_token.expand(3, -1)]) + encoder.position
            stim = module.stimuli.table.weight[model.tokens.ids[str(ds["condition"].values[trial])]]
            h = encoder.stack(torch.cat([stim[None], tokens])[None], False)[0]
            wanted = module.head(h[-3:]).flatten()[:20] * divisor
            np.testing.assert_allclose(found.values[trial, neuron], wanted, rtol=1e-4, atol=1e-5)
    assert model.sequence() == (["[STIM]"], 7)


# ------------------------------------------------------------ learning


def test_each_variant_starts_from_what_it_says(pretrained):
    assert [pretrained[v].has_codes for v in VARIANTS] == [False, False, False, True]
    assert [bool(pretrained[v].history) for v in VARIANTS] == [False, False, True, True]
    assert same(weights(pretrained["baseline"]), weights(pretrained["tokens"]))
    history = pretrained["autoencoder"].history
    assert history[-1]["score"] < history[0]["score"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_learns(fitted, pretrained, variant, task):
    model = fitted[variant, task]
    assert model.history[-1]["loss"] < model.history[0]["loss"] and model.name == VARIANTS[variant].name
    assert (model.has_codes, model.has_tokens, model.has_attention) == (variant == "quantised", variant != "baseline", True)
    before = pretrained[variant].module.encoder.state_dict()
    assert not torch.equal(model.module.encoder.state_dict()["project.weight"], before["project.weight"])  # the encoder learns, too
    assert model.kind == ("classifier" if task == "activation" else "forecaster" if variant == "quantised" else "regressor")


def test_untrained_has_the_weights_that_pretraining_begins_with(split):
    scratch = untrained(split, seed=3, **SIZES)
    barely = pretrain(split, seed=3, epochs=1, steps_most=1, **{**TINY, "lr": 1e-8})
    start, moved = weights(scratch), weights(barely)
    assert start.keys() == moved.keys() and scratch.scale == barely.scale and scratch.seed == 3 and scratch.simulated is False
    encoder = [n for n in start if n.startswith(("encoder.", "decoder."))]
    assert all(float((start[n] - moved[n]).abs().max()) < 1e-6 for n in encoder)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_save_and_load(fitted, split, variant, task, tmp_path):
    model = fitted[variant, task]
    model.save(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert type(again) is type(model) and (again.has_codes, again.has_tokens) == (model.has_codes, model.has_tokens)
    answer = "forecast" if task == "forecast" else "probability"
    np.testing.assert_allclose(again.predict(split.test)[answer], model.predict(split.test)[answer], rtol=1e-6, atol=1e-6)
    assert same(again.tensors(), model.tensors()) and again.digest() == model.digest()
    note = json.loads((tmp_path / "model" / "config.json").read_text())
    assert note["neuron_token"] is (variant != "baseline") and note["autoencoder"]["model"]["quantise"] is (variant == "quantised")


@pytest.mark.parametrize("variant", VARIANTS)
def test_autoencoders_save_and_load(pretrained, split, variant, tmp_path):
    pretrained[variant].save(tmp_path)
    again = load(tmp_path, device="cpu")
    found, wanted = again.predict(split.test), pretrained[variant].predict(split.test)
    np.testing.assert_allclose(found["reconstruction"], wanted["reconstruction"], rtol=1e-6, atol=1e-6)
    assert same(again.tensors(), pretrained[variant].tensors()) and again.has_codes == (variant == "quantised")


def test_a_config_of_other_weights_is_refused(pretrained, tmp_path):
    for variant, other in (("autoencoder", True), ("quantised", False)):
        folder = tmp_path / variant
        pretrained[variant].save(folder)
        note = json.loads((folder / "config.json").read_text())
        note["model"]["quantise"] = other
        (folder / "config.json").write_text(json.dumps(note))
        with pytest.raises(QfError, match=str(folder)):
            load(folder, device="cpu")


# ------------------------------------------------------------ the neuron's token


@pytest.mark.parametrize("task", TASKS)
def test_without_its_token_the_neuron_counts_for_nothing(fitted, split, task):
    model = fitted["baseline", task]
    ds = split.test.dataset()
    context = ds["dff"].values[:3, :2, :30]
    names = split.test.neurons[:2]
    model._scale = dict.fromkeys(model._scale, 1.0)  # only the divisors still differ
    conditions = [str(c) for c in ds["condition"].values[:3]]
    mine, other, unknown = (model.predict_arrays(Observations(context, n, conditions)) for n in (names, names[::-1], ["a/1", "b/2"]))
    assert np.array_equal(mine, other) and np.array_equal(mine, unknown)


def test_a_model_without_neuron_tokens_takes_new_neurons(pretrained, split):
    model = fit_forecaster(pretrained["baseline"], split, neuron_token=False, epochs=1, **FIT)
    rat = toy_split(2, subject="rat")
    assert np.isfinite(model.predict(rat.test)["forecast"].values).all()
    with pytest.raises(QfError, match="neuron_token=False"):
        model.add_neurons(rat, epochs=1)
    with pytest.raises(QfError, match="neuron tokens"):
        neuron_tokens(model)
    told = fit_forecaster(pretrained["baseline"], split, epochs=1, **FIT)
    with pytest.raises(UnknownKeyError, match="rat"):
        told.predict(rat.test)


# ------------------------------------------------------------ what asks for codes


def test_what_needs_codes_says_so(pretrained, fitted, split):
    plain = pretrained["autoencoder"]
    for call in (plain.codes, plain.code_usage, lambda trials: codebook(plain, trials)):
        with pytest.raises(QfError, match="quantise=False"):
            call(split.test)
    with pytest.raises(QfError, match="quantise=False"):
        Observer(split.test, autoencoder=plain)
    assert list(plain.predict(split.test).data_vars) == ["reconstruction"]
    for name, value in (("decode", "argmax"), ("expectation_weight", 1.0)):
        with pytest.raises(QfError, match=f"{name}: expected .* without codes"):
            fit_forecaster(plain, split, **{name: value}, **FIT)
    assert fitted["autoencoder", "forecast"].probabilistic is False


@pytest.mark.parametrize("variant", ["baseline", "autoencoder"])
def test_tables_observer_and_rollout_take_models_without_codes(fitted, split, variant):
    models = [fitted[variant, task] for task in TASKS]
    table = evaluate([models[0]], split, n_samples=0)
    assert np.isfinite(table.loc[models[0].name, "mse"])
    seen = Observer(split.test, models, n_samples=4).look(split.test.sessions[0], split.test.neurons[0], int(split.test.table["trial"].iloc[0]))
    assert np.isfinite(seen["forecast"].values[0, 30:]).all() and "code" not in seen
    for model in models:
        found = attention_rollout(model, split.test, gradient=True)
        np.testing.assert_allclose(found["gradient_rollout"].sum("source"), 1, rtol=1e-4)
        assert ("[NEURON]" in found["source"].values) == (variant != "baseline")


def test_variants_are_not_mixed_up(pretrained, split):
    with pytest.raises(QfError, match="another variant"):
        fit_variant("baseline", pretrained["autoencoder"], split)
    with pytest.raises(QfError, match="another variant"):
        fit_variant("quantised", pretrained["tokens"], split)
    with pytest.raises(QfError, match="not pre-trained"):
        fit_variant("tokens", pretrained["tokens"], split, tuning="prompt")
    with pytest.raises(QfError, match="did you mean quantised"):
        pretrain_variant("quantized", split)
    with pytest.raises(QfError, match="task"):
        fit_variant("tokens", pretrained["tokens"], split, "codes")


def test_on_the_command_line(tmp_path, capsys):
    store = store_of(tmp_path / "store", toy_session(0)).path
    sizes = [a for n, v in SIZES.items() for a in (f"--{n.replace('_', '-')}", str(v))]
    base, out = str(tmp_path / "base"), str(tmp_path / "fit")
    assert main(["pretrain", str(store), "--out", base, "--no-quantise", "--epochs", "1", "--quiet", *sizes]) == 0
    fit = ["fit", str(store), "--pretrained", base, "--out", out, "--epochs", "1", "--quiet"]
    assert main([*fit, "--no-neuron-token"]) == 0
    assert main([*fit, "--no-neuron-token"]) == 0  # the same command goes on there
    model = load(out, device="cpu")
    assert (model.kind, model.has_codes, model.has_tokens) == ("regressor", False, False)
    assert main(["evaluate", str(store), "--model", out, "--quiet"]) == 0
    assert "QuantFormer without codes" in capsys.readouterr().out
    assert "--decode: expected a forecaster" in refused(capsys, "forecast", store, "--model", out, "--out", tmp_path / "f.nc", "--decode", "soft")
    assert fit_classifier(load(base, device="cpu"), toy_split(), epochs=1, **FIT).has_codes is False
