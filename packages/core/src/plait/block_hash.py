"""The identity of a full KV block: everything its keys and values depend on."""

from __future__ import annotations

import hashlib
import struct
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait_lora.identity import Mix


def root_hash(salt: str | None) -> bytes:
    """Return the parent of a sequence's first block; blocks are shared only within one salt."""
    return hashlib.sha256(b"" if salt is None else b"salt:" + salt.encode()).digest()


def block_hash(parent: bytes, token_ids: Sequence[int], mix: Mix) -> bytes:
    """Chain a block to its parent.

    Parameters
    ----------
    parent : bytes
        Hash of the block before, or ``root_hash``.
    token_ids : Sequence[int]
        The tokens of this block.
    mix : Mix
        The mix in force in this block.
    """
    digest = hashlib.sha256(parent)
    digest.update(array("q", token_ids).tobytes())
    for key, weight in mix:
        name = str(key).encode()
        # The length keeps two adapters' names from reading as one.
        digest.update(struct.pack("<Id", len(name), weight))
        digest.update(name)
    return digest.digest()
