"""Advice about a recording that is too short or too sparse for some part of its page: what was found, what it costs, and how much would be enough.

The numbers wanted follow from simple rules. The mean of n trials carries 1/n of the variance of a single one, so 20 trials per condition cost a mean
response 5 % of the noise. Intervals are drawn over at most 20 blocks of at least 3 test trials, so 60 test trials make them as narrow as they get.
"""

import math
from dataclasses import dataclass

from .recording_choice import Choice
from .recording_facts import Facts

TRAIN_TRIALS = 20  # of a condition
TEST_TRIALS = 60  # of a session
REPEATS = 10  # of a condition, for the explainable share of a neuron
NEURONS = 10
BASELINE_S = 1.0
MOST_FLAGGED = 0.2


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes
    ----------
    found : str
        What is short, with its number.
    costs : str
        What that does to the page.
    wanted : str
        How much would be enough, or what to do.
    """

    found: str
    costs: str
    wanted: str


def advise(facts: Facts, choice: Choice) -> list[Advice]:
    """What is too short in a recording.

    Parameters
    ----------
    facts : Facts
    choice : Choice

    Returns
    -------
    list of Advice
        Empty if nothing is too short.
    """
    found = [*_on_parts(choice), *_on_trials(facts, choice), *_on_window(facts, choice), *_on_neurons(facts)]
    if facts.n_sessions == 1:
        found.append(Advice(
            "There is one session.", "The intervals on this page are over blocks of its trials. They say nothing about another day or another animal.",
            "Sessions of three animals or more, in the same store.",
        ))  # fmt: skip
    elif facts.n_subjects == 1:
        found.append(Advice(
            "All sessions are of one animal.", "The intervals on this page say nothing about other animals.", "Three animals or more, in the same store.",
        ))  # fmt: skip
    if not facts.attrs["behaviour"]:
        found.append(Advice(
            "No behaviour came with the recording.", "Forecasts can't be compared between running and rest, or between small and large pupils.",
            "Running speed or pupil size, brought in at import (--behaviour; from NWB files it comes along by itself).",
        ))  # fmt: skip
    return found


def _on_parts(choice):
    if choice.trials is None:
        yield Advice(
            "No window could be cut.",
            f"There is no forecast on this page. {choice.missing}",
            "A recording without a pause, longer than one window; or shorter windows (--baseline, --response).",
        )
    elif choice.split is None:
        n = len(choice.trials)
        yield Advice(f"{_n(n, 'trial')} can't be divided into training, validation and test.", f"There is no forecast on this page. {choice.missing}",
                     f"About {3 * TEST_TRIALS} trials a session; 10 with pauses between them are the least.")  # fmt: skip


def _on_trials(facts, choice):
    sliding = choice.settings.get("windows") == "sliding"
    if choice.trials is None:
        return
    if sliding:
        yield Advice("The recording has no conditions that repeat." , "Without repeats, signal and noise of a neuron can't be told apart: SNR and explainable share are missing, "
                     "and there is no mean response to a stimulus to compare with.", "Stimuli (or other events) that repeat, as a trial table at import.")  # fmt: skip
    else:
        shown = facts.conditions["shown"]
        often = int((shown >= 2).sum())
        if not often:
            yield Advice("No condition is shown twice.", "Signal and noise of a neuron can't be told apart: SNR and explainable share are missing.",
                         f"{REPEATS} repeats of each condition or more.")  # fmt: skip
        elif shown.median() < REPEATS:
            yield Advice(f"Half of the conditions are shown {shown.median():g} times or fewer.", "The intervals of SNR and explainable share are wide.",
                         f"{REPEATS} repeats of each condition or more.")  # fmt: skip
        train = facts.conditions["train"]
        if choice.split is not None and often and train.median() < TRAIN_TRIALS:
            n = max(1, math.floor(train.median()))
            yield Advice(
                f"Half of the conditions have {train.median():g} trials or fewer to learn from.",
                f"A mean response of {_n(n, 'trial')} carries {1 / n:.0%} of the noise of a single trial, which each forecast that uses it pays for.",
                f"{TRAIN_TRIALS} trials of each condition to learn from ({1 / TRAIN_TRIALS:.0%} of the noise), about {math.ceil(1.5 * TRAIN_TRIALS)} in all.",
            )  # fmt: skip
        if len(shown) and (facts.conditions["test"] == 0).any() and choice.split is not None:
            n = int((facts.conditions["test"] == 0).sum())
            yield Advice(f"{_n(n, 'condition')} of {len(shown)} {'is' if n == 1 else 'are'} not in the test part.", "Nothing is said about them.",
                         "Conditions in random order, so that each part of the session shows them all.")  # fmt: skip
        if choice.split is not None and choice.settings["split"] == "chronological" and all(s["blocks"] < 2 for s in facts.sessions if s["used"]):
            yield Advice("Each session is one block.", "Training and test lie next to each other in time. A later block, after a pause, would be a harder and fairer test.",
                         "Two blocks or more of the same conditions, as the column block of the trial table.")  # fmt: skip
    if choice.split is not None:
        n = len(choice.split.test) // len(choice.split.test.sessions)
        if n < TEST_TRIALS:
            what = "window" if sliding else "trial"
            yield Advice(f"{_n(n, what)} a session {'is' if n == 1 else 'are'} tested.", "The intervals on this page are wider than they need be.",
                         f"{TEST_TRIALS} tested {what}s, about {3 * TEST_TRIALS} in all.")  # fmt: skip


def _on_window(facts, choice):
    if choice.trials is None:
        return
    window = choice.trials.window
    n_baseline, n_response, _ = window.frames(choice.trials.rate_hz)
    if window.baseline_s < BASELINE_S or n_baseline < 3:
        yield Advice(f"The baseline is {window.baseline_s:.3g} s ({_n(n_baseline, 'frame')}).", "Calcium decays over about a second: a forecaster sees little of what went on before, "
                     "and F0 is noisy.", f"{BASELINE_S:g} s or more before each onset, better 3.")  # fmt: skip
    if n_response < 3:
        yield Advice(
            f"The response is {_n(n_response, 'frame')} long.",
            "Skill can hardly be followed over the horizon.",
            "A faster recording, or a longer response (--response).",
        )
    if facts.previous_s is not None and 0 <= facts.previous_s < window.f0_s:
        yield Advice(f"From the end of one stimulus to the next onset there are {facts.previous_s:.2g} s, but F0 takes {window.f0_s:.2g} s.",
                     "F0 holds some of the response to the stimulus before, and dF/F is measured from there.",
                     f"--f0 {max(facts.previous_s, 1 / choice.trials.rate_hz):.2g}, or a longer pause." if facts.previous_s > 0 else "A pause of a second or more between stimuli.")  # fmt: skip


def _on_neurons(facts):
    n, total = facts.count("used_neurons"), facts.count("neurons")
    flagged = sum(sum(s["flagged"].values()) for s in facts.sessions if s["used"])
    per_session = n / max(facts.n_sessions, 1)
    if n == 1:
        yield Advice(
            "There is one neuron.",
            "Nothing can be said of the spread over neurons, and no forecast can use its neighbours.",
            f"{NEURONS} neurons or more.",
        )
    elif per_session < NEURONS:
        yield Advice(f"There {'is' if per_session == 1 else 'are'} {per_session:.3g} neurons a session.", "Forecasts from the whole population have little to read, and the spread over neurons is rough.",
                     f"{NEURONS} neurons a session or more.")  # fmt: skip
    if total and flagged > MOST_FLAGGED * total:
        yield Advice(
            f"{flagged} of {total} neurons are left out.",
            "The rest may not stand for all of them.",
            "Look at these neurons before you trust the others: were the right traces imported?",
        )


def _n(n, word):
    return f"{n} {word}{'s' * (n != 1)}"
