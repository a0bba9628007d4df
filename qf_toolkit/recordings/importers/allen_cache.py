"""The Allen Brain Observatory's cache: its tables of containers and sessions, and the session files, downloaded when wanted.

The folder is allensdk's own (`manifest.json`, `ophys_experiment_data/{id}.nwb`...), so that either program finds what the other has fetched.
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

PATIENCE_S = 60.0  # for an answer of the server
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
        The cache's manifest.json; made where missing, unless `offline`.
    offline : bool
        Use what is there, ask nothing.
    url : str, optional
        Another server than api.brain-map.org, a mirror for example.

    Raises
    ------
    QfError
        If allensdk is missing, or there is no such manifest while `offline`, or it can't be read or made.

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
                if entry_name == "all_eye_mapping_files":  # asked for with every table of sessions, used for none of ours
                    return []
                return cache._ask(lambda: super(Api, self).template_query(template_name, entry_name, **kwargs), self.api_url)

        try:
            self.sdk = cache_class(manifest_file=str(self.path), api=Api(base_uri=url))
        except OSError as e:
            raise QfError(f"{self.path}: the cache can't be read or made ({e.strerror or e}). Choose another folder with --cache.") from e
        except Exception as e:  # allensdk's ManifestVersionError, and KeyError or ValueError of a file that is no manifest
            mend = "Give the folder's manifest.json, or its files by --files." if offline else "Take another folder with --cache."
            raise DamagedFileError(f"{self.path}: expected a manifest of allensdk, found something that it can't read ({_line(e)}). {mend}") from e

    def _ask(self, query, url):
        """An answer of the server; QfError where there is none."""
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
        """The experiment containers, a row each.

        Parameters
        ----------
        ids : list of int, optional
        area, cre_line : list of str, optional
            Visual area (VISp...) and driver line (Cux2-CreERT2...).
        depth_um : list of int, optional

        Returns
        -------
        pandas.DataFrame
            id, area, depth_um, cre_line, reporter_line, mouse, failed.

        Raises
        ------
        UnknownKeyError
            If an id, area, line or depth is in no container.
        QfError
            If the table is not in the cache and can't be asked for.
        """
        self._have("EXPERIMENT_CONTAINERS", "get_experiment_containers")
        # a container whose quality control failed is left out, unless asked for by its id
        rows = pd.DataFrame(self.sdk.get_experiment_containers(include_failed=ids is not None), columns=CONTAINERS).rename(columns=NAMES)
        return _chosen(rows, {"id": ids, "area": area, "cre_line": cre_line, "depth_um": depth_um}, "container")

    def sessions(self, *, containers=None, types=None, area=None, cre_line=None, depth_um=None):
        """The two-photon sessions, a row each.

        Parameters
        ----------
        containers : list of int, optional
        types : list of {"A", "B", "C", "C2"}, optional
        area, cre_line, depth_um
            As for `containers`.

        Returns
        -------
        pandas.DataFrame
            id (ophys experiment), container, session_type, area, depth_um, cre_line, age_days, mouse, file (whether it is in the cache).

        Raises
        ------
        UnknownKeyError, QfError
            As for `containers`.
        """
        self._have("EXPERIMENTS", "get_ophys_experiments")
        if not self.offline:  # so that both lists can be had without network later
            self._have("EXPERIMENT_CONTAINERS", "get_experiment_containers")
        rows = pd.DataFrame(self.sdk.get_ophys_experiments(include_failed=containers is not None), columns=SESSIONS).rename(columns=NAMES)
        types = None if types is None else [f"three_session_{t.removeprefix('three_session_')}" for t in _several(types)]
        rows = _chosen(rows, {"container": containers, "session_type": types, "area": area, "cre_line": cre_line, "depth_um": depth_um}, "session")
        rows = rows.sort_values(["container", "session_type", "id"], ignore_index=True)
        return rows.assign(file=[self.path_of(i).is_file() for i in rows["id"]])

    def _have(self, key, query):
        """See that a table is in the cache, whole: allensdk would leave half of one behind when interrupted, and believe it."""
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
        """Where the file of an ophys experiment lies, or would lie."""
        return Path(self.sdk.get_cache_path(None, self.sdk.EXPERIMENT_DATA_KEY, int(experiment)))

    def files(self):
        """The session files that are in the cache."""
        return sorted(self.path_of(0).parent.glob("[0-9]*.nwb"))

    def file(self, experiment, progress=True):
        """The file of an ophys experiment, downloaded where it is not there whole.

        Raises
        ------
        QfError
            If it is neither there nor to be had.
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
    """Whether rows are what allensdk makes its tables of."""
    needed = {"id", "imaging_depth", "targeted_structure", "specimen"}
    return isinstance(rows, list) and all(isinstance(r, dict) and needed <= r.keys() for r in rows)


@contextlib.contextmanager
def _patience():
    """allensdk sets no timeout: a server that says nothing would be waited for for ever. The only one it heeds is the process's."""
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
    """As `check_file`; a file that is something else (a server's page of apology, say) counts as damaged, too."""
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
    e = getattr(e, "reason", e)  # urllib wraps what happened
    return " ".join(str(getattr(e, "strerror", None) or e).split())[:160] or type(e).__name__
