"""Types that programs name in annotations, and small classes."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

from plait import Logprob

LogprobsOnePosition: TypeAlias = dict[int, Logprob]
PromptLogprobs: TypeAlias = list[LogprobsOnePosition | None]
SampleLogprobs: TypeAlias = list[LogprobsOnePosition]
PauseMode: TypeAlias = Literal["abort", "wait", "keep"]


class UsageContext(StrEnum):
    """From where an engine is used. It changes nothing."""

    UNKNOWN_CONTEXT = "UNKNOWN_CONTEXT"
    LLM_CLASS = "LLM_CLASS"
    API_SERVER = "API_SERVER"
    OPENAI_API_SERVER = "OPENAI_API_SERVER"
    OPENAI_BATCH_RUNNER = "OPENAI_BATCH_RUNNER"
    ENGINE_CONTEXT = "ENGINE_CONTEXT"


class Counter:
    """Counts up with every ``next(counter)``.

    Parameters
    ----------
    start : int
    """

    def __init__(self, start: int = 0) -> None:
        self.counter = start

    def __next__(self) -> int:
        """Return the number, and go on to the next."""
        number = self.counter
        self.counter += 1
        return number

    def reset(self) -> None:
        """Begin at 0 again."""
        self.counter = 0
