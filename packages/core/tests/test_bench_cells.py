"""The benchmark's cells: who is compared with whom, on which rows and prompts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from plait.bench.cells import CELLS, Cell, Side, System, Workload, make_cells
from plait_kernels.errors import InputError


def make(**keywords: Any) -> dict[tuple[str, str], Cell]:
    chosen: dict[str, Any] = {
        "names": (),
        "dtypes": ("float32", "bfloat16"),
        "peer": "peft",
        "pairs": None,
        "quick": False,
    }
    cells = make_cells(**(chosen | keywords))
    return {(cell.name, cell.ours.system.dtype): cell for cell in cells}


def test_rows_share_the_adapters_evenly() -> None:
    system = System("plait", "float32", lora=True)
    assert Side(system).rows(3) == [None, None, None]
    assert Counter(Side(system, 8).rows(32)) == dict.fromkeys(range(8), 4)
    assert Counter(Side(system, 32).rows(32)) == dict.fromkeys(range(32), 1)
    mixed = Counter(Side(system, 8, base_rows=True).rows(32))
    assert mixed == {None: 16} | dict.fromkeys(range(8), 2)


def test_prompts_are_new_in_every_repetition_and_the_same_in_every_run() -> None:
    cell = make()["base", "float32"]
    prompts = [cell.prompts(0, repetition, 1000) for repetition in range(3)]
    texts = [tuple(prompt) for repetition in prompts for prompt in repetition]
    assert len(set(texts)) == 3 * 32
    assert {len(text) for text in texts} == {128}
    assert all(0 <= token < 1000 for text in texts for token in text)
    assert cell.prompts(0, 1, 1000) == prompts[1]
    assert cell.prompts(1, 1, 1000) != prompts[1]


def test_transformers_where_no_adapter_runs_and_peft_where_one_does() -> None:
    cells = make()
    assert {name for name, _ in cells} == set(CELLS)
    for (name, dtype), cell in cells.items():
        assert cell.other is not None
        if name in ("idle-lora", "adapters-8-of-base"):
            assert cell.ours.system == System("plait", dtype, lora=True)
            assert cell.other == Side(System("plait", dtype))
        elif name == "bfloat16":
            assert cell.ours == Side(System("plait", "bfloat16"))
            assert cell.other == Side(System("plait", "float32"))
        else:
            peer = "peft" if cell.ours.adapters else "transformers"
            assert cell.other.system == System(peer, dtype, lora=peer == "peft")
            assert cell.other.rows(32) == cell.ours.rows(32)
    assert ("bfloat16", "float32") not in cells
    assert ("bfloat16", "bfloat16") in make(dtypes=("float32",))


def test_goals_are_for_float32() -> None:
    goals = {key: cell.goal for key, cell in make().items() if cell.goal is not None}
    assert goals == {
        ("one-base", "float32"): 1.5,
        ("base", "float32"): 1.4,
        ("adapters-8", "float32"): 2.2,
        ("adapters-32", "float32"): 2.5,
        ("adapters-8-of-base", "float32"): 0.8,
        ("bfloat16", "bfloat16"): 1.3,
    }
    own = {"adapters-8-of-base", "bfloat16"}
    assert {name for (name, _), cell in make(peer="vllm").items() if cell.goal} == own


def test_tokens_are_compared_where_both_did_the_same_in_float32() -> None:
    same = {key for key, cell in make().items() if cell.same_tokens}
    others = {"adapters-8-of-base", "bfloat16"}
    assert same == {(name, "float32") for name in CELLS if name not in others}


def test_vllm_has_as_many_slots_as_the_cell_has_adapters() -> None:
    slots = {
        name: cell.other.system.max_loras
        for (name, dtype), cell in make(peer="vllm").items()
        if dtype == "float32" and cell.other and cell.other.system.name == "vllm"
    }
    assert slots == {
        "one-base": None,
        "one-adapter": 1,
        "base": None,
        "adapters-1": 1,
        "adapters-8": 8,
        "adapters-32": 32,
        "mixed-8": 8,
    }


def test_without_a_peer_only_plait_runs() -> None:
    cells = make(peer="none").values()
    systems = {side.system.name for cell in cells for side in (cell.ours, cell.other) if side}
    assert systems == {"plait"}
    assert make(peer="none")["base", "float32"].other is None


def test_repetitions() -> None:
    assert {name for (name, _), cell in make().items() if cell.pairs == 9} == {"idle-lora"}
    assert {cell.pairs for cell in make(pairs=3).values()} == {3}
    quick = make(quick=True)["one-base", "float32"]
    assert (quick.workload, quick.pairs) == (Workload(1, 32, 8), 2)
    assert make(quick=True, pairs=1)["one-base", "float32"].pairs == 1


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown cell 'bas'; allowed: one-base, .*idle-lora"):
        make(names=("base", "bas"))
    with pytest.raises(InputError, match=r"'adapters-8' runs adapters.* use --peer peft"):
        make(names=("adapters-8",), peer="transformers")
    left = {name for name, _ in make(peer="transformers")}
    assert left == {"one-base", "base", "adapters-8-of-base", "idle-lora", "bfloat16"}
