"""The sections of a recording's page that say what is in it, what would help it, and how the page was made."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._version import versions
from .recording_advice import Advice
from .recording_blocks import Section, counted, lines, note, number, share, table, text
from .recording_choice import Choice
from .recording_facts import Facts

MOST_LISTED = 12  # rows of a table that is not folded


def contents(facts: Facts, choice: Choice) -> Section:
    """What is in the store, and what was left out.

    Parameters
    ----------
    facts : Facts
    choice : Choice

    Returns
    -------
    Section
    """
    section = Section("contents", "What is in it, and what was left out")
    sliding = choice.settings.get("windows") == "sliding"
    what = "window" if sliding else "trial"
    attrs = facts.attrs
    section.add(text(
        f"{counted(facts.n_sessions, 'session')} of {counted(facts.n_subjects, 'subject')}, {counted(facts.count('used_neurons'), 'neuron')}, "
        f"{counted(facts.count('used_trials'), what)}, {number(facts.count('minutes'))} minutes at {_rates(facts)} Hz. Indicator: "
        f"{_listed(attrs['indicator'])}; area: {_listed(attrs['area'])}. The store holds {_signals(attrs['signal'])}. Behaviour: "
        f"{_listed(attrs['behaviour']) if attrs['behaviour'] else 'none'}."
    ))  # fmt: skip
    if choice.trials is not None:
        section.add(text(_window(choice, facts)))
    section.add(lines(_left_out(facts, choice)))
    head = ["session", "neurons", "flagged", "minutes", "Hz", f"{what}s used", "trials", "conditions", "shown", "blocks", "behaviour"]
    rows = [
        [
            s["key"], f"{s['used_neurons']} of {s['neurons']}", "; ".join(f"{n} ({why})" for why, n in s["flagged"].items()) or "none",
            s["minutes"], s["rate_hz"], s["used_trials"] if s["used"] else "not on this page", s["trials"], s["conditions"],
            f"{s['repeats']} time{'s' * (s['repeats'] != '1')}" if s["repeats"] else "-", s["blocks"], ", ".join(s["behaviour"]) or "none",
        ]
        for s in facts.sessions
    ]  # fmt: skip
    section.add(table(head, rows, folded=f"All {len(rows)} sessions" if len(rows) > MOST_LISTED else ""))
    if len(facts.conditions) and not sliding:
        rows = [[key, *map(int, row)] for key, row in zip(facts.conditions.index, facts.conditions.to_numpy(), strict=True)]
        head = ["condition", "shown", "learnt from", "tested"]
        section.add(
            table(
                head,
                rows,
                folded=f"All {len(rows)} conditions" if len(rows) > MOST_LISTED else "",
                caption="Trials of each condition, over all sessions of this page",
            )
        )
    if facts.flagged:
        section.add(table(["neuron", "why it is left out"], facts.flagged, folded=f"All {len(facts.flagged)} flagged neurons"))
    return section


def _window(choice, facts):
    trials = choice.trials
    window, rate = trials.window, trials.rate_hz
    n_baseline, n_response, _ = window.frames(rate)
    sliding = choice.settings["windows"] == "sliding"
    onset, what = ("the moment of the forecast", "window") if sliding else ("the onset", "trial")
    unit = (
        f"dF/F, where F0 is the mean of the last {window.f0_s:.3g} s before {onset}"
        if window.signal == "dff"
        else "the z-score of each trace, by the training part"
    )
    words = (
        f"Forecast is {unit}: a forecaster sees the {window.baseline_s:.3g} s ({n_baseline} frames) before and forecasts {window.response_s:.3g} s "
        f"({n_response} frames) from it on."
    )
    if choice.split is not None:
        split = choice.split
        words += (
            f" Models and naive rows learn from {counted(len(split.train), what)} and choose on {len(split.validation):,}; the {len(split.test):,} "
            f"of the test part are forecast once, for this page ({_plainly(split.rule)}; {split.dropped:,} in between are left out, so that no "
            "part sees a frame of another)."
        )
    return words


def _plainly(rule):
    return rule.replace("by block (test block -1)", "the last block of each session")


def _left_out(facts: Facts, choice: Choice):
    flagged = {}
    for s in facts.sessions:
        for why, n in s["flagged"].items():
            flagged[why] = flagged.get(why, 0) + (n if s["used"] else 0)
    found = [f"{counted(n, 'neuron')} left out: {why}." for why, n in flagged.items() if n]
    counts = choice.trials.counts if choice.trials is not None else {}
    if counts.get("incomplete"):
        found.append(
            f"{counts['incomplete']:,} of {counted(counts['trials'], 'window')} left out: not whole inside the recording, or across a pause of it."
        )
    unused = [s for s in facts.sessions if not s["used"]]
    if unused:
        found.append(f"{counted(len(unused), 'session')} of the store {'is' if len(unused) == 1 else 'are'} not on this page.")
    return [*(found or ["Nothing was left out: no neuron is flagged, every window is whole."]), *choice.notes]


def _listed(values: Sequence[str], most: int = 6) -> str:
    values = [v for v in values if v] or ["unknown"]
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


def _rates(facts: Facts) -> str:
    rates = sorted({f"{s['rate_hz']:.4g}" for s in facts.sessions if s["used"]})
    return rates[0] if len(rates) == 1 else f"{rates[0]} to {rates[-1]}"


def _signals(signals: Sequence[str]) -> str:
    words = {"fluorescence": "fluorescence", "dff": "dF/F (fluorescence itself did not come along)"}
    return " and ".join(words.get(s, s) for s in signals)


def advice(found: Sequence[Advice]) -> Section:
    """What is too short in the recording, and how much would be enough.

    Parameters
    ----------
    found : sequence of Advice

    Returns
    -------
    Section
    """
    section = Section("advice", "What would make this page surer")
    if not found:
        return section.add(text("Nothing: trials, repeats, neurons and baseline suffice for every part of this page."))
    return section.add(table(["found", "what it costs", "what would be enough"], [[a.found, a.costs, a.wanted] for a in found]))


def provenance(store: Path, facts: Facts, choice: Choice, made: Mapping[str, Any], notes: Sequence[str]) -> Section:
    """How the page was made: data, split, seeds, versions.

    Parameters
    ----------
    store : Path
    facts : Facts
    choice : Choice
    made : dict
        Further facts, {name: text}.
    notes : sequence of str
        What libraries and rows had to say while the page was made.

    Returns
    -------
    Section
    """
    section = Section("provenance", "How this page was made")
    rows = [["data", "SIMULATED" if facts.simulated else "recorded, as far as the store says"], ["store", store.name]]
    if choice.trials is not None:
        rows += [["digest of the data", choice.split.test.digest() if choice.split is not None else choice.trials.digest()]]
    if choice.split is not None:
        rows += [["split", choice.split.rule]]
    rows += [["settings", "; ".join(f"{n} {v}" for n, v in choice.settings.items() if v is not None)]]
    rows += [[name, str(value)] for name, value in made.items()]
    rows += [["sources", _listed([s["provenance"] for s in facts.sessions if s["used"]])]]
    rows += [
        ["versions", ", ".join(f"{name} {version}" for name, version in versions().items())],
        ["made", datetime.now(UTC).isoformat(timespec="seconds")],
    ]
    section.add(table(["what", "value"], rows))
    if notes:
        section.add(note("Said while the page was made:"), lines(notes))
    return section


def in_short(facts: Facts, choice: Choice, found: Sequence[str], advised: Sequence[Advice]) -> list[str]:
    """The page in a few sentences.

    Parameters
    ----------
    facts : Facts
    choice : Choice
    found : sequence of str
        What the results say.
    advised : sequence of Advice

    Returns
    -------
    list of str
    """
    what = "window" if choice.settings.get("windows") == "sliding" else "trial"
    flagged = 1 - facts.count("used_neurons") / max(facts.count("neurons"), 1)
    first = (
        f"{counted(facts.count('used_neurons'), 'neuron')} in {counted(facts.n_sessions, 'session')} of {counted(facts.n_subjects, 'subject')}, "
        f"{counted(facts.count('used_trials'), what)}{f'; {share(flagged)} of the neurons are left out' if flagged else ''}."
    )
    last = [f"{counted(len(advised), 'thing')} would make this page surer; the first: {advised[0].found}"] if advised else []
    return [first, *found, *last]
