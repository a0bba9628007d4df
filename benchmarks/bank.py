"""What a bank of observations costs: time of a batch, bytes an observation, and memory and time of a training that reads its traces from files.

    python benchmarks/bank.py --before ../other_checkout --out results/bank

`--before` measures another checkout, too, in processes that alternate with this one's. Times of a batch are given as multiples of one `torch.take` of
as many single numbers with the index at hand, taken in turns in one process on one thread.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import lfilter

import qf_toolkit as qf
from qf_toolkit.recordings.session import new_session

HERE = Path(__file__).resolve().parents[1]
BATCH = """
import json, statistics, sys, time
sys.path.insert(0, sys.argv[1])
import torch
import qf_toolkit as qf
from qf_toolkit.training.bank import Bank
torch.set_num_threads(1)
trials = qf.open_store(sys.argv[2]).trials()
options = {}
if len(sys.argv) > 3:
    from qf_toolkit.training.traces import Traces
    options["traces"] = Traces([trials], "cpu", float(sys.argv[3]))
bank = Bank(trials, {n: i for i, n in enumerate(trials.neurons)}, {c: i for i, c in enumerate(trials.conditions)}, "cpu", **options)
traces = torch.randn(trials.source.header(trials.sessions[0]).sizes["frame"] * len(trials.neurons))
first = torch.randint(0, len(traces) - bank.length, (4096, 1))
index = first + torch.arange(bank.length)
def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
found = {"take": [], "batch": []}
for _ in range(int(sys.argv[4]) if len(sys.argv) > 4 else 150):
    at = torch.randint(0, len(bank), (4096,))
    found["take"].append(seconds(lambda: torch.take(traces, index)))
    found["batch"].append(seconds(lambda: bank.batch(at)))
each = sum(v.nbytes for v in vars(bank).values() if torch.is_tensor(v) and len(v) == len(bank)) / len(bank)
print(json.dumps({n: statistics.median(v) for n, v in found.items()} | {"bytes": each}))
"""
TRAINING = """
import json, resource, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
import qf_toolkit as qf
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
options = {"memory_mb": float(sys.argv[3])} if len(sys.argv) > 3 else {}
split = qf.split_blocks(qf.open_store(sys.argv[2]).trials())
before, start = peak(), time.perf_counter()
model = qf.pretrain(split, epochs=1, width=16, layers=1, heads=2, codes=16, patch_frames=10, device="cpu", progress=False, **options)
print(json.dumps({"before": before, "peak": peak(), "seconds": time.perf_counter() - start, "digest": model.digest()}))
"""


def make(folder, n_sessions, n_neurons=100, n_frames=60_000, every_s=20.0, rate_hz=30.0):
    """A store of smooth noise, long traces with few trials."""
    store = qf.Store(folder, create=True)
    onsets = np.arange(300, n_frames - 300, round(every_s * rate_hz))
    shown = np.arange(len(onsets)) % 4
    trials = pd.DataFrame({"onset_frame": onsets, "offset_frame": onsets + 60, "stimulus": ["drifting_gratings"] * len(onsets), "orientation": 45.0 * shown,
              "block": np.arange(len(onsets)) * 8 // len(onsets)})  # fmt: skip
    for i in range(n_sessions):
        if f"mouse{i}/A" not in store:
            noise = lfilter([1], [1, -0.95], np.random.default_rng(i).standard_normal((n_neurons, n_frames), np.float32))
            store.add(new_session((100 * np.exp(0.1 * noise)).astype(np.float32), subject=f"mouse{i}", session="A", rate_hz=rate_hz, trials=trials))
    return folder


def measured(script, checkout, *argv):
    """The figures that a process of its own prints."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", script, str(checkout), *map(str, argv)], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5, help="processes for the time of a batch")
    parser.add_argument("--out", type=Path, default=Path("results/bank"))
    args = parser.parse_args()
    one = make(args.out / "store1", 1).resolve()
    checkouts = {"here": HERE} | ({"before": args.before.resolve()} if args.before else {})
    rounds = [{name: measured(BATCH, path, one) for name, path in checkouts.items()} for _ in range(args.rounds)]
    for name in checkouts:
        ratios = sorted(r[name]["batch"] / r[name]["take"] for r in rounds)
        ms = np.median([r[name]["batch"] for r in rounds]) * 1e3
        print(
            f"batch of 4096, {name}: {ms:.2f} ms, {np.median(ratios):.2f} takes ({ratios[0]:.2f} to {ratios[-1]:.2f}); {rounds[0][name]['bytes']:.0f} bytes"
        )
    read = [measured(BATCH, HERE, one, 1, 40) for _ in range(args.rounds)]
    print(
        f"batch of 4096 from a file: {np.median([r['batch'] for r in read]) * 1e3:.2f} ms, {np.median([r['batch'] / r['take'] for r in read]):.2f} takes"
    )
    print(f"{'sessions':>8} {'traces':>10} {'growth MB':>10} {'seconds':>8}  weights")
    for n in args.sessions:
        store = make(args.out / f"store{n}", n).resolve()
        runs = {"in memory": measured(TRAINING, HERE, store), "from files": measured(TRAINING, HERE, store, 1)}
        if args.before:
            runs["before"] = measured(TRAINING, args.before.resolve(), store)
        for name, found in runs.items():
            same = "equal" if found["digest"] == runs["in memory"]["digest"] else "DIFFERENT"
            print(f"{n:>8} {name:>10} {found['peak'] - found['before']:>10.0f} {found['seconds']:>8.1f}  {same}")


if __name__ == "__main__":
    main()
