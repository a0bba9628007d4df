"""Simulated populations with known truth: animals whose neurons form chaotic networks that resemble each other, imaged through calcium.

The dynamics are those on which POCO's authors test population models (Duan et al. 2025, "POCO: Scalable Neural Forecasting through Population Conditioning",
NeurIPS): tau dh/dt = -h + J tanh(h) + noise, J = gain W / sqrt(neurons), where the W of an animal shares a template with all others,
W = sqrt(1 - own^2) template + own x individual. `own` 0 makes animals that differ in their states alone, 1 animals that share nothing.

What is added here, since a microscope sees no rates: the rate (1 + tanh h) / 2 drives calcium that decays exponentially, and dF/F is calcium with
white noise. Left and right cues may push the network now and then. Behaviour is read out from latent variables, projections of the rates that are the
same in every animal: `angular_velocity` (deg/s), running `speed` (cm/s), `pupil` (a slow one), and `licks` (events). Nobody can forecast the noise of
the future: `rollout` restarts the dynamics from the true state with fresh noise, which bounds every forecast.
"""

import json
import warnings
from dataclasses import asdict
from zlib import crc32

import numpy as np
import pandas as pd
import xarray as xr

from ..._files import write_netcdf
from ...errors import QfError
from ..session import new_session, session_key
from ..store import Store, file_name
from .cortex import is_there, load_truth
from .options import NetworkOptions

DT = 0.01  # seconds of a step of the dynamics
TAU = 0.1
GAIN = 2.0  # of the connections: beyond 1 a network of many neurons is chaotic; of a hundred, many settle
KICK = 0.1  # of the noise on h, as POCO's
DECAY = 0.45  # seconds, of calcium (GCaMP6f)
DFF = 1.5  # dF/F of calcium at the highest rate
NOISE = 0.15  # dF/F a frame, about an eighth of the variance
CUE, CUE_S = 1.0, 0.5  # strength of a cue's input, and how long it lasts
LATENTS = ("turn", "run", "arousal", "lick", "choice")
SMOOTH_S = np.array([0.2, 0.4, 3.0, 0.2, 0.2])  # over which each latent variable is averaged
SETTLE_S = 5.0


def simulate_network(
    path,
    *,
    n_neurons=NetworkOptions.n_neurons,
    subjects=NetworkOptions.subjects,
    seconds=NetworkOptions.seconds,
    own=NetworkOptions.own,
    cue_every_s=NetworkOptions.cue_every_s,
    rate_hz=NetworkOptions.rate_hz,
    seed=NetworkOptions.seed,
):
    """Record simulated animals whose neurons form chaotic networks, and write their Sessions and their truth.

    Sessions that the same arguments wrote before are kept, so that the same call continues an interrupted one.

    Parameters
    ----------
    path : str or Path
        Folder of the store; made if missing.
    n_neurons : int
        How many neurons an animal has.
    subjects : int
        How many animals; each has one session, `net1/1`, `net2/1`...
    seconds : float
        Length of a session.
    own : float
        How much of an animal's connections is its own, 0 to 1.
    cue_every_s : float
        Seconds from a cue to the next; they make trials. 0: no cues, a continuous recording without trials.
    rate_hz : float
        Frames a second; at most 50, since a frame averages over steps of 0.01 s.
    seed : int
        The same arguments give the same bits.

    Returns
    -------
    Store
        It holds the Sessions with dF/F and behaviour; trials have the condition `cue/side=left` or `right`, and the feature `choice`. Their truth is in
        the folder `truth/` (see `cortex.load_truth`): `h` and `calcium` (neuron, frame), `latent` (variable, frame), and `connections` (to, from).

    Raises
    ------
    QfError
        If an argument is out of range, or the store holds a session of the same name that other arguments made.

    Warns
    -----
    UserWarning
        If a network has settled, as small ones often do: its traces then hold little but noise.

    Examples
    --------
    >>> store = simulate_network("data/network", n_neurons=100, subjects=2, seconds=20, seed=1)
    >>> store.keys()
    ['net1/1', 'net2/1']
    """
    options = NetworkOptions(n_neurons, subjects, seconds, own, cue_every_s, rate_hz, seed)
    note = asdict(options)
    note.pop("subjects")  # another animal more leaves those that are there as they are
    store = Store(path, create=True)
    for key in session_keys(options.subjects):
        if not is_there(store, key, note):
            _record(store, key, options, note)
    return store


def session_keys(subjects):
    """The keys of the Sessions that `simulate_network` records of so many animals."""
    return [f"net{i + 1}/1" for i in range(subjects)]


def _rng(seed, *purpose):
    """An independent random generator for each purpose."""
    return np.random.default_rng(np.random.SeedSequence([int(seed), *(crc32(str(p).encode()) for p in purpose)]))


def connections(n_neurons, own, seed, subject):
    """J of an animal, float64 (to, from): the template of the seed, mixed with what is the animal's own.

    Parameters
    ----------
    n_neurons : int
    own : float
        Share of the animal's own, 0 to 1.
    seed : int
    subject : str

    Returns
    -------
    float64 array, shape (n_neurons, n_neurons)

    Examples
    --------
    >>> bool((connections(5, 0.0, 1, "net1") == connections(5, 0.0, 1, "net2")).all())
    True
    """
    template, mine = (_rng(seed, name, n_neurons).standard_normal((n_neurons, n_neurons)) for name in ("template", f"connections of {subject}"))
    return GAIN * (np.sqrt(1 - own**2) * template + own * mine) / np.sqrt(n_neurons)


def _record(store, key, options, note):
    """Run one animal's network, and write its Session, then its truth."""
    subject, n, seed = key.split("/")[0], options.n_neurons, options.seed
    joined = connections(n, options.own, seed, subject)
    sides = _rng(seed, "cues").standard_normal((2, n))  # the input that each side gives to each neuron, in every animal the same
    readout = _rng(seed, "latents").standard_normal((len(LATENTS), n)) / np.sqrt(n)
    n_frames = round(options.seconds * options.rate_hz)
    table = _cues(n_frames, options, _rng(seed, f"cues of {subject}"))
    rng = _rng(seed, f"dynamics of {subject}")
    state = {"h": rng.standard_normal(n), "calcium": np.full(n, 0.5), "latent": np.zeros(len(LATENTS))}
    parameters = {"connections": joined, "sides": sides, "readout": readout}
    for _ in range(round(SETTLE_S * options.rate_hz)):
        state = step(state, None, parameters, options.rate_hz, rng)
    shown = _shown(table, n_frames, options.rate_hz)
    truth = {name: np.empty((n_frames, *x.shape), np.float32) for name, x in state.items()}
    for frame in range(n_frames):
        state = step(state, shown[frame], parameters, options.rate_hz, rng)
        for name, x in state.items():
            truth[name][frame] = x
    noise = _rng(seed, f"noise of {subject}").standard_normal((n, n_frames))
    dff = DFF * truth["calcium"].T + NOISE * noise
    if np.median(truth["calcium"].std(0)) * DFF < NOISE:
        warnings.warn(
            f"{key}: the network has settled, its traces hold little but noise. Take more neurons (300), another seed, or cues (cue_every_s).",
            stacklevel=3,
        )
    if len(table):
        at = np.minimum(table["onset_frame"].to_numpy() + round(2 * options.rate_hz), n_frames - 1)
        table["choice"] = np.where(truth["latent"][at, LATENTS.index("choice")] > 0, "right", "left")
    session = new_session(
        dff, subject=subject, session=key.split("/")[1], rate_hz=options.rate_hz, signal="dff", trials=table if len(table) else None,
        cells=[f"n{i:04d}" for i in range(n)], indicator="GCaMP6f (simulated)", area="network (simulated)", source="simulation",
        provenance=json.dumps(note), behaviour=_behaviour(truth["latent"], options.rate_hz, _rng(seed, f"behaviour of {subject}")),
    )  # fmt: skip
    if key not in store:  # a kill may have come before the truth was written
        store.add(session)
    _write_truth(store, key, session, truth, parameters, shown)


def step(state, side, parameters, rate_hz, rng):
    """The state one frame later.

    Parameters
    ----------
    state : dict
        h and calcium, float (..., neuron), and latent, float (..., latent); leading dims are independent copies.
    side : int or None
        The cue that is on, 0 left or 1 right; None or -1 for none.
    parameters : dict
        connections (to, from), sides (2, neuron) and readout (latent, neuron).
    rate_hz : float
    rng : numpy.random.Generator

    Returns
    -------
    dict
        As `state`; calcium is that of the end of the frame.
    """
    n_steps = max(1, round(1 / rate_hz / DT))
    dt = 1 / rate_hz / n_steps
    h, calcium, latent = state["h"], state["calcium"], state["latent"]
    cue = 0.0 if side is None or side < 0 else CUE * parameters["sides"][side]
    for _ in range(n_steps):
        active = np.tanh(h)
        noise = KICK * np.sqrt(2 * dt / TAU) * rng.standard_normal(h.shape)
        h = h + dt / TAU * (cue - h + active @ parameters["connections"].T) + noise
        calcium = calcium + dt / DECAY * ((1 + np.tanh(h)) / 2 - calcium)
        latent = latent + dt / SMOOTH_S * (np.tanh(h) @ parameters["readout"].T - latent)
    return {"h": h, "calcium": calcium, "latent": latent}


def rollout(store, session, onset_frames, n_frames, n_samples=64, seed=0):
    """What follows from the true state: the dynamics restart at the last frame before each onset with fresh noise, many times.

    No model can reach it: a model sees calcium with noise, not the state. Cues in the window are known to it.

    Parameters
    ----------
    store : Store
    session : str
        Key, `subject/session`.
    onset_frames : int array, shape (trial,)
    n_frames : int
        How many frames, from the onset on.
    n_samples : int
        How many times the dynamics restart.
    seed : int
        Of the fresh noise.

    Returns
    -------
    float32 array, shape (trial, neuron, n_frames)
        Mean dF/F over the restarts.

    Raises
    ------
    QfError
        If the Session has no truth, a window does not lie inside the recording, or a number is too small.
    """
    onsets = np.asarray(onset_frames, int)
    if n_samples < 1 or n_frames < 1:
        raise QfError(f"rollout: expected n_samples and n_frames of at least 1, found {n_samples} and {n_frames}.")
    with load_truth(store, session) as ds:
        if "connections" not in ds:
            raise QfError(f"rollout: expected a simulated network, found {session}, another simulation. Take conditional_mean.conditional_mean.")
        last = ds.sizes["frame"] - n_frames
        bad = (onsets < 1) | (onsets > last)
        if bad.any():
            raise QfError(f"onset_frames: expected 1 to {last}, found {int(onsets[bad][0])}. Leave incomplete windows out.")
        before = {name: ds[name].values[:, onsets - 1].T.astype(float) for name in ("h", "calcium", "latent")}
        parameters = {name: ds[name].values for name in ("connections", "sides", "readout")}
        shown, rate_hz = ds["shown"].values, float(ds.attrs["rate_hz"])
    rng = _rng(seed, "rollout")
    out = np.empty((len(onsets), len(parameters["connections"]), n_frames), np.float32)
    for i, onset in enumerate(onsets):
        state = {name: np.repeat(x[i][None], n_samples, 0) for name, x in before.items()}
        for t in range(n_frames):
            state = step(state, int(shown[onset + t]), parameters, rate_hz, rng)
            out[i, :, t] = DFF * state["calcium"].mean(0)
    return out


def _cues(n_frames, options, rng):
    """The trial table of the cues: left and right in random order, each as often as the other in every pair."""
    if not options.cue_every_s:
        return pd.DataFrame({"onset_frame": []})
    onsets = np.arange(options.cue_every_s, options.seconds - options.cue_every_s / 2, options.cue_every_s)
    sides = np.concatenate([rng.permutation(2) for _ in range(len(onsets) // 2 + 1)])[: len(onsets)]
    first = np.round(onsets * options.rate_hz).astype(int)
    length = max(1, round(CUE_S * options.rate_hz))
    table = pd.DataFrame({"onset_frame": first, "offset_frame": np.minimum(first + length, n_frames), "stimulus": "cue"})
    return table.assign(side=np.array(["left", "right"])[sides], condition=[f"cue/side={('left', 'right')[s]}" for s in sides])


def _shown(table, n_frames, rate_hz):
    """The side of the cue that is on in each frame, int8 (frame,); -1 for none."""
    shown = np.full(n_frames, -1, np.int8)
    for first, stop, side in table[["onset_frame", "offset_frame", "side"]].itertuples(index=False) if len(table) else ():
        shown[first:stop] = side == "right"
    return shown


def _behaviour(latent, rate_hz, rng):
    """What the animal does, of the latent variables (frame, latent), and with a little noise of its own."""
    scaled = latent / latent.std(0).clip(1e-6)
    turn, run, arousal, lick, _ = scaled.T
    noise = rng.standard_normal((3, len(latent)))
    licks = np.flatnonzero((lick[1:] > 1.5) & (lick[:-1] <= 1.5)) + 1
    return {
        "angular_velocity": (40.0 * turn + 4.0 * noise[0], None, "deg/s"),
        "speed": (np.maximum(8.0 * run + 4.0 + 0.8 * noise[1], 0.0), None, "cm/s"),
        "pupil": (arousal + 0.1 * noise[2], None, "z-score"),
        **({"licks": (None, licks / rate_hz)} if len(licks) else {}),
    }


def _write_truth(store, key, session, truth, parameters, shown):
    dims = {"h": "neuron", "calcium": "neuron", "latent": "variable"}
    arrays = {name: ((dims[name], "frame"), np.ascontiguousarray(x.T)) for name, x in truth.items()}
    arrays |= {
        "connections": (("to", "from"), parameters["connections"]), "sides": (("side", "neuron"), parameters["sides"]),
        "readout": (("variable", "neuron"), parameters["readout"]), "shown": (("frame",), shown),
    }  # fmt: skip
    coords = {"neuron": session["neuron"].values, "variable": np.array(LATENTS, dtype=object), "frame_time": session["frame_time"]}
    attrs = {"fingerprint": session.attrs["fingerprint"], "rate_hz": session.attrs["rate_hz"], "session": session_key(session)}
    write_netcdf(xr.Dataset(arrays, coords, attrs), store.path / "truth" / file_name(key))
