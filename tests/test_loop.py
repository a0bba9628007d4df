"""The training loop: interrupted anywhere it ends at the same weights; groups, schedules, averaged weights, hooks, validation by steps."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.training import loop
from qf_toolkit.training.groups import Group, make_optimiser, undecayed
from qf_toolkit.training.hooks import Hook
from qf_toolkit.training.options import LoopConfig, RunConfig
from qf_toolkit.training.schedule import factor, lengths

N = 22  # observations; with batches of 4, six steps an epoch, the last of 2


@pytest.fixture(autouse=True)
def without_a_disk(monkeypatch):
    """Some hundred checkpoints, none of which has to outlive a power cut."""
    monkeypatch.setattr("qf_toolkit._files.os.fsync", lambda fd: None)


class Toy(nn.Module):
    """A module with an embedding, a norm, dropout, a buffer and a weight that no step uses."""

    def __init__(self):
        super().__init__()
        self.table, self.layer, self.norm = nn.Embedding(5, 6), nn.Linear(6, 1), nn.LayerNorm(6)
        self.unused = nn.Parameter(torch.ones(2))
        self.drop, self.temperature = nn.Dropout(0.3), 1.0
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, ids):
        self.count += self.training
        return self.layer(self.drop(self.norm(self.table(ids)))).squeeze(-1) * self.temperature


class Noise(Hook):
    """Draws at random wherever it is called, remembers a sum of it, and sets a temperature that is in no weight."""

    def __init__(self):
        self.sum = torch.zeros(())

    def _draw(self, now):
        self.sum = self.sum + torch.rand(())
        with torch.no_grad():
            now.module.layer.bias += 0.01 * torch.rand(1)

    def before_epoch(self, now):
        self._draw(now)
        now.module.temperature = 0.9**now.epoch

    start = after_step = after_epoch = lambda self, now: self._draw(now)

    def state(self):
        return {"sum": self.sum}

    def restore(self, now, state):
        self.sum = state["sum"]
        now.module.temperature = 0.9**now.epoch


class Stop(Exception):
    """Stands for whatever ends a process."""


def train(folder=None, stop=None, where="step", checkpoint_s=1e-9, hooks=(), groups=None, step=None, **options):
    """A training of `Toy`: (module, history); `stop` names the call of `where` that raises Stop, from 0."""
    torch.manual_seed(0)
    module, ids, wanted = Toy(), torch.arange(N) % 5, torch.linspace(-1, 1, N)
    calls = {"step": 0, "validate": 0}

    def counted(name):
        calls[name] += 1
        if name == where and calls[name] - 1 == stop:
            raise Stop

    def of(at):
        counted("step")
        return (module(ids[at]) - wanted[at]).square().mean()

    def validate():
        counted("validate")
        torch.manual_seed(7)  # as validations do that draw: it must not reach the training
        return {"score": float((module(ids) - wanted).square().mean() + 0.01 * torch.rand(()))}

    config = LoopConfig(**{"epochs": 2, "batch_size": 4, "lr": 0.05, **options})
    history = loop.run(
        module, lambda: loop.batches(torch.randperm(N), config, ids), step or of, validate, config, settings={"model": "toy"},
        groups=groups(module) if groups else (), hooks=[h() for h in hooks], checkpoint=folder,
        run_config=RunConfig(checkpoint_s=checkpoint_s, progress=False),
    )  # fmt: skip
    return module, history


def same(a, b):
    a, b = (m.state_dict() for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def grouped(module):
    return [undecayed(module), Group([module.layer.weight], speed=3.0)]


VARIANTS = {
    "plain": {},
    "everything": {"optimiser": "adamw", "weight_decay": 0.1, "schedule": "cosine", "schedule_by": "step", "warmup": 0.3, "ema": 0.9,
                   "lr_floor": 1e-3, "validate_every": 4, "groups": grouped, "hooks": [Noise]},
    "cut short": {"epochs": 1, "steps": 15, "steps_most": 15, "validate_every": 7, "schedule": "cosine", "hooks": [Noise]},
    "patience": {"epochs": 9, "validate_every": 2, "patience": 2, "ema": 0.5, "lr": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("where", "checkpoint_s"), [("step", 1e-9), ("step", 0), ("validate", 1e-9)])
def test_interrupted_anywhere_it_ends_at_the_same_weights(tmp_path, name, where, checkpoint_s):
    how, stop = VARIANTS[name], 0
    whole, history = train(**how)
    while True:
        folder = tmp_path / str(stop)
        try:
            train(folder, stop, where, checkpoint_s, **how)
            break
        except Stop:
            torch.rand(3)  # what the caller does in between does not matter
        again, found = train(folder, checkpoint_s=checkpoint_s, **how)
        assert same(whole, again) and found == history, stop
        stop += 1
    assert stop >= {"step": 8, "validate": 2}[where]


@pytest.mark.parametrize("after", [False, True])
def test_killed_around_each_checkpoint_again_and_again(tmp_path, monkeypatch, after):
    """Before a checkpoint is written, or after: each time one more is reached."""
    how, real = VARIANTS["everything"], loop.save_checkpoint
    whole, history = train(**how)
    stop = 0
    while True:
        calls = []

        def killed(*args, calls=calls, stop=stop):
            if after:
                real(*args)
            if len(calls) == (0 if after else min(stop, 1)):
                raise Stop
            if not after:
                real(*args)
            calls.append(1)

        monkeypatch.setattr(loop, "save_checkpoint", killed)
        try:
            again, found = train(tmp_path, **how)
            break
        except Stop:
            stop += 1
            assert stop < 60
    assert stop >= 14
    assert same(whole, again) and found == history


def test_a_step_after_a_checkpoint_is_not_taken_twice(tmp_path):
    taken = []
    with pytest.raises(Stop):
        train(tmp_path, stop=9)
    module, _ = train(tmp_path)
    assert int(module.count) <= 12
    train(tmp_path, step=lambda at: taken.append(at))  # the training is over
    assert not taken


def test_between_checkpoints_by_time_steps_are_free_of_them(tmp_path, monkeypatch):
    saved, now = [], [0.0]
    real = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: (real(*args), saved.append((args[5].epoch, args[5].at))))
    monkeypatch.setattr(loop.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1.0) or now[0])
    train(tmp_path, checkpoint_s=4)
    within = [s for s in saved if s[1]]
    assert [s for s in saved if not s[1]] == [(1, 0), (2, 0)] and 2 <= len(within) < 12
    saved.clear()
    train(tmp_path / "other", checkpoint_s=0)
    assert saved == [(1, 0), (2, 0)]


def test_how_a_training_runs_decides_nothing(tmp_path):
    whole, _ = train()
    with pytest.raises(Stop):
        train(tmp_path, stop=8, checkpoint_s=1e-9)
    again, _ = train(tmp_path, checkpoint_s=1000.0)
    assert same(whole, again)
    assert RunConfig(device=torch.device("cpu")).device == "cpu"
    with pytest.raises(QfError, match="^device: expected auto"):
        RunConfig(device="tpu")
    with pytest.raises(QfError, match="^checkpoint_s: expected a number from 0"):
        RunConfig(checkpoint_s=-1)


def note_of(file):
    data = file.read_bytes()
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["qf"])


def test_a_checkpoint_of_the_end_of_an_epoch_without_later_fields_is_gone_on_from(tmp_path, monkeypatch):
    whole, history = train()
    real = loop.save_checkpoint

    def stop_at_an_end(*args):
        real(*args)
        if args[5].epoch == 1:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "save_checkpoint", stop_at_an_end)
        train(tmp_path, checkpoint_s=0)
    file = tmp_path / "checkpoint.safetensors"
    note, state = note_of(file), note_of(file)["state"]
    scores = [e["score"] for e in state["history"]]
    note["state"] = {"epoch": 1, "history": state["history"], "best": min(scores), "best_epoch": scores.index(min(scores))}
    del note["place"]
    for name in ("steps_most", "optimiser", "schedule_by", "lr_floor", "warmup", "ema", "validate_every"):
        del note["settings"]["loop"][name]
    save_file(load_file(file), file, metadata={"qf": json.dumps(note)})
    again, found = train(tmp_path)
    assert same(whole, again) and found == history
    with pytest.raises(QfError, match="differing: loop"):
        train(tmp_path, ema=0.5)


@pytest.mark.parametrize("change", [{"at": 1000}, {"at": -1}, {"step": True}, {"total": math.nan}, {"history": [{"epoch": 0}]}, {"history": 3}])
def test_an_altered_place_is_named(tmp_path, change):
    with pytest.raises(Stop):
        train(tmp_path, stop=1)
    file = tmp_path / "checkpoint.safetensors"
    note = note_of(file)
    note["state"] |= change
    if change != {"at": 1000}:
        del note["place"]
    save_file(load_file(file), file, metadata={"qf": json.dumps(note)})
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors.*Delete it"):
        train(tmp_path)


def test_a_checkpoint_of_other_hooks_is_refused(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, stop=3, hooks=[Noise])
    with pytest.raises(QfError, match="differing: hooks"):
        train(tmp_path)


def test_a_loss_that_is_no_number_reaches_no_checkpoint(tmp_path):
    with pytest.raises(QfError, match="the loss is nan in epoch 0"):
        train(tmp_path, step=lambda at: torch.tensor(math.nan, requires_grad=True), epochs=1)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- groups and optimisers


@pytest.mark.parametrize(("optimiser", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_groups_against_torch_s_own(optimiser, kind):
    """The same training by hand, with the groups as torch takes them."""
    got, _ = train(optimiser=optimiser, weight_decay=0.1, groups=grouped, clip=0.0, epochs=1)
    torch.manual_seed(0)
    module, ids, wanted = Toy(), torch.arange(N) % 5, torch.linspace(-1, 1, N)
    by_hand = kind(
        [
            {"params": [module.table.weight, module.layer.bias, module.norm.weight, module.norm.bias, module.unused], "weight_decay": 0.0},
            {"params": [module.layer.weight], "lr": 0.15},
        ], lr=0.05, weight_decay=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    for at in torch.randperm(N).split(4):
        by_hand.zero_grad()
        (module(ids[at]) - wanted[at]).square().mean().backward()
        by_hand.step()
    assert same(got, module)


def test_a_parameter_in_two_groups_is_an_error():
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="two groups"):
        make_optimiser([p], [Group([p]), Group([p], speed=2.0)], LoopConfig())


def test_weight_decay_and_averaging_leave_what_has_no_gradient_alone():
    """Of AdamW and an average only what the loss reaches changes, without weight decay."""
    module, _ = train(optimiser="adamw", weight_decay=0.5, ema=0.7, groups=lambda m: [undecayed(m)])
    assert torch.equal(module.unused, torch.ones(2))


# ---------------------------------------------------------------- schedule


@given(epochs=st.integers(1, 300), epoch=st.integers(0, 299))
def test_the_cosine_by_epoch_to_the_bit(epochs, epoch):
    config = LoopConfig(epochs=epochs, schedule="cosine")
    epoch = min(epoch, epochs - 1)
    assert factor(config, epoch, 10 * epoch + 3, 10 * epochs) == 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    assert factor(LoopConfig(epochs=epochs), epoch, 0, 1) == 1.0


@given(steps=st.integers(2, 5000), warmup=st.floats(0, 0.9), floor=st.floats(0, 1))
def test_the_schedule_by_step_rises_and_falls_to_its_floor(steps, warmup, floor):
    config = LoopConfig(schedule="cosine", schedule_by="step", warmup=warmup, lr_floor=floor)
    got = np.array([factor(config, 0, step, steps) for step in range(steps)])
    rising = math.ceil(warmup * steps)
    np.testing.assert_allclose(got[:rising], np.arange(1, rising + 1) / rising if rising else [])
    falling = got[rising:]
    done = np.arange(len(falling)) / max(len(falling), 1)
    np.testing.assert_allclose(falling, floor + (1 - floor) * np.cos(np.pi * done / 2) ** 2, atol=1e-12)
    assert factor(config, 0, steps + 5, steps) == pytest.approx(floor, abs=1e-12)  # an epoch of more batches than the first


def test_calm_s_learning_rate_in_a_training(monkeypatch):
    """AdamW from a warm-up of 6 % to 1e-3 of lr, changed at each step."""
    seen, real = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (seen.append(self.param_groups[0]["lr"]), real(self, *a))[1])
    how = {"schedule": "cosine", "schedule_by": "step", "warmup": 0.06, "lr_floor": 1e-3}
    train(epochs=10, optimiser="adamw", lr=1e-3, **how)
    assert len(seen) == 60 and np.argmax(seen) == 3 and max(seen) == 1e-3
    np.testing.assert_allclose(seen[:4], np.array([1, 2, 3, 4]) / 4 * 1e-3)
    assert 1e-6 < seen[-1] < 3e-6


@given(epochs=st.integers(1, 50), steps=st.integers(0, 500), most=st.integers(0, 500), an_epoch=st.integers(1, 60))
def test_lengths(epochs, steps, most, an_epoch):
    if 0 < most < steps:
        with pytest.raises(QfError, match="^steps_most: expected at least steps"):
            LoopConfig(epochs=epochs, steps=steps, steps_most=most)
        return
    config, found = lengths(LoopConfig(epochs=epochs, steps=steps, steps_most=most), an_epoch)
    wanted = max(epochs * an_epoch, math.ceil(steps / an_epoch) * an_epoch)
    assert found == (min(wanted, most) if most else wanted)
    assert config.epochs == math.ceil(found / an_epoch)


@pytest.mark.parametrize(("options", "line"), [
    ({"warmup": 0.1}, "^warmup: expected 0 where schedule_by is 'epoch', found 0.1"),
    ({"lr_floor": 0.1}, "^lr_floor: expected only with schedule='cosine', found 0.1"),
    ({"steps": 10, "steps_most": 5}, "^steps_most: expected at least steps = 10, or 0, found 5"),
    ({"ema": 1.0}, "^ema: expected a number at least 0 and below 1, found 1.0"),
    ({"optimiser": "sgd"}, "^optimiser: expected one of 'adam', 'adamw', found 'sgd'"),
])  # fmt: skip
def test_options_that_do_not_go_together(options, line):
    with pytest.raises(QfError, match=line) as caught:
        LoopConfig(**options)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- averages, validation, hooks


def test_averaged_weights_against_a_loop(monkeypatch):
    steps = []
    real = torch.optim.Adam.step

    def recorded(self, *args):
        out = real(self, *args)
        steps.append([p.detach().double().numpy().copy() for g in self.param_groups for p in g["params"]])
        return out

    torch.manual_seed(0)
    average = [p.detach().double().numpy() for p in Toy().parameters()]
    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    module, history = train(ema=0.9, epochs=1)
    for weights in steps:
        average = [0.9 * a + 0.1 * w for a, w in zip(average, weights, strict=True)]
    for p, a in zip(module.parameters(), average, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), a, atol=1e-6)
    ids, wanted = torch.arange(N) % 5, torch.linspace(-1, 1, N)
    torch.manual_seed(7)
    with torch.no_grad():
        score = float((module(ids) - wanted).square().mean() + 0.01 * torch.rand(()))
    assert history[0]["score"] == score  # what was validated is what is kept


def test_validation_each_so_many_steps_and_the_best_kept():
    """As POCO is trained: so many steps, whatever the epochs, with a look each few of them."""
    module, history = train(epochs=1, steps=20, steps_most=20, validate_every=5, lr=0.3)
    assert [e["step"] for e in history] == [5, 10, 15, 20] and [e["epoch"] for e in history] == [0, 1, 2, 3]
    assert int(module.count) == history[int(np.argmin([e["score"] for e in history]))]["step"]
    _, rest = train(epochs=2, validate_every=5)
    assert [e["step"] for e in rest] == [5, 10, 12]  # the last steps are looked at, too
    _, plain = train(epochs=2)
    assert [list(e) for e in plain] == [["epoch", "loss", "score"]] * 2


def test_the_loss_of_an_entry_is_the_mean_since_the_one_before():
    losses, of = [], []

    class Record(Hook):
        def after_step(self, now):
            of.append(now.step)

    def step(at):
        losses.append((float(at.sum()), len(at)))
        return at.sum() + 0 * next(iter(module.parameters())).sum()

    module = Toy()
    config = LoopConfig(epochs=1, batch_size=4, validate_every=4)
    history = loop.run(module, lambda: list(torch.arange(N).split(4)), step, lambda: {"score": 1.0}, config, settings={}, hooks=[Record()],
                       run_config=RunConfig(progress=False))  # fmt: skip
    for entry, part in zip(history, (losses[:4], losses[4:]), strict=True):
        assert entry["loss"] == pytest.approx(sum(v * n for v, n in part) / sum(n for _, n in part))
    assert of == [1, 2, 3, 4, 5, 6]


def test_hooks_are_called_in_order_with_where_the_training_stands(tmp_path):
    calls = []

    class Spy(Hook):
        def __init__(self):
            for name in ("start", "before_epoch", "after_step", "after_epoch"):
                setattr(self, name, lambda now, name=name: calls.append((name, now.epoch, now.step, now.module.training, now.config.epochs)))

        def restore(self, now, state):
            calls.append(("restore", now.epoch, now.step))

    train(hooks=[Spy], epochs=1, steps=7)
    assert calls[:3] == [("start", 0, 0, True, 2), ("before_epoch", 0, 0, True, 2), ("after_step", 0, 1, True, 2)]
    assert calls[7:10] == [("after_step", 0, 6, True, 2), ("after_epoch", 0, 6, True, 2), ("before_epoch", 1, 6, True, 2)]
    assert calls[-1] == ("after_epoch", 1, 12, True, 2) and len(calls) == 1 + 2 * (6 + 2)
    with pytest.raises(Stop):
        train(tmp_path, stop=8, hooks=[Spy])
    calls.clear()
    train(tmp_path, hooks=[Spy])
    assert calls[0] == ("restore", 1, 8) and calls[1][:3] == ("after_step", 1, 9)
