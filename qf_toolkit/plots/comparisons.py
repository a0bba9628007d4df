"""Who is better than whom: paired differences with their intervals, and the scores of single runs."""

import numpy as np

from ..errors import QfError, UnknownKeyError, did_you_mean
from .style import axes_or_current, credit, palette
from .tables import kind_of_row

LABELS = {"ratio_lower": "by how much mse_ratio is lower", "r_higher": "by how much r is higher", "mse_lower": "by how much mse is lower"}
BETTER, WORSE, OPEN = "#0072B2", "#D55E00", "0.6"


def plot_differences(differences, column="ratio_lower", *, ax=None):
    """Plot by how much each model is better than each naive row, with the 95 % intervals; a line at 0 stands for no difference.

    Parameters
    ----------
    differences : pandas.DataFrame
        As `evaluation.compare.compare` or `benchmark.ranking.statistics` returns it.
    column : {"ratio_lower", "r_higher", "mse_lower"}
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        A group of rows per model. Blue: surely better, orange: surely worse, grey: the interval holds 0.

    Raises
    ------
    UnknownKeyError
        If there is no such column.
    QfError
        If there is no difference to plot.
    """
    if column not in LABELS:
        raise UnknownKeyError(f"column: expected one of {', '.join(LABELS)}, found {column!r}; {did_you_mean(column, LABELS)}")
    if not len(differences):
        raise QfError("differences: expected a model beside the naive rows, found none. Give compare a model.")
    ax, names, at = axes_or_current(ax), [], 0.0
    for model, rows in differences.groupby(level=0, sort=False):
        names.append((at, str(model), "bold"))
        for (_, than), row in rows.iterrows():
            at += 1
            value, low, high = (float(row[f"{column}{end}"]) for end in ("", "_from", "_to"))
            color = BETTER if low > 0 else WORSE if high < 0 else OPEN
            ax.plot([low, high], [at, at], color=color, lw=1.4, solid_capstyle="butt")
            ax.plot(value, at, "o", color=color, ms=4)
            names.append((at, f"than {than}", "normal"))
        at += 1.5
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set_yticks([y for y, _, _ in names], [name for _, name, _ in names])
    for tick, (_, _, weight) in zip(ax.yaxis.get_major_ticks(len(names)), names, strict=True):
        tick.label1.set_fontweight(weight)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(at - 0.5, -0.7)
    ax.set_xlabel(f"{LABELS[column]} (95 % interval)")
    credit(ax, differences)
    return ax


def plot_runs(runs, column="mse_ratio", *, ax=None):
    """Plot the score of every run, a row for each row of the table: a point is a subject, stimulus and seed, a line the mean.

    Parameters
    ----------
    runs : pandas.DataFrame
        `Results.runs` of a benchmark: columns row, naive, stimulus and the scores.
    column : str
        A score of the runs.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        Rows by their mean, the best on top; the colour is the stimulus.

    Raises
    ------
    UnknownKeyError
        If the runs have no such score.
    """
    import seaborn as sns

    if column not in runs:
        raise UnknownKeyError(f"column: expected a score of the runs, found {column!r}; {did_you_mean(column, runs.columns)}")
    ax = axes_or_current(ax)
    known = runs[np.isfinite(runs[column].astype(float))]
    means = known.groupby("row")[column].mean().sort_values(ascending=column not in ("r", "balanced_accuracy", "f1", "auroc"))
    stimuli = list(dict.fromkeys(known["stimulus"]))
    colors = dict(zip(stimuli, palette(), strict=False)) if len(stimuli) <= len(palette()) else None
    sns.stripplot(known, x=column, y="row", hue="stimulus", order=list(means.index), palette=colors, size=3.5, alpha=0.7, jitter=0.2, ax=ax)
    ax.plot(means, range(len(means)), "|", color="0.1", ms=14, mew=1.8)
    naive = set(runs.loc[runs["naive"], "row"])
    for label, name in zip(ax.get_yticklabels(), means.index, strict=True):
        if kind_of_row(name, naive) == "naive":
            label.set_color("0.5")
    ax.set(xlabel=column, ylabel="")
    ax.set_title("a point: subject, stimulus, seed; line: mean", loc="left")
    credit(ax, runs)
    return ax
