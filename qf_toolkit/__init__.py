"""Forecast neural activity from two-photon calcium recordings, and see why the model says so.

Names are imported when first used, so that `import qf_toolkit` is quick and needs neither pynwb nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._moved import put_up_signpost
from ._version import __version__
from .errors import QfError

if TYPE_CHECKING:  # for editors and the type checker
    from .benchmark.make import benchmark_table
    from .estimators.calm.fit import fit_calm
    from .estimators.calm.quantizer import pretrain_calm_quantizer
    from .estimators.decoding.decode import decode
    from .estimators.network import fit_network
    from .estimators.quantformer.activation import fit_classifier
    from .estimators.quantformer.pretrain import pretrain
    from .estimators.quantformer.response import fit_forecaster
    from .estimators.registry import load
    from .evaluation.behaviour_scores import decoding_table
    from .evaluation.compare import compare
    from .evaluation.table import evaluate, evaluate_classifier, show
    from .interpret.linear import identity_probe, probe
    from .interpret.tuning import neuron_variables
    from .models.config import QuantFormerConfig
    from .recordings.importers.allen import read_allen
    from .recordings.importers.allen_cache import AllenCache
    from .recordings.importers.arrays import from_arrays
    from .recordings.importers.many import import_many
    from .recordings.importers.nwb import read_nwb
    from .recordings.importers.suite2p import read_suite2p
    from .recordings.session import new_session
    from .recordings.simulated.cortex import simulate
    from .recordings.simulated.network import simulate_network
    from .recordings.splits import hold_out, leave_one_out, split_blocks, split_chronological, split_unseen
    from .recordings.store import Store, open_store
    from .study.recording_page import report
    from .study.study import Study

put_up_signpost()

__all__ = [
    "AllenCache",
    "QfError",
    "QuantFormerConfig",
    "Store",
    "Study",
    "__version__",
    "benchmark_table",
    "compare",
    "decode",
    "decoding_table",
    "evaluate",
    "evaluate_classifier",
    "fit_calm",
    "fit_classifier",
    "fit_forecaster",
    "fit_network",
    "from_arrays",
    "hold_out",
    "identity_probe",
    "import_many",
    "leave_one_out",
    "load",
    "neuron_variables",
    "new_session",
    "open_store",
    "pretrain",
    "pretrain_calm_quantizer",
    "probe",
    "read_allen",
    "read_nwb",
    "read_suite2p",
    "report",
    "show",
    "simulate",
    "simulate_network",
    "split_blocks",
    "split_chronological",
    "split_unseen",
]

_HOME = {
    "recordings.store": ("Store", "open_store"),
    "recordings.session": ("new_session",),
    "recordings.simulated.cortex": ("simulate",),
    "recordings.simulated.network": ("simulate_network",),
    "recordings.importers.arrays": ("from_arrays",),
    "recordings.importers.allen": ("read_allen",),
    "recordings.importers.allen_cache": ("AllenCache",),
    "recordings.importers.many": ("import_many",),
    "recordings.importers.nwb": ("read_nwb",),
    "recordings.importers.suite2p": ("read_suite2p",),
    "recordings.splits": ("split_blocks", "split_chronological", "split_unseen", "hold_out", "leave_one_out"),
    "models.config": ("QuantFormerConfig",),
    "estimators.quantformer.pretrain": ("pretrain",),
    "estimators.quantformer.response": ("fit_forecaster",),
    "estimators.quantformer.activation": ("fit_classifier",),
    "estimators.network": ("fit_network",),
    "estimators.calm.quantizer": ("pretrain_calm_quantizer",),
    "estimators.calm.fit": ("fit_calm",),
    "estimators.registry": ("load",),
    "estimators.decoding.decode": ("decode",),
    "evaluation.behaviour_scores": ("decoding_table",),
    "evaluation.compare": ("compare",),
    "benchmark.make": ("benchmark_table",),
    "evaluation.table": ("evaluate", "evaluate_classifier", "show"),
    "interpret.linear": ("identity_probe", "probe"),
    "interpret.tuning": ("neuron_variables",),
    "study.recording_page": ("report",),
    "study.study": ("Study",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    return value


def __dir__():
    return sorted({*globals(), *_MODULE_OF})
