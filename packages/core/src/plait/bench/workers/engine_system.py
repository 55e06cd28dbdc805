"""The offline engine of plait or of vLLM, stepped by hand: both have the same API."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress
from importlib import metadata
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from .measured import LoraHandles, greedy

if TYPE_CHECKING:
    from collections.abc import Iterator

Moment: TypeAlias = tuple[float, int, int, int]
"""After a step: seconds since just before the first request was added, output tokens so far,
requests that have one, requests that are finished."""


class System:
    """An ``LLMEngine``."""

    def load(self, package: str, keywords: dict[str, Any]) -> dict[str, str]:
        """Make the engine of ``"plait"`` or ``"vllm"`` from its ``EngineArgs``; return versions."""
        api = importlib.import_module(package)
        request = importlib.import_module(f"{package}.lora.request")
        self._handles: LoraHandles[Any] = LoraHandles(request.LoRARequest)
        self._params = api.SamplingParams
        # Only what is new: to copy all tokens of all requests in each step would take its time.
        self._delta = type(api.SamplingParams().output_kind).DELTA
        self._engine = api.LLMEngine.from_engine_args(api.EngineArgs(**keywords))
        return {package: api.__version__} | _versions()

    def add_adapters(self, paths: list[str]) -> None:
        """Load the adapters of these directories before anything asks for them."""
        for handle in self._handles.of(paths):
            self._engine.add_lora(handle)

    def run(
        self,
        prompts: list[list[int]],
        adapters: list[str | None],
        output_tokens: int,
        arrivals: float | None = None,
    ) -> list[Moment]:
        """Continue prompts greedily.

        Parameters
        ----------
        prompts : list[list[int]]
        adapters : list[str | None]
            Directories, beside them.
        output_tokens : int
            Of each.
        arrivals : float | None
            How many of them come before each step; None: all come before the first.

        Returns
        -------
        list[Moment]
            After each step.
        """
        return list(self._steps(prompts, adapters, output_tokens, arrivals))

    def trace(self, file: str, begun: int, ended: int, most: int | None, **asked: Any) -> int:
        """Do as ``run`` does while torch's profiler looks at the device.

        Parameters
        ----------
        file : str
            Gets what was seen, in Chrome's format.
        begun, ended : int
            It looks from when so many requests have a token, and so many are finished.
        most : int | None
            Steps that it looks at; None: all that are left.
        **asked
            As of ``run``.

        Returns
        -------
        int
            Steps that were looked at.
        """
        steps = self._steps(**asked)
        now_begun = now_ended = 0
        looked_at = 0
        activity = torch.profiler.ProfilerActivity
        looked_for = activity.CUDA if torch.cuda.is_available() else activity.CPU
        with torch.profiler.profile(activities=[looked_for], schedule=_after_one_step) as profiler:
            while now_begun < begun or now_ended < ended:
                _, _, now_begun, now_ended = next(steps)
            profiler.step()
            for _ in islice(steps, most):
                looked_at += 1
        profiler.export_chrome_trace(file)
        for _ in steps:
            pass
        return looked_at

    def _steps(
        self,
        prompts: list[list[int]],
        adapters: list[str | None],
        output_tokens: int,
        arrivals: float | None = None,
    ) -> Iterator[Moment]:
        params = self._params(**greedy(output_tokens), output_kind=self._delta)
        requests = list(zip(prompts, self._handles.of(adapters), strict=True))
        begun: set[str] = set()
        tokens = ended = 0
        gc.collect()
        started = perf_counter()
        added = step = 0
        while added < len(requests) or self._engine.has_unfinished_requests():
            come = len(requests) if arrivals is None else 1 + int(step * arrivals)
            for prompt, handle in requests[added:come]:
                asked = {"prompt_token_ids": prompt}
                self._engine.add_request(str(added), asked, params, lora_request=handle)
                added += 1
            step += 1
            outputs = self._engine.step()
            seconds = perf_counter() - started
            for output in outputs:
                if getattr(output, "error", None) is not None:
                    raise output.error
                new = sum(len(completion.token_ids) for completion in output.outputs)
                tokens += new
                ended += output.finished
                if new:
                    begun.add(output.request_id)
            yield seconds, tokens, len(begun), ended


def _after_one_step(number: int) -> torch.profiler.ProfilerAction:
    """Have a profiler get ready in what it takes for step 0, and record from step 1 on.

    Getting ready takes it tens of ms, in which the device has nothing to do.
    """
    action = torch.profiler.ProfilerAction
    return action.RECORD if number else action.WARMUP


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "triton"):
        # Not every environment has triton.
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
