"""Which frames of which recording a model has seen, and whether trials share one with them."""

import numpy as np

from ..errors import LeakageError


def seen_frames(*parts):
    """The frames inside the windows of some Trials, as merged intervals.

    Parameters
    ----------
    *parts : Trials

    Returns
    -------
    dict
        {key: {"fingerprint": str, "intervals": [[first, one past last], ...]}}, in frames. The key is the session's. A second recording under the
        same name gets the name, # and a number as its key, and its entry holds the name under "session".
    """
    return join_seen(
        *({s: {"fingerprint": _fingerprint(trials, s), "intervals": trials.intervals(s).tolist()}} for trials in parts for s in trials.sessions)
    )


def join_seen(*maps):
    """Join several maps of seen frames. Only intervals of the same name and fingerprint are merged: only they certainly belong to one recording."""
    found = {}
    for seen in maps:
        for key, entry in seen.items():
            found.setdefault((entry.get("session", key), entry["fingerprint"]), []).extend(entry["intervals"])
    out = {}
    for (session, fingerprint), intervals in found.items():
        entry, key, n = {"fingerprint": fingerprint, "intervals": _merge(intervals)}, session, 1
        while key in out:
            n += 1
            key = f"{session}#{n}"
        out[key] = entry if key == session else {**entry, "session": session}
    return out


def _fingerprint(trials, session):
    return str(trials.source.header(session).attrs.get("fingerprint", ""))


def _merge(intervals):
    merged = []
    for start, stop in sorted(map(tuple, intervals)):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], int(stop))
        else:
            merged.append([int(start), int(stop)])
    return merged


def _is_of(entry, key, session, fingerprint):
    """Whether an entry of seen frames belongs to this recording."""
    if fingerprint and entry["fingerprint"]:
        return entry["fingerprint"] == fingerprint
    return entry.get("session", key) == session


def seen_trials(seen, trials):
    """Which windows of `trials` share a frame with `seen`.

    A recording is recognised by its fingerprint, whatever its name is. Its name decides only if the recording or the entry in `seen` has no
    fingerprint.

    Parameters
    ----------
    seen : dict
        See `seen_frames`.
    trials : Trials

    Returns
    -------
    dict
        {session: bool array (trial,)}, only for sessions of which `seen` holds frames.
    """
    found = {}
    for session in trials.sessions:
        mine = _fingerprint(trials, session)
        used = np.array(_merge(i for key, entry in seen.items() if _is_of(entry, key, session, mine) for i in entry["intervals"]))
        if not len(used):
            continue
        windows = trials.intervals(session)
        # the merged intervals are disjoint and sorted, so only the last one that starts before a window's end can overlap it
        at = np.searchsorted(used[:, 0], windows[:, 1], side="left") - 1
        found[session] = (at >= 0) & (used[np.clip(at, 0, None), 1] > windows[:, 0])
    return found


def check_unseen(seen, trials, name):
    """Raise LeakageError if a window of `trials` shares a frame with `seen`, even if the recording was renamed."""
    for session, overlap in seen_trials(seen, trials).items():
        if overlap.any():
            raise LeakageError(
                f"{name} saw {int(overlap.sum())} of these {len(overlap)} trials of {session} in training. "
                "Evaluate on the test part of the split it was trained with (split.test), or train again without these trials."
            )
