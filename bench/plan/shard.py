"""A part of the cases of a sweep, so that several machines can measure it without a connection."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from bench.plan.forecast import family
from bench.plan.sweep import SweepError
from bench.schema.case import Case


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` parts of a sweep.

    The identity of a case decides its part, as if cases were shuffled: each part has short and long
    cases of all methods. Cases whose results may skip each other are in one part.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that a text such as `2/3` names; SweepError for another text."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise SweepError(f"a shard is NUMBER/COUNT, from 1/COUNT to COUNT/COUNT; got {text!r}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def select(self, cases: Iterable[Case]) -> list[Case]:
        """The cases of this part, in their order."""
        return [case for case in cases if self.of(case) == self.number]

    def of(self, case: Case) -> int:
        """The number of the part that has a case."""
        return int(family(case).case_id, 16) % self.count + 1
