"""The new names of the modules of 0.1.0: an import of an old name raises an error that states the new one."""

import sys
from importlib.abc import MetaPathFinder

MOVED = {
    "demo": "study.demo (report: study.tables.write_tables; SIZES and ALLEN: study.plans)",
    "evaluation.ceiling": "estimators.ceiling",
    "evaluation.frequency": "estimators.frequency",
    "evaluation.metrics": "evaluation.scores (the paper's family: evaluation.paper_scores)",
    "evaluation.naive": "estimators.naive (ridges: estimators.ridge; frequencies: estimators.frequency; the list of rows: estimators.rows)",
    "evaluation.over_f0": "estimators.over_f0",
    "evaluation.ridge": "estimators.ridge",
    "evaluation.rows": "estimators.rows",
    "figures": "study.notebook_page",
    "recordings.allen": "recordings.importers.allen",
    "recordings.allen_cache": "recordings.importers.allen_cache",
    "recordings.arrays": "recordings.importers.arrays",
    "recordings.conditional_mean": "recordings.simulated.conditional_mean",
    "recordings.download": "recordings.importers.download",
    "recordings.many": "recordings.importers.many",
    "recordings.nwb": "recordings.importers.nwb",
    "recordings.nwb_intervals": "recordings.importers.nwb_intervals",
    "recordings.protocol": "recordings.simulated.protocol",
    "recordings.simulate": "recordings.simulated.cortex",
    "recordings.simulate_allen": "recordings.simulated.visual_coding_files",
    "recordings.suite2p": "recordings.importers.suite2p",
    "recordings.visual_coding": "recordings.importers.visual_coding",
    "training.activation": "estimators.quantformer.activation",
    "training.downstream": "estimators.quantformer.downstream",
    "training.forecaster": "estimators.interface",
    "training.notes": "estimators.notes",
    "training.pretrain": "estimators.quantformer.pretrain",
    "training.reference": "estimators.reference",
    "training.response": "estimators.quantformer.response",
    "training.saving": "estimators.saving (load: estimators.registry)",
    "training.schema": "estimators.schema",
    "training.tokens": "estimators.stimulus_tokens",
}


class _Signpost(MetaPathFinder):
    """A finder that Python asks last, for modules that no other finder has found."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == __package__ and name in MOVED:
            raise ModuleNotFoundError(f"{fullname} has moved: import {package}.{MOVED[name]}", name=fullname)


def put_up_signpost():
    """Make the import of an old name raise ModuleNotFoundError with the new name. Further calls change nothing."""
    if not any(isinstance(finder, _Signpost) for finder in sys.meta_path):
        sys.meta_path.append(_Signpost())
