"""The columns that depend on the inputs, and not on the method."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import Amount, ErrorSize, Share
from bench.schema.columns import Record, column


@dataclass(frozen=True, kw_only=True)
class InputStatistics(Record):
    """Statistics of the exact attention weights."""

    effective_keys: Amount | None = column(
        "inputs: mean over rows and heads of exp(entropy) of the exact attention weights: the "
        "number of equal weights that have the same entropy",
        None,
        came_later=True,
    )
    sink_mass: Share | None = column(
        "inputs: mean exact attention mass on the first key", None, came_later=True
    )
    near_mass: Share | None = column(
        "inputs: mean exact attention mass on keys at a distance of at most 128",
        None,
        came_later=True,
    )
    top64_mass: Share | None = column(
        "inputs: mean exact attention mass on the 64 keys with the greatest weights",
        None,
        came_later=True,
    )
    logit_spread: Amount | None = column(
        "inputs: mean over rows and heads of the standard deviation of a row's scaled scores over "
        "its visible keys",
        None,
        came_later=True,
    )


@dataclass(frozen=True, kw_only=True)
class InputFacts(InputStatistics):
    """The inputs of a row, and the errors that depend on them alone."""

    inputs_detail: str = column(
        "heads and tokens of the inputs, and whether heads were repeated", ""
    )
    dtype_floor_rel_l2: ErrorSize | None = column(
        "error of the dtype: relative L2 error of exact attention (torch SDPA) in this dtype on "
        "the same rows",
        None,
        came_later=True,
    )
    mean_value_error_rel_l2: ErrorSize | None = column(
        "baseline: relative L2 error of the mean of all visible values", None, came_later=True
    )
