"""A tiny auto-encoder and its codes, for tests."""

from copy import deepcopy

import numpy as np
import torch

# 30 + 20 frames at 10 Hz in patches of 8: 2 frames of padding before the window, 4 after it
TINY = {"patch_frames": 8, "width": 16, "layers": 2, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False}
K, P, L, T = 8, 7, 8, 50
PAD_BEFORE, PAD_AFTER = 2, 4


def holes(traces, trials):
    traces[1, trials["onset_frame"].iloc[3]] = np.nan


def with_weights(model, change):
    model = deepcopy(model)
    with torch.no_grad():
        change(model.module)
    return model


def far_but_one(module):
    module.quantizer.codebook[[k for k in range(K) if k != 3]] += 1e3


def without_attention(module):
    for block in module.decoder.blocks:
        block.attention.out.weight.zero_()
        block.attention.out.bias.zero_()


def some_sequences(n=40, seed=0):
    return np.random.default_rng(seed).integers(0, K, (n, P))


def padded(window):
    """(time,) -> (patch, frame), NaN in the padding."""
    return np.concatenate([np.full(PAD_BEFORE, np.nan), window, np.full(PAD_AFTER, np.nan)]).reshape(P, L)


def rms(x):
    x = np.asarray(x, float)[np.isfinite(x)]
    return np.sqrt(np.mean(x**2))
