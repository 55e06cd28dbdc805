"""Every type of number in a GGUF file, with the package gguf as the oracle."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Types

from plait_kernels.errors import ModelError
from plait_models.files.gguf import GgufFile
from plait_models.files.gguf_types import readable_types

if TYPE_CHECKING:
    from pathlib import Path

NAME, HF_NAME = "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"
BLOCKS = 3
"""Blocks of a row."""


def block_of(kind: Types) -> tuple[int, int]:
    numbers, nbytes = gguf.GGML_QUANT_SIZES[kind]
    return int(numbers), int(nbytes)


def oracle_reads(kind: Types) -> bool:
    try:
        gguf.dequantize(np.zeros((1, block_of(kind)[1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def oracle_writes(kind: Types) -> bool:
    try:
        gguf.quants.quantize(np.zeros((1, block_of(kind)[0]), np.float32), kind)
    except NotImplementedError:
        return False
    return True


WRITABLE = [kind for kind in Types if oracle_writes(kind)]
READABLE = [kind for kind in Types if oracle_reads(kind)]
OTHERS = [kind for kind in Types if not oracle_reads(kind)]


def write_one(path: Path, packed: np.ndarray, kind: Types) -> Path:
    """Write a file of one tensor: uint8 [rows, bytes of a row]."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_vocab_size(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor(NAME, np.zeros((2, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rows, row_bytes = packed.shape
    numbers, nbytes = block_of(kind)
    patch(path, dims=(row_bytes // nbytes * numbers, rows), kind=int(kind))
    content = path.read_bytes()
    start = len(content) - 2 * 256 * 4
    path.write_bytes(content[:start] + packed.tobytes())
    return path


def patch(path: Path, *, dims: tuple[int, int], kind: int) -> None:
    """Write another shape, fastest dimension first, and another type into the header."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<QQI", content, content.index(NAME.encode()) + len(NAME) + 4, *dims, kind)
    path.write_bytes(content)


def read_one(path: Path) -> torch.Tensor:
    file = GgufFile(path)
    weights = file.weights(file.config())
    assert list(weights.entries) == [HF_NAME]
    weight = weights.read(HF_NAME)
    assert weight.dtype == torch.float32
    assert tuple(weight.shape) == weights.entries[HF_NAME].shape
    return weight


def random_blocks(kind: Types, count: int) -> np.ndarray:
    """Draw blocks of random bytes whose numbers are finite, which those of some scales are not."""
    drawn = np.random.default_rng(kind).integers(0, 256, (2 * count, block_of(kind)[1]), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(gguf.dequantize(drawn, kind)).all(axis=1)
    assert finite.sum() >= count
    blocks: np.ndarray = drawn[finite][:count]
    return blocks


def test_the_common_types_can_be_read() -> None:
    assert {
        *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0"),
        *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    } <= {kind.name for kind in READABLE}
    assert readable_types() == tuple(kind.name for kind in READABLE)


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_random_blocks_of_every_type(kind: Types, tmp_path: Path) -> None:
    rows = 37
    packed = random_blocks(kind, rows * BLOCKS).reshape(rows, -1)
    got = read_one(write_one(tmp_path / "x.gguf", packed, kind))
    expected = torch.from_numpy(np.array(gguf.dequantize(packed, kind)))
    assert expected.min() < 0 < expected.max()
    assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_what_gguf_writes(kind: Types, tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(5, 512)).astype(np.float32)
    packed = gguf.quants.quantize(values, kind)
    got = read_one(write_one(tmp_path / "x.gguf", packed.view(np.uint8), kind))
    assert torch.equal(got, torch.from_numpy(np.array(gguf.dequantize(packed, kind))))
    # The coarsest type knows three values a block.
    assert torch.cosine_similarity(got.flatten(), torch.from_numpy(values).flatten(), 0) > 0.6


@pytest.mark.parametrize("kind", [Types.Q8_0, Types.Q6_K, Types.BF16], ids=lambda kind: kind.name)
def test_a_tensor_of_more_than_one_slab(kind: Types, tmp_path: Path) -> None:
    rows, columns = 523, 1024
    packed = random_blocks(kind, rows * columns // block_of(kind)[0]).reshape(rows, -1)
    got = read_one(write_one(tmp_path / "x.gguf", packed, kind))
    assert torch.equal(got, torch.from_numpy(np.array(gguf.dequantize(packed, kind))))


@pytest.mark.parametrize("kind", [*OTHERS, 99], ids=str)
def test_other_types_are_refused(kind: int, tmp_path: Path) -> None:
    path = write_one(tmp_path / "x.gguf", np.zeros((2, 1024), np.uint8), Types.F32)
    patch(path, dims=(256, 2), kind=kind)
    name = kind.name if isinstance(kind, Types) else "number 99"
    with pytest.raises(ModelError) as caught:
        read_one(path)
    message = str(caught.value)
    assert f"{NAME} is of type {name}, " in message
    assert "allowed: F32, F16, Q4_0" in message
    assert "Use a file of another type" in message


def test_rows_of_part_of_a_block_are_refused(tmp_path: Path) -> None:
    path = write_one(tmp_path / "x.gguf", np.zeros((2, 144), np.uint8), Types.Q4_K)
    patch(path, dims=(288, 2), kind=Types.Q4_K)
    with pytest.raises(ModelError, match=rf"{NAME} has rows of 288 numbers, and Q4_K packs 256"):
        read_one(path)


def test_a_file_that_ends_within_a_tensor_is_refused(tmp_path: Path) -> None:
    path = write_one(tmp_path / "x.gguf", np.ones((2, 34), np.uint8), Types.Q8_0)
    whole = path.read_bytes()
    assert read_one(path).shape == (2, 32)
    path.write_bytes(whole[:-1])
    message = rf"ends at byte {len(whole) - 1}, and {NAME} at byte {len(whole)}"
    with pytest.raises(ModelError, match=message):
        read_one(path)


def test_a_file_of_unreadable_types_can_have_dummy_weights(tmp_path: Path) -> None:
    path = write_one(tmp_path / "x.gguf", np.zeros((2, 1024), np.uint8), Types.F32)
    patch(path, dims=(256, 2), kind=99)
    config: Any = GgufFile(path).config()
    assert (config.layers, config.vocab_size, config.kv_heads) == (1, 32, 2)
