"""The layers of a Llama, each bound to the kernels of one token bucket.

They run in Python on every step, so everything that can be looked up is looked up when they are
made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite
    from plait_models.model import StepInputs


@dataclass(slots=True, eq=False)
class Step:
    """What all layers share in one step.

    Attributes
    ----------
    positions, slot_mapping : Tensor, int64 [tokens]
    plan : object
        What ``attention.plan`` returned.
    qkv, o, gate_up, down : LoraBatch | None
        None: the group launches nothing.
    """

    positions: torch.Tensor
    slot_mapping: torch.Tensor
    plan: Any
    qkv: LoraBatch | None
    o: LoraBatch | None
    gate_up: LoraBatch | None
    down: LoraBatch | None

    @classmethod
    def of(cls, inputs: StepInputs, plan: object) -> Step:
        """Look up which groups run."""
        batch, groups = inputs.lora, inputs.site_groups
        return cls(
            inputs.positions,
            inputs.slot_mapping,
            plan,
            batch if "qkv" in groups else None,
            batch if "o" in groups else None,
            batch if "gate_up" in groups else None,
            batch if "down" in groups else None,
        )


class Projection:
    """A linear layer and the sites whose columns it computes.

    Parameters
    ----------
    weight : object
        As ``linear.prepare`` returned it.
    linear : Callable
        Implementation of the op ``linear``.
    lora : object
        Implementation of the op ``lora``.
    sites : tuple[LoraSite, ...]
    """

    __slots__ = ("_expand", "_linear", "_shrink", "_sites", "_weight")

    def __init__(
        self,
        weight: Any,
        linear: Callable[[torch.Tensor, Any], torch.Tensor],
        lora: Any,
        sites: tuple[LoraSite, ...],
    ) -> None:
        self._weight = weight
        self._linear = linear
        self._shrink = lora.shrink
        self._expand = lora.expand
        self._sites = sites

    def __call__(self, x: torch.Tensor, batch: LoraBatch | None) -> torch.Tensor:
        """Map x [tokens, in] to [tokens, out]."""
        if batch is None:
            return self._linear(x, self._weight)
        h, y = self._products(x, batch)
        self._expand(h, self._sites, batch, y)
        return y

    def _products(self, x: torch.Tensor, batch: LoraBatch) -> tuple[Any, torch.Tensor]:
        """Return what expand takes: what shrink made of x, and the linear's y [tokens, out]."""
        # Before the linear, so that a backend may run the two side by side.
        h = self._shrink(x, self._sites, batch)
        return h, self._linear(x, self._weight)


class GatedProjection(Projection):
    """Gate and up of a feed-forward layer, and the activation: silu(gate(x)) · up(x).

    Parameters
    ----------
    weight, linear, lora, sites
        As of ``Projection``.
    activation : Callable
        Implementation of the op ``silu_and_mul``.
    expand_silu_and_mul : Callable | None
        Of the implementation of ``lora``; None: expand and the activation follow one another.
    """

    __slots__ = ("_activation", "_expand_silu_and_mul")

    def __init__(
        self,
        weight: Any,
        linear: Callable[[torch.Tensor, Any], torch.Tensor],
        lora: Any,
        sites: tuple[LoraSite, ...],
        *,
        activation: Callable[[torch.Tensor], torch.Tensor],
        expand_silu_and_mul: Callable[..., torch.Tensor] | None,
    ) -> None:
        super().__init__(weight, linear, lora, sites)
        self._activation = activation
        self._expand_silu_and_mul = expand_silu_and_mul

    def __call__(self, x: torch.Tensor, batch: LoraBatch | None) -> torch.Tensor:
        """Map x [tokens, in] to [tokens, intermediate]."""
        if batch is None or self._expand_silu_and_mul is None:
            return self._activation(super().__call__(x, batch))
        h, y = self._products(x, batch)
        return self._expand_silu_and_mul(h, self._sites, batch, y)


class Embedding:
    """The embedding matrix and its site.

    Parameters
    ----------
    weight : Tensor [vocab_size, hidden]
    lora : object
        Implementation of the op ``lora``.
    sites : tuple[LoraSite, ...]
    """

    __slots__ = ("_lora", "_sites", "_weight")

    def __init__(self, weight: torch.Tensor, lora: Any, sites: tuple[LoraSite, ...]) -> None:
        self._weight = weight
        self._lora = lora
        self._sites = sites

    def __call__(self, token_ids: torch.Tensor, batch: LoraBatch | None) -> torch.Tensor:
        """Map token ids, int64 [tokens], to [tokens, hidden]."""
        y = torch.nn.functional.embedding(token_ids, self._weight)
        if batch is not None:
            h = self._lora.shrink(token_ids, self._sites, batch)
            self._lora.expand(h, self._sites, batch, y)
        return y


class Attention:
    """Self-attention over the KV cache.

    Parameters
    ----------
    qkv, o : Projection
    rotary, kv_write : Callable
        Implementations of the ops ``rotary_embedding`` and ``kv_write``.
    attention : object
        Implementation of the op ``attention``.
    cos_sin : Tensor, float32 [max_position, rotary_dim]
    heads, kv_heads, head_dim : int
    """

    __slots__ = ("_cos_sin", "_head_shape", "_kv_write", "_o", "_qkv", "_rotary", "_run", "_split")

    def __init__(
        self,
        qkv: Projection,
        o: Projection,
        *,
        rotary: Callable[..., None],
        kv_write: Callable[..., None],
        attention: Any,
        cos_sin: torch.Tensor,
        heads: int,
        kv_heads: int,
        head_dim: int,
    ) -> None:
        self._qkv = qkv
        self._o = o
        self._rotary = rotary
        self._kv_write = kv_write
        self._run = attention.run
        self._cos_sin = cos_sin
        self._split = [heads, kv_heads, kv_heads]
        self._head_shape = (-1, heads + 2 * kv_heads, head_dim)

    def __call__(self, x: torch.Tensor, kv: torch.Tensor, step: Step) -> torch.Tensor:
        """Map x [tokens, hidden] to the same shape, and write k and v to this layer's kv."""
        packed = self._qkv(x, step.qkv).view(self._head_shape)
        # [tokens, heads, head_dim] each, strided views of packed.
        q, k, v = packed.split_with_sizes(self._split, dim=1)
        self._rotary(step.positions, q, k, self._cos_sin)
        self._kv_write(k, v, kv, step.slot_mapping)
        return self._o(self._run(q, kv, step.plan).flatten(1), step.o)


class Mlp:
    """The gated feed-forward layer: down(silu(gate(x)) · up(x)).

    Parameters
    ----------
    gate_up : GatedProjection
    down : Projection
    """

    __slots__ = ("_down", "_gate_up")

    def __init__(self, gate_up: GatedProjection, down: Projection) -> None:
        self._gate_up = gate_up
        self._down = down

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Map x [tokens, hidden] to the same shape."""
        return self._down(self._gate_up(x, step.gate_up), step.down)
