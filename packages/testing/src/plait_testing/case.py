"""Case and OpCases: on which inputs an op is tried, and how it is called. No torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS, DTYPES, OpConfig, Scalar
from plait_kernels.ops import load_op
from plait_testing.usual_calls import usual_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from plait_kernels.ops.contract import Accuracy
    from plait_testing.calls import Calls


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
    further : tuple[Mapping[str, object], ...]
        What further calls of the same implementation change in ``inputs``. If there are any, the
        case is of ``test_follows_every_call``, and of no other test.
    max_tokens : int
        Of the config.
    buckets : tuple[str, ...]
        Token buckets in which such a call occurs.
    has_reference : bool
        False: the reference does not compute it; kernels are asked whether they do, and how they
        compute it is not looked at.
    is_nonsense : bool
        No kernel can do this: to accept it is an error.
    accuracy : Accuracy | None
        In place of the op's own.
    has_nan : bool
        Whether a row of the arguments is NaN, and with it a row of the results: no other may be.
    is_large : bool
        Whether it takes so long where programs are interpreted that a ``Narrowing`` may leave it
        out.
    keeps_outputs : bool
        Whether the outputs of a large case's calls are kept until the last of them: they are small.
    optional_call : str
        Of which call it is, if that is one which an implementation need not have; else empty.
    """

    name: str
    params: Mapping[str, Scalar] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    further: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int = 64
    buckets: tuple[str, ...] = BUCKETS
    has_reference: bool = True
    is_nonsense: bool = False
    accuracy: Accuracy | None = None
    has_nan: bool = False
    is_large: bool = False
    keeps_outputs: bool = False
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


def _of_result(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    return exact.abs()


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
    calls : Callable[[Calls], None]
        Calls one implementation with the variants of a case that has ``further``.
    begin : Callable[[implementation, prepared], begun]
        The first half of a call, if it has two.
    complete : Callable[[implementation, begun], Tensor | None] | None
        The second half; None: ``call`` is all of it.
    targets : Callable[[arguments], Mapping[str, Tensor]]
        The arguments that are changed in place.
    writable : Callable[[arguments], list[Tensor]]
        Views of the elements of targets that a call may change.
    specified : Callable[[arguments, Tensor], Tensor]
        The part of the output that has a meaning.
    magnitude : Callable[[Case, arguments, exact], Tensor]
        Of the terms that each element of a result is the sum of: what float32 may lose, and what
        is rounded before it is added, is a part of it. Arguments are float64, as they were before
        the call.
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
    calls: Callable[[Calls], None] = usual_calls
    begin: Callable[[Any, Any], Any] = _same
    complete: Callable[[Any, Any], torch.Tensor | None] | None = None
    targets: Callable[[Any], Mapping[str, torch.Tensor]] = lambda arguments: {}
    writable: Callable[[Any], list[torch.Tensor]] = lambda arguments: []
    specified: Callable[[Any, torch.Tensor], torch.Tensor] = _all_of
    magnitude: Callable[[Case, Any, torch.Tensor], torch.Tensor] = _of_result
    fixed: frozenset[str] = frozenset()
    stage: Callable[[Any, Any], Any] = _first_as_it_is
    dtypes: tuple[str, ...] = DTYPES
    is_contiguous: bool = False
    make: Callable[..., Any] | None = None

    def arguments(self, case: Case, seed: int, dtype: str, device: str) -> Any:
        """Make the random arguments of a case."""
        return self.make_arguments(case.inputs, seed, dtype, device)

    def make_arguments(self, inputs: Mapping[str, Any], seed: int, dtype: str, device: str) -> Any:
        """Make random arguments; ``inputs`` as of a case."""
        make = self.make or load_op(self.op).inputs
        return make(seed, dtype=dtype, device=device, **inputs)

    def finish(self, implementation: Any, begun: Any) -> torch.Tensor | None:
        """Do the second half of a call; ``begin`` did the first."""
        return (self.complete or self.call)(implementation, begun)
