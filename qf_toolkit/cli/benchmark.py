"""`qf benchmark`: the tables of the paper, made on a store or on simulated mice."""

import json
from pathlib import Path

from .._files import write_text
from .._version import __version__
from ..benchmark.options import SIZES, BenchmarkOptions, GridOptions
from ..errors import QfError
from ..recordings.options import SETTINGS
from .outputs import MARK, claim_output
from .parsing import Arguments


def run_benchmark(args: Arguments):
    """Run `qf benchmark`."""
    from ..benchmark.grid import run_grid
    from ..benchmark.plan import make_plan
    from ..benchmark.shown import as_text
    from ..benchmark.tables import make_table, read_results, write_tables
    from ..recordings.store import Store

    out = Path(args.out)
    claim_output(out, "benchmark", overwrite=args.overwrite, store=args.store)
    write_text(out / MARK, json.dumps({"qf_toolkit": __version__}) + "\n")
    options, grid = BenchmarkOptions(**args.all(BenchmarkOptions)), GridOptions(**args.all(GridOptions))
    store = Store(args.store) if args.store is not None else _simulated(out / "store", SIZES[options.size], args)
    settings = {n: v for kind in SETTINGS for n, v in args.all(kind).items()}
    if settings["split"] in ("subject", "stimulus"):
        raise QfError("split: expected blocks or chronological, found that a subject or stimulus is left out. For that there is table4.")
    plan = make_plan(args.table, store, settings, options)
    if args.plan:
        print(describe(plan, out))
        return 0
    counts = run_grid(plan, out, grid, progress=args.progress)
    results = read_results(plan, out)
    paths = write_tables(results, out)
    print(as_text(results, make_table(results)))
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
        result = read_result(out, identity)
        kinds.setdefault((run.model, "pre-training" if run.task == "codes" else run.task), []).append(result)
    lines = [f"{plan.table}: {len(plan.runs)} runs on {plan.store}{' (simulated)' if plan.simulated else ''}"]
    for (model, task), results in kinds.items():
        done = [r for r in results if r is not None]
        seconds = [r["cost"]["train_s"] for r in done if r.get("cost")]
        left = (
            f", about {(len(results) - len(done)) * sum(seconds) / len(seconds):.0f} s of training left"
            if seconds and len(done) < len(results)
            else ""
        )
        lines.append(f"  {model:14} {task:13} {len(results):4} runs, {len(done)} done{left}")
    return "\n".join(lines)


def _simulated(folder, size, args):
    """A store of simulated mice that saw the paper's four stimuli; those that are there are kept."""
    from ..recordings.simulated.cortex import simulate

    claim_output(folder, "store", option="--out")
    for i in range(size["subjects"]):
        store = simulate(folder, sessions=("A", "B", "C"), subject=f"sim{i + 1}", seed=i, **size["simulate"])
    return store
