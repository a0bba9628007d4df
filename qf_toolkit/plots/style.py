"""The look of the figures, as a context; where what they show comes from; and saving them."""

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
TRUTH = "0.15"  # what was measured is near black in every figure
# attrs that tell where a result comes from
# fmt: off
ORIGIN = (
    "session", "data", "fingerprint", "model", "models", "forecaster", "seed", "seeds", "model_seed", "draws", "draw_seed", "choice_seed", "moved",
    "perplexity", "init",
)
# fmt: on

_sources = weakref.WeakKeyDictionary()  # figure -> what it was drawn from


@contextmanager
def style():
    """The look of the toolkit's figures as a context manager; nothing global is changed.

    Only the style's own settings are put back at the end. Matplotlib's contexts put back all of them, also that a notebook has been made
    interactive meanwhile by its first figure, and no later figure would be shown.

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
    """The colours of the style in their order, '#rrggbb'; told apart by colour-blind readers, too.

    Examples
    --------
    >>> palette()[0].startswith("#")
    True
    """
    import seaborn as sns

    with style():
        return list(sns.color_palette().as_hex())


def axes_or_current(ax):
    """`ax`, or the current one where it is None."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.gca()
    return ax


def credit(target, *sources):
    """Remember on a figure where what it shows comes from, and say on it where that is simulated.

    Parameters
    ----------
    target : matplotlib Axes or Figure
    *sources : xarray.Dataset, xarray.DataArray, pandas.DataFrame or mapping
        What is drawn; their attrs `data`, `model`, `seed`, `session`, `simulated`... are read.
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
    """What is known of where a figure's content comes from.

    Returns
    -------
    dict
        simulated (bool), sources (list of dict: hashes of data and model, seed, session...), versions and the time.
    """
    return {
        **_sources.get(fig, {"simulated": False, "sources": []}),
        "versions": versions(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save_figure(fig, stem, formats=("svg", "png"), **facts):
    """Write a figure in several formats, text editable, and beside it `<stem>.json`: where what it shows comes from.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    stem : str or Path
        Path without the ending, which each format adds.
    formats : sequence of str
    **facts
        What else the sidecar shall say (title, parameters of a notebook...); anything JSON holds.

    Returns
    -------
    list of Path
        The figure's files; the sidecar is not among them.

    Raises
    ------
    QfError
        If the disk is full or the folder can't be written.
    """
    paths = [Path(f"{stem}.{kind}") for kind in ([formats] if isinstance(formats, str) else formats)]
    note = {"figure": [p.name for p in paths], **facts, **provenance(fig)}
    write_text(Path(f"{stem}.json"), json.dumps(note, indent=2, default=str) + "\n")  # first: by it the files are known as ours, also after a kill
    for path in paths:
        kind = path.suffix[1:]
        # no date inside, so that the same figure is the same file
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        with atomic_path(path) as tmp, style():
            fig.savefig(tmp, format=kind, metadata=metadata)
    return paths


def _plain(value):
    return value.item() if hasattr(value, "item") else value
