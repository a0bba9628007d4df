"""Options of networks, and how those of a call are sorted. Does not import torch, so that the command line starts fast."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import QfError
from ..models.config import STIM_TOKENS
from ..models.options import Options, defaults, option, refuse_unknown
from ..training.options import LoopConfig, RunConfig

TELLING = ("token_width", "stim_token")  # options of NetworkConfig that say what a fit tells the network; pre-training tells it nothing


@dataclass(frozen=True)
class NetworkConfig(Options):
    """How observations reach a network."""

    token_width: int = option(16, "whole", least=0, most=4096, help="of the tokens of neuron and condition; 0: the network is told neither")
    stim_token: str = option("auto", "text", known=STIM_TOKENS, help="what has a stimulus token; auto: each condition where those are repeated, else "
                             "its category")  # fmt: skip
    normalise: str = option("neuron", "text", known=("neuron", "global", "none"), help="divide each neuron's signal by its own spread, all by one, "
                            "or not at all")  # fmt: skip
    most_neurons: int = option(256, "whole", least=0, most=10**9, help="of a session that a step shows a model of the population, drawn anew each step; "
                               "0: all")  # fmt: skip


def check_model(model: Any, known: Iterable[str]) -> None:
    """Raise QfError if `model` is not one of the names in `known`."""
    if model not in list(known):
        raise QfError(f"model: expected one of {', '.join(known)}, found {model!r}.")


def sort_options(call: str, options: dict, kinds: Sequence[type], device: Any, usual: dict, without: Sequence[str] = ()) -> tuple[tuple, RunConfig]:
    """Sort the options of a training.

    Parameters
    ----------
    call : str
        The name of the function, for the message about an unknown option.
    options : dict
        {name: value} as given, without the device.
    kinds : sequence of type
        Dataclasses of options.
    device : str or torch.device
    usual : dict
        Defaults of `LoopConfig` that differ for this training.
    without : sequence of str
        Names of options that this training does not take.

    Returns
    -------
    tuple of Options
        One of each kind.
    RunConfig

    Raises
    ------
    QfError
        If an option is unknown or out of range.
    """
    running = {"device": device, **{n: v for n, v in options.items() if n in defaults(RunConfig)}}
    names = {kind: {f.name for f in fields(kind)} - set(without) for kind in kinds}
    refuse_unknown(call, options, sorted({*running, "checkpoint"}.union(*names.values())))
    made = (kind(**{**(usual if kind is LoopConfig else {}), **{n: v for n, v in options.items() if n in names[kind]}}) for kind in kinds)
    return tuple(made), RunConfig(**running)
