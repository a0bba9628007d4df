"""Time of one training step, in this checkout and in another one, taking turns on the same machine.

    python benchmarks/training_step.py --other ../qf_toolkit_before

A process for each checkout trains the auto-encoder, the forecaster and the classifier as `qf demo` and as the README do (`--sizes demo readme`), on one
thread. The two take turns, a block of steps each, so that what else the machine does meets both alike; while one computes the other waits. A step lasts
from the end of the optimiser's step to the end of the next, with all that the loop does in between; the median of a block leaves out the validations.
Measured is the time of the processor, which other processes lengthen less than that of the clock (`--clock wall`).
Printed for each: the median over the blocks in milliseconds, and the ratio this / other of neighbouring blocks: median, quartiles, and the 95 % interval
of the median by the bootstrap.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[1]
STAGES = ("autoencoder", "forecaster", "classifier")
MOUSE = {"sessions": ("A",), "seed": 0, "repeats": 15, "directions": 8, "temporal_frequencies": 2}
COSINE = {"schedule": "cosine", "epochs": 10**4, "progress": False, "device": "cpu"}
FITS = {
    "forecaster": {"batch_size": 64, "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
    "classifier": {"batch_size": 64, "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
}
SIZES = {
    "demo": {"model": {"width": 64, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003}, "batch_size": 128},
    "readme": {"model": {"replace_below": 0.003}, "batch_size": 512},  # the paper's sizes
}
WARM = 5  # steps before the first block


class Enough(BaseException):
    """Ends a training when its blocks are over."""


def work(store, few, clock):
    """A process of one checkout: for each line "size stage" a training, and for each number a block of so many steps, until "end"."""
    from torch import set_num_threads
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import qf_toolkit as qf

    if not Path(qf.__file__).is_relative_to(Path.cwd()):
        raise SystemExit(f"training_step.py: expected the qf_toolkit of {Path.cwd()}, found {qf.__file__}.")
    set_num_threads(1)
    split, small = (qf.split_blocks(qf.open_store(path).trials(stimulus="drifting_gratings", f0_s=1)) for path in (store, few))
    now = {"cpu": time.process_time, "wall": time.perf_counter}[clock]
    models, marks, left = {}, [], [WARM]

    def answer(found):
        print(json.dumps(found), flush=True)

    def after_a_step(*_):
        marks.append(now())
        left[0] -= 1
        if left[0]:
            return
        answer((1000 * np.diff(marks)).tolist())
        said = sys.stdin.readline().strip()
        if said == "end":
            raise Enough
        left[0] = int(said)
        marks[:] = [now()]

    for line in sys.stdin:
        size, stage = line.split()
        plan = SIZES[size]
        if size not in models:  # what it has learnt changes no time
            models[size] = qf.pretrain(small, epochs=1, progress=False, device="cpu", **plan["model"])
        marks[:], left[0] = [], WARM
        handle = register_optimizer_step_post_hook(after_a_step)
        try:
            if stage == "autoencoder":
                qf.pretrain(split, lr=1e-3, batch_size=plan["batch_size"], **plan["model"], **COSINE)
            else:
                fit = {"forecaster": qf.fit_forecaster, "classifier": qf.fit_classifier}[stage]
                fit(models[size], split, **FITS[stage], **{k: v for k, v in COSINE.items() if k != "device"})
        except Enough:
            pass
        finally:
            handle.remove()


class Worker:
    """The process of one checkout."""

    def __init__(self, tree, store, few, clock):
        env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, __file__, "--clock", clock, "--work", str(store), str(few)]
        self.process = subprocess.Popen(command, cwd=tree, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def steps(self):
        """Milliseconds of the steps of a block."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"training_step.py: {' '.join(self.process.args)} ended.")
        return json.loads(line)


def compare(workers, size, stage, blocks, steps):
    """Medians of the blocks of each worker, ms, array (block, worker)."""
    for worker in workers:
        worker.say(f"{size} {stage}")
        worker.steps()  # warm
    found = np.zeros((blocks, len(workers)))
    for block in range(blocks):
        order = range(len(workers)) if block % 2 == 0 else reversed(range(len(workers)))
        for i in order:
            workers[i].say(steps)
            found[block, i] = np.median(workers[i].steps())
    for worker in workers:
        worker.say("end")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--other", type=Path, metavar="DIR", help="another checkout (this one: what the spread of the ratio is where nothing differs)"
    )
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--neurons", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=8, help="of a block")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work, args.clock)
        return
    with tempfile.TemporaryDirectory() as folder:
        import qf_toolkit as qf

        store, few = Path(folder) / "store", Path(folder) / "few"
        qf.simulate(store, n_neurons=args.neurons, **MOUSE)
        qf.simulate(few, n_neurons=3, **MOUSE)
        workers = [Worker(Path(tree).resolve(), store, few, args.clock) for tree in (HERE, args.other or HERE)]
        print(f"{'size':<8} {'stage':<12} {'this ms':>9} {'other ms':>9} {'ratio':>7} {'quartiles':>15} {'95 % of median':>17}")
        try:
            for size in args.sizes:
                for stage in args.stages:
                    found = compare(workers, size, stage, args.blocks, args.steps)
                    ratio, rng = found[:, 0] / found[:, 1], np.random.default_rng(0)
                    drawn = np.median(rng.choice(ratio, (4000, len(ratio))), 1)
                    low, high = np.percentile(ratio, (25, 75))
                    sure = np.percentile(drawn, (2.5, 97.5))
                    this, other = np.median(found, 0)
                    print(f"{size:<8} {stage:<12} {this:>9.2f} {other:>9.2f} {np.median(ratio):>7.3f} {low:>7.3f} {high:>7.3f} {sure[0]:>8.3f} {sure[1]:>8.3f}",
                          flush=True)  # fmt: skip
        finally:
            for worker in workers:
                worker.process.stdin.close()
                worker.process.wait()


if __name__ == "__main__":
    main()
