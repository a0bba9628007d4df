"""Altered recordings, stores and models through the command line: none may end in a traceback, hang, crash, or be read with other data unsaid.

    python tests/robustness/fuzz.py --minutes 10 --seed 0 --keep build/fuzz

Each case alters one file (bytes, or its structure through h5py or json) and runs commands on it in a forked child with limits on time and memory.
The same seed makes the same cases in the same order.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError
from robustness.mutations import alter
from robustness.seeds import SEEDS, make_seeds

TIME_S, MEMORY = 20, 6 << 30
GOOD = ("read the same", "refused")  # what may become of a case
FAULTS = ("traceback", "hang", "crash", "other data", "no line")


def run(minutes=10.0, seed=0, keep=None, kinds=None, cases=None):
    """Run cases until the time, or the number of `cases`, is over.

    Returns
    -------
    Counter
        {(kind, verdict): cases}.
    list of str
        A line on each fault, with where a copy of its files is kept.
    """
    counts, faults = Counter(), []
    kinds = list(kinds or SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.set_num_threads(1)
        kinds = make_seeds(folder / "seeds", kinds)
        end, i = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < end and (cases is None or i < cases):
            kind, rng, case = kinds[i % len(kinds)], random.Random(f"{seed}-{i}"), folder / "case"
            shutil.copytree(folder / "seeds" / kind, case, symlinks=True)
            told = alter(kind, case, rng)
            verdict, detail = _verdict(kind, case, folder / "seeds" / kind, i)
            counts[kind, verdict] += 1
            if verdict in FAULTS:
                where = ""
                if keep is not None:
                    where = Path(keep) / f"{kind}-{seed}-{i}"
                    shutil.rmtree(where, ignore_errors=True)
                    shutil.copytree(case, where, symlinks=True)
                faults.append(f"{verdict}: {kind} case {i} ({told}): {detail} {where}")
            shutil.rmtree(case, ignore_errors=True)
            i += 1
    return counts, faults


def _verdict(kind, case, seed, i):
    """What became of a case, (verdict, detail); the commands run in a child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            result = _in_child(kind, case, seed, i)
        except BaseException:
            result = ("traceback", " | ".join(traceback.format_exc().splitlines()[-3:]))
        os.write(write, "\n".join(result).encode(errors="replace")[:4000])
        os._exit(0)
    os.close(write)
    deadline = time.monotonic() + TIME_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        return "hang", f"longer than {TIME_S} s"
    with os.fdopen(read, "rb") as f:
        text = f.read().decode()
    if os.WIFSIGNALED(status) or not text:
        return "crash", f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.waitstatus_to_exitcode(status)}"
    verdict, _, detail = text.partition("\n")
    return verdict, detail


def _in_child(kind, case, seed, i):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if Path("/proc/self/statm").exists() else 0
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    os.chdir(case)
    refused = False
    for argv in SEEDS[kind].commands(i):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([*argv, "--quiet"])
            except SystemExit as e:
                code = e.code
        lines = err.getvalue().strip().splitlines()
        if "Traceback" in err.getvalue() or "fault of qf_toolkit" in err.getvalue():
            return "traceback", f"{' '.join(argv)}: {lines[-1][:300]}"
        if code and not [line for line in lines if line.startswith("qf: ")]:
            return "no line", f"{' '.join(argv)}: exit code {code}"
        refused |= bool(code) or any(line.startswith("qf: note") for line in lines)
    if refused:
        return "refused", ""
    found = SEEDS[kind].differs(case, seed)
    return ("other data", found) if found else ("read the same", "")


def store_differs(case, seed):
    """Where the sessions of an altered store are read with other data than those of the seed; "" where they are not, or are refused."""
    from qf_toolkit.recordings.store import Store

    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            altered, store = Store(case / "store"), Store(seed / "store")
            for key in altered.keys():  # noqa: SIM118
                for one, other in ((altered.header(key), store.header(key)), (altered[key], store[key])):
                    if set(one.variables) != set(other.variables) or {n: str(v) for n, v in one.attrs.items()} != {
                        n: str(v) for n, v in other.attrs.items()
                    }:
                        return f"{key}: other names or attrs"
                    for name, v in other.variables.items():
                        if v.dims != one.variables[name].dims or not np.array_equal(
                            v.values, one.variables[name].values, equal_nan=v.dtype.kind == "f"
                        ):
                            return f"{key}: other {name}"
            return "" if told or altered.keys() == store.keys() else "other sessions"
    except QfError:
        return ""


def report(counts, faults, seconds, seed):
    """The summary as text."""
    kinds = sorted({k for k, _ in counts})
    lines = [f"{k:12} " + ", ".join(f"{n} {v}" for (kind, v), n in sorted(counts.items()) if kind == k) for k in kinds]
    n = sum(counts.values())
    lines.append(f"fuzz: {n} cases in {seconds / 60:.1f} min ({n / max(seconds, 1e-9) * 60:.0f} a minute), seed {seed}: {len(faults)} faults")
    return "\n".join([*lines, *faults])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", metavar="DIR", default="build/fuzz", help="where failing cases are kept")
    parser.add_argument("--kinds", nargs="+", choices=sorted(SEEDS), help="only these")
    options = parser.parse_args()
    begin = time.monotonic()
    counts, faults = run(options.minutes, options.seed, options.keep, options.kinds)
    print(report(counts, faults, time.monotonic() - begin, options.seed))
    sys.exit(1 if faults else 0)
