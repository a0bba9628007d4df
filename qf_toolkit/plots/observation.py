"""One observation (one neuron in one trial): its trace and forecasts, the codes under them, and the mean over the condition's trials."""

import numpy as np

from ..errors import QfError
from ..recordings.window import SIGNAL_LABELS
from .style import TRUTH, axes_or_current, credit, palette, style


def plot_observation(view, *, models=None, ax=None):
    """Plot the measured trace around the onset, and its forecasts with their intervals, as far as there are any.

    Parameters
    ----------
    view : xarray.Dataset
        `Observer.look(...)`.
    models : sequence of str, optional
        Names of the forecasts to draw. If None, all.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_or_current(ax)
    time = view["time"].values
    step = float(np.median(np.diff(time)))
    n, n_score = view.attrs["n_baseline"], view.attrs["n_score"]
    ax.axvspan(time[0], 0, color="0.96", lw=0, zorder=-2)
    if n + n_score < len(time):
        ax.axvspan(0, n_score * step, color="0.9", lw=0, zorder=-2)
    ax.axvline(0, color="0.5", lw=0.8)
    ax.plot(time, view["measured"].values, color=TRUTH, lw=1.0, label="measured")
    for name, color, dash in model_looks(view, models):
        mine = view.sel(model=name)
        ax.plot(time, mine["forecast"].values, color=color, ls=(0, dash) if dash else "-", label=name)
        if np.isfinite(mine["low"].values).any():
            ax.fill_between(time, mine["low"].values, mine["high"].values, color=color, alpha=0.2, lw=0)
    ax.set_xlim(time[0], time[-1] + step)
    ax.set_ylabel(SIGNAL_LABELS.get(view.attrs["signal"], view.attrs["signal"]))
    ax.set_xlabel("time from onset (s)")
    credit(ax, view)
    return ax


def plot_codes(view, *, levels=None, models=None, ax=None):
    """Plot the codes of the measured window, and those of each forecast, as strips of numbered cells.

    Parameters
    ----------
    view : xarray.Dataset
        `Observer.look(...)` with an auto-encoder.
    levels : float array, shape (code,), optional
        A number per code that colours its cells, for example the mean of its prototype. If None, the number of the code.
    models : sequence of str, optional
        Names of the forecasts to draw. If None, all.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If the view holds no codes.
    """
    from matplotlib import colormaps

    ax = axes_or_current(ax)
    rows = code_rows(view, models)
    levels = np.arange(1 + max(0, *(int(codes.max()) for _, codes in rows))) if levels is None else np.asarray(levels)
    low, high = np.nanmin(levels), np.nanmax(levels)
    for y, (_, codes) in enumerate(rows):
        for start, code in zip(view["start_s"].values, codes, strict=True):
            if code < 0:
                continue
            color = colormaps["viridis"]((levels[code] - low) / (high - low) if high > low else 0.0)
            ax.barh(y, view.attrs["patch_s"], left=start, align="center", height=0.86, color=color, edgecolor="white", lw=0.5)
            bright = np.dot(color[:3], [0.299, 0.587, 0.114]) > 0.5
            ax.text(
                start + view.attrs["patch_s"] / 2,
                y,
                str(code),
                ha="center",
                va="center",
                fontsize=6,
                color="black" if bright else "white",
                clip_on=True,
            )
    ax.axvline(0, color="0.5", lw=0.8)
    ax.set_yticks(range(len(rows)), [f"codes, {name}" for name, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("time from onset (s)")
    credit(ax, view)
    return ax


def plot_psth(view, *, ax=None):
    """Plot the mean over the trials of the condition, with one standard deviation, behind the trace of this trial.

    Parameters
    ----------
    view : xarray.Dataset
        `Observer.look(...)`.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_or_current(ax)
    time, mean, sd = (view[name].values for name in ("time", "psth", "psth_sd"))
    ax.axvline(0, color="0.5", lw=0.8)
    ax.fill_between(time, mean - sd, mean + sd, color="C2", alpha=0.2, lw=0)
    ax.plot(time, mean, color="C2")
    ax.plot(time, view["measured"].values, color=TRUTH, lw=0.7, alpha=0.6)
    ax.set_xlabel("time from onset (s)")
    ax.set_ylabel(SIGNAL_LABELS.get(view.attrs["signal"], view.attrs["signal"]))
    ax.set_title(f"mean of {view.attrs['n_same']} trials of this condition with SD (green), and this trial", fontsize=7, loc="left")
    credit(ax, view)
    return ax


def figure_observation(view, *, levels=None, models=None):
    """Trace and forecasts, codes, and the mean over the condition's trials, on one time axis.

    Parameters
    ----------
    view : xarray.Dataset
        `Observer.look(...)`.
    levels, models
        As in `plot_codes`.

    Returns
    -------
    matplotlib.figure.Figure
        It is not registered with pyplot, since a widget may make hundreds of figures.
    """
    from matplotlib.figure import Figure

    coded = "code" in view
    n_rows = len(code_rows(view, models)) if coded else 0
    heights = [2.2, *([0.28 * n_rows + 0.1] if coded else []), 1.3]
    with style():
        fig = Figure(figsize=(6.4, sum(heights) + 1.3), layout="constrained")
        axes = fig.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        plot_observation(view, models=models, ax=axes[0]).set_xlabel("")
        if coded:
            plot_codes(view, levels=levels, models=models, ax=axes[1]).set_xlabel("")
        plot_psth(view, ax=axes[-1])
        axes[0].set_title(title_of(view, "\n"), fontsize=7, loc="left")
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return fig


def title_of(view, between=" "):
    """Name the observation of a view, its condition, and whether it is active, in one text. `between` stands before the condition."""
    a = view.attrs
    active = "active" if bool(view["active"]) else "not active"
    return f"{a['neuron']}, trial {a['trial']}:{between}{a['condition']}; {active}"


def model_looks(view, models=None):
    """List (name, colour, dashes) of each drawn forecast.

    A forecaster has the same look in every view of an Observer, whichever forecasts are drawn. When all colours are taken, lines are dashed.

    Parameters
    ----------
    view : xarray.Dataset
        `Observer.look(...)`.
    models : sequence of str, optional
        Names of the forecasts to draw. If None, all.

    Returns
    -------
    list of (str, str, tuple or None)
    """
    colors, there = palette(), list(view["model"].values)
    known, wanted = view.attrs.get("forecasters", there), [m for m in there if models is None or m in models]
    return [(name, colors[known.index(name) % len(colors)], (4, 2) if known.index(name) >= len(colors) else None) for name in wanted]


def code_rows(view, models=None):
    """List (label, codes) of each strip: the measured window, then every forecast that has codes.

    Parameters
    ----------
    view : xarray.Dataset
        `Observer.look(...)`.
    models : sequence of str, optional
        Names of the forecasts to draw. If None, all.

    Returns
    -------
    list of (str, int array, shape (patch,))

    Raises
    ------
    QfError
        If the view holds no codes.
    """
    if "code" not in view:
        raise QfError("view: expected codes, found none. Pass an auto-encoder, or a QuantFormer forecaster, to the Observer.")
    wanted = view["model"].values if models is None else [m for m in view["model"].values if m in models]
    rows = [("measured", view["code"].values), *((str(m), view["forecast_code"].sel(model=m).values) for m in wanted)]
    return [(name, codes) for name, codes in rows if name == "measured" or (codes >= 0).any()]
