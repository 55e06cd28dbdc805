"""The directive ``vllm-names``: the table of vLLM's module paths and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

from plait_vllm.table import TABLE

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


class VllmNames(SphinxDirective):
    """Modules and their names."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = ["| module | names |", "|---|---|"]
        for path, names in sorted(TABLE.items()):
            module = f"vllm.{path}" if path else "vllm"
            lines.append(f"| `{module}` | {', '.join(f'`{name}`' for name in sorted(names))} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("vllm-names", VllmNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
