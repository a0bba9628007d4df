"""Reading Visual Coding sessions of the Allen Brain Observatory (two-photon, NWB 1.0) through allensdk.

Only this module imports allensdk, and only on use. Its last version (2.16.2, 2023) was written for older libraries. `_cured` supplies the few names
that it needs from them, during its import and inside its own modules, and changes nothing outside it. All values are allensdk's own.
"""

import contextlib
import functools
import importlib
import logging
import re
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from ...errors import DamagedFileError, QfError, SessionError
from ...models.options import check_options
from ..hdf5 import check_size, open_hdf5, readable_file, refused
from ..session import Fingerprint, new_session, with_running
from .options import AllenOptions
from .trial_tables import naming
from .visual_coding import FEATURES, SHOWN, epochs_at_pauses, number_blocks, trials_of

INSTALL = "pip install 'qf_toolkit[allen]' && pip install --no-deps allensdk==2.16.2"
PAPER_CONTAINERS = (
    511507650, 511510667, 511510675, 511510699, 511510718, 511510779, 511510855, 511510989, 526481129, 536323956, 543677425,
)  # fmt: skip
"""The containers of the QuantFormer paper (appendix I)."""

PIPELINE = "processing/brain_observatory_pipeline"
_LOCK = threading.RLock()
CHUNK_BYTES = 16 << 20  # bytes of traces that are read at once: their float64 intermediates stay in the processor's cache


def read_allen(path, *, traces=AllenOptions.traces, subject=None, session=None, allow_external=AllenOptions.allow_external):
    """Import a Visual Coding session file as a Session.

    Parameters
    ----------
    path : str or Path
        The NWB 1.0 file (`{ophys experiment id}.nwb`).
    traces : {"corrected", "raw", "demixed", "dff"}
        Demixed minus r x neuropil (allensdk's get_corrected_fluorescence_traces), as extracted, demixed, or the pipeline's dF/F.
    subject, session : str, optional
        By default the id of the container, and the letter of the session's type with the experiment's id (`A_503109347`).
    allow_external : bool
        Read data that the file keeps in other files (external links and storage, virtual datasets). Such a file can name any file you may read.

    Returns
    -------
    xarray.Dataset
        A Session with allensdk's values of `fluorescence` or `dff` (neuron, frame) float32; `running_speed` (running_time) in cm/s, if the file has
        it; coords `x`, `y` (neuron), the ROI's centre in pixels; `epoch_*` (epoch), the stretches of every stimulus, also of natural movies and
        spontaneous activity. Neurons are `container/cell_specimen_id`, the same in all sessions of the container; a cell without such an id is
        `container/session/roi id`. attrs: container, experiment, session_type, cre_line, imaging_depth_um, sex, age_days, specimen...

    Raises
    ------
    QfError
        If allensdk is missing, there is no such file, or `traces` is unknown.
    DamagedFileError
        If the file is cut short or not an HDF5 file.
    SessionError
        If it is not a Visual Coding file, leads to other files, or lacks the traces or a stimulus of its session.

    Examples
    --------
    >>> from qf_toolkit.recordings.simulated.visual_coding_files import simulate_container
    >>> [path] = simulate_container("files", sessions=["A"], n_neurons=3, repeats=3, directions=2, temporal_frequencies=1)
    >>> session = read_allen(path)
    >>> session.sizes["neuron"], round(session.attrs["rate_hz"], 3)
    (3, 30.0)
    """
    path = readable_file(path, "an NWB file")
    check_options(AllenOptions, {"traces": traces})
    check_file(path, allow_external)
    dataset = _dataset_class()
    with _speaking(path):
        return naming(path, _session, path, dataset, traces, subject, session)


def need_allensdk():
    """Raise QfError with the command that installs allensdk, if it is missing or can't be imported."""
    _dataset_class()


def check_file(path, allow_external=False):
    """Check that a file can be opened and is a Visual Coding session; raises QfError, DamagedFileError or SessionError if not."""
    damaged = "expected an NWB file (HDF5), found {kind} ({reason}). Download it again."
    with open_hdf5(path, damaged, allow_external) as f:
        version = f.attrs.get("nwb_version", f["nwb_version"][()] if isinstance(f.get("nwb_version"), h5py.Dataset) else b"")
        is_session = f"{PIPELINE}/Fluorescence/imaging_plane_1/timestamps" in f and "general/session_type" in f
    version = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    if version.startswith("2"):
        raise SessionError(f"{path}: expected an NWB 1.0 file of Visual Coding, found NWB {version}. Use `qf import nwb` (read_nwb) for it.")
    if not is_session:
        raise SessionError(
            f"{path}: expected a two-photon session of Visual Coding, found an HDF5 file without {PIPELINE}/Fluorescence or general/session_type. "
            "Use the importer of its own format."
        )


def _session(path, dataset, traces, subject, session):
    with _quiet():
        data = dataset(str(path))
        meta = data.get_metadata()
        kind = data.get_session_type()
        _needed(path, data, traces)
        time = data.get_dff_traces(slice(0, 1))[0] if traces == "dff" else data.get_fluorescence_timestamps()
        _check_times(time)
        rois, ids = _roi_ids(path, data)
        rate = 1 / float(np.median(np.diff(time)))
        table, epochs = _stimuli(path, data, kind, len(time))
        speed = _running(path, data)
    with ThreadPoolExecutor(1) as beside:
        centres = beside.submit(_centres, path, len(rois))
        x, fingerprint = _traces(path, data, traces, len(rois), len(time))
    container = meta.get("experiment_container_id")
    experiment = meta.get("ophys_experiment_id")
    subject = subject or (str(container) if container else path.stem)
    session = session or f"{kind.removeprefix('three_session_')}_{experiment or path.stem}"
    matched = np.array([i is not None for i in ids])
    if not matched.all():
        which = "none of its" if not matched.any() else f"{int((~matched).sum())} of its"
        warnings.warn(f"{path.name}: {which} {len(ids)} cells matched across sessions (no cell_specimen_id); keyed by session and ROI.", stacklevel=2)
    specimen = str(meta.get("specimen_name") or "")
    about = {
        "session_type": kind, "container": container, "experiment": experiment, "cre_line": meta.get("cre_line"), "sex": meta.get("sex"),
        "age_days": meta.get("age_days"), "age": meta.get("age"), "imaging_depth_um": meta.get("imaging_depth_um"), "genotype": meta.get("genotype"), "specimen": specimen,
        "mouse": specimen.rsplit("-", 1)[-1] if "-" in specimen else None, "pipeline_version": meta.get("pipeline_version"),
        "start_time": str(meta.get("session_start_time") or ""), "traces": traces,
    }  # fmt: skip
    indicator = str(meta.get("indicator") or "unknown")
    ds = new_session(
        x, subject=subject, session=session, rate_hz=rate, signal="dff" if traces == "dff" else "fluorescence", frame_time=time,
        cells=[str(r if i is None else i) for r, i in zip(rois, ids, strict=True)], matched=matched, trials=table, neuron_coords=centres.result(),
        indicator=indicator, area=str(meta.get("targeted_structure") or "unknown"),
        source="simulation" if "(simulated)" in indicator else "allen", provenance=f"{path.name}: {traces} traces through allensdk",
        attrs={k: v for k, v in about.items() if v not in (None, "")}, epochs=epochs, fingerprint=fingerprint,
    )  # fmt: skip
    return ds if speed is None else with_running(ds, *speed)


def _check_times(time):
    wrong = int((~(np.diff(time) > 0)).sum()) if len(time) > 1 else len(time)
    if wrong or len(time) < 2:
        raise SessionError(
            f"timestamps: expected increasing seconds of two or more frames, found {len(time)} with {wrong} that are not. Download it again."
        )


# --- traces and cells


def _needed(path, data, traces):
    """Paths of the chosen traces inside the file; raises SessionError if one is missing."""
    light = f"{PIPELINE}/Fluorescence/imaging_plane_1"
    new = data.pipeline_version.major >= 2
    needed = {
        "raw": [f"{light}/data"], "demixed": [f"{light}_demixed_signal/data"], "dff": [f"{PIPELINE}/DfOverF/imaging_plane_1/data"],
        "corrected": [f"{light}_demixed_signal/data", f"{light}_neuropil_response/data", f"{light}_neuropil_response/r"]
        if new else [f"{light}/data", f"{light}/neuropil_traces", f"{light}/r"],
    }[traces]  # fmt: skip
    with h5py.File(path, "r") as f:
        missing = [n for n in needed if n not in f]
        if missing:
            hint = "Take --traces raw or dff, or download" if traces == "corrected" else "Take other --traces, or download"
            raise SessionError(f"expected {missing[0]} for the {traces} traces, found none. {hint} the file again.")
    return needed


def _traces(path, data, traces, n_cells, n_frames):
    """The chosen traces (cell, frame) float32 and their fingerprint. Few cells are read at a time, as allensdk computes corrected ones in float64."""
    needed = _needed(path, data, traces)
    with h5py.File(path, "r") as f:
        for name in needed:
            shape = (n_cells,) if name.endswith("/r") else (n_cells, n_frames)
            if f[name].shape != shape:
                raise SessionError(f"expected {name} of shape {shape}, found {f[name].shape}. Download the file again.")
            check_size(f[name].id, name)
        # HDF5 decompresses a stored chunk as a whole: reading fewer cells than it holds would decompress it several times
        stored = max((f[n].chunks or (1,))[0] for n in needed)
    step = max(1, CHUNK_BYTES // (8 * n_frames))
    step = -(-step // stored) * stored
    read = {
        "raw": data.get_fluorescence_traces, "demixed": data.get_demixed_traces, "dff": data.get_dff_traces,
        "corrected": data.get_corrected_fluorescence_traces,
    }[traces]  # fmt: skip
    out = np.empty((n_cells, n_frames), np.float32)
    mark = Fingerprint()

    def one(start):
        out[start : start + step] = read(slice(start, start + step))[1]
        return start

    # numpy and hashlib release Python's lock: two cores read, correct and hash at the same time
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as hashing:
        for start in pool.map(one, range(0, n_cells, step)):
            hashing.submit(mark.add, out[start : start + step])
    return out, mark.text()


def _roi_ids(path, data):
    """ROI ids, and cell_specimen_ids with None for a cell that has none; two lists with one entry per cell."""
    with h5py.File(path, "r") as f:
        light: Any = f[f"{PIPELINE}/Fluorescence/imaging_plane_1"]
        n = next((light[k].shape[0] for k in ("data",) if k in light), None)
        n = f[f"{PIPELINE}/DfOverF/imaging_plane_1/data"].shape[0] if n is None else n
        has = {k: f"{PIPELINE}/ImageSegmentation/{k}" in f for k in ("roi_ids", "cell_specimen_ids")}
    rois = data.get_roi_ids() if has["roi_ids"] else np.arange(n)
    found = data.get_cell_specimen_ids() if has["cell_specimen_ids"] else []
    if has["cell_specimen_ids"] and len(found) != n:
        raise SessionError(f"expected {n} cell_specimen_ids, one a trace, found {len(found)}. Download the file again.")
    if len(rois) != n:
        raise SessionError(f"expected {n} roi_ids, one a trace, found {len(rois)}. Download the file again.")
    ids = [_whole(i) for i in found] or [None] * n
    ids = [i if i is not None and i > 0 else None for i in ids]
    return [_whole(r) if _whole(r) is not None else k for k, r in enumerate(rois)], ids


def _whole(value):
    """An id as int; None if it is NaN, empty or text that is not a number."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _centres(path, n):
    """The centre of each ROI in pixels, {"x": columns, "y": rows} as float32 arrays (cell,); {} if the file holds no masks."""
    with h5py.File(path, "r") as f:
        where = f"{PIPELINE}/ImageSegmentation/imaging_plane_1"
        if f"{where}/roi_list" not in f:
            return {}
        rois = f[where]
        centres, mask = np.full((n, 2), np.nan, np.float32), np.empty((0, 0))
        for i, name in enumerate(rois["roi_list"][()][:n]):
            # h5py's lower layer reads all masks into one array, for speed: there are hundreds, each nearly empty
            try:
                stored = h5py.h5d.open(rois.id, name + b"/img_mask")
            except KeyError:
                continue
            if mask.shape != stored.shape or mask.dtype != stored.dtype:
                mask = np.empty(stored.shape, stored.dtype)
            stored.read(h5py.h5s.ALL, h5py.h5s.ALL, mask)
            rows = np.flatnonzero(mask.any(1))
            if len(rows):
                inside, column = np.nonzero(mask[rows])
                centres[i] = column.mean(), rows[inside].mean()
    return {"x": centres[:, 0], "y": centres[:, 1]}


def _running(path, data):
    """Running speed (cm/s) and its times (seconds); None if the file has none, or with a warning if it can't be aligned."""
    where = f"{PIPELINE}/BehavioralTimeSeries/running_speed"
    with h5py.File(path, "r") as f:
        if where not in f or f[f"{where}/data"].size == 0:
            return None
    why = "no two-photon frame has its first timestamp"
    try:
        speed, seconds = data.get_running_speed()
        if len(speed) == len(seconds):
            return speed, seconds
        why = f"it has {len(speed)} values at {len(seconds)} timestamps"
    except IndexError:  # allensdk aligns by a timestamp that both clocks share
        pass
    warnings.warn(f"{path.name}: running speed left out, since {why}.", stacklevel=2)
    return None


# --- stimuli


def _stimuli(path, data, kind, n_frames):
    """The trial table (None if no stimulus has trials) and the table of epochs."""
    names = data.list_stimuli()
    missing = [s for s in SHOWN.get(kind, ()) if s not in names]
    if missing:
        raise SessionError(
            f"expected the stimulus {missing[0]} of a {kind}, found {', '.join(names) or 'none'}. The file is not whole: download it again."
        )
    tables, odd = {}, []
    for name in names:
        try:
            tables[name] = data.get_stimulus_table(name)
        except Exception as e:
            if name in FEATURES:
                raise
            odd.append(name)
            warnings.warn(f"{path.name}: the stimulus {name} left out, since allensdk can't read it ({type(e).__name__}).", stacklevel=2)
    for name, table in tables.items():
        # allensdk turns a NaN into the least integer, which is negative
        outside = ((table["start"] < 0) | (table["start"] >= n_frames)).to_numpy()
        if outside.any():
            odd.append(name)
            tables[name] = table[~outside]
            warnings.warn(
                f"{path.name}: {int(outside.sum())} of {len(table)} presentations of {name} left out (outside the recording).", stacklevel=2
            )
    epochs = _epochs(path, data, tables, n_frames, odd)
    parts = [_trials(t, s, epochs) for s, t in tables.items() if s in FEATURES and len(t)]
    if not parts:
        return None, epochs
    table = pd.concat(parts, ignore_index=True)
    twice = table.duplicated(["stimulus", "onset_frame"])
    if twice.any():
        warnings.warn(f"{path.name}: {int(twice.sum())} of {len(table)} trials left out (at the onset of another one).", stacklevel=2)
    return table[~twice], epochs


def _trials(table, stimulus, epochs):
    """Trials from allensdk's stimulus table, whose `start` and `end` are the first and last two-photon frames."""
    return trials_of(stimulus, table, table["start"].to_numpy(), table["end"].to_numpy() + 1, epochs)


def _epochs(path, data, tables, n_frames, odd):
    """Stretches of each stimulus: stimulus, start_frame, stop_frame (one past the last) and block, counted for each stimulus.

    allensdk cuts them, unless it can't, or presentations of `odd` stimuli were left out here: those would move its cuts.
    """
    from allensdk.brain_observatory.brain_observatory_exceptions import EpochSeparationException

    tables = {s: t for s, t in tables.items() if len(t)}
    if not tables:
        return None
    why = f"what was left out of {', '.join(odd)}" if odd else ""
    if not why:
        try:
            found = data.get_stimulus_epoch_table()
            epochs = pd.DataFrame({"stimulus": found["stimulus"], "start_frame": found["start"], "stop_frame": found["end"] + 1})
        except EpochSeparationException:
            why = "dropped frames"
        except NotImplementedError:
            why = "a session type that it doesn't know"
        except IndexError:
            why = "a stimulus that was never shown"
    if why:
        warnings.warn(
            f"{path.name}: allensdk can't cut the stimuli into epochs ({why}); cut at the two longest pauses of each instead.", stacklevel=2
        )
        epochs = pd.concat([epochs_at_pauses(s, t["start"].to_numpy(), t["end"].to_numpy() + 1) for s, t in tables.items()], ignore_index=True)
    return number_blocks(epochs.assign(stop_frame=epochs["stop_frame"].clip(upper=n_frames)))


# --- allensdk itself


def _dataset_class():
    """Call `_row_dataset` under a lock: its first call imports allensdk, which two threads must not do at once."""
    with _LOCK:
        return _row_dataset()


@functools.cache
def _row_dataset():
    """allensdk's BrainObservatoryNwbDataSet, with cells chosen by a slice of rows: h5py wants lists of ids sorted, and not all cells have an id."""
    module = _cured("allensdk.core.brain_observatory_nwb_data_set")

    class RowDataSet(module.BrainObservatoryNwbDataSet):
        def get_metadata(self):
            try:
                return super().get_metadata()
            except OSError as e:  # allensdk fails on an age or a device that it can't parse; the recording is still good
                if "Could not parse" not in str(e):
                    raise
                warnings.warn(f"{Path(self.nwb_file).name}: {_reason(e)} Taken as it is written.", stacklevel=2)
                return _as_written(self.nwb_file, self.FILE_METADATA_MAPPING)

        def get_cell_specimen_indices(self, cell_specimen_ids):
            return cell_specimen_ids if isinstance(cell_specimen_ids, slice) else super().get_cell_specimen_indices(cell_specimen_ids)

    return RowDataSet


def _as_written(path, places):
    """Metadata as the file writes them, as text under allensdk's names; `places` is {name: path in the file}."""
    meta = {}
    with h5py.File(path, "r") as f:
        for name, where in places.items():
            value = f[where][()] if where in f else None
            if isinstance(value, bytes | np.ndarray):
                value = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in np.ravel(value).tolist()]
                meta[name] = value if name == "generated_by" else str(value[0])
    whole = {name: _whole(meta.get(name)) for name in ("ophys_experiment_id", "experiment_container_id")}
    depth = re.match(r"\d+", meta.pop("imaging_depth", ""))
    return {
        **meta, **whole, "age": meta.get("age"), "cre_line": meta.get("genotype", "").split(";")[0] or None,
        "imaging_depth_um": int(depth[0]) if depth else None, "pipeline_version": (meta.pop("generated_by", None) or ["0.9"])[-1],
    }  # fmt: skip


def cache_classes():
    """allensdk's classes BrainObservatoryCache and BrainObservatoryApi; raises QfError if allensdk is missing."""
    with _LOCK:
        module = _cured("allensdk.core.brain_observatory_cache")
    return module.BrainObservatoryCache, module.BrainObservatoryApi


def _cured(name):
    """Import a module of allensdk together with current libraries."""
    try:
        with _old_names():
            module = importlib.import_module(name)
    except ImportError as e:
        raise QfError(f"allensdk: needed for Allen files, found none that can be imported ({_reason(e)}). Install it: {INSTALL}") from e
    except Exception as e:  # an old library can fail in many ways with new ones
        raise QfError(f"allensdk: its import failed ({type(e).__name__}: {_reason(e)}). Install the version this toolkit knows: {INSTALL}") from e
    for part in [m for n, m in sys.modules.items() if n.startswith("allensdk.")]:
        if getattr(part, "np", None) is np:
            part.np = _OldNumpy("numpy")
    log = logging.getLogger("qf_toolkit.allensdk")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    # allensdk logs through the root logger, which would set up logging for the whole process
    sys.modules["allensdk.core.brain_observatory_nwb_data_set"].logging = log
    return module


class _OldNumpy(types.ModuleType):
    """The numpy that allensdk's modules see: it also has the names that numpy 2 dropped."""

    string_, NaN, unicode_ = np.bytes_, np.nan, np.str_

    def __getattr__(self, name):
        return getattr(np, name)


@contextlib.contextmanager
def _old_names():
    """Supply, while allensdk is imported, the names that numpy, setuptools and statsmodels had when it was written; remove them at the end."""
    from packaging.version import parse

    stub = types.ModuleType("pkg_resources")
    stub.parse_version = parse
    lent = []  # (object, name)

    def lend(owner, name, value):
        if not hasattr(owner, name):
            setattr(owner, name, value)
            lent.append((owner, name))

    had = sys.modules.get("pkg_resources")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            multicomp = importlib.import_module("statsmodels.sandbox.stats.multicomp")
            lend(multicomp, "multipletests", importlib.import_module("statsmodels.stats.multitest").multipletests)
            lend(np, "VisibleDeprecationWarning", np.exceptions.VisibleDeprecationWarning)
            sys.modules["pkg_resources"] = stub
            yield
    finally:
        for owner, name in lent:
            delattr(owner, name)
        if had is None:
            sys.modules.pop("pkg_resources", None)
        else:
            sys.modules["pkg_resources"] = had


@contextlib.contextmanager
def _speaking(path):
    """Turn errors that allensdk and h5py raise on a file's content into a QfError of one line that states what to do."""
    try:
        yield
    except (QfError, KeyboardInterrupt):
        raise
    except MemoryError as e:
        raise QfError(f"{path}: expected data that fit into memory, found more. Use a machine with more memory.") from e
    except Exception as e:  # allensdk raises errors of any type, from KeyError and AssertionError to Exception itself
        if isinstance(e, OSError) and e.errno is not None:
            raise refused(path, e) from e
        if isinstance(e, OSError) and str(e).startswith(("Can't", "Unable")):  # raised by HDF5, not by allensdk
            raise DamagedFileError(f"{path}: expected a whole file, found data that can't be read ({_reason(e)}). Download it again.") from e
        raise SessionError(
            f"{path}: expected a Visual Coding session as allensdk reads it, found one that it can't read ({type(e).__name__}: {_reason(e)}). "
            "Is it of another kind, or damaged?"
        ) from e


@contextlib.contextmanager
def _quiet():
    """Silence the deprecation warnings that allensdk's code causes."""
    with _LOCK, warnings.catch_warnings():  # filters hold for the whole process: without the lock, two threads could restore each other's
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield


def _reason(e):
    return re.sub(r"\s+", " ", str(e)).strip()[:160] or type(e).__name__
