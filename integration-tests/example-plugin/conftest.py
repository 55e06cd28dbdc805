"""In the repository's own run these tests are left to ``test_example_plugin.py``.

They need the plugin to be installed, and that one installs it.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.rootpath != Path(__file__).parent else None
