"""A whole Llama, bound to the kernels of one token bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_models.llama.layers import Attention, Embedding, GatedProjection, Mlp, Projection, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from plait_kernels.lora_types import LoraBatch
    from plait_models.config import ModelConfig
    from plait_models.llama.prepared import PreparedLayer, PreparedWeights
    from plait_models.llama.sites import LayerSites, LlamaSites
    from plait_models.model import StepInputs


class Network:
    """The layers in their order.

    Parameters
    ----------
    config : ModelConfig
    weights : PreparedWeights
    sites : LlamaSites
    cos_sin : Tensor, float32 [max_position, rotary_dim]
    kernels : Mapping[str, object]
        One entry of what ``llama.calls.bind`` returns.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PreparedWeights,
        sites: LlamaSites,
        cos_sin: torch.Tensor,
        kernels: Mapping[str, Any],
    ) -> None:
        self._eps = config.rms_norm_eps
        self._first_norm = kernels["first_norm"]
        self._add_norm = kernels["add_norm"]
        self._attention = kernels["attention"]
        self._embedding = Embedding(weights.embedding, kernels["lora.embed"], sites.embed)
        self._head = Projection(
            weights.head, kernels["linear.head"], kernels["lora.head"], sites.head
        )
        self._first_norm_weight = weights.layers[0].input_norm
        # The norm after a layer is the next layer's first, so that it can be fused with the
        # addition of the residual.
        next_norms = (*(layer.input_norm for layer in weights.layers[1:]), weights.norm)
        self._layers = tuple(
            (
                _attention(config, layer, at, cos_sin, kernels),
                layer.post_attention_norm,
                _mlp(layer, at, kernels),
                next_norm,
            )
            for layer, at, next_norm in zip(weights.layers, sites.layers, next_norms, strict=True)
        )

    def forward(self, inputs: StepInputs) -> torch.Tensor:
        """Return normed hidden states [tokens, hidden]."""
        add_norm, eps = self._add_norm, self._eps
        step = Step.of(inputs, self._attention.plan(inputs.attention))
        embed_batch = inputs.lora if "embed" in inputs.site_groups else None
        residual = self._embedding(inputs.token_ids, embed_batch)
        x: torch.Tensor = self._first_norm(residual, self._first_norm_weight, eps)
        kvs = inputs.kv.unbind(1)
        for (attention, middle_norm, mlp, next_norm), kv in zip(self._layers, kvs, strict=True):
            x = attention(x, kv, step)
            x = add_norm(x, residual, middle_norm, eps)
            x = mlp(x, step)
            x = add_norm(x, residual, next_norm, eps)
        return x

    def logits(
        self, hidden: torch.Tensor, batch: LoraBatch | None, out: torch.Tensor | None
    ) -> torch.Tensor:
        """Return logits, float32 [rows, vocab_size]: ``out``, or a new tensor."""
        logits = self._head(hidden, batch)
        return logits.float() if out is None else out.copy_(logits)


def _attention(
    config: ModelConfig,
    weights: PreparedLayer,
    sites: LayerSites,
    cos_sin: torch.Tensor,
    kernels: Mapping[str, Any],
) -> Attention:
    return Attention(
        Projection(weights.qkv, kernels["linear.qkv"], kernels["lora.qkv"], sites.qkv),
        Projection(weights.o, kernels["linear.o"], kernels["lora.o"], sites.o),
        rotary=kernels["rotary"],
        kv_write=kernels["kv_write"],
        attention=kernels["attention"],
        cos_sin=cos_sin,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
    )


def _mlp(weights: PreparedLayer, sites: LayerSites, kernels: Mapping[str, Any]) -> Mlp:
    gate_up = GatedProjection(
        weights.gate_up,
        kernels["linear.gate_up"],
        kernels["lora.gate_up"],
        sites.gate_up,
        activation=kernels["activation"],
        expand_silu_and_mul=kernels["expand_silu_and_mul"],
    )
    down = Projection(weights.down, kernels["linear.down"], kernels["lora.down"], sites.down)
    return Mlp(gate_up, down)
