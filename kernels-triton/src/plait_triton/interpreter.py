"""Triton's interpreter, made quicker: for tests, as kernels run under it on a CPU."""

from __future__ import annotations

import importlib
from typing import Any

import triton.language as tl


class _Patched:
    """Stands for changes that somebody else undoes."""

    def restore(self) -> None:
        """Undo nothing."""


class _OncePerLaunch:
    """Changes ``triton.language`` for a launch, and not again for each function within it."""

    def __init__(self, patch: Any) -> None:
        self._patch = patch
        # By what of the language a function sees: Triton's own see another part than kernels.
        self._patched: set[tuple[bool, ...]] = set()

    def __call__(self, function: Any) -> Any:
        names = function.__globals__
        seen = tuple(part in map(id, names.values()) for part in map(id, (tl, tl.core)))
        if seen in self._patched:
            return _Patched()
        is_launch = not self._patched
        scope = self._patch(function)
        self._patched.add(seen)
        if is_launch:
            restore = scope.restore

            def restore_and_forget() -> None:
                self._patched.clear()
                restore()

            scope.restore = restore_and_forget
        return scope


def patch_once_per_launch() -> bool:
    """Have the interpreter look through ``triton.language`` once a launch.

    It does so at every call of a function within a kernel, which is a third of the time of a kernel
    of many functions. Nothing else changes.

    Returns
    -------
    bool
        Whether this version of Triton has what is changed; otherwise it stays as it is.
    """
    module: Any = importlib.import_module("triton.runtime.interpreter")
    patch = getattr(module, "_patch_lang", None)
    if patch is None:
        return False
    if not isinstance(patch, _OncePerLaunch):
        module._patch_lang = _OncePerLaunch(patch)
    return True
