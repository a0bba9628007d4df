"""The section of a recording's page on single neurons: how much of their response repeats, and how well each is forecast."""

import math

import numpy as np
import pandas as pd
import xarray as xr

from .recording_blocks import Section, counted, decimals, heading, interval, missing, note, number, picture, share, table, text
from .recording_choice import Choice
from .recording_results import Results

LISTED = 5  # neurons at either end of the list
MOST_ROWS = 2000  # of the folded table; more make a page that browsers open slowly


def neurons_of(choice: Choice, results: Results | None) -> pd.DataFrame:
    """What is known of each neuron.

    Parameters
    ----------
    choice : Choice
        With trials.
    results : Results or None

    Returns
    -------
    pandas.DataFrame
        As `evaluation.repeats.explainable` returns it for all trials of the page; snr_low and snr_high, the ends of the interval of the explainable
        share as signal-to-noise ratios; and where there are results skill (of the best naive row over the training mean, on the test part) and r.
    """
    from ..evaluation.repeats import explainable

    trials = choice.trials
    if trials.window.signal == "zscore":
        trials = trials.scaled_on(trials if choice.split is None else choice.split.train)
    found = explainable(trials)
    if choice.settings["windows"] == "sliding":  # all windows share one condition, which nothing repeats
        found[["explainable", "low", "high", "snr"]] = np.nan
        found["reason"] = "windows slide over the recording, and nothing is shown again"
    for end in ("low", "high"):
        ratio = found[end] / (1 - found[end])
        found[f"snr_{end}"] = ratio.where(found[end] < 1, np.inf).where(found[end].notna())
    if results is not None:
        mine, usual = (results.scored.neurons[name] for name in (results.best_naive, results.reference))
        found["skill"] = (1 - mine["mse"] / usual["mse"].where(usual["mse"] > 0)).reindex(found.index)
        found["r"] = mine["r"].reindex(found.index)
    return found


def reliability(found: pd.DataFrame, choice: Choice, results: Results | None) -> Section:
    """The section on single neurons.

    Parameters
    ----------
    found : pandas.DataFrame
        As `neurons_of` returns it.
    choice : Choice
    results : Results or None

    Returns
    -------
    Section
    """
    from ..plots.intervals import plot_sorted_intervals

    section = Section("neurons", "Single neurons: how much repeats, and how well each is forecast")
    known = found[found["explainable"].notna()]
    if known.empty:
        section.add(missing(f"SNR and explainable share are missing: {found['reason'].mode().iloc[0]}."))
    else:
        section.add(
            text(
                "When a condition is shown again, a part of a neuron's response comes back and the rest differs. The explainable share is the "
                "part of the variance that comes back; SNR is that part over the rest. It bounds what knowing the stimulus can forecast. A "
                "forecast that also reads the activity before the onset may pass it."
            ),
            text(_in_words(known)),
        )
        shown = known.rename(columns={"low": "explainable_from", "high": "explainable_to"})
        shown.attrs = found.attrs
        section.add(
            picture(
                lambda ax: plot_sorted_intervals(shown, "explainable", label="explainable share", ax=ax),
                size=(7.2, 2.8),
                alt="Explainable share of each neuron",
                caption=f"Explainable share of each neuron with its 95 % interval, from {number(float(known['n_repeats'].mean()))} repeats of a "
                "condition on average. Noise makes some estimates fall below 0.",
            )
        )
        section.add(*_shares_forecast(choice, results))
    if results is not None and results.best_naive != results.reference and int(found["r"].notna().sum()) > 2:
        section.add(*_against_share(found, known, results))
    return section.add(*_tables(found, results))


def _in_words(known):
    sure, share_ = int((known["low"] > 0).sum()), known["explainable"]
    with_interval = int(known["low"].notna().sum())
    words = f"In the median neuron {share(max(share_.median(), 0.0))} of the variance comes back (SNR {number(max(known['snr'].median(), 0.0), 2)})"
    if with_interval:
        return (
            f"{words}; of {counted(with_interval, 'neuron')} the interval of {sure} lies above 0: these respond to what is shown, or to its onset "
            f"(by chance alone it would be about {math.ceil(0.025 * with_interval)})."
        )
    return f"{words}; there are too few repeats for an interval."


def _shares_forecast(choice, results):
    """FEVE of the models and the best naive row."""
    from ..evaluation.repeats import explainable, feve

    if results is None:
        return
    found = feve(results.scored, explainable(choice.split.test))
    for name in results.shown:
        row = found.loc[name]
        if pd.isna(row["feve"]):
            yield missing(f"How much of what repeats '{name}' forecasts (FEVE) is missing: {row['reason']}.")
        else:
            found_ = f"'{name}' forecasts {share(row['feve'])} of what repeats" if row["feve"] > 0 else f"'{name}' forecasts nothing of what repeats"
            yield text(
                f"{found_} (FEVE {decimals(row['feve'])}, the mean over the {counted(int(row['n_neurons']), 'neuron')} with an explainable share "
                f"of at least {share(found.attrs['threshold'])} in the test part; {int(row['left_out'])} left out). Above 1 it also forecasts what "
                "does not repeat, below 0 it errs by more than the neuron's mean response."
            )


def _against_share(found, known, results):
    """Pictures of how well each neuron is forecast."""
    from ..evaluation.compare import per_neuron_scores
    from ..plots.intervals import plot_sorted_intervals
    from ..plots.scores import plot_score_by_statistic

    scores = per_neuron_scores(results.scored)
    with_share = len(known) > 2 and found["r"].nunique() > 1  # a forecast that is held has no r
    one = known["explainable"].groupby(level="neuron").mean()
    statistic = xr.DataArray(one.to_numpy(), {"neuron": one.index.to_numpy()}, "neuron", name="explainable share")

    def draw(axes):
        left, *right = np.atleast_1d(axes)
        of_skill = found[["skill"]].copy()
        of_skill.attrs = found.attrs
        plot_sorted_intervals(of_skill, "skill", label=f"skill of {results.best_naive}", ax=left)
        left.set_ylim(bottom=max(left.get_ylim()[0], -1.0))
        if right:
            plot_score_by_statistic(scores, statistic, results.best_naive, ax=right[0])

    yield heading("How well each neuron is forecast")
    better = int((found["skill"] > 0).sum())
    yield text(
        f"'{results.best_naive}' beats the {results.level} of {better} of {counted(int(found['skill'].notna().sum()), 'neuron')} on the test part."
    )
    if found["skill"].notna().any():
        side = "; right: correlation inside a trial over the explainable share" if with_share else ""
        yield picture(
            draw,
            size=(7.2 if with_share else 3.8, 2.9),
            columns=1 + with_share,
            alt="Skill of each neuron",
            caption=f"{'Left: skill' if with_share else 'Skill'} of '{results.best_naive}' over '{results.reference}', neuron by neuron{side}.",
        )


def _tables(found, results):
    """The best and the worst neurons, and all of them folded."""
    by = "explainable" if found["explainable"].notna().any() else "skill" if results is not None else None
    ordered = found.sort_values(by, ascending=False, na_position="last") if by else found
    columns = _columns(ordered, results)
    if len(columns) == 1:  # nothing but their keys
        return
    head, cells = list(columns), list(zip(*columns.values(), strict=True))
    n = len(cells)
    if by and n > 2 * LISTED:
        rated = int(ordered[by].notna().sum())
        words = "explainable share" if by == "explainable" else "skill"
        yield table(head, cells[:LISTED], caption=f"The {LISTED} neurons of highest {words}")
        yield table(head, cells[max(rated - LISTED, 0) : rated], caption=f"The {LISTED} neurons of lowest {words}")
    yield table(head, cells[:MOST_ROWS], folded=f"All {min(n, MOST_ROWS):,} neurons" if n > LISTED else "")
    if n > MOST_ROWS:
        yield note(f"The table holds the first {MOST_ROWS:,} of {n:,} neurons; page.neurons in Python has all.")


def _columns(found, results):
    """The columns of the tables, {head: text of each neuron}; those that nothing is known of are left out."""
    session, neuron = (found.index.get_level_values(level).astype(str) for level in ("session", "neuron"))
    columns = {"neuron": list(neuron)}
    if not all(n.startswith(f"{s}/") for s, n in zip(session, neuron, strict=True)):  # else the key holds the session
        columns["session"] = list(session)
    if found["explainable"].notna().any():
        for head, value, low, high in (("explainable share", "explainable", "low", "high"), ("SNR", "snr", "snr_low", "snr_high")):
            columns[head] = [decimals(v) for v in found[value]]
            columns[f"{head}, 95 % interval"] = [interval(*ends, decimals) for ends in zip(found[low], found[high], strict=True)]
    if results is not None:
        columns |= {head: [decimals(v) for v in found[head]] for head in ("skill", "r")}
    return columns
