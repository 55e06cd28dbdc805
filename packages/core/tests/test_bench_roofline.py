"""Rooflines against numbers worked out by hand, and against sums over every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.bench.linears import LINEARS
from plait.bench.offline_cells import OfflineCell, parse_cells
from plait.bench.roofline import DeviceRates, ModelCosts, Work, work
from plait.bench.shapes import write_shape
from plait_models import read_config

H100 = DeviceRates(3.09e12, 0.79e15)
LIMITS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}


def cell(
    text: str, prompt_tokens: int | None = None, output_tokens: int | None = None
) -> OfflineCell:
    return parse_cells(text, prompt_tokens=prompt_tokens, output_tokens=output_tokens)[0]


@pytest.fixture
def llama(tmp_path: Path) -> ModelCosts:
    write_shape("llama-3.1-8b", tmp_path / "model")
    config = read_config(str(tmp_path / "model"), "dummy")
    return ModelCosts.of(config, list(LINEARS), [16] * 64, 2)


def test_sizes_of_llama_3_1_8b(llama: ModelCosts) -> None:
    assert 2 * (llama.linears + llama.head) == 15_009_316_864
    assert 2 * llama.adapters[0] == 83_886_080
    assert 2 * llama.kv_token == 131_072


def test_a_step_of_64_requests(llama: ModelCosts) -> None:
    base = work(cell("D:64:0"), llama, **LIMITS)
    # 129 tokens a request: 128 steps that read 129 to 256 tokens, on average 192.5.
    kv = 64 * 131_072 * 192.5
    assert base.bytes == 15_009_316_864 + kv
    assert base.flops == 64 * 15_009_316_864
    assert work(cell("D:64:idle"), llama, **LIMITS) == base
    distinct = work(cell("D:64:64"), llama, **LIMITS)
    assert distinct.bytes - base.bytes == 64 * 83_886_080
    assert 1000 * (distinct.seconds(H100) - base.seconds(H100)) == pytest.approx(1.74, abs=0.01)
    assert 1000 * base.seconds(H100) == pytest.approx(5.38, abs=0.01)
    # Shared or not, every row multiplies by an adapter.
    assert distinct.flops == work(cell("D:64:8"), llama, **LIMITS).flops
    assert distinct.flops - base.flops == 64 * 83_886_080


def test_a_steady_step(llama: ModelCosts) -> None:
    steady, decode = (work(cell(text), llama, **LIMITS) for text in ("S:64:8", "D:64:8"))
    # 64 tokens and half a prompt of 128, less the first token, which comes with the prompt.
    values = llama.linears + llama.adapters[0]
    assert steady.flops == 2 * (64 * 255 / 128 * values + 64 * llama.head)
    # Of D 129 tokens a request.
    assert decode.bytes - steady.bytes == 64 * 131_072 / 2


def test_a_prefill_of_64_prompts(llama: ModelCosts) -> None:
    base = work(cell("P:64:0"), llama, **LIMITS)
    assert base.bytes == 15_009_316_864
    # 8192 tokens through 6.98 G weights, 64 of them through the head's 0.525 G.
    assert base.flops == 2 * (8192 * 6_979_321_856 + 64 * 525_336_576)
    assert 1000 * base.seconds(H100) == pytest.approx(144.8, abs=0.1)
    twice = work(cell("P:64:8", prompt_tokens=129), llama, **LIMITS)
    assert twice.bytes == 2 * 15_009_316_864 + 8 * 83_886_080


COSTS = ModelCosts(linears=1000, head=300, kv_token=7, adapters=(10, 40, 30), value_bytes=4)


@pytest.mark.parametrize(("requests", "adapters", "at_once"), [(6, 0, 3), (6, 3, 3), (2, 2, 3)])
def test_throughput_is_the_sum_over_its_steps(requests: int, adapters: int, at_once: int) -> None:
    prompt, output = 5, 4
    values = flops = 0
    at_once = min(at_once, requests)
    for _ in range(requests // at_once):
        for step in range(output):
            values += 1300 + sum(COSTS.adapters[:adapters])
            if step:
                values += at_once * 7 * (prompt + step)
    for request in range(requests):
        own = COSTS.adapters[request % adapters] if adapters else 0
        for step in range(output):
            flops += 2 * ((1000 + own) * (1 if step else prompt) + 300)
    measured = cell(f"T:{requests}:{adapters}", prompt, output)
    got = work(measured, COSTS, max_num_seqs=at_once, max_num_batched_tokens=64)
    assert got == Work(4 * values, flops)


def test_a_step_reads_no_more_adapters_than_it_has_requests() -> None:
    limits = {"max_num_seqs": 2, "max_num_batched_tokens": 64}
    few, all_of_them = (
        work(cell("T:4:3", 5, 1), COSTS, **limits | {"max_num_seqs": most}) for most in (2, 4)
    )
    assert few.bytes == 4 * 2 * (1300 + 10 + 30)
    assert all_of_them.bytes == 4 * (1300 + 80)


def test_the_slower_of_memory_and_arithmetic_counts() -> None:
    rates = DeviceRates(bytes_per_second=10, flops_per_second=100)
    assert Work(50, 100).seconds(rates) == 5
    assert Work(50, 1000).seconds(rates) == 10
