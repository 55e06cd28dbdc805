"""``python -m plait_kernels``: which kernels this machine can use, which it would, and why."""

from __future__ import annotations

import argparse
import ast
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from plait_kernels.config import BUCKETS, DTYPES, OpConfig, Scalar
from plait_kernels.errors import KernelError
from plait_kernels.examination import explain
from plait_kernels.factories import Factories
from plait_kernels.loader import LoadedBackends, load_backends
from plait_kernels.ops import OPS
from plait_kernels.probe import default_device
from plait_kernels.request import KernelRequest
from plait_kernels.selection import Settled, check_names, refusal, settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_kernels.backend import Backend
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
        help="as in LLM(kernels=…): 'lora=triton,cpu;*=torch' (default: PLAIT_KERNELS, then auto)",
    )
    parser.add_argument(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_param,
        help="of the ops that have it, instead of a small model's: 'hidden=4096'; may be repeated",
    )
    parser.add_argument(
        "--make",
        action="store_true",
        help="also make the chosen kernels, as an engine does: compiles what is not compiled yet, "
        "and shows which factories fail (default: only look)",
    )
    options = parser.parse_args(argv)
    params = dict(options.param)
    device = default_device()
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    loaded = load_backends()
    try:
        request = KernelRequest.resolve(options.kernels, os.environ.get("PLAIT_KERNELS"))
        check_names(request, loaded)
    except KernelError as error:
        print(error, file=sys.stderr)
        _print_failures(loaded, said=str(error))
        return 2
    capability = f", compute capability {'.'.join(map(str, device.capability or ()))}"
    print(f"device   {device.type} ({device.name}{capability if device.capability else ''})")
    print(f"dtype    {dtype}")
    print(f"request  {request}\n")
    configs = [example(op, dtype, bucket, params) for op in OPS for bucket in BUCKETS]
    factories = Factories() if options.make else None
    settled = {
        config: settle(config, candidates, request.backends_for(config.op), factories)
        for config, candidates in explain(configs, loaded, device).items()
    }
    _print_table(settled, loaded)
    _print_failures(loaded)
    for config, (chosen, candidates, _) in settled.items():
        if chosen is None:
            print(f"\n{refusal(config, candidates, request, device)}", file=sys.stderr)
            return 2
    return 0


def example(op: str, dtype: str, bucket: str, others: Mapping[str, Scalar]) -> OpConfig:
    """Return a config of ``op`` as a small model has it, but for the parameters in ``others``."""
    params = {name: others.get(name, value) for name, value in _params(op).items()}
    # Models leave out the variants that they do not use.
    params = {name: value for name, value in params.items() if value is not None}
    if op in LOGITS_OPS:
        dtype = "float32"
    tokens = 32 if bucket == "decode" else 2048
    return OpConfig.of(op, dtype=dtype, bucket=bucket, max_tokens=tokens, **params)


def _params(op: str) -> dict[str, Scalar]:
    match op:
        case "rms_norm" | "fused_add_rms_norm":
            return {"hidden": 576}
        case "rotary_embedding":
            return {"head_dim": 64, "rotary_dim": 64}
        case "silu_and_mul":
            return {"features": 1536}
        case "linear":
            return {"in_features": 576, "out_features": 1536, "format": "dense", "bias": False}
        case "kv_write":
            return {"kv_heads": 3, "head_dim": 64, "block_size": 16}
        case "attention":
            sizes = {"heads": 9, "kv_heads": 3, "head_dim": 64, "block_size": 16}
            return {**sizes, "scale": 0.125, "window": None, "softcap": None, "sinks": None}
        case "lora":
            return {"group": "qkv"}
        case _:
            assert op in LOGITS_OPS, f"no example of op {op!r}"
            return {"vocab": 49152}


def _param(text: str) -> tuple[str, Scalar]:
    name, equals, value = text.partition("=")
    known = sorted({name for op in OPS for name in _params(op)})
    if not equals or name not in known:
        msg = f"{text!r} is not NAME=VALUE with a name of {', '.join(known)}"
        raise argparse.ArgumentTypeError(msg)
    try:
        literal = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        literal = value
    # What is no number, bool or None is a text: format=dense.
    return name, literal if isinstance(literal, Scalar) else value


def _print_table(settled: Mapping[OpConfig, Settled], loaded: LoadedBackends) -> None:
    width = max((len(backend.name) for backend in loaded.backends), default=0)
    for op in OPS:
        title = op
        for backend in loaded.backends:
            print(f"{title:20}{backend.name:{width}}  {_status(op, backend, settled)}")
            title = ""


def _status(op: str, backend: Backend, settled: Mapping[OpConfig, Settled]) -> str:
    by_bucket = {
        config.bucket: "; ".join(
            _describe(candidate, chosen) for candidate in candidates if candidate.backend is backend
        )
        or "has no kernel for this op"
        for config, (chosen, candidates, _) in settled.items()
        if config.op == op
    }
    if len(set(by_bucket.values())) == 1:
        return by_bucket[BUCKETS[0]]
    return " | ".join(f"{bucket}: {status}" for bucket, status in by_bucket.items())


def _describe(candidate: Candidate, chosen: Candidate | None) -> str:
    if candidate.reasons:
        return f"not usable: {'; '.join(candidate.reasons)}"
    uses = f", uses {' and '.join(candidate.kernel.uses)}" if candidate.kernel.uses else ""
    if candidate is chosen:
        return f"chosen{uses}"
    if not candidate.backend.automatic:
        return f"usable, by name only{uses}"
    return f"usable (priority {candidate.kernel.priority}{uses})"


def _print_failures(loaded: LoadedBackends, said: str = "") -> None:
    """Print why backends were not loaded, but for what has been said already."""
    for failure in loaded.failures:
        if str(failure) not in said:
            print(f"\n{failure}")


if __name__ == "__main__":
    # What the warnings say is in the table.
    logging.basicConfig(level=logging.ERROR)
    sys.exit(main())
