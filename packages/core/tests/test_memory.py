"""How the memory of a machine or a GPU is divided."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.engine_args import EngineArgs
from plait.memory import DeviceMemory, HostMemory, plan_memory
from plait_kernels.errors import InputError, OutOfMemoryError

GB = 10**9
# Llama 3.1 8B in bfloat16: 131072 bytes of KV a token.
BLOCK = 16 * 131072
CARD = DeviceMemory(85 * GB, 0.9, used=17 * GB, activations=2 * GB, graphs=1 * GB)


def plan(memory: Any, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "block_bytes": BLOCK,
        "block_size": 16,
        "max_model_len": 8192,
        "max_num_seqs": 256,
        "kv_cache_memory_bytes": None,
        "num_blocks": None,
        "lora_memory_bytes": None,
        "enable_lora": True,
    }
    return plan_memory(memory, **(options | changes))


def test_a_gpu_is_used_up_to_its_share() -> None:
    assert CARD.available == int(56.5 * GB)
    found = plan(CARD)
    adapters = found.num_chunks * found.chunk_bytes
    assert int(5.65 * GB) - BLOCK < adapters <= 5.65 * GB
    kv = found.num_blocks * BLOCK
    assert 56.5 * GB - 5.65 * GB - BLOCK - 1 <= kv <= 56.5 * GB - 5.65 * GB
    assert plan(CARD, enable_lora=False).num_blocks == 56_500_000_000 // BLOCK


def test_what_the_user_says_wins() -> None:
    found = plan(CARD, lora_memory_bytes=10 * GB)
    assert found.num_chunks == 10 * GB // BLOCK
    assert found.num_blocks == 46_500_000_000 // BLOCK
    assert plan(CARD, kv_cache_memory_bytes=4 * GB).num_blocks == 4 * GB // BLOCK
    assert plan(CARD, num_blocks=600, kv_cache_memory_bytes=GB).num_blocks == 600


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({"num_blocks": 1, "kv_cache_memory_bytes": GB}, "num_gpu_blocks_override"),
        ({"kv_cache_memory_bytes": BLOCK}, "kv_cache_memory_bytes"),
    ],
)
@pytest.mark.parametrize("memory", [CARD, HostMemory(40 * GB)])
def test_the_remedy_is_the_argument_that_was_too_low(
    memory: Any, asked: dict[str, int], remedy: str
) -> None:
    with pytest.raises(OutOfMemoryError, match=f"; raise {remedy}, or lower max_model_len"):
        plan(memory, **asked)


def test_adapters_get_no_more_than_an_asked_kv_cache_leaves() -> None:
    found = plan(CARD, kv_cache_memory_bytes=55 * GB)
    assert found.num_blocks == 55 * GB // BLOCK
    assert found.num_chunks == 56_500_000_000 // BLOCK - found.num_blocks
    assert plan(CARD, num_blocks=56_500_000_000 // BLOCK - 7).num_chunks == 7
    # What nobody can fill is not taken from adapters.
    short = plan(CARD, kv_cache_memory_bytes=55 * GB, max_model_len=512, max_num_seqs=3)
    assert (short.num_blocks, short.num_chunks) == (96, 5_650_000_000 // BLOCK)


def test_no_more_blocks_than_can_be_filled() -> None:
    assert plan(CARD, max_model_len=512, max_num_seqs=3).num_blocks == 96
    assert plan(HostMemory(100 * GB), max_model_len=512, max_num_seqs=3).num_blocks == 96


def test_a_host_keeps_most_of_its_memory() -> None:
    found = plan(HostMemory(24 * GB))
    assert found.num_blocks == 6 * GB // BLOCK
    assert found.num_chunks == 2_400_000_000 // BLOCK


def test_a_model_that_does_not_fit_names_every_number() -> None:
    small = DeviceMemory(24 * GB, 0.9, used=17 * GB, activations=3 * GB, graphs=1 * GB)
    with pytest.raises(OutOfMemoryError) as caught:
        plan(small, max_model_len=131072)
    text = str(caught.value)
    numbers = (24 * GB, 17 * GB, 3 * GB, GB, 60_000_000, 8192 * BLOCK, 131072)
    for number in numbers:
        assert f"{number:,}" in text or str(number) in text
    for argument in (
        "90% (gpu_memory_utilization)",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "lora_memory_bytes",
    ):
        assert argument in text
    with pytest.raises(OutOfMemoryError, match="room for 0 blocks"):
        plan(DeviceMemory(8 * GB, 0.9, used=8 * GB, activations=GB, graphs=0))


@given(
    total=st.integers(1, 10**11),
    utilization=st.floats(0.01, 1),
    used=st.integers(0, 10**11),
    activations=st.integers(0, 10**10),
    graphs=st.integers(0, 10**10),
    lora=st.booleans(),
    kv_share=st.none() | st.floats(0, 1),
)
def test_the_share_is_never_exceeded(
    total: int,
    utilization: float,
    used: int,
    activations: int,
    graphs: int,
    lora: bool,
    kv_share: float | None,
) -> None:
    memory = DeviceMemory(total, utilization, used, activations, graphs)
    asked = None if kv_share is None else max(1, int(memory.available * kv_share))
    options = {"enable_lora": lora, "block_bytes": 4096, "max_model_len": 64}
    try:
        found = plan(memory, kv_cache_memory_bytes=asked, **options)
    except OutOfMemoryError:
        kv_bytes = memory.available * 0.9 if asked is None else asked
        assert kv_bytes < 4 * 4096 + 1
        return
    taken = found.num_blocks * 4096 + found.num_chunks * found.chunk_bytes
    assert used + activations + graphs + taken <= total * utilization


@pytest.mark.parametrize("share", [0, -0.5, 1.01, "0.9"])
def test_a_share_is_above_0_and_at_most_1(share: Any) -> None:
    with pytest.raises(InputError, match="gpu_memory_utilization"):
        EngineArgs("model", gpu_memory_utilization=share)
    assert EngineArgs("model", gpu_memory_utilization=0.5).gpu_memory_utilization == 0.5


def test_eager_is_asked_for_with_a_bool() -> None:
    assert EngineArgs("model", enforce_eager=True).enforce_eager
    with pytest.raises(InputError, match="enforce_eager must be a bool, got 'false'"):
        EngineArgs("model", enforce_eager="false")
