from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import eager_attention_forward

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import OpConfig
from plait_kernels.errors import KernelError
from plait_kernels.ops.attention import inputs, reference
from plait_kernels.torch_backend import attention_decode, attention_prefill
from plait_kernels.torch_backend.attention import make

MIXED = ((1, 5), (3, 3), (1, 1), (0, 4), (2, 9), (1, 12), (0, 0), (6, 6), (1, 8))


def config(dtype: str = "float32", **params: Any) -> OpConfig:
    params = {"heads": 6, "kv_heads": 2, "head_dim": 16, "block_size": 4, "scale": 0.25} | params
    return OpConfig.of("attention", dtype=dtype, bucket="prefill", max_tokens=64, **params)


def run(factory: Any, settings: OpConfig, made: Any) -> torch.Tensor:
    q, kv, batch = made
    kernel = factory(settings)
    out: torch.Tensor = kernel.run(q, kv, kernel.plan(batch))
    return out


def eager(made: Any, *, scale: float, window: int | None = None) -> torch.Tensor:
    """What transformers computes, row by row, from keys and values laid out plainly."""
    q, kv, batch = made
    out = torch.empty(q.shape)
    for row, length in enumerate(batch.kv_length.tolist()):
        start, stop = batch.query_start[row : row + 2].tolist()
        blocks = batch.block_table[row, : -(-length // 4)].long()
        k, v = kv[blocks].transpose(0, 1).flatten(1, 2)[:, :length].transpose(1, 2)
        distance = torch.arange(length - (stop - start), length)[:, None] - torch.arange(length)
        hidden = (distance < 0) | (distance >= (window or length + 1))
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        module = SimpleNamespace(num_key_value_groups=3, training=False)
        queries = q[start:stop].transpose(0, 1)[None]
        got, _ = eager_attention_forward(module, queries, k[None], v[None], mask, scale)
        out[start:stop] = got[0]
    return out


@pytest.mark.parametrize("window", [None, 1, 3])
def test_reference_agrees_with_transformers(window: int | None) -> None:
    made = inputs(1, rows=MIXED)
    expected = eager(made, scale=0.25, window=window)
    torch.testing.assert_close(run(reference, config(window=window), made), expected)


def test_reference_scales_by_the_root_of_head_dim_unless_told() -> None:
    made = inputs(1, rows=MIXED)
    expected = eager(made, scale=16**-0.5)
    torch.testing.assert_close(run(reference, config(scale=None), made), expected)
    torch.testing.assert_close(run(make, config(scale=None), made), expected)


def test_reference_softcaps_scores() -> None:
    made = inputs(2, rows=((1, 2),), heads=1, kv_heads=1)
    q, kv, batch = made
    keys, values = kv[batch.block_table[0, 0].long()][:, :2, 0]
    scores = 2.0 * torch.tanh(keys @ q[0, 0] * 3.0 / 2.0)
    expected = scores.softmax(0) @ values
    got = run(reference, config(heads=1, kv_heads=1, scale=3.0, softcap=2.0), made)
    torch.testing.assert_close(got[0, 0], expected)


def test_reference_refuses_sinks() -> None:
    with pytest.raises(KernelError, match="sinks=None only"):
        reference(config(sinks=True))


@pytest.mark.parametrize("seed", range(8))
def test_torch_agrees_with_reference_on_random_batches(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small limits, so that small batches are split in every way.
    monkeypatch.setattr(attention_prefill, "QUERY_CHUNK", 3)
    monkeypatch.setattr(attention_decode, "MAX_PADDING", 9)
    monkeypatch.setattr(attention_decode, "MAX_GROUP_TOKENS", 40)
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 30, (12,), generator=source).tolist()
    kinds = torch.randint(0, 5, (12,), generator=source).tolist()
    parts = torch.rand(12, generator=source).tolist()
    rows = tuple(
        (min(n, kind) if kind < 2 else n if kind == 2 else round(n * part), n)
        for n, kind, part in zip(lengths, kinds, parts, strict=True)
    )
    made = inputs(seed, rows=rows)
    torch.testing.assert_close(run(make, config(), made), run(reference, config(), made))


def test_torch_plans_once_for_all_layers_and_leaves_further_tokens_alone() -> None:
    q, kv, batch = inputs(5, rows=MIXED)
    _, other, _ = inputs(5, rows=MIXED)
    other = other * 2
    kernel = make(config())
    plan = kernel.plan(batch)
    tokens = q.shape[0]
    padded = torch.cat([q, torch.full_like(q[:3], torch.nan)])
    for layer in (kv, other, kv):
        expected = run(reference, config(), (q, layer, batch))
        torch.testing.assert_close(kernel.run(padded, layer, plan)[:tokens], expected)


@pytest.mark.parametrize("rows", [MIXED, ((1, 5), (1, 9)), ((7, 7),), ((3, 9),)])
def test_torch_returns_contiguous_memory_in_inference_mode(
    rows: tuple[tuple[int, int], ...],
) -> None:
    made = inputs(8, rows=rows)
    with torch.inference_mode():
        got = run(make, config(), made)
    assert got.is_contiguous()
    torch.testing.assert_close(got, run(reference, config(), made))


def test_decode_rows_of_similar_length_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(q.shape[0])
        return attend(q, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    rows = ((1, 20), (1, 900), (1, 17), (1, 21), (1, 880))
    made = inputs(6, rows=rows, heads=2, kv_heads=1, head_dim=8)
    run(make, config(heads=2, kv_heads=1, head_dim=8), made)
    assert sorted(calls) == [2, 3]


def test_no_mask_is_larger_than_a_chunk() -> None:
    made = inputs(7, rows=((600, 700), (550, 550)), heads=1, kv_heads=1, head_dim=8)
    kernel = make(config(heads=1, kv_heads=1, head_dim=8))
    batch: AttentionBatch = made[2]
    masks = [unit.mask for unit in kernel.plan(batch).units if unit.mask is not None]
    assert all(mask.shape == (attention_prefill.QUERY_CHUNK, 700) for mask in masks)
    assert masks
    out = kernel.run(made[0], made[1], kernel.plan(batch))
    rows = ((600, 700), (550, 550))
    assert sum(queries for queries, _ in rows) == out.shape[0]
    last = make(config(heads=1, kv_heads=1, head_dim=8))
    decode = AttentionBatch(
        query_start=torch.tensor([0, 1, 2], dtype=torch.int32),
        kv_length=batch.kv_length,
        block_table=batch.block_table,
        max_query=1,
        max_kv=700,
    )
    ends = made[0][[599, 1149]]
    torch.testing.assert_close(out[[599, 1149]], last.run(ends, made[1], last.plan(decode)))
