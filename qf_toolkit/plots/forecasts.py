"""Forecasts beside the truth: single observations chosen by rule, examples of each stimulus, and means over the trials of a condition."""

import numpy as np

from ..errors import QfError, UnknownKeyError, did_you_mean
from .chosen import choose_most_active, choose_observations
from .style import TRUTH, axes_or_current, credit, palette, style
from .tables import NAIVE

STIMULI = ("drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise")  # in the order of the paper's Fig. 3
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
LABEL_INCHES = 1.0  # width of the text "simulated data" in the upper right corner


def plot_forecast(truth, forecasts, trial, neuron, *, ax=None):
    """Plot one neuron around one onset: the measured trace and its forecasts.

    Models take the palette's colours in order. Lines of naive rows are thinner and take the colours that are left; if all colours are taken, further
    lines are dashed. A single naive row beside models is grey and dashed, with "(naive)" in its label.

    Parameters
    ----------
    truth : xarray.Dataset
        `trials.dataset()` of one session: `dff` or `zscore` (trial, neuron, time), time in seconds from the onset.
    forecasts : mapping of str to xarray.Dataset
        Name to `predict(trials)`: `forecast` (trial, neuron, time), in units of the truth. If it also holds `low` and `high` (trial, neuron, time)
        and `trial` is one trial, a light band lies between them; its attr `level` (for example 0.9) appears in the legend.
    trial : int or sequence of int
        Number of the trial in its session. Of several trials the mean is drawn.
    neuron : str
        Key.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If the trial or neuron is not in `truth` or a forecast.
    QfError
        If a forecast is of other trials: their onsets lie on other frames.
    """
    ax = axes_or_current(ax)
    return _draw(ax, truth, forecasts, trial, neuron, _looks(forecasts))


def figure_forecasts(trials, forecasts, n=8, seed=0, chosen=None):
    """Forecasts of single observations, chosen by rule, and below them means over trials of a condition.

    The first half are observations of the most forecastable neurons, the other half are drawn at random, so that the reader sees both good and
    ordinary forecasts; see `choose_observations`. For the first half, the last row holds the mean over the trials of the condition, or over the
    trials of its stimulus if the condition is shown once. If only a part of the response is scored, a grey band shows it.

    Parameters
    ----------
    trials : Trials
        The trials that were forecast, usually `split.test`.
    forecasts : mapping of str to xarray.Dataset, or to a mapping of session key to xarray.Dataset
        Name to `predict(trials)`, or to one forecast per session, which needs only the trials and neurons of `wanted_of(chosen)`. If a forecast has
        `low` and `high`, a light band lies between them in the panels of single observations.
    n : int
        Number of single observations; unused with `chosen`.
    seed : int
        Seed of the random half. The figure's record names it as the seed of the choice, also with `chosen`.
    chosen : list of Shown, optional
        As `choose_observations` returns it. If None, this function calls it, and `trials` themselves rank the neurons.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no observation to show, or a forecast lacks one of its sessions.
    """
    chosen = choose_observations(trials, n=n, seed=seed) if chosen is None else list(chosen)
    if not chosen:
        raise QfError("chosen: expected an observation to show, found none. Pass what choose_observations returned.")
    n_first = sum(one.kind != "random" for one in chosen)
    columns = min(4, n_first or len(chosen))
    rows, with_means = -(-len(chosen) // columns), int(any(one.same for one in chosen))
    with style():
        fig, axes = _grid(rows + with_means, columns)
        looks = _looks(forecasts)
        _draw_chosen(axes[:rows].flat, trials, forecasts, chosen, looks, means=axes[-1] if with_means else ())
        _finish(fig, axes, looks)
    credit(fig, {"choice_seed": seed})
    return fig


def figure_examples(trials, forecasts, *, n=12, seed=0):
    """Many examples of one stimulus (paper, Fig. A-2 to A-5), chosen by rule.

    The first half (rounded up) are the most active observations of different neurons. The others are drawn at random among all observations whose
    baseline and scored part are whole. The titles name the rule.

    Parameters
    ----------
    trials : Trials
        The trials that were forecast, usually `split.test`.
    forecasts : mapping of str to xarray.Dataset
        Name to `predict(trials)`; each is one line.
    n : int
        Number of observations; fewer are shown if there are fewer.
    seed : int
        Seed of the random half.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no forecast or no observation to show.
    """
    _check(n, forecasts, "forecasts")
    chosen = choose_most_active(trials, n, seed)
    n_active = sum(one.kind == "most active" for one in chosen)
    # each half gets rows of its own if the numbers allow it
    columns = min(len(chosen), next((c for c in (4, 3) if n_active % c == 0), 4))
    with style():
        fig, axes = _grid(-(-len(chosen) // columns), columns)
        looks = _looks(forecasts)
        _draw_chosen(axes.flat, trials, forecasts, chosen, looks)
        _finish(fig, axes, looks)
    credit(fig, {"choice_seed": seed})
    return fig


def figure_stimuli(parts, *, n=1, seed=0):
    """An example of every stimulus (paper, Fig. 3): drifting gratings, static gratings, natural scenes, sparse noise.

    Each stimulus is represented by its most active observation among those whose baseline and scored part are whole. If n > 1, the first half
    (rounded up) are the most active of different neurons, the others are drawn at random. The titles name the rule.

    Parameters
    ----------
    parts : mapping of str to (Trials, mapping of str to xarray.Dataset)
        Stimulus to its trials, usually `split.test`, and their forecasts: name to `predict(trials)`. Trials of other stimuli are skipped, so that one
        test part of several stimuli may stand under each of them. Stimuli that are not in the paper follow in the given order.
    n : int
        Number of observations of each stimulus, one below the other.
    seed : int
        Seed of the random observations.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no stimulus, or a stimulus has no forecast or no observation to show.
    """
    if not parts:
        raise QfError('parts: expected a stimulus to show, found none. Pass {"drifting_gratings": (split.test, forecasts)}.')
    names = [s for s in STIMULI if s in parts] + [s for s in parts if s not in STIMULI]
    looks = {}
    for name in names:
        _check(n, parts[name][1], name)
        looks |= parts[name][1]
    looks = _looks(looks)
    columns = min(2, len(names))
    with style():
        fig, axes = _grid(-(-len(names) // columns) * n, columns, width=3.2, height=1.75, sharex=False)
        for i, name in enumerate(names):
            trials, forecasts = parts[name]
            mine = trials.subset((trials.table["stimulus"] == name).to_numpy())
            if not len(mine):
                found = ", ".join(sorted(trials.table["stimulus"].unique()))
                raise QfError(f"{name}: expected trials of that stimulus, found those of {found}. Name each part by the stimulus of its trials.")
            block = axes[i // columns * n :][:n, i % columns]
            _draw_chosen(block, mine, forecasts, choose_most_active(mine, n, seed), looks, title=_title_of_stimulus)
        _finish(fig, axes, looks, every=True)
    credit(fig, {"choice_seed": seed})
    return fig


def _check(n, forecasts, name):
    if n < 1:
        raise QfError(f"n: expected at least 1 observation to show, found {n}.")
    if not forecasts:
        raise QfError(f'{name}: expected a forecast to draw, found none. Pass {{"QuantFormer": model.predict(trials)}}.')


# ---------------------------------------------------------------- one panel


def _draw(ax, truth, forecasts, trial, neuron, looks):
    signal = _signal(truth)
    trials = np.atleast_1d(trial)
    measured = _pick(truth[signal], trials, neuron, "truth")
    time = truth["time"].values
    step = float(np.median(np.diff(time)))
    ax.axvline(0, color="0.6", lw=0.8, zorder=0)
    n_score = int(truth["n_score"].values[np.isin(truth["trial"].values, trials)].max()) if "n_score" in truth.coords else len(time)
    if truth.attrs.get("n_baseline", 0) + n_score < len(time):  # only a part of the response is scored
        ax.axvspan(0, n_score * step, color="0.93", zorder=-1, lw=0, label="scored")
    ax.plot(time, measured, color=TRUTH, lw=1.0, zorder=2.5, label="measured")
    drawn = {name: _of_session(forecast, truth, name) for name, forecast in forecasts.items()}
    for name, mine in drawn.items():
        values = _pick(mine["forecast"], trials, neuron, name)
        _check_onsets(mine, truth, trials, name)
        if len(trials) == 1 and "low" in mine and "high" in mine:
            low, high = (_pick(mine[edge], trials, neuron, name) for edge in ("low", "high"))
            look, level = looks[name], f"{mine.attrs['level']:.0%} interval" if "level" in mine.attrs else "interval"
            ax.fill_between(mine["time"].values, low, high, color=look["color"], alpha=0.2, lw=0, zorder=1, label=f"{look['label']}: {level}")
        ax.plot(mine["time"].values, values, **looks[name])
    ax.set_xlim(time[0], time[-1] + step)
    ax.set_xlabel("time from onset (s)")
    ax.set_ylabel("dF/F" if signal == "dff" else "z-score")
    credit(ax, truth, *drawn.values())
    return ax


def _looks(forecasts):
    """{name: style of its line}. Models take the palette's colours in order. Naive rows are thin and take the rest; a single one is grey."""
    colors = palette()[:-1]  # the last, yellow, is too pale for a line on white
    naive = [n for n, f in forecasts.items() if _forecaster(f, n) in NAIVE]
    models = [n for n in forecasts if n not in naive]
    left = colors[len(models) :] if len(models) < len(colors) - 1 else colors  # a single colour left would not do
    looks = {}
    for names, free, look in ((models, colors, {"lw": 1.6, "zorder": 3}), (naive, left, {"lw": 0.9, "zorder": 2})):
        for i, name in enumerate(names):
            looks[name] = {"label": name, "color": free[i % len(free)], "ls": DASHES[i // len(free) % len(DASHES)], **look}
    if len(naive) == 1 and models:
        looks[naive[0]] |= {"label": f"{naive[0]} (naive)", "color": "0.4", "ls": DASHES[1], "zorder": 2.8}
    return {name: looks[name] for name in forecasts}


def _forecaster(forecast, name):
    """Name of the forecaster that made a forecast, or forecasts by session: their attr `forecaster`, else `name`."""
    one = forecast if hasattr(forecast, "attrs") else next(iter(forecast.values()), None)
    return getattr(one, "attrs", {}).get("forecaster", name)


def _signal(truth):
    for name in ("dff", "zscore"):
        if name in truth:
            return name
    raise QfError(f"truth: expected a variable dff or zscore, found {sorted(map(str, truth.data_vars))}. Pass trials.dataset().")


def _of_session(forecast, truth, name):
    """The part of a forecast that belongs to the session of `truth`, with trials numbered as in `truth`."""
    session = truth.attrs["session"]
    if not hasattr(forecast, "coords"):  # a mapping of session to forecast
        if session not in forecast:
            raise UnknownKeyError(f"{name}: expected a forecast of {session}, found none; {did_you_mean(session, forecast)}")
        forecast = forecast[session]
    if "session" not in forecast.coords or forecast["session"].dims != ("trial",):
        return forecast
    mine = forecast.isel(trial=np.flatnonzero(forecast["session"].values.astype(str) == session))
    return mine.assign_coords(trial=[int(str(t).rsplit("/", 1)[-1]) for t in mine["trial"].values])


def _check_onsets(forecast, truth, trials, name):
    """Raise QfError if onsets differ. Each session numbers its trials from the start, so a forecast of another session would be drawn unnoticed."""
    if "onset_frame" not in forecast.coords or "onset_frame" not in truth.coords:
        return
    theirs, ours = (np.sort(ds["onset_frame"].values[np.isin(ds["trial"].values, trials)]) for ds in (forecast, truth))
    if not np.array_equal(theirs, ours):
        raise QfError(f"{name}: expected a forecast of these trials, found one with other onsets. Draw it over the trials it was predicted for.")


def _pick(array, trials, neuron, name):
    known_trials, known_neurons = array["trial"].values, array["neuron"].values.astype(str)
    rows = np.flatnonzero(np.isin(known_trials, trials))
    if len(rows) < len(trials):
        missing = next(t for t in trials if t not in known_trials)
        raise UnknownKeyError(f"trial: {missing} is not in {name}; {did_you_mean(missing, known_trials)}")
    if neuron not in known_neurons:
        raise UnknownKeyError(f"neuron: {neuron!r} is not in {name}; {did_you_mean(neuron, known_neurons)}")
    values = array.isel(trial=rows, neuron=int(np.argmax(known_neurons == neuron))).transpose("trial", "time").values
    if len(values) == 1:
        return values[0]
    kept = values[np.isfinite(values).all(1)]
    return kept.mean(0) if len(kept) else np.full(values.shape[1], np.nan)


# ---------------------------------------------------------------- many panels


def _grid(rows, columns, *, width=2.1, height=1.55, sharex=True):
    import matplotlib.pyplot as plt

    # the figure is never too narrow for the legend; `_finish` adds the legend's height
    size = (max(width * columns + 0.6, 4.2), height * rows + 0.2)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=sharex)


def _title(one, condition):
    return f"{one.kind}: {_short(one.neuron)}, trial {one.trial}\n{_short_condition(condition)}"


def _title_of_stimulus(one, condition):
    stimulus, _, features = condition.partition("/")
    return f"{stimulus.replace('_', ' ')}, {one.kind}\n{_short(one.neuron)}, trial {one.trial}: {_short_condition(features)}"


def _draw_chosen(axes, trials, forecasts, chosen, looks, means=(), title=_title):
    """Draw each chosen observation on its axes, and, for the first of them, the mean over the trials `same` on the axes `means`."""
    # the place of each panel is known beforehand, so that only one session at a time must be in memory
    for session in dict.fromkeys(one.session for one in chosen):
        truth = trials.dataset(session)
        keys = {c: dict(zip(truth["trial"].values, truth[c].values.astype(str), strict=True)) for c in ("condition", "stimulus")}
        for i, one in enumerate(chosen):
            if one.session != session:
                continue
            ax = _draw(axes[i], truth, forecasts, one.trial, one.neuron, looks)
            ax.set_title(title(one, keys["condition"][one.trial]), fontsize=6)
            if i < len(means) and one.same:
                _draw(means[i], truth, forecasts, one.same, one.neuron, looks)
                here = {keys["condition"][t] for t in one.same}
                what = here.pop() if len(here) == 1 else keys["stimulus"][one.trial]
                means[i].set_title(f"mean of {len(one.same)} trials: {_short(one.neuron)}\n{_short_condition(what)}", fontsize=6)


def _finish(fig, axes, looks, every=False):
    """Add one legend for all panels. Keep axis labels only on the outer panels; with `every`, each panel keeps the label of its y axis."""
    for column in axes.T:
        drawn = [ax for ax in column if ax.has_data()]
        for ax in column:
            if ax not in drawn:
                ax.set_axis_off()
            elif ax is drawn[-1]:
                ax.tick_params(labelbottom=True)
            else:
                ax.set_xlabel("")
    if not every:
        for ax in axes[:, 1:].flat:
            ax.set_ylabel("")
    handles = {}
    for ax in axes.flat:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    first = ["measured", *(look["label"] for look in looks.values())]
    labels = [*(n for n in first if n in handles), *(n for n in handles if n not in (*first, "scored")), *(["scored"] if "scored" in handles else [])]
    for rows in range(1, len(labels) + 1):
        legend = fig.legend(
            [handles[name] for name in labels], labels, loc="outside upper left", ncols=-(-len(labels) // rows), columnspacing=1.2, handlelength=1.7
        )
        box = legend.get_window_extent(fig.canvas.get_renderer())
        if rows == len(labels) or box.width / fig.dpi <= fig.get_figwidth() - LABEL_INCHES:
            break
        legend.remove()
    fig.set_figheight(fig.get_figheight() + box.height / fig.dpi)


def _short(neuron):
    return neuron.rsplit("/", 1)[-1] if len(neuron) > 18 else neuron


def _short_condition(condition):
    text = condition.split("/", 1)[-1] if len(condition) > 34 else condition
    text = text.replace("temporal_frequency", "tf").replace("spatial_frequency", "sf").replace("orientation", "ori")
    return text if len(text) <= 44 else f"{text[:43]}…"
