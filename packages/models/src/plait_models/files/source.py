"""What every kind of weight file offers: named tensors that are read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its shape, and how many bytes reading it takes from the file."""

    shape: tuple[int, ...]
    nbytes: int


class WeightSource(Protocol):
    """Named tensors, under the names that Hugging Face gives them."""

    @property
    def origin(self) -> str:
        """The file or directory, for messages."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor, in an order that reads each file once."""

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor: floating, on the CPU, of the shape in ``entries``."""
