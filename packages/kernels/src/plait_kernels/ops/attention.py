"""The op ``attention``: causal attention of a step's tokens over their rows' paged KV.

Static parameters: ``heads``, ``kv_heads``, ``head_dim``, ``block_size``, ``scale`` (of the scores,
None = 1/√head_dim), and the variants, each None = off: ``window`` (int: a query sees that many of
the latest keys, its own included), ``softcap`` (float c: scores become c · tanh(scores / c)) and
``sinks``. A kernel that lacks a variant refuses it with a reason; there is no reference for
``sinks`` yet.

Query head h reads KV head ``h // (heads / kv_heads)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.errors import KernelError
from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, normal

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1e-2), "float16": (2e-3, 2e-3)}

# Probabilities may be rounded before they multiply the values.
ACCURACY = Accuracy(inner=1)


class Attention(Protocol):
    """What a kernel for ``attention`` is."""

    def plan(self, batch: AttentionBatch) -> Any:
        """Do the work that is the same for every layer of a step.

        Parameters
        ----------
        batch : AttentionBatch
            Rows with queries of any length, 0 included, in any mixture. The table names the
            blocks of a row; a row with queries has at least as many KV tokens.

        Returns
        -------
        object
            The kernel's own, for ``run``; good as long as the tensors of ``batch`` keep their
            values.
        """
        ...

    def run(self, q: torch.Tensor, kv: torch.Tensor, plan: Any) -> torch.Tensor:
        """Attend in one layer.

        Parameters
        ----------
        q : Tensor [tokens, heads, head_dim]
            May be strided in the token dimension. Not changed.
        kv : Tensor [num_blocks, 2, block_size, kv_heads, head_dim]
            One layer of the cache, with the keys and values of this step's tokens already
            written. Its first dimension may be strided. What lies past a row's length is
            unspecified, NaN included, and has no influence. Not changed.
        plan : object
            What ``plan`` returned.

        Returns
        -------
        Tensor [tokens, heads, head_dim]
            New memory, contiguous, in the dtype of q. Tokens past the last row's are
            unspecified. Softmax and sums are float32.
        """
        ...


class ReferenceAttention:
    """One query after another, in float64."""

    def __init__(self, config: OpConfig) -> None:
        if config.get("sinks") is not None:
            msg = (
                f"attention with sinks={config.get('sinks')!r} has no reference; "
                "the reference takes sinks=None only: choose another kernel"
            )
            raise KernelError(msg)
        self._config = config

    def plan(self, batch: AttentionBatch) -> AttentionBatch:
        """Keep the batch as it is."""
        return batch

    def run(self, q: torch.Tensor, kv: torch.Tensor, plan: AttentionBatch) -> torch.Tensor:
        """Attend in one layer."""
        out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
        starts = plan.query_start.tolist()
        for row, length in enumerate(plan.kv_length.tolist()):
            queries = range(starts[row], starts[row + 1])
            blocks = plan.block_table[row].tolist()
            if not queries:
                continue
            keys, values = _gather(kv, blocks, length)
            for distance_to_last, token in enumerate(reversed(queries)):
                seen = length - distance_to_last
                attended = self._attend(q[token].double(), keys[:seen], values[:seen])
                out[token] = attended.to(q.dtype)
        return out

    def _attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attend with one query [heads, d] to all keys and values [length, kv_heads, d]."""
        heads, head_dim = q.shape
        window, softcap, scale = (self._config.get(n) for n in ("window", "softcap", "scale"))
        if window is not None:
            keys, values = keys[-int(window) :], values[-int(window) :]
        group = heads // keys.shape[1]
        keys, values = (x.double().repeat_interleave(group, dim=1) for x in (keys, values))
        scores = (q * keys).sum(dim=-1) * (head_dim**-0.5 if scale is None else float(scale))
        if softcap is not None:
            scores = float(softcap) * torch.tanh(scores / float(softcap))
        return (scores.softmax(dim=0).unsqueeze(-1) * values).sum(dim=0)


def _gather(kv: torch.Tensor, blocks: list[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    block_size = kv.shape[2]
    tokens = [kv[blocks[i // block_size], :, i % block_size] for i in range(length)]
    keys, values = torch.stack(tokens, dim=1)
    return keys, values


def reference(config: OpConfig) -> Attention:
    """Make the reference.

    Raises
    ------
    KernelError
        The config asks for sinks.
    """
    return ReferenceAttention(config)


def inputs(
    seed: int,
    *,
    rows: tuple[tuple[int, int], ...] = ((1, 5), (3, 3), (1, 1), (0, 4), (2, 9), (1, 12)),
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    layers: int = 3,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
    """Make random arguments ``(q, kv, batch)``.

    ``rows`` are (query length, KV length). q is the head of a packed qkv and kv the middle one of
    ``layers`` layers; what lies past a row's length, in its last block and in blocks that no row
    owns, is NaN, and the table names such a block past the end of a row.
    """
    source = generator(seed)
    max_blocks = max([-(-length // block_size) for _, length in rows], default=0) + 1
    num_blocks = sum(-(-length // block_size) for _, length in rows) + 1
    cache = normal(source, num_blocks, layers, 2, block_size, kv_heads, head_dim)
    order = torch.randperm(num_blocks, generator=source).tolist()
    unowned = order.pop()
    cache[unowned] = torch.nan
    table = torch.full((len(rows), max_blocks), unowned, dtype=torch.int32)
    for row, (_, length) in enumerate(rows):
        for place in range(-(-length // block_size)):
            table[row, place] = order.pop()
        if length % block_size:
            cache[table[row, place], :, :, length % block_size :] = torch.nan
    query_start = torch.tensor([0, *(n for n, _ in rows)]).cumsum(0)
    tokens = int(query_start[-1])
    columns = kv_heads * head_dim
    q = normal(source, tokens, heads * head_dim, dtype=dtype, device=device, padding=2 * columns)
    batch = AttentionBatch(
        query_start=query_start.to(device=device, dtype=torch.int32),
        kv_length=torch.tensor([n for _, n in rows], dtype=torch.int32, device=device),
        block_table=table.to(device),
        max_query=max([n for n, _ in rows], default=0),
        max_kv=max([n for _, n in rows], default=0),
    )
    kv = cache.to(device=device, dtype=getattr(torch, dtype))[:, layers // 2]
    return q.view(tokens, heads, head_dim), kv, batch


OP = Op("attention", reference, inputs, TOLERANCE, ACCURACY)
