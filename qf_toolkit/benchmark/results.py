"""The files of a benchmark: one result a run, written once, and the claims by which workers share the runs among them.

    OUT/benchmark.json           says whose folder it is
    OUT/plans/TABLE-DIGEST.json  which runs a table is made of
    OUT/runs/IDENTITY.json       the result of a run
    OUT/runs/IDENTITY.claim.1    who works on it; a claim whose process has ended is followed by claim.2, and so on
    OUT/models/IDENTITY/         a pre-trained model, the checkpoints of a training, and the fitted model where that is kept

Any number of workers on any number of machines may share the folder. A claim is made by creating its file, which succeeds for exactly one of them.
"""

import contextlib
import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .._files import atomic_path, is_gone, this_process, write_text
from .._version import __version__
from ..errors import DamagedFileError

MARK = "benchmark.json"  # says that a folder is that of a benchmark
HEARTBEAT_S = 20.0
LOST_S = 600.0  # a claim from another machine that was not renewed for so long is given up


def mark(out: Path) -> None:
    """Say in a folder that it is that of a benchmark."""
    write_text(out / MARK, json.dumps({"qf_toolkit": __version__}) + "\n")


def result_file(out: Path, identity: str) -> Path:
    """The file of a run's result."""
    return out / "runs" / f"{identity}.json"


def model_folder(out: Path, identity: str) -> Path:
    """The folder of a run's model."""
    return out / "models" / identity


def read_result(out: Path, identity: str) -> dict | None:
    """The result of a run; None if there is none.

    Raises
    ------
    DamagedFileError
        If its file can't be read.
    """
    file = result_file(out, identity)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise DamagedFileError(f"{file}: expected the result of a run, found what can't be read ({e}). Delete it: the run is made again.") from e


def write_result(out: Path, identity: str, result: dict) -> None:
    """Write the result of a run. One that is there stays: it was made by a worker that was taken for dead."""
    with contextlib.suppress(FileExistsError), atomic_path(result_file(out, identity), exclusive=True) as tmp:
        tmp.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class Claim(NamedTuple):
    """A worker's claim of a run.

    Attributes
    ----------
    attempt : int
        1, or more if workers died at the run.
    deaths : int
        How many workers of the same grid died at it.
    """

    attempt: int
    deaths: int


@contextmanager
def claimed(out: Path, identity: str, grid: str):
    """Claim a run, and renew the claim while the block runs.

    Parameters
    ----------
    out : Path
    identity : str
    grid : str
        A word for this call of the grid.

    Yields
    ------
    Claim or None
        None if another worker has the run, or it is done. Then the block must do nothing.
    """
    claims = _claims(out, identity)
    if result_file(out, identity).exists() or (claims and not _is_lost(claims[-1])):
        yield None
        return
    number = int(claims[-1].suffix[1:]) + 1 if claims else 1
    mine = out / "runs" / f"{identity}.claim.{number}"
    try:
        mine.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:  # another worker was faster
        yield None
        return
    with os.fdopen(descriptor, "w") as f:
        f.write(json.dumps({**this_process(), "grid": grid}))
    done = threading.Event()
    beat = threading.Thread(target=_renew, args=(mine, done), daemon=True)
    beat.start()
    try:
        finished = result_file(out, identity).exists()  # by a worker that ended between the first look and the claim
        yield None if finished else Claim(number, sum(_grid_of(claim) == grid for claim in claims))
    finally:
        done.set()
        beat.join()
        for claim in (*claims, mine):
            claim.unlink(missing_ok=True)


def _renew(claim, done):
    while not done.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(claim)


def _claims(out, identity):
    return sorted((out / "runs").glob(f"{identity}.claim.*"), key=lambda claim: int(claim.suffix[1:]))


def _read(claim):
    """Who made a claim; {} if it was removed or is being written."""
    try:
        return json.loads(claim.read_text())
    except (OSError, ValueError):
        return {}


def _grid_of(claim):
    return _read(claim).get("grid")


def _is_lost(claim):
    """Whether the worker that made a claim has ended."""
    who = _read(claim)
    gone = is_gone(who["host"], who["pid"], who["start"]) if who else None
    if gone is not None:
        return gone
    try:
        return time.time() - claim.stat().st_mtime > LOST_S
    except FileNotFoundError:
        return False
