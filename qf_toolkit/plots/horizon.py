"""How far ahead forecasts reach, and for which groups of observations: skill with its interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from .style import TRUTH, axes_or_current, credit, palette

BAND = 0.18  # opacity of an interval
OTHERS = (
    "-",
    "--",
    ":",
    "-.",
    (0, (6, 1)),
    (0, (1, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 3)),
)  # lines of the rows in grey, told apart by their dashes
SKILL = "skill: 1 - MSE / MSE of {}"


def plot_skill_by_step(skill: pd.DataFrame, *, rows: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Plot the skill of forecasters over the horizon, each with its interval.

    Parameters
    ----------
    skill : pandas.DataFrame
        What `evaluation.horizon.skill_by_horizon` returns, indexed by forecaster and time_s (seconds from the onset); columns skill, skill_from and
        skill_to. attrs may hold `reference`, the row that has skill 0.
    rows : sequence of str, optional
        Forecasters that are drawn in colour with their intervals; the others are grey lines. If None, all.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownKeyError
        If one of `rows` has no skill here.
    QfError
        If no skill is a number.
    """
    ax = axes_or_current(ax)
    names = list(dict.fromkeys(skill.index.get_level_values(0)))
    shown = names if rows is None else list(rows)
    for name in shown:
        if name not in names:
            raise UnknownKeyError(f"rows: {name!r} has no skill here; {did_you_mean(name, names)}")
    if not np.isfinite(skill["skill"].to_numpy(float)).any():
        raise QfError("skill: expected numbers, found none. Score more trials.")
    ax.axhline(0, color="0.5", lw=0.8, zorder=0)
    others = [name for name in names if name not in shown]
    for i, name in enumerate(others):
        one = skill.loc[name]
        ax.plot(one.index, one["skill"], color="0.6", lw=0.9, ls=OTHERS[i % len(OTHERS)], label=name, zorder=1)
    for color, name in zip(_cycle(len(shown)), shown, strict=True):
        one = skill.loc[name]
        ax.fill_between(one.index.to_numpy(float), one["skill_from"].to_numpy(float), one["skill_to"].to_numpy(float), color=color, alpha=BAND, lw=0)
        ax.plot(one.index, one["skill"], color=color, label=name, marker="o" if len(one) < 12 else "", markersize=3, zorder=2)
    bottom = float(np.nanmin(skill.loc[shown, ["skill", "skill_from"]].to_numpy(float))) if shown else -0.2
    ax.set_ylim(bottom=max(min(-0.05, bottom - 0.05), -1.0), top=min(1.0, max(0.1, float(np.nanmax(skill["skill_to"])) + 0.05)))
    ax.set(xlabel="time from onset (s)", ylabel=SKILL.format(skill.attrs.get("reference", "the reference")))
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    credit(ax, skill)
    return ax


def plot_skill_by_group(skill: pd.DataFrame, *, ax: Any = None) -> Any:
    """Plot the skill of one or several forecasters in groups of observations (conditions, states), one row a group, with intervals.

    Parameters
    ----------
    skill : pandas.DataFrame
        Index (forecaster, group), columns skill, skill_from and skill_to.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        Groups from top to bottom in the order of `skill`.

    Raises
    ------
    QfError
        If no skill is a number.
    """
    ax = axes_or_current(ax)
    if not np.isfinite(skill["skill"].to_numpy(float)).any():
        raise QfError("skill: expected numbers, found none. Score more trials.")
    names = list(dict.fromkeys(skill.index.get_level_values(0)))
    groups = list(dict.fromkeys(skill.index.get_level_values(1)))
    place = {group: i for i, group in enumerate(groups)}
    step = 0.6 / len(names)
    ax.axvline(0, color="0.5", lw=0.8, zorder=0)
    for i, (color, name) in enumerate(zip(_cycle(len(names)), names, strict=True)):
        one = skill.loc[name]
        at = np.array([place[g] for g in one.index]) + (i - (len(names) - 1) / 2) * step
        ax.hlines(at, one["skill_from"], one["skill_to"], color=color, lw=1.2)
        ax.plot(one["skill"], at, "o", color=color, markersize=4, label=name)
    ax.set_yticks(range(len(groups)), [str(g) for g in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    left = float(np.nanmin(skill[["skill", "skill_from"]].to_numpy(float)))
    if left < -1:
        ax.set_xlim(left=-1.0)
    ax.set(xlabel=SKILL.format(skill.attrs.get("reference", "the reference")), ylabel="")
    if len(names) > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18 if len(groups) > 3 else -0.35), ncols=min(3, len(names)))
    credit(ax, skill)
    return ax


def _cycle(n):
    colors = palette() if n else []
    return [colors[i % len(colors)] for i in range(n)] if n > 1 else [TRUTH] * n
