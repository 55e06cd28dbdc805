"""The linears of a model that adapters act on: names, sizes, parameters."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_models.config import ModelConfig

LINEARS: Mapping[str, str] = MappingProxyType(
    {
        "q_proj": "self_attn",
        "k_proj": "self_attn",
        "v_proj": "self_attn",
        "o_proj": "self_attn",
        "gate_proj": "mlp",
        "up_proj": "mlp",
        "down_proj": "mlp",
    }
)
"""The linears of a layer, each with the module that holds it."""


def linear_sizes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return in and out features of each of ``LINEARS``."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (hidden, config.q_size),
        "k_proj": (hidden, config.kv_size),
        "v_proj": (hidden, config.kv_size),
        "o_proj": (config.q_size, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }


def linear_parameters(config: ModelConfig) -> int:
    """Return the weights of the linears of all layers, the head's not among them."""
    sizes = linear_sizes(config).values()
    return config.layers * sum(inputs * outputs for inputs, outputs in sizes)


def adapter_parameters(config: ModelConfig, targets: Sequence[str], rank: int) -> int:
    """Return the values of an adapter of that rank on the linears ``targets`` of all layers."""
    sizes = linear_sizes(config)
    return config.layers * rank * sum(sum(sizes[target]) for target in targets)


def check_targets(targets: Sequence[str]) -> None:
    """Check names of linears.

    Raises
    ------
    InputError
        If one is unknown, or named twice.
    """
    unknown = [target for target in targets if target not in LINEARS]
    if unknown or len(set(targets)) < len(targets):
        text = (
            f"target modules {', '.join(targets)!r} are not distinct names of linears; "
            f"allowed: {', '.join(LINEARS)}"
        )
        raise InputError(text)
