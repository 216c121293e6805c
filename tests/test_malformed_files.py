"""Files that are damaged, of another shape, or of another run: each ends every command that reads
it with one sentence and exit status 2."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from bench.cli.commands import main as bench
from bench.inputs.captured import Capture
from bench.loop.journal import FILE as JOURNAL
from bench.loop.journal import Journal
from bench.loop.result_files import write_json, write_table
from bench.plan.sweep import Sweep
from bench.schema.measurement import HeadRow, Measurement, Raw
from bench.schema.model_row import ModelCase, ModelRow
from bench.schema.outcome import Status
from bench.schema.row import Row
from bench.schema.validation import FileError
from bench.workloads.sweep_workload import SweepWorkload
from reports.__main__ import main as reports
from reports.html import facts
from reports.rows import read_runs
from tests.cases import ENVIRONMENT, HEAD, capture_file, case, good
from variants import parse

SWEEP = Sweep(
    "axes", ({"variant": ("sliding_window window_size=8",), "seq_len": (16, 32, 48, 64)},)
)


MODEL_ROW = ModelRow.of(
    ModelCase(
        attention=parse("full"),
        model="tiny",
        text="a text",
        text_sha256="0" * 64,
        layers="all",
        device="cpu",
        dtype="float32",
        seq_len=64,
    ),
    Status.OK,
    **(dict.fromkeys(ModelRow.numbers(), 1.0) | {"passes": 1}),
)


class Said:
    """What a command has printed, and its exit status."""

    def __init__(self, command: Any, *words: object) -> None:
        done = CliRunner().invoke(command, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.status, self.out, self.err = done.exit_code, done.stdout, done.stderr
        self.invalid = 3 if words[0] == "compare" else 2  # the status of invalid input

    def refused(self) -> str:
        """The sentence of a command that refused a file."""
        assert self.status == self.invalid, (self.status, self.out, self.err)
        (line,) = self.err.splitlines()
        assert line.startswith("Error: ")
        assert line.isprintable(), ascii(line)
        assert len(line) < 1000
        return line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small finished run of a sweep, with a journal."""
    workload = SweepWorkload(SWEEP, "cpu", {}, 0.2, 9.0)
    folder = tmp_path / "run"
    folder.mkdir()
    environment = {**ENVIRONMENT, **workload.facts()}
    journal = Journal(folder)
    journal.header(command="run", environment=environment, **workload.header())
    for one in workload.cases:
        journal.started(one)
        row = good(one, approx_error_rel_l2=0.5, peak_memory_bytes=2**20, repeats=3)
        journal.result(row, Raw([1.0, 2.0], [HEAD]))
    journal.close()
    rows = [json.loads(line)["row"] for line in lines(folder) if '"result"' in line]
    write_table(folder / "results.csv", Measurement.columns(), rows)
    case_columns = Measurement.case_type.columns()
    heads = [{name: row[name] for name in case_columns} | HEAD.values for row in rows]
    write_table(folder / "heads.csv", {**case_columns, **HeadRow.columns()}, heads)
    write_json(folder / "environment.json", environment)
    return folder


def lines(folder: Path) -> list[str]:
    return (folder / JOURNAL).read_text().splitlines()


@pytest.fixture
def model_run(tmp_path: Path) -> Path:
    """A run with a model: one row."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_table(folder / "model.csv", ModelRow.columns(), [MODEL_ROW.values])
    model = {"name": "tiny", "layers": 2, "context": 128, "knobs": {}, "parameters": 9}
    write_json(folder / "environment.json", {**ENVIRONMENT, "model": model})
    journal = Journal(folder)
    journal.header(
        command="model",
        environment={**ENVIRONMENT, "model": model},
        setup={"model": "m", "text": "t", "device": "cpu", "dtype": "float32", "passes": 1},
        cases=[MODEL_ROW.case.values],
        timeout=9.0,
    )
    journal.close()
    return folder


def test_the_runs_of_this_file_can_be_read(run: Path, model_run: Path) -> None:
    """Otherwise the other tests would pass for another reason."""
    assert Said(reports, "build", run).status == 0
    assert Said(reports, "build", model_run).status == 0
    assert Said(bench, "compare", run, run).status == 0


# Whole files

DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2].rstrip(b"\n"),
    "a quarter": lambda content: content[: len(content) // 4].rstrip(b"\n"),
    "without its last byte": lambda content: content.rstrip(b"\n")[:-1],
    "NUL": lambda content: content[:40] + b"\0" + content[40:],
    "not UTF-8": lambda content: content[:40] + b"\xff\xfe" + content[40:],
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "twice": lambda content: content + content,
    "binary": lambda content: bytes(range(256)) * 8,
    "brackets": lambda content: b"[" * 100_000,
    "braces": lambda content: b'{"a":' * 100_000,
    "text": lambda content: b"hello",
    "a page": lambda content: b"<html><body>404 Not Found</body></html>\n",
    "one long line": lambda content: b"x" * 2_000_000,
    "a number": lambda content: b"7\n",
    "a huge number": lambda content: b"9" * 10_000,
    "null": lambda content: b"null\n",
    "a list": lambda content: b"[1, 2]\n",
}


@pytest.mark.parametrize("how", DAMAGED)
@pytest.mark.parametrize("name", ["results.csv", "heads.csv", "environment.json"])
def test_a_report_of_a_damaged_file_is_refused(run: Path, name: str, how: str) -> None:
    content = DAMAGED[how]((run / name).read_bytes())
    if name.endswith(".csv") and how in ("half", "a quarter", "without its last byte"):
        content = content[: content.rindex(b",")]  # at a comma: within a number it is a row
    (run / name).write_bytes(content)
    assert name in Said(reports, "build", run).refused()


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_table_of_a_model_is_refused(model_run: Path, how: str) -> None:
    content = DAMAGED[how]((model_run / "model.csv").read_bytes())
    if how in ("half", "a quarter", "without its last byte"):
        content = content[: content.rindex(b",")]
    (model_run / "model.csv").write_bytes(content)
    assert "model.csv" in Said(reports, "build", model_run).refused()


@pytest.mark.parametrize("how", DAMAGED)
def test_a_comparison_with_a_damaged_file_is_refused(run: Path, how: str) -> None:
    other = shutil.copytree(run, run.with_name("other"))
    content = DAMAGED[how]((run / "results.csv").read_bytes())
    if how in ("half", "a quarter", "without its last byte"):
        content = content[: content.rindex(b",")]
    (run / "results.csv").write_bytes(content)
    for pair in ((run, other), (other, run)):
        assert str(run / "results.csv") in Said(bench, "compare", *pair).refused()


@pytest.mark.parametrize("how", [how for how in DAMAGED if how != "twice"])
def test_a_run_with_a_damaged_journal_is_not_continued(run: Path, how: str) -> None:
    content = DAMAGED[how]((run / JOURNAL).read_bytes())
    (run / JOURNAL).write_bytes(content.rstrip(b"\n") + b"\n")
    assert "Error: " in Said(bench, "run", "--resume", run).refused()


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_sweep_is_not_planned(tmp_path: Path, how: str) -> None:
    sweep = tmp_path / "mine.toml"
    sweep.write_bytes(DAMAGED[how](b'variant = ["full"]\nseq_len = [16, 32]\nheads = [1, 2]\n'))
    assert "mine" in Said(bench, "plan", sweep).refused() or how == "empty"


@pytest.mark.parametrize("how", [how for how in DAMAGED if how not in ("twice", "NUL")])
def test_a_damaged_capture_is_refused(tmp_path: Path, how: str) -> None:
    capture = tmp_path / "mine.safetensors"
    capture_file(capture)
    capture.write_bytes(DAMAGED_CAPTURE.get(how, DAMAGED[how])(capture.read_bytes()))
    words = ("--set", f"inputs=file:{capture}", "--set", "seq_len=16")
    assert "mine.safetensors" in Said(bench, "plan", *words).refused()


DAMAGED_CAPTURE: dict[str, Callable[[bytes], bytes]] = {
    "UTF-16": lambda content: content[8:],
    "not UTF-8": lambda content: content.replace(b"attention-capture-1", b"attention-capture\xff1"),
}


@pytest.mark.parametrize("name", ["results.csv", "heads.csv", "environment.json"])
def test_a_folder_in_place_of_a_file_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).mkdir()
    if name != "heads.csv":  # which is optional
        assert name in Said(reports, "build", run).refused()


def test_folders_in_place_of_other_files_are_refused(run: Path, tmp_path: Path) -> None:
    (run / JOURNAL).unlink()
    (run / JOURNAL).mkdir()
    Said(bench, "run", "--resume", run).refused()
    (tmp_path / "mine.toml").mkdir()
    Said(bench, "plan", tmp_path / "mine.toml").refused()
    Said(bench, "plan", "--set", f"inputs=file:{tmp_path}", "--set", "seq_len=8").refused()
    Said(bench, "compare", run / "results.csv", run).refused()
    Said(reports, "build", run / "results.csv").refused()


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "\udcff", "no such name"])
def test_a_name_that_no_file_can_have_is_refused(run: Path, name: str) -> None:
    Said(reports, "build", name).refused()
    Said(reports, "build", run, name).refused()
    Said(bench, "compare", name, run).refused()
    Said(bench, "run", "--resume", name).refused()
    Said(bench, "model", "--resume", name).refused()
    Said(bench, "train", "--resume", name).refused()
    Said(bench, "plan", name).refused()
    Said(bench, "plan", f"{name}.toml").refused()
    Said(bench, "plan", "--set", f"inputs=file:{name}", "--set", "seq_len=8").refused()


# Single values of tables

IMPOSSIBLE = {
    "time_ms_median": ("0", "-1", "inf", "nan", "1e308", "1e-320", "1e999", "fast", "1,5", "True"),
    "peak_memory_bytes": ("-1", str(2**63), "1.5", "inf", "nan", "1e300", "9" * 400),
    "seq_len": ("0", "-1", "nan", "1e308", "", "16.5", str(2**63)),
    "heads": ("0", "-8", "", "many"),
    "kv_heads": ("0", "nan"),
    "head_dim": ("0", str(2**62)),
    "batch": ("0", "-1"),
    "layer": ("-2", "x"),
    "seed": ("-1", "1.5", str(2**63), "nan"),
    "approx_error_rel_l2": ("inf", "nan", "-0.1", "1e308", "-inf"),
    "mass_recall": ("9e15", "-1", "inf", "1.5"),
    "approx_cosine": ("2", "nan"),
    "speedup_vs_exact": ("0", "inf"),
    "causal": ("", "maybe", "2"),
    "direction": ("", "sideways", "forward\n"),
    "dtype": ("float8", ""),
    "device": ("tpu", "cuda:0"),
    "status": ("", "fine", "OK"),
    "inputs": ("x" * 501, "x" * 1_000_000, "a\x1b[31mb", "a\nb"),
    "hyperparameters": ("x" * 501,),
    "reason": ("x" * 10_001,),
}


def changed(path: Path, column: str, value: str, row: int = 1) -> None:
    """Replace a field of a CSV file."""
    header, *rows = csv.reader(io.StringIO(path.read_text()))
    rows[row][header.index(column)] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.mark.parametrize(
    ("column", "value"),
    [(column, value) for column, values in IMPOSSIBLE.items() for value in values],
    ids=lambda text: ascii(text)[:20],
)
def test_an_impossible_value_is_named_by_report_and_comparison(
    run: Path, column: str, value: str
) -> None:
    other = shutil.copytree(run, run.with_name("other"))
    changed(run / "results.csv", column, value)
    wanted = rf"results\.csv: (column {column}, row 2: expected .*, got|line 3: .*field limit)"
    for said in (Said(reports, "build", run), Said(bench, "compare", other, run)):
        assert re.search(wanted, said.refused())


def test_a_row_with_status_ok_and_no_time_is_refused(run: Path) -> None:
    changed(run / "results.csv", "time_ms_median", "")
    assert (
        "column time_ms_median, row 2: expected a number" in Said(reports, "build", run).refused()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0], [*rows[1], "9"], *rows[2:]], "line 2: expected .* fields"),
        (lambda rows: [rows[0], rows[1][:-1], *rows[2:]], "line 2: expected .* fields"),
        (lambda rows: [[*rows[0], "seq_len"], *([*r, "9"] for r in rows[1:])], "'seq_len' twice"),
        (lambda rows: [rows[0], *rows[1:], *rows], "row 5: expected .*, got"),
        (lambda rows: rows[1:], "lacks |twice"),
    ],
)
def test_a_table_of_another_shape_is_refused(
    run: Path, change: Callable[[list[list[str]]], list[list[str]]], message: str
) -> None:
    path = run / "results.csv"
    with io.StringIO(path.read_text()) as text:
        rows = change(list(csv.reader(text)))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for said in (Said(reports, "build", run), Said(bench, "compare", run, run)):
        assert re.search(message, said.refused())


def test_files_of_a_spreadsheet_are_read(run: Path) -> None:
    """With a byte order mark, capitals, other line ends, another order, integers as 3.0."""
    before = Said(bench, "compare", run, run).out
    path = run / "results.csv"
    header, *rows = csv.reader(io.StringIO(path.read_text()))
    capitals = {"True": "TRUE", "False": "FALSE"}
    floats = [header.index(name) for name in ("seq_len", "heads", "peak_memory_bytes", "repeats")]
    for row in rows:
        row[:] = [capitals.get(field, field) for field in row]
        for place in floats:
            row[place] = f"{row[place]}.0"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, lineterminator="\r\n").writerows(row[::-1] for row in [header, *rows])
    assert Said(bench, "compare", run, run).out == before
    assert Said(reports, "build", run).status == 0


@pytest.mark.parametrize("rows", [Measurement, ModelRow])
def test_no_number_of_a_row_may_be_nan_infinite_or_a_text(rows: type[Row[Any]]) -> None:
    """Such a row is neither written nor read."""
    values = good(case()).values if rows is Measurement else MODEL_ROW.values
    rows.check(values)
    for name in rows.numbers():
        for wrong in (float("nan"), float("inf"), -float("inf"), "1", [1], 10**400):
            with pytest.raises(ValueError, match=f"{name}: expected "):
                rows.check({**values, name: wrong})


# Single values of JSON

WRONG: tuple[Any, ...] = (None, 7, -1, 1.5, "text", True, [], ["x"], {}, {"x": None}, 10**30)


def places(value: Any, *keys: Any) -> Iterator[tuple[Any, ...]]:
    """The places of all values in an object."""
    for key, inner in value.items():
        yield (*keys, key)
        if isinstance(inner, dict):
            yield from places(inner, *keys, key)


def put(value: dict[str, Any], keys: tuple[Any, ...], new: Any) -> dict[str, Any]:
    """A copy with another value at one place."""
    first, *rest = keys
    return {**value, first: put(value[first], tuple(rest), new) if rest else new}


FACTS = {
    **ENVIRONMENT,
    "sweep": {
        "name": "axes",
        "groups": [{"seq_len": [16]}],
        "timeout": 9.0,
        "knobs": {"full": ""},
        "modules": ["some.module"],
        "added": ["full/other"],
    },
}


@pytest.mark.parametrize("keys", [*places(FACTS)], ids=lambda keys: ".".join(keys))
def test_any_value_in_an_environment_is_used_or_refused(run: Path, keys: tuple[Any, ...]) -> None:
    refused = []
    for new in WRONG:
        write_json(run / "environment.json", put(FACTS, keys, new))
        message = ""
        try:
            runs = read_runs([run])
        except FileError as error:
            message = str(error)
            refused.append(new)
        else:  # the page shows what is read
            assert all(dict(facts(seen)) for seen in runs.environments.values())
        assert "environment.json: " in message or new not in refused
    assert refused or keys == ("schema",)
    if refused:
        write_json(run / "environment.json", put(FACTS, keys, refused[0]))
        assert "environment.json" in Said(reports, "build", run).refused()


@pytest.fixture
def no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends where it would start a worker."""

    def stop(*_: Any, **__: Any) -> None:
        raise AssertionError("the run was continued")

    monkeypatch.setattr("bench.cli.run_command.run_loop", stop)
    monkeypatch.setattr("bench.cli.model_command.run", stop)
    monkeypatch.setattr("bench.cli.train_command.run", stop)


def rewritten(folder: Path, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace an event of a journal."""
    found = lines(folder)
    found[number] = json.dumps(change(json.loads(found[number])))
    (folder / JOURNAL).write_text("\n".join(found) + "\n")


NEEDED = (
    ("environment",),
    ("device",),
    ("files",),
    ("environment", "hardware"),
    ("environment", "software"),
    ("environment", "limits"),
    ("environment", "limits", "matmul_tflops"),
    ("environment", "sweep"),
    ("environment", "sweep", "name"),
    ("environment", "sweep", "groups"),
)


@pytest.mark.usefixtures("no_measurement")
@pytest.mark.parametrize("keys", NEEDED, ids=lambda keys: ".".join(keys))
def test_a_header_without_or_with_another_type_of_a_needed_value_is_refused(
    run: Path, keys: tuple[str, ...]
) -> None:
    header = json.loads(lines(run)[0])
    for new in (*WRONG[:7], {"x": {}}, [[[["x"]]]]):
        fits = (new == "text" and keys[-1] == "name") or (
            isinstance(new, dict) and keys[-1] == "hardware"
        )
        if fits:
            continue
        rewritten(run, 0, lambda _, new=new: put(header, keys, new))
        Said(bench, "run", "--resume", run).refused()

    def without(value: dict[str, Any], first: str, *rest: str) -> dict[str, Any]:
        if rest:
            return {**value, first: without(value[first], *rest)}
        return {name: inner for name, inner in value.items() if name != first}

    rewritten(run, 0, lambda _: without(header, *keys))
    assert "expected the name" in Said(bench, "run", "--resume", run).refused()


RESULT = 2  # the first event with a row


@pytest.mark.usefixtures("no_measurement")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_ms_median": "text"}, "time_ms_median: expected a time .*, got 'text'"),
        ({"time_ms_median": float("nan")}, "time_ms_median: expected a time .*, got nan"),
        ({"time_ms_median": -1}, "time_ms_median: expected a time"),
        ({"time_ms_median": 10**400}, "line 3: expected integers within 64 bits"),
        ({"time_ms_median": None}, "needs time_ms_median"),
        ({"status": "fine"}, "status: expected one of ok"),
        ({"status": "error"}, "has no numbers"),
        ({"seq_len": 17}, "expected the row of case"),
        ({"seq_len": "16"}, "seq_len: expected a whole number"),
        ({"seq_len": 16.5}, "seq_len: expected a whole number"),
        ({"causal": 1}, "causal: expected True or False"),
        ({"variant": "nosuch"}, "nosuch"),
        ({"variant": None}, "variant: expected a text"),
        ({"hyperparameters": "window_size=8 window_size=8"}, "is given twice"),
        ({"hyperparameters": "window_size=-8"}, "window_size"),
        ({"reason": ["x"]}, "reason: expected"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_wrong_row_of_a_journal_is_refused(
    run: Path, change: dict[str, Any], message: str
) -> None:
    rewritten(run, RESULT, lambda event: {**event, "row": {**event["row"], **change}})
    assert re.search(message, Said(bench, "run", "--resume", run).refused())


@pytest.mark.usefixtures("no_measurement")
@pytest.mark.parametrize(
    "event",
    [
        {"event": "result"},
        {"event": "result", "case_id": "x", "row": None},
        {"event": "result", "case_id": "x", "row": []},
        {"event": "result", "case_id": "x", "row": {}},
        {"event": "result", "case_id": 7, "row": {}},
        {"event": "started"},
        {"event": "interrupted", "case_id": None},
        {"event": "machine", "host": "h", "environment": {}},
        {"event": "machine", "host": "h", "environment": None},
        {"event": "selfcheck", "host": "h", "when": "start", "found": 7},
        {"event": "unheard of"},
        {"event": None},
        {"event": ["run"]},
        {"case_id": "no event"},
        {"event": "run", "command": "train"},
        {"event": "run", "device": "cpu"},
        [1, 2],
        None,
        "text",
        7,
    ],
    ids=lambda event: ascii(event)[:30],
)
def test_a_wrong_event_of_a_journal_is_refused(run: Path, event: Any) -> None:
    with (run / JOURNAL).open("a") as file:
        file.write(json.dumps(event) + "\n")
    assert "line 10" in Said(bench, "run", "--resume", run).refused()


def test_a_result_under_the_id_of_another_case_is_refused(run: Path) -> None:
    other = json.loads(lines(run)[4])
    rewritten(run, RESULT, lambda event: {**event, "row": other["row"]})
    assert "expected the row of case" in Said(bench, "run", "--resume", run).refused()


def test_results_that_the_sweep_of_the_header_does_not_plan_are_refused(run: Path) -> None:
    header = json.loads(lines(run)[0])
    groups = [{**header["environment"]["sweep"]["groups"][0], "seq_len": [64]}]
    rewritten(run, 0, lambda _: put(header, ("environment", "sweep", "groups"), groups))
    said = Said(bench, "run", "--resume", run).refused()
    assert "3 results of cases that its sweep does not have" in said


@pytest.mark.usefixtures("no_measurement")
def test_journals_of_two_runs_in_one_file_are_refused(run: Path) -> None:
    header = json.loads(lines(run)[0])
    second = json.dumps(put(header, ("environment", "host"), "host-2"))
    with (run / JOURNAL).open("a") as file:
        file.write("\n".join([second, *lines(run)[1:]]) + "\n")
    said = Said(bench, "run", "--resume", run).refused()
    assert "line 10: expected one header, got a second one of another run" in said


@pytest.mark.usefixtures("no_measurement")
def test_a_name_that_occurs_twice_in_an_event_is_refused(run: Path) -> None:
    text = (run / JOURNAL).read_text()
    (run / JOURNAL).write_text(text.replace('"repeats": 3', '"repeats": 3, "repeats": 4', 1))
    assert "'repeats' twice" in Said(bench, "run", "--resume", run).refused()


@pytest.mark.usefixtures("no_measurement")
@pytest.mark.parametrize(
    "keys", [("environment",), ("environment", "model"), ("setup",), ("cases",), ("timeout",)]
)
def test_a_wrong_header_of_a_run_with_a_model_is_refused(
    model_run: Path, keys: tuple[str, ...]
) -> None:
    header = json.loads(lines(model_run)[0])
    for new in (None, "text", [], [7], [{}], -1, {"x": 1}):
        rewritten(model_run, 0, lambda _, new=new: put(header, keys, new))
        Said(bench, "model", "--resume", model_run).refused()


# Sweeps and captures


@pytest.mark.parametrize(
    "value", ["{}", "{a = 1}", "[[1]]", "nan", "1979-05-27", "'x'", "-1", "[]"]
)
@pytest.mark.parametrize(
    "axis", ["seq_len", "heads", "batch", "dtype", "causal", "inputs", "seed", "timeout", "longest"]
)
def test_a_wrong_value_of_an_axis_is_refused(tmp_path: Path, axis: str, value: str) -> None:
    sweep = tmp_path / "mine.toml"
    others = "variant = ['full']\n" + ("" if axis == "seq_len" else "seq_len = [16]\n")
    sweep.write_text(f"{axis} = {value}\n{others}")
    assert axis in Said(bench, "plan", sweep).refused() or axis == "inputs"


@pytest.mark.parametrize(
    "setting",
    [
        f"seq_len={'9' * 5000}",
        "seq_len=0",
        "seq_len=1e3",
        f"heads={2**40}",
        f"seed={'9' * 25}",
        "inputs=",
        "inputs=a[b]",
        f"variant={'x' * 5000}",
        "variant=full window_size=1",
        "x",
    ],
    ids=lambda text: text[:20],
)
def test_a_wrong_setting_is_refused(setting: str) -> None:
    said = Said(bench, "plan", "--set", "seq_len=8", "--set", setting)
    assert said.status == 2
    assert len(said.err) < 1500


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "9" * 9_000, "[1e999]", "{}", "[null]", "[3, 3]", ""]
)
@pytest.mark.parametrize("key", ["layers", "query_heads", "kv_heads", "tokens", "scale"])
def test_wrong_metadata_of_a_capture_are_refused(tmp_path: Path, key: str, text: str) -> None:
    capture = tmp_path / "mine.safetensors"
    tensors = capture_file(capture)
    metadata = Capture.open(capture).metadata
    save_file(tensors, capture, {**metadata, key: text})
    words = ("--set", f"inputs=file:{capture}", "--set", "seq_len=16")
    assert "mine.safetensors" in Said(bench, "plan", *words).refused()
