"""StepBuffers: the inputs of a padded step in memory that stays where it is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS
from plait_kernels.lora_types import LoraBatch
from plait_kernels.transfer import to_device
from plait_lora.batch import TokenGroups
from plait_models.model import StepInputs

if TYPE_CHECKING:
    from plait.plan import Int32
    from plait.rows import Rows
    from plait.step_sizes import StepSize
    from plait.token_layout import TokenLayout
    from plait_kernels.lora_types import LoraTable

_OF_TOKENS, _OF_ROWS = "tokens.", "rows."


class StepBuffers:
    """Inputs of a step of up to ``size`` tokens and rows.

    Everything the host has to say lies in one int32 buffer, so that a step needs one copy. Tokens
    past those of a step have no place in the KV cache and no mix, and what is computed for them is
    anything; rows past those of a step have no query and no KV.

    Parameters
    ----------
    size : StepSize
    rows : Rows
    table : LoraTable | None
        None: no LoRA.
    """

    def __init__(self, size: StepSize, rows: Rows, table: LoraTable | None) -> None:
        self.size = size
        self._rows = rows
        self._table = table
        # What every step needs comes first: without adapters only that is copied.
        widths = _widths(size)
        self._base_length = _length(_places(widths))
        if table is not None:
            widths |= _group_widths(_OF_TOKENS, size.tokens, self._capacity(size.tokens))
            if not size.is_decode:
                widths |= _group_widths(_OF_ROWS, size.rows, self._capacity(size.rows))
        self._places = _places(widths)
        with torch.inference_mode(mode=False):
            self._buffer = torch.zeros(_length(self._places), dtype=torch.int32, device=rows.device)
        self._parts = {name: self._buffer[place] for name, place in self._places.items()}
        self.clear()

    def clear(self) -> None:
        """Describe a step of no tokens, which writes nothing anywhere."""
        self._buffer.zero_()
        self._parts["token_position"].fill_(-1)

    def fill(
        self,
        layout: TokenLayout,
        site_groups: frozenset[str] = frozenset(),
        slot_tiles: Int32 | None = None,
    ) -> None:
        """Describe a step, in one copy that is not waited for.

        Parameters
        ----------
        layout : TokenLayout
            Of a step that this size has room for.
        site_groups : frozenset[str]
            The groups on which the adapters of its rows act.
        slot_tiles : ndarray, int32 [slots] | None
            As ``TokenGroups.of`` takes it.
        """
        host = np.zeros(self._buffer.shape[0] if site_groups else self._base_length, np.int32)
        places = self._places

        def put(prefix: str, described: TokenLayout | TokenGroups) -> None:
            for field in fields(described):
                values = getattr(described, field.name).view(np.int32)
                start = places[prefix + field.name].start
                host[start : start + len(values)] = values

        host[places["token_position"]] = -1
        host[places["query_start"]] = len(layout.token_row)
        put("", layout)
        if site_groups:
            put(_OF_TOKENS, self._groups(layout.token_row, self.size.tokens, slot_tiles))
        if "head" in site_groups and not self.size.is_decode:
            drawing = layout.token_row[layout.last]
            put(_OF_ROWS, self._groups(drawing, self.size.rows, slot_tiles))
        self._buffer[: len(host)] = to_device(torch.from_numpy(host), self._buffer.device)

    def _groups(self, row: Int32, size: int, slot_tiles: Int32 | None) -> TokenGroups:
        """Group tokens, each of the row beside it, padded to ``size``."""
        slots = np.full(size, -1, np.int32)
        slots[: len(row)] = self._rows.slot[row]
        return TokenGroups.of(slots, capacity=self._capacity(size), slot_tiles=slot_tiles)

    def _capacity(self, tokens: int) -> int:
        """Return the segments that there is room for."""
        assert self._table is not None
        return min(tokens, int(self._table.tile_start.shape[0]))

    def step_inputs(self, kv: torch.Tensor, site_groups: frozenset[str]) -> StepInputs:
        """Read what the host said and the state of the rows, on the device.

        Parameters
        ----------
        kv : Tensor [num_blocks, layers, 2, block_size, kv_heads, head_dim]
        site_groups : frozenset[str]
            The groups that launch anything.
        """
        rows, parts, size = self._rows, self._parts, self.size
        of_rows = parts["row"].long()
        row = of_rows if size.is_decode else parts["token_row"].long()
        position = parts["token_position"].long()
        is_token = position >= 0
        position = position.clamp(min=0)
        attention = AttentionBatch(
            query_start=parts["query_start"],
            kv_length=parts["kv_length"],
            block_table=rows.block_table[of_rows],
            max_query=1 if size.is_decode else size.tokens,
            max_kv=rows.tokens.shape[1],
        )
        return StepInputs(
            token_ids=rows.tokens[row, position].long(),
            positions=position,
            slot_mapping=rows.kv_slots(row, position).where(is_token, -1),
            kv=kv,
            attention=attention,
            lora=self._lora(_OF_TOKENS) if site_groups else None,
            site_groups=site_groups,
            bucket=BUCKETS.index("decode" if size.is_decode else "prefill"),
        )

    def with_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pick the tokens that draw one, [rows, hidden], out of ``hidden`` [tokens, hidden]."""
        return hidden if self.size.is_decode else hidden[self._parts["last"].long()]

    def lora_of_rows(self, site_groups: frozenset[str]) -> LoraBatch | None:
        """Describe what ``with_logits`` returns to the sites of the head."""
        if "head" not in site_groups:
            return None
        return self._lora(_OF_TOKENS if self.size.is_decode else _OF_ROWS)

    def _lora(self, prefix: str) -> LoraBatch:
        assert self._table is not None
        groups = {field.name: self._parts[prefix + field.name] for field in fields(TokenGroups)}
        groups["token_weight"] = groups["token_weight"].view(torch.float32)
        # A new object each time: kernels that are not captured may keep what they learn of one.
        return LoraBatch(self._table, **groups)


def _widths(size: StepSize) -> dict[str, int]:
    """Name the parts of the buffer that every step fills, and their lengths."""
    return {
        "token_row": size.tokens,
        "token_position": size.tokens,
        "row": size.rows,
        "kv_length": size.rows,
        "query_start": size.rows + 1,
        "last": size.rows,
    }


def _group_widths(prefix: str, tokens: int, segments: int) -> dict[str, int]:
    """Name the parts that say which of ``tokens`` tokens run which mix."""
    widths = {
        "token_slot": tokens,
        "token_weight": tokens,
        "order": tokens,
        "segment_slot": segments,
        "segment_start": segments + 1,
        "num_segments": 1,
    }
    return {prefix + name: width for name, width in widths.items()}


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
