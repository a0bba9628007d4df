"""`qf benchmark`: the tables of the paper, made on a store or on simulated mice."""

from pathlib import Path

from ..benchmark.options import BenchmarkOptions, GridOptions
from ..recordings.options import SETTINGS
from .outputs import claim_output
from .parsing import Arguments


def run_benchmark(args: Arguments):
    """Run `qf benchmark`."""
    from ..benchmark.grid import run_grid
    from ..benchmark.make import prepare
    from ..benchmark.results import mark
    from ..benchmark.tables import read_results, write_tables

    out = Path(args.out)
    claim_output(out, "benchmark", overwrite=args.overwrite, store=args.store)
    mark(out)  # first, since mice are simulated into it
    plan, grid = prepare(args.table, args.store, out, {**args.all(BenchmarkOptions, GridOptions), **args.of(*SETTINGS)})
    if args.plan:
        print(describe(plan, out))
        return 0
    counts = run_grid(plan, out, grid, progress=args.progress)
    paths = write_tables(read_results(plan, out), out)
    print(paths[0].read_text(encoding="utf-8"), end="")
    print(f"\n{counts['made']} runs made, {counts['done'] + counts['failed'] - counts['made']} kept, {counts['failed']} failed; written:")
    for path in paths:
        print(f"  {path}")
    return 0


def describe(plan, out):
    """The plan in words: how many runs of each kind, how many are done, and how long the others may take by those that are.

    Parameters
    ----------
    plan : Plan
    out : Path

    Returns
    -------
    str
    """
    from ..benchmark.results import read_result

    kinds = {}
    for identity, run in plan.runs.items():
        kinds.setdefault((run.model, "pre-training" if run.task == "codes" else run.task), []).append(read_result(out, identity))
    lines = [f"{plan.table}: {len(plan.runs)} runs on {plan.store}{' (simulated)' if plan.simulated else ''}"]
    for (model, task), results in kinds.items():
        done = [r for r in results if r is not None]
        seconds = [s for r in done if (s := r.get("cost", {}).get("train_s")) is not None]
        left = len(results) - len(done)
        guess = f", about {left * sum(seconds) / len(seconds):.0f} s of training left" if seconds and left else ""
        lines.append(f"  {model:14} {task:13} {len(results):4} runs, {len(done)} done{guess}")
    return "\n".join(lines)
