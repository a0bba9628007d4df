"""The sections of a recording's page that hold scores: who forecasts how far, which neurons, when, and how surely."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..errors import QfError
from .recording_blocks import Section, interval, missing, picture_of, share, table
from .recording_choice import Choice

PLAIN = {
    "copy last": "the last frame before the onset, held",
    "mean of the context": "the neuron's own recent level, held",
    "training mean": "the neuron's usual response, whatever is shown",
    "stimulus mean (PSTH)": "the neuron's usual response to this condition",
    "ridge, own trace": "a line from the neuron's own recent frames and the condition",
    "ridge, population": "a line from the recent frames of all neurons and the condition",
}
SHOWN = 4  # observations drawn beside the truth


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
    chosen : list of plots.chosen.Shown
        Observations that are drawn.
    """

    scored: Any
    table: pd.DataFrame
    differences: pd.DataFrame
    chosen: list = field(default_factory=list)

    @property
    def best_naive(self) -> str:
        """The naive row of least mse_ratio: the one that is hardest to beat."""
        return str(self.table.loc[self.scored.naive, "mse_ratio"].idxmin())

    def sentences(self) -> list[str]:
        """The results in a few sentences."""
        best = self.best_naive
        ratio = self.table.loc[best, "mse_ratio"]
        of_best = f"The best of the naive rows is '{best}', {meaning(best)}: its squared error is {share(ratio)} of that of holding the recent level."
        return [of_best, *map(self._against_naive, self.scored.models)]

    def _against_naive(self, name: str) -> str:
        """How a model does against the best naive row, with the interval of the difference."""
        best = self.best_naive
        lower, low, high = (
            self.differences.loc[(name, best), ["ratio_lower", "ratio_lower_from", "ratio_lower_to"]] / self.table.loc[best, "mse_ratio"]
        )
        word = "surely better than" if low > 0 else "surely worse than" if high < 0 else "not to be told apart from"
        return f"{name} is {word} '{best}': its squared error is lower by {share(lower)} {interval(low, high, share)}."

    def sections(self, choice: Choice) -> list[Section]:
        """The sections of the page, in order."""
        return [self._rows(), self._examples(choice)]

    def _rows(self):
        head = ["forecaster", "what it is", "MSE", "MSE, ratio to recent level", "r"]
        rows = [[name, meaning(name), *map(float, self.table.loc[name, ["mse", "mse_ratio", "r"]])] for name in self.table.index]
        section = Section("rows", "Who forecasts best")
        section.add(table(head, rows, models=self.scored.models))
        section.add(*[missing(f"{name}: {why}") for name, why in self.scored.missing.items()])
        return section

    def _examples(self, choice):
        import matplotlib.pyplot as plt

        from ..plots.forecasts import figure_forecasts

        section = Section("examples", "Some forecasts beside what was measured")
        if not self.chosen:
            return section.add(missing("No observation of the test part is whole."))
        names = [*self.scored.models, self.best_naive]
        fig = figure_forecasts(choice.split.test, {name: self.scored.kept[name] for name in names}, chosen=self.chosen)
        try:
            return section.add(
                picture_of(
                    fig,
                    alt="Forecasts beside measured traces",
                    caption="Chosen by rule, before any forecast was seen: neurons whose responses repeat best, and some at random.",
                )
            )
        finally:
            plt.close(fig)


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
    from ..evaluation.scored import score
    from ..evaluation.table import evaluate
    from ..plots.chosen import choose_observations, wanted_of

    split = choice.split.keeping()
    try:
        chosen = choose_observations(split.test, fitting=split.fitting, n=SHOWN, seed=seed)
    except QfError:  # the test part holds no whole observation
        chosen = []
    scored = score(list(models), split, n_samples=n_samples, seed=seed, keep=wanted_of(chosen) if chosen else None, progress=progress)
    return Results(scored, evaluate(scored, split, seed=seed), compare(scored, split, seed=seed), chosen)


def meaning(name: str) -> str:
    """What a naive row is, in plain words; "a fitted model" for any other."""
    return PLAIN.get(name, "a fitted model")
