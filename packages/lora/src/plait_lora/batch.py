"""Build the ``LoraBatch`` of a step: which tokens run which mix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.lora_types import LoraBatch

if TYPE_CHECKING:
    import numpy.typing as npt

    from plait_kernels.lora_types import LoraTable


def build_batch(
    table: LoraTable,
    token_slot: npt.NDArray[np.int32],
    token_weight: npt.NDArray[np.float32] | None = None,
) -> LoraBatch:
    """Group tokens by the slot of their mix.

    Parameters
    ----------
    table : LoraTable
    token_slot : ndarray, int32 [tokens]
        -1 = base model only.
    token_weight : ndarray, float32 [tokens] | None
        Scale of the whole mix for each token; None means 1.

    Returns
    -------
    LoraBatch
        On the table's device, sharing no memory with the arguments. It has room for as many
        segments as there are tokens, or slots where they are fewer; entries past the end are 0.
    """
    tokens = len(token_slot)
    # a stable sort keeps the tokens of one slot ascending
    ranked = np.argsort(token_slot, kind="stable").astype(np.int32)
    slots = token_slot[ranked]
    bases = int(np.searchsorted(slots, 0))
    slots = slots[bases:]
    starts = np.flatnonzero(np.diff(slots, prepend=-1))
    count, capacity = len(starts), min(tokens, table.tile_start.shape[0])
    order = np.zeros(tokens, np.int32)
    order[: tokens - bases] = ranked[bases:]
    segment_slot = np.zeros(capacity, np.int32)
    segment_slot[:count] = slots[starts]
    segment_start = np.zeros(capacity + 1, np.int32)
    segment_start[:count] = starts
    segment_start[count] = tokens - bases
    weight = np.ones(tokens, np.float32) if token_weight is None else token_weight.copy()
    device = table.arena.device
    on_device = (
        torch.from_numpy(values).to(device)
        for values in (
            token_slot.copy(),
            weight,
            order,
            segment_slot,
            segment_start,
            np.array([count], np.int32),
        )
    )
    return LoraBatch(table, *on_device)
