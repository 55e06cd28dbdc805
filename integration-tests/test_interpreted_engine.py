"""The steps of a GPU, on its kernels, answer as the oracle does: on a CPU, interpreted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

CLEAR_GAP = 1e-3
PROGRAM = Path(__file__).parent / "interpreted_engine.py"


@torch.inference_mode()
def oracle(model: Path, adapter: str | None, prompt: list[int], count: int) -> list[int]:
    """Return what transformers with peft answers up to the first near tie."""
    network = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    tokens = list(prompt)
    for _ in range(count):
        best = network(input_ids=torch.tensor([tokens])).logits[0, -1].topk(2)
        if float(best.values[0] - best.values[1]) <= CLEAR_GAP:
            break
        tokens.append(int(best.indices[0]))
    return tokens[len(prompt) :]


@pytest.mark.filterwarnings("ignore")  # of peft, about saved heads
def test_answers_are_the_oracles(tiny_model: Path, save_tiny_adapter: Callable[..., Path]) -> None:
    options = [
        {"r": 3, "target_modules": ["q_proj", "down_proj"]},
        {"r": 17, "target_modules": "all-linear"},
        {"r": 9, "target_modules": ["v_proj", "up_proj", "lm_head"]},
    ]
    low, high, head = (str(save_tiny_adapter(seed=i, **option)) for i, option in enumerate(options))
    # The third comes when the first two have begun, the last two when others have ended.
    requests: list[tuple[str | None, list[int], int]] = [
        (None, list(range(3, 14)), 4),
        (low, [7], 5),
        (high, list(range(90, 70, -1)), 3),
        (head, [3, 1, 4], 4),
        (None, list(range(40, 77)), 2),
        (low, [99, 98], 3),
    ]
    asked = json.dumps({"model": str(tiny_model), "requests": requests})
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    given = json.loads(done.stdout.splitlines()[-1])
    expected = [oracle(tiny_model, *request) for request in requests]
    for answer, right, (*_, count) in zip(given["answers"], expected, requests, strict=True):
        assert len(answer) == count
        assert answer[: len(right)] == right
    assert sum(map(len, expected)) >= 18, "hardly a choice is near a tie"
    assert {is_decode for _, is_decode in given["sizes"]} == {True, False}
