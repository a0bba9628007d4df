"""The netCDF file of a Session: written whole, read by h5py, checked against what was written.

xarray reads these files, too, but takes ten times as long for a header, and follows whatever a file asks of it. Two hashes in the attributes tell
an altered file: `fingerprint`, of the traces, checked where those are read; `_digest`, of all else, checked always. Files of earlier versions
have no digest and are read without that check.
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
MANY_COLUMNS = 100  # of a trial table: h5netcdf takes 5 ms for each
MOST_PACKED = 100  # numbers are stored as they are; of a file that somebody packed, what a gigabyte of memory may come from
_OF_THE_FORMAT = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "coordinates"}
_DECODED = {"units", "calendar", "scale_factor", "add_offset", "dtype", "_FillValue", "missing_value", "_Unsigned"}


def write_session(ds, tmp):
    """Write a valid Session into the temporary file of `atomic_path`, with its digest.

    Raises
    ------
    SessionError
        If it holds what netCDF can't.
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
        Read the traces, too; else they are zeros that take no memory, of their shape and type.

    Returns
    -------
    xarray.Dataset
        A valid Session.

    Raises
    ------
    QfError
        If the system refuses to read it, or it does not fit into memory: the file may well be whole.
    DamagedFileError
        If it is cut short, altered, or of another format.
    SessionError
        If it is no Session, or leads to other files.
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
    """The Session in an open file, and the digest that is stored with it."""
    variables, decode = {}, False
    opened = {name: h5o.open(f.id, name.encode()) for name in f}
    for name, found in opened.items():
        if not isinstance(found, h5d.DatasetID):
            raise SessionError(f"{path}: expected variables alone, found the group or type {name}. Is it another kind of file?")
    # by address: HDF5 would look for the name of a scale among all that there is
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
    # a label of one dim is a coord, whatever its name: netCDF lists coords in a text, where a blank in a name divides
    coords = {n: v for n, v in variables.items() if len(v.dims) == 1 and (v.dims[0] in ("neuron", "frame", "trial", "epoch") or n == v.dims[0])}
    ds = xr.Dataset({n: v for n, v in variables.items() if n not in coords}, coords, attrs)
    return (xr.decode_cf(ds) if decode else ds), digest


def _dims(found, path, name, scales):
    """Names of the dims of a dataset, from the scales attached to it; `scales` are {address: name}."""
    dims = []
    if found.rank and h5a.exists(found, b"DIMENSION_LIST"):
        attached = h5a.open(found, b"DIMENSION_LIST")
        kind = attached.get_type()
        # HDF5 crashes the interpreter where this is anything but a list of references for each axis
        if attached.shape == (found.rank,) and isinstance(kind, h5t.TypeVlenID) and isinstance(kind.get_super(), h5t.TypeReferenceID):
            for axis in range(found.rank):
                h5ds.iterate(found, axis, lambda scale: dims.append(scales[h5o.get_info(scale).addr]))
    if len(dims) != found.rank:
        raise SessionError(f"{path}: expected dims with names, found {name} of shape {found.shape} without. Was it written by netCDF?")
    return tuple(dims)


def _values(found, path, load):
    """The values of a dataset; zeros that take no memory where they are not to be loaded. h5py's lower layer, three times as fast on small ones."""
    if not load:
        return np.broadcast_to(np.zeros((), found.dtype), found.shape)
    check_size(found, path, MOST_PACKED)
    values = np.empty(found.shape, found.dtype)
    found.read(h5s.ALL, h5s.ALL, values)
    if values.dtype.kind in "OS":
        return np.array([v.decode() for v in values.ravel().tolist()], dtype=str).reshape(values.shape)
    return values


def _attribute(value):
    """An attribute as xarray gives it: text as str, a single number as such, several as array."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.ravel()[0]
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else value


def _digest(ds):
    """A hash of all that a Session holds but the values of its traces."""
    told, numbers = [sorted(ds.attrs.items())], hashlib.blake2b(digest_size=12)
    for name in sorted(ds.variables):
        v = ds.variables[name]
        told.append((name, name in ds.coords, v.dims, v.shape, v.dtype.str, sorted(v.attrs.items())))
        if name in SIGNALS:
            continue
        if v.dtype.kind in "OU":
            told.append(v.values.tolist())
        else:  # their lengths are in what is told of them
            numbers.update(np.ascontiguousarray(v.values).view(np.uint8).data if v.size else b"")
    return hashlib.blake2b(json.dumps([told, numbers.hexdigest()], default=_as_list).encode(), digest_size=12).hexdigest()


def _as_list(value):
    return [str(np.asarray(value).dtype), np.asarray(value).tolist()]


def rows_offset(path, name):
    """The byte of a Session's file at which the traces `name` (neuron, frame) begin, where they lie there as they do in memory.

    Parameters
    ----------
    path : Path
    name : str
        "fluorescence" or "dff".

    Returns
    -------
    int or None
        None where they are packed, cut into chunks, or other than float32, lowest byte first.

    Raises
    ------
    QfError
        As `read_session`.
    """
    with open_hdf5(readable_file(path, "the file of a Session"), DAMAGED) as f:
        found = h5d.open(f.id, name.encode())
        plain = found.get_create_plist().get_layout() == h5d.CONTIGUOUS and found.dtype == np.dtype("<f4")
        return found.get_offset() if plain else None
