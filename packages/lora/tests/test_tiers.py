"""Files, catalog, store and arena together: the tables hold PEFT's deltas of what is leased."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from plait_kernels.sites import LoraSite
from plait_lora.arena import LoraArena
from plait_lora.catalog import AdapterCatalog
from plait_lora.identity import AdapterKey, Mix
from plait_lora.request import LoRARequest
from plait_lora.store import AdapterStore

CHUNK = 1024


def delta_in_table(arena: LoraArena, slot: int, site: LoraSite) -> torch.Tensor:
    """What the tiles of a (slot, site) add to the base weight, [out, in]."""
    table = arena.table
    values = table.arena.view(table.dtype)
    total = torch.zeros(site.out_features, site.in_features, dtype=torch.float64)
    start = int(table.tile_start[slot, site.index])
    for i in range(start, start + int(table.tile_count[slot, site.index])):
        begin, rank = int(table.tile_offset[i]) // table.dtype.itemsize, int(table.tile_rank[i])
        middle = begin + table.tile_rows * site.in_features
        end = middle + table.tile_rows * site.out_features
        a = values[begin:middle].view(table.tile_rows, site.in_features)[:rank].double()
        b = values[middle:end].view(table.tile_rows, site.out_features)[:rank].double()
        total += float(table.tile_scale[i]) * (b.T @ a)
    return total


def test_random_leases_leave_the_leased_deltas_in_the_tables(
    tmp_path: Path,
    sites: tuple[LoraSite, ...],
    make_peft: Callable[..., Any],
    save_peft: Callable[..., Path],
) -> None:
    configs: list[dict[str, Any]] = [
        {"r": 3, "target_modules": ["q_proj", "v_proj"]},
        {"r": 9, "lora_alpha": 4, "target_modules": ["k_proj", "down_proj"]},
        {"r": 2, "use_rslora": True, "target_modules": "all-linear"},
        {"r": 1, "target_modules": ["lm_head", "up_proj"], "alpha_pattern": {"lm_head": -3}},
    ]
    catalog = AdapterCatalog(sites, dtype=torch.float32, chunk_bytes=CHUNK)
    expected: dict[AdapterKey, dict[str, torch.Tensor]] = {}
    for number, config in enumerate(configs, 1):
        model = make_peft(seed=number, **config)
        path = save_peft(model, tmp_path / str(number))
        key = catalog.resolve(LoRARequest("a", number, str(path)))
        assert key is not None
        expected[key] = {
            name.split("base_model.model.")[-1].removeprefix("model."): m.get_delta_weight(
                "default"
            ).detach()
            for name, m in model.named_modules()
            if hasattr(m, "get_delta_weight")
        }
    needs = {key: catalog.get(key).layout.num_chunks for key in expected}
    num_chunks = max(needs.values()) + min(needs.values())
    store = AdapterStore(num_chunks, num_slots=3)
    arena = LoraArena(num_chunks, CHUNK, 3, sites, torch.float32)
    arena.table.arena.fill_(255)  # NaN wherever nothing was written
    for key in expected:
        store.register(key, catalog.get(key).layout.runs)
    choose = random.Random(5)
    leases, evictions = [], 0
    for _ in range(60):
        key = choose.choice(sorted(expected))
        other = choose.choice(sorted(expected))
        mix: Mix = ((key, choose.choice([1.0, -0.5])),)
        if needs[key] + needs[other] <= num_chunks and key != other:
            mix = (*mix, (other, 2.0))
        lease = store.lease(mix)
        if lease is not None:
            leases.append(lease)
        commands = store.take_commands()
        for slot in commands.releases:
            arena.release(slot)
        for gone in commands.evictions:
            arena.evict(gone)
            evictions += 1
        for load in commands.loads:
            adapter = catalog.get(load.key)
            arena.load(load.key, adapter.layout, load.chunks, adapter.modules)
        for slot, assigned in commands.assigns:
            arena.assign(slot, assigned)
        store.loaded([load.key for load in commands.loads])
        for held in leases:
            site = choose.choice(sites)
            zero = torch.zeros(site.out_features, site.in_features)
            parts = [weight * expected[key].get(site.name, zero) for key, weight in held.mix]
            torch.testing.assert_close(
                delta_in_table(arena, held.slot, site),
                torch.stack(parts).sum(0).double(),
                rtol=1e-5,
                atol=1e-5,
            )
        while leases and choose.random() < 0.5:
            store.release(leases.pop(choose.randrange(len(leases))))
    assert evictions > 5
