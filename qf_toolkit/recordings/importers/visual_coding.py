"""The stimuli of the Visual Coding protocol, in whichever file they are told: which are trials, what makes a condition, where a block ends."""

import itertools
import re

import numpy as np
import pandas as pd

from ...errors import SessionError
from ..conditions import condition_key

# what must be in a session of each type
SHOWN = {
    "three_session_A": ("drifting_gratings",),
    "three_session_B": ("static_gratings", "natural_scenes"),
    "three_session_C": ("locally_sparse_noise",),
    "three_session_C2": ("locally_sparse_noise_4deg", "locally_sparse_noise_8deg"),
}
# columns of a stimulus table and the features they are, in the order of the condition's key
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
    """The protocol's name of a stimulus table (`drifting_gratings_presentations` and the like), None where it is none of the protocol's."""
    name = re.sub(r"_(presentations|stimulus|stimulus_presentations)$", "", table)
    return name if name in FEATURES or is_continuous(name) else None


def is_continuous(stimulus):
    """Whether a stimulus is a stretch of the recording rather than trials: movies and spontaneous activity."""
    return bool(_CONTINUOUS.match(stimulus))


def standard(table):
    """A stimulus table whose columns have allensdk's names: units cut off, as `orientation_in_degrees` of the files on DANDI has one."""
    names = {c: re.sub(r"_in_(degrees|hz|cycles_per_degree)$", "", c) for c in table.columns} | {"is_blank_sweep": "blank_sweep"}
    return table.rename(columns={c: n for c, n in names.items() if n == c or n not in table.columns})


def is_complete(stimulus, table):
    """Whether a table has all the features that make a condition of the stimulus: with fewer, different conditions would be one."""
    return set(FEATURES.get(stimulus, {"": ""})) <= set(table.columns)


def trials_of(stimulus, table, onset, offset, epochs):
    """The trial table of one stimulus.

    Parameters
    ----------
    stimulus : str
        A key of FEATURES.
    table : pandas.DataFrame
        A row a presentation, with the columns of FEATURES that the stimulus has, and optionally blank_sweep.
    onset, offset : int arrays, shape (row,)
        First frame, and one past the last.
    epochs : pandas.DataFrame
        stimulus, start_frame, stop_frame, block.

    Returns
    -------
    pandas.DataFrame
        onset_frame, offset_frame, stimulus, condition, block and the features; those of a blank are NaN, its condition is `stimulus/blank`.

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
    if stimulus == "natural_scenes":  # -1 is a blank; files that know no negative numbers hold 2**32 - 1
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
    """Epochs of one stimulus, from its presentations: cut where the pause is among the `cuts` longest, and over `least` times the usual one.

    Parameters
    ----------
    stimulus : str
    onset, offset : int arrays, shape (row,)
        First frame, and one past the last.
    cuts : int
        Every stimulus of the protocol is shown in at most three blocks.
    least : float
        Dropped frames make pauses, too, but not such.

    Returns
    -------
    pandas.DataFrame
        stimulus, start_frame, stop_frame.
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
    """Epochs in order of time, with `block`: 0, 1, 2... among those of their stimulus."""
    epochs = epochs.sort_values("start_frame", kind="stable", ignore_index=True)
    return epochs.assign(block=epochs.groupby("stimulus").cumcount())
