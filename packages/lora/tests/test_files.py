"""Missing and damaged files: an AdapterError that names them, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plait_kernels.errors import AdapterError
from plait_lora.catalog import AdapterCatalog
from plait_lora.request import LoRARequest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def refuses(
    tmp_path: Path, write_adapter: Callable[..., Path], make_catalog: Callable[..., AdapterCatalog]
) -> Callable[..., str]:
    """Asserts that a path is refused by a catalog that holds another adapter; the message."""

    def check(path: Path | str, match: str | None = None) -> str:
        catalog = make_catalog(max_cpu_loras=2)
        good = catalog.resolve(
            LoRARequest("good", 7, str(write_adapter(tmp_path / "good", seed=9)))
        )
        assert good is not None
        catalog.hold(good)
        before = (catalog.resident(), catalog.ids(), catalog.nbytes)
        with pytest.raises(AdapterError, match=match) as caught:
            catalog.resolve(LoRARequest("bad", 1, str(path)))
        assert (catalog.resident(), catalog.ids(), catalog.nbytes) == before
        catalog.drop(good)
        assert catalog.remove(7)
        assert catalog.nbytes == 0
        return str(caught.value)

    return check


def test_missing_paths_say_what_is_missing(tmp_path: Path, refuses: Callable[..., str]) -> None:
    refuses(tmp_path / "nowhere", "there is no directory .*nowhere")
    assert "Download the adapter first" in refuses("some-org/some-adapter", "hub")
    refuses("~/no/such/adapter/at/all", "there is no directory")
    file = tmp_path / "file"
    file.write_text("")
    refuses(file, "is not a directory")
    refuses(file / "below", "there is no directory|cannot be read")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuses(empty, "has no adapter_config.json")
    (empty / CONFIG).write_text("{}")
    refuses(empty, "has no adapter_model.safetensors")
    (empty / "adapter_model.bin").write_bytes(b"\x80")
    refuses(empty, "has adapter_model.bin .*pickle .*save_pretrained")
    (empty / WEIGHTS).mkdir()
    refuses(empty, "not a regular file")
    refuses("x" * 4000, "cannot be read|there is no directory")


HINTS: dict[str, tuple[dict[str, str], str]] = {
    "mlx-lm": (
        {CONFIG: '{"fine_tune_type": "lora"}', "adapters.safetensors": ""},
        r"has no adapter_model\.safetensors\. It is an adapter of mlx-lm.*mlx_lm\.fuse",
    ),
    "mlx-lm, renamed": (
        {CONFIG: '{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}', WEIGHTS: ""},
        r"is not PEFT's\. It is an adapter of mlx-lm.*lora_a and lora_b transposed",
    ),
    "a model": (
        {"config.json": "{}", "model.safetensors": ""},
        r"has no adapter_config\.json\. It has config\.json, so it is a whole model.*as model=",
    ),
    "a model of shards": ({"config.json": "{}"}, "it is a whole model"),
    "a pickle": ({CONFIG: "{}", "adapter_model.bin": ""}, r"pickle.*safe_serialization=True"),
    "a pickle without a config": ({"adapter_model.bin": ""}, "has no adapter_config.json.*pickle"),
    "checkpoints": (
        {"checkpoint-500/adapter_config.json": "{}", "trainer.log": ""},
        "There is one in 'checkpoint-500' below it",
    ),
    "llama.cpp": ({"lora-f16.gguf": ""}, "It has a GGUF file"),
    "nothing": ({}, "the directory that PEFT's save_pretrained wrote"),
    "half": ({CONFIG: "{}"}, "Copy or save the whole adapter again"),
}


@pytest.mark.parametrize("case", HINTS)
def test_what_a_directory_is_instead_is_said(
    case: str, tmp_path: Path, refuses: Callable[..., str]
) -> None:
    files, message = HINTS[case]
    for name, text in files.items():
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).write_text(text)
    (tmp_path / "bad").mkdir(exist_ok=True)
    assert "Download" not in refuses(tmp_path / "bad", message)


def test_a_home_directory_is_expanded(
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_adapter(tmp_path / "mine")
    assert make_catalog().resolve(LoRARequest("a", 1, "~/mine")) is not None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"LORA"', '{"lora_alpha": NaN}', "\udce9", "[" * 100_000],
    ids=["empty", "open", "list", "null", "number", "string", "nan", "not utf-8", "deep"],
)
def test_a_damaged_config_is_refused(
    text: str, tmp_path: Path, write_adapter: Callable[..., Path], refuses: Callable[..., str]
) -> None:
    path = write_adapter(tmp_path / "bad")
    (path / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    refuses(path, "adapter_config.json")


def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path: Path, write_adapter: Callable[..., Path], make_catalog: Callable[..., AdapterCatalog]
) -> None:
    path = write_adapter(tmp_path / "bad")
    whole = (path / WEIGHTS).read_bytes()
    catalog = make_catalog()
    ends = {*range(0, len(whole), 13), 1, 7, 8, 9, len(whole) - 1}
    for end in sorted(ends):
        (path / WEIGHTS).write_bytes(whole[:end])
        with pytest.raises(AdapterError, match="damaged or incomplete"):
            catalog.resolve(LoRARequest("bad", 1, str(path)))
        assert (catalog.resident(), catalog.ids(), catalog.nbytes) == ((), set(), 0)
    (path / WEIGHTS).write_bytes(whole)
    assert catalog.resolve(LoRARequest("bad", 1, str(path))) is not None


def test_a_corrupt_header_is_refused(
    tmp_path: Path, write_adapter: Callable[..., Path], refuses: Callable[..., str]
) -> None:
    path = write_adapter(tmp_path / "bad")
    whole = (path / WEIGHTS).read_bytes()
    corrupt = {
        "length": b"\xff" * 8 + whole[8:],
        "json": whole[:8] + b"#" + whole[9:],
        "dtype": whole.replace(b'"F32"', b'"X32"'),
        "offset": whole.replace(b'"data_offsets":[0', b'"data_offsets":[9'),
        "longer": whole + b"\0",
        "zeros": bytes(len(whole)),
    }
    for name, data in corrupt.items():
        assert data != whole, name
        (path / WEIGHTS).write_bytes(data)
        assert "damaged or incomplete" in refuses(path)


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    refuses: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_adapter(tmp_path / "bad")
    fstat = os.fstat

    def grow_then_fstat(descriptor: int) -> os.stat_result:
        result = fstat(descriptor)
        with (path / CONFIG).open("a") as file:
            file.write(" ")
        return result

    monkeypatch.setattr(os, "fstat", grow_then_fstat)
    refuses(path, "changed while it was read")


def test_the_file_may_change_or_vanish_after_it_was_read(
    tmp_path: Path, write_adapter: Callable[..., Path], make_catalog: Callable[..., AdapterCatalog]
) -> None:
    path = write_adapter(tmp_path / "a")
    catalog = make_catalog()
    key = catalog.resolve(LoRARequest("a", 1, str(path)))
    assert key is not None
    before = {i: m.a.clone() for i, m in catalog.get(key).modules.items()}
    with (path / WEIGHTS).open("r+b") as file:
        file.truncate(0)
    for index, module in catalog.get(key).modules.items():
        assert torch.equal(module.a, before[index])
