"""Chat templates of models, rendered as transformers renders them and within a budget.

The environment is the one of ``apply_chat_template``: jinja's immutable sandbox with
``raise_exception``, ``strftime_now``, ``tojson``, ``{% generation %}``, ``break`` and ``continue``.
What a template does is charged: the tree of a template is rewritten so that every loop turn, every
value that is made and every comparison passes through here, and filters and calls are wrapped.
"""

from __future__ import annotations

import functools
import json
import types
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2.ext
from jinja2 import nodes, pass_environment
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from plait.template_budget import Budget
from plait.template_calls import check_call, check_filter, check_operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jinja2 import Template
    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_TEMPLATE = 2**17
"""Characters of a template; the longest known ones have some 50 000."""


class ChatSandbox(ImmutableSandboxedEnvironment):
    """The environment of one template.

    Attributes
    ----------
    budget : Budget
        Of the rendering that is under way.
    """

    # Else they are done without asking.
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        self.budget = Budget()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            # Nothing is computed while compiling, where nothing is charged.
            optimized=False,
            finalize=_finalize,
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: self._wrapped(name, call) for name, call in self.filters.items()}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self.concat = self._concat  # type: ignore[method-assign]

    def make(self, text: str) -> Template:
        """Compile a template."""
        if len(text) > MAX_TEMPLATE:
            message = f"it has {len(text)} characters; allowed: at most {MAX_TEMPLATE}"
            raise TemplateError(message)
        return self.template_class.from_code(self, _compiled(text), self.make_globals(None))

    def render(self, template: Template, variables: Mapping[str, Any]) -> str:
        """Render a template within a budget of its own.

        Raises
        ------
        TooMuchError
            The budget is spent.
        Exception
            Whatever the template makes of the variables.
        """
        self.budget = Budget(dict(variables))
        return self._concat(list(self._counted(template.generate(variables))))

    def _counted(self, pieces: Iterator[str]) -> Iterator[str]:
        length = 0
        for piece in pieces:
            length += len(piece)
            if length > self.budget.characters:
                self.budget.allow(length)
            yield piece

    # What the rewritten tree calls.

    def charge(self) -> bool:
        """Pay for a turn of a loop."""
        self.budget.spend()
        return True

    def charged(self, value: Any) -> Any:
        """Pay for a value that was made."""
        return self.budget.check(value)

    def joined(self, *values: Any) -> str:
        """Write values one after the other: the operator ``~``."""
        self.budget.allow(sum(self.budget.measure(value)[0] for value in values))
        return "".join(map(str, values))

    # What jinja calls.

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, if it may, and pay for the result."""
        if getattr(__obj, "__self__", None) is __self:
            return __obj(*args)
        __self.budget.spend()
        args = check_call(__self.budget, __obj, args, kwargs)
        return __self._paid(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator, and pay for it before."""
        check_operator(self.budget, operator, left, right)
        return self.budget.check(super().call_binop(context, operator, left, right))

    def _concat(self, pieces: Any) -> str:
        pieces = pieces if isinstance(pieces, list) else list(pieces)
        self.budget.allow(sum(map(len, pieces)))
        return "".join(pieces)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def paid(*args: Any, **kwargs: Any) -> Any:
            self.budget.spend()
            args = check_filter(self.budget, name, args, kwargs)
            return self._paid(call(*args, **kwargs))

        return paid

    def _paid(self, value: Any) -> Any:
        if isinstance(value, types.GeneratorType):
            return self._each_paid(value)
        return self.budget.check(value)

    def _each_paid(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            yield self.budget.check(value)


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> types.CodeType:
    """Compile a template. Code knows no environment, so that every rendering can share it."""
    environment = ChatSandbox()
    return environment.compile(_Charging().visit(environment.parse(text)))


@pass_environment
def _finalize(environment: ChatSandbox, value: Any) -> Any:
    # Passing the environment also keeps constants from being written while compiling.
    if not isinstance(value, str):
        environment.budget.allow(environment.budget.measure(value)[0])
        return value
    environment.budget.allow(len(value))
    return value


class _Charging(NodeTransformer):
    """Rewrites the tree of a template: whatever costs is charged."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.body.insert(0, nodes.ExprStmt(_call("charge", node), lineno=node.lineno))
        if node.test is not None:
            # Turns that are filtered out cost as well.
            node.test = nodes.And(_call("charge", node), node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return _call("joined", node, *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return _call("charged", node, self.generic_visit(node))

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _made(self.generic_visit(node), node.items)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _made(self.generic_visit(node), [pair.value for pair in node.items])

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        is_read = node.ctx == "load"
        visited = self.generic_visit(node)
        return _made(visited, node.items) if is_read else visited

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        is_slice = isinstance(node.arg, nodes.Slice)
        visited = self.generic_visit(node)
        return _call("charged", node, visited) if is_slice else visited


def _made(node: nodes.Node, items: list[nodes.Expr]) -> nodes.Node:
    # What is written out in a template is no longer than the template.
    is_plain = all(isinstance(item, nodes.Const) for item in items)
    return node if is_plain else _call("charged", node, node)


def _call(name: str, at: nodes.Node, *args: Any) -> nodes.Call:
    method = nodes.EnvironmentAttribute(name, lineno=at.lineno)
    return nodes.Call(method, list(args), [], None, None, lineno=at.lineno)


class _Generation(Extension):
    """``{% generation %}``: marks what the model wrote, for training; nothing more here."""

    tags = {"generation"}  # noqa: RUF012 (jinja's form)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call, so that names set inside stay inside, as in transformers.
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(lineno)

    def _write(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """``dict`` in a template: makes dictionaries, and is no class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """``namespace`` in a template: no names with an underscore before them."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        message = f"a namespace cannot hold {name[:80]!r}: names may not start with an underscore"
        raise SecurityError(message)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own writes HTML's characters otherwise.
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
