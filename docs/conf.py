"""Sphinx's configuration. Nothing here needs the network."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

from numpydoc.xref import DEFAULT_LINKS

from plait_kernels import errors

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

PACKAGES = (
    "plait",
    "plait_lora",
    "plait_kernels",
    "plait_sampling",
    "plait_models",
    "plait_testing",
    "plait_vllm",
)

project = "plait"
release = version = (HERE.parent / "VERSION").read_text().strip()
exclude_patterns = ["_build"]
# Quotes around values of options are meant as they stand.
smartquotes = False
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "keyword_table",
    "op_tolerances",
    "program_help",
    "signature_types",
    "values",
    "vllm_names",
]

nitpicky = True
# In what type aliases stand for.
nitpick_ignore = [("py:class", f"collections.abc.{name}") for name in ("Callable", "Sequence")]

html_theme = "furo"
html_title = "plait"
html_show_copyright = False
html_copy_source = False
html_theme_options: dict[str, object] = {"top_of_page_buttons": []}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# In docstrings, types that are plait's own are links; all others are text.
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {name: name for name in DEFAULT_LINKS} | {
    name: f"{value.__module__}.{name}"
    for module in (errors, *map(importlib.import_module, PACKAGES))
    for name in getattr(module, "__all__", None) or vars(module)
    if inspect.isclass(value := getattr(module, name))
    if value.__module__.startswith("plait")
}
