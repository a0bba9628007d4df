"""The runs that a table of the paper is made of: each model, on each subject and stimulus, with each seed."""

import ast
import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .._version import versions
from ..errors import QfError, UnknownKeyError, did_you_mean
from ..models.options import defaults
from ..recordings.behaviour import behaviour_of
from ..recordings.conditions import well_shown
from ..recordings.options import SplitOptions
from ..recordings.settings import trials_by, whole_settings
from ..recordings.splits import Split, hold_out, split_by
from ..recordings.store import Store
from ..recordings.trials import Trials
from . import roster
from .options import BEHAVIOUR, CALM_TABLES, SIZES, TABLES, BenchmarkOptions

PAPER_ROWS = ("lstm", "autoformer", "informer", "brainlm", "brainlm_ft", "crossformer", "quantformer")
PAPER_STIMULUS = "drifting_gratings"  # the paper's ablations and grids are on it alone
POPULATION_ROWS = ("nlinear", "itransformer", "patchtst", "tcn", "poco", "calm", "quantformer")  # CalM's summary, and ours
COMPETED = ("table1", "table2", "tableA4", *(t for t in CALM_TABLES if t != BEHAVIOUR))  # tables of competitors; the others are of QuantFormer alone
PRETRAIN, DECODING = "codes", "behaviour"
FROM_CODE = ("models", "recordings", "training", "estimators", "evaluation", "benchmark/run.py", "benchmark/roster.py")


@dataclass(frozen=True)
class Run:
    """One training, or one fit of the naive rows, and its scores.

    Attributes
    ----------
    model : str
        A name of `roster.rows`.
    task : {"codes", "forecast", "activation", "behaviour"}
        "codes" pre-trains on the pooled store, or makes another model that later runs start from.
    seed : int
    settings : dict
        Which trials are taken, and how they are cut and split; see `trials_of`.
    options : dict
        Of the model and of its training.
    tune : int
        How many learning rates are tried.
    n_samples : int
        Draws of each forecast.
    data : str
        Digest of the trials.
    needs : str
        Identity of the pre-training run that it starts from, or "".
    code : str
        Digest of the code that decides the result.
    """

    model: str
    task: str
    seed: int
    settings: dict
    options: dict
    tune: int = 1
    n_samples: int = 0
    data: str = ""
    needs: str = ""
    code: str = field(default_factory=lambda: code_digest())

    @property
    def identity(self) -> str:
        """A hash of all that decides the result."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=12).hexdigest()

    @property
    def subject(self) -> str:
        """The subjects or, where they are named, the sessions whose trials are taken, or "all"."""
        return _joined(self.settings.get("session") or self.settings.get("subject"))

    @property
    def stimulus(self) -> str:
        """The stimuli whose trials are taken, or "all"."""
        return _joined(self.settings.get("stimulus"))

    def __str__(self) -> str:
        what = "pre-training" if self.task == PRETRAIN else self.task
        return f"{self.model}, {what}, {self.subject}, {self.stimulus}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """Where the scores of a run stand in a table.

    Attributes
    ----------
    row : str
        Name of the row. The naive rows, many in one run, have names of their own.
    run : str
        Identity of the run.
    """

    row: str
    run: str


@dataclass(frozen=True)
class Plan:
    """The runs of a table.

    Attributes
    ----------
    table : str
    runs : dict of str to Run
        By identity, pre-trainings first.
    cells : list of Cell
    store : str
        Folder of the recordings.
    simulated : bool
        Whether the recordings are simulated.
    """

    table: str
    runs: dict
    cells: list
    store: str
    simulated: bool

    def note(self) -> dict:
        """The plan as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_note(cls, note: dict) -> "Plan":
        """The plan that `note` described."""
        runs = {identity: Run(**run) for identity, run in note["runs"].items()}
        return cls(**{**note, "runs": runs, "cells": [Cell(**c) for c in note["cells"]]})


def trials_of(store: Store, settings: dict) -> Trials:
    """The trials of a run.

    Parameters
    ----------
    store : Store
    settings : dict
        Options of `recordings.options.SETTINGS`; `without` leaves out {"subject" or "stimulus": name}. If no condition is named, those that a block does not show twice are left out, unless that leaves none.

    Returns
    -------
    Trials
    """
    settings = whole_settings(settings)
    if settings["windows"] == "sliding":
        return trials_by(store, settings)
    table = store.index
    for column in ("subject", "session", "stimulus"):
        if settings[column]:
            table = table[table[column].isin(settings[column])]
    if not settings["condition"]:
        shown = [well_shown(of, [stimulus]) or of["condition"].unique().tolist() for stimulus, of in table.groupby("stimulus")]
        settings["condition"] = [condition for conditions in shown for condition in conditions]
    trials = trials_by(store, settings)
    without = settings.get("without")
    return hold_out(trials, **without).rest if without else trials


def split_of(store: Store, settings: dict, data: str = "") -> Split:
    """The trials of a run and their split; see `trials_of`.

    Raises
    ------
    QfError
        If the trials are not those of the digest `data`, where one is given.
    """
    trials = trials_of(store, settings)
    if data and trials.digest() != data:
        raise QfError(f"store: expected the recordings that the runs were planned on, found that {store.path} has changed. Give the command again.")
    return split_by(trials, SplitOptions(**{n: v for n, v in settings.items() if n in defaults(SplitOptions)}))


def _joined(names):
    return ", ".join(names) if names else "all"


def make_plan(table: str, store: Store, settings: dict, options: BenchmarkOptions) -> Plan:
    """Plan the runs of a table of the paper on a store.

    Parameters
    ----------
    table : str
        One of `options.TABLES`.
    store : Store
    settings : dict
        Which trials are taken, and how they are cut and split; see `trials_of`. Without `subject` and `stimulus` all of the store are taken.
    options : BenchmarkOptions

    Returns
    -------
    Plan

    Raises
    ------
    QfError
        If the table or a model is unknown, or the store has no trial that could be taken.
    """
    if table not in TABLES:
        raise QfError(f"table: expected one of {', '.join(TABLES)}, found {str(table)[:40]!r}.")
    if options.models and table not in COMPETED:
        raise QfError(f"models: expected none for {table}, whose rows are fixed. Leave it out; rows can be chosen for {', '.join(COMPETED)}.")
    return _Planner(store, settings, options).plan(table)


class _Planner:
    """Collects the runs of a table."""

    def __init__(self, store, settings, options):
        self.store, self.settings, self.options, self.size = store, settings, options, SIZES[options.size]
        self.runs, self.cells, self._digests = {}, [], {}
        index, keys = store.index, store.keys()
        self.sliding = settings.get("windows") == "sliding"
        self.subjects = _chosen("subject", settings.get("subject"), sorted({key.split("/")[0] for key in keys}))
        self.stimuli = _chosen("stimulus", settings.get("stimulus"), [] if self.sliding else sorted(index["stimulus"].unique()))
        if not self.sliding and not len(index):
            raise QfError(f"store: expected trials in {store.path}, found none. Take sliding windows: --windows sliding.")

    def plan(self, table):
        self.loop = "population" if table in CALM_TABLES else "fit"
        getattr(self, f"_{table.replace('-', '_')}")()
        keys = self.store.keys()
        simulated = all(self.store.header(key).attrs.get("source") == "simulation" for key in keys)
        return Plan(table, self.runs, self.cells, str(self.store.path), simulated)

    # ------------------------------------------------------------ the tables

    def _table1(self):
        self._competitors("activation")

    def _table2(self):
        self._competitors("forecast")

    _tableA4 = _table2

    def _table3(self):
        variants = {"Baseline": "baseline", "+ learnable tokens": "tokens", "+ auto-encoder": "autoencoder", "+ quantisation": "quantised"}
        for task in ("activation", "forecast"):
            for where in self._places(self._one_stimulus()):
                self._naive(task, where)
                for row, variant in variants.items():
                    self._quantformer(row, task, where, model=f"{roster.QUANTFORMER}_{variant}")

    def _table4(self):
        for column, names in (("subject", self.subjects), ("stimulus", self.stimuli)):
            row = f"{column} not in pre-training"
            if len(names) < 2:
                raise QfError(f"{column}: expected at least 2 in the store for table4, which leaves one out of pre-training, found {len(names)}.")
            for name in names:
                for where in self._places():
                    if where[column] == [name]:
                        for task in ("activation", "forecast"):
                            self._quantformer(row, task, where, without={column: name})
        for where in self._places():
            for task in ("activation", "forecast"):
                self._quantformer("all in pre-training", task, where)
                self._naive(task, where)

    def _tableA1(self):
        for where in self._places():
            self._quantformer("QuantFormer", "forecast", where)

    def _tableA2(self):
        self._grid("forecast")

    def _tableA3(self):
        self._grid("activation")

    def _calm_simulation(self):
        self._populations([{}])

    _calm_multi_session = _calm_simulation

    def _calm_single_session(self):
        self._populations([{"session": [key]} for key in self.settings.get("session") or self.store.keys() if key.split("/")[0] in self.subjects])

    def _populations(self, places):
        keys = self.store.keys()
        if all("network" in str(self.store.header(key).attrs.get("area", "")) for key in keys):
            for where in places:
                self._add(roster.BOUND_NAME, roster.BOUND, "forecast", 0, where, {})
        self._competitors("forecast", self.options.models or POPULATION_ROWS, places)

    def _calm_behaviour(self):
        behaviours, columns = self._decoded()
        for what in [behaviours] * bool(behaviours) + [[column] for column in columns]:
            given = {"variables": what}
            self._add("", roster.DECODERS[0], DECODING, 0, {}, given)
            for name in roster.DECODERS[1:]:
                of_behaviour = what is behaviours
                if (name == "svm" and of_behaviour) or (name == "ridge" and not of_behaviour) or (name == "reduced_rank" and len(what) < 2):
                    continue
                if name not in roster.OVER_STATES:
                    self._add(roster.DECODER_NAMES[name], name, DECODING, 0, {}, given)
                    continue
                for seed in range(self.options.seeds):
                    codes = self._add(None, roster.CALM, PRETRAIN, seed, {}, {**self.size["calm_quantizer"], "seed": seed})
                    states = self._add(None, roster.BACKBONE, PRETRAIN, seed, {}, {**self._loop(self.loop, seed), **self.size["calm"]}, codes)
                    self._add(roster.DECODER_NAMES[name], name, DECODING, seed, {}, {**given, **self.size["head"], "seed": seed}, states)

    def _decoded(self):
        """The behaviours, and the columns of the trials, that are decoded."""
        sessions = [self.store[key] for key in trials_of(self.store, {n: v for n, v in self.settings.items() if v is not None}).sessions]
        there = [set(behaviour_of(ds)) for ds in sessions]
        found = self.options.decoded or sorted(set.intersection(*there))
        if not found:
            raise QfError("decoded: expected behaviours that every session has, found none. Name a column of the trials: decoded=[...] (--decoded).")
        behaviours = [name for name in found if all(name in names for names in there)]
        return behaviours, [name for name in found if name not in behaviours]

    def _grid(self, task):
        for where in self._places(self._one_stimulus()):
            for codes in self.size["codes"]:
                below = {"replace_below": 0.0} if codes >= 128 else {}
                self._quantformer(f"K = {codes}", task, where, {"codes": codes, **below})
            for width in self.size["widths"]:
                self._quantformer(f"d = {width}", task, where, {"width": width})
            self._naive(task, where)

    def _competitors(self, task, wanted=None, places=None):
        names = roster.check_models(wanted or self.options.models or PAPER_ROWS)
        known = roster.rows()
        for where in places or self._places():
            for name in names:
                if name == roster.NAIVE:
                    self._naive(task, where)
                elif name == roster.QUANTFORMER:
                    self._quantformer(known[name].name, task, where)
                else:
                    self._network(name, known[name], task, where)

    # ------------------------------------------------------------ the runs

    def _places(self, stimuli=None):
        """The selections of trials: each subject with each stimulus that it saw."""
        if self.sliding:
            return [{"subject": [s]} for s in self.subjects]
        index = self.store.index
        seen = set(zip(index["subject"], index["stimulus"], strict=True))
        return [{"subject": [s], "stimulus": [k]} for s in self.subjects for k in (stimuli or self.stimuli) if (s, k) in seen]

    def _one_stimulus(self):
        return [PAPER_STIMULUS] if PAPER_STIMULUS in self.stimuli else self.stimuli

    def _naive(self, task, where):
        self._add("", roster.NAIVE, task, 0, where, {})

    def _network(self, name, row, task, where):
        for seed in range(self.options.seeds):
            if name == roster.CALM:
                if task != "forecast":
                    if self.options.models and name in self.options.models:
                        raise QfError("models: expected rows that classify, found calm, which forecasts alone. Leave it out.")
                else:
                    needs = self._add(None, name, PRETRAIN, seed, where, {**self.size["calm_quantizer"], "seed": seed})
                    self._add(row.name, name, task, seed, where, {**self._loop(self.loop, seed), **self.size["calm"]}, needs)
                continue
            own = roster.model_options(name.removesuffix("_ft"), self.size["models"])
            needs = ""
            if row.pretrained:
                needs = self._add(None, row.pretrained, PRETRAIN, seed, {}, {**own, **self._loop("pretrain", seed)})
            self._add(row.name, name, task, seed, where, {**own, **self._loop(self.loop, seed)}, needs)

    def _quantformer(self, row, task, where, before=None, without=None, model=roster.QUANTFORMER):
        for seed in range(self.options.seeds):
            sizes = {**self._patches(self.size["quantformer"]), **(before or {})}
            everywhere = {"without": without} if without else where if "session" in where else {}
            needs = self._add(None, model, PRETRAIN, seed, everywhere, {**sizes, **self._loop("pretrain", seed)})
            own = dict(self.size[task])
            if model not in (roster.QUANTFORMER, f"{roster.QUANTFORMER}_quantised"):
                own.pop("expectation_weight", None)  # without codes the loss is the squared error itself
            self._add(row, model, task, seed, where, {**own, **self._loop(self.loop, seed)}, needs)

    def _patches(self, sizes):
        """The sizes with the frames of a patch in place of its seconds; a patch is no longer than baseline or response."""
        rate = float(self.store.header(self.store.keys()[0]).attrs["rate_hz"])
        window = {n: self.settings.get(n) or v for n, v in (("baseline_s", 3.0), ("response_s", 2.0))}
        if self.sliding:
            window["baseline_s"] = (self.settings.get("length_s") or 5.0) - window["response_s"]
        frames = min(round(rate * seconds) for seconds in (sizes["patch_s"], *window.values()))
        return {**{n: v for n, v in sizes.items() if n != "patch_s"}, "patch_frames": max(1, frames)}

    def _loop(self, stage, seed):
        """The options of the loop. A number of steps counts for every store, whatever its size."""
        loop = dict(self.size[stage])
        if stage != "pretrain" and self.options.steps:
            loop["steps"] = self.options.steps
            loop.pop("epochs", None)
        if "steps" in loop:
            steps = loop["steps"]
            loop |= {"epochs": 1, "steps_most": steps, "validate_every": max(1, steps // 8), "schedule_by": "step"}
        return {**loop, "seed": seed}

    def _add(self, row, model, task, seed, where, options, needs=""):
        settings = {**{n: v for n, v in self.settings.items() if v is not None}, **where}
        draws = self.options.n_samples if task == "forecast" else 0
        tune = 1 if model in (roster.NAIVE, roster.BOUND) or task in (PRETRAIN, DECODING) else self.options.tune
        run = Run(model, task, seed, settings, options, tune, draws, self._digest(settings), needs)
        self.runs.setdefault(run.identity, run)
        if row is not None:
            cell = Cell(row, run.identity)
            if cell not in self.cells:
                self.cells.append(cell)
        return run.identity

    def _digest(self, settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in self._digests:
            self._digests[key] = trials_of(self.store, settings).digest()
        return self._digests[key]


def _chosen(name, wanted, known):
    """The wanted names, or all that are known."""
    for one in wanted or ():
        if one not in known:
            raise UnknownKeyError(f"{name}: expected one of the store's, found {str(one)[:60]!r}; {did_you_mean(one, known)}")
    return list(wanted or known)


@cache
def code_digest() -> str:
    """A hash of the code that decides results, without its comments and docstrings, and of the versions of the libraries.

    Returns
    -------
    str
    """
    root, found = Path(__file__).parents[1], hashlib.blake2b(digest_size=12)
    files = [f for part in FROM_CODE for f in ([root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py")))]
    for file in files:
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        found.update(ast.dump(tree).encode())
    known: Any = versions()
    found.update(json.dumps({n: known.get(n) for n in ("torch", "numpy", "scipy")}).encode())
    return found.hexdigest()
