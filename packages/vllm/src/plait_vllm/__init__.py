"""vLLM's module paths and names, with plait's classes behind them.

``import plait_vllm as vllm`` and ``from plait_vllm.sampling_params import SamplingParams`` work in
any program; ``python -m plait_vllm PROGRAM.py`` runs one that says ``import vllm``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from plait_vllm.finder import NamesFinder
from plait_vllm.names import resolve

if TYPE_CHECKING:
    from plait import (
        LLM,
        AsyncEngineArgs,
        AsyncLLMEngine,
        CompletionOutput,
        EngineArgs,
        LLMEngine,
        PromptType,
        RequestOutput,
        SamplingParams,
        TextPrompt,
        TokensPrompt,
    )

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLMEngine",
    "CompletionOutput",
    "EngineArgs",
    "LLMEngine",
    "PromptType",
    "RequestOutput",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
]

if not any(isinstance(f, NamesFinder) and f.root == __name__ for f in sys.meta_path):
    # Last, so that this package's own files come first. It answers for names below this package
    # only.
    sys.meta_path.append(NamesFinder(__name__))


def __getattr__(name: str) -> object:
    """Look a name up when it is first used: importing the package must stay quick."""
    return resolve(__name__, "", name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
