"""Writes `packages/core/README.md`, which is published: the README with links that work anywhere.

Links of the README are relative, so that they work in a checkout of any branch. Where a package is
published there is no checkout beside them: there they lead to the repository.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PUBLISHED = ROOT / "packages" / "core" / "README.md"


def published(text: str, repository: str) -> str:
    """Return a README whose relative links lead to files of a repository."""

    def absolute(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({repository}/{kind}/main/{path}{'#' * bool(anchor)}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", absolute, text)


def repository() -> str:
    """Return the address of the repository, as the metadata of plait say it."""
    project = tomllib.loads((ROOT / "packages" / "core" / "pyproject.toml").read_text())["project"]
    url: str = project["urls"]["Homepage"]
    return url


if __name__ == "__main__":
    PUBLISHED.write_text(published(README.read_text(), repository()))
