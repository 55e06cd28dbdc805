"""AdapterKey: the one identity of an adapter's content, and the mixes made of keys."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AdapterKey = NewType("AdapterKey", str)
"""Identity of an adapter's content. Opaque: compare it, hash it, print it, never take it apart."""

Mix: TypeAlias = tuple[tuple[AdapterKey, float], ...]
"""What a token runs: adapters with their weights, in order. Empty means the base model only."""

BASE_MIX: Mix = ()
"""The mix of the base model alone. It has no slot (slot -1) and is never leased."""

_FORMAT = 1  # raised when the canonical form below changes, so that old keys match nothing


@dataclass(frozen=True)
class TensorContent:
    """One tensor as identity sees it.

    Attributes
    ----------
    dtype : str
        Name of the dtype in the file, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    shape : tuple[int, ...]
    data : memoryview
        The bytes, contiguous, in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True)
class ModuleContent:
    """One adapted module as identity sees it.

    Attributes
    ----------
    scale : float
        alpha/r or alpha/√r: all that the config does to the result, once ranks are known.
    tensors : Mapping[str, TensorContent]
        By role, ``"A"`` and ``"B"``.
    """

    scale: float
    tensors: Mapping[str, TensorContent]


def content_key(modules: Mapping[str, ModuleContent]) -> AdapterKey:
    """Return the key of an adapter's content.

    The key is a SHA-256 over a canonical header (site names, scales, dtypes and shapes, as sorted
    JSON) and then the tensor bytes in the order of the header. What does not change the result is
    not in it: the directory, the spelling of the module names, the base model's name, dropout.

    Parameters
    ----------
    modules : Mapping[str, ModuleContent]
        By site name. The order does not matter.

    Returns
    -------
    AdapterKey
    """
    header = {
        "format": _FORMAT,
        "modules": {
            name: {
                "scale": float(module.scale).hex(),
                "tensors": {
                    role: [tensor.dtype, list(tensor.shape)]
                    for role, tensor in module.tensors.items()
                },
            }
            for name, module in modules.items()
        },
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(len(text).to_bytes(8, "little"))
    digest.update(text)
    for name in sorted(modules):
        for role in sorted(modules[name].tensors):
            digest.update(modules[name].tensors[role].data)
    return AdapterKey(f"sha256:{digest.hexdigest()}")


def fresh_key() -> AdapterKey:
    """Return a key that no other adapter has: for tensors handed over in memory."""
    return AdapterKey(f"memory:{uuid.uuid4().hex}")


def distinct_keys(mix: Sequence[tuple[AdapterKey, float]]) -> tuple[AdapterKey, ...]:
    """Return the adapters of a mix, each once, in order of first appearance."""
    return tuple(dict.fromkeys(key for key, _ in mix))
