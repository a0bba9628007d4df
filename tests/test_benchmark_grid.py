"""The grid of a benchmark: killed and started again, in processes, on a Dask cluster and through sbatch, each run is made once and the table is the same."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pandas as pd
import pytest
from helpers import needs, toy_session, untaught

import qf_toolkit as qf
from qf_toolkit.benchmark.grid import run_grid
from qf_toolkit.benchmark.options import BenchmarkOptions, GridOptions
from qf_toolkit.benchmark.plan import make_plan
from qf_toolkit.benchmark.results import read_result, result_file
from qf_toolkit.benchmark.tables import COST, make_table, read_results
from qf_toolkit.errors import QfError

pytestmark = untaught
WINDOW = {"baseline_s": 1.0, "response_s": 1.0, "f0_s": 0.5, "score_s": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = qf.Store(tmp_path_factory.mktemp("grid") / "store", create=True)
    for i, subject in enumerate(("ada", "bob")):
        store.add(toy_session(i, n_neurons=3, subject=subject))
    return store


@pytest.fixture(scope="module")
def plan(store):
    return make_plan("table2", store, WINDOW, BenchmarkOptions(models=("nlinear", "quantformer"), steps=4, n_samples=0))


@pytest.fixture(scope="module")
def wanted(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("wanted")
    run_grid(plan, out, progress=False)
    return table_of(plan, out)


def table_of(plan, out):
    return make_table(read_results(plan, out)).drop(columns=list(COST))


def test_processes(plan, wanted, tmp_path):
    counts = run_grid(plan, tmp_path, GridOptions(workers=2), progress=False)
    assert counts == {"done": len(plan.runs), "failed": 0, "made": len(plan.runs)}
    pd.testing.assert_frame_equal(table_of(plan, tmp_path), wanted)


@pytest.mark.slow
def test_a_grid_that_was_killed_goes_on(store, plan, wanted, tmp_path):
    """Each result that is there when the grid is killed stays as it is, to the byte; what was half-done is made again."""
    command = [sys.executable, "-m", "qf_toolkit.cli", "benchmark", "table2", "--store", str(store.path), "--out", str(tmp_path), "--models", "nlinear",
               "quantformer", "--steps", "4", "--samples", "0", "--baseline", "1", "--response", "1", "--f0", "0.5", "--score", "1", "--quiet",
               "--workers", "2"]  # fmt: skip
    kept = {}
    for n in (1, 3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
            end = time.monotonic() + 120
            while process.poll() is None and len(list(tmp_path.glob("runs/*.json"))) < n and time.monotonic() < end:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
        assert {p: p.read_bytes() for p in kept} == kept
        kept = {p: p.read_bytes() for p in tmp_path.glob("runs/*.json")}
        assert len(kept) >= n
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert {p: p.read_bytes() for p in kept} == kept
    plans = json.loads(next(tmp_path.glob("plans/table2-*.json")).read_text())
    assert len(plans["runs"]) == len(plan.runs) == len(list(tmp_path.glob("runs/*.json")))
    assert not list(tmp_path.glob("runs/*.claim.*"))
    found = pd.read_csv(tmp_path / "tables" / "table2.csv", index_col=0).drop(columns=list(COST))
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False, check_names=False)


def test_a_run_at_which_workers_die_is_given_up(store, tmp_path, monkeypatch):
    """As when a run needs more memory than there is: its row says so, and the other runs are made."""
    plan = make_plan("table2", store, {**WINDOW, "subject": ["ada"]}, BenchmarkOptions(models=("nlinear",), steps=2, n_samples=0))
    deadly = next(identity for identity, run in plan.runs.items() if run.model == "nlinear")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if any('spawn_main' in a for a in sys.argv) or 'multiprocessing' in ' '.join(sys.orig_argv):\n"
        "    import qf_toolkit.estimators.network as n\n"
        "    n.fit_network = lambda *a, **k: os._exit(9)\n"
    )
    counts = run_grid(plan, tmp_path / "out", GridOptions(workers=2), progress=False)
    assert counts == {"done": 1, "failed": 1, "made": 2}
    assert "2 workers died at it" in read_result(tmp_path / "out", deadly)["error"]


@pytest.mark.slow
@needs("distributed", "cluster")
def test_dask(plan, wanted, tmp_path):
    run_grid(plan, tmp_path, GridOptions(on="dask", workers=2), progress=False)
    pd.testing.assert_frame_equal(table_of(plan, tmp_path), wanted)


@pytest.mark.slow
@needs("distributed", "cluster")
def test_no_cluster_there():
    from qf_toolkit.benchmark import backends

    with pytest.raises(QfError, match="expected a Dask cluster at tcp://127.0.0.1:9, found none"):
        backends.start(GridOptions(on="tcp://127.0.0.1:9"))({}, GridOptions(on="tcp://127.0.0.1:9"), bool)


SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
array = re.search(r"--array=(\\d+)-(\\d+)", script)
last = int(array[2]) if array else 0
job = str(os.getpid())
body = [line for line in script.split("\\n") if line and not line.startswith("#")]
output = re.search(r"--output=(\\S+)", script)[1]
for task in range(last + 1):
    env = {{**os.environ, "SLURM_JOB_ID": job, "SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
           "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODELIST": "here", "SLURM_JOB_NODELIST": "here"}}
    subprocess.Popen(["bash", "-c", "\\n".join(body)], env=env, start_new_session=True, stdout=open("{log}", "ab"), stderr=subprocess.STDOUT)
print("Submitted batch job", job)
"""
SRUN = """#!{python}
import os, sys
rest = sys.argv[1:]
while rest and rest[0].startswith("-"):
    rest = rest[2:] if rest[0] in ("--output", "--error") else rest[1:]
os.execvp(rest[0], rest)
"""
SACCT = """#!{python}
import sys
print("JobID|State|NodeList|")
"""


@pytest.mark.slow
@needs("submitit", "cluster")
def test_slurm(plan, wanted, tmp_path, monkeypatch):
    """Through an `sbatch` that starts each task of the array as a process of this machine."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT), ("scancel", SACCT), ("squeue", SACCT)):
        file = commands / name
        file.write_text(text.format(python=sys.executable, log=tmp_path / "log"))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "out"
    counts = run_grid(plan, out, GridOptions(on="slurm", workers=2, slurm=("time=10",)), progress=False)
    assert counts["made"] == len(plan.runs), (tmp_path / "log").read_text()
    pd.testing.assert_frame_equal(table_of(plan, out), wanted)


def test_what_a_run_needs_comes_first(plan, wanted, tmp_path):
    """A fit waits for its pre-training, and starts from its weights."""
    order = list(plan.runs)
    for identity, run in plan.runs.items():
        assert not run.needs or order.index(run.needs) < order.index(identity)
    needed = {run.needs for run in plan.runs.values() if run.needs}
    assert len(needed) == 1 and result_file(tmp_path, needed.pop()).parent == tmp_path / "runs"
