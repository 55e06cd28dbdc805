"""How the launches of ``lora`` are cut, and what shrink leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from plait_triton.lora_parameters import ExpandParameters, ShrinkParameters


@dataclass(frozen=True, eq=False)
class ExpandCut:
    """How expand is cut.

    Attributes
    ----------
    chosen : ExpandParameters
    blocks : int
        The most programs of a work item.
    constants : Mapping[str, Any]
        Keywords of the launch.
    """

    chosen: ExpandParameters
    blocks: int
    constants: Mapping[str, Any]

    def programs(self, tokens: int, segments: int, sites: int) -> int:
        """Return how many are enough for any batch of so many tokens."""
        items = tokens // self.chosen.tokens + segments
        programs = items * self.blocks
        if not self.chosen.programs:
            return programs
        # However many of the items there are: what they share, and a part of each site more.
        shared = max(self.chosen.programs, self.chosen.many_programs)
        return min(programs, shared + items * sites)


@dataclass(frozen=True, eq=False)
class ShrinkCut:
    """How shrink is cut.

    Attributes
    ----------
    facts : tuple
        What it was chosen for.
    chosen : ShrinkParameters
    pieces : int
        The most of a work item.
    expand : ExpandCut | None
        How expand is cut; None: only expand itself needs to know.
    constants : Mapping[str, Any]
        Keywords of the launch.
    """

    facts: tuple[object, ...]
    chosen: ShrinkParameters
    pieces: int
    expand: ExpandCut | None
    constants: Mapping[str, Any]


class Products(NamedTuple):
    """What shrink of one launch leaves.

    Attributes
    ----------
    h : Tensor, float32 [pieces, tokens, width]
    plan : Tensor, int32 [1 + programs of expand, PLAN_FIELDS] | None
        What they do, where shrink works it out (``plait_triton.lora_plan``).
    cut : ShrinkCut
    """

    h: torch.Tensor
    plan: torch.Tensor | None
    cut: ShrinkCut
