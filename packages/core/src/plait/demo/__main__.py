"""Serve the base model and two adapters over the same questions, in one batch."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from typing import TYPE_CHECKING

from plait import LLM, LoRARequest, RequestOutput, SamplingParams
from plait.demo.model import adapter_path, find_demo_model
from plait.demo.questions import STOP, prompts, questions
from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 76


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m plait.demo", description=__doc__)
    parser.add_argument("--max-tokens", type=int, default=48, help="most tokens of an answer")
    arguments = parser.parse_args()
    try:
        _run(arguments.max_tokens)
    except PlaitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(max_tokens: int) -> None:
    started = time.perf_counter()
    llm = LLM(model=str(find_demo_model()), enable_lora=True, max_model_len=1024)
    print(f"Loaded SmolLM2-135M-Instruct in {time.perf_counter() - started:.1f} s.\n")
    names = ("base model", "sql adapter", "json adapter")
    adapters = (
        None,
        LoRARequest("sql", 1, str(adapter_path("sql"))),
        LoRARequest("json", 2, str(adapter_path("json"))),
    )
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, stop=[STOP])
    asked = prompts()
    print(f"One batch: {len(asked)} questions, each to {', '.join(names)}.")
    outputs = llm.generate(
        [prompt for prompt in asked for _ in adapters],
        sampling,
        lora_request=[adapter for _ in asked for adapter in adapters],
    )
    for i, question in enumerate(questions()):
        print(f"\n{question}")
        for name, output in zip(names, outputs[i * len(names) :], strict=False):
            _show(name, output.outputs[0].text)
    _compare(llm, asked, adapters, max_tokens)


def _show(name: str, text: str) -> None:
    answer = textwrap.shorten(text, 3 * _WIDTH, placeholder=" …") or "(ends at once, with no text)"
    indent = " " * 15
    print(textwrap.fill(answer, _WIDTH, initial_indent=f"  {name:13}", subsequent_indent=indent))


def _compare(
    llm: LLM, asked: Sequence[str], adapters: Sequence[LoRARequest | None], max_tokens: int
) -> None:
    """Print tokens a second of as many rows of the same work: mixed, and of the base alone."""
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    batch = [prompt for prompt in asked for _ in adapters]
    mixed = [adapter for _ in asked for adapter in adapters]
    print()
    for title, loras in (("mixed batch", mixed), ("base model alone", None)):
        # Both start cold: a prompt found in the cache would not be work.
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(batch, sampling, use_tqdm=False, lora_request=loras)
        rate = _output_tokens(outputs) / (time.perf_counter() - started)
        print(f"{title:17}{len(batch)} rows, {rate:6.1f} output tokens/s")


def _output_tokens(outputs: Sequence[RequestOutput]) -> int:
    return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)


if __name__ == "__main__":
    sys.exit(main())
