"""SiteIndex: from the module names of an adapter file to the sites of a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_kernels.sites import LoraSite

PACKED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }
)
"""Packed projections and the sites whose rows they hold, in order of the rows."""

_MODEL_PREFIX = "model."
_OUTER_GROUPS = frozenset({"embed", "head"})


@dataclass(frozen=True)
class Module:
    """A module of the trained model that an adapter may name.

    Attributes
    ----------
    name : str
        Name without the model prefix.
    sites : tuple[LoraSite, ...]
        The site it is, or the several whose rows a packed projection holds.
    """

    name: str
    sites: tuple[LoraSite, ...]

    @property
    def inner(self) -> bool:
        """Whether it is neither the embedding nor the head."""
        return self.sites[0].group not in _OUTER_GROUPS

    def key(self, prefix: str) -> str:
        """Return its name in a model whose layers are under ``prefix``."""
        return self.name if self.sites[0].group == "head" else prefix + self.name


class SiteIndex:
    """The modules of a model by name.

    Parameters
    ----------
    sites : Sequence[LoraSite]
    """

    def __init__(self, sites: Sequence[LoraSite]) -> None:
        by_name = {site.name: site for site in sites}
        self._modules = {name: Module(name, (site,)) for name, site in by_name.items()}
        for site in sites:
            parent, dot, leaf = site.name.rpartition(".")
            for packed, leaves in PACKED.items():
                parts = [by_name.get(parent + dot + other) for other in leaves]
                known = tuple(part for part in parts if part is not None)
                if leaf == leaves[0] and len(known) == len(leaves):
                    name = parent + dot + packed
                    self._modules.setdefault(name, Module(name, known))

    @property
    def modules(self) -> tuple[Module, ...]:
        """Every module, packed ones included."""
        return tuple(self._modules.values())

    def find(self, key: str) -> Module | None:
        """Return the module that ``key`` names, with or without the prefix ``model.``."""
        return self._modules.get(key) or self._modules.get(key.removeprefix(_MODEL_PREFIX))

    def prefix_of(self, keys: Sequence[str]) -> str:
        """Return the prefix under which a file's keys have the layers: ``"model."`` or nothing."""
        bare = [key for key in keys if key in self._modules]
        inner = [key for key in bare if self._modules[key].sites[0].group != "head"]
        return "" if inner else _MODEL_PREFIX

    def describe(self) -> str:
        """Name the modules for a message, layers folded together."""
        numbers: dict[str, list[int]] = {}
        for name in self._modules:
            match = re.search(r"\.(\d+)\.", name)
            shape = name if match is None else f"{name[: match.start()]}.*.{name[match.end() :]}"
            numbers.setdefault(shape, []).extend([int(match[1])] if match else [])
        parts = [
            f"{shape} (layers {min(layers)} to {max(layers)})" if layers else shape
            for shape, layers in numbers.items()
        ]
        return ", ".join(parts)
