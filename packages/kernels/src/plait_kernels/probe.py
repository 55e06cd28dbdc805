"""Look at a torch device. The only module of the choice of kernels that imports torch."""

from __future__ import annotations

import torch

from plait_kernels.device import Device
from plait_kernels.errors import KernelError


def device_of(torch_device: torch.device | str) -> Device:
    """Describe a torch device as plain data.

    Parameters
    ----------
    torch_device : torch.device | str
        A CPU or CUDA device; ``"cuda"`` is the current one.

    Raises
    ------
    KernelError
        It is of another type, or there is no such CUDA device.
    """
    device = torch.device(torch_device)
    if device.type == "cpu":
        return Device("cpu", name="CPU")
    if device.type != "cuda":
        msg = f"device {str(device)!r} is of type {device.type!r}; use 'cpu' or 'cuda'"
        raise KernelError(msg)
    try:
        properties = torch.cuda.get_device_properties(device)
    # torch raises AssertionError where it was built without CUDA or the index is too large.
    except (RuntimeError, AssertionError) as error:
        msg = f"no CUDA device {str(device)!r} here: {error}; use 'cpu', or look at nvidia-smi"
        raise KernelError(msg) from error
    return Device("cuda", (properties.major, properties.minor), properties.name)


def default_device() -> Device:
    """Describe the device that this machine offers: the current CUDA device, else the CPU."""
    return device_of("cuda" if torch.cuda.is_available() else "cpu")
