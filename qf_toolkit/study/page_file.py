"""HTML files that the toolkit writes as one page: marked as its own, so that no file of the user's is replaced unasked."""

from pathlib import Path

from .._files import write_text
from ..errors import QfError

MARK = '<meta name="generator" content="qf_toolkit'
HEAD_BYTES = 4096  # the mark stands near the beginning


def is_page(path: str | Path) -> bool:
    """Whether a file is a page that the toolkit wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    bool
        False if there is no such file or it can't be read.
    """
    try:
        with open(path, "rb") as f:
            return MARK.encode() in f.read(HEAD_BYTES)
    except OSError:
        return False


def write_page(html: str, path: str | Path, overwrite: bool = False) -> Path:
    """Write a page, either whole or not at all.

    Parameters
    ----------
    html : str
        It holds `MARK` near its beginning.
    path : str or Path
    overwrite : bool
        Replace a file that is no page of the toolkit.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    QfError
        If there is something else (unless `overwrite`), the disk is full, or the folder can't be written.
    """
    path = Path(path)
    if path.exists() and not overwrite and not is_page(path):
        raise QfError(
            f"path: expected a new file or a page of qf_toolkit's, found {path}. Choose another name, or pass overwrite=True to replace it."
        )
    write_text(path, html)
    return path
