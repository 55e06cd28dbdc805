"""``python interpreted_engine.py``: answer requests as an engine on a GPU would, on a CPU.

Every kernel is plait-triton's, run by Triton's interpreter, and steps are padded and planned ahead.
Stdin is a JSON object: ``model``, and ``requests``, a list of (adapter's directory or null, prompt,
output tokens). Stdout is one: ``answers``, and ``sizes``, a list of (tokens, is_decode) of the
steps.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer what stdin asks."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    asked = json.load(sys.stdin)
    sys.stdout.write("\n" + json.dumps(answer(asked["model"], asked["requests"])) + "\n")


def answer(model: str, requests: list[tuple[str | None, list[int], int]]) -> dict[str, Any]:
    """Run the requests together, greedily."""
    from plait import LLM, LoRARequest, SamplingParams
    from plait.padded_steps import PaddedSteps
    from plait.runner import Runner
    from plait.step_buffers import StepBuffers
    from plait.step_outputs import StepOutputs
    from plait.step_sizes import common_site_sets, decode_sizes, mixed_sizes
    from plait_triton.interpreter import patch_once_per_launch

    patch_once_per_launch()
    sizes: list[tuple[int, bool]] = []

    class Recorded(PaddedSteps):
        def _compute(self, buffers: StepBuffers, site_set: frozenset[str]) -> StepOutputs:
            sizes.append((buffers.size.tokens, buffers.size.is_decode))
            return super()._compute(buffers, site_set)

    llm = LLM(
        model,
        skip_tokenizer_init=True,
        dtype="float32",
        kernels="*=triton",
        enable_lora=True,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        num_gpu_blocks_override=32,
        lora_memory_bytes=1 << 20,
    )
    core = llm.llm_engine.core
    core.steps_ahead = 1
    runner = core.runner
    assert isinstance(runner, Runner)
    runner.padded_steps = Recorded(
        runner.model,
        runner.rows,
        runner.kv,
        runner.adapters,
        sizes=decode_sizes(4) + mixed_sizes(4, 32),
        site_sets=common_site_sets(runner.model.sites, None),
        capture=False,
    )
    paths = sorted({path for path, _, _ in requests if path is not None})
    handles = {path: LoRARequest(path, i + 1, path) for i, path in enumerate(paths)}
    outputs = llm.generate(
        [prompt for _, prompt, _ in requests],
        [
            SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
            for *_, count in requests
        ],
        lora_request=[None if path is None else handles[path] for path, *_ in requests],
        use_tqdm=False,
    )
    return {"answers": [list(o.outputs[0].token_ids) for o in outputs], "sizes": sizes}


if __name__ == "__main__":
    main()
