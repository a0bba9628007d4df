"""Training: learning, leakage, keys, predictions. On toy recordings, with models of a few thousand weights."""

import warnings

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from small_training import FIT, TINY, same, toy_split, weights

from qf_toolkit.errors import LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import load
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.training.bank import Bank

torch.set_num_threads(1)
pytestmark = untaught


@pytest.fixture(scope="module")
def trained():
    split = toy_split()
    autoencoder = pretrain(split, epochs=3, **TINY)
    return split, autoencoder, fit_forecaster(autoencoder, split, epochs=3, **FIT), fit_classifier(autoencoder, split, epochs=3, **FIT)


def test_bank_gathers_what_the_dataset_holds():
    split = toy_split()
    ds = split.train.dataset()
    bank = Bank(split.train, {n: i for i, n in enumerate(split.train.neurons)}, {c: i for i, c in enumerate(split.train.conditions)}, "cpu")
    n = ds.sizes["neuron"]
    x = bank.signal(torch.arange(len(bank))).reshape(-1, n, bank.length).numpy()
    np.testing.assert_allclose(x, ds["dff"].values, atol=1e-6)
    np.testing.assert_array_equal(bank.active.reshape(-1, n).numpy().astype(bool), ds["active"].values)


def test_beta_is_inactive_to_active_and_finite_without_actives():
    split = toy_split()
    bank = Bank(split.train, {n: i for i, n in enumerate(split.train.neurons)}, {"drifting_gratings": 0}, "cpu")
    actives = int(split.train.dataset()["active"].sum())
    assert bank.beta() == pytest.approx((len(bank) - actives) / actives)
    bank.active[:] = 0
    assert bank.beta() == 100.0


def test_training_learns(trained):
    _, autoencoder, forecaster, _ = trained
    assert autoencoder.history[-1]["score"] < autoencoder.history[0]["score"]
    assert forecaster.history[-1]["cross_entropy"] < forecaster.history[0]["cross_entropy"]


@pytest.mark.parametrize("fit", [fit_forecaster, fit_classifier])
def test_tokens_of_neurons_alone_learn_as_fast_as_asked(trained, fit):
    split, autoencoder, *_ = trained
    how = {"epochs": 1, "lr": 1e-3, "batch_size": 10**6, "progress": False}  # one step, from the same gradient
    slow, quick = (fit(autoencoder, split, token_speed=speed, **how) for speed in (1.0, 8.0))
    own, found = weights(slow), weights(quick)
    moved = {name: own.pop("neurons.table.weight") - own["neurons.start"] for name, own in (("slow", own), ("quick", found))}
    assert same(own, found)
    assert float(moved["slow"].abs().max()) == pytest.approx(1e-3, rel=0.01)  # Adam's first step is lr
    torch.testing.assert_close(moved["quick"], 8 * moved["slow"], rtol=1e-3, atol=2e-6)
    with pytest.raises(QfError, match="token_speed: expected a number above 0 and at most 10000, found 0"):
        fit(autoencoder, split, token_speed=0, **how)


def test_a_classifier_keeps_its_definition_of_active(trained, tmp_path):
    split, autoencoder, *_ = trained
    labels = split_blocks(cut(toy_session(0), score_s=1.0, active_gain=0.4))
    fit_classifier(autoencoder, labels, epochs=1, **FIT).save(tmp_path)
    again = load(tmp_path)
    assert (again.window.score_s, again.window.active_gain) == (1.0, 0.4)
    assert again.predict(labels.test)["active"].size
    with pytest.raises(QfError, match="score_s: expected 1.0"):
        again.predict(split.test)


def test_levels_of_the_gain_are_those_of_the_label(trained):
    _, autoencoder, *_ = trained
    split = split_blocks(cut(toy_session(0), active_gain=0.4))
    model = fit_classifier(autoencoder, split, epochs=30, lr=1e-2, gain_weight=5.0, hide=1.0, **FIT)
    bank = model.bank(split.train)
    at = torch.arange(len(bank))
    with torch.no_grad():
        h = model.module.summary(bank.batch(at).x[:, 0, :30], bank.neuron(at), bank.condition(at))
        learnt = model.module.levels(h).sigmoid().mean(0)
    wanted = torch.stack([(bank.gain > 0.4 * level).float().mean() for level in (-0.5, 0, 0.5, 2, 4, 8)])
    torch.testing.assert_close(learnt, wanted, atol=0.06, rtol=0)


def test_a_gain_without_f0_is_none():
    def dark(traces, trials):
        traces[1, 400:700] = 0.001

    split = split_blocks(cut(toy_session(0, change=dark), signal="zscore"))
    bank = Bank(split.train, {n: i for i, n in enumerate(split.train.neurons)}, {"drifting_gratings": 0}, "cpu")
    assert float(bank.gain.abs().max()) < 20 and bool((bank.gain == 0).any())


@pytest.mark.parametrize("signals", [("fluorescence",), ("dff",), ("fluorescence", "dff")])
def test_labels_under_zscores_are_those_of_the_dataset(signals):
    def dim(traces, trials):
        traces /= np.median(traces)  # fluorescence about 1 looks like 1 + dF/F

    sessions = [toy_session(i, session=f"s{i}", signal=s, change=dim if s == "fluorescence" else None) for i, s in enumerate(signals)]
    split = split_blocks(cut(sessions, signal="zscore"))
    keys = {n: i for i, n in enumerate(split.train.neurons)}
    for part in split.train.by_session():
        ds = part.dataset()
        bank = Bank(part, keys, {"drifting_gratings": 0}, "cpu")
        shape = ds["active"].shape
        np.testing.assert_array_equal(bank.active.reshape(shape).numpy().astype(bool), ds["active"].values)
        np.testing.assert_allclose(bank.signal(torch.arange(len(bank))).reshape(*shape, -1).numpy(), ds["zscore"].values, atol=1e-4)
        assert 0.05 < bank.active.float().mean() < 0.95


def test_options_of_fitting_count_and_are_checked(trained):
    split, autoencoder, forecaster, classifier = trained
    for fit, plain, options in (
        (fit_forecaster, forecaster, {"hide": 1.0}),
        (fit_forecaster, forecaster, {"expectation_weight": 5.0}),
        (fit_classifier, classifier, {"hide": 1.0}),
        (fit_classifier, classifier, {"gain_weight": 3.0}),
    ):
        assert not same(weights(plain), weights(fit(autoencoder, split, epochs=3, **options, **FIT)))
    for bad in ({"hide": 1.5}, {"dropout": 1.0}, {"gain_weight": -1.0}, {"gain_weight": float("nan")}):
        with pytest.raises(QfError, match=next(iter(bad))):
            fit_classifier(autoencoder, split, **bad, **FIT)


def test_nothing_after_the_onset_changes_a_prediction(trained):
    """All frames from one test onset on are altered: what was forecast there stays, for both tasks."""
    split, _, forecaster, classifier = trained
    rows = split.test.table.sort_values("onset_frame")
    trial, onset = int(rows["trial"].iloc[3]), int(rows["onset_frame"].iloc[3])

    def later(traces, trials):
        traces[:, onset:] = traces[:, onset:][:, ::-1] * 1.7 + 3

    altered = toy_split(change=later)
    for model, name in ((forecaster, "forecast"), (classifier, "probability")):
        a, b = (model.predict(s.test)[name].sel(trial=trial).values for s in (split, altered))
        np.testing.assert_array_equal(a, b)
        other = rows["trial"].iloc[-1]
        assert not np.array_equal(*(model.predict(s.test)[name].sel(trial=other).values for s in (split, altered)))


def test_labels_and_responses_of_the_test_block_change_no_weight():
    def shuffle(traces, trials):
        test = trials["block"] == trials["block"].max()
        trials.loc[test, "orientation"] = np.random.default_rng(1).permutation(trials.loc[test, "orientation"])

    plain, shuffled = toy_split(), toy_split(change=shuffle)
    assert not plain.test.table["condition"].equals(shuffled.test.table["condition"])
    a, b = (pretrain(s, epochs=1, **TINY) for s in (plain, shuffled))
    assert same(weights(a), weights(b))
    for fit in (fit_forecaster, fit_classifier):
        assert same(weights(fit(a, plain, epochs=1, **FIT)), weights(fit(b, shuffled, epochs=1, **FIT)))


def test_what_was_trained_on_is_refused_in_evaluation(trained):
    split, autoencoder, forecaster, classifier = trained
    for model in (autoencoder, forecaster, classifier):
        model.check_unseen(split.test)
        for part in (split.train, split.validation):
            with pytest.raises(LeakageError, match="saw"):
                model.check_unseen(part)
    # a forecaster fitted on other trials still carries what its auto-encoder saw
    other = split_blocks(split.train.source and cut(toy_session()), test=0)
    fitted = fit_forecaster(autoencoder, other, epochs=1, **FIT)
    with pytest.raises(LeakageError):
        fitted.check_unseen(other.test)


def test_unknown_neuron_condition_and_rate_are_named(trained):
    _, _, forecaster, _ = trained
    with pytest.raises(UnknownKeyError, match="neuron.*mouse/two"):
        forecaster.predict(cut(toy_session(session="two")))
    with pytest.raises(UnknownKeyError, match="condition.*orientation=180"):
        forecaster.predict(cut(toy_session(n_conditions=5)))
    with pytest.raises(QfError, match="rate_hz.*expected 10 Hz"):
        forecaster.predict(cut(toy_session(rate_hz=12.0)))
    with pytest.raises(QfError, match="baseline_s"):
        forecaster.predict(cut(toy_session(), baseline_s=2.0))


def test_new_neurons_learn_without_changing_the_known_ones(trained):
    split, autoencoder, _, _ = trained
    forecaster = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    forecaster.decode, forecaster.temperature = "argmax", 0.7  # the user's own choice stays, too
    before = forecaster.predict(split.test)
    second = toy_split(seed=5, session="two")
    with pytest.raises(QfError, match="lr"):
        forecaster.add_neurons(second, lr=-1, **FIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.utils.clip_grad_norm_", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forecaster.add_neurons(second, epochs=1, **FIT)
    with pytest.raises(UnknownKeyError):
        forecaster.predict(second.test)  # as if it had not been tried
    assert not forecaster.module.training and not any(p.requires_grad for p in forecaster.module.parameters())
    added = forecaster.add_neurons(second, epochs=2, lr=1e-2, **FIT)
    assert added == second.train.neurons
    np.testing.assert_allclose(forecaster.predict(split.test)["forecast"], before["forecast"], atol=1e-6)
    assert np.isfinite(forecaster.predict(second.test)["forecast"]).all()
    with pytest.raises(LeakageError):
        forecaster.check_unseen(second.train)
    assert forecaster.add_neurons(second) == []
    assert (forecaster.decode, forecaster.temperature) == ("argmax", 0.7)
    known = forecaster.module.neurons.table.weight[:6].clone()
    forecaster.fit(split, epochs=1, lr=1e-2, **FIT)  # later training reaches all tokens again
    assert not torch.equal(known, forecaster.module.neurons.table.weight[:6])
    classifier = fit_classifier(autoencoder, split, epochs=1, **FIT)
    other = split_blocks(cut(toy_session(5, session="two"), active_gain=0.4))
    with pytest.raises(QfError, match="active_gain: expected 0.1"):
        classifier.add_neurons(other, epochs=1, **FIT)
    threshold = classifier.threshold
    assert classifier.add_neurons(second, epochs=1, **FIT) and classifier.threshold == threshold


def test_prompt_tuning_leaves_the_encoder_alone(trained):
    split, autoencoder, _, _ = trained
    for fit in (fit_forecaster, fit_classifier):
        prompt, fine = (fit(autoencoder, split, epochs=1, tuning=t, **FIT) for t in ("prompt", "fine"))
        pretrained = autoencoder.module.encoder.state_dict()
        assert same(pretrained, prompt.module.encoder.state_dict())
        assert not same(pretrained, fine.module.encoder.state_dict())
        assert not torch.equal(prompt.module.neurons.table.weight, fine.module.neurons.table.weight)


def test_decodings_and_samples(trained):
    split, _, forecaster, _ = trained
    kept = forecaster.decode
    out = {}
    for how in ("argmax", "soft", "sample"):
        forecaster.decode = how
        out[how] = forecaster.predict(split.test)["forecast"]
        assert out[how].dims == ("trial", "neuron", "time") and out[how].sizes["time"] == 20
        assert out[how].identical(forecaster.predict(split.test)["forecast"])  # drawing is seeded
    forecaster.decode = "median"
    with pytest.raises(QfError, match="found 'median'"):
        forecaster.predict(split.test)
    forecaster.decode = kept
    assert not out["argmax"].equals(out["soft"])
    samples = forecaster.sample(split.test, n_samples=200, seed=1)["samples"]
    error = abs(samples.mean("sample") - out["sample"]).mean() / samples.std("sample").mean()
    assert float(error) < 0.3  # 32 draws against 200: about 0.19 of a standard deviation


def test_samples_hold_the_noise_that_codes_leave_out(trained):
    split, autoencoder, forecaster, _ = trained
    ds = autoencoder.codes(split.validation)
    n = autoencoder.config.n_baseline
    left = (ds["reconstruction"].values - split.validation.dataset()["dff"].values)[..., n:]
    wanted = np.sqrt(np.square(left).mean((0, 2)))
    np.testing.assert_allclose([forecaster.residual[k] for k in ds["neuron"].values], wanted, rtol=1e-3)
    noisy = forecaster.sample(split.test, n_samples=300)["samples"].var("sample").mean(("trial", "time")).values
    kept, forecaster.residual = forecaster.residual, {}
    plain = forecaster.sample(split.test, n_samples=300)["samples"].var("sample").mean(("trial", "time")).values
    forecaster.residual = kept
    np.testing.assert_allclose(noisy - plain, wanted**2, rtol=0.15)


@pytest.mark.parametrize("decode", ["soft", "argmax", "sample"])
def test_predictions_are_those_of_a_loop_over_single_observations(trained, decode):
    split, _, forecaster, _ = trained
    kept, forecaster.decode = forecaster.decode, decode
    whole = forecaster.predict(split.test)["forecast"]
    one = forecaster.predict(split.test.subset([4]))["forecast"]
    forecaster.decode = kept
    np.testing.assert_allclose(one.values[0], whole.values[4], atol=1e-5)


def test_zscored_and_several_sessions(tmp_path):
    sessions = [toy_session(seed=i, session=f"s{i}", signal="dff") for i in range(2)]
    split = split_blocks(cut(sessions, signal="zscore"))
    autoencoder = pretrain(split, epochs=1, **TINY)
    forecaster = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    out = forecaster.predict(split.test)
    assert out.sizes["neuron"] == 12 and out.sizes["trial"] == len(split.test)
    assert int(np.isfinite(out["forecast"]).all("time").sum()) == 6 * len(split.test)
    forecaster.save(tmp_path)
    fresh = cut(sessions, signal="zscore")  # without z-scores of its own: the model's are used
    again = load(tmp_path).predict(fresh.subset(fresh.table["block"].to_numpy() == 2))
    np.testing.assert_allclose(again["forecast"], out["forecast"], atol=1e-5)


def test_missing_values_are_left_out_and_never_spread():
    def hole(traces, trials):
        onset = int(trials["onset_frame"].iloc[0])
        traces[2, onset - 5 : onset + 3] = np.nan

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for said in ("left out: 2 of", ".* is not below that of the mean"):  # aloud; anything else would be a surprise
            warnings.filterwarnings("ignore", message=said)
        split = toy_split(change=hole)
        autoencoder = pretrain(split, epochs=1, **TINY)
        forecaster = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    assert all(torch.isfinite(v).all() for v in weights(forecaster).values() if v.is_floating_point())
    out = forecaster.predict(split.train)["forecast"]
    assert not np.isfinite(out.values[0, 2]).any() and np.isfinite(out.values[0, 3]).all()


def test_category_tokens_take_conditions_never_seen():
    split = toy_split()
    autoencoder = pretrain(split, epochs=1, stim_token="category", **TINY)
    forecaster = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    assert forecaster.stimuli == ["drifting_gratings"]
    assert np.isfinite(forecaster.predict(cut(toy_session(n_conditions=6)))["forecast"]).all()
