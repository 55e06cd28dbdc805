"""The package's face: exact exports, light imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import plait_models


def test_every_export_exists() -> None:
    assert list(plait_models.__all__) == sorted(plait_models.__all__)
    for name in plait_models.__all__:
        assert getattr(plait_models, name) is not None
    with pytest.raises(AttributeError, match="loads"):
        _ = plait_models.loads


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("plait_models", ("torch", "transformers", "gguf")),
        ("plait_models.model", ("torch", "transformers", "gguf")),
        ("plait_models.config", ("torch", "transformers", "gguf")),
        ("plait_models.loading", ("transformers", "gguf", "safetensors")),
    ],
)
def test_imports_are_light(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
