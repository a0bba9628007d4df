"""`qf import` and `qf allen`: from files of any kind, or from the Allen Institute, into a store."""

import os
import sys
from pathlib import Path

from ..errors import QfError
from ..recordings.importers.options import AllenChoice, AllenPlace
from .options import KINDS
from .outputs import claim_output


def import_recordings(args):
    """Run `qf import`: import recordings side by side, and tell at the end which could not be. Returns the exit code."""
    from ..recordings.importers.many import check_how, import_many
    from ..recordings.store import Store

    # lists, by which stores know what they hold already
    options = {n: list(v) if isinstance(v, tuple) else v for n, v in args.of(KINDS[args.kind]).items()}
    if args.kind == "arrays":
        if "rate_hz" not in options and "frame_time" not in options:
            raise QfError("--rate: expected the frames a second of the arrays, found none. Give it, for example --rate 30, or --frame-time.")
        options.setdefault("signal", args.signal)
    # what is wrong with the command is told before anything is downloaded
    claim_output(args.store, "store", option="--store")
    check_how(args.workers, args.scheduler)
    sources, failed = _allen_sources(args) if args.kind == "allen" else (_plain_sources(args), [])
    _check_one_name(args, len(sources))
    Store(args.store, create=True)
    done = import_many(
        _reader(args.kind), sources, args.store, options=options, overwrite=args.overwrite, workers=args.workers, scheduler=args.scheduler,
        progress=args.progress, on_done=_told,
    )  # fmt: skip
    failed += [d.error for d in done if d.error is not None]
    skipped = sum(d.skipped for d in done)
    if skipped:
        print(f"{skipped} of {len(done)} recordings are in the store already, from the same source with the same options.")
    for text in failed:
        print(f"qf: {text}", file=sys.stderr)
    if args.kind == "allen":
        _tell_matched(args.store, [k for d in done for k in d.keys])
    total = len(sources) + len(failed) - sum(d.error is not None for d in done)
    if failed:
        print(f"qf: {len(failed)} of {total} recordings were not imported.", file=sys.stderr)
    return 0 if not failed else 1 if len(failed) < total else 2


def _check_one_name(args, n):
    if n > 1 and args.session is not None:
        raise QfError(f"--session: expected one recording to name so, found {n}. Import them one by one, or leave it out.")


def _reader(kind):
    if kind == "nwb":
        from ..recordings.importers.nwb import read_nwb as read
    elif kind == "allen":
        from ..recordings.importers.allen import read_allen as read
    elif kind == "suite2p":
        from ..recordings.importers.suite2p import read_suite2p as read
    else:
        from ..recordings.importers.arrays import read_arrays as read
    return read


def _told(done):
    for line in done.notes:
        say(f"qf: note: {line}", file=sys.stderr)
    for line in done.summary:
        say(line)


def _plain_sources(args):
    if not args.sources:
        raise QfError(f"SOURCE: expected what to import as {args.kind}, found nothing. Name files or folders.")
    return _once([p for s in args.sources for p in _files(Path(s), args.kind == "nwb")])


def _files(path, folders):
    """A path itself, or the .nwb files of a folder where `folders`."""
    if not path.exists():
        raise QfError(f"{path}: expected a file or folder, found nothing there. Check the path.")
    if folders and path.is_dir():
        # macOS puts a ._ file beside each on other drives
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() == ".nwb" and p.is_file() and not p.name.startswith("."))
        if not files:
            raise QfError(f"{path}: expected .nwb files in the folder, found none. Give the files themselves.")
        return files
    return [path]


def _once(paths):
    """Each file once, however often it was named."""
    return list({os.path.realpath(p): p for p in reversed(paths)}.values())[::-1]


def _allen_sources(args):
    """The session files to import, downloaded where they must be, and a line for each that could not be had."""
    from ..recordings.importers.allen import need_allensdk
    from ..recordings.store import Store

    if args.sources:
        raise QfError(f"SOURCE: expected none with import allen, found {args.sources[0]}. Name files by --files, containers by --container.")
    chosen = {n: v for n, v in args.of(AllenChoice).items() if n != "paper"}
    if args.files:
        other = [n for n in args.of(AllenChoice, AllenPlace) if args.given[n]]
        if other:
            raise QfError(f"{other[0]}: expected without --files, which are imported as they are. Leave one of the two out.")
        files = _once([p for f in args.files for p in _files(Path(f), True)])
        need_allensdk()
        return files, []
    cache = _allen_cache(args)
    if not chosen and not args.paper:
        if not args.manifest:
            raise QfError("allen: expected what to import, found nothing. Give --container ID, --paper, --area..., or --files PATH.")
        files = cache.files()
        if not files:
            raise QfError(f"{args.manifest}: expected session files in the cache, found none. Leave --manifest out to download them.")
        return files, []
    sessions = cache.sessions(containers=_containers(args), **{n: v for n, v in chosen.items() if n != "container"})
    _check_one_name(args, len(sessions))
    Store(args.store, create=True)
    print(f"{len(sessions)} sessions of {sessions['container'].nunique()} containers, {int(sessions['file'].sum())} of them in {cache.path.parent}")
    sources, failed = [], []
    for experiment in sessions["id"]:
        try:
            sources.append(cache.file(experiment, progress=args.progress))
        except QfError as error:
            failed.append(str(error))
    return sources, failed


def _allen_cache(args):
    from ..recordings.importers.allen_cache import AllenCache

    if args.manifest and (args.cache or args.url):
        raise QfError("--manifest: expected without --cache and --url, since it asks nothing of the network. Leave one of them out.")
    return AllenCache(args.manifest or Path(args.cache or "data/allen") / "manifest.json", offline=bool(args.manifest), url=args.url)


def _containers(args):
    from ..recordings.importers.allen import PAPER_CONTAINERS

    return [*(args.container or ()), *(PAPER_CONTAINERS if args.paper else ())] or None


def _tell_matched(store, keys):
    """How many cells each container's sessions have in common."""
    from ..recordings.store import Store

    for subject in sorted({k.split("/")[0] for k in keys}):
        try:
            mine = Store(store).neurons(subject)
        except QfError as error:  # another session of it is damaged
            print(f"qf: note: {error}", file=sys.stderr)
            continue
        seen = mine.groupby("neuron")["session"].nunique()
        n = int(mine["session"].nunique())
        if n > 1:
            print(f"{subject}: {len(seen)} cells in {n} sessions, {int((seen == n).sum())} of them in every one")


def list_allen(args):
    """Run `qf allen list`: the containers or sessions that can be imported."""
    cache = _allen_cache(args)
    chosen = {n: getattr(args, n) for n in ("area", "cre_line", "depth_um")}
    if args.sessions or args.types:
        table = cache.sessions(containers=_containers(args), types=args.types, **chosen)
    else:
        table = cache.containers(ids=_containers(args), **chosen)
    print(table.to_string(index=False))
    return 0


def say(text, file=None):
    """Print a line without breaking a progress bar."""
    from tqdm.auto import tqdm

    tqdm.write(text, file=file)
