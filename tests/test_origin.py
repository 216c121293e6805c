"""Tables that join several runs: every key of results.csv has a value, also of older runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import variants
from bench.loop.result_files import write_json
from bench.loop.workload import Entry
from bench.plan.sweep import parse
from bench.schema.case import Case
from bench.schema.measurement import HeadRow, Measurement
from bench.schema.origin import Origin, knob_of, run_id
from bench.schema.outcome import Status
from bench.schema.run_tables import RunTables
from bench.workloads.sweep_workload import SweepWorkload
from reports.rows import read_runs
from tests.cases import ENVIRONMENT, HEAD, case, good

KEYS = [*Case.columns(), *Origin.columns()]
WINDOW = "sliding_window window_size=8"
SWEEP = parse(
    "mine",
    {
        "variant": ["full", f"linear {variants.create('linear').hyperparameters}", WINDOW],
        "implementation": ["auto"],
        "seq_len": [16],
        "heads": [2],
        "dtype": ["float32"],
        "causal": [True],
    },
)
REFERENCE = sorted(Path("results/reference").glob("*/results.csv"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The tables of a run as a workload writes them, with a failed case and a captured one."""
    return written(tmp_path / "run", tmp_path)


def written(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    folder.mkdir()
    workload = SweepWorkload(SWEEP, "cpu", {}, 0.2, 9.0)
    rows = [good(each, approx_error_rel_l2=0.5) for each in workload.cases]
    rows[1] = Measurement.of(workload.cases[1], Status.TIMEOUT, "took longer than 9 s")
    captured = case(inputs="smollm2", layer=0)
    rows.append(good(captured, approx_error_rel_l2=0.5))
    workload.__dict__["cases"] = [row.case for row in rows]
    environment = {**ENVIRONMENT, **workload.facts(), **changes}
    entries = {row.case.case_id: Entry(row, [HEAD]) for row in rows}
    workload.write(folder, entries, environment)
    write_json(folder / "environment.json", environment)
    return folder


def without(folder: Path, names: Sequence[str], words: Mapping[str, str]) -> Path:
    """A copy of a run as an older version wrote it: without columns and without words for empty
    keys."""
    older = folder.with_name("older")
    older.mkdir()
    table = pd.read_csv(folder / "results.csv", dtype=str, keep_default_na=False)
    for name, word in words.items():
        table[name] = table[name].replace(word, "")
    table.drop(columns=list(names)).to_csv(older / "results.csv", index=False)
    (older / "environment.json").write_bytes((folder / "environment.json").read_bytes())
    return older


def test_grouping_by_any_key_keeps_every_row(run: Path) -> None:
    table = pd.read_csv(run / "results.csv")
    assert len(table) == 4
    for name in KEYS:
        assert table.groupby(name).size().sum() == len(table), name
    assert table.groupby(KEYS).size().sum() == len(table)


def test_keys_of_exact_attention_on_synthetic_inputs_have_words(run: Path) -> None:
    table = pd.read_csv(run / "results.csv")
    exact = table[table["variant"] == "full"].iloc[0]
    assert exact["hyperparameters"] == "none"
    assert exact["layer"] == -1
    assert (exact["knob"], exact["knob_value"], exact["is_default"]) == ("none", -1, True)
    window = table[table["variant"] == "sliding_window"].iloc[0]
    assert (window["knob"], window["knob_value"]) == ("window_size", 8)
    assert not window["is_default"]
    assert set(table["layer"]) == {-1, 0}
    assert table["layer"].dtype == table["knob_value"].dtype == "int64"
    assert list(table["torch_version"].unique()) == [ENVIRONMENT["software"]["torch"]]


def test_heads_have_the_same_keys(run: Path) -> None:
    heads = pd.read_csv(run / "heads.csv")
    assert list(heads.columns) == [*Case.columns(), *HeadRow.columns()]
    assert heads.groupby(list(Case.columns())).size().sum() == len(heads) == 4


def test_a_failed_row_has_the_target_of_its_method(run: Path) -> None:
    table = pd.read_csv(run / "results.csv").set_index("variant")
    assert table.loc["linear", "status"] == "timeout"
    assert table.loc["linear", "target"] == "other_kernel"


def test_reading_gives_the_values_that_were_written(run: Path) -> None:
    rows = RunTables.read(run, Measurement).rows
    assert rows["hyperparameters"][0] == ""
    assert rows["layer"] == [None, None, None, 0]
    frame, table = read_runs([run]).frame, pd.read_csv(run / "results.csv")
    for name in ("run_id", "machine_id", "torch_version", "is_default"):
        assert list(frame[name]) == list(table[name]), name
    assert list(frame["knob"].replace("", "none")) == list(table["knob"])


def test_an_older_file_gives_the_same_rows(run: Path) -> None:
    older = without(run, [*Origin.columns(), "target"], {"hyperparameters": "none", "layer": "-1"})
    pd.testing.assert_frame_equal(read_runs([older]).frame, read_runs([run]).frame)


def test_a_file_that_pandas_has_written_again_gives_the_same_rows(run: Path) -> None:
    before = read_runs([run]).frame
    table = pd.read_csv(run / "results.csv")
    table["layer"] = table["layer"].astype(float)
    table.to_csv(run / "results.csv", index=False)
    assert "-1.0" in (run / "results.csv").read_text()
    pd.testing.assert_frame_equal(read_runs([run]).frame, before)


def test_runs_and_machines_can_be_told_apart(tmp_path: Path) -> None:
    first = written(tmp_path / "first", tmp_path)
    hardware = {**ENVIRONMENT["hardware"], "threads": 64}
    changes = {"started_utc": "2027-01-02T03:04:05+00:00", "hardware": hardware}
    second = written(tmp_path / "second", tmp_path, **changes)
    text = StringIO()
    both = pd.concat(pd.read_csv(folder / "results.csv") for folder in (first, second))
    both.to_csv(text, index=False)
    assert both["run_id"].nunique() == both["machine_id"].nunique() == 2
    assert both["run_id"].iloc[-1].startswith("2027-01-02-")
    together = read_runs([first, second]).frame
    assert list(together["run_id"]) == list(both["run_id"])
    assert list(together["machine_id"]) == list(both["machine_id"])


def test_the_name_of_a_run_does_not_change_while_it_goes_on() -> None:
    begun = {**ENVIRONMENT, "started_utc": "2027-01-02T03:04:05+00:00"}
    later = {**begun, "machines": {"b": {}}, "selfchecks": {"a": {}}, "durations": [{}]}
    assert run_id(later) == run_id(begun)
    assert run_id(json.loads(json.dumps(begun))) == run_id(begun)
    assert run_id({**begun, "started_utc": "2027-01-02T03:04:06+00:00"}) != run_id(begun)


@pytest.mark.parametrize(
    ("settings", "default", "expected"),
    [
        ("", "", ("", None, True)),
        ("seed=3", "", ("", None, True)),
        ("window_size=256", "window_size=256", ("window_size", 256, True)),
        ("seed=3 window_size=64", "window_size=256", ("window_size", 64, False)),
        ("share=0.5", "share=0.5", ("share", 0.5, True)),
        ("seed=3", "window_size=256", ("window_size", None, False)),
        ("memory=512 segment=512", "segment=512 memory=512", ("segment and memory", 512, True)),
        ("memory=64 segment=512", "segment=512 memory=512", ("segment and memory", 512, False)),
    ],
)
def test_knob(settings: str, default: str, expected: tuple[str, float | None, bool]) -> None:
    found = knob_of(settings, default)
    assert (found.knob, found.knob_value, found.is_default) == expected


@pytest.mark.parametrize("file", REFERENCE, ids=lambda file: str(file.parent.name))
def test_every_reference_run_has_a_target_and_an_origin(file: Path) -> None:
    frame = read_runs([file.parent]).frame
    for name in ("target", "run_id", "machine_id", "torch_version"):
        assert (frame[name] != "").all(), name
    # One run leaves out the methods of another operator.
    others = set() if file.parent.name.endswith("-answers") else {True}
    assert set(frame.loc[frame["variant"] == "linear", "other_operator"]) == others
    assert set(frame.loc[frame["variant"] == "lsh", "knob"]) <= {"num_hashes"}


def test_the_marks_of_a_row_do_not_depend_on_the_runs_beside_it() -> None:
    together = read_runs([file.parent for file in REFERENCE]).frame
    columns = ["target", "other_operator", "knob", "is_default", "torch_version", "machine_id"]
    for file in REFERENCE:
        alone = read_runs([file.parent]).frame
        (name,) = alone["run_id"].unique()
        same = together.loc[together["run_id"] == name, columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, alone[columns])
