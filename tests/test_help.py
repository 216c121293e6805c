"""`help(attention)` fits a screen and shows the facts that a user needs; `help` of a class shows
all."""

from __future__ import annotations

import inspect
import pydoc

import pytest

import variants
from variants.contract.help_text import METHODS
from variants.contract.variant import Variant

NAMES = sorted(variants.REGISTRY)
LINES = 50


def shown(thing: object) -> str:
    """The text of `help(thing)`."""
    return pydoc.render_doc(thing, renderer=pydoc.plaintext)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_an_attention_fits_a_screen(name: str) -> None:
    text = shown(variants.create(name))
    assert len(text.splitlines()) <= LINES
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_help_of_an_attention_shows_the_method_the_settings_and_the_public_methods(
    name: str,
) -> None:
    cls = variants.REGISTRY[name]
    settings = {it.name: it.small for it in variants.hyperparameters(name)}
    text = " ".join(shown(variants.create(name, **settings)).split())
    assert cls.info.summary in text
    assert cls.info.url in text
    for known in variants.hyperparameters(name):
        assert f"{known.name} = {known.small}: {known.doc} ({known.facts})" in text
    assert f"implementation = auto (one of auto, {', '.join(cls.info.implementations)})" in text
    assert "attention(query, key, value, *, causal=False, key_padding_mask=None," in text
    assert "attention.weights(query, key, *, causal=False," in text
    decodes = "step" in cls.info.supports
    assert ("attention.prefill(query" in text) == ("attention.step(state" in text) == decodes
    learns = cls.init_parameters is not Variant.init_parameters
    assert ("attention.init_parameters(" in text) == learns
    for hidden in ("__", "attend(", "remember", "advance", "dense_weights(", "useful_pairs"):
        assert hidden not in text.replace("attention.__call__", "")


def test_every_method_in_the_help_has_a_description() -> None:
    for name in METHODS:
        assert inspect.getdoc(getattr(variants.Attention, name))


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_of_a_class_is_unchanged(name: str) -> None:
    cls = variants.REGISTRY[name]
    assert isinstance(cls.__doc__, str)
    assert "Hyperparameters:" in cls.__doc__
    assert "Settings:" not in cls.__doc__
    text = shown(cls)
    assert f"class {cls.__name__}(" in text
    assert "dense_weights(" in text
