"""What is measured: a workload, on two systems, in turns."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PEERS = ("peft", "transformers", "vllm", "none")
"""``peft`` is transformers where no adapter runs, and transformers + peft where one does."""

QUICK_PROMPT_TOKENS = 32
QUICK_OUTPUT_TOKENS = 8
QUICK_PAIRS = 2


@dataclass(frozen=True)
class Workload:
    """Requests that come all at once, of equal length, and the tokens that each must give."""

    requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class System:
    """A loaded model that answers; one worker process.

    Attributes
    ----------
    name : str
        "plait", "transformers", "peft" (transformers + peft) or "vllm".
    dtype : str
        "float32" or "bfloat16".
    lora : bool
        Whether it accepts adapters.
    max_loras : int | None
        Adapters in one batch that it must have room for; None = it needs not know.
    """

    name: str
    dtype: str
    lora: bool = False
    max_loras: int | None = None


@dataclass(frozen=True)
class Side:
    """One of the two systems of a cell, and which adapters its rows run.

    Attributes
    ----------
    system : System
    adapters : int
        Distinct adapters; 0 = every row runs the base model.
    base_rows : bool
        Whether every other row runs the base model.
    """

    system: System
    adapters: int = 0
    base_rows: bool = False

    def rows(self, requests: int) -> list[int | None]:
        """Return the adapter of each row, counted from 0; None = the base model."""
        if not self.adapters:
            return [None] * requests
        if not self.base_rows:
            return [row % self.adapters for row in range(requests)]
        return [None if row % 2 == 0 else row // 2 % self.adapters for row in range(requests)]


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    Attributes
    ----------
    name : str
    workload : Workload
    ours, other : Side
        ``other`` is None where there is nothing to compare with.
    goal : float | None
        Least ratio of our rate to the other's that is aimed at.
    pairs : int
        Repetitions.
    """

    name: str
    workload: Workload
    ours: Side
    other: Side | None
    goal: float | None
    pairs: int

    @property
    def same_tokens(self) -> bool:
        """Whether both sides must give the same tokens, but for near ties."""
        ours, other = self.ours, self.other
        return other is not None and (
            ours.system.dtype == other.system.dtype == "float32"
            and (ours.adapters, ours.base_rows) == (other.adapters, other.base_rows)
        )

    def prompts(self, seed: int, repetition: int, vocab_size: int) -> list[list[int]]:
        """Return random prompts that no other repetition has: no cache may know them."""
        # The generators of Python draw the same from a text on every machine.
        draw = random.Random(f"{seed} {self.name} {repetition}")
        return [
            [draw.randrange(vocab_size) for _ in range(self.workload.prompt_tokens)]
            for _ in range(self.workload.requests)
        ]


@dataclass(frozen=True)
class _AgainstPeer:
    workload: Workload
    adapters: int = 0
    base_rows: bool = False
    goal: float | None = None


@dataclass(frozen=True)
class _AgainstOurselves:
    ours: Side
    other: Side
    goal: float | None = None
    pairs: int = 5


_ONE = Workload(1, 128, 128)
_MANY = Workload(32, 128, 64)

_AGAINST_PEER: Mapping[str, _AgainstPeer] = MappingProxyType(
    {
        "one-base": _AgainstPeer(_ONE, goal=1.5),
        "one-adapter": _AgainstPeer(_ONE, 1),
        "base": _AgainstPeer(_MANY, goal=1.4),
        "adapters-1": _AgainstPeer(_MANY, 1),
        "adapters-8": _AgainstPeer(_MANY, 8, goal=2.2),
        "adapters-32": _AgainstPeer(_MANY, 32, goal=2.5),
        "mixed-8": _AgainstPeer(_MANY, 8, base_rows=True),
    }
)
_OF_BASE, _IDLE, _BFLOAT16 = "adapters-8-of-base", "idle-lora", "bfloat16"

CELLS = (*_AGAINST_PEER, _OF_BASE, _IDLE, _BFLOAT16)
"""Names of all cells."""


def make_cells(
    *, names: Sequence[str], dtypes: Sequence[str], peer: str, pairs: int | None, quick: bool
) -> list[Cell]:
    """Return the cells to be measured, in an order that needs few models at the same time.

    Parameters
    ----------
    names : Sequence[str]
        Of ``CELLS``; empty = all that the peer can run.
    dtypes : Sequence[str]
        "float32", "bfloat16"; the cell that compares the two is measured whatever they are.
    peer : str
        One of ``PEERS``.
    pairs : int | None
        Repetitions; None = 5, and 9 of the cell whose ratio is nearest to 1.
    quick : bool
        2 repetitions of 32 tokens in and 8 out: shows that all works, and measures little.

    Raises
    ------
    InputError
        If a cell is unknown, or named and the peer cannot run it.
    """
    for name in names:
        if name not in CELLS:
            text = f"unknown cell {name!r}; allowed: {', '.join(CELLS)}"
            raise InputError(text)
        if peer == "transformers" and name in _AGAINST_PEER and _AGAINST_PEER[name].adapters:
            text = (
                f"cell {name!r} runs adapters, which transformers alone does not; use --peer peft"
            )
            raise InputError(text)
    chosen = list(_cells(set(names or CELLS), dtypes, peer))
    if quick:
        chosen = [_quick(cell) for cell in chosen]
    return [replace(cell, pairs=pairs) if pairs else cell for cell in chosen]


def _cells(names: set[str], dtypes: Sequence[str], peer: str) -> Iterator[Cell]:
    for dtype in dtypes:
        for name, rows in _AGAINST_PEER.items():
            if name in names and not (peer == "transformers" and rows.adapters):
                yield _against_peer(name, rows, dtype, peer)
        for name, sides in _against_ourselves(dtype).items():
            if name in names:
                goal = sides.goal if dtype == "float32" else None
                yield Cell(name, _MANY, sides.ours, sides.other, goal, sides.pairs)
    if _BFLOAT16 in names:
        narrow, wide = (Side(System("plait", dtype)) for dtype in ("bfloat16", "float32"))
        yield Cell(_BFLOAT16, _MANY, narrow, wide, 1.3, 5)


def _against_peer(name: str, rows: _AgainstPeer, dtype: str, peer: str) -> Cell:
    lora = rows.adapters > 0
    ours = Side(System("plait", dtype, lora), rows.adapters, rows.base_rows)
    if peer == "none":
        return Cell(name, rows.workload, ours, None, None, 5)
    if peer == "peft" and not lora:
        peer = "transformers"
    # vLLM allots its slots when it starts, and more of them are slower.
    max_loras = rows.adapters if lora and peer == "vllm" else None
    other = replace(ours, system=System(peer, dtype, lora, max_loras))
    goal = rows.goal if dtype == "float32" and peer != "vllm" else None
    return Cell(name, rows.workload, ours, other, goal, 5)


def _against_ourselves(dtype: str) -> dict[str, _AgainstOurselves]:
    without, with_lora = (Side(System("plait", dtype, lora)) for lora in (False, True))
    return {
        _OF_BASE: _AgainstOurselves(replace(with_lora, adapters=8), without, goal=0.8),
        _IDLE: _AgainstOurselves(with_lora, without, pairs=9),
    }


def _quick(cell: Cell) -> Cell:
    workload = Workload(cell.workload.requests, QUICK_PROMPT_TOKENS, QUICK_OUTPUT_TOKENS)
    return replace(cell, workload=workload, pairs=QUICK_PAIRS)
