"""The header of a GGUF file: its metadata, and where its tensors lie.

The package gguf reads it too, but makes an array of every string of the vocabulary, which takes
seconds. The format is that of the GGUF specification, versions 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import ModelError
from plait_models.files.opening import open_regular, shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""How struct names the type of a metadata value, by its number."""

_LENGTH = struct.Struct("<Q")
_DEFAULT_ALIGNMENT = 32

MAX_HEADER_BYTES = 2**29
"""Bytes that a header may take; a vocabulary of 256 000 tokens with its merges takes 10 million."""

MAX_ELEMENTS = 2**22
"""Elements of an array in the metadata; the largest vocabularies have 2**18 tokens."""

MAX_VALUES, MAX_TENSORS, MAX_DIMS = 2**16, 2**20, 8
"""Metadata values, tensors, and dimensions of a tensor."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a GGUF file.

    Attributes
    ----------
    shape : tuple[int, ...]
        Outermost dimension first, as torch has it.
    type_number : int
        Of ggml's types.
    start : int
        Where its bytes begin in the file.
    """

    shape: tuple[int, ...]
    type_number: int
    start: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its tensors.

    Attributes
    ----------
    metadata : Mapping[str, Any]
        Numbers, booleans, strings, and tuples of numbers. Arrays of strings (vocabulary, merges)
        are left out unless ``read_header`` was asked for them.
    tensors : Mapping[str, TensorInfo]
        By name, in the order of the file.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def read_header(path: Path, strings: Collection[str] = ()) -> GgufHeader:
    """Read the header of a GGUF file.

    Every count and length is held against the size of the file and the limits above before
    anything is allocated for it.

    Parameters
    ----------
    path : Path
    strings : Collection[str]
        Keys of arrays of strings to read as well, as tuples of str.

    Raises
    ------
    ModelError
        There is no file, or it is damaged, big endian or of another version.
    """
    if not path.exists():
        message = f"there is no file {path}. Pass the path of a .gguf file that exists"
        raise ModelError(message)
    try:
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _parse(_Cursor(data), frozenset(strings))
    except (OSError, ValueError, OverflowError, struct.error) as error:
        message = f"{path}: not a whole GGUF file: {error}. Fetch the file again"
        raise ModelError(message) from error


class _Cursor:
    """Reads one value after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 0

    def values(self, codes: str) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{codes}")
        self.check_end(self.position + layout.size)
        found = layout.unpack_from(self._data, self.position)
        self.position += layout.size
        return found

    def count(self, what: str, most: int, code: str = "Q") -> int:
        (count,) = self.values(code)
        if count > most:
            message = f"it says that there are {count} {what}; allowed: at most {most}"
            raise ValueError(message)
        return int(count)

    def string(self) -> str:
        (length,) = self.values("Q")
        start, self.position = self.position, self.position + length
        self.check_end(self.position)
        return self._data[start : self.position].decode()

    def skip_strings(self, count: int) -> None:
        # A vocabulary and its merges have some 100 000 of them.
        data, position, unpack = self._data, self.position, _LENGTH.unpack_from
        for _ in range(count):
            position += 8 + unpack(data, position)[0]
        self.position = position
        self.check_end(position)

    def check_end(self, end: int) -> None:
        if end > len(self._data):
            message = f"it ends at byte {len(self._data)}, and byte {end} is needed"
            raise ValueError(message)
        if end > MAX_HEADER_BYTES:
            message = f"its header takes {end} bytes; allowed: at most {MAX_HEADER_BYTES}"
            raise ValueError(message)


def _parse(cursor: _Cursor, strings: frozenset[str]) -> GgufHeader:
    magic, version = cursor.values("4sI")
    if magic != b"GGUF":
        message = f"it starts with {magic!r} instead of b'GGUF'"
        raise ValueError(message)
    if version not in (2, 3):
        # The version's bytes tell in which order a file was written.
        found = f"of version {version}" if version & 0xFFFF else "big endian"
        message = f"it is {found}; allowed: little endian, version 2 or 3"
        raise ValueError(message)
    num_tensors = cursor.count("tensors", MAX_TENSORS)
    num_values = cursor.count("metadata values", MAX_VALUES)
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = cursor.string()
        _refuse_twice(key, metadata)
        value = _value(cursor, *cursor.values("I"), keeps_strings=key in strings)
        if value is not None:
            metadata[key] = value
    tensors: dict[str, TensorInfo] = {}
    for _ in range(num_tensors):
        name = cursor.string()
        _refuse_twice(name, tensors)
        num_dims = cursor.count(f"dimensions of {shortened(name)}", MAX_DIMS, "I")
        # GGUF writes the fastest dimension first.
        shape = cursor.values(f"{num_dims}Q")[::-1]
        tensors[name] = TensorInfo(shape, *cursor.values("IQ"))
    start = _aligned(cursor.position, metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    return GgufHeader(
        metadata,
        {
            name: TensorInfo(info.shape, info.type_number, start + info.start)
            for name, info in tensors.items()
        },
    )


def _value(cursor: _Cursor, kind: int, *, keeps_strings: bool) -> Any:
    """Read a metadata value; None is an array of strings that is not kept."""
    if kind == _STRING:
        return cursor.string()
    if kind != _ARRAY:
        return cursor.values(_code(kind))[0]
    (element,) = cursor.values("I")
    count = cursor.count("elements in an array of the metadata", MAX_ELEMENTS)
    if element != _STRING:
        return cursor.values(f"{count}{_code(element)}")
    if keeps_strings:
        return tuple(cursor.string() for _ in range(count))
    cursor.skip_strings(count)
    return None


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        message = f"a metadata value or element has the type {kind}, which is none"
        raise ValueError(message)
    return _SCALARS[kind]


def _refuse_twice(name: str, seen: Mapping[str, Any]) -> None:
    if name in seen:
        message = f"it holds {shortened(name)} twice"
        raise ValueError(message)


def _aligned(position: int, alignment: Any) -> int:
    if not isinstance(alignment, int) or alignment < 1:
        message = f"general.alignment is {shortened(alignment)}, must be a positive integer"
        raise ValueError(message)
    return -(-position // alignment) * alignment
