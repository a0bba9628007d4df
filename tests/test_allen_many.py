"""Many Visual Coding files at once, through the command line, killed half way."""

import signal
import subprocess
import sys
import time

import pytest
from allen_files import noise_session

from qf_toolkit.recordings.store import Store

pytest.importorskip("allensdk", reason="allensdk is not installed: try `make allen`")
BROKEN = {7: "cut short", 20: "can't be opened", 33: "expected the stimulus drifting_gratings"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for i in range(40):
        stimuli = {"stimuli": {}} if i == 33 else {}
        noise_session(folder / f"s{i:02d}.nwb", cells=2, frames=1200, seed=i, trials=4, **stimuli)
    broken = folder / "s07.nwb"
    broken.write_bytes(broken.read_bytes()[:40_000])
    (folder / "s20.nwb").write_bytes(b"an error page")
    return folder


@pytest.mark.parametrize("how", [["--workers", "2"], ["--scheduler", "--workers", "2"]], ids=["processes", "dask"])
def test_forty_files_with_three_broken_ones_killed_half_way_and_started_again(files, tmp_path, how):
    store = tmp_path / "store"
    argv = [sys.executable, "-m", "qf_toolkit.cli.main", "import", "allen", "--files", str(files), "--store", str(store), "--quiet", *how]
    first = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(store.glob("*.nc"))) < 8:
        assert first.poll() is None, "the import ended before it could be killed"
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(1.0)  # workers end when they see that their parent has
    before = {p.name: p.stat().st_mtime_ns for p in store.glob("*.nc")}
    assert 8 <= len(before) < 37
    second = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert second.returncode == 1, second.stderr
    lines = second.stderr.strip().splitlines()
    assert len(lines) == 4 and "3 of 40 recordings were not imported" in lines[-1]
    for i, why in BROKEN.items():
        assert len([x for x in lines if f"s{i:02d}.nwb" in x and why in x]) == 1
    assert f"{len(before)} of 40 recordings are in the store already" in second.stdout
    after = {p.name: p.stat().st_mtime_ns for p in store.iterdir()}
    stored = Store(store)
    sources = [stored.info(key)["provenance"].split(":")[0] for key in stored.keys()]  # noqa: SIM118
    assert sorted(sources) == [f"s{i:02d}.nwb" for i in range(40) if i not in BROKEN]
    assert len(after) == 37 and all(n.endswith(".nc") for n in after)  # nothing half-written
    assert {n: after[n] for n in before} == before  # nothing twice
