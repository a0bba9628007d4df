"""What the codes of a pre-trained auto-encoder stand for, and how much that depends on the codes around them (paper, appendix VII, Fig. A-9).

A code has no shape of its own: the decoder reads a whole sequence of codes, and attention lets each patch depend on all of them. So a code is
decoded in a burst, a sequence of only this code. Swapping it into another sequence shows how its patch changes there.

Decoded windows are in units of signal / divisor. The divisor is the standard deviation of the neuron (`normalise="neuron"`) or of all neurons
(`"global"`). If a window isn't a whole number of patches, its edges are padded. The decoder was never trained on the padding, so it is NaN here.
"""

import numpy as np
import torch
import xarray as xr

from ..errors import QfError
from ..estimators.interface import origin
from ..training.bank import CHUNK

BLOCK = 16  # sequences decoded together; the number is always the same, since the last bits of a matrix product depend on its number of rows
ORIGIN = ("data", "model", "seed", "simulated", "session")


def decode_codes(model, sequences):
    """Decode sequences of codes. Each gives the same bits, whatever other sequences are decoded with it.

    Parameters
    ----------
    model : Autoencoder
    sequences : array_like of int, shape (n, patch)
        Codes from 0 on: a list, an array or a DataArray. Any number of dims may come before `patch`, also none.

    Returns
    -------
    float32 array, shape (n, time)
        Windows in units of signal / divisor; the dims before `time` are those of `sequences`. They are within 1e-5 of `model.module.decode`, which
        decodes a batch of any size at once.

    Raises
    ------
    QfError
        If the model is no auto-encoder, a code is not in the codebook, or a sequence has not one code per patch.
    """
    sequences, c = _checked(model, sequences), model.config
    flat, length = sequences.reshape(-1, c.patches), c.n_baseline + c.n_response
    out = np.empty((len(flat), length), np.float32)
    block = torch.zeros(BLOCK, c.patches, dtype=torch.long, device=model.device)
    with torch.no_grad():
        for at in range(0, len(flat), BLOCK):
            part = flat[at : at + BLOCK]
            block[: len(part)] = torch.from_numpy(part)
            out[at : at + BLOCK] = model.module.decode(block)[: len(part)].cpu().numpy()
    return out.reshape(*sequences.shape[:-1], length)


def codebook(model, trials=None):
    """The codes of a model: their vectors, their decoded patches and, with `trials`, how often they are used and for which measured patches.

    Parameters
    ----------
    model : Autoencoder
    trials : Trials, optional
        Their patches are counted, with one session in memory at a time. A frame counts once for each window that holds it.

    Returns
    -------
    xarray.Dataset
        - `vector` (code, width) float32, without a unit;
        - `prototype` (code, time) float32: the decoded patch of a burst of the code, mean over the places, in signal / divisor; time is in seconds
          from the patch's start;
        - `level`, `amplitude` (code): the mean of the prototype, and its maximum less its minimum.

        With trials also:

        - `count` (code) int, `usage` (code): number and share of the patches that took the code;
        - `mean_patch` (code, time) float32: the mean of these patches as measured, in signal / divisor; NaN for a code that no patch took;
        - attrs perplexity, and codes_used (number of codes that took 0.2 % of the patches or more).

    Raises
    ------
    QfError
        If the model is no auto-encoder, the trials don't fit it, or none of their windows is whole.
    """
    c = _autoencoder(model).config
    codes = np.arange(c.codes)
    prototype = np.nanmean(_patches(c, decode_codes(model, np.repeat(codes[:, None], c.patches, 1))), 1)
    attrs, vectors = _attrs(model), model.code_vectors()
    out = xr.Dataset(
        {
            "vector": (("code", "width"), vectors, attrs),
            "prototype": (("code", "time"), prototype),
            "level": ("code", prototype.mean(1)),
            "amplitude": ("code", np.ptp(prototype, 1)),
        },
        {"code": codes, "time": np.arange(c.patch_frames) / c.rate_hz},
        attrs,
    )
    if trials is None:
        return out
    count, sums, frames = np.zeros(c.codes, int), np.zeros((c.codes, c.patch_frames)), np.zeros((c.codes, c.patch_frames))
    for part in trials.by_session():
        found = model.codes(part)["code"].values
        count += np.bincount(found[found >= 0], minlength=c.codes)
        _add_patches(model, part, found, sums, frames)
    if not count.any():
        raise QfError("trials: expected a window without missing values, found none. Choose other trials or neurons.")
    share = count / count.sum()
    with np.errstate(invalid="ignore"):
        mean = np.where(frames > 0, sums / frames, np.nan).astype(np.float32)
    used = share[share > 0]
    about = {**origin(trials, model), "perplexity": float(np.exp(-(used * np.log(used)).sum())), "codes_used": int((share >= 0.002).sum())}
    out = out.assign(count=("code", count), usage=("code", share, about), mean_patch=(("code", "time"), mean))
    return out.assign_attrs(about)


def burst(model, code):
    """A sequence of only one code.

    Parameters
    ----------
    model : Autoencoder
    code : int

    Returns
    -------
    xarray.DataArray, dims (patch,)
        int64. Coords: patch from 1 on, start_s (patch), seconds from the onset at which each patch begins.

    Raises
    ------
    QfError
        If there is no such code.
    """
    c = _autoencoder(model).config
    code = _whole("code", code, 0, c.codes - 1)
    return xr.DataArray(np.full(c.patches, code), _places(c), "patch", name="code", attrs=_attrs(model))


def swap(model, sequence, place, code):
    """Put another code at one place of a sequence, and decode both.

    Parameters
    ----------
    model : Autoencoder
    sequence : array_like of int, shape (patch,)
        The codes that `burst` returns, or those of one observation in `model.codes(trials)`.
    place : int
        Number of the patch, from 1 on.
    code : int

    Returns
    -------
    xarray.Dataset
        `before`, `after` (time) float32: the decoded windows in signal / divisor, time in seconds from the onset; `sequence`, `edited` (patch) int64.
        Coord start_s (patch). attrs: place, code, and replaced, the code that was there. `before` and `after` equal the results of `decode_codes`.

    Raises
    ------
    QfError
        If there is no such place or code, or `sequence` is not one sequence of this model's codes.
    """
    sequence, c = _checked(model, sequence, "sequence"), model.config
    if sequence.ndim != 1:
        raise QfError(f"sequence: expected one, of {c.patches} codes, found an array of shape {sequence.shape}. Pick one.")
    place, edited = _whole("place", place, 1, c.patches), sequence.copy()
    edited[place - 1] = code = _whole("code", code, 0, c.codes - 1)
    before, after = decode_codes(model, np.stack([sequence, edited]))
    return xr.Dataset(
        {"before": ("time", before), "after": ("time", after), "sequence": ("patch", sequence), "edited": ("patch", edited)},
        {"time": (np.arange(len(before)) - c.n_baseline) / c.rate_hz, **_places(c)},
        {**_attrs(model), "place": place, "code": code, "replaced": int(sequence[place - 1])},
    )


def swaps(model, places=None):
    """Put every code at every place of a burst of every other, to see how much the decoded patch of a code depends on its context (Fig. A-9 c).

    Parameters
    ----------
    model : Autoencoder
    places : int or sequence of int, optional
        Numbers of the patches, from 1 on. If None, all.

    Returns
    -------
    xarray.Dataset
        - `decoded` (context, code, place, time) float32: the patch at `place` of a burst of `context` with `code` put there, in signal / divisor,
          NaN in the padding; time is in seconds from the patch's start;
        - `context_dependence` (code, context, place) float64: the RMS over frames of the difference between this patch and the patch at the same
          place of a burst of `code`. It is 0 where code and context are equal, and exactly 0 everywhere if the decoder has no attention.

        Coord start_s (place).

    Raises
    ------
    QfError
        If there is no such place.

    Notes
    -----
    It decodes codes^2 * places sequences: 10,240 in the paper's setting, about 5 s on one core.
    """
    c = _autoencoder(model).config
    chosen = range(1, c.patches + 1) if places is None else np.atleast_1d(places).tolist()
    place = np.array([_whole("place", p, 1, c.patches) for p in chosen], int)
    if not len(place):
        raise QfError(f"places: expected some of 1 to {c.patches}, found none. Leave it out for all.")
    codes, at = np.arange(c.codes), np.arange(len(place))
    decoded = np.empty((c.codes, c.codes, len(place), c.patch_frames), np.float32)
    for context in codes:
        edited = np.full((c.codes, len(place), c.patches), context)
        edited[:, at, place - 1] = codes[:, None]
        decoded[context] = _patches(c, decode_codes(model, edited))[:, at, place - 1]
    own = decoded[codes, codes]  # (code, place, time)
    dependence = np.sqrt(np.nanmean(np.square(decoded - own, dtype=np.float64), -1))
    return xr.Dataset(
        {"decoded": (("context", "code", "place", "time"), decoded), "context_dependence": (("code", "context", "place"), dependence.swapaxes(0, 1))},
        {"context": codes, "code": codes, "place": place, "time": np.arange(c.patch_frames) / c.rate_hz,
         "start_s": ("place", np.array(c.patch_starts)[place - 1])},
        _attrs(model),
    )  # fmt: skip


def transitions(codes, n_codes=None):
    """How often each code follows each code inside a window.

    Parameters
    ----------
    codes : xarray.Dataset, or list of them
        `model.codes(trials)` of one session, or of several sessions by the same model. The value -1 (no code) is skipped.
    n_codes : int, optional
        Size of the codebook. If None, the highest code found plus 1.

    Returns
    -------
    xarray.Dataset
        `count` (code, next_code) int; `probability` (code, next_code), whose rows sum to 1, or are NaN for a code that nothing follows.

    Raises
    ------
    QfError
        If no code is given, or codes come from different models.
    """
    found, n, attrs = _several(codes, n_codes)
    count = np.zeros((n, n), int)
    for part in found:
        one, following = part[:, :-1].ravel(), part[:, 1:].ravel()
        both = (one >= 0) & (following >= 0)
        count += np.bincount(n * one[both] + following[both], minlength=n * n).reshape(n, n)
    total = count.sum(1, keepdims=True)
    probability = np.where(total > 0, count / np.maximum(total, 1), np.nan)
    dims = ("code", "next_code")
    return xr.Dataset({"count": (dims, count), "probability": (dims, probability)}, {d: np.arange(n) for d in dims}, attrs)


def run_lengths(codes, n_codes=None):
    """Count the runs of one code inside a window (bursts), and measure their lengths.

    Parameters
    ----------
    codes, n_codes
        As for `transitions`.

    Returns
    -------
    xarray.Dataset
        `runs` (code, length) int: number of runs of `length` patches; `number` (code) int: number of all runs; `mean_length` (code) float: in
        patches, NaN for a code without runs; `longest` (code) int: in patches. A run is cut at the end of its window.

    Raises
    ------
    QfError
        If no code is given, or codes come from different models.
    """
    found, n, attrs = _several(codes, n_codes)
    length = np.arange(1, max(part.shape[1] for part in found) + 1)
    runs = np.zeros((n, len(length)), int)
    for part in found:
        starts = np.ones(part.shape, bool)
        starts[:, 1:] = part[:, 1:] != part[:, :-1]
        first = np.flatnonzero(starts)
        of, long = part.ravel()[first], np.diff(np.append(first, part.size))
        np.add.at(runs, (of[of >= 0], long[of >= 0] - 1), 1)
    number, places = runs.sum(1), runs @ length
    return xr.Dataset(
        {
            "runs": (("code", "length"), runs),
            "number": ("code", number),
            "mean_length": ("code", np.where(number > 0, places / np.maximum(number, 1), np.nan)),
            "longest": ("code", (length * (runs > 0)).max(1)),
        },
        {"code": np.arange(n), "length": length},
        attrs,
    )


def reconstruction_error(truth, codes):
    """Measure how much of each observation quantisation loses (Fig. A-7).

    Parameters
    ----------
    truth : xarray.Dataset
        `trials.dataset()` of one session.
    codes : xarray.Dataset
        `model.codes(trials)`.

    Returns
    -------
    xarray.Dataset
        float64. `rms` (trial, neuron): RMS error over the window, in units of the signal; `explained` (trial, neuron): 1 - squared error / squared
        deviation from the window's mean. Both are NaN where the window isn't whole. attrs: rms and explained over all observations together.

    Raises
    ------
    QfError
        If the two are not from these calls, are of different sessions, or have no whole window in common.
    """
    signal = next((name for name in ("dff", "zscore") if name in truth), None)
    if signal is None or "reconstruction" not in codes:
        raise QfError("truth, codes: expected trials.dataset() and model.codes(trials), found something else. Pass them in this order.")
    if truth.attrs.get("session") != codes.attrs.get("session"):
        raise QfError(f"codes: expected those of {truth.attrs.get('session')}, found {codes.attrs.get('session')}. Take both from the same trials.")
    # aligned only by trial and neuron: the two may differ in other coords
    x, y = (a.reset_coords(drop=True).transpose("trial", "neuron", "time") for a in (truth[signal], codes["reconstruction"]))
    x, y = xr.align(x, y, join="inner")
    error = np.square(x.values.astype(np.float64) - y.values).mean(-1)
    deviation = x.values.var(-1, dtype=np.float64)
    whole = np.isfinite(error)
    if not whole.any():
        raise QfError("codes: expected a whole window that truth has, too, found none. Take both from the same trials.")
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = np.where(deviation > 0, 1 - error / deviation, np.nan)
        overall = float(1 - error[whole].sum() / deviation[whole].sum())
    dims = ("trial", "neuron")
    return xr.Dataset(
        {"rms": (dims, np.sqrt(error)), "explained": (dims, explained)},
        {d: x[d].values for d in dims},
        {**_kept(codes.attrs), "rms": float(np.sqrt(error[whole].mean())), "explained": overall, "observations": int(whole.sum()), "signal": signal},
    )


def _autoencoder(model):
    if getattr(model, "task", None) != "codes":
        hint = "Pass model.autoencoder." if hasattr(model, "autoencoder") else "Load one with qf_toolkit.load(folder)."
        raise QfError(f"model: expected an auto-encoder, found {type(model).__name__}. {hint}")
    if not model.has_codes:
        raise QfError(
            "model: expected an auto-encoder with codes, found one without a codebook (quantise=False). Pass one that was pre-trained with it."
        )
    return model


def _attrs(model):
    """The attrs of a result that a model gives without any trials."""
    kept = {"seed": model.seed, "simulated": model.simulated}  # None in models saved before they were kept
    kept = {name: int(value) for name, value in kept.items() if value is not None}
    return {"model": model.digest(), **kept, "normalise": model.normalise, "signal": model.window.signal}


def _kept(attrs):
    return {name: attrs[name] for name in ORIGIN if name in attrs}


def _places(config):
    return {"patch": np.arange(1, config.patches + 1), "start_s": ("patch", config.patch_starts)}


def _whole(name, value, low, high):
    """`value` as an int. Raises QfError if it is no whole number from `low` to `high`."""
    if not isinstance(value, int | float | np.number) or value != value or not low <= value <= high or int(value) != value:
        raise QfError(f"{name}: expected {low} to {high}, found {value!r}. Choose one of these.")
    return int(value)


def _checked(model, sequences, name="sequences"):
    """Sequences of codes as an int64 array (..., patch). Raises QfError if they are none of this model."""
    c = _autoencoder(model).config
    if isinstance(sequences, xr.DataArray) and "patch" in sequences.dims:
        sequences = sequences.transpose(..., "patch")
    try:
        found = np.asarray(sequences)
    except (ValueError, TypeError):  # sequences of different lengths, or on another device
        found = np.array(None)
    if found.ndim == 0 or found.shape[-1] != c.patches:
        what = "something else" if found.ndim == 0 else f"{found.shape[-1]}"
        raise QfError(f"{name}: expected {c.patches} codes each, one a patch, found {what}. Pass an array whose last dim is the patches.")
    if found.dtype.kind not in "iuf" or (found.dtype.kind == "f" and not (found == np.rint(found)).all()):
        raise QfError(f"{name}: expected whole numbers, the codes, found values of type {found.dtype}. Leave out what is missing, and pass integers.")
    wrong = found[(found < 0) | (found >= c.codes)]
    if wrong.size:
        hint = "-1 marks windows that are not whole: leave them out." if wrong.flat[0] == -1 else "Take codes of this model."
        raise QfError(f"{name}: expected codes from 0 to {c.codes - 1}, found {int(wrong.flat[0])}. {hint}")
    return found.astype(np.int64)


def _patches(config, windows):
    """Cut windows (..., time) into patches (..., patch, frame), NaN in the padding."""
    out = np.full((*windows.shape[:-1], config.patches * config.patch_frames), np.nan, np.float32)
    start = config.baseline_patches * config.patch_frames - config.n_baseline
    out[..., start : start + windows.shape[-1]] = windows
    return out.reshape(*windows.shape[:-1], config.patches, config.patch_frames)


def _add_patches(model, part, codes, sums, frames):
    """Add the measured patches of one session to `sums` (code, frame), and their number to `frames` (code, frame)."""
    c = model.config
    x = model.prepare(part).dataset()[model.window.signal][..., c.first : c.first + c.n_baseline + c.n_response]
    divisor = np.array([model.divisor(str(n)) for n in x["neuron"].values], np.float32)[:, None]
    inside = np.isfinite(_patches(c, np.zeros(x.shape[-1])))  # (patch, frame)
    step = max(1, CHUNK // max(1, x.shape[1]))
    for at in range(0, len(x), step):
        whole = codes[at : at + step, :, 0] >= 0
        patches = _patches(c, (x.values[at : at + step] / divisor)[whole])
        taken = codes[at : at + step][whole]
        for frame, of in enumerate(inside.T):
            sums[:, frame] += np.bincount(taken[:, of].ravel(), patches[:, of, frame].ravel(), minlength=c.codes)
            frames[:, frame] += np.bincount(taken[:, of].ravel(), minlength=c.codes)


def _several(codes, n_codes):
    """The codes of one or several sessions as arrays (window, patch), the size of the codebook, and the attrs that name their origin."""
    parts = list(codes) if isinstance(codes, list | tuple) else [codes]
    found = []
    for part in parts:
        part = part["code"] if isinstance(part, xr.Dataset) and "code" in part else part
        if not isinstance(part, xr.DataArray) or "patch" not in part.dims:
            raise QfError(f"codes: expected model.codes(trials), or a list of them, found {type(part).__name__}. Pass `code` with a dim patch.")
        found.append(part.transpose(..., "patch").values.reshape(-1, part.sizes["patch"]))
    highest = max((int(part.max()) for part in found if part.size), default=-1)
    if highest < 0:
        raise QfError("codes: expected at least one code, found none. Choose trials with whole windows.")
    if n_codes is not None and n_codes <= highest:
        raise QfError(
            f"n_codes: expected at least {highest + 1}, since code {highest} is there, found {n_codes}. Leave it out, or pass model.config.codes."
        )
    origins = [_kept(part.attrs) for part in parts]
    if len({o["model"] for o in origins if "model" in o}) > 1:
        raise QfError("codes: expected those of one model, found several: a code means something else in each. Take codes of the same model.")
    attrs = {name: value for name, value in origins[0].items() if all(o.get(name) == value for o in origins)}
    if len(parts) > 1:
        joined = {name: "+".join(str(o[name]) for o in origins) for name in ("data", "session") if all(name in o for o in origins)}
        attrs |= {**joined, "simulated": int(all(o.get("simulated") for o in origins))}
    return found, highest + 1 if n_codes is None else int(n_codes), attrs
