"""Bring small arrays of the host to a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def upload(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for it.

    Parameters
    ----------
    array : ndarray
        May be changed afterwards, if the device is not the CPU.
    device : torch.device

    Returns
    -------
    Tensor
        On a CPU it shares the array's memory.
    """
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else to_device(tensor, device)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device without waiting for it."""
    if device.type == "cpu":
        return tensor.to(device)
    # From pageable memory the copy would wait for the device. Pinned memory comes from a cache
    # that gives it out again only when the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A copy to the host that is under way.

    Parameters
    ----------
    tensor : Tensor
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> npt.NDArray[Any]:
        """Wait for the copy and return it."""
        if self._done is not None:
            self._done.synchronize()
        array: npt.NDArray[Any] = self._host.numpy()
        return array
