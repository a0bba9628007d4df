"""Options out of range are one line each, odd environments stop nothing; the cases are those that `robustness/bad_use.py` prints as a table."""

import errno
import io
import os
import subprocess
import sys

import pytest
import xarray as xr
from helpers import needs, refused
from robustness.bad_use import ENVIRONMENTS, OPTIONS, prepare, run_environment, run_option

from qf_toolkit.cli.console import console
from qf_toolkit.cli.main import main
from qf_toolkit.recordings.store import Store

posix = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
QUICK = [0, 4, 7, 8, 15]  # of the environments; each costs the start of a process


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("use"))


NOTEBOOKS = "figures --out {new} --notebooks {new}"  # asks for the kernel first


@pytest.mark.parametrize(
    ("command", "begins"),
    [pytest.param(*case, marks=needs("ipykernel", "notebooks") if case[0] == NOTEBOOKS else ()) for case in OPTIONS],
    ids=[command or "nothing" for command, _ in OPTIONS],
)
def test_an_option_out_of_range_is_one_line(paths, command, begins):
    if command.startswith("figures"):
        pytest.importorskip("ipykernel", reason="ipykernel is not installed: it comes with the extra notebooks")
    lines, code, seconds = run_option(command, paths)
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"qf: {begins}"), lines
    assert seconds < 10  # nothing was begun
    assert not [p for p in (paths["new"].iterdir() if paths["new"].is_dir() else ()) if p.suffix != ".part"]


@posix
@pytest.mark.parametrize(
    ("line", "code", "writes"), [pytest.param(*case, marks=() if i in QUICK else pytest.mark.slow) for i, case in enumerate(ENVIRONMENTS)]
)
def test_an_odd_environment_stops_nothing(paths, line, code, writes):
    forecast = paths["new"].with_suffix(".nc")
    forecast.unlink(missing_ok=True)
    lines, found, _ = run_environment(line, paths)
    text = "\n".join(lines)
    assert found == code and "Traceback" not in text and "Exception ignored" not in text, text
    assert len([text for text in lines if text.startswith("qf: ") and not text.startswith("qf: note")]) == (code != 0), text
    assert forecast.exists() == writes
    if writes:
        assert "forecast" in xr.load_dataset(forecast, engine="h5netcdf")


class Full(io.StringIO):
    """A standard output on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Closed(Full):
    """One whose reader is gone."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize(("stream", "code"), [(Full, 2), (Closed, 0)])
def test_what_can_not_be_printed_stops_no_work(paths, tmp_path, monkeypatch, capsys, stream, code):
    out = tmp_path / "f.nc"
    monkeypatch.setattr(sys, "stdout", stream())
    assert main(["forecast", str(paths["store"]), "--model", str(paths["forecast"]), "--out", str(out)]) == code
    assert "forecast" in xr.load_dataset(out, engine="h5netcdf")
    assert ("standard output: could not be written (No space left" in capsys.readouterr().err) == (code == 2)


@posix
def test_a_full_disk_under_the_output_is_an_error(paths, tmp_path):
    limited = (
        "import resource, signal, sys; from qf_toolkit.cli.main import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY)); sys.exit(main(sys.argv[1:]))"
    )
    with open(tmp_path / "shown", "w") as out:
        argv = [sys.executable, "-c", limited, "info", str(paths["store"])]
        done = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("qf: standard output: could not be written (File too large)")
    assert len(done.stderr.splitlines()) == 1


def test_the_streams_are_given_back(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    before = sys.stdout, sys.stderr, sys.unraisablehook
    with pytest.raises(ZeroDivisionError), console():
        assert sys.stdout is not before[0] and "MPLBACKEND" not in os.environ
        _ = 1 / 0
    assert (sys.stdout, sys.stderr, sys.unraisablehook) == before and os.environ["MPLBACKEND"] == "agg"


def test_too_little_memory_is_one_line(paths, monkeypatch, capsys):
    def no_memory(self):
        raise MemoryError

    monkeypatch.setattr(Store, "keys", no_memory)
    assert "memory: expected enough" in refused(capsys, "info", paths["store"])


@pytest.mark.parametrize(
    "argv",
    [
        "import arrays --rate 10 {traces} --subject m --store {new}",
        "import arrays {traces} --rate 10 --store {new} --subject m",
        "import --store {new} --rate 10 arrays {traces} --subject m",
        "import --subject m arrays --store {new} {traces} --rate 10",
    ],
)
def test_options_may_stand_anywhere(paths, argv, tmp_path):
    assert main(argv.format(**{**paths, "new": tmp_path / "store"}).split()) == 0
    assert Store(tmp_path / "store").keys() == ["m/F"]
    assert main(f"info --quiet {tmp_path}/store m/F".split()) == 0 and main(f"info {tmp_path}/store --quiet m/F".split()) == 0
