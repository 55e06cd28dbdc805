"""plait, as it is measured."""

from __future__ import annotations

from typing import Any

import torch

from plait import LLM, LoRARequest, SamplingParams, __version__

from .measured import Load, LoraHandles, greedy, versions


class System:
    """plait's ``LLM``."""

    def load(self, **asked: Any) -> dict[str, str]:
        """Load a model as a ``Load`` says; return versions."""
        load = Load(**asked)
        torch.set_num_threads(load.threads)
        lora = {"enable_lora": load.lora, "max_loras": load.max_loras}
        self._llm = LLM(load.model, **(load.engine_keywords() | lora | load.options))
        self._handles = LoraHandles(LoRARequest)
        return {"plait": __version__} | versions("torch", "transformers")

    def generate(
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[list[int]]:
        """Continue each prompt greedily with the adapter of that directory."""
        outputs = self._llm.generate(
            prompts,
            SamplingParams(**greedy(output_tokens)),
            use_tqdm=False,
            lora_request=self._handles.of(adapters),
        )
        return [output.outputs[0].token_ids for output in outputs]
