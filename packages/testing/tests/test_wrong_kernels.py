"""A kernel that is wrong in one way is caught by the test that is meant for it."""

from __future__ import annotations

from typing import Any

import pytest

pytest_plugins = ["pytester"]

AGREES, WRITES = "test_agrees_with_reference", "test_writes_only_its_outputs"

RMS_NORM = """
import torch
from plait_kernels.ops.rms_norm import reference

def make(config):
    right = reference(config)

    def kernel(x, weight, eps):
        {body}

    return kernel
"""

FUSED = """
import torch
from plait_kernels.ops.fused_add_rms_norm import reference

def make(config):
    right = reference(config)

    def kernel(x, residual, weight, eps):
        {body}

    return kernel
"""

LORA = """
import torch
from plait_kernels.ops.lora import ReferenceLora

class Wrong(ReferenceLora):
    def expand(self, h, sites, batch, y):
        {body}

def make(config):
    return Wrong()
"""

WITH_ACTIVATION = """
from plait_kernels.ops.lora import ReferenceLora

class Wrong(ReferenceLora):
    def expand_silu_and_mul(self, h, sites, batch, y):
        {body}

def make(config):
    return Wrong()
"""

WITHOUT_ACTIVATION = """
from types import SimpleNamespace
from plait_kernels.ops.lora import ReferenceLora

def make(config):
    right = ReferenceLora()
    return SimpleNamespace(shrink=right.shrink, expand=right.expand)
"""

KV_WRITE = """
import torch
from plait_kernels.ops.kv_write import reference

def make(config):
    right = reference(config)

    def kernel(k, v, kv, slot_mapping):
        {body}

    return kernel
"""

WRONG_RESULTS: dict[str, tuple[str, str, str, str, str]] = {
    "wrong numbers": (
        "rms_norm",
        RMS_NORM,
        "return right(x, weight, eps) * 1.001",
        "",
        "differs from the reference",
    ),
    "one token only": (
        "rms_norm",
        RMS_NORM,
        "return right(x, weight, eps) + (x.shape[0] == 1)",
        "one_token",
        "differs from the reference",
    ),
    "signs lost": (
        "rms_norm",
        RMS_NORM,
        "return right(x, weight, eps).abs()",
        "",
        "differs from the reference",
    ),
    "strides ignored": (
        "rms_norm",
        RMS_NORM,
        "return right(torch.as_strided(x, x.shape, (x.shape[1], 1)), weight, eps)",
        "strided",
        "differs from the reference",
    ),
    "another dtype": (
        "rms_norm",
        RMS_NORM,
        "return right(x, weight, eps).double()",
        "",
        "dtype of the output is torch.float64; the reference's is torch.float32",
    ),
    "another shape": (
        "rms_norm",
        RMS_NORM,
        "return right(x, weight, eps)[1:]",
        "",
        "shape of the output",
    ),
    "no result": ("rms_norm", RMS_NORM, "return None", "", "the call brought nothing"),
    "rank 512 only": (
        "lora",
        LORA,
        "super().expand(h, sites, batch, y)\n"
        "        if batch.table.tile_count.max() == 64: y[batch.token_slot >= 0] *= 1.01",
        "rank_512",
        "y differs from the reference",
    ),
    "the activation": (
        "lora",
        WITH_ACTIVATION,
        "self.expand(h, sites, batch, y)\n        return y[:, :44] * y[:, 44:]",
        "gate_and_up",
        "the output differs from the reference",
    ),
    "128 adapters only": (
        "lora",
        LORA,
        "super().expand(h, sites, batch, y)\n"
        "        if len(y) == 131: y[batch.token_slot >= 100] *= 1.01",
        "adapters_128",
        "y differs from the reference",
    ),
}


@pytest.mark.parametrize(
    ("op", "source", "body", "only", "message"), WRONG_RESULTS.values(), ids=WRONG_RESULTS.keys()
)
def test_wrong_results(
    install: Any, run_pytest: Any, op: str, source: str, body: str, only: str, message: str
) -> None:
    install(source.format(body=body), op=op)
    run = run_pytest("-k", AGREES)
    assert run.failed == {AGREES}
    assert message in run.messages
    if only:
        assert run.passed == {AGREES}
        failed = [line for line in run.output.splitlines() if line.startswith("FAILED")]
        assert failed
        assert all(only in line for line in failed)


@pytest.mark.parametrize("has_it", [True, False])
def test_a_call_that_it_need_not_have(install: Any, run_pytest: Any, has_it: bool) -> None:
    """It is tried if it is there."""
    right = "return super().expand_silu_and_mul(h, sites, batch, y)"
    install(WITH_ACTIVATION.format(body=right) if has_it else WITHOUT_ACTIVATION, op="lora")
    run = run_pytest("-v", "-k", AGREES)
    assert (run.passed, run.failed) == ({AGREES}, set())
    assert ("gate_and_up" in run.output) == has_it


WRONG_WRITES: dict[str, tuple[str, str, str, str]] = {
    "an input": (
        "rms_norm",
        RMS_NORM,
        "y = right(x, weight, eps); weight.neg_(); return y",
        "in the memory of weight",
    ),
    "before its input": (
        "rms_norm",
        RMS_NORM,
        "torch.empty(0).set_(x.untyped_storage(), 3, (1,), (1,)).fill_(0); "
        "return right(x, weight, eps)",
        "bytes before its start",
    ),
    "past its input": (
        "rms_norm",
        RMS_NORM,
        "end = x.storage_offset() + x.numel() + 100; "
        "torch.empty(0).set_(x.untyped_storage(), end, (2,), (1,)).fill_(0); "
        "return right(x, weight, eps)",
        "in the memory of x: 8 bytes",
    ),
    "between strided rows": (
        "fused_add_rms_norm",
        FUSED,
        "y = right(x, residual, weight, eps)\n"
        "        if len(x): residual[:1].as_strided((1, residual.stride(0)), (1, 1)).fill_(0)\n"
        "        return y",
        "in the memory of residual",
    ),
    "nothing to a row of its output": (
        "rms_norm",
        RMS_NORM,
        "y = torch.empty(x.shape); y[1:] = right(x[1:], weight, eps); return y",
        "hold what fresh memory held",
    ),
    "from memory before its input": (
        "rms_norm",
        RMS_NORM,
        "before = torch.empty(0).set_(x.untyped_storage(), 0, (1,), (1,)); "
        "return right(x, weight, eps) + 0 * before",
        "hold what fresh memory held",
    ),
    "its output into its input": (
        "rms_norm",
        RMS_NORM,
        "x.copy_(right(x, weight, eps)); return x",
        "in the memory of x",
    ),
    "an output that is an input": (
        "rms_norm",
        RMS_NORM,
        "return x",
        "the output lies in the memory of an argument",
    ),
    "base rows": (
        "lora",
        LORA,
        "super().expand(h, sites, batch, y); y[batch.token_slot < 0] += 1e-6",
        "in the memory of y",
    ),
    "columns of no site": (
        "lora",
        LORA,
        "super().expand(h, sites, batch, y); y[:, 0] = 0",
        "in the memory of y",
    ),
    "the tables": (
        "lora",
        LORA,
        "super().expand(h, sites, batch, y); batch.table.tile_scale.mul_(2)",
        "in the memory of batch.table.tile_scale",
    ),
    "other slots of the cache": (
        "kv_write",
        KV_WRITE,
        "right(k, v, kv, slot_mapping); kv[0, 0, 0] = 0",
        "in the memory of kv",
    ),
    "another layer of the cache": (
        "kv_write",
        KV_WRITE,
        "right(k, v, kv, slot_mapping)\n"
        "        before = kv.storage_offset() - 1\n"
        "        torch.empty(0).set_(kv.untyped_storage(), before, (1,), (1,)).neg_()",
        "in the memory of kv",
    ),
}


@pytest.mark.parametrize(
    ("op", "source", "body", "message"), WRONG_WRITES.values(), ids=WRONG_WRITES.keys()
)
def test_wrong_writes(
    install: Any, run_pytest: Any, op: str, source: str, body: str, message: str
) -> None:
    install(source.format(body=body), op=op)
    run = run_pytest("-k", WRITES)
    assert run.failed == {WRITES}
    assert message in run.messages
