"""Where the workers of a grid run: in this process, in processes of this machine, on a Dask cluster, or as jobs of SLURM.

Workers need nothing of each other but the folder of the benchmark, and the store, under the same paths. So each backend only starts them and waits.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

from ..errors import QfError
from .options import GridOptions

LOOK_S = 0.5
FEW = 3  # deaths for each worker, without a run that ends, at which a grid stops
PATIENCE_S = 10
REFUSED = 3  # exit code


def start(options: GridOptions) -> Callable:
    """The backend that the options name.

    Parameters
    ----------
    options : GridOptions

    Returns
    -------
    callable
        It takes a job (see `grid.work`), the options, and a function that tells how many runs have ended, and returns when all workers have ended.
    """
    if options.on == "local":
        return _here if options.workers == 1 else _spawned
    return _slurm if options.on == "slurm" else _dask


def _here(job, options, tell):
    from .grid import work

    work(job, tell)


def _worker(job):
    """The body of a process: one that may not work here ends with a line, and is not replaced."""
    from .grid import work

    try:
        work(job)
    except QfError as error:
        print(f"qf: {error}", file=sys.stderr)
        sys.exit(REFUSED)


def _spawned(job, options, tell):
    spawn = multiprocessing.get_context("spawn")
    job = {**job, "threads": max(1, (os.cpu_count() or 1) // options.workers)}
    workers: list = [None] * options.workers
    died = 0  # since a run was last finished
    n_done = -1
    try:
        while died <= FEW * options.workers and not all(worker is not None and worker.exitcode == 0 for worker in workers):
            if any(worker is not None and worker.exitcode == REFUSED for worker in workers):
                break
            for i, worker in enumerate(workers):
                if worker is None or worker.exitcode not in (None, 0):  # a killed worker is replaced, so that its run gets a second try
                    died += worker is not None
                    workers[i] = spawn.Process(target=_worker, args=(job,), daemon=True)
                    workers[i].start()
            time.sleep(LOOK_S)
            if (n := tell()) > n_done:
                n_done, died = n, 0
    finally:
        for worker in workers:
            if worker is not None:
                worker.terminate()
                worker.join()


# ---------------------------------------------------------------- clusters


def _dask(job, options, tell):
    from .grid import work

    with _client(options) as client:
        # a worker that dies takes its task along: Dask gives it to another, which finds the claim of a dead process
        futures = [client.submit(work, job, key=f"{job['grid']}-{i}", pure=False, retries=10) for i in range(options.workers)]
        while not all(future.done() for future in futures):
            tell()
            time.sleep(LOOK_S)
        for future in futures:
            if future.status == "error":
                raise QfError(
                    f"on: expected workers on the Dask cluster that run to the end, found {' '.join(str(future.exception()).split())[:300]}."
                )


@contextmanager
def _client(options):
    try:
        from distributed import Client, LocalCluster
    except ImportError as e:
        raise QfError("on: needs dask.distributed, which is not installed. Install it: pip install 'qf_toolkit[cluster]'") from e
    if options.on == "dask":
        with LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(options.on, timeout=PATIENCE_S, set_as_default=False)
    except Exception as e:  # anything may answer at this address
        raise QfError(f"on: expected a Dask cluster at {options.on}, found none ({' '.join(str(e).split())[:200]}). Start one: dask scheduler") from e
    with client:
        yield client


def _slurm(job, options, tell):
    try:
        import submitit
    except ImportError as e:
        raise QfError("on: slurm needs submitit, which is not installed. Install it: pip install 'qf_toolkit[cluster]'") from e
    from .grid import work

    settings = {name: int(value) if value.isdigit() else value for name, _, value in (text.partition("=") for text in options.slurm)}
    try:
        executor = submitit.SlurmExecutor(folder=os.path.join(job["out"], "slurm"), max_num_timeout=10)
        executor.update_parameters(job_name=f"qf-{job['plan'].removesuffix('.json')}", array_parallelism=options.workers, **settings)
        jobs = executor.map_array(work, [job] * options.workers)
    except (RuntimeError, ValueError, TypeError, OSError, submitit.core.utils.FailedJobError) as e:
        raise QfError(f"slurm: expected that jobs can be submitted here, found {' '.join(str(e).split())[:300]}.") from e
    while not all(j.done() for j in jobs):
        tell()
        time.sleep(LOOK_S)
    failed = [j for j in jobs if j.exception() is not None]
    if len(failed) == len(jobs):
        raise QfError(f"slurm: expected jobs that run to the end, found {len(failed)} that ended early. Look at {failed[0].paths.stderr}.")
