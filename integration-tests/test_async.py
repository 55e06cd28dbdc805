"""The engine as coroutines, on a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from plait import (
    LLM,
    AsyncEngineArgs,
    AsyncLLMEngine,
    LoRARequest,
    RequestOutputKind,
    SamplingParams,
)
from plait_kernels.errors import AdapterError, InputError, PlaitError

PROMPT = list(range(3, 30))


def options(model: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "skip_tokenizer_init": True,
        "enable_lora": True,
        "num_gpu_blocks_override": 64,
        "lora_memory_bytes": 4 << 20,
    }


@pytest.fixture
def on_engine(tiny_model: Path) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], None]:
    """Run a coroutine function on a fresh engine, in a loop of its own."""

    def run(scene: Callable[..., Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**options(tiny_model)))
            try:
                await asyncio.wait_for(scene(engine), timeout=60)
            finally:
                engine.shutdown()

        asyncio.run(main())

    return run


def greedy(max_tokens: int, **keywords: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, **keywords)


async def tokens(
    engine: AsyncLLMEngine, name: str, lora: LoRARequest | None, max_tokens: int = 8
) -> list[int]:
    last = None
    async for output in engine.generate(PROMPT, greedy(max_tokens), name, lora_request=lora):
        last = output
    assert last is not None
    assert last.finished
    return list(last.outputs[0].token_ids)


def test_concurrent_requests_get_their_own_answers(
    on_engine: Callable[..., None],
    save_tiny_adapter: Callable[..., Path],
    tiny_model: Path,
) -> None:
    handles = [None, *(LoRARequest(f"a{i}", i, str(save_tiny_adapter(i))) for i in (1, 2))]
    llm = LLM(**options(tiny_model))
    outputs = llm.generate([PROMPT] * 3, greedy(8), lora_request=handles, use_tqdm=False)
    wanted = [list(output.outputs[0].token_ids) for output in outputs]

    async def scene(engine: AsyncLLMEngine) -> None:
        calls = [tokens(engine, str(i), handles[i % 3]) for i in range(9)]
        assert await asyncio.gather(*calls) == wanted * 3
        assert await engine.list_loras() == {1, 2}
        assert await engine.pin_lora(1)
        assert await engine.remove_lora(1)
        assert not await engine.remove_lora(1)

    on_engine(scene)


def test_outputs_are_streamed(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        sizes = []
        params = greedy(5, output_kind=RequestOutputKind.DELTA)
        async for output in engine.generate(PROMPT, params, "delta"):
            sizes.append(len(output.outputs[0].token_ids))
        assert sum(sizes) == 5
        assert len(sizes) > 1

    on_engine(scene)


def test_bad_requests_fail_alone(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        good = asyncio.create_task(tokens(engine, "good", None, 30))
        with pytest.raises(AdapterError, match="nowhere"):
            await tokens(engine, "bad", LoRARequest("bad", 1, "/nowhere"))
        with pytest.raises(InputError, match="empty"):
            async for _ in engine.generate([], greedy(1), "empty"):
                pass
        assert len(await good) == 30
        await engine.check_health()

    on_engine(scene)


def test_leaving_and_aborting_end_a_request(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        stream = engine.generate(PROMPT, greedy(90), "left")
        async for _ in stream:
            break
        await stream.aclose()
        aborted = asyncio.create_task(tokens(engine, "aborted", None, 90))
        await asyncio.sleep(0.05)
        await engine.abort("aborted")
        assert 0 < len(await aborted) < 90
        await tokens(engine, "next", None)
        pool = engine.engine.core.scheduler.pool
        assert pool.num_free == pool.num_blocks
        assert not engine.engine.has_unfinished_requests()

    on_engine(scene)


def test_a_pause_holds_requests(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        await engine.pause_generation(mode="keep")
        task = asyncio.create_task(tokens(engine, "held", None))
        await asyncio.sleep(0.1)
        assert not task.done()
        await engine.resume_generation()
        assert len(await task) == 8

    on_engine(scene)


def test_a_broken_engine_says_so(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        def broken(plan: object) -> object:
            text = "a kernel broke"
            raise RuntimeError(text)

        engine.engine.core.runner.start = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(RuntimeError, match="a kernel broke"):
            await tokens(engine, "x", None)
        with pytest.raises(PlaitError, match="a kernel broke"):
            await engine.check_health()

    on_engine(scene)


def test_vllms_other_keywords_of_a_request(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        cut = {"truncate_prompt_tokens": 5}
        async for output in engine.generate(
            PROMPT, greedy(1), "a", tokenization_kwargs=cut, data_parallel_rank=0
        ):
            assert output.prompt_token_ids == PROMPT[-5:]
        for keywords in ({"trace_headers": {"a": "b"}}, {"data_parallel_rank": 1}):
            (name,) = keywords
            with pytest.raises(InputError, match=name):
                await anext(engine.generate(PROMPT, greedy(1), "b", **keywords))
        assert engine.get_num_unfinished_requests() == 0
        with pytest.raises(InputError, match="internal"):
            await engine.abort("a", internal=True)

    on_engine(scene)


def test_what_an_async_engine_says_of_itself(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        assert await engine.get_supported_tasks() == ("generate",)
        assert not await engine.is_tracing_enabled()
        assert not await engine.is_sleeping()
        assert engine.tokenizer is None
        assert engine.model_config.max_model_len == engine.vllm_config.model_config.max_model_len
        await engine.do_log_stats()
        await engine.reset_mm_cache()
        await engine.reset_encoder_cache()
        for refused in (engine.collective_rpc, engine.start_profile, engine.stop_profile):
            with pytest.raises(InputError, match=f"{refused.__name__} is not served"):
                await refused()
        with pytest.raises(InputError, match="encode is not served"):
            engine.encode(PROMPT, None, "a")

    on_engine(scene)


def test_sleep_without_giving_up_memory(on_engine: Callable[..., None]) -> None:
    async def scene(engine: AsyncLLMEngine) -> None:
        with pytest.raises(InputError, match="level=1"):
            await engine.sleep()
        await engine.sleep(level=0, mode="keep")
        task = asyncio.create_task(tokens(engine, "a", None, 3))
        await asyncio.sleep(0)  # until it is counted
        with pytest.raises(TimeoutError):
            await engine.wait_for_requests_to_drain(drain_timeout=0.05)
        await engine.wake_up(["weights"])
        assert await engine.is_paused()
        assert await engine.wake_up(["scheduling"])
        assert len(await task) == 3
        await engine.wait_for_requests_to_drain()

    on_engine(scene)
