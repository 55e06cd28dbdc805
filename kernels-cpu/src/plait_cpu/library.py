"""The compiled library, as Python calls it."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, Final

import torch

from plait_cpu.compiler import build
from plait_kernels.errors import BackendUnusable

DTYPES: Final = {torch.float32: 0, torch.bfloat16: 1}
"""Dtypes that the library takes, and their numbers there."""


class Tables(Structure):
    """A ``LoraTable``."""

    _fields_ = (
        ("arena", c_void_p),
        ("tile_start", c_void_p),
        ("tile_count", c_void_p),
        ("tile_offset", c_void_p),
        ("tile_rank", c_void_p),
        ("tile_scale", c_void_p),
        ("rank_sum", c_void_p),
        ("num_sites", c_int64),
        ("tile_rows", c_int64),
    )


class Segments(Structure):
    """The work list of a ``LoraBatch``."""

    _fields_ = (
        ("order", c_void_p),
        ("start", c_void_p),
        ("slot", c_void_p),
        ("count", c_int64),
    )


class Sites(Structure):
    """A tuple of ``LoraSite``."""

    _fields_ = (
        ("index", c_void_p),
        ("out_features", c_void_p),
        ("out_offset", c_void_p),
        ("count", c_int64),
        ("in_features", c_int64),
    )


_I, _L, _P, _F = c_int32, c_int64, c_void_p, c_float
_LORA = (POINTER(Tables), POINTER(Segments), POINTER(Sites), _I)
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "plait_norm": (_I, _P, _L, _P, _L, _P, _P, _L, _L, _F, _I),
    "plait_silu_and_mul": (_I, _P, _L, _P, _L, _L, _I),
    "plait_rotary": (_I, _P, _P, _L, _L, _L, _P, _L, _L, _L, _P, _L, _L, _I),
    "plait_kv_write": (_P, _L, _P, _L, _P, _L, _P, _L, _L, _L, _I),
    "plait_attention": (
        *(_I, _P, _L, _L, _P, _L, _P, _L, _P, _P, _P, _P),
        *(_L, _L, _L, _L, _L, _L, _L, _F, _I),
    ),
    "plait_lora_shrink": (_I, _I, _P, _L, _P, _L, _P, *_LORA),
    "plait_lora_expand": (_I, _I, _P, _L, _P, _L, *_LORA),
}


@functools.cache
def load_library(base: Path | None = None) -> ctypes.CDLL:
    """Load the compiled library; it is compiled if that has not been done yet.

    Its threads are those of torch's OpenMP. A process loads a library once.

    Parameters
    ----------
    base : Path | None
        In place of the user's cache directory.

    Raises
    ------
    BackendUnusable
        It cannot be compiled, or cannot be loaded.
    """
    try:
        ctypes.CDLL(_openmp(), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        msg = f"OpenMP's runtime cannot be loaded: {error}; install libgomp"
        raise BackendUnusable(msg) from error
    library = build(base).load()
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.plait_attention_split.argtypes = ()
    library.plait_attention_split.restype = c_int64
    return library


def _openmp() -> str:
    """Return the OpenMP runtime that is in this process with torch."""
    mapped = {
        line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()
    }
    for name in ("libiomp5", "libgomp"):
        for path in sorted(mapped):
            if name in Path(path).name:
                return path
    return "libgomp.so.1"
