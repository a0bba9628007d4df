"""Which device computes, its random generators, and what is said when its memory is full."""

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


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators of the CPU and of `device`, uint8 by the type of device."""
    return {
        "cpu": torch.get_rng_state(),
        **({} if device.type == "cpu" else {device.type: getattr(torch, device.type).get_rng_state(*_which(device))}),
    }


def set_generator_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `generator_states` gave; of a device of another type only the CPU's state is taken."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        getattr(torch, device.type).set_rng_state(states[device.type], *_which(device))


def _which(device):
    """What names `device` beside its type: Apple's GPU is always one."""
    return () if device.type == "mps" else (device,)


@contextmanager
def forked(device: torch.device):
    """A context in which what is drawn at random on the CPU and on `device` leaves the caller's generators as they were."""
    states = generator_states(device)
    try:
        yield
    finally:
        set_generator_states(states, device)


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
