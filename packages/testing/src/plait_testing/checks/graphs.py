"""A kernel that is declared graph_safe follows its inputs when a captured call is replayed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from plait_testing.calls import refill
from plait_testing.checks.agreement import compare
from plait_testing.checks.host_waits import NoWaitingMethods, NoWaitingOperators
from plait_testing.failure import fail
from plait_testing.guarded import GuardedMemory
from plait_testing.references import compute, results

if TYPE_CHECKING:
    from plait_testing.subject import Subject


def check_graph(subject: Subject) -> None:
    """Replay a call after the contents of its tensors were replaced in place.

    Without a GPU a second call takes the place of the replay: operators that make the host wait
    fail in it, and it too must follow the new contents of the same tensor objects.
    """
    op_cases = subject.op_cases
    second = subject.arguments(further=1)
    static = GuardedMemory(op_cases.stage(subject.arguments(), second)).arguments
    implementation = subject.make()
    prepared = subject.prepare(implementation, static)
    if subject.device == "cuda":
        output = _replay_in_cuda_graph(subject, implementation, prepared, static, second)
    else:
        # The first call may compile and tune, as before a capture.
        subject.call(implementation, prepared)
        refill(static, second, op_cases)
        with NoWaitingMethods(), NoWaitingOperators():  # type: ignore[no-untyped-call]
            output = subject.call(implementation, prepared)
    expected_arguments = GuardedMemory(op_cases.stage(subject.arguments(), second)).arguments
    refill(expected_arguments, second, op_cases)
    expected = compute(op_cases, subject.case, subject.dtype, expected_arguments)
    context = "after the contents of its tensors were replaced in place, "
    compare(subject, results(op_cases, static, output), expected, context)


def _replay_in_cuda_graph(
    subject: Subject, implementation: Any, prepared: Any, static: Any, second: Any
) -> torch.Tensor | None:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        subject.call(implementation, prepared)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with warnings.catch_warnings(), torch.cuda.graph(graph):
            # A call without tokens may well launch nothing.
            warnings.filterwarnings("ignore", "The CUDA Graph is empty")
            output = subject.call(implementation, prepared)
    except RuntimeError as error:
        fail(
            f"it is declared graph_safe, and cannot be captured: {error}; keep decisions on the "
            "device, or declare graph_safe=False",
            shows_where=True,
        )
    refill(static, second, subject.op_cases)
    graph.replay()
    torch.cuda.synchronize()
    return output
