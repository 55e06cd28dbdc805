"""GuardedMemory: arguments of a call in memory that shows whether something else was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from plait_testing.tensors import map_tensors, named, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MARGIN = 4096
"""Bytes before and after each storage. A multiple of every alignment that kernels ask for."""

SENTINEL = 0xFF
"""Value of the margins: NaN in every float dtype, so that reading them shows as well."""


@dataclass(frozen=True, eq=False)
class _Buffer:
    memory: torch.Tensor
    before: torch.Tensor
    paths: list[str] = field(default_factory=list)

    @property
    def address(self) -> int:
        return self.memory.untyped_storage().data_ptr()


class GuardedMemory:
    """A copy of arguments, each storage between two margins.

    Tensors that share a storage share it in the copy, and strides are kept: what lies between the
    rows of a strided tensor is guarded as the margins are.

    Parameters
    ----------
    arguments : object
        A tuple or dataclass that holds tensors.
    names : tuple[str, ...]
        Names of the elements of a tuple, for messages.

    Attributes
    ----------
    arguments : object
        The copy.
    """

    def __init__(self, arguments: Any, names: tuple[str, ...] = ()) -> None:
        self._names = names
        self._buffers: list[_Buffer] = []
        self._of_storage: dict[int, _Buffer] = {}
        self.arguments = map_tensors(arguments, self._lay)

    def _lay(self, path: str, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        buffer = self._of_storage.get(storage.data_ptr())
        if buffer is None:
            size = storage.nbytes()
            options: Any = {"dtype": torch.uint8, "device": tensor.device}
            memory = torch.full((size + 2 * MARGIN,), SENTINEL, **options)
            memory[MARGIN : MARGIN + size] = torch.empty(0, **options).set_(storage)
            buffer = _Buffer(memory, memory.clone())
            self._buffers.append(buffer)
            # Empty storages have no address of their own.
            if size:
                self._of_storage[storage.data_ptr()] = buffer
        buffer.paths.append(path)
        return view_of(buffer.memory, tensor, offset=MARGIN)

    def damage(self, writable: Sequence[torch.Tensor]) -> Iterator[str]:
        """Describe each storage in which a byte changed that may not.

        Parameters
        ----------
        writable : Sequence[Tensor]
            Views of ``arguments`` whose elements may change.
        """
        for buffer in self._buffers:
            if torch.equal(buffer.memory, buffer.before):
                continue
            changed = buffer.memory != buffer.before
            allowed = torch.zeros_like(buffer.memory)
            for view in writable:
                if view.untyped_storage().data_ptr() == buffer.address:
                    view_of(allowed, view, as_bits=True).fill_(-1)
            places = (changed & (allowed == 0)).nonzero().flatten()
            if places.numel():
                yield self._describe(buffer, places)

    def _describe(self, buffer: _Buffer, places: torch.Tensor) -> str:
        names = " and ".join(named(path, self._names) for path in buffer.paths)
        size = buffer.memory.numel() - 2 * MARGIN
        first = int(places[0]) - MARGIN
        where = (
            f"{-first} bytes before its start"
            if first < 0
            else f"{first - size} bytes past its end"
            if first >= size
            else f"at byte {first} of {size}"
        )
        return f"the memory of {names}: {places.numel()} bytes, the first {where}"

    def aliases(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor lies in the memory of the arguments."""
        address = tensor.untyped_storage().data_ptr()
        return tensor.numel() > 0 and any(buffer.address == address for buffer in self._buffers)
