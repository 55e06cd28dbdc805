"""The tensors of a Llama: projections that share an input are packed into one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait_kernels.errors import OutOfMemoryError
from plait_kernels.weights import DenseWeight

if TYPE_CHECKING:
    from plait_models.config import ModelConfig

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer.

    Attributes
    ----------
    input_norm, post_attention_norm : Tensor [hidden]
    qkv : DenseWeight [q_size + 2 · kv_size, hidden]
        Rows of q, k, v.
    o : DenseWeight [hidden, q_size]
    gate_up : DenseWeight [2 · intermediate, hidden]
        Rows of gate, up.
    down : DenseWeight [hidden, intermediate]
    """

    input_norm: torch.Tensor
    qkv: DenseWeight
    o: DenseWeight
    post_attention_norm: torch.Tensor
    gate_up: DenseWeight
    down: DenseWeight


@dataclass(frozen=True, eq=False)
class LlamaWeights:
    """Weights of a model.

    Attributes
    ----------
    embedding : Tensor [vocab_size, hidden]
    layers : list[LayerWeights]
    norm : Tensor [hidden]
        Of the last norm.
    head : DenseWeight [vocab_size, hidden]
        Holds ``embedding`` itself if the two are tied.
    named : dict[str, Tensor]
        Every tensor once, under the name that Hugging Face gives it; of packed matrices, views.
    """

    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: DenseWeight
    named: dict[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for tensor in self.named.values())


def tied_names(config: ModelConfig) -> dict[str, str]:
    """Tell which name of a file means the tensor of another name."""
    return {HEAD: EMBEDDING} if config.tied_embeddings else {}


def allocate(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> LlamaWeights:
    """Allocate the weights of a model, uninitialised.

    Raises
    ------
    OutOfMemoryError
        If the device has not the memory.
    """
    allocation = _Allocation(dtype, device)
    try:
        return _allocate(config, allocation)
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        message = (
            f"the weights of this model do not fit on {device}: {allocation.nbytes} bytes were "
            f"allocated for them before {free} of {total} bytes were left. Use a smaller dtype, a "
            "smaller model or a larger device"
        )
        raise OutOfMemoryError(message) from error


class _Allocation:
    """Allocates tensors and notes under which names their rows are filled."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self.named: dict[str, torch.Tensor] = {}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.named.values())

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        return self._packed({name: shape[0]}, *shape[1:])

    def linear(
        self, prefix: str, rows: dict[str, int], in_features: int, *, bias: bool
    ) -> DenseWeight:
        weights = {f"{prefix}.{name}.weight": count for name, count in rows.items()}
        biases = {f"{prefix}.{name}.bias": count for name, count in rows.items()}
        return DenseWeight(
            self._packed(weights, in_features), self._packed(biases) if bias else None
        )

    def _packed(self, rows: dict[str, int], *tail: int) -> torch.Tensor:
        packed = torch.empty((sum(rows.values()), *tail), dtype=self._dtype, device=self._device)
        self.named.update(zip(rows, packed.split_with_sizes(list(rows.values())), strict=True))
        return packed


def _allocate(config: ModelConfig, new: _Allocation) -> LlamaWeights:
    hidden, intermediate = config.hidden_size, config.intermediate_size
    q, kv = config.q_size, config.kv_size
    embedding = new.tensor(EMBEDDING, config.vocab_size, hidden)
    layers = []
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        qkv_rows = {"q_proj": q, "k_proj": kv, "v_proj": kv}
        gate_up_rows = {"gate_proj": intermediate, "up_proj": intermediate}
        layers.append(
            LayerWeights(
                input_norm=new.tensor(f"{prefix}.input_layernorm.weight", hidden),
                qkv=new.linear(attention, qkv_rows, hidden, bias=config.attention_bias),
                o=new.linear(attention, {"o_proj": hidden}, q, bias=config.attention_bias),
                post_attention_norm=new.tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
                gate_up=new.linear(mlp, gate_up_rows, hidden, bias=config.mlp_bias),
                down=new.linear(mlp, {"down_proj": hidden}, intermediate, bias=config.mlp_bias),
            )
        )
    norm = new.tensor("model.norm.weight", hidden)
    head = embedding if config.tied_embeddings else new.tensor(HEAD, config.vocab_size, hidden)
    return LlamaWeights(embedding, layers, norm, DenseWeight(head), new.named)
