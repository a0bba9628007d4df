"""Traces: windows from memory, from a store's files and from packed ones are the same bits; a file that changes meanwhile is refused."""

import os
from functools import cache

import h5py
import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.store import Store
from qf_toolkit.recordings.trials import cut
from qf_toolkit.training.bank import Bank
from qf_toolkit.training.traces import Traces

torch.set_num_threads(1)
pytestmark = untaught
LITTLE = 1e-3  # MB, less than any of these sessions takes
TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 128, "epochs": 1, "progress": False}
FIT = {"batch_size": 128, "epochs": 1, "progress": False}


def holes(traces, trials):
    traces[1, 400:700] = 0.001
    traces[2, 300:310] = np.nan


@cache
def sessions():
    """Of two animals and both signals, of different sizes; one neuron is matched."""
    return [
        toy_session(0, session="a", change=holes),
        toy_session(1, session="b", signal="dff", n_neurons=9),
        toy_session(2, subject="rat", session="a", n_blocks=2, n_neurons=4),
    ]


def pack(path):
    """Write the traces of a Session's file again, packed."""
    with h5py.File(path, "r+") as f:
        name = "fluorescence" if "fluorescence" in f else "dff"
        old, scales = f[name], [f[dim] for dim in ("neuron", "frame")]
        attrs = {k: v for k, v in old.attrs.items() if k not in ("DIMENSION_LIST", "_Netcdf4Coordinates", "_Netcdf4Dimid")}
        values = old[:]
        del f[name]
        new = f.create_dataset(name, data=values, compression="gzip", chunks=(1, 64))
        new.attrs.update(attrs)
        for dim, scale in zip(new.dims, scales, strict=True):
            dim.attach_scale(scale)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("traces") / "store", create=True)
    for session in sessions():
        store.add(session)
    return store


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("packed") / "store", create=True)
    for key in [store.add(session) for session in sessions()][:2]:
        pack(store.file(key))
    return Store(store.path)


def by_hand(source, keys, session, neurons, starts, length):
    """What `gather` should give, from the Sessions themselves."""
    out = []
    for s, n, start in zip(session, neurons, starts, strict=True):
        ds = source[keys[s]]
        out.append(
            ds["dff"].values[n, start : start + length] + np.float32(1) if "dff" in ds else ds["fluorescence"].values[n, start : start + length]
        )
    return np.stack(out)


@pytest.mark.parametrize("kind", ["store", "packed", "memory"])
@pytest.mark.parametrize("memory_mb", [None, LITTLE])
def test_windows_are_those_of_the_sessions(request, kind, memory_mb):
    source = sessions() if kind == "memory" else request.getfixturevalue(kind)
    split = split_blocks(cut(source))
    traces = Traces([split.train, split.test], "cpu", memory_mb)
    assert traces.held == (memory_mb is None) and traces.is_dff == [k == "mouse/b" for k in traces.sessions]
    rng = np.random.default_rng(0)
    session = rng.integers(0, 3, 50)
    sizes = [split.train.source.header(k).sizes for k in traces.sessions]
    neurons = np.array([rng.choice(split.train.rows[traces.sessions[s]]) for s in session])
    starts = np.array([rng.integers(0, sizes[s]["frame"] - 40) for s in session])
    got = traces.gather(*map(torch.from_numpy, (session, neurons, starts)), 41)
    assert got.numpy().tobytes() == by_hand(split.train.source, traces.sessions, session, neurons, starts, 41).tobytes()


@pytest.mark.parametrize("memory_mb", [None, LITTLE])
def test_arguments_are_broadcast(store, memory_mb):
    traces = Traces([cut(store)], "cpu", memory_mb)
    starts, neurons = torch.tensor([[5], [90], [33]]), torch.tensor([0, 3])
    got = traces.gather(1, neurons, starts, 20)
    assert got.shape == (3, 2, 20)
    flat = by_hand(store, traces.sessions, [1] * 6, neurons.repeat(3).numpy(), starts.repeat_interleave(2).numpy(), 20)
    np.testing.assert_array_equal(got.numpy(), flat.reshape(3, 2, 20))
    got += 1  # the caller's own
    np.testing.assert_array_equal(traces.gather(1, neurons, starts, 20).numpy(), flat.reshape(3, 2, 20))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 500)), min_size=1, max_size=30), st.integers(1, 60))
def test_any_windows_are_the_same_from_memory_and_from_files(store, wanted, length):
    parts = [cut(store)]
    which = [torch.tensor(v) for v in zip(*wanted, strict=True)]
    held, read = (Traces(parts, "cpu", mb).gather(*which, length).numpy() for mb in (None, LITTLE))
    assert held.tobytes() == read.tobytes()


def test_only_chosen_neurons_are_held(store):
    trials = cut(store)
    some = trials.of_neurons(trials.neurons[:2])
    traces = Traces([some], "cpu")
    key = traces.sessions[0]
    assert traces.nbytes == 4 * sum(len(some.rows[k]) * store.header(k).sizes["frame"] for k in traces.sessions)
    other = next(i for i in range(6) if i not in some.rows[key])
    with pytest.raises(IndexError):
        traces.gather(0, torch.tensor([other]), torch.tensor([0]), 10)


@pytest.mark.parametrize("signal", ["dff", "zscore"])
@pytest.mark.parametrize("kind", ["store", "packed"])
def test_a_bank_is_the_same_from_memory_and_from_files(request, kind, signal):
    split = split_blocks(cut(request.getfixturevalue(kind), signal=signal))
    neurons, stimuli = ({k: i for i, k in enumerate(keys)} for keys in (split.train.neurons, split.train.conditions))
    held, read = (Bank(split.train, neurons, stimuli, "cpu", traces=Traces([split.train, split.validation], "cpu", mb)) for mb in (None, LITTLE))
    at = torch.randperm(len(held))
    for one, other in zip(held.batch(at), read.batch(at), strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()
    assert held.digest() == read.digest() and held.unusable == read.unusable > 0


@pytest.mark.filterwarnings("ignore:left out")  # of trials with values missing
def test_training_from_files_ends_at_the_same_weights(store, packed, tmp_path):
    found = []
    for source, memory_mb in ((store, None), (store, LITTLE), (packed, LITTLE)):
        split = split_blocks(cut(source))
        checkpoint = {"checkpoint": tmp_path / "here", "memory_mb": memory_mb}  # the checkpoint of one serves the other
        autoencoder = pretrain(split, memory_mb=memory_mb, **TINY)
        models = [
            autoencoder,
            fit_forecaster(autoencoder, split, **FIT, **checkpoint),
            fit_classifier(autoencoder, split, memory_mb=memory_mb, **FIT),
        ]
        found.append([m.digest() for m in models] + [m.history for m in models] + [m.reference for m in models])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", ["store", "packed"])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path, kind):
    store = Store(tmp_path / "store", create=True)
    keys = [store.add(session) for session in sessions()]
    file = store.file(keys[0])
    if kind == "packed":
        pack(file)
    window = 0, torch.tensor([0]), torch.tensor([100]), 20
    traces = Traces([cut(Store(store.path))], "cpu", LITTLE)
    before = traces.gather(*window)
    other = toy_session(7, session="a")
    Store(store.path).add(other, overwrite=True)
    with pytest.raises(QfError, match="expected the file as it was when the training began, found it changed"):
        traces.gather(*window)
    traces = Traces([cut(Store(store.path))], "cpu", LITTLE)
    assert not torch.equal(traces.gather(*window), before)
    size = os.path.getsize(file)
    os.truncate(file, size // 2)
    with pytest.raises(QfError, match="found it changed"):
        traces.gather(*window)
    file.unlink()
    with pytest.raises(QfError, match="can't be read now"):
        traces.gather(*window)


def test_windows_of_a_plain_file_are_read_without_the_session(store, monkeypatch):
    traces = Traces([cut(store)], "cpu", LITTLE)
    wanted = store["rat/a"]["fluorescence"].values[2, 70:80]

    def never(*args):
        raise AssertionError("a whole session was read")

    monkeypatch.setattr(Store, "__getitem__", never)
    assert traces.gather(traces.sessions.index("rat/a"), torch.tensor([2]), torch.tensor([70]), 10)[0].numpy().tobytes() == wanted.tobytes()


def test_traces_held_in_memory_do_not_ask_for_the_file_again(tmp_path):
    store = Store(tmp_path / "store", create=True)
    key = store.add(sessions()[0])
    traces = Traces([cut(store)], "cpu")
    window = 0, torch.tensor([0]), torch.tensor([100]), 20
    before = traces.gather(*window)
    store.file(key).unlink()
    assert torch.equal(traces.gather(*window), before)


def test_the_version_before_a_damaged_file_serves(tmp_path):
    store = Store(tmp_path / "store", create=True)
    key = store.add(sessions()[0])
    good = store[key]["fluorescence"].values
    store.add(sessions()[0], overwrite=True)
    with open(store.file(key), "r+b") as f:
        f.truncate(1000)
    with pytest.warns(UserWarning, match="Using the previous version"):
        traces = Traces([cut(Store(store.path))], "cpu", LITTLE)
    got = traces.gather(0, torch.tensor([3]), torch.tensor([50]), 30)
    np.testing.assert_array_equal(got[0].numpy(), good[3, 50:80])


def test_numbers_that_a_file_holds_in_another_unit_are_those_of_the_session(tmp_path):
    store = Store(tmp_path / "store", create=True)
    key = store.add(sessions()[2])
    wanted = store[key]["fluorescence"].values[1, 20:60]
    with h5py.File(store.file(key), "r+") as f:
        f["fluorescence"][:] = f["fluorescence"][:] / 2
        f["fluorescence"].attrs["scale_factor"] = np.float32(2)
    got = Traces([cut(Store(store.path))], "cpu", LITTLE).gather(0, torch.tensor([1]), torch.tensor([20]), 40)
    np.testing.assert_array_equal(got[0].numpy(), wanted)


@pytest.mark.parametrize("value", [0, -1, float("nan"), "1", True])
def test_a_cap_that_is_none_is_refused(store, value):
    with pytest.raises(QfError, match="memory_mb: expected a number above 0"):
        Traces([cut(store)], "cpu", value)
    with pytest.raises(QfError, match="memory_mb: expected a number above 0"):
        pretrain(split_blocks(cut(store)), memory_mb=value, **TINY)
