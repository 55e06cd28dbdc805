"""300 adapters of every shape on one engine, more of them in use than its device holds."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from plait import LLM, LoRARequest, RequestOutput, SamplingParams
from plait.adapter_library import AdapterLibrary
from plait.plan import StepPlan
from plait.runner import Started

NUM_ADAPTERS, NUM_USED, NUM_REQUESTS = 300, 40, 400
LAYERS = 2
CLEAR_GAP = 1e-3
"""Where the two best logits are closer than this, either token is right."""

SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (64, 32),
    "self_attn.v_proj": (64, 32),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (64, 96),
    "mlp.up_proj": (64, 96),
    "mlp.down_proj": (96, 64),
}
"""(in, out) of the tiny model's projections."""

RANKS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 19, 24, 32, 48, 64)
CHUNK_BYTES = 16 * LAYERS * 2 * 32 * 4
"""Of a KV block: 16 tokens, keys and values of 32 float32 in every layer."""
NUM_CHUNKS = 100

Used = int | None
"""Number of an adapter; None is the base model."""


@dataclass(frozen=True)
class Job:
    """One request and what answers it."""

    adapter: Used
    prompt: list[int]
    length: int


class Adapters:
    """The adapters' files, written without building a model for each."""

    def __init__(self, root: Path) -> None:
        self.paths: list[Path] = []
        self.nbytes: list[int] = []
        draw = random.Random(0)
        for i in range(NUM_ADAPTERS):
            self._write(root / str(i), i, draw)

    def handle(self, i: int) -> LoRARequest:
        return LoRARequest(f"a{i}", i + 1, str(self.paths[i]))

    def _write(self, path: Path, seed: int, draw: random.Random) -> None:
        chosen = draw.sample(sorted(SHAPES), draw.randint(1, len(SHAPES)))
        targets = [name.split(".")[1] for name in chosen]
        ranks = {name: draw.choice(RANKS) for name in targets}
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=ranks[targets[0]],
            lora_alpha=draw.choice((8, 16, 32)),
            target_modules=targets,
            rank_pattern={name: ranks[name] for name in targets[1:]},
            use_rslora=draw.random() < 0.5,
        )
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(LAYERS):
            for name, target in zip(chosen, targets, strict=True):
                (columns, rows), rank = SHAPES[name], ranks[target]
                prefix = f"base_model.model.model.layers.{layer}.{name}"
                a = torch.randn(rank, columns, generator=generator)
                b = torch.randn(rows, rank, generator=generator)
                tensors[f"{prefix}.lora_A.weight"] = a * 0.1
                tensors[f"{prefix}.lora_B.weight"] = b * 0.1
        config.save_pretrained(path)
        save_file(tensors, path / "adapter_model.safetensors")
        self.paths.append(path)
        elements = (ranks[t] * sum(SHAPES[name]) for name, t in zip(chosen, targets, strict=True))
        self.nbytes.append(LAYERS * sum(elements) * torch.float32.itemsize)


class DeviceTraffic:
    """Counts the adapter commands of every step, and holds the books to them."""

    def __init__(self, llm: LLM) -> None:
        core = llm.llm_engine.core
        self.loads = self.evictions = self.most_at_once = 0
        self._library, self._start = core.library(), core.runner.start
        self._on_device: set[Any] = set()
        core.runner.start = self.start  # type: ignore[method-assign]

    def start(self, plan: StepPlan) -> Started:
        commands = plan.commands
        self._on_device.difference_update(commands.evictions)
        self._on_device.update(load.key for load in commands.loads)
        self.loads += len(commands.loads)
        self.evictions += len(commands.evictions)
        self.most_at_once = max(self.most_at_once, len(self._on_device))
        assert self._on_device == set(self._library.store.resident())
        check_chunks(self._library)
        return self._start(plan)


def check_chunks(library: AdapterLibrary) -> None:
    """Chunks in use are those of the resident adapters, and no more than packing must take."""
    store = library.store
    layouts = [library.catalog.get(key).layout for key in store.resident()]
    in_use = store.num_chunks - store.num_free_chunks
    assert in_use == sum(layout.num_chunks for layout in layouts)
    for layout in layouts:
        # First-fit leaves at most one chunk of an adapter not more than half full.
        taken = layout.num_chunks * CHUNK_BYTES
        assert layout.bytes <= taken < 2 * layout.bytes + CHUNK_BYTES


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    return Adapters(tmp_path_factory.mktemp("many-adapters"))


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    """Ragged requests in mixed order; some for the base model."""
    draw = random.Random(1)
    used: list[Used] = [None, *draw.sample(range(NUM_ADAPTERS), NUM_USED)]
    chosen = [used[i % len(used)] for i in range(NUM_REQUESTS)]
    draw.shuffle(chosen)
    return [
        Job(adapter, draw.choices(range(128), k=draw.randint(1, 60)), draw.randint(1, 8))
        for adapter in chosen
    ]


@pytest.fixture
def make_engine(tiny_model: Path) -> Callable[..., LLM]:
    def make(kernels: str | None = None) -> LLM:
        return LLM(
            model=str(tiny_model),
            skip_tokenizer_init=True,
            enable_lora=True,
            dtype="float32",
            num_gpu_blocks_override=128,
            lora_memory_bytes=NUM_CHUNKS * CHUNK_BYTES,
            max_num_seqs=24,
            max_num_batched_tokens=256,
            kernels=kernels,
        )

    return make


def serve(llm: LLM, adapters: Adapters, jobs: Sequence[Job]) -> list[RequestOutput]:
    """Register all adapters and run the jobs in one call."""
    for i in range(NUM_ADAPTERS):
        assert llm.llm_engine.add_lora(adapters.handle(i))
    return llm.generate(
        [job.prompt for job in jobs],
        [SamplingParams(temperature=0, max_tokens=job.length, ignore_eos=True) for job in jobs],
        lora_request=[
            None if job.adapter is None else adapters.handle(job.adapter) for job in jobs
        ],
        use_tqdm=False,
    )


@torch.inference_mode()
def oracle_logits(model: Any, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
    """Logits [tokens, vocab] of each sequence, all in one pass.

    Padding lies behind a sequence, where causal attention never looks.
    """
    batch = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.int64)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    logits = model(input_ids=batch).logits.float()
    return [each[: len(sequence)] for each, sequence in zip(logits, sequences, strict=True)]


@pytest.mark.parametrize("kernels", [None, "*=torch"])
def test_every_output_is_the_oracles(
    make_engine: Callable[..., LLM],
    tiny_model: Path,
    adapters: Adapters,
    jobs: list[Job],
    kernels: str | None,
) -> None:
    """Every token is the oracle's best after the tokens before it, unless the best are tied.

    So each output is the oracle's own greedy answer up to the first near tie, and one pass over
    prompt and output checks all of its tokens.
    """
    llm = make_engine(kernels)
    traffic = DeviceTraffic(llm)
    outputs = serve(llm, adapters, jobs)
    assert llm.llm_engine.list_loras() == set(range(1, NUM_ADAPTERS + 1))
    assert traffic.loads > NUM_USED, "some are loaded again"
    assert 0 < traffic.evictions < traffic.loads
    assert 1 < traffic.most_at_once < NUM_USED

    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    near_ties = positions = changed = 0
    used = sorted({job.adapter for job in jobs if job.adapter is not None})
    assert len(used) == NUM_USED
    for adapter in (None, *used):
        mine = [i for i, job in enumerate(jobs) if job.adapter == adapter]
        answers = [list(outputs[i].outputs[0].token_ids) for i in mine]
        assert [len(answer) for answer in answers] == [jobs[i].length for i in mine]
        sequences = [jobs[i].prompt + answer for i, answer in zip(mine, answers, strict=True)]
        plain = oracle_logits(base, sequences)
        logits = plain
        if adapter is not None:
            adapted = PeftModel.from_pretrained(base, str(adapters.paths[adapter]))
            logits = oracle_logits(adapted, sequences)
            base = adapted.unload()
        for i, answer, own, without in zip(mine, answers, logits, plain, strict=True):
            # the logits that each token of the answer was chosen from
            chosen_from = slice(len(jobs[i].prompt) - 1, -1)
            best = own[chosen_from].topk(2)
            changed += bool((without[chosen_from].argmax(-1) != best.indices[:, 0]).any())
            for token, values, ids in zip(answer, best.values, best.indices, strict=True):
                clear = float(values[0] - values[1]) > CLEAR_GAP
                assert not clear or token == int(ids[0]), f"request {i}, adapter {adapter}"
                near_ties += not clear
                positions += 1
    assert near_ties < 0.01 * positions
    assert changed > 0.5 * NUM_REQUESTS, "the adapters hardly change an answer"


def test_memory_is_the_adapters_bytes_and_is_given_back(
    make_engine: Callable[..., LLM], adapters: Adapters, jobs: list[Job]
) -> None:
    llm = make_engine()
    engine = llm.llm_engine
    library = engine.core.library()
    catalog, store = library.catalog, library.store
    assert (catalog.nbytes, store.num_chunks, store.num_free_chunks) == (0, NUM_CHUNKS, NUM_CHUNKS)
    serve(llm, adapters, jobs[:100])

    keys = {i: catalog.key_of(i + 1) for i in range(NUM_ADAPTERS)}
    assert len(set(keys.values())) == NUM_ADAPTERS, "all contents are distinct"
    assert set(catalog.resident()) == set(keys.values())
    assert catalog.nbytes == sum(adapters.nbytes)
    kept = {key: catalog.get(key) for key in catalog.resident()}
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for adapter in kept.values()
        for module in adapter.modules.values()
        for tensor in (module.a, module.b)
    }
    assert sum(held.values()) == sum(adapters.nbytes), "nothing is held but the weights"
    used = {keys[job.adapter] for job in jobs[:100] if job.adapter is not None}
    assert set(store.resident()) <= used, "registering alone takes nothing of the device"
    of_key = {key: adapters.nbytes[i] for i, key in keys.items()}
    # A CPU's tiles have one row, and these are multiples of the alignment: no byte is lost.
    assert all(kept[key].layout.bytes == of_key[key] for key in kept)
    check_chunks(library)
    assert store.num_free_chunks < NUM_CHUNKS

    alive = [weakref.ref(adapter) for adapter in kept.values()]
    del kept
    gc.collect()
    assert all(ref() is not None for ref in alive)
    assert all(engine.remove_lora(i + 1) for i in range(NUM_ADAPTERS))
    engine.step()
    gc.collect()
    assert engine.list_loras() == set()
    assert (catalog.resident(), catalog.nbytes) == ((), 0)
    assert (store.resident(), store.num_free_chunks) == ({}, NUM_CHUNKS)
    assert not store.assigned()
    assert all(ref() is None for ref in alive)
