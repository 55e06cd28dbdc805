"""plait, as it is measured."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from plait import LLM, LoRARequest, SamplingParams, __version__


class System:
    """plait's ``LLM``."""

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
        """Load a model; ``options`` are more keywords of ``LLM``. Return versions."""
        torch.set_num_threads(threads)
        keywords: dict[str, Any] = {
            "dtype": dtype,
            "enable_lora": lora,
            "max_loras": max_loras,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "skip_tokenizer_init": True,
        }
        self._llm = LLM(model, **(keywords | options))
        others = {name: metadata.version(name) for name in ("torch", "transformers")}
        return {"plait": __version__} | others

    def generate(
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[list[int]]:
        """Continue each prompt greedily with the adapter of that directory."""
        sampling = SamplingParams(
            temperature=0, max_tokens=output_tokens, ignore_eos=True, detokenize=False
        )
        requests = [self._request(path) if path else None for path in adapters]
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=requests)
        return [output.outputs[0].token_ids for output in outputs]

    def _request(self, path: str) -> LoRARequest:
        number = self._ids.setdefault(path, len(self._ids) + 1)
        return LoRARequest(Path(path).name, number, path)
