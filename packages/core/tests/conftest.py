"""A runner without a model, and a tiny model.

The runner keeps books of what a real one would hold, and checks every read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from plait.messages import CoreRequest
from plait.plan import StepPlan, StepResult
from plait_lora.identity import AdapterKey, Mix
from plait_lora.request import LoRARequest
from plait_sampling.params import SamplingParams

VOCAB = 50


def next_token(tokens: Sequence[int], mix: Mix) -> int:
    """Continue a sequence in a way that depends on all of it and on the mix."""
    digest = hashlib.sha256(repr((list(tokens), mix)).encode()).digest()
    return int.from_bytes(digest[:4], "little") % VOCAB


class SimulatedRunner:
    """Executes plans on Python lists.

    A KV entry is (tokens up to and including this one, mix): exactly what real keys and values
    depend on. Before a token runs, every entry of its row must say what the row's history says.
    """

    def __init__(self, num_rows: int, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.kv: dict[tuple[int, int], tuple[tuple[int, ...], Mix]] = {}
        self.tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self.slot = [-1] * num_rows
        self.table: list[list[int]] = [[] for _ in range(num_rows)]
        self.num_blocks = num_blocks
        self.slots: dict[int, Mix] = {}
        self.resident: set[AdapterKey] = set()
        self.chunk_of: dict[int, AdapterKey] = {}
        self.tokens_run = 0

    def run(self, plan: StepPlan) -> StepResult:
        loaded = self._execute(plan)
        for new in plan.new_rows:
            self.tokens[new.row] = new.token_ids.tolist()
            self.slot[new.row] = new.slot
            self.table[new.row] = []
        assert len(set(plan.row.tolist())) == len(plan.row)
        token_start, drawn = [0], []
        first_block = 0
        for i, row in enumerate(plan.row.tolist()):
            assert len(self.table[row]) <= plan.num_old_blocks[i] or not plan.num_new_blocks[i]
            del self.table[row][plan.num_old_blocks[i] :]
            last_block = first_block + int(plan.num_new_blocks[i])
            self.table[row] += plan.new_blocks[first_block:last_block].tolist()
            first_block = last_block
            self._run_tokens(row, int(plan.start[i]), int(plan.count[i]))
            if plan.sample[i]:
                assert plan.start[i] + plan.count[i] == len(self.tokens[row])
                token = next_token(self.tokens[row], self._mix(row))
                self.tokens[row].append(token)
                drawn.append(token)
            token_start.append(len(drawn))
        nothing = (None,) * len(plan.row)
        return StepResult(
            np.array(token_start, np.int32), np.array(drawn, np.int32), nothing, nothing, loaded
        )

    def _mix(self, row: int) -> Mix:
        return self.slots[self.slot[row]] if self.slot[row] >= 0 else ()

    def _run_tokens(self, row: int, start: int, count: int) -> None:
        mix, table = self._mix(row), self.table[row]
        assert all(key in self.resident for key, _ in mix)
        assert all(0 <= block < self.num_blocks for block in table)
        assert len(set(table)) == len(table)
        for position in range(start + count):
            place = (table[position // self.block_size], position % self.block_size)
            entry = (tuple(self.tokens[row][: position + 1]), mix)
            if position >= start:
                self.kv[place] = entry
            assert self.kv.get(place) == entry
        self.tokens_run += count

    def _execute(self, plan: StepPlan) -> tuple[AdapterKey, ...]:
        commands = plan.commands
        if commands.reset:
            self.slots.clear()
            self.resident.clear()
            self.chunk_of.clear()
        for slot in commands.releases:
            self.slots.pop(slot, None)
        for key in commands.evictions:
            self.resident.discard(key)
            self.chunk_of = {c: k for c, k in self.chunk_of.items() if k != key}
        for load in commands.loads:
            assert load.key not in self.resident
            self.resident.add(load.key)
            for chunk in load.chunks:
                assert chunk not in self.chunk_of
                self.chunk_of[chunk] = load.key
        for slot, mix in commands.assigns:
            assert slot not in self.slots
            self.slots[slot] = mix
        return tuple(load.key for load in commands.loads)


@pytest.fixture
def simulated_runner() -> type[SimulatedRunner]:
    return SimulatedRunner


@pytest.fixture
def simulated_next_token() -> Callable[[Sequence[int], Mix], int]:
    return next_token


@pytest.fixture
def core_request() -> Callable[..., CoreRequest]:
    """Make a CoreRequest from what matters to a scheduler."""

    def make(
        request_id: str,
        prompt: Sequence[int],
        *,
        max_tokens: int | None = 8,
        adapter: int | None = None,
        priority: int = 0,
        arrival_time: float = 0.0,
        stop_token_ids: Sequence[int] = (),
        cache_salt: str | None = None,
    ) -> CoreRequest:
        lora = None if adapter is None else LoRARequest(f"a{adapter}", adapter, f"/a{adapter}")
        params = SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            stop_token_ids=list(stop_token_ids),
            ignore_eos=True,
        )
        return CoreRequest(
            request_id=request_id,
            prompt_token_ids=tuple(prompt),
            params=params,
            seed=0,
            eos_token_ids=(),
            arrival_time=arrival_time,
            lora=lora,
            priority=priority,
            cache_salt=cache_salt,
        )

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, without a tokenizer; only the head has 101 outputs."""
    # Most tests of this folder need neither.
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("tiny-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path
