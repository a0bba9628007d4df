"""Figures of attention show the numbers they were given."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from attention_models import KINDS, hide_one, model_of
from helpers import toy_session, untaught
from matplotlib.collections import QuadMesh

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.quantformer.activation import QuantFormerClassifier
from qf_toolkit.interpret.attention import attention_rollout, readout
from qf_toolkit.plots.attention import figure_heads, figure_rollout, figure_rollout_conditions, plot_heads, plot_rollout, plot_rollout_map
from qf_toolkit.plots.style import provenance
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught


@pytest.fixture(scope="module")
def trials():
    session = toy_session(3, n_neurons=4, n_conditions=6, n_blocks=2, repeats=1, stimuli=("gratings", "scenes"), change=hide_one)
    return cut(session)


# --- figures


@pytest.fixture(scope="module")
def rolled(trials):
    return {
        kind.kind: attention_rollout(model_of(kind, trials, **sizes), trials, by="condition", gradient=True)
        for kind, sizes in zip(KINDS, ({}, {"layers": 1, "heads": 1}), strict=True)
    }


def simulated(dataset):
    return dataset.assign_attrs(simulated=1)


def is_heat(ax):
    """Whether a heat map is drawn here; a colour bar has none of its cells."""
    return any(isinstance(c, QuadMesh) for c in ax.collections) and ax.get_label() != "<colorbar>"


def legible(fig):
    """Nothing is cut off at the figure's edge, no label lies on another, and none is smaller than 6 pt."""
    fig.canvas.draw()
    box = fig.get_tightbbox()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < fig.get_figwidth() + 0.02 and box.y1 < fig.get_figheight() + 0.02
    shown = [ax for ax in fig.axes if ax.axison]
    texts = [t for ax in shown for t in (ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title) if t.get_text()]
    ticks = [t for ax in shown for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    assert all(t.get_fontsize() >= 6 for t in texts + ticks)
    boxes = [t.get_window_extent() for t in [*texts, *fig.legends, *fig.texts]]
    for i, one in enumerate(boxes):
        assert not any(one.shrunk(0.95, 0.95).overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize("kind", ["classifier", "forecaster"])
def test_bars_are_the_row_of_the_whole_stack(rolled, kind):
    one = rolled[kind].isel(condition=2)
    _, ax = plt.subplots()
    assert plot_rollout(one, ax=ax) is ax
    expected = readout(one["rollout"].isel(layer=-1)).values
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for group in ax.containers for bar in group}
    np.testing.assert_allclose([heights[i] for i in range(len(expected))], expected)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), readout(one["gradient_rollout"]).values)
    assert [c.get_label() for c in ax.containers] == ["learned token", "patch before the onset", "[MASK]"][: 2 if kind == "classifier" else 3]
    assert len({c[0].get_facecolor() for c in ax.containers}) == len(ax.containers)
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == {
        "classifier": ["[CLS]", "[NEURON]", "[STIM]", "−3.2", "−2.4", "−1.6", "−0.8"],
        "forecaster": ["[NEURON]", "[STIM]", "−3.2", "−2.4", "−1.6", "−0.8", "[MASK] 0.0", "[MASK] 0.8", "[MASK] 1.6"],
    }[kind]  # fmt: skip
    _, ax = plt.subplots()
    plot_rollout(one["rollout"], row="[STIM]", ax=ax)
    np.testing.assert_allclose(sum(bar.get_height() for group in ax.containers for bar in group), 1, atol=1e-5)
    assert "[STIM]" in ax.get_ylabel()


def test_heat_maps_hold_the_numbers(rolled):
    one = rolled["classifier"].isel(condition=1)
    _, axes = plt.subplots(1, 2)
    final = one["rollout"].isel(layer=-1)
    assert plot_rollout_map(final, ax=axes[0]) is axes[0]
    image = axes[0].collections[0]
    np.testing.assert_allclose(image.get_array(), final)
    assert image.norm.vmax == pytest.approx(float(final.where(~np.eye(7, dtype=bool)).max()))
    assert plot_heads(one, source="[STIM]", ax=axes[1]) is axes[1]
    expected = one["head_rollout"].sel(token="[CLS]", source="[STIM]")
    np.testing.assert_allclose(axes[1].collections[0].get_array(), expected)
    assert axes[0].get_title() == "after layer 3" and axes[1].get_title() == "share of [STIM] in [CLS]"
    assert axes[1].texts[3].get_text() == f"{100 * float(expected[1, 1]):.1f}"
    assert not axes[1].yaxis_inverted() and axes[1].get_ylabel() == "layer"


def test_figures_refuse_what_they_cannot_show(rolled, trials):
    data, each = rolled["classifier"], attention_rollout(model_of(QuantFormerClassifier, trials), trials, by="observation")
    for call in (lambda: plot_rollout(data), lambda: plot_heads(data), lambda: plot_rollout_map(data["rollout"].isel(layer=0))):
        with pytest.raises(QfError, match="one group"):
            call()
    with pytest.raises(UnknownKeyError, match="source"):
        plot_heads(data.isel(condition=0), source="t9")
    with pytest.raises(QfError, match="group: expected one of 6"):
        figure_heads(data)
    with pytest.raises(UnknownKeyError, match="nothing"):
        figure_heads(data, group="nothing")
    for draw in (figure_rollout, figure_rollout_conditions, figure_heads):
        with pytest.raises(QfError, match="by stimulus"):
            draw(each)
    with pytest.raises(QfError, match="at most 24 groups"):
        figure_rollout(xr.concat([data] * 5, "condition"))


@pytest.mark.parametrize("kind", ["classifier", "forecaster"])
def test_a_panel_for_each_group(rolled, kind):
    data = simulated(rolled[kind]).isel(condition=[0, 2, 3, 4, 5] if kind == "classifier" else [1])
    fig = figure_rollout(data)
    above = [ax for ax in fig.axes if ax.containers]
    below = [ax for ax in fig.axes if is_heat(ax) and ax.axison]
    assert len(above) == len(below) == data.sizes["condition"]
    for i, (top, heat) in enumerate(zip(above, below, strict=True)):
        one = data.isel(condition=i)
        np.testing.assert_allclose(sorted(bar.get_height() for c in top.containers for bar in c), np.sort(readout(one["rollout"].isel(layer=-1))))
        np.testing.assert_allclose(heat.collections[0].get_array(), readout(one["rollout"]))
        highest = max(bar.get_height() for c in top.containers for bar in c)
        assert top.get_ylim()[1] >= max(highest, top.lines[0].get_ydata().max()) and top.get_ylim() == above[0].get_ylim()
        assert top.get_title().endswith(f"{int(one['observations'])} observations")
    assert "simulated data" in [t.get_text() for t in fig.texts]
    assert provenance(fig)["sources"][0]["model"] == data.attrs["model"]
    legible(fig)


@pytest.mark.parametrize("n", [1, 6, 60])
def test_conditions_line_by_line(rolled, n):
    data = rolled["classifier"]
    keys = [f"{'gratings' if i % 2 else 'scenes'}/orientation={45 * i}" for i in range(n)]
    data = data.isel(condition=np.arange(n) % 6).assign_coords(condition=np.array(keys, object))
    rng = np.random.default_rng(0)
    data["rollout"] = data["rollout"] * xr.DataArray(rng.uniform(0.5, 1.5, n), dims="condition")
    fig = figure_rollout_conditions(simulated(data))
    left = [ax for ax in fig.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in left] == (["gratings", "scenes"] if n > 1 else ["scenes"])
    expected = readout(data["rollout"].isel(layer=-1))
    for ax in left:
        wanted = [f"{ax.get_title(loc='left')}/orientation={t.get_text().removeprefix('ori=')}" for t in ax.get_yticklabels()]
        np.testing.assert_allclose(ax.collections[0].get_array(), expected.sel(condition=wanted))
        assert [float(k.split("=")[1]) for k in wanted] == sorted(float(k.split("=")[1]) for k in wanted)
    images = [ax.collections[0].get_array() for ax in fig.axes if is_heat(ax)]
    if n > 1:
        difference = 100 * (expected - expected.mean("condition"))
        assert max(float(np.abs(a).max()) for a in images) == pytest.approx(float(np.abs(difference).max()), rel=1e-5)
    assert "simulated data" in [t.get_text() for t in fig.texts]
    legible(fig)


@pytest.mark.parametrize("kind", ["classifier", "forecaster"])
def test_a_map_for_each_layer_and_head(rolled, kind):
    data = rolled[kind]
    key = str(data["condition"].values[3])
    fig = figure_heads(data, group=key)
    maps = data["attention"].sel(condition=key)
    shown = {}
    for ax in fig.axes[: maps.sizes["layer"] * maps.sizes["head"]]:
        at = ax.get_subplotspec()
        shown[maps.sizes["layer"] - at.rowspan.start, at.colspan.start + 1] = ax.collections[0].get_array()
    for (layer, head), found in shown.items():
        np.testing.assert_allclose(found, maps.sel(layer=layer, head=head))
    assert len(shown) == maps.sizes["layer"] * maps.sizes["head"]
    legible(fig)
