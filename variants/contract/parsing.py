"""Reads an attention from one line of text, "lsh num_hashes=4"."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from variants.contract.attention import Attention
from variants.contract.registry import REGISTRY, create

INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(inf|([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)")


def parse(text: str, /, **defaults: Any) -> Attention:
    """The attention that a text describes: the name of a variant, then settings as `name=value`,
    separated by spaces. Settings that are not in the text have the value in `defaults`, or else the
    default of the variant.

    >>> parse("lsh num_hashes=4").num_hashes
    4

    `parse` reads the text of `str(attention)`: `parse(str(attention)) == attention`.

    Raises:
        ValueError: a text in another format, an unknown variant, an unknown setting, or a value
            that is out of range. The message lists the valid names or values.
    """
    if not isinstance(text, str):
        raise ValueError(
            f"the text of an attention must be a str such as 'lsh num_hashes=4'; got {text!r}"
        )
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
    """The given attention, or the attention that the given text describes.

    Raises:
        ValueError: as in `parse`; an object of another type.
    """
    if isinstance(attention, str):
        return parse(attention)
    if not isinstance(attention, Attention):
        raise ValueError(
            "attention must be made by variants.create, or be a text such as 'lsh num_hashes=4'; "
            f"got {attention!r}"
        )
    return attention


def _value(setting: str, kind: type, text: str) -> Any:
    """The value of a text. A text that is not a number stays a str; the attention then raises an
    error that states the valid values."""
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"{setting} must be True or False; got {text!r}")
        return text == "True"
    if kind is int and INTEGER.fullmatch(text):
        return int(text)
    if kind is float and NUMBER.fullmatch(text):
        return float(text)
    return text
