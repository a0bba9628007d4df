"""Every option out of its range, and every odd environment, with the line that `qf` prints and its exit code.

    python tests/robustness/bad_use.py      the table of all of them: command, line, exit code, seconds

The tests take the options from here; what each case expects stands beside it.
"""

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests
PATIENCE_S = 20
HUGE, MANY = "99999999999999999999", "99999999"
TRAIN = "pretrain {store} --out {new}"
ARRAYS = "import arrays {traces} --store {new}"
# the command, and how its line begins behind `qf: `
OPTIONS = [
    *((f"{TRAIN} {option} {value}", f"{option}: expected") for option, value in (
        ("--baseline", "inf"), ("--baseline", "1e308"), ("--baseline", "nan"), ("--baseline", "0"), ("--baseline", "x"), ("--response", "inf"),
        ("--response", "-1"), ("--f0", "nan"), ("--f0", "9"), ("--score", "inf"), ("--score", "half"), ("--test", "nan"), ("--test", "inf"),
        ("--test", "0.5"), ("--test", "7"), ("--validation", "nan"), ("--validation", "1"), ("--epochs", "1.5"), ("--lr", "x"), ("--schedule", "line"),
        ("--signal", "F"),
    )),
    *((f"{TRAIN} --split chronological {option} {value}", f"{option}: expected") for option, value in (
        ("--gap", "inf"), ("--gap", "nan"), ("--gap", "-1"), ("--test", "nan"), ("--test", "1"), ("--test", "inf"),
    )),
    *((f"{TRAIN} {option} {value}", f"{option}: expected") for option, value in (
        ("--seed", "-1"), ("--seed", HUGE), ("--epochs", "0"), ("--epochs", HUGE), ("--batch", "0"), ("--batch", HUGE), ("--lr", "nan"),
        ("--lr", "1e300"), ("--patience", "-1"), ("--patience", HUGE), ("--patch-frames", HUGE), ("--layers", "1099511627776"), ("--width", HUGE),
        ("--heads", "0"), ("--codes", "100000000000"), ("--codes", "0"), ("--replace-below", "nan"),
    )),
    *((f"fit {{store}} --pretrained {{base}} --out {{new}} {option} {value}", f"{option}: expected") for option, value in (
        ("--token-speed", "1e300"), ("--hide", "2"), ("--dropout", "nan"), ("--expectation-weight", "inf"), ("--epochs", HUGE),
    )),
    (f"{TRAIN} --device meta", "--device: "),
    (f"{TRAIN} --device gpu", "--device: "),
    ("fit {store} --pretrained {forecast} --out {new}", ""),
    ("evaluate {store} --model {forecast} --samples 99999999999", "--samples: expected"),
    ("evaluate {store} --model {forecast} --samples -1", "--samples: expected"),
    (f"{TRAIN} --gap 1", "--gap: expected"),
    (f"{TRAIN} --stimulus drifting_grating", "--stimulus: 'drifting_grating'"),
    (f"{TRAIN} --epohcs 3", "--epohcs: expected an option of `qf pretrain`; did you mean --epochs"),
    (f"{TRAIN} --epochs", "--epochs: expected"),
    ("pretrain {store}", "--out: expected"),
    ("pretrain --out {new}", "STORE: expected"),
    ("fit {store} --pretrained {base} --out {new} --task forcast", "--task: expected"),
    ("fit {store} --pretrained {base} --out {new} --gain-weight 1", "--gain-weight: expected"),
    *((f"simulate {{new}} {option} {value}", f"{option}: expected") for option, value in (
        ("--neurons", MANY), ("--neurons", "0"), ("--neurons", "-3"), ("--neurons", "2.5"), ("--repeats", MANY), ("--directions", MANY),
        ("--temporal-frequencies", HUGE), ("--seed", "-1"), ("--seed", HUGE), ("--sessions", "D"),
    )),
    ("simulate {new} --neurons 9999 --repeats 9999", "--neurons: expected"),
    ("simulate {new} --sessions B --image-repeats " + MANY, "--image-repeats: expected"),
    ("simulate {new} --subject a/b", "--subject: expected"),
    ("simulate {new} --subject " + 300 * "x", "--subject: expected"),
    *((f"{ARRAYS} --rate {value}", "--rate: expected") for value in ("inf", "nan", "1e-300", "0", "-5", "x", "1e300")),
    (f"{ARRAYS} --rate 10 --workers 1000000000", "--workers: expected"),
    (f"{ARRAYS} --rate 10 --workers 0", "--workers: expected"),
    (f"{ARRAYS} --rate 10 --scheduler nowhere", "--scheduler: expected"),
    (ARRAYS, "--rate: expected"),
    ("import suite2p {suite2p} --rate 10 --store {new} --neuropil nan", "--neuropil: expected"),
    ("import suite2p {suite2p} --rate 10 --store {new} --neuropil inf", "--neuropil: expected"),
    ("import suite2p {suite2p} --rate 10 --store {new} --neuropil 1e30", "--neuropil: expected"),
    ("import allen --store {new} --container x", "--container: expected"),
    ("demo --out {new} --seed -1", "--seed: expected"),
    ("demo --out {new} --size huge", "--size: expected"),
    ("figures --out {new} --notebooks {notebooks} --seed -1", "--seed: expected"),
    ("figures --out {new} --notebooks {new}", "--notebooks: expected"),
    ("info {new}", "STORE: expected"),
    ("info {store} mouse/two", "SESSION: 'mouse/two'"),
    ("info {store} mouse/one more", "more: expected"),
    ("forcast", "COMMAND: expected"),
    ("", "COMMAND: expected"),
]  # fmt: skip
FORECAST = "forecast {store} --model {forecast} --out {new}.nc"
# what surrounds the command (a line of bash), its exit code, and whether it writes its forecast all the same
ENVIRONMENTS = [
    (f"qf {FORECAST} >&-", 0, True),
    (f"qf {FORECAST} 2>&-", 0, True),
    (f"qf {FORECAST} <&- >&- 2>&-", 0, True),
    ("qf info {store} >&-", 2, False),
    (f"set -o pipefail; PYTHONUNBUFFERED=1 qf {FORECAST} | true", 0, True),
    ("set -o pipefail; qf info {store} | true", 0, False),
    ("set -o pipefail; qf --help | true", 0, False),
    (f"PYTHONIOENCODING=ascii qf {FORECAST}", 0, True),
    ("PYTHONIOENCODING=ascii qf info {store}", 0, False),
    ("PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C LANG=C qf info {store} m/none", 2, False),
    ("MPLBACKEND=nonsense qf evaluate {store} --model {forecast} --figures {new} --quiet", 0, False),
    ("HOME={file} MPLCONFIGDIR={file} XDG_CONFIG_HOME={file} XDG_CACHE_HOME={file} qf evaluate {store} --model {forecast} --figures {new}", 0, False),
    (f"unset HOME; qf {FORECAST}", 0, True),
    ("TERM=dumb COLUMNS=1 qf fit --help", 0, False),
    (f"TERM=dumb COLUMNS=nonsense qf {FORECAST}", 0, True),
    ("qf info {damaged}", 2, False),
    (f"qf {FORECAST.replace('{new}.nc', '{pipe}')}", 2, False),
]


def prepare(root):
    """What the cases are run on: the names in their braces and the paths for them. Subject and session have letters beyond ASCII."""
    from helpers import toy_session

    from qf_toolkit.cli.main import main
    from qf_toolkit.recordings.store import Store

    root = Path(root)
    store, base, forecast, damaged = (root / name for name in ("store", "base", "forecast", "damaged"))
    Store(store, create=True).add(toy_session(0, n_conditions=2, subject="Mäuschen", session="鼠"))
    small = ["--f0", "1", "--epochs", "1", "--patch-frames", "10", "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8", "--quiet"]
    assert main(["pretrain", str(store), "--out", str(base), *small]) == 0
    assert main(["fit", str(store), "--pretrained", str(base), "--out", str(forecast), "--epochs", "1", "--quiet"]) == 0
    damaged.mkdir()
    (file,) = store.glob("*.nc")
    (damaged / "m__cut.nc").write_bytes(file.read_bytes()[:5000])
    traces, plane = root / "F.npy", root / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(traces, rng.uniform(90, 110, (3, 600)).astype(np.float32))
    for name in ("F", "Fneu"):
        np.save(plane / f"{name}.npy", rng.uniform(90, 110, (3, 600)).astype(np.float32))
    np.save(plane / "iscell.npy", np.ones((3, 2)))
    (root / "file").touch()
    os.mkfifo(root / "pipe.nc")
    return {
        "store": store, "base": base, "forecast": forecast, "damaged": damaged, "traces": traces, "suite2p": plane.parent,
        "notebooks": Path(__file__).parents[2] / "notebooks", "file": root / "file", "pipe": root / "pipe.nc", "new": root / "new",
    }  # fmt: skip


def run_option(command, paths):
    """Run a case of OPTIONS in this process: (lines on standard error, exit code, seconds)."""
    from qf_toolkit.cli.main import main

    shutil.rmtree(paths["new"], ignore_errors=True)
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(PATIENCE_S)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(shlex.split(command.format(**paths)))
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = 1
            print(f"Traceback: {type(error).__name__}: {error}", file=err)
        finally:
            signal.alarm(0)
    return err.getvalue().splitlines(), code, time.monotonic() - start


def _too_long(*args):
    raise RuntimeError(f"no end after {PATIENCE_S} s")


def run_environment(line, paths):
    """Run a case of ENVIRONMENTS by bash: (lines on standard error, exit code, seconds)."""
    qf = f'qf() {{ {shlex.quote(sys.executable)} -m qf_toolkit.cli.main "$@"; }}; '
    start = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", qf + line.format(**paths)],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stderr.decode(errors="replace").splitlines(), done.returncode, time.monotonic() - start


def table():
    """Print every case with its line, exit code and time. Returns how many went otherwise than expected."""
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        with contextlib.redirect_stdout(io.StringIO()):
            paths = prepare(root)

        def row(command, lines, code, seconds, well):
            shown = " / ".join(lines).replace(f"{root}/", "") or "-"
            print(f"{'' if well else 'WRONG '}`{command}` | {shown} | {code} | {seconds:.1f} s", flush=True)
            return not well

        for command, begins in OPTIONS:
            lines, code, seconds = run_option(command, paths)
            named = command.replace("{", "").replace("}", "")
            wrong += row(f"qf {named}", lines, code, seconds, code == 2 and len(lines) == 1 and lines[0].startswith(f"qf: {begins}"))
        for line, expected, writes in ENVIRONMENTS:
            lines, code, seconds = run_environment(line, paths)
            forecast = Path(f"{paths['new']}.nc")
            wrong += row(line.replace("{", "").replace("}", ""), lines, code, seconds, code == expected and forecast.exists() == writes)
            forecast.unlink(missing_ok=True)
    return wrong


if __name__ == "__main__":
    sys.exit(int(table() > 0))
