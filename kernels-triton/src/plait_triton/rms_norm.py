"""``rms_norm``: one pass, a row a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_triton.launching import LAUNCHER, Launcher, Recorder, without_memory
from plait_triton.norm import NormParameters, rms_norm_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant


class RMSNorm:
    """See ``plait_kernels.ops.rms_norm`` for the contract."""

    def __init__(self, parameters: NormParameters, launcher: Launcher = LAUNCHER) -> None:
        self._parameters = parameters
        self._launcher = launcher
        self._hidden = parameters.hidden
        self._block = parameters.block
        self._warps = parameters.warps

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``x / sqrt(mean(x²) + eps) · weight``, [tokens, hidden]."""
        tokens = x.shape[0]
        y = torch.empty((tokens, self._hidden), dtype=x.dtype, device=x.device)
        if tokens:
            self._launcher.run(
                rms_norm_kernel,
                (tokens,),
                x,
                weight,
                y,
                x.stride(0),
                eps,
                HIDDEN=self._hidden,
                BLOCK=self._block,
                num_warps=self._warps,
                **self._launcher.options(x.device),
            )
        return y

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernel; see ``plait_kernels.warm_up``."""
        recorder, dtype = Recorder(facts.device), self._parameters.dtype
        norm = RMSNorm(self._parameters, recorder)
        x = without_memory(1, self._hidden, dtype=dtype)
        weight = without_memory(self._hidden, dtype=dtype)
        norm(x, weight, 1e-6)
        return recorder.variants


def make(config: OpConfig) -> RMSNorm:
    """Make the implementation for one config."""
    return RMSNorm(NormParameters.of(config))
