"""The examples of docstrings and of the README run, in a folder of their own, on a small simulated recording."""

import ast
import doctest
import importlib
import inspect
import re
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

import qf_toolkit as qf

mpl.use("Agg")
torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "progress": False}
RECORDING = {"n_neurons": 14, "repeats": 4, "directions": 4, "temporal_frequencies": 1, "gap_s": 6, "rate_hz": 10}
NEEDS = {"recordings.importers.nwb": "pynwb", "recordings.importers.allen": "allensdk", "widgets": "anywidget", "interpret.embedding": "openTSNE"}


def suite2p_folder():
    from test_import_suite2p import write_plane

    return write_plane(Path("suite2p") / "plane0")


def nwb_file():
    from nwb_files import simple

    return simple(Path("recording.nwb"))


FILES = {"read_suite2p": suite2p_folder, "import_many": suite2p_folder, "read_nwb": nwb_file}  # what an example finds in its folder


def examples():
    """(module, name of the function, class or method) of every docstring that holds an example."""
    for path in sorted((ROOT / "qf_toolkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

        def inside(node, name, module=module):
            if ">>>" in (ast.get_docstring(node) or ""):
                yield module, name
            for child in node.body:
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    yield from inside(child, f"{name}.{child.name}" if name else child.name)

        yield from inside(ast.parse(path.read_text(encoding="utf-8")), "")


EXAMPLES = list(examples())


def without_word_of_learning():
    """These trainings are too short to learn anything, and say so."""
    warnings.filterwarnings("ignore", "(forecaster|classifier|.*pre-training): the validation score")
    warnings.filterwarnings("ignore", "stim_token: the conditions of")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What examples take as given."""
    store = qf.simulate(tmp_path_factory.mktemp("examples") / "store", seed=1, **RECORDING)
    trials = store.trials(stimulus="drifting_gratings", baseline_s=3, response_s=2, f0_s=1)
    split = qf.split_blocks(trials)
    with warnings.catch_warnings():
        without_word_of_learning()
        autoencoder = qf.pretrain(split, epochs=1, **TINY)
        forecaster, classifier = (fit(autoencoder, split, epochs=1, progress=False) for fit in (qf.fit_forecaster, qf.fit_classifier))
    return {"qf": qf, "np": np, "store": store, "trials": trials, "split": split, "autoencoder": autoencoder, "forecaster": forecaster,
            "classifier": classifier}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), EXAMPLES, ids=[f"{m}.{n}".removeprefix("qf_toolkit.") for m, n in EXAMPLES])
def test_the_example_of(module, name, names, tmp_path, monkeypatch):
    for prefix, package in NEEDS.items():
        if module.startswith(f"qf_toolkit.{prefix}"):
            pytest.importorskip(package, reason=f"the example needs {package}, an extra")
    home = importlib.import_module(module)
    found = home
    for part in filter(None, name.split(".")):
        found = getattr(found, part)
    monkeypatch.chdir(tmp_path)
    if name in FILES:
        FILES[name]()
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(found), {**vars(home), **names}, f"{module}.{name}", None, 0)
    said = []
    with warnings.catch_warnings():
        without_word_of_learning()
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert result.attempted and not result.failed, "".join(said)


def test_every_public_name_has_an_example_and_none_is_skipped():
    public = [name for name in qf.__all__ if callable(getattr(qf, name))]
    assert not [name for name in public if ">>>" not in (inspect.getdoc(getattr(qf, name)) or "")]
    assert not [str(p) for p in (ROOT / "qf_toolkit").rglob("*.py") if "doctest: +SKIP" in p.read_text(encoding="utf-8")]


def test_the_code_of_the_readme_runs_in_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("anywidget", reason="the README shows a widget, which needs the extra notebooks")
    pytest.importorskip("openTSNE", reason="the README draws a map, which needs the extra interpret")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    code = re.sub(r"(epochs=|\"epochs\": )\d+", r"\g<1>1", "\n".join(blocks))  # the trainings themselves are those of the demo
    assert code.count("epochs") == 4
    monkeypatch.chdir(tmp_path)
    qf.simulate("data/store", seed=1, **RECORDING)
    given = {}
    with warnings.catch_warnings():
        without_word_of_learning()
        exec(compile(code, "README.md", "exec"), given)
    assert set(given["forecasts"]["forecast"].dims) == {"trial", "neuron", "time"}
    assert all(Path("figures", f"rollout.{kind}").exists() for kind in ("svg", "png", "json"))
    assert type(qf.load("runs/forecast")).__name__ == "QuantFormerForecaster"
    assert "QuantFormer" in capsys.readouterr().out
