"""Figures of neuron tokens and of their probes."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from helpers import needs, toy_session
from token_tables import gaussian, named, probe_data, text_labels

from qf_toolkit.errors import QfError
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.interpret.neurons import linear_probe, neuron_statistics
from qf_toolkit.plots.neurons import figure_neuron_tokens, plot_probe, plot_tokens
from qf_toolkit.plots.style import provenance
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
needs_tsne = needs("openTSNE", "interpret")


# ---- figures


def drawn(ax):
    """{label of the legend: points (n, 2)}."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if not c.get_label().startswith("_")}


@needs_tsne
def test_points_are_split_at_the_median_and_ties_are_said():
    embedding = tsne(gaussian(9).assign_attrs(model="m"))
    values = named(np.array([0, 0, 0, 0, 0, 0, 2.0, 3, np.nan]), simulated=1).rename("n_activations")
    _, ax = plt.subplots()
    assert plot_tokens(embedding, values[::-1], ax=ax) is ax
    found = drawn(ax)
    assert list(found) == ["no value (1)", "at or below median 0 (6)", "above median 0 (2)"]
    np.testing.assert_allclose(found["above median 0 (2)"], embedding.values[6:8])
    np.testing.assert_allclose(found["at or below median 0 (6)"], embedding.values[:6])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(found)
    assert ax.get_title(loc="left") == "number of activations" and "t-SNE 1" in ax.get_xlabel()
    assert [t.get_text() for t in ax.figure.texts] == ["simulated data"] and {"model": "m"}.items() <= provenance(ax.figure)["sources"][0].items()


@needs_tsne
def test_continuous_values_have_a_colour_bar():
    embedding, values = tsne(gaussian(12)), named(np.arange(12.0), units="dF/F").rename("sd")
    _, ax = plt.subplots()
    plot_tokens(embedding, values, ax=ax, how="continuous")
    np.testing.assert_allclose(ax.collections[-1].get_array(), np.arange(12))
    assert ax.child_axes[0].get_ylabel() == "standard deviation (dF/F)" and ax.get_xlabel() == "t-SNE 1 (no unit)"
    plot_tokens(embedding.assign_attrs(moved=1), values, ax=ax, how="continuous")
    assert ax.get_xlabel() == "t-SNE 1 of the tokens' moves (no unit)"


@needs_tsne
def test_directions_are_arrows_of_their_own_colours():
    embedding = tsne(gaussian(16))
    labels = [f"drifting_gratings/orientation={45 * (i % 8)},temporal_frequency={1 + i // 8}" for i in range(16)]
    _, axes = plt.subplots(1, 3)
    plot_tokens(embedding, named(np.array(labels, object)), ax=axes[0])
    found = drawn(axes[0])
    assert list(found)[:8] == [f"{45 * i}° (2)" for i in range(8)] and list(found)[8:] == ["temporal frequency 1", "temporal frequency 2"]
    np.testing.assert_allclose(found["90° (2)"], embedding.values[[2, 10]])
    parts = [c for c in axes[0].collections if c.get_label().endswith("(2)")]
    assert len({tuple(c.get_facecolor()[0]) for c in parts}) == 8
    assert parts[0].get_sizes()[0] < parts[0].get_sizes()[1]
    tips = [c.get_paths()[0].vertices[1] for c in parts]
    np.testing.assert_allclose([np.rad2deg(np.arctan2(y, x)) % 360 for x, y in tips], 45 * np.arange(8), atol=1e-6)
    # the same colour once around: 0 and 180 degrees of an orientation are one
    plot_tokens(embedding, named(np.array([f"static_gratings/orientation={30 * (i % 6)}" for i in range(16)], object)), ax=axes[1])
    assert len(drawn(axes[1])) == 6
    plot_tokens(embedding, named(np.array(["a/blank", "b/orientation=3"] * 8, object)), ax=axes[2])
    assert sorted(drawn(axes[2])) == ["a/blank (8)", "b/orientation=3 (8)"]


@needs_tsne
def test_of_many_categories_the_most_frequent_are_told_apart():
    n = 60
    kinds = np.concatenate([np.repeat(np.arange(6), 6), np.arange(6, 30)])
    _, ax = plt.subplots()
    plot_tokens(tsne(gaussian(n)), named(np.array([f"natural_scenes/image={k}" for k in kinds], object)), ax=ax)
    assert list(drawn(ax)) == [*(f"image={k} (6)" for k in range(6)), "24 others (24)"]
    parts = [c for c in ax.collections if c.get_label().startswith("image")]
    assert len({tuple(c.get_facecolor()[0]) for c in parts}) == 6 and len({c.get_paths()[0].vertices.tobytes() for c in parts}) == 6


@needs_tsne
def test_plots_refuse_what_cannot_be_drawn():
    embedding = tsne(gaussian(8))
    _, ax = plt.subplots()
    with pytest.raises(QfError, match="same neurons"):
        plot_tokens(embedding, named(np.arange(8.0), "other/"), ax=ax)
    with pytest.raises(QfError, match="labels"):
        plot_tokens(embedding, text_labels(np.arange(8)), ax=ax, how="median")
    with pytest.raises(QfError, match="how"):
        plot_tokens(embedding, named(np.arange(8.0)), ax=ax, how="above")
    with pytest.raises(QfError, match="no median"):
        figure_neuron_tokens(embedding, xr.Dataset({"sd": named(np.arange(8.0))}))


@needs_tsne
def test_figure_a10_has_its_four_panels():
    statistics = neuron_statistics(cut(toy_session(n_neurons=12)))
    tokens = gaussian(12)
    tokens["neuron"] = statistics["neuron"]
    fig = figure_neuron_tokens(tsne(tokens), statistics)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["median", "number of activations", "standard deviation", "activation probability"]
    for ax in fig.axes:
        assert sum(len(p) for p in drawn(ax).values()) == 12
    middle = f"{np.median(statistics['sd']):.3g} dF/F"
    assert list(drawn(fig.axes[2])) == [f"at or below median {middle} (6)", f"above median {middle} (6)"]
    assert any(s.get("data") == statistics.attrs["data"] for s in provenance(fig)["sources"])


def test_probes_are_bars_beside_their_control():
    found = linear_probe(*probe_data(40), n_shuffles=3)
    _, ax = plt.subplots()
    assert plot_probe(found, ax=ax) is ax
    fine = np.isfinite(found["score"].values)
    bars, control = ax.containers
    np.testing.assert_allclose([b.get_width() for b in bars], found["score"].values[fine])
    np.testing.assert_allclose([b.get_width() for b in control], found["control"].values[fine])
    lines = next(c for c in ax.collections if "95 %" in c.get_label())
    np.testing.assert_allclose([s[0, 0] for s in lines.get_segments()], found["control_high"].values[fine])
    assert [t.get_text() for t in ax.get_yticklabels()][:3] == ["linear", "noise", "constant"]
    assert "balanced accuracy" in ax.get_yticklabels()[3].get_text() and "not probed" in ax.texts[2].get_text()
