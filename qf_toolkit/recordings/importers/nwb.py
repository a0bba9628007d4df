"""Importing NWB 2 files. A file gives one Session: traces from its fluorescence or dF/F, trials from any of its tables of intervals.

Only the chosen series are read; the rest of the file (movies, other series) stays on disk.
"""

import re
import warnings
from dataclasses import dataclass

import h5py
import numpy as np

from ...errors import DamagedFileError, QfError, SessionError, did_you_mean
from ...models.options import check_options
from ..behaviour import with_behaviour
from ..hdf5 import open_hdf5, readable_file, reason, refused, whole
from ..session import new_session
from .nwb_behaviour import behaviour_of_file, free_name
from .nwb_intervals import trials_of_file
from .options import NwbOptions
from .trial_tables import naming

INSTALL = "pip install 'qf_toolkit[nwb]'"
_DFF = re.compile(r"(?i)dff|df[_/ ]?(over|f)|delta_?f")
_OTHER = re.compile(r"(?i)neuropil|deconv|spike|event|background")  # RoiResponseSeries that do not hold the calcium trace of a cell


_EVENTS = re.compile(r"(?i)events?$|deconv|spike")  # other series that lie beside dF/F in its container


@dataclass
class _Series:
    """A RoiResponseSeries and where it lies."""

    series: object
    container: str  # module/container
    plane: str

    @property
    def path(self):
        return f"{self.container}/{self.series.name}"

    @property
    def is_dff(self):
        return bool(_DFF.search(self.path.split("/", 1)[-1])) or "DfOverF" in self.container.split("/")

    @property
    def names(self):
        return {self.plane, self.series.name, self.container, self.container.split("/")[-1], self.path, self.series.rois.table.name}


def read_nwb(
    path,
    *,
    subject=None,
    session=None,
    signal=None,
    trials=None,
    stimulus=None,
    condition_columns=None,
    plane=None,
    matched=None,
    behaviour=None,
    allow_external=NwbOptions.allow_external,
):
    """Import an NWB 2 file as a Session.

    Parameters
    ----------
    path : str or Path
        The .nwb file.
    subject, session : str, optional
        By default the file's subject_id and session_id. If it has none, they are taken from its name.
    signal : {"fluorescence", "dff"}, optional
        Which traces to read. If None, fluorescence if the file has any, else dF/F.
    trials : str, list of str or False, optional
        Tables of intervals whose rows are trials. If None: the stimuli of the Visual Coding protocol, `trials`, or every `*_presentations` table,
        except natural movies and spontaneous activity, which become epochs. False makes a continuous recording.
    stimulus : str, optional
        Stimulus category of all trials. If None, it comes from a column stimulus_name or stimulus, or is the table's name without `_presentations`.
    condition_columns : list of str, optional
        Columns that make the condition. If None: `condition`, or the columns of known features (orientation, trial_type, image...), or all columns
        whose values repeat over the trials and that are not an outcome.
    plane : str, optional
        One of several planes or series, by the name of its imaging plane, its series, its container or its ROI table.
    matched : bool, optional
        Whether an ROI with the same id is the same cell in every session of the subject. If None, True if the ids are cell_specimen_ids.
    behaviour : str, list of str or False, optional
        Names of the series of behaviour to import. None imports all that it can, False none. See `nwb_behaviour.behaviour_of_file`.
    allow_external : bool
        Read data that the file keeps in other files (external links and storage, virtual datasets). Such a file can name any file you may read.

    Returns
    -------
    xarray.Dataset
        A Session with `fluorescence` or `dff` (neuron, frame) float32; coord `plane` (neuron); `running_speed` (running_time) in cm/s and other
        behaviour NAME (NAME_time), if the file has any. Stimuli of Visual Coding get the same conditions, blocks and epochs as from `read_allen`.
        attrs: `ignored_columns` (columns of the trial tables that are left out, with the reason) and `ignored_behaviour` (series that are left out).

    Raises
    ------
    QfError
        If pynwb is missing, or there is no such file, table, column or plane.
    DamagedFileError
        If the file is cut short or not an HDF5 file.
    SessionError
        If it is not an NWB 2 file, leads to other files, holds no ROI traces, or breaks the schema.

    Examples
    --------
    >>> session = read_nwb("recording.nwb")
    >>> session.attrs["subject"], session.attrs["rate_hz"]
    ('m1', 10.0)
    """
    path = readable_file(path, "an NWB file")
    check_options(NwbOptions, {"signal": signal})
    try:
        from pynwb import NWBHDF5IO
    except ImportError as e:
        raise QfError(f"pynwb: needed to read {path}, found none. Install it: {INSTALL}") from e
    _check_nwb2(path, allow_external)
    with warnings.catch_warnings():
        # a file holds the schema it was written with; pynwb warns about each one that is older than its own
        warnings.filterwarnings("ignore", message="(?s).*(gnoring|namespace)")
        try:
            io = NWBHDF5IO(str(path), "r", load_namespaces=True)
        except Exception as e:
            raise SessionError(
                f"{path}: expected an NWB 2 file, found one whose schema pynwb can't load ({reason(e)}). Write it again with pynwb."
            ) from e
        with io:
            try:
                file = io.read()
            except Exception as e:  # pynwb may raise any error: h5py's, a KeyError, its own
                raise SessionError(
                    f"{path}: expected an NWB 2 file, found one that pynwb can't read ({reason(e)}). Check it with `nwbinspector`."
                ) from e
            try:
                return naming(path, _session, path, file, subject, session, signal, trials, stimulus, condition_columns, plane, matched, behaviour)
            except QfError:
                raise
            except MemoryError as e:
                raise QfError(f"{path}: expected data that fit into memory, found more. Use a machine with more memory.") from e
            except OSError as e:
                if e.errno is not None:
                    raise refused(path, e) from e
                raise DamagedFileError(f"{path}: expected a whole NWB file, found data that can't be read ({reason(e)}). Copy it again.") from e
            except Exception as e:  # on a file that breaks the standard, hdmf, h5py or numpy may raise any error
                raise SessionError(
                    f"{path}: expected tables and series as the standard has them, found others ({type(e).__name__}: {reason(e)}). "
                    "Check it with `nwbinspector`, or import the traces with read_arrays."
                ) from e


def _check_nwb2(path, allow_external):
    damaged = "expected an NWB file (HDF5), found {kind} ({reason}). Copy it again."
    with open_hdf5(path, damaged, allow_external) as f:
        version = f.attrs.get("nwb_version", f["nwb_version"][()] if isinstance(f.get("nwb_version"), h5py.Dataset) else None)
    version = np.asarray(version).ravel()[0] if version is not None else None
    version = version.decode(errors="replace") if isinstance(version, bytes) else version
    if version is None:
        raise SessionError(f"{path}: expected an NWB 2 file, found HDF5 without nwb_version. Is it another format? Use the importer for it.")
    if not str(version).startswith("2"):
        raise SessionError(
            f"{path}: expected NWB 2, found version {version!r}. For a Visual Coding session use `qf import allen --files` (read_allen); "
            "convert others to NWB 2, or import their traces with read_arrays."
        )


def _session(path, file, subject, session, signal, trials, stimulus, condition_columns, plane, matched, behaviour):
    signal, chosen = _choose_series(file, signal, plane)
    traces, frame_time, rate = _read_planes(chosen)
    provenance = [s.path for s in chosen]
    if signal == "dff" and all(str(s.series.unit).lower() in ("percent", "%") for s in chosen):
        traces = traces / np.float32(100)
        provenance.append("percent by its unit, divided by 100")
    several = len(chosen) > 1
    named = [_roi_ids(s.series) for s in chosen]
    cells = [f"{s.plane}-{i}".replace("/", "_") if several else i for s, (ids, _) in zip(chosen, named, strict=True) for i in ids]
    optical = getattr(chosen[0].series.rois.table, "imaging_plane", None)
    table, epochs, ignored = trials_of_file(file, frame_time, trials, stimulus, condition_columns)
    about = {n: getattr(file.subject, n, None) for n in ("sex", "age", "genotype", "species")} if file.subject else {}
    behaviour, not_taken = behaviour_of_file(file, behaviour)
    beside = {"ignored_columns": ", ".join(f"{n} ({why})" for n, why in ignored.items()), "ignored_behaviour": ", ".join(not_taken)}
    ds = new_session(
        traces,
        subject=subject or _key(file.subject.subject_id if file.subject else None) or _from_name(path, "sub"),
        session=session or _key(file.session_id) or _from_name(path, "ses"),
        rate_hz=rate, signal=signal, frame_time=frame_time, cells=cells, matched=all(m for _, m in named) if matched is None else matched,
        trials=table, epochs=epochs, attrs={n: str(v) for n, v in {**about, **beside}.items() if v},
        neuron_coords={"plane": np.array([s.plane for s, (ids, _) in zip(chosen, named, strict=True) for _ in ids], dtype=object)},
        indicator=str(getattr(optical, "indicator", None) or "unknown"), area=str(getattr(optical, "location", None) or "unknown"),
        source="nwb", provenance=f"{path.name}: {', '.join(provenance)}",
    )  # fmt: skip
    return with_behaviour(ds, {free_name(name, ds): found for name, found in behaviour.items()})


def _key(name):
    """Convert a name to one that can be part of a key; None if it is None or blank."""
    return str(name).strip().replace("/", "-") or None if name is not None else None


def _from_name(path, entity):
    """The part of a file's name after `entity-`, such as `0301` in `sub-0301_ses-1.nwb` for "sub"; the whole name without suffix if it has none."""
    match = re.search(rf"(?:^|_){entity}-([^_]+)", path.stem)
    return match[1] if match else path.stem.strip()


# --- traces


def _all_series(file):
    from pynwb.ophys import DfOverF, Fluorescence, RoiResponseSeries

    groups = {
        **{f"processing/{n}": m.data_interfaces for n, m in file.processing.items()},
        "acquisition": file.acquisition,
        "analysis": file.analysis,
    }
    for group, interfaces in groups.items():
        for name, item in interfaces.items():
            if isinstance(item, RoiResponseSeries):
                yield _Series(item, group, _plane_of(item))
            elif isinstance(item, DfOverF | Fluorescence):
                # a DfOverF may have any name: the path gets its type
                container = f"{group}/{name}" + ("/DfOverF" if isinstance(item, DfOverF) and name != "DfOverF" else "")
                for series in item.roi_response_series.values():
                    yield _Series(series, container, _plane_of(series))


def _plane_of(series):
    optical = getattr(series.rois.table, "imaging_plane", None)
    return str(optical.name if optical is not None else series.name)


def _choose_series(file, signal, plane):
    """The signal and the series to read, one per plane."""
    every = list(_all_series(file))
    found = [s for s in every if not (_EVENTS.search(s.series.name) if s.is_dff else _OTHER.search(f"{s.container}/{s.series.name}"))]
    if not found:
        also = f" ({', '.join(s.path for s in every)} can't be used)" if every else ""
        raise SessionError(
            f"traces: expected a RoiResponseSeries in Fluorescence or DfOverF, found none{also}. "
            "Extract the ROI traces first (for example with suite2p), or import them with read_arrays."
        )
    if signal is None:
        signal = "dff" if all(s.is_dff for s in found) else "fluorescence"
    kind = [s for s in found if s.is_dff == (signal == "dff")]
    if not kind:
        raise QfError(
            f"signal: expected {signal} traces, found only {', '.join(s.path for s in found)}. Pass signal={'fluorescence' if signal == 'dff' else 'dff'!r}."
        )
    if plane is not None:
        named = [s for s in kind if str(plane) in s.names]
        if not named:
            raise QfError(f"plane: {plane!r} is not here; {did_you_mean(plane, sorted({n for s in kind for n in (s.plane, s.series.name)}))}")
        kind = named
    else:
        corrected = [s for s in kind if "correct" in s.path.lower()]
        kind = corrected or kind
    # two series of the same ROIs are two versions of one signal: the user has to choose one
    seen = {}
    for s in kind:
        ids = (id(s.series.rois.table), tuple(np.asarray(s.series.rois.data[:]).tolist()))
        if ids in seen:
            raise QfError(f"plane: expected one series of the same ROIs, found {seen[ids]} and {s.path}. Pass plane='{s.path}' to choose one.")
        seen[ids] = s.path
    if len({s.plane for s in kind}) < len(kind):
        for s in kind:  # several sets of ROIs in one imaging plane
            s.plane = s.series.name if len({k.series.name for k in kind}) == len(kind) else s.series.rois.table.name
    return signal, kind


def _read_planes(chosen):
    """Traces of all planes, float32 (neuron, frame), the times of the frames in seconds, float64 (frame,), and the rate in Hz."""
    parts = [_read_one(s) for s in chosen]
    (x, time, rate), first = parts[0], chosen[0]
    for (other, other_time, other_rate), s in zip(parts[1:], chosen[1:], strict=True):
        period = 1 / rate
        if other.shape[1] != x.shape[1] or abs(other_rate / rate - 1) > 0.02 or np.abs(other_time - time).max() > period:
            raise SessionError(
                f"planes: expected one rate and length, found {x.shape[1]} frames at {rate:.4g} Hz from {time[0]:g} s in {first.path} and {other.shape[1]} "
                f"at {other_rate:.4g} Hz from {other_time[0]:g} s in {s.path}. Pass plane={s.plane!r} or another for one of them."
            )
    return np.concatenate([p[0] for p in parts]), time, rate


def _read_one(s):
    series, n_rois = s.series, len(s.series.rois.data)
    timestamps = None if series.timestamps is None else whole(series.timestamps, s.path).astype(np.float64)
    x = whole(series.data, s.path)
    if x.dtype.kind not in "fiu" or x.ndim > 2 or x.size == 0:
        raise SessionError(f"{s.path}: expected numbers (frame, ROI), found {x.dtype} of shape {x.shape}.")
    x = x[:, None] if x.ndim == 1 else x
    # the standard requires (frame, ROI), but files of the other order exist: the numbers of ROIs and of timestamps show which order it is
    fits = [x.shape[1 - axis] == n_rois and (timestamps is None or x.shape[axis] == len(timestamps)) for axis in (0, 1)]
    if not any(fits):
        times = "" if timestamps is None else f" and {len(timestamps)} timestamps"
        raise SessionError(
            f"{s.path}: expected data (frame, ROI) for {n_rois} ROIs{times}, found shape {x.shape}. Mend the file, or use read_arrays."
        )
    x = (x.T if fits[0] else x).astype(np.float32)
    conversion, offset = float(series.conversion or 1.0), float(getattr(series, "offset", 0.0) or 0.0)
    if conversion != 1.0 or offset != 0.0:
        x = x * np.float32(conversion) + np.float32(offset)
    if timestamps is None:
        if series.rate is None or not series.rate > 0:
            raise SessionError(f"{s.path}: expected timestamps or a rate above 0, found rate {series.rate}. Mend the file, or use read_arrays.")
        rate = float(series.rate)
        return x, float(series.starting_time or 0.0) + np.arange(x.shape[1]) / rate, rate
    if len(timestamps) < 2 or not np.all(np.diff(timestamps) > 0):
        raise SessionError(f"{s.path}: expected increasing timestamps, found {len(timestamps)} that are not. Mend the file, or use read_arrays.")
    return x, timestamps, 1.0 / float(np.median(np.diff(timestamps)))


def _roi_ids(series):
    """Names of the ROIs of a series, a list of str, and whether they are cell_specimen_ids, which are matched across sessions.

    The names are the ids of the ROIs, or their rows in the ROI table if the ids are not unique.
    """
    rows, table = np.asarray(series.rois.data[:], dtype=int), series.rois.table
    if rows.ndim != 1 or (len(rows) and not 0 <= rows.min() <= rows.max() < len(table.id)):
        raise SessionError(
            f"{series.name}: expected ROIs of its table, 0 to {len(table.id) - 1}, found {rows.min()} to {rows.max()}. Mend the file, or use read_arrays."
        )
    specimen = next((c for c in ("cell_specimen_id", "global_roi_id") if c in table.colnames), None)  # the names of allensdk and of DANDI
    column = table.id.data if specimen is None else table[specimen].data
    ids = np.asarray(column[:])[rows]
    if specimen is not None and ids.dtype.kind in "iuf":
        specimen = None if not (ids > 0).all() else specimen
        ids = ids if specimen else np.asarray(table.id.data[:])[rows]
    unique = len(set(ids.tolist())) == len(ids) and not (ids.dtype.kind == "f" and not np.isfinite(ids).all())
    return [str(int(i)) if isinstance(i, int | float) else str(i) for i in (ids if unique else rows).tolist()], specimen is not None and unique
