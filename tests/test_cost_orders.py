"""The exponent of n in declared costs."""

from __future__ import annotations

import math

import pytest

import variants
from reports.cost_orders import exponent

LENGTHS = (1024, 16384)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("n", 1),
        ("n·w·d", 1),
        ("n²·d", 2),
        ("n·w + n·g", 1),
        ("n·(w + g)·d", 1),
        ("n·n/b", 2),
        ("n·(n/b)·d", 2),
        ("n·(k·b + n/b)·d", 2),
        ("n·c·d + n·d²", 1),
        ("n·d + b²", 1),
        ("n·sqrt n", 1.5),
        ("n^1.5·d", 1.5),
        ("n³/b", 3),
        ("2·d", 0),
        ("n·log n", 1 + math.log(14 / 10) / math.log(16)),
        ("n·log(n/b)", 1 + math.log(8 / 4) / math.log(16)),
        ("R·n·(c·d + log n)", 1 + math.log(14 / 10) / math.log(16)),
        ("n·d + b²·log(n/b)", 1),
    ],
)
def test_the_exponent_of_a_cost(cost: str, expected: float) -> None:
    assert exponent(cost, LENGTHS, {"b": 64, "d": 128}) == pytest.approx(expected)


@pytest.mark.parametrize(
    "cost", ["", "n·w +", "n w", "nd", "n - w", "n/(b + n)", "n^w", "len(n)", "n.real", "'n'", "-n"]
)
def test_another_text_is_refused_with_an_example(cost: str) -> None:
    with pytest.raises(ValueError, match=r"expected letters, .* as in n·\(w \+ g\)·d"):
        exponent(cost, LENGTHS, {})


def test_a_logarithm_of_less_than_two_is_that_of_two() -> None:
    expected = math.log(8 / 1) / math.log(256)
    assert exponent("log(n/b)", (64, 16384), {"b": 64}) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(variants.REGISTRY))
def test_every_registered_cost_grows_with_the_length_and_at_most_as_its_square(name: str) -> None:
    info = variants.REGISTRY[name].info
    for cost in (info.time, info.memory):
        assert 1 <= exponent(cost, LENGTHS, {}) <= 2
