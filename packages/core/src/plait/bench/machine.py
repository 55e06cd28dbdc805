"""What the processor calls itself."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor_name() -> str:
    """Return the model name of the processor, or what Python knows where that is not told."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
