"""Importing plain arrays (.npy, .npz): continuous recordings, and recordings that were cut into trials (sweeps)."""

import warnings
from functools import partial
from itertools import permutations
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd

from ...errors import DamagedFileError, QfError, SessionError, did_you_mean
from ...models.options import check_options
from ..clock import rate_of
from ..hdf5 import as_path, readable_file, reason, refused
from ..session import new_session
from .options import ORIENTATIONS, SWEEPS, ArraysOptions
from .sweeps import flat_behaviour, join_sweeps, sweep_time, sweep_trials
from .trial_tables import as_trials, naming, read_table


def from_arrays(
    traces,
    *,
    subject,
    session,
    rate_hz=None,
    frame_time=None,
    trials=None,
    condition_columns=None,
    stimulus=None,
    sweep_frames=None,
    sweep_onset=None,
    behaviour=None,
    **options,
):
    """Build a Session from arrays in memory.

    Parameters
    ----------
    traces : array, shape (neuron, frame) or (trial, neuron, time)
        Fluorescence (positive arbitrary units) or dF/F (fraction). Three dims are cut trials (sweeps): `frame_time` jumps between them.
    subject, session : str
        Names without a slash.
    rate_hz : float, optional
        Frames a second. If None, it is computed from `frame_time`.
    frame_time : array, shape (frame,) or (trial, time), optional
        Seconds. If None, frame / rate_hz; between sweeps a pause as long as a sweep is assumed.
    trials : str, Path or pandas.DataFrame, optional
        A trial table, or the CSV file that holds it; see `read_trials_csv` for its columns. None makes a continuous recording. The table of sweeps
        has one row per sweep, in their order, and no onsets.
    condition_columns : list of str, optional
        The columns that are features of the condition; see `read_trials_csv`.
    stimulus : str, optional
        Stimulus category of all trials.
    sweep_frames : int, optional
        Frames of each sweep, if `traces` (neuron, trial * time) holds one sweep after another.
    sweep_onset : float or array, shape (time,), optional
        Seconds from the beginning of a sweep to its onset; or the times of a sweep's frames in seconds, 0 at the onset. If it and `trials` are None,
        the sweeps have no trials.
    behaviour : mapping of str to array, tuple or Behaviour, optional
        See `new_session`. For sweeps, an array may have the shape (trial, time).
    **options
        signal, cells, matched, neuron_coords, indicator, area, source, provenance: see `new_session`.

    Returns
    -------
    xarray.Dataset
        A Session.

    Raises
    ------
    SessionError
        If the arrays or the table break the schema.
    QfError
        If the CSV file can't be read, or the onset lies outside the sweeps.

    Examples
    --------
    >>> import pandas as pd
    >>> trials = pd.DataFrame({"onset_frame": [100, 200], "orientation": [0.0, 90.0]})
    >>> session = from_arrays(np.ones((2, 300)), subject="mouse", session="one", rate_hz=30.0, trials=trials)
    >>> dict(session.sizes)["neuron"], dict(session.sizes)["trial"]
    (2, 2)

    Cut trials, one after another:

    >>> sweeps = np.random.default_rng(0).normal(0, 0.1, (4, 2, 30))
    >>> shown = pd.DataFrame({"direction": [0, 90, 0, 90]})
    >>> ds = from_arrays(sweeps, subject="m", session="1", rate_hz=10, signal="dff", trials=shown, sweep_onset=1.0)
    >>> ds["onset_frame"].values.tolist(), ds["condition"].values[1]
    ([10, 40, 70, 100], 'stimulus/direction=90')
    """
    if sweep_frames is not None or np.ndim(traces) == 3:
        traces, *shape = join_sweeps(traces, sweep_frames)
        frame_time = sweep_time(*shape, rate_hz) if frame_time is None else np.ravel(frame_time)
        if trials is not None or sweep_onset is not None:
            table = trials if trials is None or isinstance(trials, pd.DataFrame) else read_table(trials)
            trials = sweep_trials(table, sweep_onset, rate_of(rate_hz, frame_time), *shape)
        behaviour = flat_behaviour(behaviour or {}, *shape)
        options["attrs"] = {"sweep_frames": shape[1], **(options.get("attrs") or {})}
    elif sweep_onset is not None:
        raise QfError("sweep_onset: expected with sweeps alone, found a continuous recording. Pass sweep_frames (--sweep-frames), too.")
    trials = as_trials(trials, rate_hz, frame_time, condition_columns)
    if stimulus is not None:
        if trials is None:
            raise QfError(f"stimulus: expected trials to name {stimulus!r}, found none. Pass trials, or leave it out.")
        trials = trials.assign(stimulus=stimulus)
    if trials is not None and trials.attrs["ignored_columns"]:
        options["attrs"] = {"ignored_columns": trials.attrs["ignored_columns"], **(options.get("attrs") or {})}
    return new_session(
        traces, subject=subject, session=session, rate_hz=rate_hz, frame_time=frame_time, trials=trials, behaviour=behaviour, **options
    )


def read_arrays(
    path,
    *,
    signal,
    rate_hz=None,
    key=ArraysOptions.key,
    orientation=ArraysOptions.orientation,
    trials=None,
    condition_columns=None,
    subject=None,
    session=None,
    frame_time=None,
    sweep_frames=None,
    sweep_onset=None,
    behaviour=None,
    **options,
):
    """Import traces from a .npy or .npz file.

    Parameters
    ----------
    path : str or Path
        The file. Its array of traces has 2 dims, or 3 if the recording was cut into trials (sweeps). If it holds several arrays, `key` names one.
    signal : {"fluorescence", "dff"}
        The kind of signal in the array; dF/F as a fraction.
    rate_hz : float, optional
        Frames a second. If None, it is computed from `frame_time`.
    key : str, optional
        Name of the array inside an .npz file.
    orientation : str, optional
        Order of the dims. For 2 dims "neuron,frame" or "frame,neuron"; if None, the longer dim is taken for the frames. For 3 dims trial, neuron and
        time in any order; if None, "trial,neuron,time".
    trials : str, Path or pandas.DataFrame, optional
        See `from_arrays`. If None, the arrays of an .npz file with one value per sweep become the columns of the sweeps' trial table.
    condition_columns : list of str, optional
        The columns (or such arrays) that are features of the condition. If None, see `read_trials_csv`.
    subject, session : str, optional
        By default the file's name without its suffix.
    frame_time : array or str or Path, optional
        Seconds of the frames; or the name of their array in an .npz file; or a .npy or CSV file of one column.
    sweep_frames : int, optional
        See `from_arrays`.
    sweep_onset : float, array or str, optional
        See `from_arrays`; or the name of an array inside an .npz file.
    behaviour : mapping, str or list of str, optional
        See `from_arrays`; or names of arrays inside an .npz file with one value per frame.
    **options
        stimulus (see `from_arrays`), cells, matched, neuron_coords, indicator, area, provenance: see `new_session`.

    Returns
    -------
    xarray.Dataset
        A Session.

    Raises
    ------
    DamagedFileError
        If the file is cut short or not a .npy or .npz file.
    SessionError
        If the array or the trials break the schema.
    QfError
        If there is no such file, it holds no array of a given name, or an option is out of range.
    """
    path = as_path(path, "a .npy or .npz file")
    check_options(ArraysOptions, {"signal": signal, "rate_hz": rate_hz})
    x, key, beside = _choose_array(path, key)
    if x.ndim not in (2, 3) or x.dtype.kind not in "fiu":
        raise SessionError(f"{path}: expected numbers with 2 dims (neuron and frame), found {x.dtype} of shape {x.shape}. Save the traces alone.")
    if not x.size:
        raise SessionError(f"{path}: expected numbers with 2 dims (neuron and frame), found none: shape {x.shape}. Save the traces again.")
    x, orientation = _oriented(path, x, orientation)
    named = [n for n in (sweep_onset, frame_time, *(behaviour if isinstance(behaviour, list | tuple) else ())) if isinstance(n, str)]
    if isinstance(behaviour, str | list | tuple):
        behaviour = {name: _array(path, beside, name, "behaviour") for name in ([behaviour] if isinstance(behaviour, str) else behaviour)}
    if isinstance(sweep_onset, str):
        sweep_onset = _array(path, beside, sweep_onset, "sweep_onset")
    if isinstance(frame_time, str | Path):
        frame_time = _array(path, beside, frame_time, "frame_time") if frame_time in beside else read_seconds(frame_time)
    if trials is None and sweep_onset is not None:
        _, *shape = naming(path, join_sweeps, x, sweep_frames)
        trials = _columns(path, {n: a for n, a in beside.items() if n not in named}, condition_columns, shape[0])
    options.setdefault("provenance", f"{path.name}{f', key {key}' if key else ''}, stored as ({orientation})")
    return naming(
        path, from_arrays, x, rate_hz=rate_hz, signal=signal, trials=trials, condition_columns=condition_columns, subject=subject or path.stem,
        session=session or path.stem, frame_time=frame_time, sweep_frames=sweep_frames, sweep_onset=sweep_onset, behaviour=behaviour, source="arrays",
        **options,
    )  # fmt: skip


def _oriented(path, x, orientation):
    """The array with dims (neuron, frame) or (trial, neuron, time), and the order in which the file stores them."""
    known = ORIENTATIONS if x.ndim == 2 else tuple(",".join(names) for names in permutations(SWEEPS.split(",")))
    if orientation is None and x.ndim == 3:
        orientation = SWEEPS
    if orientation is None:
        if x.shape[0] == x.shape[1]:
            raise SessionError(
                f"{path}: expected more frames than neurons, found shape {x.shape}. Pass orientation='neuron,frame' or 'frame,neuron'."
            )
        orientation = ORIENTATIONS[0] if x.shape[1] > x.shape[0] else ORIENTATIONS[1]
        if orientation == ORIENTATIONS[1]:
            warnings.warn(
                f"{path}: taken for {x.shape[0]} frames of {x.shape[1]} neurons, since a recording has more frames than neurons. "
                "Pass orientation='neuron,frame' (--orientation neuron,frame) if it is the other way round.",
                stacklevel=3,
            )
    if orientation not in known:
        raise QfError(f"orientation: expected one of {known} for {x.ndim} dims, found {orientation!r}.")
    names = orientation.split(",")
    return x.transpose([names.index(name) for name in known[0].split(",")]), orientation


def _columns(path, beside, wanted, n):
    """The arrays of a file that hold one value per sweep, as a DataFrame (n rows); None if there is none."""
    wanted = [wanted] if isinstance(wanted, str) else wanted
    found = {name: _array(path, beside, name, "condition_columns") for name in (beside if wanted is None else wanted)}
    for name, values in found.items():
        if wanted is not None and values.shape != (n,):
            raise QfError(f"condition_columns: expected {n} values of {name}, one a sweep, found shape {values.shape}. Leave it out.")
    found = {name: values for name, values in found.items() if values.shape == (n,)}
    return pd.DataFrame(found) if found else None


def _array(path, beside, name, option):
    """An array of an .npz file by its name; `beside` is {name: function that reads the array}."""
    if name not in beside:
        there = did_you_mean(name, sorted(beside)) if beside else "it holds the traces alone"
        raise QfError(f"{option}: {name!r} is no array in {path}; {there}")
    return beside[name]()


def _choose_array(path, key):
    """The array of the traces, its key, and {name: function that reads it} for the other arrays of the file."""
    loaded = load_npy(path)
    if isinstance(loaded, np.ndarray):
        if key is not None:
            raise QfError(f"key: expected none for {path}, a file of one array, found {key!r}. Leave key out.")
        return loaded, None, {}
    with loaded:
        keys = list(loaded.files)
        if key is None:
            if len(keys) != 1:
                raise QfError(f"{path}: expected one array, found {len(keys)}: {', '.join(keys) or 'none'}. Pass key=... to choose one.")
            key = keys[0]
        if key not in keys:
            raise QfError(f"key: {key!r} is not in {path}; {did_you_mean(key, keys)}")
        return _reading(path, lambda: loaded[key]), key, {k: partial(_read_one, path, k) for k in keys if k != key}


def _read_one(path, key):
    with load_npy(path) as loaded:
        return _reading(path, lambda: loaded[key])


def read_seconds(path):
    """Read the times of frames, in seconds, from a .npy file, or from a CSV file of one column with or without a header.

    Returns
    -------
    array, shape (frame,)
        float64 from a CSV file; a .npy file's array as it is.

    Raises
    ------
    QfError
        If the file can't be read.
    SessionError
        If a CSV file holds anything but one number per line.
    """
    path = readable_file(path, "a file of the frames' seconds")
    if path.suffix == ".npy":
        return load_npy(path, one=True)
    try:
        table = pd.read_csv(path, header=None, encoding="utf-8-sig")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError) as e:
        raise DamagedFileError(f"{path}: expected seconds, one a line, found what can't be read ({reason(e)}). Save it as CSV again.") from e
    seconds = pd.to_numeric(table[0], errors="coerce").to_numpy(np.float64)
    seconds = seconds[1:] if len(seconds) and np.isnan(seconds[0]) else seconds  # a header
    if table.shape[1] != 1 or not np.isfinite(seconds).all():
        raise SessionError(
            f"{path}: expected seconds alone, one a line, found {table.shape[1]} columns, or lines that are none. Save the seconds alone."
        )
    return seconds


def load_npy(path, one=False):
    """Load a .npy or .npz file, never unpickling.

    Parameters
    ----------
    path : str or Path
    one : bool
        Accept only a .npy file.

    Returns
    -------
    array or numpy.lib.npyio.NpzFile

    Raises
    ------
    QfError
        If there is no such file, the system refuses to read it, or the array does not fit into memory.
    DamagedFileError
        If it is cut short, not a numpy file, or holds Python objects.
    """
    path = readable_file(path, "a .npy file" if one else "a .npy or .npz file")
    with open(path, "rb") as f:
        begin = f.read(6)
    packed = begin[:4] in (b"PK\x03\x04", b"PK\x05\x06")
    if begin != b"\x93NUMPY" and (one or not packed):
        kind = "an .npz archive of several" if packed else "no numpy file"
        raise DamagedFileError(
            f"{path}: expected a whole {'.npy' if one else '.npy or .npz'} file of numbers, found {kind}. Save the array with numpy.save."
        )
    if packed:
        _reading(path, lambda: ZipFile(path).close())  # check it first: numpy would leave a damaged archive open
    return _reading(path, lambda: np.load(path, allow_pickle=False))


def _reading(path, read):
    try:
        return read()
    except MemoryError as e:
        raise QfError(f"{path}: expected an array that fits into memory, found a larger one, or a header that says so. Save the traces again.") from e
    except OSError as e:
        if e.errno is not None:
            raise refused(path, e) from e
        raise _not_whole(path, reason(e)) from e
    # numpy tokenizes and evaluates the header: a damaged one may raise any error
    except Exception as e:
        raise _not_whole(path, "Python objects, which could run code" if "allow_pickle" in str(e) else reason(e)) from e


def _not_whole(path, why):
    return DamagedFileError(
        f"{path}: expected a whole numpy file of numbers, found one that can't be read ({why}). It is cut short or no such file: "
        "copy it again, or save the numbers alone with numpy.save."
    )
