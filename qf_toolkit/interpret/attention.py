"""Attention rollout: how much of each input token reaches the token that a prediction is read from (paper appendix VI, Fig. A-8).

Rollout (Abnar and Zuidema 2020) averages the attention over heads, replaces half of each layer's attention by the identity, which stands for the
residual connection, and multiplies the layers. The paper names the method and gives no details. The gradient-weighted variant (Chefer et al. 2021) is
here, too, since plain rollout ignores what is predicted: a model may attend to a token that has no effect on the prediction.
"""

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..estimators.interface import Observations, origin

BY = ("stimulus", "condition", "neuron", "observation")
MOST_BYTES = 2e9  # size of a result
CHUNK = 1024  # observations that pass through the model together; fewer if their maps hold more than CHUNK_VALUES numbers
CHUNK_VALUES = 2**22
MASK = "[MASK]"


def rollout(maps):
    """Cumulative rollout of attention maps after each layer.

    Parameters
    ----------
    maps : float array or tensor, shape (..., layer, head, S, S)
        Attention of a sequence of S tokens. Each row sums to 1 and holds how much a token takes from each token of the layer before.

    Returns
    -------
    float array or tensor, shape (..., layer, S, S)
        How much each token after a layer holds of each token of the input; rows sum to 1. With A_l the mean over the heads of layer l and
        A'_l = (A_l + I) / 2, the rollouts are A'_1, A'_2 A'_1, ...; the last one is the rollout of the whole stack.

    Raises
    ------
    QfError
        If the maps are not square, or lack a dimension.
    """
    if maps.ndim < 4 or maps.shape[-1] != maps.shape[-2] or 0 in maps.shape[-4:]:
        raise QfError(f"maps: expected shape (..., layer, head, S, S), found {tuple(maps.shape)}.")
    steps = _halved(maps.mean(-3))
    out = [steps[..., 0, :, :]]
    for layer in range(1, steps.shape[-3]):
        out.append(steps[..., layer, :, :] @ out[-1])
    return torch.stack(out, -3) if torch.is_tensor(maps) else np.stack(out, -3)


def attention_rollout(model, trials, *, by="stimulus", gradient=False, progress=False):
    """Attention maps of a model and their rollout, averaged over the observations of each group.

    Parameters
    ----------
    model : QuantFormerClassifier or QuantFormerForecaster
    trials : Trials
        The model reads only their baselines. Baselines with a missing value are left out.
    by : {"stimulus", "condition", "neuron", "observation"}
        What forms a group; "observation" averages nothing.
    gradient : bool
        Add `gradient_rollout`, which takes about three times as long.
    progress : bool
        Show a bar.

    Returns
    -------
    xarray.Dataset
        float32, averaged in float64; every row (over `source`) sums to 1. The group dim comes first and has the name `by`. For "observation" there
        are two group dims, trial and neuron (`predict` joins several sessions in the same way), and a missing baseline gives NaN.

        - `attention` (group, layer, head, token, source): the maps;
        - `rollout` (group, layer, token, source): the cumulative rollout, averaged over observations; the last layer is that of the whole stack;
        - `head_rollout` (group, layer, head, token, source): the rollout of the stack if that layer had only that head;
          its mean over heads is the last layer of `rollout`;
        - `gradient_rollout` (group, token, source): the rollout of A * dA, clipped at 0, averaged over heads, with normalised rows. dA is the
          gradient of the prediction with respect to the map A. The prediction is the logit of active less that of inactive, or the sum over the
          masked places of the likeliest code's logit. A row in which no attention raises the prediction becomes the identity;
        - `observations` (group) int64: number of observations in the average.

        Coords: layer and head from 1; token and source are names, [CLS] [NEURON] [STIM] t1 t2... for a classifier, [NEURON] [STIM] t1 t2...
        [MASK]1 [MASK]2... for a forecaster; `start_s` (source), seconds from the onset at which a patch or a masked patch begins, NaN for the
        learned tokens. If the first patch is padded, its start lies inside the padding. attrs: those of `origin`, kind and patch_s (seconds).

    Raises
    ------
    QfError
        If the model has no attention to roll out, `by` is unknown, no trial is given, no baseline is whole, or the result would exceed 2 GB.
    UnknownKeyError
        If the model lacks a neuron or a condition.
    """
    _check_model(model)
    if by not in BY:
        raise QfError(f"by: expected one of {', '.join(BY)}, found {by!r}.")
    if not len(trials):
        raise QfError("trials: expected at least one trial, found none. Choose others.")
    trials = model.prepare(trials)
    total = sum(len(p) * len(p.neurons) for p in trials.by_session())
    with tqdm(total=total, desc="rollout", unit="observation", disable=not progress, leave=False) as bar:
        arrays, coords = _each(model, trials, gradient, bar) if by == "observation" else _averaged(model, trials, by, gradient, bar)
    if not arrays["observations"][1].any():
        raise QfError(
            f"trials: expected observations with a whole baseline, found none among {total} (values missing, or F0 too small). "
            "Choose other trials, or look at the recording with `qf info`."
        )
    session = {"session": trials.sessions[0]} if len(trials.sessions) == 1 else {}
    return _dataset(model, arrays, coords, {**origin(trials, model), **session})


def rollout_of(model, context, neurons, conditions, *, gradient=False):
    """The rollout of arrays of one session, observation by observation. A live view calls it.

    Parameters
    ----------
    model : QuantFormerClassifier or QuantFormerForecaster
    context : float32 array, shape (trial, neuron, time)
        The baselines, in units of the window's signal.
    neurons : list of str
        One key per neuron of `context`.
    conditions : list of str
        One key per trial.
    gradient : bool
        Add `gradient_rollout`.

    Returns
    -------
    xarray.Dataset
        As from `attention_rollout` by observation: dims trial and neuron come first, and a baseline with a missing value gives NaN. Coords neuron and
        condition (trial). It carries no digest of data or weights, since these take longer than the rollout of one observation.

    Raises
    ------
    QfError
        If the model has no attention to roll out, `context` has another shape, or the result would exceed 2 GB.
    UnknownKeyError
        If the model lacks a neuron or a condition.
    """
    _check_model(model)
    neurons, conditions = [str(n) for n in neurons], [str(c) for c in conditions]
    context, expected = np.asarray(context, np.float32), (len(conditions), len(neurons), model.autoencoder.config.n_baseline)
    if context.shape != expected or not context.size:
        raise QfError(f"context: expected shape (trial, neuron, time) = {expected}, none of them 0, found {context.shape}.")
    _check_size(model, len(conditions) * len(neurons), 4)
    usable = np.isfinite(context).all(-1)
    arrays = _arrays(model, Observations(np.nan_to_num(context), neurons, conditions), gradient)
    for _, values in arrays.values():
        values[~usable] = np.nan
    arrays["observations"] = ("trial", "neuron"), usable.astype(np.int64)
    return _dataset(model, arrays, {"neuron": np.array(neurons, object), "condition": ("trial", np.array(conditions, object))}, {})


def readout(data, row=None):
    """The row of a rollout (or of maps) that a prediction is read from.

    Parameters
    ----------
    data : xarray.DataArray or Dataset
        With dim token.
    row : str, optional
        Name of a token, or "[MASK]" for the mean over all masked places. If None, "[CLS]" for a classifier and "[MASK]" for a forecaster.

    Returns
    -------
    xarray.DataArray or Dataset
        As `data`, without dim token.

    Raises
    ------
    UnknownKeyError
        If `data` has no such token.
    """
    names = [str(t) for t in data["token"].values]
    row = ("[CLS]" if "[CLS]" in names else MASK) if row is None else row
    masked = [i for i, name in enumerate(names) if name.startswith(MASK)]
    if row == MASK and masked:
        return data.isel(token=masked).mean("token", keep_attrs=True)
    if row not in names:
        raise UnknownKeyError(f"row: {row!r} is no token here; {did_you_mean(row, names, most=len(names))}")
    return data.isel(token=names.index(row), drop=True)


def _each(model, trials, gradient, bar):
    """Arrays and coords of every single observation."""
    _check_size(model, len(trials) * len(trials.neurons), 4)

    def answer(asked):
        bar.update(len(asked.conditions) * len(asked.neurons))
        return _arrays(model, asked, gradient)

    out = model.labelled(trials, answer).drop_vars("time")
    arrays = {name: (v.dims, v.values) for name, v in out.data_vars.items()}
    arrays["observations"] = ("trial", "neuron"), np.isfinite(arrays["rollout"][1][..., -1, 0, 0]).astype(np.int64)
    return arrays, {name: (c.dims, c.values) for name, c in out.coords.items()}


def _averaged(model, trials, by, gradient, bar):
    """Arrays and coords of the mean over each group, computed for a few trials and neurons at a time."""
    keys = trials.neurons if by == "neuron" else sorted(trials.table[by].unique())
    _check_size(model, len(keys), 8)
    position = {key: i for i, key in enumerate(keys)}
    sums, count = {}, np.zeros(len(keys), np.int64)
    for part in trials.by_session():
        ds = part.dataset()
        context = ds[part.window.signal].values[..., : ds.attrs["n_baseline"]]
        neurons, conditions = ds["neuron"].values, ds["condition"].values
        group = np.array([position[str(k)] for k in ds[by].values])
        width = min(len(neurons), _chunk(model))
        height = _chunk(model) // width
        for i in range(0, len(conditions), height):
            for j in range(0, len(neurons), width):
                rows, columns = slice(i, i + height), slice(j, j + width)
                found = rollout_of(model, context[rows, columns], neurons[columns], conditions[rows], gradient=gradient)
                # the dim that the groups divide goes first
                values = {name: v.values.swapaxes(0, 1) if by == "neuron" else v.values for name, v in found.data_vars.items()}
                mine, n = group[columns if by == "neuron" else rows], values.pop("observations")
                for g in np.unique(mine):
                    count[g] += n[mine == g].sum()
                    for name, v in values.items():
                        total = sums.setdefault(name, np.zeros((len(keys), *v.shape[2:])))
                        total[g] += np.nansum(v[mine == g], axis=(0, 1), dtype=np.float64)
                bar.update(n.size)
    with np.errstate(invalid="ignore"):  # NaN where nothing was averaged
        means = {name: ((by, *_dims(name)), (total / count.reshape(-1, *[1] * (total.ndim - 1))).astype(np.float32)) for name, total in sums.items()}
    return {**means, "observations": (by, count)}, {by: np.array(keys, object)}


@torch.no_grad()
def _arrays(model, asked, gradient):
    """{name: (dims, float32 array)} for `Observations`."""
    with model.inputs(asked) as (x, neuron, stimulus, _):
        parts = [_of(model, x[at], neuron[at], stimulus[at], gradient) for at in torch.arange(len(x), device=x.device).split(_chunk(model))]
    shape = (len(asked.conditions), len(asked.neurons))
    out = {}
    for name in parts[0]:
        values = torch.cat([p[name] for p in parts])
        out[name] = (("trial", "neuron", *_dims(name)), values.numpy().reshape(*shape, *values.shape[1:]))
    return out


def _of(model, x, neuron, stimulus, gradient):
    """The results of some observations, tensors (b, ...) on the CPU."""
    maps, gradients = _maps_and_gradients(model, x, neuron, stimulus) if gradient else (model.module(x, neuron, stimulus, need_maps=True)[1], None)
    through = rollout(maps)
    out = {"attention": maps, "rollout": through, "head_rollout": _head_rollout(maps, through)}
    if gradients is not None:
        raising = (maps * gradients).clamp(min=0).mean(2, keepdim=True)
        total = raising.sum(-1, keepdim=True)
        eye = torch.eye(maps.shape[-1], device=maps.device)
        out["gradient_rollout"] = rollout(torch.where(total > torch.finfo(total.dtype).tiny, raising / total, eye))[:, -1]
    return {name: value.float().cpu() for name, value in out.items()}


def _head_rollout(maps, through):
    """Rollout of the stack with one layer's mean over heads replaced by each of its heads, (B, layer, head, S, S)."""
    steps, n = _halved(maps.mean(2)), maps.shape[1]
    eye = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device).expand_as(steps[:, 0])
    after = [eye]
    for layer in range(n - 1, 0, -1):
        after.append(after[-1] @ steps[:, layer])
    after = torch.stack(after[::-1], 1)[:, :, None]
    before = torch.cat([eye[:, None], through[:, :-1]], 1)[:, :, None]
    return after @ _halved(maps) @ before


def _maps_and_gradients(model, x, neuron, stimulus):
    """Maps (B, layer, H, S, S), and the gradient of the prediction with respect to them, of the same shape."""
    module, maps = model.module, []
    # the maps that the stack returns are copies outside the graph of the prediction; the hooks catch the maps inside the graph
    hooks = [b.attention.register_forward_hook(lambda _module, _given, out: maps.append(out[1])) for b in module.encoder.stack.blocks]
    try:
        with torch.enable_grad():
            # the weights are frozen: the graph begins at the input
            logits, _ = module(x.detach().requires_grad_(), neuron, stimulus, need_maps=True)
            gradients = torch.autograd.grad(model.evidence(logits).sum(), maps)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([m.detach() for m in maps], 1), torch.stack(gradients, 1)


def _halved(a):
    """(A + I) / 2."""
    size = a.shape[-1]
    return (a + (torch.eye(size, dtype=a.dtype, device=a.device) if torch.is_tensor(a) else np.eye(size, dtype=a.dtype))) / 2


def _dims(name):
    return ("layer",) * (name != "gradient_rollout") + ("head",) * (name in ("attention", "head_rollout")) + ("token", "source")


def _tokens(model):
    """Names of the tokens of a sequence, and the second at which each begins: NaN for the learned tokens in front."""
    c = model.autoencoder.config
    front, n = model.sequence()
    patches = [f"t{i + 1}" if i < c.baseline_patches else f"{MASK}{i + 1 - c.baseline_patches}" for i in range(n)]
    return front + patches, [np.nan] * len(front) + c.patch_starts[: len(patches)]


def _dataset(model, arrays, coords, attrs):
    """A Dataset of {name: (dims, array)} with the coords of tokens, layers and heads. Each variable has the attrs, too, to keep its origin."""
    tokens, starts = _tokens(model)
    names, c = np.array(tokens, object), model.autoencoder.config
    attrs = {**attrs, "kind": model.kind, "patch_s": c.patch_frames / c.rate_hz}
    own = {"layer": np.arange(1, c.layers + 1), "head": np.arange(1, c.heads + 1), "token": names, "source": names, "start_s": ("source", starts)}
    # built in one call: each later assignment takes xarray as long as the model takes for an observation
    return xr.Dataset({name: (dims, values, attrs) for name, (dims, values) in arrays.items()}, {**coords, **own}, attrs)


def _check_model(model):
    if not getattr(model, "has_attention", False):
        name = getattr(model, "name", type(model).__name__)
        raise QfError(
            f"model: expected a QuantFormerClassifier or a QuantFormerForecaster, found {name!r} ({type(model).__name__}), which has no attention to "
            "roll out. Pass one that fit_classifier, fit_forecaster or load gave."
        )


def _chunk(model):
    """Number of observations that pass through the model together."""
    c = model.autoencoder.config
    return min(CHUNK, max(1, CHUNK_VALUES // (c.layers * c.heads * len(_tokens(model)[0]) ** 2)))


def _check_size(model, n, itemsize):
    c, size = model.autoencoder.config, len(_tokens(model)[0])
    total = n * itemsize * c.layers * (2 * c.heads + 1) * size**2
    if total > MOST_BYTES:
        raise QfError(
            f"trials: expected at most {MOST_BYTES / 1e9:g} GB of maps, found {total / 1e9:.3g} GB ({n} times {c.layers} layers of {c.heads} heads). "
            'Choose less trials or neurons, or average by="stimulus" or "condition".'
        )
