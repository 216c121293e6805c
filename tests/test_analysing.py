"""The analyses of docs/analysing.md: pandas and DuckDB give the same tables, with known rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from bench.schema.case import Case
from bench.schema.origin import Origin
from reports.joined import COLUMNS, joined_rows
from tests.test_examples import read
from tests.test_origin import KEYS, SWEEP, without, written

PAGE = Path(__file__).parents[1] / "docs" / "analysing.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names of the page after its examples have run."""
    document = read(PAGE)
    for example in document.examples():
        example.evaluate()
    return document.namespace


def sorted_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(list(table.columns), ignore_index=True)


def same_tables(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert len(one) > 0
    pd.testing.assert_frame_equal(sorted_rows(one), sorted_rows(other), check_dtype=False)


def test_the_selection_has_the_same_rows_in_both(names: dict[str, Any]) -> None:
    assert duckdb.sql("SELECT count(*) FROM same").fetchall() == [(len(names["same"]),)]
    assert "full" in set(names["same"]["variant"])


def test_the_fastest_method_is_the_same_in_both(names: dict[str, Any]) -> None:
    same_tables(names["fastest"].reset_index(), names["fastest_sql"])
    assert (names["fastest"]["approx_error_high"] <= 0.4).all()
    assert names["fastest"].loc[4096, "variant"] == "longformer"


def test_crossings_are_the_same_in_both(names: dict[str, Any]) -> None:
    same_tables(names["crossing"].reset_index(), names["crossing_sql"])
    auto = names["crossing"].xs("auto", level="implementation").droplevel("hyperparameters")
    assert 256 < auto["longformer"] < 1024
    assert "top_k" not in auto.index  # it is never faster


def test_memory_is_the_same_in_both(names: dict[str, Any]) -> None:
    same_tables(names["memory"].reset_index(), names["memory_sql"])
    assert names["memory"].loc[("longformer", "auto"), "memory_vs_exact"] > 1


def test_joined_rows_are_those_of_the_files(tmp_path: Path) -> None:
    first = written(tmp_path / "first", tmp_path)
    second = written(tmp_path / "second", tmp_path, started_utc="2027-01-02T03:04:05+00:00")
    files = pd.concat([pd.read_csv(run / "results.csv") for run in (first, second)])
    joined = joined_rows([first, second])
    assert list(joined.columns) == list(files.columns) == list(COLUMNS)
    for name in KEYS:
        assert list(joined[name]) == list(files[name]), name
    assert joined.groupby(KEYS).size().sum() == len(joined) == 2 * (len(SWEEP.cases("cpu", {})) + 1)


def test_an_older_run_is_completed(tmp_path: Path) -> None:
    run = written(tmp_path / "run", tmp_path)
    words = {"hyperparameters": "none", "layer": "-1"}
    older = without(run, [*Origin.columns(), "target"], words)
    pd.testing.assert_frame_equal(joined_rows([older]), joined_rows([run]))


def test_duckdb_reads_the_files_of_several_runs(tmp_path: Path) -> None:
    for name in ("first", "second"):
        written(tmp_path / name, tmp_path, started_utc=f"2027-01-02T03:04:0{len(name)}+00:00")
    keys = ", ".join(Case.columns())
    found = duckdb.sql(
        f"SELECT run_id, count(*) FROM (SELECT DISTINCT run_id, {keys} "
        f"FROM read_csv('{tmp_path}/*/results.csv', union_by_name=true)) GROUP BY run_id"
    ).fetchall()
    assert [count for _, count in found] == [len(SWEEP.cases("cpu", {})) + 1] * 2
