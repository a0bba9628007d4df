"""Runs that were interrupted end at the same weights; checkpoints and saved models that do not fit or are damaged are named."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from safetensors.torch import load_file
from small_training import FIT, TINY, same, toy_split, weights

from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.estimators.notes import read_note
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import Autoencoder, pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import load
from qf_toolkit.estimators.saving import write_model
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught


@pytest.fixture(scope="module")
def trained():
    split = toy_split()
    autoencoder = pretrain(split, epochs=3, **TINY)
    return split, autoencoder, fit_forecaster(autoencoder, split, epochs=3, **FIT), fit_classifier(autoencoder, split, epochs=3, **FIT)


@pytest.mark.parametrize("balance", ["weight", "sample"])
def test_a_resumed_run_ends_at_the_same_weights(tmp_path, balance):
    split = toy_split()
    whole = pretrain(split, epochs=4, balance=balance, dropout=0.1, **TINY)
    stopped = tmp_path / "run"

    class Stop(Exception):
        pass

    from qf_toolkit.training import loop

    real, count = loop.save_checkpoint, []

    def save_then_stop(*args):
        real(*args)
        count.append(1)
        if len(count) == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_then_stop)
        with pytest.raises(Stop):
            pretrain(split, epochs=4, balance=balance, dropout=0.1, checkpoint=stopped, **TINY)
    torch.rand(100)  # what the caller does in between must not matter
    resumed = pretrain(split, epochs=4, balance=balance, dropout=0.1, checkpoint=stopped, **TINY)
    assert len(count) == 2
    assert same(weights(whole), weights(resumed))
    assert whole.history == resumed.history


SCRIPT = """
import sys, torch
sys.path[:0] = {path!r}
torch.set_num_threads(1)
from small_training import TINY, toy_split
from qf_toolkit.estimators.quantformer.pretrain import pretrain
pretrain(toy_split(), epochs=30, checkpoint=sys.argv[1], **TINY).save(sys.argv[1] + "/model")
"""


@pytest.mark.parametrize("fit", [fit_forecaster, fit_classifier])
@pytest.mark.parametrize("tuning", ["fine", "prompt"])
@pytest.mark.parametrize("more", [False, True])
def test_a_resumed_fit_ends_at_the_same_weights(trained, tmp_path, fit, tuning, more):
    split, autoencoder, *_ = trained
    extra = {"expectation_weight": 2.0} if fit is fit_forecaster else {"gain_weight": 2.0}
    how = {"tuning": tuning, **({"hide": 0.7, "dropout": 0.1, "token_speed": 5.0, **extra} if more else {}), **FIT}
    whole = fit(autoencoder, split, epochs=3, **how)
    from qf_toolkit.training import loop

    real = loop.save_checkpoint

    def stop(*args):
        real(*args)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(autoencoder, split, epochs=3, checkpoint=tmp_path, **how)
    resumed = fit(autoencoder, split, epochs=3, checkpoint=tmp_path, **how)
    assert same(weights(whole), weights(resumed)) and whole.history == resumed.history


def test_a_checkpoint_belongs_to_its_pretrained_model_labels_and_neurons(trained, tmp_path):
    split, autoencoder, *_ = trained
    fit_classifier(autoencoder, split, epochs=1, checkpoint=tmp_path / "c", **FIT)
    other = pretrain(split, epochs=1, seed=7, **TINY)
    with pytest.raises(QfError, match="differing: .*pretrained"):
        fit_classifier(other, split, epochs=1, checkpoint=tmp_path / "c", **FIT)
    labels = split_blocks(cut(toy_session(0), score_s=1.0, active_gain=0.4))
    with pytest.raises(QfError, match="differing: .*window"):
        fit_classifier(autoencoder, labels, epochs=1, checkpoint=tmp_path / "c", **FIT)
    parts = [split_blocks(cut(toy_session(0), neurons=names)) for names in (["mouse/one/0"], ["mouse/one/1"])]
    pretrain(parts[0], epochs=1, checkpoint=tmp_path / "p", **TINY)
    with pytest.raises(QfError, match="differing: train, validation"):
        pretrain(parts[1], epochs=1, checkpoint=tmp_path / "p", **TINY)


def test_killed_with_kill_9_and_started_again(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(path=[os.path.dirname(__file__)]))
    run = [sys.executable, str(script), str(tmp_path / "a")]
    process = subprocess.Popen(run)
    checkpoint = tmp_path / "a" / "checkpoint.previous.safetensors"
    for _ in range(1200):
        if checkpoint.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (tmp_path / "a" / "model").exists(), "the run ended before it could be killed: the test shows nothing"
    subprocess.run(run, check=True)
    subprocess.run([*run[:2], str(tmp_path / "b")], check=True)
    a, b = (Autoencoder.load(tmp_path / k / "model") for k in "ab")
    assert same(weights(a), weights(b))


def test_a_truncated_checkpoint_is_named_and_the_previous_one_used(tmp_path):
    split = toy_split()
    whole = pretrain(split, epochs=3, checkpoint=tmp_path, **TINY)
    file, previous = tmp_path / "checkpoint.safetensors", tmp_path / "checkpoint.previous.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"checkpoint\.safetensors.*previous"):
        again = pretrain(split, epochs=3, checkpoint=tmp_path, **TINY)
    assert same(weights(whole), weights(again))
    for f in (file, previous):
        f.write_bytes(f.read_bytes()[:500])
    with pytest.warns(UserWarning), pytest.raises(DamagedFileError, match=r"checkpoint\.previous\.safetensors.*Delete it"):
        pretrain(split, epochs=3, checkpoint=tmp_path, **TINY)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    split = toy_split()
    pretrain(split, epochs=1, checkpoint=tmp_path, **TINY)
    with pytest.raises(QfError, match="other settings.*model"):
        pretrain(split, epochs=1, checkpoint=tmp_path, **{**TINY, "codes": 4})
    pretrain(split, epochs=1, checkpoint=tmp_path, resume=False, **{**TINY, "codes": 4})


def test_saved_models_come_back_the_same(trained, tmp_path):
    split, autoencoder, forecaster, classifier = trained
    for i, model in enumerate((autoencoder, forecaster, classifier)):
        model.save(tmp_path / str(i))
        assert sorted(p.name for p in (tmp_path / str(i)).iterdir()) == ["config.json", "model.safetensors"]
    a, f, c = (load(tmp_path / str(i)) for i in range(3))
    # the weights are the same bits; where tensors lie in memory may move a sum's last bit
    assert same(weights(f), weights(forecaster)) and same(weights(c), weights(classifier))
    np.testing.assert_allclose(f.predict(split.test)["forecast"], forecaster.predict(split.test)["forecast"], atol=1e-6)
    np.testing.assert_allclose(c.predict(split.test)["probability"], classifier.predict(split.test)["probability"], atol=1e-6)
    assert c.threshold == classifier.threshold
    x = torch.from_numpy(split.test.dataset()["dff"].values[:, 0])
    assert torch.equal(a.module.decode(a.module.codes(x)), a.module(x)[0])
    assert a.codes(split.test)["code"].identical(autoencoder.codes(split.test)["code"])


def test_damaged_saved_models_are_named(trained, tmp_path):
    trained[1].save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "auto')
    with pytest.raises(DamagedFileError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(QfError, match="no config.json"):
        load(tmp_path / "nothing")


def test_models_saved_with_one_zscore_for_all_sessions_still_use_it(tmp_path):
    sessions = [toy_session(seed=i, session=f"s{i}", matched=True) for i in range(2)]
    split = split_blocks(cut(sessions, signal="zscore"))
    autoencoder = pretrain(split, epochs=1, **TINY)
    fit_forecaster(autoencoder, split, epochs=1, **FIT).save(tmp_path)
    file = tmp_path / "config.json"
    note = json.loads(file.read_text())
    flat = note["autoencoder"]["scaling"]["mouse/s1"]
    for saved in (flat, {"mouse/s0": flat, "mouse/s1": flat}):
        file.write_text(json.dumps({**note, "autoencoder": {**note["autoencoder"], "scaling": saved}}))
        model = load(tmp_path, "cpu")
        for part in model.prepare(split.test).by_session():
            want = np.array([flat[n] for n in part.neurons], np.float32)
            np.testing.assert_array_equal(np.array(part.scale_of(part.sessions[0])).T, want)
    # saved again, and with a session of new neurons
    file.write_text(json.dumps({**note, "autoencoder": {**note["autoencoder"], "scaling": flat}}))
    model = load(tmp_path, "cpu")
    second = split_blocks(cut(toy_session(5, session="two"), signal="zscore"))
    assert model.add_neurons(second, epochs=1, **FIT) == second.train.neurons
    model.save(tmp_path / "again")
    again = load(tmp_path / "again", "cpu").autoencoder
    np.testing.assert_array_equal(again.prepare(split.test).scale_of("mouse/s0"), np.array([flat[n] for n in split.test.neurons], np.float32).T)
    np.testing.assert_array_equal(again.prepare(second.test).scale_of("mouse/two"), second.test.scale_of("mouse/two"))


def test_saved_config_is_plain_json(trained, tmp_path):
    trained[2].save(tmp_path)
    note = json.loads((tmp_path / "config.json").read_text())
    assert note["kind"] == "forecaster" and note["seen"]["mouse/one"]["intervals"]


def test_tokens_know_where_they_started(trained, tmp_path):
    split, autoencoder, *_ = trained
    model = fit_forecaster(autoencoder, split, epochs=1, seed=3, **FIT)
    table, start = (model.module.neurons.table.weight.clone(), model.module.neurons.start.clone())
    assert 0 < (table - start).abs().max() < 0.5 and 0.8 < start.std() < 1.2
    other = fit_forecaster(autoencoder, split, epochs=2, seed=3, **FIT)
    assert torch.equal(other.module.neurons.start, start) and not torch.equal(other.module.neurons.table.weight, table)
    model.add_neurons(toy_split(seed=5, session="two"), epochs=1, lr=1e-2, **FIT)
    assert torch.equal(model.module.neurons.start[:6], start) and (model.module.neurons.table.weight[:6] == table).all()
    assert (model.module.neurons.start[6:] != model.module.neurons.table.weight[6:]).any()
    model.save(tmp_path / "m")
    assert torch.equal(load(tmp_path / "m", device="cpu").module.neurons.start, model.module.neurons.start)


def test_models_saved_before_tokens_kept_their_start_still_load(trained, tmp_path):
    split, _, forecaster, _ = trained
    forecaster.save(tmp_path / "m")
    config, tensors = read_note(tmp_path / "m"), load_file(tmp_path / "m" / "model.safetensors")
    old = {k: v for k, v in tensors.items() if not k.endswith(".start")}
    note = {k: v for k, v in config.items() if k not in ("format", "kind", "weights", "torch", "seed")}
    write_model(tmp_path / "old", config["kind"], note, old)
    again = load(tmp_path / "old", device="cpu")
    assert again.seed is None and again.module.neurons.start.isnan().all()
    np.testing.assert_array_equal(again.predict(split.test)["forecast"], load(tmp_path / "m").predict(split.test)["forecast"])
