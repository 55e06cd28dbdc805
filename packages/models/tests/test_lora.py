"""Adapters at every site, against transformers models with the adapter merged."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import plait_models
from plait_kernels.loader import load_backends
from plait_kernels.ops.lora import ReferenceLora
from plait_kernels.probe import device_of
from plait_kernels.request import KernelRequest
from plait_kernels.selection import select
from plait_kernels.sites import SITE_GROUPS, LoraSite

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPTS = [[5, 60, 0, 17, 17, 3], [33, 4], [7, 2, 58, 41], [11, 0, 29]]
DECODED = [[50], [9], [0], [13]]
SLOTS = [0, -1, 1, 0]
RANKS = (3, 12)
LAYERS = 3


def random_adapter(sites: Sequence[LoraSite], rank: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        site.name: (
            torch.randn(rank, site.in_features, generator=generator) * 0.2,
            torch.randn(site.out_features, rank, generator=generator) * 0.2,
            0.5 + site.index / 20,
        )
        for site in sites
    }


def merge(oracle: Any, adapter: dict[str, Any]) -> Any:
    merged = deepcopy(oracle)
    for name, (a, b, scale) in adapter.items():
        module = merged.get_submodule(name if name == "lm_head" else f"model.{name}")
        delta = scale * b @ a
        with torch.no_grad():
            module.weight += delta.T if name == "embed_tokens" else delta
    return merged


@pytest.fixture
def loaded(tiny_checkpoint: Any, build_kernels: Any) -> tuple[Any, Any]:
    path, oracle = tiny_checkpoint({})
    return plait_models.load(path, build_kernels=build_kernels, block_size=4), oracle


@pytest.mark.parametrize("groups", [*[(group,) for group in SITE_GROUPS], SITE_GROUPS])
def test_adapters_in_one_batch_equal_merged_models(
    groups: tuple[str, ...], loaded: Any, paged_run: Any, hand_made_lora: Any
) -> None:
    model, oracle = loaded
    sites = [site for site in model.sites if site.group in groups]
    adapters = [random_adapter(sites, rank, seed) for seed, rank in enumerate(RANKS)]
    lora = hand_made_lora(model.sites, adapters)
    oracles = {-1: oracle, **{i: merge(oracle, adapter) for i, adapter in enumerate(adapters)}}
    run = paged_run(model, len(PROMPTS))
    outputs = []
    for step in (PROMPTS, DECODED):
        token_slots = [slot for slot, chunk in zip(SLOTS, step, strict=True) for _ in chunk]
        batch = lora.batch(token_slots)
        outputs.append(run.step(step, lora=batch, site_groups=frozenset(groups)))
    for row, slot in enumerate(SLOTS):
        token_ids = torch.tensor([PROMPTS[row] + DECODED[row]])
        with torch.no_grad():
            base = oracle(token_ids).logits[0]
            expected = oracles[slot](token_ids).logits[0]
        got = torch.cat([output[row] for output in outputs])
        largest = expected.abs().max()
        assert (got - expected).abs().max() < 1e-4 * largest
        if slot >= 0:
            assert (base - expected).abs().max() > 1e-2 * largest


@pytest.mark.parametrize(
    ("kernels", "calls"), [("*=reference", LAYERS), ("silu_and_mul=torch;*=reference", 0)]
)
def test_one_backend_of_lora_and_activation_does_both_at_once(
    kernels: str,
    calls: int,
    tiny_checkpoint: Any,
    paged_run: Any,
    hand_made_lora: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = []
    right = ReferenceLora.expand_silu_and_mul

    def count(self: ReferenceLora, *arguments: Any) -> torch.Tensor:
        counted.append(arguments)
        return right(self, *arguments)

    monkeypatch.setattr(ReferenceLora, "expand_silu_and_mul", count)
    path, oracle = tiny_checkpoint({})
    build = partial(
        select,
        loaded=load_backends(),
        request=KernelRequest.parse(kernels),
        device=device_of("cpu"),
    )
    model = plait_models.load(path, build_kernels=build, block_size=4)
    sites = [site for site in model.sites if site.group == "gate_up"]
    adapter = random_adapter(sites, 3, 0)
    lora = hand_made_lora(model.sites, [adapter])
    prompts = PROMPTS[:2]
    batch = lora.batch([-1] * len(prompts[0]) + [0] * len(prompts[1]))
    outputs = paged_run(model, 2).step(prompts, lora=batch, site_groups=frozenset({"gate_up"}))
    assert len(counted) == calls
    for output, prompt, of in zip(outputs, prompts, (oracle, merge(oracle, adapter)), strict=True):
        with torch.no_grad():
            expected = of(torch.tensor([prompt])).logits[0]
        assert (output - expected).abs().max() < 1e-4 * expected.abs().max()


def test_groups_outside_the_set_launch_nothing(
    loaded: Any, paged_run: Any, hand_made_lora: Any
) -> None:
    model, _ = loaded
    lora = hand_made_lora(model.sites, [random_adapter(model.sites, 3, 0)])
    batch = lora.batch([0] * len(PROMPTS[0]))
    (base,) = paged_run(model, 1).step(PROMPTS[:1])
    (idle,) = paged_run(model, 1).step(PROMPTS[:1], lora=batch)
    assert torch.equal(base, idle)


def test_sites_are_the_modules_of_transformers(loaded: Any) -> None:
    model, oracle = loaded
    assert [site.index for site in model.sites] == list(range(len(model.sites)))
    assert {site.group for site in model.sites} == set(SITE_GROUPS)
    for site in model.sites:
        module = oracle.get_submodule(site.name if site.name == "lm_head" else f"model.{site.name}")
        shape = [site.out_features, site.in_features]
        expected = list(module.weight.shape)
        assert shape == (expected[::-1] if site.name == "embed_tokens" else expected)
    linears = [n for n, m in oracle.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(model.sites) == len(linears) + 1


def test_packed_sites_cover_the_columns_without_overlap(loaded: Any) -> None:
    model, oracle = loaded
    layer = oracle.model.layers[0]
    qkv = [s for s in model.sites if s.group == "qkv" and s.name.startswith("layers.0.")]
    gate_up = [s for s in model.sites if s.group == "gate_up" and s.name.startswith("layers.0.")]
    q, k = layer.self_attn.q_proj.out_features, layer.self_attn.k_proj.out_features
    assert [(s.name.rpartition(".")[2], s.out_offset) for s in qkv] == [
        ("q_proj", 0),
        ("k_proj", q),
        ("v_proj", q + k),
    ]
    assert [(s.name.rpartition(".")[2], s.out_offset) for s in gate_up] == [
        ("gate_proj", 0),
        ("up_proj", layer.mlp.gate_proj.out_features),
    ]
