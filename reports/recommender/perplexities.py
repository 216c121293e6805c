"""The change of a model's perplexity by a method, from runs of `python -m bench model`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.declared import has_reduced_precision
from reports.recommender.candidate import Bounded
from reports.recommender.observations import Method, Traits
from reports.rows import finished

ALL_LAYERS = "all"
COLUMNS = ("perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high")


class Perplexities:
    """Perplexity ratios by variant and settings.

    Implementations of one method share their ratio, except those of reduced precision.
    """

    def __init__(self, rows: pd.DataFrame | None) -> None:
        self._known: dict[Any, dict[int, Bounded]] = {}
        for key, seq_len, ratio in _ratios(rows) if rows is not None else ():
            lengths = self._known.setdefault(key, {})
            # Several models or texts: the largest upper end.
            lengths[seq_len] = max(ratio, lengths.get(seq_len, ratio), key=lambda one: one[2])

    def __bool__(self) -> bool:
        return bool(self._known)

    def ratio(self, method: Method, traits: Traits, seq_len: int) -> tuple[int, Bounded] | None:
        """The length and the ratio at the longest measured length up to `seq_len`, else at the
        shortest; None if the method was not measured in a model."""
        lengths = self._known.get((method.variant, method.hyperparameters, traits.coarse))
        if not lengths or traits.differs:
            return None
        shorter = [length for length in lengths if length <= seq_len]
        length = max(shorter) if shorter else min(lengths)
        return length, lengths[length]


def _ratios(rows: pd.DataFrame) -> Iterator[tuple[Any, int, Bounded]]:
    done = finished(rows)
    done = done[done["layers"] == ALL_LAYERS].dropna(subset=list(COLUMNS))
    done = done.assign(
        hyperparameters=done["hyperparameters"].replace("none", ""),
        is_coarse=has_reduced_precision(done),
    )
    names = ["variant", "hyperparameters", "is_coarse", "seq_len", *COLUMNS]
    for variant, settings, coarse, seq_len, *ratio in done[names].itertuples(index=False):
        value, low, high = map(float, ratio)
        yield (variant, settings, bool(coarse)), int(seq_len), (value, low, high)
