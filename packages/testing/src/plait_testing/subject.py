"""Subject: one kernel on one case, which is what most of the standard tests look at."""

from __future__ import annotations

import importlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from plait_testing.references import References, results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.backend import Kernel
    from plait_kernels.config import OpConfig
    from plait_testing.accuracy import Expected
    from plait_testing.case import Case, OpCases


@dataclass(frozen=True, eq=False)
class Subject:
    """A kernel, and the case, dtype and bucket for which it says that it can.

    Attributes
    ----------
    backend : str
        Name of the backend.
    kernel : Kernel
    op_cases : OpCases
        Of the kernel's op.
    case : Case
    dtype, bucket : str
    device : str
        ``"cpu"`` or ``"cuda"``.
    references : References
    is_cut : bool
        Whether numbers are cut off instead of rounded; see ``KernelConformance``.
    """

    backend: str
    kernel: Kernel
    op_cases: OpCases
    case: Case
    dtype: str
    bucket: str
    device: str
    references: References
    is_cut: bool = False

    @property
    def is_of_calls(self) -> bool:
        """Whether the case is of the test that calls an implementation many times."""
        return bool(self.case.further)

    @property
    def config(self) -> OpConfig:
        """The config that the implementation is made for."""
        return self.case.config(self.kernel.op, self.dtype, self.bucket)

    @property
    def seed(self) -> int:
        """Seed of the case's arguments; ``seed + 1`` makes others of the same shapes."""
        return zlib.crc32(f"{self.kernel.op} {self.case.name}".encode())

    def make(self, bucket: str = "") -> Any:
        """Import the kernel's factory and make a new implementation, maybe for another bucket."""
        module, _, function = self.kernel.factory.partition(":")
        config = self.case.config(self.kernel.op, self.dtype, bucket or self.bucket)
        return getattr(importlib.import_module(module), function)(config)

    @property
    def has_call(self) -> bool:
        """Whether the implementation has the call that the case is of."""
        if not self.case.optional_call:
            return True
        try:
            return hasattr(self.make(), self.case.optional_call)
        except Exception:
            # Its tests will say what is wrong with it.
            return True

    def arguments(self, *, further: int = 0) -> Any:
        """Make the arguments, the same at every call; ``further`` = 1, 2, … makes others."""
        return self.op_cases.arguments(self.case, self.seed + further, self.dtype, self.device)

    def prepare(self, implementation: Any, arguments: Any) -> Any:
        """Do the work that comes before the first call; returns what ``call`` takes."""
        with torch.inference_mode():
            return self.op_cases.prepare(implementation, arguments)

    def call(self, implementation: Any, prepared: Any) -> torch.Tensor | None:
        """Call as the engine does, without autograd."""
        with torch.inference_mode():
            return self.op_cases.call(implementation, prepared)

    def run(self, implementation: Any, arguments: Any) -> Mapping[str, Any]:
        """Prepare and call once; returns the results by name."""
        output = self.call(implementation, self.prepare(implementation, arguments))
        return results(self.op_cases, arguments, output)

    def expected(self) -> Mapping[str, Expected]:
        """Return what the reference makes of ``arguments()``."""
        return self.references.results(self.op_cases, self.case, self.seed, self.dtype)

    @property
    def torch_device(self) -> torch.device:
        """The device of every tensor."""
        if self.device == "cuda":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device(self.device)
