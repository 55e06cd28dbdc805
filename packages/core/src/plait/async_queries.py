"""What an asynchronous engine says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.not_served import NotServedAsync

if TYPE_CHECKING:
    from plait.engine_config import EngineConfig, ServedModel
    from plait.engine_thread import EngineThread
    from plait.llm_engine import LLMEngine
    from plait.tokenizer import Tokenizer


class AsyncQueries(NotServedAsync):
    """Calls that change nothing.

    Attributes
    ----------
    engine : LLMEngine
    """

    engine: LLMEngine
    _thread: EngineThread

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer."""
        return self.engine.get_tokenizer()

    async def is_sleeping(self) -> bool:
        """Return False: weights and KV cache are in place as long as the engine lives."""
        return False

    async def do_log_stats(self) -> None:
        """Write the metrics to the log, in one line."""
        await self._thread.call(self.engine.do_log_stats)

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """Return what the engine does: it generates."""
        return self.engine.get_supported_tasks()

    async def is_tracing_enabled(self) -> bool:
        """Return False: nothing is traced."""
        return False

    async def reset_mm_cache(self) -> None:
        """Do nothing: there is no cache of pictures."""

    async def reset_encoder_cache(self) -> None:
        """Do nothing: there is no encoder."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if there is none."""
        return self.engine.tokenizer

    @property
    def vllm_config(self) -> EngineConfig:
        """What the engine was made with, under vLLM's names."""
        return self.engine.vllm_config

    @property
    def model_config(self) -> ServedModel:
        """The model and its limits."""
        return self.engine.model_config
