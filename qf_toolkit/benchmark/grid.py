"""Works through the runs of a plan: what is done stays, what was interrupted goes on, one run that fails stops no other."""

import hashlib
import json
import time
import uuid
from pathlib import Path

from tqdm.auto import tqdm

from .._files import this_process, write_text
from ..errors import QfError
from ..recordings.store import Store
from .options import GridOptions
from .plan import Plan, code_digest
from .results import claimed, read_result, result_file, write_result
from .run import failed, make

WAIT_S = 0.2
DEATHS = 2  # a run at which this many workers of one grid died is given up


def run_grid(plan: Plan, out: str | Path, options: GridOptions | None = None, *, progress: bool = True) -> dict:
    """Make all runs of a plan that are not done.

    Parameters
    ----------
    plan : Plan
    out : str or Path
        Folder of the benchmark. Runs are known by all that decides their results, so plans may share it.
    options : GridOptions, optional
    progress : bool
        Show a bar with an estimate of the time that is left.

    Returns
    -------
    dict
        How many runs are done, failed, and were made by this call: {"done": ..., "failed": ..., "made": ...}.

    Raises
    ------
    QfError
        If the workers can't be started, or all of them died.
    """
    from . import backends

    options, out = options or GridOptions(), Path(out)
    if options.retry:
        for identity in plan.runs:
            result = read_result(out, identity)
            if result is not None and result["status"] == "failed":
                result_file(out, identity).unlink()
    before = len(finished(plan, out))
    note = json.dumps(plan.note(), indent=1) + "\n"
    file = out / "plans" / f"{plan.table}-{hashlib.blake2b(note.encode(), digest_size=6).hexdigest()}.json"
    write_text(file, note)
    job = {"out": str(out.resolve()), "plan": file.name, "grid": uuid.uuid4().hex, "device": options.device, "keep_models": options.keep_models}
    bar = tqdm(total=len(plan.runs), initial=before, desc=plan.table, unit="run", disable=None if progress else True)

    def tell():
        bar.update(len(finished(plan, out)) - bar.n)
        return bar.n

    with bar:
        if tell() < len(plan.runs):
            backends.start(options)(job, options, tell)
            tell()
    done = finished(plan, out)
    if len(done) < len(plan.runs):
        raise QfError(f"workers: expected all {len(plan.runs)} runs, found {len(done)} when the workers had ended. The same command again goes on.")
    bad = sum((read_result(out, identity) or {}).get("status") == "failed" for identity in done)
    return {"done": len(done) - bad, "failed": bad, "made": len(done) - before}


def finished(plan: Plan, out: Path) -> list[str]:
    """Identities of the runs that have a result."""
    return [identity for identity in plan.runs if result_file(out, identity).exists()]


def work(job: dict, tell=None) -> int:
    """The loop of a worker: it claims runs one by one until all have a result.

    Parameters
    ----------
    job : dict
        out, plan (name of its file), grid, device, keep_models, and threads (of torch) where that is bounded.
    tell : callable, optional
        Called after each run.

    Returns
    -------
    int
        How many runs it made.

    Raises
    ------
    QfError
        If the code here is not the one that the runs were planned with: their results would have another's name.
    """
    import torch

    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    plan = Plan.from_note(json.loads((out / "plans" / job["plan"]).read_text(encoding="utf-8")))
    if code_digest() not in {run.code for run in plan.runs.values()}:
        raise QfError("code: expected the code that the runs were planned with, found that it has changed since. Give the command again.")
    store, made = Store(plan.store), 0
    while left := [identity for identity in plan.runs if not result_file(out, identity).exists()]:
        before = made
        for identity in left:
            run = plan.runs[identity]
            if run.needs and not result_file(out, run.needs).exists():
                continue
            with claimed(out, identity, job["grid"]) as claim:
                if claim is None:
                    continue
                if claim.deaths < DEATHS:
                    result = make(run, out, store, job["device"], job["keep_models"])
                else:
                    result = failed(run, f"{claim.deaths} workers died at it (out of memory?)")
                write_result(out, identity, {**result, "attempt": claim.attempt, "worker": this_process()})
                made += 1
            if tell is not None:
                tell()
        if made == before:  # others work on all that is left, or on what that needs
            time.sleep(WAIT_S)
    return made
