"""Importing many recordings into a store at once, in several processes or on a Dask cluster."""

import hashlib
import inspect
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import uuid
import warnings
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..._files import sweep
from ...errors import QfError, SessionError
from ...models.options import check_options
from ..schema import session_key, validate
from ..session import describe_flags
from ..store import Store, file_name, previous_version
from .options import ManyOptions

FILE_EDGE, FOLDER_EDGE = 2**20, 2**16  # bytes at each end of a file that enter its digest: of a single file, of the files in a folder
PATIENCE_S = 10  # seconds to wait for a cluster's answer
DIED = "the process that read it died; out of memory? Try --workers 1"
GUARD = "In a script, call import_many under `if __name__ == '__main__':`; or pass workers=1."
PROGRAMMERS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning)  # warnings that do not concern users
_ONE = threading.Lock()


@dataclass(frozen=True)
class Imported:
    """The result of importing one source.

    Attributes
    ----------
    source : str
    keys : tuple of str
        Keys of its sessions in the store.
    notes : tuple of str
        Warnings.
    error : str or None
        The error, None if there was none.
    skipped : bool
        Whether the store held its sessions already.
    summary : tuple of str
        One line on each session that was read.
    """

    source: str
    keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    skipped: bool = False
    summary: tuple[str, ...] = ()


def import_many(read, sources, store, *, options=None, overwrite=ManyOptions.overwrite, workers=None, scheduler=None, progress=True, on_done=None):
    """Import recordings into a store, several at a time. Sources that were imported before are skipped; an error of one does not stop the others.

    Parameters
    ----------
    read : callable
        `read(source, **options)` returns a Session or a list of Sessions (planes). It must be a function at the top of a module, so that other
        processes find it.
    sources : sequence of str or Path
        One file or folder per recording. Workers of a cluster must see them, the store, and the files named in `options` under the same paths.
    store : str or Path
        The folder of the store; made if missing.
    options : mapping, optional
        Passed to `read`.
    overwrite : bool
        Read all sources and replace their sessions in the store. If False, a source that was imported before with the same options is skipped. It is
        recognised by its name, its size, and the bytes at both ends of its files: a change only in the middle of a file is not noticed.
    workers : int, optional
        Number of processes. If None, the number of CPUs; 1 reads in this process. A running cluster has its own number.
    scheduler : str, optional
        "local" for a Dask cluster on this machine, or the address of a running one, tcp://host:port.
    progress : bool
        Show a progress bar.
    on_done : callable, optional
        Called with the Imported of each source as soon as it is done.

    Returns
    -------
    list of Imported
        One for each source, in the order of `sources`. A source that can't be read has an `error`.

    Raises
    ------
    QfError
        If the store can't be made, the cluster can't be reached, no process can be started, or an argument is out of range.

    Examples
    --------
    >>> [done] = import_many(qf.read_suite2p, ["suite2p"], "store", options={"rate_hz": 30, "subject": "m", "session": "one"}, workers=1, progress=False)
    >>> done.error, qf.open_store("store").keys()
    (None, ['m/one'])
    """
    from tqdm.auto import tqdm

    sources, options = [sources] if isinstance(sources, str | Path) else list(sources), dict(options or {})
    check_how(workers, scheduler)
    if not hasattr(read, "__qualname__"):
        raise QfError(f"read: expected a function, found {type(read).__name__}. Pass what it takes as options.")
    folder = Store(store, create=True).path
    usual, told = _defaults(read), {name: _told(value) for name, value in options.items()}
    # giving an option its default value does not make another import
    told = {name: text for name, text in told.items() if name not in usual or text != _told(usual[name])}
    # stores of 0.1.0 hold digests of our readers under the names of the modules of that version
    module = read.__module__.replace("qf_toolkit.recordings.importers.", "qf_toolkit.recordings.")
    recipe = "\n".join([f"{module}.{read.__qualname__}", *(f"{name}={told[name]}" for name in sorted(told))])
    run = _Run(read, options, recipe, folder, overwrite)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    results, owner = {}, {}

    def ended(i, result):
        result = replace(result, source=str(sources[i]))
        twice = [key for key in result.keys if key in owner] if overwrite else []
        if twice:  # without overwrite, Store.add refuses the second session
            text = f"{result.source}: gives {twice[0]}, as {owner[twice[0]]} did, whose session it replaced. Import one of them under another name."
            result = replace(result, error=" ".join([*filter(None, [result.error]), text]))
        owner.update(dict.fromkeys(result.keys, result.source))
        results[i] = result
        bar.update()
        if on_done is not None:
            on_done(result)

    sweep(folder)
    bar = tqdm(total=len(sources), desc="import", unit="file", disable=not progress or len(sources) < 2)
    try:
        with bar:
            known, left = {} if overwrite else _known(folder), []
            for i, source in enumerate(sources):
                source_id = None
                if known and os.path.exists(source):  # it may exist only for the workers of a cluster
                    with suppress(OSError):
                        source_id = _source_id(recipe, source, folder)
                there = known.get(source_id, {})
                if there and len(there) >= max(there.values()):
                    ended(i, Imported(str(source), tuple(sorted(there)), skipped=True))
                else:
                    left.append((i, source, source_id))
            if left and scheduler is not None:
                ends = _on_cluster(replace(run, store=folder.absolute()), left, workers or cpus, scheduler)
            elif (workers or cpus) == 1 or len(sources) == 1:
                ends = ((i, run(source, source_id)) for i, source, source_id in left)
            else:
                ends = _in_processes(run, left, min(workers or cpus, len(left)))
            with closing(ends):  # if an error or Ctrl-C ends this loop, closing stops the workers
                for i, result in ends:
                    ended(i, result)
    finally:
        sweep(folder)
    return [results[i] for i in range(len(sources))]


def check_how(workers, scheduler):
    """Raise QfError if the number of workers is out of range, or the scheduler is neither "local" nor an address."""
    check_options(ManyOptions, {"workers": workers, "scheduler": scheduler})
    if scheduler is not None and scheduler != "local" and "://" not in scheduler:
        raise QfError(f"scheduler: expected 'local' or the address of a Dask cluster, tcp://host:port, found {scheduler!r}.")


def _defaults(read):
    try:
        parameters = inspect.signature(read).parameters.values()
    except ValueError:  # a built-in function may have no signature
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@dataclass(frozen=True)
class _Run:
    """The settings that all sources of a run share. Calling it imports one source; errors are returned in the Imported and never raised."""

    read: Callable[..., Any]
    options: dict
    recipe: str
    store: Path
    overwrite: bool

    def __call__(self, source, source_id=None):
        keys, summary, errors = [], [], []
        # a worker of a cluster may have several threads, but warnings are caught for the whole process; HDF5 runs one thread at a time anyway
        with _ONE, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for kind in PROGRAMMERS:
                warnings.simplefilter("ignore", kind)
            try:
                source_id = source_id or _source_id(self.recipe, source, self.store)
                sessions = self.read(source, **self.options)
                sessions = sessions if isinstance(sessions, list | tuple) else [sessions]
                if not sessions:
                    raise SessionError("expected a recording, found none.")
                marks = {"source_id": source_id, **({"source_parts": len(sessions)} if len(sessions) > 1 else {})}
                for ds in sessions:
                    try:
                        self._add(ds.assign_attrs(marks), keys, summary)
                    except (QfError, OSError) as error:
                        errors.append(_reason(source, error))
            except (Exception, SystemExit) as error:
                errors.append(_reason(source, error))
        notes = dict.fromkeys(_line(source, str(w.message)) for w in caught)
        return Imported(str(source), tuple(keys), tuple(notes), " ".join(errors) or None, summary=tuple(summary))

    def _add(self, ds, keys, summary):
        key = session_key(validate(ds))
        if key in keys:
            raise SessionError(f"session: expected a key of its own for each, found {key} twice.")
        path = self.store / file_name(key)
        there = _attrs(path) if path.is_file() and not self.overwrite else {}
        if there is None or there.get("source_id") != ds.attrs["source_id"]:
            Store(self.store).add(ds, overwrite=self.overwrite or there is None)
        if there is None:
            warnings.warn(f"{path} was damaged and is replaced; the version before is kept as {previous_version(path).name}.", stacklevel=2)
        keys.append(key)
        flagged = ", ".join(f"{n} {why}" for why, n in describe_flags(ds).items()) or "none"
        size = f"{ds.sizes['neuron']} neurons, {ds.sizes['frame']} frames at {ds.attrs['rate_hz']:.4g} Hz, {ds.sizes['trial']} trials"
        summary.append(f"{key}: {size}, flagged: {flagged}")


def _line(source, text):
    text = " ".join(text.split())
    return text if str(source) in text else f"{source}: {text}"


def _reason(source, error):
    """An error as one line that names the source."""
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, QfError | OSError):
        return _line(source, text)
    if isinstance(error, MemoryError):
        return f"{source}: expected enough memory to read it, found too little. Try --workers 1"
    if isinstance(error, ModuleNotFoundError):
        return f"{source}: {error.name} is needed to read it and is not installed. Install it: pip install {error.name}"
    return f"{source}: could not be read ({type(error).__name__}: {text[:300]}); the file may be damaged, or this is a fault of qf_toolkit"


# ---------------------------------------------------------------- knowing a source again


def _source_id(recipe, source, store):
    """A digest of the reader, its options, and the source. The source's name is part of it, since readers name sessions after it."""
    path = Path(os.path.abspath(source))
    name = path.parts[-3:] if path.is_dir() else path.parts[-1:]  # the name of a suite2p session comes from a folder above
    return _digest(recipe, *name, _content(path, store))


def _content(path, store=None):
    if path.is_file():
        return _edges(path, FILE_EDGE)
    # the store may lie inside the source's folder
    without = Path(os.path.abspath(store)) if store else None
    files = sorted(p for p in path.rglob("*") if p.is_file() and without not in p.parents)
    return _digest(*(f"{p.relative_to(path).as_posix()} {_edges(p, FOLDER_EDGE)}" for p in files))


def _edges(path, n):
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(0)
        first = f.read(n)
        f.seek(max(len(first), size - n))
        return _digest(str(size), first, f.read(n))


def _told(value):
    """Text that differs if the meaning of an option differs: for files, tables and arrays it depends on their content."""
    if isinstance(value, str | Path) and os.path.isfile(value):
        return f"{Path(value).name} {_content(Path(value))}"
    if hasattr(value, "to_csv"):
        return value.to_csv()
    if isinstance(value, np.ndarray):
        return _digest(value.dtype.str, str(value.shape), pickle.dumps(value) if value.dtype.hasobject else value.tobytes())
    return repr(value)


def _digest(*parts):
    h = hashlib.blake2b(digest_size=12)
    for part in parts:
        part = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        h.update(len(part).to_bytes(8, "big") + part)
    return h.hexdigest()


def _known(store):
    """{source_id: {key of a session: number of sessions of its source}} for the sessions that can be read."""
    known = defaultdict(dict)
    there = Store(store)
    keys = there.keys()
    for key in keys:
        attrs = _attrs(there.file(key))
        if attrs and "source_id" in attrs:
            known[attrs["source_id"]][key] = int(np.ravel(attrs.get("source_parts", 1))[0])
    return known


def _attrs(path):
    """Attributes of a stored Session, read five times as fast as with xarray; None if the file is damaged, {} if the system refuses to read it."""
    try:
        with h5py.File(path, "r") as f:
            for variable in f.values():  # damage shows first in the attributes of the variables
                dict(variable.attrs)
            return dict(f.attrs)
    except Exception as error:
        # an errno shows that the system refused to read the file, which may well be whole
        return {} if isinstance(error, OSError) and error.errno is not None else None


# ---------------------------------------------------------------- in processes


def _in_processes(run, left, workers):
    """Yield (position, Imported) of each of `left` as it ends."""
    try:
        data = pickle.dumps(run)
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise QfError(f"read: expected a function at the top of a module and plain options, which other processes can be sent, found {e}.") from e
    left = deque(left)
    while left:
        suspects = []
        with _pool(workers) as pool:
            yield from _until_it_breaks(pool, data, left, workers, suspects)
        # one source killed its process, and the pool broke for all that were in it: each of them gets one more try in a pool of its own
        for i, *source in suspects:
            yield i, _alone(data, *source)


def _until_it_breaks(pool, data, left, workers, suspects):
    flying = {}
    while flying or (left and not suspects):
        try:
            while left and len(flying) < workers and not suspects:
                flying[pool.submit(_unpacked, data, *left[0][1:])] = left[0]
                left.popleft()
        except BrokenProcessPool:
            if not flying:  # a process died without any job
                return
        for future in wait(flying, return_when=FIRST_COMPLETED).done:
            job = flying.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool:
                suspects.append(job)
            else:
                yield job[0], result


def _alone(data, source, source_id):
    with _pool(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as e:
            raise QfError(f"workers: expected processes that start, found that they die at once. {GUARD}") from e
        try:
            return pool.submit(_unpacked, data, source, source_id).result()
        except BrokenProcessPool:
            return Imported(str(source), error=f"{source}: {DIED}")


def _unpacked(data, source, source_id):
    try:
        run = pickle.loads(data)  # loaded inside the job, so that a reader that can't be found here gives an error and does not kill the process
    except Exception as error:
        return Imported(str(source), error=_reason(source, error))
    return run(source, source_id)


@contextmanager
def _pool(workers):
    # spawn, since a forked child of a process with threads (HDF5, torch) may hang
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start)
    try:
        yield pool
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5)
        raise
    pool.shutdown()


def _start():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the group, but the parent stops the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


# ---------------------------------------------------------------- on a Dask cluster


def _on_cluster(run, left, workers, scheduler):
    """Yield (position, Imported) of each of `left` as it ends."""
    with _client(workers, scheduler) as client:
        import cloudpickle
        from distributed import KilledWorker, as_completed

        data = cloudpickle.dumps(run)

        def submit(i, source, source_id):
            source = type(source)(os.path.abspath(source)) if os.path.exists(source) else source  # a worker has a working directory of its own
            return client.submit(_unpacked, data, source, source_id, key=f"import-{uuid.uuid4().hex}", pure=False, retries=1)

        def lost(source, error):
            text = DIED if isinstance(error, KilledWorker) else f"the cluster lost it ({error}). The same import again goes on from here."
            return Imported(str(source), error=f"{source}: {' '.join(text.split())}")

        suspects = []
        flying = {submit(*job): job for job in left}
        for future in as_completed(list(flying), loop=client.loop, raise_errors=False):
            job = flying.pop(future)
            try:
                yield job[0], future.result()
            except KilledWorker:  # when a worker dies, all its tasks fail: each of them gets one more try on its own
                suspects.append(job)
            except Exception as error:
                yield job[0], lost(job[1], error)
        for job in suspects:
            try:
                yield job[0], submit(*job).result()
            except Exception as error:
                yield job[0], lost(job[1], error)


@contextmanager
def _client(workers, scheduler):
    try:
        import dask.config
        from distributed import Client, LocalCluster
    except ImportError as e:
        raise QfError("scheduler: needs dask.distributed, which is not installed. Install it: pip install 'qf_toolkit[cluster]'") from e
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it would log a traceback when a cluster ends; the errors of the sources report that in one line
    try:
        if scheduler != "local":
            try:
                client = Client(scheduler, timeout=PATIENCE_S, set_as_default=False)
            except Exception as e:  # anything may answer at this address: a web server, for example, leads to a MemoryError
                text = " ".join(str(e).split())
                raise QfError(f"scheduler: expected a Dask cluster at {scheduler}, found none ({text}). Start one there: dask scheduler") from e
            with client:
                yield client
            return
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # `_on_cluster` tries again itself
            try:
                cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL)
            except Exception as e:
                raise QfError(f"scheduler: expected a cluster on this machine, found that it does not start ({e}). {GUARD}") from e
            with cluster, Client(cluster, set_as_default=False) as client:
                yield client
    finally:
        log.setLevel(level)
