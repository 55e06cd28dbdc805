"""LoRARequest: fields and their checks."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
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


WRONG: dict[str, list[tuple[Any, ...]]] = {
    "lora_name": [("", 1, "p"), ("  ", 1, "p"), (None, 1, "p"), ("n" * 10_000_000, 1, "p")],
    "lora_int_id": [
        ("n", value, "p")
        for value in (0, -1, True, np.bool_(True), "1", 1.0, None, 2**63, 10**5000, math.nan)
    ],
    "lora_path": [
        ("n", 1),
        *(("n", 1, path) for path in ("", " ", 7, None, b"p", "a\0b", "\ud800", "p" * 10_000_000)),
    ],
    "base_model_name": [("n", 1, "p", 5)],
    "load_inplace": [("n", 1, "p", None, "yes"), ("n", 1, "p", None, 1)],
    "is_3d_lora_weight": [("n", 1, "p", None, False, None)],
}


@pytest.mark.parametrize("named", WRONG)
def test_a_wrong_field_is_named(named: str) -> None:
    for fields in WRONG[named]:
        with pytest.raises(AdapterError, match=named) as refused:
            LoRARequest(*fields)
        assert len(str(refused.value)) < 1000


def test_paths_and_numbers_of_other_kinds_are_kept_as_python_has_them() -> None:
    untyped: Any = LoRARequest
    request = untyped("sql", np.int64(3), Path("/adapters/sql"), load_inplace=np.bool_(True))
    assert request == LoRARequest("sql", 3, "/adapters/sql", load_inplace=True)
    assert (type(request.lora_int_id), type(request.lora_path)) == (int, str)
    assert type(request.load_inplace) is bool


def test_older_and_unknown_keywords() -> None:
    request = LoRARequest("sql", 3, "/adapters/sql")
    assert LoRARequest("sql", 3, lora_local_path="/adapters/sql") == request
    assert LoRARequest("sql", 3, "/adapters/sql", lora_local_path=None) == request
    assert LoRARequest("sql", 3, "/adapters/sql", lora_local_path="/adapters/sql") == request
    assert request.lora_local_path == request.lora_path
    assert LoRARequest("sql", 3, "p", long_lora_max_len=None).lora_path == "p"
    assert LoRARequest("sql", 3, "p", is_3d_lora_weight=True).is_3d_lora_weight
    for keywords, named in (
        ({"lora_local_path": "/other"}, "two names of one field"),
        ({"long_lora_max_len": 9}, "long_lora_max_len"),
        ({"tensorizer_config_dict": {"a": 1}}, "tensorizer_config_dict"),
        ({"load_in_place": True}, "did you mean load_inplace"),
    ):
        with pytest.raises(AdapterError, match=named):
            LoRARequest("sql", 3, "/adapters/sql", **keywords)


def test_copies_are_equal() -> None:
    request = LoRARequest("sql", 3, Path("/adapters/sql"), "base", True)
    for other in (pickle.loads(pickle.dumps(request)), copy.deepcopy(request)):
        assert other == request
        assert hash(other) == hash(request)
    assert dataclasses.replace(request, lora_path="/b").lora_path == "/b"
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.lora_path = "/b"  # type: ignore[misc]
    assert list(inspect.signature(LoRARequest).parameters) == [
        *(field.name for field in dataclasses.fields(LoRARequest)),
        "others",
    ]


def test_the_package_exports_exactly_all() -> None:
    for name in plait_lora.__all__:
        assert getattr(plait_lora, name).__class__ is not None
    assert list(plait_lora.__all__) == sorted(set(plait_lora.__all__), key=plait_lora.__all__.index)
    with pytest.raises(AttributeError, match="Nothing"):
        plait_lora.Nothing  # noqa: B018
