"""``python WORKERS MODULE``: keep one system loaded and call it as stdin says.

A line of stdin is ``{"call": method, "arguments": {…}}``; its answer is one line of stdout,
``{"seconds": …, "result": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print must not come between the answers.
    os.dup2(2, 1)
    system = _system(sys.argv[1])
    for line in sys.stdin:
        answers.write(json.dumps(_answer(system, json.loads(line))) + "\n")
        answers.flush()


def _system(module: str) -> Any:
    # As a package of its own name, so that modules import siblings where there is no plait.
    package = ModuleType("workers")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{module}").System()


def _answer(system: Any, message: dict[str, Any]) -> dict[str, Any]:
    try:
        started = time.perf_counter()
        result = getattr(system, message["call"])(**message["arguments"])
        return {"seconds": time.perf_counter() - started, "result": result}
    except Exception as error:
        # The parent decides what a failure means; the worker only tells it.
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
