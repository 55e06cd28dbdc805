"""What one request's data does ends that request, with a reason, and nobody else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait import EngineArgs, LoRARequest, RequestOutput, SamplingParams
from plait.detokenizer import TokenDecoder
from plait.llm_engine import LLMEngine
from plait_kernels.errors import AdapterError, InputError, PlaitError
from plait_lora.reader import AdapterReader

PROMPT = (3, 1, 4, 1, 5)
VOCAB = 96


@pytest.fixture(scope="module")
def engine(engine_args: Callable[..., EngineArgs]) -> LLMEngine:
    # Room for three adapters, so that they run in one batch.
    return LLMEngine.from_engine_args(
        engine_args(max_loras=None, max_cpu_loras=None, lora_memory_bytes=2 << 10)
    )


@pytest.fixture
def run_beside(
    engine: LLMEngine, world: Any, check_nothing_leaked: Callable[[LLMEngine], None]
) -> Callable[..., RequestOutput]:
    """Run a request beside good ones, which must be right; return its last output."""

    def run(params: SamplingParams, lora_request: LoRARequest | None = None) -> RequestOutput:
        engine.add_request("base", list(PROMPT), world.greedy(6))
        engine.add_request("bad", list(PROMPT), params, lora_request=lora_request)
        engine.add_request("one", list(PROMPT), world.greedy(6), lora_request=world.handle(1))
        ended = world.finish(engine)
        assert ended["base"].outputs[0].token_ids == world.right(None, PROMPT)[:6]
        assert ended["one"].outputs[0].token_ids == world.right(1, PROMPT)[:6]
        check_nothing_leaked(engine)
        return ended["bad"]

    return run


def scaled(world: Any, path: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    shutil.copytree(world.adapters[2], path)
    file = path / "adapter_model.safetensors"
    save_file({name: change(name, t) for name, t in load_file(file).items()}, file)
    return path


def huge(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, 3e38)


def huge_in_b(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 3e38 if "lora_B" in name else tensor


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy with logprobs": {"temperature": 0, "logprobs": 2},
    "prompt logprobs": {"temperature": 0, "prompt_logprobs": 1},
    "drawn": {"temperature": 1.0, "seed": 1},
    "top_k": {"temperature": 1.0, "top_k": 3},
    "top_p": {"temperature": 1.0, "top_p": 0.5},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "penalties": {"temperature": 1.0, "presence_penalty": 1.0, "repetition_penalty": 2.0},
    "allowed tokens": {"temperature": 0, "allowed_token_ids": [1, 2]},
    "several": {"temperature": 1.0, "n": 2},
}


@pytest.mark.parametrize("change", [huge, huge_in_b])
@pytest.mark.parametrize("way", WAYS)
def test_logits_that_are_not_finite_end_their_row(
    run_beside: Callable[..., RequestOutput],
    world: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    change: Callable[[str, torch.Tensor], torch.Tensor],
) -> None:
    # Weights that overflow for ordinary inputs are refused when they are read. Those that do so for
    # the inputs of one request cannot be: these stand for them.
    monkeypatch.setattr("plait_lora.peft_weights.check_results", lambda weights, where: None)
    handle = LoRARequest("huge", 9, str(scaled(world, tmp_path / "huge", change)))
    bad = run_beside(SamplingParams(**({"max_tokens": 6, "ignore_eos": True} | WAYS[way])), handle)
    assert isinstance(bad.error, AdapterError)
    assert "finite" in str(bad.error)
    assert {completion.finish_reason for completion in bad.outputs} == {"error"}
    assert not bad.outputs[0].token_ids


def forced(**fields: Any) -> SamplingParams:
    """Make parameters that no check has seen."""
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    for name, value in fields.items():
        params.__dict__[name] = value
    return params


EXCLUDING: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 1e-45},
    "stop tokens": {"stop_token_ids": list(range(VOCAB)), "min_tokens": 2},
    "bias": {"logit_bias": dict.fromkeys(range(VOCAB), float("-inf"))},
    "NaN bias": {"logit_bias": {3: float("nan")}},
    "infinite bias": {"logit_bias": {3: float("inf")}},
    "bias of another kind": {"logit_bias": {3: "x"}},
    "top_p": {"top_p": "x"},
    "top_k": {"top_k": None},
    "allowed tokens": {"allowed_token_ids": []},
    "temperature": {"temperature": 10**400},
}


@pytest.mark.parametrize("name", EXCLUDING)
def test_parameters_that_leave_no_token_end_their_row(
    run_beside: Callable[..., RequestOutput], engine: LLMEngine, name: str
) -> None:
    params = forced(**EXCLUDING[name])
    try:
        engine.check_request("bad", list(PROMPT), params)
    except InputError:
        return  # refused before it is queued is as good
    bad = run_beside(params)
    assert isinstance(bad.error, PlaitError)
    assert bad.finished


@pytest.mark.parametrize("fields", [{"top_k": 2**63}, {"top_k": 2**31}, {"min_tokens": 2**70}])
def test_numbers_beyond_every_vocabulary_and_length_mean_what_they_say(
    run_beside: Callable[..., RequestOutput], world: Any, fields: dict[str, Any]
) -> None:
    bad = run_beside(forced(**fields))
    assert bad.error is None
    assert bad.outputs[0].token_ids == world.right(None, PROMPT)[:6]


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RuntimeError("x" * 10**6), RecursionError(), SystemExit(1)]
)
def test_whatever_a_reading_thread_raises_ends_its_request(
    run_beside: Callable[..., RequestOutput],
    engine: LLMEngine,
    world: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    read = AdapterReader.read

    def fail(self: AdapterReader, request: LoRARequest, where: str) -> Any:
        if request.adapter_id == 9:
            raise error
        return read(self, request, where)

    monkeypatch.setattr(AdapterReader, "read", fail)
    handle = LoRARequest("unreadable", 9, str(world.adapters[2]))
    bad = run_beside(world.greedy(6), handle)
    assert isinstance(bad.error, AdapterError)
    assert type(error).__name__ in str(bad.error)
    assert len(str(bad.error)) < 1000
    if isinstance(error, Exception):
        with pytest.raises(AdapterError, match=type(error).__name__):
            engine.add_lora(handle)


def test_a_path_that_no_file_can_have_ends_its_request(
    run_beside: Callable[..., RequestOutput], world: Any
) -> None:
    try:
        handle = LoRARequest("nul", 9, "adapters/\0")
    except InputError:
        return
    assert isinstance(run_beside(world.greedy(6), handle).error, AdapterError)


@pytest.mark.parametrize("params", [{}, {"logprobs": 2}, {"n": 2}])
def test_text_that_cannot_be_made_ends_its_request(
    run_beside: Callable[..., RequestOutput],
    world: Any,
    monkeypatch: pytest.MonkeyPatch,
    params: dict[str, Any],
) -> None:
    # The bad request alone has this token, and all it has is this token.
    others = {*PROMPT, *world.right(None, PROMPT), *world.right(1, PROMPT)}
    token = max(set(range(VOCAB)) - others)
    decode = TokenDecoder.decode

    def fail(self: TokenDecoder, ids: Any, **keywords: Any) -> str:
        if token in ids:
            text = "a damaged vocabulary"
            raise RuntimeError(text)
        return decode(self, ids, **keywords)

    monkeypatch.setattr(TokenDecoder, "decode", fail)
    bad = run_beside(world.greedy(6, allowed_token_ids=[token], **params))
    assert isinstance(bad.error, PlaitError)
    assert "a damaged vocabulary" in str(bad.error)
    assert {completion.finish_reason for completion in bad.outputs} == {"error"}
