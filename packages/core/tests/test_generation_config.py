"""A model's defaults of sampling, and the tokens that end its sequences."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plait.generation_config import eos_token_ids, load_generation_config
from plait_kernels.errors import InputError, ModelError
from plait_sampling import SamplingParams


def write(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write(tmp_path / "model", "config.json", {"eos_token_id": 7, "hidden_size": 4})
    return write(folder, "generation_config.json", {"eos_token_id": [9, 8], "temperature": 0.6})


def test_the_models_own(model: Path, tmp_path: Path) -> None:
    assert load_generation_config(tmp_path / "model.gguf") == {}
    assert load_generation_config(tmp_path) == {}
    assert load_generation_config(model) == {"eos_token_id": [9, 8], "temperature": 0.6}
    (model / "generation_config.json").unlink()
    assert load_generation_config(model) == {"eos_token_id": [7]}
    (model / "config.json").write_text("\ufeff" + json.dumps({"eos_token_id": [3]}))
    assert load_generation_config(model) == {"eos_token_id": [3]}


def test_another_source_of_defaults(model: Path, tmp_path: Path) -> None:
    assert load_generation_config(model, "vllm") == {"eos_token_id": [9, 8]}
    other = write(tmp_path / "other", "generation_config.json", {"top_k": 5})
    assert load_generation_config(model, str(other)) == {"eos_token_id": [9, 8], "top_k": 5}
    write(other, "generation_config.json", {"eos_token_id": 1})
    assert load_generation_config(model, str(other)) == {"eos_token_id": [1]}
    with pytest.raises(ModelError, match=r"nowhere' has no generation_config.json"):
        load_generation_config(model, str(tmp_path / "nowhere"))


def test_overrides_go_first(model: Path) -> None:
    config = load_generation_config(model, "auto", {"temperature": 0.5, "top_k": 3})
    assert (config["temperature"], config["top_k"]) == (0.5, 3)
    assert load_generation_config(model, "vllm", {"top_k": 3})["top_k"] == 3
    dropped = load_generation_config(model, "auto", {"temperature": None})
    assert SamplingParams.from_generation_config(dropped) == SamplingParams()
    assert load_generation_config(model, "auto", {"eos_token_id": 1})["eos_token_id"] == [1]
    for bad in ({"temperature": 3.0}, {"eos_token_id": "</s>"}):
        with pytest.raises(InputError, match=r"override_generation_config: .*(cannot be|must be)"):
            load_generation_config(model, "auto", bad)


def test_an_override_stands_in_for_a_value_of_the_file_that_cannot_be_used(model: Path) -> None:
    write(model, "generation_config.json", {"temperature": 3.0, "top_p": 0.5})
    with pytest.raises(ModelError, match=r"temperature cannot be 3\.0.*generation_config='vllm'"):
        load_generation_config(model)
    assert load_generation_config(model, "auto", {"temperature": 1.0})["top_p"] == 0.5
    assert load_generation_config(model, "vllm") == {}


NO_CONFIG: dict[str, Any] = {
    "list": [],
    "null": None,
    "number": 3,
    "text": '"text"',
    "damaged": "{",
    "empty": "",
    "deep": "[" * 100_000,
    "binary": "\x00\x01",
}
WRONG_VALUES: dict[str, list[Any]] = {
    "eos_token_id": ["</s>", 2.0, True, -2, [1, "2"], [[1]], {"a": 1}, 10**30, [True], [None]],
    "temperature": [3.0, -1, "hot", [1], True, 10**400, float("nan")],
    "top_k": [-2, 1.5, "5", 2**70],
    "top_p": [0, 1.5, "x"],
    "min_p": [2, {}],
    "repetition_penalty": [0, -1, "x", float("inf")],
    "presence_penalty": [9],
    "frequency_penalty": ["x"],
    "max_new_tokens": [0, -5, 2.5, "9"],
    "skip_special_tokens": ["no", 1],
}


@pytest.mark.parametrize("kind", NO_CONFIG)
def test_a_file_that_is_no_object_is_a_model_error(model: Path, kind: str) -> None:
    for name in ("generation_config.json", "config.json"):
        write(model, name, NO_CONFIG[kind])
        with pytest.raises(ModelError, match=name) as caught:
            load_generation_config(model)
        assert len(str(caught.value)) < 2000
        (model / "generation_config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("key", WRONG_VALUES)
def test_a_value_that_cannot_be_used_is_a_model_error(model: Path, key: str) -> None:
    for value in WRONG_VALUES[key]:
        write(model, "generation_config.json", json.dumps({key: value}))
        with pytest.raises(ModelError, match=rf"generation_config\.json.*{key}|{key}.*json"):
            load_generation_config(model)


def test_a_huge_file_is_not_read(model: Path) -> None:
    with (model / "generation_config.json").open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(ModelError, match="more than"):
        load_generation_config(model)


def test_the_tokens_that_end_a_sequence(model: Path) -> None:
    tokenizer: Any = SimpleNamespace(eos_token_id=5)
    assert eos_token_ids(tokenizer, load_generation_config(model)) == (5, 8, 9)
    assert eos_token_ids(None, {"eos_token_id": 7}) == (7,)
    nothing: Any = SimpleNamespace(eos_token_id=None)
    assert eos_token_ids(nothing, {}) == ()
    # Files that have no such token say -1.
    write(model, "generation_config.json", {"eos_token_id": -1})
    assert eos_token_ids(nothing, load_generation_config(model)) == ()
    assert eos_token_ids(nothing, {"eos_token_id": [-1, 4]}) == (4,)
