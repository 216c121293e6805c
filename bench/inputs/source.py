"""Parses an `inputs` text: a family or a capture, and the temperature of its scores."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bench.inputs.families import FAMILIES
from bench.schema.validation import shown
from variants.contract.suggestion import did_you_mean

KNOWN = ("gaussian", *FAMILIES, "smollm2", "file:NAME")
SETTINGS = ("temperature", "effective_keys")


class InputsError(ValueError):
    """Inputs that a case cannot use. The message is one sentence."""


@dataclass(frozen=True)
class Source:
    """A parsed text such as `sinks`, `sinks temperature=0.5` or `file:NAME effective_keys=32`.

    All scaled scores are divided by `temperature`. With `effective_keys`, they are divided by a
    temperature at which exact attention has this mean number of effective keys.
    """

    name: str
    temperature: float = 1.0
    effective_keys: float | None = None

    @property
    def file(self) -> str | None:
        """The NAME in `file:NAME`; None for other inputs."""
        kind, _, file = self.name.partition(":")
        return file if kind == "file" else None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse a text; InputsError if the family is unknown or a setting is invalid."""
        if text.startswith("file:"):
            # The name of a file may contain spaces.
            name, *words = re.split(r"\s+(?=\w+=\S*(?:\s|$))", text.strip())
        else:
            name, *words = text.split() or [""]
        if name not in KNOWN[:-1] and not (name.startswith("file:") and len(name) > len("file:")):
            close = did_you_mean(name, KNOWN)
            raise InputsError(f"unknown inputs {shown(name)}{close}; known: {', '.join(KNOWN)}")
        given: dict[str, float] = {}
        for word in words:
            setting, equals, value = word.partition("=")
            if not equals or setting not in SETTINGS:
                raise InputsError(
                    f"inputs have the settings temperature=NUMBER and effective_keys=NUMBER; got "
                    f"{shown(word)} in {shown(text)}"
                )
            if given:
                raise InputsError(f"give one of {' and '.join(SETTINGS)}, once; got {shown(text)}")
            given[setting] = _number(setting, value, above=0 if setting == "temperature" else 1)
        return cls(name, **given)

    def __str__(self) -> str:
        """The canonical text: equal settings are always written in the same way."""
        if self.effective_keys is not None:
            return f"{self.name} effective_keys={_spelled(self.effective_keys)}"
        if self.temperature != 1:
            return f"{self.name} temperature={_spelled(self.temperature)}"
        return self.name


def _spelled(number: float) -> str:
    return repr(number).removesuffix(".0")


def _number(setting: str, value: str, above: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > above):
        raise InputsError(f"{setting} of inputs must be a number above {above}; got {shown(value)}")
    return number
