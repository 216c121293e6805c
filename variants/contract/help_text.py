"""The text of `help(attention)`, one screen; `help(type(attention))` shows the whole class."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from variants.contract.hyperparameter import declared_by
from variants.contract.variant import Variant

if TYPE_CHECKING:
    from variants.contract.attention import Attention

WIDTH = 92
METHODS = (
    "__call__",
    "weights",
    "scaled_dot_product_attention",
    "prefill",
    "step",
    "prepare",
    "init_parameters",
)


@dataclass(frozen=True)
class HelpText:
    """The `__doc__` of a class: it gives the docstring to the class, and a summary to an instance.
    `help` shows only the documentation of the instance if the instance has its own."""

    of_class: str

    def __get__(self, attention: Attention | None, cls: type[Attention]) -> str:
        return self.of_class if attention is None else _summary(attention)


def _summary(attention: Attention) -> str:
    info = attention.info
    implementations = ", ".join(["auto", *info.implementations])
    settings = [
        *(
            f"{it.name} = {getattr(attention, it.name)}: {it.doc} ({it.facts})"
            for it in declared_by(type(attention))
        ),
        f"implementation = {attention.implementation} (one of {implementations})",
    ]
    return "\n".join(
        [
            textwrap.fill(info.summary, WIDTH),
            textwrap.fill(f"{info.title} ({info.year}), {info.url}", WIDTH),
            "",
            "Settings:",
            *map(_item, settings),
            "",
            f"Supports: {', '.join(sorted(attention.supports)) or 'none'}",
            f"Converges to: {attention.target}. Time: {info.time}. Memory: {info.memory}",
            "",
            "Methods:",
            *_methods(attention),
            "",
            "help(attention.__call__) and help(attention.weights) describe all arguments,",
            "help(type(attention)) describes the mathematics.",
        ]
    )


def _methods(attention: Attention) -> Iterator[str]:
    """Signature and first sentence of each public method that this variant supports."""
    learns = type(attention).init_parameters is not Variant.init_parameters
    for name in METHODS:
        if name in ("prefill", "step") and "step" not in attention.supports:
            continue
        if name == "init_parameters" and not learns:
            continue
        method = getattr(attention, name)
        arguments = inspect.signature(method).parameters.values()
        signature = inspect.Signature([it.replace(annotation=it.empty) for it in arguments])
        yield _item(f"attention{'' if name == '__call__' else f'.{name}'}{signature}")
        paragraph = (inspect.getdoc(method) or "").partition("\n\n")[0]
        first = " ".join(paragraph.split()).partition(". ")[0].rstrip(".")
        yield textwrap.indent(textwrap.fill(f"{first}.", WIDTH - 8), " " * 8)


def _item(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="    ", subsequent_indent=" " * 8, break_on_hyphens=False
    )
