"""What is published says the same everywhere: licence, versions, links, types."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROJECTS = sorted([*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("kernels-*/pyproject.toml")])


def project(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(file.read_text())["project"]
    return found


def module(file: Path) -> str:
    names = [path.name for path in (file.parent / "src").iterdir() if path.is_dir()]
    assert len(names) == 1, "a distribution has one package"
    return names[0]


@pytest.mark.parametrize("file", PROJECTS, ids=lambda file: file.parent.name)
class TestEach:
    def test_licence(self, file: Path) -> None:
        metadata = project(file)
        assert metadata["license"] == "Apache-2.0"
        assert metadata["license-files"] == ["LICENSE"]
        assert (file.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()

    def test_says_who_and_where(self, file: Path) -> None:
        metadata = project(file)
        assert metadata["authors"] == [{"name": "plait developers"}]
        assert metadata["urls"] == project(ROOT / "packages" / "core" / "pyproject.toml")["urls"]
        assert metadata["readme"] == "README.md"
        oldest = re.fullmatch(r">=(3\.\d+)", metadata["requires-python"])
        assert oldest
        assert f"Programming Language :: Python :: {oldest[1]}" in metadata["classifiers"]

    def test_has_types_and_a_version(self, file: Path) -> None:
        name = module(file)
        assert (file.parent / "src" / name / "py.typed").exists()
        assert "Typing :: Typed" in project(file)["classifiers"]
        assert importlib.import_module(name).__version__ == (ROOT / "VERSION").read_text().strip()

    def test_links_work_where_it_is_published(self, file: Path) -> None:
        text = (file.parent / "README.md").read_text()
        relative = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        assert not relative, "a published README has no checkout beside it"


def test_the_readme_is_plaits_long_description() -> None:
    spec = importlib.util.spec_from_file_location("published", ROOT / "docs/published_readme.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    expected = tool.published(tool.README.read_text(), tool.repository())
    assert tool.PUBLISHED.read_text() == expected, "run `python docs/published_readme.py`"


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_extras_differ() -> None:
    extras = project(ROOT / "packages" / "core" / "pyproject.toml")["optional-dependencies"]
    contents = [tuple(sorted(requirements)) for requirements in extras.values()]
    assert len(set(contents)) == len(contents)
