"""Forecasts beside the truth: single observations, and means over the trials of a condition."""

import numpy as np

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..recordings.conditions import category_of
from .style import TRUTH, mark_simulated, style


def plot_forecast(truth, forecasts, trial, neuron, *, ax=None):
    """One neuron around one onset: what was measured, and what was forecast.

    Parameters
    ----------
    truth : xarray.Dataset
        `trials.dataset()` of one session: `dff` or `zscore` (trial, neuron, time), time in seconds from the onset.
    forecasts : mapping of str to xarray.Dataset
        Name to `predict(trials)`: `forecast` (trial, neuron, time).
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
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.gca()
    signal = _signal(truth)
    trials = np.atleast_1d(trial)
    measured = _pick(truth[signal], trials, neuron, "truth")
    time = truth["time"].values
    step = float(np.median(np.diff(time)))
    ax.axvline(0, color="0.6", lw=0.8, zorder=0)
    n_score = int(truth["n_score"].values[np.isin(truth["trial"].values, trials)].max()) if "n_score" in truth.coords else len(time)
    if truth.attrs.get("n_baseline", 0) + n_score < len(time):  # only a part of the response counts
        ax.axvspan(0, n_score * step, color="0.93", zorder=-1, lw=0)
    ax.plot(time, measured, color=TRUTH, lw=1.0, label="measured")
    colors = _palette(ax)
    for i, (name, forecast) in enumerate(forecasts.items()):
        mine = _of_session(forecast, truth)
        values = _pick(mine["forecast"], trials, neuron, name)
        ax.plot(mine["time"].values, values, color=colors[i % len(colors)], label=name)
    ax.set_xlim(time[0], time[-1] + step)
    ax.set_xlabel("time from onset (s)")
    ax.set_ylabel("dF/F" if signal == "dff" else "z-score")
    if truth.attrs.get("simulated"):
        mark_simulated(ax.get_figure(root=True))
    return ax


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
    import matplotlib.pyplot as plt

    if n < 2:
        raise QfError(f"n: expected at least 2 observations to show, found {n}.")
    chosen = _choose(trials, n, seed)
    n_active = sum(kind == "most active" for kind, *_ in chosen)
    columns = min(4, max(1, n_active))
    rows = -(-len(chosen) // columns)
    # one session in memory at a time: where each panel goes is known beforehand
    with style():
        fig, axes = plt.subplots(rows + 1, columns, figsize=(2.1 * columns + 0.6, 1.55 * (rows + 1) + 0.4), squeeze=False, sharex=True)
        for session in dict.fromkeys(s for _, s, _, _ in chosen):
            truth = trials.dataset(session)
            condition = truth["condition"].values.astype(str)
            for i, (kind, where, trial, neuron) in enumerate(chosen):
                if where != session:
                    continue
                here = condition[truth["trial"].values == trial][0]
                ax = plot_forecast(truth, forecasts, trial, neuron, ax=axes.flat[i])
                ax.set_title(f"{kind}: {_short(neuron)}, trial {trial}\n{_short_condition(here)}", fontsize=6)
                if i < columns and kind == "most active":
                    same = truth["trial"].values[condition == here]
                    if len(same) == 1:
                        here = category_of(here)
                        same = truth["trial"].values[truth["stimulus"].values.astype(str) == here]
                    ax = plot_forecast(truth, forecasts, same, neuron, ax=axes[-1, i])
                    ax.set_title(f"mean of {len(same)} trials: {_short(neuron)}\n{_short_condition(here)}", fontsize=6)
        for ax in axes.flat:
            if not ax.has_data():
                ax.set_axis_off()
        for ax in axes[:, 1:].flat:
            ax.set_ylabel("")
        for ax in axes[:-1].flat:
            ax.set_xlabel("")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig


def figure_table(table, metric, ceiling="ceiling"):
    """One metric of every row of an evaluation table, as horizontal bars.

    Parameters
    ----------
    table : pandas.DataFrame
        What `evaluate` returned, a row a forecaster.
    metric : str
        Column.
    ceiling : str
        Rows whose name holds this are drawn in grey.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownKeyError
        If there is no such column.
    """
    import matplotlib.pyplot as plt

    if metric not in table.columns:
        raise UnknownKeyError(f"metric: {metric!r} is no column of the table; {did_you_mean(metric, table.columns)}")
    values = table[metric].astype(float).dropna()
    with style():
        fig, ax = plt.subplots(figsize=(4.4, 0.26 * len(values) + 0.8))
        colors = ["0.7" if ceiling in str(name) else "C0" for name in values.index]
        ax.barh(np.arange(len(values)), values.to_numpy(), color=colors)
        ax.set_yticks(np.arange(len(values)), [str(v) for v in values.index])
        ax.invert_yaxis()
        ax.set_xlabel(metric)
        if table.attrs.get("simulated"):
            mark_simulated(fig)
    return fig


def _signal(truth):
    for name in ("dff", "zscore"):
        if name in truth:
            return name
    raise QfError(f"truth: expected a variable dff or zscore, found {sorted(map(str, truth.data_vars))}. Pass trials.dataset().")


def _palette(ax):
    with style():
        import matplotlib as mpl

        return [entry["color"] for entry in mpl.rcParams["axes.prop_cycle"]]


def _of_session(forecast, truth):
    """The part of a forecast over several sessions that belongs to `truth`, its trials numbered as there."""
    if "session" not in forecast.coords or forecast["session"].dims != ("trial",):
        return forecast
    mine = forecast.isel(trial=np.flatnonzero(forecast["session"].values.astype(str) == truth.attrs["session"]))
    return mine.assign_coords(trial=[int(str(t).rsplit("/", 1)[-1]) for t in mine["trial"].values])


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


def _choose(trials, n, seed):
    """(kind, session, trial, neuron) of the observations to show: half the most active of different neurons, half at random."""
    found = []
    for session in trials.sessions:
        truth = trials.dataset(session)
        response = truth[_signal(truth)].values[..., truth.attrs["n_baseline"] :]
        inside = np.arange(response.shape[-1]) < truth["n_score"].values[:, None, None]
        response = response.mean(-1, where=inside)  # NaN where not valid
        names, numbers = truth["neuron"].values.astype(str), truth["trial"].values
        found += [(response[t, k], session, int(numbers[t]), str(names[k])) for t, k in np.argwhere(np.isfinite(response))]
    if not found:
        raise QfError("trials: expected an observation to show, found none that is valid. Look at the recording with `qf info`.")
    best = {}
    for value, session, trial, neuron in found:
        if neuron not in best or value > best[neuron][0]:
            best[neuron] = (value, session, trial)
    top = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[: n // 2]
    chosen = [("most active", session, trial, neuron) for neuron, (_, session, trial) in top]
    taken = {c[1:] for c in chosen}
    rest = [f[1:] for f in found if f[1:] not in taken]
    picks = np.random.default_rng(seed).choice(len(rest), min(n - n // 2, len(rest)), replace=False) if rest else []
    return chosen + [("random", *rest[i]) for i in picks]


def _short(neuron):
    return neuron.rsplit("/", 1)[-1] if len(neuron) > 18 else neuron


def _short_condition(condition):
    text = condition.split("/", 1)[-1] if len(condition) > 34 else condition
    return text.replace("temporal_frequency", "tf").replace("spatial_frequency", "sf").replace("orientation", "ori")
