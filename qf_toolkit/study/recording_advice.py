"""Advice about a recording that is too short or too sparse for some part of its page: what was found, what it costs, and how much would be enough.

The numbers wanted follow from simple rules. The mean of n trials carries 1/n of the variance of a single one, so 20 trials per condition cost a mean
response 5 % of the noise. Intervals are drawn over at most 20 blocks of at least 3 test trials, so 60 test trials make them as narrow as they get.
"""

import math
from dataclasses import dataclass

from .recording_blocks import counted, share
from .recording_choice import Choice
from .recording_facts import Facts

TRAIN_TRIALS = 20  # of a condition
TEST_TRIALS = 60  # of a session
REPEATS = 10  # of a condition, for the explainable share of a neuron
NEURONS = 10
BASELINE_S = 1.0
LEAST_FRAMES = 3  # of a baseline, and of a response
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
    return [*found, *_on_what_is_absent(facts)]


def _on_parts(choice):
    if choice.trials is None:
        yield Advice(
            "No window could be cut.",
            f"There is no forecast on this page. {choice.missing}",
            "A recording without a pause, longer than one window; or shorter windows (--baseline, --response).",
        )
    elif choice.split is None:
        yield Advice(
            f"{counted(len(choice.trials), 'trial')} can't be divided into training, validation and test.",
            f"There is no forecast on this page. {choice.missing}",
            f"About {3 * TEST_TRIALS} trials a session; 10 with pauses between them are the least.",
        )


def _on_trials(facts, choice):
    if choice.trials is None:
        return
    sliding = choice.settings["windows"] == "sliding"
    if sliding:
        yield Advice(
            "The recording has no conditions that repeat.",
            "Without repeats, signal and noise of a neuron can't be told apart: SNR and explainable share are missing, and there is no mean "
            "response to a stimulus to compare with.",
            "Stimuli (or other events) that repeat, as a trial table at import.",
        )
    else:
        yield from _on_conditions(facts, choice)
    if choice.split is None:
        return
    n = len(choice.split.test) // len(choice.split.test.sessions)
    if n < TEST_TRIALS:
        what = "window" if sliding else "trial"
        yield Advice(
            f"{counted(n, what)} a session {_are(n)} tested.",
            "The intervals on this page are wider than they need be.",
            f"{TEST_TRIALS} tested {what}s, about {3 * TEST_TRIALS} in all.",
        )


def _on_conditions(facts, choice):
    shown, train, test = (facts.conditions[name] for name in ("shown", "train", "test"))
    repeats = _repeats_in_a_session(choice)
    if not (repeats >= 2).any():
        yield Advice(
            "No condition is shown twice.",
            "Signal and noise of a neuron can't be told apart: SNR and explainable share are missing.",
            f"{REPEATS} repeats of each condition or more.",
        )
    elif repeats.median() < REPEATS:
        yield Advice(
            f"Half of the conditions are shown {repeats.median():g} times a session or fewer.",
            "The intervals of SNR and explainable share are wide.",
            f"{REPEATS} repeats of each condition or more.",
        )
    if choice.split is None:
        return
    learnt = train / len(choice.split.train.sessions)
    if (repeats >= 2).any() and learnt.median() < TRAIN_TRIALS:
        n = max(1, math.floor(learnt.median()))
        yield Advice(
            f"Half of the conditions have {learnt.median():.3g} trials a session or fewer to learn from.",
            f"A mean response of {counted(n, 'trial')} carries {share(1 / n)} of the noise of a single trial, which each forecast that uses it "
            "pays for.",
            f"{TRAIN_TRIALS} trials of each condition to learn from ({share(1 / TRAIN_TRIALS)} of the noise), about "
            f"{math.ceil(1.5 * TRAIN_TRIALS)} in all.",
        )
    if (test == 0).any():
        n = int((test == 0).sum())
        yield Advice(
            f"{counted(n, 'condition')} of {len(shown)} {_are(n)} not in the test part.",
            "Nothing is said about them.",
            "Conditions in random order, so that each part of the session shows them all.",
        )
    if choice.settings["split"] == "chronological" and all(s["blocks"] < 2 for s in facts.sessions if s["used"]):
        yield Advice(
            "Each session is one block.",
            "Training and test lie next to each other in time. A later block, after a pause, would be a harder and fairer test.",
            "Two blocks or more of the same conditions, as the column block of the trial table.",
        )


def _repeats_in_a_session(choice):
    """How often a session shows each of its conditions, a pandas.Series over (session, condition)."""
    return choice.trials.table.groupby(["session", "condition"]).size()


def _on_window(facts, choice):
    if choice.trials is None:
        return
    window, rate = choice.trials.window, choice.trials.rate_hz
    n_baseline, n_response, _ = window.frames(rate)
    if window.baseline_s < BASELINE_S or n_baseline < LEAST_FRAMES:
        yield Advice(
            f"The baseline is {window.baseline_s:.3g} s ({counted(n_baseline, 'frame')}).",
            "Calcium decays over about a second: a forecaster sees little of what went on before, and F0 is noisy.",
            f"{BASELINE_S:g} s or more before each onset, better 3.",
        )
    if n_response < LEAST_FRAMES:
        yield Advice(
            f"The response is {counted(n_response, 'frame')} long.",
            "Skill can hardly be followed over the horizon.",
            "A faster recording, or a longer response (--response).",
        )
    pause = facts.previous_s
    if window.signal == "dff" and pause is not None and 0 <= pause < window.f0_s:
        yield Advice(
            f"From the end of one stimulus to the next onset there are {pause:.2g} s, but F0 takes {window.f0_s:.2g} s.",
            "F0 holds some of the response to the stimulus before, and dF/F is measured from there.",
            f"--f0 {pause:.2g}, or a longer pause." if pause * rate >= 1 else "A pause of a second or more between stimuli.",
        )


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
        yield Advice(
            f"There are {per_session:.2g} neurons a session.",
            "Forecasts from the whole population have little to read, and the spread over neurons is rough.",
            f"{NEURONS} neurons a session or more.",
        )
    if total and flagged > MOST_FLAGGED * total:
        yield Advice(
            f"{flagged} of {total} neurons are left out.",
            "The rest may not stand for all of them.",
            "A look at these neurons before the others are trusted: were the right traces imported?",
        )


def _are(n):
    return "is" if n == 1 else "are"


def _on_what_is_absent(facts):
    if facts.n_sessions == 1:
        yield Advice(
            "There is one session.",
            "The intervals on this page are over blocks of its trials. They say nothing about another day or another animal.",
            "Sessions of three animals or more, in the same store.",
        )
    elif facts.n_subjects == 1:
        yield Advice(
            "All sessions are of one animal.",
            "The intervals on this page say nothing about other animals.",
            "Three animals or more, in the same store.",
        )
    if not facts.attrs["behaviour"]:
        yield Advice(
            "No behaviour came with the recording.",
            "Forecasts can't be compared between running and rest, or between small and large pupils.",
            "Running speed or pupil size, brought in at import (--behaviour; from NWB files it comes along by itself).",
        )
