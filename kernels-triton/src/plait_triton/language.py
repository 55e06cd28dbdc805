"""What all kernels here share: products, and how they follow one another on the device."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch
import triton
import triton.language as tl
from triton.runtime import driver

if TYPE_CHECKING:
    from collections.abc import Mapping

INTERPRETED: Final = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels run under Triton's interpreter, on a CPU."""


@triton.jit
def dot(a, b, acc):
    """Return ``acc + a · b``, float32; float32 operands are not rounded to tf32."""
    if INTERPRETED:
        # The interpreter multiplies bfloat16 as if its bits were another format.
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def bound(number):
    """Return a number of the device as the bound of a loop."""
    if INTERPRETED:
        # There it is an array of one element, which Python takes for no number.
        return number.handle.data.item()
    return number


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Wait until the kernels before this one have finished and their results can be read.

    With ``PDL`` every program of every kernel must call this, whether it reads such results or
    not: the next kernel relies on it for all that came before.

    What is written between steps may be read before it: base weights, and the tables, tiles and
    batches of adapters. A step begins with kernels that take no part in this (torch's), and those
    start when everything before them has finished.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def let_next_start(PDL: tl.constexpr):
    """Allow the next kernel's programs to start, as far as there is room beside this one's.

    A linear does so after it has waited: ``lora``'s shrink, which may come next and reads the same
    x, then need not wait for x.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def bring_near(at, BYTES: tl.constexpr, PDL: tl.constexpr):
    """Have ``BYTES`` from each pointer of ``at`` on brought to the L2 cache; wait for nothing.

    Both are multiples of 16 bytes. With ``PDL``, as no GPU without it has the instruction; without,
    nothing is done.
    """
    if PDL:
        tl.inline_asm_elementwise(
            "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
            "=r,l,r",
            [at, tl.full(at.shape, BYTES, tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@functools.cache
def launch_options(device: torch.device) -> Mapping[str, Any]:
    """Return the keywords that every launch on ``device`` takes.

    ``PDL`` is the constexpr argument for the two functions above, ``launch_pdl`` the launch's
    own: programmatic dependent launch, from compute capability 9.0 on.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return MappingProxyType({"PDL": False})
    return MappingProxyType({"PDL": True, "launch_pdl": True})


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Return how many bytes of shared memory a program can have; on a CPU as on an H100."""
    if device.type != "cuda":
        return 227 * 1024
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(driver.active.utils.get_device_properties(index)["max_shared_mem"])
