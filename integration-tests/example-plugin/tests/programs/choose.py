"""What is chosen where this runs: ``choose.py (choose | make) REQUEST…``, answered in JSON.

For each request the error, or for each config whether the backend ``example`` is chosen, and why
not. ``make`` calls the factories too.
"""

from __future__ import annotations

import json
import sys

from plait_kernels import Device, KernelError, KernelRequest, OpConfig, load_backends
from plait_kernels.selection import choose, select

CONFIGS = [
    *(
        OpConfig.of("rms_norm", dtype=dtype, bucket="decode", max_tokens=8, hidden=hidden)
        for dtype in ("float32", "bfloat16")
        for hidden in (48, 50)
    ),
    *(
        OpConfig.of("silu_and_mul", dtype=dtype, bucket="decode", max_tokens=8, features=40)
        for dtype in ("float32", "bfloat16")
    ),
]


def main(how: str, *requests: str) -> None:
    loaded = load_backends()

    def ask(text: str) -> str | dict[str, list[object]]:
        try:
            request = KernelRequest.parse(text)
            if how == "make":
                choices = tuple(select(CONFIGS, loaded, request, Device()).choices.values())
            else:
                choices = choose(CONFIGS, loaded, request, Device())
        except KernelError as error:
            return str(error)
        return {
            f"{choice.config.op} {choice.config.dtype} {choice.config.get('hidden')}": [
                choice.chosen.backend.name == "example",
                *(str(one) for one in choice.dropped if one.backend.name == "example"),
            ]
            for choice in choices
        }

    answers = {text: ask(text) for text in requests}
    if how == "choose":
        heavy = {"torch", "plait_example.rms_norm"} & set(sys.modules)
        assert not heavy, f"choosing imported {heavy}"
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
