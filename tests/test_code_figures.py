"""Figures of codes: reconstructions, prototypes, swaps, counts and bursts, drawn as they are."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import needs, toy_session, untaught
from small_codes import TINY, K, L, P, holes

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.interpret.codes import burst, codebook, reconstruction_error, swap, swaps, transitions
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.plots import codes as draw
from qf_toolkit.plots.style import TRUTH, palette, provenance
from qf_toolkit.plots.training import plot_code_usage
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
needs_tsne = needs("openTSNE", "interpret")
pytestmark = untaught


@pytest.fixture(scope="module")
def study():
    sessions = [toy_session(i, session=f"d{i}", n_neurons=4 + i, repeats=2, change=holes, source="simulation") for i in (1, 2)]
    split = split_blocks(cut(sessions))
    with pytest.warns(UserWarning, match="values missing in the window"):
        return split.train, pretrain(split, epochs=1, **TINY)


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


@needs_tsne
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
