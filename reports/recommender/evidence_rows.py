"""The measured rows that an answer rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.recommender.candidate import Candidate
from reports.recommender.evidence import Evidence


@dataclass(frozen=True)
class MeasuredRow:
    """One row: times in ms with quartiles, the error with its interval."""

    row: int
    seq_len: int
    heads: int
    layer: int | None
    seed: int
    time_ms: float
    time_low: float
    time_high: float
    error: float
    error_low: float
    error_high: float


def measured_rows(evidence: Evidence, candidate: Candidate) -> list[MeasuredRow]:
    """The rows of a candidate, by length and layer."""
    rows = evidence.frame.loc[list(candidate.rows)].sort_values(["seq_len", "heads", "layer"])
    return [_row(index, row) for index, row in rows.iterrows()]


def _row(index: Any, row: pd.Series[Any]) -> MeasuredRow:
    return MeasuredRow(
        row=int(index),
        seq_len=int(row["seq_len"]),
        heads=int(row["heads"]),
        layer=None if pd.isna(row["layer"]) else int(row["layer"]),
        seed=int(row["seed"]),
        time_ms=float(row["time_ms_median"]),
        time_low=float(row["time_ms_q1"]),
        time_high=float(row["time_ms_q3"]),
        error=float(row["approx_error_rel_l2"]),
        error_low=float(row["approx_error_low"]),
        error_high=float(row["approx_error_high"]),
    )
