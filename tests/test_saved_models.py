"""Saved models: whatever kills a save or alters a file, a load gives a whole model or one line that says what is wrong."""

import copy
import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

import qf_toolkit as qf
from qf_toolkit.errors import DamagedFileError, QfError
from qf_toolkit.estimators.quantformer.pretrain import Autoencoder, pretrain
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

FIXTURE = Path(__file__).parent / "fixtures" / "b35afb9"
KINDS = ("autoencoder", "forecaster", "classifier")
TINY = {"patch_frames": 8, "width": 8, "layers": 1, "heads": 2, "codes": 4, "progress": False, "epochs": 1, "batch_size": 256, "device": "cpu"}
pytestmark = untaught


@pytest.fixture(scope="module")
def two():
    """Two auto-encoders of other weights."""
    split = split_blocks(cut(toy_session(0)))
    return [pretrain(split, seed=seed, **TINY) for seed in (0, 1)]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------- killed saves

CHANGES = ("replace", "link", "unlink", "fsync", "chmod", "open", "close", "write", "rename", "mkdir")


def killed(model, folder, at):
    """Save in a process that dies at the call `at` of those that touch files; whether it came so far. Nothing is tidied up: it is gone."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls = [0]

    def dying(real):
        def call(*args, **kwargs):
            if calls[0] == at:
                os._exit(9)
            calls[0] += 1
            return real(*args, **kwargs)

        return call

    try:
        for name in CHANGES:
            setattr(os, name, dying(getattr(os, name)))
        for name in ("write_bytes", "write_text", "unlink", "glob"):
            setattr(Path, name, dying(getattr(Path, name)))
        model.save(folder)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_save_killed_at_any_call_leaves_the_old_or_the_new_model(two, tmp_path):
    old, new = two
    found, at = [], 0
    while True:
        folder = tmp_path / str(at)
        old.save(folder)
        if not killed(new, folder, at):
            break
        found.append(qf.load(folder, device="cpu").digest())
        old.save(folder)
        assert names(folder) == ["config.json", "model.safetensors"]
        assert qf.load(folder, device="cpu").digest() == old.digest()
        at += 1
    assert qf.load(folder, device="cpu").digest() == new.digest()
    one, other = old.digest(), new.digest()
    changed = found.index(other)
    assert found == [one] * changed + [other] * (len(found) - changed) and changed >= 8


def test_weights_that_wait_for_their_name_are_read(two, tmp_path):
    old, new = two
    old.save(tmp_path)
    old_weights = (tmp_path / "model.safetensors").read_bytes()
    new.save(tmp_path)
    note = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "model.safetensors").rename(tmp_path / f"model-{note['weights']}.safetensors")
    (tmp_path / "model.safetensors").write_bytes(old_weights)
    assert qf.load(tmp_path, device="cpu").digest() == new.digest()


def test_the_options_it_was_trained_with_are_in_one_file_with_the_model(two, tmp_path):
    from qf_toolkit.estimators.notes import run_settings

    assert run_settings(FIXTURE / "dff" / "forecaster")["baseline_s"] == 2.0  # of run.json
    model = copy.copy(two[0])
    model.save(tmp_path)
    assert run_settings(tmp_path) is None
    (tmp_path / "run.json").write_text("{")  # of a model that was there before
    assert run_settings(tmp_path) is None
    model.run = {"qf_toolkit": "1", "settings": run_settings(FIXTURE / "dff" / "forecaster")}
    model.save(tmp_path)
    assert run_settings(tmp_path) == model.run["settings"] and qf.load(tmp_path).run == model.run


# ---------------------------------------------------------------- altered files


@pytest.fixture(scope="module")
def part():
    return split_blocks(qf.open_store(FIXTURE / "store").trials(baseline_s=2, response_s=1, f0_s=1)).test.by_session()[0].subset([0])


def edited(folder, kind, change):
    """A copy of a fixture whose config.json `change` has altered."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FIXTURE / "dff" / kind, folder)
    note = json.loads((folder / "config.json").read_text())
    note = change(note) or note
    (folder / "config.json").write_text(note if isinstance(note, str) else json.dumps(note))
    return folder


def use(folder, part):
    """Load a model and predict with it: what came of it, None or the error; anything but a QfError goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            model = qf.load(folder, device="cpu")
            model.codes(part) if isinstance(model, Autoencoder) else model.predict(part)
        except QfError as error:
            return error
    return None


def paths(value, at=()):
    """Where the values of nested dicts and lists stand; of long lists the ends."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    items = list(items)
    for key, item in items if len(items) <= 4 or isinstance(value, dict) else (items[0], items[-1]):
        yield from paths(item, (*at, key))


ODD = {"none": None, "text": "x", "list": [], "minus": -1, "zero": 0, "huge": 2**40, "large": 1e308, "nan": float("nan"), "nested": [[[[{}]]]]}


@pytest.mark.parametrize("kind", ["autoencoder", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS[1:])])
def test_every_value_of_config_json_altered(tmp_path, part, kind):
    """Each key x {None, text, list, -1, 0, 2**40, 1e308, NaN, nested}, and each left out: loaded and used, or refused in one line."""
    whole = json.loads((FIXTURE / "dff" / kind / "config.json").read_text())
    folder, refused = edited(tmp_path / "m", kind, lambda note: None), 0
    assert use(folder, part) is None
    # one neuron and session stands for all, and the auto-encoder that a fitted model holds is looked at by itself
    alike = ("mouse/1", "mouse/2", "mouse/3", "mouse/4", "mouse/two", "other")
    standing = [p for p in paths(whole) if not any(str(k).startswith(alike) for k in p) and not (len(p) > 1 and p[0] == "autoencoder")]
    for path in standing:
        for name in (*ODD, "gone"):
            note = copy.deepcopy(whole)
            place = note
            for key in path[:-1]:
                place = place[key]
            if name == "gone":
                del place[path[-1]]
            else:
                place[path[-1]] = ODD[name]
            (folder / "config.json").write_text(json.dumps(note))
            before = time.monotonic()
            error = use(folder, part)
            assert time.monotonic() - before < 5, (path, name)
            if error is not None:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 900, (path, name, error)
    assert refused > len(standing) * 5


def test_what_is_wrong_is_named(tmp_path, part):
    def wrong(change, kind="forecaster"):
        error = use(edited(tmp_path / "m", kind, change), part)
        assert error is not None and "config.json" in str(error)
        return str(error)

    def put(*path):
        *path, key, value = path

        def change(note):
            for k in path:
                note = note[k]
            note[key] = value

        return change

    assert "format" in wrong(put("format", "1"))
    assert "Update the toolkit" in str(use(edited(tmp_path / "m", "forecaster", put("format", 2)), part))
    assert "autoencoder.model.layers: expected what fits the weights (1), found 900" in wrong(put("autoencoder", "model", "layers", 900))
    assert "autoencoder.model.layers: expected a whole number from 1 to 1000" in wrong(put("autoencoder", "model", "layers", 2**40))
    assert "autoencoder.scale.mouse/0: expected a number" in wrong(put("autoencoder", "scale", "mouse/0", "x"))
    assert "residual.mouse/0" in wrong(put("residual", "mouse/0", -1))
    assert "neurons: expected each key once, found 'mouse/0' twice" in wrong(put("neurons", 1, "mouse/0"))
    assert "seen.mouse/one.intervals[0]" in wrong(put("seen", "mouse/one", "intervals", [[4, 2]]))
    assert "another version" in wrong(put("autoencoder", "model", "future", 1)) and "future" in wrong(put("autoencoder", "model", "future", 1))
    assert "finite" in wrong(lambda note: json.dumps(note).replace('"seed": 1', '"seed": NaN'))
    assert "twice" in wrong(lambda note: json.dumps(note).replace('"seed": 1', '"seed": 1, "seed": 2'))
    assert "config.json" in wrong(lambda note: "[" * 100_000)
    assert "config.json" in wrong(lambda note: '{"format": ' + "9" * 5000 + "}")
    assert "weights" in wrong(put("weights", "../" * 8))


@settings(max_examples=40)
@given(st.data())
def test_any_json_in_place_of_any_value(tmp_path_factory, part, data):
    folder = tmp_path_factory.getbasetemp() / "any"
    kind = data.draw(st.sampled_from(KINDS))
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )

    def change(note):
        at = data.draw(st.sampled_from(sorted(paths(note), key=str)))
        for key in at[:-1]:
            note = note[key]
        note[at[-1]] = data.draw(anything)

    edited(folder, kind, change)
    error = use(folder, part)
    assert error is None or "\n" not in str(error)


def rehashed(folder, data):
    """Weights and a config.json that names their hash."""
    (folder / "model.safetensors").write_bytes(data)
    note = json.loads((folder / "config.json").read_text())
    note["weights"] = hashlib.blake2b(data, digest_size=12).hexdigest()
    (folder / "config.json").write_text(json.dumps(note))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_no_weights_can_have(tmp_path, part, value):
    folder = edited(tmp_path / "m", "forecaster", lambda note: None)
    tensors = load_file(folder / "model.safetensors")
    tensors["task.head.0.weight"][0, 0] = value
    rehashed(folder, save(tensors))
    error = use(folder, part)
    assert isinstance(error, DamagedFileError) and "task.head.0.weight holds numbers that no weights can have" in str(error)


def test_weights_of_another_shape_type_or_kind_of_file(tmp_path, part):
    folder = edited(tmp_path / "m", "forecaster", lambda note: None)
    whole = load_file(folder / "model.safetensors")
    for change in (
        {"task.head.0.weight": torch.zeros(3, 3)},
        {"task.head.0.weight": whole["task.head.0.weight"].double()},
        {"task.head.0.weight": whole["task.head.0.weight"].int()},
        {"pretrained.quantizer.codebook": torch.zeros(2**20, 1)},
        {"more": torch.zeros(1)},
        {"task.neurons.table.weight": torch.zeros(0, 16)},
    ):
        rehashed(folder, save({**whole, **change}))
        assert use(folder, part) is not None
    rehashed(folder, save({k: v for k, v in whole.items() if k != "pretrained.to_patch.weight"}))
    assert "the settings of an auto-encoder beside its weights" in str(use(folder, part))
    rehashed(folder, save({k: v for k, v in whole.items() if k != "task.head.0.bias"}))
    assert "another version" in str(use(folder, part))
    for data in (b"", b"x" * 100, (2**40).to_bytes(8, "little") + b"{}", save(whole)[:-7]):
        rehashed(folder, data)
        assert "no whole safetensors file" in str(use(folder, part))


def test_a_file_that_can_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    folder = edited(tmp_path / "m", "autoencoder", lambda note: None)

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(QfError, match="config.json: can't be read .Permission denied") as caught:
        qf.load(folder)
    assert not isinstance(caught.value, DamagedFileError)


# ---------------------------------------------------------------- full memory


class Full:
    """A device whose memory is full."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *args, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_full_memory_is_told_as_such(two, tmp_path, monkeypatch, error):
    split = split_blocks(cut(toy_session(0)))
    two[0].save(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "to", Full(error))
    for call in (lambda: qf.load(tmp_path, device="cpu"), lambda: pretrain(split, **TINY), lambda: qf.fit_forecaster(two[0], split, progress=False)):
        with pytest.raises(QfError, match="memory: that of cpu is full") as caught:
            call()
        assert "version" not in str(caught.value)


def test_another_fault_of_the_library_is_not_called_another_version(two, tmp_path, monkeypatch):
    two[0].save(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "to", Full(RuntimeError("device-side assert")))
    with pytest.raises(RuntimeError, match="device-side assert"):
        qf.load(tmp_path, device="cpu")


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_killed_between_its_two_steps(tmp_path):
    """The old checkpoint has become the previous one, and the new one has not taken its place."""
    split = split_blocks(cut(toy_session(0)))
    how = {**TINY, "epochs": 3}
    whole = pretrain(split, **how)
    pretrain(split, checkpoint=tmp_path, **how)
    (tmp_path / "checkpoint.safetensors").unlink()
    again = pretrain(split, checkpoint=tmp_path, **how)
    assert again.digest() == whole.digest() and again.history == whole.history


@pytest.mark.parametrize("change", ["nan", "byte", "shape", "state", "empty"])
def test_an_altered_checkpoint_is_named(tmp_path, change):
    split = split_blocks(cut(toy_session(0)))
    pretrain(split, checkpoint=tmp_path, **TINY)
    file = tmp_path / "checkpoint.safetensors"
    tensors, data = load_file(file), file.read_bytes()
    note = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["qf"])
    if change == "byte":
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif change == "empty":
        file.write_bytes(b"")
    else:
        name = next(k for k in tensors if k.endswith("to_patch.weight"))
        if change == "nan":
            tensors[name][0, 0] = float("nan")
        elif change == "shape":
            tensors[name] = tensors[name][:1].clone()
        else:
            note["state"]["epoch"] = "x"
        note.pop("tensors")
        save_file(tensors, file, metadata={"qf": json.dumps(note)})
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors.*Delete it"):
        pretrain(split, checkpoint=tmp_path, **TINY)


def test_a_checkpoint_of_another_torch_is_gone_on_from_and_said(tmp_path):
    split = split_blocks(cut(toy_session(0)))
    pretrain(split, checkpoint=tmp_path, **TINY)
    file = tmp_path / "checkpoint.safetensors"
    data = file.read_bytes()
    note = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["qf"])
    save_file(load_file(file), file, metadata={"qf": json.dumps({**note, "torch": "1.0"})})
    with pytest.warns(UserWarning, match="written with torch 1.0"):
        pretrain(split, checkpoint=tmp_path, **TINY)


def test_checkpoints_written_before_later_options_are_gone_on_from(tmp_path):
    split = split_blocks(cut(toy_session(0)))
    whole = pretrain(split, checkpoint=tmp_path, **TINY)
    file = tmp_path / "checkpoint.safetensors"
    data = file.read_bytes()
    note = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["qf"])
    for name in ("steps", "batch_trials", "bf16"):
        del note["settings"]["loop"][name]
    for name in ("mean_weight", "beta_most", "redraw_masks"):
        del note["settings"]["model"][name]
    del note["tensors"], note["torch"]
    save_file(load_file(file), file, metadata={"qf": json.dumps(note)})
    assert pretrain(split, checkpoint=tmp_path, **TINY).digest() == whole.digest()
    with pytest.raises(QfError, match="differing: loop"):
        pretrain(split, checkpoint=tmp_path, clip=0, **TINY)


def test_weights_come_back_to_the_bit(two, tmp_path):
    two[0].save(tmp_path)
    again = qf.load(tmp_path, device="cpu")
    assert all(torch.equal(v, again.module.state_dict()[k]) for k, v in two[0].module.state_dict().items())
    assert again.reference == two[0].reference and np.isfinite(again.reference["mean"])
