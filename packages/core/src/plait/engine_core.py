"""EngineCore: adapters, scheduler and runner behind one ``step``. No tokenizer, no text."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.adapter_reads import adapter_error
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from plait.adapter_library import AdapterLibrary
    from plait.messages import CoreOutput, CoreRequest
    from plait.plan import StepPlan
    from plait.runner import StartedStep, StepRunner
    from plait.scheduler import Scheduler


_IDLE_SECONDS = 0.002
"""How long a step waits that finds nothing to run, for adapters that are being read."""


@dataclass(frozen=True)
class CoreInfo:
    """What the front needs to know of the core.

    Attributes
    ----------
    vocab_size : int
    max_model_len : int
        Longest sequence in tokens.
    """

    vocab_size: int
    max_model_len: int


class EngineCore:
    """Runs requests, one step at a time.

    Parameters
    ----------
    scheduler : Scheduler
    runner : StepRunner
    adapters : AdapterLibrary | None
        None: LoRA is not enabled.
    info : CoreInfo
    steps_ahead : int
        Steps that the device may work on while the next is planned. Their outputs come that many
        calls of ``step`` later.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner,
        adapters: AdapterLibrary | None,
        info: CoreInfo,
        *,
        steps_ahead: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.adapters = adapters
        self.info = info
        self.steps_ahead = steps_ahead
        self._started: deque[tuple[StepPlan, StartedStep]] = deque()

    def add(self, request: CoreRequest) -> None:
        """Queue a request.

        Raises
        ------
        InputError
            If it names an adapter and LoRA is not enabled.
        """
        if request.lora is not None:
            self.library()
        self.scheduler.add(request)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget requests and give back at once what they hold; others are left alone."""
        for request_id in request_ids:
            self.scheduler.abort(request_id)
            if self.adapters is not None:
                self.adapters.release(request_id)
        if self.adapters is not None:
            self.adapters.tidy()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work

    def step(self) -> Sequence[CoreOutput]:
        """Start one step and finish the step ``steps_ahead`` before it.

        Returns
        -------
        Sequence[CoreOutput]
            What has happened to requests, until ``acknowledge``: what the front has not taken, as
            it was interrupted, comes again.
        """
        try:
            self._resolve()
            plan = self.scheduler.schedule()
            self._started.append((plan, self.runner.start(plan)))
            # Nothing to run: what is planned next depends on the steps that are under way.
            self._commit_all_but(self.steps_ahead if plan.num_tokens else 0)
            self._let_go()
        except BaseException:
            self.mend()
            raise
        if self.adapters is not None and not (plan.num_tokens or self.scheduler.outputs):
            # Whoever steps as long as there is work need not do so without a pause.
            self.adapters.wait(_IDLE_SECONDS)
        return self.scheduler.outputs

    def acknowledge(self, count: int) -> None:
        """Forget the first ``count`` outputs of ``step``: they have arrived."""
        self.scheduler.acknowledge(count)

    def mend(self) -> None:
        """Make the books whole after a call that broke off, wherever that was.

        Unfinished requests are computed again from what they have told; nothing else is lost.
        """
        self._started.clear()
        self.scheduler.mend()
        if self.adapters is not None:
            requests = self.scheduler.requests.values()
            held = {request.id: request.mix[0][0] for request in requests if request.mix}
            self.adapters.mend(held, {request.id for request in requests if not request.mix})

    def keep_only(self, request_ids: Collection[str]) -> None:
        """Forget all requests but these."""
        dropped = [name for name in self.scheduler.requests if name not in request_ids]
        self.scheduler.keep_only(request_ids)
        self.abort(dropped)

    def reset_prefix_cache(self, *, reset_running_requests: bool = False) -> None:
        """Forget the content of all KV blocks; running requests keep theirs unless told so."""
        if reset_running_requests:
            self.scheduler.preempt_all()
        self.scheduler.pool.reset_cache()

    def library(self) -> AdapterLibrary:
        """Return the adapters.

        Raises
        ------
        InputError
            If LoRA is not enabled.
        """
        if self.adapters is None:
            text = "LoRA is not enabled in this engine; create it with enable_lora=True"
            raise InputError(text)
        return self.adapters

    def _commit_all_but(self, under_way: int) -> None:
        while len(self._started) > under_way:
            plan, step = self._started[0]
            result = step.result()
            self._started.popleft()
            self.scheduler.commit(plan, result)

    def _resolve(self) -> None:
        # Of two requests that name one id or one path, the younger sees what the older one found.
        unresolved: set[int | str] = set()
        for request in self.scheduler.resolving():
            handle = request.message.lora
            assert handle is not None
            names: set[int | str] = {handle.lora_int_id, handle.lora_path}
            try:
                wait = not names.isdisjoint(unresolved)
                mix = None if wait else self.library().acquire(request.id, handle)
            except Exception as error:  # whatever a handle that anybody may have written raises
                self.scheduler.fail(request, adapter_error(error))
                continue
            if mix is None:
                unresolved |= names
            else:
                self.scheduler.resolved(request, mix)

    def _let_go(self) -> None:
        if self.adapters is not None:
            for output in self.scheduler.outputs:
                if output.finish_reason is not None:
                    self.adapters.release(output.request_id)
            self.adapters.tidy()
