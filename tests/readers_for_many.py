"""Readers that worker processes can import: a source is a .npy of a seed, and the session is named by the file."""

import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np

from qf_toolkit.errors import DamagedFileError
from qf_toolkit.recordings.session import new_session


def read_seed(path, subject="m", gain=1.0, sleep_s=0.0, key=None):
    """A Session of 3 neurons; what is in the file, or in its name, makes it fail."""
    path = Path(path)
    seed = int(np.load(path))  # an empty file: EOFError
    if "stop" in path.stem:
        os._exit(3)
    if "memory" in path.stem:
        raise MemoryError
    if "sigkill" in path.stem:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == -1:
        raise DamagedFileError(f"{path}: expected a seed, found -1. Copy it again.")
    if seed == -2:
        raise KeyError("ophys")
    if seed == -3:
        raise SystemExit(5)
    if "odd" in path.stem:
        warnings.warn("two lines\nof a warning", stacklevel=2)
        warnings.warn("for programmers", DeprecationWarning, stacklevel=2)
    time.sleep(sleep_s)
    traces = np.random.default_rng(seed).uniform(90, 110, (3, 300)) * gain
    return new_session(traces, subject=subject, session=key or path.stem, rate_hz=10)


def read_planes(path, planes=3):
    return [read_seed(path, key=f"{Path(path).stem}_p{i}") for i in range(planes)]


def read_nothing(path):
    return []
