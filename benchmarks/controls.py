"""Every model of the benchmark under the negative controls: where nothing can be forecast, nobody may forecast it.

    python benchmarks/controls.py --out results/controls

A simulated mouse of 8 neurons that sees gratings; every model is trained from the beginning for each control, as the benchmark trains it (small sizes,
`--steps` steps), pre-training included. Prints, for forecasts and for activation, each row's score under each control, and which rows fail.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import qf_toolkit as qf
from qf_toolkit.benchmark import roster
from qf_toolkit.benchmark.options import BenchmarkOptions
from qf_toolkit.benchmark.plan import PRETRAIN, make_plan
from qf_toolkit.evaluation.controls import controls, suspicious

TABLES = {"forecast": "table2", "activation": "table1"}
MOUSE = {"n_neurons": 8, "sessions": ("A",), "repeats": 24, "directions": 4, "temporal_frequencies": 1, "seed": 1}
WINDOW = {"baseline_s": 2.0, "response_s": 1.5, "f0_s": 1.0, "score_s": 1.5}


def trained(run, before, split):
    """What the benchmark's run trains, on another split; `before` is its pre-training, or None."""
    keep = {"device": "cpu", "progress": False}
    pretrained = roster.pretrain(before.model, split, before.options, **keep) if before else None
    return roster.fit(run.model, run.task, split, pretrained, run.options, **keep)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/controls"))
    parser.add_argument("--models", nargs="+", default=["all"])
    parser.add_argument("--steps", type=int, default=240)
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    store = qf.simulate(given.out / "store", **MOUSE)
    for task, name in TABLES.items():
        plan = make_plan(name, store, WINDOW, BenchmarkOptions(models=tuple(given.models), steps=given.steps))
        names = {cell.run: cell.row for cell in plan.cells}
        runs = [run for run in plan.runs.values() if run.task != PRETRAIN and run.model != roster.NAIVE]
        makers = {names[run.identity]: partial(trained, run, plan.runs.get(run.needs)) for run in runs}
        table = controls(makers, store.trials(**WINDOW), task=task)
        table.to_csv(given.out / f"{task}.csv", index=False)
        print(f"\n{task}: squared error over that of the mean of the tested trials\n")
        print(table.pivot_table(index="row", columns="control", values="score", sort=False).round(3).to_string())
        for note, of in table[table["note"] != ""].groupby("note"):
            print(f"{', '.join(dict.fromkeys(of['row']))}: {note}")
        print(f"rows that fail a control: {', '.join(suspicious(table)) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
