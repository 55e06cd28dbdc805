"""plait with timers around its kernels."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from plait import EngineArgs, LoRARequest, __version__
from plait.bench.kernel_clock import timer_seconds
from plait.bench.step_times import TimedEngine

from .measured import LoraHandles, versions


class System:
    """A ``TimedEngine``."""

    def load(self, model: str, threads: int, options: dict[str, Any]) -> dict[str, str]:
        """Load a model; ``options`` are keywords of ``EngineArgs``. Return versions."""
        torch.set_num_threads(threads)
        self._engine = TimedEngine(EngineArgs(model, device="cpu", **options))
        self._handles = LoraHandles(LoRARequest)
        return {"plait": __version__} | versions("torch")

    def generate(
        self, prompts: list[list[int]], adapters: list[str | None], output_tokens: int
    ) -> list[dict[str, Any]]:
        """Continue each prompt with the adapter of that directory; return the times of steps."""
        requests = self._handles.of(adapters)
        return [asdict(step) for step in self._engine.generate(prompts, requests, output_tokens)]

    def timer_seconds(self) -> float:
        """Return what a timer adds to a call."""
        return timer_seconds()
