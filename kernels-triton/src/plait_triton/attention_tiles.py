"""What the kernels of ``attention`` share: their static numbers, paged addresses, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from plait_triton.sizes import power_of_two

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.config import OpConfig


@dataclass(frozen=True)
class DecodeTiles:
    """How rows with one query are divided.

    Attributes
    ----------
    keys : int
        Keys of a tile.
    least : int
        Tiles of the shortest part into which a row is split.
    programs : int
        Programs among which a step's keys are divided when its rows are fewer. A constant, not
        the device's size: it decides the order of sums.
    warps, stages : int
        Warps of a program; tiles in flight.
    """

    keys: int = 64
    least: int = 1
    programs: int = 512
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class PrefillTiles:
    """How rows with several queries are divided.

    Attributes
    ----------
    rows : int
        Rows of a tile: its queries times the query heads that share a KV head.
    keys : int
        Keys of a tile.
    warps, stages : int
        Warps of a program; tiles in flight.
    """

    rows: int = 128
    keys: int = 64
    warps: int = 8
    stages: int = 3


def decode_tiles(config: OpConfig) -> DecodeTiles:
    """Choose for a config."""
    if config.dtype == "float32" or _head_block(config) > 128:
        return DecodeTiles(keys=16, least=4, stages=3)
    return DecodeTiles()


def prefill_tiles(config: OpConfig) -> PrefillTiles:
    """Choose for a config: what fits into registers and shared memory."""
    wide = _head_block(config) > 128
    if config.dtype == "float32":
        return PrefillTiles(rows=16 if wide else 32, keys=16, warps=8, stages=2)
    if wide:
        return PrefillTiles(rows=128, keys=32, warps=8, stages=2)
    return PrefillTiles()


def static_arguments(config: OpConfig) -> Mapping[str, Any]:
    """Return the constexpr arguments that both kernels take."""
    heads, kv_heads, head_dim = (_whole(config, n) for n in ("heads", "kv_heads", "head_dim"))
    scale, softcap, window = (config.get(name) for name in ("scale", "softcap", "window"))
    return {
        "SCALE": head_dim**-0.5 if scale is None else float(scale),
        "SOFTCAP": 0.0 if softcap is None else float(softcap),
        "WINDOW": 0 if window is None else int(window),
        "GROUP": heads // kv_heads,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "HEAD_BLOCK": _head_block(config),
        "BLOCK_SIZE": _whole(config, "block_size"),
    }


def _head_block(config: OpConfig) -> int:
    return max(16, power_of_two(_whole(config, "head_dim")))


def _whole(config: OpConfig, name: str) -> int:
    value = config.get(name)
    assert value is not None, f"{name} is static"
    return int(value)


@triton.jit
def block_of(table, key, inside, BLOCK_SIZE: tl.constexpr):
    """Return the blocks in which keys of a row lie.

    The kernels take those of the next tile while they wait for this one: as a load of the same
    tile it would be one more stage, and keys and values would wait for it in every tile.
    """
    return tl.load(table + key // BLOCK_SIZE, mask=inside, other=0)


@triton.jit
def place_of(block, key, block_stride, BLOCK_SIZE: tl.constexpr, TOKEN: tl.constexpr):
    """Return where keys begin in the cache, in elements, int64."""
    return block.to(tl.int64) * block_stride + key % BLOCK_SIZE * TOKEN


@triton.jit
def scores_of(product, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    """Turn products into scores times log2(e), for ``exp2``."""
    if SOFTCAP > 0.0:
        # tanh(x) = 1 − 2 / (e²ˣ + 1), right at both infinities.
        power = tl.exp2(product * (SCALE / SOFTCAP * 2.8853900817779268))
        return (1.0 - 2.0 / (power + 1.0)) * (SOFTCAP * 1.4426950408889634)
    else:
        return product * (SCALE * 1.4426950408889634)
