"""Machines of one kind are shown as one; machines of different kinds are never compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from bench.schema.measurement import Measurement
from bench.schema.validation import FileError
from reports import measured_by, noise
from reports.answers import answers
from reports.build import build_report
from reports.growth import audit
from reports.listing import listing
from reports.peer_races import races
from reports.rows import read_runs
from reports.slices import panels, split
from tests.test_reports import ENVIRONMENT, done, failed, write

CHECK = {"resolution": 0.02, "disturbed": ""}


def machine(host: str, **changes: Any) -> dict[str, Any]:
    """A machine with two cores; `changes` are of its hardware, software or settings."""
    hardware = {"processor": "Some CPU", "cores": 2, "threads": 2, "gpu": None}
    software = {"python": "3.11.7", "torch": "2.13.0"}
    return {
        "host": host,
        "hardware": {k: changes.get(k, v) for k, v in hardware.items()},
        "software": {k: changes.get(k, v) for k, v in software.items()},
        "settings": changes.get("settings", {}),
    }


def on(host: str, row: Measurement, **changes: Any) -> Measurement:
    return replace(row, host=host, **changes)


FIRST = machine("a")
NAME = "cpu, Some CPU, 2 threads"
PEERS = {
    "sweep": {
        "name": "peers",
        "groups": [],
        "modules": ["bench.peers"],
        "added": ["linear/public"],
    }
}


def run(folder: Path, rows: Sequence[Measurement], *others: dict[str, Any], **facts: Any) -> Path:
    """A run whose first machine is `FIRST`."""
    machines = {other["host"]: other for other in others}
    return write(folder, rows, {**ENVIRONMENT, **FIRST, "machines": machines, **facts})


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows of two machines of one kind, and rows of a worker with one CPU.

    The worker with one CPU takes eight times as long, and measured every second length.
    """
    rows = []
    for number, length in enumerate((256, 512, 1024, 2048)):
        host = "c" if number % 2 else "ab"[number // 2]
        slow = 8.0 if host == "c" else 1.0
        rows += [
            on(host, done(slow * length / 256, seq_len=length, direction="forward")),
            on(host, done(slow, 0.1, variant="linear", seq_len=length)),
        ]
    lost = on("a", done(seq_len=4096), attempts=2, repeated_because="its machine was lost")
    again = on("a", done(seq_len=8192), repeated_because="other load disturbed it")
    checks = {host: {"start": CHECK} for host in "abc"}
    return run(
        tmp_path / "run",
        [*rows, lost, again],
        machine("b"),
        machine("c", threads=1),
        selfchecks=checks,
    )


def test_machines_of_one_kind_have_one_name_and_others_have_their_own(mixed: Path) -> None:
    runs = read_runs([mixed])
    hosts = {name: set(rows["host"]) for name, rows in runs.frame.groupby("machine", sort=True)}
    assert hosts == {"cpu, Some CPU, 1 thread": {"c"}, NAME: {"a", "b"}}
    threads = {name: one["hardware"]["threads"] for name, one in runs.environments.items()}
    assert threads == {"cpu, Some CPU, 1 thread": 1, NAME: 2}
    assert {one["sweep"]["name"] for one in runs.environments.values()} == {"cpu"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"cores": 8}, {f"{NAME}, 2 cores", f"{NAME}, 8 cores"}),
        ({"cores": None}, {f"{NAME}, 2 cores", f"{NAME}, cores unknown"}),
        ({"torch": "2.14.0"}, {f"{NAME}, torch 2.13.0", f"{NAME}, torch 2.14.0"}),
        ({"processor": "Other CPU"}, {NAME, "cpu, Other CPU, 2 threads"}),
        (
            {"settings": {"OMP_WAIT_POLICY": "passive"}},
            {f"{NAME}, no settings of OpenMP", f"{NAME}, OMP_WAIT_POLICY=passive"},
        ),
        ({"settings": {"OMP_NUM_THREADS": "2"}}, {NAME}),
        ({"settings": {"MALLOC_MMAP_MAX_": "0"}}, {NAME, f"{NAME}, memory kept"}),
    ],
)
def test_the_names_of_two_kinds_have_the_facts_that_differ(
    tmp_path: Path, change: dict[str, Any], names: set[str]
) -> None:
    rows = [on("a", done()), on("b", done(seq_len=512))]
    folder = run(tmp_path / "run", rows, machine("b", **change))
    assert set(read_runs([folder]).frame["machine"]) == names


def test_kinds_of_two_runs_are_told_apart_too(tmp_path: Path) -> None:
    first = run(tmp_path / "first", [on("a", done())])
    second = write(tmp_path / "second", [on("b", done(seq_len=512))], machine("b", torch="2.14.0"))
    assert len(set(read_runs([first, second]).frame["machine"])) == 2


def test_machines_of_one_gpu_and_different_processors_are_two_kinds(tmp_path: Path) -> None:
    rows = [on(host, done(device="cuda", seq_len=n)) for host, n in (("a", 256), ("b", 512))]
    folder = write(
        tmp_path / "run",
        rows,
        {
            **machine("a", gpu="Some GPU"),
            "machines": {"b": machine("b", gpu="Some GPU", processor="Other CPU")},
        },
    )
    assert set(read_runs([folder]).frame["machine"]) == {
        "cuda, Some GPU, Some CPU",
        "cuda, Some GPU, Other CPU",
    }


def test_rows_without_a_machine_are_those_of_the_first(tmp_path: Path) -> None:
    rows = [done(), on("b", done(seq_len=512))]
    folder = run(tmp_path / "run", rows, machine("b", threads=1))
    assert list(read_runs([folder]).frame["machine"]) == [NAME, "cpu, Some CPU, 1 thread"]


def test_no_slice_panel_answer_or_fit_has_rows_of_two_kinds(mixed: Path) -> None:
    frame = read_runs([mixed]).frame
    parts = split(frame)
    assert len(parts) == 2
    for part in parts:
        assert part.rows["machine"].nunique() == 1
        for panel in panels(part.rows, x="seq_len", row="source", column="dtype"):
            assert panel.rows["machine"].nunique() == 1
        lengths = set(part.rows["seq_len"])
        assert {answer.scene["seq_len"] for answer in answers(part)} == lengths
    # The fits of the slow worker, which has two lengths only, do not exist.
    assert {curve.case["machine"] for curve in audit(frame).curves} == {NAME}


def test_implementations_are_not_raced_on_machines_of_different_kinds(tmp_path: Path) -> None:
    ours = done(4.0, variant="linear", implementation="auto")
    public = done(1.0, variant="linear", implementation="public")

    def raced(host: str) -> list[Any]:
        rows = [on("a", ours), on(host, public)]
        folder = run(tmp_path / host, rows, machine("b"), machine("c", threads=1), **PEERS)
        return races(read_runs([folder]).frame)

    assert len(raced("a")) == len(raced("b")) == 1
    assert raced("c") == []


def test_races_on_several_kinds_name_the_machine(tmp_path: Path) -> None:
    rows = [
        on(host, done(time, variant="linear", implementation=name, seq_len=n))
        for host, n in (("a", 256), ("c", 512))
        for name, time in (("auto", 1.0), ("public", 2.0))
    ]
    folder = run(tmp_path / "run", rows, machine("c", threads=1), **PEERS)
    cases = [race.case for race in races(read_runs([folder]).frame)]
    assert [case.split(" · ")[0] for case in cases] == ["cpu, Some CPU, 1 thread", NAME]


def test_the_table_of_all_cases_has_a_column_for_the_machine(mixed: Path) -> None:
    shown = listing(read_runs([mixed]).frame)
    (column,) = (column for column in shown.columns if column.title == "machine")
    assert column.choices == ("cpu, Some CPU, 1 thread", NAME)


def sentences(folder: Path) -> dict[str, list[str]]:
    return measured_by.of_machines(read_runs([folder]))


def test_the_report_counts_machines_and_rows_that_were_measured_again(mixed: Path) -> None:
    assert sentences(mixed) == {
        "cpu, Some CPU, 1 thread": ["1 machine of this kind measured 4 rows."],
        NAME: [
            "2 machines of this kind measured 4 and 2 rows; the table describes one of them.",
            "2 rows were measured again: its machine was lost (1) and other load disturbed it (1).",
        ],
    }


def test_gpus_are_counted_and_old_rows_are_not(tmp_path: Path) -> None:
    rows = [
        on("a", failed(device="cuda", seq_len=2**n), device_id="xy"[n % 2]) for n in range(8, 12)
    ]
    folder = write(tmp_path / "run", rows, machine("a", gpu="Some GPU"))
    (found,) = sentences(folder).values()
    assert found == ["1 machine of this kind with 2 GPUs measured 4 rows."]
    assert sentences(write(tmp_path / "old", [done()])) == {NAME: []}


def test_selfchecks_are_shown_with_their_kind_of_machine(mixed: Path) -> None:
    found = noise.of_machines(read_runs([mixed]))
    assert [text[:2] for text in found[NAME]] == ["a:", "b:"]
    assert len(found["cpu, Some CPU, 1 thread"]) == 1


def test_selfchecks_of_several_runs_are_all_shown(tmp_path: Path) -> None:
    def part(host: str, length: int) -> Path:
        facts = {**machine(host), "selfchecks": {host: {"start": CHECK}}}
        return write(tmp_path / host, [on(host, done(seq_len=length))], facts)

    (found,) = noise.of_machines(read_runs([part("a", 256), part("b", 512)])).values()
    assert [text[:2] for text in found] == ["a:", "b:"]


def test_the_page_describes_each_kind_of_machine(mixed: Path) -> None:
    page = unescape(build_report([mixed]).read_text())
    section = page[page.index('id="machine"') :]
    for name, texts in sentences(mixed).items():
        assert f"<h3>{name}</h3>" in section
        assert all(text in section for text in texts)


def test_a_machine_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [on("b", done())], machine("b", threads="two"))
    with pytest.raises(FileError, match=r"environment\.json: .*threads: expected .*int"):
        read_runs([folder])
