"""Make a page of figures from notebooks: run each notebook from top to bottom, gather the figures it saves, and write an index that shows them."""

import html
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from .._files import part_name, sweep, write_text
from .._version import __version__
from ..errors import QfError
from ..models.options import check_options
from .options import FiguresOptions

INDEX, NOTE = "index.html", "index.json"
THREADS = "OMP_NUM_THREADS"
PICTURES = (".png", ".svg")
VIEW = "application/vnd.jupyter.widget-view+json"
INSTALL = "Install it: pip install 'qf_toolkit[notebooks]'"


@dataclass
class Run:
    """The run of one notebook.

    Attributes
    ----------
    name : str
        Name of the file, without the ending.
    title : str
        First heading of the notebook, else its name.
    seconds : float
        Duration of the run.
    figures : list of str
        Stems of the pictures below `out/<name>`, in the order in which they were saved.
    failure : str or None
        Cell and error in one line, if the notebook failed.
    made : dict
        size, seed, store and time of the run.
    """

    name: str
    title: str
    seconds: float = 0.0
    figures: list = field(default_factory=list)
    failure: str | None = None
    made: dict = field(default_factory=dict)


def make_figures(
    out="figures",
    *,
    notebooks=FiguresOptions.notebooks,
    study=None,
    store=None,
    fast=FiguresOptions.fast,
    seed=FiguresOptions.seed,
    only=None,
    progress=True,
):
    """Run notebooks in order, gather the figures they save, and write `index.html`.

    If a notebook fails, the others still run, and the figures that it saved before stay. Nothing in `out` changes before all notebooks are done. With
    `only`, the figures of the other notebooks stay on the page as they are.

    Parameters
    ----------
    out : str or Path
        Folder for the page. It gets one subfolder of figures per notebook (svg, png, and a json that names where they come from), `notebooks/` with
        the notebooks as run, and `index.html`.
    notebooks : str or Path
        Folder of the .ipynb files. A notebook with a cell tagged `parameters` receives FAST, STORE, STUDY, FIGURES and SEED.
    study : str or Path, optional
        Folder of the models that the notebooks share (`qf_toolkit.Study`). If None, `out/study_fast` or `out/study_full`.
    store : str or Path, optional
        The recordings. If None, those of a simulated mouse.
    fast : bool
        Train small models, which takes minutes on a CPU. False takes the paper's sizes.
    seed : int
        Seed of the simulation and of every training.
    only : sequence of str, optional
        Beginnings of the names of the notebooks to run, for example "06". If None, all run.
    progress : bool
        Print one line per notebook.

    Returns
    -------
    list of Run
        One per notebook that ran, in order.

    Raises
    ------
    QfError
        If papermill is not installed, there is no such notebook, the study has other settings, or the disk is full.
    """
    check_options(FiguresOptions, {"seed": seed, "fast": fast, "only": only})
    try:
        import ipykernel  # noqa: F401
        import papermill  # noqa: F401
    except ModuleNotFoundError as error:
        raise QfError(f"figures: {error.name} is not installed, which runs the notebooks. {INSTALL}") from error
    from .study import Study

    out, chosen = Path(out).resolve(), _choose(Path(notebooks), only)
    if out.is_file():
        raise QfError(f"out: expected a folder, found the file {out}. Give another --out.")
    size = "fast" if fast else "full"
    study = (out / f"study_{size}" if study is None else Path(study)).resolve()
    store = None if store is None else Path(store).resolve()
    Study(study, store=store, fast=fast, seed=seed)  # raises QfError for settings that don't fit, before the first notebook runs
    parameters = {"FAST": fast, "STORE": store and str(store), "STUDY": str(study), "SEED": seed}
    made = {"size": size, "seed": seed, "store": parameters["STORE"], "qf_toolkit": __version__}
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    runs = []
    with _threads(1 if fast else None), tempfile.TemporaryDirectory(**part_name("run"), dir=out, ignore_cleanup_errors=True) as staging:
        for path in chosen:
            runs.append(_run(path, Path(staging), parameters))
            runs[-1].made = {**made, "time": datetime.now(UTC).isoformat(timespec="seconds")}
            _tell(runs[-1], progress)
        for run in runs:
            _replace(Path(staging) / run.name, out / run.name)
            _replace(Path(staging) / f"{run.name}.ipynb", out / "notebooks" / f"{run.name}.ipynb")
    known = {run.name: run for run in (_earlier(out) if only else ())} | {run.name: run for run in runs}
    everything = [known[name] for name in sorted(known)]
    write_text(out / NOTE, json.dumps([asdict(run) for run in everything], indent=1) + "\n")
    write_text(out / INDEX, page(everything, out))
    return runs


@contextmanager
def _threads(n):
    """Kernels started in this context compute on `n` threads, unless the user has set a number: the threads of a small model wait for each other."""
    if n is None or THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(n)
    try:
        yield
    finally:
        del os.environ[THREADS]


def _choose(folder, only):
    """The notebooks to run, in the order of their names."""
    found = sorted(p for p in folder.glob("*.ipynb") if not p.name.startswith("."))
    if not found:
        raise QfError(f"notebooks: expected a folder of .ipynb files, found none in {folder}. Give the folder with --notebooks.")
    for start in only or ():
        if not any(p.name.startswith(start) for p in found):
            raise QfError(f"only: no notebook begins with {start!r}; there are {', '.join(p.stem for p in found)}.")
    return [p for p in found if not only or p.name.startswith(tuple(only))]


def _run(path, staging, parameters):
    """Run one notebook. Its figures go into `staging/<name>`, the notebook as run goes beside that folder."""
    import nbformat
    import papermill

    figures, executed = staging / path.stem, staging / f"{path.stem}.ipynb"
    figures.mkdir()
    start, run = time.monotonic(), Run(path.stem, path.stem)
    try:
        run.title = _title(nbformat.read(path, as_version=4)) or path.stem
        papermill.execute_notebook(
            path,
            executed,
            {**parameters, "FIGURES": str(figures)},
            kernel_name="python3",
            cwd=str(path.resolve().parent),
            progress_bar=False,
            kernel_manager_class=_quiet_kernel(),
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's warnings don't concern the reader
        )
    except papermill.PapermillExecutionError as error:
        run.failure = f"{_failed_cell(executed)}: {error.ename}: {_last_line(error.evalue)}"
    except Exception as error:  # the kernel died, or the notebook can't be read: the others still run
        run.failure = ": ".join(filter(None, [_failed_cell(executed), type(error).__name__, _last_line(error)]))
    run.seconds = round(time.monotonic() - start, 1)
    if executed.is_file():
        write_text(executed, nbformat.writes(_without_widgets(nbformat.read(executed, as_version=4))) + "\n")
    else:
        shutil.copyfile(path, executed)
    pictures = sorted((p for p in figures.rglob("*") if p.suffix in PICTURES), key=lambda p: (p.stat().st_mtime_ns, p.name))
    run.figures = list(dict.fromkeys(p.relative_to(figures).with_suffix("").as_posix() for p in pictures))
    return run


def _quiet_kernel():
    """A kernel manager that discards the kernel's stderr. The notebook holds what cells print there; the rest is noise of a kernel that ends."""
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **options):
            await super().start_kernel(stderr=subprocess.DEVNULL, **options)

    return Kernel


def _tell(run, progress):
    if progress:
        n = len(run.figures)
        print(f"{run.name:24} {run.seconds:6.1f} s  {n} figure{'' if n == 1 else 's'}{'  FAILED' if run.failure else ''}", flush=True)
    if run.failure:
        print(f"qf: {run.name}.ipynb, {run.failure}", file=sys.stderr, flush=True)


def _title(notebook):
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
            if line.startswith("# "):
                return line[2:].strip()
    return None


def _failed_cell(executed):
    """Number and first line of the notebook's own code cell that failed. The number, from 1 on, is the one in Jupyter after a run from the top."""
    import nbformat

    number = 0
    for cell in nbformat.read(executed, as_version=4).cells if executed.is_file() else ():
        if cell.cell_type != "code" or "injected-parameters" in cell.metadata.get("tags", ()):
            continue
        number += 1
        # a kernel that died leaves no error, but a cell without a reply
        unanswered = "execution" in cell.metadata and "shell.execute_reply" not in cell.metadata["execution"]
        if unanswered or any(output.output_type == "error" for output in cell.outputs):
            return f"code cell {number} ({_first_line(cell.source)})"
    return ""


def _first_line(source):
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith(("#", "%"))]
    return lines[0] if lines else ""


def _last_line(error):
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "no message"


def _without_widgets(notebook):
    """Remove the state of widgets, with which exports would wait for a server instead of showing the static picture."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        # outputs of progress bars go, since their text shows them at 0 %
        cell.outputs = [o for o in cell.outputs if VIEW not in o.get("data", {}) or any(kind.startswith("image/") for kind in o.data)]
        for output in cell.outputs:
            output.get("data", {}).pop(VIEW, None)
    return notebook


def _replace(source, target):
    """Put the file or folder `source` in the place of `target`."""
    target.parent.mkdir(exist_ok=True)
    if target.is_dir():
        target.rename(source.with_name(source.name + ".former"))  # is removed with the staging folder
    source.replace(target)


def _earlier(out):
    """The runs that an earlier call recorded, of notebooks whose figures are still there."""
    try:
        runs = [Run(**entry) for entry in json.loads((out / NOTE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
    return [run for run in runs if (out / run.name).is_dir()]


# ---------------------------------------------------------------- the page

STYLE = """
:root { color-scheme: light; }
body { font: 100%/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; } h3 { font-size: 1.05rem; }
figure { margin: 1.5rem 0 2.5rem; } img { max-width: 100%; height: auto; border: 1px solid #e5e5e5; }
figcaption, .note { color: #444; font-size: .9rem; overflow-wrap: anywhere; }
a { color: #005a9c; } a:focus-visible { outline: 3px solid #e69f00; }
.failed { border-left: .35rem solid #b00020; padding: .1rem .9rem; background: #fdf1f2; overflow-wrap: anywhere; }
"""


def page(runs, out):
    """The index page: every figure with its title, links, and the data and models it comes from.

    Parameters
    ----------
    runs : list of Run
    out : Path
        Folder that holds the figures.

    Returns
    -------
    str
        HTML that loads nothing from the internet.
    """
    shown = {run.name: [_facts(out / run.name, stem) for stem in run.figures] for run in runs}
    every = [facts for figures in shown.values() for facts in figures]
    simulated = sum(bool(facts.get("simulated")) for facts in every)
    words = {0: "No figure is marked as drawn from simulated data.", len(every): "All of them show simulated data."}
    what = words.get(simulated, f"{simulated} of them show simulated data.") if every else ""
    failed = [run for run in runs if run.failure]
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', "<title>Figures</title>", f"<style>{STYLE}</style>", "</head>", "<body>",
        "<header>", "<h1>Figures</h1>",
        f"<p>{len(every)} figures of {len(runs)} notebooks. {what}</p>", "</header>",
    ]  # fmt: skip
    if failed:
        lines = "".join(f"<li>{_text(run.name)}: {_text(run.failure)}</li>" for run in failed)
        parts.append(f'<section class="failed" aria-label="Failures"><p>{len(failed)} of the notebooks failed:</p><ul>{lines}</ul></section>')
    links = "".join(f'<li><a href="#{_url(run.name)}">{_text(run.title)}</a></li>' for run in runs)
    parts += [f'<nav aria-label="Notebooks"><ol>{links}</ol></nav>', "<main>"]
    for run in runs:
        parts += _section(run, shown[run.name])
    return "\n".join([*parts, "</main>", "</body>", "</html>", ""])


def _section(run, figures):
    made = run.made
    store = "a simulated mouse" if not made.get("store") else Path(made["store"]).name
    facts = f"{made.get('size', '')}, seed {made.get('seed', '')}, recordings: {store}, {run.seconds:.0f} s, {made.get('time', '')[:16].replace('T', ' ')}"
    parts = [
        f'<section id="{_text(run.name)}">', f"<h2>{_text(run.title)}</h2>",
        f'<p class="note">Notebook <a href="notebooks/{_url(run.name)}.ipynb">{_text(run.name)}</a>, as run ({_text(facts)}).</p>',
    ]  # fmt: skip
    if run.failure:
        parts.append(f'<p class="failed">Failed: {_text(run.failure)}{". What it saved before is below." * bool(figures)}</p>')
    for stem, facts in zip(run.figures, figures, strict=True):
        title, where = facts.get("title") or _words(stem), f"{_url(run.name)}/{_url(stem)}"
        # a screen reader reads a link without its surroundings, so its label must name the figure
        links = [(f"{where}{end}", end[1:]) for end in facts["files"]] + [(f"{where}.json", "where it comes from")] * facts["sidecar"]
        links = " | ".join(f'<a href="{to}" aria-label="{text}: {_text(title)}">{text}</a>' for to, text in links)
        parts += [
            "<figure>", f"<h3>{_text(title)}</h3>",
            f'<a href="{where}{facts["files"][-1]}"><img src="{where}{facts["files"][0]}" alt="{_text(facts.get("alt") or title)}" loading="lazy"></a>',
            f"<figcaption>{_text(_provenance(facts))} {links}</figcaption>", "</figure>",
        ]  # fmt: skip
    return [*parts, "</section>"]


def _facts(folder, stem):
    """The content of a figure's sidecar, and the endings of its files (png before svg)."""
    path = folder / f"{stem}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts = facts if isinstance(facts, dict) else {}
    except (OSError, ValueError):
        facts = {}
    return {**facts, "sidecar": path.is_file(), "files": [end for end in PICTURES if (folder / f"{stem}{end}").is_file()] or [PICTURES[0]]}


def _provenance(facts):
    """One line that names the data and models that a figure comes from."""
    if "simulated" not in facts:
        return "Of unknown origin."
    parts = ["Simulated data" if facts["simulated"] else "Recorded data"]
    for name in ("session", "data", "model", "seed"):
        values = list(dict.fromkeys(str(s[name]) for s in facts.get("sources", ()) if name in s))
        if name == "model":  # a view of several models names all of them
            values += [str(m) for s in facts.get("sources", ()) for m in dict(s.get("models", {})).values() if str(m) not in values]
        # digests are long, and their beginnings are enough to identify them
        values = [v for v in values if v]
        values = [v[:8] for v in values] if name in ("data", "model") else values
        if values:
            parts.append(f"{name} {', '.join(values[:4])}{f' and {len(values) - 4} more' if len(values) > 4 else ''}")
    parts += [f"{name} {version}" for name, version in facts.get("versions", {}).items() if name == "qf_toolkit"]
    return "; ".join([*parts, str(facts.get("made", ""))[:10]]) + "."


def _words(stem):
    return stem.replace("/", ": ").replace("_", " ")


def _text(value):
    return html.escape(str(value), quote=True)


def _url(value):
    return quote(str(value), safe="/")
