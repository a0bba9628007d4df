"""A study of populations: a folder with recordings of whole populations and the models trained on them, shared by notebooks.

As in `study.Study`, each model is trained on first use, and later loaded from the folder.
"""

import json
import shutil
from pathlib import Path

from .._files import write_text
from ..errors import QfError

MARK = "population.json"
# fast takes some minutes on two CPU cores; full takes the authors' sizes (the defaults of the options), for a GPU
SIZES = {
    "fast": {
        "network": {"n_neurons": 100, "subjects": 3, "seconds": 120},
        "quantizer": {"epochs": 8},
        "forecaster": {"epochs": 1, "steps": 400, "steps_most": 400, "validate_every": 50, "batch_size": 512, "decode": "soft"},
        "peer": {"epochs": 1, "steps": 400, "steps_most": 400, "validate_every": 50, "batch_size": 512, "schedule": "cosine", "schedule_by": "step"},
    },
    "full": {"network": {}, "quantizer": {}, "forecaster": {}, "peer": {"epochs": 100}},
}  # fmt: skip
WINDOW = {"length_s": 3.2, "response_s": 0.8, "every_s": 0.8, "signal": "zscore"}
TIMES = {"test": 0.2, "validation": 0.25}


class PopulationStudy:
    """A folder with recordings of populations, CalM trained on them, and its peers.

    Parameters
    ----------
    folder : str or Path
        Created if missing. If a training was interrupted, the same call continues it.
    store : str, Path or Store, optional
        The recordings, of one rate of 5 Hz or more; sliding windows of 3.2 s are cut, of which the last 0.8 s are forecast. If None, networks are simulated into
        `folder/store`.
    fast : bool
        Train small models, which takes minutes on a CPU. False takes the authors' sizes, for a GPU. See `SIZES`.
    seed : int
        Seed of the simulation and of every training.
    device : str
        auto, cpu, cuda...
    progress : bool
        Print which model is trained, and show bars.

    Raises
    ------
    QfError
        If the folder holds something else, or a study of other settings.

    Examples
    --------
    >>> from qf_toolkit.study.population import PopulationStudy
    >>> PopulationStudy("population", store=store)
    <PopulationStudy population: fast, seed 0>
    """

    def __init__(self, folder, *, store=None, fast=True, seed=0, device="auto", progress=True):
        from ..recordings.store import Store

        self.folder, self.fast, self.seed, self.device, self.progress = Path(folder), bool(fast), int(seed), device, progress
        self.plan, self._made = SIZES["fast" if fast else "full"], {}
        note = {"fast": self.fast, "seed": self.seed, "store": None if store is None else str(getattr(store, "path", store))}
        path = self.folder / MARK
        if path.is_file():
            if json.loads(path.read_text(encoding="utf-8")) != note:
                raise QfError(f"study: {self.folder} was made with other settings or recordings. Choose another folder, or delete that one.")
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise QfError(f"study: expected a new folder or that of a study of populations, found something else at {self.folder}. Choose another.")
        else:
            write_text(path, json.dumps(note, indent=2) + "\n")
        self._store = store if store is None or isinstance(store, Store) else Store(store)

    def __repr__(self):
        return f"<PopulationStudy {self.folder}: {'fast' if self.fast else 'full'}, seed {self.seed}>"

    @property
    def store(self):
        """The Store. If none was given, networks are simulated on first use."""
        if self._store is None:
            from ..recordings.simulated.network import simulate_network

            self._say("recording simulated networks")
            self._store = simulate_network(self.folder / "store", seed=self.seed, **self.plan["network"])
        return self._store

    def split(self, *sessions):
        """The beginning of each session trains, then it validates, and its end tests; of the named sessions, or of all."""
        from ..recordings.splits import split_chronological

        return split_chronological(self.store.windows(session=list(sessions) or None, **WINDOW), **TIMES)

    def quantizer(self):
        """CalM's quantiser, trained on first use. Returns a CalmQuantizer."""
        from ..estimators.calm.options import SMALL
        from ..estimators.calm.quantizer import pretrain_calm_quantizer

        small = SMALL["quantizer"] if self.fast else {}
        return self._model("quantizer", lambda **how: pretrain_calm_quantizer(self.split(), **{**small, **self.plan["quantizer"]}, **how))

    def forecaster(self):
        """CalM's forecaster, trained on first use. Returns a CalmForecaster."""
        from ..estimators.calm.fit import fit_calm
        from ..estimators.calm.options import SMALL

        small = {name: value for name, value in SMALL["forecaster"].items() if name != "epochs"} if self.fast else {}
        return self._model("forecaster", lambda **how: fit_calm(self.split(), self.quantizer(), **{**small, **self.plan["forecaster"]}, **how))

    def peer(self, name):
        """Another model of the registry, "poco" say, trained on first use. Returns a NetworkForecaster."""
        from ..estimators.network import fit_network

        return self._model(name, lambda **how: fit_network(self.split(), name, **self.plan["peer"], **how))

    def _model(self, name, make):
        from ..estimators.registry import load

        folder = self.folder / name
        if name not in self._made:
            if not (folder / "config.json").is_file():
                self._say(f"training the {name}, kept in {folder}")
                make(checkpoint=folder / "checkpoint", device=self.device, seed=self.seed, progress=self.progress).save(folder)
                shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            self._made[name] = load(folder, device=self.device)
        return self._made[name]

    def _say(self, text):
        if self.progress:
            print(f"study: {text}")
