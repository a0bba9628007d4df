"""Commands are killed with -9 and started again: what is left must be as if nothing had happened.

    python tests/robustness/kill.py --kills 200 --seed 0

Each kill takes one of the commands below. In every second one the process kills itself at a write event, drawn at random from all that the command
has (a file opened to be written, renamed, linked, removed, a folder made); in the others it is killed at a random time. After it, no file with a name
of its own may be cut short. Then the same command runs to its end, and its outputs are compared with those of a run that was never stopped: weights,
tables, figures and forecasts byte by byte, stores by their arrays and attributes, JSON but for the time it was made. What else lies there was left
behind. Children are forked from one process that has imported everything, so that a kill takes as long as the work.
"""

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests
os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads can't be forked safely

SMALL = "--f0 1 --epochs 3 --patch-frames 10 --layers 1 --width 16 --heads 2 --codes 8 --quiet"
SIMULATED = "--neurons 3 --repeats 3 --directions 2 --temporal-frequencies 1 --image-repeats 1 --quiet"
COMMANDS = {
    "pretrain": f"pretrain in/store --out out {SMALL}",
    "fit": "fit in/store --pretrained in/base --out out --epochs 3 --quiet",
    "activation": "fit in/store --pretrained in/base --task activation --out out --epochs 3 --quiet",
    "forecast": "forecast in/store --model in/forecast --out out/f.nc --part all --quiet",
    "evaluate": "evaluate in/store --model in/forecast --out out/table.csv --figures out/figures --quiet",
    "simulate": f"simulate out --sessions A B --seed 3 {SIMULATED}",
    "import": "import arrays in/F.npy --rate 10 --trials in/trials.csv --subject m --session d1 --store out --quiet",
    "demo": "demo --out out --size tiny --quiet",
}
OFTEN = {"demo": 1, "evaluate": 2}  # of four: the others are quick
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")


def import_everything():
    """So that no forked child has to, which would take most of its time."""
    import matplotlib as mpl
    import torch

    import qf_toolkit

    mpl.use("Agg")
    torch.set_num_threads(1)
    # what these libraries import themselves when they are first used
    for name in (
        "dask.array",
        "distributed",
        "h5netcdf",
        "torch._dynamo",
        "matplotlib.pyplot",
        "matplotlib.backends.backend_svg",
        "mpl_toolkits.mplot3d",
    ):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(qf_toolkit.__path__, "qf_toolkit."):
        if "widgets" not in module.name:
            importlib.import_module(module.name)


def prepare(folder):
    """Inputs of all commands, below `folder`/in."""
    import numpy as np
    import pandas as pd
    from helpers import toy_session

    from qf_toolkit.recordings.store import Store

    (folder / "in").mkdir()
    store = Store(folder / "in" / "store", create=True)
    for seed, name in enumerate(("one", "two")):
        store.add(toy_session(seed, n_conditions=2, session=name))
    rng = np.random.default_rng(0)
    np.save(folder / "in" / "F.npy", (100 + 5 * rng.standard_normal((4, 3000))).astype(np.float32))
    onsets = 60 + 45 * np.arange(60)
    pd.DataFrame({"onset_frame": onsets, "direction": 90 * (np.arange(60) % 2)}).to_csv(folder / "in" / "trials.csv", index=False)
    for argv in (f"pretrain in/store --out in/base {SMALL}", "fit in/store --pretrained in/base --out in/forecast --epochs 1 --quiet"):
        code, _ = run(folder, argv)
        assert code == 0, (folder / "log").read_text()


def run(folder, command, kill_at=None, kill_after_s=None):
    """Run a command in a forked child. Returns its exit code (-9 where it was killed) and how many write events it had."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = _child(folder, command, kill_at)
        finally:
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(max(0.0, kill_after_s - (time.monotonic() - start)))
        os.kill(pid, signal.SIGKILL)  # it can't be another's number before it has been waited for
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    counted = folder / "events"
    return code, int(counted.read_text()) if code != -signal.SIGKILL and counted.exists() else 0


def _child(folder, command, kill_at):
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    from qf_toolkit.cli.main import main

    seen = 0

    def at_event(event, args):
        nonlocal seen
        if event in EVENTS or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(at_event)
    try:
        code = main(command.split())
    except SystemExit as end:
        code = int(end.code or 0)
    (folder / "events").write_text(str(seen))
    return code


def contents(folder):
    """{relative path: what must be equal} of every file below a folder."""
    return {str(p.relative_to(folder)): content(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def content(path):
    """What must be equal of a file; raises where it is cut short."""
    import xarray as xr

    if path.suffix == ".nc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = xr.load_dataset(path, engine="h5netcdf")
        values = {
            str(n): (v.dims, v.dtype.str, v.values.tolist() if v.dtype.kind == "O" else v.values.tobytes(), str(v.attrs))
            for n, v in ds.variables.items()
        }
        return values, str(ds.attrs)
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt"):
            pass
    return path.read_bytes()


def _timeless(note):
    if isinstance(note, dict):
        return {k: _timeless(v) for k, v in note.items() if k not in ("made", "time", "seconds")}
    return [_timeless(v) for v in note] if isinstance(note, list) else note


def torn(folder):
    """Files with a name of their own that are cut short: what a user or the next command would take for whole."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            try:
                content(path)
            except Exception as error:
                found.append(f"{path.relative_to(folder)} ({type(error).__name__})")
    return found


def main(argv=None):
    """Kill, start again, compare. Returns 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(description="Kill qf and start it again.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=tuple(COMMANDS), default=list(COMMANDS))
    args = parser.parse_args(argv)
    import_everything()
    tasks = Path("/proc/self/task")
    if tasks.exists() and len(list(tasks.iterdir())) > 1:
        raise SystemExit("kill.py: a library started threads, from which no process can be forked safely")
    rng, faults = random.Random(args.seed), {"corrupt": 0, "refused": 0, "differing": 0, "left behind": 0}
    start, survived = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="qf-kill-") as root:
        folder = Path(root)
        prepare(folder)
        whole = {}
        for name in args.commands:
            begin = time.monotonic()
            code, events = run(folder, COMMANDS[name])
            whole[name] = contents(folder / "out"), events, time.monotonic() - begin
            assert code == 0, (folder / "log").read_text()
            print(f"{name:10} {events:4} write events, {whole[name][2]:.1f} s uninterrupted", flush=True)
            shutil.rmtree(folder / "out")
        turns = [name for name in args.commands for _ in range(OFTEN.get(name, 4))]
        for i in range(args.kills):
            name = rng.choice(turns)
            expected, events, seconds = whole[name]
            how = {"kill_at": rng.randint(1, events)} if i % 2 == 0 else {"kill_after_s": rng.uniform(0, seconds)}
            code, _ = run(folder, COMMANDS[name], **how)
            survived += code != -signal.SIGKILL
            wrong = [("corrupt", path) for path in torn(folder / "out")]
            code, _ = run(folder, COMMANDS[name])
            if code != 0:
                wrong.append(("refused", (folder / "log").read_text().strip().splitlines()[-1:]))
            else:
                found = contents(folder / "out")
                wrong += [("left behind", path) for path in sorted(found.keys() - expected.keys())]
                wrong += [("differing", path) for path in expected if path not in found or found[path] != expected[path]]
            for kind, what in wrong:
                faults[kind] += 1
                print(f"kill {i + 1} of {name}, {how}: {kind}: {what}", flush=True)
            shutil.rmtree(folder / "out", ignore_errors=True)
            if (i + 1) % 20 == 0:
                print(f"{i + 1} kills, {time.monotonic() - start:.0f} s", flush=True)
    told = ", ".join(f"{n} {kind}" for kind, n in faults.items())
    print(f"{args.kills} kills ({survived} came after the end): {told}; {time.monotonic() - start:.0f} s")
    return int(any(faults.values()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
