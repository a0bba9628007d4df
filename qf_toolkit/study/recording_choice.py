"""Which windows and which split the page of a recording takes: the usual ones where the recording permits them, else the nearest it permits.

Every choice that isn't the usual one comes with a sentence that says what was taken, why, and which option takes another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import QfError
from ..models.options import check_options
from ..recordings.clock import stretches
from ..recordings.options import SETTINGS
from ..recordings.settings import SLIDING, USUAL, split_by_settings, trials_by, whole_settings
from ..recordings.store import Store
from ..recordings.trials import rows_of

WHOLE = 0.9  # share of the trials whose windows must be whole, else the window is shortened
SAME_RATE = 0.02  # rates further apart can't share one model
LEAST_TESTED = 0.1  # share of a session's trials that the last block must hold to be a test part
CHOSEN_BY = ("session", "subject", "stimulus", "condition", "block")


@dataclass
class Choice:
    """What the page is about.

    Attributes
    ----------
    settings : dict
        Of all `SETTINGS`, as they were taken.
    trials : Trials or None
        None if no window could be cut.
    split : Split or None
        None if the trials can't be divided.
    notes : list of str
        What was chosen otherwise than usual, and why.
    missing : str
        Why there is no split; "" if there is one.
    """

    settings: dict
    trials: Any = None  # Trials or None: who asks for them knows which
    split: Any = None
    notes: list = field(default_factory=list)
    missing: str = ""


def choose_for(store: Store, given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Choice:
    """Choose trials, window and split for the page of a recording.

    Parameters
    ----------
    store : Store
    given : dict
        Options of `SETTINGS` that the user named. They are taken as they are.
    base : dict, optional
        The settings of the model that the page shows, which is asked only about its own window. Where they name no split (of a model fitted from
        Python only the window is known), one is chosen.

    Returns
    -------
    Choice

    Raises
    ------
    QfError
        If an option is out of range, or given options don't go together or don't fit the recording.
    """
    given = {n: v for kind in SETTINGS for n, v in check_options(kind, dict(given)).items()}
    if base is not None and "split" in base:
        settings = whole_settings(given, base)
        return Choice(settings, trials_by(store, settings), split_by_settings(store, settings))
    choice = Choice({})
    if "windows" not in given and not len(store.index):
        given["windows"] = "sliding"
        choice.notes.append(
            "There is no trial table: windows slide over the recording, and the 'onset' of a window is the moment at which its forecast begins."
        )
    given = _one_rate(store, {**_of_window(base or {}, given), **given}, choice.notes)
    try:
        choose = _sliding if given.get("windows") == "sliding" else _around_onsets
        choice.settings = whole_settings({**choose(store, given, choice.notes), **given})
        choice.trials = trials_by(store, choice.settings)
    except QfError as error:
        if given.keys() - {"windows", "session"}:  # what was asked for by name is refused by name
            raise
        choice.settings = choice.settings or whole_settings(given)
        choice.missing = str(error)
        return choice
    return _with_split(store, choice, given)


def _of_window(window, given):
    """The window of a model as options; a sliding one is given by its whole length."""
    if given.get("windows") != "sliding" or not window:
        return window
    return {"length_s": window["baseline_s"] + window["response_s"], **{n: v for n, v in window.items() if n not in SLIDING}}


def _one_rate(store, given, notes):
    """Keep the sessions of one frame rate, that of the most neurons x frames; forecasters can't mix rates."""
    sessions = pd.DataFrame({"session": store.keys()})
    sessions["subject"] = [key.partition("/")[0] for key in sessions["session"]]
    keys = rows_of(sessions, {n: _listed(given.get(n)) for n in ("session", "subject")}, "is not here")["session"].tolist()
    with_trials = set(store.index["session"]) if given.get("windows") != "sliding" and len(store.index) else set(keys)
    keys = [key for key in keys if key in with_trials] or keys
    headers = {key: store.header(key) for key in keys}
    size = {key: ds.sizes["neuron"] * ds.sizes["frame"] for key, ds in headers.items()}
    rates = {key: float(ds.attrs["rate_hz"]) for key, ds in headers.items()}
    if not keys:
        return given
    best = max(rates.values(), key=lambda rate: sum(size[k] for k in keys if _alike(rates[k], rate)))
    kept = [key for key in keys if _alike(rates[key], best)]
    if len(kept) == len(keys):
        return given
    others = sorted({f"{rates[k]:.4g}" for k in keys if k not in kept})
    notes.append(
        f"The page is of the {_counted(len(kept), 'session')} at {best:.4g} Hz; {_counted(len(keys) - len(kept), 'session')} at "
        f"{', '.join(others)} Hz left for another page (--session), since one forecaster can't mix frame rates."
    )
    return {**given, "session": tuple(kept)}


def _alike(rate, other):
    return abs(rate - other) <= SAME_RATE * other


def _listed(value):
    return None if value is None else [value] if isinstance(value, str | int) else list(value)


def _around_onsets(store, given, notes):
    """The longest window, up to the usual one, that most trials can hold: {option: seconds}."""
    rows = rows_of(store.index, {n: _listed(given.get(n)) for n in CHOSEN_BY if n in store.index}, "has no trial here")
    if not len(rows):
        return {}
    before, after, rate = _room(store, rows)
    wanted = {n: given.get(n, USUAL[n]) for n in ("baseline_s", "response_s")}
    if _holds(before, wanted["baseline_s"], rate) and _holds(after, wanted["response_s"], rate):
        return {}
    found = {}
    for name, room, word in (("baseline_s", before, "before"), ("response_s", after, "after")):
        if name in given or _holds(room, wanted[name], rate):
            continue
        frames = int(np.quantile(room, 1 - WHOLE, method="lower")) or int(np.median(room)) or 1
        found[name] = round(frames / rate, 6)
        notes.append(
            f"The window {word} the onset is {found[name]:.3g} s ({frames} frame{'s' * (frames != 1)}) instead of the usual {USUAL[name]:g} s: the "
            f"recording holds no more around most trials (--{name.removesuffix('_s')} takes another)."
        )
    if found.get("baseline_s", np.inf) < (given.get("f0_s") or 0):
        found["f0_s"] = found["baseline_s"]
    return found


def _holds(room, seconds, rate):
    return (room >= max(1, round(seconds * rate))).mean() >= WHOLE


def _room(store, rows):
    """Frames before and from each onset on to the ends of the stretch it lies in, two int arrays (trial,), and the rate, Hz."""
    before, after, rate = [], [], 1.0
    for key, mine in rows.groupby("session"):
        ds = store.header(key)
        rate = float(ds.attrs["rate_hz"])
        parts = stretches(ds["frame_time"].values, rate)
        onset = mine["onset_frame"].to_numpy()
        at = np.clip(np.searchsorted(parts[:, 0], onset, side="right") - 1, 0, None)
        before.append(onset - parts[at, 0])
        after.append(np.clip(parts[at, 1] - onset, 0, None))
    return np.concatenate(before), np.concatenate(after), rate


def _sliding(store, given, notes):
    """The length of sliding windows: the usual one, or what the longest stretch holds."""
    if "length_s" in given:
        return {}
    keys = _listed(given.get("session")) or store.keys()
    longest = 0.0
    for key in keys:
        ds = store.header(key)
        rate = float(ds.attrs["rate_hz"])
        parts = stretches(ds["frame_time"].values, rate)
        longest = max(longest, float((parts[:, 1] - parts[:, 0]).max()) / rate)
    usual = USUAL["length_s"]
    if longest >= usual:
        return {}
    length = round(longest, 6)
    response = given.get("response_s", round(0.4 * length, 6))
    notes.append(
        f"The sliding windows are {length:.3g} s long instead of the usual {usual:g} s, the length of the longest uninterrupted stretch (--length "
        "takes another)."
    )
    return {"length_s": length, "response_s": response}


def _with_split(store, choice, given):
    """Divide the trials: by blocks where every session has them, else by time."""
    why = ""
    if "split" not in given and not _has_blocks(choice.trials, given):
        choice.settings["split"] = "chronological"
        why = "windows that slide have no blocks" if given.get("windows") == "sliding" else "not every session has several blocks of trials"
    attempts = [(choice.settings, why)]
    if "split" not in given and choice.settings["split"] == "blocks":
        attempts.append(({**choice.settings, "split": "chronological", "test": None}, "the blocks are too short to be divided"))
    errors = []
    for settings, why in attempts:
        try:
            choice.split = split_by_settings(store, settings)
        except QfError as error:
            errors.append(error)
            continue
        choice.settings = settings
        if why:
            part = "third" if settings["test"] is None else f"{settings['test']:.0%}"
            choice.notes.append(f"Tested is the last {part} of every session, by time, since {why}; another split: --split.")
        return choice
    if given.keys() & {"split", "test", "validation", "gap_s", "leave_out"}:
        raise errors[0]
    choice.missing = str(errors[0])
    return choice


def _has_blocks(trials, given):
    if given.get("windows") == "sliding":
        return False
    for _, rows in trials.table.groupby("session"):
        blocks = rows["block"]
        if blocks.nunique() < 2 or (blocks == blocks.max()).mean() < LEAST_TESTED:
            return False
    return True


def _counted(n, word):
    return f"{n} {word}{'s' * (n != 1)}"
