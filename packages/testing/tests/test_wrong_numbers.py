"""A kernel that rounds too soon, or breaks where numbers are large, small or NaN, is caught."""

from __future__ import annotations

from typing import Any

import pytest

pytest_plugins = ["pytester"]

AGREES = "test_agrees_with_reference"

WRAPPED = """
import dataclasses
import torch
from plait_kernels.torch_backend.{op} import make as make_right

def make(config):
    right = make_right(config)
    return lambda *arguments: kernel(right, *arguments)

def kernel(right, {arguments}):
    {body}
"""

LORA = """
import dataclasses
import torch
from plait_kernels.lora_types import DENSE_ADD, DENSE_ROW, DENSE_SCALE
from plait_kernels.ops.lora import ReferenceLora

class Wrong(ReferenceLora):
    def expand(self, h, sites, batch, y):
        {body}

def make(config):
    return Wrong()
"""

ATTENTION = """
import torch
from plait_kernels.ops.attention import ReferenceAttention

class Wrong(ReferenceAttention):
    def _attend(self, q, keys, values):
        group = q.shape[0] // keys.shape[1]
        keys, values = (x.double().repeat_interleave(group, dim=1) for x in (keys, values))
        scale = self._config.get("scale") or q.shape[1] ** -0.5
        scores = (q * keys).sum(dim=-1) * scale
        {body}

def make(config):
    return Wrong(config)
"""

NORM = "x, weight, eps"
FUSED = "x, residual, weight, eps"


def norm(mean_square: str, factor: str = "torch.rsqrt(mean_square + eps)") -> str:
    """Make the body of a norm, right unless told otherwise."""
    return (
        f"wide = x.float(); mean_square = {mean_square}; factor = ({factor}).float(); "
        "return (wide * factor * weight.float()).to(x.dtype)"
    )


MEAN = "wide.square().mean(-1, keepdim=True)"

WRONG: dict[str, tuple[str, str, str]] = {
    "the mean of squares in half precision": (
        "rms_norm",
        NORM,
        norm("(x * x).mean(-1, keepdim=True)"),
    ),
    "the sum of squares in half precision": (
        "rms_norm",
        NORM,
        norm("(x * x).cumsum(-1)[:, -1:] / x.shape[1]").replace("(x * x).cumsum", "_sum(x * x)"),
    ),
    "sums of blocks in half precision": (
        "rms_norm",
        NORM,
        norm(
            "torch.stack([part.float().square().sum(-1).to(x.dtype) for part in x.split(64, -1)])"
            ".float().sum(0)[:, None] / x.shape[1]"
        ),
    ),
    "the factor in half precision": (
        "rms_norm",
        NORM,
        norm(MEAN, "torch.rsqrt(mean_square + eps).to(x.dtype)"),
    ),
    "the fused mean in half precision": (
        "fused_add_rms_norm",
        FUSED,
        "x = residual.add_(x); " + norm(f"{MEAN}.to(x.dtype)"),
    ),
    "no eps": ("rms_norm", NORM, norm(MEAN, "torch.rsqrt(mean_square + 1e-30)")),
    "a constant eps": ("rms_norm", NORM, norm(MEAN, "torch.rsqrt(mean_square + 1e-5)")),
    "eps outside of the root": ("rms_norm", NORM, norm(MEAN, "1 / (mean_square.sqrt() + eps)")),
    "squares that overflow": (
        "rms_norm",
        NORM,
        norm("wide.square().mul(1e9).sum(-1, keepdim=True) / 1e9 / x.shape[1]"),
    ),
    "the residual cut off": (
        "fused_add_rms_norm",
        FUSED,
        "y = right(x, residual, weight, eps); "
        "residual.copy_(torch.nextafter(residual, residual * 0)); return y",
    ),
    "a row that reaches others": (
        "rms_norm",
        NORM,
        "return right(x, weight, eps) + 0 * x.sum(0)",
    ),
    "exp that overflows": (
        "silu_and_mul",
        "x",
        "gate, up = x.float().chunk(2, -1); "
        "return (gate * gate.exp() / (1 + gate.exp()) * up).to(x.dtype)",
    ),
    "silu in half precision": (
        "silu_and_mul",
        "x",
        "gate, up = x.chunk(2, -1); return gate / (1 + torch.exp(-gate)) * up",
    ),
    "angles in half precision": (
        "rotary_embedding",
        "positions, q, k, cos_sin",
        "right(positions, q, k, cos_sin.to(q.dtype).float())",
    ),
    "uniform numbers of 24 bits": (
        "sample",
        "logits, batch",
        "return _draw(logits, batch, lambda u: (u * 2**24).floor() / 2**24, torch.float64)",
    ),
    "sums of weights in float32": (
        "sample",
        "logits, batch",
        "return _draw(logits, batch, lambda u: u, torch.float32)",
    ),
}

HELPERS = """
def _sum(values):
    def cumsum(dim):
        total = torch.zeros_like(values[:, :1])
        for column in range(values.shape[1]):
            total = total + values[:, column:column + 1]
        return total
    return cumsum

def _draw(logits, batch, of_number, dtype):
    from plait_kernels.torch_backend.philox import uniform
    from plait_kernels.ops.sample import reference
    plain = (batch.temperature > 0) & (batch.top_k == 0) & (batch.top_p == 1) & (batch.min_p == 0)
    tokens = reference(None)(logits, batch)
    for row in plain.nonzero().flatten().tolist():
        scaled = logits[row] / batch.temperature[row]
        sums = (scaled - scaled.max()).to(dtype).exp().cumsum(0)
        number = of_number(uniform(batch.seed[row:row + 1], batch.position[row:row + 1]))
        tokens[row] = int((sums > (number * sums[-1]).to(dtype)).nonzero()[0])
    return tokens
"""


@pytest.mark.parametrize(("op", "arguments", "body"), WRONG.values(), ids=WRONG.keys())
def test_wrong_numbers(install: Any, run_pytest: Any, op: str, arguments: str, body: str) -> None:
    source = WRAPPED.format(op=op, arguments=arguments, body=body) + HELPERS
    backend = f"Backend('mine', (Kernel({op!r}, 'mine_kernels:make'),))"
    install(source, backend=backend)
    run = run_pytest("-x", "-k", f"{AGREES} and decode")
    assert run.failed == {AGREES}
    assert "differs from the reference" in run.messages


WRONG_LORA: dict[str, str] = {
    "the change rounded before it is added": """
before = y.clone()
change = torch.zeros_like(y)
super().expand(h, sites, batch, change)
own = torch.zeros_like(y, dtype=torch.bool)
y.copy_(torch.where(change != 0, before + change, before))
""",
    "h in half precision": """
x, products = h
products = {key: values.to(y.dtype).double() for key, values in products.items()}
super().expand((x, products), sites, batch, y)
""",
    "the weight of the token on the tiles only": """
import plait_kernels.ops.lora as module
ones = dataclasses.replace(batch, token_weight=torch.ones_like(batch.token_weight))
kinds = batch.table.dense_kind
if int(batch.table.dense_count.sum()) and not (kinds == DENSE_ROW).all():
    super().expand(h, sites, ones, y)
else:
    super().expand(h, sites, batch, y)
""",
    "the sign of the scale": """
table = dataclasses.replace(batch.table, tile_scale=batch.table.tile_scale.abs())
super().expand(h, sites, dataclasses.replace(batch, table=table), y)
""",
    "weights of tokens": """
weight = torch.where(batch.token_weight == 1, 1.0, 0.5)
super().expand(h, sites, dataclasses.replace(batch, token_weight=weight), y)
""",
    "tiles of one place twice": """
table = batch.table
places = table.tile_offset.tolist()
twice = torch.tensor([places.count(place) for place in places])
table = dataclasses.replace(table, tile_scale=table.tile_scale * twice)
super().expand(h, sites, dataclasses.replace(batch, table=table), y)
""",
    "a tile of one place once": """
table = batch.table
known, places = set(), table.tile_offset.tolist()
first = torch.tensor([not (p in known or known.add(p)) for p in places], dtype=torch.float32)
table = dataclasses.replace(table, tile_scale=table.tile_scale * first)
super().expand(h, sites, dataclasses.replace(batch, table=table), y)
""",
    "rows added before they are scaled": """
table = batch.table
scaled = {slot for slot in range(len(table.dense_count))}
kind = table.dense_kind.clone()
super().expand(h, sites, batch, y)
both = (kind == DENSE_ADD).any() and (kind == DENSE_SCALE).any()
if both and len(sites) == 1:
    y[batch.token_slot >= 0] *= 1.01
""",
    "the first of two rows that replace one": """
table = batch.table
kind = table.dense_kind.clone()
known = set()
for slot in range(table.dense_start.shape[0]):
    for site in sites:
        start = int(table.dense_start[slot, site.index])
        for entry in range(start, start + int(table.dense_count[slot, site.index])):
            key = slot, site.index, int(table.dense_index[entry])
            if int(kind[entry]) == DENSE_ROW and (key in known or known.add(key)):
                kind[entry] = 3
table = dataclasses.replace(table, dense_kind=kind)
super().expand(h, sites, dataclasses.replace(batch, table=table), y)
""",
    "tokens of a slot until another comes": """
slots = batch.token_slot.tolist()
seen, last = set(), None
super().expand(h, sites, batch, y)
for token, slot in enumerate(slots):
    if slot in seen and slot != last and slot >= 0:
        y[token] *= 1.1
    seen.add(slot)
    last = slot
""",
    "a row that reaches others": """
super().expand(h, sites, batch, y)
if h[0].is_floating_point() and len(y):
    y[batch.token_slot >= 0] += 0 * h[0].sum()
""",
}


@pytest.mark.parametrize("wrong", WRONG_LORA.values(), ids=WRONG_LORA.keys())
def test_wrong_numbers_of_lora(install: Any, run_pytest: Any, wrong: str) -> None:
    body = "\n        ".join(wrong.strip().splitlines())
    backend = "Backend('mine', (Kernel('lora', 'mine_kernels:make', dtypes=('bfloat16',)),))"
    install(LORA.replace("{body}", body), backend=backend)
    small = "mixes or ragged or tiles or rows or dense or bad or base_among or many_times"
    run = run_pytest("-x", "-k", f"{AGREES} and decode and ({small})")
    assert run.failed == {AGREES}
    assert "differs from the reference" in run.messages


WRONG_ATTENTION: dict[str, str] = {
    "scores in half precision": "scores = scores.bfloat16(); "
    "return (scores.double().softmax(0).unsqueeze(-1) * values).sum(0)",
    "exp without the largest": "weights = scores.float().clamp(max=999).exp(); "
    "return (weights / weights.sum(0)).double().unsqueeze(-1).mul(values).sum(0)",
    "sums in half precision": "parts = (scores.softmax(0).unsqueeze(-1) * values).bfloat16(); "
    "total = torch.zeros_like(parts[0]); "
    "total = [total := total + part for part in parts][-1]; return total.double()",
    "a mask that hides NaN": "parts = scores.softmax(0).unsqueeze(-1) * values; "
    "return parts.nan_to_num().sum(0)",
}


@pytest.mark.parametrize("wrong", WRONG_ATTENTION.values(), ids=WRONG_ATTENTION.keys())
def test_wrong_numbers_of_attention(install: Any, run_pytest: Any, wrong: str) -> None:
    kernel = "Kernel('attention', 'mine_kernels:make', dtypes=('bfloat16',), supports=plain)"
    before = (
        "def plain(config):\n    return tuple(n for n in ('window', 'softcap', 'sinks') "
        "if config.get(n) is not None)\n"
    )
    declaration = (
        "from plait_kernels import Backend, Kernel, hookimpl\n"
        f"{before}\n@hookimpl\ndef plait_kernel_backend():\n"
        f"    return Backend('mine', ({kernel},))\n"
    )
    install(ATTENTION.format(body=wrong), declaration=declaration)
    run = run_pytest("-x", "-k", f"{AGREES} and decode and (decode_ or keys or bad or scores)")
    assert run.failed == {AGREES}
    assert "differs from the reference" in run.messages
