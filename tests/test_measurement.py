"""The schema: its fixed names, the id of a case, and the rows that may hold numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.schema.case import Case
from bench.schema.measurement import HeadRow, Measurement
from bench.schema.model_row import ModelRow
from bench.schema.outcome import Status
from tests.cases import case, good, named_case

ROOT = Path(__file__).parent.parent

# Users, stored runs and other tools depend on these names: they are never renamed or removed.
FIXED_CASE = [
    "variant",
    "implementation",
    "hyperparameters",
    "inputs",
    "layer",
    "device",
    "dtype",
    "batch",
    "heads",
    "kv_heads",
    "seq_len",
    "key_len",
    "head_dim",
    "causal",
    "direction",
    "seed",
]
CAME_LATER = {"projections": "none", "launch": "eager"}
FIXED_OUTCOME = ["status", "reason", "implementation_used"]
FIXED_NUMBERS = [
    "time_ms_median",
    "time_ms_q1",
    "time_ms_q3",
    "time_ms_min",
    "repeats",
    "wall_ms_median",
    "prepare_ms",
    "exact_ms_median",
    "sdpa_ms_median",
    "speedup_vs_exact",
    "peak_memory_bytes",
    "exact_peak_memory_bytes",
    "memory_vs_exact",
    "approx_error_rel_l2",
    "approx_error_low",
    "approx_error_high",
    "approx_cosine",
    "mass_recall",
    "impl_error_rel_l2",
    "oracle_rows",
    "useful_flops",
    "tflops",
    "roofline_fraction",
]
FIXED_STATUSES = [
    "ok",
    "unsupported",
    "out_of_memory",
    "timeout",
    "crashed",
    "error",
    "incorrect",
    "implausible_time",
    "skipped",
]

OTHER_VALUES: dict[str, Any] = {
    "variant": "lsh",
    "implementation": "blocks",
    "hyperparameters": "window_size=9",
    "inputs": "smollm2",
    "layer": 0,
    "device": "cuda",
    "dtype": "bfloat16",
    "batch": 3,
    "heads": 4,
    "kv_heads": 1,
    "seq_len": 33,
    "key_len": 33,
    "head_dim": 17,
    "causal": True,
    "direction": "forward_backward",
    "seed": 1,
    "projections": "shared",
    "launch": "graph",
}


def test_the_fixed_columns_exist() -> None:
    assert set(FIXED_CASE + FIXED_OUTCOME + FIXED_NUMBERS) <= set(Measurement.columns())


def test_a_case_has_the_fixed_columns_and_they_are_first_in_a_row() -> None:
    assert list(Case.columns()) == [*FIXED_CASE, "projections", "launch"]
    assert tuple(Measurement.columns())[: len(Case.columns())] == tuple(Case.columns())
    assert {name: Measurement.later()[name] for name in CAME_LATER} == CAME_LATER
    assert not set(Measurement.later()) & set(FIXED_CASE + FIXED_OUTCOME + FIXED_NUMBERS)


def test_the_statuses_are_fixed() -> None:
    assert [str(status) for status in Status] == FIXED_STATUSES


def test_every_fixed_column_of_numbers_is_declared_as_such() -> None:
    assert set(FIXED_NUMBERS) <= set(Measurement.numbers())
    assert not set(Measurement.numbers()) & set(FIXED_CASE + FIXED_OUTCOME)


def test_every_column_is_described() -> None:
    for columns in (Measurement.columns(), HeadRow.columns(), ModelRow.columns()):
        assert all(column.description.strip() for column in columns.values())


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_row_that_failed_has_no_numbers(status: Status) -> None:
    assert Measurement.of(case(), status, "why").status is status
    for column in Measurement.numbers():
        value: float | bool = "bool" in str(Measurement.columns()[column].hint) or 1.0
        if "int" in str(Measurement.columns()[column].hint):
            value = 1
        with pytest.raises(ValueError, match=rf"status {status} has no numbers; got \['{column}'"):
            Measurement.of(case(), status, "why", **{column: value})


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_row_that_failed_has_a_reason(status: Status) -> None:
    with pytest.raises(ValueError, match=f"status {status} needs a reason"):
        Measurement.of(case(), status)


def test_a_row_with_status_ok_has_a_time() -> None:
    with pytest.raises(ValueError, match="status ok needs time_ms_median"):
        Measurement.of(case(), Status.OK, peak_memory_bytes=1)
    assert Measurement.of(case(), Status.OK, time_ms_median=0.5).reason == ""


def test_the_id_of_a_case_never_changes() -> None:
    """Runs are resumed and compared by this id. Another hash or another order of fields would break
    them."""
    assert case().case_id == "85ebba0d21b4cbde"


def test_the_id_of_a_case_is_the_same_in_another_process() -> None:
    asked = case(causal=True, layer=3)
    code = f"from bench.schema.case import Case; print(Case.of_values({asked.values!r}).case_id)"
    for seed in ("1", "2"):
        seen = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert seen.stdout.strip() == asked.case_id


def test_the_id_of_a_case_depends_on_each_field() -> None:
    assert set(OTHER_VALUES) == set(Case.columns())
    base = case()
    others = [named_case(**base.values | {name: new}) for name, new in OTHER_VALUES.items()]
    assert len({base.case_id, *(one.case_id for one in others)}) == 1 + len(OTHER_VALUES)


def test_the_same_value_in_another_field_gives_another_id() -> None:
    assert case(seq_len=8, key_len=16).case_id != case(seq_len=16, key_len=8).case_id
    assert case(layer=None).case_id != case(layer=0).case_id


def test_a_row_that_is_read_again_has_the_id_and_shape_of_its_case() -> None:
    row = good(case(), peak_memory_bytes=5)
    assert row.case == case()
    read = Measurement.of_values(row.values)
    assert read == row
    assert read.case.case_id == case().case_id
    assert read.case.shape == case().shape


def test_a_shape_excludes_only_the_variant() -> None:
    own = {"variant", "implementation", "hyperparameters"}
    for name, new in OTHER_VALUES.items():
        other = named_case(**case().values | {name: new})
        assert (other.shape == case().shape) == (name in own), name


def test_a_label_includes_the_implementation_if_the_case_names_one() -> None:
    assert case().label == "sliding_window n=32 h=2 float32 forward"
    assert case(implementation="blocks").label.startswith("sliding_window/blocks n=32")


def test_a_label_includes_the_projections_if_there_are_any() -> None:
    assert case(projections="shared").label.endswith(" float32 forward shared projections")


def test_a_label_says_if_the_call_is_replayed_from_a_graph() -> None:
    assert case(launch="graph").label.endswith(" float32 forward in a graph")
