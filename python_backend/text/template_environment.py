"""The sandbox that chat templates run in.

A template comes with the checkpoint and is code: it runs in Jinja's immutable sandbox with the few
helpers that templates in the wild rely on, can't reach Python, and has a budget of loop passes. It
sees texts that know their origin (``text.origin``), and whatever it does to them keeps that true.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from python_backend.text.origin import FOLLOWED, concatenate, follow, own, written

MAX_STEPS = 1_000_000
"""Most loop passes and macro calls of one rendering; a long conversation needs some thousands."""

TICK = "_count_step"
"""What a template calls in each loop pass and macro; who renders it provides it."""

_JOIN = "_join"

_HAND_ON = frozenset(
    "attr batch count d default dictsort first groupby items last length list map max min random "
    "reject rejectattr reverse select selectattr slice sort sum unique".split()
)
"""Filters that hand on what they are given, or parts of it, as it is."""

_METHODS = frozenset({"capitalize", "lower", "trim", "upper"})
"""Filters that are a text's own method."""


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; the text is the same."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Joins(NodeTransformer):
    """Has ``a ~ b`` call a function of ours, where Jinja's own would forget the origin."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802 - as Jinja names it
        self.generic_visit(node)
        name = nodes.Name(_JOIN, "load", lineno=node.lineno)
        return nodes.Call(name, node.nodes, [], None, None, lineno=node.lineno)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, where each loop pass and macro call counts and texts can't be multiplied."""

    intercepted_binops = frozenset({"*", "**", "%"})
    concat = staticmethod(concatenate)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=written,
        )
        for name, function in self.filters.items():
            if name in _METHODS:
                self.filters[name] = _of_texts(function)
            elif name not in _HAND_ON:
                self.filters[name] = _followed(function)
        self.filters["replace"] = _replace
        self.filters["tojson"] = _followed(_to_json)
        self.globals["raise_exception"] = refuse
        self.globals["strftime_now"] = _followed(_strftime_now)
        self.globals[_JOIN] = _join

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        loops: list[nodes.For | nodes.Macro] = [*template.find_all(nodes.For)]
        for node in [*loops, *template.find_all(nodes.Macro)]:
            line = node.lineno
            call = nodes.Call(nodes.Name(TICK, "load", lineno=line), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(call.set_lineno(line), lineno=line))
        _Joins().visit(template)
        template.set_environment(self)
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        call = functools.partial(super().call_binop, context, operator)
        if operator == "%":
            return follow(call, left, right)
        sizes = [len(each) if hasattr(each, "__len__") else abs(each) for each in (left, right)]
        if max(sizes) > MAX_STEPS or (operator == "**" and min(sizes) > 64):
            raise TemplateError(f"{operator} makes too much of its operands")
        return call(left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # The names are Jinja's: what a template names its own options must not collide with them.
        call = functools.partial(super().call, __context)
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if not isinstance(owner, (str, bytes)):
            return call(__obj, *args, **kwargs)
        name = method.__name__
        if isinstance(owner, str) and name in FOLLOWED:
            return call(getattr(own(owner), name), *args, **kwargs)

        def call_method(owner: str | bytes, *args: Any, **kwargs: Any) -> Any:
            return call(__self.getattr(owner, name), *args, **kwargs)

        return follow(call_method, owner, *args, **kwargs)


def _followed(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(functools.partial(follow, function))


def _of_texts(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that calls a text's method; of another value it makes a text first."""

    @functools.wraps(function)
    def call(value: Any, *args: Any, **options: Any) -> Any:
        return function(written(value), *args, **options)

    return call


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    return own(str(written(value))).replace(str(old), str(new), -1 if count is None else count)


def _join(*values: Any) -> str:
    return concatenate(str(written(value)) for value in values)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as templates know it; Jinja's own escapes what HTML would."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def refuse(message: str) -> NoReturn:
    """What templates call to say that they can't take the messages."""
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
