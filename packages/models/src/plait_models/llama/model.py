"""LlamaModel: what ``plait_models.load`` returns for Llama and Mistral."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_models.llama.calls import bind
from plait_models.llama.network import Network
from plait_models.llama.prepared import prepare
from plait_models.llama.sites import make_sites
from plait_models.model import ModelInfo
from plait_models.rope import cos_sin_table

if TYPE_CHECKING:
    import torch

    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite
    from plait_kernels.table import KernelTable
    from plait_models.config import ModelConfig
    from plait_models.llama.weights import LlamaWeights
    from plait_models.model import StepInputs


class LlamaModel:
    """A Llama with its weights, bound to its kernels. Implements ``plait_models.Model``.

    Parameters
    ----------
    config : ModelConfig
    weights : LlamaWeights
        All on one device, of one dtype. They are brought into the layout of the chosen kernels
        and are used up by that.
    table : KernelTable
        Built from ``llama.calls.op_configs`` (and maybe more).
    block_size : int
        Tokens of a KV block, as in these configs.
    """

    def __init__(
        self, config: ModelConfig, weights: LlamaWeights, table: KernelTable, block_size: int
    ) -> None:
        dtype, device = weights.embedding.dtype, weights.embedding.device
        self.info = ModelInfo(
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            hidden=config.hidden_size,
            vocab_size=config.vocab_size,
            max_position=config.max_position,
            block_size=block_size,
            dtype=dtype,
            kv_dtype=dtype,
            device=device,
            weight_bytes=weights.nbytes,
        )
        self._outer = {"embed": weights.embedding, "head": weights.head.weight}
        sites = make_sites(config)
        self.sites: tuple[LoraSite, ...] = sites.all
        cos_sin = cos_sin_table(config.rope_inv_freq, config.max_position).to(device)
        kernels = bind(table, config, self.info.dtype_name, block_size)
        # The networks of the buckets share weights and differ in kernels.
        self._networks = tuple(
            Network(config, prepared, sites, cos_sin, of_bucket)
            for prepared, of_bucket in zip(prepare(weights, kernels), kernels, strict=True)
        )

    def base_weight(self, site: LoraSite) -> torch.Tensor | None:
        """Return the weight at the embedding or the head; see ``plait_models.Model``."""
        return self._outer.get(site.group)

    def forward(self, inputs: StepInputs) -> torch.Tensor:
        """Run the layers; see ``plait_models.Model.forward``."""
        return self._networks[inputs.bucket].forward(inputs)

    def logits(
        self,
        hidden: torch.Tensor,
        lora: LoraBatch | None,
        site_groups: frozenset[str],
        bucket: int,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Turn hidden states into logits; see ``plait_models.Model.logits``."""
        of_head = lora if "head" in site_groups else None
        return self._networks[bucket].logits(hidden, of_head, out)
