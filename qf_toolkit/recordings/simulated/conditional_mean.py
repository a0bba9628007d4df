"""The best possible forecast of a simulated recording, estimated by Monte Carlo on the simulator."""

from zlib import crc32

import numpy as np

from ...errors import QfError
from .cortex import SUBTRACTED, _observe, _prepared, _step, load_truth


def conditional_mean(store, session, onset_frames, n_frames, n_samples=64, seed=0, with_error=False):
    """Estimate the best possible forecast: expected fluorescence from the onset on, given the full hidden state at the last frame before it.

    The dynamics restart `n_samples` times from the stored state with fresh noise, and the samples are averaged (Monte Carlo). The forecast knows the
    stimuli in the window, also those of following trials, but nothing else that happens at or after the onset. Its sampling error adds the variance
    over samples / n_samples to its mean squared error.

    Parameters
    ----------
    store : Store
    session : str
        Key, `subject/session`.
    onset_frames : int array, shape (trial,)
    n_frames : int
        How many frames are forecast, from the onset on.
    n_samples : int
        How many times the dynamics restart; at least 1, or 2 under `with_error`.
    seed : int
        The same seed gives the same noise.
    with_error : bool
        Also return the expected square of the sampling error.

    Returns
    -------
    float32 array, shape (trial, neuron, n_frames)
        Expected values in the units of the Session's `fluorescence`, for all neurons of the Session in its order. Under `with_error`, a tuple of
        this array and of the expected square of its sampling error, of the same shape and in squared units.

    Raises
    ------
    QfError
        If the Session has no truth, a window does not lie inside the recording, or a number is too small.
    """
    onsets = np.asarray(onset_frames, int)
    least = 1 + with_error
    if n_samples < least or n_frames < 1:
        raise QfError(f"conditional_mean: expected n_samples of at least {least} and n_frames of at least 1, found {n_samples} and {n_frames}.")
    with load_truth(store, session) as ds:
        if "drive" not in ds:
            raise QfError(f"ceiling: expected a simulated cortex, found {session}, a simulated network. Take simulated.network.rollout.")
        last = ds.sizes["frame"] - n_frames
        bad = (onsets < 1) | (onsets > last)
        if bad.any():
            raise QfError(f"onset_frames: expected 1 to {last}, found {int(onsets[bad][0])}. Leave incomplete windows out.")
        params = {str(k)[6:]: v.values for k, v in ds.data_vars.items() if str(k).startswith("param_")}
        before = {k: ds[k].values[..., onsets - 1] for k in ("shared", "private", "neuropil", "slow", "quick")}
        drive = ds["drive"].values
    q, n = _prepared(params, np.float32), len(drive)
    rng = np.random.default_rng(np.random.SeedSequence([int(seed), crc32(b"ceiling")]))
    out = np.zeros((len(onsets), n, n_frames), np.float32)
    error = np.zeros_like(out) if with_error else None
    chunk = max(1, 150_000 // (n_samples * n))  # trials; the arrays of one chunk fit into the processor's cache
    for a in range(0, len(onsets), chunk):
        at = onsets[a : a + chunk]
        size = (len(at), n_samples)
        state = {k: np.repeat(np.moveaxis(v[..., a : a + chunk], -1, 0)[:, None], n_samples, 1) for k, v in before.items()}
        for t in range(n_frames):
            z_shared, z_private = (rng.standard_normal((*size, k), dtype=np.float32) for k in (4, n))
            state, _, _ = _step(state, drive[:, at + t].T[:, None], q, z_shared, z_private, rng)
            state = {k: v.astype(np.float32, copy=False) for k, v in state.items()}
            raw, neuropil = _observe(state, ((at + t) * q["dt"]).astype(np.float32)[:, None, None], q)
            x = raw - SUBTRACTED * neuropil
            out[a : a + chunk, :, t] = x.mean(1)
            if error is not None:
                error[a : a + chunk, :, t] = x.var(1, ddof=1) / n_samples
    return out if error is None else (out, error)
