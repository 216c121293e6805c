"""Hyperparameters: the fields of a variant, with their valid values, meaning and test settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from variants.contract.suggestion import did_you_mean


@dataclass(frozen=True)
class TimesLength:
    """A number proportional to the sequence length: `factor` times the number of tokens."""

    factor: float


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a variant, as `hyperparameter` declares it.

    `small` and `train` equal `default` if the variant declares no other value.
    """

    name: str
    type: type
    default: Any
    minimum: float | None = None
    step: int = 1
    choices: tuple[Any, ...] | None = None
    doc: str = ""
    small: Any = None
    train: Any = None

    @classmethod
    def of(cls, field: dataclasses.Field[Any]) -> Hyperparameter:
        """The record of a dataclass field."""
        declared = dict(field.metadata)
        for use in ("small", "train"):
            if declared.get(use) is None:
                declared[use] = field.default
        kind = type(field.default)
        if kind is float and type(declared.get("minimum")) is int:
            declared["minimum"] = float(declared["minimum"])
        return cls(field.name, kind, field.default, **declared)

    @property
    def valid(self) -> str:
        """The valid values in words; empty if every value of the type is valid."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        limits = [f"a multiple of {self.step}"] if self.step > 1 else []
        if self.minimum is not None:
            limits.append(f"at least {self.minimum}")
        return ", ".join(limits)

    @property
    def facts(self) -> str:
        """Type, default and valid values in words."""
        facts = [self.type.__name__, f"default {self.default}", self.valid]
        return ", ".join(filter(None, facts))

    @property
    def summary(self) -> str:
        """Name, type, default, valid values and meaning in one line."""
        return f"{self.name} ({self.facts}): {self.doc}"

    def train_at(self, seq_len: int) -> Any:
        """The value for a training on sequences of `seq_len` tokens, rounded to a valid value."""
        if not isinstance(self.train, TimesLength):
            return self.train
        wanted = self.train.factor * seq_len
        if self.type is int:
            wanted = round(wanted / self.step) * self.step
        return max(wanted, self.minimum or 0)

    def check(self, value: Any) -> None:
        """Check a value.

        Raises:
            ValueError: the value is not valid; the message states the valid values.
        """
        if self.choices is not None and value not in self.choices:
            valid = list(map(str, self.choices))
            close = did_you_mean(value, valid)
            raise ValueError(f"{self.name} must be one of {', '.join(valid)}; got {value!r}{close}")
        fits = type(value) is self.type
        if self.minimum is not None and not (fits and value >= self.minimum):
            kind = "an integer" if self.type is int else "a number with a decimal point"
            raise ValueError(
                f"{self.name} must be {kind} of at least {self.minimum}; got {value!r}"
            )
        if not fits:
            raise ValueError(f"{self.name} must be of type {self.type.__name__}; got {value!r}")
        if self.type is int and value % self.step:
            raise ValueError(f"{self.name} must be a multiple of {self.step}; got {value!r}")


def hyperparameter(
    default: Any,
    *,
    minimum: float | None = None,
    step: int = 1,
    choices: tuple[Any, ...] | None = None,
    doc: str = "",
    small: Any = None,
    train: Any = None,
) -> Any:
    """A dataclass field that is a hyperparameter.

    Args:
        default: a bool, int, float or str; valid values have the same type.
        minimum: the least valid number.
        step: valid integers are multiples of this number.
        choices: the valid values, if they are few.
        doc: the meaning and the unit, as a phrase. Registration refuses a hyperparameter without
            `doc`.
        small: the value for tests, with which a few dozen tokens are cut into many pieces; by
            default `default`.
        train: the value for tiny trainings (`python -m bench train`), with which an approximation
            differs from exact attention on short sequences: a value, or `TimesLength(1 / 4)` for a
            quarter of the tokens; by default `default`.
    """
    declared = {"minimum": minimum, "step": step, "choices": choices}
    return dataclasses.field(
        default=default, metadata={**declared, "doc": doc, "small": small, "train": train}
    )


def declared_by(cls: type) -> tuple[Hyperparameter, ...]:
    """The hyperparameters of a variant's class, in the order of their declaration. `implementation`
    is not a hyperparameter: it selects the code that computes the same function."""
    fields = dataclasses.fields(cls)
    return tuple(Hyperparameter.of(field) for field in fields if field.name != "implementation")


def check_declared(name: str, found: tuple[Hyperparameter, ...]) -> None:
    """Check the declarations of the hyperparameters of a variant.

    Raises:
        ValueError: a default of another type, no `doc`, or a declared value that is not valid. The
            message names the variant and the hyperparameter.
    """
    for one in found:
        if one.type not in (bool, int, float, str):
            # Result rows and the command line write settings as text.
            raise ValueError(
                f"{name}: hyperparameter {one.name!r} needs a default of type bool, int, float or "
                f"str; got {one.default!r}"
            )
        if not one.doc:
            raise ValueError(
                f"{name}: hyperparameter {one.name!r} needs its meaning: "
                f"hyperparameter({one.default!r}, doc='...')"
            )
        _check_limits(f"{name}: hyperparameter {one.name!r}", one)
        grows = isinstance(one.train, TimesLength)
        for use, value in (
            ("default", one.default),
            ("small", one.small),
            ("train", one.train_at(64) if grows else one.train),
        ):
            try:
                one.check(value)
            except ValueError as error:
                raise ValueError(f"{name}: {use} value: {error}") from error


def _check_limits(which: str, one: Hyperparameter) -> None:
    """Check that `minimum`, `step` and `choices` fit the type of a hyperparameter."""
    number = one.type in (int, float)
    if one.minimum is not None and not (number and type(one.minimum) is one.type):
        raise ValueError(
            f"{which}: minimum must be a number of the type of the default, {one.type.__name__}; "
            f"got {one.minimum!r}"
        )
    if type(one.step) is not int or one.step < 1 or (one.step > 1 and one.type is not int):
        raise ValueError(
            f"{which}: step must be an integer of at least 1, and 1 unless the default is an "
            f"integer; got {one.step!r}"
        )
    if one.choices is not None and not (
        isinstance(one.choices, tuple)
        and one.choices
        and all(type(choice) is one.type for choice in one.choices)
    ):
        raise ValueError(
            f"{which}: choices must be a tuple of values of the type of the default, "
            f"{one.type.__name__}; got {one.choices!r}"
        )
    if isinstance(one.train, TimesLength) and not (number and one.train.factor > 0):
        raise ValueError(
            f"{which}: TimesLength needs a number as default and a factor above 0; got factor "
            f"{one.train.factor!r}"
        )
