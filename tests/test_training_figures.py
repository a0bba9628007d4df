"""Figures of training show what they were given."""

import matplotlib as mpl

mpl.use("Agg")


import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from qf_toolkit.errors import QfError
from qf_toolkit.plots.style import palette, style
from qf_toolkit.plots.training import figure_training, plot_code_usage, plot_history

# ---------------------------------------------------------------- training


def history(loss, score):
    return [{"epoch": i, "loss": a, "score": b} for i, (a, b) in enumerate(zip(loss, score, strict=True))]


@given(score=st.lists(st.sampled_from([0.5, 0.7, 0.9, 1.1, np.nan]), min_size=1, max_size=12), factor=st.sampled_from([1, 10]))
@settings(max_examples=25, deadline=None)
def test_the_chosen_epoch_is_the_first_of_least_score(score, factor):
    fig, ax = plt.subplots()
    loss = np.full(len(score), 0.8 * factor)
    assert plot_history(history(loss, score), ax=ax) is ax
    best = None
    for i, value in enumerate(score):  # as the loop does
        if np.isfinite(value) and (best is None or value < score[best]):
            best = i
    lines = {line.get_label(): line for one in fig.axes for line in one.lines}
    np.testing.assert_array_equal(lines["training loss"].get_ydata(), loss)
    np.testing.assert_array_equal(lines["validation score"].get_ydata(), score)
    marked = [(line.get_xdata()[0], line.get_ydata()[0]) for name, line in lines.items() if name.startswith("chosen")]
    assert marked == ([] if best is None else [(best, score[best])])
    if best is not None:
        assert f"chosen: epoch {best}" in lines and len(fig.axes) == (1 if factor == 1 else 2)
    plt.close(fig)


def test_the_score_has_an_axis_of_its_own_where_it_is_another_quantity():
    with style():
        together, apart = (figure_training(history([3.0, 2.0, 1.9], s)) for s in ([3.3, 2.1, 2.2], [0.3, 0.2, 0.25]))
    assert [ax.get_ylabel() for ax in together.axes] == ["loss"]
    assert [ax.get_ylabel() for ax in apart.axes] == ["training loss", "validation score"]
    assert together.axes[0].get_xlabel() == "epoch"
    (legend,) = [ax.get_legend() for ax in apart.axes if ax.get_legend()]
    assert [t.get_text() for t in legend.get_texts()] == ["training loss", "validation score", "chosen: epoch 1"]


def test_code_usage_is_sorted_and_the_unused_are_grey():
    usage = xr.DataArray([0.3, 0.0015, 0.5, 0.0, 0.1985], dims="code", attrs={"perplexity": 2.83, "codes_used": 3, "simulated": 1})
    with style():
        fig, ax = plt.subplots()
        assert plot_code_usage(usage, ax=ax) is ax
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([50, 30, 19.85, 0.15, 0])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "0", "4", "1", "3"]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == [palette()[0]] * 3 + [to_hex("0.7")] * 2
    assert [line.get_ydata()[0] for line in ax.lines] == pytest.approx([0.2])
    assert ax.get_title() == "3 of 5 codes used, perplexity 2.8" and ax.get_ylabel() == "share of patches (%)"
    assert [t.get_text() for t in fig.texts] == ["simulated data"]


def test_training_without_epochs_or_codes_is_refused():
    with pytest.raises(QfError, match="history: expected an entry an epoch, found none. Pass model.history"):
        plot_history([])
    with pytest.raises(QfError, match="found one without score. Pass model.history"):
        figure_training([{"epoch": 0, "loss": 1.0}])
    with pytest.raises(QfError, match="usage: expected a share for each code.*Pass autoencoder.code_usage"):
        figure_training(history([1.0], [1.0]), xr.DataArray(np.ones(3), dims="patch"))
    fig = figure_training(history([1.0], [1.0]), xr.DataArray(np.full(70, 1 / 70), dims="code"))
    assert len(fig.axes) == 2 and fig.axes[1].get_title() == "70 of 70 codes used"
