"""The stimuli of the Visual Coding protocol, for files of every layout: which are trials, which features make a condition, where blocks end."""

import itertools
import re

import numpy as np
import pandas as pd

from ...errors import SessionError
from ..conditions import condition_key

# the stimuli that a session of each type must contain
SHOWN = {
    "three_session_A": ("drifting_gratings",),
    "three_session_B": ("static_gratings", "natural_scenes"),
    "three_session_C": ("locally_sparse_noise",),
    "three_session_C2": ("locally_sparse_noise_4deg", "locally_sparse_noise_8deg"),
}
# {column of a stimulus table: feature of the condition}, in the order of the condition's key
FEATURES = {
    "drifting_gratings": {"orientation": "orientation", "temporal_frequency": "temporal_frequency"},
    "static_gratings": {"orientation": "orientation", "spatial_frequency": "spatial_frequency", "phase": "phase"},
    "natural_scenes": {"frame": "image"},
    "locally_sparse_noise": {"frame": "frame"},
    "locally_sparse_noise_4deg": {"frame": "frame"},
    "locally_sparse_noise_8deg": {"frame": "frame"},
}
_CONTINUOUS = re.compile(r"^(natural_movie_\w+|spontaneous)$")


def stimulus_of(table):
    """The protocol's name of the stimulus of a table (such as `drifting_gratings_presentations`); None if it is not in the protocol."""
    name = re.sub(r"_(presentations|stimulus|stimulus_presentations)$", "", table)
    return name if name in FEATURES or is_continuous(name) else None


def is_continuous(stimulus):
    """Whether a stimulus (a movie, spontaneous activity) fills a stretch of the recording and has no trials."""
    return bool(_CONTINUOUS.match(stimulus))


def standard(table):
    """Give the columns of a stimulus table allensdk's names, without units: `orientation_in_degrees` (files on DANDI) becomes `orientation`."""
    names = {c: re.sub(r"_in_(degrees|hz|cycles_per_degree)$", "", c) for c in table.columns} | {"is_blank_sweep": "blank_sweep"}
    return table.rename(columns={c: n for c, n in names.items() if n == c or n not in table.columns})


def is_complete(stimulus, table):
    """Whether a table has all features that make a condition of the stimulus. With fewer, different conditions would get the same key."""
    return set(FEATURES.get(stimulus, {"": ""})) <= set(table.columns)


def trials_of(stimulus, table, onset, offset, epochs):
    """Make the trial table of one stimulus.

    Parameters
    ----------
    stimulus : str
        A key of FEATURES.
    table : pandas.DataFrame
        One row per presentation, with the columns that FEATURES lists for the stimulus, and optionally blank_sweep.
    onset, offset : int arrays, shape (row,)
        First and one-past-last frame of each presentation.
    epochs : pandas.DataFrame
        With the columns stimulus and start_frame; a trial's block is the number of its epoch among those of the stimulus.

    Returns
    -------
    pandas.DataFrame
        onset_frame, offset_frame, stimulus, condition, block and the features. A blank has NaN features and the condition `stimulus/blank`.

    Raises
    ------
    SessionError
        If the table lacks a feature.
    """
    if not is_complete(stimulus, table):
        found = ", ".join(str(c) for c in table.columns)
        raise SessionError(f"{stimulus}: expected the columns {', '.join(FEATURES[stimulus])}, found {found}. Take the file from its source again.")
    features = {new: pd.to_numeric(table[old], errors="coerce").to_numpy(float) for old, new in FEATURES[stimulus].items()}
    if "blank_sweep" in table:
        blank = pd.to_numeric(table["blank_sweep"], errors="coerce").to_numpy() == 1
        features = {n: np.where(blank, np.nan, v) for n, v in features.items()}
    if stimulus == "natural_scenes":  # -1 is a blank; files with unsigned numbers hold 2**32 - 1 in its place
        features = {n: np.where((v < 0) | (v >= 2**31), np.nan, v) for n, v in features.items()}
    rows = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    starts = np.sort(epochs.loc[epochs["stimulus"] == stimulus, "start_frame"].to_numpy())
    out = pd.DataFrame(
        {
            "onset_frame": onset,
            "offset_frame": np.maximum(offset, onset + 1),
            "stimulus": stimulus,
            "condition": [condition_key(stimulus, r) for r in rows],
            "block": np.clip(np.searchsorted(starts, onset, side="right") - 1, 0, None),
        }
    )
    return out.assign(**{f"{n}_" if n == "frame" else n: v for n, v in features.items()})


def epochs_at_pauses(stimulus, onset, offset, cuts=2, least=3.0):
    """Find the epochs of one stimulus from its presentations.

    An epoch ends at a pause that is among the `cuts` longest, and longer than `least` times the median pause (or 10 frames, if that is longer).

    Parameters
    ----------
    stimulus : str
    onset, offset : int arrays, shape (row,)
        First and one-past-last frame of each presentation.
    cuts : int
        Most cuts. The default is 2, since the protocol shows every stimulus in at most three blocks.
    least : float
        How many times the median pause a cut needs. Dropped frames also make pauses, but shorter ones.

    Returns
    -------
    pandas.DataFrame
        One row per epoch: stimulus, start_frame, stop_frame (one past the last frame).
    """
    order = np.argsort(onset, kind="stable")
    onset, offset = np.asarray(onset)[order], np.asarray(offset)[order]
    pause = onset[1:] - offset[:-1]
    at = np.sort(np.argsort(pause, kind="stable")[max(0, len(pause) - cuts) :])
    at = at[pause[at] > least * max(np.median(pause), 10)] + 1 if len(pause) else at
    bounds = [0, *at.tolist(), len(onset)]
    parts = [(stimulus, onset[a], offset[a:b].max()) for a, b in itertools.pairwise(bounds)]
    return pd.DataFrame(parts, columns=["stimulus", "start_frame", "stop_frame"])


def number_blocks(epochs):
    """Sort epochs by time and add the column `block`, which numbers the epochs of each stimulus 0, 1, 2..."""
    epochs = epochs.sort_values("start_frame", kind="stable", ignore_index=True)
    return epochs.assign(block=epochs.groupby("stimulus").cumcount())
