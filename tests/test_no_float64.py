"""Nothing is computed in float64 with torch, since Apple's GPUs have none: every path of training and prediction, under a mode that refuses it."""

import numpy as np
import pytest
import torch
from helpers import toy_session
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.quantformer.activation import fit_classifier
from qf_toolkit.estimators.quantformer.pretrain import pretrain
from qf_toolkit.estimators.quantformer.response import fit_forecaster
from qf_toolkit.estimators.registry import load
from qf_toolkit.interpret.attention import attention_rollout, rollout_of
from qf_toolkit.interpret.codes import codebook, decode_codes, swaps
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

TINY = {"patch_frames": 8, "width": 16, "layers": 1, "heads": 2, "codes": 8, "lr": 1e-3, "batch_size": 64, "progress": False, "epochs": 1}
FIT = {"batch_size": 64, "progress": False, "epochs": 1}
WIDE = (torch.float64, torch.complex128)


class NoFloat64(TorchDispatchMode):
    """Stands for a device without float64: an operation that takes or gives one raises."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            if isinstance(value, torch.Tensor) and value.dtype in WIDE:
                raise TypeError(f"{func}: this device has no {value.dtype}")
        return out


def test_the_mode_refuses_float64():
    with NoFloat64(), pytest.raises(TypeError, match="float64"):
        torch.ones(2).double()
    with NoFloat64(), pytest.raises(TypeError, match="float64"):
        torch.from_numpy(np.ones(2)) + 1


@pytest.mark.filterwarnings("ignore:.*is not below that of the mean")
@pytest.mark.parametrize(("signal", "balance", "normalise"), [("dff", "weight", "neuron"), ("zscore", "sample", "global")])
def test_every_path_of_training_and_prediction(tmp_path, signal, balance, normalise):
    split = split_blocks(cut(toy_session(0), signal=signal))
    new = split_blocks(cut(toy_session(5, session="two"), signal=signal))
    with NoFloat64():
        autoencoder = pretrain(split, balance=balance, normalise=normalise, checkpoint=tmp_path / "c", **TINY)
        pretrain(split, balance=balance, normalise=normalise, checkpoint=tmp_path / "c", **TINY)  # from its checkpoint
        options = {"hide": 0.5, "dropout": 0.1, "token_speed": 2.0, "schedule": "cosine", "batch_trials": 4}
        forecaster = fit_forecaster(autoencoder, split, expectation_weight=2.0, **options, **FIT)
        classifier = fit_classifier(autoencoder, split, gain_weight=2.0, stim_token="features", **options, **FIT)
        for i, model in enumerate((autoencoder, forecaster, classifier)):
            model.save(tmp_path / str(i))
        autoencoder, forecaster, classifier = (load(tmp_path / str(i), device="cpu") for i in range(3))
        for model in (forecaster, classifier):
            model.add_neurons(new, **FIT)
        for how in ("soft", "argmax", "sample"):
            forecaster.decode = how
            assert np.isfinite(forecaster.predict(split.test)["forecast"]).all()
        context = np.zeros((1, 1, 30))  # float64, as a user's arrays may be
        asked = Observations(context, forecaster.neurons[:1], split.test.conditions[:1])
        forecaster.forecast_arrays(asked, wanted=("forecast", "samples", "codes"), n_samples=2)
        forecaster.sample(split.test, n_samples=2)
        classifier.predict(split.test)
        autoencoder.codes(split.test)
        autoencoder.code_usage(split.test)
        autoencoder.codes_arrays(np.zeros((1, 1, 50)), ["mouse/one/0"])
        for model in (forecaster, classifier):
            attention_rollout(model, split.test, gradient=True)
            rollout_of(model, context.astype(np.float32), model.neurons[:1], split.test.conditions[:1])
        codebook(autoencoder, split.test)
        decode_codes(autoencoder, np.zeros((1, autoencoder.config.patches), int))
        swaps(autoencoder)
        observer = Observer(split.test, [forecaster, classifier], n_samples=4)
        observer.look("mouse/one", "mouse/one/0", int(split.test.table["trial"].iloc[0]))
