"""Banks: single observations and whole populations hold what the dataset holds, in a small index; an epoch visits every trial once."""

import numpy as np
import pytest
import torch
from helpers import toy_session

from qf_toolkit.errors import QfError
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.sliding import slide
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.training.bank import Bank
from qf_toolkit.training.loop import run
from qf_toolkit.training.options import LoopConfig, RunConfig
from qf_toolkit.training.traces import Traces

torch.set_num_threads(1)


def holes(traces, trials):
    traces[1, 400:700] = 0.001
    traces[2, 300:310] = np.nan
    traces[:, 900:903] = np.nan  # nobody's window there is whole


def table(keys):
    return {k: i for i, k in enumerate(keys)}


def bank_of(trials, known=None, scale=None, **options):
    return Bank(trials, table(trials.neurons if known is None else known), table(trials.conditions), "cpu", scale, **options)


@pytest.fixture(scope="module")
def mixed():
    """Sessions of two animals, both signals, other sizes and missing values."""
    return [
        toy_session(0, session="a", change=holes),
        toy_session(1, session="b", signal="dff", n_neurons=9),
        toy_session(2, subject="rat", session="a", n_blocks=2, n_neurons=4),
    ]


def tensors(bank):
    """The index, and what it has of each observation."""
    return [bank.row, bank.trial, bank.active, bank.gain]


# ---------------------------------------------------------------- single observations


@pytest.mark.parametrize("signal", ["dff", "zscore"])
def test_observations_are_those_of_the_dataset(mixed, signal):
    train = split_blocks(cut(mixed, signal=signal)).train
    scale = {n: 0.5 + i for i, n in enumerate(train.neurons)}
    bank, at = bank_of(train, scale=scale), 0
    for part in train.by_session():
        ds, key = part.dataset(), part.sessions[0]
        whole = ds["valid"].values.all(-1)
        n = int(whole.sum())
        here = torch.arange(at, at + n)
        at += n
        trial, neuron = np.nonzero(whole)
        names = ds["neuron"].values[neuron]
        batch = bank.batch(here)
        divisor = np.array([scale[k] for k in names], np.float32)
        np.testing.assert_allclose(batch.x[:, 0].numpy() * divisor[:, None], ds[signal].values[whole], atol=1e-4, rtol=1e-5)
        assert batch.x.shape == (n, 1, bank.length) and batch.valid.all()
        assert [train.neurons[i] for i in batch.neuron[:, 0].tolist()] == names.tolist()
        assert [train.conditions[i] for i in batch.condition.tolist()] == ds["condition"].values[trial].tolist()
        assert {bank.traces.sessions[i] for i in batch.session.tolist()} == {key}
        assert [bank.keys[i] for i in bank.row[here].tolist()] == names.tolist()
        assert [bank.conditions[i] for i in bank.trial[here].tolist()] == ds["condition"].values[trial].tolist()
        np.testing.assert_array_equal(bank.divisor(here), divisor)
        np.testing.assert_array_equal(bank.n_score(here), ds["n_score"].values[trial])
        np.testing.assert_array_equal(bank.active[here], ds["active"].values[whole])
    assert at == len(bank) and bank.unusable == sum(len(p) * len(p.neurons) for p in train.by_session()) - at > 0


def test_what_has_no_token_is_counted_and_left_out(mixed):
    trials = cut(mixed)
    few = trials.conditions[1:]
    bank = Bank(trials, table(trials.neurons[2:]), table(few), "cpu")
    full = bank_of(trials)
    assert len(bank) + bank.unknown + bank.unusable == len(full) + full.unusable
    assert set(bank.conditions) == set(few) and not set(bank.keys) & set(trials.neurons[:2])
    with pytest.raises(QfError, match="no observation is left in one part of the split"):
        Bank(trials, {}, table(trials.conditions), "cpu")


def test_parts_that_share_traces_are_as_those_with_their_own(mixed):
    split = split_blocks(cut(mixed))
    traces = Traces([split.train, split.validation, split.test], "cpu")
    for part in (split.train, split.validation, split.test):
        own, shared = bank_of(part), bank_of(part, traces=traces)
        at = torch.arange(len(own))
        assert own.digest() == shared.digest() and torch.equal(own.batch(at).x, shared.batch(at).x)
        assert all(torch.equal(a, b) for a, b in zip(tensors(own), tensors(shared), strict=True))


def test_a_batch_is_the_caller_s_own(mixed):
    bank = bank_of(cut(mixed))
    at = torch.arange(20)
    before = bank.batch(at).x.clone()
    bank.batch(at).x.zero_()
    assert torch.equal(bank.batch(at).x, before)


def test_a_digest_is_of_windows_labels_tokens_and_scales(mixed):
    trials = cut(mixed)
    digest = bank_of(trials).digest()
    assert digest == bank_of(trials).digest()
    other = [
        bank_of(trials.subset(np.arange(len(trials) - 1))), bank_of(trials, known=trials.neurons[::-1]), bank_of(trials, scale={trials.neurons[0]: 2.0}),
        bank_of(cut(mixed, active_gain=0.3)), bank_of(cut(mixed, score_s=0.5)), bank_of(cut(mixed, baseline_s=2.9)),
        Bank(trials, table(trials.neurons), {"drifting_gratings": 0}, "cpu"),
    ]  # fmt: skip
    found = {b.digest() for b in other}
    assert len(found) == len(other) and digest not in found
    # the positions of tokens are no part of it, their keys are
    assert Bank(trials, table(trials.neurons), table(trials.conditions[::-1]), "cpu").digest() == digest


# ---------------------------------------------------------------- populations


@pytest.mark.parametrize("signal", ["dff", "zscore"])
@pytest.mark.parametrize("memory_mb", [None, 1e-3])
def test_populations_are_those_of_the_dataset(mixed, signal, memory_mb):
    train = split_blocks(cut(mixed, signal=signal)).train
    scale = {n: 0.5 + i for i, n in enumerate(train.neurons)}
    known = train.neurons[1:]  # one is not in the model's table
    bank, first = bank_of(train, known, scale, traces=Traces([train], "cpu", memory_mb)), 0
    for part in train.by_session():
        ds, names = part.dataset(), [n for n in part.neurons if n in known]
        ds = ds.sel(neuron=names)
        batch = bank.population(torch.arange(first, first + len(part)))
        valid = ds["valid"].values
        np.testing.assert_array_equal(batch.valid, valid)
        divisor = np.array([scale[n] for n in names], np.float32)[:, None]
        np.testing.assert_allclose(batch.x.numpy() * divisor, np.where(valid, ds[signal].values, 0), atol=1e-4, rtol=1e-5)
        assert not batch.x[~batch.valid].any()
        assert [known[i] for i in batch.neuron[0].tolist()] == names and (batch.neuron == batch.neuron[0]).all()
        assert [train.conditions[i] for i in batch.condition.tolist()] == ds["condition"].values.tolist()
        assert {bank.traces.sessions[i] for i in batch.session.tolist()} == set(part.sessions)
        assert batch.x.shape == batch.valid.shape == (len(part), len(names), bank.length) and batch.neuron.shape == (len(part), len(names))
        first += len(part)


def test_whole_observations_are_the_same_alone_and_in_a_population(mixed):
    bank = bank_of(cut(mixed))
    for trials in bank.trial_chunks():
        batch = bank.population(trials)
        whole = batch.valid.all(-1)
        at = torch.nonzero(torch.isin(bank.trial, trials.int())).flatten()
        assert torch.equal(batch.x[whole], bank.batch(at).x[:, 0]) and torch.equal(batch.neuron[whole], bank.neuron(at))


def test_an_epoch_has_every_trial_once_in_batches_of_one_session(mixed):
    trials = cut(mixed)
    bank = bank_of(trials)
    usable = bank.trial.unique().tolist()
    assert 0 < len(usable) < len(trials)  # at the hole in all neurons nothing is whole
    torch.manual_seed(1)
    drawn, again = bank.trial_batches(7), bank.trial_batches(7)
    for epoch in (drawn, again, bank.trial_chunks()):
        assert sorted(torch.cat(list(epoch)).tolist()) == usable
        assert all(len(bank.population(at).session.unique()) == 1 for at in epoch)
    assert max(map(len, drawn)) == 7 and torch.cat(list(bank.trial_chunks())).tolist() == usable
    assert torch.cat(drawn).tolist() != torch.cat(again).tolist()
    order = [int(bank.population(at).session[0]) for at in drawn]
    assert order != sorted(order)
    torch.manual_seed(1)
    assert torch.cat(bank.trial_batches(7)).tolist() == torch.cat(drawn).tolist()


def test_a_random_part_of_the_neurons_is_a_part_of_the_population(mixed):
    bank = bank_of(cut(mixed))
    at = torch.arange(5)
    whole, part = bank.population(at), bank.population(at, bank.rows_of(at, 4))
    assert part.x.shape == (5, 4, bank.length) and len(part.neuron[0].unique()) == 4
    where = [whole.neuron[0].tolist().index(n) for n in part.neuron[0].tolist()]
    assert torch.equal(whole.x[:, where], part.x) and torch.equal(whole.valid[:, where], part.valid)
    assert {tuple(sorted(bank.population(at, bank.rows_of(at, 4)).neuron[0].tolist())) for _ in range(20)} != {tuple(sorted(part.neuron[0].tolist()))}
    assert torch.equal(bank.population(at, bank.rows_of(at, 99)).x, whole.x)


# ---------------------------------------------------------------- sliding windows


def test_many_overlapping_windows_take_a_small_index():
    """One begins at every frame, and none crosses the jump in time."""
    n_frames, jump = 3000, 1800
    time = np.arange(n_frames) / 10 + 60.0 * (np.arange(n_frames) >= jump)
    traces = np.random.default_rng(0).uniform(80, 120, (12, n_frames)).astype(np.float32)
    session = new_session(traces, subject="m", session="s", rate_hz=10.0, frame_time=time)
    trials = slide(session, length_s=5, response_s=2, every_s=0.1)
    bank = bank_of(trials)
    assert len(bank) == 12 * len(trials) == 12 * (n_frames - 2 * 49)
    assert 13 * len(bank) == sum(v.nbytes for v in tensors(bank)) < bank.nbytes < 17 * len(bank)
    assert bank.traces.nbytes == traces.nbytes
    some = [0, 1000, jump - 50, jump - 49, len(trials) - 1]
    at = torch.tensor([12 * t + t % 12 for t in some])
    wanted = trials.subset(some).dataset()["dff"].values[np.arange(5), [t % 12 for t in some]]
    np.testing.assert_allclose(bank.signal(at).numpy(), wanted, atol=1e-6)
    drawn = bank.trial_batches(512)
    assert sorted(torch.cat(drawn).tolist()) == list(range(len(trials))) and bank.population(drawn[0]).x.shape == (512, 12, 50)


# ---------------------------------------------------------------- in the loop


class Mixing(torch.nn.Module):
    """A population model: the response of each neuron from the mean of the population's baseline, whatever their number."""

    def __init__(self, n_baseline, n_response):
        super().__init__()
        self.n_baseline, self.linear = n_baseline, torch.nn.Linear(n_baseline, n_response)

    def loss(self, batch):
        error = self.linear(batch.x[..., : self.n_baseline].mean(1, keepdim=True)) - batch.x[..., self.n_baseline :]
        valid = batch.valid[..., self.n_baseline :]
        return (error.square() * valid).sum() / valid.sum().clamp(min=1)


def test_a_population_model_learns_through_the_loop(mixed):
    split, found = split_blocks(cut(mixed)), []
    for memory_mb in (None, 1e-3):
        traces = Traces([split.train, split.validation], "cpu", memory_mb)
        train, validation = (bank_of(part, split.train.neurons, traces=traces) for part in (split.train, split.validation))
        torch.manual_seed(0)
        model = Mixing(train.n_baseline, train.n_response)

        def validate(model=model, bank=validation):
            losses = [(float(model.loss(bank.population(at))), len(at)) for at in bank.trial_chunks()]
            return {"score": sum(s * n for s, n in losses) / sum(n for _, n in losses)}

        found.append(
            run(
                model, lambda bank=train: bank.trial_batches(8), lambda at, bank=train, model=model: model.loss(bank.population(at, bank.rows_of(at, 5))),
                validate, LoopConfig(epochs=4, lr=1e-2), settings={}, run_config=RunConfig(progress=False),
            )
        )  # fmt: skip
    assert found[0][-1]["score"] < found[0][0]["score"] and found[0] == found[1]
