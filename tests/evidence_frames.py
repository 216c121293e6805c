"""Hand-made rows of runs for the tests of the recommender."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.recommender.candidate import Candidate
from reports.recommender.evidence import Evidence
from reports.recommender.scene import Scene
from reports.rows import Runs

SCENE = Scene(
    machine="cpu, Some CPU",
    inputs="smollm2",
    dtype="float32",
    direction="forward",
    causal=True,
    heads=8,
    kv_heads=8,
    head_dim=64,
    batch=1,
)
EXACT_MS = 1e-5  # time of exact attention for each pair of tokens


def row(
    variant: str,
    seq_len: int,
    time: float,
    error: float,
    spread: float = 0.1,
    noise: float = 0.02,
    **changes: Any,
) -> dict[str, Any]:
    """A finished row. `spread` is half the width of the error's interval, `noise` that of the
    quartiles of the time, both relative."""
    values: dict[str, Any] = {
        "variant": variant,
        "implementation": "auto",
        "hyperparameters": "",
        "machine": SCENE.machine,
        "hardware": SCENE.machine,
        "modules": "",
        "inputs": SCENE.inputs,
        "layer": 15,
        "dtype": SCENE.dtype,
        "batch": 1,
        "heads": 8,
        "head_dim": 64,
        "causal": True,
        "direction": "forward",
        "seed": 0,
        "projections": "none",
        "launch": "eager",
        "seq_len": seq_len,
        "key_len": seq_len,
        "status": "ok",
        "reason": "",
        "time_ms_median": time,
        "time_ms_q1": (1 - noise) * time,
        "time_ms_q3": (1 + noise) * time,
        "peak_memory_bytes": 1000 * seq_len,
        "state_bytes": None,
        "approx_error_rel_l2": error,
        "approx_error_low": (1 - spread) * error,
        "approx_error_high": (1 + spread) * error,
        "dtype_floor_rel_l2": 1e-7,
        "mean_value_error_rel_l2": 0.9,
        "random_keys_error_rel_l2": 1.2,
        "baseline_keys": 100.0,
        "exact_ms_median": EXACT_MS * seq_len**2,
        "sdpa_ms_median": 2 * EXACT_MS * seq_len**2,
        "grad_query_error_rel_l2": None,
        "grad_key_error_rel_l2": None,
        "grad_value_error_rel_l2": None,
        "other_operator": False,
        "disturbed": "",
    } | changes
    return {"kv_heads": values["heads"], "label": variant, **values}


def exact(seq_len: int, time: float | None = None, **changes: Any) -> dict[str, Any]:
    """A row of exact attention."""
    return row("full", seq_len, time or EXACT_MS * seq_len**2, 1e-7, **changes)


def frame_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows with the dtypes that `read_runs` gives them."""
    frame = pd.DataFrame(rows)
    frame["layer"] = frame["layer"].astype("Int64")
    for column in frame.columns[frame.columns.str.contains("grad_|state_bytes")]:
        frame[column] = frame[column].astype("float64")
    return frame


def evidence(*rows: dict[str, Any], models: pd.DataFrame | None = None) -> Evidence:
    """The evidence of rows."""
    return Evidence(Runs(frame_of(rows), {}, pd.DataFrame()), models)


def at(found: Evidence, seq_len: int, scene: Scene = SCENE, **policy: Any) -> dict[str, Candidate]:
    """The candidates at a length by name."""
    return {one.name: one for one in found.candidates(scene, seq_len, **policy)}
