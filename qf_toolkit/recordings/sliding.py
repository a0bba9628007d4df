"""Sliding windows on continuous recordings: pseudo-onsets at a regular step take the place of a trial table."""

import numpy as np
import pandas as pd

from ..errors import QfError
from ..models.options import check_options
from .clock import stretches
from .memory import as_source
from .options import Selection, SlideOptions, WindowOptions
from .schema import epoch_table
from .trials import choose, rows_of
from .window import Window

CONTINUOUS = "continuous"
"""The stimulus of every window; its condition is `continuous/all`, the key of trials without features."""


def slide(
    source,
    *,
    length_s=SlideOptions.length_s,
    response_s=WindowOptions.response_s,
    every_s=SlideOptions.every_s,
    subject=Selection.subject,
    session=Selection.session,
    epoch=SlideOptions.epoch,
    neurons=Selection.neurons,
    strict=Selection.strict,
    **window,
):
    """Slide windows over continuous recordings at a regular step. The recordings may have a trial table or none. No trace is read yet.

    Each window begins `every_s` after the one before. After a jump of `frame_time` the windows start again at the first frame, so that no window
    crosses a jump. The last `response_s` of a window are its response, the rest is its baseline. The onset between the two is not an event in the
    recording.

    Parameters
    ----------
    source : Store, Session or list of Sessions
    length_s : float
        Seconds of a whole window.
    response_s : float
        Seconds at the end of each window that are forecast; less than `length_s`.
    every_s : float, optional
        Seconds from the beginning of a window to the beginning of the next. If None, `response_s`, so that each frame is forecast once.
    subject, session : str or list of str, optional
        Keep only these; `session` is the key `subject/session`.
    epoch : str or list of str, optional
        Keep only windows inside stretches of these stimuli (`epoch_table`), for example spontaneous activity.
    neurons, strict
        As in `qf_toolkit.recordings.trials.cut`.
    **window
        f0_s, score_s, signal, active_rule, active_gain: as in `qf_toolkit.recordings.trials.cut`.

    Returns
    -------
    Trials
        One for each window. The stimulus is "continuous", the condition "continuous/all", and the block the number of the stretch that the window
        lies in, 0, 1, 2... in each session.

    Raises
    ------
    QfError
        If no stretch is as long as a window, no neuron is left, a key or an epoch is unknown, or a length is out of range.

    Examples
    --------
    >>> from qf_toolkit.recordings.session import new_session
    >>> recording = new_session(np.random.default_rng(0).uniform(90, 110, (3, 100)), subject="worm", session="1", rate_hz=2.0)
    >>> windows = slide(recording, length_s=20, response_s=5, every_s=10)
    >>> windows.intervals("worm/1").tolist()
    [[0, 40], [20, 60], [40, 80], [60, 100]]
    """
    how = SlideOptions(length_s, every_s, epoch)
    response_s = check_options(WindowOptions, {"response_s": response_s})["response_s"]
    every_s = response_s if how.every_s is None else how.every_s
    chosen = Selection(subject=subject, session=session, neurons=neurons, strict=strict)
    if not response_s < length_s:
        raise QfError(f"response_s: expected less than length_s = {length_s} s, found {response_s}. Shorten it, or lengthen the window.")
    made = Window(round(length_s - response_s, 9), response_s, **window)  # rounded, so that 5.1 - 2 gives 3.1
    source = as_source(source)
    sessions = pd.DataFrame({"session": source.keys()})
    sessions["subject"] = [key.partition("/")[0] for key in sessions["session"]]
    keys = rows_of(sessions, {"session": chosen.session, "subject": chosen.subject}, "is not here")["session"]
    headers = {key: source.header(key) for key in keys}
    found = {key: stretches(ds["frame_time"].values, ds.attrs["rate_hz"]) for key, ds in headers.items()}
    if how.epoch is not None:
        epochs = pd.concat([epoch_table(ds).assign(session=key) for key, ds in headers.items()], ignore_index=True)
        epochs = rows_of(epochs.rename(columns={"stimulus": "epoch"}), {"epoch": how.epoch}, "is no epoch here")
        found = {key: _inside(parts, epochs[epochs["session"] == key]) for key, parts in found.items()}
    tables = [_table(key, ds, found[key], made, every_s) for key, ds in headers.items()]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not len(table):
        raise QfError(
            f"windows: expected a stretch of at least {length_s:g} s without a jump, found none in {len(headers)} sessions. Shorten length_s."
        )
    return choose(source, table, made, chosen.neurons, chosen.strict)


def _inside(found, epochs):
    """The parts of the stretches `found` that lie inside an epoch; both are int arrays (stretch, 2) of first and one-past-last frames."""
    bounds = epochs[["start_frame", "stop_frame"]].to_numpy(np.int64)
    start = np.maximum(found[:, None, 0], bounds[None, :, 0]).ravel()
    stop = np.minimum(found[:, None, 1], bounds[None, :, 1]).ravel()
    parts = np.stack([start, stop], 1)[start < stop]
    return parts[np.argsort(parts[:, 0], kind="stable")]


def _table(key, ds, found, window, every_s):
    """The table of trials with one row per window of a session; `found` holds its stretches, an int array (stretch, 2)."""
    rate = float(ds.attrs["rate_hz"])
    n_baseline, n_response, _ = window.frames(rate)
    step = max(1, round(every_s * rate))
    onsets = [np.arange(start + n_baseline, stop - n_response + 1, step) for start, stop in found]
    onset = np.concatenate([np.zeros(0, np.int64), *onsets])
    block = np.repeat(np.arange(len(onsets)), [len(o) for o in onsets])
    return pd.DataFrame(
        {
            "session": key, "subject": ds.attrs["subject"], "trial": np.arange(len(onset)), "onset_frame": onset, "offset_frame": onset + n_response,
            "stimulus": CONTINUOUS, "condition": f"{CONTINUOUS}/all", "block": block,
        }
    )  # fmt: skip
