"""PaddedSteps: steps of a few sizes, in memory that stays where it is, captured as CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait.step_buffers import StepBuffers
from plait.step_outputs import StepOutputs
from plait.token_layout import TokenLayout

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from plait.adapter_device import AdapterDevice
    from plait.plan import StepPlan
    from plait.rows import Rows
    from plait.step_sizes import SiteSet, StepSize
    from plait_models.model import Model

GRAPH_BYTES = 8 << 20
"""About what a graph of some hundred kernels takes, beside the activations that all share."""


@dataclass(frozen=True, eq=False)
class _Captured:
    graph: torch.cuda.CUDAGraph
    outputs: StepOutputs
    table_state: object


class PaddedSteps:
    """Runs the model on steps that fit one of its sizes.

    A graph is kept for every (size, site set). It serves any adapters, ranks and mixes; only when
    the tables of the adapters had to move or outgrew their bounds is it captured again.

    Decode steps run the graph of their own site set, whose capture the first such step waits for.
    Other steps run that of the smallest of ``site_sets`` that holds theirs: what launches of groups
    without an adapter take is little beside a prompt, and there are fewer graphs.

    Parameters
    ----------
    model : Model
    rows : Rows
    kv : Tensor [num_blocks, layers, 2, block_size, kv_heads, head_dim]
    adapters : AdapterDevice | None
        None: no LoRA.
    sizes : Sequence[StepSize]
        Those of a kind ascending.
    site_sets : Sequence[SiteSet]
        Those that most steps have.
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
        sizes: Sequence[StepSize],
        site_sets: Sequence[SiteSet],
        capture: bool,
    ) -> None:
        self._model = model
        self._kv = kv
        self._adapters = adapters
        self._rows = rows
        self._table = None if adapters is None else adapters.arena.table
        self._buffers = {size: StepBuffers(size, rows, self._table) for size in sizes}
        # All sizes write theirs here: graphs of many sizes would keep as many copies.
        shape = (max(size.rows for size in sizes), model.info.vocab_size)
        with torch.inference_mode(mode=False):
            self._logits = torch.empty(shape, dtype=torch.float32, device=rows.device)
        self._site_sets = sorted(site_sets, key=len)
        self._capture_steps = capture
        self._graphs: dict[tuple[StepSize, SiteSet], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self.captures = 0

    def size_of(self, plan: StepPlan) -> StepSize | None:
        """Return the size that a plan is padded to; None: there is none."""
        tokens = plan.num_tokens
        is_decode = tokens == len(plan.row) and bool(plan.sample.all())
        fitting = (s for s in self._buffers if s.is_decode == is_decode and s.tokens >= tokens)
        return next(fitting, None) if tokens else None

    def run(self, plan: StepPlan, size: StepSize) -> StepOutputs:
        """Run a plan.

        Parameters
        ----------
        plan : StepPlan
        size : StepSize
            What ``size_of`` returned.

        Returns
        -------
        StepOutputs
            Good until the next call.
        """
        buffers = self._buffers[size]
        site_set = self._fill(buffers, plan)
        if not self._capture_steps:
            return self._compute(buffers, site_set).of(plan)
        captured = self._graphs.get((size, site_set))
        if captured is None or (site_set and captured.table_state != self._table_state()):
            captured = self._capture(buffers, site_set)
        captured.graph.replay()
        return captured.outputs.of(plan)

    @torch.inference_mode()
    def warm_up(self, more: Collection[SiteSet] = ()) -> None:
        """Capture every size with each of ``site_sets``, so that no request waits for it.

        Parameters
        ----------
        more : Collection[SiteSet]
            Further site sets of decode steps.
        """
        if not self._capture_steps:
            return
        # Largest first: the smaller ones fit into its memory.
        for size in sorted(self._buffers, key=lambda size: size.tokens, reverse=True):
            for site_set in (*self._site_sets, *(more if size.is_decode else ())):
                if (size, site_set) not in self._graphs:
                    # The last step that was there must not be run again: its rows, blocks and
                    # slots may be others' by now.
                    self._buffers[size].clear()
                    self._capture(self._buffers[size], site_set)

    @torch.inference_mode()
    def compile(self, size: StepSize) -> None:
        """Compute a step of no tokens as large as ``size``, unless steps are padded to it anyway.

        The first such step that a request needs then waits neither for memory nor for what
        libraries and kernels do at their first call; most kernels are compiled before, see
        ``plait.kernel_warm_up``.
        """
        if size not in self._buffers:
            # The last site set has the kernels of all.
            self._compute(StepBuffers(size, self._rows, self._table), self._site_sets[-1])

    def _fill(self, buffers: StepBuffers, plan: StepPlan) -> SiteSet:
        layout = TokenLayout.of(plan)
        if self._adapters is None:
            buffers.fill(layout)
            return frozenset()
        site_set = self._adapters.site_groups(self._rows.slot[plan.row])
        if not buffers.size.is_decode:
            holding = (known for known in self._site_sets if site_set <= known)
            site_set = next(holding, site_set)
        buffers.fill(layout, site_set, self._adapters.arena.slot_tiles)
        return site_set

    def _compute(self, buffers: StepBuffers, site_set: SiteSet) -> StepOutputs:
        inputs = buffers.step_inputs(self._kv, site_set)
        hidden = self._model.forward(inputs)
        logits = self._model.logits(
            buffers.with_logits(hidden),
            buffers.lora_of_rows(site_set),
            site_set,
            inputs.bucket,
            out=self._logits[: buffers.size.rows],
        )
        return StepOutputs(hidden, logits, inputs.bucket)

    def _capture(self, buffers: StepBuffers, site_set: SiteSet) -> _Captured:
        # Once before: kernels are compiled, libraries make their workspaces.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute(buffers, site_set)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = self._compute(buffers, site_set)
        captured = _Captured(graph, outputs, self._table_state())
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
