"""Options of a command line for the arguments of an engine."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import MISSING, fields
from inspect import getdoc
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from plait.keyword_tables import RULES, SUBJECTS, Refused, WithoutEffect
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from plait.engine_args import EngineArgs

P = TypeVar("P", bound=argparse.ArgumentParser)

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def whole_number(text: str) -> int:
    """Read a whole number, with a unit if it has one: ``1k`` is 1,000, ``1K`` 1,024.

    Raises
    ------
    argparse.ArgumentTypeError
        The text is no such number.
    """
    match = re.fullmatch(r"([+-]?[0-9]{1,18})(?:\.([0-9]{1,18}))?([kmgtKMGT]?)", text.strip())
    if match is None or (match[2] and match[3] not in _UNITS):
        binary = match is not None and match[3] in _BINARY_UNITS
        hint = "; K, M, G and T are powers of 1024 and take no fraction" if binary else ""
        message = f"{text[:80]!r} is not a whole number such as 4096, 4k or 4K{hint}"
        raise argparse.ArgumentTypeError(message)
    whole, part, unit = match[1], match[2] or "", match[3]
    scale = _UNITS.get(unit) or _BINARY_UNITS.get(unit) or 1
    # In whole numbers, as 25.6 · 1000 is not 25600 in floating point.
    return int(int(whole + part) * scale // 10 ** len(part))


def length(text: str) -> int:
    """Read a length in tokens: a whole number, or ``auto``, which is -1."""
    return -1 if text.strip().lower() == "auto" else whole_number(text)


def json_object(text: str) -> Any:
    """Read a JSON object."""
    read = _literal(text)
    if not isinstance(read, dict):
        message = f"""{text[:80]!r} is not a JSON object, such as '{{"temperature": 0.5}}'"""
        raise argparse.ArgumentTypeError(message)
    return read


def _literal(text: str) -> Any:
    """Read JSON, or take the text as it stands."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_KINDS: dict[str, dict[str, Any]] = {
    "bool": {"action": argparse.BooleanOptionalAction},
    "int": {"type": whole_number},
    "int | None": {"type": whole_number},
    "float": {"type": float},
    "str": {},
    "str | None": {},
    "str | bool | None": {"nargs": "?", "const": True},
    "str | dict[str, str] | None": {},
    "list[str] | None": {"nargs": "+"},
    "dict[str, Any] | None": {"type": json_object, "metavar": "JSON"},
}
"""How ``add_argument`` reads a field of each type."""

_SHORT = MappingProxyType(
    {
        "data_parallel_size": ("-dp",),
        "pipeline_parallel_size": ("-pp",),
        "tensor_parallel_size": ("-tp",),
    }
)
"""vLLM's short spellings."""


_SEVERAL = frozenset({"device_ids", "ignore_patterns", "logits_processors", "served_model_name"})
"""vLLM's other keywords whose options take several values, beside those that are lists."""


def add_options(parser: P, cls: type[EngineArgs]) -> P:
    """Add the options of a class; see ``EngineArgs.add_cli_args``."""
    described = descriptions(cls)
    group = parser.add_argument_group("engine")
    for field in fields(cls):
        kind = _KINDS[str(field.type)]
        if field.name == "max_model_len":
            kind = {"type": length}
        default = None if field.default is MISSING else field.default
        text = described.get(field.name, "").replace("%", "%%")
        group.add_argument(_option(field.name), default=default, help=text, **kind)
    for subject, table in SUBJECTS.items():
        # A program may have an option of its own that has an older keyword's name.
        if subject != "Older keywords":
            for name in table:
                _add_hidden(parser, name)
    return parser


def given_options(args: argparse.Namespace, cls: type[EngineArgs]) -> dict[str, Any]:
    """Return the keywords that options of ``add_options`` stand for."""
    names = [field.name for field in fields(cls)] + list(RULES)
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if given.get("model") is None:
        message = "no model: pass --model with a directory, a .gguf file or an id on the hub"
        raise InputError(message)
    return given


def asking_for_nothing(name: str) -> Any:
    """Return the value of one of vLLM's other keywords that asks for nothing."""
    rule = RULES[name]
    return rule.neutral[0] if isinstance(rule, Refused) and rule.neutral else None


def descriptions(cls: type) -> dict[str, str]:
    """Read what the NumPy docstring of a class, or of its base, says of each parameter.

    Returns
    -------
    dict[str, str]
        One line each; empty where Python drops docstrings.
    """
    documents = (getdoc(base) or "" for base in cls.__mro__)
    document = next((text for text in documents if "\nParameters\n" in text), "")
    found: dict[str, list[str]] = {}
    for line in document.partition("\nParameters\n")[2].splitlines()[1:]:
        if line and not line[0].isspace():
            if " : " not in line and not line.startswith("**"):
                break
            found[line.split(" : ")[0]] = []
        elif found:
            found[list(found)[-1]].append(line.strip())
    return {name: " ".join(text).replace("``", "").strip() for name, text in found.items()}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_hidden(parser: argparse.ArgumentParser, name: str) -> None:
    """Add an option that is not in the help, and asks for nothing unless it is given."""
    rule = RULES[name]
    is_flag = (isinstance(rule, WithoutEffect) and rule.kind is bool) or (
        isinstance(rule, Refused) and rule.neutral == (False,)
    )
    kind: dict[str, Any] = (
        {"action": argparse.BooleanOptionalAction} if is_flag else {"type": _literal}
    )
    if name in _SEVERAL or (isinstance(rule, WithoutEffect) and rule.kind is list):
        kind["nargs"] = "+"
    # Programs read some of them, and hand all that the namespace holds to LLM.
    default = asking_for_nothing(name)
    spellings = [_option(name), *_SHORT.get(name, ())]
    parser.add_argument(*spellings, dest=name, default=default, help=argparse.SUPPRESS, **kind)
