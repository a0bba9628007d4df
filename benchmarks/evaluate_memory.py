"""Peak memory of `qf evaluate --bootstrap --figures` over the number of mice, each process measured by itself.

    python benchmarks/evaluate_memory.py --mice 4 16 --out results/memory

simulates the mice (once), trains a model on them for an epoch, and prints for each number: peak resident memory of the process, and how much of it
came after the imports and the opening of the store.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import qf_toolkit as qf

PLAN = {"n_neurons": 40, "repeats": 15, "directions": 8, "temporal_frequencies": 2}
QUICK = ["--f0", "1", "--epochs", "1", "--batch", "256", "--width", "32", "--layers", "1", "--heads", "4", "--patch-frames", "10", "--quiet"]
MEASURED = """
import json, resource, sys
from qf_toolkit.cli.main import main
import qf_toolkit.study.demo, qf_toolkit.estimators.saving, qf_toolkit.evaluation.table, qf_toolkit.plots.forecasts, seaborn
import qf_toolkit as qf
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
qf.open_store(sys.argv[1]).index
before = peak()
code = main(["evaluate", *sys.argv[1:]])
print(json.dumps({"code": code, "before": before, "peak": peak()}))
"""


def run(*argv):
    subprocess.run([sys.executable, "-m", "qf_toolkit.cli.main", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mice", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/memory"))
    args = parser.parse_args()
    print(f"{'mice':>5} {'before MB':>10} {'peak MB':>9} {'growth MB':>10}")
    for n in args.mice:
        folder = args.out / str(n)
        store, model = folder / "store", folder / "forecaster"
        known = qf.Store(store, create=True).keys()
        for mouse in range(n):
            if f"mouse{mouse}/A" not in known:
                qf.simulate(store, subject=f"mouse{mouse}", seed=mouse, **PLAN)
        if not (model / "config.json").is_file():
            run("pretrain", store, "--out", folder / "base", *QUICK)
            run("fit", store, "--pretrained", folder / "base", "--out", model, "--epochs", 1, "--quiet")
        more = ["--bootstrap", "--samples", str(args.samples), "--figures", str(folder / "figures"), "--out", str(folder / "table.csv"), "--quiet"]
        done = subprocess.run([sys.executable, "-c", MEASURED, str(store), "--model", str(model), *more], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{n:>5} {found['before']:>10.0f} {found['peak']:>9.0f} {found['peak'] - found['before']:>10.0f}")


if __name__ == "__main__":
    main()
