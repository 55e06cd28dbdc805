"""What is measured of an offline engine: decode, prefill and throughput cells."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS: Mapping[str, str] = MappingProxyType(
    {"D": "decode", "P": "prefill", "S": "steady", "T": "throughput"}
)
IDLE = "idle"
DEFAULT_CELLS: Mapping[str, str] = MappingProxyType(
    {
        "decode": "D:1:0,D:1:1,D:32:0,D:32:1,D:32:8,D:64:0,D:64:1,D:64:8,D:64:64,"
        "D:256:0,D:256:1,D:256:8,D:256:64",
        "prefill": "P:64:0,P:64:1,P:64:8,P:64:64",
        "steady": "S:64:0,S:64:8,S:64:64,S:128:0,S:128:8,S:128:64",
        "throughput": "T:512:0,T:512:1,T:512:8,T:512:64",
    }
)
_PROMPT_TOKENS: Mapping[str, int] = MappingProxyType({"D": 128, "P": 128, "S": 128, "T": 256})
_OUTPUT_TOKENS = 128


@dataclass(frozen=True)
class OfflineCell:
    """Requests that come all at once, or of a steady cell one after the other.

    Attributes
    ----------
    letter : str
        One of ``KINDS``.
    requests : int
        Of a steady cell: those that run at the same time.
    adapters : int
        Distinct ones, spread over the requests in turn; 0 = every request runs the base model.
    lora : bool
        Whether the engine accepts adapters; always with ``adapters``.
    prompt_tokens, output_tokens : int
        Of each request.
    """

    letter: str
    requests: int
    adapters: int
    lora: bool
    prompt_tokens: int
    output_tokens: int

    @property
    def name(self) -> str:
        """As it is asked for: ``D:64:8``."""
        adapters = IDLE if self.lora and not self.adapters else self.adapters
        return f"{self.letter}:{self.requests}:{adapters}"

    @property
    def kind(self) -> str:
        """``"decode"``, ``"prefill"`` or ``"throughput"``."""
        return KINDS[self.letter]

    @property
    def all_requests(self) -> int:
        """Requests of a run: of a steady cell, some to begin with and as many to measure."""
        return 2 * self.requests + 1 if self.letter == "S" else self.requests

    @property
    def arrivals(self) -> float | None:
        """Requests that come before each step; None: all come before the first."""
        # A request gives a token a step, so that as many come as end.
        return self.requests / self.output_tokens if self.letter == "S" else None

    def rows(self) -> list[int | None]:
        """Return the adapter of each request, counted from 0; None = the base model."""
        if not self.adapters:
            return [None] * self.all_requests
        return [row % self.adapters for row in range(self.all_requests)]

    def prompts(self, seed: int, repetition: int, vocab_size: int) -> list[list[int]]:
        """Return random prompts; systems get the same ones, repetitions others."""
        draw = random.Random(f"{seed} {self.requests} {self.prompt_tokens} {repetition}")
        tokens, length = range(vocab_size), self.prompt_tokens
        return [draw.choices(tokens, k=length) for _ in range(self.all_requests)]


def parse_cells(
    texts: str, *, prompt_tokens: int | None, output_tokens: int | None
) -> list[OfflineCell]:
    """Read cells.

    Parameters
    ----------
    texts : str
        ``KIND:REQUESTS:ADAPTERS``, separated by commas; KIND is one of ``KINDS``, ADAPTERS a
        number or ``idle``.
    prompt_tokens : int | None
        None = 128, of T 256.
    output_tokens : int | None
        Decode steps of D, output tokens of S and T; None = 128.

    Raises
    ------
    InputError
        If one is not of this form, or twice there.
    """
    cells = [_cell(text.strip(), prompt_tokens, output_tokens) for text in texts.split(",")]
    if len(set(cells)) < len(cells):
        text = f"{texts!r} names a cell twice; name each once"
        raise InputError(text)
    return cells


def check_cells(cells: Sequence[OfflineCell], *, max_num_seqs: int) -> None:
    """Check that all requests of D, P and S can run at the same time.

    Raises
    ------
    InputError
        If not.
    """
    for cell in cells:
        if cell.letter in "DPS" and cell.requests > max_num_seqs:
            text = (
                f"cell {cell.name!r} runs {cell.requests} requests at the same time, but "
                f"--max-num-seqs is {max_num_seqs}; raise it or lower the batch"
            )
            raise InputError(text)


def _cell(text: str, prompt_tokens: int | None, output_tokens: int | None) -> OfflineCell:
    letter, *numbers = text.split(":")
    if letter not in KINDS or len(numbers) != 2:
        raise _malformed(text)
    if not (numbers[0].isdecimal() and (numbers[1].isdecimal() or numbers[1] == IDLE)):
        raise _malformed(text)
    requests = int(numbers[0])
    adapters = 0 if numbers[1] == IDLE else int(numbers[1])
    if not requests or adapters > requests:
        raise _malformed(text)
    tokens = output_tokens or _OUTPUT_TOKENS
    return OfflineCell(
        letter=letter,
        requests=requests,
        adapters=adapters,
        lora=adapters > 0 or numbers[1] == IDLE,
        prompt_tokens=prompt_tokens or _PROMPT_TOKENS[letter],
        # The first token of a request comes with its prompt.
        output_tokens={"D": tokens + 1, "P": 1, "S": tokens, "T": tokens}[letter],
    )


def _malformed(text: str) -> InputError:
    message = (
        f"cell {text!r} is not KIND:REQUESTS:ADAPTERS with KIND one of {', '.join(KINDS)}, at "
        f"least 1 request, and at most as many adapters as requests or {IDLE!r}; write D:64:8"
    )
    return InputError(message)
