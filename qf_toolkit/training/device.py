"""Which device computes, and what is said when its memory is full."""

from contextlib import contextmanager

import torch

from ..errors import QfError
from .options import check_device


def pick_device(device="auto"):
    """`device` as a torch.device; "auto" takes CUDA, then MPS, then the CPU.

    Raises
    ------
    QfError
        If nothing can be computed on it here.
    """
    check_device(device)
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.ones(1, device=device).sum().item()
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as e:
        why = " ".join(str(e).split())[:80]
        raise QfError(f"device: {str(device)!r} can't be used here ({why}). Take auto or cpu.") from e


@contextmanager
def told_memory(device, knob="Take a smaller batch_size (--batch) or a smaller model"):
    """Tell that the memory of `device` is full as what it is.

    Raises
    ------
    QfError
        In place of the errors of torch and numpy that say so.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:  # CUDA has an error of its own for it, the CPU and MPS have not
        if not isinstance(e, MemoryError | torch.OutOfMemoryError) and not any(w in str(e).lower() for w in ("out of memory", "allocate memory")):
            raise
        other = "" if str(device).startswith("cpu") else ', or device="cpu" (--device cpu)'
        raise QfError(f"memory: that of {device} is full ({' '.join(str(e).split())[:100]}). {knob}{other}.") from e
