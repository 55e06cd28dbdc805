"""A kernel that is wrong beyond a size is caught."""

from __future__ import annotations

from typing import Any

import pytest

pytest_plugins = ["pytester"]

AGREES, CALLS = "test_agrees_with_reference", "test_follows_every_call"

WRAPPED = """
import dataclasses
import torch
from plait_kernels.torch_backend.{op} import make as make_right

def make(config):
    right = make_right(config)

    def kernel(*arguments):
        {body}

    return kernel
"""

LINEAR = """
from plait_kernels.torch_backend.linear import TorchLinear

class Wrong(TorchLinear):
    def __call__(self, x, weight):
        y = super().__call__(x, weight)
        {body}
        return y

def make(config):
    return Wrong()
"""

LORA = """
from plait_kernels.torch_backend.lora import TorchLora

class Wrong(TorchLora):
    def expand(self, h, sites, batch, y):
        before = y.clone()
        super().expand(h, sites, batch, y)
        {body}

def make(config):
    return Wrong()
"""

ATTENTION = """
from plait_kernels.torch_backend.attention import TorchAttention

class Wrong(TorchAttention):
    def plan(self, batch):
        self.batch = batch
        return super().plan(batch)

    def run(self, q, kv, plan):
        out = super().run(q, kv, plan)
        {body}
        return out

def make(config):
    return Wrong(config)
"""

OUTPUT = "y = right(*arguments); {wrong}; return y"

WRONG: dict[str, tuple[str, str, str]] = {
    f"{op}: rows from {rows} on": (op, WRAPPED, OUTPUT.format(wrong=f"y[{rows}:] = 0"))
    for op, rows in [("rms_norm", 64), ("silu_and_mul", 256), ("sample", 64), ("rms_norm", 1024)]
}
WRONG |= {
    f"norm of more than {hidden}": (
        "fused_add_rms_norm",
        WRAPPED,
        OUTPUT.format(wrong=f"y[:, {hidden}:] = 0"),
    )
    for hidden in (64, 1024, 2048, 4096, 8192)
}
WRONG |= {
    f"features beyond {features}": (
        "silu_and_mul",
        WRAPPED,
        OUTPUT.format(wrong=f"y[:, {features}:] = 0"),
    )
    for features in (4096, 16384)
}
WRONG |= {
    f"ids beyond {vocab}": (
        "sample",
        WRAPPED,
        f"return right(arguments[0][:, :{vocab}].contiguous(), arguments[1])",
    )
    for vocab in (65_536, 131_072)
}
WRONG |= {
    "penalties of ids beyond 65536": (
        "apply_penalties",
        WRAPPED,
        "before = arguments[0].clone(); right(*arguments); "
        "arguments[0][:, 65536:] = before[:, 65536:]",
    ),
    "penalties of rows from 64 on": (
        "apply_penalties",
        WRAPPED,
        "before = arguments[0].clone(); right(*arguments); arguments[0][64:] = before[64:]",
    ),
    "penalties of long histories": (
        "apply_penalties",
        WRAPPED,
        "logits, batch = arguments; right(logits, "
        "dataclasses.replace(batch, length=batch.length.clamp(max=1024)))",
    ),
    "tokens from 256 on are not written": (
        "kv_write",
        WRAPPED,
        "right(*(each[:256] for each in arguments[:2]), arguments[2], arguments[3][:256])",
    ),
    "tokens from 512 on are not turned": (
        "rotary_embedding",
        WRAPPED,
        "p, q, k, table = arguments; right(p[:512], q[:512], k[:512], table)",
    ),
    "positions of 16 bits": (
        "rotary_embedding",
        WRAPPED,
        "p, *others = arguments; right(p.clamp(max=65535), *others)",
    ),
    "positions from the first on": (
        "rotary_embedding",
        WRAPPED,
        "p, *others = arguments; right((p[:1] + torch.arange(len(p))) % len(others[-1]), *others)",
    ),
    "the last position": (
        "rotary_embedding",
        WRAPPED,
        "p, *others = arguments; right(p.clamp(max=len(others[-1]) - 2), *others)",
    ),
    "linear of more than 128 tokens": ("linear", LINEAR, "y[128:] = 0"),
    "linear of more than 512 tokens": ("linear", LINEAR, "y[512:] = 0"),
    "linear of more than 4096 inputs": (
        "linear",
        LINEAR,
        "y *= 1 if x.shape[1] <= 4096 else 1.1",
    ),
    "linear of more than 8192 inputs": (
        "linear",
        LINEAR,
        "y *= 1 if x.shape[1] <= 8192 else 1.1",
    ),
    "linear of more than 8192 outputs": ("linear", LINEAR, "y[:, 8192:] = 0"),
    "linear of more than 65536 outputs": ("linear", LINEAR, "y[:, 65536:] = 0"),
    "lora of more than 256 tokens": ("lora", LORA, "y[256:] = before[256:]"),
    "lora of more than 512 tokens": ("lora", LORA, "y[512:] = before[512:]"),
    "lora of more than 4096 inputs": (
        "lora",
        LORA,
        "if sites[0].in_features > 4096 and sites[0].group == 'down': y.copy_(before)",
    ),
    "lora of more than 8192 outputs": ("lora", LORA, "y[:, 8200:] = before[:, 8200:]"),
    "lora of ranks beyond 512": (
        "lora",
        LORA,
        "if batch.table.tile_count.max() > 64: y.copy_(before)",
    ),
    "lora of ranks beyond 1024": (
        "lora",
        LORA,
        "if batch.table.tile_count.max() > 128: y.copy_(before)",
    ),
    "lora of slots beyond 255": (
        "lora",
        LORA,
        "y[batch.token_slot > 255] = before[batch.token_slot > 255]",
    ),
    "lora of more than 16 sites": (
        "lora",
        LORA,
        "if len(sites) > 16: y[:, sites[16].out_offset:] = before[:, sites[16].out_offset:]",
    ),
    "lora of token ids beyond 65536": (
        "lora",
        LORA.replace(
            "def expand",
            "def shrink(self, x, sites, batch):\n"
            "        x = x.clamp(max=65535) if sites[0].group == 'embed' else x\n"
            "        return super().shrink(x, sites, batch)\n\n    def expand",
        ),
        "pass",
    ),
    "lora of token ids beyond 7": (
        "lora",
        LORA.replace(
            "def expand",
            "def shrink(self, x, sites, batch):\n"
            "        x = x % 8 if sites[0].group == 'embed' else x\n"
            "        return super().shrink(x, sites, batch)\n\n    def expand",
        ),
        "pass",
    ),
    "prompts beyond 128 queries": (
        "attention",
        ATTENTION,
        "if self.batch.max_query > 128: out[self.batch.query_start[-1] - 1] = 0",
    ),
    "rows beyond 4096 keys": (
        "attention",
        ATTENTION,
        "out[(self.batch.kv_length > 4096).repeat(len(out))[:len(out)]] = 0",
    ),
    "rows from 128 on": (
        "attention",
        ATTENTION,
        "if len(self.batch.kv_length) > 128: out[128:] = 0",
    ),
    "heads beyond 64": ("attention", ATTENTION, "out[:, 64:] = 0"),
    "head_dim beyond 128": ("attention", ATTENTION, "out[..., 128:] = 0"),
}


@pytest.mark.parametrize(("op", "source", "wrong"), WRONG.values(), ids=WRONG.keys())
def test_wrong_beyond_a_size(
    install: Any, run_pytest: Any, op: str, source: str, wrong: str
) -> None:
    install(source.format(op=op, body=wrong), op=op)
    names = "many or wide or tall or long or usual or late or rank or ragged or head or rows"
    buckets = "prefill" if op == "attention" else "decode"
    run = run_pytest("-x", "-k", f"{AGREES} and {buckets} and ({names} or embed)")
    assert run.failed == {AGREES}
    assert "differs from the reference" in run.messages


@pytest.mark.parametrize("rows", [3, 17, 33, 129])
def test_wrong_at_one_number_of_rows(install: Any, run_pytest: Any, rows: int) -> None:
    wrong = OUTPUT.format(wrong=f"y *= 1.1 if len(y) == {rows} else 1")
    install(WRAPPED.format(op="silu_and_mul", body=wrong), op="silu_and_mul")
    run = run_pytest("-k", f"{CALLS} and decode and any_size")
    assert run.failed == {CALLS}
