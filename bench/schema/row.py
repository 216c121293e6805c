"""A row: a case and its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar

from bench.schema.columns import AskedAttention, Column, Record
from bench.schema.outcome import Outcome, Place, Status

CaseT = TypeVar("CaseT", bound=AskedAttention)


@dataclass(frozen=True, kw_only=True)
class Row(Outcome, Place, Generic[CaseT]):
    """A case and its results, as one flat row of a CSV file.

    Subclasses add records with results. A row has numbers only if `status` is ok.
    """

    case: CaseT
    case_type: ClassVar[type[AskedAttention]]
    records: ClassVar[tuple[type[Record], ...]]  # in the order of the file
    file: ClassVar[str]  # name of the CSV file
    needed: ClassVar[str]  # the number that a row with status ok must have

    @classmethod
    @cache
    def columns(cls) -> Mapping[str, Column]:
        """The columns of the case, of the outcome, of the results and of the place."""
        found: dict[str, Column] = {}
        parts: tuple[type[Record], ...] = (cls.case_type, Outcome, *cls.records, Place)
        for record in parts:
            found |= record.columns()
        return found

    @classmethod
    @cache
    def numbers(cls) -> tuple[str, ...]:
        """The columns with results that are not texts."""
        of_results = (column for record in cls.records for column in record.columns().values())
        return tuple(column.name for column in of_results if not column.is_text)

    @classmethod
    @cache
    def later(cls) -> Mapping[str, Any]:
        """The columns that older files may lack, with their values for them."""
        return {c.name: c.default for c in cls.columns().values() if c.came_later}

    @property
    def values(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.columns() if hasattr(self, name)}
        values = self.case.values | own
        return {name: values[name] for name in self.columns()}

    @classmethod
    def of(
        cls, case: CaseT, status: Status, reason: str = "", *records: Record, **values: Any
    ) -> Self:
        """The row of a case, with the values of records and single values."""
        for record in records:
            values |= record.values
        return cls(case=case, status=status, reason=reason, **values)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Self:
        """The row that has these values; other names are ignored. ValueError if it has numbers
        without status ok, names no attention, or a value is out of the bounds of its column."""
        cls.check(values)
        own = {f.name for f in fields(cls)} & set(values)
        given = {name: values[name] for name in own} | {"status": Status(values["status"])}
        case: Any = cls.case_type.of_values(values)
        return cls(case=case, **given)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> None:
        """ValueError as in `Record.check`, and if numbers or the reason do not fit the status."""
        super().check(values)
        status = values["status"]
        if status == Status.OK:
            if values.get(cls.needed) is None:
                raise ValueError(f"a row with status ok needs {cls.needed}")
            return
        if present := [name for name in cls.numbers() if values.get(name) is not None]:
            raise ValueError(f"a row with status {status} has no numbers; got {present}")
        if not values.get("reason"):
            raise ValueError(f"a row with status {status} needs a reason")

    def __post_init__(self) -> None:
        self.check(self.values)
