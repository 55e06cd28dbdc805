"""The scheduler: which tokens run in the next step, and what a step's result means.

It keeps books only. It knows no tensor, no model and no text.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.finish import fault_of, finish_of
from plait.messages import CoreOutput, ErrorInfo
from plait.metrics import SchedulerStats
from plait.plan_builder import PlanBuilder
from plait.request import Request, RequestState
from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Collection

    from plait.block_pool import BlockPool
    from plait.messages import CoreRequest
    from plait.plan import StepPlan, StepResult
    from plait_lora.commands import StoreCommands
    from plait_lora.identity import AdapterKey, Mix
    from plait_lora.store import AdapterStore
    from plait_sampling.token_logprobs import TokenLogprobs


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of a step.

    Attributes
    ----------
    max_num_seqs : int
        Requests that run at the same time: rows of device state.
    max_num_batched_tokens : int
        Token budget of a step, prompt chunks and decode together.
    max_model_len : int
        Longest sequence, in tokens.
    block_size : int
        Tokens of a KV block.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int


@dataclass
class StepRecord:
    """Who the rows of a plan were, for ``commit``."""

    requests: list[tuple[Request, int]]
    """Each with its number of preemptions when it was planned: a later one voids the result."""
    commands: StoreCommands


class Scheduler:
    """Continuous batching over one token budget.

    Running requests come first, oldest first; then waiting ones in order of priority and arrival.
    Prompts are cut into chunks to fit the budget. When blocks run out, the youngest running
    request gives up its row and is computed again later.

    Attributes
    ----------
    requests : dict[str, Request]
        Those that are unfinished, by the front's name for them.
    outputs : list[CoreOutput]
        What happened to them, until ``acknowledge``. These two, and the tokens of each request,
        are the truth: ``mend`` works everything else out again.
    """

    def __init__(self, config: SchedulerConfig, pool: BlockPool, store: AdapterStore) -> None:
        self.config = config
        self.pool = pool
        self.store = store
        self.stats = SchedulerStats()
        self.requests: dict[str, Request] = {}
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self._free_rows = list(reversed(range(config.max_num_seqs)))
        self.outputs: list[CoreOutput] = []
        self._in_flight: list[StepRecord] = []
        self._added = 0

    # Life of a request

    def add(self, message: CoreRequest) -> Request:
        """Queue a request."""
        assert message.request_id not in self.requests, "the front uses no id twice"
        self._added += 1
        request = Request(message, self._added)
        self.requests[request.id] = request
        bisect.insort(self.waiting, request, key=lambda r: r.sort_key)
        return request

    def resolving(self) -> list[Request]:
        """Return the requests whose adapter is not known yet, in order."""
        return [r for r in self.waiting if r.state is RequestState.RESOLVING]

    def resolved(self, request: Request, mix: Mix) -> None:
        """Note which mix a request runs."""
        request.mix = mix
        request.state = RequestState.WAITING_ADAPTER if mix else RequestState.WAITING

    def abort(self, request_id: str) -> None:
        """Forget a request, at once and without a word; one that is not there is left alone."""
        request = self.requests.get(request_id)
        if request is not None:
            self._drop(request)

    def fail(self, request: Request, error: PlaitError) -> None:
        """End a request that cannot be served; the others go on."""
        self._fail(request, ErrorInfo.of(error))

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.requests or self.outputs)

    def acknowledge(self, count: int) -> None:
        """Forget the first ``count`` outputs: the front has taken them."""
        del self.outputs[:count]

    def preempt_all(self) -> None:
        """Let every running request be computed again."""
        for request in list(self.running):
            self._preempt(request)

    # A step

    def schedule(self) -> StepPlan:
        """Choose the tokens of the next step and take the memory they need."""
        plan = PlanBuilder(self.config.max_num_batched_tokens)
        preempted = self._schedule_running(plan)
        if not preempted:
            self._schedule_waiting(plan)
        commands = self.store.take_commands()
        self._in_flight.append(StepRecord(plan.requests, commands))
        return plan.build(commands)

    def mend(self) -> None:
        """Make the books whole after a call that broke off, wherever that was.

        Nobody knows how far the device came: every request is computed again from the tokens
        that it has told of, and adapters are loaded again.
        """
        for output in self.outputs:
            if output.finish_reason is not None:
                self.requests.pop(output.request_id, None)
            elif output.request_id in self.requests:
                self.requests[output.request_id].take(output)
        self._in_flight.clear()
        self.running.clear()
        self._free_rows = list(reversed(range(self.config.max_num_seqs)))
        self.pool.mend()
        self.store.reset()
        for request in self.requests.values():
            request.start_over()
        self.waiting = sorted(self.requests.values(), key=lambda r: r.sort_key)

    def keep_only(self, request_ids: Collection[str]) -> None:
        """Forget all requests but these, and what is told of others."""
        for request_id in [name for name in self.requests if name not in request_ids]:
            self.abort(request_id)
        self.outputs[:] = [o for o in self.outputs if o.request_id in request_ids]

    def commit(self, plan: StepPlan, result: StepResult) -> None:
        """Take in a step's result: new tokens, full blocks, finished requests and loads."""
        record = self._in_flight.pop(0)
        self.store.loaded(result.loaded)
        for key, why in result.failed_loads:
            self._fail_load(key, why)
        for i, (request, epoch) in enumerate(record.requests):
            if request.state is not RequestState.RUNNING or request.num_preemptions != epoch:
                continue
            if i in result.row_errors:
                self._fail(request, result.row_errors[i])
                continue
            first, last = result.token_start[i], result.token_start[i + 1]
            tokens = result.token_ids[first:last].tolist()
            computed = int(plan.start[i] + plan.count[i])
            self._commit_row(
                request, computed, tokens, result.logprobs[i], result.prompt_logprobs[i]
            )

    # Choosing

    def _schedule_running(self, plan: PlanBuilder) -> bool:
        preempted = False
        for request in list(self.running):
            if request.state is not RequestState.RUNNING:
                continue
            count = min(request.length - request.num_computed, plan.budget)
            if count == 0 or self._ends_in_flight(request):
                continue
            while (need := self._blocks_needed(request, count)) > self.pool.num_free:
                # Rows already in this plan are older than this one, so they are never the victim.
                victim = self.running[-1]
                self._preempt(victim)
                preempted = True
                if victim is request:
                    break
            else:
                self._plan(plan, request, count, self.pool.allocate(need))
        return preempted

    def _ends_in_flight(self, request: Request) -> bool:
        """Whether the tokens being sampled are the last ones, whatever they are."""
        limit = request.params.max_tokens
        at_limit = limit is not None and request.output_length >= limit
        return request.num_pending > 0 and (at_limit or request.length >= self.config.max_model_len)

    def _schedule_waiting(self, plan: PlanBuilder) -> None:
        adapter_blocked = False
        for request in list(self.waiting):
            if not plan.budget or not self._free_rows:
                return
            if request.state is RequestState.RESOLVING:
                continue
            if request.state is RequestState.WAITING_ADAPTER:
                if not adapter_blocked:
                    adapter_blocked = not self._lease(request)
                if request.lease is None or not request.lease.ready:
                    continue
                request.state = RequestState.WAITING
            if not self._admit(plan, request):
                return

    def _lease(self, request: Request) -> bool:
        """Ask for the mix on the device; False if younger requests must not get theirs before.

        Otherwise a stream of requests for resident adapters could starve this one.
        """
        if request.lease is not None:
            return True
        try:
            request.lease = self.store.lease(request.mix)
        except PlaitError as error:
            self.fail(request, error)
            return True
        return request.lease is not None

    def _admit(self, plan: PlanBuilder, request: Request) -> bool:
        """Start a waiting request if there are blocks for its first chunk."""
        cached = self._cached_blocks(request)
        num_cached = len(cached) * self.config.block_size
        count = min(request.length - num_cached, plan.budget)
        need = -(-(num_cached + count) // self.config.block_size) - len(cached)
        if need > self.pool.num_free - self.pool.num_idle(cached):
            return False
        self.pool.take(cached)
        blocks = cached + self.pool.allocate(need)
        request.num_computed = num_cached
        request.num_remembered = len(cached)
        if request.num_cached_tokens is None:
            request.num_cached_tokens = num_cached
            if self.pool.enable_caching and not request.wants_prompt_logprobs:
                self.stats.prefix_cache_queries += request.prompt_length
                self.stats.prefix_cache_hits += num_cached
        request.row = self._free_rows.pop()
        request.state = RequestState.RUNNING
        request.mark_scheduled()
        self.waiting.remove(request)
        bisect.insort(self.running, request, key=lambda r: r.sort_key)
        plan.add_row(request)
        self._plan(plan, request, count, blocks)
        return True

    def _cached_blocks(self, request: Request) -> list[int]:
        if request.wants_prompt_logprobs or not self.pool.enable_caching:
            return []
        # The last token always runs: its logits are what the request waits for.
        full = (len(request.tokens) - 1) // self.config.block_size
        return self.pool.match(request.hashes(self.config.block_size, full))

    def _blocks_needed(self, request: Request, count: int) -> int:
        blocks = -(-(request.num_computed + count) // self.config.block_size)
        return blocks - len(request.blocks)

    def _plan(self, plan: PlanBuilder, request: Request, count: int, blocks: list[int]) -> None:
        samples = request.num_computed + count == request.length
        plan.add(request, count, blocks, samples=samples)
        request.blocks += blocks
        request.num_computed += count
        request.num_pending += samples

    # Ending

    def _preempt(self, request: Request) -> None:
        self._release(request)
        request.num_computed = request.num_pending = 0
        request.prompt_logprobs.clear()
        request.num_preemptions += 1
        self.stats.preemptions += 1
        request.state = RequestState.WAITING_ADAPTER if request.mix else RequestState.WAITING
        bisect.insort(self.waiting, request, key=lambda r: r.sort_key)

    def _release(self, request: Request) -> None:
        """Give back all that a request holds, wherever it is in its life."""
        if request.state is RequestState.RUNNING:
            self.running.remove(request)
            self._free_rows.append(request.row)
            request.row = -1
        else:
            self.waiting.remove(request)
        self.pool.free(request.blocks)
        request.blocks = []
        if request.lease is not None:
            self.store.release(request.lease)
            request.lease = None

    def _fail(self, request: Request, why: ErrorInfo) -> None:
        self._tell(request, CoreOutput(request.id, finish_reason="error", error=why))

    def _fail_load(self, key: AdapterKey, why: ErrorInfo) -> None:
        for request in list(self.requests.values()):
            if request.lease is not None and any(key == named for named, _ in request.mix):
                self._fail(request, why)
        self.store.failed(key)

    def _tell(self, request: Request, output: CoreOutput) -> None:
        """Let an output out, and then let what it says be so."""
        # First: ``mend`` goes by what has been told.
        self.outputs.append(output)
        request.take(output)
        if output.finish_reason is not None:
            self._drop(request)

    def _drop(self, request: Request) -> None:
        self._release(request)
        request.state = RequestState.FINISHED
        del self.requests[request.id]

    def _commit_row(
        self,
        request: Request,
        computed: int,
        tokens: list[int],
        logprobs: TokenLogprobs | None,
        prompt_logprobs: TokenLogprobs | None,
    ) -> None:
        self.stats.count_row(request, tokens)
        if prompt_logprobs is not None:
            request.prompt_logprobs.append(prompt_logprobs)
        request.num_pending -= bool(tokens)
        self._remember_blocks(request, computed)
        why = fault_of(request, tokens, logprobs, prompt_logprobs)
        if why is not None:
            self._fail(request, why)
        elif tokens:
            request.mark_token()
            finish_reason, stop_reason = finish_of(request, tokens, self.config.max_model_len)
            output = CoreOutput(
                request.id,
                tuple(tokens),
                logprobs,
                request.prompt_logprobs_to_send(),
                finish_reason,
                stop_reason,
                num_cached_tokens=request.num_cached_tokens or 0,
                events=request.events(),
                start=len(request.tokens) - request.prompt_length,
            )
            self._tell(request, output)

    def _remember_blocks(self, request: Request, computed: int) -> None:
        full = min(computed, len(request.tokens)) // self.config.block_size
        first = request.num_remembered
        if full <= first or not self.pool.enable_caching:
            return
        hashes = request.hashes(self.config.block_size, full)
        for block, digest in zip(request.blocks[first:full], hashes[first:], strict=True):
            self.pool.remember(block, digest)
        request.num_remembered = full
