"""The page for contributors: following it to the letter adds a model."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from helpers import toy_session, untaught
from lowest import lowest

import qf_toolkit as qf
from qf_toolkit.estimators.network import fit_network
from qf_toolkit.estimators.registry import MODELS
from qf_toolkit.models.batch import Batch, Sizes
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FEW = {"epochs": 2, "batch_size": 64, "progress": False}


def example():
    """(path of the module, its code, the line of the registry) as the page has them."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return re.search(r"\*\*1\. The module\*\*, `(.*?)`", PAGE)[1], code, re.search(r'^ {4}"\w+": "[\w.]+:\w+",$', PAGE, re.MULTILINE)[0]


@pytest.fixture
def dlinear(tmp_path, monkeypatch):
    """The module of the page, where the page says, for as long as a test takes."""
    path, code, line = example()
    name, module = re.search(r'"(\w+)": "[\w.]+:(\w+)"', line).groups()
    dotted = path.removesuffix(".py").replace("/", ".")
    assert not (ROOT / path).exists() and name not in MODELS, "the example is a model of the toolkit by now: choose another"
    file = tmp_path / "dlinear.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(dotted, file)
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, dotted, found)
    spec.loader.exec_module(found)
    monkeypatch.setitem(MODELS, name, f"{dotted.removeprefix('qf_toolkit.')}:{module}")
    return getattr(found, module)


@pytest.mark.parametrize("task", ["forecast", "activation"])
def test_the_model_of_the_page_is_fitted_saved_and_measured(dlinear, task, tmp_path):
    split = split_blocks(cut(toy_session(), f0_s=1.0))
    model = fit_network(split, "dlinear", task, slow_frames=5, **FEW)
    model.save(tmp_path / "model")
    again = qf.load(tmp_path / "model", device="cpu")
    table = qf.evaluate([again], split) if task == "forecast" else qf.evaluate_classifier(again, split)
    assert table.index[0] == "DLinear" and again.digest() == model.digest()


def test_the_commands_of_the_page_run_in_a_copy_that_follows_it(tmp_path):
    """A file and a line are added to a copy of the package, and its own `qf` takes the model."""
    copy = tmp_path / "qf_toolkit"
    shutil.copytree(ROOT / "qf_toolkit", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / example()[0]).write_text(example()[1])
    registry = copy / "estimators" / "registry.py"
    registry.write_text(re.sub(r"(\nMODELS = {.*\n)", lambda m: f"{m[1]}{example()[2]}\n", registry.read_text(), count=1))
    qf.Store(tmp_path / "store", create=True).add(toy_session())
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for command, more in (("fit", "--epochs 1 --f0 1"), ("evaluate", "")):
        line = re.search(rf"^qf ({command} STORE .*?)(?: +#.*)?$", PAGE, re.MULTILINE)[1].replace("STORE", "store")
        argv = [sys.executable, "-m", "qf_toolkit.cli", *line.split(), *more.split()]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "DLinear" in done.stdout


def test_what_the_page_claims_of_the_model(dlinear):
    module = dlinear(dlinear.Config(slow_frames=1), Sizes(n_context=12, n_out=4))
    x = torch.randn(2, 3, 12)
    batch = Batch(
        x,
        torch.ones_like(x, dtype=torch.bool),
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, dtype=torch.long),
        torch.zeros(2, dtype=torch.long),
    )
    torch.testing.assert_close(module(batch), module.slow(x) + module.rest.bias)


def test_the_commands_of_the_page_are_targets():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", PAGE)) <= targets


def test_every_dependency_has_an_oldest_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = lowest(project, "numpy==9.9\ntorch==8.8\n")
    assert "torch==8.8" in found and {"numpy==2.0", "pandas==2.2.2"} <= set(found)
    assert len(found) == len({one.split("==")[0] for one in found}) >= len(project["dependencies"])
