"""How numbers are packed in a GGUF tensor: which types can be read, their sizes, dequantising."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from plait_kernels.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    from plait_models.files.gguf_header import TensorInfo

    Bytes: TypeAlias = npt.NDArray[np.uint8]
    Floats: TypeAlias = npt.NDArray[np.float32]

_SLAB = 2**18
"""Elements dequantised at a time: few calls, and what a call makes stays in the cache."""

_REMEDY = "Use a file of another type, say Q8_0 or F16, or a newer version of the package gguf"


def readable_types() -> tuple[str, ...]:
    """Name the types that the installed package gguf can dequantise."""
    return tuple(kind.name for kind in GGMLQuantizationType if _can_dequantise(kind))


def type_of(info: TensorInfo, what: str) -> GGMLQuantizationType:
    """Tell the type of a tensor.

    Parameters
    ----------
    info : TensorInfo
    what : str
        File and tensor, for messages.

    Raises
    ------
    ModelError
        Of a type that cannot be dequantised.
    """
    try:
        kind = GGMLQuantizationType(info.type_number)
    except ValueError:
        kind = None
    if kind is None or not _can_dequantise(kind):
        found = f"number {info.type_number}" if kind is None else kind.name
        message = (
            f"{what} is of type {found}, which the package gguf cannot dequantise; allowed: "
            f"{', '.join(readable_types())}. {_REMEDY}"
        )
        raise ModelError(message)
    return kind


def num_bytes(info: TensorInfo, kind: GGMLQuantizationType, what: str) -> int:
    """Count the bytes of a tensor in the file.

    Raises
    ------
    ModelError
        Of a row that does not consist of whole blocks.
    """
    block, block_bytes = _block(kind)
    row = info.shape[-1] if info.shape else 1
    if row % block:
        message = (
            f"{what} has rows of {row} numbers, and {kind.name} packs {block} at a time; allowed: "
            f"multiples of {block}. Convert the model again, this tensor to another type"
        )
        raise ModelError(message)
    return math.prod(info.shape) // block * block_bytes


def dequantise(packed: Bytes, kind: GGMLQuantizationType) -> Floats:
    """Dequantise whole blocks.

    Parameters
    ----------
    packed : uint8 [bytes]
    kind : GGMLQuantizationType

    Returns
    -------
    float32 [elements]
    """
    block, block_bytes = _block(kind)
    values = np.empty(len(packed) // block_bytes * block, np.float32)
    slab_bytes = _SLAB // block * block_bytes
    for i, start in enumerate(range(0, len(packed), slab_bytes)):
        # One row a call: gguf cuts what it gets into groups of 16 rows, however short they are.
        (slab,) = dequantize(packed[None, start : start + slab_bytes], kind)
        values[i * _SLAB : i * _SLAB + len(slab)] = slab
    return values


def _block(kind: GGMLQuantizationType) -> tuple[int, int]:
    """Tell how many numbers a block holds, and its bytes."""
    numbers, nbytes = GGML_QUANT_SIZES[kind]
    return int(numbers), int(nbytes)


def _can_dequantise(kind: GGMLQuantizationType) -> bool:
    _, block_bytes = _block(kind)
    try:
        dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
