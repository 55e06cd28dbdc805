"""What an engine tells its kernels before the first step, so that no step waits for a compiler.

The implementation of any op may have a method ``warm_up(facts)``, given an ``EngineFacts``. It
returns an iterable of tasks: callables without arguments that compile, build or load something that
the implementation's calls may need. The engine calls each once, in any order and on any thread, all
of them before its first step; tasks that are equal are done once. An implementation without the
method is complete too; if it compiles at its first call, that call waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from plait_kernels.sites import LoraSite


@dataclass(frozen=True)
class LoraFacts:
    """How adapters are served.

    Attributes
    ----------
    dtype : torch.dtype
        ``LoraTable.dtype``.
    tile_rows : int
        ``LoraTable.tile_rows``.
    groups : tuple[tuple[LoraSite, ...], ...]
        The tuples of sites that calls are given, one of each shape; indices are not meant.
    has_dense : bool
        Whether an adapter can have dense entries.
    """

    dtype: torch.dtype
    tile_rows: int
    groups: tuple[tuple[LoraSite, ...], ...]
    has_dense: bool


@dataclass(frozen=True)
class EngineFacts:
    """What is known of an engine's calls beside their configs.

    Attributes
    ----------
    device : torch.device
    heads, kv_heads : int
        Of the model: q, k and v are columns of one tensor [tokens, heads + 2 · kv_heads, head_dim].
    lora : LoraFacts | None
        None: adapters are not served.
    """

    device: torch.device
    heads: int
    kv_heads: int
    lora: LoraFacts | None
