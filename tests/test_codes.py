"""Codes: what they decode to, alone and among others, how they are used, and what is drawn of it. On toy recordings and a tiny model."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.interpret.codes import BLOCK, burst, codebook, decode_codes, reconstruction_error, run_lengths, swap, swaps, transitions
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.plots import codes as draw
from qf_toolkit.plots.style import TRUTH, palette, provenance
from qf_toolkit.plots.training import plot_code_usage
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
# 30 + 20 frames at 10 Hz in patches of 8: 2 frames of padding before the window, 4 after it
TINY = {"patch_frames": 8, "width": 16, "layers": 2, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False}
K, P, L, T = 8, 7, 8, 50
PAD_BEFORE, PAD_AFTER = 2, 4


def holes(traces, trials):
    traces[1, trials["onset_frame"].iloc[3]] = np.nan


@pytest.fixture(scope="module")
def study():
    sessions = [toy_session(i, session=f"d{i}", n_neurons=4 + i, repeats=2, change=holes, source="simulation") for i in (1, 2)]
    split = split_blocks(cut(sessions))
    with pytest.warns(UserWarning, match="values missing in the window"):
        return split.train, pretrain(split, epochs=1, **TINY)


@pytest.fixture(scope="module")
def one_code(study):
    """A model whose code 3 is the nearest to everything."""
    trials, model = study
    return trials, with_weights(model, far_but_one)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def with_weights(model, change):
    model = deepcopy(model)
    with torch.no_grad():
        change(model.module)
    return model


def far_but_one(module):
    module.quantizer.codebook[[k for k in range(K) if k != 3]] += 1e3


def without_attention(module):
    for block in module.decoder.blocks:
        block.attention.out.weight.zero_()
        block.attention.out.bias.zero_()


def some_sequences(n=40, seed=0):
    return np.random.default_rng(seed).integers(0, K, (n, P))


def padded(window):
    """(time,) -> (patch, frame), NaN in the padding."""
    return np.concatenate([np.full(PAD_BEFORE, np.nan), window, np.full(PAD_AFTER, np.nan)]).reshape(P, L)


def rms(x):
    x = np.asarray(x, float)[np.isfinite(x)]
    return np.sqrt(np.mean(x**2))


def test_a_sequence_decodes_to_the_same_bits_whatever_is_beside_it(study):
    _, model = study
    sequences = some_sequences(40)
    together = decode_codes(model, sequences)
    assert together.shape == (40, T) and together.dtype == np.float32
    for n in (1, 15, 17):
        np.testing.assert_array_equal(decode_codes(model, sequences[:n]), together[:n])
    for i, sequence in enumerate(sequences):
        np.testing.assert_array_equal(decode_codes(model, sequence), together[i])
    np.testing.assert_array_equal(decode_codes(model, sequences[::-1])[::-1], together)
    with torch.no_grad():
        np.testing.assert_allclose(together, model.module.decode(torch.from_numpy(sequences)).numpy(), atol=1e-5)


def test_batches_are_all_of_one_size(study, monkeypatch):
    """Machines on which the last bits of a product depend on its rows are not at hand in each test."""
    model, shapes = study[1], set()
    decode = model.module.decode
    monkeypatch.setattr(model.module, "decode", lambda codes: shapes.add(tuple(codes.shape)) or decode(codes))
    for n in (1, 16, 40):
        decode_codes(model, some_sequences(n))
    swaps(model, 1)
    assert shapes == {(BLOCK, P)}


def test_sequences_may_be_lists_arrays_of_any_shape_or_labelled(study):
    trials, model = study
    sequences = some_sequences(6)
    expected = decode_codes(model, sequences)
    np.testing.assert_array_equal(decode_codes(model, sequences.tolist()), expected)
    np.testing.assert_array_equal(decode_codes(model, sequences.astype(float)), expected)
    np.testing.assert_array_equal(decode_codes(model, sequences.reshape(2, 3, P)), expected.reshape(2, 3, T))
    np.testing.assert_array_equal(decode_codes(model, xr.DataArray(sequences.T, dims=("patch", "n"))), expected)
    assert decode_codes(model, np.empty((0, P), int)).shape == (0, T)
    part = trials.by_session()[0]
    codes = model.codes(part)
    one = codes.isel(trial=0, neuron=0)
    scale = model.divisor(str(one["neuron"].values))
    np.testing.assert_allclose(scale * decode_codes(model, one["code"]), one["reconstruction"].values, atol=1e-5)


@pytest.mark.parametrize(
    ("sequences", "named"),
    [
        ([[0] * (P - 1)], f"expected {P} codes each, one a patch, found {P - 1}"),
        ([[0] * P, [0]], "something else"),
        (3, "something else"),
        ([[0] * (P - 1) + [K]], f"from 0 to {K - 1}, found {K}"),
        ([[0] * (P - 1) + [-1]], "-1 marks windows that are not whole"),
        ([[0.5] * P], "whole numbers"),
        ([[np.nan] * P], "whole numbers"),
        ([["a"] * P], "whole numbers"),
    ],
)
def test_sequences_that_are_none_are_refused(study, sequences, named):
    with pytest.raises(QfError, match=named):
        decode_codes(study[1], sequences)


def test_wrong_codes_places_and_models_are_named(study):
    model = study[1]
    sequence = burst(model, 1)
    for call in (lambda: burst(model, K), lambda: swap(model, sequence, 1, K), lambda: burst(model, -1), lambda: burst(model, "1")):
        with pytest.raises(QfError, match=f"code: expected 0 to {K - 1}, found"):
            call()
    for call in (
        lambda: swap(model, sequence, 0, 1),
        lambda: swap(model, sequence, P + 1, 1),
        lambda: swaps(model, [1, 9]),
        lambda: swaps(model, 1.5),
    ):
        with pytest.raises(QfError, match=f"place: expected 1 to {P}, found"):
            call()
    with pytest.raises(QfError, match="places: .*none"):
        swaps(model, [])
    with pytest.raises(QfError, match="expected one, of 7 codes"):
        swap(model, some_sequences(2), 1, 1)
    with pytest.raises(QfError, match=r"found SimpleNamespace. Pass model.autoencoder"):
        codebook(SimpleNamespace(autoencoder=model))  # as forecasters and classifiers have it
    with pytest.raises(QfError, match="found int. Load one"):
        swaps(3)


def test_a_burst_is_one_code_at_each_place(study):
    sequence = burst(study[1], 5)
    assert sequence.dims == ("patch",) and (sequence == 5).all()
    np.testing.assert_array_equal(sequence["patch"], np.arange(1, P + 1))
    np.testing.assert_allclose(sequence["start_s"], [-3.2, -2.4, -1.6, -0.8, 0, 0.8, 1.6], atol=1e-12)  # the onset is the edge of a patch


def test_a_swap_is_the_edited_sequence_decoded(study):
    _, model = study
    before = some_sequences(1)[0]
    for place, code in ((1, 2), (4, 7), (P, int(before[-1]))):
        found = swap(model, before, place, code)
        edited = before.copy()
        edited[place - 1] = code
        np.testing.assert_array_equal(found["edited"], edited)
        np.testing.assert_array_equal(found["sequence"], before)
        for name, sequence in (("before", before), ("after", edited)):
            np.testing.assert_array_equal(found[name], decode_codes(model, sequence))
            np.testing.assert_array_equal(found[name], decode_codes(model, np.stack([*some_sequences(20, 1), sequence]))[-1])
            with torch.no_grad():
                np.testing.assert_allclose(found[name], model.module.decode(torch.from_numpy(sequence[None]))[0], atol=1e-5)
        assert (found.attrs["place"], found.attrs["code"], found.attrs["replaced"]) == (place, code, before[place - 1])
    np.testing.assert_allclose(found["time"], np.arange(-30, 20) / 10)
    assert found.attrs["model"] == model.digest() and found.attrs["seed"] == 0
    np.testing.assert_array_equal(found["before"], found["after"])  # the last swap put the same code there


def test_swaps_are_all_swaps_one_by_one(study):
    _, model = study
    places = [1, 4, P]
    found = swaps(model, places)
    assert found["decoded"].dims == ("context", "code", "place", "time") and found["context_dependence"].dims == ("code", "context", "place")
    for place in places:
        own = [padded(decode_codes(model, np.full(P, code)))[place - 1] for code in range(K)]
        for context in range(K):
            for code in range(K):
                sequence = np.full(P, context)
                sequence[place - 1] = code
                patch = padded(decode_codes(model, sequence))[place - 1]
                np.testing.assert_array_equal(found["decoded"].sel(context=context, code=code, place=place), patch)
                dependence = float(found["context_dependence"].sel(context=context, code=code, place=place))
                assert dependence == pytest.approx(rms(patch - own[code]), rel=1e-5, abs=1e-12)
                assert (dependence == 0) == (code == context)
    np.testing.assert_allclose(found["start_s"], [-3.2, -0.8, 1.6])
    missing = np.isnan(found["decoded"].isel(context=0, code=1)).values
    np.testing.assert_array_equal(missing.sum(1), [PAD_BEFORE, 0, PAD_AFTER])
    assert missing[0, :PAD_BEFORE].all() and missing[2, -PAD_AFTER:].all()


def test_all_places_are_taken_where_none_is_named(study):
    _, model = study
    found = swaps(model)
    assert found["place"].values.tolist() == list(range(1, P + 1))
    xr.testing.assert_identical(found.sel(place=[4]), swaps(model, 4))


def test_without_attention_a_code_does_not_depend_on_its_context(study):
    _, model = study
    assert swaps(model, 3)["context_dependence"].values.max() > 1e-4
    deaf = with_weights(model, without_attention)
    assert (swaps(deaf)["context_dependence"] == 0).all()
    found = swap(deaf, some_sequences(1)[0], 4, 1)
    changed = padded(found["before"].values) != padded(found["after"].values)
    changed[np.isnan(padded(found["before"].values))] = False
    np.testing.assert_array_equal(np.flatnonzero(changed.any(1)), [3])


def test_the_hash_of_a_model_follows_its_weights(study):
    model = deepcopy(study[1])
    before = burst(model, 0).attrs["model"]
    assert before == burst(model, 1).attrs["model"] == model.digest()
    with torch.no_grad():
        model.module.quantizer.codebook.add_(1)
    assert burst(model, 0).attrs["model"] == model.digest() != before


def test_prototypes_are_the_mean_patch_of_a_burst(study):
    _, model = study
    found = codebook(model)
    for code in range(K):
        patches = padded(decode_codes(model, np.full(P, code)))
        for frame in range(L):
            values = [patch[frame] for patch in patches if np.isfinite(patch[frame])]
            assert float(found["prototype"][code, frame]) == pytest.approx(np.mean(values, dtype=np.float64), abs=1e-6)
    np.testing.assert_allclose(found["level"], found["prototype"].mean("time"))
    np.testing.assert_allclose(found["amplitude"], found["prototype"].max("time") - found["prototype"].min("time"))
    np.testing.assert_array_equal(found["vector"], model.module.quantizer.vectors.detach().numpy())
    np.testing.assert_allclose(found["time"], np.arange(L) / 10)
    assert "usage" not in found and found.attrs["model"] == model.digest()


def test_usage_and_mean_patches_are_those_of_the_trials(study):
    trials, model = study
    found = codebook(model, trials)
    counts, values = np.zeros(K, int), [[[] for _ in range(L)] for _ in range(K)]
    left_out = 0
    for part in trials.by_session():
        codes, truth = model.codes(part)["code"].values, part.dataset()
        left_out += int((codes < 0).all(-1).sum())
        counts += np.bincount(codes[codes >= 0], minlength=K)
        for trial, neuron in np.argwhere((codes >= 0).all(-1)):
            patches = padded(truth["dff"].values[trial, neuron] / model.divisor(str(truth["neuron"].values[neuron])))
            for code, patch in zip(codes[trial, neuron], patches, strict=True):
                for frame, value in enumerate(patch):
                    if np.isfinite(value):
                        values[code][frame].append(value)
    assert left_out > 0 and (counts > 0).sum() > 1
    np.testing.assert_array_equal(found["count"], counts)
    np.testing.assert_allclose(found["usage"], counts / counts.sum())
    usage = model.code_usage(trials)
    assert found.attrs["perplexity"] == pytest.approx(usage.attrs["perplexity"]) and found.attrs["codes_used"] == usage.attrs["codes_used"]
    expected = [[np.mean(v, dtype=np.float64) if v else np.nan for v in frames] for frames in values]
    np.testing.assert_allclose(found["mean_patch"], expected, atol=1e-6)
    assert found.attrs["data"] == trials.digest() and found.attrs["simulated"] == 1
    xr.testing.assert_identical(found[["prototype"]].drop_attrs(), codebook(model)[["prototype"]].drop_attrs())


def test_trials_without_a_whole_window_have_no_codes(study):
    trials, model = study
    part = trials.by_session()[0]
    blank = toy_session(1, session="d1", n_neurons=5, repeats=2, change=lambda traces, _: traces[:, ::20].fill(np.nan))
    broken = replace(part, source=cut(blank).source)
    with pytest.raises(QfError, match="none"):
        codebook(model, broken)


codes_with_gaps = arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 9)), elements=st.integers(-1, 4))


def as_dataset(codes, **attrs):
    return xr.Dataset({"code": (("trial", "neuron", "patch"), codes)}, attrs=attrs)


@settings(max_examples=40)
@given(codes_with_gaps, codes_with_gaps)
def test_transitions_are_counted_inside_windows(first, second):
    if max(first.max(), second.max()) < 0:
        with pytest.raises(QfError, match="at least one code"):
            transitions([as_dataset(first), as_dataset(second)])
        return
    expected = np.zeros((5, 5), int)
    for codes in (first, second):
        for sequence in codes.reshape(-1, codes.shape[-1]).tolist():
            for one, following in pairwise(sequence):
                if one >= 0 and following >= 0:
                    expected[one, following] += 1
    found = transitions([as_dataset(first), as_dataset(second)], 5)
    np.testing.assert_array_equal(found["count"], expected)
    followed = expected.sum(1) > 0
    np.testing.assert_allclose(found["probability"].sum("next_code").values[followed], 1)
    np.testing.assert_allclose(found["probability"].values[followed], expected[followed] / expected[followed].sum(1, keepdims=True))
    assert np.isnan(found["probability"].values[~followed]).all()


@settings(max_examples=40)
@given(codes_with_gaps)
def test_runs_add_up_to_the_places(codes):
    if codes.max() < 0:
        return
    runs = [[] for _ in range(5)]
    for sequence in codes.reshape(-1, codes.shape[-1]).tolist():
        length = 0
        for i, code in enumerate(sequence):
            length += 1
            if i + 1 == len(sequence) or sequence[i + 1] != code:
                if code >= 0:
                    runs[code].append(length)
                length = 0
    found = run_lengths(as_dataset(codes), 5)
    assert [int(n) for n in found["number"]] == [len(r) for r in runs]
    assert [int(n) for n in found["longest"]] == [max(r, default=0) for r in runs]
    np.testing.assert_allclose(found["mean_length"], [np.mean(r) if r else np.nan for r in runs])
    assert int((found["runs"] * found["length"]).sum()) == (codes >= 0).sum()


def test_codes_of_several_sessions_must_be_of_one_model(study):
    trials, model = study
    parts = [model.codes(part) for part in trials.by_session()]
    found = transitions(parts, K)
    assert found.sizes == {"code": K, "next_code": K}
    assert int(found["count"].sum()) == sum(int((p["code"] >= 0).all("patch").sum()) * (P - 1) for p in parts)
    assert found.attrs["model"] == model.digest() and found.attrs["simulated"] == 1 and found.attrs["session"] == "mouse/d1+mouse/d2"
    np.testing.assert_array_equal(found["count"], transitions(parts[0], K)["count"] + transitions(parts[1]["code"], K)["count"])
    assert int((run_lengths(parts)["runs"] * run_lengths(parts)["length"]).sum()) == sum(int((p["code"] >= 0).sum()) for p in parts)
    with pytest.raises(QfError, match="one model"):
        transitions([parts[0], parts[1].assign_attrs(model="another")])
    with pytest.raises(QfError, match="n_codes: expected at least"):
        transitions(parts, 1)
    with pytest.raises(QfError, match="found str"):
        run_lengths(["code"])


def test_what_quantisation_loses(study):
    trials, model = study
    part = trials.by_session()[0]
    truth, codes = part.dataset(), model.codes(part)
    found = reconstruction_error(truth, codes)
    x, y = truth["dff"].values.astype(float), codes["reconstruction"].values
    whole = np.isfinite(x).all(-1)
    trial, neuron = np.argwhere(whole)[5]
    error = x[trial, neuron] - y[trial, neuron]
    assert float(found["rms"][trial, neuron]) == pytest.approx(np.sqrt(np.mean(error**2)))
    assert float(found["explained"][trial, neuron]) == pytest.approx(1 - np.sum(error**2) / np.sum((x[trial, neuron] - x[trial, neuron].mean()) ** 2))
    np.testing.assert_array_equal(np.isfinite(found["rms"]), whole)
    deviation = x[whole] - x[whole].mean(-1, keepdims=True)
    assert found.attrs["rms"] == pytest.approx(np.sqrt(np.mean((x - y)[whole] ** 2))) and found.attrs["observations"] == whole.sum()
    assert found.attrs["explained"] == pytest.approx(1 - np.sum((x - y)[whole] ** 2) / np.sum(deviation**2))
    # fewer trials on one side: what both have
    assert reconstruction_error(truth, codes.isel(trial=[2, 4])).sizes["trial"] == 2
    with pytest.raises(QfError, match="mouse/d2"):
        reconstruction_error(truth, model.codes(trials.by_session()[1]))
    with pytest.raises(QfError, match="in this order"):
        reconstruction_error(codes, truth)
    with pytest.raises(QfError, match="none"):
        reconstruction_error(truth.isel(trial=[0]), codes.isel(trial=[1]))


def test_a_codebook_of_which_one_code_is_used(one_code):
    trials, model = one_code
    found = codebook(model, trials)
    np.testing.assert_array_equal(found["usage"], np.arange(K) == 3)
    assert found.attrs["perplexity"] == pytest.approx(1) and found.attrs["codes_used"] == 1
    assert np.isnan(found["mean_patch"].values[np.arange(K) != 3]).all() and np.isfinite(found["mean_patch"].values[3]).all()
    part = trials.by_session()[0]
    codes = model.codes(part)
    following = transitions(codes, K)
    assert float(following["probability"][3, 3]) == 1 and np.isnan(following["probability"].values[np.arange(K) != 3]).all()
    runs = run_lengths(codes)
    assert int(runs["longest"][3]) == P and float(runs["mean_length"][3]) == P
    assert (np.diagonal(swaps(model, [2])["context_dependence"][..., 0]) == 0).all()
    draw.figure_quantisation(part.dataset(), codes, n=2)
    plot_code_usage(found["usage"], ax=plt.figure().gca())
    draw.plot_transitions(following, ax=plt.figure().gca())
    draw.figure_codebook(found, tsne(found["vector"] + np.eye(K, 16)))
    plt.gcf().canvas.draw()
    with pytest.raises(QfError, match="at least 4 items to map, found 1"):
        tsne(found["vector"][found["usage"].values > 0])


def test_a_reconstruction_is_drawn_over_what_was_measured(study):
    trials, model = study
    part = trials.by_session()[1]
    truth, codes = part.dataset(), model.codes(part)
    trial, neuron = int(truth["trial"][2]), str(truth["neuron"].values[3])
    _, ax = plt.subplots()
    assert draw.plot_reconstruction(truth, codes, trial, neuron, ax=ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["measured"].get_ydata(), truth["dff"].values[2, 3])
    np.testing.assert_allclose(lines["reconstruction"].get_ydata(), codes["reconstruction"].values[2, 3])
    assert lines["measured"].get_color() == TRUTH and lines["reconstruction"].get_color() == palette()[1]
    assert [t.get_text() for t in ax.texts] == [str(c) for c in codes["code"].values[2, 3]]
    edges = [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "patch"]
    np.testing.assert_allclose(edges, [-3.0, -2.4, -1.6, -0.8, 0, 0.8, 1.6, 2.0], atol=1e-12)  # the padding is not drawn
    middles = [t.get_position()[0] for t in ax.texts]
    np.testing.assert_allclose(middles, (np.array(edges[:-1]) + edges[1:]) / 2, atol=1e-12)
    assert ax.get_xlim() == pytest.approx((-3, 2)) and ax.get_ylabel() == "dF/F" and ax.get_xlabel() == "time from onset (s)"
    assert [t.get_text() for t in ax.figure.texts] == ["simulated data"]
    assert provenance(ax.figure)["sources"][-1]["model"] == model.digest()


def test_reconstructions_that_are_not_there_are_named(study):
    trials, model = study
    first, second = trials.by_session()
    truth, codes = first.dataset(), model.codes(first)
    _, ax = plt.subplots()
    with pytest.raises(UnknownKeyError, match="999"):
        draw.plot_reconstruction(truth, codes, 999, "mouse/d1/0", ax=ax)
    with pytest.raises(UnknownKeyError, match="nobody"):
        draw.plot_reconstruction(truth, codes, int(truth["trial"][0]), "nobody", ax=ax)
    with pytest.raises(QfError, match="mouse/d2"):
        draw.plot_reconstruction(truth, model.codes(second), 0, "mouse/d1/0", ax=ax)
    trial, neuron = np.argwhere((codes["code"].values < 0).all(-1))[0]
    with pytest.raises(QfError, match="whole window"):
        draw.plot_reconstruction(truth, codes, int(truth["trial"][trial]), str(truth["neuron"].values[neuron]), ax=ax)
    assert not ax.lines


def test_quantisation_shows_the_most_active_of_different_neurons_then_random(study):
    trials, model = study
    part = trials.by_session()[0]
    truth, codes = part.dataset(), model.codes(part)
    titles = []
    for seed in (0, 0, 1):
        fig = draw.figure_quantisation(truth, codes, n=6, seed=seed)
        titles.append([ax.get_title() for ax in fig.axes])
    assert titles[0] == titles[1] and titles[0][:3] == titles[2][:3] and titles[0][3:] != titles[2][3:]
    response = truth["dff"].values[..., 30:].mean(-1)
    response[~np.isfinite(truth["dff"].values).all(-1)] = np.nan
    best = np.nanmax(response, 0)
    rows = [(n, np.nanargmax(response[:, n])) for n in np.argsort(-best)[:3]]
    error = reconstruction_error(truth, codes)
    for title, (neuron, trial) in zip(titles[0][:3], rows, strict=True):
        assert title.startswith(f"most active: mouse/d1/{neuron}, trial {int(truth['trial'][trial])}\n")
        assert f"RMS error {float(error['rms'][trial, neuron]):.2g} dF/F, {100 * float(error['explained'][trial, neuron]):.0f} %" in title
    assert all(t.startswith("random: ") for t in titles[0][3:]) and len(set(titles[0])) == 6
    said = fig.legends[0].get_title().get_text()
    assert f"{error.attrs['observations']} observations" in said and f"{100 * error.attrs['explained']:.0f} % of the variance" in said
    with pytest.raises(QfError, match="n: expected at least 2"):
        draw.figure_quantisation(truth, codes, n=1)


def made_up_codebook(n=32, seed=0, **variables):
    rng = np.random.default_rng(seed)
    prototype = (rng.normal(0, 1, (n, 1)) + rng.normal(0, 0.3, (n, L))).astype(np.float32)
    return xr.Dataset(
        {"prototype": (("code", "time"), prototype), "level": ("code", prototype.mean(1)), **variables},
        {"code": np.arange(n), "time": np.arange(L) / 10},
        {"signal": "dff", "normalise": "neuron", "model": "abc"},
    )


def places_of(n, kind, seed=0):
    rng = np.random.default_rng(seed)
    places = {"spread": rng.normal(0, 5, (n, 2)), "clumped": rng.normal(0, 1e-3, (n, 2)), "same": np.zeros((n, 2))}[kind]
    return xr.DataArray(places, {"code": np.arange(n), "axis": ["x", "y"]}, ("code", "axis"), attrs={"perplexity": 10.0, "init": "pca"})


def traces_of(ax):
    return {int(line.get_gid().split()[1]): line for line in ax.lines if str(line.get_gid()).startswith("code ")}


@pytest.mark.parametrize("kind", ["spread", "clumped", "same"])
@pytest.mark.parametrize("n", [5, 40])
def test_prototypes_do_not_lie_on_each_other(kind, n):
    book = made_up_codebook(n)
    _, ax = plt.subplots()
    draw.plot_codebook(book, places_of(n, kind), ax=ax)
    boxes = np.array([[p.get_x(), p.get_y(), p.get_x() + p.get_width(), p.get_y() + p.get_height()] for p in ax.patches if p.get_gid()])
    assert len(boxes) == n
    for i in range(n):
        for j in range(i):
            a, b = boxes[i], boxes[j]
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
    for line, box in zip(traces_of(ax).values(), boxes, strict=True):  # each trace in its own box, and all of them in sight
        x, y = line.get_data()
        assert box[0] < x.min() and x.max() < box[2] and box[1] < y.min() and y.max() < box[3]
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    assert (boxes[:, 0] > left).all() and (boxes[:, 2] < right).all() and (boxes[:, 1] > bottom).all() and (boxes[:, 3] < top).all()
    assert [t.get_text() for t in ax.texts][:n] == [str(k) for k in range(n)]


def test_places_with_room_are_kept():
    book = made_up_codebook(4)
    corners = xr.DataArray([[0, 0], [0, 2.0], [2.0, 0], [2.0, 2.0]], {"code": range(4), "axis": ["x", "y"]}, ("code", "axis"))
    _, ax = plt.subplots()
    draw.plot_codebook(book, corners, ax=ax)
    centres = [[p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2] for p in ax.patches if p.get_gid()]
    np.testing.assert_allclose(centres, corners.values / 2, atol=1e-3)
    assert not [line for line in ax.lines if str(line.get_gid()).startswith("place")]


def test_traces_are_prototypes_on_one_scale_or_on_their_own():
    book = made_up_codebook(8)
    prototype = book["prototype"].values
    _, (a, b) = plt.subplots(1, 2)
    draw.plot_codebook(book, places_of(8, "spread"), ax=a)
    draw.plot_codebook(book, places_of(8, "spread"), normalise=True, ax=b)
    heights = {}
    for ax in (a, b):
        for code, line in traces_of(ax).items():
            slope, offset = np.polyfit(prototype[code], line.get_ydata(), 1)
            np.testing.assert_allclose(slope * prototype[code] + offset, line.get_ydata(), atol=1e-6)
            heights.setdefault(ax, []).append((slope, np.ptp(line.get_ydata())))
    slopes, _ = np.array(heights[a]).T
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-5)
    _, spans = np.array(heights[b]).T
    np.testing.assert_allclose(spans, spans[0], rtol=1e-5)
    # the grey line of each is its 0, and the bar has the length it says
    zero = next(line for line in a.lines if line.get_gid() == "zero").get_ydata()[0]
    first = traces_of(a)[0].get_ydata()
    assert zero == pytest.approx(first[0] - slopes[0] * prototype[0, 0], abs=1e-6)
    bar = [line for line in a.lines if line.get_gid() == "scale"][1]
    said = float(next(t.get_text() for t in a.texts if "SD" in t.get_text()).split(", ")[1].split()[0])
    assert np.ptp(bar.get_ydata()) == pytest.approx(slopes[0] * said, rel=1e-4)
    # colours go with the level
    order = np.argsort(book["level"].values)
    luminance = [np.dot(mpl.colors.to_rgb(traces_of(a)[k].get_color()), (0.299, 0.587, 0.114)) for k in order]
    assert np.argmin(luminance) == 0 and np.argmax(luminance) == 7


def test_codes_that_nothing_took_are_in_brackets_and_some_codes_may_be_left_out():
    count = np.array([3, 0, 5, 2, 0, 1])
    book = made_up_codebook(6, count=("code", count))
    _, ax = plt.subplots()
    draw.plot_codebook(book, places_of(6, "spread")[[1, 2, 3, 5]], ax=ax)
    assert [t.get_text() for t in ax.texts][:4] == ["(1)", "2", "3", "5"] and sorted(traces_of(ax)) == [1, 2, 3, 5]
    with pytest.raises(UnknownKeyError, match="code: 6"):
        draw.plot_codebook(book, places_of(7, "spread"), ax=ax)


def test_the_codebook_figure_has_both_scales(study):
    trials, model = study
    book = codebook(model, trials)
    embedding = tsne(book["vector"])
    assert embedding.attrs["model"] == model.digest()
    fig = draw.figure_codebook(book, embedding)
    panels = [ax for ax in fig.axes if traces_of(ax)]
    assert [ax.get_title("left")[0] for ax in panels] == ["a", "b"] and all(len(traces_of(ax)) == K for ax in panels)
    assert any(ax.get_ylabel() == "level, dF/F / neuron's SD" for ax in fig.axes)
    assert [t.get_text() for t in fig.texts] == ["simulated data"]


def test_a_swap_is_drawn_between_red_lines(study):
    _, model = study
    found = swap(model, burst(model, 2), P, 5)
    _, ax = plt.subplots()
    assert draw.plot_swap(found, ax=ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(lines["before, code 2 there"].get_ydata(), found["before"])
    np.testing.assert_array_equal(lines["after, code 5 there"].get_ydata(), found["after"])
    red = [line for line in ax.lines if line.get_gid() == "swapped"]
    np.testing.assert_allclose([line.get_xdata()[0] for line in red], [1.6, 2.0])  # as far as the window goes
    assert all(line.get_linestyle() == "--" and line.get_color() == draw.SWAPPED for line in red)
    assert [t.get_text() for t in ax.texts] == ["2"] * (P - 1) + ["5"]
    assert [t.get_color() == draw.SWAPPED for t in ax.texts] == [False] * (P - 1) + [True]
    assert ax.get_ylabel() == "dF/F / neuron's SD"
    _, ax = plt.subplots()
    draw.plot_swap(found, place=2, ax=ax)
    np.testing.assert_allclose([line.get_xdata()[0] for line in ax.lines if line.get_gid() == "swapped"], [-2.4, -1.6])
    with pytest.raises(QfError, match="place: expected 1 to 7, found 8"):
        draw.plot_swap(found, place=8, ax=ax)


def test_matrices_are_what_was_counted(study):
    trials, model = study
    found = swaps(model, [2, 5])
    mean = found["context_dependence"].values.mean(-1)
    _, ax = plt.subplots()
    assert draw.plot_context_dependence(found, ax=ax) is ax
    np.testing.assert_allclose(ax.collections[0].get_array(), mean)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("code", "burst it is put in (code)")
    order = np.random.default_rng(0).permutation(K)
    _, ax = plt.subplots()
    draw.plot_context_dependence(found, order=order, ax=ax)
    np.testing.assert_allclose(ax.collections[0].get_array(), mean[np.ix_(order, order)])
    assert [t.get_text() for t in ax.get_yticklabels()] == [str(k) for k in order]
    with pytest.raises(QfError, match="order: expected each code"):
        draw.plot_context_dependence(found, order=[0, 0, 1], ax=ax)
    following = transitions(model.codes(trials.by_session()[0]), K + 1)  # nothing follows the last
    _, ax = plt.subplots()
    draw.plot_transitions(following, ax=ax)
    shown = ax.collections[0].get_array()
    assert shown.mask[K].all()
    np.testing.assert_allclose(shown.filled(np.nan), following["probability"])


def test_the_use_of_the_codes_of_a_codebook_can_be_drawn(study):
    trials, model = study
    book = codebook(model, trials)
    assert all(book["usage"].attrs[name] == book.attrs[name] for name in ("data", "model", "seed", "simulated"))
    _, ax = plt.subplots()
    plot_code_usage(book["usage"], ax=ax)
    order = [int(t.get_text()) for t in ax.get_xticklabels()]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], 100 * book["usage"].values[order])
    assert f"{book.attrs['codes_used']} of {K} codes used, perplexity {book.attrs['perplexity']:.1f}" == ax.get_title()


def test_a_code_is_shown_in_bursts_from_the_least_to_the_most_telling(study):
    _, model = study
    found = swaps(model, [1, 4])
    fig = draw.figure_context(found, 6, place=4, n=3)
    change = found["context_dependence"].sel(code=6, place=4).values
    order = [k for k in np.argsort(change) if k != 6]
    panels = [ax for ax in fig.axes if ax.get_title().startswith("burst of")]
    assert [int(ax.get_title().split()[2].strip(":")) for ax in panels] == [order[0], order[3], order[-1]]
    for ax, context in zip(panels, (order[0], order[3], order[-1]), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        np.testing.assert_array_equal(lines["code 6 in this burst"], found["decoded"].sel(context=context, code=6, place=4))
        np.testing.assert_array_equal(lines["code 6 in its own burst"], found["decoded"].sel(context=6, code=6, place=4))
        np.testing.assert_array_equal(lines["the burst itself"], found["decoded"].sel(context=context, code=context, place=4))
    matrix = next(ax for ax in fig.axes if ax.get_ylabel() == "code")
    mark = next(p for p in matrix.patches if p.get_gid() == "code")
    assert mark.get_y() == 6 and mark.get_height() == 1
    fig = draw.figure_context(found, 6, contexts=np.array([1, 2]))
    assert [ax.get_title().split(":")[0] for ax in fig.axes if ax.get_title().startswith("burst")] == ["burst of 1", "burst of 2"]
    for wrong in ({"code": K}, {"code": 6, "place": 2}, {"code": 6, "contexts": [99]}):
        with pytest.raises(QfError, match="those in swaps"):
            draw.figure_context(found, **wrong)
