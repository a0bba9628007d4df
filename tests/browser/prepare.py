"""What the browser test looks at: a small simulated recording, models trained for seconds, and a notebook with every widget."""

import sys
from pathlib import Path

import nbformat

from qf_toolkit.study.demo import demo

SETUP = """
import warnings
import qf_toolkit as qf
from qf_toolkit.study.demo import _split
from qf_toolkit.estimators.naive import StimulusMean
from qf_toolkit.widgets import CodeExplorer, EmbeddingBrowser, RolloutViewer, TraceInspector

split = _split(qf.open_store("demo/store"))
forecaster, classifier = qf.load("demo/forecaster"), qf.load("demo/classifier")
classifier.name = "classifier"
"""
CELLS = {
    "inspector": "inspector = TraceInspector(split.test, [forecaster, StimulusMean().fit(split), classifier])\ninspector",
    "codes": "explorer = CodeExplorer(forecaster.autoencoder, split.test)\nexplorer",
    "rollout": "viewer = RolloutViewer(classifier, split.test)\nviewer",
    "embedding": "browser = EmbeddingBrowser(forecaster, split.test)\nbrowser",
}


def prepare(folder, size="small"):
    """Make the demo and `widgets.ipynb` in `folder`."""
    folder = Path(folder)
    demo(folder / "demo", size=size, progress=False)
    for name, cells in {"widgets": CELLS, **{n: {n: c} for n, c in CELLS.items()}}.items():
        book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
        book.cells = [nbformat.v4.new_code_cell(SETUP.strip()), *(nbformat.v4.new_code_cell(c) for c in cells.values())]
        nbformat.write(book, folder / f"{name}.ipynb")


if __name__ == "__main__":
    prepare(*sys.argv[1:])
