"""Which tests a class gets, under which ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from plait_testing.cases import load_cases
from plait_testing.plugin import NOT_DECLARED
from plait_testing.standard import deviations
from plait_testing.subject import Subject

if TYPE_CHECKING:
    from plait_testing.session import ConformanceSession

CALLS_TEST = "test_follows_every_call"
GRAPH_TEST = "test_replays_in_a_graph"


def parametrize(metafunc: pytest.Metafunc, session: ConformanceSession) -> None:
    """Give a standard test its parameters."""
    cls: Any = metafunc.cls
    if "subject" in metafunc.fixturenames:
        names = {id(kernel): name for name, kernel in session.kernels(cls).items()}
        reason = session.why_idle(cls)
        name = metafunc.function.__name__
        subjects = tuple(
            subject
            for subject in session.subjects(cls)
            if subject.is_of_calls == (name == CALLS_TEST)
        )
        reason = reason or "its narrowing leaves no such case"
        if metafunc.function.__name__ == GRAPH_TEST:
            safe = tuple(subject for subject in subjects if subject.kernel.graph_safe)
            if subjects and not safe:
                undeclared = pytest.param(None, id="none", marks=getattr(pytest.mark, NOT_DECLARED))
                metafunc.parametrize("subject", [undeclared])
                return
            subjects = safe
        found = [
            pytest.param(subject, id=_id(subject, names[id(subject.kernel)]))
            for subject in subjects
        ]
        metafunc.parametrize("subject", found or [_nothing(reason)])
    elif {"kernel", "op_cases"} <= set(metafunc.fixturenames):
        kernels = session.kernels(cls).items()
        parameters = [
            pytest.param(kernel, load_cases(kernel.op), id=name) for name, kernel in kernels
        ]
        nothing = _nothing("there is no kernel", None)
        metafunc.parametrize(("kernel", "op_cases"), parameters or [nothing])


def describe(item: pytest.Item, session: ConformanceSession) -> dict[str, Any]:
    """Say what a test looks at, in plain data that can be sent between processes."""
    cls: Any = getattr(item, "cls", None)
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    subject = parameters.get("subject")
    found = subject if isinstance(subject, Subject) else None
    return {
        "backend": cls.backend,
        "device": found.device if found else _device(cls, session),
        "op": found.kernel.op if found else "",
        "case": _id(found, found.kernel.factory) if found else "",
        "deviations": deviations(cls),
        "idle": session.why_missing(cls.backend) or session.why_idle(cls),
    }


def _id(subject: Subject, kernel: str) -> str:
    return "-".join((kernel, subject.dtype, subject.bucket, subject.case.name))


def _nothing(reason: str, *further: None) -> Any:
    return pytest.param(None, *further, id="none", marks=pytest.mark.skip(reason=reason))


def _device(cls: Any, session: ConformanceSession) -> str:
    subjects = session.subjects(cls)
    return subjects[0].device if subjects else str(cls.device)
