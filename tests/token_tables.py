"""Made-up tokens of neurons."""

import numpy as np
import xarray as xr


def named(values, prefix="m/c", **attrs):
    """Rows as neurons m/c0, m/c1..."""
    values = np.asarray(values)
    coords = {"neuron": np.array([f"{prefix}{i}" for i in range(len(values))], object)}
    return xr.DataArray(values, coords, ("neuron", "width")[: values.ndim], attrs=attrs)


def gaussian(n, width=8, seed=0):
    return named(np.random.default_rng(seed).normal(size=(n, width)))


def clusters(seed=0, n=20, kinds=4, width=16):
    """Tokens in well separated groups, and the groups."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(kinds), n)
    return named(10 * rng.normal(size=(kinds, width))[label] + rng.normal(size=(len(label), width))), label


def text_labels(label):
    return named(np.array([f"gratings/orientation={45 * i}" for i in label], object))


def probe_data(n=100, seed=0):
    rng = np.random.default_rng(seed)
    tokens = gaussian(n, 10, seed)
    label = (tokens.values @ rng.normal(size=(10, 3))).argmax(1)
    columns = {
        "linear": tokens.values @ rng.normal(size=10) + 5, "noise": rng.normal(size=n), "constant": np.full(n, 3),
        "label": text_labels(label).values, "chance": text_labels(rng.permutation(label)).values,
    }  # fmt: skip
    return tokens, xr.Dataset({k: ("neuron", v) for k, v in columns.items()}, {"neuron": tokens["neuron"]}, {"data": "d", "simulated": 1})
