"""The look of the figures as a context manager, the record of where their content comes from, and how they are saved."""

import json
import weakref
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from matplotlib import rc_params_from_file, rcParams
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .._files import atomic_path, write_text
from .._version import versions

STYLE = Path(__file__).with_name("qf.mplstyle")
TRUTH = "0.15"  # measured traces are near black in every figure
# attrs that name where a result comes from
# fmt: off
ORIGIN = (
    "session", "data", "fingerprint", "model", "models", "forecaster", "seed", "seeds", "model_seed", "draws", "draw_seed", "choice_seed", "moved",
    "perplexity", "init",
)
# fmt: on

_sources = weakref.WeakKeyDictionary()  # figure -> record of the data it was drawn from


@contextmanager
def style():
    """The look of the toolkit's figures as a context manager, which leaves no global setting changed.

    At the end it restores only the settings that the style sets. Matplotlib's own contexts restore all settings. The first figure of a notebook makes
    matplotlib interactive; such a context would undo this, and the notebook would show no later figure.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     fig, ax = plt.subplots()
    """
    ours = rc_params_from_file(STYLE, use_default_template=False)
    before = {name: rcParams[name] for name in ours}
    rcParams.update(ours)
    try:
        yield
    finally:
        rcParams.update(before)


def palette():
    """The colours of the style in their order. Colour-blind readers can distinguish them, too.

    Returns
    -------
    list of str
        Colours as '#rrggbb'.

    Examples
    --------
    >>> palette()[0].startswith("#")
    True
    """
    import seaborn as sns

    with style():
        return list(sns.color_palette().as_hex())


def axes_or_current(ax):
    """Return `ax`, or the current axes of pyplot if `ax` is None."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.gca()
    return ax


def credit(target, *sources):
    """Record where the content of a figure comes from, and write "simulated data" on the figure if it is simulated.

    Parameters
    ----------
    target : matplotlib Axes or Figure
    *sources : xarray.Dataset, xarray.DataArray, pandas.DataFrame or mapping
        The data that are drawn. Their attrs `data`, `model`, `seed`, `session`, `simulated`... are read; a mapping holds these itself.
    """
    fig = target.get_figure(root=True)
    known = _sources.setdefault(fig, {"simulated": False, "sources": []})
    for source in sources:
        attrs = getattr(source, "attrs", source)
        found = {name: _plain(attrs[name]) for name in ORIGIN if name in attrs}
        if found and found not in known["sources"]:
            known["sources"].append(found)
        known["simulated"] |= bool(attrs.get("simulated"))
    if known["simulated"] and not any(t.get_gid() == "simulated" for t in fig.texts):
        fig.text(0.995, 0.995, "simulated data", ha="right", va="top", color="0.45", style="italic", fontsize=7, gid="simulated")
        engine = fig.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine) and tuple(engine.get()["rect"]) == (0, 0, 1, 1):
            engine.set(rect=(0, 0, 1, 1 - min(11 / 72 / fig.get_figheight(), 0.2)))  # room for the line, so that no axes lie on it


def provenance(fig):
    """The record of where a figure's content comes from.

    Parameters
    ----------
    fig : matplotlib.figure.Figure

    Returns
    -------
    dict
        simulated (bool), sources (list of dict: digests of data and model, seed, session...), versions (dict), and made, the present time in ISO
        format, UTC.
    """
    return {
        **_sources.get(fig, {"simulated": False, "sources": []}),
        "versions": versions(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save_figure(fig, stem, formats=("svg", "png"), **facts):
    """Write a figure in several formats, with editable text, and a sidecar `<stem>.json` that names where its content comes from.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    stem : str or Path
        Path without the ending, which each format adds.
    formats : sequence of str
        Formats that matplotlib can write: svg, png, pdf...
    **facts
        More entries for the sidecar (title, parameters of a notebook...), of any type that JSON can hold.

    Returns
    -------
    list of Path
        The figure's files, without the sidecar.

    Raises
    ------
    QfError
        If the disk is full or the folder can't be written.
    """
    paths = [Path(f"{stem}.{kind}") for kind in ([formats] if isinstance(formats, str) else formats)]
    note = {"figure": [p.name for p in paths], **facts, **provenance(fig)}
    write_text(Path(f"{stem}.json"), json.dumps(note, indent=2, default=str) + "\n")  # first: it marks the files as ours, also after a kill
    for path in paths:
        kind = path.suffix[1:]
        # the file holds no date, so that the same figure gives the same bytes
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        with atomic_path(path) as tmp, style():
            fig.savefig(tmp, format=kind, metadata=metadata)
    return paths


def _plain(value):
    return value.item() if hasattr(value, "item") else value
