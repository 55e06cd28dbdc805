"""Case and OpCases: on which inputs an op is tried, and how it is called. No torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS, DTYPES, OpConfig, Scalar
from plait_kernels.ops import load_op

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch


@dataclass(frozen=True, eq=False)
class Case:
    """One kind of input of an op.

    Attributes
    ----------
    name : str
        In test ids; unique within the op.
    params : Mapping[str, int | float | str | bool | None]
        Static parameters of the config.
    inputs : Mapping[str, object]
        Keyword arguments of the op's generator.
    max_tokens : int
        Of the config.
    buckets : tuple[str, ...]
        Token buckets in which such a call occurs.
    has_reference : bool
        False: the reference does not compute it; kernels are asked whether they do, and how they
        compute it is not looked at.
    is_nonsense : bool
        No kernel can do this: to accept it is an error.
    leeway : float
        By which the op's tolerance is multiplied.
    optional_call : str
        Of which call it is, if that is one which an implementation need not have; else empty.
    """

    name: str
    params: Mapping[str, Scalar] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 64
    buckets: tuple[str, ...] = BUCKETS
    has_reference: bool = True
    is_nonsense: bool = False
    leeway: float = 1.0
    optional_call: str = ""

    def config(self, op: str, dtype: str, bucket: str) -> OpConfig:
        """Return the config by which a kernel is chosen for this case."""
        return OpConfig.of(
            op, dtype=dtype, bucket=bucket, max_tokens=self.max_tokens, **self.params
        )


def _same(implementation: Any, arguments: Any) -> Any:
    return arguments


def _all_of(arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return output


def _first_as_it_is(first: Any, second: Any) -> Any:
    return first


@dataclass(frozen=True, eq=False)
class OpCases:
    """What the kit knows about one op.

    ``arguments`` below is what the op's generator makes: a tuple or a dataclass of tensors.

    Attributes
    ----------
    op : str
    cases : tuple[Case, ...]
    names : tuple[str, ...]
        Names of the arguments, for messages; empty if they are a dataclass.
    call : Callable[[implementation, arguments], Tensor | None]
        Calls an implementation; returns the memory that it made, None if it works in place.
    prepare : Callable[[implementation, arguments], arguments]
        Work that is done once, before the first call.
    targets : Callable[[arguments], Mapping[str, Tensor]]
        The arguments that are changed in place.
    writable : Callable[[arguments], list[Tensor]]
        Views of the elements of targets that a call may change.
    specified : Callable[[arguments, Tensor], Tensor]
        The part of the output that has a meaning.
    fixed : frozenset[str]
        Arguments that keep their contents between the replays of a captured graph.
    stage : Callable[[first, second], arguments]
        Gives ``first`` room for the contents of ``second``.
    dtypes : tuple[str, ...]
        Of the configs that occur.
    is_contiguous : bool
        Whether the contract promises it of the output.
    make : Callable[..., arguments] | None
        Makes the arguments from seed, dtype, device and ``Case.inputs``; None = the generator.
    """

    op: str
    cases: tuple[Case, ...]
    names: tuple[str, ...]
    call: Callable[[Any, Any], torch.Tensor | None]
    prepare: Callable[[Any, Any], Any] = _same
    targets: Callable[[Any], Mapping[str, torch.Tensor]] = lambda arguments: {}
    writable: Callable[[Any], list[torch.Tensor]] = lambda arguments: []
    specified: Callable[[Any, torch.Tensor], torch.Tensor] = _all_of
    fixed: frozenset[str] = frozenset()
    stage: Callable[[Any, Any], Any] = _first_as_it_is
    dtypes: tuple[str, ...] = DTYPES
    is_contiguous: bool = False
    make: Callable[..., Any] | None = None

    def arguments(self, case: Case, seed: int, dtype: str, device: str) -> Any:
        """Make the random arguments of a case."""
        make = self.make or load_op(self.op).inputs
        return make(seed, dtype=dtype, device=device, **case.inputs)
