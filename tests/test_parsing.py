"""The text of an attention: `variants.parse` reads the output of `str(attention)`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

import variants
from variants.adaptive_span import AdaptiveSpanAttention
from variants.contract.hyperparameter import hyperparameter
from variants.contract.info import Info

NAMES = sorted(variants.REGISTRY)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_variant_at_its_defaults(name: str) -> None:
    assert variants.parse(name) == variants.create(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_every_setting_and_implementation_is_read_back(name: str) -> None:
    asked = variants.grid(name)
    asked += [
        replace(asked[0], implementation=implementation)
        for implementation in asked[0].info.implementations
    ]
    for attention in asked:
        assert variants.parse(str(attention)) == attention
    assert len({str(attention) for attention in asked}) == len(set(asked))


def test_the_text_lists_all_settings_in_order_and_an_implementation_if_one_is_selected() -> None:
    assert str(variants.create("sliding_window")) == "sliding_window window_size=256"
    attention = variants.parse("lsh  shared_qk=True implementation=coarse\tnum_hashes=4 ")
    settings = "lsh bucket_size=64 num_hashes=4 seed=0 shared_qk=True"
    assert str(attention) == attention.text == f"{settings} implementation=coarse"
    assert attention == variants.create(
        "lsh", shared_qk=True, num_hashes=4, implementation="coarse"
    )


def test_missing_settings_have_their_defaults() -> None:
    found = variants.parse("lsh num_hashes=4", num_hashes=2, bucket_size=8)
    assert found == variants.create("lsh", num_hashes=4, bucket_size=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown variant ''; known variants: .*full.*lsh"),
        ("hashing num_hashes=4", "unknown variant 'hashing'; known variants: .*full.*lsh"),
        ("lsh num_hashs=4", "lsh has no hyperparameter 'num_hashs' .*; it has: .*num_hashes"),
        ("lsh name=3", "lsh has no hyperparameter 'name'; it has: .*num_hashes"),
        (None, "the text of an attention must be a str such as 'lsh num_hashes=4'; got None"),
        ("lsh num_hashes", "write hyperparameters as name=value; got 'num_hashes' in 'lsh num"),
        ("lsh =4", "write hyperparameters as name=value; got '=4' in 'lsh =4'"),
        ("lsh num_hashes=1 num_hashes=2", "'num_hashes' is given twice in 'lsh num_hashes=1 "),
        ("lsh num_hashes=many", "lsh: num_hashes must be an integer of at least 1; got 'many'"),
        ("lsh num_hashes=1.5", "lsh: num_hashes must be an integer of at least 1; got '1.5'"),
        ("lsh num_hashes=0", "lsh: num_hashes must be an integer of at least 1; got 0"),
        ("lsh shared_qk=1", "lsh: shared_qk must be True or False; got '1'"),
        ("lsh implementation=", "lsh: implementation must be one of auto, .*; got ''"),
        ("linear feature_map=sin", "linear: feature_map must be one of elu, relu; got 'sin'"),
    ],
)
def test_an_invalid_text_is_refused_with_the_valid_values(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variants.parse(text)


def _entered(cls: type[variants.Attention], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(variants.REGISTRY, cls.info.name, cls)


@pytest.mark.parametrize("factor", [0.1, 1 / 3, 1e-300, 1e22, 3.0, float("inf")])
def test_a_fraction_is_read_back_exactly(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Warm(AdaptiveSpanAttention):
        info: ClassVar[Info] = replace(AdaptiveSpanAttention.info, name="warm")
        factor: float = hyperparameter(1.0, minimum=0.0)

    _entered(Warm, monkeypatch)
    found = variants.parse(str(Warm(factor=factor)))
    assert dataclasses.asdict(found)["factor"] == factor
    with pytest.raises(ValueError, match=r"factor must be a number .* of at least 0"):
        variants.parse("warm factor=nan")


def test_a_value_that_cannot_be_written_as_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Named(AdaptiveSpanAttention):
        info: ClassVar[Info] = replace(AdaptiveSpanAttention.info, name="named")
        title: str = hyperparameter("one")

    _entered(Named, monkeypatch)
    assert str(variants.parse("named title=a=b")).endswith(" title=a=b")
    for title in ("two words", ""):
        with pytest.raises(ValueError, match="named: title must be one word; got "):
            Named(title=title)
