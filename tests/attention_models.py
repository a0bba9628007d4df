"""Models of random weights and their trials, for tests of attention."""

import numpy as np
import torch

from qf_toolkit.estimators.quantformer.activation import QuantFormerClassifier
from qf_toolkit.estimators.quantformer.pretrain import Autoencoder
from qf_toolkit.estimators.quantformer.response import QuantFormerForecaster
from qf_toolkit.estimators.stimulus_tokens import StimulusTokens
from qf_toolkit.models.quantformer import QuantFormer, QuantFormerConfig

KINDS = [QuantFormerClassifier, QuantFormerForecaster]
VARIANTS = {"post": {}, "pre": {"norm": "pre"}, "residual": {"residual_attention": True}}
HIDDEN = ("mouse/one/1", 2)  # the neuron and the trial whose F0 is too small


def hide_one(traces, trials):
    onset = trials["onset_frame"][HIDDEN[1]]
    traces[1, onset - 20 : onset] = 0


def model_of(kind, trials, seed=0, **options):
    """A model of random weights, its attention sharper than that of an untrained one."""
    torch.manual_seed(seed)
    sizes = {"patch_frames": 8, "width": 12, "layers": 3, "heads": 2, "codes": 4, **options}
    config = QuantFormerConfig(rate_hz=10.0, n_baseline=30, n_response=20, **sizes)
    scale = {n: 0.2 + 0.1 * i for i, n in enumerate(trials.neurons)}
    autoencoder = Autoencoder(QuantFormer(config), trials.window, "neuron", {"": 1.0, **scale}, {}, [])
    model = kind(autoencoder, trials.neurons, StimulusTokens.learnt("condition", trials.table))
    model.module.requires_grad_(False)
    for block in model.module.encoder.stack.blocks:
        block.attention.qkv.weight.mul_(4)
    return model


def by_hand(maps):
    """Rollout of one observation's maps (layer, head, S, S), one product at a time."""
    size, out = maps.shape[-1], []
    current = np.eye(size)
    for layer in maps:
        current = (layer.mean(0) + np.eye(size)) / 2 @ current
        out.append(current)
    return np.array(out)


def random_maps(rng, *shape):
    maps = rng.gamma(0.3, 1.0, shape) + 1e-9
    return maps / maps.sum(-1, keepdims=True)
