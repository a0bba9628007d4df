"""How many observations are active, by either rule and in each stimulus, in a full-size simulated container.

`python benchmarks/allen_activity.py` simulates a mouse of 241 neurons in sessions A, B and C of the protocol's size, writes Visual Coding files, imports them through
allensdk and labels every observation in the paper's response window (2 s for drifting gratings, 0.5 s for the others). About 1.2 GB of files in a temporary folder.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from qf_toolkit.recordings.importers.allen import read_allen
from qf_toolkit.recordings.simulated.visual_coding_files import simulate_container
from qf_toolkit.recordings.store import Store
from qf_toolkit.recordings.window import ACTIVE_RULES

PROTOCOL = {
    "repeats": 15, "directions": 8, "temporal_frequencies": 5, "images": 118, "orientations": 6, "spatial_frequencies": 5, "phases": 4,
    "image_repeats": 50, "noise_frames": 9000, "gap_s": 60.0,
}  # fmt: skip


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--neurons", type=int, default=241)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--f0", type=float, default=2.0, help="seconds of the baseline's end that make F0")
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as d:
        start = time.perf_counter()
        files = simulate_container(Path(d) / "files", n_neurons=a.neurons, seed=a.seed, **PROTOCOL)
        store = Store(Path(d) / "store", create=True)
        for path in files:
            store.add(read_allen(path))
            path.unlink()
        print(f"simulated and imported in {time.perf_counter() - start:.0f} s")
        for stimulus in sorted(store.index["stimulus"].unique()):
            row = {"stimulus": stimulus}
            for rule in ACTIVE_RULES:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    trials = store.trials(stimulus, f0_s=a.f0, score_s="paper", active_rule=rule)
                # some trials at a time: a full-size stimulus is 9,000 x 241 windows of 150 frames
                parts = [trials.subset(np.arange(len(trials))[i : i + 200]).dataset()["active"].values for i in range(0, len(trials), 200)]
                active = np.concatenate(parts)
                row |= {"trials": len(trials), "observations": active.size, rule: active.mean()}
            rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
