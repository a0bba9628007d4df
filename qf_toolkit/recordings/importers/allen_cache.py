"""The cache of the Allen Brain Observatory: its tables of containers and sessions, and session files that are downloaded on use.

The folder has allensdk's layout (`manifest.json`, `ophys_experiment_data/{id}.nwb`...), so that allensdk and qf_toolkit find each other's downloads.
"""

import contextlib
import http.client
import json
import socket
import threading
from pathlib import Path

import numpy as np
import pandas as pd

from ..._files import write_text
from ...errors import DamagedFileError, QfError, SessionError, UnknownKeyError, did_you_mean
from .allen import cache_classes, check_file
from .download import believed, fetch

PATIENCE_S = 60.0  # seconds to wait for an answer of the server
_LOCK = threading.Lock()
CONTAINERS = ("id", "targeted_structure", "imaging_depth", "cre_line", "reporter_line", "donor_name", "failed")
SESSIONS = ("id", "experiment_container_id", "session_type", "targeted_structure", "imaging_depth", "cre_line", "acquisition_age_days", "donor_name")
NAMES = {
    "experiment_container_id": "container", "targeted_structure": "area", "imaging_depth": "depth_um", "donor_name": "mouse", "acquisition_age_days": "age_days",
}  # fmt: skip


class AllenCache:
    """A folder of Visual Coding files with its tables.

    Parameters
    ----------
    manifest : str or Path
        The cache's manifest.json, or its folder. It is made if missing, unless `offline`.
    offline : bool
        Use only the files of the cache and send no request to a server.
    url : str, optional
        A server in place of api.brain-map.org, for example a mirror.

    Raises
    ------
    QfError
        If allensdk is missing, the manifest can't be read or made, or it is missing under `offline`.

    Examples
    --------
    >>> AllenCache("nowhere", offline=True)
    Traceback (most recent call last):
    qf_toolkit.errors.QfError: manifest: expected an existing cache, found nothing at nowhere. ...
    """

    def __init__(self, manifest, *, offline=False, url=None):
        self.path, self.offline = Path(manifest), offline
        if self.path.is_dir():
            self.path = self.path / "manifest.json"
        if offline and not self.path.is_file():
            raise QfError(f"manifest: expected an existing cache, found nothing at {self.path}. Check the path, or leave --manifest out to download.")
        cache_class, api_class = cache_classes()
        cache = self

        class Api(api_class):
            def template_query(self, template_name, entry_name, **kwargs):
                if entry_name == "all_eye_mapping_files":  # allensdk requests it with every table of sessions; we don't use it
                    return []
                return cache._ask(lambda: super(Api, self).template_query(template_name, entry_name, **kwargs), self.api_url)

        try:
            self.sdk = cache_class(manifest_file=str(self.path), api=Api(base_uri=url))
        except OSError as e:
            raise QfError(f"{self.path}: the cache can't be read or made ({e.strerror or e}). Choose another folder with --cache.") from e
        except Exception as e:  # allensdk raises ManifestVersionError, and KeyError or ValueError for a file that is not a manifest
            mend = "Give the folder's manifest.json, or its files by --files." if offline else "Take another folder with --cache."
            raise DamagedFileError(f"{self.path}: expected a manifest of allensdk, found something that it can't read ({_line(e)}). {mend}") from e

    def _ask(self, query, url):
        """Send a query to the server; returns a list of dicts, or raises QfError if there is no such answer."""
        if self.offline:
            raise QfError(f"{self.path}: the cache lacks what was asked for, and --manifest asks no server. Leave --manifest out to download it.")
        try:
            with _patience():
                answer = query()
        except (OSError, http.client.HTTPException) as e:
            mend = "Check the network and run the same again; for files that you have use --files."
            raise QfError(f"{url}: can't be reached ({_line(e)}). {mend}") from e
        except (ValueError, KeyError, TypeError) as e:
            raise QfError(f"{url}: expected an answer of the Allen API, found another one ({_line(e)}). Try again later.") from e
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise QfError(f"{url}: expected an answer of the Allen API, found {str(answer)[:80]!r}. Try again later.")
        return answer

    def containers(self, *, ids=None, area=None, cre_line=None, depth_um=None):
        """List the experiment containers.

        Parameters
        ----------
        ids : list of int, optional
            Keep only these containers; also those whose quality control failed.
        area, cre_line : list of str, optional
            Keep only these visual areas (VISp...) and driver lines (Cux2-CreERT2...).
        depth_um : list of int, optional
            Keep only these imaging depths, micrometres.

        Returns
        -------
        pandas.DataFrame
            One row per container: id, area, depth_um, cre_line, reporter_line, mouse, failed.

        Raises
        ------
        UnknownKeyError
            If no container has a given id, area, line or depth.
        QfError
            If no container is left, or the table is not in the cache and can't be downloaded.
        """
        self._have("EXPERIMENT_CONTAINERS", "get_experiment_containers")
        # a container whose quality control failed is left out, unless the user gives its id
        rows = pd.DataFrame(self.sdk.get_experiment_containers(include_failed=ids is not None), columns=CONTAINERS).rename(columns=NAMES)
        return _chosen(rows, {"id": ids, "area": area, "cre_line": cre_line, "depth_um": depth_um}, "container")

    def sessions(self, *, containers=None, types=None, area=None, cre_line=None, depth_um=None):
        """List the two-photon sessions.

        Parameters
        ----------
        containers : list of int, optional
            Keep only sessions of these containers; also those whose quality control failed.
        types : list of {"A", "B", "C", "C2"}, optional
            Keep only sessions of these types.
        area, cre_line, depth_um
            As in `AllenCache.containers`.

        Returns
        -------
        pandas.DataFrame
            One row per session: id (of the ophys experiment), container, session_type, area, depth_um, cre_line, age_days, mouse, and file (whether
            its file is in the cache).

        Raises
        ------
        UnknownKeyError, QfError
            As in `AllenCache.containers`.
        """
        self._have("EXPERIMENTS", "get_ophys_experiments")
        if not self.offline:  # so that later both tables can be listed without network
            self._have("EXPERIMENT_CONTAINERS", "get_experiment_containers")
        rows = pd.DataFrame(self.sdk.get_ophys_experiments(include_failed=containers is not None), columns=SESSIONS).rename(columns=NAMES)
        types = None if types is None else [f"three_session_{t.removeprefix('three_session_')}" for t in _several(types)]
        rows = _chosen(rows, {"container": containers, "session_type": types, "area": area, "cre_line": cre_line, "depth_um": depth_um}, "session")
        rows = rows.sort_values(["container", "session_type", "id"], ignore_index=True)
        return rows.assign(file=[self.path_of(i).is_file() for i in rows["id"]])

    def _have(self, key, query):
        """Make sure that a table is in the cache as a whole. An interrupted allensdk would leave half of one behind, and use it later."""
        path = Path(self.sdk.get_cache_path(None, getattr(self.sdk, f"{key}_KEY")))
        if path.is_file():
            try:
                if _is_table(json.loads(path.read_text(encoding="utf-8"))):
                    return
            except ValueError:
                pass
            if self.offline:
                raise DamagedFileError(f"{path}: expected the cache's table, found half of one. Leave --manifest out to download it again.")
        if self.offline:
            raise QfError(f"{path}: expected the cache's table, found none, and --manifest asks no server. Leave --manifest out to download it.")
        rows = getattr(self.sdk.api, query)()
        if not _is_table(rows):
            raise QfError(f"{self.sdk.api.api_url}: expected a table of the Allen API, found rows without what it should hold. Try again later.")
        write_text(path, json.dumps(rows))

    def path_of(self, experiment):
        """The path of the file of an ophys experiment, whether the file exists or not."""
        return Path(self.sdk.get_cache_path(None, self.sdk.EXPERIMENT_DATA_KEY, int(experiment)))

    def files(self):
        """Paths of the session files that are in the cache, sorted."""
        return sorted(self.path_of(0).parent.glob("[0-9]*.nwb"))

    def file(self, experiment, progress=True):
        """The path of the file of an ophys experiment; the file is downloaded unless it is there as a whole.

        Parameters
        ----------
        experiment : int
            Id of the ophys experiment.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Path

        Raises
        ------
        QfError
            If the file is not in the cache and can't be downloaded.
        """
        path = self.path_of(experiment)
        if self.offline:
            if not path.is_file():
                raise QfError(
                    f"{path}: session {experiment} is not in the cache, and --manifest asks no server. Leave --manifest out to download it."
                )
            return path
        if path.with_name(f"{path.name}.download.json").is_file() and believed(path):
            return path
        answer = self.sdk.api.template_query("brain_observatory_queries", "ophys_experiment_data", ophys_experiment_id=int(experiment))
        if not answer or "download_link" not in answer[0]:
            raise QfError(f"session {experiment}: the Allen API has no file for it. Choose another one: `qf allen list --sessions`.")
        return fetch(self.sdk.api.api_url + answer[0]["download_link"], path, check=_check, progress=progress, label=str(experiment))


def _is_table(rows):
    """Whether rows, as read from JSON, have the fields from which allensdk makes its tables."""
    needed = {"id", "imaging_depth", "targeted_structure", "specimen"}
    return isinstance(rows, list) and all(isinstance(r, dict) and needed <= r.keys() for r in rows)


@contextlib.contextmanager
def _patience():
    """Set the timeout of the process's sockets. allensdk sets none itself, and would wait for ever for a server that does not answer."""
    with _LOCK:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(PATIENCE_S)
        try:
            yield
        finally:
            socket.setdefaulttimeout(before)


def _several(value):
    return [value] if np.ndim(value) == 0 else value


def _check(path):
    """Check a file as `check_file` does, but raise DamagedFileError also for a file of another kind, such as a server's error page."""
    try:
        check_file(path)
    except SessionError as e:
        raise DamagedFileError(str(e)) from e


def _chosen(rows, wanted, what):
    every = rows
    for column, values in wanted.items():
        if values is None:
            continue
        values = _several(values)
        known = sorted(every[column].dropna().unique().tolist())
        for value in values:
            if value not in known:
                raise UnknownKeyError(f"{column}: no {what} of {value!r}; {did_you_mean(value, known)}")
        rows = rows[rows[column].isin(values)]
    if not len(rows):
        raise QfError(f"allen: no {what} is all of what was chosen together. Choose less.")
    return rows.reset_index(drop=True)


def _line(e):
    e = getattr(e, "reason", e)  # urllib wraps the original error
    return " ".join(str(getattr(e, "strerror", None) or e).split())[:160] or type(e).__name__
