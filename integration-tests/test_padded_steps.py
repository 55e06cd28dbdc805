"""Steps planned ahead, in padded buffers, change nothing that a user sees.

This is how an engine runs on a GPU; here the same steps are computed on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plait import LLM, LoRARequest, RequestOutput, SamplingParams
from plait.llm_engine import LLMEngine
from plait.step_sizes import StepSize

PROMPTS = [[5 + i, *range(3, 4 + 3 * i)] for i in range(11)]


@pytest.fixture
def make(make_tiny_llm: Callable[..., LLM], plan_ahead: Callable[[LLM], LLM]) -> Callable[..., LLM]:
    def make(*, ahead: bool, **keywords: Any) -> LLM:
        llm = make_tiny_llm(**({"max_num_seqs": 12} | keywords))
        return plan_ahead(llm) if ahead else llm

    return make


@pytest.fixture
def handles(save_tiny_adapter: Callable[..., Path]) -> list[LoRARequest | None]:
    paths = [save_tiny_adapter(seed=i, r=1 + 4 * i) for i in range(3)]
    return [None, *(LoRARequest(f"a{i}", i + 1, str(path)) for i, path in enumerate(paths))]


def add(engine: LLMEngine, handles: list[LoRARequest | None]) -> None:
    """Read the adapters, so that it is no matter of time which steps their requests are in."""
    for handle in handles:
        if handle is not None:
            engine.add_lora(handle)


def run(llm: LLM, handles: list[LoRARequest | None], **params: Any) -> list[RequestOutput]:
    add(llm.llm_engine, handles)
    options = {"temperature": 0, "ignore_eos": True} | params
    each = [SamplingParams(**options, max_tokens=3 + 2 * i) for i in range(len(PROMPTS))]
    requests = [handles[i % len(handles)] for i in range(len(PROMPTS))]
    return llm.generate(PROMPTS, each, lora_request=requests, use_tqdm=False)


def answers(outputs: list[RequestOutput]) -> list[Any]:
    return [
        (list(o.outputs[0].token_ids), o.outputs[0].finish_reason, o.outputs[0].stop_reason)
        for o in outputs
    ]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.9, "top_k": 20, "seed": 3},
        {"repetition_penalty": 1.4, "min_tokens": 2, "logit_bias": {7: 3.0}},
        {"stop_token_ids": list(range(20, 128))},
    ],
    ids=["greedy", "drawn", "penalised", "stopped"],
)
def test_answers_are_the_same(
    make: Callable[..., LLM], handles: list[LoRARequest | None], params: dict[str, Any]
) -> None:
    expected = answers(run(make(ahead=False), handles, **params))
    llm = make(ahead=True)
    assert answers(run(llm, handles, **params)) == expected
    # Once more, with blocks in the prefix cache.
    assert answers(run(llm, handles, **params)) == expected
    pool = llm.llm_engine.core.scheduler.pool
    assert pool.num_free == pool.num_blocks


@pytest.mark.parametrize(
    "keywords",
    [
        {"num_gpu_blocks_override": 14, "max_model_len": 64},
        {"max_num_batched_tokens": 16},
        {"max_loras": 1},
        {"max_num_seqs": 3},
    ],
    ids=["preempted", "chunked", "one_adapter_at_a_time", "few_rows"],
)
def test_answers_are_the_same_when_memory_or_budget_is_short(
    make: Callable[..., LLM], handles: list[LoRARequest | None], keywords: dict[str, Any]
) -> None:
    expected = answers(run(make(ahead=False), handles))
    assert answers(run(make(ahead=True, **keywords), handles)) == expected


def test_logprobs_are_the_same(make: Callable[..., LLM], handles: list[LoRARequest | None]) -> None:
    first = run(make(ahead=False), handles, logprobs=3, prompt_logprobs=2)
    second = run(make(ahead=True), handles, logprobs=3, prompt_logprobs=2)
    for mine, theirs in zip(second, first, strict=True):
        same_logprobs(mine.outputs[0].logprobs, theirs.outputs[0].logprobs)
        same_logprobs(mine.prompt_logprobs, theirs.prompt_logprobs)


def same_logprobs(mine: Any, theirs: Any) -> None:
    assert len(mine) == len(theirs) > 0
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None) == (b is None)
        for token, value in (a or {}).items():
            assert value.logprob == pytest.approx(b[token].logprob, abs=1e-4)


def test_steps_are_padded(
    make: Callable[..., LLM], handles: list[LoRARequest | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the tests above: without padded steps they would show little."""
    llm = make(ahead=True, max_num_batched_tokens=150)
    runner: Any = llm.llm_engine.core.runner
    seen: list[tuple[StepSize, int]] = []
    compute = runner.padded_steps._compute

    def record(buffers: Any, site_set: Any) -> Any:
        seen.append((buffers.size, len(site_set)))
        return compute(buffers, site_set)

    monkeypatch.setattr(runner.padded_steps, "_compute", record)
    monkeypatch.setattr(runner, "_inputs", None)  # no step is computed as it comes
    run(llm, handles)
    llm.generate([[5] * 100], SamplingParams(max_tokens=1), use_tqdm=False)
    decoding = {size.tokens for size, _ in seen if size.is_decode}
    mixed = {size.tokens for size, _ in seen if not size.is_decode}
    assert (decoding, mixed) == ({1, 2, 4, 8, 12}, {64, 128, 150})
    # None, and those of the adapters, or beside prompts those of every linear.
    assert {groups for size, groups in seen if size.is_decode} == {0, 2}
    assert {groups for size, groups in seen if not size.is_decode} == {0, 4}


def test_an_interrupted_step_leaves_nothing(
    make: Callable[..., LLM], handles: list[LoRARequest | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(ahead=True)
    expected = answers(run(llm, handles))
    core = llm.llm_engine.core
    start, steps = core.runner.start, 0

    def interrupt(plan: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return start(plan)

    monkeypatch.setattr(core.runner, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(llm, handles)
    monkeypatch.undo()
    assert answers(run(llm, handles)) == expected
    pool = core.scheduler.pool
    assert pool.num_free == pool.num_blocks


def test_an_aborted_request_leaves_the_others_alone(
    make: Callable[..., LLM], handles: list[LoRARequest | None]
) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)

    def all_but(victim: int | None) -> dict[str, list[int]]:
        engine = make(ahead=True).llm_engine
        add(engine, handles)
        for i, prompt in enumerate(PROMPTS[:6]):
            engine.add_request(str(i), prompt, params, lora_request=handles[i % len(handles)])
        found: dict[str, list[int]] = {}
        for step in range(60):
            if step == 5 and victim is not None:
                engine.abort_request(str(victim))
            for output in engine.step():
                found[output.request_id] = list(output.outputs[0].token_ids)
        assert not engine.has_unfinished_requests()
        return found

    alone, together = all_but(2), all_but(None)
    assert all(alone[str(i)] == together[str(i)] for i in range(6) if i != 2)
    assert len(alone["2"]) < 12


def test_compiling_changes_nothing(
    make: Callable[..., LLM], handles: list[LoRARequest | None]
) -> None:
    llm = make(ahead=True)
    run(llm, handles)
    runner: Any = llm.llm_engine.core.runner
    tensors = runner.kv, runner.rows.tokens, runner.adapters.arena.table.arena
    # As bits: where nothing was written there may be NaN.
    state = [tensor.view(torch.uint8) for tensor in tensors]
    before = [tensor.clone() for tensor in state]
    runner.padded_steps.compile(StepSize(700, 12, is_decode=False))
    assert all(map(torch.equal, before, state))
