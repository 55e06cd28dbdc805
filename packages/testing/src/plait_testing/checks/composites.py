"""A kernel that hands work to another backend declares it."""

from __future__ import annotations

import ast
import importlib.util
from typing import TYPE_CHECKING, Final

from plait_kernels.loader import load_backends
from plait_testing.failure import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait_kernels.backend import Backend, Kernel

MEANING: Final = "reference"
"""Its modules are the ops' contracts, which everybody imports."""


def check_uses(kernel: Kernel) -> None:
    """Look for imports of another backend's kernels in the source of a kernel.

    The factory's module is read, and the modules of its own package that it imports, also inside
    functions. What is compiled is not.
    """
    module = kernel.factory.partition(":")[0]
    for other in load_backends().backends:
        folders = {_folder(theirs) for theirs in _factories(other)}
        is_own = module in _factories(other) or _folder(module) in folders
        if other.name == MEANING or other.name in kernel.uses or is_own:
            continue
        for importer, imported in _imports(module):
            if any(_is_below(imported, folder) for folder in folders):
                fail(
                    f"its kernel for {kernel.op} imports {imported} of the backend {other.name!r} "
                    f"(in {importer}); declare Kernel(uses=({other.name!r},)), or do without"
                )


def _factories(backend: Backend) -> set[str]:
    return {kernel.factory.partition(":")[0] for kernel in backend.kernels}


def _folder(module: str) -> str:
    return module.rpartition(".")[0] or module


def _is_below(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def _imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield (importer, imported) of a module and of its own package's modules that it imports."""
    package = module.partition(".")[0]
    waiting, seen = [module], {module}
    while waiting:
        importer = waiting.pop()
        for imported in _imports_of(importer):
            yield importer, imported
            if imported not in seen and _is_below(imported, package):
                seen.add(imported)
                waiting.append(imported)


def _imports_of(module: str) -> Iterator[str]:
    try:
        spec = importlib.util.find_spec(module)
    # A name that is imported from a module need not be a module.
    except (ImportError, ValueError):
        return
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    package = module if spec.submodule_search_locations is not None else _folder(module)
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(name, package) if node.level else name
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
