"""Alterations of files: bytes, the structure of HDF5, values in JSON and safetensors, cells and columns of CSV."""

import json
import os

import h5py
import numpy as np

ODD = [
    None, True, False, 0, -1, 1, 3.5, float("nan"), float("inf"), -1e308, 2**40, 2**63, 10**30, "", "x", "-1", "\0", "../..", "a" * 5000, [], {}, [[]], [None],
    {"a": 1}, [1, 2, 3], [[[[[[[[1]]]]]]]],
]  # fmt: skip


def alter(kind, case, rng):
    """Alter one file of a case; returns what was done, in words."""
    files = sorted(p for p in case.rglob("*") if p.is_file() and (kind not in ("model", "checkpoint") or "store" not in p.parts[len(case.parts) :]))
    path = rng.choice(files)
    name = path.relative_to(case)
    own = {".nc": _hdf5, ".nwb": _hdf5, ".json": _json, ".csv": _csv, ".npy": _array, ".npz": _bytes, ".safetensors": _safetensors}.get(
        path.suffix, _bytes
    )
    how = own if rng.random() < 0.65 else _bytes
    if kind == "store" and rng.random() < 0.1:
        how = _among_files
    try:
        return f"{name}: {how(path, rng)}"
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as e:  # HDF5 refuses some: altered bytes take its place
        return f"{name}: {_bytes(path, rng)} ({type(e).__name__} before)"


def _bytes(path, rng):
    data = bytearray(path.read_bytes())
    n = len(data)
    kind = rng.choice(["flip", "flip", "flip", "truncate", "duplicate", "swap", "zero", "random", "insert", "empty"])
    at, size = rng.randrange(max(1, n)), rng.choice([1, 4, 16, 64, 512])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            data[rng.randrange(n)] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del data[at:]
    elif kind == "duplicate":
        data[at:at] = data[at : at + size]
    elif kind == "swap":
        other = rng.randrange(n)
        a, b = bytes(data[at : at + size]), bytes(data[other : other + size])
        data[at : at + len(b)], data[other : other + len(a)] = b, a
    elif kind == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "random":
        data[at : at + size] = rng.randbytes(len(data[at : at + size]))
    elif kind == "insert":
        data[at:at] = rng.randbytes(size)
    else:
        data = bytearray()
    path.write_bytes(bytes(data))
    return f"{kind} {size} at {at}"


def _among_files(path, rng):
    """A copy under another name, another kind of file in its place, a file among the others that is none."""
    kind = rng.choice(["copy", "fifo", "folder", "link", "swap"])
    if kind == "copy":
        (path.parent / "mouse__three.nc").write_bytes(path.read_bytes())
    elif kind == "fifo":
        os.mkfifo(path.parent / "mouse__pipe.nc")
    elif kind == "folder":
        (path.parent / "mouse__folder.nc").mkdir()
    elif kind == "link":
        (path.parent / "mouse__link.nc").symlink_to("nothing")
    else:
        other = next(p for p in sorted(path.parent.glob("*.nc")) if p != path)
        one = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(one)
    return kind


def _hdf5(path, rng):
    with h5py.File(path, "r+") as f:
        groups, datasets = [f], []
        f.visititems(lambda _, o: (groups if isinstance(o, h5py.Group) else datasets).append(o))
        kind = rng.choice(
            [
                "attr",
                "attr",
                "no attr",
                "delete",
                "dtype",
                "shape",
                "value",
                "value",
                "loop",
                "external",
                "soft",
                "outside",
                "virtual",
                "huge",
                "text",
                "group",
            ]
        )
        target = rng.choice(datasets + groups)
        data = rng.choice(datasets)
        whole_name, where = data.name, data.parent
        name = whole_name.rsplit("/", 1)[1]
        if kind in ("attr", "no attr"):
            names = sorted(target.attrs) or ["new"]
            attr = rng.choice(names)
            if kind == "no attr":
                target.attrs.pop(attr, None)
            else:
                target.attrs[attr] = rng.choice(
                    [1, -1.5, np.nan, "text", "", b"\xff\xfe", [1, 2, 3], np.float32(7), True, np.zeros(0), 2**62, "a" * 3000]
                )
            return f"{kind} {target.name}@{attr}"
        if kind == "delete":
            gone = data if target.name == "/" else target
            del gone.parent[gone.name.rsplit("/", 1)[1]]
        elif kind in ("dtype", "shape", "text", "value"):
            values = data[()]
            new = {
                "dtype": lambda: np.asarray(values).astype(rng.choice(["f8", "f2", "i8", "i1", "c8", "?", ">f4", "S5"])),
                "shape": lambda: np.asarray(values).ravel()[: rng.choice([0, 1, 2, 7])],
                "text": lambda: np.full(np.shape(values), "2001-01-01", dtype="S10"),
                "value": lambda: _other_values(np.asarray(values), rng),
            }[kind]()
            if kind == "value":
                data[...] = new
            else:
                del where[name]
                where[name] = new
        elif kind == "loop":
            rng.choice(groups)["again"] = rng.choice(groups)
        elif kind == "external":
            where.pop(name)
            where[name] = h5py.ExternalLink("outside.bin", "/x")
        elif kind == "soft":
            where.pop(name)
            where[name] = h5py.SoftLink(rng.choice([whole_name, "/nothing", "/"]))
        elif kind == "outside":
            shape, dtype = data.shape, data.dtype
            where.pop(name)
            where.create_dataset(
                name, shape=shape or (1,), dtype=dtype if dtype.kind in "fiu" else "u1", external=[("outside.bin", 0, h5py.h5f.UNLIMITED)]
            )
        elif kind == "virtual":
            shape = data.shape or (1,)
            where.pop(name)
            layout = h5py.VirtualLayout(shape=shape, dtype="f4")
            layout[...] = h5py.VirtualSource("other.h5", "x", shape=shape)
            where.create_virtual_dataset(name, layout)
        elif kind == "huge":
            where.pop(name)
            where.create_dataset(name, shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
        else:
            where.pop(name)
            where.create_group(name)
        return f"{kind} {whole_name}"


def _other_values(values, rng):
    out = np.array(values)
    if out.dtype.kind == "O":
        out = out.ravel()
        out[rng.randrange(len(out))] = rng.choice(["", "x", "a/b", "\u00e4" * 300])
        return out.reshape(np.shape(values))
    flat = out.ravel()
    flat[rng.randrange(flat.size)] = (
        rng.choice([0, 1, 100]) if out.dtype.kind in "iu" else rng.choice([0, -1.0, np.nan, np.inf, 1e30]) if out.dtype.kind == "f" else flat[0]
    )
    return flat.reshape(np.shape(values))


def _json(path, rng):
    note = json.loads(path.read_text())
    places = []

    def visit(node, trail):
        for k in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, k, (*trail, k)))
            visit(node[k], (*trail, k))

    visit(note, ())
    node, key, trail = rng.choice(places)
    if rng.random() < 0.2 and isinstance(node, dict):
        del node[key]
        told = "without"
    else:
        node[key] = told = rng.choice(ODD)
    text = json.dumps(note)
    if rng.random() < 0.03:
        text, told = "[" * 100_000, "nested"
    path.write_text(text)
    return f"{'.'.join(map(str, trail))} = {str(told)[:40]!r}"


def _safetensors(path, rng):
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    name = rng.choice([k for k in header if k != "__metadata__"])
    kind = rng.choice(["field", "field", "drop", "rename", "nan", "metadata", "length"])
    if kind == "field":
        header[name][rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice([*ODD, "F64", "I8", [1], [0, 8], [2**40, 2**41]])
    elif kind == "drop":
        del header[name]
    elif kind == "rename":
        header["other"] = header.pop(name)
    elif kind == "nan":
        a, b = header[name]["data_offsets"]
        body = body[:a] + b"\xff" * (b - a) + body[b:]
    elif kind == "metadata":
        header["__metadata__"] = {"x": rng.choice(["1", "", "{}", "null"])}
    text = json.dumps(header).encode()
    size = len(text) if kind != "length" else rng.choice([0, 1, 2**40, 2**63])
    path.write_bytes(size.to_bytes(8, "little") + text + body)
    return f"{kind} {name}"


def _csv(path, rng):
    rows = [line.split(",") for line in path.read_text().splitlines()]
    kind = rng.choice(["cell", "cell", "cell", "header", "separator", "encoding", "drop", "twice", "short", "long"])
    r, c = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    odd = ["", "nan", "inf", "-5", "0.5", "1e30", "text", "a/b", ".", "/", '"', "\0", " x ", "\u00e4", "2001-01-01", "True", "1" * 400]
    if kind == "cell":
        rows[r][c] = rng.choice(odd)
    elif kind == "header":
        rows[0][c] = rng.choice([*odd, "onset_s", "trial", "frame", "neuron", "condition", "block", "stimulus", "direction"])
    elif kind == "drop":
        del rows[r]
    elif kind == "twice":
        rows.insert(r, list(rows[r]))
    elif kind == "short":
        del rows[r][c:]
    elif kind == "long":
        rows[r] += ["1"] * 3
    text = "\n".join((rng.choice([";", "\t", "|"]) if kind == "separator" else ",").join(row) for row in rows)
    path.write_bytes(text.encode(rng.choice(["utf-16", "latin-1", "utf-8-sig"]) if kind == "encoding" else "utf-8"))
    return f"{kind} {r},{c}"


def _array(path, rng):
    x = np.load(path, allow_pickle=True)
    kind = rng.choice(["object", "fortran", "big", "0d", "1d", "3d", "f2", "i4", "c8", "text", "empty", "nan", "bool", "other", "rows"])
    new = {
        "object": lambda: np.array([{"a": 1}, None], dtype=object), "fortran": lambda: np.asfortranarray(x), "big": lambda: np.asarray(x, ">f4"),
        "0d": lambda: np.float32(3), "1d": lambda: np.ravel(x), "3d": lambda: np.asarray(x)[None], "f2": lambda: np.asarray(x, "f2"),
        "i4": lambda: np.asarray(x, "i4"), "c8": lambda: np.asarray(x, "c8"), "text": lambda: np.asarray(x).astype("U8"), "empty": lambda: np.zeros((0, 0)),
        "nan": lambda: np.full(np.shape(x), np.nan, "f4"), "bool": lambda: np.asarray(x, bool), "other": lambda: np.arange(5), "rows": lambda: np.asarray(x)[:2],
    }[kind]  # fmt: skip
    np.save(path, new(), allow_pickle=True)
    return kind
