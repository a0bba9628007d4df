"""Two recordings of a mouse and models of all of their neurons, for tests of what shows them."""

from functools import cache
from types import SimpleNamespace

import numpy as np
from helpers import toy_session

from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.rows import naive_forecasters
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

TINY = {"patch_frames": 8, "width": 16, "layers": 2, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False, "epochs": 2}
FIT = {"batch_size": 64, "progress": False, "epochs": 2, "lr": 3e-3}
HIDDEN = ("m/c1", 43)  # a neuron and a trial of m/one whose F0 is too small
LATE = ("m/c2", 44)  # and one whose response alone has values missing


def hide(traces, trials):
    onset, late = (trials["onset_frame"][trial] for _, trial in (HIDDEN, LATE))
    traces[1, onset - 20 : onset] = 0
    traces[2, late + 5 : late + 8] = np.nan


def session(name="one", seed=0, cells=range(6), **options):
    cells = [f"c{i}" for i in cells]
    return toy_session(seed, subject="m", session=name, n_neurons=len(cells), cells=cells, matched=True, **options)


def fitted(split, **options):
    """Auto-encoder, forecaster, classifier."""
    autoencoder = pretrain(split, **{**TINY, **options})
    return autoencoder, fit_forecaster(autoencoder, split, **FIT), fit_classifier(autoencoder, split, **FIT)


@cache
def study():
    """Two sessions of a mouse, of which c3 to c5 are in both, and models of all of their neurons. Nothing here may be changed."""
    split = split_blocks(cut([session(change=hide), session("two", 1, range(3, 8))]))
    autoencoder, forecaster, classifier = fitted(split)
    return SimpleNamespace(split=split, test=split.test, autoencoder=autoencoder, forecaster=forecaster, classifier=classifier,
                           naive=[model.fit(split) for model in naive_forecasters()])  # fmt: skip


def part_of(trials, name):
    return trials.subset((trials.table["session"] == name).to_numpy())
