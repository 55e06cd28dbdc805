"""DecodeSteps: steps of one token a row, padded to a few sizes and captured as CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait.decode_buffers import DecodeBuffers
from plait_kernels.config import BUCKETS
from plait_lora.batch import TokenGroups

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from plait.adapter_device import AdapterDevice
    from plait.plan import Int32, StepPlan
    from plait.rows import Rows
    from plait_models.model import Model

_DECODE = BUCKETS.index("decode")

SiteSet = frozenset[str]

GRAPH_BYTES = 8 << 20
"""About what a graph of some hundred kernels takes, beside the activations that all share."""


def step_sizes(max_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows that decode steps are padded to.

    Close together where a row more costs little beside the weights, further apart above, so that
    there are few graphs: 1, 2, 4, then every 8th to 64, every 16th to 128, every 32nd.

    >>> step_sizes(40)
    (1, 2, 4, 8, 16, 24, 32, 40)
    """
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, max_rows, 32)]
    return (*(size for size in sizes if size < max_rows), max_rows)


@dataclass(frozen=True, eq=False)
class _Captured:
    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor
    table_state: object


class DecodeSteps:
    """Runs the model on decode steps, in memory that stays where it is.

    A graph is kept for every (size, site set). It serves any adapters, ranks and mixes; only when
    the tables of the adapters had to move or outgrew their bounds is it captured again.

    Parameters
    ----------
    model : Model
    rows : Rows
    kv : Tensor [num_blocks, layers, 2, block_size, kv_heads, head_dim]
    adapters : AdapterDevice | None
        None: no LoRA.
    sizes : Sequence[int]
        Ascending.
    capture : bool
        False: compute every step anew, with the same kernels on the same padded inputs.

    Attributes
    ----------
    captures : int
        Graphs captured so far.
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        kv: torch.Tensor,
        adapters: AdapterDevice | None,
        *,
        sizes: Sequence[int],
        capture: bool,
    ) -> None:
        self._model = model
        self._rows = rows
        self._kv = kv
        self._adapters = adapters
        self._table = None if adapters is None else adapters.arena.table
        self._buffers = {size: DecodeBuffers(size, rows, self._table) for size in sizes}
        self._capture_steps = capture
        self._graphs: dict[tuple[int, SiteSet], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self.captures = 0

    def takes(self, plan: StepPlan) -> bool:
        """Say whether a plan is a decode step of a size that there is."""
        fits = 0 < len(plan.row) <= max(self._buffers)
        return fits and bool((plan.count == 1).all()) and bool(plan.sample.all())

    def run(self, plan: StepPlan) -> torch.Tensor:
        """Compute the logits of a plan that ``takes`` accepts.

        Returns
        -------
        Tensor, float32 [rows of the plan, vocab]
            Good until the next call.
        """
        count = len(plan.row)
        buffers = self._buffers[min(size for size in self._buffers if size >= count)]
        site_set = self._fill(buffers, plan.row, plan.start)
        if not self._capture_steps:
            return self._compute(buffers, site_set)[:count]
        captured = self._graphs.get((buffers.size, site_set))
        if captured is None or (site_set and captured.table_state != self._table_state()):
            captured = self._capture(buffers, site_set)
        captured.graph.replay()
        return captured.logits[:count]

    @torch.inference_mode()
    def warm_up(self, site_sets: Collection[SiteSet]) -> None:
        """Capture every size with each of ``site_sets``, so that no request waits for it."""
        if not self._capture_steps:
            return
        # Largest first: the smaller ones fit into its memory.
        for size in sorted(self._buffers, reverse=True):
            for site_set in site_sets:
                if (size, site_set) not in self._graphs:
                    self._capture(self._buffers[size], site_set)

    def _fill(self, buffers: DecodeBuffers, row: Int32, start: Int32) -> SiteSet:
        if self._adapters is None:
            buffers.fill(row, start, None)
            return frozenset()
        slots = np.full(buffers.size, -1, np.int32)
        slots[: len(row)] = self._rows.slot[row]
        site_set = self._adapters.site_groups(slots)
        groups = None
        if site_set:
            tiles = self._adapters.arena.slot_tiles
            groups = TokenGroups.of(slots, capacity=buffers.capacity, slot_tiles=tiles)
        buffers.fill(row, start, groups)
        return site_set

    def _compute(self, buffers: DecodeBuffers, site_set: SiteSet) -> torch.Tensor:
        inputs = buffers.step_inputs(self._kv, site_set)
        hidden = self._model.forward(inputs)
        return self._model.logits(hidden, inputs.lora, site_set, _DECODE)

    def _capture(self, buffers: DecodeBuffers, site_set: SiteSet) -> _Captured:
        # Once before: kernels are compiled, libraries make their workspaces.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute(buffers, site_set)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._compute(buffers, site_set)
        captured = _Captured(graph, logits, self._table_state())
        self._graphs[buffers.size, site_set] = captured
        self.captures += 1
        return captured

    def _table_state(self) -> object:
        """Return what a captured step relies on in the adapters' tables."""
        table = self._table
        if table is None:
            return None
        # These are replaced when they are full.
        moving = (table.tile_offset, table.dense_offset)
        return table.max_tiles, table.max_dense, *(tensor.data_ptr() for tensor in moving)
