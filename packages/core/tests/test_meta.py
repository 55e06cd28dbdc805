"""What must hold for all distributions together."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait_kernels import OPS

ROOT = Path(__file__).parents[3]
# Folder → import name.
PACKAGES = {
    "packages/kernels": "plait_kernels",
    "packages/lora": "plait_lora",
    "packages/sampling": "plait_sampling",
    "packages/models": "plait_models",
    "packages/core": "plait",
    "packages/testing": "plait_testing",
    "packages/vllm": "plait_vllm",
    "kernels-cpu": "plait_cpu",
    "kernels-triton": "plait_triton",
}
# Backends arrive through entry points: nobody imports them.
NOT_IMPORTED = {"packages/core": {"plait_cpu"}}

# Documented for what they bring, not for names to import.
NO_API = {"plait_cpu", "plait_triton"}
REFERENCE = ROOT / "docs" / "reference"


def project(package: str) -> dict[str, object]:
    text = (ROOT / package / "pyproject.toml").read_text()
    found: dict[str, object] = tomllib.loads(text)["project"]
    return found


def dependencies(package: str) -> list[str]:
    found = project(package)["dependencies"]
    assert isinstance(found, list)
    return found


def test_one_version() -> None:
    version = (ROOT / "VERSION").read_text().strip()
    assert {str(project(package)["version"]) for package in PACKAGES} == {version}
    assert importlib.import_module("plait").__version__ == version
    for package in PACKAGES:
        for requirement in dependencies(package):
            if requirement.startswith("plait"):
                assert requirement.endswith(f"=={version}")
            else:
                assert "<" not in requirement, "no upper bounds"
                assert "==" not in requirement, "no pins"


@pytest.mark.parametrize("package", PACKAGES)
def test_declared_dependencies_are_those_imported(package: str) -> None:
    source = ROOT / package / "src"
    imported: set[str] = set()
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    own = PACKAGES[package]
    third_party = {name for name in imported - sys.stdlib_module_names if name != own}
    declared = {re.split(r"[><=]", requirement)[0] for requirement in dependencies(package)}
    expected = third_party | NOT_IMPORTED.get(package, set())
    assert {name.replace("-", "_") for name in declared} == expected


@pytest.mark.parametrize("module", PACKAGES.values())
def test_exports_are_exact_and_lazy(module: str) -> None:
    exported = importlib.import_module(module)
    for name in exported.__all__:
        assert getattr(exported, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = exported.nonsense
    code = (
        f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def directives(kind: str) -> Iterator[str]:
    """Find what the reference's pages hand to an autodoc directive."""
    for page in sorted(REFERENCE.glob("*.md")):
        yield from re.findall(rf"^\.\. auto{kind}:: (\S+)$", page.read_text(), re.MULTILINE)


def documented() -> Iterator[tuple[str, object]]:
    """Find the names in the reference, each with what it stands for."""
    for target in directives("(?:class|data|function|exception)"):
        module, _, name = target.rpartition(".")
        yield name, getattr(importlib.import_module(module), name)
    for target in directives("module"):
        for name, value in vars(importlib.import_module(target)).items():
            if getattr(value, "__module__", None) == target:
                yield name, value


@pytest.mark.parametrize("module", sorted(set(PACKAGES.values()) - NO_API))
def test_every_export_is_in_the_reference(module: str) -> None:
    found = {(name, id(value)) for name, value in documented()}
    exported = importlib.import_module(module)
    missing = [n for n in exported.__all__ if (n, id(getattr(exported, n))) not in found]
    assert not missing, f"add to docs/reference: {', '.join(missing)}"


def test_every_op_is_in_the_reference_once() -> None:
    contracts = [name for name in directives("module") if name.startswith("plait_kernels.ops.")]
    assert contracts == list(OPS.values()), "a section each in docs/reference/ops.md, in this order"
    headings = re.findall(r"^## (.+)$", (REFERENCE / "ops.md").read_text(), re.MULTILINE)
    assert headings == list(OPS)
