"""`qf info`: what a store or one of its sessions holds, in at most 100 columns."""

import sys
import textwrap

from ..errors import QfError

WIDTH = 100
IGNORED = {"ignored_columns": "columns left out", "ignored_behaviour": "not taken over"}  # attributes in which an importer says so
LISTED = 12  # conditions of a stimulus that are named one by one


def show_info(args):
    """Run `qf info`: a table of the sessions, or all about one of them. Returns the exit code."""
    from ..recordings.store import Store

    store = Store(args.store)
    return print_store(store) if args.session is None else _print_session(store, args.session)


def print_store(store):
    """Print a row a session, and what is shown in them.

    Parameters
    ----------
    store : Store

    Returns
    -------
    int
        2 where a file can't be read, else 0.
    """
    import pandas as pd

    rows, damaged = [], []
    for key in sorted(store.keys()):
        try:
            info = store.info(key)
            rows.append([key, info["neurons"], info["minutes"], f"{info['rate_hz']:.4g}", info["signal"], info["trials"], _flagged(info) or "-"])
        except QfError as error:
            damaged.append(error)
    if rows:
        table = pd.DataFrame(rows, columns=["session", "neurons", "minutes", "Hz", "signal", "trials", "flagged"])
        names = table["session"].map(len).max()
        table["session"] = _fit(table["session"], max(20, names - _excess(table)))
        table["flagged"] = _fit(table["flagged"], max(10, table["flagged"].map(len).max() - _excess(table)))
        print(table.to_string(index=False))
    elif not damaged:
        print(f"{store.path} holds no session yet.")
    for error in damaged:
        print(f"qf: {error}", file=sys.stderr)
    if damaged:
        return 2
    index = store.index
    for stimulus, trials in index.groupby("stimulus") if len(index) else ():
        n = trials["session"].nunique()
        print(f"\n{stimulus}: {len(trials)} trials of {trials['condition'].nunique()} conditions in {n} session{'s' * (n > 1)}")
        _print_conditions(trials)
    return 0


def _print_session(store, key):
    from ..recordings.session import epoch_table, trial_features, trial_table

    info, header = store.info(key), store.header(key)
    for name, value in info.items():
        if name not in ("flagged", *IGNORED):
            _print_field(name, value)
    _print_field("flagged", _flagged(info) or "none")
    trials = trial_table(header)
    features = trial_features(header)
    _print_field("columns kept", ", ".join(features) or "none")
    for line in _beside(store, key) or ["none"]:
        _print_field("behaviour kept", line)
    for name, words in IGNORED.items():
        if info.get(name):
            _print_field(words, info[name])
    for stimulus, rows in trials.groupby("stimulus"):
        print(f"\n{stimulus}: {len(rows)} trials of {rows['condition'].nunique()} conditions in {rows['block'].nunique()} blocks")
        _print_conditions(rows)
    epochs = epoch_table(header)
    without = epochs[~epochs["stimulus"].isin(trials["stimulus"])]
    if len(without):
        print("\nstretches without trials (frames, the last one excluded)")
        print(without.to_string(index=False))
    return 0


def _print_conditions(rows):
    """The trials of each condition of a stimulus; of many conditions how often they are shown, with the first and the last of them."""
    counts = rows["condition"].value_counts(sort=False)
    named = [c.partition("/")[2] for c in counts.index]
    if len(counts) <= LISTED:
        _print_wrapped("; ".join(f"{name}: {n}" for name, n in sorted(zip(named, counts, strict=True), key=lambda pair: _natural(pair[0]))))
        return
    times = counts.value_counts().sort_index()
    shown = [f"{k} condition{'s' * (k > 1)} {n} time{'s' * (n > 1)}" for n, k in times.items()]
    if len(shown) > 4:
        shown = [f"each {times.index.min()} to {times.index.max()} times"]
    named.sort(key=_natural)
    _print_wrapped(f"{', '.join(shown)}; from {named[0]} to {named[-1]}")


def _natural(name):
    """Sorts image=9 before image=10."""
    parts = []
    for part in name.replace("=", ",").split(","):
        try:
            parts.append((0, float(part), ""))
        except ValueError:
            parts.append((1, 0.0, part))
    return parts


def _beside(store, key):
    """A line for each variable that was recorded beside the traces: its sampling, units and length."""
    import numpy as np
    import xarray as xr

    lines = []
    with xr.open_dataset(store.file(key), engine="h5netcdf") as ds:
        for name, variable in ds.data_vars.items():
            if variable.dims == ("neuron", "frame"):
                continue
            sizes = " x ".join(f"{n} {dim}" for dim, n in variable.sizes.items())
            seconds = next((ds[d].values for d in variable.dims if d in ds.coords and ds[d].dtype.kind == "f" and ds.sizes[d] > 1), None)
            rate = f", {1 / np.median(np.diff(seconds)):.4g} Hz" if seconds is not None else ", one a frame" if "frame" in variable.dims else ""
            lines.append(f"{name}{rate}, {variable.attrs.get('units', 'no units')} ({sizes})")
    return lines


def _flagged(info):
    return ", ".join(f"{n} {why}" for why, n in info["flagged"].items())


def _print_field(name, value):
    for i, line in enumerate(textwrap.wrap(str(value), WIDTH - 17) or [""]):
        print(f"{name if i == 0 else '':16} {line}".rstrip())


def _print_wrapped(text):
    print(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  "))


def _excess(table):
    return max(0, len(table.to_string(index=False).splitlines()[0]) - WIDTH)


def _fit(column, width):
    """A column of text, none longer than `width`; the middle of a long one is left out, so that its end can still be told."""
    return [text if len(text) <= width else f"{text[: width - width // 2 - 2]}..{text[len(text) - width // 2 :]}" for text in column]
