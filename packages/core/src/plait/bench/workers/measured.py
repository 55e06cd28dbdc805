"""What the systems share. It imports none of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Request = TypeVar("Request")


@dataclass(frozen=True)
class Load:
    """What a system is asked to load: the arguments of its ``load``.

    Attributes
    ----------
    model : str
    dtype : str
    lora : bool
    max_loras : int | None
    max_model_len, max_num_seqs, threads : int
    options : dict[str, Any]
        More keywords of what loads the model.
    """

    model: str
    dtype: str
    lora: bool
    max_loras: int | None
    max_model_len: int
    max_num_seqs: int
    threads: int
    options: dict[str, Any]

    def engine_keywords(self) -> dict[str, Any]:
        """Return the keywords of an ``LLM`` that have nothing to do with LoRA."""
        return {
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "skip_tokenizer_init": True,
        }


class LoraHandles(Generic[Request]):
    """The ``LoRARequest`` of each adapter, numbered from 1 in the order of their first use.

    Parameters
    ----------
    make : Callable[[str, int, str], Request]
        Takes name, number and directory.
    """

    def __init__(self, make: Callable[[str, int, str], Request]) -> None:
        self._make = make
        self._numbers: dict[str, int] = {}

    def of(self, adapters: Sequence[str | None]) -> list[Request | None]:
        """Return the handle on each directory; None stays None."""
        return [None if path is None else self._handle(path) for path in adapters]

    def _handle(self, path: str) -> Request:
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        return self._make(Path(path).name, number, path)


def greedy(output_tokens: int) -> dict[str, Any]:
    """Return the keywords of ``SamplingParams`` for that many tokens of each request."""
    return {
        "temperature": 0,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "detokenize": False,
    }


def versions(*distributions: str) -> dict[str, str]:
    """Return the version of each distribution."""
    return {name: metadata.version(name) for name in distributions}
