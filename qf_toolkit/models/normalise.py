"""Instance normalisation: a model reads each window without its level and spread, and its forecast gets them back.

Source: Kim et al. 2022, "Reversible Instance Normalization for Accurate Time-Series Forecasting against Distribution Shift" (RevIN), without its learned
scale and shift.
"""

from collections.abc import Callable

import torch


def without_level(x: torch.Tensor, eps: float = 1e-5) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Take the mean and the standard deviation out of each window.

    Parameters
    ----------
    x : float tensor, shape (..., T)
    eps : float
        Added to the variance.

    Returns
    -------
    normalised : float tensor, shape (..., T)
    restore : callable
        Gives the same windows' level and spread to frames (..., any number).

    Examples
    --------
    >>> x = torch.tensor([[1.0, 3.0]])
    >>> normalised, restore = without_level(x, eps=0.0)
    >>> normalised, restore(torch.zeros(1, 3))
    (tensor([[-1.,  1.]]), tensor([[2., 2., 2.]]))
    """
    mean = x.mean(-1, keepdim=True).detach()
    sd = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
    return (x - mean) / sd, lambda frames: frames * sd + mean
