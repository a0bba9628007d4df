"""Splits of toy recordings and settings under which models train in a moment."""

import torch
from helpers import toy_session

from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False}
FIT = {"batch_size": 64, "progress": False}


def toy_split(seed=0, change=None, **options):
    return split_blocks(cut(toy_session(seed, change=change, **options)))


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
