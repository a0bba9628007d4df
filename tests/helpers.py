"""Small recordings for tests, from seeded numpy alone."""

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from qf_toolkit.cli.main import main
from qf_toolkit.recordings.session import new_session

# for tests whose models train too little to learn anything, of which training warns
untaught = pytest.mark.filterwarnings("ignore:.*nothing was learnt that forecasts")


def needs(package, extra):
    """A mark: the test is skipped where the package, which comes with an extra, is not installed."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: it comes with the extra {extra}")


def toy_session(
    seed=0, *, n_neurons=6, rate_hz=10.0, n_conditions=4, n_blocks=3, repeats=5, subject="mouse", session="one", signal="fluorescence",
    stimuli=("drifting_gratings",), change=None, spacing_s=3.0, **options,
):  # fmt: skip
    """A Session with smooth positive fluorescence (or its dF/F) and tuned responses: `n_blocks` blocks of `repeats` trials a condition.

    `change(traces, trials)` may alter the traces before the Session is made.
    """
    rng = np.random.default_rng(seed)
    conditions = np.arange(n_conditions)
    step, lead = round(spacing_s * rate_hz), round(6 * rate_hz)
    onsets, shown, blocks, at = [], [], [], lead
    for block in range(n_blocks):
        for condition in rng.permutation(np.repeat(conditions, repeats)):
            onsets.append(at)
            shown.append(condition)
            blocks.append(block)
            at += step
        at += lead  # a pause between blocks, longer than a window
    onsets, shown = np.array(onsets), np.array(shown)
    n_frames = at + lead
    gain = rng.gamma(1.0, 0.5, (n_neurons, n_conditions))
    time = np.arange(round(3 * rate_hz)) / rate_hz
    kernel = (1 - np.exp(-time / 0.2)) * np.exp(-time / 0.8)
    drive = np.zeros((n_neurons, n_frames))
    for onset, condition in zip(onsets, shown, strict=True):
        stop = min(onset + len(kernel), n_frames)
        drive[:, onset:stop] += gain[:, [condition]] * rng.gamma(4, 0.25, (n_neurons, 1)) * kernel[: stop - onset]
    noise = np.zeros((n_neurons, n_frames))
    for t in range(1, n_frames):
        noise[:, t] = 0.95 * noise[:, t - 1] + 0.03 * rng.standard_normal(n_neurons)
    dff = drive + np.clip(noise, -0.5, None) + 0.01 * rng.standard_normal((n_neurons, n_frames))
    traces = (rng.uniform(80, 200, (n_neurons, 1)) * (1 + dff) if signal == "fluorescence" else dff).astype(np.float32)
    trials = pd.DataFrame(
        {
            "onset_frame": onsets,
            "offset_frame": onsets + round(2 * rate_hz),
            "stimulus": [stimuli[c % len(stimuli)] for c in shown],
            "orientation": 45.0 * shown,
            "block": blocks,
        }
    )
    if change is not None:
        change(traces, trials)
    return new_session(traces, subject=subject, session=session, rate_hz=rate_hz, signal=signal, trials=trials, **options)


def refused(capsys, *argv, code=2):
    """The one line on stderr of a command that ends with `code`."""
    assert main([str(a) for a in argv]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("qf: ") and "Traceback" not in lines[0]
    return lines[0]
