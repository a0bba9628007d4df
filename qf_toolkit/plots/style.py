"""The look of the figures, as a context, and saving them."""

from pathlib import Path

from matplotlib import style as mpl_style

from .._files import atomic_path

STYLE = Path(__file__).with_name("qf.mplstyle")
TRUTH = "0.15"  # what was measured is near black in every figure


def style():
    """The look of the toolkit's figures as a context manager; nothing global is changed.

    Examples
    --------
    >>> with style():  # doctest: +SKIP
    ...     fig, ax = plt.subplots()
    """
    return mpl_style.context(STYLE)


def save_figure(fig, stem, formats=("svg", "png")):
    """Write a figure in several formats, text editable.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    stem : str or Path
        Path without the ending, which each format adds.
    formats : sequence of str

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    QfError
        If the disk is full or the folder can't be written.
    """
    paths = []
    for kind in formats:
        path = Path(f"{stem}.{kind}")
        # no date inside, so that the same figure is the same file
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        with atomic_path(path) as tmp, style():
            fig.savefig(tmp, format=kind, metadata=metadata)
        paths.append(path)
    return paths


def mark_simulated(fig):
    """Say once, on the figure itself, that its data are simulated."""
    if not any(t.get_gid() == "simulated" for t in fig.texts):
        fig.text(0.995, 0.995, "simulated data", ha="right", va="top", color="0.45", style="italic", fontsize=7, gid="simulated")
