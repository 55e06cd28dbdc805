"""A kernel that keeps something of one call for another is caught."""

from __future__ import annotations

from typing import Any

import pytest

pytest_plugins = ["pytester"]

CALLS = "test_follows_every_call"

WRAPPED = """
import torch
from plait_kernels.torch_backend.{op} import make as make_right

def make(config):
    right = make_right(config)
    kept = {{}}

    def kernel(*arguments):
        {body}

    return kernel
"""

LORA = """
import dataclasses
import torch
from plait_kernels.ops.lora import ReferenceLora

class Wrong(ReferenceLora):
    def __init__(self):
        self.kept = {{}}

    {body}

def make(config):
    return Wrong()
"""

LINEAR = """
import torch
from plait_kernels import DenseWeight
from plait_kernels.torch_backend.linear import TorchLinear

class Wrong(TorchLinear):
    layout = "wrong"

    def __init__(self):
        super().__init__()
        self.kept = {{}}

    {body}

def make(config):
    return Wrong()
"""

ATTENTION = """
import torch
from plait_kernels.torch_backend.attention import TorchAttention

class Wrong(TorchAttention):
    def __init__(self, config):
        super().__init__(config)
        self.kept = {{}}

    {body}

def make(config):
    return Wrong(config)
"""

RING = """
output = right(*arguments)
count = kept["count"] = kept.get("count", -1) + 1
place = kept.setdefault((count % {size}, output.shape), torch.empty_like(output))
return place.copy_(output)
"""


def body(source: str, indent: int = 8) -> str:
    """Indent the lines of a function's body."""
    return f"\n{' ' * indent}".join(source.strip().splitlines())


def kept(what: str, *, key: str = "0", place: int = -1) -> str:
    """Make a body that takes one argument from an earlier call with an equal key."""
    return body(
        f"""
arguments = list(arguments)
arguments[{place}] = kept.setdefault({key}, {what})
return right(*arguments)
"""
    )


WRONG: dict[str, tuple[str, str, str]] = {
    "the first weight": ("fused_add_rms_norm", WRAPPED, kept("arguments[2].clone()", place=2)),
    "the weight at an address": (
        "rms_norm",
        WRAPPED,
        kept("arguments[1].clone()", key="arguments[1].data_ptr()", place=1),
    ),
    "the weight of an object": (
        "rms_norm",
        WRAPPED,
        kept("arguments[1].clone()", key="id(arguments[1])", place=1),
    ),
    "the first eps": ("rms_norm", WRAPPED, kept("arguments[2]", place=2)),
    "results by shape": (
        "silu_and_mul",
        WRAPPED,
        "return kept.setdefault(arguments[0].shape, right(*arguments)).clone()",
    ),
    "something from the third call on": (
        "rms_norm",
        WRAPPED,
        body(
            """
kept["calls"] = kept.get("calls", 0) + 1
return right(*arguments) * (1 if kept["calls"] < 3 else 1.1)
"""
        ),
    ),
    "something from the twelfth call on": (
        "silu_and_mul",
        WRAPPED,
        body(
            """
kept["calls"] = kept.get("calls", 0) + 1
return right(*arguments) * (1 if kept["calls"] < 12 else 1.1)
"""
        ),
    ),
    "one output": ("rms_norm", WRAPPED, body(RING.format(size=1))),
    "two outputs in turn": ("silu_and_mul", WRAPPED, body(RING.format(size=2))),
    "eight outputs in turn": ("rms_norm", WRAPPED, body(RING.format(size=8))),
    "an output until it is dropped": (
        "sample",
        WRAPPED,
        body(
            """
output = right(*arguments)
if output.shape[0] == 5:
    output = kept.setdefault(0, output).copy_(output)
return output
"""
        ),
    ),
    "scratch of the first size": (
        "silu_and_mul",
        WRAPPED,
        body(
            """
most = kept.setdefault(0, len(arguments[0]))
output = right(*arguments)
output[most:] = 0
return output
"""
        ),
    ),
    "scratch that is dirty": (
        "rms_norm",
        WRAPPED,
        body(
            """
scratch = kept.setdefault(0, torch.zeros(64))
rows = len(arguments[0])
output = right(*arguments) + 1e-3 * scratch[rows]
scratch[:rows] = 1
return output
"""
        ),
    ),
    "the module's scratch": (
        "rms_norm",
        WRAPPED.replace("kept = {{}}", "kept = globals().setdefault('KEPT', {{}})"),
        kept("arguments[1].clone()", key="kept.__len__() > 3", place=1),
    ),
    "uniform numbers by seed": (
        "sample",
        WRAPPED,
        body(
            """
import dataclasses
logits, batch = arguments
for row, seed in enumerate(batch.seed.tolist()):
    kept.setdefault(seed, batch.position[row].clone())
position = torch.stack([kept[seed] for seed in batch.seed.tolist()])
return right(logits, dataclasses.replace(batch, position=position))
"""
        ),
    ),
    "uniform numbers by the number of rows": (
        "sample",
        WRAPPED,
        body(
            """
import dataclasses
logits, batch = arguments
seed, position = kept.setdefault(len(logits), (batch.seed.clone(), batch.position.clone()))
return right(logits, dataclasses.replace(batch, seed=seed, position=position))
"""
        ),
    ),
    "a batch by its address": (
        "sample",
        WRAPPED,
        body(
            """
import dataclasses
logits, batch = arguments
copied = dataclasses.replace(batch, seed=batch.seed.clone(), position=batch.position.clone())
known = kept.setdefault((id(batch), len(logits)), copied)
return right(logits, known)
"""
        ),
    ),
    "whether all rows are greedy": (
        "sample",
        WRAPPED,
        body(
            """
import dataclasses
logits, batch = arguments
kept[0] = kept.get(0) or batch.all_greedy
return logits.argmax(-1) if kept[0] else right(logits, batch)
"""
        ),
    ),
    "slots of the cache": (
        "kv_write",
        WRAPPED,
        kept("arguments[3].clone()", key="arguments[3].shape", place=3),
    ),
    "angles by the number of tokens": (
        "rotary_embedding",
        WRAPPED,
        kept("arguments[0].clone()", key="arguments[0].shape", place=0),
    ),
    "the first table of angles": (
        "rotary_embedding",
        WRAPPED,
        kept("arguments[3].clone()", key="arguments[3].shape", place=3),
    ),
    "penalties by the number of rows": (
        "apply_penalties",
        WRAPPED,
        body(
            """
import dataclasses
logits, batch = arguments
known = kept.setdefault(len(logits), batch.repetition.clone())
return right(logits, dataclasses.replace(batch, repetition=known))
"""
        ),
    ),
    "nothing, but writes its input later": (
        "rms_norm",
        WRAPPED,
        body(
            """
output = right(*arguments)
if kept.setdefault(len(arguments[0]), 0) > 2:
    arguments[0].neg_()
kept[len(arguments[0])] += 1
return output
"""
        ),
    ),
    "the weight prepared last": (
        "linear",
        LINEAR,
        body(
            """
def prepare(self, weight):
    self.kept = super().prepare(weight)
    return self.kept

def __call__(self, x, weight):
    return super().__call__(x, self.kept)
""",
            4,
        ),
    ),
    "the weight prepared first": (
        "linear",
        LINEAR,
        body(
            """
def __call__(self, x, weight):
    self.kept.setdefault(0, weight)
    return super().__call__(x, self.kept[0])
""",
            4,
        ),
    ),
    "the first bias": (
        "linear",
        LINEAR,
        body(
            """
def __call__(self, x, weight):
    bias = self.kept.setdefault(0, weight.bias)
    y = super().__call__(x, weight)
    return y if bias is None else y - weight.bias + bias
""",
            4,
        ),
    ),
    "weights by shape": (
        "linear",
        LINEAR,
        body(
            """
def prepare(self, weight):
    return self.kept.setdefault(weight.weight.shape, super().prepare(weight))
""",
            4,
        ),
    ),
    "its bucket's own layout under one name": (
        "linear",
        LINEAR.replace(
            "return Wrong()",
            "wrong = Wrong()\n    wrong.sign = 1 if config.bucket == 'decode' else -1\n"
            "    return wrong",
        ),
        body(
            """
def prepare(self, weight):
    bias = None if weight.bias is None else weight.bias * self.sign
    return super().prepare(DenseWeight(weight.weight * self.sign, bias))

def __call__(self, x, weight):
    return super().__call__(x, weight) * self.sign
""",
            4,
        ),
    ),
    "the last plan": (
        "attention",
        ATTENTION,
        body(
            """
def plan(self, batch):
    self.kept = super().plan(batch)
    return self.kept

def run(self, q, kv, plan):
    return super().run(q, kv, self.kept)
""",
            4,
        ),
    ),
    "a plan by the number of rows": (
        "attention",
        ATTENTION,
        body(
            """
def plan(self, batch):
    rows = len(batch.kv_length), int(batch.query_start[-1])
    return self.kept.setdefault(rows, super().plan(batch))
""",
            4,
        ),
    ),
    "the keys of the first layer": (
        "attention",
        ATTENTION,
        body(
            """
def run(self, q, kv, plan):
    known = self.kept.setdefault(id(plan), (plan, kv.clone()))
    return super().run(q, known[1], plan)
""",
            4,
        ),
    ),
    "one output for all layers": (
        "attention",
        ATTENTION,
        body(
            """
def run(self, q, kv, plan):
    out = super().run(q, kv, plan)
    return self.kept.setdefault(out.shape, torch.empty_like(out)).copy_(out)
""",
            4,
        ),
    ),
    "tiles whatever the version": (
        "lora",
        LORA,
        body(
            """
def shrink(self, x, sites, batch):
    table = batch.table
    known = self.kept.setdefault(id(table), (table, table.arena.clone()))
    copied = dataclasses.replace(table, arena=known[1])
    return super().shrink(x, sites, dataclasses.replace(batch, table=copied)), copied

def expand(self, h, sites, batch, y):
    super().expand(h[0], sites, dataclasses.replace(batch, table=h[1]), y)
""",
            4,
        ),
    ),
    "tables whatever the version": (
        "lora",
        LORA,
        body(
            """
def shrink(self, x, sites, batch):
    table = batch.table
    known = self.kept.setdefault(id(table), (table, table.tile_scale.clone()))
    copied = dataclasses.replace(table, tile_scale=known[1])
    if known[1].shape == table.tile_scale.shape:
        batch = dataclasses.replace(batch, table=copied)
    return super().shrink(x, sites, batch), batch

def expand(self, h, sites, batch, y):
    super().expand(h[0], sites, h[1], y)
""",
            4,
        ),
    ),
    "tiles by version alone": (
        "lora",
        LORA,
        body(
            """
def expand(self, h, sites, batch, y):
    table = batch.table
    key = table.version, table.tile_scale.shape
    table = dataclasses.replace(
        table, tile_scale=self.kept.setdefault(key, table.tile_scale.clone())
    )
    super().expand(h, sites, dataclasses.replace(batch, table=table), y)
""",
            4,
        ),
    ),
    "the scratch of the first ranks": (
        "lora",
        LORA,
        body(
            """
def shrink(self, x, sites, batch):
    most = self.kept.setdefault(0, batch.table.max_tiles)
    x, products = super().shrink(x, sites, batch)
    first = batch.table.tile_start
    slot = batch.token_slot.tolist()
    for token, site, tile in products:
        if tile - int(first[slot[token], site]) >= most:
            products[token, site, tile] = products[token, site, tile] * 0
    return x, products
""",
            4,
        ),
    ),
    "the scratch of the first tokens": (
        "lora",
        LORA,
        body(
            """
def shrink(self, x, sites, batch):
    most = self.kept.setdefault(0, len(x))
    x, products = super().shrink(x, sites, batch)
    return x, {key: h * (key[0] < most) for key, h in products.items()}
""",
            4,
        ),
    ),
    "the h of the last shrink": (
        "lora",
        LORA,
        body(
            """
def shrink(self, x, sites, batch):
    self.kept = super().shrink(x, sites, batch)

def expand(self, h, sites, batch, y):
    super().expand(self.kept, sites, batch, y)
""",
            4,
        ),
    ),
    "the scales of the first layer": (
        "lora",
        LORA,
        body(
            """
def expand(self, h, sites, batch, y):
    key = id(batch.table), batch.table.version, tuple(site.out_offset for site in sites)
    first = self.kept.setdefault(key, (batch.table, sites))[1]
    super().expand(h, sites, batch, y)
    if first is not sites and (first != sites):
        y += 1
""",
            4,
        ),
    ),
    "which token runs what, by their number": (
        "lora",
        LORA,
        body(
            """
def shrink(self, x, sites, batch):
    key = id(batch.table), len(x)
    slot = self.kept.setdefault(key, (batch.table, batch.token_slot.clone()))[1]
    return super().shrink(x, sites, dataclasses.replace(batch, token_slot=slot)), slot

def expand(self, h, sites, batch, y):
    super().expand(h[0], sites, dataclasses.replace(batch, token_slot=h[1]), y)
""",
            4,
        ),
    ),
}


RAISES = ("the last plan", "the h of the last shrink")
"""What they keep has another shape, so that nothing comes of the call."""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_kept_of_another_call(install: Any, run_pytest: Any, name: str) -> None:
    op, source, wrong = WRONG[name]
    install(source.format(op=op, body=wrong), op=op)
    buckets = "" if "bucket" in source else "and decode"
    run = run_pytest("-k", f"{CALLS} {buckets} and not any_size and not gate_and_up")
    assert run.failed == {CALLS}
    assert "of one implementation, " in run.messages or name in RAISES


RIGHT = ("rms_norm", "silu_and_mul", "sample", "kv_write", "linear", "attention", "lora")


@pytest.mark.parametrize("op", RIGHT)
def test_what_is_kept_of_nothing_passes(install: Any, run_pytest: Any, op: str) -> None:
    """So that the kernels above fail for what is wrong with them."""
    install(f"from plait_kernels.torch_backend.{op} import make", op=op)
    run = run_pytest("-k", f"{CALLS} and decode and not any_size and not gate_and_up")
    assert (run.passed, run.failed) == ({CALLS}, set())
