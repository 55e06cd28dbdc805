"""Bad input: one clear error that fails its own request alone, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait import LLM, EngineArgs, LoRARequest, SamplingParams
from plait_kernels.errors import AdapterError, InputError, ModelError, RequestsFailed
from plait_lora.expressions import MatchTime

VOCAB = 128
MAX_MODEL_LEN = 64
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
PROMPT = [3, 7, 11]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture(scope="module")
def good(save_tiny_adapter: Callable[..., Path]) -> Path:
    return save_tiny_adapter(seed=0)


@pytest.fixture(scope="module")
def llm(make_tiny_llm: Callable[..., LLM]) -> Iterator[LLM]:
    engine = make_tiny_llm(
        max_lora_rank=8, max_model_len=MAX_MODEL_LEN, max_num_seqs=8, num_gpu_blocks_override=32
    )
    yield engine
    assert not engine.llm_engine.core.has_work


def memory(llm: LLM) -> tuple[Any, ...]:
    """Everything that a request could leave behind."""
    core = llm.llm_engine.core
    library = core.library()
    return (
        core.scheduler.pool.num_free,
        len(core.scheduler.requests),
        len(core.scheduler.waiting) + len(core.scheduler.running),
        library.store.num_free_chunks,
        library.store.resident(),
        library.catalog.nbytes,
        library.ids(),
    )


def tokens(llm: LLM, lora_request: LoRARequest | None = None) -> list[int]:
    outputs = llm.generate(PROMPT, GREEDY, lora_request=lora_request, use_tqdm=False)
    return list(outputs[0].outputs[0].token_ids)


Break = Callable[[Path], None]


def config_field(**fields: Any) -> Break:
    def edit(path: Path) -> None:
        file = path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Break:
    def edit(path: Path) -> None:
        file = path / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return edit


def bytes_of_weights(change: Callable[[bytes], bytes]) -> Break:
    def edit(path: Path) -> None:
        file = path / "adapter_model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return edit


def only_pickle(path: Path) -> None:
    torch.save(load_file(path / "adapter_model.safetensors"), path / "adapter_model.bin")
    (path / "adapter_model.safetensors").unlink()


def without_config(path: Path) -> None:
    (path / "adapter_config.json").unlink()


def renamed_module(all_tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("q_proj", "qq_proj"): t for name, t in all_tensors.items()}


def wrong_shape(all_tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: t[:, :-1].contiguous() if name.endswith("0.self_attn.q_proj.lora_A.weight") else t
        for name, t in all_tensors.items()
    }


def rank_16(all_tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(16, t.shape[1]) if "lora_A" in name else torch.randn(t.shape[0], 16)
        for name, t in all_tensors.items()
    }


def high_rank(path: Path) -> None:
    config_field(r=16)(path)
    tensors(rank_16)(path)


def scaled(factor: float) -> Break:
    return tensors(lambda weights: {name: t * factor for name, t in weights.items()})


def sparse(name: str) -> Break:
    def edit(path: Path) -> None:
        os.truncate(path / name, 200 << 30)

    return edit


def fifo(path: Path) -> None:
    (path / "adapter_model.safetensors").unlink()
    os.mkfifo(path / "adapter_model.safetensors")


def config_bytes(data: bytes) -> Break:
    def edit(path: Path) -> None:
        (path / "adapter_config.json").write_bytes(data)

    return edit


def of_mlx(path: Path) -> None:
    (path / "adapter_model.safetensors").rename(path / "adapters.safetensors")
    config_bytes(b'{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}')(path)


def whole_model(path: Path) -> None:
    (path / "adapter_config.json").rename(path / "config.json")


ENDLESS = r"(?:(?:.|..)+)+[XY]"

BAD_ADAPTERS: dict[str, tuple[Break, str]] = {
    "missing path": (shutil.rmtree, "adapter"),
    "missing config": (without_config, "adapter_config.json"),
    "corrupt": (bytes_of_weights(lambda data: b"\xff" * 64 + data[64:]), "safetensors"),
    "truncated": (bytes_of_weights(lambda data: data[:-100]), "safetensors"),
    "empty file": (bytes_of_weights(lambda _: b""), "safetensors"),
    "wrong shape": (tensors(wrong_shape), "q_proj"),
    "unknown module": (tensors(renamed_module), "qq_proj"),
    "DoRA": (config_field(use_dora=True), "use_dora"),
    "bias": (config_field(bias="lora_only"), "bias"),
    "modules_to_save": (config_field(modules_to_save=["lm_head"]), "modules_to_save"),
    "aLoRA": (config_field(alora_invocation_tokens=[5, 6]), "alora_invocation_tokens"),
    "trainable tokens": (config_field(trainable_token_indices=[1]), "trainable_token_indices"),
    "other method": (config_field(peft_type="IA3"), "IA3"),
    "future field": (config_field(hyper_scale=2.0), "hyper_scale"),
    "rank beyond the cap": (high_rank, "max_lora_rank"),
    "pickle": (only_pickle, "pickle"),
    "scale beyond float32": (config_field(lora_alpha=1e300), "lora_alpha"),
    "results beyond float32": (scaled(1e37), "give results up to"),
    "NaN": (scaled(float("nan")), "NaN or infinite"),
    "a layer without a number": (
        config_field(layers_to_transform=[0, 1], layers_pattern="layers|.*"),
        "layers_to_transform",
    ),
    "a sparse config": (sparse("adapter_config.json"), "bytes, and at most"),
    "sparse weights": (sparse("adapter_model.safetensors"), "damaged or incomplete"),
    "a pipe": (fifo, "not a regular file"),
    "deep JSON": (config_bytes(b"[" * 100_000), "adapter_config.json"),
    "not UTF-8": (config_bytes(b'{"peft_type": "\xff"}'), "adapter_config.json"),
    "an endless expression": (config_field(target_modules=ENDLESS), "target_modules"),
    "an endless pattern": (config_field(rank_pattern={ENDLESS: 4}), "rank_pattern"),
    "a large expression": (config_field(exclude_modules="(a{1000}){1000}"), "exclude_modules"),
    "mlx-lm": (of_mlx, "mlx"),
    "a model": (whole_model, "whole model"),
}


@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_a_bad_adapter_fails_its_own_request(
    llm: LLM, good: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait_lora.peft_config.MatchTime", lambda: MatchTime(0.1))
    break_it, named = BAD_ADAPTERS[name]
    good_request = LoRARequest("good", 1, str(good))
    wanted = [tokens(llm), tokens(llm, good_request)]
    before = memory(llm)
    path = tmp_path / "adapter"
    shutil.copytree(good, path)
    break_it(path)
    bad_request = LoRARequest("bad", 7, str(path))
    with pytest.raises(RequestsFailed) as caught:
        llm.generate(
            [PROMPT, PROMPT, PROMPT],
            GREEDY,
            lora_request=[None, bad_request, good_request],
            use_tqdm=False,
        )
    assert list(caught.value.errors) == [1]
    assert isinstance(caught.value.errors[1], AdapterError)
    assert named in str(caught.value.errors[1])
    base, failed, adapted = caught.value.outputs
    assert [base.outputs[0].token_ids, adapted.outputs[0].token_ids] == wanted
    assert failed.finished
    assert failed.outputs[0].finish_reason == "error"
    assert failed.outputs[0].token_ids == []
    assert memory(llm) == before
    with pytest.raises(AdapterError, match=named):
        tokens(llm, bad_request)
    with pytest.raises(AdapterError):
        llm.llm_engine.add_lora(bad_request)
    assert memory(llm) == before
    assert [tokens(llm), tokens(llm, good_request)] == wanted


BAD_PROMPTS: dict[str, tuple[Any, str]] = {
    "empty": ([], "empty"),
    "empty text": ("", "empty"),
    "too long": ([5] * MAX_MODEL_LEN, f"at most {MAX_MODEL_LEN - 1}"),
    "token out of range": ([3, VOCAB], f"got {VOCAB}"),
    "negative token": ([3, -1], "got -1"),
    "text without a tokenizer": ("hello", "skip_tokenizer_init"),
    "no prompt": ({"text": "x"}, "text"),
    "embeddings": ({"prompt_embeds": [[1.0]]}, "not embeddings"),
    "a number": (5, "int"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_a_bad_prompt_fails_its_own_request(llm: LLM, name: str) -> None:
    prompt, named = BAD_PROMPTS[name]
    wanted = tokens(llm)
    before = memory(llm)
    with pytest.raises(RequestsFailed) as caught:
        llm.generate([{"prompt_token_ids": PROMPT}, prompt], GREEDY, use_tqdm=False)
    assert isinstance(caught.value.errors[1], InputError)
    assert named in str(caught.value.errors[1])
    assert caught.value.outputs[0].outputs[0].token_ids == wanted
    with pytest.raises(InputError, match=named):
        llm.llm_engine.add_request("x", prompt, GREEDY)
    assert memory(llm) == before
    assert not llm.llm_engine.has_unfinished_requests()


BAD_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": -0.1}, "temperature"),
    "top_p": ({"top_p": 0.0}, "top_p"),
    "top_k": ({"top_k": -2}, "top_k"),
    "n": ({"n": 0}, "n"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens"),
    "presence_penalty": ({"presence_penalty": 2.5}, "presence_penalty"),
    "repetition_penalty": ({"repetition_penalty": 0.0}, "repetition_penalty"),
    "logprobs": ({"logprobs": -2}, "logprobs"),
    "unknown": ({"temprature": 0}, "temperature"),
    "stop without text": ({"stop": ["x"], "detokenize": False}, "detokenize"),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_parameters_out_of_range_are_refused_when_they_are_written(name: str) -> None:
    keywords, named = BAD_PARAMETERS[name]
    with pytest.raises(InputError, match=named):
        SamplingParams(**keywords)


def test_parameters_that_do_not_fit_the_model_fail_their_request(llm: LLM) -> None:
    before = memory(llm)
    for params in (
        SamplingParams(allowed_token_ids=[VOCAB + 1]),
        SamplingParams(logit_bias={VOCAB: 1.0}),
        SamplingParams(stop=["x"]),
    ):
        with pytest.raises(InputError):
            llm.generate(PROMPT, params, use_tqdm=False)
    with pytest.raises(InputError, match="SamplingParams"):
        llm.generate(PROMPT, {"temperature": 0}, use_tqdm=False)  # type: ignore[arg-type]
    assert memory(llm) == before


@pytest.mark.parametrize(
    "keywords",
    [
        {"sampling_params": [GREEDY]},
        {"lora_request": [None]},
        {"lora_request": [None, None, None]},
        {"priority": [0]},
    ],
)
def test_a_list_of_another_length_is_refused(llm: LLM, keywords: dict[str, Any]) -> None:
    before = memory(llm)
    with pytest.raises(InputError, match="for 2 prompts"):
        llm.generate([PROMPT, PROMPT], **({"sampling_params": GREEDY} | keywords))
    assert memory(llm) == before


def test_a_lora_request_of_another_type_is_refused(llm: LLM) -> None:
    with pytest.raises(InputError, match="LoRARequest"):
        llm.generate(PROMPT, GREEDY, lora_request="sql")  # type: ignore[arg-type]


def test_lora_that_is_not_enabled_is_refused(model: Path, good: Path) -> None:
    llm = LLM(model=str(model), skip_tokenizer_init=True, num_gpu_blocks_override=16)
    with pytest.raises(InputError, match="enable_lora=True"):
        llm.generate(PROMPT, GREEDY, lora_request=LoRARequest("good", 1, str(good)))
    assert not llm.llm_engine.has_unfinished_requests()
    assert len(tokens(llm)) == 4


def test_an_id_in_use_is_refused(llm: LLM) -> None:
    engine = llm.llm_engine
    engine.add_request("same", PROMPT, GREEDY)
    with pytest.raises(InputError, match="'same'"):
        engine.add_request("same", PROMPT, GREEDY)
    engine.abort_request("same")
    while engine.core.has_work:
        engine.step()


def test_an_adapter_too_large_for_its_memory_fails_alone(model: Path, good: Path) -> None:
    llm = LLM(
        model=str(model),
        skip_tokenizer_init=True,
        enable_lora=True,
        num_gpu_blocks_override=16,
        lora_memory_bytes=8 << 10,
    )
    with pytest.raises(Exception, match="chunks") as caught:
        tokens(llm, LoRARequest("good", 1, str(good)))
    assert type(caught.value).__name__ == "OutOfMemoryError"
    assert len(tokens(llm)) == 4


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"max_lora": 1}, "max_loras"),
        ({"tensor_parallel_size": 2}, "one device"),
        ({"quantization": "awq"}, "quantization"),
        ({"dtype": "int8"}, "dtype"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_loras": 4, "max_cpu_loras": 2}, "max_cpu_loras"),
        ({"load_format": "pt"}, "load_format"),
    ],
)
def test_keywords_are_honoured_or_refused(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        EngineArgs("model", **keywords)


def test_models_that_cannot_be_served_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        LLM(model=str(tmp_path / "nothing"), skip_tokenizer_init=True)
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    changed = config | {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (other / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="GPT2LMHeadModel"):
        LLM(model=str(other), skip_tokenizer_init=True)
    pickled = tmp_path / "pickled"
    shutil.copytree(model, pickled)
    weights = load_file(pickled / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickle"):
        LLM(model=str(pickled), skip_tokenizer_init=True)


def test_a_model_longer_than_its_memory_is_refused(model: Path) -> None:
    with pytest.raises(Exception, match="max_model_len=128 needs 8"):
        LLM(model=str(model), skip_tokenizer_init=True, num_gpu_blocks_override=7)
    with pytest.raises(InputError, match="at most 128"):
        LLM(model=str(model), skip_tokenizer_init=True, max_model_len=129)
