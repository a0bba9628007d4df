"""Codes: what they stand for, how well they render a trace, and how much a code depends on the codes around it (paper, Fig. A-7 and A-9).

If `ax` is None, a function draws on the current axes.
"""

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..interpret.codes import reconstruction_error
from ..recordings.window import SIGNAL_LABELS
from .forecasts import _pick, _short, _signal
from .heat import heat_map
from .style import TRUTH, axes_or_current, credit, palette, style

SWAPPED = "#c1121f"  # the paper's red dashed lines


def plot_reconstruction(truth, codes, trial, neuron, *, ax=None):
    """Plot one observation as measured and as its codes render it, with the codes over their patches (Fig. A-7).

    Parameters
    ----------
    truth : xarray.Dataset
        `trials.dataset()` of one session.
    codes : xarray.Dataset
        `model.codes(trials)`: `code` (trial, neuron, patch), `reconstruction` (trial, neuron, time), coord start_s (patch).
    trial : int
        Number of the trial in its session.
    neuron : str
        Key.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If the trial or neuron is not in `truth` or `codes`.
    QfError
        If the window of this observation is not whole. It then has no codes.
    """
    ax, signal = axes_or_current(ax), _signal(truth)
    if truth.attrs.get("session") != codes.attrs.get("session"):
        raise QfError(f"codes: expected those of {truth.attrs.get('session')}, found {codes.attrs.get('session')}. Take both from the same trials.")
    measured = _pick(truth[signal], [trial], neuron, "truth")
    rendered = _pick(codes["reconstruction"], [trial], neuron, "codes")
    here = codes["code"].values[codes["trial"].values == trial][0, codes["neuron"].values.astype(str) == neuron][0]
    if (here < 0).any():
        raise QfError(f"trial: expected a whole window, found one without codes in trial {trial} of {neuron}. Choose another.")
    time = truth["time"].values
    _mark_patches(ax, codes["start_s"].values, time, here)
    ax.plot(time, measured, color=TRUTH, lw=1.0, label="measured")
    ax.plot(time, rendered, color=palette()[1], label="reconstruction")
    ax.set(xlabel="time from onset (s)", ylabel=SIGNAL_LABELS[signal])
    credit(ax, truth, codes)
    return ax


def figure_quantisation(truth, codes, *, n=8, seed=0):
    """Observations chosen by rule, and their reconstruction from codes (Fig. A-7).

    The first half are the most active observations of different neurons, the other half are drawn at random from the rest. Each title holds the
    RMS error and the share of the window's variance that is explained; the figure's title holds both over all observations.

    Parameters
    ----------
    truth, codes : xarray.Dataset
        As for `plot_reconstruction`.
    n : int
        Number of observations, at least 2.
    seed : int
        Seed of the random half.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If `n` is below 2, the two are of different sessions, or no observation is whole.
    """
    import matplotlib.pyplot as plt

    if n < 2:
        raise QfError(f"n: expected at least 2 observations to show, found {n}.")
    error = reconstruction_error(truth, codes)
    unit = SIGNAL_LABELS[error.attrs["signal"]]
    chosen = _choose(truth, error, n, seed)
    columns = min(4, -(-len(chosen) // 2))
    rows = -(-len(chosen) // columns)
    with style():
        fig, axes = plt.subplots(rows, columns, figsize=(2.1 * columns + 0.6, 1.7 * rows + 0.6), squeeze=False, sharex=True)
        for ax, (kind, trial, neuron) in zip(axes.flat, chosen, strict=False):
            plot_reconstruction(truth, codes, trial, neuron, ax=ax)
            one = error.sel(trial=trial, neuron=neuron)
            ax.set_title(
                f"{kind}: {_short(neuron)}, trial {trial}\nRMS error {float(one['rms']):.2g} {unit}, {100 * float(one['explained']):.0f} % explained",
                fontsize=6, pad=13,
            )  # fmt: skip
        _tidy(axes, len(chosen))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend = fig.legend(handles, labels, loc="outside upper center", ncols=2)
        legend.set_title(
            f"all {error.attrs['observations']:,} observations: RMS error {error.attrs['rms']:.2g} {unit}, "
            f"{100 * error.attrs['explained']:.0f} % of the variance within windows explained",
            {"size": 7},
        )
    credit(fig, {"choice_seed": seed})
    return fig


def plot_codebook(codebook, embedding, *, normalise=False, colorbar=True, ax=None):
    """Plot each code's prototype as a small trace at the code's place in a t-SNE of the codebook (Fig. A-9 a, b).

    Traces that would overlap are moved apart; a dot, with a line to it, shows the true place of such a code. If the codebook holds counts, the number
    of a code that no patch took is in brackets.

    Parameters
    ----------
    codebook : xarray.Dataset
        As `interpret.codes.codebook` returns it.
    embedding : xarray.DataArray (code, axis)
        `tsne(codebook["vector"])`, with all codes or some of them.
    normalise : bool
        Draw each trace on its own scale (b), not all on one scale (a).
    colorbar : bool
        Draw a colour bar; the colours show the level.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If the embedding has a code that the codebook lacks.
    """
    from matplotlib.patches import Rectangle

    ax, codes = axes_or_current(ax), embedding["code"].values
    if missing := sorted(set(codes.tolist()) - set(codebook["code"].values.tolist())):
        raise UnknownKeyError(f"code: {missing[0]} of the embedding is not in the codebook; {did_you_mean(missing[0], codebook['code'].values)}")
    shown = codebook.sel(code=codes)
    # in units of the wider side of the map; the boxes are as large as they can be with room for all
    dots = embedding.transpose("code", "axis").values.astype(float)
    dots = (dots - dots.min(0)) / (np.ptp(dots, 0).max() or 1.0)
    box = np.array([0.76, 0.56]) / np.sqrt(max(len(codes), 16))
    centres = _apart(dots, 1.06 * box)
    prototypes, (norm, cmap) = shown["prototype"].values, _levels(codebook)
    low, high = min(prototypes.min(), 0.0), max(prototypes.max(), 0.0)
    across = np.linspace(-0.15, 0.47, prototypes.shape[1]) * box[0]  # the number is left of the trace
    unused = shown["count"].values == 0 if "count" in shown else np.zeros(len(codes), bool)
    for code, dot, (x, y), trace, level, idle in zip(codes, dots, centres, prototypes, shown["level"].values, unused, strict=True):
        ax.add_patch(Rectangle((x - box[0] / 2, y - box[1] / 2), *box, fc="0.965", lw=0, zorder=1, gid=f"box {code}"))
        a, b = (trace.min(), trace.max()) if normalise else (low, high)
        heights = y + 0.9 * box[1] * (_share(trace, a, b) - 0.5)
        if not normalise:
            zero = y + 0.9 * box[1] * (_share(0.0, a, b) - 0.5)
            ax.plot(x + across[[0, -1]], [zero, zero], color="0.75", lw=0.5, zorder=2, gid="zero")
        ax.plot(x + across, heights, color=cmap(norm(level)), lw=1.2, zorder=3, gid=f"code {code}")
        ax.text(x - 0.19 * box[0], y, f"({code})" if idle else f"{code}", ha="right", va="center", fontsize=6, color="0.5" if idle else "0.15")
        if (np.abs(dot - (x, y)) > box / 2).any():
            ax.plot(*zip(dot, (x, y), strict=True), color="0.8", lw=0.6, zorder=0.5)
            ax.plot(*dot, ".", ms=3, mew=0, color="0.5", zorder=4, gid=f"place {code}")
    (left, bottom), (right, top) = centres.min(0) - 0.6 * box, centres.max(0) + 0.6 * box
    x, y, bottom = left + 0.1 * box[0], bottom - 0.9 * box[1], bottom - 1.6 * box[1]  # room for the scale
    label = f"{float(codebook['time'].values[-1]):.2g} s"
    ax.plot([x, x + across[-1] - across[0]], [y, y], color="0.15", lw=1.2, gid="scale")
    if not normalise:
        size = _round_down(0.9 * (high - low))
        ax.plot([x, x], [y, y + 0.9 * box[1] * _share(size, 0.0, high - low)], color="0.15", lw=1.2, gid="scale")
        label += f", {size:g} {unit_of(codebook)}; grey lines: 0"
    ax.text(x, y - 0.12 * box[1], label, ha="left", va="top", fontsize=6)
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    ax.set_aspect("equal", adjustable="box")
    if colorbar:
        _level_bar(ax.get_figure(), ax, codebook)
    credit(ax, codebook, embedding)
    return ax


def figure_codebook(codebook, embedding):
    """The codebook twice, side by side: all codes on one scale, and each code on its own scale (Fig. A-9 a and b).

    Parameters
    ----------
    codebook, embedding
        As for `plot_codebook`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    with style():
        fig, axes = plt.subplots(1, 2, figsize=(9.2, 4.6))
        for ax, normalise, title in zip(axes, (False, True), ("a  all on one scale", "b  each on its own scale"), strict=True):
            plot_codebook(codebook, embedding, normalise=normalise, colorbar=False, ax=ax).set_title(title, loc="left")
        _level_bar(fig, axes, codebook)
        (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
        fig.set_size_inches(9.2, min(6.0, 4.0 * (top - bottom) / (right - left) + 0.7))
    return fig


def plot_swap(swap, *, place=None, ax=None):
    """Plot a decoded sequence before and after one of its codes is swapped, with red dashed lines around the place (Fig. A-9 c).

    Parameters
    ----------
    swap : xarray.Dataset
        As `interpret.codes.swap` returns it.
    place : int, optional
        Number of the patch, from 1 on. If None, the patch that was swapped.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If there is no such place.
    """
    ax = axes_or_current(ax)
    place, edited = swap.attrs["place"] if place is None else place, swap["edited"].values
    if place not in swap["patch"].values:
        raise QfError(f"place: expected 1 to {len(edited)}, found {place}. Choose one of these.")
    time, start = swap["time"].values, swap["start_s"].values
    texts = _mark_patches(ax, start, time, edited)
    texts[place - 1].set(color=SWAPPED, fontweight="bold")
    for edges in _inside(start, time):
        ax.axvline(edges[place - 1], color=SWAPPED, ls="--", lw=1.0, gid="swapped")
    ax.plot(time, swap["before"].values, color="0.5", label=f"before, code {int(swap['sequence'].values[place - 1])} there")
    ax.plot(time, swap["after"].values, color=palette()[0], label=f"after, code {int(edited[place - 1])} there")
    ax.set(xlabel="time from onset (s)", ylabel=unit_of(swap))
    credit(ax, swap)
    return ax


def plot_context_dependence(swaps, *, order=None, ax=None):
    """Plot how much the decoded patch of each code changes with the burst it is put in, as the mean over places.

    Parameters
    ----------
    swaps : xarray.Dataset
        As `interpret.codes.swaps` returns it.
    order : sequence of int, optional
        Codes in the order of rows and columns, for example `np.argsort(codebook["level"])`. If None, by number.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    values = swaps["context_dependence"].mean("place").transpose("code", "context").values
    ax = _matrix(axes_or_current(ax), values, order, label=f"RMS change, {unit_of(swaps)}", numbers=".2f")
    ax.set(xlabel="burst it is put in (code)", ylabel="code")
    credit(ax, swaps)
    return ax


def figure_context(swaps, code, *, contexts=None, place=None, n=6):
    """The decoded patch of one code in bursts of several other codes, and the matrix of all codes and contexts (Fig. A-9 c).

    Parameters
    ----------
    swaps : xarray.Dataset
        As `interpret.codes.swaps` returns it.
    code : int
        The code whose patch is drawn.
    contexts : sequence of int, optional
        Codes of the bursts. If None, `n` codes, evenly spaced from the one that changes the patch least to the one that changes it most.
    place : int, optional
        Number of the patch. If None, the middle one of those in `swaps`.
    n : int
        Number of bursts if `contexts` is None.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no such code, context or place in `swaps`.
    """
    import matplotlib.pyplot as plt

    place = swaps["place"].values[swaps.sizes["place"] // 2] if place is None else place
    for name, wanted in (("code", [code]), ("place", [place]), ("context", [] if contexts is None else contexts)):
        for value in wanted:
            if value not in swaps[name].values:
                raise QfError(f"{name}: expected one of {swaps[name].values.tolist()}, those in swaps, found {value}.")
    here = swaps.sel(code=code, place=place)
    if contexts is None:
        others = here.isel(context=here["context"].values != code).sortby("context_dependence")["context"].values
        contexts = others[np.unique(np.linspace(0, len(others) - 1, max(n, 0)).round().astype(int))] if len(others) else []
    if not len(contexts):
        raise QfError("contexts: expected at least one other code, found none. Name some, take n of at least 1, or swaps of more codes.")
    columns = min(3, -(-len(contexts) // 2))
    rows = -(-len(contexts) // columns)
    with style():
        fig = plt.figure(figsize=(1.65 * columns + 4.4, max(3.4, 1.55 * rows + 0.6)))
        left, right = np.ravel(fig.subfigures(1, 2, width_ratios=(1.65 * columns + 0.5, 3.9)))
        axes = left.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        own, time = here["decoded"].sel(context=code).values, swaps["time"].values
        for ax, context in zip(axes.flat, contexts, strict=False):
            around = swaps["decoded"].sel(context=context, code=context, place=place).values
            ax.plot(time, around, color="0.75", label="the burst itself")
            ax.plot(time, own, color=TRUTH, ls=":", label=f"code {code} in its own burst")
            ax.plot(time, here["decoded"].sel(context=context).values, color=palette()[0], label=f"code {code} in this burst")
            ax.set_title(f"burst of {context}: RMS change {float(here['context_dependence'].sel(context=context)):.2g}", fontsize=7)
            ax.set(xlabel="time in patch (s)", ylabel=unit_of(swaps))
        _tidy(axes, len(contexts))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        left.legend(handles, labels, loc="outside upper center", ncols=2, title=f"patch {place}, {float(here['start_s']):.2g} s from the onset")
        matrix = plot_context_dependence(swaps, ax=right.subplots())
        row = swaps["code"].values.tolist().index(code)
        matrix.axhspan(row, row + 1, fill=False, ec=SWAPPED, lw=1.0, gid="code")
    return fig


def plot_transitions(transitions, *, order=None, ax=None):
    """Plot the probability of the next code, one row per code. The row of a code that nothing follows is grey.

    Parameters
    ----------
    transitions : xarray.Dataset
        As `interpret.codes.transitions` returns it.
    order : sequence of int, optional
        Codes in the order of rows and columns, for example `np.argsort(codebook["level"])`. If None, by number.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.colors import PowerNorm

    values = transitions["probability"].transpose("code", "next_code").values
    norm = PowerNorm(0.5, 0, values[np.isfinite(values)].max(initial=1e-6))
    ax = _matrix(axes_or_current(ax), values, order, label="probability (square-root scale)", numbers=".2f", norm=norm)
    ax.set(xlabel="next code", ylabel="code")
    credit(ax, transitions)
    return ax


def unit_of(data):
    """The unit of decoded windows in words, from the attrs of `data`, an xarray object that `interpret.codes` returned."""
    whose = {"neuron": "neuron's", "global": "pooled"}[data.attrs["normalise"]]
    return f"{SIGNAL_LABELS[data.attrs['signal']]} / {whose} SD"


def _inside(start, time):
    """Start and end of each patch inside the window, in seconds. The padding is not drawn."""
    step, length = time[1] - time[0], start[1] - start[0]
    return np.maximum(start, time[0]), np.minimum(start + length, time[-1] + step)


def _mark_patches(ax, start, time, codes):
    """Draw faint edges of the patches, the onset, and the number of each code over its patch. Return the texts."""
    low, high = _inside(start, time)
    for edge in [*low, high[-1]]:
        ax.axvline(edge, color="0.9", lw=0.6, zorder=0, gid="patch")
    ax.axvline(0, color="0.6", lw=0.8, zorder=0, gid="onset")
    ax.set_xlim(low[0], high[-1])
    points = 72 * ax.get_window_extent().width / ax.get_figure(root=True).dpi / len(codes)
    turn = 90 if points < 9 else 0
    return [
        ax.text((a + b) / 2, 1.01, str(int(c)), transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=6, color="0.35", rotation=turn)
        for a, b, c in zip(low, high, codes, strict=True)
    ]


def _tidy(axes, n):
    """Keep time labels only below the lowest panel of each column and unit labels only beside the first column; clear panels after the first `n`."""
    columns = axes.shape[1]
    for i, ax in enumerate(axes.flat):
        lowest, first = i + columns >= n, i % columns == 0
        ax.tick_params(labelbottom=lowest)
        ax.set(xlabel=ax.get_xlabel() * lowest, ylabel=ax.get_ylabel() * first)
        if i >= n:
            ax.set_axis_off()


def _choose(truth, error, n, seed):
    """(kind, trial, neuron) of the observations to show: half are the most active of different neurons, half are drawn from the others."""
    response = truth[_signal(truth)].isel(time=slice(truth.attrs["n_baseline"], None)).reset_coords(drop=True)
    frame = xr.DataArray(np.arange(response.sizes["time"]), dims="time")
    mean = response.where(frame < truth["n_score"].reset_coords(drop=True)).mean("time")
    found = xr.Dataset({"mean": mean, "rms": error["rms"]}).to_dataframe().dropna().reset_index()
    best = found.sort_values(["mean", "neuron"], ascending=[False, True]).drop_duplicates("neuron").head(n // 2)
    rest = found.drop(best.index)
    other = rest.sample(min(n - len(best), len(rest)), random_state=seed)
    return [
        (kind, int(t), str(k))
        for kind, part in (("most active", best), ("random", other))
        for t, k in zip(part["trial"], part["neuron"], strict=True)
    ]


def _apart(places, box):
    """Centres of boxes near `places` that don't overlap. Each pair that overlaps is pushed apart along the side where it overlaps less."""
    n = len(places)
    turn = 2.4 * np.arange(n)  # a tiny push in different directions, for boxes at the very same place
    centres = places + 1e-3 * box * np.stack([np.cos(turn), np.sin(turn)], 1)
    for _ in range(max(50, 10**7 // n**2)):  # takes a second or two at most; of hundreds some may still overlap
        gap = centres[:, None] - centres
        overlap = 1 - np.abs(gap) / box
        hit = (overlap > 1e-9).all(-1) & ~np.eye(n, dtype=bool)
        if not hit.any():
            break
        along = np.arange(2) == overlap.argmin(-1)[..., None]
        centres = centres + 0.4 * box * (along * hit[..., None] * (overlap + 0.05) * np.sign(gap)).sum(1)
    return centres


def _levels(codebook):
    """Colours of the levels: viridis without its bright end, which can't be seen on white."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap, Normalize

    level = codebook["level"].values
    return Normalize(float(level.min()), float(level.max())), ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.88, 256)))


def _level_bar(fig, axes, codebook):
    from matplotlib.cm import ScalarMappable

    fig.colorbar(ScalarMappable(*_levels(codebook)), ax=axes, shrink=0.6, label=f"level, {unit_of(codebook)}")


def _matrix(ax, values, order, **options):
    """Draw a matrix of codes by codes with its colour bar. Cells without a value are grey."""
    order = np.arange(len(values)) if order is None else np.asarray(order)
    if sorted(order.tolist()) != list(range(len(values))):
        raise QfError(f"order: expected each code from 0 to {len(values) - 1} once, found {order.tolist()}. Take np.argsort of something per code.")
    heat_map(ax, pd.DataFrame(values).iloc[order, order], square=True, **options)
    return ax


def _share(values, low, high):
    """Position of values between `low` and `high`, from 0 to 1."""
    return (values - low) / ((high - low) or 1.0)


def _round_down(value):
    """The largest number of the form 1, 2 or 5 times a power of ten that is not above `value`."""
    if not value > 0:
        return 0.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(k for k in (1, 2, 5) if k * power <= value * (1 + 1e-9)))
