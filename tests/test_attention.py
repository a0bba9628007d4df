"""Attention rollout: closed forms, planted models, a second computation of every number."""

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
import torch
import xarray as xr
from attention_models import HIDDEN, KINDS, VARIANTS, by_hand, hide_one, model_of, random_maps
from helpers import toy_session, untaught
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.interface import origin
from qf_toolkit.estimators.naive import CopyLast
from qf_toolkit.estimators.quantformer.activation import QuantFormerClassifier, fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import QuantFormerForecaster, fit_forecaster
from qf_toolkit.interpret import attention
from qf_toolkit.interpret.attention import attention_rollout, readout, rollout, rollout_of
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught


@pytest.fixture(scope="module")
def trials():
    session = toy_session(3, n_neurons=4, n_conditions=6, n_blocks=2, repeats=1, stimuli=("gratings", "scenes"), change=hide_one)
    return cut(session)


@pytest.fixture(scope="module")
def trained():
    split = split_blocks(cut(toy_session()))
    tiny = {"patch_frames": 8, "width": 16, "layers": 2, "heads": 2, "codes": 8, "batch_size": 64, "progress": False, "epochs": 1}
    autoencoder = pretrain(split, **tiny)
    return split.test, [fit(autoencoder, split, epochs=1, batch_size=64, progress=False) for fit in (fit_classifier, fit_forecaster)]


# --- the arithmetic


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2))
def test_rows_of_a_rollout_sum_to_one_and_are_products(seed, layers, heads, size, batch):
    maps = random_maps(np.random.default_rng(seed), *[2] * batch, layers, heads, size, size)
    out = rollout(maps)
    assert out.shape == (*[2] * batch, layers, size, size) and (out >= 0).all()
    np.testing.assert_allclose(out.sum(-1), 1, atol=1e-12)
    flat = maps.reshape(-1, layers, heads, size, size)
    np.testing.assert_allclose(out.reshape(-1, layers, size, size), [by_hand(m) for m in flat], atol=1e-12)
    np.testing.assert_allclose(rollout(torch.from_numpy(maps)).numpy(), out, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_uniform_attention_has_a_closed_form(size):
    """J, all entries 1/S, is a projection: ((J + I) / 2)^n = (1 - 2^-n) J + 2^-n I."""
    out = rollout(np.full((8, 3, size, size), 1 / size))
    for n in range(1, 9):
        np.testing.assert_allclose(out[n - 1], (1 - 2.0**-n) / size + 2.0**-n * np.eye(size), atol=1e-14)


def test_a_later_layer_stands_on_the_left():
    """Layer 1 looks at token 1 alone, layer 2 at token 2: (I + B)(I + A) / 4 = I/4 + A/2 + B/4, since B A = A."""
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[:, 1], b[:, 2] = 1, 1
    out = rollout(np.stack([a, b])[:, None])
    np.testing.assert_allclose(out[1], np.eye(3) / 4 + a / 2 + b / 4)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 5), (0, 1, 4, 4)])
def test_maps_of_another_shape_are_refused(shape):
    with pytest.raises(QfError, match="maps: expected shape"):
        rollout(np.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_planted_model_gives_the_known_shares(kind, norm, trials):
    """All heads of all six layers look at [NEURON]: each layer keeps a half of what is not there yet."""
    model = model_of(kind, trials, layers=6, width=16, norm=norm)
    module = model.module
    # features 0 and 1 differ in the [NEURON] token alone, and nothing but a norm changes a token on its way
    module.neurons.table.weight[:, :2] = torch.tensor([3.0, -3.0])
    shared = [module.stimuli.table.weight, module.encoder.position, module.encoder.mask_token, *([module.cls] if kind is KINDS[0] else [])]
    for weight in shared:
        weight[..., :2] = 0
    module.encoder.project.weight[:2], module.encoder.project.bias[:2] = 0, 0
    for block in module.encoder.stack.blocks:
        for layer in (block.attention.qkv, block.attention.out, block.ff[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        block.attention.qkv.bias[:16] = 1  # every query alike
        block.attention.qkv.weight[16:32, 0], block.attention.qkv.weight[16:32, 1] = 100, -100  # keys: what feature 0 has over feature 1
    out = attention_rollout(model, trials, gradient=True).isel(stimulus=0)
    assert (out["attention"].sel(source="[NEURON]") == 1).all()
    first, last = ("[CLS]", 2**-6) if kind is KINDS[0] else ("[MASK]2", 2**-6)
    top = out["rollout"].sel(layer=6, token=first)
    assert float(top.sel(source="[NEURON]")) == pytest.approx(1 - 2**-6, abs=1e-6)
    assert float(top.sel(source=first)) == pytest.approx(last, abs=1e-6)
    kept = out["rollout"].sel(token=first, source=first)
    np.testing.assert_allclose(kept, 2.0 ** -np.arange(1, 7), atol=1e-6)


# --- real models


def inputs_of(model, trials):
    """The observations of one session as the module takes them, made here by hand: (x, neuron, stimulus), and which have a whole baseline."""
    ds = trials.dataset()
    keys, conditions = ds["neuron"].values.tolist(), ds["condition"].values.tolist()
    x = ds[trials.window.signal].values[..., : ds.attrs["n_baseline"]]
    usable = np.isfinite(x).all(-1)
    x = x / np.array([model.autoencoder.divisor(k) for k in keys], np.float32)[:, None]
    neuron = np.array([[model.neurons.index(k) for k in keys]] * len(conditions))
    stimulus = np.array([[model.stimuli.index(c)] * len(keys) for c in conditions])
    return torch.from_numpy(x), torch.from_numpy(neuron), torch.from_numpy(stimulus), usable


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_observation_equals_a_naive_recomputation(kind, variant, trials):
    model = model_of(kind, trials, **VARIANTS[variant])
    out = attention_rollout(model, trials, by="observation")
    x, neuron, stimulus, usable = inputs_of(model, trials)
    assert usable.sum() == usable.size - 1
    for t, n in np.argwhere(usable):
        _, maps = model.module(x[t, n][None], neuron[t, n][None], stimulus[t, n][None], need_maps=True)
        maps = maps[0].double().numpy()
        one = out.isel(trial=t, neuron=n)
        np.testing.assert_allclose(one["attention"], maps, atol=1e-5)
        np.testing.assert_allclose(one["rollout"], by_hand(maps), atol=1e-5)
        for layer, head in np.ndindex(maps.shape[:2]):
            alone = maps.copy()
            alone[layer] = maps[layer, head]
            np.testing.assert_allclose(one["head_rollout"][layer, head], by_hand(alone)[-1], atol=1e-5)
    missing = out.isel(trial=int(np.argwhere(~usable)[0, 0]), neuron=1)
    assert missing["rollout"].isnull().all() and int(missing["observations"]) == 0
    assert str(missing["neuron"].item()) == HIDDEN[0] and int(missing["trial"]) == HIDDEN[1]


def test_a_trained_model_is_rolled_out_too(trained):
    test, models = trained
    for model in models:
        out = attention_rollout(model, test, gradient=True)
        assert int(out["observations"].sum()) == len(test) * len(test.neurons)
        for name in ("attention", "rollout", "head_rollout", "gradient_rollout"):
            np.testing.assert_allclose(out[name].sum("source"), 1, atol=1e-5)
            assert out[name].dtype == np.float32 and out[name].attrs["model"] == model.digest()
        assert dict(out.attrs, session="") == {**origin(test, model), "session": "", "kind": model.kind, "patch_s": 0.8}


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_heads_is_the_rollout(kind, trials):
    out = attention_rollout(model_of(kind, trials, heads=3), trials, by="condition")
    for layer in out["layer"].values:
        np.testing.assert_allclose(out["head_rollout"].sel(layer=layer).mean("head"), out["rollout"].isel(layer=-1), atol=1e-6)


@pytest.mark.parametrize("by", ["stimulus", "condition", "neuron"])
def test_groups_average_their_observations(by, trials):
    model = model_of(QuantFormerClassifier, trials)
    out = attention_rollout(model, trials, by=by, gradient=True)
    each = attention_rollout(model, trials, by="observation", gradient=True).stack(item=("trial", "neuron"))
    assert out["observations"].dims == (by,) and int(out["observations"].sum()) == each.sizes["item"] - 1
    for key in out[by].values:
        mine = each.isel(item=np.flatnonzero(each[by].values == key)).dropna("item", how="all", subset=["rollout"])
        assert int(out["observations"].sel({by: key})) == mine.sizes["item"] > 0
        for name in ("attention", "rollout", "head_rollout", "gradient_rollout"):
            mean = mine[name].astype(float).mean("item").transpose(*out[name].dims[1:])
            np.testing.assert_allclose(out[name].sel({by: key}), mean, atol=1e-6)


def test_names_and_times_of_the_tokens(trials):
    out = attention_rollout(model_of(QuantFormerClassifier, trials), trials)
    assert list(out["source"].values) == list(out["token"].values) == ["[CLS]", "[NEURON]", "[STIM]", "t1", "t2", "t3", "t4"]
    # 30 frames at 10 Hz in patches of 8: two frames of padding before them
    np.testing.assert_allclose(out["start_s"], [np.nan] * 3 + [-3.2, -2.4, -1.6, -0.8])
    assert list(out["stimulus"].values) == ["gratings", "scenes"]
    assert list(out["layer"].values) == [1, 2, 3] and list(out["head"].values) == [1, 2]
    out = attention_rollout(model_of(QuantFormerForecaster, trials), trials)
    assert list(out["source"].values) == ["[NEURON]", "[STIM]", "t1", "t2", "t3", "t4", "[MASK]1", "[MASK]2", "[MASK]3"]
    np.testing.assert_allclose(out["start_s"], [np.nan] * 2 + [-3.2, -2.4, -1.6, -0.8, 0.0, 0.8, 1.6])


def test_nothing_after_the_onset_matters(trials):
    def change(traces, table):
        hide_one(traces, table)
        last = table["onset_frame"].iloc[-1]
        traces[:, last:] *= 3

    other = cut(toy_session(3, n_neurons=4, n_conditions=6, n_blocks=2, repeats=1, stimuli=("gratings", "scenes"), change=change))
    model = model_of(QuantFormerForecaster, trials)
    a, b = (attention_rollout(model, t.subset([len(t) - 1]), by="observation", gradient=True) for t in (trials, other))
    xr.testing.assert_equal(a, b)


# --- gradients


def replay(model, tokens, nudge=None):
    """The encoder's stack and the head again, written out from the weights, in float64: (what is predicted, maps).

    `nudge` (layer, head, S, S) is added to the maps; later layers see what comes of it.
    """
    stack, x, maps, before = model.module.encoder.stack, tokens, [], 0.0
    norm = lambda layer, x: torch.nn.functional.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)  # noqa: E731
    for i, block in enumerate(stack.blocks):
        pre, heads = block.norm == "pre", block.attention.heads
        given = norm(block.norm1, x) if pre else x
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (given @ block.attention.qkv.weight.T + block.attention.qkv.bias).chunk(3, -1)
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5 + before
        before = scores if stack.residual_attention else 0.0
        a = scores.softmax(-1) + (0 if nudge is None else nudge[i])
        maps.append(a)
        x = x + block.attention.out((a @ v).transpose(0, 1).flatten(1))
        x = x if pre else norm(block.norm1, x)
        x = x + block.ff(norm(block.norm2, x) if pre else x)
        x = x if pre else norm(block.norm2, x)
    x = norm(stack.last, x) if pre else x
    if isinstance(model, QuantFormerClassifier):
        logits = model.module.head(x[0])
        return logits[1] - logits[0], torch.stack(maps)
    return model.module.head(x[-model.autoencoder.config.response_patches :]).max(-1).values.sum(), torch.stack(maps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_finite_differences(kind, variant, trials):
    model = model_of(kind, trials, **{"layers": 2, "patch_frames": 10, **VARIANTS[variant]})
    x, neuron, stimulus, _ = inputs_of(model, trials)
    ds = trials.dataset()
    context = ds["dff"].values[:1, :1, :30]
    found = rollout_of(model, context, ds["neuron"].values[:1], ds["condition"].values[:1], gradient=True).isel(trial=0, neuron=0)
    model.module.double()
    seen = []
    hook = model.module.encoder.stack.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    model.module(x[0, 0][None].double(), neuron[0, 0][None], stimulus[0, 0][None])
    hook.remove()
    _, maps = replay(model, seen[0])
    np.testing.assert_allclose(maps, found["attention"], atol=1e-5)
    gradient, step = torch.zeros_like(maps), 1e-5
    for at in np.ndindex(*maps.shape):
        nudge = torch.zeros_like(maps)
        nudge[at] = step
        gradient[at] = (replay(model, seen[0], nudge)[0] - replay(model, seen[0], -nudge)[0]) / (2 * step)
    raising = (maps * gradient).clamp(min=0).mean(1).numpy()
    size, product = raising.shape[-1], np.eye(raising.shape[-1])
    rows_left = 0
    for layer in raising:
        total = layer.sum(-1, keepdims=True)
        rows_left += int((total < 1e-9).sum())
        product = (np.where(total < 1e-9, np.eye(size), layer / np.maximum(total, 1e-9)) + np.eye(size)) / 2 @ product
    np.testing.assert_allclose(found["gradient_rollout"], product, atol=2e-4)
    # in the last layer only the tokens that are read matter: the other rows are the identity
    assert rows_left >= size - (1 if kind is QuantFormerClassifier else 2)


def test_gradients_leave_the_model_as_it_was(trials):
    model = model_of(QuantFormerClassifier, trials)
    before = model.digest()
    with torch.no_grad():
        attention_rollout(model, trials, gradient=True)
    assert model.digest() == before and not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    assert not any(block.attention._forward_hooks for block in model.module.encoder.stack.blocks)


# --- arrays, pieces, sessions


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_give_what_trials_give(kind, trials):
    model = model_of(kind, trials)
    ds = trials.dataset()
    out = rollout_of(model, ds["dff"].values[..., :30], ds["neuron"].values, ds["condition"].values, gradient=True)
    whole = attention_rollout(model, trials, by="observation", gradient=True)
    assert list(out["neuron"].values) == trials.neurons and list(out["condition"].values) == list(ds["condition"].values)
    for name in whole.data_vars:
        assert out[name].dims == whole[name].dims
        np.testing.assert_array_equal(out[name], whole[name])
    context = ds["dff"].values[2:4, :1, :30]
    context[1, 0, 7] = np.nan  # one frame
    part = rollout_of(model, context, ds["neuron"].values[:1], ds["condition"].values[2:4])
    assert list(part["observations"].values[:, 0]) == [1, 0] and part["rollout"][1].isnull().all()
    np.testing.assert_allclose(part["rollout"][0, 0], whole["rollout"][2, 0], atol=1e-6)


@pytest.mark.parametrize("by", ["stimulus", "neuron", "observation"])
def test_pieces_do_not_change_the_result(by, trials, monkeypatch):
    model = model_of(QuantFormerForecaster, trials)
    whole = attention_rollout(model, trials, by=by, gradient=True)
    monkeypatch.setattr(attention, "CHUNK", 11)
    monkeypatch.setattr(attention, "CHUNK_VALUES", 10**9 if by == "neuron" else 3 * 2 * 9**2 * 3)
    assert attention._chunk(model) == (11 if by == "neuron" else 3)
    xr.testing.assert_allclose(attention_rollout(model, trials, by=by, gradient=True), whole, atol=1e-5)


def test_sessions_are_pooled_by_key():
    """A cell matched across two sessions averages over both; observations keep theirs apart."""
    sessions = [
        toy_session(i, n_neurons=3, n_conditions=2, n_blocks=2, repeats=1, session=f"s{i}", cells=[["a", "b", "c"], ["b", "c", "d"]][i], matched=True)
        for i in (0, 1)
    ]
    both = cut(sessions)
    assert both.neurons == ["mouse/a", "mouse/b", "mouse/c", "mouse/d"]
    model = model_of(QuantFormerClassifier, both)
    out = attention_rollout(model, both, by="neuron")
    assert list(out["neuron"].values) == both.neurons and list(out["observations"].values) == [4, 8, 8, 4]
    apart = [attention_rollout(model, part, by="neuron") for part in both.by_session()]
    np.testing.assert_allclose(out["rollout"].sel(neuron="mouse/b"), (apart[0]["rollout"][1] + apart[1]["rollout"][0]) / 2, atol=1e-6)
    each = attention_rollout(model, both, by="observation")
    assert each.sizes["trial"] == 8 and list(each["trial"].values[[0, 4]]) == ["mouse/s0/0", "mouse/s1/0"]
    np.testing.assert_array_equal(each["observations"].sum("trial"), [4, 8, 8, 4])
    np.testing.assert_allclose(each["rollout"].mean("trial"), out["rollout"], atol=1e-6)
    assert "session" not in out.attrs and apart[0].attrs["session"] == "mouse/s0"


# --- refusals


def test_what_has_no_attention_is_refused(trials):
    model = model_of(QuantFormerClassifier, trials)
    for other, name in ((CopyLast(), "CopyLast"), (model.autoencoder, "Autoencoder"), (model.module, "ActivationClassifier"), (None, "NoneType")):
        with pytest.raises(QfError, match=f"model: expected .*{name}.* no attention"):
            attention_rollout(other, trials)
        with pytest.raises(QfError, match="model: expected"):
            rollout_of(other, np.zeros((1, 1, 30)), ["mouse/one/0"], ["gratings/orientation=0"])


def test_unknown_groups_neurons_and_empty_choices_are_named(trials):
    model = model_of(QuantFormerClassifier, trials)
    with pytest.raises(QfError, match="by: expected one of stimulus, condition, neuron, observation, found 'block'"):
        attention_rollout(model, trials, by="block")
    with pytest.raises(QfError, match="trials: expected at least one trial"):
        attention_rollout(model, trials.subset([]))
    more = cut(toy_session(3, n_neurons=5, n_conditions=6, n_blocks=2, repeats=1, stimuli=("gratings", "scenes")))
    with pytest.raises(UnknownKeyError, match="mouse/one/4"):
        attention_rollout(model, more)
    context, first = np.zeros((1, 1, 30), np.float32), trials.conditions[0]
    with pytest.raises(UnknownKeyError, match="mouse/one/4"):
        rollout_of(model, context, ["mouse/one/4"], [first])
    with pytest.raises(UnknownKeyError, match="gratings/orientation=1"):
        rollout_of(model, context, ["mouse/one/0"], ["gratings/orientation=1"])
    for wrong in (context[0], np.zeros((1, 1, 31)), np.zeros((1, 2, 30))):
        with pytest.raises(QfError, match=r"context: expected shape .* \(1, 1, 30\)"):
            rollout_of(model, wrong, ["mouse/one/0"], [first])
    with pytest.raises(QfError, match="context"):
        rollout_of(model, np.zeros((0, 1, 30)), ["mouse/one/0"], [])


@pytest.mark.parametrize("by", ["stimulus", "observation"])
def test_no_whole_baseline_is_told(by, trials):
    with_one = cut(
        toy_session(3, n_neurons=4, n_conditions=6, n_blocks=2, repeats=1, stimuli=("gratings", "scenes"), change=hide_one), neurons=HIDDEN[0]
    )
    model = model_of(QuantFormerClassifier, trials)
    with pytest.raises(QfError, match="none among 1 "):
        attention_rollout(model, with_one.subset([HIDDEN[1]]), by=by)
    out = attention_rollout(model, with_one.subset([HIDDEN[1], 3]), by="condition")
    assert sorted(out["observations"].values) == [0, 1]
    assert out["rollout"].isel(condition=int(np.argmin(out["observations"].values))).isnull().all()


def test_a_result_too_large_is_refused(trials, monkeypatch):
    model = model_of(QuantFormerClassifier, trials)
    monkeypatch.setattr(attention, "MOST_BYTES", 100_000)
    monkeypatch.setattr(attention, "CHUNK", 8)
    attention_rollout(model, trials)
    for call in (
        lambda: attention_rollout(model, trials, by="observation"),
        lambda: rollout_of(model, np.zeros((40, 1, 30)), ["mouse/one/0"], [trials.conditions[0]] * 40),
    ):
        with pytest.raises(QfError, match="trials: expected at most 0.0001 GB"):
            call()


def test_what_a_prediction_is_read_from(trials):
    out = attention_rollout(model_of(QuantFormerForecaster, trials), trials)["rollout"]
    masked = [f"[MASK]{i}" for i in (1, 2, 3)]
    np.testing.assert_allclose(readout(out), out.sel(token=masked).mean("token"), rtol=1e-6)
    np.testing.assert_array_equal(readout(out, "[MASK]2"), out.sel(token="[MASK]2"))
    assert readout(out).attrs == out.attrs
    with pytest.raises(UnknownKeyError, match=r"\[CLS\]"):
        readout(out, "[CLS]")
    out = attention_rollout(model_of(QuantFormerClassifier, trials), trials)
    xr.testing.assert_equal(readout(out)["rollout"], out["rollout"].sel(token="[CLS]", drop=True))
    with pytest.raises(UnknownKeyError, match=r"\[MASK\]"):
        readout(out, "[MASK]")
