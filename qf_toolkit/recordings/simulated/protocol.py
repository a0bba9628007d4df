"""The stimuli that a simulated mouse sees, and their times: the sessions of the Visual Coding protocol."""

import numpy as np
import pandas as pd

BLOCKS = 3


def stimuli_of(letter, n):
    """The stimuli of a session of the protocol.

    Parameters
    ----------
    letter : {"A", "B", "C", "C2"}
        The type of the session.
    n : dict of str to int
        How many directions, repeats and so on; the names are those of `SimulateOptions`.

    Returns
    -------
    list of dict
        One for each stimulus: name, on_s (seconds on), period_s (seconds from one onset to the next), conditions (DataFrame with one row per
        condition and one column per feature), repeats (of each condition) and blanks (trials that show grey).
    """

    def grid(**values):
        return pd.DataFrame(np.stack([v.ravel() for v in np.meshgrid(*values.values(), indexing="ij")], 1), columns=list(values))

    def one(*values):
        return dict(zip(("name", "on_s", "period_s", "conditions", "repeats", "blanks"), values, strict=True))

    if letter == "A":
        tf = np.array([1, 2, 4, 8, 15.0]) if n["temporal_frequencies"] == 5 else 2.0 ** np.arange(n["temporal_frequencies"])
        c = grid(orientation=np.arange(n["directions"]) * 360.0 / n["directions"], temporal_frequency=tf)
        return [one("drifting_gratings", 2.0, 3.0, c, n["repeats"], max(1, len(c) * n["repeats"] // 20))]
    if letter == "B":
        sf, phase = 0.02 * 2.0 ** np.arange(n["spatial_frequencies"]), np.arange(n["phases"]) / n["phases"]
        c = grid(orientation=np.arange(n["orientations"]) * 180.0 / n["orientations"], spatial_frequency=sf, phase=phase)
        scenes = grid(image=np.arange(float(n["images"])))
        return [
            one("static_gratings", 0.25, 0.25, c, n["image_repeats"], max(1, len(c) * n["image_repeats"] // 25)),
            one("natural_scenes", 0.25, 0.25, scenes, n["image_repeats"], n["image_repeats"]),
        ]
    noise = ["locally_sparse_noise"] if letter == "C" else ["locally_sparse_noise_4deg", "locally_sparse_noise_8deg"]
    return [one(name, 0.25, 0.25, grid(frame=np.arange(float(n["noise_frames"]))), 1, 0) for name in noise]


def shown_s(letter, n):
    """Seconds of a session that stimuli fill, without blanks. They are computed from the counts, before any stimulus is laid out."""
    if letter == "A":
        return 3.0 * n["directions"] * n["temporal_frequencies"] * n["repeats"]
    if letter == "B":
        return 0.25 * (n["orientations"] * n["spatial_frequencies"] * n["phases"] + n["images"]) * n["image_repeats"]
    return 0.25 * n["noise_frames"] * (2 if letter == "C2" else 1)


def schedule(stimuli, gap_s, rate_hz, rng):
    """Lay out the trials of a session.

    Parameters
    ----------
    stimuli : list of dict
        From `stimuli_of`.
    gap_s : float
        Seconds of grey before, between and after the blocks.
    rate_hz : float
    rng : numpy.random.Generator

    Returns
    -------
    table : pandas.DataFrame
        One row per trial: onset_frame, offset_frame, stimulus, block, the features, and `code` (row of the trial's condition, -1 for a blank).
    n_frames : int
        Frames of the session.
    """
    parts, shares, now = [], [], gap_s
    for s in stimuli:
        # each block gets an equal share of a condition's repeats; a remainder goes to the blocks in turn, beginning with a random one
        sizes = [s["repeats"]] * len(s["conditions"]) + [s["blanks"]] * (s["blanks"] > 0)
        code = np.repeat([*range(len(s["conditions"])), -1][: len(sizes)], sizes)
        first = np.repeat(rng.permutation(len(sizes)), sizes)
        within = np.concatenate([np.arange(k) for k in sizes])
        shares.append((code, (first + within) % BLOCKS))
    for block in range(BLOCKS):
        for s, (code, where) in zip(stimuli, shares, strict=True):
            shown = rng.permutation(code[where == block])
            start = now + np.arange(len(shown)) * s["period_s"]
            part = s["conditions"].reindex(shown).reset_index(drop=True)
            part.insert(0, "onset_frame", np.round(start * rate_hz).astype(int))
            part.insert(1, "offset_frame", np.maximum(np.round((start + s["on_s"]) * rate_hz).astype(int), part["onset_frame"] + 1))
            part.insert(2, "stimulus", s["name"])
            part.insert(3, "block", block)
            part["code"] = shown
            parts.append(part)
            now += len(shown) * s["period_s"] + gap_s
    # the last window of 2 s needs frames even if gap_s is 0
    return pd.concat(parts, ignore_index=True), int(np.ceil(max(now, now - gap_s + 3.0) * rate_hz)) + 1
