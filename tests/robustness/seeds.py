"""What is altered by the fuzzer: small recordings, stores and models that are whole, and the commands that read them."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from helpers import toy_session

from qf_toolkit.recordings.store import Store

SAVED = Path(__file__).parents[1] / "fixtures" / "b35afb9"
WINDOW = ["--baseline", "2", "--response", "1", "--f0", "1"]
TINY = ["--width", "16", "--layers", "1", "--heads", "2", "--patch-frames", "5", "--codes", "8", "--epochs", "1"]


@dataclass(frozen=True)
class Seed:
    """How a kind of file is made in an empty folder, which commands read it there, and whether it was read with other data."""

    make: Callable
    commands: Callable  # the number of the case -> argument lists
    differs: Callable = lambda case, seed: ""


def make_seeds(folder, kinds):
    """Make the seeds of these kinds in `folder`, each in a folder of its name; returns the kinds that could be made (allensdk may be missing)."""
    done = []
    for kind in kinds:
        path = folder / kind
        path.mkdir(parents=True, exist_ok=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                SEEDS[kind].make(path)
        except ImportError:
            shutil.rmtree(path)
        else:
            done.append(kind)
    return done


def _store(path):
    store = Store(path / "store", create=True)
    for i, session in enumerate(("one", "two")):
        store.add(toy_session(i, n_neurons=3, n_conditions=2, n_blocks=2, repeats=3, session=session))


def _store_commands(i):
    train = ["pretrain", "store", "--out", "model", "--split", "chronological", *WINDOW, *TINY]
    return [["info", "store"], *([train] if i % 10 == 0 else [])]


def _differs(case, seed):
    from robustness.fuzz import store_differs

    return store_differs(case, seed)


def _nwb(path):
    import pynwb
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

    file = pynwb.NWBFile("test", "id", datetime(2020, 1, 1, tzinfo=UTC), session_id="d1")
    file.subject = pynwb.file.Subject(subject_id="m1", species="Mus musculus")
    module = file.create_processing_module("ophys", "traces")
    plane = file.create_imaging_plane(
        name="plane", optical_channel=OpticalChannel(name="green", description="d", emission_lambda=520.0), description="d",
        device=file.create_device("scope"), excitation_lambda=920.0, indicator="GCaMP6f", location="V1", imaging_rate=10.0,
    )  # fmt: skip
    segmentation = ImageSegmentation()
    module.add(segmentation)
    table = segmentation.create_plane_segmentation(name="rois", description="d", imaging_plane=plane)
    for i in range(3):
        table.add_roi(pixel_mask=[(0, i, 1.0)])
    rois = table.create_roi_table_region(region=[0, 1, 2], description="all")
    data = np.random.default_rng(0).normal(0, 0.1, (400, 3)).astype(np.float32)
    dff = DfOverF()
    module.add(dff)  # first: the rois of a series must be of the same file
    dff.add_roi_response_series(RoiResponseSeries(name="RoiResponseSeries", data=data, rois=rois, unit="lumens", rate=10.0))
    file.add_trial_column("condition", "what was shown")
    file.add_trial_column("rewarded", "outcome")
    for i in range(6):
        file.add_trial(start_time=5.0 + 5 * i, stop_time=6.0 + 5 * i, condition=("go", "nogo")[i % 2], rewarded=i % 3 == 0)
    with pynwb.NWBHDF5IO(path / "x.nwb", "w") as io:
        io.write(file)


def _allen(path):
    import allensdk  # noqa: F401
    from allen_files import noise_session

    noise_session(path / "x.nwb", cells=3, frames=1500, trials=6)


def _arrays(path):
    x = np.random.default_rng(0).uniform(90, 110, (4, 600)).astype(np.float32)
    np.save(path / "F.npy", x)
    np.savez(path / "F.npz", traces=x)
    onset = 40 + 50 * np.arange(10)
    table = pd.DataFrame(
        {"onset_frame": onset, "offset_frame": onset + 10, "direction": 90 * (np.arange(10) % 2), "image": list("abcde") * 2, "reaction_s": 0.1}
    )
    table.to_csv(path / "trials.csv", index=False)


def _import(kind, source, *more):
    return ["import", kind, source, "--store", "store", *more]


def _suite2p(path):
    plane = path / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(plane / "F.npy", rng.uniform(90, 110, (4, 300)).astype(np.float32))
    np.save(plane / "Fneu.npy", rng.uniform(20, 30, (4, 300)).astype(np.float32))
    np.save(plane / "iscell.npy", np.array([[1, 0.9], [1, 0.8], [0, 0.1], [1, 0.7]]))
    np.save(plane / "ops.npy", np.array({"fs": 10.0, "nplanes": 1}, dtype=object), allow_pickle=True)


def _model(path):
    shutil.copytree(SAVED / "store", path / "store")
    for name in ("autoencoder", "forecaster", "classifier"):
        shutil.copytree(SAVED / "dff" / name, path / name)


def _model_commands(i):
    return [
        ["forecast", "store", "--model", "forecaster", "--out", "f"],
        ["evaluate", "store", "--model", ("forecaster", "classifier")[i % 2]],
        *([["fit", "store", "--pretrained", "autoencoder", "--out", "fitted", "--epochs", "1"]] if i % 4 == 0 else []),
    ]


TRAIN = ["pretrain", "store", "--out", "model", *WINDOW, *TINY]


def _checkpoint(path):
    shutil.copytree(SAVED / "store", path / "store")
    # in a process of its own: torch's threads would not survive the forks of the cases
    subprocess.run([sys.executable, "-m", "qf_toolkit.cli.main", *TRAIN, "--quiet"], cwd=path, check=True, capture_output=True)


SEEDS = {
    "store": Seed(_store, _store_commands, _differs),
    "nwb": Seed(_nwb, lambda i: [_import("nwb", "x.nwb"), ["info", "store"]]),
    "allen": Seed(_allen, lambda i: [["import", "allen", "--store", "store", "--files", "x.nwb"], ["info", "store"]]),
    "arrays": Seed(
        _arrays,
        lambda i: [_import("arrays", ("F.npy", "F.npz")[i % 2], "--rate", "10", "--trials", "trials.csv"), ["info", "store"]],
    ),
    "suite2p": Seed(_suite2p, lambda i: [_import("suite2p", "suite2p", *(["--rate", "10"] if i % 2 else [])), ["info", "store"]]),
    "model": Seed(_model, _model_commands),
    "checkpoint": Seed(_checkpoint, lambda i: [TRAIN]),
}
