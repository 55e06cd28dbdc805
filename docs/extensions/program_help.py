"""The directive ``program-help``: what ``python -m MODULE … --help`` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class ProgramHelp(SphinxDirective):
    """Run a program of plait's with ``--help``; its arguments are the module and subcommands."""

    required_arguments = 1
    optional_arguments = 9

    def run(self) -> list[nodes.Node]:
        """Return the help as a literal block."""
        done = subprocess.run(
            [sys.executable, "-m", *self.arguments, "--help"],
            env=os.environ | {"COLUMNS": "88", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            message = f"python -m {' '.join(self.arguments)} --help failed: {done.stderr}"
            raise self.error(message)
        return [nodes.literal_block(done.stdout, done.stdout, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("program-help", ProgramHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
