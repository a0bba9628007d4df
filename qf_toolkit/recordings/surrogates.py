"""Trials in which something is destroyed on purpose, for the negative controls of `evaluation.controls`.

Each function takes Trials and gives Trials with the same window, neurons and blocks, so that they are split and fitted in the same way. Sessions that it
changes lie in memory as a whole, and have fingerprints of their own: no model that saw the recording has seen them.
"""

from dataclasses import replace

import numpy as np
import xarray as xr

from .memory import Memory
from .schema import TRIAL_COORDS, signal_of
from .session import f0_floor, fingerprint_of
from .trials import Trials, check_trials

BETWEEN_S = 60.0  # seconds between the sweeps of exchanged responses


def shuffled_conditions(trials: Trials, seed: int = 0) -> Trials:
    """Permute the conditions, with their features, among the trials of each session, stimulus category and block.

    Traces and times stay, so the context tells as much as before, and the mean response is the same. Only the conditions tell nothing. Every block
    keeps the number of trials of each condition.

    Parameters
    ----------
    trials : Trials
    seed : int

    Returns
    -------
    Trials

    Raises
    ------
    QfError
        If `trials` are no Trials.

    Examples
    --------
    >>> shuffled = shuffled_conditions(trials)
    >>> bool((shuffled.table["onset_frame"] == trials.table["onset_frame"]).all()), sorted(shuffled.conditions) == sorted(trials.conditions)
    (True, True)
    """
    check_trials(trials)
    rng, table = np.random.default_rng(seed), trials.table.copy()
    shuffled = [c for c in table if c not in ("session", "subject", "trial", *(set(TRIAL_COORDS) - {"condition"}))]
    for at in _groups(table):
        table.loc[at, shuffled] = table.loc[rng.permutation(at), shuffled].to_numpy()
    return replace(trials, table=table.astype(trials.table.dtypes.to_dict()), kept=None)


def phase_randomised(trials: Trials, seed: int = 0, together: bool = False) -> Trials:
    """Replace each trace by a surrogate with the same power spectrum and random phases (Theiler et al. 1992), which no stimulus drives.

    The context tells as much of the response as a spectrum can. What repeats at the same time in each trial is lost, with one exception: if trials
    follow each other at a fixed interval, the spectrum holds that rhythm, and so does the surrogate, alike for all conditions.

    Parameters
    ----------
    trials : Trials
    seed : int
    together : bool
        Turn the phases of all neurons of a session by the same random angles, which keeps their cross-spectra, too. Otherwise, each neuron has angles
        of its own.

    Returns
    -------
    Trials
        Missing frames are missing in the surrogate, too. A trace that lacks frames keeps the spectrum of the trace in which their mean stands in.

    Raises
    ------
    QfError
        If `trials` are no Trials.
    """
    check_trials(trials)
    rng, sessions = np.random.default_rng(seed), []
    for key in trials.sessions:
        ds = trials.source[key].copy()
        name = signal_of(ds)
        ds[name] = ds[name].copy(data=_turned(ds[name].values, rng, together))
        ds.attrs = {**ds.attrs, "fingerprint": fingerprint_of(ds)}
        sessions.append(ds)
    return replace(trials, source=Memory(sessions), scaling=None, kept=None)


def _turned(x, rng, together):
    """Traces (neuron, frame) with random phases."""
    missing = ~np.isfinite(x)
    mean = np.where(missing, 0, x).sum(1, dtype=np.float64) / np.maximum((~missing).sum(1), 1)
    spectrum = np.fft.rfft(np.where(missing, mean[:, None], x) - mean[:, None], axis=1)
    angle = rng.uniform(0, 2 * np.pi, (1 if together else len(x), spectrum.shape[1]))
    if x.shape[1] % 2 == 0:
        angle[:, -1] = 0  # the highest frequency is real
    out = np.fft.irfft(spectrum * np.exp(1j * angle), x.shape[1], axis=1) + mean[:, None]
    return np.where(missing, np.nan, out).astype(np.float32)


def exchanged_responses(trials: Trials, seed: int = 0) -> Trials:
    """Give each trial's baseline the response of another trial of the same session, stimulus category and block.

    Baselines, responses and labels of activity are those of the recording, as dF/F of their own windows. But no baseline, no condition and no trial
    number tells anything of the response behind it: nothing can be forecast except the mean response of each neuron.

    Parameters
    ----------
    trials : Trials
    seed : int

    Returns
    -------
    Trials
        Of recordings of cut trials: a sweep holds one window. All neurons of a trial take the response of the same other trial, neither the trial
        itself nor one next to it, as far as there are others.

    Raises
    ------
    QfError
        If `trials` are no Trials.
    """
    check_trials(trials)
    rng, plain = np.random.default_rng(seed), replace(trials, window=replace(trials.window, signal="dff"), scaling=None, kept=None)
    sessions, table, rows = [], trials.table.copy(), {}
    for part in plain.by_session():
        key, cut = part.sessions[0], part.dataset()
        n, rate, x = cut.attrs["n_baseline"], cut.attrs["rate_hz"], cut["dff"].values
        other = np.arange(len(part))
        for at in _groups(part.table):
            other[at] = at[far_permutation(len(at), rng)]
        x = np.concatenate([x[..., :n], x[other, :, n:]], -1)
        length, mine = x.shape[-1], trials.positions(key)
        onset = np.arange(len(part)) * length + n
        shown = (table["offset_frame"] - table["onset_frame"]).to_numpy()[mine].clip(1, length - n)
        table.iloc[mine, table.columns.get_loc("onset_frame")] = onset
        table.iloc[mine, table.columns.get_loc("offset_frame")] = onset + shown
        sessions.append(_sweeps(part, cut, x, onset, onset + shown, rate))
        rows[key] = np.arange(x.shape[1])
    return replace(trials, source=Memory(sessions), table=table, rows=rows, scaling=None, kept=None)


def _sweeps(part, cut, x, onset, offset, rate):
    """The Session of windows (trial, neuron, time) as sweeps, with the trial table of `cut`."""
    n_trials, n_neurons, length = x.shape
    time = np.arange(n_trials)[:, None] * (length / rate + BETWEEN_S) + np.arange(length) / rate
    header = part.source.header(part.sessions[0])
    named = {c: ("trial", cut[c].values) for c in ("stimulus", "condition", "block", *part.features_of(part.sessions[0]))}
    ds = xr.Dataset(
        {"dff": (("neuron", "frame"), np.ascontiguousarray(x.swapaxes(0, 1)).reshape(n_neurons, -1))},
        {"neuron": cut["neuron"].values, "flag": ("neuron", np.full(n_neurons, "", object)), "frame_time": ("frame", time.ravel()),
         "trial": cut["trial"].values, "onset_frame": ("trial", onset), "offset_frame": ("trial", offset), **named},
        {**header.attrs, "signal": "dff", "sweep_frames": length},
    )  # fmt: skip
    ds.attrs |= {"f0_floor": f0_floor(ds), "fingerprint": fingerprint_of(ds)}
    return ds


def other_contexts(trials: Trials, seed: int = 0) -> Trials:
    """Swap the times of the trials of each session, stimulus category and block, so that each asks about the baseline of another trial.

    A forecast of them, held against the responses of the trials as they were, can know their responses from neuron, condition and trial number alone.

    Parameters
    ----------
    trials : Trials
    seed : int

    Returns
    -------
    Trials
        In the same order, with the same trial numbers and conditions. No trial gets its own baseline or that of a trial next to it, as far as there
        are others.

    Raises
    ------
    QfError
        If `trials` are no Trials.
    """
    check_trials(trials)
    rng, table = np.random.default_rng(seed), trials.table.copy()
    times = ["onset_frame", "offset_frame"]
    for at in _groups(table):
        table.loc[at, times] = table.loc[at[far_permutation(len(at), rng)], times].to_numpy()
    return replace(trials, table=table, kept=None)


def far_permutation(n: int, rng: np.random.Generator, least: int = 2) -> np.ndarray:
    """A random permutation that moves everything by `least` places or more, as far as `n` allows.

    Parameters
    ----------
    n : int
    rng : numpy.random.Generator
    least : int

    Returns
    -------
    int array, shape (n,)

    Examples
    --------
    >>> order = far_permutation(20, np.random.default_rng(0))
    >>> sorted(order.tolist()) == list(range(20)), int(abs(order - np.arange(20)).min()) >= 2
    (True, True)
    """
    order, places = rng.permutation(n), np.arange(n)
    for _ in range(100):
        near = np.flatnonzero(np.abs(order - places) < least)
        if not len(near):
            break
        for i in near:
            j = rng.integers(n)
            order[[i, j]] = order[[j, i]]
    return order


def _groups(table):
    """The trials of each session, category and block in order of onset: a list of arrays of row labels."""
    ordered = table.sort_values("onset_frame", kind="stable")
    return [rows.index.to_numpy() for _, rows in ordered.groupby(["session", "stimulus", "block"], sort=True)]
