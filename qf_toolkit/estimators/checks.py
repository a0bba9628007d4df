"""Checks that estimators share: of the keys, windows, rates and draws in a request."""

import math
import os
from dataclasses import replace

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..models.options import Range
from ..recordings.trials import check_trials

N_SAMPLES, SEED = Range("whole", least=1, most=10**9), Range("whole", least=0, most=2**63 - 1)


def check_draws(n_samples, seed, shape):
    """Raise QfError if n_samples or seed is out of range, or if draws of `shape` (trial, neuron, time) need more than a quarter of the memory."""
    N_SAMPLES.checked("n_samples", n_samples)
    SEED.checked("seed", seed)
    try:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4  # samples are copied on their way
    except (AttributeError, ValueError, OSError):  # Windows does not report its memory here
        room = 4e9
    a_draw = 4 * math.prod(shape)
    if n_samples * a_draw > room:
        raise QfError(
            f"n_samples: expected at most {int(room // a_draw)} of these trials and neurons, of which a draw takes {a_draw / 1e6:.3g} MB, "
            f"found {n_samples}. Take fewer samples, trials or neurons."
        )


def check_keys(kind, wanted, known, hint):
    """Raise UnknownKeyError if a key of `wanted` is not in `known`; it names the first one, and `kind` and `hint` complete the message."""
    missing = [k for k in dict.fromkeys(wanted) if k not in known]
    if missing:
        raise UnknownKeyError(
            f"{kind}: {missing[0]!r}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} unknown to the model; "
            f"{did_you_mean(missing[0], known)} {hint}"
        )


def check_rate(rate_hz, trials):
    """Raise QfError if a session's rate differs from the model's by more than 2 %, or if its windows have another number of frames."""
    for session in trials.sessions:
        rate = float(trials.source.header(session).attrs["rate_hz"])
        if abs(rate / rate_hz - 1) > 0.02:
            raise QfError(
                f"rate_hz: expected {rate_hz:g} Hz, the model's, found {rate:g} Hz in {session}. Train a model at that rate, or resample the recording."
            )
        ours, theirs = (trials.window.frames(r) for r in (rate_hz, rate))
        if ours != theirs:
            ours, theirs = ("{} + {} frames, F0 of {}".format(*frames) for frames in (ours, theirs))
            raise QfError(
                f"rate_hz: expected windows of {ours}, as at the model's {rate_hz:g} Hz, found {theirs} at {rate:g} Hz in {session}. "
                "Change baseline_s, response_s or f0_s by half a frame, so that both round alike, or leave the session out."
            )


def check_window(window, rate_hz, trials, scaling=None):
    """Check trials against the window and the rate that a model was fitted with.

    Parameters
    ----------
    window : Window
    rate_hz : float
    trials : Trials
    scaling : dict, optional
        The model's z-scores, see `Trials.scaling`.

    Returns
    -------
    Trials
        The same trials; with the model's z-scores if `scaling` is given.

    Raises
    ------
    QfError
        If `trials` are no Trials, or if rate, lengths or signal are not those of the model.
    """
    check_trials(trials)
    check_rate(rate_hz, trials)
    for name in ("baseline_s", "response_s", "f0_s", "signal"):
        mine, theirs = getattr(window, name), getattr(trials.window, name)
        if (abs(mine - theirs) > 1e-6) if not isinstance(mine, str) else mine != theirs:
            raise QfError(f"{name}: expected {mine}, the model's, found {theirs}. Cut the trials with {name}={mine!r}.")
    return trials if scaling is None else replace(trials, scaling=scaling)


def check_labels(window, trials):
    """Raise QfError if `trials` define "active" in another way than the `window` that a classifier was fitted with."""
    for name in ("score_s", "active_rule", "active_gain"):
        mine, theirs = getattr(window, name), getattr(trials.window, name)
        if mine != theirs:
            raise QfError(f"{name}: expected {mine}, with which the classifier was trained, found {theirs}. Cut the trials with {name}={mine!r}.")
