# ruff: noqa: T201
"""Adds requests to an LLMEngine while it steps; starts running ones over."""

import argparse

from vllm import EngineArgs, LLMEngine, RequestOutput, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser


def create_prompts() -> list[tuple[str, SamplingParams]]:
    return [
        ("A robot may not", SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=1)),
        ("To be or not to be,", SamplingParams(temperature=0.8, top_k=5, presence_penalty=0.2)),
        ("What is life?", SamplingParams(n=2, temperature=0.8, top_p=0.95, frequency_penalty=0.1)),
    ]


def main(args: argparse.Namespace) -> None:
    engine_args = EngineArgs.from_cli_args(args)
    engine = LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.ENGINE_CONTEXT)
    prompts = create_prompts()
    step = 0
    while prompts or engine.has_unfinished_requests():
        if prompts:
            prompt, params = prompts.pop(0)
            engine.add_request(str(step), prompt, params)
        if step == 10:
            engine.reset_prefix_cache(reset_running_requests=True)
        outputs: list[RequestOutput] = engine.step()
        for output in outputs:
            if output.finished:
                lengths = [len(completion.token_ids) for completion in output.outputs]
                print(output.request_id, lengths, output.prompt_logprobs is not None)
        step += 1
    print(engine.get_num_unfinished_requests())


if __name__ == "__main__":
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(description="An engine"))
    main(parser.parse_args())
