"""What a kernel may ask about the device it would run on."""

from __future__ import annotations

from dataclasses import dataclass

DEVICE_TYPES = ("cpu", "cuda")
"""The types of devices that an engine runs on."""


@dataclass(frozen=True)
class Device:
    """A device, as plain data: nothing here imports torch.

    Attributes
    ----------
    type : str
        One of ``DEVICE_TYPES``.
    capability : tuple[int, int] | None
        Compute capability (major, minor) of a CUDA device, None on a CPU.
    name : str
        What the vendor calls it, for messages.
    """

    type: str = "cpu"
    capability: tuple[int, int] | None = None
    name: str = ""
