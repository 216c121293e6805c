"""Reports: reading of runs, names of lines, figures and tables, and completeness."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.loop.result_files import write_table
from bench.plan.sweep import Sweep
from bench.schema.case import Case
from bench.schema.measurement import HeadRow, Measurement
from bench.schema.outcome import Status
from bench.schema.validation import FileError
from reports.__main__ import main
from reports.answers import answers
from reports.build import build_report
from reports.figures.style import styles
from reports.head_counts import comparisons
from reports.html import facts
from reports.listing import listing, reasons
from reports.machine_columns import machine_name
from reports.metrics import ERROR, TIME, show_bytes, show_count, show_error, show_ms
from reports.pareto import frontier
from reports.rows import finished, read_runs
from reports.slices import Panel, panels, split
from reports.tables import reproduce_command, summary_table
from tests.cases import HEAD, changed, named_case
from tests.conftest import DIFFERING

CASE = named_case(
    variant="full",
    implementation="auto",
    hyperparameters="",
    inputs="gaussian",
    device="cpu",
    dtype="float32",
    batch=1,
    heads=8,
    kv_heads=8,
    seq_len=256,
    key_len=256,
    head_dim=64,
    causal=True,
    direction="forward",
    seed=0,
)
ENVIRONMENT = {
    "started_utc": "2026-11-20T21:00:00+00:00",
    "software": {"python": "3.11.7", "torch": "2.13.0"},
    "hardware": {"processor": "Some CPU", "threads": 2, "memory_bytes": 2**34, "gpu": None},
    "sweep": {"name": "cpu", "groups": [{"seq_len": [256]}]},
}
REFERENCE = Path(__file__).parents[1] / "results" / "reference"
PANELS = {
    "head_dim": [("seq_len", "passage", "dtype"), ("heads", "direction", "dtype")],
    "width": [("heads", "passage", "call"), ("heads", "source", "keys")],
    "decode": [("seq_len", "source", "dtype")],
}


def case(**changes: Any) -> Case:
    """A case. kv_heads and key_len default to heads and seq_len."""
    changes = {
        "kv_heads": changes.get("heads", 8),
        "key_len": changes.get("seq_len", 256),
        **changes,
    }
    return named_case(**CASE.values | changes)


def done(time: float = 1.0, error: float | None = 0.5, **changes: Any) -> Measurement:
    return Measurement.of(
        case(**changes),
        Status.OK,
        implementation_used="blocks",
        time_ms_median=time,
        time_ms_q1=0.9 * time,
        time_ms_q3=1.1 * time,
        speedup_vs_exact=2 / time,
        peak_memory_bytes=2**20,
        approx_error_rel_l2=error,
        approx_error_low=error and 0.9 * error,
        approx_error_high=error and 1.1 * error,
    )


def failed(
    status: Status = Status.TIMEOUT, reason: str = "longer than 9 s", **changes: Any
) -> Measurement:
    return Measurement.of(case(**changes), status, reason)


def write(folder: Path, rows: Sequence[Measurement], environment: Any = ENVIRONMENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(
        [row.values for row in rows], columns=list(Measurement.columns()), dtype=object
    )
    frame.to_csv(folder / "results.csv", index=False)
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def frame_of(folder: Path, rows: Sequence[Measurement]) -> pd.DataFrame:
    return read_runs([write(folder, rows)]).frame


RUN = [
    *(done(n / 256, 0.0, seq_len=n) for n in (256, 1024, 4096)),
    *(done(n / 999, 0.4, variant="lsh", hyperparameters="seed=0", seq_len=n) for n in (256, 1024)),
    failed(variant="lsh", hyperparameters="seed=0", seq_len=4096),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", RUN)


# Reading


def test_a_row_is_read_with_the_types_of_the_schema(tmp_path: Path) -> None:
    rows = [done(layer=3, causal=False), failed(variant="nan", inputs="null")]
    frame = frame_of(tmp_path, rows)
    for row, (_, read) in zip(rows, frame.iterrows(), strict=True):
        for name, value in row.values.items():
            if value is None:
                assert pd.isna(read[name]), name
            elif name != "target":  # this version declares those that a row does not have
                assert read[name] == value, name
    assert frame["causal"].dtype == bool
    assert frame["layer"].dtype == "Int64"


def test_a_missing_folder_is_reported_with_the_content_of_a_results_folder(tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"nowhere is not a folder; .* results\.csv and environment"
    ):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize("name", ["results.csv", "environment.json"])
def test_a_missing_file_is_reported_with_the_existing_ones(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / "other.txt").touch()
    with pytest.raises(FileError, match=rf"has no {name}; .*this one holds .*other\.txt"):
        read_runs([run])


def test_missing_columns_are_named(run: Path) -> None:
    table = pd.read_csv(run / "results.csv").drop(columns=["dtype", "mass_recall"])
    table.to_csv(run / "results.csv", index=False)
    with pytest.raises(FileError, match=r"lacks 2 of .*: dtype, mass_recall\. .* another version"):
        read_runs([run])


def test_a_run_without_a_later_column_is_read_with_its_default(run: Path) -> None:
    table = pd.read_csv(run / "results.csv").drop(columns=["projections", "state_bytes"])
    table.to_csv(run / "results.csv", index=False)
    frame = read_runs([run]).frame
    assert set(frame["projections"]) == {"none"}
    assert frame["state_bytes"].isna().all()
    assert frame["state_bytes"].dtype == "Int64"


def test_a_number_of_truth_may_be_empty(tmp_path: Path) -> None:
    rows = [changed(done(), deterministic=True), done(seq_len=8192, key_len=8192)]
    assert frame_of(tmp_path, rows)["deterministic"].tolist() == [True, pd.NA]


def test_graphs_have_figures_of_their_own(tmp_path: Path) -> None:
    eager = [done(seq_len=n, key_len=n) for n in (256, 512)]
    graph = [changed(row, launch="graph", time_ms_median=0.1) for row in eager]
    assert set(frame_of(tmp_path / "eager", eager)["launching"]) == {""}
    parts = split(frame_of(tmp_path / "both", eager + graph))
    assert {part.name for part in parts} == {"launched-by-the-host", "replayed-as-a-cuda-graph"}
    for part in parts:
        assert part.rows["launch"].nunique() == 1
    menus = [column.title for column in listing(frame_of(tmp_path / "c", eager + graph)).columns]
    assert "launch" in menus


def test_heads_of_an_older_run_were_launched_by_the_host(run: Path) -> None:
    row = done()
    write_table(run / "results.csv", Measurement.columns(), [row.values])
    heads = [row.case.values | HEAD.values]
    columns = {**Case.columns(), **HeadRow.columns()}
    del columns["launch"]
    write_table(run / "heads.csv", columns, [{name: heads[0][name] for name in columns}])
    assert len(read_runs([run]).per_head) == 1


@pytest.mark.parametrize("name", sorted(p.parent.name for p in REFERENCE.glob("*/results.csv")))
def test_published_runs_can_be_read(name: str) -> None:
    frame = read_runs([REFERENCE / name]).frame
    assert len(finished(frame)) >= (18 if name.endswith("-long") else 100)
    # One run has heads at equal width and decoding, one has decoding; the others have neither.
    sorts = {"layer": {"width", "decode"}, "answers": {"head_dim", "decode"}}
    last = name.rpartition("-")[2]
    assert {part.sort for part in split(frame)} == sorts.get(last, {"head_dim"})


def test_a_published_run_has_errors_at_a_million_tokens() -> None:
    (folder,) = REFERENCE.glob("*-long")
    runs = read_runs([folder])
    rows = finished(runs.frame)
    rows = rows[rows["seq_len"] == 1 << 20]
    assert len(rows) == 9
    low, error, high = (
        rows[f"approx_error_{name}"].astype(float) for name in ("low", "rel_l2", "high")
    )
    assert ((low < error) & (error < high)).all()
    assert len(runs.per_head) == len(finished(runs.frame))


def test_the_last_of_two_rows_of_a_case_is_used(tmp_path: Path) -> None:
    assert list(frame_of(tmp_path, [done(1.0), done(2.0)])["time_ms_median"]) == [2.0]


def test_unknown_columns_are_ignored(run: Path) -> None:
    table = pd.read_csv(run / "results.csv").assign(energy_joules=1)
    table.to_csv(run / "results.csv", index=False)
    assert len(read_runs([run]).frame) == len(RUN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header"),
        (",".join(tuple(Measurement.columns())) + "\n", r"results\.csv has no rows"),
    ],
)
def test_a_file_without_rows_is_refused(run: Path, text: str, message: str) -> None:
    (run / "results.csv").write_text(text)
    with pytest.raises(FileError, match=message):
        read_runs([run])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("heads", "many", r"column heads, row 2: expected a whole number from 1 to .*, got 'many'"),
        ("heads", "2.5", r"column heads, row 2: expected a whole number from .*, got '2\.5'"),
        ("heads", "", r"column heads, row 2: expected a whole number from .*, got ''"),
        ("causal", "maybe", r"column causal, row 2: expected True or False, got 'maybe'"),
        ("status", "fine", r"column status, row 2: expected one of ok, .*, got 'fine'"),
        ("time_ms_median", "fast", r"column time_ms_median, row 2: expected a time .*, got 'fast'"),
    ],
)
def test_an_unreadable_value_is_named(run: Path, column: str, value: str, message: str) -> None:
    table = pd.read_csv(run / "results.csv", dtype=str, keep_default_na=False)
    table.loc[1, column] = value
    table.to_csv(run / "results.csv", index=False)
    with pytest.raises(FileError, match=message):
        read_runs([run])


def test_a_damaged_environment_file_is_named(run: Path) -> None:
    (run / "environment.json").write_text("{")
    with pytest.raises(FileError, match=r"environment\.json is not a JSON file"):
        read_runs([run])


def test_a_report_without_runs_is_refused() -> None:
    with pytest.raises(FileError, match="expected at least one results folder"):
        read_runs([])


# Names


def test_a_label_shows_only_settings_that_vary_within_its_variant(tmp_path: Path) -> None:
    rows = [
        done(variant="lsh", hyperparameters="bucket_size=64 num_hashes=1 seed=0"),
        done(variant="lsh", hyperparameters="bucket_size=64 num_hashes=4 seed=0"),
        done(variant="bigbird", hyperparameters="block_size=32 seed=1"),
        done(variant="full", implementation="sdpa"),
        done(variant="full", implementation="auto"),
    ]
    assert list(frame_of(tmp_path, rows)["label"]) == [
        "lsh num_hashes=1",
        "lsh num_hashes=4",
        "bigbird",
        "full/sdpa",
        "full",
    ]


def test_a_setting_with_spaces_in_its_value_is_not_split(tmp_path: Path) -> None:
    rows = [done(variant="x", hyperparameters=f"sizes=({n}, 2) top=1") for n in (1, 2)]
    assert list(frame_of(tmp_path, rows)["label"]) == ["x sizes=(1, 2)", "x sizes=(2, 2)"]


@pytest.mark.parametrize(
    ("hardware", "device", "name"),
    [
        ({"processor": "Some CPU", "threads": 1}, "cpu", "cpu, Some CPU, 1 thread"),
        ({"processor": "Some CPU", "gpu": "Some GPU"}, "cuda", "cuda, Some GPU"),
        ({}, "cuda", "cuda"),
    ],
)
def test_a_machine_is_named_after_its_device(
    hardware: dict[str, Any], device: str, name: str
) -> None:
    assert machine_name({"hardware": hardware}, device) == name


def test_runs_of_one_machine_are_joined_unless_they_have_a_case_in_common(tmp_path: Path) -> None:
    first = write(tmp_path / "1", [done(seq_len=256)])
    other = write(tmp_path / "2", [done(seq_len=512)])
    again = write(tmp_path / "3", [done(seq_len=256)])
    assert read_runs([first, other]).frame["machine"].nunique() == 1
    assert list(read_runs([first, again]).frame["machine"]) == [
        "cpu, Some CPU, 2 threads, run 1 (2026-11-20 21:00)",
        "cpu, Some CPU, 2 threads, run 2 (2026-11-20 21:00)",
    ]
    assert len(read_runs([first, first]).frame) == 1


def test_numbers_are_shown_in_readable_units() -> None:
    assert [show_ms(v) for v in (0.02, 1.25, 1500)] == ["20.0 µs", "1.25 ms", "1.50 s"]
    assert [show_bytes(v) for v in (100, 3 * 2**19, 2**30)] == ["100 B", "1.50 MiB", "1.00 GiB"]
    assert [show_count(v) for v in (256, 1000, 1024, 2**20)] == ["256", "1000", "1k", "1M"]
    assert [show_error(v) for v in (0, 2.13e-7, 0.2134)] == ["0", "2.1e-07", "0.213"]


# The frontier


def test_the_frontier_contains_undominated_points_and_an_error_of_zero() -> None:
    points = pd.DataFrame(
        {
            "variant": list("abcdefg"),
            TIME.column: [1.0, 2.0, 2.0, 3.0, 4.0, 5.0, float("nan")],
            ERROR.column: [0.9, 0.5, 0.7, 0.5, 0.6, 0.0, 0.0],
        }
    )
    assert list(frontier(points, TIME, ERROR)["variant"]) == ["a", "b", "f"]


def test_points_no_better_than_zeros_are_not_on_the_frontier() -> None:
    points = pd.DataFrame(
        {"variant": list("abc"), TIME.column: [1.0, 2.0, 3.0], ERROR.column: [1.3, 1.0, 0.9]}
    )
    assert list(frontier(points, TIME, ERROR)["variant"]) == ["c"]
    assert frontier(points[:2], TIME, ERROR).empty


def test_below_the_floor_only_the_fastest_point_is_on_the_frontier() -> None:
    points = pd.DataFrame(
        {"variant": list("abc"), TIME.column: [1.0, 2.0, 3.0], ERROR.column: [0.9, 2e-7, 1e-7]}
    )
    assert list(frontier(points, TIME, ERROR, floor=3e-7)["variant"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("fast", "slow", "kept"),
    [
        ((0.158, 0.129, 0.194), (0.158, 0.129, 0.194), "a"),  # the same error
        ((0.158, 0.129, 0.194), (0.150, 0.120, 0.180), "a"),  # each value is in the other interval
        ((0.158, 0.129, 0.194), (0.125, 0.110, 0.160), "a"),  # one value is in the other interval
        ((0.158, 0.129, 0.194), (0.125, 0.110, 0.150), "ab"),
        ((0.300, 0.200, 0.400), (0.150, 0.100, 0.250), "ab"),  # intervals that overlap at the ends
        ((0.300, None, None), (0.299, None, None), "ab"),  # all rows were used: no interval
    ],
)
def test_a_slower_point_is_on_the_frontier_only_if_it_is_better_beyond_the_intervals(
    fast: Sequence[float | None], slow: Sequence[float | None], kept: str
) -> None:
    points = pd.DataFrame(
        [("a", 402.0, *fast), ("b", 561.0, *slow)],
        columns=["variant", TIME.column, ERROR.column, str(ERROR.low), str(ERROR.high)],
    ).astype({ERROR.low: float, ERROR.high: float})
    assert list(frontier(points, TIME, ERROR)["variant"]) == list(kept)


def test_points_no_better_than_a_baseline_of_their_budget_are_not_on_the_frontier() -> None:
    points = pd.DataFrame(
        {
            "variant": list("abcd"),
            TIME.column: [1.0, 2.0, 3.0, 4.0],
            ERROR.column: [0.9, 0.8, 0.6, 0.5],
            "mean_value_error_rel_l2": 0.8,
            "random_keys_error_rel_l2": [0.7, 0.9, 0.55, 0.7],
            "baseline_keys": 100.0,
            "key_len": 1024,
            "seq_len": 1024,
            "causal": True,
            "direction": "forward",
        }
    )
    assert list(frontier(points, TIME, ERROR)["variant"]) == ["d"]


@pytest.mark.parametrize("file", sorted(Path("results/reference").glob("*/results.csv")), ids=str)
def test_no_method_of_a_reference_run_is_chosen_that_is_no_better_than_a_baseline(
    file: Path,
) -> None:
    for part in split(read_runs([file.parent]).frame):
        for _, rows in part.rows.groupby(["source", "dtype", "seq_len", "direction", "heads"]):
            best = frontier(rows[~rows["other_operator"]], TIME, ERROR)
            assert (best[ERROR.column] < 1.0).all()
            real = best[best[ERROR.column] > 0.01]
            mean, random = real["mean_value_error_rel_l2"], real["random_keys_error_rel_l2"]
            random = random[random > 1e-9]  # smaller: all visible keys
            for baseline in (mean, random):
                error = real.loc[baseline.index, ERROR.column]
                assert (baseline.isna() | (error < baseline)).all()


# Slices


def test_rows_of_a_panel_differ_only_in_its_axis(tmp_path: Path) -> None:
    values: dict[str, tuple[Any, Any]] = {
        "inputs": ("gaussian", "smollm2"),
        "layer": (None, 3),
        "device": ("cpu", "cuda"),
        "dtype": ("float32", "bfloat16"),
        "batch": (1, 2),
        "heads": (8, 4),
        "kv_heads": (8, 1),
        "key_len": (256, 512),
        "head_dim": (64, 128),
        "causal": (True, False),
        "direction": ("forward", "forward_backward"),
        "seed": (0, 1),
        "projections": ("none", "separate"),
        "launch": ("eager", "graph"),
    }
    rows = [done()]
    rows += [done(seq_len=512, key_len=512)]
    rows += [done(**{name: value}) for name, (_, value) in values.items()]
    # The same rows with twice as many heads, and as decoding steps.
    rows += [
        changed(
            row,
            heads=2 * row.case.heads,
            kv_heads=2 * row.case.kv_heads,
            head_dim=row.case.head_dim // 2,
        )
        for row in rows
    ]
    rows += [changed(row, direction="decode") for row in rows if row.case.direction == "forward"]
    frame = frame_of(tmp_path, rows)
    found = set()
    for part in split(frame):
        for x, row, column in PANELS[part.sort]:
            free = {"seq_len", "key_len"} if x == "seq_len" else {"heads", "kv_heads"}
            free = free | {"head_dim"} if part.sort == "width" else free
            for panel in panels(part.rows, x=x, row=row, column=column):
                fixed = [name for name in Case.columns() if name not in free]
                assert panel.rows[fixed].drop_duplicates().shape[0] == 1
                if len(panel.rows) > 1:
                    found.add(part.sort)
                assert (panel.rows["direction"] == "decode").all() == (part.sort == "decode")
    assert found == {"head_dim", "width", "decode"}


def test_a_panel_has_the_rows_with_most_lengths(tmp_path: Path) -> None:
    rows = [done(seq_len=n) for n in (256, 512, 1024)]
    rows += [done(seq_len=512, heads=n) for n in (1, 2)]
    rows += [done(seq_len=n, inputs="smollm2", layer=15) for n in (256, 512)]
    part = split(frame_of(tmp_path, rows))[0]
    drawn = panels(part.rows, x="seq_len", row="direction", column="dtype")
    assert drawn[0].fixed == {"source": "gaussian", "heads": 8, "call": "", "seed": 0}


def test_the_longest_of_equally_measured_lengths_is_drawn(tmp_path: Path) -> None:
    rows = [done(seq_len=n, heads=heads) for n in (256, 512) for heads in (4, 8)]
    (part,) = split(frame_of(tmp_path, rows))
    (panel,) = panels(part.rows, x="heads", row="direction", column="dtype")
    assert panel.fixed["seq_len"] == 512


# Figures


# Many methods


def panels_of(frame: pd.DataFrame) -> list[Panel]:
    return panels(frame, x="seq_len", row="passage", column="dtype")


def test_a_variant_has_one_colour_and_one_marker_in_every_report(tmp_path: Path) -> None:
    one = styles(frame_of(tmp_path / "one", [done(variant="lsh"), done(variant="longformer")]))
    rows = [done(variant=name) for name in ("additive", "lsh", "own", "top_k")]
    other = styles(frame_of(tmp_path / "other", rows))
    assert one["lsh"].color == other["lsh"].color != one["longformer"].color
    assert one["lsh"].marker == other["lsh"].marker != one["longformer"].marker
    assert len({look.color for look in other.values()}) == 4


def test_exact_attention_is_black_and_thick_and_colors_depend_on_names(tmp_path: Path) -> None:
    variants = [f"v{n:02}" for n in range(20)]
    rows = [done(variant=name, seq_len=n) for name in ["full", *variants] for n in (256, 512)]
    rows += [done(variant="v00", hyperparameters="size=2", seq_len=n) for n in (256, 512)]
    looks = styles(frame_of(tmp_path, rows))
    assert looks["full"].color == "black"
    assert all(look.width < looks["full"].width for name, look in looks.items() if name != "full")
    assert len({looks[name].color for name in variants}) == 20
    assert looks["v00"].color == looks["v00 size=2"].color
    assert looks["v00"].dashes != looks["v00 size=2"].dashes
    assert len({(look.color, look.dashes) for look in looks.values()}) == len(looks)


# Heads at equal width, projections


def at_width(*heads: int, width: int = 512, **changes: Any) -> list[Measurement]:
    """Rows of 100 ms at one head and 10 ms more for each additional head."""
    return [
        done(90 + 10 * count, heads=count, head_dim=width // count, **changes) for count in heads
    ]


def sorts(frame: pd.DataFrame) -> list[tuple[str, int]]:
    return [(part.sort, len(part.rows)) for part in split(frame)]


def test_heads_of_one_width_have_their_own_figures(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, at_width(1, 8, 32))
    assert sorts(frame) == [("width", 3)]
    assert split(frame)[0].fixed["width"] == 512
    # With several lengths, the figures against the length have one head_dim.
    lengths = [row for n in (256, 512) for row in at_width(1, 8, 32, seq_len=n)]
    frame = frame_of(tmp_path, lengths)
    assert sorts(frame) == [("head_dim", 2), ("width", 6)]


def test_rows_of_an_ordinary_sweep_are_in_both_figures(tmp_path: Path) -> None:
    rows = [done(seq_len=n) for n in (256, 1024)] + at_width(1, 32)
    frame = frame_of(tmp_path, rows)
    assert sorts(frame) == [("head_dim", 2), ("width", 3)]
    assert set(split(frame)[0].rows["head_dim"]) == {64}


def test_accidental_equal_width_is_no_comparison(tmp_path: Path) -> None:
    rows = [done(heads=8, head_dim=64), done(heads=4, head_dim=128, seq_len=512)]
    assert sorts(frame_of(tmp_path, rows)) == [("head_dim", 1), ("head_dim", 1)]


def test_the_page_states_the_cost_of_more_heads(tmp_path: Path) -> None:
    rows = at_width(1, 2, 4) + at_width(2, 4, variant="lsh")
    rows += [failed(heads=1, head_dim=512, variant="lsh")]
    rows += [failed(heads=h, head_dim=512 // h, variant="performer") for h in (1, 2)]
    rows[2] = changed(rows[2], peak_memory_bytes=2**22, approx_error_rel_l2=1.5)
    (found,) = comparisons(split(frame_of(tmp_path, rows))[0])
    assert list(found.heads) == [1, 2, 4]
    shown = {label: [(cell.time, *cell.lines) for cell in cells] for label, cells in found.rows}
    assert shown == {
        "full": [
            ("100 ms", "memory 1.00 MiB"),
            ("1.10×", "memory 1.00×"),
            ("1.30×", "memory 4.00×"),
        ],
        "lsh": [
            ("", "timeout"),
            ("110 ms", "memory 1.00 MiB"),
            ("1.18×", "memory 1.00×"),
        ],
    }
    full = dict(found.rows)["full"]
    assert [(cell.error, cell.is_wrong) for cell in full] == [
        ("0.500", False), ("0.500", False), ("1.50", True),
    ]  # fmt: skip
    text = build_report([tmp_path]).read_text()
    section = text.split('id="widths"')[1].split("<h2")[0]
    assert "width 512" in section
    assert "1.30×" in section


def test_answers_are_about_attention_without_projections(tmp_path: Path) -> None:
    rows = [
        done(seq_len=n, projections=kind)
        for kind in ("shared", "separate", "none")
        for n in (256, 512)
    ]
    frame = frame_of(tmp_path, rows)
    part = split(frame)[0]
    (panel,) = panels(part.rows, x="seq_len", row="passage", column="dtype")
    assert panel.fixed["call"] == "attention alone"
    assert [answer.scene["call"] for answer in answers(part)] == ["attention alone"] * 2
    assert "projections" in [column.title for column in listing(frame).columns]


# Decoding


def steps(time: float = 0.1, **changes: Any) -> list[Measurement]:
    """Steps at two lengths; the state is twice as large at the second length."""
    return [
        changed(done(time, direction="decode", seq_len=n, **changes), state_bytes=n * 1024)
        for n in (256, 512)
    ]


def test_decoding_steps_have_their_own_slice_and_figures(tmp_path: Path) -> None:
    rows = [*steps(), *steps(0.05, variant="performer"), done(), done(seq_len=512)]
    rows += [failed(variant="lsh", direction="decode")]
    calls, decoding = split(frame_of(tmp_path, rows))
    assert (calls.sort, decoding.sort) == ("head_dim", "decode")
    assert set(calls.rows["direction"]) == {"forward"}
    text = build_report([tmp_path]).read_text()
    assert "one step: the next token" in text
    assert "Decoding: time per token, state and error against length" in text
    names = {path.name for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert {"length-1.png", "length-2.png"} <= names


def test_a_decoding_step_is_never_labelled_as_without_projections(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, [*steps(), done(projections="shared"), done()])
    shown = dict(zip(frame["direction"] + " " + frame["projections"], frame["call"], strict=True))
    assert shown == {
        "decode none": "",
        "forward none": "attention alone",
        "forward shared": "shared projections",
    }


def test_the_answer_for_decoding_is_by_the_size_of_the_state(tmp_path: Path) -> None:
    rows = [*steps(0.5, variant="lsh"), *steps(0.1, variant="performer")]
    rows[1] = changed(rows[1], state_bytes=1024, peak_memory_bytes=2**30)
    _, answer = answers(split(frame_of(tmp_path, rows))[0])
    assert answer.smallest is not None
    assert [choice.label for choice in answer.choices] == ["performer"]
    assert answer.smallest.label == "lsh"
    assert "1.00 KiB" in answer.smallest.numbers


def test_the_summary_of_decoding_is_about_tokens_and_states(tmp_path: Path) -> None:
    table = summary_table(frame_of(tmp_path, steps()))
    titles = [str(column.header) for column in table.columns]
    assert titles == ["worth choosing", "time per token", "speedup", "state", "error"]
    assert "decoding step" in str(table.title)


# Tables


def test_the_command_names_every_column_of_the_case(tmp_path: Path) -> None:
    rows = [
        done(
            variant="lsh",
            hyperparameters="bucket_size=64 num_hashes=1 seed=0 shared_qk=False",
            inputs="smollm2",
            layer=15,
            heads=8,
            seq_len=4096,
        ),
        done(),
    ]
    frame = frame_of(tmp_path, rows)
    command = reproduce_command(frame.iloc[0])
    assert command == (
        "python -m bench run --device cpu "
        '--set "variant=lsh bucket_size=64 num_hashes=1 seed=0 shared_qk=False" '
        "--set implementation=auto --set inputs=smollm2 --set layer=15 --set dtype=float32 "
        "--set batch=1 --set heads=8 --set kv_heads=8 --set seq_len=4096 --set key_len=4096 "
        "--set head_dim=64 --set causal=true --set direction=forward --set seed=0 "
        "--set projections=none --set launch=eager"
    )
    for name in Case.columns():
        if name not in ("device", "hyperparameters"):
            assert f"{name}=" in command
    plain = reproduce_command(frame.iloc[1])
    assert "--set variant=full --set" in plain
    assert "layer" not in plain


@pytest.mark.parametrize(
    ("inputs", "layer", "source"),
    [
        ("sinks temperature=0.5", None, "sinks temperature=0.5"),
        ("smollm2 effective_keys=32", 15, "smollm2 effective_keys=32 layer 15"),
        (
            "file:my own.safetensors temperature=2",
            3,
            "file:my own.safetensors temperature=2 layer 3",
        ),
    ],
)
def test_settings_of_inputs_are_in_the_name_and_in_the_command(
    inputs: str, layer: int | None, source: str, tmp_path: Path
) -> None:
    row = frame_of(tmp_path, [done(inputs=inputs, layer=layer)]).iloc[0]
    assert row["source"] == source
    command = reproduce_command(row)
    assert f'--set "inputs={inputs}"' in command
    words = shlex.split(command)
    assert f"inputs={inputs}" in words
    ((read,),) = Sweep("axes", ({},)).overridden([f"inputs={inputs}"]).groups[0].values()
    assert read == inputs


def test_inputs_of_other_settings_have_their_own_figures(tmp_path: Path) -> None:
    texts = ("sinks", "sinks temperature=0.5", "sinks temperature=5")
    rows = [done(seq_len=n, inputs=text) for text in texts for n in (256, 512)]
    (part,) = split(frame_of(tmp_path, rows))
    drawn = panels(part.rows, x="seq_len", row="inputs", column="dtype")
    assert [panel.row for panel in drawn] == list(texts)
    assert all(len(panel.rows) == 2 for panel in drawn)


def test_values_in_the_command_are_quoted_for_the_shell(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, [done(hyperparameters="a=$(reboot)", inputs='x"; reboot')])
    command = reproduce_command(frame.iloc[0])
    assert "--set 'variant=full a=$(reboot)'" in command
    assert "--set 'inputs=x\"; reboot'" in command


def printed(table: Any) -> str:
    screen = StringIO()
    Console(width=120, file=screen).print(table)
    return screen.getvalue()


def test_the_summary_fits_a_terminal_and_counts_every_status(tmp_path: Path) -> None:
    rows = [
        done(time, 1 / (1 + time), variant=f"v{time:02}", dtype=dtype, seq_len=n)
        for time in range(1, 20)
        for dtype in ("float32", "bfloat16")
        for n in (256, 512, 1024, 2048)
    ]
    rows += [failed(Status.OUT_OF_MEMORY, seq_len=4096, variant="v01")]
    table = summary_table(frame_of(tmp_path, rows))
    text = printed(table)
    assert table.row_count <= 60
    assert f"{len(rows)} cases: {len(rows) - 1} ok, 1 out of memory" in " ".join(text.split())
    assert "4 more lengths or directions on the page" in " ".join(text.split())


def test_the_summary_lists_the_best_methods_at_each_length_and_direction(
    tmp_path: Path,
) -> None:
    real: dict[str, Any] = {"inputs": "smollm2", "layer": 15}
    rows = [
        done(1, 1.2, variant="compressed", **real),  # worse than zeros
        done(2, 0.4, variant="lsh", **real),
        done(3, 0.4, variant="performer", **real),  # the same error, but slower
        done(9, 1e-7, **real),
        done(4, 0.9, variant="lsh", direction="forward_backward", **real),
        done(2, 0.3, variant="bigbird", seq_len=512, **real),
        done(1, 0.1, variant="top_k"),  # only on gaussian inputs
        done(5, 0.3, variant="linformer", causal=False, **real),
    ]
    text = printed(summary_table(frame_of(tmp_path, rows)))
    lines = [line.split()[0] for line in text.splitlines() if " ms " in line]
    assert lines == ["lsh", "full", "bigbird", "lsh", "linformer"]


def test_a_method_is_listed_only_if_its_error_is_below_that_of_the_mean_of_the_values(
    tmp_path: Path,
) -> None:
    rows = [
        changed(done(time, error, variant=name), mean_value_error_rel_l2=0.7)
        for name, time, error in [("linear", 1, 0.8), ("lsh", 2, 0.7), ("bigbird", 3, 0.6)]
    ]
    (answer,) = answers(split(frame_of(tmp_path, rows))[0])
    assert answer.limit == 0.7
    assert answer.limit_in_words == "0.700, the error of the mean of the values"
    assert [choice.label for choice in answer.choices] == ["bigbird"]
    (nothing,) = answers(split(frame_of(tmp_path / "none", rows[:2]))[0])
    assert (nothing.choices, nothing.smallest) == ((), None)
    text = printed(summary_table(frame_of(tmp_path / "none", rows[:2])))
    assert "none has an error below 0.700" in text


def test_the_summary_counts_methods_that_are_no_better_than_a_baseline(tmp_path: Path) -> None:
    rows = [
        changed(done(time, error, variant=name), mean_value_error_rel_l2=0.7)
        for name, time, error in [("lsh", 2, 0.7), ("top_k", 1, 1.4), ("bigbird", 3, 0.6)]
    ]
    lines = printed(summary_table(frame_of(tmp_path, rows))).splitlines()
    methods = [line.strip() for line in lines if "bigbird" in line or "better than" in line]
    assert methods[0].startswith("bigbird")
    assert methods[1] == "2 of 3 are no better than a baseline"
    assert "1.40" not in "".join(lines)


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (120, ["time", "speedup", "memory", "error"]),
        (58, ["time", "speedup", "error"]),
        (44, ["time", "error"]),
        (20, ["time", "error"]),
    ],
)
def test_a_narrow_terminal_shows_the_names_of_methods(
    tmp_path: Path, width: int, titles: list[str]
) -> None:
    settings = "block_size=64 num_hashes={} seed=0"
    rows = [
        done(time, 1 / (1 + time), variant="lsh", hyperparameters=settings.format(time))
        for time in (10, 200)
    ]
    table = summary_table(frame_of(tmp_path, rows), width)
    assert [str(column.header) for column in table.columns] == ["worth choosing", *titles]
    screen = StringIO()
    Console(width=max(width, 44), file=screen).print(table)
    text = screen.getvalue()
    for words in ("lsh num_hashes=10", "lsh num_hashes=200", "0.0909"):
        assert words in text


def test_the_closing_table_fits_a_terminal_of_60_columns(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr("reports.build.write_report", lambda *_: "the page")
    said = CliRunner(env={"COLUMNS": "60"}).invoke(main, ["build", str(run)])
    text = re.sub(r"\x1b\[[\d;]*m", "", said.output)
    table = text[text.index("worth choosing") :]
    assert max(map(len, table.splitlines())) <= 60
    best = answers(split(read_runs([run]).frame)[0])[0].choices[0]
    assert best.label in table


def test_there_is_an_answer_for_each_length_with_a_finished_case(tmp_path: Path) -> None:
    rows = [
        done(1, 1.2, variant="linear", seq_len=1024),
        done(5, 0.05, variant="lsh", seq_len=1024),
        done(9, 0.0, seq_len=1024),
        done(0.1, 0.02, variant="bigbird", seq_len=256),
        failed(variant="bigbird", seq_len=4096),
    ]
    short, long = answers(split(frame_of(tmp_path, rows))[0])
    assert (short.scene["seq_len"], long.scene["seq_len"]) == (256, 1024)
    assert (long.done, long.cases) == (3, 3)
    assert [choice.label for choice in short.choices] == ["bigbird"]
    assert [choice.label for choice in long.choices] == ["lsh", "full"]


def test_gaussian_inputs_give_the_answer_where_no_captured_inputs_have_that_length(
    tmp_path: Path,
) -> None:
    rows = [done(1, 0.5, seq_len=n) for n in (256, 16384)]
    rows += [done(1, 0.6, seq_len=256, inputs="smollm2", layer=15)]
    sources = [answer.scene["source"] for answer in answers(split(frame_of(tmp_path, rows))[0])]
    assert sources == ["smollm2 layer 15", "gaussian"]


def test_the_listing_has_every_row_and_omits_constant_columns(run: Path) -> None:
    table = listing(read_runs([run]).frame)
    assert "causal" in table.constant
    titles = [column.title for column in table.columns]
    numbers = ["time", "speedup", "memory", "error"]
    assert titles == ["method", "settings", "length", "status", *numbers]
    columns = dict(zip(titles, table.columns, strict=True))
    assert all(len(column.values) == len(RUN) for column in table.columns)
    assert columns["status"].values.tolist() == [row.status for row in RUN]
    assert columns["status"].choices == ("ok", "timeout")
    assert columns["time"].values.isna().tolist() == [row.status != "ok" for row in RUN]


def test_reasons_of_failures_are_counted(tmp_path: Path) -> None:
    rows = [failed(Status.UNSUPPORTED, "no", variant=name) for name in "ab"] + [failed()]
    found = reasons(frame_of(tmp_path, rows))
    assert [(it.status, it.reason, it.cases, it.labels) for it in found] == [
        ("unsupported", "no", 2, "a, b"),
        ("timeout", "longer than 9 s", 1, "full"),
    ]


def test_the_description_of_the_machine_omits_unknown_facts() -> None:
    assert dict(facts(ENVIRONMENT)) == {
        "started (UTC)": "2026-11-20 21:00",
        "sweep": "cpu",
        "processor": "Some CPU",
        "threads": "2",
        "memory": "16.0 GiB",
        "python": "3.11.7",
        "torch": "2.13.0",
    }


# The page and the command line


def test_a_report_is_one_page_with_links_to_its_figures(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    page = build_report([run])
    assert page == run / "report" / "report.html"
    text = page.read_text()
    figures = sorted(path.name for path in (run / "report" / "figures").iterdir())
    kinds = ("crossover", "frontier", "length")
    assert figures == [f"{name}.{kind}" for name in kinds for kind in ("png", "svg")]
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    weights = text.count('alt="Weights of exact attention and of ')  # the pattern gallery
    assert len(images) == weights > 0
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    files = set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', text))
    assert {f"figures/{name}" for name in figures} <= files
    assert all((run / "report" / name).is_file() for name in files)
    assert (run / "report" / "cases.csv").is_file()
    assert "longer than 9 s" in text
    assert "6 cases: 5 ok, 1 timeout" in text
    assert str(run) not in text
    assert {path: path.read_bytes() for path in before} == before


def test_text_from_a_file_is_escaped_in_the_page(tmp_path: Path) -> None:
    rows = [done(), failed(reason="<script>alert(1)</script>", variant="<b>")]
    text = build_report([write(tmp_path, rows)]).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_two_machines_are_never_on_one_axis(tmp_path: Path) -> None:
    cpu = write(tmp_path / "cpu", [done(seq_len=n) for n in (256, 512)])
    gpu_rows = [done(seq_len=n, device="cuda") for n in (256, 512)]
    gpu = write(tmp_path / "gpu", gpu_rows, {"hardware": {"gpu": "Some GPU"}})
    text = build_report([cpu, gpu]).read_text()
    assert "cuda, Some GPU" in text
    names = {path.name for path in (cpu / "report" / "figures").glob("length*.png")}
    assert names == {"length-1.png", "length-2.png"}
    assert "cpu, Some CPU, 2 threads" in (cpu / "report" / "figures" / "length-1.svg").read_text()
    assert "cuda, Some GPU" in (cpu / "report" / "figures" / "length-2.svg").read_text()


def test_a_run_with_only_failures_gives_a_report(tmp_path: Path) -> None:
    rows = [failed(seq_len=n) for n in (256, 512)] + [failed(Status.CRASHED, "signal 9", heads=2)]
    result = CliRunner().invoke(main, ["build", str(write(tmp_path, rows))])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "report" / "report.html").read_text()
    assert "signal 9" in text
    assert "No figures: no case finished." in text


def test_build_prints_a_summary_and_then_the_path_of_the_page(run: Path) -> None:
    result = CliRunner().invoke(main, ["build", str(run), "--out", str(run / "there")])
    assert result.exit_code == 0, result.output
    assert "1 timeout" in result.output
    assert result.output.splitlines()[-1] == str(run / "there" / "report.html")


def test_build_refuses_bad_input_with_status_2_and_one_message(run: Path) -> None:
    result = CliRunner().invoke(main, ["build", str(run / "nowhere")])
    assert result.exit_code == 2
    assert "is not a folder; expected a results folder" in result.output
    (run / "file").touch()
    with pytest.raises(FileError, match="expected a folder for the report, got the file"):
        build_report([run], run / "file")


def test_a_report_needs_no_torch(run: Path) -> None:
    code = (
        "import sys; from reports.__main__ import main; "
        f"main(['build', {str(run)!r}], standalone_mode=False); "
        "print('loaded', sorted({'torch', 'variants'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    warnings = [] if DIFFERING else ["-W", "error"]
    result = subprocess.run(
        [sys.executable, *warnings, "-c", code], capture_output=True, text=True, cwd=root
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded []"
