"""Networks that are pre-trained by masking, on all trials of the training part, before `fit_network` tunes them to a task.

A module can be pre-trained if its class has a `masked_loss` of whole windows, and `by_neuron`, the names of its tables with a row for each neuron; it is
then named in `registry.PRETRAINING`. Pre-training ignores conditions and labels.
"""

from dataclasses import asdict
from typing import Any, Self

import torch

from ..errors import QfError
from ..models.batch import Sizes
from ..recordings.conditions import category_of
from ..recordings.splits import Split, check_split
from ..recordings.window import Window
from ..training.bank import Bank, tell_left_out
from ..training.device import pick_device, told_memory
from ..training.loop import run
from ..training.options import LoopConfig, RunConfig
from ..training.traces import Traces
from . import schema
from .checks import check_rate
from .digests import Digest
from .divisors import divisors_of
from .interface import Estimator
from .network import trial_batches
from .network_options import TELLING, NetworkConfig, check_model, sort_options
from .notes import refusal, refuse
from .reference import constant_scores, told
from .registry import MODELS, PRETRAINING, find
from .saving import check_shapes
from .seen import seen_frames


class PretrainedNetwork(Estimator):
    """The weights of a pre-trained network, from which `fit_network` starts.

    Attributes
    ----------
    model : str
        A name of `registry.PRETRAINING`.
    options : Options
        An instance of the model's `Config`.
    neurons : list of str
        Keys of the neurons that have a row in the tables `by_neuron`.
    weights : dict
        {name: tensor}, on the CPU, as the module names them.
    window : Window or None
    rate_hz : float or None
        Window and frames per second of the pre-training; None if the weights come from elsewhere.
    seen : dict
        Frames it was trained or validated on; see `seen.seen_frames`.
    history : list of dict
        One entry per validation; see `training.loop.run`.
    reference : dict or None
        The validation score beside those of constant forecasts; see `estimators.reference.told`.
    """

    task = "masked"
    kind = "network_pretrained"

    def __init__(self, model, options, neurons, weights, window=None, rate_hz=None):
        super().__init__()
        self.model, self.options, self.neurons, self.weights, self.window, self.rate_hz = model, options, neurons, weights, window, rate_hz
        self.name, self.history, self.reference, self._digest = f"{find(MODELS, model).name}, pre-training", [], None, Digest()

    def digest(self) -> str:
        """A hash of the weights, and of the neurons that they belong to."""
        return self._digest(self.weights, self.neurons)

    def note(self) -> dict:
        return {
            "model": self.model, "options": asdict(self.options), "neurons": self.neurons,
            "window": None if self.window is None else asdict(self.window), "rate_hz": self.rate_hz, "seen": self.seen, "history": self.history,
            "seed": self.seed, "simulated": self.simulated, "reference": self.reference,
        }  # fmt: skip

    def tensors(self) -> dict:
        return self.weights

    @classmethod
    def checks(cls):
        return schema.record(
            {
                "model": schema.choice(*PRETRAINING), "options": schema.mapping(schema.plain), "neurons": schema.KEYS,
                "window": schema.maybe(schema.WINDOW), "rate_hz": schema.number(above=0, most=1e6, optional=True), "seen": schema.SEEN,
                "history": schema.history, "seed": schema.SEED, "simulated": schema.flag(optional=True), "reference": schema.maybe(schema.REFERENCE),
            },
            {"run": schema.maybe(schema.RUN)},
        )  # fmt: skip

    @classmethod
    def from_note(cls, note, tensors, device, folder) -> Self:
        kind = find(MODELS, note["model"])
        try:
            schema.options(kind.Config)(note["options"], "options")
            options, window = kind.Config(**note["options"]), note["window"] and Window(**note["window"])
        except schema.Unfit as e:
            raise refusal(folder / "config.json", e) from e
        except QfError as e:
            refuse(folder, "options or window", "values that go together", e)
        with torch.device("meta"):  # tensors on it take no memory, whatever sizes an altered file asks for
            check_shapes(folder, kind(options, Sizes(1, 1, len(note["neurons"]))), tensors)
        self = cls(note["model"], options, note["neurons"], tensors, window, note["rate_hz"])
        for name in ("seen", "history", "seed", "simulated", "reference"):
            setattr(self, name, note[name])
        return self


def pretrain_network(split: Split, model: str, *, device: Any = RunConfig.device, checkpoint: Any = None, **options: Any) -> PretrainedNetwork:
    """Pre-train a network by masking, choosing the epoch on the validation part.

    Parameters
    ----------
    split : Split
        Trials of any stimuli and subjects: all neurons of the training part are pooled.
    model : str
        A name of `registry.PRETRAINING`.
    device : str or torch.device
    checkpoint : str or Path, optional
        Folder for checkpoints, from which an interrupted run goes on; None keeps none.
    **options
        Options of the model (its `Config`), normalise and most_neurons of `NetworkConfig`, and those of `LoopConfig` (epochs (50), steps, batch_size,
        lr (1e-4)...) and of `RunConfig` (memory_mb, checkpoint_s, resume, progress). batch_size counts observations, of which a step takes whole
        trials.

    Returns
    -------
    PretrainedNetwork
        Pass it to `fit_network`. Its `reference` compares the validation score with constant forecasts of whole windows.

    Raises
    ------
    QfError
        If the model or an option is unknown or out of range, sessions differ in rate, no observation is usable, the loss or the validation score is
        not finite, or the device's memory is full.

    Examples
    --------
    >>> from qf_toolkit.estimators.network import fit_network
    >>> start = pretrain_network(split, "brainlm", width=16, layers=1, epochs=2, progress=False)
    >>> model = fit_network(split, "brainlm", pretrained=start, epochs=2, progress=False)
    >>> model.name, model.options.width
    ('BrainLM, pre-trained', 16)
    """
    check_split(split)
    check_model(model, PRETRAINING)
    kind = find(MODELS, model)
    (own, config, loop), running = sort_options("pretrain_network", options, (kind.Config, NetworkConfig, LoopConfig), device, {}, TELLING)
    window, rate, device = split.train.window, split.train.rate_hz, pick_device(device)
    for part in (split.train, split.validation):
        check_rate(rate, part)
    with told_memory(device):
        traces = Traces((split.train, split.validation), device, running.memory_mb)
        scale = divisors_of(split.train, config.normalise, traces)
        neurons = {n: i for i, n in enumerate(split.train.neurons)}
        no_tokens = {category_of(c): 0 for part in (split.train, split.validation) for c in part.conditions}
        train, validation = (Bank(part, neurons, no_tokens, device, scale, traces) for part in (split.train, split.validation))
        tell_left_out(train, validation)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(loop.seed)
            module = kind(own, Sizes(train.n_baseline, train.n_response, len(neurons))).to(device)

        def validate():
            torch.manual_seed(0)  # the same masks every epoch
            total = 0.0
            for at in validation.trial_chunks():
                usable = validation.observations(at, validation.rows_of(at)) >= 0
                total += float(module.masked_loss(validation.population(at))) * int(usable.sum())
            return {"score": total / len(validation)}

        def of_constants(outs, at):
            return [(out - validation.batch(at).x[:, 0]).square().mean() for out in outs]

        history = run(
            module, lambda: trial_batches(train, loop, config), lambda at: module.masked_loss(train.population(at, train.rows_of(at, config.most_neurons))), validate, loop,
            checkpoint=checkpoint, run_config=running, label=f"{kind.name}, pre-training",
            settings={"pretraining": model, "options": own, "config": config, "neurons": list(neurons), "window": window,
                      "data": seen_frames(split.train), "train": train.digest(), "validation": validation.digest()},
        )  # fmt: skip
        scores = constant_scores(train, validation, lambda bank, at: bank.batch(at).x[:, 0], of_constants)
    found = PretrainedNetwork(model, own, list(neurons), {k: v.detach().cpu() for k, v in module.state_dict().items()}, window, rate)
    found.history, found.seed, found.simulated = history, loop.seed, split.train.simulated
    found.seen = seen_frames(split.train, split.validation)
    found.reference = told(f"{kind.name}, pre-training", history, scores, running.progress)
    return found
