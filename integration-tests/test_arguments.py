"""What an engine is told at its start, and numbers at their bounds."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plait import LLM, EngineArgs, LLMEngine, SamplingParams
from plait_kernels.errors import InputError, ModelError, OutOfMemoryError, PlaitError

VOCAB = 128
PROMPT = [3, 7, 11]
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    copied = tmp_path / "model"
    shutil.copytree(tiny_model, copied)
    return copied


@pytest.fixture(scope="module")
def llm(make_tiny_llm: Callable[..., LLM]) -> Iterator[LLM]:
    engine = make_tiny_llm(max_model_len=64, num_gpu_blocks_override=64)
    yield engine
    assert not engine.llm_engine.core.has_work


def small(model: Path, **keywords: Any) -> LLM:
    options: dict[str, Any] = {"skip_tokenizer_init": True, "num_gpu_blocks_override": 8}
    return LLM(str(model), **(options | keywords))


def tokens(llm: LLM, params: SamplingParams = GREEDY) -> list[int]:
    return list(llm.generate(PROMPT, params, use_tqdm=False)[0].outputs[0].token_ids)


BOUNDS: dict[str, list[Any]] = {
    "n": [1, 3],
    "presence_penalty": [-2, 0, 2],
    "frequency_penalty": [-2, 0, 2],
    "repetition_penalty": [1e-6, 1, 1e6],
    "temperature": [0, 1e-5, 1, 2],
    "top_p": [5e-324, 0.5, 1],
    "top_k": [-1, 1, 2**31, 2**63 - 1],
    "min_p": [0, 5e-324, 1],
    "seed": [None, -(2**63), 2**63 - 1],
    "stop_token_ids": [None, range(VOCAB), [2**63 - 1]],
    "ignore_eos": [True, False],
    "max_tokens": [1, 4],
    "min_tokens": [0, 1],
    "logprobs": [None, 0, -1, 2**63 - 1],
    "prompt_logprobs": [None, 0, -1, 2**63 - 1],
    "logit_bias": [None, {0: 1e20, 1: -1e20}, dict.fromkeys(range(VOCAB), -1e20)],
    "allowed_token_ids": [None, [5], range(VOCAB)],
}


def test_numbers_at_their_bounds_fail_alone_or_are_served(llm: LLM) -> None:
    source = random.Random(3)
    plain = tokens(llm)
    params = [
        SamplingParams(**{name: source.choice(values) for name, values in BOUNDS.items()})
        for _ in range(60)
    ]
    # What has no bound but the context.
    params += [
        SamplingParams(max_tokens=None, min_tokens=2**63 - 1),
        SamplingParams(max_tokens=2**63 - 1, min_tokens=2**63 - 1, ignore_eos=True),
    ]
    served = 0
    for one in params:
        try:
            (output,) = llm.generate(PROMPT, one, use_tqdm=False)
        except PlaitError:
            # No token is left to draw.
            assert one.min_tokens
            continue
        served += 1
        assert len(output.outputs) == one.n
        for completion in output.outputs:
            assert completion.finish_reason in ("stop", "length")
            assert all(0 <= token < VOCAB for token in completion.token_ids)
            assert completion.cumulative_logprob is None or completion.cumulative_logprob > -1e30
    assert served > 40
    assert tokens(llm) == plain


def test_one_seed_draws_the_same_for_every_prompt_of_one_length(llm: LLM) -> None:
    shared = SamplingParams(seed=7, max_tokens=6, ignore_eos=True)
    own = [SamplingParams(seed=7 + i, max_tokens=6, ignore_eos=True) for i in range(8)]
    for params, different in ((shared, 1), (own, 8)):
        outputs = llm.generate([PROMPT] * 8, params, use_tqdm=False)
        assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == different


def test_logprobs_may_be_capped(model: Path) -> None:
    capped = small(model, max_logprobs=3)
    assert len(capped.generate(PROMPT, SamplingParams(logprobs=3), use_tqdm=False)) == 1
    for wish in (SamplingParams(logprobs=4), SamplingParams(prompt_logprobs=-1)):
        with pytest.raises(InputError, match="at most 3, the engine's max_logprobs"):
            capped.generate(PROMPT, wish, use_tqdm=False)


def test_defaults_of_sampling(model: Path, tmp_path: Path) -> None:
    file = model / "generation_config.json"
    file.write_text(json.dumps({"temperature": 0.6, "top_k": 5, "eos_token_id": [1, -1]}))
    own = SamplingParams(temperature=0.6, top_k=5)
    assert small(model).get_default_sampling_params() == own
    vllm = small(model, generation_config="vllm")
    assert vllm.get_default_sampling_params() == SamplingParams()
    assert vllm.llm_engine.eos_token_ids == (1,)
    changed = small(model, override_generation_config={"top_k": 9, "temperature": None})
    assert changed.get_default_sampling_params() == SamplingParams(top_k=9)
    folder = tmp_path / "defaults"
    folder.mkdir()
    shutil.copy(file, folder)
    file.write_text(json.dumps({"temperature": 3.0}))
    assert small(model, generation_config=str(folder)).get_default_sampling_params() == own
    with pytest.raises(ModelError, match="temperature cannot be 3"):
        small(model)


def test_the_longest_sequence_that_fits(model: Path) -> None:
    fits = small(model, max_model_len=-1, num_gpu_blocks_override=3, block_size=16)
    assert fits.llm_engine.core.info.max_model_len == 48
    endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    assert len(tokens(fits, endless)) == 45
    with pytest.raises(InputError, match="at most 47"):
        fits.generate([5] * 48, GREEDY, use_tqdm=False)
    whole = small(model, max_model_len="auto")
    assert whole.llm_engine.core.info.max_model_len == 128
    assert tokens(whole) == tokens(fits)


@pytest.mark.parametrize(
    "keywords",
    [
        {"num_gpu_blocks_override": 2**31 - 1},
        {"num_gpu_blocks_override": None, "kv_cache_memory_bytes": 1},
        {"enable_lora": True, "lora_memory_bytes": 2**60},
        {"max_num_seqs": 2**20, "max_num_batched_tokens": 2**24, "max_model_len": 128},
    ],
)
def test_what_is_more_than_there_is_is_refused(
    model: Path, keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: _Memory)
    with pytest.raises(OutOfMemoryError, match="bytes"):
        small(model, **keywords)


class _Memory:
    available = 200_000_000


def test_the_kv_cache_has_the_models_dtype(model: Path) -> None:
    plain = tokens(small(model, dtype="bfloat16"))
    assert tokens(small(model, dtype="bfloat16", kv_cache_dtype="bfloat16")) == plain
    # The files have float32.
    with pytest.raises(InputError, match=r"kv_cache_dtype='float16' is refused.*'float32'"):
        small(model, kv_cache_dtype="float16")


def test_an_llm_from_engine_args(model: Path) -> None:
    args = EngineArgs(str(model), skip_tokenizer_init=True, num_gpu_blocks_override=8)
    made = LLM.from_engine_args(args)
    assert tokens(made) == tokens(small(model))
    with pytest.raises(TypeError, match="usage_contxt"):
        LLMEngine.from_engine_args(args, usage_contxt=None)  # type: ignore[call-arg]


def test_a_template_for_all_conversations(model: Path, tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(VOCAB)}
    rust = RustTokenizer(models.WordLevel(words, unk_token="w0"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="w0").save_pretrained(model)
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }} w9{% endfor %}")
    llm = small(model, skip_tokenizer_init=False, chat_template=template)
    talk: list[Any] = [{"role": "user", "content": "w3"}]
    assert llm.chat(talk, GREEDY, use_tqdm=False)[0].prompt_token_ids == [3, 9]
    other = "{{ messages[0].content }} w7"
    again = llm.chat(talk, GREEDY, use_tqdm=False, chat_template=other)
    assert again[0].prompt_token_ids == [3, 7]
    with pytest.raises(InputError, match="chat_template="):
        small(model, chat_template=str(tmp_path / "nowhere"))
