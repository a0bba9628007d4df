"""A few kills; `make kill-test` has hundreds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its processes")
def test_killed_commands_end_as_if_nothing_had_happened():
    script = Path(__file__).parent / "robustness" / "kill.py"
    argv = [sys.executable, str(script), "--kills", "12", "--commands", "pretrain", "fit", "forecast", "import"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 corrupt, 0 refused, 0 differing, 0 left behind" in done.stdout
