"""On a device no training step asks for the value of a tensor, for which the host would wait; and what is drawn there instead is the same in distribution."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import MODELS, PRETRAINING, find
from qf_toolkit.models.batch import Batch, Sizes
from qf_toolkit.models.config import QuantFormerConfig
from qf_toolkit.models.quantformer import ActivationClassifier, QuantFormer, ResponseForecaster
from qf_toolkit.models.quantizer import Quantizer
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.training import loop

TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False, "epochs": 1}
FIT = {"batch_size": 64, "progress": False, "epochs": 1}
ASKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
pytestmark = untaught


class NoWaiting(TorchDispatchMode):
    """Stands for a device that is never waited for: an operation whose result or its shape the host must know raises.

    On the CPU a copy to the host is no operation; that none is made shows on a device without any values, see below.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asks = ASKING & set(func.tags)
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            asks = any(isinstance(v, torch.Tensor) and v.dtype in (torch.bool, torch.uint8) for v in tree_leaves(args[1]))
        if asks or func in (torch.ops.aten.equal.default, torch.ops.aten.bincount.default):
            raise AssertionError(f"{func}: the host would wait")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Steps take the ways of a device that is not to be asked."""
    for home in ("models.quantformer", "models.quantizer", "training.groups"):
        monkeypatch.setattr(f"qf_toolkit.{home}.may_ask", lambda device: False)


@pytest.mark.parametrize("ask", [
    lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: bool((x > 1).any()), lambda x: x.nonzero(), lambda x: x[x > 1], lambda x: x.long().bincount(),
    lambda x: x.unique(), lambda x: x.masked_select(x > 1), lambda x: x.repeat_interleave(x.long()), lambda x: torch.equal(x, x + 1),
    lambda x: x.__setitem__(x > 1, 0.0),
])  # fmt: skip
def test_the_mode_sees_what_waits(ask):
    with NoWaiting(), pytest.raises(AssertionError, match="the host would wait"):
        ask(torch.arange(4.0))


def test_the_mode_lets_gathers_pass():
    with NoWaiting():
        x = torch.arange(12.0).reshape(4, 3)
        assert x[torch.tensor([2, 0])].shape == (2, 3)
        x[torch.tensor([1])] = 0.0


def test_no_step_waits(as_on_a_device, monkeypatch):
    """The auto-encoder, the forecaster and the classifier, with every option that adds to a step."""
    steps, real = [], loop._Training._step

    def watched(self, at):
        with NoWaiting():
            real(self, at)
            self._call("after_step")
        steps.append(len(at))

    monkeypatch.setattr(loop._Training, "_step", watched)
    split = split_blocks(cut(toy_session(0)))
    often = {"ema": 0.9, "optimiser": "adamw", "weight_decay": 0.1, "schedule": "cosine", "schedule_by": "step", "warmup": 0.1}
    autoencoder = pretrain(split, replace_every=1, replace_below=0.05, dropout=0.1, **TINY)
    pretrain(split, balance="sample", redraw_masks=False, mean_weight=False, residual_attention=True, **often, **TINY)
    for options in ({}, {"hide": 0.5, "token_speed": 3.0, "batch_trials": 4, **often}):
        fit_forecaster(autoencoder, split, expectation_weight=2.0, **options, **FIT)
        fit_classifier(autoencoder, split, gain_weight=2.0, stim_token="features", **options, **FIT)
    assert len(steps) > 20


def test_no_model_needs_a_value(monkeypatch):
    """Each model's loss and gradient on the device "meta", where tensors have shapes and no values: a copy to the host raises."""
    config = QuantFormerConfig(rate_hz=10.0, n_baseline=16, n_response=8, patch_frames=8, width=8, layers=1, heads=2, codes=4, dropout=0.1)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # which knows no "meta"
    x = torch.zeros(6, 24, device="meta")
    with pytest.raises(NotImplementedError):
        x.tolist()
    one = torch.zeros(6, dtype=torch.long, device="meta")
    autoencoder = QuantFormer(config).to("meta").train()
    batch = Batch(x[:, None], torch.ones(6, 1, 24, dtype=torch.bool, device="meta"), one[:, None], one, one)
    losses = [autoencoder.loss(batch, torch.zeros(6, device="meta"), 4.0)]
    for kind in (ResponseForecaster, ActivationClassifier):
        model = kind(QuantFormer(config), 3, 2).to("meta").train()
        out = model(x[:, :16], one, one)
        losses.append(out.sum() if out.ndim == 2 else (model.decode(torch.zeros(6, 2, dtype=torch.long, device="meta"), out, "soft")).square().mean())
    for loss in losses:
        loss.backward()


def test_the_mode_sees_the_ways_of_the_cpu(monkeypatch):
    """Without the ways of a device the same steps would wait: the test above can fail."""
    model = QuantFormer(QuantFormerConfig(rate_hz=10.0, n_baseline=16, n_response=8, patch_frames=8, width=8, layers=1, heads=2, codes=4)).train()
    with NoWaiting(), pytest.raises(AssertionError, match="the host would wait"):
        model.draw_mask(4, "cpu")
    with NoWaiting(), pytest.raises(AssertionError, match="the host would wait"):
        model(torch.randn(4, 24))


# ---------------------------------------------------------------- the same in distribution


def masks(ratio, patches, n, seed):
    frames = 4 * patches
    config = QuantFormerConfig(
        rate_hz=10.0, n_baseline=frames - 4, n_response=4, patch_frames=4, width=8, layers=1, heads=2, codes=4, mask_ratio=ratio
    )
    torch.manual_seed(seed)
    return QuantFormer(config).draw_mask(n, torch.device("cpu")).numpy()


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.7])
def test_masks_of_a_device_have_the_distribution_of_those_drawn_again(ratio, monkeypatch):
    """All 15 masks of 4 patches that hide something, counted both ways, against their exact probabilities."""
    n, patterns = 40_000, np.array(list(itertools.product([False, True], repeat=4)))[1:]
    exact = np.prod(np.where(patterns, ratio, 1 - ratio), 1)
    exact /= exact.sum()
    for asking in (True, False):
        monkeypatch.setattr("qf_toolkit.models.quantformer.may_ask", lambda device, asking=asking: asking)
        drawn = masks(ratio, 4, n, seed=1)
        counts = (drawn[:, None] == patterns).all(-1).sum(0)
        assert counts.sum() == n
        enough = n * exact >= 5
        found, wanted = (np.append(v[enough], v[~enough].sum()) for v in (counts, n * exact))
        kept = wanted > 0
        assert stats.chisquare(found[kept], wanted[kept]).pvalue > 1e-3, asking


@pytest.mark.parametrize("ratio", [1e-9, 1e-4, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("patches", [2, 300])
def test_masks_of_a_device_hide_something_at_every_ratio(ratio, patches, as_on_a_device):
    drawn = masks(ratio, patches, 2000, seed=0)
    assert drawn.any(1).all()
    q = -np.expm1(patches * np.log1p(-ratio))
    assert drawn.mean() == pytest.approx(ratio / q, rel=0.1)
    if ratio < 1e-3 and patches > 2:  # about one patch is hidden, any of them alike
        assert stats.kstest(drawn.argmax(1) / patches, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("below", [0.0, 0.1])
def test_codes_are_replaced_alike_on_a_device(below, monkeypatch):
    """The same codes at the same steps, by outputs of the encoder, and the others stay."""
    after = {}
    for asking in (True, False):
        monkeypatch.setattr("qf_toolkit.models.quantizer.may_ask", lambda device, asking=asking: asking)
        torch.manual_seed(0)
        quantizer = Quantizer(codes=6, width=3, replace_every=4, replace_below=below).train()
        with torch.no_grad():
            quantizer.codebook[:] = 100.0 * torch.arange(6)[:, None] + torch.randn(6, 3)
        before, z = quantizer.codebook.detach().clone(), torch.randn(50, 2, 3)
        z[:4, 0] += 100.0  # the second code has 4 of 100 places, the others but the first none
        uses = []
        for _ in range(4):
            quantizer(z)
            uses.append(quantizer.uses.clone())
        moved = (quantizer.codebook != before).any(1)
        assert moved.tolist() == [False, below > 0, True, True, True, True]
        assert all((row == z.flatten(0, 1)).all(1).any() for row in quantizer.vectors[moved])
        after[asking] = torch.stack(uses[:3])
        assert int(uses[3].sum()) == 100  # counted anew
        assert int(quantizer.step) == 4
    assert torch.equal(after[True], after[False])
    never = Quantizer(codes=6, width=3, replace_every=0).train()
    start = never.codebook.detach().clone()
    for _ in range(3):
        never(z)
    assert torch.equal(never.codebook, start)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_no_network_waits(model):
    kind, x = find(MODELS, model), torch.randn(2, 3, 50)
    whole = Batch(x, x < 3, torch.arange(3).expand(2, 3), torch.arange(2), torch.zeros(2, dtype=torch.long))
    module = kind(kind.Config(), Sizes(30, 20, n_neurons=3)).train()
    with NoWaiting():
        module(whole._replace(x=x[..., :30], valid=whole.valid[..., :30])).square().mean().backward()
        if model in PRETRAINING:
            module.masked_loss(whole).backward()
