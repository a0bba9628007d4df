"""The loop under the models: interrupted within an epoch they end at the same weights; options of the loop reach them; what must stay, stays."""

import pytest
import torch
from helpers import toy_session, untaught

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.training import loop

TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False}
FIT = {"batch_size": 64, "progress": False}
AVERAGED = {"optimiser": "adamw", "weight_decay": 0.1, "schedule": "cosine", "schedule_by": "step", "warmup": 0.2, "ema": 0.8, "validate_every": 3}
pytestmark = untaught


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(0)))


@pytest.fixture(scope="module")
def autoencoder(split):
    return pretrain(split, epochs=1, **TINY)


@pytest.fixture
def interrupted(monkeypatch):
    """Runs a training that raises after so many steps, then again without."""

    def run(train, stop, folder):
        real, left = loop._Training._step, [stop]

        def step(self, at):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(self, at)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop._Training, "_step", step)
            train(checkpoint=folder, checkpoint_s=1e-9)
        return train(checkpoint=folder)

    return run


def same(a, b):
    a, b = (m.module.state_dict() for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("options", [{}, AVERAGED], ids=["plain", "averaged"])
@pytest.mark.parametrize("kind", ["autoencoder", "sampled", "forecaster", "classifier"])
def test_a_model_interrupted_within_an_epoch_ends_at_the_same_weights(split, autoencoder, interrupted, tmp_path, kind, options):
    fits = {
        "autoencoder": lambda **how: pretrain(split, epochs=2, replace_every=2, dropout=0.1, **TINY, **options, **how),
        "sampled": lambda **how: pretrain(split, epochs=2, balance="sample", **{**TINY, "batch_size": 24}, **options, **how),
        "forecaster": lambda **how: fit_forecaster(autoencoder, split, epochs=2, hide=0.5, dropout=0.1, token_speed=4.0, **FIT, **options, **how),
        "classifier": lambda **how: fit_classifier(autoencoder, split, epochs=2, hide=0.5, tuning="prompt", gain_weight=1.0, **FIT, **options, **how),
    }
    whole = fits[kind]()
    for stop in (1, 4):
        again = interrupted(fits[kind], stop, tmp_path / str(stop))
        assert same(whole, again) and whole.history == again.history and whole.reference == again.reference


def test_options_of_the_loop_reach_every_fit(split, autoencoder):
    plain = [
        pretrain(split, epochs=1, **TINY),
        fit_forecaster(autoencoder, split, epochs=1, **FIT),
        fit_classifier(autoencoder, split, epochs=1, **FIT),
    ]
    for options in ({"ema": 0.5}, {"optimiser": "adamw", "weight_decay": 0.1}, {"schedule_by": "step", "warmup": 0.5}, {"steps_most": 2}):
        other = [
            pretrain(split, epochs=1, **options, **TINY), fit_forecaster(autoencoder, split, epochs=1, **options, **FIT),
            fit_classifier(autoencoder, split, epochs=1, **options, **FIT),
        ]  # fmt: skip
        assert not any(same(a, b) for a, b in zip(plain, other, strict=True)), options
    for call in (lambda: pretrain(split, warmup=0.1, **TINY), lambda: fit_forecaster(autoencoder, split, warmup=0.1, **FIT)):
        with pytest.raises(QfError, match="^warmup: expected 0 where schedule_by is 'epoch'"):
            call()
    for call in (lambda: pretrain(split, checkpoint_s=-1, **TINY), lambda: fit_forecaster(autoencoder, split, checkpoint_s=-1, **FIT)):
        with pytest.raises(QfError, match="^checkpoint_s: expected a number from 0"):
            call()


def test_the_best_epoch_of_a_training_validated_by_steps(split):
    model = pretrain(split, epochs=2, validate_every=2, **TINY)
    best = min(model.history, key=lambda entry: entry["score"])
    assert len(model.history) > 2 and model.reference["epochs"] == 2
    assert (model.reference["epoch"], model.reference["score"]) == (best["epoch"], best["score"])


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, AVERAGED])
def test_weight_decay_and_averages_leave_the_tokens_of_known_neurons(split, autoencoder, options):
    model = fit_forecaster(autoencoder, split, epochs=1, **FIT)
    known = model.module.neurons.table.weight.detach().clone()
    model.add_neurons(split_blocks(cut(toy_session(5, session="two"))), epochs=1, lr=1e-2, **options, **FIT)
    table = model.module.neurons.table.weight
    assert torch.equal(table[: len(known)], known) and (table[len(known) :] != model.module.neurons.start[len(known) :]).any()
