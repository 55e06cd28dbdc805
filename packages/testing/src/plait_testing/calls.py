"""Calls: one implementation that is called many times, as in an engine, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from plait_testing.checks.agreement import compare
from plait_testing.failure import fail
from plait_testing.references import OUTPUT, compute, results
from plait_testing.tensors import bits, map_tensors, named, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_testing.accuracy import Expected
    from plait_testing.case import OpCases
    from plait_testing.subject import Subject


@dataclass(frozen=True, eq=False)
class _Done:
    """A call, with copies of its results as they were when it returned."""

    context: str
    output: torch.Tensor | None
    found: Mapping[str, torch.Tensor]
    expected: Mapping[str, Expected]


@dataclass(eq=False)
class Calls:
    """Calls implementations of one kernel, and looks at all results at the end.

    Attributes
    ----------
    subject : Subject
    implementation : object
        The one that is called unless another is named.
    """

    subject: Subject
    implementation: Any = None
    _done: list[_Done] = field(default_factory=list)
    _number: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.implementation = self.subject.make()

    def make(self, variant: int = 0, further: int = 0) -> Any:
        """Make arguments.

        Parameters
        ----------
        variant : int
            0: those of the case; i: those that its i-th element of ``further`` changes.
        further : int
            0, 1, 2, …: others of the same shapes.
        """
        case, op_cases = self.subject.case, self.subject.op_cases
        changed = {**case.inputs, **(case.further[variant - 1] if variant else {})}
        seed = self.subject.seed + 101 * variant + further
        return op_cases.make_arguments(changed, seed, self.subject.dtype, self.subject.device)

    def describe(self, variant: int) -> str:
        """Say what is special about a variant."""
        case = self.subject.case
        changed = case.further[variant - 1] if variant else case.inputs
        return ", ".join(f"{name}={value!r}" for name, value in changed.items())

    @property
    def variants(self) -> int:
        """How many variants ``make`` knows."""
        return 1 + len(self.subject.case.further)

    def prepare(self, arguments: Any, by: Any = None) -> Any:
        """Do what comes before a call."""
        return self.subject.prepare(by or self.implementation, arguments)

    def call(
        self,
        context: str,
        *arguments: Any,
        prepared: Any = None,
        by: Any = None,
        is_kept: bool = True,
        is_reversed: bool = False,
    ) -> None:
        """Call once with each of ``arguments``, the first halves of all calls first.

        Parameters
        ----------
        context : str
            Of error messages: ``"when …"``.
        *arguments : object
            Changed if the op works in place.
        prepared : object
            What ``prepare`` made of the arguments, if there is one call and it is made already.
        by : object
            The implementation that is called.
        is_kept : bool
            Whether the output is kept until ``finish``.
        is_reversed : bool
            Whether the second halves come in the opposite order.
        """
        subject, op_cases = self.subject, self.subject.op_cases
        kernel = by or self.implementation
        expected = [compute(op_cases, subject.case, subject.dtype, each) for each in arguments]
        inputs = [_inputs(subject, each) for each in arguments]
        with torch.inference_mode():
            begun = [
                op_cases.begin(
                    kernel, op_cases.prepare(kernel, each) if prepared is None else prepared
                )
                for each in arguments
            ]
            order = list(range(len(begun)))
            for place in reversed(order) if is_reversed else order:
                output = op_cases.finish(kernel, begun[place])
                where = f"at call {next(self._number) + 1} of one implementation, {context}: "
                _check_inputs(subject, inputs[place], arguments[place], where)
                got = results(op_cases, arguments[place], output)
                found = {
                    name: values.clone() if isinstance(values, torch.Tensor) else values
                    for name, values in got.items()
                }
                done = _Done(where, output if is_kept else None, found, expected[place])
                self._done.append(done)
                if is_kept and output is not None:
                    self._check_is_new(done)

    def _check_is_new(self, done: _Done) -> None:
        """Fail if the output of a call lies where another one lies that is kept."""
        mine = done.output
        if not isinstance(mine, torch.Tensor) or not mine.numel():
            return
        outputs = (other.output for other in self._done[:-1])
        taken = {
            other.untyped_storage().data_ptr()
            for other in outputs
            if isinstance(other, torch.Tensor) and other.numel()
        }
        if mine.untyped_storage().data_ptr() in taken:
            fail(
                f"{done.context}the output lies where an earlier one lies that is still in use; it "
                "must be new memory"
            )

    def finish(self) -> None:
        """Fail unless all results are right, and are what they were when the calls returned."""
        for done in self._done:
            compare(self.subject, done.found, done.expected, done.context)
        for done in self._done:
            if done.output is None or OUTPUT not in done.found:
                continue
            kept = done.found[OUTPUT]
            now = done.output[: kept.shape[0]]
            if not torch.equal(bits(now), bits(kept)):
                fail(f"{done.context}the output was changed by a later call; it must be new memory")


def refill(target: Any, source: Any, op_cases: OpCases) -> None:
    """Give ``target`` the contents of ``source``; what is longer keeps its end.

    Arguments that ``op_cases`` calls fixed keep theirs.
    """
    contents = dict(tensors_of(source))
    for path, values in tensors_of(target):
        found = contents[path]
        if named(path, op_cases.names) not in op_cases.fixed and found.numel():
            values[: found.shape[0]] = found


def other_views(arguments: Any) -> Any:
    """Return the same memory as tensors that are other objects."""
    return map_tensors(arguments, lambda path, values: values.view(values.shape))


def _inputs(subject: Subject, arguments: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    targets = {id(values) for values in subject.op_cases.targets(arguments).values()}
    targets |= {id(values) for values in subject.op_cases.writable(arguments)}
    return {
        path: (values, values.clone())
        for path, values in tensors_of(arguments)
        if id(values) not in targets
    }


def _check_inputs(
    subject: Subject,
    inputs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    arguments: Any,
    where: str,
) -> None:
    for path, (values, before) in inputs.items():
        if not torch.equal(bits(values), bits(before)):
            name = named(path, subject.op_cases.names)
            fail(f"{where}it changed {name}, which the contract does not let it change")
