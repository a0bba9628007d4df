"""Visual Coding files for tests: random traces in the exact layout."""

import numpy as np

from qf_toolkit.recordings.simulated.visual_coding_files import write_visual_coding


def noise_session(path, *, cells=5, frames=3000, seed=0, dtype=np.float32, trials=12, **options):
    """A session A of random traces with `trials` drifting gratings in each of three blocks, a movie and spontaneous activity; returns the arrays."""
    rng = np.random.default_rng(seed)
    x = {
        "demixed": rng.uniform(200, 400, (cells, frames)).astype(dtype), "neuropil": rng.uniform(50, 150, (cells, frames)).astype(dtype),
        "raw": rng.uniform(300, 500, (cells, frames)).astype(dtype), "r": rng.uniform(0.3, 1.1, cells), "timestamps": 7.5 + np.arange(frames) / 30.1,
        "dff": rng.normal(0, 0.1, (cells, frames)).astype(np.float32),
    }  # fmt: skip
    first = np.concatenate([b + 150 + 20 * np.arange(trials) for b in (0, frames // 3, 2 * frames // 3)])
    angle = rng.permutation(np.tile([0.0, 90.0, np.nan], trials))
    data = np.stack([np.where(np.isnan(angle), np.nan, 2.0), angle, np.isnan(angle)], 1)
    stimuli = {
        "drifting_gratings": (data, np.stack([first, first + 11], 1)),
        "natural_movie_one": (np.tile(np.arange(20), 3), np.stack([frames // 3 - 100 + np.arange(60)] * 2, 1)),
        "spontaneous": (np.array([1, -1], np.int8), np.array([[10, 10], [100, 100]])),
    }
    given = {
        "cell_specimen_ids": rng.permutation(cells) + 5000, "stimuli": stimuli, "session_type": "three_session_A", "experiment_id": 42 + seed,
        "container_id": 7, "running": (rng.uniform(0, 5, frames - 9), x["timestamps"][4:-5]),
    }  # fmt: skip
    write_visual_coding(path, **{**x, **given, **options})
    return x
