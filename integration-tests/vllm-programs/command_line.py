# ruff: noqa: T201
"""Takes vLLM's engine options from the command line, and hands all of them to LLM."""

from typing import Any

from vllm import LLM, EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser


def create_parser() -> FlexibleArgumentParser:
    parser = FlexibleArgumentParser()
    EngineArgs.add_cli_args(parser)
    parser.set_defaults(model="owner/tiny")
    sampling = parser.add_argument_group("Sampling")
    sampling.add_argument("--max-tokens", type=int)
    sampling.add_argument("--temperature", type=float)
    return parser


def main(args: dict[str, Any]) -> None:
    max_tokens, temperature = args.pop("max_tokens"), args.pop("temperature")
    llm = LLM(**args)
    sampling_params = llm.get_default_sampling_params()
    if max_tokens is not None:
        sampling_params.max_tokens = max_tokens
    if temperature is not None:
        sampling_params.temperature = temperature
    prompts = ["Hello, my name is", "The future of AI is"]
    for output in llm.generate(prompts, sampling_params):
        print(output.request_id, repr(output.prompt), output.outputs[0].token_ids)


if __name__ == "__main__":
    main(vars(create_parser().parse_args()))
