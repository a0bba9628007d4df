"""Codes: what they decode to, alone and among others, and how they are used. On toy recordings and a tiny model."""

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
from helpers import needs, toy_session, untaught
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_codes import PAD_AFTER, PAD_BEFORE, TINY, K, L, P, T, far_but_one, holes, padded, rms, some_sequences, with_weights, without_attention

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.interpret.codes import BLOCK, burst, codebook, decode_codes, reconstruction_error, run_lengths, swap, swaps, transitions
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.plots import codes as draw
from qf_toolkit.plots.training import plot_code_usage
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught


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
        codebook(SimpleNamespace(autoencoder=model, has_codes=True))  # as forecasters and classifiers have it
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


@needs("openTSNE", "interpret")
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
