"""The weights of a Llama as the chosen ``linear`` kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from plait_kernels.weights import DenseWeight
    from plait_models.llama.weights import LlamaWeights


@dataclass(frozen=True, eq=False)
class PreparedLayer:
    """Weights of one layer; projections are what ``linear.prepare`` made of them.

    Attributes
    ----------
    input_norm, post_attention_norm : Tensor [hidden]
    qkv, o, gate_up, down : object
    """

    input_norm: torch.Tensor
    qkv: Any
    o: Any
    post_attention_norm: torch.Tensor
    gate_up: Any
    down: Any


@dataclass(frozen=True, eq=False)
class PreparedWeights:
    """Weights of a model, for the kernels of one token bucket.

    Attributes
    ----------
    embedding : Tensor [vocab_size, hidden]
    layers : tuple[PreparedLayer, ...]
    norm : Tensor [hidden]
    head : object
    """

    embedding: torch.Tensor
    layers: tuple[PreparedLayer, ...]
    norm: torch.Tensor
    head: Any


def prepare(
    weights: LlamaWeights, kernels: Sequence[Mapping[str, Any]]
) -> tuple[PreparedWeights, ...]:
    """Prepare every projection once for each layout that its kernels ask for.

    Parameters
    ----------
    weights : LlamaWeights
        Consumed layer by layer, so that dense and prepared weights are never in memory as a
        whole: ``layers`` and ``named`` are empty afterwards.
    kernels : Sequence[Mapping[str, object]]
        What ``llama.calls.bind`` returns.

    Returns
    -------
    tuple[PreparedWeights, ...]
        Indexed like ``kernels``. Those of one layout share memory.
    """

    def linear(name: str, weight: DenseWeight) -> list[Any]:
        chosen = [one[f"linear.{name}"] for one in kernels]
        layouts = {kernel.layout: kernel for kernel in chosen}
        made = {layout: kernel.prepare(weight) for layout, kernel in layouts.items()}
        return [made[kernel.layout] for kernel in chosen]

    weights.named.clear()
    layers: list[list[PreparedLayer]] = [[] for _ in kernels]
    while weights.layers:
        layer = weights.layers.pop(0)
        projections = zip(
            linear("qkv", layer.qkv),
            linear("o", layer.o),
            linear("gate_up", layer.gate_up),
            linear("down", layer.down),
            strict=True,
        )
        for to, (qkv, o, gate_up, down) in zip(layers, projections, strict=True):
            to.append(
                PreparedLayer(
                    input_norm=layer.input_norm,
                    qkv=qkv,
                    o=o,
                    post_attention_norm=layer.post_attention_norm,
                    gate_up=gate_up,
                    down=down,
                )
            )
    heads = linear("head", weights.head)
    return tuple(
        PreparedWeights(weights.embedding, tuple(of_bucket), weights.norm, head)
        for of_bucket, head in zip(layers, heads, strict=True)
    )
