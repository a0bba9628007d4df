"""Sessions in memory as a source of trials, as `Store` is for Sessions on disk."""

import pandas as pd
import xarray as xr

from ..errors import QfError, SessionError
from .schema import session_key, trial_table, validate

NO_TRIALS = ["session", "subject", "trial", "stimulus", "condition"]  # columns of an index without any trial


class Memory:
    """Sessions in memory, looked up by their keys.

    Parameters
    ----------
    sessions : list of xarray.Dataset
        Valid Sessions with different keys.

    Raises
    ------
    SessionError
        If one is not valid, or two share a key.
    """

    def __init__(self, sessions):
        self._sessions = {session_key(validate(ds)): ds for ds in sessions}
        if len(self._sessions) < len(sessions):
            raise SessionError("session: expected unique keys subject/session, found a key twice. Rename one.")

    def __getitem__(self, key):
        return self._sessions[key]

    def keys(self):
        """Keys of the Sessions, `subject/session`, a sorted list of str."""
        return sorted(self._sessions)

    def header(self, key):
        """The Session of a key, its traces included; see `Store.header`."""
        return self._sessions[key]

    @property
    def index(self):
        """A DataFrame with one row per trial of every Session; see `Store.index`."""
        return join_tables([keyed_table(key, self._sessions[key]) for key in self.keys()])


def keyed_table(key, ds):
    """The trial table of a Session as a DataFrame, with the columns session and subject first."""
    table = trial_table(ds)
    table.insert(0, "session", key)
    table.insert(1, "subject", ds.attrs["subject"])
    return table


def join_tables(tables):
    """Join the trial tables of several Sessions into one DataFrame."""
    tables = [t for t in tables if len(t)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=NO_TRIALS)


def as_source(source):
    """Convert what a user passes to `cut` or `slide` to a source of trials.

    Parameters
    ----------
    source : Store, xarray.Dataset, or list of xarray.Dataset
        A store, one Session or several.

    Returns
    -------
    Store or Memory
        A Store is returned as it is; Sessions become a Memory.

    Raises
    ------
    QfError
        If `source` is neither.
    """
    if isinstance(source, xr.Dataset):
        source = [source]
    if isinstance(source, list | tuple):
        source = Memory(source)
    if not hasattr(source, "header"):
        raise QfError(
            f"source: expected a store, a Session or a list of Sessions, found {type(source).__name__}. Open a store with open_store(path)."
        )
    return source
