"""The conditions that all methods of a comparison share, and the rows that count as evidence."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pandas as pd

from reports.rows import finished


@dataclass(frozen=True, order=True)
class Scene:
    """The columns in which all rows of a comparison are equal.

    `inputs` names the inputs without their layer, such as `smollm2` or `sinks effective_keys=32`.
    """

    machine: str
    inputs: str
    dtype: str
    direction: str
    causal: bool
    heads: int
    kv_heads: int
    head_dim: int
    batch: int

    @property
    def group(self) -> int:
        """The number of query heads for each key/value head."""
        return self.heads // self.kv_heads

    @property
    def words(self) -> str:
        """The scene in one line."""
        keys = f", {self.kv_heads} key/value heads" if self.kv_heads != self.heads else ""
        batch = f", batch {self.batch}" if self.batch != 1 else ""
        causal = "causal" if self.causal else "not causal"
        return (
            f"{self.machine}: {self.inputs}, {self.dtype}, {causal}, {self.direction}, "
            f"{self.heads} heads{keys}, head_dim {self.head_dim}{batch}"
        )


COLUMNS = tuple(field.name for field in fields(Scene))


def evidence_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The finished rows that time attention alone, launched by the host, with one key per query."""
    done = finished(frame)
    return done[
        (done["projections"] == "none")
        & (done["launch"] == "eager")
        & (done["key_len"] == done["seq_len"])
    ]
