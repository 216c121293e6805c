"""Says in words which values a type allows."""

from __future__ import annotations

from typing import Any

from msgspec import inspect


def wanted(hint: Any) -> str:
    """A type and its bounds in words; the description of the type if it has one."""
    kind = inspect.type_info(hint)
    if isinstance(kind, inspect.UnionType):
        words = [_words(each) for each in kind.types if not isinstance(each, inspect.NoneType)]
        return f"{' or '.join(words)}, or nothing"
    return _words(kind)


def _words(kind: inspect.Type) -> str:
    described = isinstance(kind, inspect.Metadata) and kind.extra_json_schema
    if described and "description" in described:
        return str(described["description"])
    match bare(kind):
        case inspect.EnumType(cls=cls):
            return f"one of {', '.join(map(str, cls))}"
        case inspect.BoolType():
            return "True or False"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.StrType(max_length=int(length)):
            return f"a text of at most {length} characters"
        case other:
            return type(other).__name__.removesuffix("Type").lower()


def bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind
