"""Whether a training step may read values of its own tensors."""

import torch


def may_ask(device) -> bool:
    """Whether a step on `device` may branch on values that it has computed.

    On the CPU the values are at hand. On another device the host would have to wait until the device has finished all its queued work. Steps there use
    code of fixed shapes instead, which has the same distribution but draws other random numbers.

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
