"""What every kind of weight file offers: named tensors that are read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


FLOATING: Mapping[str, int] = MappingProxyType({"F64": 8, "F32": 4, "F16": 2, "BF16": 2})
"""The bytes of a number of each dtype that a weight may have."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes
    ----------
    shape : tuple[int, ...]
    nbytes : int
        How many bytes reading it takes from the file.
    dtype : str
        As safetensors names it; one of ``FLOATING`` can be read.
    """

    shape: tuple[int, ...]
    nbytes: int
    dtype: str = "F32"


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
