"""The sections of a recording's page on how far ahead it can be forecast, and in which neurons, conditions and states."""

import numpy as np
import pandas as pd

from ..recordings.conditions import category_of
from .recording_blocks import Section, decimals, heading, interval, lower, missing, natural, picture, share, table, text
from .recording_choice import Choice
from .recording_results import PLAIN, PSTH, Results

MOST_DRAWN = 24  # groups in a picture; of more those at either end
GROUPINGS = {
    "trace_snr": (
        "Neurons by the quality of their trace",
        "thirds of a session's neurons by signal-to-noise ratio: the spread of the trace over the noise between neighbouring frames, in the "
        "training part",
    ),
    "activity": (
        "Active and silent responses",
        "a response is active if its mean dF/F reaches active_gain (see the settings below); that is known only afterwards, so this says where "
        "errors lie, not when to trust a forecast",
    ),
    "category": ("Stimuli", "categories of stimulus"),
    "condition": ("Conditions", "what was shown"),
    "session": ("Sessions", "each recording by itself"),
}  # fmt: skip
ORDERED = ("trace_snr", "activity")  # groupings whose groups have an order of their own
STATE = "state: "
STATES = {
    frozenset({"low", "high"}): "at most or above the median of the session's tested trials",
    frozenset({"still", "running"}): "still: at most 1 cm/s, or 2 % of the session's highest speed where its unit is not known",
    frozenset({"without", "with"}): "without or with at least one event",
}


def horizon(results: Results, choice: Choice) -> Section:
    """The section on how far ahead the recording can be forecast, and by whom.

    Parameters
    ----------
    results : Results
    choice : Choice

    Returns
    -------
    Section
    """
    from ..plots.horizon import plot_skill_by_step

    section = Section("horizon", "How far ahead, and by whom")
    section.add(text(
        "Skill is the share of the squared error that a forecast takes away from a simpler one: 1 is a perfect forecast, 0 is no better, below 0 "
        f"is worse. Here the simpler one is '{results.reference}' ({PLAIN[results.reference]}). A forecast counts as informative up to the last "
        f"step before its {share(0.95)} interval first meets 0."
    ))  # fmt: skip
    section.add(*[text(line) for line in horizon_in_words(results, choice)])
    onset = "the beginning of the forecast" if choice.settings["windows"] == "sliding" else "the onset"

    def draw(skill):
        def on(ax):
            shown = [name for name in results.shown if name != skill.attrs["reference"]]
            plot_skill_by_step(_indexed(skill, "time_s", without=skill.attrs["reference"]), rows=shown, ax=ax)

        return on

    if results.measured and np.isfinite(results.usual["skill"]).any():
        section.add(picture(
            draw(results.usual), size=(7.2, 3.2), alt=f"Skill over '{results.reference}' by time from {onset}",
            caption=f"Skill over '{results.reference}' by time from {onset}; bands are 95 % intervals over animals, sessions and blocks of trials.",
        ))  # fmt: skip
    if results.psth is not None:
        section.add(heading("What the activity before the onset adds to knowing what is shown"))
        if results.tuned:
            section.add(text(
                f"The same, measured by '{PSTH}' (the neuron's usual response to this condition): what is above 0 comes from the activity just "
                f"before {onset}."
            ))  # fmt: skip
            section.add(
                picture(draw(results.psth), size=(7.2, 3.2), alt=f"Skill over '{PSTH}' by time from {onset}", caption=f"Skill over '{PSTH}'.")
            )
        else:
            section.add(text(
                f"Here '{PSTH}' (the neuron's usual response to this condition) forecasts no better than '{results.reference}': conditions are "
                "shown too seldom, or neurons respond to them too alike, for the mean response to pay. So the picture above also shows what the "
                f"activity before {onset} adds."
            ))  # fmt: skip
    section.add(_table_of_reach(results))
    return section


def horizon_in_words(results: Results, choice: Choice) -> list[str]:
    """How far ahead the models and the best naive row are informative, a sentence each.

    Parameters
    ----------
    results : Results
    choice : Choice

    Returns
    -------
    list of str
    """
    usual, psth = _reach(results.usual), _reach(results.psth) if results.tuned else None
    whole = results.groups[results.groups["grouping"] == "all"].set_index("forecaster")
    ahead = "ahead" if choice.settings["windows"] == "sliding" else "after the onset"
    found = [] if results.measured else [f"No naive row surely knows more than the neuron's {results.level}: nothing else forecasts with less error."]
    for name in results.measured:
        over = whole.loc[name]
        by, low, high = over[["skill", "skill_from", "skill_to"]]
        beats = f": up to there it surely beats the neuron's {results.level}" if usual.loc[name, "informative_s"] > 0 else ""
        words = (
            f"'{name}' is informative {_told(usual, name)} {ahead}{beats}. Over the whole response its squared error is {lower(by, low, high)} "
            f"than that of the neuron's {results.level}{', which may be chance' * bool(low <= 0 <= high)}."
        )
        if psth is not None and name != PSTH:
            words += f" Beyond the mean response to the condition it is informative {_told(psth, name)}."
        found.append(words)
    return found


def _reach(skill):
    from ..evaluation.horizon import informative_to

    return informative_to(skill)


def _told(reach, name):
    if name not in reach.index or pd.isna(reach.loc[name, "informative_s"]):
        return "for an unknown time"
    seconds, to_end = reach.loc[name]
    if not seconds:
        return "at no step"
    return f"to {'at least ' if to_end else ''}{seconds:.2g} s" + (" (the end of the window)" if to_end else "")


def _table_of_reach(results):
    usual = results.usual
    steps = sorted(usual["time_s"].unique())
    at = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
    reach, beyond = _reach(usual), _reach(results.psth) if results.tuned else None
    head = ["forecaster", "informative", *(["beyond the mean response"] if beyond is not None else []), *(f"skill at {t:.2g} s" for t in at)]
    rows = []
    for name in dict.fromkeys(usual["forecaster"]):
        if name == results.reference:
            continue
        one = usual[usual["forecaster"] == name].set_index("time_s")
        cells = [f"{decimals(one.loc[t, 'skill'])} {interval(one.loc[t, 'skill_from'], one.loc[t, 'skill_to'], decimals)}" for t in at]
        rows.append([name, _told(reach, name), *([_told(beyond, name) if name != PSTH else "-"] if beyond is not None else []), *cells])
    return table(head, rows, models=results.scored.models, caption=f"Skill over '{results.reference}', with 95 % intervals")


def _indexed(skill, key, without=None):
    """A table of skill with the index (forecaster, key)."""
    found = skill[skill["forecaster"] != without].set_index(["forecaster", key])
    found.attrs = skill.attrs
    return found


def groups(results: Results, choice: Choice) -> Section:
    """The section on which neurons, conditions and states are forecastable.

    Parameters
    ----------
    results : Results
    choice : Choice

    Returns
    -------
    Section
    """
    section = Section("groups", "Which neurons, conditions and states can be forecast")
    section.add(
        text(f"Skill over '{results.reference}' over the whole response, for the models and the best naive row, by groups of neurons and trials.")
    )
    found = results.groups[results.groups["forecaster"].isin(results.measured)]
    for grouping in dict.fromkeys(g for g in found["grouping"] if g != "all"):
        section.add(*_grouping(found[(found["grouping"] == grouping) & (found["frames"] > 0)].dropna(subset="skill"), grouping, results))
    if not choice.trials.source.index.empty and not any(g.startswith(STATE) for g in found["grouping"]):
        section.add(missing("Forecasts are not told apart by behaviour: the recording has none, or one state holds too few trials."))
    return section


def _grouping(one, grouping, results):
    """The blocks of one grouping: its picture, and its numbers folded."""
    from ..plots.horizon import plot_skill_by_group

    by_state = grouping.removeprefix(STATE)
    title, words = GROUPINGS.get(grouping) or (f"Behaviour: {by_state}", f"{by_state} before the onset, {STATES.get(frozenset(one['group']), '')}")
    if grouping not in ORDERED:
        one = one.sort_values("group", key=lambda column: column.map(natural), kind="stable")
    names = list(dict.fromkeys(one["group"]))
    if len(names) < 2:
        if grouping in ORDERED:
            yield heading(title)
            yield missing(f"Only one group has responses to score: {', '.join(names) or 'none'}.")
        return
    drawn = one.assign(group=_short(one["group"])) if grouping == "condition" else one
    if len(names) > MOST_DRAWN:
        half = MOST_DRAWN // 2
        ranked = drawn[drawn["forecaster"] == results.measured[0]].sort_values("skill", ascending=False)["group"].tolist()
        ends = [*ranked[:half], *ranked[-half:]]
        drawn = drawn[drawn["group"].isin(ends)].sort_values("group", key=lambda column: column.map(ends.index), kind="stable")
        words += f": of {len(names)}, the {half} that '{results.measured[0]}' forecasts best and the {half} that it forecasts worst"
    table_ = _indexed(drawn, "group")
    table_.attrs = results.groups.attrs
    height = 0.75 + 0.24 * drawn["group"].nunique() + (0.3 if len(results.measured) > 1 else 0)
    yield heading(title)
    yield picture(lambda ax: plot_skill_by_group(table_, ax=ax), size=(6.2, height), alt=f"Skill by group: {title}", caption=_sentence(words))
    rows = [[r.group, r.forecaster, int(r.frames), decimals(r.skill), interval(r.skill_from, r.skill_to, decimals)] for r in one.itertuples()]
    yield table(["group", "forecaster", "frames", "skill", "95 % interval"], rows, folded=f"The numbers: {title}")


def _short(conditions):
    """Keys of conditions without their category, where all share one."""
    categories = {category_of(c) for c in conditions}
    return [c.removeprefix(f"{next(iter(categories))}/") for c in conditions] if len(categories) == 1 else list(conditions)


def _sentence(words):
    return f"{words[0].upper()}{words[1:]}."
