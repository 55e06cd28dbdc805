# ruff: noqa: T201
"""Streams with AsyncLLM, in new tokens only, and pauses it."""

import asyncio

import vllm
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM


async def stream(engine: AsyncLLM, prompt: str, request_id: str) -> None:
    params = SamplingParams(
        max_tokens=6, temperature=0, output_kind=RequestOutputKind.DELTA, ignore_eos=True
    )
    tokens = []
    async for output in engine.generate(
        request_id=request_id, prompt=prompt, sampling_params=params
    ):
        tokens += [token for completion in output.outputs for token in completion.token_ids]
        if output.finished:
            print(request_id, tokens)
            break


async def main() -> None:
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="owner/tiny", enforce_eager=True))
    assert isinstance(engine, vllm.AsyncLLMEngine)
    try:
        for i, prompt in enumerate(["The future of", "In a galaxy"]):
            await stream(engine, prompt, f"stream-{i}")
        await engine.pause_generation(mode="keep")
        waiting = asyncio.create_task(stream(engine, "The key", "paused"))
        await asyncio.sleep(0.1)
        print("done while paused:", waiting.done())
        await engine.resume_generation()
        await waiting
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
