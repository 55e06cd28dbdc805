"""KernelConformance: the standard tests of a kernel backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from plait_testing.checks.agreement import check_agreement
from plait_testing.checks.graphs import check_graph
from plait_testing.checks.light_import import check_light_import
from plait_testing.checks.reasons import check_answers, check_declaration, check_probe
from plait_testing.checks.repeats import check_repeats
from plait_testing.checks.state import check_calls
from plait_testing.checks.writes import check_writes
from plait_testing.failure import fail

if TYPE_CHECKING:
    from plait_kernels.backend import Backend, Kernel
    from plait_testing.case import OpCases
    from plait_testing.departures import Narrowing
    from plait_testing.subject import Subject


class KernelConformance:
    """Derive from this, name your backend, and pytest runs the standard tests on it.

    Every kernel of the backend is tried on every case that it does not refuse, in every dtype
    and bucket; see ``plait_testing.cases``. A standard test that is overridden, and cases that
    are left out, must be declared with a reason (``deviation``, ``Narrowing``); tests of your own
    may be added freely.

    Attributes
    ----------
    backend : str
        Name of the backend, as in ``kernels=``.
    device : str
        ``"cpu"``, ``"cuda"``, or ``"auto"`` = the current CUDA device if there is one.
    narrowing : Narrowing | None
        Which part of the cases is run.
    cuts_digits : str
        Why results of half precision are cut off instead of rounded, as some interpreters do; they
        may then be twice as far from what is exact. Empty: they are rounded.

    Examples
    --------
    >>> class TestMine(KernelConformance):
    ...     backend = "mine"
    """

    backend: ClassVar[str]
    device: ClassVar[str] = "auto"
    narrowing: ClassVar[Narrowing | None] = None
    cuts_digits: ClassVar[str] = ""

    def test_is_registered(self, why_not_registered: str) -> None:
        """Its entry point is found and loads; otherwise no other standard test is collected."""
        if why_not_registered:
            fail(why_not_registered)

    def test_is_declared_lightly(self, backend_under_test: Backend) -> None:
        """Declaring it imports neither torch nor a kernel library, nor its factories."""
        check_light_import(backend_under_test)

    def test_probe_answers_with_reasons(self, backend_under_test: Backend) -> None:
        """The probe returns a tuple of reasons for every kind of machine."""
        check_probe(backend_under_test)

    def test_answers_with_reasons(self, kernel: Kernel, op_cases: OpCases) -> None:
        """``supports`` returns a tuple of reasons for every config."""
        check_answers(kernel, op_cases)

    def test_takes_what_it_declares(self, kernel: Kernel, op_cases: OpCases) -> None:
        """No dtype is declared that the kernel never takes."""
        check_declaration(kernel, op_cases)

    def test_agrees_with_reference(self, subject: Subject) -> None:
        """The results are the reference's, as nearly as the op's roundings allow."""
        check_agreement(subject)

    def test_writes_only_its_outputs(self, subject: Subject) -> None:
        """All of the output is written, and nothing else is."""
        check_writes(subject)

    def test_gives_the_same_bits_twice(self, subject: Subject) -> None:
        """Equal arguments give equal bits."""
        check_repeats(subject)

    def test_follows_every_call(self, subject: Subject) -> None:
        """Results depend on the arguments of the call, whatever was called before and since."""
        check_calls(subject)

    def test_replays_in_a_graph(self, subject: Subject) -> None:
        """A captured call follows the contents of its tensors; of graph_safe kernels."""
        check_graph(subject)
