"""``python -m plait_kernels``: which kernels this machine can use, which it would, and why."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from plait_kernels.config import BUCKETS, DTYPES, OpConfig, Scalar
from plait_kernels.errors import KernelError
from plait_kernels.loader import LoadedBackends, load_backends
from plait_kernels.ops import OPS
from plait_kernels.probe import default_device
from plait_kernels.request import KernelRequest
from plait_kernels.selection import check_names, choose, explain, pick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_kernels.backend import Backend
    from plait_kernels.device import Device
    from plait_kernels.table import Candidate

# Logits are float32 whatever the model is.
LOGITS_OPS: Final = ("apply_penalties", "sample")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of ops and backends for this machine's device.

    Parameters
    ----------
    argv : Sequence[str] | None
        Options, None = those of the process.

    Returns
    -------
    int
        0, or 2 if the request cannot be read or honoured.
    """
    parser = argparse.ArgumentParser(prog="python -m plait_kernels", description=__doc__)
    parser.add_argument("--dtype", choices=DTYPES, help="of the activations (default: by device)")
    parser.add_argument(
        "--kernels",
        metavar="REQUEST",
        help="as in LLM(kernels=…): 'lora=cuda,triton;*=torch' (default: PLAIT_KERNELS, then auto)",
    )
    options = parser.parse_args(argv)
    device = default_device()
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    loaded = load_backends()
    try:
        request = KernelRequest.resolve(options.kernels, os.environ.get("PLAIT_KERNELS"))
        check_names(request, loaded)
    except KernelError as error:
        print(error, file=sys.stderr)
        _print_failures(loaded)
        return 2
    capability = f", compute capability {'.'.join(map(str, device.capability or ()))}"
    print(f"device   {device.type} ({device.name}{capability if device.capability else ''})")
    print(f"dtype    {dtype}")
    print(f"request  {request}\n")
    configs = [example(op, dtype, bucket) for op in OPS for bucket in BUCKETS]
    _print_table(configs, loaded, request, device)
    _print_failures(loaded)
    try:
        choose(configs, loaded, request, device)
    except KernelError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    return 0


def example(op: str, dtype: str, bucket: str) -> OpConfig:
    """Return a config of ``op`` as a small model has it."""
    params: dict[str, Scalar]
    match op:
        case "rms_norm" | "fused_add_rms_norm":
            params = {"hidden": 576}
        case "rotary_embedding":
            params = {"head_dim": 64, "rotary_dim": 64}
        case "silu_and_mul":
            params = {"features": 1536}
        case "linear":
            params = {"in_features": 576, "out_features": 1536, "format": "dense", "bias": False}
        case "kv_write":
            params = {"kv_heads": 3, "head_dim": 64, "block_size": 16}
        case "attention":
            params = {"heads": 9, "kv_heads": 3, "head_dim": 64, "block_size": 16, "scale": 0.125}
        case "lora":
            params = {"group": "qkv"}
        case _:
            assert op in LOGITS_OPS, f"no example of op {op!r}"
            params = {"vocab": 49152}
            dtype = "float32"
    tokens = 32 if bucket == "decode" else 2048
    return OpConfig.of(op, dtype=dtype, bucket=bucket, max_tokens=tokens, **params)


def _print_table(
    configs: Sequence[OpConfig], loaded: LoadedBackends, request: KernelRequest, device: Device
) -> None:
    explained = explain(configs, loaded, device)
    width = max((len(backend.name) for backend in loaded.backends), default=0)
    for op in OPS:
        title = op
        for backend in loaded.backends:
            status = _status(op, backend, explained, request)
            print(f"{title:20}{backend.name:{width}}  {status}")
            title = ""


def _status(
    op: str,
    backend: Backend,
    explained: Mapping[OpConfig, Sequence[Candidate]],
    request: KernelRequest,
) -> str:
    by_bucket = {
        config.bucket: "; ".join(
            _describe(candidate, pick(candidates, request.backends_for(op)))
            for candidate in candidates
            if candidate.backend is backend
        )
        or "has no kernel for this op"
        for config, candidates in explained.items()
        if config.op == op
    }
    if len(set(by_bucket.values())) == 1:
        return by_bucket[BUCKETS[0]]
    return " | ".join(f"{bucket}: {status}" for bucket, status in by_bucket.items())


def _describe(candidate: Candidate, chosen: Candidate | None) -> str:
    if candidate.reasons:
        return f"not usable: {'; '.join(candidate.reasons)}"
    if candidate is chosen:
        return "chosen"
    return "usable" if candidate.backend.automatic else "usable, by name only"


def _print_failures(loaded: LoadedBackends) -> None:
    for failure in loaded.failures:
        print(f"\n{failure}")


if __name__ == "__main__":
    # What the warnings say is in the table.
    logging.basicConfig(level=logging.ERROR)
    sys.exit(main())
