"""Signatures of what is no function: type aliases, protocols, and functions as defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Before numpydoc, whose listeners have the default priority of 500.
EARLY = 400


def write_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str, result: str
) -> tuple[str, ...] | None:
    """Write what a caller passes; give no signature to data and protocols."""
    if what == "data":
        return ()  # An answer, so that nobody after this is asked.
    if getattr(value, "_is_protocol", False):
        return "", ""
    if signature and "<function " in signature:
        return re.sub(r"<function (\w+)>", r"\1", signature), result or ""
    return None


def keep_descriptions(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Call fields parameters where one has a function as its default.

    Of an attribute, numpydoc shows the first line of that function instead of the description.
    """
    if not inspect.isclass(value) or not dataclasses.is_dataclass(value):
        return
    if any(inspect.isfunction(field.default) for field in dataclasses.fields(value)):
        for i, line in enumerate(lines):
            if line == "Attributes":
                lines[i : i + 2] = ["Parameters", "----------"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", write_signature, priority=EARLY)
    app.connect("autodoc-process-docstring", keep_descriptions, priority=EARLY)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
