"""Which tensors a quantised head was made of: gguf's own quantisation, and steps known by hand."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Types

from plait_models.files.gguf_origins import is_origin

ROWS, COLUMNS = 24, 512
QUANTISED_BY_GGUF = (Types.Q4_0, Types.Q4_1, Types.Q5_0, Types.Q5_1, Types.Q8_0)
HALF = np.array([1.0], np.float16).view(np.uint8)
"""The bytes of the scale 1."""


def write(path: Path, packed: np.ndarray, kind: Types, name: str = "output.weight") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(name, packed, raw_dtype=kind)
    writer.add_tensor("other.weight", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weight(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(ROWS, COLUMNS, generator=generator)


@pytest.mark.parametrize("kind", QUANTISED_BY_GGUF, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_head_is_known_by_what_gguf_quantised(
    kind: Types, dtype: torch.dtype, tmp_path: Path
) -> None:
    head = weight().to(dtype)
    packed = gguf.quants.quantize(head.float().numpy(), kind)
    path = write(tmp_path / "model.gguf", packed, kind)
    assert is_origin(path, "head", head)
    assert is_origin(path, "head", head.float()), "whatever dtype the copy is in"
    assert is_origin(path, "head", torch.from_numpy(gguf.dequantize(packed, kind)))
    assert not is_origin(path, "head", weight(1).to(dtype))
    assert not is_origin(path, "head", head.roll(1, 0))
    assert not is_origin(path, "head", 1.5 * head)
    assert not is_origin(path, "head", head[:, : COLUMNS // 2])
    step = 0.05 if kind is not Types.Q8_0 else 0.003
    other = head.clone()
    other[ROWS - 1, COLUMNS - 1] += step
    assert not is_origin(path, "head", other), "one number of the last block"


def by_hand(kind: Types, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Random blocks of scale 1, uint8 [blocks, bytes], and the step of each number of a block."""
    _, nbytes = gguf.GGML_QUANT_SIZES[kind]
    packed = np.random.default_rng(0).integers(0, 256, (blocks, nbytes), np.uint8)
    match kind:
        case Types.Q2_K:
            packed[:, :16] = np.arange(16, dtype=np.uint8)  # scales of 16 numbers; the first is 0
            packed[:, 80:82], packed[:, 82:] = HALF, 0
            step = np.repeat(np.arange(16), 16)
        case Types.Q3_K:
            packed[:, 96:108], packed[:, 108:] = 0, HALF  # six bits less 32
            step = np.full(256, 32)
        case Types.Q4_K | Types.Q5_K:
            packed[:, 4:16] = 33  # four scales of 33, then four of 1
            packed[:, :2], packed[:, 2:4] = HALF, HALF
            step = np.repeat([33, 1], 128)
        case _:
            packed[:, 192:208] = np.arange(1, 17, dtype=np.uint8)
            packed[:, 208:] = HALF
            step = np.repeat(np.arange(1, 17), 16)
    return packed, np.tile(step, blocks)


@pytest.mark.parametrize(
    "kind",
    [Types.Q2_K, Types.Q3_K, Types.Q4_K, Types.Q5_K, Types.Q6_K],
    ids=lambda kind: kind.name,
)
def test_numbers_nearer_to_another_level_are_no_origin(kind: Types, tmp_path: Path) -> None:
    blocks = ROWS * COLUMNS // 256
    packed, step = by_hand(kind, blocks)
    path = write(tmp_path / "model.gguf", packed.reshape(ROWS, -1), kind)
    base = gguf.dequantize(packed, kind).reshape(-1)
    off = np.random.default_rng(1).uniform(-0.5, 0.5, base.shape) * step
    origin = torch.from_numpy((base + off).astype(np.float32))
    assert is_origin(path, "head", origin.view(ROWS, COLUMNS))
    # 0.7 of a step towards the middle of the levels: another level is nearer.
    inward = np.where(base > base.mean(), -0.7, 0.7) * step
    for place in (np.flatnonzero(step == step.max())[0], np.flatnonzero(step == step.max())[-1]):
        other = origin.clone()
        other[place] = float(base[place] + inward[place])
        assert not is_origin(path, "head", other.view(ROWS, COLUMNS)), place
    # Beyond the last level, by far, the last level is the nearest.
    for extreme in (base.max(), base.min()):
        beyond = origin.clone()
        places = np.flatnonzero(base == extreme)
        beyond[places] = float(3 * extreme)
        assert is_origin(path, "head", beyond.view(ROWS, COLUMNS))


def test_a_tied_head_is_the_embedding_and_other_files_know_nothing(tmp_path: Path) -> None:
    head = weight()
    packed = gguf.quants.quantize(head.numpy(), Types.Q8_0)
    tied = write(tmp_path / "tied.gguf", packed, Types.Q8_0, "token_embd.weight")
    assert is_origin(tied, "head", head)
    assert is_origin(tied, "embed", head)
    dense = write(tmp_path / "dense.gguf", head.half().numpy(), Types.F16)
    assert not is_origin(dense, "head", head)
