"""The offline engine of plait or of vLLM, stepped by hand: both have the same API."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress
from importlib import metadata
from time import perf_counter
from typing import Any

from .measured import LoraHandles, greedy


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
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[tuple[float, int, int, int]]:
        """Continue all prompts greedily at the same time.

        Returns
        -------
        list[tuple[float, int, int, int]]
            After each step: seconds since just before the first request was added, output tokens so
            far, requests that have one, requests that are finished.
        """
        params = self._params(**greedy(output_tokens), output_kind=self._delta)
        requests = list(zip(prompts, self._handles.of(adapters), strict=True))
        moments = []
        begun: set[str] = set()
        tokens = ended = 0
        gc.collect()
        started = perf_counter()
        for number, (prompt, handle) in enumerate(requests):
            asked = {"prompt_token_ids": prompt}
            self._engine.add_request(str(number), asked, params, lora_request=handle)
        while self._engine.has_unfinished_requests():
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
            moments.append((seconds, tokens, len(begun), ended))
        return moments


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "triton"):
        # Not every environment has triton.
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
