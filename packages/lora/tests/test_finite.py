"""Numbers that no answer can come of are refused with the module's name; PEFT could not answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plait_kernels.errors import AdapterError
from plait_lora.catalog import AdapterCatalog
from plait_lora.request import LoRARequest

KEY = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{KEY}.lora_A.weight", f"{KEY}.lora_B.weight"


def tensors(a: float = 1.0, b: float = 1.0) -> dict[str, torch.Tensor]:
    return {A: torch.full((4, 16), a), B: torch.full((16, 4), b)}


def result(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """What PEFT adds for an input of ones: (x · Aᵀ · Bᵀ) · alpha / r, in float32."""
    scale = config.get("lora_alpha", 8) / 4
    found: torch.Tensor = torch.ones(16) @ weights[A].T @ weights[B].T * scale
    return found


OVERFLOWS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "scale": ({"lora_alpha": 1e300}, tensors(), r"the scale of .*q_proj.* is 2\.5e\+299"),
    "scale just too large": ({"lora_alpha": 1.4e39}, tensors(1e-9), "the scale of"),
    "negative scale": ({"lora_alpha": -1e300}, tensors(), "the scale of"),
    "integer": ({"lora_alpha": 10**100}, tensors(), "the scale of"),
    "A": ({}, tensors(3e38, 1e-30), "layers.0.self_attn.q_proj' give results up to"),
    "B": ({}, tensors(1.0, 3e38), "give results up to"),
    "both": ({}, tensors(1e20, 1e20), "give results up to"),
    "scale and A": ({"lora_alpha": 1e30}, tensors(1e20, 1.0), "give results up to"),
    "bfloat16": (
        {},
        {name: tensor.bfloat16() for name, tensor in tensors(1e20, 1e20).items()},
        "give results up to",
    ),
}


@pytest.mark.parametrize("case", OVERFLOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_overflows_is_refused_by_name(
    case: str,
    dtype: torch.dtype,
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    config, weights, message = OVERFLOWS[case]
    in_float32 = {name: tensor.float() for name, tensor in weights.items()}
    assert not result(config, in_float32).isfinite().all(), "nor could PEFT answer"
    path = write_adapter(tmp_path / "bad", config=config, tensors=weights)
    catalog = make_catalog(dtype=dtype)
    with pytest.raises(AdapterError, match=message) as caught:
        catalog.resolve(LoRARequest("bad", 1, str(path)))
    assert "'bad' (id 1" in str(caught.value)
    assert (catalog.resident(), catalog.ids(), catalog.nbytes) == ((), set(), 0)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"lora_alpha": -16}, tensors()),
        ({"lora_alpha": 0}, tensors()),
        ({"lora_alpha": 1e-300}, tensors()),
        ({"lora_alpha": 1e30}, tensors(1e-3, 1e-3)),
        ({"lora_alpha": 0.5}, tensors(1e15, 1e15)),
        ({}, tensors(3e37 / 16, 0.0)),
        ({}, tensors(0.0, 3e38)),
        ({}, tensors(1e-40, 1e-40)),
    ],
)
def test_what_does_not_overflow_is_served_as_by_peft(
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    catalog = make_catalog()
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config
    module = catalog.get(catalog.add_tensors(fields, weights)).modules[0]
    found = torch.ones(16) @ module.a.T @ module.b.T * module.scale
    assert found.isfinite().all()
    torch.testing.assert_close(found, result(config, weights))
