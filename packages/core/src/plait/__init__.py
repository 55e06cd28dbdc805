"""plait: an LLM inference engine that serves many LoRA adapters on one base model, in one batch.

Change ``vllm`` to ``plait`` in the imports of a program that uses vLLM's ``LLM`` or ``LLMEngine``
with LoRA adapters, and it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait.async_llm_engine import AsyncLLM, AsyncLLMEngine
    from plait.beam_search import BeamSearchParams
    from plait.engine_args import AsyncEngineArgs, EngineArgs
    from plait.llm import LLM
    from plait.llm_engine import LLMEngine
    from plait.outputs import CompletionOutput, Logprob, RequestOutput
    from plait.prompts import PromptType, TextPrompt, TokensPrompt
    from plait_lora.request import LoRARequest
    from plait_sampling.params import RequestOutputKind, SamplingParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "EngineArgs",
    "LLMEngine",
    "LoRARequest",
    "Logprob",
    "PromptType",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
]

_HOMES = {
    "LLM": "plait.llm",
    "AsyncEngineArgs": "plait.engine_args",
    "AsyncLLM": "plait.async_llm_engine",
    "AsyncLLMEngine": "plait.async_llm_engine",
    "BeamSearchParams": "plait.beam_search",
    "CompletionOutput": "plait.outputs",
    "EngineArgs": "plait.engine_args",
    "LLMEngine": "plait.llm_engine",
    "LoRARequest": "plait_lora.request",
    "Logprob": "plait.outputs",
    "PromptType": "plait.prompts",
    "RequestOutput": "plait.outputs",
    "RequestOutputKind": "plait_sampling.params",
    "SamplingParams": "plait_sampling.params",
    "TextPrompt": "plait.prompts",
    "TokensPrompt": "plait.prompts",
}


def __getattr__(name: str) -> object:
    """Import an exported name when it is first used: importing plait must stay quick."""
    if name not in _HOMES:
        text = f"module 'plait' has no attribute {name!r}"
        raise AttributeError(text)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
