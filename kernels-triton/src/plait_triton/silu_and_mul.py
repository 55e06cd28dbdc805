"""``silu_and_mul``: one pass over the packed gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.launching import LAUNCHER, Launcher, Recorder, without_memory
from plait_triton.sizes import ceil_div

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant

_BLOCK = 1024


@triton.jit
def silu_and_mul_kernel(x, y, stride, features, BLOCK: tl.constexpr, PDL: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < features
    wait_for_inputs(PDL)
    let_next_start(PDL)
    gate = tl.load(x + token * stride + column, mask=inside).to(tl.float32)
    up = tl.load(x + token * stride + features + column, mask=inside).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y + token * features + column, value.to(y.dtype.element_ty), mask=inside)


class SiluAndMul:
    """See ``plait_kernels.ops.silu_and_mul`` for the contract."""

    def __init__(self, config: OpConfig, launcher: Launcher = LAUNCHER) -> None:
        self._config = config
        self._launcher = launcher

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``silu(first half) · second half``, [tokens, features]."""
        tokens, features = x.shape[0], x.shape[1] // 2
        y = torch.empty((tokens, features), dtype=x.dtype, device=x.device)
        if tokens:
            grid = (tokens, ceil_div(features, _BLOCK))
            options = self._launcher.options(x.device)
            self._launcher.run(
                silu_and_mul_kernel, grid, x, y, x.stride(0), features, BLOCK=_BLOCK, **options
            )
        return y

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernel; see ``plait_kernels.warm_up``."""
        recorder = Recorder(facts.device)
        features, dtype = self._config.get("features"), getattr(torch, self._config.dtype)
        SiluAndMul(self._config, recorder)(without_memory(1, 2 * int(features or 0), dtype=dtype))
        return recorder.variants


def make(config: OpConfig) -> SiluAndMul:
    """Make the implementation; it takes any config."""
    return SiluAndMul(config)
