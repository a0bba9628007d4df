"""Every model of the benchmark against every naive row on real recordings, with settings that were fixed before this benchmark read a test part.

    python benchmarks/recordings.py --data ../shared/data --out results/recordings --workers 2

Folders of `--data` that are absent are left out, and a line says so:

- s1-gonogo: NWB 2 files of mouse somatosensory cortex in a whisker task (4 mice, 18 sessions, 10.8 Hz);
- v1-gratings: a suite2p folder and a table of trials (1 mouse, 30 Hz, gratings of 8 directions);
- v1-gratings-mice: cut trials as .npz files (4 mice, 16 Hz, gratings of 8 directions).

All are forecast as z-scores of the training part, over the whole response; the end of every session is tested. The sizes are those of `--size small` and
the same for all three: they were chosen for the time that they take, and none of them on these recordings. The test parts of s1-gonogo and v1-gratings
are not untouched: an earlier, larger QuantFormer and the naive rows were scored on the same last thirds.
"""

import argparse
from pathlib import Path

import qf_toolkit as qf
from qf_toolkit.benchmark.tables import write_tables
from qf_toolkit.recordings.importers.arrays import read_arrays

COMMON = {"models": ("all",), "seeds": 3, "size": "small", "steps": 480, "tune": 1, "n_samples": 50, "signal": "zscore", "split": "chronological"}
GRATINGS_TRIALS = {
    "key": "dff",
    "signal": "dff",
    "rate_hz": 16.0,
    "sweep_onset": "t",
    "stimulus": "drifting_gratings",
    "behaviour": ["pupil_zscore", "speed"],
}


def s1_gonogo(folder):
    """The sessions of the whisker task."""
    return (qf.read_nwb(path) for path in sorted(folder.glob("*.nwb")))


def v1_gratings(folder):
    """The session that suite2p has processed."""
    yield qf.read_suite2p(folder / "suite2p", rate_hz=30.0, trials=folder / "trials.csv", subject="mouse", session="gratings")


def v1_gratings_mice(folder):
    """The mice whose trials come cut."""
    return (read_arrays(path, **GRATINGS_TRIALS) for path in sorted(folder.glob("mouse_*.npz")))


# how each is read, and its window in seconds: 32 and 16 frames, the paper's 3 s and 2 s, and 16 and 33 frames
RECORDINGS = {
    "s1-gonogo": (s1_gonogo, {"baseline_s": 32 / 10.8, "response_s": 16 / 10.8}),
    "v1-gratings": (v1_gratings, {"baseline_s": 3.0, "response_s": 2.0}),
    "v1-gratings-mice": (v1_gratings_mice, {"baseline_s": 1.0, "response_s": 33 / 16}),
}


def imported(name, folder, store):
    """The store of a set; what is missing in it is added."""
    made = qf.Store(store, create=True)
    there = set(made.keys())
    for session in RECORDINGS[name][0](folder):
        if f"{session.attrs['subject']}/{session.attrs['session']}" not in there:
            made.add(session)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--out", type=Path, default=Path("results/recordings"))
    parser.add_argument("--only", nargs="+", default=list(RECORDINGS), choices=list(RECORDINGS), help="some of the sets")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    for name in given.only:
        if not (given.data / name).is_dir():
            print(f"{name}: left out, there is no {given.data / name}")
            continue
        window = RECORDINGS[name][1]
        store = imported(name, given.data / name, given.out / name / "store")
        options = {**COMMON, **window, "f0_s": window["baseline_s"], "score_s": window["response_s"], "workers": given.workers}
        print(f"\n{name}\n", flush=True)
        results = qf.benchmark_table("table2", store, out=given.out / name, **options)
        print(write_tables(results, given.out / name)[0].read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
