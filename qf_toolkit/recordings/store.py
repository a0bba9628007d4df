"""A store: a folder with one netCDF file a Session, and a flat index of the trials of all of them."""

import os
import re
import shutil
import warnings
from collections import OrderedDict
from pathlib import Path
from urllib.parse import quote, unquote

import pandas as pd
import xarray as xr

from .._files import atomic_path, fill_netcdf
from ..errors import DamagedFileError, QfError, SessionError, UnknownKeyError, did_you_mean
from .session import session_key, trial_table, validate
from .trials import cut

CACHED_SESSIONS = 4  # a full Visual Coding session is 115 MB


class Store:
    """A folder of Sessions.

    Parameters
    ----------
    path : str or Path
        The folder.
    create : bool
        Make the folder where it is missing.

    Raises
    ------
    QfError
        If the folder is missing and `create` is False.

    Examples
    --------
    >>> store = Store("my_store", create=True)  # doctest: +SKIP
    >>> store.add(session)  # doctest: +SKIP
    >>> store.trials(stimulus="drifting_gratings")  # doctest: +SKIP
    """

    def __init__(self, path, create=False):
        self.path = Path(path)
        if self.path.is_file():
            raise QfError(f"store: expected a folder, found the file {self.path}. Give the folder that holds the .nc files.")
        if not self.path.is_dir():
            if not create:
                raise QfError(f"store: expected a folder, found nothing at {self.path}. Make one with `qf import` or `qf simulate`.")
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise QfError(f"store: could not make the folder {self.path}: {e.strerror}. Choose a folder you can write to.") from e
        self._cache = OrderedDict()
        self._headers = {}

    def __repr__(self):
        keys = self.keys()
        return f"<Store {self.path}: {len(keys)} sessions, {len(self.index)} trials>"

    def keys(self):
        """Keys of the Sessions, `subject/session`, sorted."""
        return sorted(self._files())

    def _files(self):
        """{key: path}; the key is in the file's name, so that listing a store opens nothing."""
        return {_key_of(p): p for p in self.path.glob("*.nc")}

    def __contains__(self, key):
        return key in self._files()

    def file(self, key):
        """Path of a Session's file.

        Raises
        ------
        UnknownKeyError
            If the store holds no such Session.
        """
        files = self._files()
        if key not in files:
            raise UnknownKeyError(f"session: {key!r} is not in {self.path}; {did_you_mean(key, sorted(files))}")
        return files[key]

    def add(self, session, overwrite=False):
        """Write a Session, all of it or nothing.

        Parameters
        ----------
        session : xarray.Dataset
            A valid Session.
        overwrite : bool
            Replace a Session of the same key; the former file stays beside it as `*.previous`.

        Returns
        -------
        str
            The key.

        Raises
        ------
        SessionError
            If the Session is not valid.
        QfError
            If the key is there already and `overwrite` is False, or the disk is full.
        """
        validate(session)
        key = session_key(session)
        path, previous = self.path / _file_name(key), _previous(self.path / _file_name(key))
        taken = QfError(f"session: {key} is in {self.path} already. Pass overwrite=True (--overwrite) to replace it.")
        if path.exists() and not overwrite:
            raise taken
        try:
            with atomic_path(path, exclusive=not overwrite) as tmp:
                fill_netcdf(session, tmp)
                # a damaged file does not push out the good version kept before it
                if overwrite and path.exists() and not (previous.exists() and _is_damaged(path)):
                    previous.unlink(missing_ok=True)
                    try:
                        os.link(path, previous)
                    except OSError:  # exFAT and some network drives have no links
                        shutil.copyfile(path, previous)
        except FileExistsError as e:  # another process was first
            raise taken from e
        self._cache.pop(key, None)
        self._headers.pop(key, None)
        return key

    def __getitem__(self, key):
        """A Session, loaded and validated; the last few stay in memory.

        Raises
        ------
        UnknownKeyError, DamagedFileError, SessionError
            If it is not there, can't be read, or is not valid.
        """
        if key not in self._cache:
            ds = self._read(key, load=True)
            self._cache[key] = ds
            while len(self._cache) > CACHED_SESSIONS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def header(self, key):
        """A Session without its traces, kept in memory once read: what choosing and splitting trials needs. Raises as `store[key]`."""
        if key not in self._headers:
            ds = self._read(key, load=False)
            try:
                self._headers[key] = ds.drop_vars(list(ds.data_vars)).load()  # traces, and what was recorded beside them
            finally:
                ds.close()
        return self._headers[key]

    def _read(self, key, load):
        path = self.file(key)
        try:
            return _open(path, load)
        except DamagedFileError as error:
            if not _previous(path).exists():
                raise
            warnings.warn(f"{error} Using the previous version, {_previous(path).name}, instead.", stacklevel=3)
            return _open(_previous(path), load)

    def info(self, key):
        """Attributes and sizes of a Session, without reading its traces.

        Returns
        -------
        dict
            The attrs, and neurons, frames, trials, minutes, flagged.
        """
        ds = self.header(key)
        flags = ds["flag"].values.astype(str)
        return {
            **ds.attrs,
            "neurons": ds.sizes["neuron"],
            "frames": ds.sizes["frame"],
            "trials": ds.sizes["trial"],
            "minutes": round(float(ds["frame_time"][-1] - ds["frame_time"][0]) / 60, 2),
            "flagged": {r: int((flags == r).sum()) for r in sorted(set(flags) - {""})},
        }

    @property
    def index(self):
        """Every trial of every Session, a row each: session, subject, trial, onset_frame, offset_frame, stimulus, condition, block, features."""
        tables = []
        for key in self.keys():
            ds = self.header(key)
            table = trial_table(ds)
            table.insert(0, "session", key)
            table.insert(1, "subject", ds.attrs["subject"])
            if len(table):
                tables.append(table)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["session", "subject", "trial", "stimulus", "condition"])

    def neurons(self, subject=None):
        """Every neuron of every Session, or of those of a subject, a row each.

        Parameters
        ----------
        subject : str, optional

        Returns
        -------
        pandas.DataFrame
            session, subject, neuron (key), flag. A matched cell has a row in each of its sessions.
        """
        tables = [pd.DataFrame(columns=["session", "subject", "neuron", "flag"])]
        for key in self.keys():
            mine = key.split("/")[0]
            if subject is None or mine == subject:
                with self._read(key, load=False) as ds:  # not kept: of hundreds of sessions the keys alone are wanted
                    tables.append(pd.DataFrame({"session": key, "subject": mine, "neuron": ds["neuron"].values, "flag": ds["flag"].values}))
        return pd.concat(tables[len(tables) > 1 :], ignore_index=True)

    def trials(self, stimulus=None, **options):
        """Onset-aligned windows; see `qf_toolkit.recordings.trials.cut`, which takes the options."""
        return cut(self, stimulus=stimulus, **options)


def open_store(path):
    """Open the store at `path`; see `Store`."""
    return Store(path)


def _open(path, load):
    try:
        ds = xr.load_dataset(path, engine="h5netcdf") if load else xr.open_dataset(path, engine="h5netcdf")
    except (OSError, RuntimeError, KeyError, ValueError, AttributeError) as e:
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise DamagedFileError(
            f"{path}: can't be read ({reason}). The file is cut short or no Session. Delete it and import the recording again."
        ) from e
    try:
        return validate(ds)
    except SessionError as e:
        ds.close()
        raise type(e)(f"{path}: {e}") from e


def _is_damaged(path):
    try:
        _open(path, load=False).close()
    except DamagedFileError:
        return True
    except SessionError:
        pass
    return False


def _file_name(key):
    """`subject/session` as a file name: the slash becomes two underscores, odd characters are percent-coded."""
    return "__".join(_quote(p) for p in key.split("/")) + ".nc"


def _quote(name):
    # a single underscore stays readable; two in a row, or one at an end, would be taken for the slash
    text = quote(name, safe=" +-")
    return re.sub(r"(?<=_)_|^_|_$", "%5F", text)


def _key_of(path):
    return "/".join(unquote(p) for p in path.stem.split("__"))


def _previous(path):
    return path.with_suffix(".nc.previous")
