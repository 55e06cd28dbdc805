"""What the engine sees of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from plait_kernels.attention_types import AttentionBatch
    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite


@dataclass(frozen=True)
class ModelInfo:
    """Facts of a loaded model.

    Attributes
    ----------
    layers, heads, kv_heads, head_dim, hidden, vocab_size : int
    max_position : int
        Positions below it can be used.
    block_size : int
        Tokens of a KV block that the kernels were chosen for.
    dtype : torch.dtype
        Of weights and activations.
    kv_dtype : torch.dtype
        Of the KV cache.
    device : torch.device
        Where the weights are.
    weight_bytes : int
        Bytes of the weights on the device.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab_size: int
    max_position: int
    block_size: int
    dtype: torch.dtype
    kv_dtype: torch.dtype
    device: torch.device
    weight_bytes: int

    @property
    def dtype_name(self) -> str:
        """``dtype`` as an ``OpConfig`` writes it."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, eq=False)
class StepInputs:
    """The tokens of one step.

    Attributes
    ----------
    token_ids, positions : Tensor, int64 [tokens]
    slot_mapping : Tensor, int64 [tokens]
        Where each token's k and v go: block · block_size + place in the block; -1 = nowhere.
    kv : Tensor [num_blocks, layers, 2, block_size, kv_heads, head_dim]
        The KV cache. Written by ``Model.forward``.
    attention : AttentionBatch
    lora : LoraBatch | None
        None: no token of the step runs an adapter.
    site_groups : frozenset[str]
        The groups that launch anything.
    bucket : int
        Index in ``plait_kernels.config.BUCKETS``.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    kv: torch.Tensor
    attention: AttentionBatch
    lora: LoraBatch | None
    site_groups: frozenset[str]
    bucket: int


class Model(Protocol):
    """A loaded model."""

    @property
    def info(self) -> ModelInfo:
        """Facts of the model."""

    @property
    def sites(self) -> tuple[LoraSite, ...]:
        """Where adapters may act; ``sites[i].index == i``."""

    def base_weight(self, site: LoraSite) -> torch.Tensor | None:
        """Return the weight at an ``embed`` or ``head`` site, [vocab_size, hidden].

        None of any other site. PEFT puts a copy of it into adapters that target the head.
        """

    def forward(self, inputs: StepInputs) -> torch.Tensor:
        """Run the layers on the tokens of a step, and write their k and v to the cache.

        Returns
        -------
        Tensor [tokens, hidden]
            Hidden states after the last norm, in the model's dtype.
        """

    def logits(
        self,
        hidden: torch.Tensor,
        lora: LoraBatch | None,
        site_groups: frozenset[str],
        bucket: int,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Turn hidden states into logits.

        Parameters
        ----------
        hidden : Tensor [rows, hidden]
            The rows of what ``forward`` returned that get logits.
        lora : LoraBatch | None
            Describes these rows (not the tokens of the step).
        site_groups : frozenset[str]
            The groups that launch anything; only ``"head"`` matters here.
        bucket : int
            Index in ``plait_kernels.config.BUCKETS``.
        out : Tensor, float32 [rows, vocab_size] | None
            Where to write them; None: a new tensor.

        Returns
        -------
        Tensor, float32 [rows, vocab_size]
        """
