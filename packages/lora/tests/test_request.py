"""LoRARequest: fields and their checks."""

from __future__ import annotations

import pytest

import plait_lora
from plait_kernels.errors import AdapterError
from plait_lora.request import LoRARequest


def test_positional_and_keyword_use_agree() -> None:
    request = LoRARequest("sql", 3, "/adapters/sql")
    assert request == LoRARequest(lora_name="sql", lora_int_id=3, lora_path="/adapters/sql")
    assert (request.name, request.adapter_id, request.path) == ("sql", 3, "/adapters/sql")
    assert (request.base_model_name, request.load_inplace) == (None, False)
    assert len({request, LoRARequest("sql", 3, "/adapters/sql")}) == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (("", 1, "p"), "lora_name"),
        (("  ", 1, "p"), "lora_name"),
        ((None, 1, "p"), "lora_name"),
        (("n", 0, "p"), "lora_int_id"),
        (("n", -1, "p"), "lora_int_id"),
        (("n", True, "p"), "lora_int_id"),
        (("n", "1", "p"), "lora_int_id"),
        (("n", 1, ""), "lora_path"),
        (("n", 1, 7), "lora_path"),
        (("n", 1, "a\0b"), "lora_path"),
        (("n", 1, "p", 5), "base_model_name"),
        (("n", 1, "p", None, "yes"), "load_inplace"),
    ],
)
def test_a_wrong_field_is_named(fields: tuple[object, ...], named: str) -> None:
    with pytest.raises(AdapterError, match=named):
        LoRARequest(*fields)  # type: ignore[arg-type]


def test_the_package_exports_exactly_all() -> None:
    for name in plait_lora.__all__:
        assert getattr(plait_lora, name).__class__ is not None
    assert list(plait_lora.__all__) == sorted(set(plait_lora.__all__), key=plait_lora.__all__.index)
    with pytest.raises(AttributeError, match="Nothing"):
        plait_lora.Nothing  # noqa: B018
