"""Columns of CSV files, declared once as the fields of dataclasses.

CSV headers, types, documents and readers derive from these declarations.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import msgspec

from bench.schema.column_types import Name
from bench.schema.type_words import wanted
from bench.schema.validation import shown

if TYPE_CHECKING:
    from variants import Attention

REQUIRED = dataclasses.MISSING


@dataclass(frozen=True)
class Column:
    """A column: its type, its meaning, and its value in older files that lack it.

    CSV files hold the word `empty` in place of nothing and of an empty text. It is not empty in
    columns of a key: pandas and SQL leave out rows with an empty key when they group.
    """

    name: str
    hint: Any
    description: str
    default: Any = field(default_factory=lambda: REQUIRED)
    came_later: bool = False
    empty: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the values are texts, with or without bounds."""
        return self.hint is str or getattr(self.hint, "__origin__", None) is str


def column(
    description: str, default: Any = REQUIRED, *, came_later: bool = False, empty: str = ""
) -> Any:
    """A dataclass field that is a column.

    `came_later` marks a column that older files do not have; its default is the value for them.
    `empty` is as in `Column`.
    """
    metadata = {"description": description, "came_later": came_later, "empty": empty}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A dataclass with columns as fields. Fields made by other means than `column` are none."""

    @classmethod
    @cache
    def columns(cls) -> Mapping[str, Column]:
        """The columns by name, in the order of the file."""
        # The type of an attention would import torch, which readers of files do not need.
        hints = typing.get_type_hints(cls, localns={"Attention": object}, include_extras=True)
        return {
            f.name: Column(f.name, hints[f.name], default=f.default, **f.metadata)
            for f in dataclasses.fields(cls)
            if "description" in f.metadata
        }

    @property
    def values(self) -> dict[str, Any]:
        """Names and values of the columns."""
        return {name: getattr(self, name) for name in self.columns()}

    @classmethod
    @cache
    def _checked(cls) -> type[msgspec.Struct]:
        fields: list[Any] = [
            (c.name, c.hint) if c.default is REQUIRED else (c.name, c.hint, c.default)
            for c in cls.columns().values()
        ]
        return msgspec.defstruct(cls.__name__, fields, kw_only=True)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> None:
        """ValueError if a value is not of the type of its column or out of its bounds."""
        # Numbers of NumPy are floats too.
        plain = {k: float(v) if isinstance(v, float) else v for k, v in values.items()}
        try:
            msgspec.convert(plain, cls._checked())
        except msgspec.ValidationError as error:
            place = re.search(r"\$\.(\w+)`", str(error))
            if place is None:
                raise ValueError(f"expected all columns of a row: {error}") from None
            name = place[1]
            raise ValueError(
                f"{name}: expected {wanted(cls.columns()[name].hint)}, got {shown(values[name])}"
            ) from None

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all columns, with defaults for absent ones; other names are ignored.
        ValueError as in `check`."""
        cls.check(values)
        return {c.name: values.get(c.name, c.default) for c in cls.columns().values()}

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Self:
        """The record that has these values; other names are ignored. ValueError as in `check`."""
        cls.check(values)
        return cls(**{name: values[name] for name in cls.columns() if name in values})


ATTENTION = {
    own.name: own
    for own in (
        Column("variant", Name, "name of the variant"),
        Column("implementation", Name, "requested implementation; `auto` lets the variant choose"),
        Column(
            "hyperparameters",
            Name,
            "all hyperparameters as sorted name=value text; none: the variant has no "
            "hyperparameters",
            empty="none",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class AskedAttention(Record):
    """A case: an attention, and the fields that say on what it is measured.

    Three text columns are derived from the attention.
    """

    attention: Attention

    @classmethod
    @cache
    def columns(cls) -> Mapping[str, Column]:
        """The columns of the attention, then those of the other fields."""
        return {**ATTENTION, **super().columns()}

    @property
    def values(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        attention = own.pop("attention")
        return {
            "variant": attention.info.name,
            "implementation": attention.implementation,
            "hyperparameters": attention.hyperparameters,
            **own,
        }

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Self:
        """The case that has these values. ValueError if they name no attention."""
        from variants import parse  # imports torch; only runs need it

        cls.check(values)
        text = "{variant} {hyperparameters} implementation={implementation}".format_map(values)
        own = {f.name for f in dataclasses.fields(cls)} & set(values)
        return cls(attention=parse(text), **{name: values[name] for name in own})

    @property
    def variant(self) -> str:
        """The name of the variant."""
        return self.attention.info.name

    @property
    def label(self) -> str:
        """A short name for progress bars and messages."""
        return self.variant

    @property
    def case_id(self) -> str:
        """Sixteen hexadecimal digits: a hash of the columns."""
        return self.id_of(self.values)

    @classmethod
    def id_of(cls, values: Mapping[str, Any]) -> str:
        """The id of the case with these values of all columns.

        Columns that were added later enter the hash only if they differ from their defaults, so
        that old ids stay valid.
        """
        columns = cls.columns()
        asked = {
            name: value
            for name, value in values.items()
            if not columns[name].came_later or value != columns[name].default
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
