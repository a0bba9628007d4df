"""Population models on real recordings and on simulated networks, and what they cost, with settings that were fixed before any test part was read.

    python benchmarks/populations.py tables --data ../shared/data --out results/populations --workers 2
    python benchmarks/populations.py ablations|transfer|scaling|cost --out results/populations

`tables`: CalM, POCO, TCN, PatchTST, iTransformer, NLinear and QuantFormer beside the naive rows, all sessions of a set together, three seeds. Sets whose
folder is absent are left out, and a line says so:

- celegans: whole brains of three worms (.npz, 2.9 Hz), 48 frames and the 16 after them; 60 % of each recording in time trains, 20 % validates, 20 %
  tests, 64 frames apart. That is not POCO's split into segments of 1,000 frames;
- s1-gonogo: mouse somatosensory cortex in a whisker task (18 sessions, 10.8 Hz), 32 frames before the cue and 16 from it;
- v1-gratings-mice: mouse visual cortex, gratings of 8 directions (4 mice, 16 Hz), 16 frames before the onset and 32 from it (of 33, cropped to
  CalM's tokens of 4 frames for every row).

The sizes are those of `--size small`, the same for all sets, and chosen on networks simulated with another seed, for the time that they take.
The rest is measured on simulated networks: each regulariser, attention and pre-training left out; a new session met by embeddings alone; the number of
sessions of the pre-training; seconds and memory by neurons and by frames.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from recordings import s1_gonogo, v1_gratings_mice

import qf_toolkit as qf
from qf_toolkit.benchmark.make import simulated_networks
from qf_toolkit.benchmark.options import NETWORK_WINDOW, SIZES
from qf_toolkit.benchmark.tables import write_tables
from qf_toolkit.estimators.calm.fit import fit_calm
from qf_toolkit.estimators.calm.options import SMALL
from qf_toolkit.estimators.calm.quantizer import pretrain_calm_quantizer
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.recordings.importers.arrays import read_arrays
from qf_toolkit.recordings.settings import split_by_settings, whole_settings
from qf_toolkit.recordings.simulated.network import simulate_network
from qf_toolkit.recordings.sliding import slide

WORM_HZ = 2.9
COMMON = {"seeds": 3, "size": "small", "steps": 400, "n_samples": 20, "signal": "zscore", "split": "chronological"}


def celegans(folder):
    """The worms."""
    for i, path in enumerate(sorted(folder.glob("*.npz")), 1):
        yield read_arrays(path, key="arr_0", orientation="frame,neuron", signal="dff", rate_hz=WORM_HZ, subject=f"worm{i}", session="1")


def around(before, after, rate_hz):
    """The window of trials, in frames."""
    return {"baseline_s": before / rate_hz, "response_s": after / rate_hz, "f0_s": before / rate_hz, "score_s": after / rate_hz}


RECORDINGS = {
    "celegans": (celegans, {"windows": "sliding", "length_s": 64 / WORM_HZ, "response_s": 16 / WORM_HZ, "every_s": 8 / WORM_HZ, "f0_s": 48 / WORM_HZ,
                            "score_s": 16 / WORM_HZ, "test": 0.2, "validation": 0.25, "gap_s": 64 / WORM_HZ}),
    "s1-gonogo": (s1_gonogo, around(32, 16, 10.8)),
    "v1-gratings-mice": (v1_gratings_mice, around(16, 32, 16.0)),
}  # fmt: skip


def tables(given):
    """The tables of all sets that are there."""
    for name, (read, window) in RECORDINGS.items():
        if name not in given.only:
            continue
        if not (given.data / name).is_dir():
            print(f"{name}: left out, there is no {given.data / name}")
            continue
        store = qf.Store(given.out / name / "store", create=True)
        there = set(store.keys())
        for session in read(given.data / name):
            if f"{session.attrs['subject']}/{session.attrs['session']}" not in there:
                store.add(session)
        print(f"\n{name}\n", flush=True)
        results = qf.benchmark_table("calm-multi-session", store, out=given.out / name, workers=given.workers, **COMMON, **window)
        print(write_tables(results, given.out / name)[0].read_text(encoding="utf-8"))


# ---------------------------------------------------------------- on simulated networks


def network_split(store, **chosen):
    """The split of the table of simulated networks."""
    return split_by_settings(store, whole_settings(chosen, NETWORK_WINDOW))


def trained(split, pretrained, steps, seed=0, **more):
    """A small CalM after so many steps, validated eight times."""
    how = {
        **SIZES["small"]["calm"],
        "batch_size": 512,
        "epochs": 1,
        "steps": steps,
        "steps_most": steps,
        "validate_every": max(1, steps // 8),
        "decode": "soft",
    }
    return fit_calm(split, pretrained, **{**how, "seed": seed, "progress": False, **more})


def quantised(split, seed=0, **more):
    return pretrain_calm_quantizer(split, **{**SMALL["quantizer"], "seed": seed, "progress": False, **more})


def show(out, name, rows):
    """Print rows as they come, and keep them in a file."""
    out.mkdir(parents=True, exist_ok=True)
    kept = []
    for row in rows:
        kept.append(row)
        print(json.dumps(row), flush=True)
        (out / f"{name}.json").write_text(json.dumps(kept, indent=1))


def ablations(given):
    """The perplexity and error of the quantiser without each regulariser, and the validation of forecasts without attention or corruption."""
    split = network_split(simulated_networks(given.out / "networks", "small"))

    def rows():
        whole = None
        for name, without in {
            "whole": {}, "orthogonality": {"orthogonality": 0.0}, "usage": {"usage": 0.0}, "change": {"change": 0.0, "curve": 0.0}, "pearson": {"pearson": 0.0},
            "k-means": {"kmeans": False}, "resets": {"reset_every": 0, "recluster_every": 0}, "average": {"decay": 0.0},
            "all that keeps codes in use": {"usage": 0.0, "orthogonality": 0.0, "kmeans": False, "reset_every": 0, "recluster_every": 0, "decay": 0.0},
        }.items():  # fmt: skip
            for seed in range(given.seeds):
                quantizer = quantised(split, seed, **without)
                whole = whole or quantizer
                used = quantizer.code_usage(split.validation).attrs
                yield {
                    "quantiser without": name,
                    "seed": seed,
                    "error": quantizer.reference["score"],
                    "perplexity": used["perplexity"],
                    "codes": used["codes_used"],
                }
        for name, without in {
            "whole": {}, "neuron attention": {"neuron_attention": False}, "corruption": {"replace": 0.0, "own_share": 0.0}, "averaged weights": {"ema": 0.0},
            "codes": {"tokens": "patches"},
        }.items():  # fmt: skip
            for seed in range(given.seeds):
                model = trained(split, None if name == "codes" else whole, given.steps, seed, **without)
                yield {"forecaster without": name, "seed": seed, "loss": model.history[-1]["score"], **model.chosen}

    show(given.out, "ablations", rows())


def transfer(given):
    """A session that pre-training has not seen: everything from scratch, and embeddings alone."""
    store = simulated_networks(given.out / "networks", "small")
    sessions = store.keys()
    known, new = (network_split(store, session=keys) for keys in (sessions[:-1], sessions[-1:]))

    def rows():
        for seed in range(given.seeds):
            quantizer = quantised(known, seed)
            base = trained(known, quantizer, given.steps, seed)
            for name, start, more in (
                ("from scratch", quantizer, {}), ("embeddings alone", base, {"tuning": "embeddings", "lr": 1e-2}),
                ("embeddings alone, a tenth of the steps", base, {"tuning": "embeddings", "lr": 1e-2, "few": True}), ("all, from pre-training", base, {"lr": 1e-3}),
            ):  # fmt: skip
                steps = max(8, given.steps // 10) if more.pop("few", False) else given.steps
                began = time.perf_counter()
                model = trained(new, start, steps, seed, **more)
                curve = [[entry["step"], entry["score"]] for entry in model.history]
                yield {
                    "how": name,
                    "seed": seed,
                    "steps": steps,
                    "seconds": time.perf_counter() - began,
                    "best": min(v for _, v in curve),
                    "curve": curve,
                    **model.chosen,
                }

    show(given.out, "transfer", rows())


def scaling(given):
    """Validation of one new session, met by embeddings alone, by the number of sessions of the pre-training."""
    store = simulate_network(given.out / "many", n_neurons=60, subjects=33, seconds=100, seed=2)
    sessions = store.keys()
    new = network_split(store, session=sessions[-1:])

    def rows():
        for n in (1, 2, 4, 8, 16, 32):
            for seed in range(given.seeds):
                known = network_split(store, session=sessions[:n])
                quantizer = quantised(known, seed)
                base = trained(known, quantizer, given.steps, seed)
                model = trained(new, base, max(8, given.steps // 4), seed, tuning="embeddings", lr=1e-2)
                yield {"sessions": n, "seed": seed, "known": base.history[-1]["score"], "new": min(e["score"] for e in model.history), **model.chosen}

    show(given.out, "scaling", rows())


COST = """
import sys; sys.path.insert(0, {here!r})
import populations
populations.one_cost({neurons}, {frames})
"""


def one_cost(neurons, frames):
    """Print seconds and peak memory of a step of training and of a forecast, of a population of so many neurons."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    traces = rng.standard_normal((neurons, 24 * frames)).cumsum(1).astype(np.float32)
    traces = 0.1 * (traces - traces.mean(1, keepdims=True)) / traces.std(1, keepdims=True)
    session = qf.from_arrays(traces, rate_hz=20.0, subject="m", session="1", signal="dff")
    trials = slide([session], length_s=(frames + 16) / 20, response_s=0.8, every_s=frames / 20, signal="zscore")
    split = qf.split_chronological(trials, gap_s=0.0)
    quantizer = quantised(split, epochs=1, most_traces=256)
    base = peak_mb()
    model = fit_calm(
        split, quantizer, **{**SMALL["forecaster"], "epochs": 1, "batch_trials": 1, "most_neurons": 0, "decode": "soft", "progress": False}
    )
    fitted = peak_mb()
    began = time.perf_counter()
    fit_calm(
        split,
        quantizer,
        **{**SMALL["forecaster"], "epochs": 1, "steps_most": 4, "batch_trials": 1, "most_neurons": 0, "decode": "soft", "progress": False},
    )
    fit_s = time.perf_counter() - began
    part = split.test.by_session()[0].subset([0])
    ds = model.prepare(part).dataset()
    context = ds["zscore"].values[..., : ds.attrs["n_baseline"]]
    asked = Observations(context, part.neurons, list(ds["condition"].values), session=part.sessions[0])
    began = time.perf_counter()
    model.predict_arrays(asked)
    print(
        json.dumps(
            {
                "neurons": neurons,
                "frames": frames,
                "fit_s": fit_s,
                "forecast_s": time.perf_counter() - began,
                "before_mb": base,
                "fit_mb": fitted,
                "all_mb": peak_mb(),
            }
        )
    )


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def cost(given):
    """Seconds and memory by neurons and frames, each in a process of its own."""

    def rows():
        for neurons, frames in ((50, 64), (200, 64), (500, 64), (1000, 64), (2000, 64), (1000, 32), (1000, 128), (1000, 184)):
            code = COST.format(here=str(Path(__file__).parent), neurons=neurons, frames=frames)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            yield json.loads(done.stdout.strip().splitlines()[-1])

    show(given.out, "cost", rows())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["tables", "ablations", "transfer", "scaling", "cost"])
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--out", type=Path, default=Path("results/populations"))
    parser.add_argument("--only", nargs="+", default=list(RECORDINGS), choices=list(RECORDINGS), help="some of the sets")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of the trainings on simulated networks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "tables" and given.data is None:
        parser.error("--data: expected the folder of the sets")
    globals()[given.what](given)


if __name__ == "__main__":
    main()
