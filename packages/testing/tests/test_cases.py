"""The cases hold what a backend must be tried on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from plait_kernels.config import DTYPES
from plait_kernels.lora_types import DENSE_ADD, DENSE_ROW, DENSE_SCALE
from plait_kernels.ops import OPS
from plait_testing.cases import load_cases
from plait_testing.guarded import MARGIN, GuardedMemory
from plait_testing.tensors import tensors_of

CASES = {(op, case.name): case for op in OPS for case in load_cases(op).cases}


OF_ONE_SIGN = (
    "zeros",
    "large_numbers",
    "low_numbers",
    "rules",
    "boundaries",
    "boundaries_of_top_p",
    "one_token_left",
)
"""Cases of the norms and of ``sample`` whose values say something else."""


def made(op: str, name: str, dtype: str = "float32", seed: int = 1) -> Any:
    return load_cases(op).arguments(CASES[op, name], seed, dtype, "cpu")


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_cases(op: str) -> None:
    op_cases = load_cases(op)
    names = [case.name for case in op_cases.cases]
    assert op_cases.op == op
    assert len(names) == len(set(names)) >= 8
    assert set(op_cases.dtypes) <= set(DTYPES)


@pytest.mark.parametrize("op", OPS)
def test_cases_are_empty_single_and_ragged(op: str) -> None:
    op_cases = load_cases(op)
    rows = set()
    for case in op_cases.cases:
        if case.has_reference:
            arguments = op_cases.arguments(case, 1, "float32", "cpu")
            rows.add(next(tensors_of(arguments))[1].shape[0])
    assert {0, 1} < rows
    assert any(count & (count - 1) for count in rows)


@pytest.mark.parametrize("op", OPS)
def test_sizes_are_not_only_powers_of_two(op: str) -> None:
    for name in {name for case in load_cases(op).cases for name in case.params}:
        values = {dict(case.params).get(name) for case in load_cases(op).cases}
        sizes = [value for value in values if type(value) is int]
        assert not sizes or any(size & (size - 1) for size in sizes), name


@pytest.mark.parametrize("op", OPS)
def test_inputs_have_both_signs_and_no_more_than_they_need(op: str) -> None:
    op_cases = load_cases(op)
    for case in op_cases.cases:
        if case.has_reference:
            tensors = dict(tensors_of(op_cases.arguments(case, 1, "float32", "cpu")))
            values = next(v for v in tensors.values() if v.is_floating_point() or v.numel() == 0)
            if values.numel() > 20 and case.name not in OF_ONE_SIGN:
                assert (values < 0).any()
                assert (values > 0).any()
            assert sum(v.numel() for v in tensors.values()) < 14_000_000


@pytest.mark.parametrize("op", sorted(set(OPS) - {"apply_penalties", "sample"}))
def test_some_inputs_are_strided(op: str) -> None:
    op_cases = load_cases(op)
    strided = [
        case.name
        for case in op_cases.cases
        if case.has_reference
        and any(
            not values.is_contiguous()
            for _, values in tensors_of(op_cases.arguments(case, 1, "float32", "cpu"))
        )
    ]
    assert strided


def tile_ranks(arguments: Any) -> list[int]:
    """Return the rank at every (slot, site) that has tiles; mixes count as one."""
    table = arguments.batch.table
    ranks = []
    for start, count in zip(
        table.tile_start.flatten().tolist(), table.tile_count.flatten().tolist(), strict=True
    ):
        if count:
            ranks.append(int(table.tile_rank[start : start + count].sum()))
    return ranks


def slots(arguments: Any) -> set[int]:
    return set(arguments.batch.token_slot.tolist())


def kinds(arguments: Any) -> set[int]:
    table = arguments.batch.table
    return set(table.dense_kind.tolist()) if int(table.dense_count.sum()) else set()


LORA: dict[str, Callable[[Any], bool]] = {
    "base_only": lambda a: slots(a) == {-1} and len(a.y) > 1,
    "base_among_others": lambda a: -1 in slots(a) and len(slots(a)) > 2,
    "no_token": lambda a: a.y.shape[0] == 0,
    "one_token": lambda a: a.y.shape[0] == 1 and min(slots(a)) >= 0,
    "one_adapter": lambda a: slots(a) == {0} and a.batch.table.tile_start.shape[0] == 1,
    "adapters_128": lambda a: len(slots(a) - {-1}) == 128,
    "rank_1": lambda a: set(tile_ranks(a)) == {1},
    "rank_512": lambda a: set(tile_ranks(a)) == {512},
    "ragged_ranks": lambda a: len(set(tile_ranks(a))) > 2,
    "mixes": lambda a: (
        len(set(a.batch.token_weight.tolist())) > 1
        and a.batch.table.tile_scale.unique().numel() > 3
    ),
    "dense_rows": lambda a: kinds(a) == {DENSE_ADD, DENSE_ROW, DENSE_SCALE},
    "dense_rows_and_mixes": lambda a: kinds(a) == {DENSE_ADD, DENSE_ROW, DENSE_SCALE},
    "embed": lambda a: a.sites[0].group == "embed" and a.x.dtype == torch.int64,
    "head": lambda a: a.sites[0].group == "head",
    "strided": lambda a: not a.y.is_contiguous(),
    "float32_arena": lambda a: a.batch.table.dtype == torch.float32,
    "tiles_of_1_row": lambda a: a.batch.table.tile_rows == 1,
}


@pytest.mark.parametrize(("name", "holds"), LORA.items(), ids=LORA.keys())
@pytest.mark.parametrize("seed", [1, 2])
def test_lora_is_tried_on(name: str, holds: Callable[[Any], bool], seed: int) -> None:
    assert holds(made("lora", name, seed=seed))


def test_lora_is_tried_on_every_site_group_with_and_without_adapters_at_a_site() -> None:
    groups = {case.params["group"] for case in load_cases("lora").cases}
    assert groups == {"qkv", "o", "gate_up", "down", "embed", "head"}
    counts = made("lora", "mixes").batch.table.tile_count[:, 2:]
    assert (counts == 0).any() or (made("lora", "dense_rows").batch.table.tile_count == 0).any()
    table = made("lora", "dense_rows").batch.table
    assert ((table.dense_count > 0) & (table.tile_count == 0)).any()


def test_attention_is_tried_on_every_variant() -> None:
    params = [dict(case.params) for case in load_cases("attention").cases]
    for variant in ("window", "softcap", "sinks"):
        assert any(found.get(variant) is not None for found in params)
    assert {case.buckets for case in load_cases("attention").cases} == {
        ("decode", "prefill"),
        ("prefill",),
    }


def test_cases_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from plait_kernels.ops import OPS\n"
        "from plait_testing.cases import load_cases\n"
        "assert all(load_cases(op).cases for op in OPS)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_guarded_memory_is_a_copy_with_margins() -> None:
    source = torch.arange(24.0).view(4, 6)
    left, right = source[:, :2], source[:, 3:5]
    guarded = GuardedMemory((left, right), ("left", "right"))
    copy_left, copy_right = guarded.arguments
    assert torch.equal(copy_left, left)
    assert torch.equal(copy_right, right)
    assert copy_left.stride() == left.stride()
    # Both lie in one storage, as they did.
    assert copy_left.untyped_storage().data_ptr() == copy_right.untyped_storage().data_ptr()
    assert copy_left.untyped_storage().nbytes() == source.nbytes + 2 * MARGIN
    copy_left[1] = -7.3
    assert list(guarded.damage([copy_left[1]])) == []
    (damage,) = guarded.damage([copy_left[0], copy_right])
    assert damage == "the memory of left and right: 8 bytes, the first at byte 24 of 96"
    assert source[1, 0] == 6
