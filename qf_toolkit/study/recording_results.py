"""The scores behind a recording's page, of one pass over its test part, and the sections that say who forecasts best and how surely."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import QfError
from ..estimators.autoregression import Autoregression
from ..estimators.naive import ContextMean, CopyLast, StimulusMean, TrainingMean
from ..estimators.ridge import RidgeOwn, RidgePopulation
from ..estimators.smoothed_ridge import SmoothedRidge
from ..estimators.stimulus_context import StimulusContext
from ..recordings.trials import Trials
from .recording_blocks import Section, lower, missing, note, picture, picture_of, share, table, text
from .recording_choice import Choice
from .recording_states import states_before

USUAL, PSTH = TrainingMean.name, StimulusMean.name
PLAIN = {
    CopyLast.name: "the last frame before the onset, held",
    ContextMean.name: "the neuron's own recent level, held",
    USUAL: "the neuron's usual level after an onset, whatever is shown",
    PSTH: "the neuron's usual response to this condition",
    RidgeOwn.name: "a linear guess from the neuron's own recent frames and the condition",
    RidgePopulation.name: "a linear guess from the recent frames of all neurons and the condition",
    SmoothedRidge.name: "a linear guess from the neuron's own recent frames and the condition, smoothed over time",
    Autoregression.name: "a step-by-step guess from the neuron's own last frames, whatever is shown",
    StimulusContext.name: "the neuron's usual response to this condition, shifted by its own recent activity",
}
SHOWN = 4  # observations drawn beside the truth
CALIBRATED = 0.03  # a coverage this near to what was promised is called right
LEVELS = ("50", "80", "90")


@dataclass
class Results:
    """The scores behind a page.

    Attributes
    ----------
    scored : evaluation.scored.Scored
        The one pass over the test part.
    table : pandas.DataFrame
        As `evaluate` returns it.
    differences : pandas.DataFrame
        As `compare` returns it: of each model to each naive row.
    usual, psth : pandas.DataFrame or None
        As `evaluation.horizon.skill_by_horizon` returns it, measured by `reference` and by the PSTH; `psth` is None without conditions.
    groups : pandas.DataFrame
        As `evaluation.horizon.by_group` returns it, measured by `reference`, with the groupings condition, session and the behaviours, too.
    best_naive : str
        The naive row that is hardest to beat.
    chosen : list of plots.chosen.Shown
        Observations that are drawn.
    """

    scored: Any
    table: pd.DataFrame
    differences: pd.DataFrame
    usual: pd.DataFrame
    psth: pd.DataFrame | None
    groups: pd.DataFrame
    best_naive: str
    chosen: list = field(default_factory=list)

    @property
    def tuned(self) -> bool:
        """Whether the PSTH forecasts better than the neuron's usual level. If not, what beats the PSTH need not come from the context."""
        return self.psth is not None and bool(self.table.loc[PSTH, "mse_ratio"] < self.table.loc[self.reference, "mse_ratio"])

    @property
    def reference(self) -> str:
        """The row that skill is measured by: the training mean, or where that knows no neuron (of a subject left out) the mean of the context."""
        return str(self.usual.attrs["reference"])

    @property
    def level(self) -> str:
        """What that row holds, in two words."""
        return "usual level" if self.reference == USUAL else "recent level"

    @property
    def measured(self) -> list[str]:
        """The rows that are drawn in colour, but the one that skill is measured by."""
        return [name for name in self.shown if name != self.reference]

    @property
    def shown(self) -> list[str]:
        """The rows that are drawn in colour: the models, then the best naive row."""
        return [*self.scored.models, self.best_naive]


def results_of(choice: Choice, models: Sequence[Any], *, n_samples: int, seed: int, progress: bool = False) -> Results:
    """Forecast the test part once, by the models and the naive rows, and score it.

    Parameters
    ----------
    choice : Choice
        With a split.
    models : sequence of Forecaster
    n_samples, seed, progress
        As for `report`.

    Returns
    -------
    Results
    """
    from ..evaluation.compare import compare
    from ..evaluation.horizon import best_naive, by_group, skill_by_horizon
    from ..evaluation.scored import score
    from ..evaluation.table import evaluate
    from ..plots.chosen import choose_observations, wanted_of

    split = choice.split.keeping()
    try:
        chosen = choose_observations(split.test, fitting=split.fitting, n=SHOWN, seed=seed)
    except QfError:  # the test part holds no whole observation
        chosen = []
    keep = wanted_of(chosen) if chosen else None
    scored = score(list(models), split, n_samples=n_samples, seed=seed, keep=keep, labels=_labels, progress=progress)
    reference = ContextMean.name if USUAL in scored.missing else USUAL
    with_conditions = len(split.test.conditions) > 1 and PSTH not in scored.missing
    return Results(
        scored, evaluate(scored, split, n_samples=n_samples, seed=seed), compare(scored, split, seed=seed),
        skill_by_horizon(scored, reference, seed=seed), skill_by_horizon(scored, PSTH, seed=seed) if with_conditions else None,
        by_group(scored, reference, seed=seed), best_naive(scored), chosen,
    )  # fmt: skip


def _labels(part: Trials) -> dict[str, np.ndarray]:
    """The groups of trials that are scored apart, beside those of every pass."""
    states = {f"state: {name}": groups for name, groups in states_before(part).items()}
    every = np.full(len(part), "all")
    return {"all": every, "condition": part.table["condition"].to_numpy(str), "session": np.full(len(part), part.sessions[0]), **states}


def meaning(name: str, choice: Choice) -> str:
    """What a naive row is, in plain words; "a fitted model" for any other."""
    words = PLAIN.get(name, "a fitted model")
    return words.replace(" and the condition", "") if choice.settings["windows"] == "sliding" else words


def in_words(results: Results, choice: Choice) -> list[str]:
    """The results in a few sentences.

    Parameters
    ----------
    results : Results
    choice : Choice

    Returns
    -------
    list of str
    """
    best = results.best_naive
    first = f"Hardest to beat of the naive rows is '{best}', {meaning(best, choice)}"
    if best == ContextMean.name:
        first += ": no other simple rule forecasts better."
    else:
        first += f": its squared error is {share(results.table.loc[best, 'mse_ratio'])} of that of holding the neuron's recent level."
    return [first, *(_against_naive(results, name) for name in results.scored.models)]


def _against_naive(results, name):
    """How a model does against the best naive row, with the interval of the difference."""
    best = results.best_naive
    found = results.differences.loc[(name, best), ["ratio_lower", "ratio_lower_from", "ratio_lower_to"]] / results.table.loc[best, "mse_ratio"]
    by, low, high = found
    word = "surely better than" if low > 0 else "surely worse than" if high < 0 else "not to be told apart from"
    return f"{name} is {word} '{best}': its squared error is {lower(by, low, high)}."


def who(results: Results, choice: Choice) -> Section:
    """The section that compares the rows.

    Parameters
    ----------
    results : Results
    choice : Choice

    Returns
    -------
    Section
    """
    section = Section("who", "Who forecasts best")
    section.add(text(
        "Every forecaster was asked about the same test trials. The naive rows are simple rules that any model has to beat; each was fitted on "
        "the training part of this recording. Squared error is stated as a ratio to that of holding the neuron's recent level (below 1 is "
        "better); r is the correlation of forecast and measured response inside a trial, averaged over trials and neurons."
    ))  # fmt: skip
    order = results.table.sort_values("mse_ratio").index
    head = ["forecaster", "what it is", "MSE", "MSE, ratio to recent level", "r"]
    rows = [[name, meaning(name, choice), *map(float, results.table.loc[name, ["mse", "mse_ratio", "r"]])] for name in order]
    section.add(table(head, rows, models=results.scored.models, caption="The best first; models in bold"))
    section.add(*[missing(f"{name} is missing: {why}") for name, why in results.scored.missing.items()])
    return section.add(*[text(_against_naive(results, name)) for name in results.scored.models])


def examples(results: Results, choice: Choice) -> Section:
    """The section of single forecasts beside what was measured.

    Parameters
    ----------
    results : Results
    choice : Choice

    Returns
    -------
    Section
    """
    import matplotlib.pyplot as plt

    from ..plots.forecasts import figure_forecasts

    section = Section("examples", "Some forecasts beside what was measured")
    if not results.chosen:
        return section.add(missing("No observation of the test part has all its frames, so none is drawn."))
    fig = figure_forecasts(choice.split.test, {name: results.scored.kept[name] for name in results.shown}, chosen=results.chosen)
    words = "Chosen by rule before any forecast was seen: first neurons whose responses repeat best, then neurons and trials at random."
    try:
        return section.add(picture_of(fig, alt=f"Measured traces and the forecasts of {', '.join(results.shown)}", caption=words))
    finally:
        plt.close(fig)


def calibration(results: Results) -> Section:
    """The section on whether the uncertainty of the forecasts can be trusted.

    Parameters
    ----------
    results : Results

    Returns
    -------
    Section
    """
    from ..plots.calibration import plot_coverage, plot_pit

    section = Section("calibration", "Can the stated uncertainty be trusted?")
    columns = [f"coverage_{level}" for level in LEVELS]
    known = results.table[columns].dropna(how="all") if set(columns) <= set(results.table.columns) else pd.DataFrame()
    if known.empty:
        return section.add(
            missing("The forecasts were not drawn from (--samples 0), or validation was too short to learn how large their errors are.")
        )
    section.add(text(
        "A forecast comes with intervals. If they can be trusted, the 90 % interval holds what was measured in 90 % of the frames. Rows that "
        "forecast one number get their spread from their own errors on the validation part."
    ))  # fmt: skip
    shown = [name for name in results.shown if name in known.index]
    section.add(*[text(_coverage_in_words(name, known.loc[name, "coverage_90"])) for name in shown])

    def draw(axes):
        drawn = known.loc[shown]
        drawn.attrs = results.table.attrs
        plot_coverage(drawn, ax=axes[0])
        plot_pit({name: results.scored.pit[name] for name in shown}, ax=axes[1])

    if shown:
        section.add(picture(
            draw, size=(7.2, 3.0), columns=2, alt="Coverage of intervals, and histogram of the probability integral transform",
            caption="Left: below the diagonal the intervals are too narrow. Right: flat is right; raised ends mean too narrow, a hill too wide, a "
            "slope too high or too low.",
        ))  # fmt: skip
    rows = [[name, *map(share, known.loc[name, columns])] for name in known.index]
    return section.add(
        table(["forecaster", *(f"inside the {level} % interval" for level in LEVELS)], rows, models=results.scored.models, folded="All forecasters"),
        note(f"{results.table.attrs.get('draws', 0)} draws of each forecast."),
    )


def _coverage_in_words(name, covered):
    off = covered - 0.9
    word = (
        "as promised"
        if abs(off) <= CALIBRATED
        else "less than promised: it is too sure of itself"
        if off < 0
        else "more than promised: it is too unsure"
    )
    return f"The 90 % intervals of '{name}' hold {share(covered)} of the frames, {word}."
