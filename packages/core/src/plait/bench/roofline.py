"""The least time that a cell can take on a device: bytes over bandwidth, FLOPs over GEMM rate.

With W = weights of the linears and of the head, A = values of an adapter, K = bytes of one token's
keys and values in all layers, s = bytes of a value, b = requests, t = prompt tokens, o = output
tokens, and each sum over the distinct adapters of a step:

========== ======================================= ============================================
cell       bytes                                   FLOPs
========== ======================================= ============================================
decode     s · (W + Σ A) + b · K · (t + o/2)       2 · Σ over rows (W + A)
steady     as decode                               2 · Σ over rows ((t+o−1) / o ·
                                                   (linears + A) + head)
prefill    s · (p · W + Σ A)                       2 · Σ over rows (t · (linears + A) + head)
throughput s · q · (W + Σ A) + b · K · (o−1)       2 · Σ over rows ((t+o−1) · (linears + A)
           · (t + o/2)                             + o · head)
========== ======================================= ============================================

Step i of the o − 1 decode steps reads the keys and values of t + i tokens, on average t + o/2. A
prefill takes at least p = b·t / (token budget) steps, a run at least q = b·o / (most requests at a
time). Left out, so that it stays a bound: activations, rows of the embedding, norms, written keys
and values, and the FLOPs of attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from plait.bench.linears import adapter_parameters, linear_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.bench.offline_cells import OfflineCell
    from plait_models.config import ModelConfig


@dataclass(frozen=True)
class DeviceRates:
    """What a device was measured to do.

    Attributes
    ----------
    bytes_per_second : float
    flops_per_second : float
        Of a large GEMM in the model's dtype.
    """

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Work:
    """What a cell cannot do without; of decode and steady cells, a step of it.

    Attributes
    ----------
    bytes : float
        Read from the device's memory.
    flops : float
    """

    bytes: float
    flops: float

    def seconds(self, rates: DeviceRates) -> float:
        """Return the least time it takes."""
        return max(self.bytes / rates.bytes_per_second, self.flops / rates.flops_per_second)


@dataclass(frozen=True)
class ModelCosts:
    """Sizes of a model and its adapters, all but one in values.

    Attributes
    ----------
    linears, head : int
        Weights of the linears of all layers, and of the head.
    kv_token : int
        Keys and values of one token in all layers.
    adapters : tuple[int, ...]
        Of each adapter.
    value_bytes : int
        Bytes of a value.
    """

    linears: int
    head: int
    kv_token: int
    adapters: tuple[int, ...]
    value_bytes: int

    @classmethod
    def of(
        cls, config: ModelConfig, targets: Sequence[str], ranks: Sequence[int], value_bytes: int
    ) -> Self:
        """Take the sizes of a model, and of adapters of these ranks on the linears ``targets``."""
        return cls(
            linears=linear_parameters(config),
            head=config.vocab_size * config.hidden_size,
            kv_token=2 * config.layers * config.kv_size,
            adapters=tuple(adapter_parameters(config, targets, rank) for rank in ranks),
            value_bytes=value_bytes,
        )


def work(
    cell: OfflineCell, costs: ModelCosts, *, max_num_seqs: int, max_num_batched_tokens: int
) -> Work:
    """Return what ``cell`` cannot do without, as the table above says."""
    b, t, o = cell.requests, cell.prompt_tokens, cell.output_tokens
    at_once = min(b, max_num_seqs)
    weights = costs.linears + costs.head
    distinct = costs.adapters[: cell.adapters]
    if cell.adapters > at_once:
        distinct = tuple(sorted(distinct)[:at_once])
    of_rows = sum(costs.adapters[row] for row in cell.rows()[:b] if row is not None)
    linears = b * costs.linears + of_rows
    context = b * costs.kv_token * (t + o / 2)
    if cell.letter in "DS":
        # Of a steady cell o steps run the prompt, too.
        tokens = 1 if cell.letter == "D" else (t + o - 1) / o
        return Work(
            costs.value_bytes * (weights + sum(distinct) + context),
            2 * (tokens * linears + b * costs.head),
        )
    if cell.letter == "P":
        steps = -(-b * t // max_num_batched_tokens)
        return Work(
            costs.value_bytes * (steps * weights + sum(distinct)),
            2 * (t * linears + b * costs.head),
        )
    steps = -(-b * o // at_once)
    return Work(
        costs.value_bytes * (steps * (weights + sum(distinct)) + (o - 1) * context),
        2 * ((t + o - 1) * linears + b * o * costs.head),
    )
