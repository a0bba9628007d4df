"""Options of the trainings: their ranges, from Python and the shell; what each does; and what a training says at its end."""

import json
import math
import time
import warnings

import numpy as np
import pytest
import torch
from helpers import refused, toy_session, untaught
from hypothesis import given
from hypothesis import strategies as st

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import LeakageError, QfError
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.options import PAPER, FitConfig
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import load
from qf_toolkit.estimators.seen import join_seen, seen_frames, seen_trials
from qf_toolkit.models.batch import Batch
from qf_toolkit.models.config import QuantFormerConfig
from qf_toolkit.models.options import check_options
from qf_toolkit.models.quantformer import QuantFormer
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.training import loop
from qf_toolkit.training.bank import Bank
from qf_toolkit.training.options import LoopConfig

TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False, "device": "cpu"}
FIT = {"batch_size": 64, "progress": False}
FITS = pytest.mark.parametrize("fit", [fit_forecaster, fit_classifier])
pytestmark = untaught


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(0)))


@pytest.fixture(scope="module")
def autoencoder(split):
    return pretrain(split, epochs=3, **TINY)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "store"
    qf.Store(path, create=True).add(toy_session(0))
    return path


def same(a, b):
    a, b = (m.module.state_dict() for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---------------------------------------------------------------- ranges

NAN, INF = float("nan"), float("inf")
WRONG = {
    LoopConfig: {
        "epochs": (0, -1, 1.5, True, "3", None, 99999999999999999999), "steps": (-1, 10**20, False), "batch_size": (0, 2**70), "batch_trials": (-1,),
        "lr": (0, -1, 1e300, NAN, INF, "x", True), "token_speed": (0, 1e300, NAN), "clip": (-1, NAN, INF), "patience": (-1, 0.5),
        "seed": (-1, 2**32, 2**80, 0.5, "a"), "schedule": ("linear", 1, None), "weight_decay": (-1, NAN), "bf16": (1, "yes"),
    },
    QuantFormerConfig: {
        "codes": (1, 10**11, 1e11), "width": (0, 2**40, 8.0), "layers": (0, 2**40), "heads": (0, 2**40, 5), "patch_frames": (0, 2**40, 100),
        "mask_ratio": (0, 1, NAN), "dropout": (1, -0.1, NAN), "alpha": (INF, -1), "replace_below": (0.5, NAN, -1), "norm": ("batch",),
        "rate_hz": (0, NAN, INF), "mean_weight": (1,), "beta_most": (0, NAN), "stim_token": ("each",),
    },
    FitConfig: {
        "hide": (-0.1, 1.1, NAN), "dropout": (1, NAN), "expectation_weight": (-1, NAN, INF), "gain_weight": (-1, NAN, 1e300), "tuning": ("new", "all"),
        "decode": ("mean",), "stim_token": ("each",),
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "value"), [(k, n, v) for k, options in WRONG.items() for n, values in options.items() for v in values])
def test_a_value_out_of_range_is_named_with_its_range(kind, name, value):
    with pytest.raises(QfError, match=rf"^{name}: expected .+, found ") as caught:
        kind(**{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("sizes", [{"width": 10**5}, {"width": 4096, "layers": 1000}, {"codes": 10**6, "width": 2048}])
def test_sizes_that_no_memory_holds(sizes):
    with pytest.raises(QfError, match="width: expected a model of at most 1e.09 weights, found about"):
        QuantFormerConfig(**sizes)


def test_numbers_of_numpy_are_taken_and_kept_plain():
    config = LoopConfig(epochs=np.int64(3), lr=np.float32(0.5), bf16=np.bool_(False))
    assert (type(config.epochs), type(config.lr), type(config.bf16)) == (int, float, bool)
    assert json.dumps(check_options(LoopConfig, {"epochs": np.int32(2), "other": 1})) == '{"epochs": 2}'


def test_weights_counted_by_the_config_are_those_of_the_model():
    for sizes in ({}, {"width": 32, "layers": 2, "codes": 100}):
        config = QuantFormerConfig(**sizes)
        assert config.weights == pytest.approx(sum(p.numel() for p in QuantFormer(config).parameters()), rel=0.02)


def test_python_refuses_before_any_work(split, autoencoder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.setattr(Bank, "__init__", never)
    before = time.monotonic()
    for bad in ({"lr": 1e300}, {"epochs": 10**20}, {"codes": 10**11}, {"seed": -1}, {"device": "meta"}, {"device": "tpu"}, {"device": 5.5},
                {"balance": "all"}, {"normalise": "z"}, {"clip": NAN}, {"steps": -3}, {"width": 2**40}, {"config": {"width": 8}}):  # fmt: skip
        with pytest.raises(QfError, match=rf"^{next(iter(bad))}: expected"):
            pretrain(split, **{"progress": False, **bad})
    for fit in (fit_forecaster, fit_classifier):
        for bad in ({"hide": NAN}, {"token_speed": 1e300}, {"dropout": "x"}, {"tuning": "new"}, {"stim_token": "each"}, {"lr": INF}, {"seed": 2**64}):
            with pytest.raises(QfError, match=rf"^{next(iter(bad))}: expected"):
                fit(autoencoder, split, progress=False, **bad)
    assert time.monotonic() - before < 10


def test_a_misspelt_option_is_named_with_what_there_is(split, autoencoder):
    model = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    calls = {
        "pretrain": lambda: pretrain(split, epoch=3), "fit_forecaster": lambda: fit_forecaster(autoencoder, split, epoch=3),
        "fit_classifier": lambda: fit_classifier(autoencoder, split, epoch=3),
    }  # fmt: skip
    for call, run in calls.items():
        with pytest.raises(QfError, match=rf"^epoch: no option of {call}; did you mean epochs.* Known: .*batch_size"):
            run()
    for run in (lambda: model.add_neurons(split, epoch=3), lambda: model.fit(split, epoch=3)):
        with pytest.raises(QfError, match=r"^epoch: no option of fit_forecaster; did you mean epochs"):
            run()
    with pytest.raises(QfError, match=r"^known: no option"):
        fit_forecaster(autoencoder, split, known=3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--lr", "1e300"), ("--lr", "nan"), ("--lr", "inf"), ("--codes", "100000000000"), ("--epochs", "99999999999999999999"), ("--device", "meta"),
        ("--device", "tpu"), ("--seed", "99999999999999999999"), ("--steps", "-1"), ("--clip", "nan"), ("--width", "99999999"), ("--batch", "0"), ("--batch-trials", "-2"),
        ("--layers", "99999999"), ("--dropout", "1"), ("--beta-most", "nan"),
    ],
)  # fmt: skip
def test_the_shell_names_option_range_and_value(store, tmp_path, capsys, option, value):
    before = time.monotonic()
    line = refused(capsys, "pretrain", store, "--out", tmp_path / "m", option, value)
    assert time.monotonic() - before < 10
    assert line.startswith(f"qf: {option}: expected") and "found" in line
    assert not (tmp_path / "m").exists()


def test_the_shell_refuses_to_fit_what_is_fitted(store, tmp_path, capsys, autoencoder, split):
    autoencoder.save(tmp_path / "base")
    fit_classifier(autoencoder, split, epochs=1, **FIT).save(tmp_path / "fitted")
    out = ["--out", tmp_path / "m"]
    assert "--pretrained: expected what `qf pretrain` saved, found a classifier" in refused(
        capsys, "fit", store, "--pretrained", tmp_path / "fitted", *out
    )
    fit = ["fit", store, "--pretrained", tmp_path / "base", *out]
    for option, value in (("--token-speed", "1e300"), ("--token-speed", "nan"), ("--hide", "nan"), ("--expectation-weight", "inf")):
        assert refused(capsys, *fit, option, value).startswith(f"qf: {option}: expected a number")
    assert "--decode: expected only with --task forecast" in refused(capsys, *fit, "--task", "activation", "--decode", "argmax")
    assert not (tmp_path / "m").exists()


def test_python_calls_of_another_kind(split, autoencoder, tmp_path):
    forecaster = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    trials = split.test
    calls = {
        "split": [lambda: pretrain(trials), lambda: pretrain(None), lambda: fit_forecaster(autoencoder, trials),
                  lambda: forecaster.fit(trials), lambda: forecaster.add_neurons(trials)],
        "autoencoder": [lambda: fit_forecaster(forecaster, split), lambda: fit_classifier("base", split), lambda: fit_classifier(None, split)],
        "trials": [lambda: forecaster.predict(split), lambda: forecaster.predict("x"), lambda: autoencoder.codes(split), lambda: autoencoder.codes(3),
                   lambda: forecaster.sample(split), lambda: autoencoder.code_usage("x")],
        "n_samples": [lambda n=n: forecaster.sample(trials, n_samples=n) for n in (0, -1, 10**9, 10**30, 1.5, "x", None, True)],
        "seed": [lambda: forecaster.sample(trials, 1, seed=-1), lambda: forecaster.sample(trials, 1, seed="x")],
        "folder": [lambda: load(123), lambda: load(None), lambda: autoencoder.save(None), lambda: autoencoder.save(3), lambda: load("a\0b"),
                   lambda: forecaster.save([])],
    }  # fmt: skip
    for name, tries in calls.items():
        for call in tries:
            with pytest.raises(QfError, match=rf"^{name}: expected"):
                call()
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(QfError, match="could not write"):
        autoencoder.save(file)
    with pytest.raises(QfError, match="expected a saved model"):
        load(file)
    assert file.read_text() == "mine"
    with pytest.raises(QfError, match=r"of which a draw takes \S+ MB, found 1000000000"):
        forecaster.sample(trials, 10**9)


# ---------------------------------------------------------------- what options do


def test_steps_beside_epochs_the_larger_counts(split, autoencoder):
    a_epoch = math.ceil(
        len(autoencoder.module.config and Bank(split.train, dict.fromkeys(split.train.neurons, 0), {"drifting_gratings": 0}, "cpu")) / 64
    )
    few, many = (pretrain(split, epochs=2, steps=n, **TINY) for n in (1, 4 * a_epoch + 1))
    assert len(few.history) == 2 and len(many.history) == 5
    assert same(few, pretrain(split, epochs=2, **TINY)) and same(many, pretrain(split, epochs=5, **TINY))
    for fit in (fit_forecaster, fit_classifier):
        assert len(fit(autoencoder, split, epochs=1, steps=3 * a_epoch, **FIT).history) == 3
    cosine = {**TINY, "schedule": "cosine"}
    assert same(pretrain(split, epochs=1, steps=4 * a_epoch, **cosine), pretrain(split, epochs=4, **cosine))


def test_steps_are_resumed_from_a_checkpoint(split, tmp_path):
    how = {"epochs": 1, "steps": 12, **TINY}
    whole, real = pretrain(split, **how), loop.save_checkpoint

    def stop(*args):
        real(*args)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(split, checkpoint=tmp_path, **how)
    again = pretrain(split, checkpoint=tmp_path, **how)
    assert same(whole, again) and whole.history == again.history and len(whole.history) > 1
    with pytest.raises(QfError, match="differing: loop"):
        pretrain(split, checkpoint=tmp_path, **{**how, "steps": 13})


@given(n_trials=st.integers(1, 30), n_neurons=st.integers(1, 5), size=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_batch_of_trials_holds_all_their_observations(n_trials, n_neurons, size, seed):
    torch.manual_seed(seed)
    trial = torch.arange(n_trials).repeat_interleave(n_neurons)
    order = torch.randperm(len(trial))
    drawn = loop.batches(order, LoopConfig(batch_trials=size), trial)
    assert torch.equal(torch.cat(drawn).sort().values, torch.arange(len(trial)))
    assert len(drawn) == math.ceil(n_trials / size)
    for batch in drawn:
        found, counts = trial[batch].unique(return_counts=True)
        assert len(found) <= size and (counts == n_neurons).all()
    assert all(len(trial[b].unique()) == size for b in drawn[:-1])
    assert [len(b) for b in loop.batches(order, LoopConfig(batch_size=4), trial)] == [len(b) for b in order.split(4)]


def test_batches_of_trials_and_clipping_change_what_is_learnt(split, autoencoder):
    plain = pretrain(split, epochs=1, **TINY)
    for options in ({"batch_trials": 4}, {"clip": 0}, {"clip": 0.01}, {"mean_weight": False}, {"beta_most": 1.0}, {"normalise": "none"}):
        assert not same(plain, pretrain(split, epochs=1, **options, **TINY)), options
    assert set(pretrain(split, epochs=1, normalise="none", **TINY).scale.values()) == {1.0}
    fitted = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    for options in ({"batch_trials": 4}, {"clip": 0.001}):
        assert not same(fitted, fit_forecaster(autoencoder, split, epochs=1, **options, **FIT)), options


def test_the_paper_s_setting_by_one_name(split, store, tmp_path):
    small = {k: v for k, v in TINY.items() if k != "batch_size"}
    base = pretrain(split, epochs=1, **PAPER["pretrain"], **small)
    forecaster = fit_forecaster(base, split, epochs=1, progress=False, **PAPER["forecaster"])
    classifier = fit_classifier(base, split, epochs=1, progress=False, **PAPER["classifier"])
    assert forecaster.decode == "argmax" and forecaster.stim_token == classifier.stim_token == "condition"
    assert (base.config.mean_weight, base.config.redraw_masks) == (False, False)
    sizes = ["--patch-frames", "8", "--width", "16", "--layers", "1", "--heads", "2", "--codes", "8", "--lr", "1e-3", "--epochs", "1", "--quiet"]
    steps = ["--batch-trials", "32", "--clip", "0", "--no-bf16"]
    paper = [*steps, "--no-mean-weight", "--beta-most", "1e9", "--no-redraw-masks"]
    assert main(["pretrain", str(store), "--out", str(tmp_path / "a"), "--device", "cpu", *sizes, *paper]) == 0
    assert same(load(tmp_path / "a", device="cpu"), base)
    fit = ["fit", str(store), "--pretrained", str(tmp_path / "a"), "--epochs", "1", "--quiet", "--device", "cpu", *steps, "--stim-token", "condition"]
    assert main([*fit, "--out", str(tmp_path / "f"), "--decode", "argmax"]) == 0
    assert main([*fit, "--out", str(tmp_path / "c"), "--task", "activation"]) == 0
    assert same(load(tmp_path / "f", device="cpu"), forecaster) and same(load(tmp_path / "c", device="cpu"), classifier)


def test_eq_2_as_in_the_paper():
    """Without the mean of the weights, and with masks that hide nothing, against a loop."""
    torch.manual_seed(0)
    small = {"rate_hz": 10.0, "n_baseline": 16, "n_response": 8, "patch_frames": 8, "width": 8, "layers": 1, "heads": 2, "codes": 4}
    model = QuantFormer(QuantFormerConfig(**small, mean_weight=False, redraw_masks=False)).eval()
    masks = model.draw_mask(2000, "cpu")
    assert 0.45 < float((~masks.any(1)).float().mean()) < 0.58  # 0.8 ** 3 = 0.512
    x, active = torch.randn(6, 24), torch.tensor([1.0, 0, 0, 1, 0, 0])
    zero = torch.zeros(6, 1, dtype=torch.long)
    batch = Batch(x[:, None], torch.ones(6, 1, 24, dtype=torch.bool), zero, zero[:, 0], zero[:, 0])
    torch.manual_seed(3)
    got = float(model.loss(batch, active, 4.0).detach())
    torch.manual_seed(3)
    mask = model.draw_mask(6, "cpu")
    error = (model(x, mask)[0].detach() - x).square().reshape(6, 3, 8)
    assert not mask.any(1).all()
    parts = [2 * error[i][mask[i]].mean().nan_to_num() + error[i][~mask[i]].mean().nan_to_num() for i in range(6)]
    assert got == pytest.approx(float(sum((1 + 4 * a) * p for a, p in zip(active, parts, strict=True)) / 6), rel=1e-5)


# ---------------------------------------------------------------- scores that are no numbers


@pytest.mark.parametrize("value", [NAN, INF])
@FITS
def test_a_validation_score_that_is_no_number_is_an_error(split, autoencoder, fit, value, monkeypatch):
    """Not the untrained weights without a word."""
    real = loop.run

    def run(module, draw, step, validate, *args, **kwargs):
        return real(module, draw, step, lambda: {**validate(), "score": value}, *args, **kwargs)

    for home in ("pretrain", "downstream"):
        monkeypatch.setattr(f"qf_toolkit.estimators.quantformer.{home}.run", run)
    for call in (lambda: pretrain(split, epochs=2, **TINY), lambda: fit(autoencoder, split, epochs=2, **FIT)):
        with pytest.raises(QfError, match=rf"the validation score is {value} in epoch 0\. Lower lr"):
            call()


# ---------------------------------------------------------------- what a score is worth


def by_hand(split, model):
    """Scores of the stimulus mean and the mean of a forecaster, from the labelled windows alone."""
    n, scale = model.autoencoder.config.n_baseline, {k: model.autoencoder.divisor(k) for k in model.neurons}
    parts = {name: getattr(split, name).dataset() for name in ("train", "validation")}
    y = {name: ds["dff"].values[..., n:] for name, ds in parts.items()}
    rms = np.sqrt(np.mean(np.square([scale[k] for k in parts["train"]["neuron"].values])))
    errors = {"stimulus_mean": [], "mean": []}
    for t, condition in enumerate(parts["validation"]["condition"].values):
        shown = parts["train"]["condition"].values == condition
        for i in range(y["train"].shape[1]):
            psth = y["train"][shown, i].mean(0) if shown.any() else y["train"][:, i].mean(0)
            for name, forecast in (("stimulus_mean", psth), ("mean", y["train"][:, i].mean())):
                errors[name].append(np.mean(np.square(y["validation"][t, i] - forecast)) / rms**2)
    return {name: np.mean(e) for name, e in errors.items()}


def test_a_forecaster_s_reference_against_the_windows(split, autoencoder):
    model = fit_forecaster(autoencoder, split, epochs=3, **FIT)
    best = min(model.history, key=lambda e: e["score"])
    assert model.reference["score"] == best["score"] and model.reference["epoch"] == best["epoch"] and model.reference["epochs"] == 3
    wanted = by_hand(split, model)
    assert {n: model.reference[n] for n in wanted} == pytest.approx(wanted, rel=1e-4)


def test_a_classifier_s_reference_against_the_labels(split, autoencoder):
    model = fit_classifier(autoencoder, split, epochs=1, **FIT)
    train, validation = (getattr(split, n).dataset() for n in ("train", "validation"))
    a, b = (ds["active"].values.astype(float) for ds in (train, validation))
    pooled = (a.sum() + 1) / (a.size + 2)
    of_neuron = (a.sum(0) + pooled) / (len(a) + 1)
    losses = {"stimulus_mean": [], "mean": []}
    for t, condition in enumerate(validation["condition"].values):
        shown = train["condition"].values == condition
        of_pair = (a[shown].sum(0) + of_neuron) / (shown.sum() + 1)
        for name, p in (("stimulus_mean", of_pair), ("mean", of_neuron)):
            losses[name].append(-(b[t] * np.log(p) + (1 - b[t]) * np.log(1 - p)))
    assert {n: model.reference[n] for n in losses} == pytest.approx({n: np.mean(v) for n, v in losses.items()}, rel=1e-4)


def test_pre_training_s_reference_is_eq_2_of_the_means(split):
    model = pretrain(split, epochs=2, **TINY)
    assert model.reference["score"] == min(e["score"] for e in model.history)
    x, y = (getattr(split, n).dataset() for n in ("train", "validation"))
    scale = np.array([model.divisor(k) for k in x["neuron"].values], np.float32)[:, None]
    train, valid = x["dff"].values / scale, y["dff"].values / scale
    mean = np.broadcast_to(train.mean((0, 2))[:, None], valid.shape[1:])
    stimulus = np.stack([train[x["condition"].values == c].mean(0) for c in y["condition"].values])
    beta = (x["active"].size - x["active"].values.sum()) / x["active"].values.sum()
    flat = torch.from_numpy(valid.reshape(-1, valid.shape[-1]))
    torch.manual_seed(0)
    mask = model.module.draw_mask(len(flat), "cpu")
    active = torch.from_numpy(y["active"].values.reshape(-1).astype(np.float32))
    for name, forecast in (("mean", np.broadcast_to(mean, valid.shape)), ("stimulus_mean", stimulus)):
        out = torch.from_numpy(np.ascontiguousarray(forecast, dtype=np.float32).reshape(flat.shape))
        wanted = model.module.reconstruction_loss(out, flat, torch.ones_like(flat, dtype=torch.bool), mask, active, float(beta))
        assert model.reference[name] == pytest.approx(float(wanted), rel=1e-4)


def test_a_neuron_never_shown_a_condition_takes_its_mean():
    """Of a stimulus that is shown once a condition, no validation trial has a stimulus mean of its own."""

    def unique(traces, trials):
        trials["orientation"] = np.arange(len(trials)) * 1.0

    odd = split_blocks(cut(toy_session(0, change=unique)))
    model = pretrain(odd, epochs=1, **TINY)
    assert np.isfinite(list(model.reference.values())).all()


def test_the_random_stream_of_the_caller_is_left_alone(split, autoencoder):
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    pretrain(split, epochs=1, steps=3, **TINY)
    fit_classifier(autoencoder, split, epochs=1, batch_trials=3, **FIT)
    assert torch.equal(torch.rand(3), wanted)


def test_what_a_training_says_at_its_end(split, store, tmp_path, capsys):
    model = pretrain(split, epochs=2, **{**TINY, "progress": True})
    r = model.reference
    line = f"pre-training: best epoch {r['epoch'] + 1} of 2, validation score {r['score']:.4g} (stimulus mean {r['stimulus_mean']:.4g}, mean {r['mean']:.4g})"
    assert line in capsys.readouterr().out
    pretrain(split, epochs=1, **TINY)
    assert capsys.readouterr().out == ""
    sizes = ["--patch-frames", "8", "--width", "16", "--layers", "1", "--heads", "2", "--codes", "8", "--epochs", "1"]
    for quiet in ([], ["--quiet"]):
        assert main(["pretrain", str(store), "--out", str(tmp_path / "m"), *sizes, *quiet]) == 0
        assert capsys.readouterr().out.count("best epoch 1 of 1, validation score") == 1
    model.save(tmp_path / "m")
    assert load(tmp_path / "m").reference == r


def test_a_model_no_better_than_the_mean_warns(split, autoencoder):
    with pytest.warns(UserWarning, match=r"pre-training: the validation score, .* is not below that of the mean, .* --steps"):
        assert pretrain(split, epochs=1, **{**TINY, "lr": 1e-9}).reference["score"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt = fit_classifier(autoencoder, split, epochs=1, steps=300, **{**FIT, "lr": 1e-2})
    assert learnt.reference["score"] < learnt.reference["mean"]


# ---------------------------------------------------------------- frames that were seen


def test_a_recording_renamed_to_another_seen_name_is_recognised():
    one, two = (toy_session(i, session=name) for i, name in enumerate(("one", "two")))
    split = split_blocks(cut([one, two]))
    seen = seen_frames(split.train, split.validation)
    renamed = split_blocks(cut(toy_session(0, session="two")), test=0)  # recording one, under the name of the other
    shifted = {"mouse/one": seen["mouse/one"], "mouse/two": {**seen["mouse/two"], "intervals": [[10**6, 10**6 + 1]]}}
    found = seen_trials(shifted, renamed.train)
    assert found["mouse/two"].any()
    autoencoder = pretrain(split, epochs=1, **TINY)
    autoencoder.seen = shifted
    with pytest.raises(LeakageError):
        autoencoder.check_unseen(renamed.train)


def test_another_recording_under_a_seen_name_is_not_refused():
    split = split_blocks(cut(toy_session(0)))
    seen = seen_frames(split.train, split.validation)
    assert seen_trials(seen, cut(toy_session(1))) == {}
    nameless = {k: {**e, "fingerprint": ""} for k, e in seen.items()}
    assert seen_trials(nameless, cut(toy_session(1)))["mouse/one"].any()  # nothing but the name is known


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "1", "2"]), st.integers(0, 90), st.integers(1, 20)), max_size=8))
def test_joining_what_was_seen_neither_loses_nor_mixes_frames(rows):
    maps = [{name: {"fingerprint": mark, "intervals": [[start, start + length]]}} for name, mark, start, length in rows]
    joined = join_seen(*maps)
    assert join_seen(joined) == joined and join_seen(joined, joined) == joined
    frames = {}
    for name, mark, start, length in rows:
        frames.setdefault((name, mark), set()).update(range(start, start + length))
    got = {(e.get("session", k), e["fingerprint"]): {f for a, b in e["intervals"] for f in range(a, b)} for k, e in joined.items()}
    assert got == frames
    for name in "ab":
        for mark in ("", "1", "2"):
            used = set().union(*(f for (n, m), f in frames.items() if (m == mark if m and mark else n == name)))
            hit = seen_trials(joined, FakeTrials(f"{name}", mark))
            expected = [bool(used & set(range(t, t + 5))) for t in range(0, 120, 5)]
            assert (hit[name].tolist() if name in hit else [False] * 24) == expected


class FakeTrials:
    """Windows of 5 frames, one after the other, of a recording of that name and fingerprint."""

    def __init__(self, session, mark):
        self.sessions, self.source, self.attrs = [session], self, {"fingerprint": mark}

    def header(self, session):
        return self

    def intervals(self, session):
        start = np.arange(0, 120, 5)
        return np.stack([start, start + 5], 1)
