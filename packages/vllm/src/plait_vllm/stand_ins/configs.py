"""Settings that vLLM has classes for: they hold what a program says, and the engine judges it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from plait_kernels.errors import InputError


class _Settings:
    """Any keywords, as attributes."""

    def __init__(self, **keywords: Any) -> None:
        self.__dict__.update(keywords)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


class CompilationConfig(_Settings):
    """How vLLM compiles; without effect in plait, whose kernels are compiled already."""


class AttentionConfig(_Settings):
    """How vLLM computes attention; the engine accepts or refuses each field."""


class AttentionBackendEnum(StrEnum):
    """vLLM's names of attention kernels that are of the mathematics served here."""

    FLASH_ATTN = "FLASH_ATTN"
    FLASHINFER = "FLASHINFER"
    TRITON_ATTN = "TRITON_ATTN"
    FLEX_ATTENTION = "FLEX_ATTENTION"
    TORCH_SDPA = "TORCH_SDPA"
    CPU_ATTN = "CPU_ATTN"
    ROCM_ATTN = "ROCM_ATTN"


class ProfilerConfig(_Settings):
    """How vLLM profiles. An engine that is given one refuses it."""


class CompilationMode(IntEnum):
    """Values of ``CompilationConfig(mode=…)``."""

    NONE = 0
    STOCK_TORCH_COMPILE = 1
    DYNAMO_TRACE_ONCE = 2
    VLLM_COMPILE = 3


class CUDAGraphMode(IntEnum):
    """Values of ``CompilationConfig(cudagraph_mode=…)``; vLLM's composed modes are not here."""

    NONE = 0
    PIECEWISE = 1
    FULL = 2


@dataclass
class StructuredOutputsParams:
    """What an output must look like. A request with one is refused: it is not served yet.

    Attributes
    ----------
    json : str | dict | None
    regex : str | None
    choice : list[str] | None
    grammar : str | None
    json_object : bool | None
    structural_tag : str | None
        Exactly one of them is given.
    disable_any_whitespace, disable_additional_properties : bool
    whitespace_pattern : str | None
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        kinds = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            text = (
                f"structured outputs need one kind of constraint, got {', '.join(given) or 'none'}"
                f"; allowed: one of {', '.join(kinds)}"
            )
            raise InputError(text)
