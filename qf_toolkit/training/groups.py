"""The optimiser, and groups of parameters that have a speed or a weight decay of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..models.host import may_ask
from .options import LoopConfig


@dataclass(frozen=True)
class Group:
    """Parameters that have a speed or a weight decay of their own. Parameters in no group learn at lr with the config's weight decay.

    Attributes
    ----------
    parameters : sequence of nn.Parameter
    speed : float
        The group's learning rate is lr times this.
    weight_decay : float or None
        None takes the config's.
    """

    parameters: Sequence[nn.Parameter]
    speed: float = 1.0
    weight_decay: float | None = None


def undecayed(module: nn.Module) -> Group:
    """A group of biases, gains of norms and embeddings, which are commonly kept free of weight decay.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    Group
        The parameters of at most one dimension and those of `nn.Embedding`, without weight decay.

    Examples
    --------
    >>> [tuple(p.shape) for p in undecayed(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))).parameters]
    [(5, 3), (2,)]
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return Group([p for p in module.parameters() if p.ndim <= 1 or id(p) in embeddings], weight_decay=0.0)


def make_optimiser(parameters: Sequence[nn.Parameter], groups: Sequence[Group], config: LoopConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over `parameters`, where each group has its own speed and weight decay.

    Parameters
    ----------
    parameters : sequence of nn.Parameter
        All parameters that learn.
    groups : sequence of Group
        Parameters in no group have speed 1 and the config's weight decay.
    config : LoopConfig

    Returns
    -------
    torch.optim.Adam or torch.optim.AdamW

    Raises
    ------
    ValueError
        If a parameter is in two groups.
    """
    own = {}
    for group in groups:
        for p in group.parameters:
            if id(p) in own:
                raise ValueError(f"a parameter of shape {tuple(p.shape)} is in two groups")
            own[id(p)] = group.speed, config.weight_decay if group.weight_decay is None else group.weight_decay
    alike = {}
    for p in parameters:
        alike.setdefault(own.get(id(p), (1.0, config.weight_decay)), []).append(p)
    made = [{"params": members, "speed": speed, "weight_decay": decay} for (speed, decay), members in alike.items()]
    # a fused optimiser runs one kernel for all parameters, and counts its steps on the device
    fused = None if may_ask(parameters[0].device) else True
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    return kind(made, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
