"""What the largest step takes, of a model on the CPU that is asked as if it were on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plait import activations
from plait.activations import activation_bytes
from plait.build import build_core
from plait.engine_args import EngineArgs
from plait.runner import Runner
from plait_kernels.errors import OutOfMemoryError
from plait_models.model import Model


@pytest.fixture
def model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    args = EngineArgs(str(tiny_model), max_model_len=32, kv_cache_memory_bytes=1 << 20)
    runner = build_core(args).runner
    assert isinstance(runner, Runner)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1234)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000, 80_000))
    return runner.model


def test_the_largest_step_is_run(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = model.forward

    def look(inputs: object) -> torch.Tensor:
        seen.append(forward(inputs))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(model, "forward", look)
    assert activation_bytes(model, max_tokens=50, max_rows=7) == 1134
    assert [hidden.shape for hidden in seen] == [(50, model.info.hidden)]


def test_a_step_that_does_not_fit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(activations, "_run", run)
    weights = f"{model.info.weight_bytes:,} bytes"
    with pytest.raises(OutOfMemoryError, match=rf"50 tokens and 7 rows .*{weights}.*max_num_seqs"):
        activation_bytes(model, max_tokens=50, max_rows=7)
