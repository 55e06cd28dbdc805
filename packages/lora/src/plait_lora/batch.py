"""Build the ``LoraBatch`` of a step: which tokens run which mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plait_kernels.lora_types import LoraBatch
from plait_kernels.transfer import upload

if TYPE_CHECKING:
    import numpy.typing as npt

    from plait_kernels.lora_types import LoraTable


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """What a ``LoraBatch`` says beside its table, on the host.

    Attributes
    ----------
    token_slot, order : ndarray, int32 [tokens]
    token_weight : ndarray, float32 [tokens]
    segment_slot : ndarray, int32 [capacity]
    segment_start : ndarray, int32 [capacity + 1]
    num_segments : ndarray, int32 [1]
        As in ``LoraBatch``; entries past the end are 0.
    """

    token_slot: npt.NDArray[np.int32]
    token_weight: npt.NDArray[np.float32]
    order: npt.NDArray[np.int32]
    segment_slot: npt.NDArray[np.int32]
    segment_start: npt.NDArray[np.int32]
    num_segments: npt.NDArray[np.int32]

    @classmethod
    def of(
        cls,
        token_slot: npt.NDArray[np.int32],
        token_weight: npt.NDArray[np.float32] | None = None,
        *,
        capacity: int | None = None,
        slot_tiles: npt.NDArray[np.int32] | None = None,
    ) -> TokenGroups:
        """Group tokens by the slot of their mix.

        Parameters
        ----------
        token_slot : ndarray, int32 [tokens]
            -1 = base model only.
        token_weight : ndarray, float32 [tokens] | None
            Scale of the whole mix for each token; None means 1.
        capacity : int | None
            Segments that there is room for; at least the number of different slots. None: as many.
        slot_tiles : ndarray, int32 [slots] | None
            Tiles of each slot. Slots with more come first, so that a kernel that takes segments in
            their order begins with the longest. None: in the order of the slots.

        Returns
        -------
        TokenGroups
            Shares no memory with the arguments.
        """
        tokens = len(token_slot)
        # both sorts are stable, which keeps the tokens of one slot ascending
        if slot_tiles is None:
            ranked = np.argsort(token_slot, kind="stable").astype(np.int32)
        else:
            is_adapted = token_slot >= 0
            keys = token_slot, -slot_tiles[token_slot], is_adapted  # the last one counts most
            ranked = np.lexsort(keys).astype(np.int32)
        slots = token_slot[ranked]
        bases = int(np.count_nonzero(token_slot < 0))
        slots = slots[bases:]
        starts = np.flatnonzero(np.diff(slots, prepend=-1))
        count = len(starts)
        capacity = count if capacity is None else capacity
        order = np.zeros(tokens, np.int32)
        order[: tokens - bases] = ranked[bases:]
        segment_slot = np.zeros(capacity, np.int32)
        segment_slot[:count] = slots[starts]
        segment_start = np.zeros(capacity + 1, np.int32)
        segment_start[:count] = starts
        segment_start[count] = tokens - bases
        weight = np.ones(tokens, np.float32) if token_weight is None else token_weight.copy()
        return cls(
            token_slot=token_slot.copy(),
            token_weight=weight,
            order=order,
            segment_slot=segment_slot,
            segment_start=segment_start,
            num_segments=np.array([count], np.int32),
        )


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
        On the table's device, sharing no memory with the arguments. Its lists end with the last
        segment: a launch has programs for all that a list has room for.
    """
    groups = TokenGroups.of(token_slot, token_weight)
    device = table.arena.device
    return LoraBatch(
        table=table,
        token_slot=upload(groups.token_slot, device),
        token_weight=upload(groups.token_weight, device),
        order=upload(groups.order, device),
        segment_slot=upload(groups.segment_slot, device),
        segment_start=upload(groups.segment_start, device),
        num_segments=upload(groups.num_segments, device),
    )
