"""Whether a training step may look at its own tensors."""

import torch


def may_ask(device) -> bool:
    """Whether a step on `device` may branch on values that it has computed.

    On the CPU they are at hand. Elsewhere the host would wait until the device has done all that is queued, so that steps there take
    ways of a fixed shape, which have the same distribution but other random numbers.

    Parameters
    ----------
    device : torch.device or str

    Returns
    -------
    bool

    Examples
    --------
    >>> may_ask("cpu"), may_ask("cuda:1")
    (True, False)
    """
    return torch.device(device).type == "cpu"
