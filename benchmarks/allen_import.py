"""How fast a full-size Visual Coding session is imported, and in how much memory.

`python benchmarks/allen_import.py` writes a session file of 241 cells x 115,000 frames (random traces) into a temporary folder, then compares, in one process and
several times in turn, `read_allen` + `Store.add` (imports not counted) with reading the same two arrays by h5py, correcting them and writing the result once.
Growth of memory is the highest resident size during an import less that before it (Linux), as a multiple of the stored traces.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from qf_toolkit.recordings.importers.allen import PIPELINE, _dataset_class, read_allen
from qf_toolkit.recordings.simulated.protocol import schedule, stimuli_of
from qf_toolkit.recordings.simulated.visual_coding_files import _shown, write_visual_coding
from qf_toolkit.recordings.store import Store


def write_session(path, cells, frames, dtype, compression):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((cells, 4096), dtype=np.float32)
    base = rng.uniform(200, 800, (cells, 1)).astype(np.float32)
    demixed = (base + 20 * np.tile(noise, (1, frames // 4096 + 1))[:, :frames]).astype(dtype)
    neuropil = (0.6 * base + 5 * np.roll(np.tile(noise, (1, frames // 4096 + 1))[:, :frames], 100, 1)).astype(dtype)
    counts = {"directions": 8, "temporal_frequencies": 5, "repeats": 15}
    table, _ = schedule(stimuli_of("A", counts), 60.0, 30.0, rng)
    dff = np.zeros((cells, frames), np.float32)
    write_visual_coding(
        path, demixed=demixed, neuropil=neuropil, r=np.full(cells, 0.7), timestamps=5 + np.arange(frames) / 30.0,
        cell_specimen_ids=rng.permutation(cells) + 517_000_000, stimuli={"drifting_gratings": _shown("drifting_gratings", table)},
        session_type="three_session_A", experiment_id=501, container_id=511, dff=dff, running=(np.zeros(frames), 5 + np.arange(frames) / 30.0),
        compression=compression,
    )  # fmt: skip


def plain(path, out):
    with h5py.File(path) as f:
        demixed = f[f"{PIPELINE}/Fluorescence/imaging_plane_1_demixed_signal/data"][()]
        neuropil = f[f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response/data"][()]
        r = f[f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response/r"][()]
    x = (demixed - neuropil * r[:, None].astype(demixed.dtype)).astype(np.float32)
    with h5py.File(out, "w") as f:
        f["fluorescence"] = x


def imported(path, folder):
    Store(folder, create=True).add(read_allen(path), overwrite=True)


def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def growth(path, folder):
    """Highest resident size while importing, less that before, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    imported(path, folder)
    return resident("VmHWM") - before


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--cells", type=int, default=241)
    p.add_argument("--frames", type=int, default=115_000)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--compression", default=None)
    p.add_argument("--repeats", type=int, default=7)
    a = p.parse_args()
    _dataset_class()
    with tempfile.TemporaryDirectory() as d:
        path, d = Path(d) / "501.nwb", Path(d)
        write_session(path, a.cells, a.frames, a.dtype, a.compression)
        traces = a.cells * a.frames * 4
        grown = growth(path, d / "first")
        plain(path, d / "plain.h5")
        pairs = []
        for i in range(a.repeats):
            times = []
            for f, out in ((plain, d / f"plain{i}.h5"), (imported, d / f"store{i}")):
                t = time.perf_counter()
                f(path, out)
                times.append(time.perf_counter() - t)
            pairs.append(times)
        ratios = [b / c for c, b in pairs]
        print(f"{a.cells} cells x {a.frames} frames, {a.dtype}, compression {a.compression}; stored traces {traces / 1e6:.0f} MB")
        print(f"h5py and one writing: {statistics.median(c for c, _ in pairs):.3f} s   import: {statistics.median(b for _, b in pairs):.3f} s")
        fastest = min(b for _, b in pairs) / min(c for c, _ in pairs)
        print(f"ratio: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f}); fastest to fastest {fastest:.2f}")
        print(f"growth of memory: {grown / traces:.2f} x the stored traces")


if __name__ == "__main__":
    main()
