"""A store: a folder with one netCDF file per Session, and a flat index of the trials of all Sessions."""

import os
import re
import shutil
import stat
import warnings
from collections import OrderedDict
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from .._files import atomic_path
from ..errors import DamagedFileError, QfError, SessionError, UnknownKeyError, did_you_mean
from .clock import recorded_s
from .hdf5 import as_path, readable_file, refused
from .memory import join_tables, keyed_table
from .schema import session_key, validate
from .session_file import read_session, write_session
from .sliding import slide
from .trials import cut

CACHED_SESSIONS = 4  # a full Visual Coding session takes 115 MB
MAX_NAME = 255  # bytes; the longest file name that most disks allow


class Store:
    """A folder of Sessions.

    Parameters
    ----------
    path : str or Path
        The folder.
    create : bool
        Make the folder if it is missing.

    Raises
    ------
    QfError
        If the folder is missing and `create` is False, it can't be made or read, or `path` is a file.

    Examples
    --------
    >>> session = qf.from_arrays(np.ones((2, 300)), subject="mouse", session="one", rate_hz=30.0)
    >>> mine = Store("my_store", create=True)
    >>> mine.add(session)
    'mouse/one'
    >>> mine.keys()
    ['mouse/one']
    >>> len(store.trials(stimulus="drifting_gratings"))
    17
    """

    def __init__(self, path, create=False):
        self.path = as_path(path, "a store")
        try:
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = None
        except OSError as e:
            raise refused(self.path, e) from e
        if mode is not None and not stat.S_ISDIR(mode):
            raise QfError(f"store: expected a folder, found the file {self.path}. Give the folder that holds the .nc files.")
        if mode is None:
            if not create:
                raise QfError(f"store: expected a folder, found nothing at {self.path}. Make one with `qf import` or `qf simulate`.")
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise QfError(f"store: could not make the folder {self.path}: {e.strerror}. Choose a folder you can write to.") from e
        # each entry holds the content of a file and the version that was read, since files may change while a store is open
        self._cache, self._headers, self._tables = OrderedDict(), {}, {}
        self._index = None
        self._told = set()

    def __repr__(self):
        keys = self.keys()
        return f"<Store {self.path}: {len(keys)} sessions, {len(self.index)} trials>"

    def keys(self):
        """Keys of the Sessions, `subject/session`, a sorted list of str; raises QfError if the folder can't be read."""
        return sorted(self._files())

    def _files(self):
        """Map each key to its path. The file's name holds the key, so that listing a store opens no file; folders, FIFOs and devices are ignored."""
        found = {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.name.endswith(".nc") and (entry.is_file() or (entry.is_symlink() and not os.path.exists(entry))):
                        key = _key_of(self.path / entry.name)
                        if key in found:
                            raise QfError(f"{self.path}: expected one file of {key}, found {found[key].name} and {entry.name}. Remove one of them.")
                        found[key] = self.path / entry.name
        except OSError as e:
            raise refused(self.path, e) from e
        return found

    def __contains__(self, key):
        return key in self._files()

    def file(self, key):
        """Path of a Session's file.

        Raises
        ------
        UnknownKeyError
            If the store holds no such Session.
        """
        if isinstance(key, str) and len(key.split("/")) == 2:
            path = self.path / file_name(key)  # the name that `add` uses: try it before listing the folder
            if path.is_file():
                return path
        files = self._files()
        if key not in files:
            raise UnknownKeyError(f"session: {key!r} is not in {self.path}; {did_you_mean(key, sorted(files))}")
        return files[key]

    def add(self, session, overwrite=False):
        """Write a Session, either whole or not at all.

        Parameters
        ----------
        session : xarray.Dataset
            A valid Session.
        overwrite : bool
            Replace a Session of the same key. The replaced file is kept beside the new one as `*.previous`.

        Returns
        -------
        str
            The key of the Session.

        Raises
        ------
        SessionError
            If the Session is not valid, its file's name would be too long, or the store holds a key that differs from its own only in case.
        QfError
            If the store holds the key and `overwrite` is False, or the disk is full.
        """
        key = session_key(validate(session))
        path = self._free_path(key)
        previous = previous_version(path)
        taken = QfError(f"session: {key} is in {self.path} already. Pass overwrite=True (--overwrite) to replace it.")
        if path.exists() and not overwrite:
            raise taken
        try:
            with atomic_path(path, exclusive=not overwrite) as tmp:
                write_session(session, tmp)
                # a damaged file must not replace the good version that is kept as *.previous
                if overwrite and path.exists() and not (previous.exists() and _is_damaged(path)):
                    previous.unlink(missing_ok=True)
                    try:
                        os.link(path, previous)
                    except OSError:  # exFAT and some network drives have no hard links
                        shutil.copyfile(path, previous)
        except FileExistsError as e:  # another process wrote the key in the meantime
            raise taken from e
        for kept in (self._cache, self._headers, self._tables):
            kept.pop(key, None)
        return key

    def _free_path(self, key):
        """The path to which a Session of that key is written. Refuses a key whose file can't be written here, or not on every computer."""
        path = self.path / file_name(key)
        if len(previous_version(path).name) > MAX_NAME:
            raise SessionError(
                f"session: expected a key whose file has a name of at most {MAX_NAME} bytes, found {len(path.name)} for {key}. Shorten it."
            )
        same = [k for k in self._files() if k != key and k.casefold() == key.casefold()]
        if same:
            raise SessionError(
                f"session: expected keys that differ in more than case, found {key} beside {same[0]}: some disks keep one of the two. Rename it."
            )
        if path.exists() and not path.is_file():
            raise QfError(f"{path}: expected a file, found something else. Move it away.")
        return path

    def __getitem__(self, key):
        """Load a Session, validate it and check its digests. The last few Sessions stay in memory.

        Raises
        ------
        QfError
            If the system refuses to read the file.
        UnknownKeyError
            If the store does not hold the key.
        DamagedFileError
            If the file can't be read or was altered.
        SessionError
            If its content is not a valid Session, or a Session of another key.
        """
        version, kept = self._version(key), self._cache.get(key)
        if kept is None or kept[0] != version:
            self._cache[key] = (version, self._read(key, load=True))
            while len(self._cache) > CACHED_SESSIONS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key][1]

    def header(self, key):
        """A Session without its traces and behaviour. Trials are chosen and split from it. Once read it stays in memory. Raises as `store[key]`."""
        version, kept = self._version(key), self._headers.get(key)
        if kept is None or kept[0] != version:
            ds = self._read(key, load=False)
            kept = self._headers[key] = version, ds.drop_vars(list(ds.data_vars))  # the traces and the behaviour
        return kept[1]

    def _version(self, key):
        """The time of change, size and inode of a Session's file: they differ between two files that had the same name in turn."""
        path = self.file(key)
        try:
            found = os.stat(path)
        except OSError:
            found = os.stat(readable_file(path, "the file of a Session"))  # raises an error that states the reason
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self, key, load):
        path = self.file(key)
        try:
            ds = read_session(path, load)
        except DamagedFileError as error:
            previous = previous_version(path)
            if not previous.exists():
                raise
            if load and not _is_damaged(path):  # its header can be read and trials are chosen by it: the previous version's traces may not fit them
                raise DamagedFileError(f"{error} The version before is kept as {previous.name}: rename it to {path.name} to use it.") from error
            warnings.warn(f"{error} Using the previous version, {previous.name}, instead.", stacklevel=3)
            ds = read_session(previous, load)
        if session_key(ds) != key:
            raise SessionError(
                f"{path}: expected the session {key}, as the file's name says, found {session_key(ds)}. Call the file {file_name(session_key(ds))}, "
                "or remove it if it is a copy."
            )
        return ds

    def info(self, key):
        """Attributes and sizes of a Session, without reading its traces.

        Returns
        -------
        dict
            The attrs of the Session, and: neurons, frames and trials (int), minutes (float, jumps not counted), flagged {reason: number of neurons}.

        Raises
        ------
        QfError
            As `store[key]`.
        """
        ds = self.header(key)
        flags = ds.variables["flag"].values
        reasons, counts = np.unique(flags[flags != ""].astype(str), return_counts=True)
        time = ds.variables["frame_time"].values
        return {
            **ds.attrs,
            "neurons": ds.sizes["neuron"],
            "frames": ds.sizes["frame"],
            "trials": ds.sizes["trial"],
            "minutes": round(recorded_s(time, float(ds.attrs["rate_hz"])) / 60, 2),
            "flagged": {str(r): int(c) for r, c in zip(reasons, counts, strict=True)},
        }

    @property
    def index(self):
        """A DataFrame with one row per trial of every Session.

        Its columns are session, subject, trial, onset_frame, offset_frame, stimulus, condition, block and the features of all Sessions.
        """
        tables = {key: self._table(key) for key in self.keys()}
        self._tell_copies()
        kept = self._index
        # `_table` returns the same object until the file changes: joining again is needed only if one is another object
        if kept is None or kept[0].keys() != tables.keys() or any(kept[0][key] is not table for key, table in tables.items()):
            kept = self._index = tables, join_tables(list(tables.values()))
        return kept[1].copy()

    def _table(self, key):
        """The trial table of a Session, kept in memory together with its header."""
        header, kept = self.header(key), self._tables.get(key)
        if kept is None or kept[0] is not header:
            kept = self._tables[key] = header, keyed_table(key, header)
        return kept[1]

    def _tell_copies(self):
        """Warn once about two Sessions with the same traces: a model that is trained on one of them has seen the other."""
        first = {}
        for key, (_, header) in sorted(self._headers.items()):
            mark = header.attrs.get("fingerprint")
            other = first.setdefault(mark, key)
            if mark is not None and other != key and (other, key) not in self._told:
                self._told.add((other, key))
                warnings.warn(
                    f"session: {other} and {key} hold the same recording (their traces are equal): what is trained on one has seen the other. "
                    "Remove one of them.",
                    stacklevel=3,
                )

    def neurons(self, subject=None):
        """List the neurons of all Sessions, or of the Sessions of one subject.

        Parameters
        ----------
        subject : str, optional
            Only this subject. If None, all subjects.

        Returns
        -------
        pandas.DataFrame
            One row per neuron and Session, with the columns session, subject, neuron (key) and flag. A cell that is matched across sessions has
            one row for each of them.
        """
        tables = [pd.DataFrame(columns=["session", "subject", "neuron", "flag"])]
        for key in self.keys():
            mine = key.split("/")[0]
            if subject is None or mine == subject:
                ds = self.header(key)
                tables.append(
                    pd.DataFrame({"session": key, "subject": mine, "neuron": ds.variables["neuron"].values, "flag": ds.variables["flag"].values})
                )
        return pd.concat(tables[len(tables) > 1 :], ignore_index=True)

    def trials(self, stimulus=None, **options):
        """Cut windows around the onsets of trials; `options` are those of `qf_toolkit.recordings.trials.cut`. Returns Trials."""
        return cut(self, stimulus=stimulus, **options)

    def windows(self, **options):
        """Slide windows over the recordings; `options` are those of `qf_toolkit.recordings.sliding.slide`. Returns Trials."""
        return slide(self, **options)


def open_store(path):
    """Open the store in the folder `path`; see `Store`. Raises QfError if the folder is missing.

    Examples
    --------
    >>> qf.simulate("data/sim", n_neurons=3, repeats=3, directions=2, temporal_frequencies=1, rate_hz=10, gap_s=5)  # doctest: +ELLIPSIS
    <...>
    >>> open_store("data/sim").keys()
    ['sim1/A']
    """
    return Store(path)


def _is_damaged(path):
    try:
        read_session(path, load=False)
    except DamagedFileError:
        return True
    except QfError:
        pass
    return False


def file_name(key):
    """The file name of a key `subject/session`: the slash becomes two underscores, and odd characters are percent-encoded."""
    return "__".join(_quote(p) for p in key.split("/")) + ".nc"


def _quote(name):
    # a single underscore stays as it is; two in a row, or one at an end, could be taken for the slash and are encoded
    text = quote(name, safe=" +-")
    return re.sub(r"(?<=_)_|^_|_$", "%5F", text)


def _key_of(path):
    return "/".join(unquote(p) for p in path.stem.split("__"))


def previous_version(path):
    return path.with_suffix(".nc.previous")
