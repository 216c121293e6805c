"""Exports are valid by the rules that their readers document, and have the numbers of the run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest
from click.testing import CliRunner, Result

from bench.cli.commands import main
from bench.loop.result_files import write_json, write_table
from bench.schema.case import Case
from bench.schema.case_names import benchmark_name
from bench.schema.machine_kind import fingerprint
from bench.schema.measurement import Measurement
from bench.schema.origin import Origin
from bench.schema.outcome import Status
from bench.schema.tracking_file import SCHEMA
from tests.cases import ENVIRONMENT, case, good

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
RUNS = sorted(path.parent for path in REFERENCE.glob("*/results.csv"))
MIXED = REFERENCE / "amd-epyc-2-threads"  # has cases without a time, and other operators
NUMBER = {"type": "number"}
TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}


def record(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object without other names."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# https://bencher.dev/docs/reference/bencher-metric-format has the schema. Names of benchmarks have
# at most 1024 characters; measures are slugs of at most 64.
BENCHER = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"minLength": 1, "maxLength": 1024, "not": {"pattern": "bencher-ignore$"}},
    "additionalProperties": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 64},
        "additionalProperties": record(
            ["value"], value=NUMBER, lower_value=NUMBER, upper_value=NUMBER
        ),
    },
}
# https://github.com/benchmark-action/github-action-benchmark: `interface BenchmarkResult` of
# src/extract.ts. An empty list is an error; the range is converted if it is a sign and a number.
GITHUB_ACTION = {
    "type": "array",
    "minItems": 1,
    "items": record(
        ["name", "unit", "value"],
        name={"type": "string", "minLength": 1},
        unit={"type": "string", "minLength": 1},
        value=NUMBER,
        range={"type": "string", "pattern": r"^± \d+(\.\d+)?(e-?\d+)?$"},
        extra=TEXT,
    ),
}
# https://github.com/pytorch/test-infra/blob/main/clickhouse_db_schema/oss_ci_benchmark_v3/schema.sql
# has the types: `extra_info` is Map(String, String), counts are UInt32, values Float32. The page
# PyTorch-OSS-benchmark-infra of PyTorch's wiki says which names are required.
PYTORCH = {
    "type": "array",
    "minItems": 1,
    "items": record(
        ["benchmark", "model", "metric"],
        benchmark=record(["name"], name=TEXT, mode=TEXT, dtype=TEXT, extra_info=TEXTS),
        model=record(
            ["name"],
            name=TEXT,
            type=TEXT,
            backend=TEXT,
            origins={"type": "array", "items": TEXT},
            extra_info=TEXTS,
        ),
        inputs={"type": "object", "additionalProperties": record(dtype=TEXT, extra_info=TEXTS)},
        dependencies={
            "type": "object",
            "additionalProperties": record(
                repo=TEXT, branch=TEXT, sha=TEXT, version=TEXT, extra_info=TEXTS
            ),
        },
        metric=record(
            ["name", "benchmark_values"],
            name=TEXT,
            benchmark_values={
                "type": "array",
                "minItems": 1,
                "items": {"type": "number", "minimum": -3.4e38, "maximum": 3.4e38},
            },
            target_value=NUMBER,
            extra_info=TEXTS,
        ),
        runners={
            "type": "array",
            "items": record(
                name=TEXT,
                type=TEXT,
                cpu_info=TEXT,
                cpu_count=COUNT,
                mem_info=TEXT,
                avail_mem_in_gb=COUNT,
                gpu_info=TEXT,
                gpu_count=COUNT,
                gpu_mem_info=TEXT,
                avail_gpu_mem_in_gb=COUNT,
                extra_info=TEXTS,
            ),
        },
    ),
}
SCHEMAS = {"bencher": BENCHER, "github-action": GITHUB_ACTION, "pytorch-v3": PYTORCH}


def export(run: Path, form: str, *options: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        main, ["export", str(run), "--format", form, *options]
    )


def content(run: Path, form: str) -> Any:
    """The JSON of an export, which is valid by the rules of its reader."""
    said = export(run, form)
    assert said.exit_code == 0, said.output
    value = json.loads(said.stdout, parse_constant=pytest.fail)
    jsonschema.validate(value, SCHEMAS[form], jsonschema.Draft202012Validator)
    return value


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three cases: one with all numbers, one of another operator, one without a time."""
    numbers = {
        "time_ms_q1": 1.5,
        "time_ms_median": 2.0,
        "time_ms_q3": 2.75,
        "repeats": 15,
        "peak_memory_bytes": 4096,
        "approx_error_rel_l2": 0.5,
        "approx_error_low": 0.25,
        "approx_error_high": 0.75,
        "impl_error_rel_l2": 1e-7,
        "implementation_used": "tiles",
    }
    window, linear = good(case(), **numbers), good(case(variant="linear"), **numbers)
    rows = [
        replace(window, target="masked_softmax"),
        replace(linear, target="other_kernel"),
        Measurement.of(case(seq_len=64), Status.TIMEOUT, "took longer than 9 s"),
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    write_table(folder / "results.csv", Measurement.columns(), [row.values for row in rows])
    write_json(folder / "environment.json", ENVIRONMENT)
    return folder


WINDOW = (
    "sliding_window window_size=8 not causal forward n=32 batch=1 heads=2 head_dim=16 float32 cpu "
    "inputs=gaussian"
)


@pytest.mark.parametrize("form", SCHEMAS)
@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_every_reference_run_is_valid_for_every_reader(folder: Path, form: str) -> None:
    """By Bencher's page on its metric format, the interface and README of github-action-benchmark,
    and the table of PyTorch's database."""
    assert len(content(folder, form)) >= sum(row["status"] == "ok" for row in rows_of(folder))


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_names_are_unique(folder: Path) -> None:
    timed = sum(row["status"] == "ok" for row in rows_of(folder))
    assert len(content(folder, "bencher")) == timed
    names = [entry["name"] for entry in content(folder, "github-action")]
    assert len(names) == len(set(names)) > timed


@pytest.mark.parametrize("name", [name for name in Case.columns() if name != "variant"])
def test_each_column_of_a_case_changes_its_name(name: str) -> None:
    values = case().values
    other = {bool: True, int: 3, str: "other"}[type(values[name] if name != "layer" else 1)]
    assert benchmark_name(values | {name: other}) != benchmark_name(values)


def test_the_end_of_the_inputs_cannot_be_the_next_column() -> None:
    one = case(inputs="gaussian", layer=3).values
    assert benchmark_name(one) != benchmark_name(
        one | {"inputs": "gaussian layer=3", "layer": None}
    )


def test_bencher_gets_nanoseconds_bytes_and_errors_with_their_intervals(run: Path) -> None:
    found = content(run, "bencher")
    assert found[WINDOW] == {
        "latency": {"value": 2e6, "lower_value": 1.5e6, "upper_value": 2.75e6},
        "peak-memory-bytes": {"value": 4096},
        "approx-error-rel-l2": {"value": 0.5, "lower_value": 0.25, "upper_value": 0.75},
        "impl-error-rel-l2": {"value": 1e-7},
    }


def test_github_action_gets_the_half_width_of_each_interval(run: Path) -> None:
    found = {entry["name"]: entry for entry in content(run, "github-action")}
    time = found[f"{WINDOW}: time"]
    assert (time["value"], time["unit"], time["range"]) == (2.0, "ms", "± 0.625")
    assert time["extra"].splitlines()[1:] == ["median of 15 calls", "quartiles: 1.5 to 2.75"]
    assert found[f"{WINDOW}: error"]["range"] == "± 0.25"
    assert "range" not in found[f"{WINDOW}: peak memory"]


def test_pytorch_gets_one_record_for_each_number(run: Path) -> None:
    records = [each for each in content(run, "pytorch-v3") if each["model"]["name"] == WINDOW]
    metrics = {each["metric"]["name"]: each["metric"] for each in records}
    assert list(metrics) == [
        "latency_us",
        "peak_memory_bytes",
        "approx_error_rel_l2",
        "impl_error_rel_l2",
    ]
    assert metrics["latency_us"]["benchmark_values"] == [2000.0]
    assert metrics["latency_us"]["extra_info"]["q3"] == "2750.0"
    first = records[0]
    assert first["benchmark"]["mode"] == "inference"
    assert first["model"]["backend"] == "tiles"
    assert first["inputs"]["key"]["extra_info"] == {"shape": "1x2x32x16"}
    assert first["runners"][0]["cpu_count"] == ENVIRONMENT["hardware"]["cores"]
    assert first["dependencies"]["torch"]["repo"] == "pytorch/pytorch"


def test_the_error_of_another_operator_is_not_exported(run: Path) -> None:
    """A smaller difference between two operators is not better."""
    measures = content(run, "bencher").values()
    entries = [entry["name"].partition(": ")[2] for entry in content(run, "github-action")]
    metrics = [each["metric"]["name"] for each in content(run, "pytorch-v3")]
    assert ["approx-error-rel-l2" in each for each in measures] == [True, False]
    assert (entries.count("time"), entries.count("error")) == (2, 1)
    assert (metrics.count("latency_us"), metrics.count("approx_error_rel_l2")) == (2, 1)


def test_a_run_without_targets_takes_them_from_the_variants(run: Path) -> None:
    rows = rows_of(run)
    for row in rows:
        del row["target"]
    with (run / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    errors = ["approx-error-rel-l2" in measures for measures in content(run, "bencher").values()]
    assert errors == [True, False]


@pytest.mark.parametrize("form", SCHEMAS)
def test_cases_without_a_time_are_left_out_and_counted(run: Path, form: str) -> None:
    said = export(run, form)
    assert said.stderr == "1 of 3 cases have no time and are left out: 1 timeout\n"
    assert "n=64" not in said.stdout


def test_a_parquet_file_has_all_rows_with_the_types_of_the_schema(tmp_path: Path) -> None:
    out = tmp_path / "cases.parquet"
    assert export(MIXED, "parquet", "--out", str(out)).exit_code == 0
    found = duckdb.sql(f"FROM '{out}'")
    assert list(found.columns) == [*Measurement.columns(), *Origin.columns()]
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    wanted = {
        "causal": "BOOLEAN",
        "launch_bound": "BOOLEAN",
        "seq_len": "BIGINT",
        "peak_memory_bytes": "BIGINT",
        "time_ms_median": "DOUBLE",
        "status": "VARCHAR",
        "knob_value": "DOUBLE",
    }
    assert {name: types[name] for name in wanted} == wanted
    rows = rows_of(MIXED)
    timed = [row["time_ms_median"] for row in rows if row["status"] == "ok"]
    counts = f"SELECT count(*), count(time_ms_median), count(hyperparameters) FROM '{out}'"
    assert duckdb.sql(counts).fetchall() == [(len(rows), len(timed), len(rows))]
    times = duckdb.sql(f"SELECT time_ms_median FROM '{out}' WHERE status = 'ok'").fetchall()
    assert [time for (time,) in times] == list(map(float, timed))


TRACKED = {"approx_error_rel_l2": 0.5, "peak_memory_bytes": 4096, "speedup_vs_exact": 2.0}
BENCHMARK = """
import json, pytest

EXTRA = json.loads({extra!r})


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.clear()
    machine_info.update(json.loads({machine!r}))


def test_one(benchmark):
    benchmark.group = "forward n=32"
    benchmark.extra_info.update(EXTRA)
    benchmark.pedantic(sum, args=([1.0] * 1000,), rounds=5)
"""


@pytest.fixture(scope="module")
def plugin_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a file with the content of `make track`, as pytest-benchmark writes it."""
    folder = tmp_path_factory.mktemp("plugin")
    extra = {"case": case().values, "implementation_used": "tiles", **TRACKED}
    facts = {"settings": {}, **{name: ENVIRONMENT[name] for name in ("hardware", "software")}}
    machine = {"schema": SCHEMA, "fingerprint": fingerprint(facts), **facts}
    text = BENCHMARK.format(extra=json.dumps(extra), machine=json.dumps(machine))
    parts = text.partition("\n\ndef test_one")
    (folder / "conftest.py").write_text(parts[0])
    (folder / "test_one.py").write_text(
        f"import json\nEXTRA = json.loads({json.dumps(extra)!r})\n{parts[1]}{parts[2]}"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(folder), f"--benchmark-storage=file://{folder}"]
    own = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        [*command, "--benchmark-save=one", "--benchmark-save-data", str(folder)],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.rglob("*_one.json")
    return path.read_text()


@pytest.fixture
def tracked(tmp_path: Path, plugin_file: str) -> Path:
    path = tmp_path / "0001_one.json"
    path.write_text(plugin_file)
    return path


@pytest.mark.parametrize("form", SCHEMAS)
def test_a_tracking_file_is_valid_for_every_reader(tracked: Path, form: str) -> None:
    assert len(content(tracked, form)) > 0


def test_a_tracking_file_has_the_name_and_the_numbers_of_its_case(tracked: Path) -> None:
    stats = json.loads(tracked.read_text())["benchmarks"][0]["stats"]
    found = content(tracked, "bencher")[WINDOW]
    assert found["latency"]["value"] == pytest.approx(stats["median"] * 1e9)
    assert found["latency"]["upper_value"] == pytest.approx(stats["q3"] * 1e9)
    assert found["peak-memory-bytes"] == {"value": 4096}
    latency = content(tracked, "pytorch-v3")[0]["metric"]
    assert latency["benchmark_values"] == pytest.approx([1e6 * time for time in stats["data"]])


@pytest.mark.parametrize(
    ("commit", "sha"), [("a" * 40, ["a" * 40]), ("unversioned", []), ("unknown", [])]
)
def test_a_tracking_file_without_a_commit_names_none(
    tracked: Path, commit: str, sha: list[str]
) -> None:
    run = json.loads(tracked.read_text())
    run["commit_info"]["id"] = commit
    tracked.write_text(json.dumps(run))
    packages = content(tracked, "pytorch-v3")[0]["dependencies"]
    assert [package["sha"] for package in packages.values() if "sha" in package] == sha


def test_a_tracking_file_becomes_a_table(tracked: Path, tmp_path: Path) -> None:
    out = tmp_path / "cases.parquet"
    assert export(tracked, "parquet", "--out", str(out)).exit_code == 0
    asked = f"SELECT variant, seq_len, speedup_vs_exact, knob, is_default FROM '{out}'"
    assert duckdb.sql(asked).fetchall() == [("sliding_window", 32, 2.0, "window_size", False)]


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return path


def _benchmark(value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["benchmarks"][0]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it["machine_info"].pop("schema"), "expected the schema attention-tracking-1"),
        (lambda it: it.update(machine_info=3), "expected the schema attention-tracking-1"),
        (
            lambda it: it["machine_info"]["hardware"].update(cores=64),
            "the file was changed after it was stored",
        ),
        (lambda it: it["benchmarks"].clear(), "benchmarks: expected `array` of length >= 1"),
        (lambda it: _benchmark(it)["stats"].update(median=float("nan")), "median"),
        (lambda it: _benchmark(it)["stats"].update(median=-1.0), "median"),
        (lambda it: _benchmark(it)["stats"].update(data=[1.0, float("inf")]), "data"),
        (lambda it: _benchmark(it)["extra_info"].pop("case"), "expected the columns of a case"),
        (lambda it: _benchmark(it)["extra_info"]["case"].pop("seq_len"), "benchmarks[0]"),
        (lambda it: _benchmark(it)["extra_info"].update(peak_memory_bytes="x"), "benchmarks[0]"),
    ],
)
def test_a_tracking_file_that_does_not_fit_ends_with_one_sentence(
    tracked: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    refused(export(changed(tracked, change), "bencher"), said)


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_truncated_tracking_file_ends_with_one_sentence(tracked: Path) -> None:
    tracked.write_text(tracked.read_text()[:-40])
    refused(export(tracked, "bencher"), "is not a JSON file")


def test_other_bad_input_ends_with_one_sentence(run: Path, tmp_path: Path) -> None:
    refused(export(tmp_path / "none", "bencher"), "none/results.csv")
    refused(export(run, "bencher", "--out", str(tmp_path / "none" / "x")), "there is no folder")
    refused(export(run, "bencher", "--out", str(tmp_path)), "got a folder")
    text = (run / "results.csv").read_text()
    (run / "results.csv").write_text(text[: len(text) - 30])
    refused(export(run, "bencher"), "results.csv: line 4")
    (run / "results.csv").write_text(text.splitlines()[0])
    refused(export(run, "bencher"), "has no rows")


def test_a_run_without_a_time_is_not_exported(run: Path) -> None:
    failed = Measurement.of(case(), Status.TIMEOUT, "took longer than 9 s")
    write_table(run / "results.csv", Measurement.columns(), [failed.values])
    refused(export(run, "github-action"), "has no case with status ok")


def test_an_unknown_format_and_parquet_without_a_file_are_usage_errors(run: Path) -> None:
    assert "'bencher', 'github-action', 'pytorch-v3', 'parquet'" in export(run, "xml").stderr
    said = export(run, "parquet")
    assert said.exit_code == 2
    assert "--format parquet needs --out FILE" in said.stderr


@pytest.mark.parametrize("form", ["bencher", "parquet"])
def test_a_file_is_replaced_only_by_a_complete_one(run: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "kept"
    out.write_text("before")
    whole = (run / "environment.json").read_text()
    (run / "environment.json").write_text(whole[:-9])
    assert export(run, form, "--out", str(out)).exit_code == 2
    assert out.read_text() == "before"
    (run / "environment.json").write_text(whole)
    assert export(run, form, "--out", str(out)).exit_code == 0
    assert out.read_bytes() != b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "run"]
