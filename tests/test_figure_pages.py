"""`qf figures`: notebooks are run, their figures gathered on a page, and what fails is named."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
from helpers import refused

from qf_toolkit.cli.main import main
from qf_toolkit.study.notebook_page import Run, _failed_cell, _without_widgets, page

mpl.use("Agg")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it comes with the extra notebooks")


# ---------------------------------------------------------------- figures

SAVE = """from pathlib import Path
import matplotlib.pyplot as plt
from qf_toolkit.plots.style import credit, save_figure
fig, ax = plt.subplots()
ax.plot([0, SEED])
credit(fig, {"simulated": 1, "data": "abcdef0123456789", "model": "fedcba9876543210", "seed": SEED})
save_figure(fig, Path(FIGURES) / "NAME", title="Figure A-1: <lines>", alt="A line & nothing else")"""

PARAMETERS = 'FAST = None\nSTORE = "unset"\nSTUDY = FIGURES = ""\nSEED = 0'


def notebook(path, *cells, title="A title"):
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    heading = nbformat.v4.new_markdown_cell(f"# {title}\n\ntext")
    nb = nbformat.v4.new_notebook(cells=[heading, parameters, *map(nbformat.v4.new_code_cell, cells)])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nb, path)


class Page(HTMLParser):
    """Images, links and headings of a page; every tag that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.headings, self.open, self.ids = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.images.append(attrs)
        elif tag == "a":
            self.links.append(attrs["href"])
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of four notebooks: one is good, one fails in its second cell after a figure, one can't be read, one kills its kernel."""
    root = tmp_path_factory.mktemp("figures")
    show = "import os\nfrom pathlib import Path\nprint('seed', SEED, FAST, STORE, Path(STUDY).name, os.environ['OMP_NUM_THREADS'])"
    notebook(root / "nb" / "01_good.ipynb", show, SAVE.replace("NAME", "A-1_lines"), SAVE.replace("NAME", "0_more"), title="Good & well")
    notebook(root / "nb" / "02_bad.ipynb", SAVE.replace("NAME", "early") + "\n\nraise ValueError('first\\nlast line')", "print('never')")
    (root / "nb" / "03_broken.ipynb").write_text("{ no notebook")
    notebook(root / "nb" / "04_dead.ipynb", "# the kernel dies\nimport os; os._exit(1)")
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    argv = [sys.executable, "-m", "qf_toolkit.cli.main", "figures", "--out", "out", "--notebooks", "nb", "--seed", "7"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False, env=env)
    return root, done


def test_failing_notebooks_are_named_with_their_cell(made):
    _, done = made
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("qf: ")]
    assert lines[0] == "qf: 02_bad.ipynb, code cell 2 (from pathlib import Path): ValueError: last line"
    assert lines[1].startswith("qf: 03_broken.ipynb, NotJSONError")
    assert lines[2].startswith("qf: 04_dead.ipynb, code cell 2 (import os; os._exit(1)): DeadKernelError") and len(lines) == 3
    assert "Traceback" not in done.stderr
    good, bad = (line for line in done.stdout.splitlines() if line.startswith(("01_good", "02_bad")))
    assert re.fullmatch(r"01_good +\d+\.\d s  2 figures", good) and re.fullmatch(r"02_bad +\d+\.\d s  1 figure  FAILED", bad)


def test_figures_are_gathered_and_notebooks_kept_as_run(made):
    root, _ = made
    out = root / "out"
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and "study" not in p.parts[-2])
    stems = ["01_good/0_more", "01_good/A-1_lines", "02_bad/early"]
    assert found == sorted(
        [
            "index.html",
            "index.json",
            *(f"notebooks/{n}.ipynb" for n in ("01_good", "02_bad", "03_broken", "04_dead")),
            *(s + e for s in stems for e in (".png", ".svg", ".json")),
        ]
    )
    run = nbformat.read(out / "notebooks" / "01_good.ipynb", as_version=4)
    assert "seed 7 True None study_fast 1" in json.dumps(run.cells[3].outputs)
    assert not list(out.glob(".run-*"))


def test_index_shows_every_figure(made):
    root, _ = made
    text = (root / "out" / "index.html").read_text()
    index = Page(text)
    # in the order in which they were saved
    assert [i["src"] for i in index.images] == ["01_good/A-1_lines.png", "01_good/0_more.png", "02_bad/early.png"]
    assert all(i["alt"] == "A line & nothing else" for i in index.images)
    for link in [*index.links, *(i["src"] for i in index.images)]:
        assert link[1:] in index.ids if link.startswith("#") else (root / "out" / link).is_file(), link
    assert {f"01_good/A-1_lines{end}" for end in (".svg", ".json")} <= set(index.links)
    assert "Figure A-1: &lt;lines&gt;" in text and "Good &amp; well" in text
    assert "Simulated data; data abcdef01; model fedcba98; seed 7" in text and "All of them show simulated data." in text
    assert "3 of the notebooks failed" in text and "code cell 2 (from pathlib import Path): ValueError: last line" in text
    assert index.headings == ["h1", "h2", "h3", "h3", "h2", "h3", "h2", "h2"]
    assert not re.search(r"(src|href)=\"(https?:)?//|url\(|@import|<script|<link", text)


def test_only_runs_those_and_keeps_the_others(made, tmp_path, capsys, monkeypatch):
    import papermill

    root, _ = made
    ran = []

    def fake(source, target, parameters, **options):
        ran.append(source.name)
        Path(parameters["FIGURES"], "new.png").write_bytes(b"png")
        nbformat.write(nbformat.read(source, as_version=4), target)

    monkeypatch.setattr(papermill, "execute_notebook", fake)
    out = tmp_path / "out"
    argv = ["figures", "--notebooks", root / "nb", "--out", out, "--seed", "7", "--study", tmp_path / "study", "--quiet", "--only"]
    assert main([str(a) for a in [*argv, "01"]]) == 0 and main([str(a) for a in [*argv, "02"]]) == 0
    assert ran == ["01_good.ipynb", "02_bad.ipynb"]
    (out / "02_bad" / "new.png").write_bytes(b"old")
    (out / "02_bad" / "stale.png").write_bytes(b"old")
    assert main([str(a) for a in [*argv, "02"]]) == 0
    assert (out / "02_bad" / "new.png").read_bytes() == b"png" and not (out / "02_bad" / "stale.png").exists()
    assert [i["src"] for i in Page((out / "index.html").read_text()).images] == ["01_good/new.png", "02_bad/new.png"]
    capsys.readouterr()
    assert "no notebook begins with '09'; there are 01_good" in refused(capsys, *argv, "09")

    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", stopped)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert main([str(a) for a in [*argv, "02"]]) == 130
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_what_can_not_be_run_is_told_in_a_line(made, tmp_path, capsys, monkeypatch):
    root, _ = made
    assert "expected a folder of .ipynb files" in refused(capsys, "figures", "--notebooks", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    said = refused(capsys, "figures", "--notebooks", root / "nb", "--out", root / "out", "--seed", "8")
    assert "made with seed 7, found 8" in said  # that study is another one's
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert "pip install 'qf_toolkit[notebooks]'" in refused(capsys, "figures", "--notebooks", root / "nb", "--out", tmp_path / "out")


def test_widgets_leave_their_static_pictures():
    view = nbformat.v4.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|"})
    both = nbformat.v4.new_output("display_data", data={**view.data, "image/png": "iVBOR"})
    static = nbformat.v4.new_output("display_data", data={"text/html": "<img>"})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("w", outputs=[view, both, static])], metadata={"widgets": {"state": 1}})
    outputs = _without_widgets(nb).cells[0].outputs
    assert [sorted(o.data) for o in outputs] == [["image/png", "text/plain"], ["text/html"]] and "widgets" not in nb.metadata


def test_cells_are_counted_as_in_jupyter(tmp_path):
    error, code = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]), nbformat.v4.new_code_cell
    injected, failed = code("i", metadata={"tags": ["injected-parameters"]}), code("# why\n\ny = 1\nz", outputs=[error])
    nbformat.write(nbformat.v4.new_notebook(cells=[code("p"), injected, nbformat.v4.new_markdown_cell("m"), code("x"), failed]), tmp_path / "n.ipynb")
    assert _failed_cell(tmp_path / "n.ipynb") == "code cell 3 (y = 1)" and _failed_cell(tmp_path / "none.ipynb") == ""


def test_page_survives_missing_sidecars(tmp_path):
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "a_b.svg").write_text("<svg/>")
    (tmp_path / "n" / "a_b.json").write_text("{")
    found = Page(page([Run("n", "N", figures=["a_b"])], tmp_path))
    assert [(i["src"], i["alt"]) for i in found.images] == [("n/a_b.svg", "a b")]


# ---------------------------------------------------------------- the notebooks of the repository

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAIRS = sorted(NOTEBOOKS.glob("*.py"))


def test_notebooks_are_there():
    names = [p.stem[:2] for p in PAIRS]
    assert names == [f"{i:02d}" for i in range(1, 15)]
    assert [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))] == [p.stem for p in PAIRS]


@pytest.mark.parametrize("path", PAIRS, ids=lambda p: p.stem)
def test_pairs_agree_and_are_without_outputs(path):
    import jupytext

    text, nb = jupytext.read(path), nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert [(c.cell_type, c.source) for c in nb.cells] == [(c.cell_type, c.source) for c in text.cells]
    assert not any(c.outputs or c.execution_count for c in nb.cells if c.cell_type == "code") and "widgets" not in nb.metadata
    parameters = [c.source for c in nb.cells if "parameters" in c.metadata.get("tags", ())]
    assert len(parameters) == 1 and all(re.search(rf"^{name} = ", parameters[0], re.M) for name in ("FAST", "STORE", "STUDY", "FIGURES", "SEED"))
    assert "FAST = True" in parameters[0]
    assert "save_figure(fig, Path(FIGURES)" in "\n".join(c.source for c in nb.cells)
    assert len(path.with_suffix(".ipynb").read_bytes()) < 30_000


@pytest.mark.slow
def test_all_notebooks_run(tmp_path):
    assert main(["figures", "--out", str(tmp_path), "--notebooks", str(NOTEBOOKS)]) == 0
