"""Comparison of two runs: the pairs of rows, and the columns of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from bench.cli.commands import main
from bench.cli.stored_runs import WORDS, CompareError, table
from bench.loop.result_files import write_json, write_table
from bench.schema.case import Case
from bench.schema.columns import ATTENTION
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.schema.validation import FileError
from tests.cases import case, good

Rows = Sequence[Measurement]
Compare = Callable[[Rows, Rows], tuple[str, list[list[str]]]]
Quartiles = tuple[float, float, float]


MACHINE: dict[str, Any] = {
    "host": "one",
    "hardware": {"processor": "Some CPU", "cores": 2, "threads": 2, "gpu": None},
    "software": {"python": "3.11.7", "torch": "2.13.0"},
    "settings": {},
}
# A worker with one CPU of the same machine, and another machine of the first kind.
OTHERS = {
    "two": MACHINE | {"host": "two", "hardware": MACHINE["hardware"] | {"threads": 1}},
    "three": MACHINE | {"host": "three"},
}


def write(folder: Path, rows: Rows, environment: Mapping[str, Any] = MACHINE) -> Path:
    folder.mkdir()
    table = (row.values for row in rows)
    write_table(folder / "results.csv", Measurement.columns(), table)
    write_json(folder / "environment.json", environment)
    return folder


def timed(first: float, median: float, third: float, **changes: object) -> Measurement:
    return good(case(**changes), time_ms_q1=first, time_ms_median=median, time_ms_q3=third)


@pytest.fixture
def compared(tmp_path: Path) -> Compare:
    def compare(before: Rows, after: Rows) -> tuple[str, list[list[str]]]:
        """The title of the table and the cells of each row."""
        shown = table(write(tmp_path / "before", before), write(tmp_path / "after", after))
        return str(shown.title), cells(shown)

    return compare


def cells(shown: Table) -> list[list[str]]:
    """The cells of each row."""
    columns = [[str(cell) for cell in column.cells] for column in shown.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_the_ratio_is_after_to_before(compared: Compare) -> None:
    title, rows = compared([timed(1.9, 2.0, 2.1)], [timed(0.9, 1.0, 1.1)])
    assert title.splitlines() == [
        "1 case in both runs; ratio below 1 is faster",
        "gaussian cpu float32 not causal forward batch=1 n=32 h=2 head_dim=16 seed=0",
    ]
    assert rows == [["sliding_window", "2.000", "1.000", "0.500", ""]]


@pytest.mark.parametrize(
    ("before", "after", "overlap"),
    [
        ((1.0, 2.0, 3.0), (3.0, 4.0, 5.0), True),
        ((3.0, 4.0, 5.0), (1.0, 2.0, 3.0), True),
        ((1.0, 2.0, 9.0), (3.0, 4.0, 5.0), True),
        ((1.0, 2.0, 2.9), (3.0, 4.0, 5.0), False),
        ((3.0, 4.0, 5.0), (1.0, 2.0, 2.9), False),
    ],
)
def test_overlapping_quartiles_are_marked(
    compared: Compare, before: Quartiles, after: Quartiles, overlap: bool
) -> None:
    _, rows = compared([timed(*before)], [timed(*after)])
    assert rows[0][4] == ("quartiles overlap" if overlap else "")


def test_a_case_is_paired_only_with_the_same_case(compared: Compare) -> None:
    before = [timed(1, i + 1, 9, seed=i) for i in range(3)]
    after = [timed(1, 10 * (i + 1), 90, seed=i) for i in (2, 1, 7)]
    title, rows = compared(before, after)
    assert title.startswith("2 cases")
    assert [row[1:4] for row in rows] == [
        ["2.000", "20.000", "10.000"],
        ["3.000", "30.000", "10.000"],
    ]


def test_cases_with_and_without_a_layer_are_both_paired(compared: Compare) -> None:
    both = [timed(1, 2, 3), timed(1, 2, 3, inputs="smollm2", layer=15)]
    assert len(compared(both, both)[1]) == 2


def test_implementations_of_a_variant_have_different_labels(compared: Compare) -> None:
    both = [
        timed(1, 2, 3, variant="full", hyperparameters="", implementation=name)
        for name in ("sdpa", "plain")
    ]
    labels = [row[0] for row in compared(both, both)[1]]
    assert len(set(labels)) == 2
    assert {label.split()[0] for label in labels} == {"full/sdpa", "full/plain"}


def test_a_run_without_a_projections_column_is_compared(tmp_path: Path) -> None:
    both = [timed(1, 2, 3), timed(1, 2, 3, projections="shared")]
    after = write(tmp_path / "after", both)
    before = write(tmp_path / "before", both[:1])
    lines = (before / "results.csv").read_text().splitlines()
    place = tuple(Measurement.columns()).index("projections")
    cut = [",".join(x for i, x in enumerate(line.split(",")) if i != place) for line in lines]
    (before / "results.csv").write_text("\n".join(cut) + "\n")
    assert str(table(before, after).title).startswith("1 case in")
    labels = [str(cell) for cell in table(after, after).columns[0].cells]
    assert labels == ["sliding_window", "sliding_window shared projections"]


def test_a_label_has_only_what_varies_and_tells_all_rows_apart(compared: Compare) -> None:
    both = [
        timed(1, 2, 3, variant="full", implementation="sdpa", **more)
        for more in (
            {},
            {"causal": True},
            {"seq_len": 64},
            {"seq_len": 64, "key_len": 32},
            {"inputs": "smollm2", "layer": 3},
            {"inputs": "smollm2", "layer": 15},
            {"head_dim": 32},
            {"batch": 2},
            {"heads": 4},
            {"heads": 4, "kv_heads": 2},
        )
    ]
    both += [timed(1, 2, 3), timed(1, 2, 3, hyperparameters="window_size=16")]
    title, rows = compared(both, both)
    labels = [row[0] for row in rows]
    assert len(set(labels)) == len(labels) == len(both)
    assert "full/sdpa gaussian not causal batch=1 n=64 key_len=32 h=2 head_dim=16" in labels
    assert (
        "sliding_window window_size=16 gaussian not causal batch=1 n=32 h=2 head_dim=16" in labels
    )
    assert "full/sdpa smollm2 layer=15 not causal batch=1 n=32 h=2 head_dim=16" in labels
    assert title.splitlines()[1] == "cpu float32 forward seed=0"


def test_labels_of_the_reference_run_are_different() -> None:
    run = Path("results/reference/amd-epyc-2-threads")
    labels = [row[0] for row in cells(table(run, run))]
    assert len(set(labels)) == len(labels) == 647


def test_every_column_of_a_case_has_words() -> None:
    assert set(WORDS) | set(ATTENTION) == set(Case.columns())


def test_the_caption_counts_faster_and_slower_cases(tmp_path: Path) -> None:
    quartiles = [(1, 2, 3), (1, 2, 3), (5, 6, 7), (8, 9, 10), (2, 2.5, 3), (1, 2, 3)]
    before = [timed(*three, seed=seed) for seed, three in enumerate(quartiles)]
    later = [(5, 6, 7), (4, 4, 4), (1, 2, 3), (8, 8.5, 10), (2, 2.5, 3)]
    after = [timed(*three, seed=seed) for seed, three in enumerate(later)]
    after.append(Measurement.of(case(seed=5), Status.TIMEOUT, "took longer than 9 s"))
    shown = table(write(tmp_path / "before", before), write(tmp_path / "after", after))
    assert str(shown.caption) == "1 faster, 2 slower, 2 within noise, 1 without two times"


def test_a_name_with_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    both = [timed(1, 2, 3, inputs=name) for name in ("file:[bold]", "file:[/red]")]
    run = write(tmp_path / "run", both)
    console = Console(width=150, file=StringIO())
    console.print(table(run, run))
    assert isinstance(console.file, StringIO)
    assert "file:[/red]" in console.file.getvalue()


def test_a_case_that_failed_shows_its_status_and_no_ratio(compared: Compare) -> None:
    failed = Measurement.of(case(), Status.OUT_OF_MEMORY, "too large")
    assert compared([timed(1, 2, 3)], [failed])[1][0][1:] == ["ok", "out_of_memory", "", ""]


def test_a_table_fits_the_width_of_a_page(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [timed(1.9, 2.0, 2.1)])
    console = Console(width=150, file=StringIO())
    console.print(table(run, run))
    assert isinstance(console.file, StringIO)
    assert "1.000" in console.file.getvalue()


class TestMachines:
    """Only rows that machines of one kind measured are compared."""

    def on(self, host: str, time: float, **changes: object) -> Measurement:
        return replace(timed(0.9 * time, time, 1.1 * time, **changes), host=host)

    def test_rows_of_two_machines_of_one_kind_are_compared(self, tmp_path: Path) -> None:
        before = write(tmp_path / "before", [self.on("one", 2)])
        after = write(tmp_path / "after", [self.on("three", 1)], OTHERS["three"])
        assert cells(table(before, after))[0][1:4] == ["2.000", "1.000", "0.500"]

    def test_rows_of_other_hardware_are_left_out_and_named(self, tmp_path: Path) -> None:
        several = MACHINE | {"machines": OTHERS}
        before = [self.on("one", 2, seed=0), self.on("one", 2, seed=1), self.on("two", 2, seed=2)]
        after = [self.on("three", 1, seed=0), self.on("two", 5, seed=1), self.on("two", 3, seed=2)]
        shown = table(
            write(tmp_path / "before", before, several), write(tmp_path / "after", after, several)
        )
        assert [row[1:4] for row in cells(shown)] == [
            ["2.000", "1.000", "0.500"],
            ["2.000", "3.000", "1.500"],
        ]
        assert str(shown.caption).splitlines() == [
            "1 faster, 1 slower, 0 within noise",
            "1 case left out: threads was 2 and is 1",
        ]

    def test_runs_of_different_hardware_alone_are_refused(self, tmp_path: Path) -> None:
        before = write(tmp_path / "before", [self.on("one", 2)])
        other = MACHINE["hardware"] | {"processor": "Other CPU", "cores": 8}
        after = write(tmp_path / "after", [self.on("two", 1)], MACHINE | {"hardware": other})
        said = CliRunner().invoke(main, ["compare", str(before), str(after)])
        assert said.exit_code == 3
        (line,) = said.stderr.splitlines()
        assert line.endswith(
            "after were measured on different hardware: processor was 'Some CPU' and is "
            "'Other CPU'; cores was 2 and is 8"
        )

    def test_differences_of_software_and_settings_are_named(self, tmp_path: Path) -> None:
        other = MACHINE | {
            "software": {"python": "3.11.7", "torch": "2.14.0"},
            "settings": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "0", "MALLOC_MMAP_MAX_": "0"},
        }
        before = write(tmp_path / "before", [self.on("one", 2)])
        after = write(tmp_path / "after", [self.on("one", 1)], other)
        assert str(table(before, after).caption).splitlines()[1:] == [
            "torch was '2.13.0' and is '2.14.0'",
            "OpenMP was '' and is 'GOMP_SPINCOUNT=0'",
            "memory allocator was '' and is 'MALLOC_MMAP_MAX_=0'",
        ]

    def test_rows_without_a_machine_are_those_of_the_first(self, tmp_path: Path) -> None:
        before = write(tmp_path / "before", [timed(1, 2, 3)])
        after = write(tmp_path / "after", [timed(1, 2, 3)], MACHINE | {"machines": OTHERS})
        assert len(cells(table(before, after))) == 1


class TestErrors:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        return write(tmp_path / "run", [timed(1, 2, 3)])

    def test_a_folder_without_a_run_is_named(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(
            FileError,
            match=r"cannot read .*none.results\.csv: No such file",
        ):
            table(run, tmp_path / "none")

    def test_runs_without_a_common_case_raise_an_error(self, run: Path, tmp_path: Path) -> None:
        other = write(tmp_path / "other", [timed(1, 2, 3, seed=1)])
        with pytest.raises(CompareError, match=r"run and .*other have no case in common"):
            table(run, other)

    def test_missing_columns_are_named(self, run: Path, tmp_path: Path) -> None:
        old = tmp_path / "old"
        old.mkdir()
        known = [
            column for column in tuple(Measurement.columns()) if column not in ("tflops", "seed")
        ]
        (old / "results.csv").write_text(",".join(known) + "\n")
        with pytest.raises(FileError, match=r"results\.csv lacks 2 of .* columns: seed, tflops\. "):
            table(old, run)

    @pytest.mark.parametrize("content", [b"", b'"', b"a,b\n1,2\n1,2,3,4\n", b"\xff\xfe,\n"])
    def test_a_file_that_is_no_table_is_named_in_one_line(
        self, run: Path, tmp_path: Path, content: bytes
    ) -> None:
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "results.csv").write_bytes(content)
        with pytest.raises(FileError, match=r"broken.results\.csv") as caught:
            table(run, broken)
        assert "\n" not in str(caught.value)

    def test_a_run_without_rows_has_no_common_case(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(CompareError, match="no case in common"):
            table(run, write(tmp_path / "empty", []))
