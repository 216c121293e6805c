"""The rows of runs as estimates, by scene, method, length and layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reports.baselines import reads_all_keys
from reports.declared import exact_variant, has_reduced_precision
from reports.metrics import MEAN_OF_VALUES
from reports.names import OTHER_OPERATOR, differing
from reports.recommender.method_estimate import Estimate
from reports.recommender.scene import COLUMNS, Scene, evidence_rows

MEAN, RANDOM, ZEROS = "the mean of the values", "random keys", "an output of zeros"
GRADIENTS = [f"grad_{name}_error_rel_l2" for name in ("query", "key", "value")]


Layer = int | None  # None for synthetic inputs


class Method(NamedTuple):
    """A variant, its settings and the requested implementation."""

    variant: str
    hyperparameters: str
    implementation: str


class Traits(NamedTuple):
    """Facts of a method beside its numbers.

    `differs`: its implementation computes something else; `coarse`: it rounds scores to bfloat16.
    `never` says why the method is never chosen, whatever its error is.
    """

    label: str
    never: str
    differs: bool
    coarse: bool
    is_exact: bool


class Observation(NamedTuple):
    """A row of a run as evidence."""

    scene: Scene
    method: Method
    traits: Traits
    seq_len: int
    layer: Layer
    estimate: Estimate


def observations(frame: pd.DataFrame) -> Iterator[Observation]:
    """All rows that are evidence. `frame` is that of `read_runs`."""
    rows = evidence_rows(frame)
    baseline, names = _baselines(rows)
    keys = zip(*(rows[name].tolist() for name in COLUMNS), strict=True)
    settings = rows["hyperparameters"].replace("none", "")
    methods = zip(rows["variant"], settings, rows["implementation"], strict=True)
    layers = [None if pd.isna(layer) else int(layer) for layer in rows["layer"]]
    # A step reads the state, so the peak of its allocations does not contain it.
    state = rows["state_bytes"].where(rows["direction"] == "decode", 0)
    first = _numbers(rows, "time_ms_q1", "time_ms_median")
    third = _numbers(rows, "time_ms_q3", "time_ms_median")
    numbers: Iterator[Any] = zip(
        _numbers(rows, "time_ms_median"),
        *2 * (first, third),
        _numbers(rows, "approx_error_rel_l2"),
        _numbers(rows, "approx_error_low", "approx_error_rel_l2"),
        _numbers(rows, "approx_error_high", "approx_error_rel_l2"),
        _numbers(rows, "dtype_floor_rel_l2"),
        (rows["peak_memory_bytes"] + state).astype("float64").tolist(),
        baseline,
        names,
        _numbers(rows, "exact_ms_median"),
        _numbers(rows, "sdpa_ms_median"),
        rows[GRADIENTS].max(axis=1).astype("float64").tolist(),
        strict=True,
    )
    never = rows["other_operator"].map({True: OTHER_OPERATOR, False: ""})
    differs = differing(rows)
    exact = (rows["variant"] == exact_variant()) & ~differs
    coarse = has_reduced_precision(rows)
    traits = map(Traits, rows["label"], never, differs, coarse, exact)
    scenes: dict[Any, Scene] = {}
    lengths = rows["seq_len"].tolist()
    for row, key, method, own, seq_len, layer, values in zip(
        rows.index, keys, methods, traits, lengths, layers, numbers, strict=True
    ):
        scene = scenes.get(key) or scenes.setdefault(key, Scene(*key))
        estimate = Estimate(*(*values, (int(row),)))
        yield Observation(scene, Method(*method), own, seq_len, layer, estimate)


def _baselines(rows: pd.DataFrame) -> tuple[list[float], list[str]]:
    """The smallest error of an output that a method must beat, and the name of this output.

    Random keys are no baseline for a method whose budget is all visible keys.
    """
    table = np.column_stack(
        [
            np.ones(len(rows)),
            rows[MEAN_OF_VALUES].astype("float64").fillna(np.inf),
            rows["random_keys_error_rel_l2"]
            .astype("float64")
            .mask(reads_all_keys(rows))
            .fillna(np.inf),
        ]
    )
    names = np.array([ZEROS, MEAN, RANDOM])[table.argmin(axis=1)]
    return table.min(axis=1).tolist(), names.tolist()


def _numbers(rows: pd.DataFrame, column: str, missing: str = "") -> list[float]:
    """A column as numbers; where there is none, the number of the column `missing`."""
    found = rows[column].astype("float64")
    return (found.fillna(rows[missing].astype("float64")) if missing else found).tolist()
