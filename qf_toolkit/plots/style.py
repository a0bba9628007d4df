"""The look of the figures, as a context, and saving them."""

from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_params_from_file, rcParams

from .._files import atomic_path

STYLE = Path(__file__).with_name("qf.mplstyle")
TRUTH = "0.15"  # what was measured is near black in every figure


@contextmanager
def style():
    """The look of the toolkit's figures as a context manager; nothing global is changed.

    Only the style's own settings are put back at the end. Matplotlib's contexts put back all of them, also that a notebook has been made
    interactive meanwhile by its first figure, and no later figure would be shown.

    Examples
    --------
    >>> with style():  # doctest: +SKIP
    ...     fig, ax = plt.subplots()
    """
    ours = rc_params_from_file(STYLE, use_default_template=False)
    before = {name: rcParams[name] for name in ours}
    rcParams.update(ours)
    try:
        yield
    finally:
        rcParams.update(before)


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
