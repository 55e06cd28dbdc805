"""An engine with the plugin: ``serve.py MODEL PROMPT CASES``, answered in JSON.

A case is (environment, keywords of ``LLM``). Its answer is the tokens and how often each kernel of
the plugin was called, or the error.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import plait_example.rms_norm
import plait_example.silu_and_mul

from plait import LLM, SamplingParams
from plait_kernels import KernelError, OpConfig


def count(module: Any, calls: Counter[str]) -> None:
    """Make the module's factory return kernels that count their calls."""
    make = module.make

    def make_counted(config: OpConfig) -> Callable[..., Any]:
        kernel = make(config)

        def counted(*arguments: Any) -> Any:
            calls[config.op] += 1
            return kernel(*arguments)

        return counted

    module.make = make_counted


def serve(
    model: str, prompt: list[int], environment: dict[str, str], keywords: dict[str, Any]
) -> list[int] | str:
    os.environ.pop("PLAIT_KERNELS", None)
    os.environ.update(environment)
    try:
        llm = LLM(model, skip_tokenizer_init=True, num_gpu_blocks_override=16, **keywords)
    except KernelError as error:
        return str(error)
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    (output,) = llm.generate(prompt, params, use_tqdm=False)
    return list(output.outputs[0].token_ids)


def main(model: str, prompt: str, cases: str) -> None:
    calls: Counter[str] = Counter()
    count(plait_example.rms_norm, calls)
    count(plait_example.silu_and_mul, calls)
    answers = []
    for environment, keywords in json.loads(cases):
        calls.clear()
        served = serve(model, json.loads(prompt), environment, keywords)
        answers.append(served if isinstance(served, str) else {"tokens": served, **calls})
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
