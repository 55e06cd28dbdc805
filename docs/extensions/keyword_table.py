"""Directives for vLLM's keywords: ``engine-keywords``, ``sampling-keywords``, ``lora-keywords``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

from plait import LoRARequest, SamplingParams
from plait.keyword_tables import SUBJECTS, WithoutEffect
from plait_lora.request import REFUSED as LORA_REFUSED
from plait_sampling.keywords import ELSEWHERE, UNSERVED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from docutils import nodes
    from sphinx.application import Sphinx

REFUSED = "refused"


class EngineKeywords(SphinxDirective):
    """A table a subject: keyword, what happens to it, what passes, why."""

    def run(self) -> list[nodes.Node]:
        """Return the tables."""
        lines: list[str] = []
        for subject, table in SUBJECTS.items():
            rows = [
                (
                    name,
                    "without effect" if isinstance(rule, WithoutEffect) else REFUSED,
                    rule.allowed(),
                    rule.why,
                )
                for name, rule in sorted(table.items())
            ]
            lines += [f"**{subject}**", "", *_table(rows), ""]
        return self.parse_text_to_nodes("\n".join(lines))


class SamplingKeywords(SphinxDirective):
    """Which keywords of vLLM's SamplingParams are honoured, and which are not."""

    def run(self) -> list[nodes.Node]:
        """Return a paragraph and a table."""
        fields = [field.name for field in dataclasses.fields(SamplingParams)]
        rows = [
            (
                name,
                REFUSED,
                ", ".join(f"`{value!r}`" for value in (None, *kept.neutral)),
                kept.remedy,
            )
            for name, kept in sorted((UNSERVED | ELSEWHERE).items())
        ]
        idle = [("skip_clone", "without effect", "any bool", "`clone` always copies")]
        honoured = [name for name in fields if name not in UNSERVED and name != "skip_clone"]
        lines = [_sentence(honoured), "", *_table([*idle, *rows])]
        return self.parse_text_to_nodes("\n".join(lines))


class LoRAKeywords(SphinxDirective):
    """Which keywords of vLLM's LoRARequest are honoured, and which are not."""

    def run(self) -> list[nodes.Node]:
        """Return a paragraph and a table."""
        fields = [field.name for field in dataclasses.fields(LoRARequest)]
        idle = ("is_3d_lora_weight", "without effect", "any bool", "no served model has experts")
        rows = [(name, REFUSED, "`None`", why) for name, why in sorted(LORA_REFUSED.items())]
        honoured = [*(name for name in fields if name != idle[0]), "lora_local_path"]
        return self.parse_text_to_nodes(
            "\n".join([_sentence(honoured), "", *_table([idle, *rows])])
        )


def _sentence(honoured: Iterable[str]) -> str:
    return f"Honoured: {', '.join(f'`{name}`' for name in honoured)}."


def _table(rows: Iterable[tuple[str, str, str, str]]) -> list[str]:
    lines = ["| keyword | | passes | why |", "|---|---|---|---|"]
    for name, effect, allowed, why in rows:
        cells = (cell.replace("|", "\\|") for cell in (effect, allowed, why))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("engine-keywords", EngineKeywords)
    app.add_directive("sampling-keywords", SamplingKeywords)
    app.add_directive("lora-keywords", LoRAKeywords)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
