"""The exponent of n in a declared cost, such as `n·(w + g)·d`.

A declared cost is an order: constants of its terms are unknown. So a sum has the largest exponent
of its terms. A logarithm is no power of n; its exponent is its slope between two lengths.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

LENGTH = "n"
LEAST_ARGUMENT = 2.0  # a logarithm of less is taken as that of this: log(n/b) for n below b
_POWERS = str.maketrans({"·": "*", "^": "**"}) | {ord("²"): "**2", ord("³"): "**3"}
_WORDS = re.compile(r"\b(log|sqrt) (\w+)")


@dataclass(frozen=True)
class Order:
    """The value of a term at the shortest and at the longest length, and its exponent of n."""

    shortest: float
    longest: float
    exponent: float


def exponent(text: str, lengths: tuple[int, int], letters: Mapping[str, float]) -> float:
    """The exponent of n in a declared cost between two lengths.

    Args:
        text: letters, numbers, `+`, `·`, `/`, powers as `n²` or `n^1.5`, `log n`, `sqrt n`, and
            parentheses; a divisor is no sum.
        lengths: the shortest and the longest length.
        letters: numbers of letters other than n. They matter in logarithms only; others are 1.

    Raises:
        ValueError: `text` is not such a cost.
    """
    written = _WORDS.sub(r"\1(\2)", text).translate(_POWERS)
    try:
        tree = ast.parse(written, mode="eval")
        return _order(tree.body, lengths, letters).exponent
    except (SyntaxError, ValueError):
        raise ValueError(
            f"cost {text!r}: expected letters, numbers, +, ·, /, ², ^, log, sqrt and parentheses, "
            "as in n·(w + g)·d or n·log n"
        ) from None


def _order(node: ast.expr, lengths: tuple[int, int], letters: Mapping[str, float]) -> Order:
    match node:
        case ast.Name(id="n"):
            return Order(*lengths, 1.0)
        case ast.Name(id=letter) if len(letter) == 1:
            number = letters.get(letter) or 1.0
            return Order(number, number, 0.0)
        case ast.Constant(value=int() | float() as number):
            return Order(number, number, 0.0)
        case ast.BinOp(left, ast.Pow(), ast.Constant(value=int() | float() as power)):
            one = _order(left, lengths, letters)
            return Order(one.shortest**power, one.longest**power, one.exponent * power)
        case ast.BinOp(_, ast.Div(), ast.BinOp(_, ast.Add(), _)):
            raise ValueError  # the largest exponent of its terms would be a lower bound
        case ast.BinOp(left, operation, right):
            return _joined(
                _order(left, lengths, letters), operation, _order(right, lengths, letters)
            )
        case ast.Call(ast.Name(id="sqrt"), [argument]):
            one = _order(argument, lengths, letters)
            return Order(one.shortest**0.5, one.longest**0.5, one.exponent / 2)
        case ast.Call(ast.Name(id="log"), [argument]):
            one = _order(argument, lengths, letters)
            low, high = (
                math.log(max(LEAST_ARGUMENT, value)) for value in (one.shortest, one.longest)
            )
            return Order(low, high, math.log(high / low) / math.log(lengths[1] / lengths[0]))
    raise ValueError


def _joined(left: Order, operation: ast.operator, right: Order) -> Order:
    match operation:
        case ast.Add():
            return Order(
                left.shortest + right.shortest,
                left.longest + right.longest,
                max(left.exponent, right.exponent),
            )
        case ast.Mult():
            return Order(
                left.shortest * right.shortest,
                left.longest * right.longest,
                left.exponent + right.exponent,
            )
        case ast.Div():
            return Order(
                left.shortest / right.shortest,
                left.longest / right.longest,
                left.exponent - right.exponent,
            )
    raise ValueError
