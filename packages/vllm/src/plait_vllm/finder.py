"""The finder: makes modules of the table, under ``vllm`` or below ``plait_vllm``."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import TYPE_CHECKING

from plait_vllm.names import is_module, missing, names_of, resolve, submodules_of
from plait_vllm.table import VLLM_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike
    from types import ModuleType

ALIAS = Path(__file__).parent / "alias"
"""A folder with a package ``vllm`` that installs the finder: for processes that are spawned."""


class NamesFinder(MetaPathFinder):
    """Finds the modules of the table below one package.

    Parameters
    ----------
    root : str
        The package's name: ``vllm`` or ``plait_vllm``.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a module.

        Raises
        ------
        ImportError
            It is below this package and not in the table. Python also asks for the names of
            ``from vllm.x import name`` that it does not find in the module.
        """
        package, _, below = fullname.partition(".")
        if package != self.root:
            return None
        if is_module(below) or not below:
            return ModuleSpec(fullname, NamesLoader(self.root, below), is_package=True)
        parent, _, _ = below.rpartition(".")
        # Without a name: an error with one is taken for granted by `from … import`, which then
        # raises another that says less.
        kind = ImportError if names_of(parent) else ModuleNotFoundError
        raise kind(missing(self.root, below))

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        """Answer those who ask for vLLM's version by the name of its distribution."""
        if self.root == "vllm" and context is not None and context.name == "vllm":
            yield _Metadata()


class NamesLoader(Loader):
    """Fills a module with what the table says, each name when it is first used."""

    def __init__(self, root: str, path: str) -> None:
        self._root = root
        self._path = path

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to Python to make the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        root, path = self._root, self._path

        def look_up(name: str) -> object:
            value = resolve(root, path, name)
            setattr(module, name, value)
            return value

        def list_names() -> list[str]:
            return sorted({*vars(module), *names_of(path), *submodules_of(path)})

        module.__doc__ = f"vLLM's {module.__name__}, served by plait."
        vars(module)["__getattr__"] = look_up
        vars(module)["__dir__"] = list_names
        vars(module)["__all__"] = names_of(path)


def install_alias() -> str | None:
    """Make ``import vllm`` mean plait in this process.

    Returns
    -------
    str | None
        Where a real vLLM is that is hidden now; None if there is none, or if it is not the first
        call.
    """
    if any(isinstance(f, NamesFinder) and f.root == "vllm" for f in sys.meta_path):
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
    folders = [folder for folder in sys.path if folder != str(ALIAS)]
    real = PathFinder.find_spec("vllm", folders)
    sys.meta_path.insert(0, NamesFinder("vllm"))
    if real is None:
        return None
    return real.origin or ", ".join(real.submodule_search_locations or ())


def share_with_children() -> None:
    """Let processes that ``multiprocessing`` spawns find the alias: they get this ``sys.path``."""
    # A vllm beside the program comes second. Else the program's folder stays first, as always.
    first = PathFinder.find_spec("vllm", sys.path[:1]) is not None
    sys.path.insert(0 if first else 1, str(ALIAS))


class _Metadata(Distribution):
    """What is known of the distribution ``vllm``: its version."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}\n"

    def locate_file(self, path: str | PathLike[str]) -> Path:
        return ALIAS / path
