"""AdapterRoom: how large an adapter may be, asked before its weights are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_lora.peft_weights import SiteWeights

_FREE_BYTES = 64 << 20
"""So much is always read: whether it fits on the device is then asked when a request needs it."""

_FILE_BYTES_A_BYTE = 8
"""A file may be so much larger than adapter memory: it may have float32 where bfloat16 is served,
modules that ``lora_target_modules`` leaves out, copies of base weights."""


@dataclass(frozen=True)
class AdapterRoom:
    """The memory that an adapter may take.

    Attributes
    ----------
    chunk_bytes : int
        Of a chunk of adapter memory.
    itemsize : int
        Bytes of a number there.
    num_chunks : int | None
        None: not known; then the machine's memory is the limit.
    """

    chunk_bytes: int
    itemsize: int
    num_chunks: int | None

    def check(self, weights: Iterable[SiteWeights], file_size: int, where: str) -> None:
        """Refuse an adapter that cannot fit.

        Parameters
        ----------
        weights : Iterable[SiteWeights]
            Only shapes are looked at.
        file_size : int
            Bytes of its weights file.
        where : str
            Names the adapter in messages.

        Raises
        ------
        AdapterError
            If its file is too large to be read.
        OutOfMemoryError
            If its weights do not fit in adapter memory although nothing else were there.
        """
        if self.num_chunks is not None:
            served = sum(each.a.shape[0] * _features(each) for each in weights) * self.itemsize
            chunks = -(-served // self.chunk_bytes)
            if chunks > self.num_chunks and served > _FREE_BYTES:
                msg = (
                    f"{where}: its weights take {served} bytes, that is {chunks} chunks of adapter "
                    f"memory, which has {self.num_chunks} chunks. Raise lora_memory_bytes, or use "
                    "an adapter of lower rank."
                )
                raise OutOfMemoryError(msg)
        if file_size > self._max_file_bytes():
            msg = (
                f"{where}: its weights file has {file_size} bytes, and at most "
                f"{self._max_file_bytes()} are read with this much memory. Save the adapter "
                "without what is not lora_A or lora_B."
            )
            raise AdapterError(msg)

    def _max_file_bytes(self) -> int:
        of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        if self.num_chunks is None:
            return of_machine
        room = _FREE_BYTES + _FILE_BYTES_A_BYTE * self.num_chunks * self.chunk_bytes
        return min(of_machine, room)


def _features(weights: SiteWeights) -> int:
    # Parts of a packed projection share A in host memory, not on the device.
    return weights.site.in_features + weights.site.out_features
