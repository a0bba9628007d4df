"""Protocols of the paper: what is held out of pre-training is fitted and tested on its own blocks; runs per subject and stimulus."""

import json

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from small_store import store_of
from small_training import FIT, TINY, same, weights

import qf_toolkit as qf
from qf_toolkit.errors import LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.quantformer.variants import fit_variant, pretrain_variant
from qf_toolkit.evaluation.table import evaluate, evaluate_classifier
from qf_toolkit.recordings.splits import hold_out, leave_one_out, split_blocks, split_unseen
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
BOTH = ("drifting_gratings", "natural_scenes")
SESSIONS = [toy_session(i, subject=name, stimuli=BOTH, n_neurons=3 + i) for i, name in enumerate(("mouse", "rat", "vole"))]


def frames(trials):
    return {(s, f) for s in trials.sessions for start, stop in trials.intervals(s) for f in range(start, stop)}


def test_the_old_name_still_works():
    assert qf.leave_one_out is leave_one_out is split_unseen is qf.split_unseen
    with pytest.raises(QfError, match="exactly one of the two"):
        leave_one_out(cut(SESSIONS))


@pytest.mark.parametrize("what", [{"subject": "rat"}, {"stimulus": "natural_scenes"}])
@pytest.mark.parametrize("window", [{"baseline_s": 3, "response_s": 2}, {"baseline_s": 1, "response_s": 1}])
def test_held_out_shares_no_frame_with_the_rest(what, window):
    trials = cut(SESSIONS, **window)
    if what.get("stimulus") and window["baseline_s"] == 3:  # stimuli take turns every 3 s: a window of 5 s always meets one of the other
        trials = cut([toy_session(i, subject=n, stimuli=BOTH, spacing_s=6.0) for i, n in enumerate(("mouse", "rat"))], **window)
    rest, held = hold_out(trials, **what)
    (column, value), table = next(iter(what.items())), trials.table
    assert len(held) == (table[column] == value).sum() and set(held.table[column]) == {value} and value not in set(rest.table[column])
    assert not frames(rest) & frames(held)
    others = trials.subset((table[column] != value).to_numpy())
    kept = {(s, int(f)) for s, f in zip(rest.table["session"], rest.table["onset_frame"], strict=True)}
    taken = frames(held)
    for s, onset in zip(others.table["session"], others.table["onset_frame"], strict=True):
        n_baseline, n_response, _ = trials.window.frames(10.0)
        clear = not any((s, f) in taken for f in range(onset - n_baseline, onset + n_response))
        assert ((s, int(onset)) in kept) == clear  # nothing else is dropped


def test_holding_out_says_what_is_wrong():
    trials = cut(SESSIONS, baseline_s=1, response_s=1)
    with pytest.raises(QfError, match="hold_out: expected either"):
        hold_out(trials, subject="rat", stimulus="natural_scenes")
    with pytest.raises(UnknownKeyError, match="did you mean rat"):
        hold_out(trials, subject="rap")
    with pytest.raises(QfError, match="nothing|no trial is left"):
        hold_out(cut(SESSIONS[:1]), subject="mouse")
    twins = [s.assign_attrs(mouse="the same") for s in SESSIONS]
    with pytest.warns(UserWarning, match="mouse, vole is of the same mouse as rat"):
        hold_out(cut(twins), subject="rat")


@pytest.mark.parametrize("signal", ["dff", "zscore"])
def test_a_subject_held_out_of_pretraining_is_fitted_on_its_own_blocks(signal):
    rest, held = hold_out(cut(SESSIONS, signal=signal), subject="rat")
    autoencoder = pretrain(split_blocks(rest), epochs=2, **TINY)
    autoencoder.check_unseen(held)
    before, scale = weights(autoencoder), dict(autoencoder.scale)
    assert not set(held.neurons) & set(scale)
    own = split_blocks(held)
    forecaster, classifier = (fit(autoencoder, own, epochs=2, **FIT) for fit in (fit_forecaster, fit_classifier))
    for model in (forecaster, classifier):
        assert model.neurons == held.neurons and len(model.token_table()[0]) == len(held.neurons)
        # new neurons are divided by their own spread over their own training part, as pre-training on it would have it
        wanted = pretrain(own, epochs=1, **TINY).scale
        assert all(model._scale[n] == pytest.approx(wanted[n]) for n in held.neurons)
    assert same(before, weights(autoencoder)) and autoencoder.scale == scale  # the pre-trained model is as it was
    moved = np.abs(np.subtract(*forecaster.token_table())).max(1)
    assert (moved > 0).all()
    assert np.isfinite(evaluate([forecaster], own, n_samples=0).loc["QuantFormer", "mse"])
    assert np.isfinite(evaluate_classifier([classifier], own).loc["QuantFormer", "brier"])


def test_a_leak_into_pretraining_is_told():
    trials = cut(SESSIONS, baseline_s=1, response_s=1)
    leaky = pretrain(split_blocks(trials), epochs=1, **TINY)
    for what in ({"subject": "rat"}, {"stimulus": "natural_scenes"}):
        rest, held = hold_out(trials, **what)
        with pytest.raises(LeakageError, match="auto-encoder saw"):
            leaky.check_unseen(held)
        pretrain(split_blocks(rest), epochs=1, **TINY).check_unseen(held)


def test_a_saved_model_of_a_held_out_subject_loads(tmp_path):
    rest, held = hold_out(cut(SESSIONS, signal="zscore"), subject="vole")
    own = split_blocks(held)
    model = fit_variant("quantised", pretrain_variant("quantised", split_blocks(rest), epochs=1, **TINY), own, epochs=1, **FIT)
    model.save(tmp_path)
    again = qf.load(tmp_path, device="cpu")
    np.testing.assert_allclose(again.predict(own.test)["forecast"], model.predict(own.test)["forecast"], rtol=1e-6, atol=1e-6)
    found, wanted = (json.dumps(m.autoencoder.scaling) for m in (again, model))
    assert found == wanted and set(held.neurons) <= set(again.autoencoder.scale)


def test_one_pretrained_model_serves_runs_of_each_subject_and_stimulus(tmp_path):
    store = store_of(tmp_path / "store", *SESSIONS[:2])
    window = {"baseline_s": 1, "response_s": 2, "f0_s": 1, "score_s": "paper"}
    autoencoder = pretrain(split_blocks(store.trials(**window)), epochs=1, **TINY)
    for subject in ("mouse", "rat"):
        for stimulus, scored_s in (("drifting_gratings", 2.0), ("natural_scenes", 0.5)):
            run = split_blocks(store.trials(subject=subject, stimulus=stimulus, **window))
            assert set(run.test.dataset()["n_score"].values) == {round(10 * scored_s)}  # Table A-1
            forecaster, classifier = (fit(autoencoder, run, epochs=1, **FIT) for fit in (fit_forecaster, fit_classifier))
            assert forecaster.neurons == run.train.neurons and all(n.startswith(subject) for n in forecaster.neurons)
            assert forecaster._scale == {n: autoencoder.scale[n] for n in forecaster.neurons}  # no other divisors than in pre-training
            table = evaluate([forecaster], run, n_samples=0)
            assert table.attrs["n_observations"] == len(run.test) * len(run.test.neurons)
            assert np.isfinite(evaluate_classifier([classifier], run).loc["QuantFormer", "brier"])
