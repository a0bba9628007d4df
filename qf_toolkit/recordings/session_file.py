"""The netCDF file of a Session: it is written whole, read by h5py, and checked against the content that was written.

xarray can read these files, too, but takes ten times as long for a header, and follows links into other files. Two digests in the attributes show
whether a file was altered: `fingerprint` covers the traces and is checked when they are read; `_digest` covers everything else and is always
checked. Files of earlier versions have no `_digest` and are read without that check.
"""

import hashlib
import json

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5d, h5ds, h5o, h5s, h5t

from .._files import fill_netcdf, reserve
from ..errors import DamagedFileError, SessionError
from .hdf5 import check_size, open_hdf5, readable_file, reason
from .schema import SIGNALS, trial_features, validate
from .session import fingerprint_of

DAMAGED = "can't be read ({reason}). The file is cut short or no Session. Delete it and import the recording again."
ALTERED = "The file was altered: bring back a copy of it, or delete it and import the recording again."
DIGEST = "_digest"
MANY_COLUMNS = 100  # features of a trial table: with more of them h5py writes them, since h5netcdf takes 5 ms for each
MOST_PACKED = 100  # write_session does not compress; in a file that somebody compressed, most bytes of numbers per stored byte
_OF_THE_FORMAT = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "coordinates"}
_DECODED = {"units", "calendar", "scale_factor", "add_offset", "dtype", "_FillValue", "missing_value", "_Unsigned"}


def write_session(ds, tmp):
    """Write a valid Session with its digest into the temporary file of `atomic_path`.

    Parameters
    ----------
    ds : xarray.Dataset
        A valid Session.
    tmp : Path
        The temporary file.

    Raises
    ------
    SessionError
        If it holds names, labels or attrs that netCDF can't hold.
    OSError
        If the disk has no room for it.
    """
    features = trial_features(ds)
    late = features if len(features) > MANY_COLUMNS else []
    ds = ds.drop_encoding()
    try:
        fill_netcdf(ds.drop_vars(late), tmp)
        if late:
            reserve(tmp, tmp.stat().st_size + sum(1024 + 64 * ds.variables[n].size for n in late))
        with h5py.File(tmp, "r+") as f:
            for name in late:
                values = ds.variables[name].values
                column = f.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype.kind in "OU" else None)
                column.dims[0].attach_scale(f["trial"])
            f.attrs[DIGEST] = _digest(_dataset(f, tmp, load=False)[0])
    except (TypeError, ValueError) as e:
        raise SessionError(
            f"session: expected names, labels and attrs that netCDF can hold, found others ({reason(e)}). Rename or convert them."
        ) from e


def read_session(path, load=True):
    """Read the file of a Session.

    Parameters
    ----------
    path : str or Path
    load : bool
        Whether to read the traces. If False, zeros of the same shape and dtype, which take no memory, stand in for them.

    Returns
    -------
    xarray.Dataset
        A valid Session.

    Raises
    ------
    QfError
        If the system refuses to read the file, or its data do not fit into memory. The file may well be whole.
    DamagedFileError
        If it is cut short, altered, or of another format.
    SessionError
        If it does not hold a Session, or leads to other files.
    """
    path = readable_file(path, "the file of a Session")
    with open_hdf5(path, DAMAGED) as f:
        ds, digest = _dataset(f, path, load)
        try:
            validate(ds)
        except SessionError as e:
            raise type(e)(f"{path}: {e}") from e
        if digest is not None and digest != _digest(ds):
            raise DamagedFileError(f"{path}: expected the trial table, times and names it was written with, found others. {ALTERED}")
        if load and fingerprint_of(ds) != ds.attrs.get("fingerprint", fingerprint_of):
            raise DamagedFileError(f"{path}: expected the traces it was written with, found others (by their fingerprint). {ALTERED}")
    return ds


def _dataset(f, path, load):
    """Read the Session of an open file, and the digest stored with it (None if it has none)."""
    variables, decode = {}, False
    opened = {name: h5o.open(f.id, name.encode()) for name in f}
    for name, found in opened.items():
        if not isinstance(found, h5d.DatasetID):
            raise SessionError(f"{path}: expected variables alone, found the group or type {name}. Is it another kind of file?")
    # scales are looked up by address: to find the name of a scale, HDF5 would search all objects of the file
    scales = {h5o.get_info(found).addr: name for name, found in opened.items() if h5a.exists(found, b"CLASS")}
    for name, found in opened.items():
        told, names = h5py.Dataset(found).attrs, set()
        h5a.iterate(found, lambda name, names=names: names.add(name.decode()))
        if "CLASS" in names and str(_attribute(told.get("NAME", ""))).startswith("This is a netCDF dimension but not"):
            continue
        dims = (name,) if "CLASS" in names else _dims(found, path, name, scales)
        attrs = {k: _attribute(told[k]) for k in names - _OF_THE_FORMAT}
        fill = attrs.get("_FillValue")
        if isinstance(fill, float | np.floating) and np.isnan(fill):
            del attrs["_FillValue"]
        decode |= bool(_DECODED & attrs.keys()) and (attrs.keys() & _DECODED != {"units"} or "since" in str(attrs["units"]))
        variables[name] = xr.Variable(dims, _values(found, path, load or name not in SIGNALS), attrs, fastpath=True)
    told = f.attrs
    attrs = {k: _attribute(told[k]) for k in told if k not in _OF_THE_FORMAT}
    digest = attrs.pop(DIGEST, None)
    # every one-dim variable on such a dim is a coord, whatever its name: the netCDF attribute that lists coords separates them by blanks, so that
    # it can't hold a name with a blank
    coords = {n: v for n, v in variables.items() if len(v.dims) == 1 and (v.dims[0] in ("neuron", "frame", "trial", "epoch") or n == v.dims[0])}
    ds = xr.Dataset({n: v for n, v in variables.items() if n not in coords}, coords, attrs)
    return (xr.decode_cf(ds) if decode else ds), digest


def _dims(found, path, name, scales):
    """Names of the dims of a dataset, from the scales that are attached to it; `scales` is {address: name}."""
    dims = []
    if found.rank and h5a.exists(found, b"DIMENSION_LIST"):
        attached = h5a.open(found, b"DIMENSION_LIST")
        kind = attached.get_type()
        # unless this attribute is a list of references for each axis, HDF5 would crash the interpreter
        if attached.shape == (found.rank,) and isinstance(kind, h5t.TypeVlenID) and isinstance(kind.get_super(), h5t.TypeReferenceID):
            for axis in range(found.rank):
                h5ds.iterate(found, axis, lambda scale: dims.append(scales[h5o.get_info(scale).addr]))
    if len(dims) != found.rank:
        raise SessionError(f"{path}: expected dims with names, found {name} of shape {found.shape} without. Was it written by netCDF?")
    return tuple(dims)


def _values(found, path, load):
    """Read the values of a dataset, or return zeros that take no memory if `load` is False.

    It uses the lower layer of h5py, which is three times as fast for small datasets.
    """
    if not load:
        return np.broadcast_to(np.zeros((), found.dtype), found.shape)
    check_size(found, path, MOST_PACKED)
    values = np.empty(found.shape, found.dtype)
    found.read(h5s.ALL, h5s.ALL, values)
    if values.dtype.kind in "OS":
        return np.array([v.decode() for v in values.ravel().tolist()], dtype=str).reshape(values.shape)
    return values


def _attribute(value):
    """Convert an attribute to the type that xarray gives it: str, a single number, or an array of numbers."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.ravel()[0]
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else value


def _digest(ds):
    """The digest of everything in a Session except the values of its traces."""
    told, numbers = [sorted(ds.attrs.items())], hashlib.blake2b(digest_size=12)
    for name in sorted(ds.variables):
        v = ds.variables[name]
        told.append((name, name in ds.coords, v.dims, v.shape, v.dtype.str, sorted(v.attrs.items())))
        if name in SIGNALS:
            continue
        if v.dtype.kind in "OU":
            told.append(v.values.tolist())
        else:  # their lengths are known from the shapes in `told`
            numbers.update(np.ascontiguousarray(v.values).view(np.uint8).data if v.size else b"")
    return hashlib.blake2b(json.dumps([told, numbers.hexdigest()], default=_as_list).encode(), digest_size=12).hexdigest()


def _as_list(value):
    return [str(np.asarray(value).dtype), np.asarray(value).tolist()]


def rows_offset(path, name):
    """The byte at which the traces `name` (neuron, frame) begin in the file of a Session, if the file stores them as memory does.

    Parameters
    ----------
    path : Path
    name : str
        "fluorescence" or "dff".

    Returns
    -------
    int or None
        None if the traces are compressed, split into chunks, or not little-endian float32.

    Raises
    ------
    QfError, DamagedFileError, SessionError
        As `read_session`, if the file can't be opened.
    """
    with open_hdf5(readable_file(path, "the file of a Session"), DAMAGED) as f:
        found = h5d.open(f.id, name.encode())
        plain = found.get_create_plist().get_layout() == h5d.CONTIGUOUS and found.dtype == np.dtype("<f4")
        return found.get_offset() if plain else None
