"""Widgets for JupyterLab: look at single traces and forecasts, edit codes, follow attention, browse neurons, see a whole population.

They need ipywidgets and anywidget, which they import on first use: `pip install 'qf_toolkit[notebooks]'`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import QfError

if TYPE_CHECKING:
    from .code_explorer import CodeExplorer
    from .diagnose import diagnose
    from .embedding_browser import EmbeddingBrowser
    from .population_viewer import PopulationViewer
    from .rollout_viewer import RolloutViewer
    from .trace_inspector import TraceInspector

__all__ = ["CodeExplorer", "EmbeddingBrowser", "PopulationViewer", "RolloutViewer", "TraceInspector", "diagnose"]

_HOME = {
    "TraceInspector": "trace_inspector",
    "CodeExplorer": "code_explorer",
    "RolloutViewer": "rollout_viewer",
    "PopulationViewer": "population_viewer",
    "EmbeddingBrowser": "embedding_browser",
    "diagnose": "diagnose",
}


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("ipywidgets", "anywidget", "traitlets", "IPython"):
            raise
        raise QfError(f"widgets: expected {error.name} to be installed, found none. Install it: pip install 'qf_toolkit[notebooks]'") from error
    return value


def __dir__():
    return sorted({*globals(), *_HOME})
