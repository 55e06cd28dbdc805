"""Names of vLLM: looked up in the table, and told about when they are not there."""

from __future__ import annotations

import difflib
import importlib

from plait_vllm.table import ABSENT, TABLE, VLLM_VERSION

_ORIGIN = f"vLLM {VLLM_VERSION.partition('+')[0]}"


def is_module(path: str) -> bool:
    """Return whether a path below ``vllm`` is a module here."""
    return path in TABLE or any(known.startswith(f"{path}.") for known in TABLE)


def names_of(path: str) -> list[str]:
    """Return the names in a module, without its submodules."""
    return sorted(TABLE.get(path, {}))


def submodules_of(path: str) -> list[str]:
    """Return the names of the modules directly below a module."""
    start = f"{path}." if path else ""
    below = (known.removeprefix(start) for known in TABLE if known.startswith(start) and known)
    return sorted({name.partition(".")[0] for name in below if name != path})


def resolve(root: str, path: str, name: str) -> object:
    """Return what ``name`` in the module ``path`` is.

    Parameters
    ----------
    root : str
        The package that the program knows: ``vllm`` or ``plait_vllm``.
    path : str
        A module below it, dotted; "" is the package.
    name : str

    Raises
    ------
    AttributeError
        There is no such name here.
    """
    home = TABLE.get(path, {}).get(name)
    if home is not None:
        module, _, attribute = home.partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name in submodules_of(path):
        return importlib.import_module(f"{_dotted(root, path)}.{name}")
    text = f"module {_dotted(root, path)!r} has no attribute {name!r}"
    if name.startswith("__"):
        # Asked for by Python itself, all the time.
        raise AttributeError(text)
    text = f"{text}: {missing(root, _dotted(path, name))}"
    raise AttributeError(text, name=name)


def missing(root: str, path: str) -> str:
    """Say that plait lacks a module or a name, why, and what there is.

    Parameters
    ----------
    root : str
        The package that the program knows.
    path : str
        Dotted, below it.
    """
    parent, _, name = path.rpartition(".")
    reason = _reason(path)
    parts = [f"plait has no {root}.{path}" + (f": {reason}" if reason else "")]
    elsewhere = [_dotted(root, module) for module, names in TABLE.items() if name in names]
    if elsewhere:
        parts.append(f"{name} is in {elsewhere[0]}")
    there = names_of(parent) + submodules_of(parent)
    if there:
        close = difflib.get_close_matches(name, there, n=3)
        if close:
            parts.append(f"Nearest: {', '.join(close)}")
        parts.append(f"{_dotted(root, parent)} has {', '.join(_public(there))}")
    else:
        modules = [module for module in TABLE if module]
        close = difflib.get_close_matches(path, modules, n=3, cutoff=0.5)
        if close:
            parts.append(f"Nearest: {', '.join(_dotted(root, module) for module in close)}")
    return f"{'. '.join(parts)} (names of {_ORIGIN})"


def _reason(path: str) -> str | None:
    begins = [known for known in ABSENT if path.startswith(known)]
    return ABSENT[max(begins, key=len)] if begins else None


def _public(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)
