"""Run requests on an engine whose kernels are timed, and keep what each step took."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from plait.bench.kernel_clock import Clock, PartTime, timed_table
from plait.build import build_core
from plait.engine_core import EngineCore
from plait.llm_engine import LLMEngine
from plait_models import read_config
from plait_sampling.params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait.engine_args import EngineArgs
    from plait.plan import StepPlan
    from plait.runner import StartedStep, StepRunner
    from plait_lora.request import LoRARequest


@dataclass(frozen=True)
class StepTimes:
    """One step.

    Attributes
    ----------
    rows, tokens : int
        What it ran: rows and the tokens of all of them; 0 of a step that only loads adapters.
    seconds : float
        From ``LLMEngine.step`` to its end.
    runner_seconds : float
        Those inside the runner, kernels included.
    parts : Mapping[str, PartTime]
        The kernels that were called, by part.
    """

    rows: int
    tokens: int
    seconds: float
    runner_seconds: float
    parts: Mapping[str, PartTime]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what ``dataclasses.asdict`` wrote."""
        parts = {part: PartTime(**time) for part, time in values["parts"].items()}
        return cls(**values | {"parts": parts})

    @property
    def is_decode(self) -> bool:
        """Whether every row ran one token."""
        return 0 < self.rows == self.tokens

    @property
    def kernel_seconds(self) -> float:
        """Seconds inside kernels."""
        return sum(time.seconds for time in self.parts.values())


class TimedRunner:
    """A runner that remembers its last step.

    Parameters
    ----------
    runner : StepRunner
    """

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self.rows = self.tokens = 0
        self.seconds = 0.0

    def start(self, plan: StepPlan) -> StartedStep:
        """Execute ``plan``."""
        started = perf_counter()
        step = self._runner.start(plan)
        self.seconds = perf_counter() - started
        self.rows, self.tokens = len(plan.row), plan.num_tokens
        return step


class TimedEngine:
    """An engine without a tokenizer, its kernels and its runner timed.

    Parameters
    ----------
    args : EngineArgs
        The model must be on a CPU: elsewhere a kernel returns before it has run.
    """

    def __init__(self, args: EngineArgs) -> None:
        self._clock = Clock()
        vocab_size = read_config(args.model, args.load_format).vocab_size
        core = build_core(
            args, wrap_table=partial(timed_table, clock=self._clock, vocab_size=vocab_size)
        )
        self._runner = TimedRunner(core.runner)
        timed_core = EngineCore(core.scheduler, self._runner, core.adapters, core.info)
        self._engine = LLMEngine(timed_core, tokenizer=None, generation_config={})

    def generate(
        self,
        prompts: Sequence[list[int]],
        adapters: Sequence[LoRARequest | None],
        output_tokens: int,
    ) -> list[StepTimes]:
        """Continue all prompts greedily at the same time.

        Parameters
        ----------
        prompts : Sequence[list[int]]
        adapters : Sequence[LoRARequest | None]
            Beside each prompt; None = the base model.
        output_tokens : int
            Of each; end-of-sequence is ignored.

        Returns
        -------
        list[StepTimes]

        Raises
        ------
        PlaitError
            Why a request failed.
        """
        params = SamplingParams(
            temperature=0,
            max_tokens=output_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for number, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
            self._engine.add_request(str(number), prompt, params, lora_request=adapter)
        steps = []
        while self._engine.has_unfinished_requests():
            steps.append(self._step())
        return steps

    def _step(self) -> StepTimes:
        self._clock.take()
        started = perf_counter()
        outputs = self._engine.step()
        seconds = perf_counter() - started
        for output in outputs:
            if output.error is not None:
                raise output.error
        runner = self._runner
        return StepTimes(runner.rows, runner.tokens, seconds, runner.seconds, self._clock.take())
