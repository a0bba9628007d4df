"""Forecasts beside the truth: single observations chosen by rule, each stimulus, and means over the trials of a condition."""

import numpy as np

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..evaluation.naive import scored_whole
from ..recordings.conditions import category_of
from .style import TRUTH, axes_or_current, credit, palette, style
from .tables import NAIVE

STIMULI = ("drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise")  # in the order of the paper's Fig. 3
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
LABEL_INCHES = 1.0  # "simulated data", in the upper right corner


def plot_forecast(truth, forecasts, trial, neuron, *, ax=None):
    """One neuron around one onset: what was measured, and what was forecast.

    Models take the palette's colours in order; naive forecasters are thinner and take those that are left, dashed where all are taken.

    Parameters
    ----------
    truth : xarray.Dataset
        `trials.dataset()` of one session: `dff` or `zscore` (trial, neuron, time), time in seconds from the onset.
    forecasts : mapping of str to xarray.Dataset
        Name to `predict(trials)`: `forecast` (trial, neuron, time). Where it also holds `low` and `high` (trial, neuron, time), a light band
        lies between them, for a single trial.
    trial : int or sequence of int
        Trial of the session; of several the mean is drawn.
    neuron : str
        Key.
    ax : matplotlib.axes.Axes, optional
        The current one where left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If the trial or neuron is not in `truth` or a forecast.
    QfError
        If a forecast is of other trials: its onset lies on another frame.
    """
    ax = axes_or_current(ax)
    return _draw(ax, truth, forecasts, trial, neuron, _looks(forecasts))


def figure_forecasts(trials, forecasts, n=8, seed=0):
    """Single observations, chosen by rule, over means of conditions.

    The first half are the most active observations of different neurons, the other half are drawn at random, so that the good and the
    ordinary are both seen. The last row holds the mean over the trials of a condition, for the neurons of the first half; where a condition is
    shown once, over those of its stimulus. A grey band is the part of the response that is scored, where that is not all of it.

    Parameters
    ----------
    trials : Trials
        What was forecast, usually `split.test`.
    forecasts : mapping of str to xarray.Dataset
        Name to `predict(trials)`.
    n : int
        Single observations.
    seed : int
        Of the random half.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no observation to show.
    """
    if n < 2:
        raise QfError(f"n: expected at least 2 observations to show, found {n}.")
    chosen = _choose(trials, n, seed)
    columns = min(4, sum(kind == "most active" for kind, *_ in chosen))
    rows = -(-len(chosen) // columns)
    with style():
        fig, axes = _grid(rows + 1, columns)
        looks = _looks(forecasts)
        _draw_chosen(axes[:-1].flat, trials, forecasts, chosen, looks, means=axes[-1])
        _finish(fig, axes, looks)
    credit(fig, {"choice_seed": seed})
    return fig


def figure_examples(trials, forecasts, *, n=12, seed=0):
    """Many examples of one stimulus (paper, Fig. A-2 to A-5), chosen by rule.

    The first half (rounded up) are the most active observations of different neurons, the others are drawn at random among all whose baseline
    and scored part are whole; the titles say which is which.

    Parameters
    ----------
    trials : Trials
        What was forecast, usually `split.test`.
    forecasts : mapping of str to xarray.Dataset
        Name to `predict(trials)`, a line each.
    n : int
        Observations, fewer where there are not so many.
    seed : int
        Of the random half.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no forecast or no observation to show.
    """
    _check(n, forecasts, "forecasts")
    chosen = _choose(trials, n, seed)
    n_active = sum(kind == "most active" for kind, *_ in chosen)
    # the halves in rows of their own, where that can be
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

    Of each stimulus the most active observation is shown, among those whose baseline and scored part are whole. Of n > 1 the first half (rounded
    up) are the most active of different neurons, the others are drawn at random; the titles say which is which.

    Parameters
    ----------
    parts : mapping of str to (Trials, mapping of str to xarray.Dataset)
        Stimulus to its trials, usually `split.test`, and their forecasts: name to `predict(trials)`. Trials of other stimuli among them are
        passed over, so that one test part of several stimuli may stand under each. Other stimuli than the paper's follow in the order given.
    n : int
        Observations of each stimulus, one below the other.
    seed : int
        Of the random ones.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        If there is no stimulus, or of one no forecast or no observation to show.
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
            _draw_chosen(block, mine, forecasts, _choose(mine, n, seed), looks, title=_title_of_stimulus)
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
    if truth.attrs.get("n_baseline", 0) + n_score < len(time):  # only a part of the response counts
        ax.axvspan(0, n_score * step, color="0.93", zorder=-1, lw=0, label="scored")
    ax.plot(time, measured, color=TRUTH, lw=1.0, zorder=2.5, label="measured")
    for name, forecast in forecasts.items():
        mine = _of_session(forecast, truth)
        values = _pick(mine["forecast"], trials, neuron, name)
        _check_onsets(mine, truth, trials, name)
        if len(trials) == 1 and "low" in mine and "high" in mine:
            low, high = (_pick(mine[edge], trials, neuron, name) for edge in ("low", "high"))
            ax.fill_between(mine["time"].values, low, high, color=looks[name]["color"], alpha=0.2, lw=0, zorder=1)
        ax.plot(mine["time"].values, values, label=name, **looks[name])
    ax.set_xlim(time[0], time[-1] + step)
    ax.set_xlabel("time from onset (s)")
    ax.set_ylabel("dF/F" if signal == "dff" else "z-score")
    credit(ax, truth, *forecasts.values())
    return ax


def _looks(forecasts):
    """{name: how its line is drawn}: models in the palette's order; naive rows, which are many, thin and in the colours that are left."""
    colors = palette()[:-1]  # the last, yellow, is too pale for a line on white
    naive = [n for n, f in forecasts.items() if f.attrs.get("forecaster", n) in NAIVE]
    models = [n for n in forecasts if n not in naive]
    left = colors[len(models) :] if len(models) < len(colors) - 1 else colors  # one alone would not do
    looks = {}
    for names, free, look in ((models, colors, {"lw": 1.6, "zorder": 3}), (naive, left, {"lw": 0.9, "zorder": 2})):
        for i, name in enumerate(names):
            looks[name] = {"color": free[i % len(free)], "ls": DASHES[i // len(free) % len(DASHES)], **look}
    return {name: looks[name] for name in forecasts}


def _signal(truth):
    for name in ("dff", "zscore"):
        if name in truth:
            return name
    raise QfError(f"truth: expected a variable dff or zscore, found {sorted(map(str, truth.data_vars))}. Pass trials.dataset().")


def _of_session(forecast, truth):
    """The part of a forecast over several sessions that belongs to `truth`, its trials numbered as there."""
    if "session" not in forecast.coords or forecast["session"].dims != ("trial",):
        return forecast
    mine = forecast.isel(trial=np.flatnonzero(forecast["session"].values.astype(str) == truth.attrs["session"]))
    return mine.assign_coords(trial=[int(str(t).rsplit("/", 1)[-1]) for t in mine["trial"].values])


def _check_onsets(forecast, truth, trials, name):
    """Trials are numbered anew in each session: a forecast of another one would be drawn unnoticed."""
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


def _choose(trials, n, seed):
    """(kind, session, trial, neuron) of n observations: half (rounded up) the most active of different neurons, the others at random.

    Active is who has the largest mean response in the scored part. Only observations with a whole baseline and scored part count.
    """
    whole, best = [], {}
    for session in trials.sessions:
        truth = trials.dataset(session)
        response = truth[_signal(truth)].values[..., truth.attrs["n_baseline"] :]
        inside = np.arange(response.shape[-1]) < truth["n_score"].values[:, None, None]
        ok = scored_whole(truth)
        mean = np.where(ok, response.mean(-1, where=inside), -np.inf)
        whole.append(ok)
        for k, neuron in enumerate(truth["neuron"].values.astype(str)):
            t = int(mean[:, k].argmax())
            if ok[t, k] and (neuron not in best or mean[t, k] > best[neuron][0]):
                best[neuron] = (mean[t, k], session, int(truth["trial"].values[t]))
    if not best:
        raise QfError("trials: expected an observation to show, found none that is valid. Look at the recording with `qf info`.")
    top = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[: -(-n // 2)]
    chosen = [("most active", session, trial, neuron) for neuron, (_, session, trial) in top]
    taken = {c[1:] for c in chosen}
    ends = np.cumsum([ok.sum() for ok in whole])
    # n are enough, also where all of the most active are among them
    for i in np.random.default_rng(seed).choice(int(ends[-1]), min(n, int(ends[-1])), replace=False):
        s = int(np.searchsorted(ends, i, side="right"))
        t, k = np.argwhere(whole[s])[i - ends[s]]  # counted from the session's end
        session = trials.sessions[s]
        of_session = trials.table.loc[trials.table["session"] == session, "trial"].to_numpy()
        one = (session, int(of_session[t]), trials.neurons_of(session)[k])
        if len(chosen) < n and one not in taken:
            chosen.append(("random", *one))
    return chosen


def _grid(rows, columns, *, width=2.1, height=1.55, sharex=True):
    import matplotlib.pyplot as plt

    # never too narrow for the legend, whose height `_finish` adds
    size = (max(width * columns + 0.6, 4.2), height * rows + 0.2)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=sharex)


def _title(kind, neuron, trial, condition):
    return f"{kind}: {_short(neuron)}, trial {trial}\n{_short_condition(condition)}"


def _title_of_stimulus(kind, neuron, trial, condition):
    stimulus, _, features = condition.partition("/")
    return f"{stimulus.replace('_', ' ')}, {kind}\n{_short(neuron)}, trial {trial}: {_short_condition(features)}"


def _draw_chosen(axes, trials, forecasts, chosen, looks, means=(), title=_title):
    """The chosen observations, each on its axes; below the first ones, on `means`, the mean over the trials of the condition."""
    # one session in memory at a time: where each panel goes is known beforehand
    for session in dict.fromkeys(s for _, s, _, _ in chosen):
        truth = trials.dataset(session)
        condition, numbers = truth["condition"].values.astype(str), truth["trial"].values
        for i, (kind, where, trial, neuron) in enumerate(chosen):
            if where != session:
                continue
            here = condition[numbers == trial][0]
            ax = _draw(axes[i], truth, forecasts, trial, neuron, looks)
            ax.set_title(title(kind, neuron, trial, here), fontsize=6)
            if i < len(means) and kind == "most active":
                # those whose truth is whole, so that truth and forecasts are means of the same trials
                whole = np.isfinite(truth[_signal(truth)].sel(neuron=neuron).transpose("trial", "time").values).all(-1)
                same = numbers[(condition == here) & whole]
                if len(same) <= 1:
                    here = category_of(here)
                    same = numbers[(truth["stimulus"].values.astype(str) == here) & whole]
                if len(same):
                    _draw(means[i], truth, forecasts, same, neuron, looks)
                    means[i].set_title(f"mean of {len(same)} trials: {_short(neuron)}\n{_short_condition(here)}", fontsize=6)


def _finish(fig, axes, looks, every=False):
    """One legend for all panels; labels of the axes on the outer ones alone, or, where panels may differ, on every one but the time's."""
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
    labels = [name for name in ("measured", *looks, "scored") if name in handles]
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
