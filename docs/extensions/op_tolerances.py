"""The directive ``op-tolerances``: how near to the reference a kernel must be, by op and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

from plait_kernels import DTYPES, OPS, load_op

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


class OpTolerances(SphinxDirective):
    """A table of all ops, each with its (rtol, atol)."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = [f"| op | {' | '.join(DTYPES)} |", "|---" * (len(DTYPES) + 1) + "|"]
        for name in OPS:
            tolerance = load_op(name).tolerance
            cells = (
                "{:g}, {:g}".format(*tolerance[dtype]) if dtype in tolerance else ""
                for dtype in DTYPES
            )
            lines.append(f"| {{py:mod}}`{name} <{OPS[name]}>` | {' | '.join(cells)} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("op-tolerances", OpTolerances)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
