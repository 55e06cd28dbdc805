"""A backend answers with reasons, and takes what it declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_kernels.config import DTYPES, OpConfig
from plait_kernels.device import Device
from plait_testing.checks.composites import check_uses
from plait_testing.failure import fail

if TYPE_CHECKING:
    from plait_kernels.backend import Backend, Kernel
    from plait_testing.case import OpCases

DEVICES = (
    Device("cpu", name="CPU"),
    Device("cuda"),
    Device("cuda", (7, 0), "an old GPU"),
    Device("cuda", (9, 0), "a GPU"),
    Device("cuda", (99, 0), "a future GPU"),
)
"""Machines that a probe is asked about."""


def check_reasons(what: str, answer: object) -> bool:
    """Fail unless an answer is a tuple of texts; return whether it means yes."""
    if not isinstance(answer, tuple):
        fail(
            f"{what} returned {answer!r}; return a tuple of reasons against, empty if there is none"
        )
    for reason in answer:
        if not isinstance(reason, str) or not reason.strip():
            fail(f"{what} gave the reason {reason!r}; every reason is a text that says something")
    return not answer


def check_probe(backend: Backend) -> None:
    """Ask the probe about machines of every kind."""
    for device in DEVICES:
        check_reasons(f"probe({device})", _ask("probe", backend.probe, device))


def check_answers(kernel: Kernel, op_cases: OpCases) -> None:
    """Ask ``supports`` about every case, also in dtypes that the kernel does not declare."""
    for case in op_cases.cases:
        for dtype in DTYPES:
            for bucket in case.buckets:
                config = case.config(kernel.op, dtype, bucket)
                accepted = check_reasons(
                    f"supports({config})", _ask("supports", kernel.supports, config)
                )
                if accepted and case.is_nonsense:
                    fail(f"supports({config}) accepted what nobody can compute; give a reason")


def check_declaration(kernel: Kernel, op_cases: OpCases) -> None:
    """Every declared dtype is taken for some case, and no other backend is used silently.

    What else a declaration may say the loader checks.
    """
    check_uses(kernel)
    for dtype in set(kernel.dtypes) & set(op_cases.dtypes):
        refusals = [
            reasons
            for case in op_cases.cases
            for bucket in case.buckets
            if (reasons := _supports(kernel, case.config(kernel.op, dtype, bucket)))
        ]
        asked = sum(len(case.buckets) for case in op_cases.cases)
        if len(refusals) == asked:
            fail(
                f"its kernel for {kernel.op} declares {dtype} and refuses all {asked} cases, the "
                f"first with {refusals[0]}; leave the dtype out of Kernel.dtypes"
            )


def _supports(kernel: Kernel, config: OpConfig) -> Any:
    return _ask("supports", kernel.supports, config)


def _ask(what: str, predicate: Any, subject: object) -> object:
    try:
        return predicate(subject)
    except Exception as error:
        fail(
            f"{what}({subject}) raised {type(error).__name__}: {error}; "
            "return a reason for what cannot be done"
        )
