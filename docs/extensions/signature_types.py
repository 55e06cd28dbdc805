"""Types in signatures: links where they are plait's own and documented, else text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.Element | None:
    """Resolve a type that is written without its module, as annotations are.

    Other unresolved references are left to the nitpicky mode.
    """
    if node.get("refdomain") != "py" or not _in_signature(node):
        return None
    name = str(node["reftarget"]).rpartition(".")[2]
    domain: Any = env.domains["py"]
    pages = {
        (found.docname, found.node_id)
        for full, found in domain.objects.items()
        if full.rpartition(".")[2] == name and found.objtype in ("class", "exception", "type")
        if not found.aliased
    }
    if len(pages) != 1:
        return contnode
    ((page, anchor),) = pages
    link = nodes.reference("", "", internal=True)
    link["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], page)}#{anchor}"
    link += contnode
    return link


def _in_signature(node: nodes.Node) -> bool:
    parent = node.parent
    while parent is not None and not isinstance(parent, addnodes.desc_signature):
        parent = parent.parent
    return parent is not None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
