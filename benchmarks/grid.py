"""A grid of 63 runs, killed five times and started again; the same on a Dask cluster of its own, and through an `sbatch` that starts processes here.

    python benchmarks/grid.py --out results/grid

Every way must give 63 results, each made at the first attempt but for those that were killed, results that are there when the grid is killed must stay as
they are to the byte, and the tables must be equal. Prints a line for each way.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

import qf_toolkit as qf

MODELS = ["nlinear", "lstm", "quantformer"]
KILLS = 5
COST = ["parameters", "train_s", "forecast_ms", "peak_mb"]
SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
last = int(re.search(r"--array=0-(\\d+)", script)[1])
job = str(os.getpid())
body = "\\n".join(line for line in script.split("\\n") if line and not line.startswith("#"))
for task in range(last + 1):
    named = {{"JOB_ID": job, "ARRAY_JOB_ID": job, "ARRAY_TASK_ID": str(task), "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0",
             "JOB_NUM_NODES": "1", "NODELIST": "here", "JOB_NODELIST": "here"}}
    env = {{**os.environ, **{{f"SLURM_{{n}}": v for n, v in named.items()}}}}
    subprocess.Popen(["bash", "-c", body], env=env, start_new_session=True, stdout=open("{log}", "ab"), stderr=subprocess.STDOUT)
print("Submitted batch job", job)
"""
SRUN = """#!{python}
import os, sys
rest = sys.argv[1:]
while rest and rest[0].startswith("-"):
    rest = rest[2:] if rest[0] in ("--output", "--error") else rest[1:]
os.execvp(rest[0], rest)
"""
NOTHING = "#!{python}\nprint('JobID|State|NodeList|')\n"


def command(store, out, *more):
    """The grid as a user starts it."""
    few = ["--models", *MODELS, "--seeds", "3", "--steps", "60", "--samples", "0", "--quiet"]
    return [sys.executable, "-m", "qf_toolkit.cli", "benchmark", "table2", "--store", str(store), "--out", str(out), *few, *more]


def results(out):
    """The result files, {path: bytes}."""
    return {p: p.read_bytes() for p in sorted(out.glob("runs/*.json"))}


def killed(store, out, rng):
    """Run the grid in two processes, kill it at random times, and run it to the end."""
    kept, kills, total = {}, 0, 63
    while kills < KILLS:
        wanted = len(kept) + rng.randint(2, 9)
        with subprocess.Popen(command(store, out, "--workers", "2"), start_new_session=True, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and len(list(out.glob("runs/*.json"))) < min(wanted, total - 2):
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 2))
            os.killpg(process.pid, signal.SIGKILL)
        now = results(out)
        assert all(now[p] == data for p, data in kept.items()), "a result was altered"
        kept, kills = now, kills + 1
    subprocess.run(command(store, out, "--workers", "2"), check=True, stdout=subprocess.DEVNULL)
    now = results(out)
    assert all(now[p] == data for p, data in kept.items()), "a result was altered"


def table(out):
    """The table without what it cost."""
    return pd.read_csv(out / "tables" / "table2.csv", index_col=0).drop(columns=COST)


def tell(way, out):
    """Print how many results there are, and how many of them took more than one attempt."""
    notes = [json.loads(data) for data in results(out).values()]
    again = sum(note["attempt"] > 1 for note in notes)
    done = sum(note["status"] == "done" for note in notes)
    print(
        f"{way:24} {len(notes)} results, {done} done, {again} made again after a kill, {len(list(out.glob('runs/*.claim.*')))} claims left",
        flush=True,
    )
    return notes


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/grid"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    out = given.out.resolve()
    store = out / "store"
    small = {"n_neurons": 5, "repeats": 15, "directions": 2, "temporal_frequencies": 1}
    for i in range(6):
        qf.simulate(store, sessions=("A",), subject=f"sim{i + 1}", seed=i, **small)
    ways = {"whole, one process": [], "Dask, 2 workers": ["--on", "dask", "--workers", "2"], "sbatch, 2 jobs": ["--on", "slurm", "--workers", "2"]}
    commands = out / "bin"
    commands.mkdir(exist_ok=True)
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", NOTHING), ("scancel", NOTHING)):
        (commands / name).write_text(text.format(python=sys.executable, log=out / "sbatch.log"))
        (commands / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    killed(store, out / "killed", random.Random(given.seed))
    tell(f"killed {KILLS} times, 2 processes", out / "killed")
    wanted = table(out / "killed")
    for way, more in ways.items():
        folder = out / way.split(",")[0]
        subprocess.run(command(store, folder, *more), check=True, env=env, stdout=subprocess.DEVNULL)
        tell(way, folder)
        pd.testing.assert_frame_equal(table(folder), wanted)
    print("all tables are equal")


if __name__ == "__main__":
    main()
