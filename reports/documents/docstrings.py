"""The parts of a variant's docstrings.

The docstring of the module has a sentence "Name: a query sees ..." and a paragraph "Differs from
public code: ...". The docstring of the class has the definition with indented formulas, "Costs:
..." and, if the variant decodes, "Decoding: ...".
"""

from __future__ import annotations

import inspect
import sys

from variants import REGISTRY

# Paragraphs of a class docstring that are not the definition; registration adds the last one.
LABELS = ("Costs:", "Decoding:", "Hyperparameters:")


class DocstringError(ValueError):
    """A docstring lacks a part that the page of the variant needs."""


def summary(name: str) -> str:
    """The first sentence of the variant's file after the method's name: "a query sees ..."."""
    first = REGISTRY[name].info.summary
    return first.partition(": ")[2].rstrip(".") or first


def title(name: str) -> str:
    """The method's name at the start of its file; without one, its name in the registry."""
    method, colon, _ = REGISTRY[name].info.summary.partition(": ")
    return method if colon else name


def differences(name: str) -> str:
    """How the variant differs from public code."""
    where = f"the docstring of variants/{name}.py"
    return _labelled(where, _module(name), "Differs from public code")


def definition(name: str) -> str:
    """The mathematics, as Markdown in which formulas are code."""
    return "\n\n".join(part for part in _class(name) if not part.startswith(LABELS))


def costs(name: str) -> str:
    """The meaning of the letters in the costs."""
    return _labelled(_where(name), _class(name), "Costs")


def decoding(name: str) -> str:
    """The text on the state of decoding."""
    return _labelled(_where(name), _class(name), "Decoding")


def _where(name: str) -> str:
    return f"the docstring of {REGISTRY[name].__name__}"


def _module(name: str) -> list[str]:
    return _paragraphs(sys.modules[REGISTRY[name].__module__].__doc__)


def _class(name: str) -> list[str]:
    return _paragraphs(REGISTRY[name].__doc__)


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring, each in one line unless it is indented."""
    parts = inspect.cleandoc(text or "").split("\n\n")
    return [part if part.startswith("    ") else " ".join(part.split()) for part in parts]


def _labelled(where: str, paragraphs: list[str], label: str) -> str:
    for part in paragraphs:
        if part.startswith(f"{label}: "):
            return part.removeprefix(f"{label}: ")
    raise DocstringError(f"{where} needs a paragraph that begins with {label!r} and a colon")
