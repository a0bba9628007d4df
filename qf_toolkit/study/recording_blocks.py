"""The parts of a page that a template puts into HTML: sections of sentences, tables and pictures. The template escapes names from recordings."""

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..plots.style import style


@dataclass
class Section:
    """A section of a page.

    Attributes
    ----------
    id : str
        Anchor of the section in the page.
    title : str
    blocks : list of dict
        What `text`, `note`, `missing`, `heading`, `lines`, `table` and `picture` return, in order.
    """

    id: str
    title: str
    blocks: list = field(default_factory=list)

    def add(self, *blocks: dict) -> "Section":
        """Add blocks at the end; returns the section itself."""
        self.blocks += blocks
        return self


def text(words: str) -> dict:
    """A paragraph."""
    return {"kind": "text", "text": words}


def note(words: str) -> dict:
    """A paragraph in smaller letters, on how a number was made."""
    return {"kind": "note", "text": words}


def missing(words: str) -> dict:
    """A paragraph that says which part is missing, and why."""
    return {"kind": "missing", "text": words}


def heading(words: str) -> dict:
    """A heading inside a section."""
    return {"kind": "heading", "text": words}


def lines(words: Iterable[str]) -> dict:
    """A list of sentences."""
    return {"kind": "list", "lines": list(words)}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", folded: str = "", models: Iterable[str] = ()) -> dict:
    """A table.

    Parameters
    ----------
    head : sequence of str
        Names of the columns.
    rows : iterable of sequence
        Cells; numbers are rounded to three digits, NaN and None become a dash.
    caption : str
    folded : str
        The line that unfolds the table; "" shows it at once.
    models : iterable of str
        First cells of the rows that are set in bold.

    Returns
    -------
    dict
    """
    cells = [list(row) for row in rows]
    numbers = [i for i in range(len(head)) if any(_is_number(row[i]) for row in cells)]
    shown = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in cells]
    return {
        "kind": "table",
        "head": list(head),
        "rows": shown,
        "numbers": numbers,
        "caption": caption,
        "folded": folded,
        "models": list(models),
    }


def picture(draw: Callable[[Any], None], *, size: tuple[float, float], alt: str, caption: str, columns: int = 1, **options: Any) -> dict:
    """A picture, as an svg inside the page.

    Parameters
    ----------
    draw : callable
        Takes the axes (an array of them if there are several columns) and draws on them.
    size : tuple of float
        Width and height, inches.
    alt : str
        What a reader who can't see the picture is told.
    caption : str
    columns : int
        Axes beside each other.
    **options
        Of `Figure.subplots`.

    Returns
    -------
    dict
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # a figure without pyplot: no window, no backend and no global state of the caller's notebook is touched
    with style():
        fig = Figure(figsize=size)
        FigureCanvasAgg(fig)
        draw(fig.subplots(1, columns, **options))
        return picture_of(fig, alt=alt, caption=caption)


def picture_of(fig: Any, *, alt: str, caption: str) -> dict:
    """A finished matplotlib figure as a picture; see `picture`."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return {"kind": "picture", "uri": f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}", "alt": alt, "caption": caption}


def number(value: Any, digits: int = 3) -> str:
    """A number in at most `digits` significant digits; a dash for NaN and None.

    Examples
    --------
    >>> number(0.012345), number(1234.5), number(12), number(float("nan"))
    ('0.0123', '1,234', '12', '-')
    """
    if value is None or pd.isna(value):
        return "-"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def share(value: Any) -> str:
    """A share as whole percent; a dash for NaN and None.

    Examples
    --------
    >>> share(0.256), share(0.0042)
    ('26 %', '0.4 %')
    """
    if value is None or pd.isna(value):
        return "-"
    return f"{100 * value:.0f} %" if abs(value) >= 0.01 or value == 0 else f"{100 * value:.1g} %"


def interval(low: Any, high: Any, form: Callable[[Any], str] = number) -> str:
    """An interval in brackets; "" if an end is missing.

    Examples
    --------
    >>> interval(0.1, 0.25, share), interval(float("nan"), 1.0)
    ('[10 %, 25 %]', '')
    """
    return "" if pd.isna(low) or pd.isna(high) else f"[{form(low)}, {form(high)}]"


def decimals(value: Any, digits: int = 2) -> str:
    """A number with two decimals, or as many as asked for; a dash for NaN and None.

    Examples
    --------
    >>> decimals(-0.001), decimals(1.005, 1), decimals(None)
    ('0.00', '1.0', '-')
    """
    return "-" if value is None or pd.isna(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def lower(by: float, low: float, high: float) -> str:
    """By which share something is lower, or higher, with its interval.

    Examples
    --------
    >>> lower(0.1, 0.05, 0.15), lower(-0.1, -0.15, -0.05)
    ('10 % lower [5 %, 15 %]', '10 % higher [5 %, 15 %]')
    """
    word, sign = ("lower", 1) if by >= 0 else ("higher", -1)
    return f"{share(sign * by)} {word} {interval(*sorted((sign * low, sign * high)), share)}".rstrip()


def counted(n: int, word: str) -> str:
    """A count with its word.

    Examples
    --------
    >>> counted(1, "trial"), counted(2000, "trial")
    ('1 trial', '2,000 trials')
    """
    return f"{n:,} {word}{'s' * (n != 1)}"


def natural(key: str) -> list:
    """What sorts keys of conditions by the numbers in them.

    Examples
    --------
    >>> sorted(["g/angle=90", "g/angle=135", "g/blank"], key=natural)
    ['g/angle=90', 'g/angle=135', 'g/blank']
    """
    parts = re.split(r"(-?\d+(?:\.\d+)?)", key)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def _is_number(cell: Any) -> bool:
    return not isinstance(cell, str) and cell is not None
