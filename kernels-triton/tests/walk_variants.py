"""Call every op as engines do, in every size, and say which variants were not foreseen.

Run as a program, in a process of its own without TRITON_INTERPRET::

    python walk_variants.py

No GPU need be there: nothing is compiled and nothing runs. Triton itself says which variant a
launch needs. Standard output is a JSON object: ``foreseen``, the number of variants that
``warm_up`` lists, by kernel; ``launches``, the number of launches; ``missing``, the launches that
would have waited for the compiler.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from compile_only import AbsentGPU
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS, OpConfig
from plait_kernels.lora_types import LoraBatch, LoraTable
from plait_kernels.sampling_types import PenaltyBatch, SampleBatch
from plait_kernels.sites import LoraSite
from plait_kernels.warm_up import EngineFacts, LoraFacts
from plait_kernels.weights import DenseWeight
from plait_triton import language
from plait_triton.launching import Launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = torch.device("cuda", 0)
OPTIONS = {"PDL": True, "launch_pdl": True}


@dataclass
class Walk:
    """What was foreseen, and what came.

    Attributes
    ----------
    foreseen : Counter[str]
        Variants by kernel.
    launches : int
    missing : dict[str, str]
        By variant.
    """

    foreseen: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    serving: bool = False

    def compile(self, kernel: Any, key: str, *_: Any) -> object:
        """Take the place of the compiler."""
        if self.serving:
            self.missing[key] = f"{kernel.__name__}{key}"
        else:
            self.foreseen[kernel.__name__] += 1
        caches = next(iter(kernel.device_caches.values()))
        caches[0][key] = key
        return key


class OnPaper(Launcher):
    """Launches of a GPU, of which Triton finds the variant and no more."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def run(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Look the variant up."""
        assert all(programs > 0 for programs in grid)
        self._walk.launches += 1
        kernel.run(*arguments, grid=grid, warmup=True, **constants)

    def options(self, device: torch.device) -> Any:
        """Return those of a GPU."""
        return OPTIONS

    def shared_memory(self, device: torch.device) -> int:
        """Return that of an H100."""
        return 227 * 1024

    def has_streams(self, device: torch.device) -> bool:
        """Say yes."""
        return True

    def mark(self) -> Any:
        """Return anything but None."""
        return self

    @contextlib.contextmanager
    def beside(self, stream: Any, since: Any) -> Iterator[None]:
        """Change nothing."""
        yield

    def new_stream(self, device: torch.device) -> Any:
        """Return anything but None."""
        return self


@dataclass(frozen=True)
class Shape:
    """A model and the limits of its engine."""

    dtype: torch.dtype
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    layers: int
    block_size: int
    max_rows: int
    max_tokens: int
    bias: bool = False
    dense: bool = False

    def config(self, op: str, bucket: str, **params: Any) -> OpConfig:
        """Describe an op of the model."""
        most = self.max_rows if bucket == "decode" else self.max_tokens
        name = str(self.dtype).removeprefix("torch.")
        if op in ("sample", "apply_penalties"):
            most, name = self.max_rows, "float32"
        return OpConfig.of(op, dtype=name, bucket=bucket, max_tokens=most, **params)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Make a tensor that nobody reads."""
        return torch.empty(shape, dtype=dtype or self.dtype)

    def groups(self) -> dict[str, tuple[LoraSite, ...]]:
        """List the sites of a layer, and the head's."""
        q, kv, wide = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate
        listed: dict[str, tuple[int, tuple[int, ...]]] = {
            "qkv": (self.hidden, (q, kv, kv)),
            "o": (q, (self.hidden,)),
            "gate_up": (self.hidden, (wide, wide)),
            "down": (wide, (self.hidden,)),
            "head": (self.hidden, (self.vocab,)),
        }
        return {
            group: tuple(
                LoraSite(i + 1, f"{group}{i}", group, width, out, sum(outs[:i]))
                for i, out in enumerate(outs)
            )
            for group, (width, outs) in listed.items()
        }


LLAMA_8B = Shape(torch.bfloat16, 4096, 14336, 32, 8, 128, 128256, 32, 16, 256, 8192)
SMOL = Shape(torch.float32, 576, 1536, 9, 3, 64, 49152, 30, 16, 100, 600, dense=True)
ODD = Shape(torch.float16, 36, 50, 3, 1, 12, 101, 3, 4, 40, 3000, bias=True, dense=True)
SMALL = Shape(torch.bfloat16, 64, 128, 4, 2, 16, 128, 2, 16, 7, 40)


def sizes(most: int, draw: random.Random) -> list[int]:
    """Return every small number up to ``most``, and some of the others."""
    return [*range(1, min(most, 40) + 1), *(draw.randint(1, most) for _ in range(40)), most]


def norms(shape: Shape, config: OpConfig, op: Any, draw: random.Random) -> None:
    """Call a norm."""
    weight = shape.empty(shape.hidden)
    for tokens in sizes(config.max_tokens, draw):
        x, residual = shape.empty(tokens, shape.hidden), shape.empty(tokens, shape.hidden)
        if config.op == "rms_norm":
            op(x, weight, 1e-5)
        else:
            op(x, residual, weight, 1e-6)


def silu_and_mul(shape: Shape, config: OpConfig, op: Any, draw: random.Random) -> None:
    """Call the op."""
    for tokens in sizes(config.max_tokens, draw):
        op(shape.empty(tokens, 2 * shape.intermediate))


def attention(shape: Shape, config: OpConfig, op: Any, draw: random.Random) -> None:
    """Call what turns q and k, writes k and v, and attends."""
    heads, kv_heads, width = shape.heads, shape.kv_heads, shape.head_dim
    kv = shape.empty(8, shape.layers, 2, shape.block_size, kv_heads, width)
    table = shape.empty(4096, width, dtype=torch.float32)
    for tokens in sizes(config.max_tokens, draw):
        packed = shape.empty(tokens, heads + 2 * kv_heads, width)
        q, k, v = packed.split_with_sizes([heads, kv_heads, kv_heads], dim=1)
        positions = torch.zeros(tokens, dtype=torch.int64)
        layer = kv[:, draw.randrange(shape.layers)]
        if config.op == "rotary_embedding":
            op(positions, q, k, table)
        elif config.op == "kv_write":
            op(k, v, layer, positions)
        else:
            rows = draw.randint(1, min(tokens, shape.max_rows))
            of_rows = torch.zeros((2, rows + 1), dtype=torch.int32)
            most = 1 if config.bucket == "decode" else draw.randint(1, tokens)
            blocks = torch.zeros((rows, draw.randint(1, 300)), dtype=torch.int32)
            batch = AttentionBatch(of_rows[0], of_rows[1, :rows], blocks, most, 9)
            op.run(q, layer, op.plan(batch))


def linear(shape: Shape, config: OpConfig, op: Any, draw: random.Random) -> None:
    """Call the op in every number of rows."""
    width, out = (int(config.get(name) or 0) for name in ("in_features", "out_features"))
    bias = shape.empty(out) if shape.bias else None
    prepared = op.prepare(DenseWeight(shape.empty(out, width), bias))
    x = shape.empty(config.max_tokens + 1, width)
    for rows in range(1, 1 + min(config.max_tokens, 128)):
        # Also hidden states of a step from one of its rows on.
        for first in (0, 1):
            op(x[first : first + rows], prepared)


def lora(shape: Shape, config: OpConfig, op: Any, draw: random.Random) -> None:
    """Call the op with tables that grow."""
    sites = shape.groups()[str(config.get("group"))]
    columns = sum(site.out_features for site in sites)
    for tokens in sizes(config.max_tokens, draw):
        # Also hidden states of a step from one of its rows on.
        x = shape.empty(tokens + 1, sites[0].in_features)[draw.randrange(2) :][:tokens]
        y = shape.empty(tokens, columns)
        batch = random_batch(shape, tokens, draw)
        h = op.shrink(x, sites, batch)
        if config.get("group") == "gate_up" and draw.random() < 0.5:
            op.expand_silu_and_mul(h, sites, batch, y)
        else:
            op.expand(h, sites, batch, y)


def random_batch(shape: Shape, tokens: int, draw: random.Random) -> LoraBatch:
    """Make tables of any sizes, and a batch of any segments."""
    slots, columns = draw.randint(1, 99), draw.randint(10, 230)
    ranges = torch.zeros((4, slots, columns), dtype=torch.int32)
    tiles, entries = draw.randint(1, 3000), draw.randint(1, 90)
    table = LoraTable(
        arena=torch.empty(64, dtype=torch.uint8),
        dtype=shape.dtype,
        tile_rows=8,
        tile_start=ranges[0],
        tile_count=ranges[1],
        tile_offset=torch.zeros(tiles, dtype=torch.int64),
        tile_rank=torch.zeros(tiles, dtype=torch.int32),
        tile_scale=torch.zeros(tiles),
        dense_start=ranges[2],
        dense_count=ranges[3],
        dense_kind=torch.zeros(entries, dtype=torch.int32),
        dense_offset=torch.zeros(entries, dtype=torch.int64),
        dense_index=torch.zeros(entries, dtype=torch.int32),
        dense_weight=torch.zeros(entries),
        max_tiles=draw.randint(1, 200),
        max_dense=draw.randint(0, 3) if shape.dense else 0,
    )
    segments = draw.randint(1, min(tokens, slots))
    return LoraBatch(
        table,
        torch.zeros(tokens, dtype=torch.int32),
        torch.zeros(tokens),
        torch.zeros(tokens, dtype=torch.int32),
        torch.zeros(segments, dtype=torch.int32),
        torch.zeros(segments + 1, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
    )


def sampling(shape: Shape, config: OpConfig, op: Any, draw: random.Random) -> None:
    """Call an op of the sampler with the parts of tensors that it has."""
    for rows in sizes(config.max_tokens, draw):
        logits = torch.empty((rows, shape.vocab))
        heat, top_p, min_p = torch.zeros((3, rows))
        top_k, seed = torch.zeros((2, rows), dtype=torch.int64)
        if config.op == "sample":
            batch = SampleBatch(heat, top_k.int(), top_p, min_p, seed, seed, draw.random() < 0.2)
            op(logits, batch)
        else:
            history = torch.zeros((rows, draw.randint(1, 2000)), dtype=torch.int32)
            lengths = torch.zeros((2, rows), dtype=torch.int32)
            op(logits, PenaltyBatch(history, lengths[0], lengths[1], heat, top_p, min_p))


def configs(shape: Shape) -> Iterator[tuple[Any, OpConfig]]:
    """List the ops of a model and how they are called here."""
    cache = {"kv_heads": shape.kv_heads, "head_dim": shape.head_dim}
    cache["block_size"] = shape.block_size
    rotary = {"head_dim": shape.head_dim, "rotary_dim": shape.head_dim}
    attended = {**cache, "heads": shape.heads, "scale": 1.0}
    for bucket in BUCKETS:
        yield norms, shape.config("rms_norm", bucket, hidden=shape.hidden)
        yield norms, shape.config("fused_add_rms_norm", bucket, hidden=shape.hidden)
        yield silu_and_mul, shape.config("silu_and_mul", bucket, features=shape.intermediate)
        yield attention, shape.config("rotary_embedding", bucket, **rotary)
        yield attention, shape.config("kv_write", bucket, **cache)
        yield attention, shape.config("attention", bucket, **attended)
        yield sampling, shape.config("sample", bucket, vocab=shape.vocab)
        yield sampling, shape.config("apply_penalties", bucket, vocab=shape.vocab)
        for group, sites in shape.groups().items():
            yield lora, shape.config("lora", bucket, group=group)
            width, out = sites[0].in_features, sum(site.out_features for site in sites)
            kind: dict[str, Any] = {"format": "dense", "bias": shape.bias}
            features = {"in_features": width, "out_features": out}
            yield linear, shape.config("linear", bucket, **features, **kind)


def main() -> None:
    """Walk through the shapes."""
    driver.set_active(AbsentGPU(90))
    vars(language)["launch_options"] = lambda device: OPTIONS
    vars(language)["shared_memory"] = lambda device: 227 * 1024
    # What is left to torch is not looked at.
    torch.nn.functional.linear = lambda x, weight, bias: None
    walk = Walk()
    JITFunction._do_compile = lambda kernel, key, *rest: walk.compile(kernel, key, *rest)
    draw = random.Random(7)
    for shape in (LLAMA_8B, SMOL, ODD, SMALL):
        groups = tuple(shape.groups().values())
        lora = LoraFacts(shape.dtype, 8, groups, has_dense=shape.dense)
        facts = EngineFacts(DEVICE, shape.heads, shape.kv_heads, lora)
        listed = list(configs(shape))
        walk.serving = False
        for _, config in listed:
            for variant in implementation(config).warm_up(facts):
                variant.compile()
        walk.serving = True
        for call, config in listed:
            call(shape, config, implementation(config, OnPaper(walk)), draw)
    missing = list(walk.missing.values())
    said = {"foreseen": walk.foreseen, "launches": walk.launches, "missing": missing}
    sys.stdout.write(json.dumps(said))


def implementation(config: OpConfig, launcher: Launcher | None = None) -> Any:
    """Make the backend's implementation of an op, which launches with ``launcher``."""
    made = importlib.import_module(f"plait_triton.{config.op}").make(config)
    if launcher is not None:
        give(made, launcher)
    return made


def give(made: Any, launcher: Launcher) -> None:
    """Have an implementation, and what it is made of, launch with ``launcher``."""
    made._launcher = launcher
    if hasattr(made, "_planner"):
        made._planner = replace(made._planner, launcher=launcher)
    if hasattr(made, "_silu_and_mul"):
        give(made._silu_and_mul, launcher)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
