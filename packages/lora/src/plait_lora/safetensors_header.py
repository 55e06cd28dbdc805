"""The header of a safetensors file: what the file holds, before the data are read."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from plait_kernels.errors import AdapterError
from plait_lora.shown import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_lora.opened_file import OpenedFile

_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
_MAX_DIMENSIONS = 8
_LENGTH_BYTES = 8


def read_header(file: OpenedFile, longest: int, where: str) -> dict[str, torch.Tensor]:
    """Read which tensors a file holds, without their data.

    Parameters
    ----------
    file : OpenedFile
    longest : int
        Bytes of the longest header that is read.
    where : str
        Names the adapter in messages.

    Returns
    -------
    dict[str, Tensor]
        By name, of the device ``meta``: dtype and shape, and no data. Their bytes and the header
        make up the file.

    Raises
    ------
    AdapterError
        If it is no safetensors file, or not a whole one.
    """
    start = file.start(_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < _LENGTH_BYTES or not length or _LENGTH_BYTES + length > file.stat.size:
        _fail("it is shorter than its header says", where)
    if length > longest:
        msg = (
            f"{where}: the header of adapter_model.safetensors has {length} bytes, and for this "
            f"model at most {longest} are read. Check that the adapter was trained for this model, "
            "and save it again with PEFT's save_pretrained."
        )
        raise AdapterError(msg)
    text = file.start(_LENGTH_BYTES + length)[_LENGTH_BYTES:]
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        _fail(f"its header is no JSON: {error}", where)
    if not isinstance(header, dict):
        _fail("its header is no JSON object", where)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, where) for name, entry in header.items()}
    size = _LENGTH_BYTES + length + sum(tensor.nbytes for tensor in tensors.values())
    if size != file.stat.size:
        _fail(f"its tensors make {size} bytes, and it has {file.stat.size}", where)
    return tensors


def _fail(reason: str, where: str) -> NoReturn:
    raise damaged(reason, where)


def damaged(reason: str, where: str) -> AdapterError:
    """Make the error of a weights file that cannot be read."""
    return AdapterError(
        f"{where}: adapter_model.safetensors is damaged or incomplete ({shortened(reason)}). "
        "Copy or save the whole adapter again."
    )


def _tensor(name: str, entry: Any, where: str) -> torch.Tensor:
    if not isinstance(entry, dict):
        _fail(f"{name}: its entry is no object", where)
    shape, kind = entry.get("shape"), entry.get("dtype")
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        _fail(f"{name}: unknown dtype {shortened(str(kind))}", where)
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        _fail(f"{name}: it has no shape", where)
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        _fail(f"{name}: a size of its shape is out of range", where)
    if math.prod(shape) * dtype.itemsize >= 2**62:
        _fail(f"{name}: its shape is out of range", where)
    return torch.empty(shape, dtype=dtype, device="meta")
