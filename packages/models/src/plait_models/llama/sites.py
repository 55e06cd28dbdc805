"""Where adapters may act in a Llama."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels.sites import LoraSite

if TYPE_CHECKING:
    from plait_models.config import ModelConfig


@dataclass(frozen=True)
class LayerSites:
    """Sites of one layer, those that share an input together."""

    qkv: tuple[LoraSite, ...]
    o: tuple[LoraSite, ...]
    gate_up: tuple[LoraSite, ...]
    down: tuple[LoraSite, ...]


@dataclass(frozen=True)
class LlamaSites:
    """Sites of a model."""

    embed: tuple[LoraSite, ...]
    layers: tuple[LayerSites, ...]
    head: tuple[LoraSite, ...]

    @property
    def all(self) -> tuple[LoraSite, ...]:
        """Every site; ``all[i].index == i``."""
        in_layers = (
            site for one in self.layers for site in (*one.qkv, *one.o, *one.gate_up, *one.down)
        )
        return (*self.embed, *in_layers, *self.head)


SITES_A_LAYER = 7


def make_sites(config: ModelConfig) -> LlamaSites:
    """List the sites of a model; columns of packed projections as ``llama.weights`` packs them."""
    vocab, hidden = config.vocab_size, config.hidden_size
    head_index = 1 + SITES_A_LAYER * config.layers
    return LlamaSites(
        embed=(LoraSite(0, "embed_tokens", "embed", vocab, hidden),),
        layers=tuple(_layer(config, layer) for layer in range(config.layers)),
        head=(LoraSite(head_index, "lm_head", "head", hidden, vocab),),
    )


def _layer(config: ModelConfig, layer: int) -> LayerSites:
    hidden, intermediate = config.hidden_size, config.intermediate_size
    q, kv = config.q_size, config.kv_size
    first = 1 + SITES_A_LAYER * layer
    attention, mlp = f"layers.{layer}.self_attn", f"layers.{layer}.mlp"
    return LayerSites(
        qkv=(
            LoraSite(first, f"{attention}.q_proj", "qkv", hidden, q, 0),
            LoraSite(first + 1, f"{attention}.k_proj", "qkv", hidden, kv, q),
            LoraSite(first + 2, f"{attention}.v_proj", "qkv", hidden, kv, q + kv),
        ),
        o=(LoraSite(first + 3, f"{attention}.o_proj", "o", q, hidden),),
        gate_up=(
            LoraSite(first + 4, f"{mlp}.gate_proj", "gate_up", hidden, intermediate, 0),
            LoraSite(first + 5, f"{mlp}.up_proj", "gate_up", hidden, intermediate, intermediate),
        ),
        down=(LoraSite(first + 6, f"{mlp}.down_proj", "down", intermediate, hidden),),
    )
