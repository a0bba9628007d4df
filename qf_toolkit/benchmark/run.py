"""Makes one run of a benchmark: trains, forecasts the test part once, and returns scores, costs and what made them."""

import ctypes
import gc
import importlib.util
import math
import os
import shutil
import threading
import time
import traceback
import warnings
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from .._version import versions
from ..errors import QfError
from ..estimators.ceiling import RolloutBound
from ..estimators.decoding.decode import decode
from ..estimators.interface import Estimator
from ..estimators.registry import load
from ..evaluation.behaviour_scores import decoding_table
from ..evaluation.scored import Scored, score
from ..evaluation.sums import Sums
from ..evaluation.table import evaluate, evaluate_classifier
from ..recordings.splits import Split
from ..recordings.store import Store
from ..training.device import pick_device
from . import roster
from .plan import DECODING, PRETRAIN, Run, split_of
from .results import model_folder, read_result

TRIED = (1.0, 1 / 3, 3.0, 0.1, 10.0)  # times the learning rate, in the order in which they are tried
SAMPLE_S = 0.02


def make(run: Run, out: Path, store: Store, device: str = "auto", keep_model: bool = False) -> dict:
    """Make a run.

    Parameters
    ----------
    run : Run
    out : Path
        Folder of the benchmark.
    store : Store
    device : str
    keep_model : bool
        Keep the fitted model.

    Returns
    -------
    dict
        run, status ("done" or "failed"), made, versions, and, if it is done: rows ({name: {"scores": {...}, "sessions": [...]}}), blocks (what each
        block of test trials adds to the sums that are compared), cost, facts, tuning, warnings. If it failed: error, in a line, and where.
    """
    folder = model_folder(out, run.identity)
    try:
        with warnings.catch_warnings(record=True) as told:  # kept with the result: of many runs nobody would read them as they come
            warnings.simplefilter("always", UserWarning)
            found = _made(run, out, store, device, folder, keep_model)
    except Exception as error:  # one run that fails is a row that says so; the others go on
        kind = "" if isinstance(error, QfError) else f"{type(error).__name__}: "
        return failed(run, f"{kind}{' '.join(str(error).split())}"[:500], traceback.format_exc()[-4000:])
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    texts = dict.fromkeys(str(w.message) for w in told if issubclass(w.category, UserWarning))
    return {**_note(run), "status": "done", **found, "warnings": list(texts)}


def failed(run: Run, error: str, where: str = "") -> dict:
    """The result of a run that failed: the error in a line, and where it was raised."""
    return {**_note(run), "status": "failed", "error": error, "where": where}


def _note(run):
    return {"run": asdict(run), "made": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}


def _made(run, out, store, device, folder, keep_model):
    split = split_of(store, run.settings, run.data).keeping()
    if run.model == roster.NAIVE:
        return _scores([], run, split)
    if run.model == roster.BOUND:
        return _scores([RolloutBound(seed=run.seed)], run, split)
    pretrained = _pretrained(run, out, device)
    if run.task == DECODING:
        return _decoded(run, split, pretrained, device)
    tried, models, cost = [], [], {"train_s": 0.0, "peak_mb": 0.0}
    if (folder / "checkpoint").exists():  # what was spent before the interruption is not known
        cost = {"train_s": None, "peak_mb": None}
        warnings.warn("a training went on after an interruption: its costs are left out", stacklevel=1)
    for factor in TRIED[: run.tune]:
        options = {**run.options, **({"lr": run.options["lr"] * factor} if run.tune > 1 else {})}
        keep = {"checkpoint": folder / "checkpoint" / f"{factor:g}", "device": device, "progress": False}
        tried.append({"lr": options.get("lr")})
        with _Watch(device) as watch:
            try:
                if run.task == PRETRAIN:
                    model = roster.pretrain(run.model, split, pretrained, options, **keep)
                else:
                    model = roster.fit(run.model, run.task, split, pretrained, options, **keep)
            except QfError as error:  # one that diverges is no choice, unless it is the only one
                if run.tune == 1:
                    raise
                model, tried[-1]["error"] = None, " ".join(str(error).split())
        tried[-1] |= {"validation": _plain(math.inf if model is None else _validation(model)), "train_s": watch.seconds}
        if cost["train_s"] is not None:
            cost = {"train_s": cost["train_s"] + watch.seconds, "peak_mb": max(cost["peak_mb"], watch.peak_mb)}
        models.append(model)
    if all(model is None for model in models):
        raise QfError(f"lr: expected one of {len(tried)} learning rates to train, found none; the first: {tried[0]['error']}")
    model = min(((m, t) for m, t in zip(models, tried, strict=True) if m is not None), key=lambda pair: float(pair[1]["validation"]))[0]
    if run.task == PRETRAIN or keep_model:
        model.save(folder)
    cost |= {"parameters": _parameters(model), "steps": run.options.get("steps")}
    if run.task == PRETRAIN:
        return {"cost": cost, "tuning": tried}
    found = _scores([model], run, split)
    with _Watch(device) as watch:
        model.predict(split.test)
    cost |= {"forecast_ms": 1000 * watch.seconds / len(split.test), "n_train": len(split.train), "epoch_s": _epoch_s(run, split, cost)}
    found["rows"] = dict([(run.model, next(iter(found["rows"].values()))), *list(found["rows"].items())[1:]])
    found["facts"] |= _protocol(split)
    return {**found, "cost": cost, "tuning": tried, "history": model.history}


def _protocol(split):
    """What the paper's Table A-1 says of a stimulus: how many conditions and trials it has, and the seconds that are scored."""
    parts = (split.train, split.validation, split.test)
    ds = split.test.by_session()[0].dataset()
    return {
        "conditions": len(set().union(*(part.conditions for part in parts))), "trials": sum(map(len, parts)) + split.dropped,
        "score_s": float(ds["n_score"].max() / split.test.rate_hz),
    }  # fmt: skip


def _pretrained(run: Run, out: Path, device: str) -> Estimator | None:
    if not run.needs:
        return None
    before = read_result(out, run.needs)
    if before is None or before["status"] != "done":
        raise QfError(f"its pre-training failed: {before['error'] if before else 'it was not run'}")
    return load(model_folder(out, run.needs), device=device)


def _validation(model):
    """The best validation score of a training, lower is better."""
    return min((entry["score"] for entry in model.history), default=math.inf)  # one that is not trained, as in an ablation, has none


def _parameters(model):
    return int(sum(t.numel() for t in model.tensors().values()))


def _epoch_s(run, split, cost):
    """Seconds of an epoch of the training; None if those of the training are not known."""
    if cost["train_s"] is None:
        return None
    steps, batch, trials = (run.options.get(name) for name in ("steps", "batch_size", "batch_trials"))
    epochs = run.options.get("epochs", 1)
    if steps and batch:
        epochs = steps * batch / sum(len(part) * len(part.neurons) for part in split.train.by_session())
    elif steps and trials:
        epochs = steps * trials / len(split.train)
    return cost["train_s"] / run.tune / epochs


# ---------------------------------------------------------------- scores


def _scores(models, run: Run, split: Split) -> dict:
    """Scores of the given models on the test part, or of the naive rows if there is none."""
    if run.task == "forecast":
        scored = score(models, split, naive=not models, n_samples=run.n_samples, seed=run.seed)
        table = evaluate(scored, split)
        rows = {name: {"scores": _plain(table.loc[name].to_dict()), "sessions": _plain(scored.sessions.get(name, []))} for name in scored.rows}
        return {"rows": rows, "blocks": _blocks(scored), "facts": _facts(table.attrs)}
    table = evaluate_classifier(models, split, naive=not models, seed=run.seed)
    return {"rows": {name: {"scores": _plain(table.loc[name].to_dict())} for name in table.index}, "facts": _facts(table.attrs)}


def _decoded(run: Run, split: Split, backbone: Estimator | None, device: str) -> dict:
    """A decoder's scores on the test part, each named by its variable, and its cost."""
    given = {n: v for n, v in run.options.items() if n != "variables"}
    states = {"backbone": backbone, "device": device, "progress": False} if backbone is not None else {}
    with _Watch(device) as watch:
        decoder = decode(split, run.options["variables"], run.model, **states, **given)
    table = decoding_table({run.model: decoder}, split.test, seed=run.seed)
    scores = {
        f"{variable} {score}": value
        for (_, variable), row in zip(table.index, table.to_dict("records"), strict=True)
        for score, value in row.items()
        if score != "n"
    }
    cost = {"train_s": watch.seconds, "peak_mb": watch.peak_mb, "parameters": _parameters(decoder)}
    return {"rows": {roster.DECODER_NAMES[run.model]: {"scores": _plain(scores)}}, "facts": _facts(table.attrs), "cost": cost, "tuning": []}


def _blocks(scored: Scored) -> dict:
    """What each block of test trials adds to the sums that are compared; `ranking.as_scored` makes a Scored of it again."""
    sums = {name: {f.name: getattr(getattr(scored, name), f.name) for f in fields(Sums)} for name in ("by_step", "by_group")}
    kept = {
        "units": scored.units, "squared": scored.squared, "r": scored.r, "step_r": scored.step_r, "pit": scored.pit, **sums,
        "neurons": {name: of.reset_index() for name, of in scored.neurons.items()},
    }  # fmt: skip
    return {name: _plain(value) for name, value in kept.items()}


def _facts(attrs):
    kept = ("n_animals", "n_sessions", "n_trials", "n_neurons", "n_observations", "active_fraction", "data", "simulated", "models", "seeds", "split",
            "not_applicable", "notes")  # fmt: skip
    return _plain({name: attrs[name] for name in kept if name in attrs})


def _plain(value):
    """A value that JSON can hold: NaN and infinity become words."""
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("list"))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- costs


class _Watch:
    """Seconds of a block, and the most memory that it took, in MB: on CUDA of the card, else what its process grew by (its resident set, sampled)."""

    def __init__(self, device):
        self.device = pick_device(device)

    def __enter__(self):
        import torch

        self.cuda = self.device.type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        _give_back_memory()
        self.peak_mb, self._before, self._done = 0.0, _resident_mb(), threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._sampler.join()
        if self.cuda:
            import torch

            self.peak_mb = torch.cuda.max_memory_allocated(self.device) / 2**20

    def _sample(self):
        while True:
            self.peak_mb = max(self.peak_mb, _resident_mb() - self._before)
            if self._done.wait(SAMPLE_S):
                return


def _give_back_memory():
    """Give the system what an earlier run of this process has freed, or the next could take it again unseen. Only glibc has a call for that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _resident_mb():
    """The resident set of this process in MB; where the system does not tell it, the most that it ever was, or NaN."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        if importlib.util.find_spec("resource") is None:  # on Windows
            return math.nan
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
