"""How the ``torch`` backend's ``lora`` divides a batch: segments that one matmul can serve."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from plait_kernels.torch_backend.lora_slots import Slot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUNDLED_TOKENS = 64
"""Segments with more tokens than this are worth a matmul of their own."""

Tokens: TypeAlias = npt.NDArray[np.int64]
Segment: TypeAlias = tuple[Slot, Tokens]


@dataclass(frozen=True, eq=False)
class Bundle:
    """Segments whose adapters lie at equal distances in the arena, one matrix batch entry each.

    A place of the batch that no segment takes is a hole: it reads what lies there, and its
    results are dropped. So are those of the rows that pad a segment to the length of the longest.

    Attributes
    ----------
    slots : tuple[Slot | None, ...]
        By place; None is a hole. The first is a slot.
    stride : int
        Distance of two places in the arena, in elements.
    tokens : int
        n, the tokens of the segments.
    length : int
        Rows per place, so that places · length rows are computed.
    first : int | None
        Where rows are exactly tokens ``first : first + n``: no gathering is needed.
    rows : Tensor, int64 [places * length]
        Token of each row; any token where a row is padding.
    targets : Tensor, int64 [n]
        The tokens.
    kept : Tensor, int64 [n] | None
        The rows that are no padding, as ``targets`` lists them; None where all are.
    weight : Tensor, float32 [places, length, 1] | None
        Weight of the token of each row; None where all are 1.
    """

    slots: tuple[Slot | None, ...]
    stride: int
    tokens: int
    length: int
    first: int | None
    rows: torch.Tensor
    targets: torch.Tensor
    kept: torch.Tensor | None
    weight: torch.Tensor | None

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for bundles of the same adapters at the same places."""
        return (self.stride, *(-1 if slot is None else slot.uid for slot in self.slots))

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Return the bundle's rows of x: [places * length, ...]."""
        if self.first is None:
            return x.index_select(0, self.rows)
        return x if self.tokens == x.shape[0] else x.narrow(0, self.first, self.tokens)


def bundle(
    segments: Iterable[Segment], weights: npt.NDArray[np.float32] | None, device: torch.device
) -> list[Bundle]:
    """Divide segments into bundles: as few matmuls as their places in the arena allow.

    Parameters
    ----------
    segments : Iterable[Segment]
    weights : ndarray, float32 [tokens] | None
        None where all are 1.
    device : torch.device

    Returns
    -------
    list[Bundle]
    """
    alike: dict[tuple[object, ...], list[Segment]] = {}
    for segment in segments:
        slot, tokens = segment
        bundled = not slot.has_dense and len(tokens) <= BUNDLED_TOKENS
        # lengths within a power of two, so that padding at most doubles the rows
        kind = (slot.shape, (len(tokens) - 1).bit_length()) if bundled else (slot,)
        alike.setdefault(kind, []).append(segment)
    bundles = []
    for members in alike.values():
        members.sort(key=lambda segment: segment[0].base)
        bundles += [
            _bundle(part, stride, weights, device) for part, stride in _progressions(members)
        ]
    return bundles


def single(
    segments: Iterable[Segment], weights: npt.NDArray[np.float32] | None, device: torch.device
) -> list[Bundle]:
    """Make one bundle of every segment."""
    return [_bundle([segment], 0, weights, device) for segment in segments]


def _progressions(members: list[Segment]) -> Iterator[tuple[list[Segment], int]]:
    """Cut segments, sorted by base, where equal steps would need more holes than segments.

    Mixes of one adapter share a base; they cannot share a place.
    """
    bases = [slot.base for slot, _ in members]
    gaps = [after - before for before, after in itertools.pairwise(bases)]
    stride = math.gcd(*gaps)
    if not gaps:
        yield members, 0
    elif 0 not in gaps and (bases[-1] - bases[0]) // stride < 2 * len(members):
        yield members, stride
    else:
        cut = 1 + gaps.index(0 if 0 in gaps else max(gaps))
        yield from _progressions(members[:cut])
        yield from _progressions(members[cut:])


def _bundle(
    members: list[Segment],
    stride: int,
    weights: npt.NDArray[np.float32] | None,
    device: torch.device,
) -> Bundle:
    base = members[0][0].base
    places = [(slot.base - base) // stride if stride else 0 for slot, _ in members]
    lengths = [len(tokens) for _, tokens in members]
    length, total = max(lengths), sum(lengths)
    targets = np.concatenate([tokens for _, tokens in members])
    slots: list[Slot | None] = [None] * (places[-1] + 1)
    for place, (slot, _) in zip(places, members, strict=True):
        slots[place] = slot
    count = len(slots) * length
    if count == total:
        rows, kept = targets, None
    else:
        starts = [place * length for place in places]
        kept = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        rows = np.full(count, targets[0])
        rows[kept] = targets
    first = int(rows[0])
    in_order = kept is None and bool((rows == np.arange(first, first + total)).all())

    def on_device(values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return Bundle(
        slots=tuple(slots),
        stride=stride,
        tokens=total,
        length=length,
        first=first if in_order else None,
        rows=on_device(rows),
        targets=on_device(targets),
        kept=None if kept is None else on_device(kept),
        weight=None if weights is None else on_device(weights[rows]).view(len(slots), length, 1),
    )
