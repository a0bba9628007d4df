"""Time of one forecast of a whole population, in this checkout and in another one, taking turns on the same machine.

    python benchmarks/forecast.py --other ../qf_toolkit_before

A forecaster of the paper's sizes is trained for one epoch by the other checkout on a simulated mouse, saved, and loaded by a process of each. Each
forecasts the response of all neurons in one trial, from arrays and from Trials, on one thread; the two take turns, and while one computes the other waits.
Printed: the median of all calls in milliseconds, and the ratio this / other of neighbouring blocks: median, and its 95 % interval by the bootstrap.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[1]
ASKED = ("predict_arrays", "predict")


def make(folder, neurons):
    """A store and a forecaster of all its neurons, by the checkout that runs this."""
    import qf_toolkit as qf

    mouse = {"sessions": ("A",), "seed": 0, "n_neurons": neurons, "repeats": 9, "directions": 2, "temporal_frequencies": 1, "gap_s": 6.0}
    split = qf.split_blocks(qf.simulate(folder / "store", **mouse).trials(f0_s=1))
    few = qf.split_blocks(qf.open_store(folder / "store").trials(f0_s=1, neurons=split.train.neurons[:3]))
    autoencoder = qf.pretrain(few, epochs=1, progress=False, device="cpu")
    qf.fit_forecaster(autoencoder, split, epochs=1, progress=False, decode="soft").save(folder / "model")


def work(folder):
    """A process of one checkout: for each line "what count" the milliseconds of so many calls."""
    from torch import set_num_threads

    import qf_toolkit as qf

    set_num_threads(1)
    model = qf.load(folder / "model", device="cpu")
    trials = qf.split_blocks(qf.open_store(folder / "store").trials(f0_s=1)).test.subset([0])
    context = np.nan_to_num(trials.dataset()["dff"].values[..., :90])
    asked = context, trials.neurons, list(trials.table["condition"])
    if len(inspect.signature(model.predict_arrays).parameters) == 1:
        from qf_toolkit.estimators.interface import Observations

        arrays = lambda: model.predict_arrays(Observations(*asked))  # noqa: E731
    else:
        arrays = lambda: model.predict_arrays(*asked)  # noqa: E731
    calls = {"predict_arrays": arrays, "predict": lambda: model.predict(trials)}
    for line in sys.stdin:
        what, count = line.split()
        found = []
        for _ in range(int(count)):
            start = time.process_time()
            calls[what]()
            found.append(1000 * (time.process_time() - start))
        print(json.dumps(found), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, default=HERE, metavar="DIR", help="another checkout")
    parser.add_argument("--neurons", type=int, default=241)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--calls", type=int, default=3, help="of a block")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make(args.make, args.neurons)
    if args.work:
        return work(args.work)
    with tempfile.TemporaryDirectory() as folder:
        trees = [HERE, args.other.resolve()]
        envs = [{**os.environ, "PYTHONPATH": str(t), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} for t in trees]
        subprocess.run([sys.executable, __file__, "--make", folder, "--neurons", str(args.neurons)], cwd=trees[1], env=envs[1], check=True)
        command = [sys.executable, __file__, "--work", folder]
        workers = [
            subprocess.Popen(command, cwd=t, env=e, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for t, e in zip(trees, envs, strict=True)
        ]

        def ask(worker, what, count):
            worker.stdin.write(f"{what} {count}\n")
            worker.stdin.flush()
            return json.loads(worker.stdout.readline())

        for what in ASKED:
            for worker in workers:
                ask(worker, what, 3)  # warm
            found = np.zeros((args.blocks, 2))
            for block in range(args.blocks):
                for i in (0, 1) if block % 2 == 0 else (1, 0):
                    found[block, i] = np.median(ask(workers[i], what, args.calls))
            ratio = found[:, 0] / found[:, 1]
            drawn = np.median(np.random.default_rng(0).choice(ratio, (2000, len(ratio))), 1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            this, other = np.median(found, 0)
            print(
                f"{what} of {args.neurons} neurons: this {this:.1f} ms, other {other:.1f} ms, ratio {np.median(ratio):.3f} [{low:.3f}, {high:.3f}]",
                flush=True,
            )
        for worker in workers:
            worker.stdin.close()
            worker.wait()
    return None


if __name__ == "__main__":
    main()
