"""Compile the kernels of every op for a GPU that need not be there, and say what each takes.

Run as a program, in a process of its own without TRITON_INTERPRET::

    python compile_only.py CAPABILITY SHARED CALL...

CAPABILITY is 80, 90 and so on, SHARED the bytes of shared memory that a program has there; a call
is one of ``CALLS``, mostly an op. The ops are called with tensors of real shapes (Llama-3.1-8B,
bfloat16) in host memory, and every launch stops once its kernel is compiled. Standard output is a
JSON list of ``{"op", "name", "registers", "stack", "shared"}``, the latter two in bytes: what a
kernel spills lies on its stack.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from plait_kernels.config import OpConfig
from plait_kernels.ops import load_op
from plait_kernels.sampling_types import PenaltyBatch, SampleBatch
from plait_kernels.weights import DenseWeight
from plait_triton import language

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN, INTERMEDIATE, VOCAB = 4096, 14336, 128256
HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 16
ROWS = 64
MAX_LENGTH = 4096

LORA_SITES: dict[str, tuple[int, tuple[int, ...]]] = {
    "qkv": (HIDDEN, (HIDDEN, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)),
    "gate_up": (HIDDEN, (INTERMEDIATE, INTERMEDIATE)),
    "down": (INTERMEDIATE, (HIDDEN,)),
}


class AbsentGPU:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        """Name what is compiled for."""
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """Name the only device."""
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        """Name the default stream."""
        return 0


@dataclass
class Compiled:
    """What was compiled, each kernel once.

    Attributes
    ----------
    op : str
        Whose launches are looked at now.
    kernels : list
        What the program prints: each kernel once an op.
    """

    op: str = ""
    kernels: list[dict[str, Any]] = field(default_factory=list)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, kernel: Any) -> None:
        """Note a kernel."""
        if (self.op, kernel.hash) in self._seen:
            return
        self._seen.add((self.op, kernel.hash))
        usage = _usage(kernel.asm["cubin"])
        name, shared = kernel.metadata.name, kernel.metadata.shared
        self.kernels.append({"op": self.op, "name": name, **usage, "shared": shared})


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "stack": int(found[2])}


def stop_before_launch(capability: int, shared: int, compiled: Compiled) -> None:
    """From now on, compile what is launched and do not run it."""
    driver.set_active(AbsentGPU(capability))
    run = JITFunction.run

    @functools.wraps(run)
    def compile_only(self: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, warmup=True, **options)
        compiled.add(kernel)
        return kernel

    JITFunction.run = compile_only
    follows = capability >= 90
    options = {"PDL": True, "launch_pdl": True} if follows else {"PDL": False}
    # The modules of the ops are imported later: they take this one.
    vars(language)["launch_options"] = lambda device: options
    vars(language)["shared_memory"] = lambda device: shared


def make(op: str, bucket: str = "decode", dtype: str = "bfloat16", **params: Any) -> Any:
    """Make the backend's implementation of an op."""
    config = OpConfig.of(op, dtype=dtype, bucket=bucket, max_tokens=256, **params)
    return importlib.import_module(f"plait_triton.{op}").make(config)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Make a tensor whose contents nobody reads."""
    return torch.empty(shape, dtype=dtype)


def rms_norm() -> None:
    """Call the op."""
    make("rms_norm", hidden=HIDDEN)(empty(ROWS, HIDDEN), empty(HIDDEN), 1e-5)


def fused_add_rms_norm() -> None:
    """Call the op."""
    norm = make("fused_add_rms_norm", hidden=HIDDEN)
    norm(empty(ROWS, HIDDEN), empty(ROWS, HIDDEN), empty(HIDDEN), 1e-5)


def silu_and_mul() -> None:
    """Call the op."""
    for tokens in (ROWS, 8192):
        make("silu_and_mul", features=INTERMEDIATE)(empty(tokens, 2 * INTERMEDIATE))


def rotary_embedding() -> None:
    """Call the op on a packed qkv."""
    packed = empty(ROWS, (HEADS + 2 * KV_HEADS) * HEAD_DIM).view(ROWS, -1, HEAD_DIM)
    table = empty(MAX_LENGTH, HEAD_DIM, dtype=torch.float32)
    rotate = make("rotary_embedding", head_dim=HEAD_DIM, rotary_dim=HEAD_DIM)
    positions = torch.zeros(ROWS, dtype=torch.int64)
    rotate(positions, packed[:, :HEADS], packed[:, HEADS : HEADS + KV_HEADS], table)


def kv_write() -> None:
    """Call the op on one layer of a cache of two."""
    cache = empty(8, 2, 2, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
    packed = empty(ROWS, (HEADS + 2 * KV_HEADS) * HEAD_DIM).view(ROWS, -1, HEAD_DIM)
    k, v = packed[:, HEADS : HEADS + KV_HEADS], packed[:, HEADS + KV_HEADS :]
    write = make("kv_write", kv_heads=KV_HEADS, head_dim=HEAD_DIM, block_size=BLOCK_SIZE)
    write(k, v, cache[:, 1], torch.full((ROWS,), -1, dtype=torch.int64))


def attention() -> None:
    """Call the op on a step of decoding and on one with prompts."""
    shape: dict[str, Any] = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    shape["block_size"] = BLOCK_SIZE
    steps = {"decode": ((1, 300),) * 8, "prefill": ((1, 300), (300, 300), (200, 400))}
    for bucket, rows in steps.items():
        made: Any = load_op("attention").inputs(0, rows=rows, layers=1, dtype="bfloat16", **shape)
        q, kv, batch = made
        implementation = make("attention", bucket, scale=HEAD_DIM**-0.5, **shape)
        implementation.run(q, kv, implementation.plan(batch))


def linear() -> None:
    """Call the op with as many rows as a small step has."""
    shapes = ((HIDDEN, HIDDEN), (HIDDEN, 2 * INTERMEDIATE), (INTERMEDIATE, HIDDEN))
    for in_features, out_features in shapes:
        weight = DenseWeight(empty(out_features, in_features))
        shape: dict[str, Any] = {"in_features": in_features, "out_features": out_features}
        multiply = make("linear", format="dense", bias=False, **shape)
        prepared = multiply.prepare(weight)
        for rows in (1, 8, 32, 64, 128):
            multiply(empty(rows, in_features), prepared)


def lora() -> None:
    """Call the op on groups of a layer, as a step of decoding and as a prompt."""
    for group, (in_features, out_features) in LORA_SITES.items():
        shape: dict[str, Any] = {"in_features": in_features, "out_features": out_features}
        for bucket, tokens in (("decode", ROWS), ("prefill", 1024)):
            made: Any = load_op("lora").inputs(
                0,
                group=group,
                tokens=tokens,
                slots=2,
                ranks=(16,),
                max_adapters=1,
                dense=False,
                packed=group == "gate_up",
                dtype=torch.bfloat16,
                **shape,
            )
            implementation = make("lora", bucket, group=group)
            sites, batch, y = made.sites, made.batch, made.y
            hidden = implementation.shrink(made.x, sites, batch)
            implementation.expand(hidden, sites, batch, y)
            if group == "gate_up":
                implementation.expand_silu_and_mul(hidden, sites, batch, y)


def lora_of_two_dtypes() -> None:
    """Call the op on activations of one dtype and adapters of another, replaced rows included."""
    half, full = torch.bfloat16, torch.float32
    for dtype, arena_dtype in ((full, half), (half, full)):
        made: Any = load_op("lora").inputs(0, dtype=dtype, arena_dtype=arena_dtype)
        for bucket in ("decode", "prefill"):
            implementation = make("lora", bucket, str(dtype).removeprefix("torch."), group="qkv")
            hidden = implementation.shrink(made.x, made.sites, made.batch)
            implementation.expand(hidden, made.sites, made.batch, made.y)


def sample() -> None:
    """Call the op on greedy rows and on others."""
    draw = make("sample", dtype="float32", vocab=VOCAB)
    logits = empty(ROWS, VOCAB, dtype=torch.float32)
    values = empty(ROWS, dtype=torch.float32)
    long = empty(ROWS, dtype=torch.int64)
    for all_greedy in (True, False):
        draw(
            logits,
            SampleBatch(values, values.int(), values, values, long, long, all_greedy=all_greedy),
        )


def apply_penalties() -> None:
    """Call the op."""
    penalise = make("apply_penalties", dtype="float32", vocab=VOCAB)
    history = empty(ROWS, MAX_LENGTH, dtype=torch.int32)
    length, values = history[:, 0].contiguous(), empty(ROWS, dtype=torch.float32)
    batch = PenaltyBatch(history, length, length, values, values, values)
    penalise(empty(ROWS, VOCAB, dtype=torch.float32), batch)


CALLS: dict[str, Callable[[], None]] = {
    call.__name__: call
    for call in (
        rms_norm,
        fused_add_rms_norm,
        silu_and_mul,
        rotary_embedding,
        kv_write,
        attention,
        linear,
        lora,
        lora_of_two_dtypes,
        sample,
        apply_penalties,
    )
}


def main(capability: str, shared: str, *calls: str) -> None:
    """Compile what the calls launch and print what their kernels take."""
    compiled = Compiled()
    stop_before_launch(int(capability), int(shared), compiled)
    with torch.inference_mode():
        for call in calls:
            compiled.op = call
            CALLS[call]()
    sys.stdout.write(json.dumps(compiled.kernels))


if __name__ == "__main__":
    main(*sys.argv[1:])
