"""Models, adapters and the oracle.

The demo model with adapters of every shape, transformers with peft to say what they answer, and a
tiny random model for tests that need no real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from plait import LLM, LoRARequest
from plait.demo.model import adapter_path, find_demo_model
from plait.padded_steps import PaddedSteps
from plait.runner import Runner
from plait.step_sizes import common_site_sets, decode_sizes, mixed_sizes

OUTPUT_TOKENS = 64

DEMO_ADAPTERS = ("sql", "json")

RANDOM_ADAPTERS: dict[str, dict[str, Any]] = {
    "rank1": {"r": 1, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
    "rank5": {"r": 5, "lora_alpha": 32, "target_modules": ["o_proj", "down_proj", "lm_head"]},
    "rank8": {"r": 8, "target_modules": "all-linear", "use_rslora": True},
    "rank16": {
        "r": 16,
        "target_modules": ["q_proj", "k_proj", "v_proj", "gate_proj"],
        "rank_pattern": {"k_proj": 3},
        "alpha_pattern": {"gate_proj": 40},
    },
    "rank64": {
        "r": 64,
        "lora_alpha": 256,
        "target_modules": ["gate_proj", "up_proj"],
        "layers_to_transform": [2, 17],
    },
}
"""Different ranks on different sites; what is not given is peft's default."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; pytest counts it as deselected."""
    if torch.cuda.is_available():
        return
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu:
        config.hook.pytest_deselected(items=for_gpu)
        items[:] = [item for item in items if item not in for_gpu]


@dataclass(frozen=True)
class OracleAnswer:
    """What transformers with peft answers to one request.

    Attributes
    ----------
    token_ids : list[int]
        Greedy.
    gaps : list[float]
        Difference of the two largest logits at each of them.
    first_logits : Tensor, float32 [vocab]
        At the last token of the prompt.
    """

    token_ids: list[int]
    gaps: list[float]
    first_logits: torch.Tensor = field(repr=False)


class Oracle:
    """transformers + peft in fp32, one request at a time. Answers are kept for the session."""

    def __init__(self, model_path: Path, root: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(
            str(model_path.parent), gguf_file=model_path.name, dtype=torch.float32
        )
        self.adapters = {name: adapter_path(name) for name in DEMO_ADAPTERS}
        # before peft renames them; without what says that the file was quantised
        self._weights = base.state_dict()
        config = base.config.to_dict()
        config.pop("quantization_config", None)
        self._config = LlamaConfig.from_dict(config)
        self._model = _with_demo_adapters(base)
        for seed, (name, options) in enumerate(RANDOM_ADAPTERS.items()):
            self._add_random(name, options, seed)
            # peft saves an adapter into a folder of its name.
            self._model.save_pretrained(
                str(root), selected_adapters=[name], save_embedding_layers=False
            )
            self.adapters[name] = root / name
        self._model.eval()
        self._known: dict[tuple[str | None, tuple[int, ...], int], OracleAnswer] = {}

    def _add_random(self, name: str, options: dict[str, Any], seed: int) -> None:
        torch.manual_seed(seed)
        self._model.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **options))
        for parameter_name, parameter in self._model.named_parameters():
            if "lora_" in parameter_name and f".{name}." in parameter_name:
                # Enough to change the answers, not so much that they are noise.
                torch.nn.init.normal_(parameter, std=0.03)

    def answer(
        self, adapter: str | None, prompt: Sequence[int], length: int = OUTPUT_TOKENS
    ) -> OracleAnswer:
        """Answer one request greedily with ``length`` tokens, end-of-sequence ignored."""
        key = (adapter, tuple(prompt), length)
        if key not in self._known:
            self._known[key] = self._generate(*key)
        return self._known[key]

    @torch.inference_mode()
    def logprobs(
        self, forced: Sequence[tuple[str | None, Sequence[int], Sequence[int]]], dtype: torch.dtype
    ) -> list[torch.Tensor]:
        """Run given answers of the base model and the demo adapters in a dtype.

        Parameters
        ----------
        forced : Sequence[tuple[str | None, Sequence[int], Sequence[int]]]
            Adapter, prompt and answer, one request each.
        dtype : torch.dtype
            Of weights and activations; peft keeps adapters in float32.

        Returns
        -------
        list[Tensor], float32 [tokens of the answer, vocab]
            Log-probabilities from which each token of the answer is chosen.
        """
        model = self._model
        if dtype != torch.float32:
            base = LlamaForCausalLM.from_pretrained(
                None, config=self._config, state_dict=self._weights, dtype=dtype
            )
            model = _with_demo_adapters(base).eval()
        scores = []
        for adapter, prompt, answer in forced:
            with _running(model, adapter):
                logits = model(
                    input_ids=torch.tensor([[*prompt, *answer]]), logits_to_keep=len(answer) + 1
                ).logits[0, :-1]
            scores.append(logits.float().log_softmax(-1))
        return scores

    @torch.inference_mode()
    def _generate(self, adapter: str | None, prompt: tuple[int, ...], length: int) -> OracleAnswer:
        with _running(self._model, adapter):
            return self._greedy(prompt, length)

    def _greedy(self, prompt: tuple[int, ...], length: int) -> OracleAnswer:
        ids, cache = torch.tensor([prompt]), None
        tokens: list[int] = []
        gaps: list[float] = []
        first = torch.empty(0)
        for _ in range(length):
            out = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1].float()
            first = first if tokens else logits.clone()
            best = logits.topk(2)
            gaps.append(float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
            ids = best.indices[:1].view(1, 1)
        return OracleAnswer(tokens, gaps, first)


def _with_demo_adapters(base: Any) -> PeftModel:
    first, *others = DEMO_ADAPTERS
    model = PeftModel.from_pretrained(base, str(adapter_path(first)), adapter_name=first)
    for name in others:
        model.load_adapter(str(adapter_path(name)), adapter_name=name)
    return model


@contextmanager
def _running(model: PeftModel, adapter: str | None) -> Iterator[None]:
    if adapter is None:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(adapter)
        yield


@pytest.fixture(scope="session")
def model_path() -> Path:
    return find_demo_model()


@pytest.fixture(scope="session")
def oracle(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(model_path, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def lora_requests(oracle: Oracle) -> dict[str | None, LoRARequest | None]:
    """A handle on every adapter; None is the base model."""
    handles: dict[str | None, LoRARequest | None] = {None: None}
    for i, (name, path) in enumerate(oracle.adapters.items(), start=1):
        handles[name] = LoRARequest(name, i, str(path))
    return handles


@pytest.fixture(scope="session")
def make_llm(model_path: Path) -> Callable[..., LLM]:
    """Make an engine on the demo model with small pools."""

    def make(**keywords: Any) -> LLM:
        options: dict[str, Any] = {
            "enable_lora": True,
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": 32,
            "kv_cache_memory_bytes": 512 << 20,
            "lora_memory_bytes": 256 << 20,
        }
        return LLM(model=str(model_path), **(options | keywords))

    return make


@pytest.fixture(scope="module")
def llm(make_llm: Callable[..., LLM]) -> Iterator[LLM]:
    """An engine for the tests of one file; each test leaves it idle."""
    engine = make_llm()
    yield engine
    assert not engine.llm_engine.has_unfinished_requests()
    assert not engine.llm_engine.core.has_work


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and 128 tokens, without a tokenizer."""
    path = tmp_path_factory.mktemp("tiny-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_tiny_llm(tiny_model: Path) -> Callable[..., LLM]:
    """Make an engine on the tiny model with small pools, whose prompts are token ids."""

    def make(**keywords: Any) -> LLM:
        options: dict[str, Any] = {
            "skip_tokenizer_init": True,
            "enable_lora": True,
            "num_gpu_blocks_override": 64,
            "lora_memory_bytes": 4 << 20,
            "max_num_seqs": 16,
        }
        return LLM(model=str(tiny_model), **(options | keywords))

    return make


@pytest.fixture(scope="session")
def save_tiny_adapter(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Save a random adapter for the tiny model, as peft does; keywords are LoraConfig's."""

    def save(seed: int, **options: Any) -> Path:
        path = tmp_path_factory.mktemp("tiny-adapter")
        torch.manual_seed(seed)
        chosen = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
        base = LlamaForCausalLM.from_pretrained(tiny_model)
        get_peft_model(base, LoraConfig(**(chosen | options))).save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="session")
def plan_ahead() -> Callable[[LLM], LLM]:
    """Make an engine run its steps as it would on a GPU: padded, and planned one ahead."""

    def plan_ahead(llm: LLM) -> LLM:
        core = llm.llm_engine.core
        runner = core.runner
        assert isinstance(runner, Runner)
        limits = core.scheduler.config
        max_rows, max_tokens = limits.max_num_seqs, limits.max_num_batched_tokens
        runner.padded_steps = PaddedSteps(
            runner.model,
            runner.rows,
            runner.kv,
            runner.adapters,
            sizes=decode_sizes(max_rows) + mixed_sizes(max_rows, max_tokens),
            site_sets=common_site_sets(runner.model.sites, None),
            capture=False,
        )
        core.steps_ahead = 1
        return llm

    return plan_ahead
