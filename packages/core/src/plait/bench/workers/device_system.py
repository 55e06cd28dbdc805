"""The device alone: how fast it reads and multiplies."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 5
# Far more than any cache holds, and a GEMM as large as those of a long prefill.
_READ_BYTES = {"cuda": 4 << 30, "cpu": 256 << 20}
_GEMM_SIDE = {"cuda": 8192, "cpu": 2048}
_CALLS = {"cuda": 10, "cpu": 1}
# A CPU without instructions for bfloat16 takes half a minute for one GEMM.
_ENOUGH_SECONDS = 5.0


class System:
    """A device of torch's."""

    def measure(self, device: str, dtype: str) -> dict[str, Any]:
        """Measure the bandwidth of reading (on a CPU: of copying) and the rate of a large GEMM.

        Parameters
        ----------
        device : str
            "auto" (the first GPU, else the CPU), "cpu" or "cuda".
        dtype : str
            Of the GEMM.

        Returns
        -------
        dict[str, Any]
            ``name`` of a GPU, else None; ``bytes_per_second``; ``flops_per_second``.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return {
            "name": torch.cuda.get_device_name() if device == "cuda" else None,
            "bytes_per_second": _bytes_per_second(device),
            "flops_per_second": _flops_per_second(device, getattr(torch, dtype)),
        }


def _bytes_per_second(device: str) -> float:
    size = _READ_BYTES[device]
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    if device == "cuda":
        return size / _seconds(lambda: source.sum(), device)
    target = torch.ones_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device)


def _flops_per_second(device: str, dtype: torch.dtype) -> float:
    side = _GEMM_SIDE[device]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / _seconds(lambda: torch.mm(left, right, out=out), device)


def _seconds(call: Callable[[], object], device: str) -> float:
    """Return the best mean time of a call."""
    calls, best, begun = _CALLS[device], float("inf"), perf_counter()
    for _ in range(1 + _ROUNDS):
        started = perf_counter()
        for _ in range(calls):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        # The first round is a slow one, which the best of all forgets.
        best = min(best, (perf_counter() - started) / calls)
        if perf_counter() - begun > _ENOUGH_SECONDS:
            break
    return best
