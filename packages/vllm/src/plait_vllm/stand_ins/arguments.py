"""FlexibleArgumentParser: argparse with the liberties that vLLM's command lines take."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class _EnableDisable(argparse.BooleanOptionalAction):
    """``--enable-x`` has the opposite ``--disable-x``, and the other way round."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, dest, **keywords)
        opposites = [_opposite(option) for option in option_strings]
        self._opposites = [option for option in opposites if option is not None]
        self.option_strings = [*self.option_strings, *self._opposites]

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string in self._opposites:
            setattr(namespace, self.dest, False)
        else:
            super().__call__(parser, namespace, values, option_string)


def _opposite(option: str) -> str | None:
    for one, other in (("--enable-", "--disable-"), ("--disable-", "--enable-")):
        if option.startswith(one):
            return other + option.removeprefix(one)
    return None


class FlexibleArgumentParser(argparse.ArgumentParser):
    """An argument parser that takes more spellings.

    Options may be written with underscores (``--max_model_len 10``); JSON options field by field
    (``--rope.factor 2 --rope.kinds+ a,b``); and ``-O3`` for ``--optimization-level 3``. A file of
    options, ``--config``, is not read.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords.pop("add_json_tip", None)
        super().__init__(*arguments, **keywords)
        self.register("action", argparse.BooleanOptionalAction, _EnableDisable)

    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        """Add an argument; ``deprecated`` is taken on every version of Python."""
        if sys.version_info < (3, 13):
            keywords.pop("deprecated", None)
        return super().add_argument(*names, **keywords)

    def add_argument_group(self, *names: Any, **keywords: Any) -> argparse._ArgumentGroup:
        """Add a group, whose arguments are as those of the parser."""
        group = _Group(self, *names, **keywords)
        self._action_groups.append(group)
        return group

    # argparse declares overloads for the type of the namespace.
    def parse_known_args(  # type: ignore[override]
        self,
        args: Iterable[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments in any of the spellings."""
        given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._plain(given), namespace)

    def _plain(self, given: list[str]) -> list[str]:
        """Bring every spelling into argparse's own."""
        plain: list[str] = []
        fields: dict[str, dict[str, Any]] = {}
        rest = iter(given)
        for argument in rest:
            if argument == "--":
                plain += [argument, *rest]
            elif (
                argument.startswith("-O") and "--optimization-level" in self._option_string_actions
            ):
                level = argument[2:].removeprefix("=") or next(rest, "")
                plain += ["--optimization-level", level]
            elif not argument.startswith("--"):
                plain.append(argument)
            else:
                name, equals, value = argument.partition("=")
                option, dot, field = name.partition(".")
                option = self._known(option)
                if option == "--config" and option not in self._option_string_actions:
                    self.error("--config: files of options are not read; write the options here")
                if dot:
                    value = value if equals else next(rest, "")
                    _put(fields.setdefault(option, {}), field, value)
                else:
                    plain.append(f"{option}{equals}{value}")
        # Before what the user may have ended with "--".
        return [part for item in fields.items() for part in (item[0], json.dumps(item[1]))] + plain

    def _known(self, option: str) -> str:
        """Return an option as it was declared, dashes and underscores being alike."""
        dashes = "--" + option[2:].replace("_", "-")
        declared = self._option_string_actions
        if option in declared or dashes in declared:
            return option if option in declared else dashes
        underscores = "--" + option[2:].replace("-", "_")
        return underscores if underscores in declared else dashes


class _Group(argparse._ArgumentGroup):
    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        if sys.version_info < (3, 13):
            keywords.pop("deprecated", None)
        return super().add_argument(*names, **keywords)


def _put(fields: dict[str, Any], path: str, text: str) -> None:
    """Set one field of a JSON option; ``name+`` appends to a list."""
    *parents, last = path.split(".")
    for parent in parents:
        fields = fields.setdefault(parent, {})
    if last.endswith("+"):
        fields.setdefault(last[:-1], []).extend(text.split(","))
        return
    try:
        fields[last] = json.loads(text)
    except ValueError:
        fields[last] = text
