"""Rotary position embedding: inverse frequencies and the table of cosines and sines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from plait_kernels.errors import ModelError
from plait_models.files.opening import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_models.fields import Fields

ROPE_TYPES = ("default", "linear", "dynamic", "llama3")


def check_rope(fields: Fields) -> None:
    """Check the types and bounds of what rotary embeddings are made of.

    Parameters
    ----------
    fields : Fields
        A whole config, or its ``rope_scaling`` or ``rope_parameters``.

    Raises
    ------
    ModelError
        Names the field.
    """
    for name in ("rope_type", "type"):
        fields.text(name, nullable=True)
    fields.number("rope_theta", 0, 1e30, nullable=True, over=True)
    for name in ("factor", "low_freq_factor", "high_freq_factor"):
        fields.number(name, 0, 1e6, nullable=True, over=True)
    fields.integer("original_max_position_embeddings", 1, 2**27, nullable=True)


def inverse_frequencies(config: Any, origin: str) -> tuple[float, ...]:
    """Compute the inverse frequencies of a transformers config.

    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", for the default;
    the scaled types are computed by transformers' own table of functions. ``dynamic`` depends on
    the sequence only past ``max_position_embeddings``, which is where plait ends a sequence, so
    that it equals the default there.

    Parameters
    ----------
    config : PreTrainedConfig
        With ``rope_parameters`` (its older spellings are made into that by transformers),
        ``head_dim`` and ``max_position_embeddings``.
    origin : str
        The file, for messages.

    Returns
    -------
    tuple[float, ...]
        head_dim / 2 numbers, each exactly a float32.

    Raises
    ------
    ModelError
        Of a type that is not in ``ROPE_TYPES``, or a partial rotation.
    """
    parameters: Mapping[str, Any] = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        message = (
            f"{origin}: rope scaling of type {shortened(kind)} is not supported; allowed: "
            f"{', '.join(ROPE_TYPES)}. Use a model without it"
        )
        raise ModelError(message)
    if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        message = (
            f"{origin}: partial_rotary_factor is {shortened(parameters['partial_rotary_factor'])}; "
            "only 1 is supported. Use a model that rotates whole heads"
        )
        raise ModelError(message)
    try:
        inv_freq = _inverse_frequencies(kind, config)
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        message = (
            f"{origin}: rope parameters {shortened(dict(parameters))} cannot be used: {error!r}. "
            "Repair the config"
        )
        raise ModelError(message) from error
    if not inv_freq.isfinite().all():
        message = (
            f"{origin}: rope parameters {shortened(dict(parameters))} make frequencies that are "
            "not finite. Repair the config"
        )
        raise ModelError(message)
    return tuple(inv_freq.tolist())


def _inverse_frequencies(kind: str, config: Any) -> torch.Tensor:
    if kind == "default":
        dim = config.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        scaled: torch.Tensor = 1.0 / (config.rope_parameters["rope_theta"] ** exponents)
        return scaled
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    inv_freq, attention_factor = ROPE_INIT_FUNCTIONS[kind](config)
    assert attention_factor == 1.0
    frequencies: torch.Tensor = inv_freq
    return frequencies


def cos_sin_table(inv_freq: Sequence[float], max_position: int) -> torch.Tensor:
    """Tabulate the rotary embedding, as the ``rotary_embedding`` op takes it.

    Parameters
    ----------
    inv_freq : Sequence[float]
        rotary_dim / 2 inverse frequencies.
    max_position : int
        How many positions.

    Returns
    -------
    Tensor, float32 [max_position, rotary_dim]
        Cosines in the first half of a row, sines in the second. On the CPU, so that every device
        uses the same bits.
    """
    positions = torch.arange(max_position, dtype=torch.float32)
    angles = torch.outer(positions, torch.tensor(inv_freq, dtype=torch.float32))
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
