"""Which modules a config names: the matching rules of PEFT's LoraConfig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError
from plait_lora.expressions import Expression, MatchTime, ends_with_name, is_plain
from plait_lora.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class ModulePatterns:
    """Numbers by module pattern (``rank_pattern``, ``alpha_pattern``); the first match counts.

    A pattern is a regular expression that must match the key of the module, or the end of it
    after a dot. A name, which is what most of them are, is compared and not compiled.
    """

    entries: tuple[tuple[Expression | str, float], ...]

    @classmethod
    def parse(
        cls, patterns: Mapping[str, float], field: str, where: str, time: MatchTime
    ) -> ModulePatterns:
        """Compile patterns; AdapterError if one is no regular expression."""
        return cls(
            tuple(
                (
                    pattern
                    if is_plain(pattern)
                    else Expression.parse(rf"(.*\.)?({pattern})$", field, where, time, pattern),
                    value,
                )
                for pattern, value in patterns.items()
            )
        )

    def get(self, key: str, default: float) -> float:
        """Return the number of the first pattern that matches ``key``, or ``default``."""
        for pattern, value in self.entries:
            if isinstance(pattern, str):
                if ends_with_name(key, pattern):
                    return value
            elif pattern.matches(key):
                return value
        return default


@dataclass(frozen=True)
class LayerFilter:
    """``layers_to_transform`` and ``layers_pattern``: the layers an adapter is limited to.

    Attributes
    ----------
    layers : frozenset[int]
        Empty: every layer.
    patterns : tuple[Expression, ...]
        Where a key says the number of its layer; the first that matches counts.
    """

    layers: frozenset[int]
    patterns: tuple[Expression, ...]

    @classmethod
    def parse(cls, layers: object, pattern: object, where: str, time: MatchTime) -> LayerFilter:
        """Check both fields; AdapterError if one is malformed."""
        numbers = [layers] if isinstance(layers, int) else list(_sequence(layers))
        if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
            msg = (
                f"{where}: layers_to_transform is {shown(layers)}; it must be an integer or a "
                "list of integers. Correct adapter_config.json."
            )
            raise AdapterError(msg)
        names = _strings(pattern, "layers_pattern", where) or ()
        names = (names,) if isinstance(names, str) else names
        expressions = {rf"(?:^|.*?\.){name}\.(?P<idx>\d+)\.": name for name in names}
        # Without a pattern the first number that follows two names is the layer's: in
        # "model.layers.3.mlp.experts.5" it is 3.
        expressions = expressions or {r".*?\.[^.]*\.(?P<idx>\d+)\.": ""}
        return cls(
            frozenset(number for number in numbers if isinstance(number, int)),
            tuple(
                Expression.parse(text, "layers_pattern", where, time, name)
                for text, name in expressions.items()
            ),
        )

    def allows(self, key: str) -> bool:
        """Whether the layer of ``key`` is one of the layers."""
        if not self.layers:
            return True
        for pattern in self.patterns:
            matched, layer = pattern.index(key)
            if matched:
                # A pattern like "layers|.*" may match and say no number: no layer of these, then.
                return layer is not None and int(layer) in self.layers
        return False


@dataclass(frozen=True)
class ModuleSelector:
    """``target_modules``, ``exclude_modules`` and the layer filter.

    Attributes
    ----------
    targets : frozenset[str] | Expression | None
        Names (of modules, or of the ends of their keys), an expression for the whole key, or
        None: not said, whatever the file holds.
    every_linear : bool
        ``"all-linear"``: every linear module but the head.
    excluded : frozenset[str] | Expression
    layers : LayerFilter
        Applies to targets that are ends of a key, as in PEFT.
    """

    targets: frozenset[str] | Expression | None
    every_linear: bool
    excluded: frozenset[str] | Expression
    layers: LayerFilter

    @classmethod
    def parse(
        cls, *, targets: object, excluded: object, layers: LayerFilter, where: str, time: MatchTime
    ) -> ModuleSelector:
        """Check both fields; AdapterError if one is malformed."""
        wanted = _strings(targets, "target_modules", where)
        unwanted = _strings(excluded, "exclude_modules", where)
        if isinstance(wanted, str) and layers.layers:
            msg = (
                f"{where}: layers_to_transform is set while target_modules is the string "
                f"{shown(wanted)}; the two do not go together. List the modules instead."
            )
            raise AdapterError(msg)
        every_linear = isinstance(wanted, str) and wanted.lower() == ALL_LINEAR
        return cls(
            None if every_linear else _compiled(wanted, "target_modules", where, time),
            every_linear,
            _compiled(unwanted or (), "exclude_modules", where, time) or frozenset(),
            layers,
        )

    @property
    def is_open(self) -> bool:
        """Whether the config does not say which modules it targets."""
        return self.targets is None and not self.every_linear

    def selects(self, key: str, *, inner: bool) -> bool:
        """Whether the config targets a module.

        Parameters
        ----------
        key : str
        inner : bool
            Whether it is a linear module inside the network: neither embedding nor head.
        """
        if self._excludes(key):
            return False
        if self.targets is None:
            return inner or not self.every_linear
        if isinstance(self.targets, Expression):
            return self.targets.matches_all(key)
        if key in self.targets:
            return True
        return _ends_with_any(key, self.targets) and self.layers.allows(key)

    def _excludes(self, key: str) -> bool:
        if isinstance(self.excluded, Expression):
            return self.excluded.matches_all(key)
        return key in self.excluded or _ends_with_any(key, self.excluded)


def _ends_with_any(key: str, names: frozenset[str]) -> bool:
    _, dot, rest = key.partition(".")
    while dot:
        if rest in names:
            return True
        _, dot, rest = rest.partition(".")
    return False


def _compiled(
    value: tuple[str, ...] | str | None, field: str, where: str, time: MatchTime
) -> frozenset[str] | Expression | None:
    if isinstance(value, str):
        return Expression.parse(value, field, where, time)
    return None if value is None else frozenset(value)


def _sequence(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _strings(value: object, field: str, where: str) -> tuple[str, ...] | str | None:
    if value is None or isinstance(value, str):
        return value
    items = _sequence(value)
    names = tuple(item for item in items if isinstance(item, str))
    if len(names) != len(items):
        msg = (
            f"{where}: {field} is {shown(value)}; it must be a string or a list of strings. "
            "Correct adapter_config.json."
        )
        raise AdapterError(msg)
    return names
