"""DecodeBuffers: the inputs of a decode step in memory that stays where it is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS
from plait_kernels.lora_types import LoraBatch
from plait_kernels.transfer import to_device
from plait_models.model import StepInputs

if TYPE_CHECKING:
    from plait.plan import Int32
    from plait.rows import Rows
    from plait_kernels.lora_types import LoraTable
    from plait_lora.batch import TokenGroups

_DECODE = BUCKETS.index("decode")


class DecodeBuffers:
    """Inputs of a step that runs one token of each of up to ``size`` rows.

    Everything the host has to say lies in one int32 buffer, so that a step needs one copy. Rows
    past those of a step have no query, no KV and no mix; their token is anything.

    Parameters
    ----------
    size : int
        Rows, the padding included.
    rows : Rows
    table : LoraTable | None
        None: no LoRA.

    Attributes
    ----------
    capacity : int
        Segments that there is room for.
    """

    def __init__(self, size: int, rows: Rows, table: LoraTable | None) -> None:
        self.size = size
        self.capacity = 0 if table is None else min(size, table.tile_start.shape[0])
        self._rows = rows
        # What every step needs comes first: without adapters only that is copied.
        self._places = _places(_widths(size, None))
        self._base_length = _length(self._places)
        if table is not None:
            self._places = _places(_widths(size, self.capacity))
        with torch.inference_mode(mode=False):
            self._buffer = torch.zeros(_length(self._places), dtype=torch.int32, device=rows.device)
        parts = {name: self._buffer[place] for name, place in self._places.items()}
        self._row, self._start = parts.pop("row"), parts.pop("start")
        self._kv_length, self._query_start = parts.pop("kv_length"), parts.pop("query_start")
        if table is not None:
            parts["token_weight"] = parts["token_weight"].view(torch.float32)
        self._table, self._of_lora = table, parts

    def fill(self, row: Int32, start: Int32, groups: TokenGroups | None) -> None:
        """Describe a step, in one copy that is not waited for.

        Parameters
        ----------
        row, start : ndarray, int32 [n]
            Rows that run, and the position of each one's token; n ≤ size.
        groups : TokenGroups | None
            Of ``size`` tokens and ``capacity`` segments. None: no row runs an adapter.
        """
        count = len(row)
        length = self._base_length if groups is None else self._buffer.shape[0]
        host = np.zeros(length, np.int32)

        def put(name: str, values: Int32) -> None:
            place = self._places[name]
            host[place.start : place.start + len(values)] = values

        put("row", row)
        put("start", start)
        put("kv_length", start + 1)
        put("query_start", np.minimum(np.arange(self.size + 1, dtype=np.int32), count))
        if groups is not None:
            for field in fields(groups):
                put(field.name, getattr(groups, field.name).view(np.int32))
        device = self._buffer.device
        self._buffer[:length] = to_device(torch.from_numpy(host), device)

    def step_inputs(self, kv: torch.Tensor, site_groups: frozenset[str]) -> StepInputs:
        """Read what the host said and the state of the rows, on the device.

        Parameters
        ----------
        kv : Tensor [num_blocks, layers, 2, block_size, kv_heads, head_dim]
        site_groups : frozenset[str]
            The groups that launch anything.
        """
        rows = self._rows
        index, position = self._row.long(), self._start.long()
        block_table = rows.block_table[index]  # [size, blocks of max_model_len]
        block = block_table.gather(1, (position // rows.block_size).unsqueeze(1)).squeeze(1)
        slot = block.long() * rows.block_size + position % rows.block_size
        attention = AttentionBatch(
            query_start=self._query_start,
            kv_length=self._kv_length,
            block_table=block_table,
            max_query=1,
            max_kv=rows.tokens.shape[1],
        )
        return StepInputs(
            token_ids=rows.tokens[index, position].long(),
            positions=position,
            slot_mapping=slot.where(self._kv_length > 0, -1),
            kv=kv,
            attention=attention,
            lora=self._lora() if site_groups else None,
            site_groups=site_groups,
            bucket=_DECODE,
        )

    def _lora(self) -> LoraBatch:
        assert self._table is not None
        # A new object each time: kernels that are not captured may keep what they learn of one.
        return LoraBatch(self._table, **self._of_lora)


def _widths(size: int, segments: int | None) -> dict[str, int]:
    """Name the parts of the buffer and their lengths; ``segments`` None = without LoRA."""
    base = {"row": size, "start": size, "kv_length": size, "query_start": size + 1}
    if segments is None:
        return base
    return base | {
        "token_slot": size,
        "token_weight": size,
        "order": size,
        "segment_slot": segments,
        "segment_start": segments + 1,
        "num_segments": 1,
    }


def _places(widths: dict[str, int]) -> dict[str, slice]:
    """Lay parts one after another, each at a multiple of 16 bytes, as kernels like addresses."""
    places, end = {}, 0
    for name, width in widths.items():
        places[name] = slice(end, end + width)
        end += width + -width % 4
    return places


def _length(places: dict[str, slice]) -> int:
    end: int = list(places.values())[-1].stop
    return end + -end % 4
