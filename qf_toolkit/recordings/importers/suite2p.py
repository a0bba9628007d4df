"""Importing the output folder of suite2p: F.npy, Fneu.npy, iscell.npy and ops.npy of one or several planes."""

import pickle
import re

import numpy as np

from ...errors import DamagedFileError, QfError, SessionError, did_you_mean
from ...models.options import check_options
from ..hdf5 import as_path, readable_file, reason, refused
from .arrays import from_arrays, load_npy
from .options import Suite2pOptions
from .trial_tables import naming

_PLANE = re.compile(r"^plane(\d+)$")


def read_suite2p(
    folder,
    *,
    rate_hz=None,
    trials=None,
    condition_columns=None,
    subject=None,
    session=None,
    neuropil=Suite2pOptions.neuropil,
    iscell=Suite2pOptions.iscell,
    plane=None,
    indicator=Suite2pOptions.indicator,
    area=Suite2pOptions.area,
):
    """Import a suite2p folder as a Session.

    Parameters
    ----------
    folder : str or Path
        The folder `suite2p`, the one above it, or a single `plane*` or `combined`.
    rate_hz : float, optional
        Frames a second of a plane. If None, `fs` of ops.npy.
    trials : str, Path or pandas.DataFrame, optional
        A trial table or its CSV file; see `trial_tables.read_trials_csv`. None makes a continuous recording.
    condition_columns : list of str, optional
        The columns that are features of the condition; see `trial_tables.read_trials_csv`.
    subject, session : str, optional
        By default the name of the folder above `suite2p`.
    neuropil : float
        The trace is F - neuropil * Fneu. With 0, Fneu.npy is not needed.
    iscell : bool
        Keep only the ROIs that iscell.npy calls cells; False keeps all.
    plane : int or str, optional
        One plane of several, 0 or "plane0".

    Returns
    -------
    xarray.Dataset
        A Session with `fluorescence` (neuron, frame) float32 and the coord `plane` (neuron). A cell has the number of its ROI as name (`12`), with
        the plane before it if there are several (`p0_12`).

    Raises
    ------
    QfError
        If the folder holds no suite2p output, a file is missing, or no rate is known.
    DamagedFileError
        If a file can't be read.
    SessionError
        If shapes differ, no cell is left, or the trials break the schema.

    Examples
    --------
    >>> session = read_suite2p("suite2p", rate_hz=30, subject="mouse", session="one")
    >>> session["neuron"].values.tolist()
    ['mouse/one/0', 'mouse/one/2', 'mouse/one/3']
    """
    folder = as_path(folder, "a suite2p folder")
    check_options(Suite2pOptions, {"neuropil": neuropil, "iscell": iscell, "rate_hz": rate_hz})
    planes = _planes(folder, plane)
    parts, cells, plane_of, rates = [], [], [], []
    for number, path in planes:
        traces, kept = _read_plane(path, neuropil, iscell)
        several = number is not None and len(_plane_folders(path.parent)) > 1
        parts.append(traces)
        cells += [f"p{number}_{i}" if several else str(i) for i in kept]
        plane_of += [-1 if number is None else number] * len(kept)
        if rate_hz is None:
            rates.append(_rate_of(path))
    if not cells:
        raise SessionError(f"{folder}: expected at least 1 cell, found none among the ROIs by iscell.npy. Pass iscell=False to keep all ROIs.")
    if rate_hz is None:
        if max(rates) > 1.02 * min(rates):
            raise SessionError(
                f"{folder}: expected planes of one rate, found fs {min(rates):g} to {max(rates):g} Hz in ops.npy. Pass plane=... for one of them."
            )
        rate_hz = rates[0]
    lengths = [p.shape[1] for p in parts]
    # the microscope scans the planes in turn, so that the later planes may lack the last frame
    if max(lengths) - min(lengths) > 1:
        raise SessionError(
            f"{folder}: expected planes of equal length, found {min(lengths)} to {max(lengths)} frames. Pass plane=... for one of them."
        )
    traces = np.concatenate([p[:, : min(lengths)] for p in parts])
    name = _recording_name(folder)
    kept = f"{len(cells)} ROIs, {'cells by iscell.npy' if iscell else 'iscell.npy not used'}"
    return naming(
        folder, from_arrays, traces, subject=subject or name, session=session or name, rate_hz=rate_hz, trials=trials, condition_columns=condition_columns, cells=cells,
        neuron_coords={"plane": plane_of}, indicator=indicator, area=area, source="suite2p",
        provenance=f"{'F' if neuropil == 0 else f'F - {neuropil:g} Fneu'}; {kept}; {', '.join(p.name for _, p in planes)}",
    )  # fmt: skip


def _plane_folders(folder):
    """[(number, path)] of the planes of a folder, in order."""
    found = [(int(m[1]), p) for p in folder.glob("plane*") if (m := _PLANE.match(p.name)) and (p / "F.npy").is_file()]
    return sorted(found)


def _planes(folder, plane):
    """The folders to read, [(number of the plane or None, path)]."""
    if not folder.is_dir():
        raise QfError(f"{folder}: expected a suite2p folder, found {'a file' if folder.exists() else 'nothing'}. Check the path.")
    resolved = folder.resolve()
    if (folder / "F.npy").is_file():
        match = _PLANE.match(resolved.name)
        found = [(int(match[1]) if match else None, resolved)]
    else:
        found = _plane_folders(resolved) or _plane_folders(resolved / "suite2p")
        combined = [p for p in (resolved / "combined", resolved / "suite2p" / "combined") if (p / "F.npy").is_file()]
        found = found or [(None, p) for p in combined[:1]]
    if not found:
        raise QfError(f"{folder}: expected a suite2p folder (F.npy, or plane0/F.npy), found neither. Give the folder `suite2p` or one plane of it.")
    if plane is None:
        return found
    names = [p.name for _, p in found]
    chosen = [(n, p) for n, p in found if str(plane) in (p.name, str(n))]
    if not chosen:
        raise QfError(f"plane: {plane!r} is not in {folder}; {did_you_mean(plane, names)}")
    return chosen


def _read_plane(path, neuropil, iscell):
    """Traces of one plane, float32 (neuron, frame), and the indices of their ROIs, int64 (neuron,)."""
    f = _array(path / "F.npy", 2)
    keep = np.ones(len(f), bool)
    if iscell:
        if not (path / "iscell.npy").is_file():
            raise QfError(f"{path}: expected iscell.npy, found none. Pass iscell=False to keep all ROIs.")
        table = load_npy(path / "iscell.npy", one=True)
        if table.ndim not in (1, 2) or len(table) != len(f) or (table.ndim == 2 and not table.shape[1]):
            raise SessionError(
                f"{path}: expected {len(f)} rows in iscell.npy, as in F.npy, found shape {table.shape}. They are of two runs: run suite2p again."
            )
        if table.dtype.kind not in "fiub":
            raise SessionError(f"{path}: expected numbers in iscell.npy, 1 for a cell, found {table.dtype}. Pass iscell=False to keep all ROIs.")
        keep = (table if table.ndim == 1 else table[:, 0]).astype(bool)
    traces = f[keep].astype(np.float32)
    if neuropil:
        if not (path / "Fneu.npy").is_file():
            raise QfError(f"{path}: expected Fneu.npy for the neuropil correction, found none. Pass neuropil=0 to take F as it is.")
        neu = _array(path / "Fneu.npy", 2)
        if neu.shape != f.shape:
            raise SessionError(f"{path}: expected Fneu.npy of shape {f.shape}, as F.npy, found {neu.shape}. They are of two runs: run suite2p again.")
        traces -= np.float32(neuropil) * neu[keep].astype(np.float32)
    return traces, np.flatnonzero(keep)


def _array(path, ndim):
    x = load_npy(path, one=True)
    if x.ndim != ndim or x.dtype.kind not in "fiu":
        raise SessionError(f"{path}: expected numbers of shape (ROI, frame), found {x.dtype} of shape {x.shape}. Is it suite2p's file?")
    return x


class _OpsUnpickler(pickle.Unpickler):
    """Reads numbers, text, arrays and paths from ops.npy, a pickle (the only one that we need), and refuses everything that could run code."""

    SAFE = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in self.SAFE:
            # numpy 1 wrote numpy.core, numpy 2 reads numpy._core
            return super().find_class(re.sub(r"^numpy\.core\b", "numpy._core", module), name)
        allowed = {("_codecs", "encode"), ("collections", "OrderedDict"), ("builtins", "set"), ("builtins", "slice"), ("builtins", "complex")}
        if (module, name) in allowed:
            return super().find_class(module, name)
        if module.startswith("pathlib") and name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"):
            return lambda *parts: "/".join(map(str, parts))  # text suffices, and a WindowsPath can't be built on other systems
        if module == "datetime" and name in ("datetime", "date", "time", "timedelta"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not read, as it could run code")


def _rate_of(path):
    """The rate of a plane in Hz, `fs` of its ops.npy; raises QfError if there is none."""
    ops = path / "ops.npy"
    mend = "Pass rate_hz (--rate)."
    if not ops.is_file():
        raise QfError(f"{path}: expected ops.npy, which holds the rate, found none. {mend}")
    try:
        with open(readable_file(ops, "suite2p's ops.npy"), "rb") as f:
            version = np.lib.format.read_magic(f)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            read(f)
            content = _OpsUnpickler(f).load()
        content = content.item() if isinstance(content, np.ndarray) else content
        rate = float(content["fs"])
    except (KeyError, IndexError) as e:
        raise QfError(f"{ops}: expected the rate under fs, found none. {mend}") from e
    except QfError:
        raise
    except OSError as e:
        raise refused(ops, e) from e
    # a pickle whose bytes were altered may raise any error
    except Exception as e:
        raise DamagedFileError(f"{ops}: can't be read ({reason(e)}). {mend}") from e
    return rate


def _recording_name(folder):
    """The name of the folder into which suite2p wrote its output folder."""
    path = folder.resolve()
    while path.name in ("suite2p", "combined") or _PLANE.match(path.name):
        path = path.parent
    return path.name or "suite2p"
