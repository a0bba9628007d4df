"""The choice of a device, its random generators, and the error if its memory is full."""

from contextlib import contextmanager

import torch

from ..errors import QfError
from .options import check_device


def pick_device(device="auto"):
    """`device` as a torch.device; "auto" takes CUDA if there is one, else MPS, else the CPU.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    torch.device

    Raises
    ------
    QfError
        If `device` is no name of a device, or if this machine can't compute on it.
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
    """The states of the random generators of the CPU and of `device`, {type of device: uint8 tensor}."""
    return {
        "cpu": torch.get_rng_state(),
        **({} if device.type == "cpu" else {device.type: getattr(torch, device.type).get_rng_state(*_which(device))}),
    }


def set_generator_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set the random generators to states that `generator_states` returned. If `states` has none for this type of device, only the CPU's is set."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        getattr(torch, device.type).set_rng_state(states[device.type], *_which(device))


def _which(device):
    """The arguments that select `device` among those of its type; none for Apple's GPU, of which a machine has one."""
    return () if device.type == "mps" else (device,)


@contextmanager
def forked(device: torch.device):
    """A context that afterwards resets the random generators of the CPU and of `device`, so that draws inside do not change later draws."""
    states = generator_states(device)
    try:
        yield
    finally:
        set_generator_states(states, device)


@contextmanager
def told_memory(device, knob="Take a smaller batch_size (--batch) or a smaller model"):
    """A context that turns the errors of torch and numpy for full memory into a QfError.

    Parameters
    ----------
    device : torch.device or str
    knob : str
        Advice at the end of the message.

    Raises
    ------
    QfError
        If the memory of `device` is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:  # CUDA has an error of its own for this; the CPU and MPS have none
        if not isinstance(e, MemoryError | torch.OutOfMemoryError) and not any(w in str(e).lower() for w in ("out of memory", "allocate memory")):
            raise
        other = "" if str(device).startswith("cpu") else ', or device="cpu" (--device cpu)'
        raise QfError(f"memory: that of {device} is full ({' '.join(str(e).split())[:100]}). {knob}{other}.") from e
