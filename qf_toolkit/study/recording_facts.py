"""What a store holds and what the page of a recording leaves out of it, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..recordings.behaviour import behaviour_of
from ..recordings.store import Store
from .recording_blocks import natural
from .recording_choice import Choice

FLAGS = {
    "nan": "more than half of the frames are missing", "constant": "the trace never changes", "silent": "every frame is zero",
    "tiny_f0": "hardly any fluorescence, so that dF/F means nothing",
}  # fmt: skip


@dataclass
class Facts:
    """What the recording is, counted.

    Attributes
    ----------
    sessions : list of dict
        One for each session of the store, in the order of its keys: key, subject, neurons and used_neurons, flagged {reason: n}, minutes, rate_hz,
        signal, trials and used_trials (int), conditions, repeats (text, "" without trials), blocks, behaviour (list of str), indicator, area,
        provenance, and used (bool).
    conditions : pandas.DataFrame
        One row per condition of the trials on the page, the index its key. Columns: shown, train, test (int).
    flagged : list of tuple of (str, str)
        Keys of the neurons that are left out, and why.
    simulated : bool
    attrs : dict of str to list of str
        Different values of indicator, area, source, signal and behaviour of the sessions on the page.
    previous_s : float or None
        Median seconds from the end of one stimulus to the next onset; None without trials.
    """

    sessions: list
    conditions: pd.DataFrame
    flagged: list
    simulated: bool
    attrs: dict = field(default_factory=dict)
    previous_s: float | None = None

    def count(self, name: str) -> Any:
        """The sum of a number over the sessions on the page."""
        return sum(s[name] for s in self.sessions if s["used"])

    @property
    def n_subjects(self) -> int:
        """How many subjects are on the page."""
        return len({s["subject"] for s in self.sessions if s["used"]})

    @property
    def n_sessions(self) -> int:
        """How many sessions are on the page."""
        return sum(s["used"] for s in self.sessions)


def facts_of_recording(store: Store, choice: Choice) -> Facts:
    """Count what a store holds, and what of it the page takes.

    Parameters
    ----------
    store : Store
    choice : Choice

    Returns
    -------
    Facts
    """
    index, taken = store.index, choice.trials
    sliding = choice.settings.get("windows") == "sliding"
    wanted = choice.settings.get("session")
    used_keys = set(taken.sessions) if taken is not None else set(store.keys()) if wanted is None else set(wanted)
    sessions, flagged, gaps = [], [], []
    for key in sorted(store.keys()):
        info, ds = store.info(key), store[key]
        mine = index[index["session"] == key] if len(index) else index
        shown = mine.groupby("condition").size()
        used = key in used_keys
        flags = ds["flag"].values.astype(str)
        kept = len(taken.rows[key]) if taken is not None and used else int((flags == "").sum())
        rows = taken.table_of(key) if taken is not None and used else mine
        sessions.append({
            "key": key, "subject": str(info["subject"]), "neurons": int(info["neurons"]), "used_neurons": kept,
            "flagged": {FLAGS.get(why, why): n for why, n in info["flagged"].items()},
            "minutes": float(info["minutes"]), "rate_hz": float(info["rate_hz"]),
            "signal": str(info["signal"]), "trials": int(info["trials"]), "used_trials": len(rows) if used else 0,
            "conditions": len(shown), "repeats": _range(shown), "blocks": int(mine["block"].nunique()) if len(mine) else 0,
            "behaviour": behaviour_of(ds), "indicator": str(info.get("indicator", "unknown")), "area": str(info.get("area", "unknown")),
            "source": str(info.get("source", "")), "provenance": str(info.get("provenance", "")), "used": used,
        })  # fmt: skip
        flagged += [(str(n), FLAGS.get(why, why)) for n, why in zip(ds["neuron"].values, flags, strict=True) if why]
        if used and len(mine) > 1:
            gaps.append((mine["onset_frame"].to_numpy()[1:] - mine["offset_frame"].to_numpy()[:-1]) / float(info["rate_hz"]))
    on_page = [s for s in sessions if s["used"]]
    attrs: dict[str, list] = {n: sorted({s[n] for s in on_page}) for n in ("indicator", "area", "source", "signal")}
    attrs["behaviour"] = sorted(set().union(*(s["behaviour"] for s in on_page)))
    return Facts(
        sessions, _conditions(choice), flagged, any(s["source"] == "simulation" for s in sessions), attrs,
        float(np.median(np.concatenate(gaps))) if gaps and not sliding else None,
    )  # fmt: skip


def _range(counts):
    if not len(counts):
        return ""
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _conditions(choice: Choice) -> pd.DataFrame:
    if choice.trials is None:
        return pd.DataFrame({"shown": [], "train": [], "test": []}, dtype=int)
    parts: Mapping[str, Any] = {"shown": choice.trials}
    if choice.split is not None:
        parts = {**parts, "train": choice.split.fitting, "test": choice.split.test}
    found = pd.DataFrame({name: part.table.groupby("condition").size() for name, part in parts.items()}).fillna(0).astype(int)
    return found.reindex(sorted(found.index, key=natural)).reindex(columns=["shown", "train", "test"], fill_value=0)
