"""Without a GPU these tests run the kernels under Triton's interpreter, and some of them only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = not torch.cuda.is_available()

# Before Triton is imported: its decorator looks at it. Backends that can run on a CPU are chosen
# before an interpreted one, so other tests in this process notice nothing.
if INTERPRETED:
    os.environ.setdefault("TRITON_INTERPRET", "1")

ALL_INTERPRETED = os.environ.get("PLAIT_ALL_INTERPRETED", "0") not in ("", "0")
"""Whether nothing is left out."""

IN_ONE_DTYPE = (
    "test_writes_only_its_outputs",
    "test_gives_the_same_bits_twice",
    "test_replays_in_a_graph",
)
IN_SOME_CASES = IN_ONE_DTYPE[1:]
"""The interpreter runs one program after the other: that bits and replays are the same is a matter
of the host's side there, which differs between these cases and hardly between others."""

SOME_CASES = {
    "attention": ("mixed", "mixed_and_further_tokens", "decode_and_further_tokens", "no_rows"),
    "lora": ("mixes", "dense_rows_and_mixes", "gate_and_up", "embed", "no_token"),
    "sample": ("mixed", "greedy", "no_row"),
    "apply_penalties": ("mixed", "no_history"),
    "kv_write": ("some_skipped", "no_token"),
    "linear": ("ragged", "strided_odd", "one_token", "without_bias", "no_token"),
    "rotary_embedding": ("ragged", "not_packed", "no_token"),
}
OTHERWISE = ("ragged", "strided", "no_token")


def is_left_out(item: pytest.Item) -> bool:
    """Say whether a test is as another one to the interpreter, and takes long."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    subject, name = parameters.get("subject"), getattr(item, "originalname", "")
    if subject is None or name not in IN_ONE_DTYPE:
        return False
    if subject.dtype != ("bfloat16" if "bfloat16" in subject.op_cases.dtypes else "float32"):
        return True
    cases = SOME_CASES.get(subject.kernel.op, OTHERWISE)
    return name in IN_SOME_CASES and subject.case.name not in cases


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the interpreter takes long for; PLAIT_ALL_INTERPRETED=1 runs it all."""
    if not INTERPRETED or ALL_INTERPRETED:
        return
    here = Path(__file__).parent
    left_out = {item for item in items if here in item.path.parents and is_left_out(item)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> None:
    """Do without what the interpreter repeats."""
    if INTERPRETED:
        from plait_triton.interpreter import patch_once_per_launch

        patch_once_per_launch()
