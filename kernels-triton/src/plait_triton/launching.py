"""How an op's kernels are launched, and how their variants are found without launching any.

Triton compiles a kernel once for every combination of its constants, the dtypes of its pointers,
and what it knows of the numbers and addresses that it is given: see ``plait_triton.variants``. An
op launches through a ``Launcher``. To learn which variants its calls can need, the op calls itself
with tensors that have no memory and a ``Recorder`` in the launcher's place, once for every way in
which its calls are cut. So what is compiled beforehand is what is launched.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from plait_triton import language
from plait_triton.variants import Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Launcher:
    """Launches kernels on the device of their tensors."""

    def run(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Launch a kernel.

        Parameters
        ----------
        kernel : JITFunction
        grid : tuple[int, ...]
            Programs.
        *arguments : Tensor | int | float | None
            What the kernel reads while it runs.
        **constants : object
            Its constexpr arguments, and options of the compiler.
        """
        kernel[grid](*arguments, **constants)

    def options(self, device: torch.device) -> Mapping[str, Any]:
        """Return the keywords that every launch takes: see ``language.launch_options``."""
        return language.launch_options(device)

    def shared_memory(self, device: torch.device) -> int:
        """Return how many bytes of shared memory a program can have."""
        return language.shared_memory(device)

    def has_streams(self, device: torch.device) -> bool:
        """Say whether kernels can run beside each other."""
        return device.type == "cuda"

    def mark(self) -> Any:
        """Return this moment of the current stream, for ``beside``."""
        return torch.cuda.current_stream().record_event()

    @contextlib.contextmanager
    def beside(self, stream: torch.cuda.Stream, since: Any) -> Iterator[None]:
        """Launch on another stream, from ``since`` on; afterwards the current one waits for it."""
        stream.wait_event(since)
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def new_stream(self, device: torch.device) -> Any:
        """Make a stream for ``beside``."""
        return torch.cuda.Stream(device)


LAUNCHER = Launcher()
"""It has no state."""


class Recorder(Launcher):
    """Notes what would be launched; tensors need no memory.

    Parameters
    ----------
    device : torch.device
        That of the launches.

    Attributes
    ----------
    variants : dict[Variant, None]
        What was noted, in order, each once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.variants: dict[Variant, None] = {}

    def run(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Note a launch; nothing is compiled for Triton's interpreter."""
        if language.INTERPRETED.value:
            return
        self.variants[Variant.of(kernel, self._device, arguments, constants)] = None

    def options(self, device: torch.device) -> Mapping[str, Any]:
        """Return those of the device that is prepared for."""
        return super().options(self._device)

    def shared_memory(self, device: torch.device) -> int:
        """Return that of the device that is prepared for."""
        return super().shared_memory(self._device)

    def has_streams(self, device: torch.device) -> bool:
        """Say whether the device that is prepared for has."""
        return super().has_streams(self._device)

    def mark(self) -> Any:
        """Return anything but None."""
        return self

    @contextlib.contextmanager
    def beside(self, stream: Any, since: Any) -> Iterator[None]:
        """Change nothing."""
        yield

    def new_stream(self, device: torch.device) -> Any:
        """Return anything but None."""
        return self


def without_memory(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor for a ``Recorder``: it has a shape, and no memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def rows_without_memory(rows: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Make contiguous [rows, columns] that begin where rows of an activation can begin.

    All do at the same alignment, unless a row is no multiple of 16 bytes.
    """
    memory = without_memory(rows + 1, columns, dtype=dtype)
    return memory[:rows], memory[1:]


def caches_without_memory(
    block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Make caches of a layer, [2, 2, block_size, kv_heads, head_dim], of models of any layers.

    They begin at the same alignment and their blocks are equally far apart, unless those of a layer
    are very small.
    """
    layers = (without_memory(2, n, 2, block_size, kv_heads, head_dim, dtype=dtype) for n in (1, 16))
    return tuple(kv[:, layer] for kv in layers for layer in range(min(2, kv.shape[1])))
