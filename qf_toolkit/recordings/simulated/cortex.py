"""A simulated mouse visual cortex with known truth. It sees the stimuli of the Allen Brain Observatory's Visual Coding protocol.

`_step` moves the hidden state on by one frame; the recording and its ceiling use the same code. The state:
    shared    (4,)       slow arousal-like gain, two fast fluctuations, focus: Ornstein-Uhlenbeck, unit variance
    neuropil  ()         low-passed shared state and population drive
    private   (neuron,)  each neuron's own fast fluctuation, Ornstein-Uhlenbeck, unit variance
    slow, quick (neuron,)  two leaky sums of the spikes; their difference is calcium (GCaMP6f: rises in 50 ms, decays in 450 ms)

The rate is gain x max(0, base + drive(stimulus) + fluctuation), spikes are Poisson, and `_observe` turns calcium into fluorescence. Nobody can
forecast the noise of the future; `conditional_mean` gives the best forecast that remains possible.
The physiology is frozen: it was calibrated once, before any model was tuned on it. For session A with the defaults, seeds 0 to 4, 3 s baseline, 2 s
response, F0 of 1 s and the last block tested, the stimulus mean explains 0.60 to 0.70 of the explainable error, and 11 to 15 % of observations are
active.
"""

import json
from dataclasses import asdict, dataclass
from zlib import crc32

import numpy as np
import xarray as xr

from ..._files import write_netcdf
from ...errors import QfError
from ...models.options import check_options
from ..session import new_session, session_key
from ..store import Store, file_name
from .options import SESSIONS, SimulateOptions
from .protocol import schedule, shown_s, stimuli_of

MOST_VALUES = 2**31  # neurons x frames of a session; ten arrays of that size are in memory at a time
SHARED = ("gain", "fast1", "fast2", "focus")
SUBTRACTED = 0.7  # the usual fixed factor of the neuropil that is subtracted; the true factor differs a little from neuron to neuron
NOISE_GRID = (16, 28)
MAX_NOISE_SD = 5.0  # the shot noise is cut here, so that fluorescence stays positive at any length


@dataclass(frozen=True)
class Physiology:
    """The frozen constants. Times are in seconds, rates in spikes/s; `*_spread` is the standard deviation of a logarithm over neurons."""

    driven: float = 0.65  # share of the neurons that the stimuli drive
    peak_rate: float = 18.0
    peak_spread: float = 0.6
    base_rate: float = -0.2  # below zero for most neurons: without drive they fire only by fluctuations
    fluctuation: float = 0.6  # standard deviation of the additive fluctuation, spikes/s
    shared_part: float = 0.4  # share of that fluctuation's standard deviation that neurons have in common
    gain_sd: float = 0.27  # standard deviation of log gain
    gain_tau: float = 18.0
    fast_tau: float = 1.0
    private_tau: float = 1.0
    focus_tau: float = 150.0
    focus_sd: float = 0.015
    neuropil_tau: float = 0.5
    neuropil_gain: float = 0.06
    rise: float = 0.05
    decay: float = 0.45
    decay_spread: float = 0.12
    spike_dff: float = 0.20  # peak dF/F of one spike
    spike_spread: float = 0.25
    saturation: float = 25.0  # calcium, in spikes, at which dF/F is half of its linear value; inf means no saturation
    noise_low: float = 0.05  # shot noise of a neuron lies between low and high, dF/F per frame
    noise_high: float = 0.10


def simulate(
    path,
    *,
    n_neurons=SimulateOptions.n_neurons,
    sessions=SimulateOptions.sessions,
    repeats=SimulateOptions.repeats,
    directions=SimulateOptions.directions,
    temporal_frequencies=SimulateOptions.temporal_frequencies,
    images=SimulateOptions.images,
    orientations=SimulateOptions.orientations,
    spatial_frequencies=SimulateOptions.spatial_frequencies,
    phases=SimulateOptions.phases,
    noise_frames=SimulateOptions.noise_frames,
    image_repeats=SimulateOptions.image_repeats,
    gap_s=SimulateOptions.gap_s,
    rate_hz=SimulateOptions.rate_hz,
    subject=SimulateOptions.subject,
    seed=SimulateOptions.seed,
    physiology=None,
):
    """Record a simulated mouse and write its Sessions and their truth. The defaults are those of the real protocol.

    Sessions that the same arguments wrote before are kept, so that the same call continues an interrupted one.

    Parameters
    ----------
    path : str or Path
        Folder of the store; made if missing.
    n_neurons : int
        How many neurons. They are the same in every session, with keys `subject/cell`.
    sessions : sequence of {"A", "B", "C", "C2"}
        A: drifting gratings, 2 s and 1 s grey. B: static gratings and natural scenes, 0.25 s without grey. C: locally sparse noise, 0.25 s, each
        frame of it a condition; C2: the same with two grids. Each stimulus comes in three blocks, with equal shares of a condition's repeats.
    repeats, image_repeats : int
        Repeats of each condition in A and in B.
    directions, temporal_frequencies, images, orientations, spatial_frequencies, phases, noise_frames : int
        How many of each.
    gap_s : float
        Seconds of grey before, between and after the blocks.
    rate_hz : float
        Frames a second.
    subject : str
        Name of the mouse. Another name gives another mouse, even with the same seed.
    seed : int
        The same arguments give the same bits.
    physiology : Physiology, optional
        Other constants, for tests and what-if questions. If None, the frozen ones.

    Returns
    -------
    Store
        It holds the Sessions `subject/A`... with raw fluorescence minus 0.7 x neuropil. Their truth is in the folder `truth/` under the same file
        names (see `load_truth`).

    Raises
    ------
    QfError
        If an argument is out of range, or the store holds a session of the same name that other arguments made.

    Examples
    --------
    >>> store = simulate("data/sim", n_neurons=3, repeats=3, directions=2, temporal_frequencies=1, rate_hz=10, gap_s=5)
    >>> store.keys(), len(store.index)
    (['sim1/A'], 7)
    """
    counts = {
        "n_neurons": n_neurons, "repeats": repeats, "directions": directions, "temporal_frequencies": temporal_frequencies, "images": images,
        "orientations": orientations, "spatial_frequencies": spatial_frequencies, "phases": phases, "noise_frames": noise_frames,
        "image_repeats": image_repeats,
    }  # fmt: skip
    sessions = check_protocol(counts, sessions, gap_s, rate_hz, seed)
    subject = check_options(SimulateOptions, {"subject": subject})["subject"]
    if not subject or "/" in subject or len(file_name(f"{subject}/C2")) > 255:
        raise QfError(f"subject: expected a name without slash that a file can have, found {subject[:60]!r}. Choose a shorter or simpler one.")
    phys = physiology or Physiology()
    settings = {**counts, "gap_s": gap_s, "rate_hz": rate_hz, "subject": subject, "seed": seed, "physiology": asdict(phys)}
    notes = {letter: {**settings, "session": letter} for letter in sessions}
    store = Store(path, create=True)
    missing = [letter for letter in sessions if not is_there(store, f"{subject}/{letter}", notes[letter])]
    params = _neurons(n_neurons, rate_hz, phys, _rng(seed, subject, "neurons"))
    for letter in missing:
        table, truth = record(letter, counts, params, gap_s=gap_s, rate_hz=rate_hz, phys=phys, subject=subject, seed=seed)
        f = _fluorescence(truth, params, rate_hz, _rng(seed, subject, f"shot noise {letter}"))
        session = new_session(
            f, subject=subject, session=letter, rate_hz=rate_hz, trials=table.drop(columns="code"), cells=[f"c{i:04d}" for i in range(n_neurons)],
            matched=True, indicator="GCaMP6f (simulated)", area="VISp (simulated)", source="simulation", provenance=json.dumps(notes[letter]),
        )  # fmt: skip
        _write(store, session, truth, params, phys, notes[letter])
    return store


def is_there(store, key, note):
    """Whether a session and its truth are in the store. Refuses a session that other arguments made."""
    if key not in store:
        return False
    _check_same(store, key, note)
    try:
        load_truth(store, key).close()
    except (QfError, OSError, KeyError, ValueError):  # the truth is missing or can't be read: it is made again
        return False
    return True


def _check_same(store, key, note):
    """Refuse a session in the store that is not a simulation, or that other arguments made."""
    info = store.info(key)
    try:
        known = json.loads(info["provenance"])
        differing = [name for name in note if known[name] != json.loads(json.dumps(note[name]))]
    except (ValueError, KeyError, TypeError):
        raise QfError(f"session: {key} is in {store.path} already, and is no simulation of this version. Choose another folder or subject.") from None
    if differing:
        name = differing[0]
        was, found = ("other values", "these") if name == "physiology" else (known[name], note[name])
        raise QfError(f"session: {key} is in {store.path} already, made with {name} {was}, found {found}. Choose another folder or subject.")


def _write(store, session, truth, params, phys, note):
    """Write a session, then its truth. If several processes record the same session, the first one writes it; the truth must fit its traces."""
    key = session_key(session)
    try:
        if key not in store:
            store.add(session)
    except QfError:  # another process may have written it in the meantime
        if key not in store:
            raise
    _check_same(store, key, note)
    if store.info(key)["fingerprint"] != session.attrs["fingerprint"]:
        raise QfError(f"session: {key} in {store.path} has other traces than these arguments give. Choose another folder or subject.")
    _save_truth(store, truth, params, session, phys)


def check_protocol(counts, sessions, gap_s, rate_hz, seed):
    """Check arguments of `simulate`; `counts` is {name: number} of neurons, repeats and so on. Returns the sessions' letters, each once.

    Raises
    ------
    QfError
        If a number or a letter is out of range, or a session would be too large.
    """
    letters = sessions if isinstance(sessions, list | tuple) or sessions in SESSIONS else list(sessions)
    given = check_options(SimulateOptions, {**counts, "sessions": letters, "gap_s": gap_s, "rate_hz": rate_hz, "seed": seed})
    letters = list(dict.fromkeys(given["sessions"]))
    for letter in letters:
        if letter != "A" and rate_hz < 8:
            raise QfError(f"rate_hz: expected at least 8 Hz for session {letter}, whose stimuli last 0.25 s, found {rate_hz}. Simulate A alone.")
        values = shown_s(letter, counts) * rate_hz * counts["n_neurons"]
        if values > MOST_VALUES:
            raise QfError(
                f"n_neurons: expected at most {MOST_VALUES} neurons x frames in session {letter}, found {values:.3g}. Take fewer of either."
            )
    return letters


def record(letter, counts, params, *, gap_s, rate_hz, phys, subject, seed):
    """Show one session of the protocol to simulated neurons.

    Parameters
    ----------
    letter : {"A", "B", "C", "C2"}
    counts : dict of str to int
        n_neurons, repeats, directions and so on.
    params : dict of str to array
        Properties of the neurons, (neuron, ...), and constants of the dynamics.
    gap_s, rate_hz, phys, subject, seed
        As in `simulate`.

    Returns
    -------
    table : pandas.DataFrame
        The trial table, see `protocol.schedule`.
    truth : dict of str to array, shape (frame, ...)
        `rate` and `drive` (spikes/s), `spikes`, and the hidden state after each frame.
    """
    layout, shape = _rng(seed, subject, f"layout {letter}"), _rng(seed, subject, f"tuning {letter}")
    stimuli = stimuli_of(letter, counts)
    table, n_frames = schedule(stimuli, gap_s, rate_hz, layout)
    drive = np.zeros((n_frames, len(params["peak"])), np.float32)
    for stimulus in stimuli:
        _add_drive(drive, table, stimulus, params, rate_hz, shape)
    return table, _run(drive, params, rate_hz, phys, _rng(seed, subject, f"dynamics {letter}"))


def _rng(seed, subject, purpose):
    """An independent random generator for each purpose, so that a longer session or another stimulus does not change the neurons."""
    return np.random.default_rng(np.random.SeedSequence([int(seed), crc32(subject.encode()), crc32(purpose.encode())]))


def _neurons(n, rate_hz, p, rng):
    """Draw the properties of each neuron, which are the same in all sessions: {name: float64 array (neuron, ...)}."""

    def lognormal(median, spread):
        return median * np.exp(spread * rng.standard_normal(n))

    driven = rng.random(n) < p.driven
    # an undriven neuron does not respond to stimuli, or only weakly
    strength = np.where(driven, 1.0, np.where(rng.random(n) < 0.5, 0.0, 0.12))
    weights = rng.standard_normal((n, 2)) * 0.5 + 0.6
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    decay = np.clip(lognormal(p.decay, p.decay_spread), 0.36, 0.6)
    quick = 1 / (1 / decay + 1 / p.rise)
    dt, fine = 1 / rate_hz, np.arange(0, 1, 0.001)
    f0 = lognormal(400.0, 0.4)
    return {
        "peak": np.minimum(lognormal(p.peak_rate, p.peak_spread), 40.0) * strength,
        "direction": rng.uniform(0, 360, n),
        "sharpness": rng.uniform(1.2, 5.0, n),
        "direction_selectivity": rng.beta(1.2, 1.2, n),
        "log_tf": rng.uniform(-0.3, 3.3, n),
        "tf_width": rng.uniform(0.7, 1.6, n),
        "log_sf": rng.uniform(-5.6, -2.6, n),
        "sf_width": rng.uniform(0.7, 1.4, n),
        "simple": np.where(rng.random(n) < 0.4, rng.uniform(0.4, 1.0, n), 0.0),
        "phase": rng.random(n),
        "latency": np.clip(0.06 + 0.012 * rng.standard_normal(n), 0.035, 0.1),
        "sustained": rng.uniform(0.35, 0.85, n),
        "base": p.base_rate + 0.35 * rng.standard_normal(n),
        "gain": p.gain_sd * rng.uniform(0.7, 1.3, n),
        "shared_weight": p.fluctuation * p.shared_part * weights,
        "private_weight": p.fluctuation * np.sqrt(1 - p.shared_part**2) * rng.uniform(0.7, 1.3, n),
        "slow_keep": np.exp(-dt / decay),
        "quick_keep": np.exp(-dt / quick),
        "spike_dff": lognormal(p.spike_dff, p.spike_spread),
        "kernel_peak": (np.exp(-fine / decay[:, None]) - np.exp(-fine / quick[:, None])).max(1),
        "saturation": np.full(n, p.saturation),
        "f0": f0,
        "neuropil0": f0 * rng.uniform(0.4, 0.9, n),
        "neuropil_gain": np.full(n, p.neuropil_gain),
        "neuropil_factor": np.clip(SUBTRACTED + 0.05 * rng.standard_normal(n), 0.55, 0.85),
        "focus": p.focus_sd * rng.standard_normal(n),
        "bleach": rng.uniform(0.02, 0.12, n),
        "noise": rng.uniform(p.noise_low, p.noise_high, n),
        "shared_keep": np.exp(-dt / np.array([p.gain_tau, p.fast_tau, p.fast_tau, p.focus_tau])),
        "private_keep": np.exp(-dt / np.array(p.private_tau)),
        "neuropil_keep": np.exp(-dt / np.array(p.neuropil_tau)),
        "dt": np.array(dt),
    }


def _tuning(stimulus, q, rng):
    """How strongly each condition drives each neuron: array (neuron, condition), about 1 for a neuron's best condition."""
    c, name = stimulus["conditions"], stimulus["name"]
    n = len(q["peak"])

    def bell(values, centre, width):
        return np.exp(-0.5 * ((np.log2(values) - centre[:, None]) / width[:, None]) ** 2)

    if name in ("drifting_gratings", "static_gratings"):
        delta = np.deg2rad(c["orientation"].to_numpy() - q["direction"][:, None])
        t = np.exp(q["sharpness"][:, None] * (np.cos(2 * delta) - 1))
        if name == "drifting_gratings":
            t = t * (1 - q["direction_selectivity"][:, None] * (1 - np.cos(delta)) / 2)
            return t * bell(c["temporal_frequency"].to_numpy(), q["log_tf"], q["tf_width"])
        m = q["simple"][:, None]
        t = t * (1 + m * np.cos(2 * np.pi * (c["phase"].to_numpy() - q["phase"][:, None]))) / (1 + m)
        return t * bell(c["spatial_frequency"].to_numpy(), q["log_sf"], q["sf_width"])
    if name == "natural_scenes":
        # lifetime-sparse: a few images drive a neuron well, most of them hardly
        x = rng.standard_exponential((n, len(c))) ** 2.0
        return np.clip(x / max(4.0, np.log(118.0) ** 2) - 0.15, 0, 1.3)
    rows, cols = NOISE_GRID
    u = np.random.default_rng(0).random((len(c), rows * cols))  # each condition is the same picture for every mouse and every number of frames
    movie = (u < 0.0125) * 1.0 - (u > 0.9875)
    y, x = np.divmod(np.arange(rows * cols), cols)
    centre = rng.uniform((1, 1), (rows - 2, cols - 2), (n, 2))
    field = np.exp(-0.5 * ((y - centre[:, :1]) ** 2 + (x - centre[:, 1:]) ** 2) / rng.uniform(0.6, 1.4, (n, 1)) ** 2)
    return np.clip(field @ movie.T * rng.choice([-1.0, 1.0], (n, 1)) - 0.1, 0, 1.3)


def _add_drive(drive, table, stimulus, q, rate_hz, rng):
    """Add the drive of a stimulus to `drive`, float32 (frame, neuron), spikes/s.

    After a neuron's latency the drive has a transient and then a sustained part; after the stimulus it falls quickly.
    """
    tuning = (_tuning(stimulus, q, rng) * q["peak"][:, None]).T.astype(np.float32)
    rows = table[(table["stimulus"] == stimulus["name"]) & (table["code"] >= 0)]
    length = int(np.ceil((stimulus["on_s"] + 0.6) * rate_hz))
    # seconds since the light reached the neuron, at the middle of each frame
    t = (np.arange(length)[:, None] + 0.5) / rate_hz - q["latency"]
    lit = np.clip(t, 0, stimulus["on_s"])
    on = (1 - np.exp(-lit / 0.03)) * (q["sustained"] + (1 - q["sustained"]) * np.exp(-lit / 0.25))
    shape = (on * np.exp(-np.clip(t - stimulus["on_s"], 0, None) / 0.06)).astype(np.float32)
    shapes = {}
    if stimulus["name"] == "drifting_gratings":
        for tf in stimulus["conditions"]["temporal_frequency"].unique():
            # simple cells follow the grating's phase; a frame averages over 1 / rate_hz, so quick gratings blur
            wave = q["simple"] * np.sinc(tf / rate_hz) * np.sin(2 * np.pi * (tf * t + q["phase"]))
            shapes[tf] = (shape * np.maximum(1 + wave, 0)).astype(np.float32)
    columns = rows["onset_frame"], rows["code"], rows.get("temporal_frequency", rows["code"])
    for onset, code, tf in zip(*(c.to_numpy() for c in columns), strict=True):
        part = drive[onset : onset + length]
        part += shapes.get(tf, shape)[: len(part)] * tuning[code]


# ---- dynamics and observation


def _step(state, drive, q, z_shared, z_private, rng):
    """Move the hidden state on by one frame; returns the new state, the rate (spikes/s) and the spikes.

    The last dim of each array is (neuron,), of `shared` (4,); any leading dims are independent copies. `z_shared` and `z_private` are standard normal
    and have the shapes of `shared` and `private`.
    """
    shared = q["shared_keep"] * state["shared"] + q["shared_kick"] * z_shared
    private = q["private_keep"] * state["private"] + q["private_kick"] * z_private
    fluctuation = shared[..., 1:3] @ q["shared_weight_t"] + q["private_weight"] * private
    rate = np.exp(q["gain"] * shared[..., :1] - q["gain_mean"]) * np.maximum(q["base"] + drive + fluctuation, 0)
    spikes = rng.poisson(rate * q["dt"])
    around = 0.5 * shared[..., 0] + shared[..., 1] + 0.5 * shared[..., 2] + 0.5 * drive.mean(-1)
    neuropil = q["neuropil_keep"] * state["neuropil"] + (1 - q["neuropil_keep"]) * around
    slow, quick = q["slow_keep"] * state["slow"] + spikes, q["quick_keep"] * state["quick"] + spikes
    return {"shared": shared, "private": private, "neuropil": neuropil, "slow": slow, "quick": quick}, rate, spikes


def _prepared(params, dtype):
    """The parameters of `_step` and `_observe` in one dtype, with the constants that are derived from them."""
    q = dict(params)
    q["shared_kick"] = np.sqrt(1 - q["shared_keep"] ** 2)
    q["private_kick"] = np.sqrt(1 - q["private_keep"] ** 2)
    q["gain_mean"] = q["gain"] ** 2 / 2  # so that the mean gain is 1
    q["shared_weight_t"] = np.ascontiguousarray(q["shared_weight"].T)
    return {k: np.asarray(v, dtype)[()] for k, v in q.items()}


def _observe(state, seconds, q):
    """Expected soma (raw) and neuropil fluorescence of a state, arbitrary units; `seconds` since the start decide the bleaching."""
    x = (state["slow"] - state["quick"]) / q["kernel_peak"]
    dff = q["spike_dff"] * x / (1 + x / q["saturation"])
    light = (1 - q["bleach"] * (1 - np.exp(-seconds / 900.0))) * (1 + q["focus"] * state["shared"][..., 3:4])
    neuropil = q["neuropil0"] * light * np.exp(q["neuropil_gain"] * state["neuropil"][..., None])
    return q["f0"] * light * (1 + dff) + q["neuropil_factor"] * neuropil, neuropil


def _run(drive, params, rate_hz, phys, rng):
    """Step through a session, starting from the stationary state; returns the truth, {name: array (frame, ...)}."""
    n_frames, n = drive.shape
    q = _prepared(params, np.float64)
    state = {
        "shared": rng.standard_normal(4), "private": rng.standard_normal(n), "neuropil": np.zeros(()), "slow": np.zeros(n), "quick": np.zeros(n),
    }  # fmt: skip
    for _ in range(round(5 * rate_hz)):  # let calcium settle before the first frame
        state, _, _ = _step(state, np.zeros(n), q, rng.standard_normal(4), rng.standard_normal(n), rng)
    out = {k: np.empty((n_frames, *v.shape), np.float32) for k, v in state.items()}
    out |= {"rate": np.empty((n_frames, n), np.float32), "spikes": np.empty((n_frames, n), np.uint8), "drive": drive}
    for t in range(n_frames):
        if t % 1024 == 0:  # noise is drawn for 1024 frames at once, since the calls cost most of the loop's time
            z_shared, z_private = rng.standard_normal((1024, 4)), rng.standard_normal((1024, n))
        state, rate, spikes = _step(state, drive[t], q, z_shared[t % 1024], z_private[t % 1024], rng)
        for name, value in state.items():
            out[name][t] = value
        out["rate"][t] = rate
        out["spikes"][t] = np.minimum(spikes, 255)
    return out


def soma_and_neuropil(truth, params, rate_hz, rng):
    """Yield the fluorescence that the microscope records, 4096 frames at a time; `truth` and `params` are those of `record`.

    Yields
    ------
    start, stop : int
        First and one-past-last frame.
    soma, neuropil : float32 arrays, shape (stop - start, neuron)
        Fluorescence of the soma with shot noise, and of the neuropil; arbitrary units.
    """
    q = _prepared(params, np.float32)
    n_frames, n = truth["rate"].shape
    for a in range(0, n_frames, 4096):
        b = min(a + 4096, n_frames)
        part = {k: truth[k][a:b] for k in ("slow", "quick", "shared", "neuropil")}
        raw, neuropil = _observe(part, (np.arange(a, b, dtype=np.float32) / np.float32(rate_hz))[:, None], q)
        # the noise's sd grows with the square root of all light on the soma; at rest it equals `noise` in dF/F
        at_rest = q["f0"] + q["neuropil_factor"] * q["neuropil0"]
        z = np.clip(rng.standard_normal((b - a, n), dtype=np.float32), -MAX_NOISE_SD, MAX_NOISE_SD)
        yield a, b, raw + q["noise"] * q["f0"] * np.sqrt(raw / at_rest) * z, neuropil


def _fluorescence(truth, params, rate_hz, rng):
    """The recorded trace, float32 (neuron, frame): raw fluorescence with shot noise minus 0.7 x neuropil."""
    n_frames, n = truth["rate"].shape
    out = np.empty((n, n_frames), np.float32)
    for a, b, raw, neuropil in soma_and_neuropil(truth, params, rate_hz, rng):
        out[:, a:b] = (raw - SUBTRACTED * neuropil).T
    return out


# ---- the truth


def _save_truth(store, truth, params, session, phys):
    key, arrays = session_key(session), {}
    for name, x in truth.items():
        dims = "frame" if x.ndim == 1 else ("shared_state" if name == "shared" else "neuron", "frame")
        arrays[name] = (dims, np.ascontiguousarray(x.T))
    for name, x in params.items():
        dims = () if x.ndim == 0 else ("shared_state",) if name == "shared_keep" else ("neuron", "fast")[: x.ndim]
        arrays[f"param_{name}"] = (dims, x)
    coords = {"neuron": session["neuron"].values, "shared_state": np.array(SHARED, dtype=object), "frame_time": session["frame_time"]}
    attrs = {"fingerprint": session.attrs["fingerprint"], "rate_hz": session.attrs["rate_hz"], "physiology": json.dumps(asdict(phys)), "session": key}
    write_netcdf(xr.Dataset(arrays, coords, attrs), store.path / "truth" / file_name(key))


def load_truth(store, session):
    """Open the truth behind a simulated Session lazily. Close it after use, or use it in a `with` statement.

    Parameters
    ----------
    store : Store
    session : str
        Key, `subject/session`.

    Returns
    -------
    xarray.Dataset
        `rate`, `spikes` and `drive` (neuron, frame), where `drive` is the rate that the stimulus adds; `rate` and `drive` are in spikes/s. The
        hidden state after each frame: `shared` (shared_state, frame), `neuropil` (frame), `private`, `slow` and `quick` (neuron, frame). `param_*`:
        the properties of the neurons.

    Raises
    ------
    QfError
        If the Session is not in the store, has no truth, or the truth is that of another recording.
    """
    path = store.path / "truth" / store.file(session).name
    if not path.is_file():
        raise QfError(f"truth: expected the file {path}, found none: only recordings made by `qf simulate` have a truth. Simulate the session again.")
    ds = xr.open_dataset(path, engine="h5netcdf")
    if ds.attrs["fingerprint"] != store.info(session)["fingerprint"]:
        ds.close()
        raise QfError(f"truth: expected that of {session}, found another recording's in {path}. Simulate the session again, in a new folder.")
    return ds
