"""Directives for vLLM's keywords: ``keywords-refused`` and ``keywords-without-effect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from plait.keywords import REFUSED, WITHOUT_EFFECT

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class KeywordsWithoutEffect(SphinxDirective):
    """The keywords that change nothing, as one paragraph."""

    def run(self) -> list[nodes.Node]:
        """Return the paragraph."""
        paragraph = nodes.paragraph()
        for i, name in enumerate(sorted(WITHOUT_EFFECT)):
            paragraph += [nodes.Text(", " if i else ""), nodes.literal(text=name)]
        paragraph += nodes.Text(".")
        return [paragraph]


class KeywordsRefused(SphinxDirective):
    """The keywords that are refused, with the values that ask for nothing, and the reasons."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = ["| keyword | allowed | otherwise |", "|---|---|---|"]
        for name, (neutral, reason) in sorted(REFUSED.items()):
            allowed = ", ".join(f"`{value!r}`" for value in neutral)
            lines.append(f"| `{name}` | {allowed} | {reason} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("keywords-without-effect", KeywordsWithoutEffect)
    app.add_directive("keywords-refused", KeywordsRefused)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
