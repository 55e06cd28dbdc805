"""A world for tests of requests' lives: a very small model, adapters, and what is right for each.

Tests of this folder use public calls of the engines only. That nothing has leaked shows in what an
engine can still do: its pools are so small that one leaked block, row, slot, chunk or hold is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plait import EngineArgs, LoRARequest, RequestOutput, SamplingParams
from plait.llm_engine import LLMEngine

VOCAB = 96
MAX_MODEL_LEN = 32
MAX_NUM_SEQS = 3
LONGEST = 12

Prompt = tuple[int, ...]


@dataclass
class World:
    """A model, adapters and an oracle.

    Attributes
    ----------
    model : Path
    adapters : dict[int, Path]
        By id; they take the same room.
    """

    model: Path
    adapters: dict[int, Path]
    _base: Any = field(repr=False)
    _peft: Any = field(repr=False)
    _handles: dict[int, LoRARequest] = field(init=False, repr=False)
    _known: dict[tuple[int | None, Prompt], list[int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._handles = {i: LoRARequest(f"a{i}", i, str(path)) for i, path in self.adapters.items()}

    def handle(self, adapter: int | None) -> LoRARequest | None:
        return None if adapter is None else self._handles[adapter]

    def right(self, adapter: int | None, prompt: Sequence[int]) -> list[int]:
        """Return the first ``LONGEST`` tokens that transformers with peft answers, greedily."""
        key = (adapter, tuple(prompt))
        if key not in self._known:
            if adapter is None:
                with self._peft.disable_adapter():
                    self._known[key] = self._generate(prompt)
            else:
                self._peft.set_adapter(str(adapter))
                self._known[key] = self._generate(prompt)
        return self._known[key]

    @staticmethod
    def greedy(max_tokens: int, **keywords: Any) -> SamplingParams:
        return SamplingParams(
            **({"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True} | keywords)
        )

    @staticmethod
    def finish(engine: LLMEngine, most: int = 400) -> dict[str, RequestOutput]:
        """Step until nothing is unfinished; return the last output of each request."""
        ended: dict[str, RequestOutput] = {}
        steps = 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    assert output.request_id not in ended, "a request ends once"
                    ended[output.request_id] = output
            steps += 1
            assert steps < most, "a request never ends"
        return ended

    def text(self, tokens: Sequence[int]) -> str:
        """Return what tokens add to a text before them."""
        return "".join(f" w{token}" for token in tokens)

    @torch.inference_mode()
    def _generate(self, prompt: Sequence[int]) -> list[int]:
        tokens = list(prompt)
        for _ in range(LONGEST):
            tokens.append(int(self._peft(torch.tensor([tokens])).logits[0, -1].argmax()))
        return tokens[len(prompt) :]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("lives")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=MAX_MODEL_LEN,
        initializer_range=0.5,
    )
    base = LlamaForCausalLM(config)
    base.save_pretrained(root / "model")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(root / "model")
    adapters = {}
    for adapter in (1, 2, 3):
        torch.manual_seed(adapter)
        fresh = LlamaForCausalLM.from_pretrained(root / "model")
        options = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(fresh, options).save_pretrained(root / f"adapter-{adapter}")
        adapters[adapter] = root / f"adapter-{adapter}"
    peft = PeftModel.from_pretrained(base, str(adapters[1]), adapter_name="1")
    for adapter in (2, 3):
        peft.load_adapter(str(adapters[adapter]), adapter_name=str(adapter))
    return World(root / "model", adapters, base, peft.eval())


@pytest.fixture(scope="session")
def engine_args(world: World) -> Callable[..., EngineArgs]:
    """Make arguments of an engine without room to spare.

    Its blocks hold one sequence of the greatest length, its arena two adapters, its host memory
    two of the three.
    """

    def make(**keywords: Any) -> EngineArgs:
        options: dict[str, Any] = {
            "model": str(world.model),
            "dtype": "float32",
            "kernels": "torch",
            "enable_lora": True,
            "block_size": 4,
            "num_gpu_blocks_override": MAX_MODEL_LEN // 4,
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": 16,
            "max_loras": 2,
            "max_cpu_loras": 2,
            "lora_memory_bytes": 1 << 10,
        }
        return EngineArgs(**(options | keywords))

    return make


@pytest.fixture(scope="session", params=["cpu", "planned ahead"])
def make_engine(
    request: pytest.FixtureRequest,
    engine_args: Callable[..., EngineArgs],
    plan_ahead: Callable[[Any], Any],
) -> Callable[[], LLMEngine]:
    """Make an engine, as it is on a CPU, and with steps as they are on a GPU."""

    def make() -> LLMEngine:
        engine = LLMEngine.from_engine_args(engine_args())
        if request.param == "planned ahead":
            plan_ahead(SimpleNamespace(llm_engine=engine))
        return engine

    return make


@pytest.fixture(scope="session")
def check_nothing_leaked(world: World) -> Callable[[LLMEngine], None]:
    """Use all that an idle engine has, at once; whatever leaked is missing."""

    def check(engine: LLMEngine) -> None:
        assert not engine.has_unfinished_requests()
        assert engine.get_num_unfinished_requests() == 0
        engine.reset_prefix_cache()
        # All blocks.
        prompt = (5,) * (MAX_MODEL_LEN - 2)
        engine.add_request("all blocks", list(prompt), world.greedy(2))
        ended = world.finish(engine)
        assert ended["all blocks"].outputs[0].token_ids == world.right(None, prompt)[:2]
        # All rows: so many short requests run beside each other, and end together.
        steps, last_step = 0, {}
        for i in range(MAX_NUM_SEQS):
            engine.add_request(f"row {i}", [7, i], world.greedy(2))
        while engine.has_unfinished_requests():
            for output in engine.step():
                ended[output.request_id] = output
                last_step[output.request_id] = steps
            steps += 1
        assert len(set(last_step.values())) == 1, "a row is missing"
        for i in range(MAX_NUM_SEQS):
            assert ended[f"row {i}"].outputs[0].token_ids == world.right(None, (7, i))[:2]
        # All host memory, chunks and slots, two adapters at a time.
        for pair in ((1, 2), (2, 3), (3, 1)):
            for adapter in engine.list_loras():
                engine.remove_lora(adapter)
            for adapter in pair:
                handle = world.handle(adapter)
                assert handle is not None
                engine.add_lora(handle)
                engine.add_request(
                    f"adapter {adapter}", [9, 8, 7], world.greedy(2), lora_request=handle
                )
            ended = world.finish(engine)
            for adapter in pair:
                answer = ended[f"adapter {adapter}"].outputs[0].token_ids
                assert answer == world.right(adapter, (9, 8, 7))[:2]

    return check
