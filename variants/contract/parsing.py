"""Reads an attention from one line of text, "lsh num_hashes=4"."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from variants.contract.attention import Attention
from variants.contract.registry import REGISTRY, create

INTEGER = re.compile(r"[+-]?\d+")
NUMBER = re.compile(r"[+-]?(inf|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)")


def parse(text: str, **defaults: Any) -> Attention:
    """The attention that a text names: a variant, then any of its settings as `name=value`, with
    spaces between. Settings that are not written have the values in `defaults`, or the
    variant's own.

    >>> parse("lsh num_hashes=4").num_hashes
    4

    It reads what `str(attention)` writes: `parse(str(attention)) == attention`.

    Raises:
        ValueError: a text of another form, an unknown variant, an unknown setting, or a value that
            is out of range. The message lists the valid ones.
    """
    name, *words = text.split() or [""]
    cls = REGISTRY.get(name)
    kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)} if cls else {}
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"write hyperparameters as name=value; got {word!r} in {text!r}")
        if key in settings:
            raise ValueError(f"hyperparameter {key!r} is given twice in {text!r}; give it once")
        settings[key] = _value(f"{name}: {key}", kinds.get(key, str), value)
    return create(name, **defaults | settings)


def as_attention(attention: Attention | str) -> Attention:
    """An attention that is given as itself or as its text.

    Raises:
        ValueError: as `parse` does; an object of another kind.
    """
    if isinstance(attention, str):
        return parse(attention)
    if not isinstance(attention, Attention):
        raise ValueError(
            "attention must be made by variants.create, or be a text as 'lsh num_hashes=4'; got "
            f"{attention!r}"
        )
    return attention


def _value(setting: str, kind: type, text: str) -> Any:
    """The value that a text stands for. A text that is no number stays a text, which the attention
    refuses with its bounds."""
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"{setting} must be True or False; got {text!r}")
        return text == "True"
    if kind is int and INTEGER.fullmatch(text):
        return int(text)
    if kind is float and NUMBER.fullmatch(text):
        return float(text)
    return text
