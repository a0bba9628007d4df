"""Studies, the notebooks that share them, and the page of their figures."""

import json
import os
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from helpers import refused, toy_session

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.study.notebook_page import Run, _failed_cell, _without_widgets, page
from qf_toolkit.study.study import SIZES, Study

mpl.use("Agg")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TINY = {
    "simulate": {"n_neurons": 3, "repeats": 15, "directions": 2, "temporal_frequencies": 1, "images": 2, "orientations": 1, "phases": 1,
                 "image_repeats": 60, "noise_frames": 240},
    "patch_s": 0.5,
    "autoencoder": {"width": 16, "layers": 1, "heads": 2, "codes": 8, "steps": 10, "batch_size": 64, "replace_below": 0.0},
    "forecaster": {"steps": 10},
    "classifier": {"steps": 10},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def store_of(path, *sessions):
    store = qf.Store(path, create=True)
    for session in sessions:
        store.add(session)
    return store


def small(folder, store, **options):
    plan = {name: TINY[name] for name in ("autoencoder", "forecaster", "classifier")}
    return Study(folder, store=store, progress=False, **{"plan": plan, **options})


@pytest.fixture(scope="module")
def toy_store(tmp_path_factory):
    """One stimulus at 10 Hz."""
    return store_of(tmp_path_factory.mktemp("toy") / "store", toy_session(3, repeats=8))


@pytest.fixture(scope="module")
def toy_study(toy_store, tmp_path_factory):
    return small(tmp_path_factory.mktemp("toy") / "study", toy_store)


# ---------------------------------------------------------------- study


def test_models_are_made_once_and_loaded_with_the_same_weights(toy_study, toy_store):
    stimulus = toy_study.stimuli[0]
    forecaster, classifier = toy_study.forecaster(stimulus), toy_study.classifier(stimulus)
    weights = toy_study.path("forecaster", stimulus) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = small(toy_study.folder, toy_store.path)
    assert again.forecaster(stimulus).digest() == forecaster.digest() and weights.stat().st_mtime_ns == written
    assert again.classifier(stimulus).digest() == classifier.digest()
    assert again.autoencoder().digest() == forecaster.autoencoder.digest() == toy_study.autoencoder().digest()
    assert not (weights.parent / "checkpoint").exists()
    assert "trained: autoencoder, classifier/drifting_gratings, forecaster/drifting_gratings" in repr(again)


def test_settings_are_those_of_the_calls(toy_study):
    """The study's model is the one that the shown calls give, bit for bit."""
    settings, split = toy_study.settings("autoencoder"), toy_study.split()
    assert settings["patch_frames"] == 5 and settings["batch_size"] == 64  # half a second at 10 Hz
    by_hand = qf.pretrain(split, **settings)
    assert by_hand.digest() == toy_study.autoencoder().digest()
    n = len(split.train) * len(split.train.neurons)
    assert settings["epochs"] == max(1, round(10 * 64 / n))


def test_split_is_by_blocks_and_tests_the_last(toy_study):
    trials, split = toy_study.trials(), toy_study.split()
    same = qf.split_blocks(trials)
    for name in ("train", "validation", "test"):
        ours, theirs = (getattr(s, name).table[["session", "onset_frame"]].to_numpy().tolist() for s in (split, same))
        assert ours == theirs
    assert set(split.test.table["block"]) == {2} and trials.window.f0_s == 1.0 and trials.window.score_s == "paper"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seed": 1}, "made with seed 0, found 1"), ({"fast": False}, "made with fast True, found False"), ({"plan": {}}, "plan")],
)
def test_other_settings_are_refused(toy_study, toy_store, options, said):
    before = sorted(p.name for p in toy_study.folder.rglob("*"))
    with pytest.raises(QfError, match=said):
        small(toy_study.folder, toy_store, **options)
    assert sorted(p.name for p in toy_study.folder.rglob("*")) == before


def test_other_recordings_are_refused(toy_study, toy_store, tmp_path):
    other = store_of(tmp_path / "other", toy_session(4, repeats=8))
    with pytest.raises(QfError, match="made with recordings .*store, found .*other"):
        small(toy_study.folder, other)
    with pytest.raises(QfError, match="found a simulated mouse"):
        small(toy_study.folder, None)
    grown = store_of(tmp_path / "grown", toy_session(3, repeats=8), toy_session(5, session="two"))
    with pytest.raises(QfError, match="recordings"):
        small(toy_study.folder, grown)


def test_a_folder_of_something_else_is_left_alone(toy_store, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(QfError, match="something else"):
        small(tmp_path, toy_store)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_mark_is_told(toy_store, tmp_path):
    small(tmp_path / "study", toy_store)
    (tmp_path / "study" / "study.json").write_text("{")
    with pytest.raises(QfError, match=r"study\.json: can't be read"):
        small(tmp_path / "study", toy_store)


def test_models_of_another_autoencoder_are_refused(toy_study, toy_store, tmp_path):
    study = small(tmp_path / "study", toy_store)
    foreign = qf.pretrain(study.split(), **{**study.settings("autoencoder"), "lr": 5e-3})
    qf.fit_forecaster(foreign, study.split(), epochs=1, progress=False).save(study.path("forecaster", study.stimuli[0]))
    with pytest.raises(QfError, match="another auto-encoder"):
        study.forecaster(study.stimuli[0])
    other = qf.pretrain(study.split(), **{**study.settings("autoencoder"), "width": 8})
    other.save(study.path("autoencoder"))
    with pytest.raises(QfError, match="has width 8, expected 16"):
        small(study.folder, toy_store).autoencoder()


def test_interrupted_training_goes_on(toy_study, toy_store, tmp_path, monkeypatch):
    from qf_toolkit.training import loop

    plan = {"autoencoder": {"width": 16, "layers": 1, "heads": 2, "codes": 8, "batch_size": 64, "replace_below": 0.0, "epochs": 4}}
    whole = small(tmp_path / "whole", toy_store, plan=plan).autoencoder()
    save, calls = loop.save_checkpoint, []

    def stop_after_two(*args):
        save(*args)
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", stop_after_two)
    study = small(tmp_path / "stopped", toy_store, plan=plan)
    with pytest.raises(KeyboardInterrupt):
        study.autoencoder()
    assert study.autoencoder().digest() == whole.digest()
    assert len(calls) == 4  # two epochs before, two after


def test_unknown_stimulus_stage_and_plan_are_named(toy_study, toy_store, tmp_path):
    with pytest.raises(UnknownKeyError, match="drifting_gratings"):
        toy_study.forecaster("drifting_grating")
    with pytest.raises(QfError, match="stage: expected one of autoencoder"):
        toy_study.settings("decoder")
    for plan in ({"forcaster": {}}, {"forecaster": 5}, {"patch_s": {}}):
        with pytest.raises(QfError, match="plan: expected"):
            small(tmp_path / "study", toy_store, plan=plan)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("stimulus", [".", "..", "x" * 300, "鼠" * 100])
def test_a_stimulus_that_leads_out_of_the_folder_is_refused(toy_study, stimulus):
    with pytest.raises(QfError, match="stimulus: expected a name"):
        toy_study.path("forecaster", stimulus)
    inside = toy_study.path("forecaster", "../../up").resolve()
    assert inside.parent == toy_study.folder.resolve() / "forecaster"


def test_a_demo_makes_room_by_what_it_made_alone(tmp_path):
    from qf_toolkit.study.demo import _prepare

    out = tmp_path / "demo"
    _prepare(out, {"qf_toolkit": "0", "plan": {"epochs": 1}, "seed": 0})
    mine = [out / "mine.csv", out / "store.txt", out / "table_mine.csv"]
    made = [out / "table.csv", out / "table.json", out / "natural_scenes_activation.csv", out / "store" / "sim1__A.nc"]
    for path in mine + made:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    _prepare(out, {"qf_toolkit": "0", "plan": {"epochs": 2}, "seed": 0})
    assert [p.exists() for p in mine] == [True] * 3 and not any(p.exists() for p in made)
    for other in ("{}", "[]", "no json", '{"qf_toolkit": 1}'):  # another program's
        (out / "demo.json").write_text(other)
        with pytest.raises(QfError, match="something else"):
            _prepare(out, {"qf_toolkit": "0", "plan": {}, "seed": 0})
    assert all(p.exists() for p in mine)


@pytest.mark.parametrize(
    ("session", "patch_frames"),
    [
        (toy_session(1, rate_hz=2.9, repeats=6, stimuli=("dots", "bars")), 3),  # other stimuli, few frames
        (toy_session(1, signal="dff", repeats=6), 5),
        (toy_session(1, n_blocks=1, repeats=15), 5),
        (toy_session(1, rate_hz=30.0, repeats=6), 15),
    ],
    ids=["slow", "dff", "one block", "30 Hz"],
)
def test_other_recordings_can_be_learnt(session, patch_frames, tmp_path):
    study = small(tmp_path / "study", store_of(tmp_path / "store", session))
    assert study.settings("autoencoder")["patch_frames"] == patch_frames
    stimulus = study.stimuli[-1]
    split, forecaster = study.split(stimulus), study.forecaster(stimulus)
    assert set(split.test.table["stimulus"]) == {stimulus}
    forecast = forecaster.predict(split.test)["forecast"]
    assert forecast.shape[:2] == (len(split.test), 6) and np.isfinite(forecast.values).all()
    study.autoencoder().check_unseen(study.split().test)
    forecaster.check_unseen(study.split().test)
    if session.attrs["rate_hz"] == 10 and len(set(session["block"].values)) == 1:
        ends = study.split().train.intervals("mouse/one")[:, 1].max(), study.split().validation.intervals("mouse/one")[:, 1].max()
        assert study.split().test.intervals("mouse/one")[:, 0].min() - max(ends) >= 50  # a window apart
        assert "last third" in study.split().rule


def test_no_model_is_tested_on_what_another_learnt_from(tmp_path):
    """Stimuli with different numbers of blocks in one session: the last block of each is nobody's to learn from."""

    def fewer(traces, trials):
        trials.loc[(trials["stimulus"] == "bars") & (trials["block"] == 2), "stimulus"] = "dots"

    session = toy_session(2, repeats=8, stimuli=("dots", "bars"), change=fewer)
    study = small(tmp_path / "study", store_of(tmp_path / "store", session))
    assert set(study.split("bars").test.table["block"]) == {1} and set(study.split("dots").test.table["block"]) == {2}
    for stimulus in study.stimuli:
        study.autoencoder().check_unseen(study.split(stimulus).test)


def test_conditions_that_training_lacks_stay_out(tmp_path):
    """A condition that is shown in the last block alone has no token; one that is rare is left out where others repeat enough."""

    def late(traces, trials):
        trials["orientation"] = trials["orientation"].astype(float)
        trials.loc[trials.index[-1], "orientation"] = 77.0

    study = small(tmp_path / "study", store_of(tmp_path / "store", toy_session(2, repeats=6, change=late)))
    assert not any("77" in c for c in study.trials().conditions)

    def once_a_block(traces, trials):
        trials["orientation"] = np.arange(len(trials)) // 2 * 1.0  # each condition twice, in one block

    study = small(tmp_path / "once", store_of(tmp_path / "more", toy_session(2, repeats=6, change=once_a_block)))
    with pytest.raises(QfError, match="no condition of the training part"):
        study.split()


def test_simulated_study_has_the_stimuli_of_the_paper(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = Study(tmp_path / "study", plan=TINY, progress=False)
        assert "not recorded yet" in repr(study) and not (study.folder / "store").exists()  # nothing is made before it is asked for
        assert study.stimuli == ["drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise"]
        assert study.store.keys() == ["sim1/A", "sim1/B", "sim1/C"]
        (study.store.path / "sim1__C.nc").unlink()  # as if stopped before the last session
        before = (study.store.path / "sim1__A.nc").stat().st_mtime_ns
        again = Study(study.folder, plan=TINY, progress=False)
        assert again.store.keys() == ["sim1/A", "sim1/B", "sim1/C"] and (study.store.path / "sim1__A.nc").stat().st_mtime_ns == before
        noise = again.split("locally_sparse_noise")
        assert not set(noise.test.conditions) & set(noise.train.conditions)  # each frame is shown once
        assert again.forecaster("locally_sparse_noise").stimuli == ["locally_sparse_noise"]
        codes = again.autoencoder().code_usage(noise.test)
    assert codes.sizes["code"] == 8


def test_full_size_is_the_papers(toy_store, tmp_path):
    config = qf.QuantFormerConfig()
    assert (config.layers, config.width, config.heads, config.codes, config.patch_frames) == (6, 128, 8, 32, 16)
    full = SIZES["full"]
    with pytest.warns(UserWarning, match="without a GPU"):
        small(tmp_path / "study", toy_store, fast=False, device="cpu").autoencoder()
    assert all(full[stage] == {} for stage in ("autoencoder", "forecaster", "classifier")) and round(full["patch_s"] * 30) == 16


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

PAIRS = sorted(NOTEBOOKS.glob("*.py"))


def test_notebooks_are_there_and_08_is_kept_free():
    names = [p.stem[:2] for p in PAIRS]
    assert names == ["01", "02", "03", "04", "05", "06", "07", "09", "10", "11"]
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
