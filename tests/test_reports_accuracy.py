"""Errors in the report: tables, baselines, other operators, inputs, single heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.schema.case import Case
from bench.schema.measurement import HeadRow, Measurement
from bench.schema.validation import FileError
from reports import accuracy_page
from reports.accuracy_page import AccuracyTable, Line, tables
from reports.answers import answers
from reports.build import build_report
from reports.figures import single_heads
from reports.figures.ranking import ranked
from reports.figures.style import styles
from reports.inputs_page import DESCRIPTORS, described
from reports.listing import listing
from reports.metrics import TIME
from reports.names import OTHER_OPERATOR
from reports.rows import read_runs
from reports.slices import split
from reports.tables import summary_table
from tests.cases import changed
from tests.test_reports import (
    KIND,
    MANY,
    done,
    failed,
    figure_of,
    frame_of,
    names_of,
    steps,
    write,
)

MARK = f" ({OTHER_OPERATOR})"


def held(error: float, time: float = 1.0, **changes: Any) -> Measurement:
    """A row with a floor of 3e-7 and baselines: 0.8 the mean of V, 0.6 random keys, 0.1 top keys.

    Values that are no column of a case are set in the row.
    """
    numbers = {k: changes.pop(k) for k in list(changes) if k not in Case.columns()}
    seen = {
        "target": "masked_softmax",
        "impl_error_rel_l2": 2e-7,
        "dtype_floor_rel_l2": 3e-7,
        "baseline_keys": 96.0,
        "mean_value_error_rel_l2": 0.8,
        "random_keys_error_rel_l2": 0.6,
        "top_keys_error_rel_l2": 0.1,
    }
    return changed(done(time, error, **changes), **(seen | numbers))


def other(error: float, time: float = 1.0, variant: str = "linear", **changes: Any) -> Measurement:
    return held(error, time, variant=variant, target="other_kernel", **changes)


def tables_of(folder: Path, rows: Sequence[Measurement]) -> list[AccuracyTable]:
    return [table for own in tables(split(frame_of(folder, rows))) for table in own]


def shown(table: AccuracyTable, label: str) -> dict[str, str]:
    """The cells of a line by the titles of their columns, without soft hyphens."""
    (line,) = [line for line in table.lines if line.label == label]
    titles = [column.title.replace("\u00ad", "") for column in table.columns]
    return dict(zip(titles, line.cells, strict=True))


def line_of(table: AccuracyTable, label: str) -> Line:
    return {line.label: line for line in table.lines}[label]


# The tables


def test_a_line_has_the_error_its_interval_and_the_baselines_of_its_budget(
    tmp_path: Path,
) -> None:
    rows = [
        held(
            0.5,
            variant="lsh",
            approx_error_seed_std=0.02,
            approx_error_seeds=5,
            approx_error_median_row=0.41,
            approx_error_worst_row=1.7,
            approx_cosine=0.88,
            mass_recall=0.75,
            top64_recall=0.62,
            total_variation=0.25,
        ),
        held(4e-7, random_keys_error_rel_l2=0.0, top_keys_error_rel_l2=0.0),
    ]
    (table,) = tables_of(tmp_path, rows)
    assert [line.label for line in table.lines] == ["full", "lsh"]
    assert shown(table, "lsh") == {
        "error": "0.500",
        "median row": "0.410",
        "worst row": "1.70",
        "cosine": "0.880",
        "kept mass": "75.0 %",
        "top-64 recall": "62.0 %",
        "total variation": "0.250",
        "keys": "96.0",
        "mean of V": "0.800",
        "random keys": "0.600",
        "top keys": "0.100",
        "impl. error": "2e-07",
        "floor of dtype": "3e-07",
    }
    assert line_of(table, "lsh").interval == "0.450 to 0.550"
    assert line_of(table, "lsh").spread == "± 0.0200, 5 seeds"
    assert line_of(table, "full").spread == ""
    assert shown(table, "full")["kept mass"] == ""
    assert sum(count for _, count in table.groups) == len(table.columns)


def test_gradients_of_the_backward_pass_are_in_the_line_of_the_forward_pass(
    tmp_path: Path,
) -> None:
    gradients = {f"grad_{name}_error_rel_l2": e for name, e in (("query", 0.7), ("key", 0.8))}
    rows = [
        held(0.5, variant="lsh", direction="forward_backward", **gradients),
        held(0.49, variant="lsh"),
    ]
    (table,) = tables_of(tmp_path, rows)
    assert shown(table, "lsh") | {"error": "0.490", "query": "0.700", "key": "0.800"} == shown(
        table, "lsh"
    )
    assert "value" not in shown(table, "lsh")


def test_errors_of_approximation_and_of_shared_queries_and_keys_have_separate_columns(
    tmp_path: Path,
) -> None:
    parts = {"target_error_rel_l2": 0.3, "substitution_error_rel_l2": 0.45}
    (table,) = tables_of(tmp_path, [held(0.5, variant="lsh", **parts), held(0.2, variant="top_k")])
    cells = shown(table, "lsh")
    assert [cells[name] for name in ("error", "approximation", "substitution")] == [
        "0.500", "0.300", "0.450",
    ]  # fmt: skip
    assert shown(table, "top_k")["approximation"] == ""


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"error": 0.59}, ()),
        ({"error": 0.6}, ("random keys",)),
        ({"error": 0.79}, ("random keys",)),
        ({"error": 0.8}, ("the mean of V", "random keys")),
        ({"error": 1.1}, ("the mean of V", "random keys", "zeros")),
        ({"error": 0.8, "random_keys_error_rel_l2": 0.9}, ("the mean of V",)),
        (
            {"error": 1.0, "mean_value_error_rel_l2": 1.7, "random_keys_error_rel_l2": 1.9},
            ("zeros",),
        ),
        # A rounding error is no loss against a baseline: neither that of the dtype nor that of an
        # implementation.
        ({"error": 5e-7, "random_keys_error_rel_l2": 0.0}, ()),
        ({"error": 7e-7, "random_keys_error_rel_l2": 0.0}, ("random keys",)),
        ({"error": 3e-3, "impl_error_rel_l2": 3e-3, "random_keys_error_rel_l2": 0.0}, ()),
        # Random keys are exact attention if the budget is all visible keys, 128.5 on average.
        ({"error": 0.7, "random_keys_error_rel_l2": 1e-15, "baseline_keys": 128.5}, ()),
        (
            {"error": 0.7, "random_keys_error_rel_l2": 0.1, "baseline_keys": 120.0},
            ("random keys",),
        ),
        (
            {"error": 0.9, "random_keys_error_rel_l2": 1e-15, "baseline_keys": 128.5},
            ("the mean of V",),
        ),
        # There is no comparison with a baseline that was not measured.
        ({"error": 0.9, "mean_value_error_rel_l2": None, "random_keys_error_rel_l2": None}, ()),
    ],
)
def test_baselines_that_a_method_does_not_beat_are_named(
    tmp_path: Path, numbers: dict[str, Any], words: tuple[str, ...]
) -> None:
    (table,) = tables_of(tmp_path, [held(variant="lsh", **numbers)])
    assert table.lines[0].beaten == words


def test_a_method_worse_than_a_baseline_is_marked_on_the_page_and_in_the_answer(
    tmp_path: Path,
) -> None:
    rows = [held(0.85, 0.1, variant="lsh"), held(0.5, 0.2, variant="top_k")]
    text = build_report([write(tmp_path, rows)]).read_text()
    lines = re.findall(r"<tr><td>(.*?)</tr>", text.split('class="accuracy"')[1], re.DOTALL)
    lsh, top_k = sorted(line for line in lines if line.startswith(("lsh", "top_k")))
    assert "no better than the mean of V" in lsh
    assert '<b class="wrong">0.850</b>' in lsh
    assert "wrong" not in top_k
    (answer,) = answers(split(read_runs([tmp_path]).frame)[0])
    assert [choice.label for choice in answer.choices] == ["top_k"]


def test_each_scene_has_a_table_with_real_inputs_first_and_the_longest_open(tmp_path: Path) -> None:
    rows = [held(0.5, seq_len=n, dtype=t) for n in (256, 4096) for t in ("float32", "bfloat16")]
    rows += [held(0.5, seq_len=n, inputs="smollm2", layer=15) for n in (256, 1024)]
    rows += [failed(seq_len=8192, inputs="smollm2", layer=15)]
    rows += [held(0.5, seq_len=512, causal=False)]
    first, second = tables(split(frame_of(tmp_path, rows)))
    assert [(table.title, table.is_open) for table in first] == [
        ("inputs smollm2 layer 15 · float32 · 8 heads · length 1k", True),
        ("inputs smollm2 layer 15 · float32 · 8 heads · length 256", False),
        ("inputs gaussian · bfloat16 · 8 heads · length 4k", False),
        ("inputs gaussian · float32 · 8 heads · length 4k", False),
        ("inputs gaussian · bfloat16 · 8 heads · length 256", False),
        ("inputs gaussian · float32 · 8 heads · length 256", False),
    ]
    assert [table.is_open for table in second] == [True]


def test_a_row_of_two_slices_is_in_one_table(tmp_path: Path) -> None:
    rows = [held(0.5, seq_len=n) for n in (256, 1024)]
    rows += [held(0.5, heads=h, head_dim=512 // h) for h in (1, 32)]
    by_dim, by_width = tables(split(frame_of(tmp_path, rows)))
    assert len(by_dim) == 2
    assert [table.title for table in by_width] == [
        "inputs gaussian · float32 · 1 head · length 256 · head_dim 512",
        "inputs gaussian · float32 · 32 heads · length 256 · head_dim 16",
    ]


def test_every_table_of_a_run_with_baselines_shows_them_and_the_floor(tmp_path: Path) -> None:
    always = {"keys", "mean of V", "random keys", "top keys", "floor of dtype"}
    rows = [held(0.5, seq_len=256), done(1, 0.5, seq_len=512)]
    for table in tables_of(tmp_path, rows):
        assert always <= {column.title for column in table.columns}


def test_a_run_without_baselines_has_tables_without_them(tmp_path: Path) -> None:
    rows = [done(1, 0.5, variant="lsh"), done(2, 0.0)]
    (table,) = tables_of(tmp_path, rows)
    assert [column.title for column in table.columns] == ["error"]
    text = build_report([tmp_path]).read_text()
    assert "were not measured in this run" in text
    assert "floor of dtype" not in text
    assert 'id="inputs"' not in text
    again = build_report([write(tmp_path / "new", [held(0.5)])]).read_text()
    assert "were not measured in this run" not in again


def test_tables_beyond_the_limit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_page, "MOST_LINES", 3)
    rows = [held(0.5, variant=name, seq_len=n) for n in (64, 128, 256, 512) for name in "ab"]
    found = tables_of(tmp_path, rows)
    assert [len(table.lines) for table in found] == [2, 2, 0]
    assert found[-1].title == "2 more tables are left out; cases.csv has their numbers."
    text = build_report([tmp_path]).read_text()
    assert "2 more tables are left out" in text


def test_headings_explain_themselves_and_wide_tables_scroll(tmp_path: Path) -> None:
    text = build_report([write(tmp_path, [held(0.5, mass_recall=0.5)])]).read_text()
    for name in ("mass_recall", "random_keys_error_rel_l2", "dtype_floor_rel_l2"):
        assert f'title="{Measurement.columns()[name].description}"' in text
    assert '<div class="scroll"><table class="accuracy">' in text
    assert 'href="#accuracy"' in text


# Other operators


def test_another_operator_is_marked_wherever_it_is_named(tmp_path: Path) -> None:
    rows = [other(0.2), held(0.5, variant="lsh"), failed(variant="linear", seq_len=512)]
    frame = frame_of(tmp_path, rows)
    # A failed case has no target, but the same name as the cases that finished.
    assert list(frame["label"]) == [f"linear{MARK}", "lsh", f"linear{MARK}"]
    (settings,) = (it.values for it in listing(frame).columns if it.title == "settings")
    details = settings.tolist()
    assert [OTHER_OPERATOR in detail for detail in details] == [True, False, True]
    figure, (ax,) = figure_of(KIND["error_vs_time"], frame)
    assert f"linear{MARK}" in [text.get_text() for text in ax.texts]
    (legend,) = figure.legends
    assert f"linear{MARK}" in [text.get_text() for text in legend.get_texts()]


def test_settings_of_one_variant_may_be_different_operators(tmp_path: Path) -> None:
    rows = [
        other(0.2, hyperparameters="feature_map=elu"),
        held(0.3, variant="linear", hyperparameters="feature_map=positive"),
    ]
    frame = frame_of(tmp_path, rows)
    assert list(frame["label"]) == [
        f"linear feature_map=elu{MARK}", "linear feature_map=positive",
    ]  # fmt: skip
    assert list(frame["other_operator"]) == [True, False]


def test_another_operator_is_never_the_answer(tmp_path: Path) -> None:
    rows = [
        other(0.01, 0.1, peak_memory_bytes=1),
        held(0.05, 1.0, variant="lsh", peak_memory_bytes=2),
        held(0.0, 2.0),
    ]
    (answer,) = answers(split(frame_of(tmp_path, rows))[0])
    assert [choice.label for choice in answer.choices] == ["lsh", "full"]
    assert answer.smallest is not None
    assert answer.smallest.label == "lsh"
    assert (answer.done, answer.cases) == (3, 3)
    text = build_report([tmp_path]).read_text()
    assert "Methods that do not approximate softmax (linear) are left out here." in text


def test_another_operator_is_never_the_answer_for_decoding(tmp_path: Path) -> None:
    small = [changed(row, target="other_kernel", state_bytes=1) for row in steps(variant="linear")]
    for answer in answers(split(frame_of(tmp_path, [*small, *steps(variant="lsh")]))[0]):
        assert answer.smallest is not None
        assert answer.smallest.label == "lsh"


def test_if_only_other_operators_finished_there_is_no_answer(tmp_path: Path) -> None:
    (answer,) = answers(split(frame_of(tmp_path, [other(0.01)]))[0])
    assert (answer.choices, answer.smallest) == ((), None)
    build_report([tmp_path])


def test_another_operator_is_drawn_but_not_on_the_frontier(tmp_path: Path) -> None:
    rows = [other(0.01, 0.1), held(0.05, 1.0, variant="lsh"), held(3e-7, 2.0)]
    _, (ax,) = figure_of(KIND["error_vs_time"], frame_of(tmp_path, rows))
    (line,) = [line for line in ax.lines if line.get_gid() == "frontier"]
    assert list(line.get_xdata()) == [1.0, 2.0]
    weights = {text.get_text(): text.get_fontweight() for text in ax.texts}
    assert weights[f"linear{MARK}"] == "normal"
    drawn = [tuple(point) for points in ax.collections for point in points.get_offsets()]
    assert pytest.approx((0.1, 0.01)) in drawn


def test_other_operators_are_last_by_error_and_sorted_with_the_others_by_time(
    tmp_path: Path,
) -> None:
    rows = [*MANY, *(other(0.001, 0.01, seq_len=n) for n in (256, 1024))]
    frame = frame_of(tmp_path, rows)
    _, (by_error,) = figure_of(KIND["error_vs_length"], frame)
    names = names_of(by_error)
    assert names[-1] == f"linear{MARK}"
    (line,) = [line for line in by_error.lines if line.get_gid() == "apart"]
    assert line.get_ydata()[0] == len(names) - 1.5
    _, (by_time,) = figure_of(KIND["time_vs_length"], frame)
    assert names_of(by_time)[0] == f"linear{MARK}"
    assert not [line for line in by_time.lines if line.get_gid() == "apart"]
    assert ranked(frame, [frame], "seq_len", TIME)[0] == f"linear{MARK}"


def test_other_operators_are_a_separate_part_of_the_table(tmp_path: Path) -> None:
    (table,) = tables_of(tmp_path, [other(0.01), held(0.05, variant="lsh"), held(0.9)])
    assert [line.label for line in table.ranked] == ["lsh", "full"]
    assert [line.label for line in table.others] == [f"linear{MARK}"]
    text = build_report([tmp_path]).read_text()
    parts = text.split('class="accuracy"')[1].split('class="apart"')
    assert "<td>lsh" in parts[0]
    assert f"<td>linear{MARK}" in parts[1]
    assert "<td>lsh" not in parts[1]


def test_other_operators_are_not_chosen_in_the_terminal(tmp_path: Path) -> None:
    console = Console(width=120, record=True)
    with console.capture() as screen:
        console.print(summary_table(frame_of(tmp_path, [other(0.2), held(0.5, variant="lsh")])))
    assert "lsh" in screen.get()
    assert "linear" not in screen.get()


# Lines of the floor and of the mean of V


def test_lines_show_the_floor_and_the_mean_of_values_at_each_length(tmp_path: Path) -> None:
    means = {256: 0.8, 512: 0.7, 1024: 0.6}
    rows = [
        held(0.3, seq_len=n, mean_value_error_rel_l2=mean, variant=variant)
        for n, mean in means.items()
        for variant in ("lsh", "top_k")
    ]
    figure, (ax,) = figure_of(KIND["error_vs_length"], frame_of(tmp_path, rows))
    lines = {line.get_gid(): line for line in ax.lines if line.get_gid()}
    assert list(lines["mean of V"].get_xdata()) == list(means)
    assert list(lines["mean of V"].get_ydata()) == list(means.values())
    assert set(lines["floor"].get_ydata()) == {3e-7}
    assert lines["floor"].is_dashed()
    assert "float32 floor" in [text.get_text() for text in ax.texts]
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["float32 floor", "mean of V", "lsh", "top_k"]
    _, (time,) = figure_of(KIND["time_vs_length"], frame_of(tmp_path, rows))
    assert not {line.get_gid() for line in time.lines} & {"floor", "mean of V"}


def test_a_floor_that_differs_by_a_hidden_column_is_drawn_as_one_line(tmp_path: Path) -> None:
    for far, ends in ((4e-7, 2), (0.02, 3)):
        floors = {256: 3e-7, 512: 4e-7, 1024: far}
        rows = [held(0.3, seq_len=n, dtype_floor_rel_l2=floor) for n, floor in floors.items()]
        _, (ax,) = figure_of(KIND["error_vs_length"], frame_of(tmp_path, rows))
        (line,) = [line for line in ax.lines if line.get_gid() == "floor"]
        assert len(list(line.get_xdata())) == ends
        assert "float32 floor" in [text.get_text() for text in ax.texts]


def test_panels_of_two_dtypes_show_the_floor_of_each(tmp_path: Path) -> None:
    rows = [
        held(0.3, seq_len=n, dtype=dtype, dtype_floor_rel_l2=floor)
        for n in (256, 512)
        for dtype, floor in (("bfloat16", 0.003), ("float32", 3e-7))
    ]
    _, axes = figure_of(KIND["error_vs_length"], frame_of(tmp_path, rows))
    seen = {
        next(t.get_text() for t in ax.texts if t.get_gid() == "named:floor"): next(
            line.get_ydata()[0] for line in ax.lines if line.get_gid() == "floor"
        )
        for ax in axes
    }
    assert seen == {"bfloat16 floor": 0.003, "float32 floor": 3e-7}


def test_a_scatter_plot_shows_them_at_one_level(tmp_path: Path) -> None:
    rows = [held(0.3, 1, variant="lsh"), held(0.2, 2, variant="top_k")]
    _, (ax,) = figure_of(KIND["error_vs_time"], frame_of(tmp_path, rows))
    levels = {line.get_gid(): set(line.get_ydata()) for line in ax.lines if line.get_gid()}
    assert levels["mean of V"] == {0.8}
    assert levels["floor"] == {3e-7}
    assert "float32 floor" in [text.get_text() for text in ax.texts]


def test_a_ranking_shows_them_as_vertical_lines_in_the_color_of_each_length(tmp_path: Path) -> None:
    means = {256: 0.8, 1024: 0.6}
    rows = [
        changed(row, dtype_floor_rel_l2=3e-7, mean_value_error_rel_l2=means[row.case.seq_len])
        for row in MANY
    ]
    figure, (ax,) = figure_of(KIND["error_vs_length"], frame_of(tmp_path, rows))
    dots = {str(line.get_label()): line.get_color() for line in ax.lines}
    upright = {
        line.get_color(): line.get_xdata()[0] for line in ax.lines if line.get_gid() == "mean of V"
    }
    assert upright == {dots["256"]: 0.8, dots["1k"]: 0.6}
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[-2:] == ["float32 floor", "mean of V"]


def test_a_mean_of_values_worse_than_all_methods_is_within_the_axes(tmp_path: Path) -> None:
    rows = [held(0.3, n, seq_len=n, mean_value_error_rel_l2=4.0) for n in (256, 512)]
    _, (ax,) = figure_of(KIND["error_vs_length"], frame_of(tmp_path, rows))
    assert ax.get_ylim()[1] > 4


def test_a_run_without_baselines_has_neither_line(tmp_path: Path) -> None:
    for name in ("error_vs_length", "error_vs_time"):
        _, (ax,) = figure_of(KIND[name], frame_of(tmp_path, MANY))
        assert not {line.get_gid() for line in ax.lines} & {"floor", "mean of V"}


# Inputs


SPREAD = {
    "effective_keys": 40.0,
    "sink_mass": 0.3,
    "near_mass": 0.5,
    "top64_mass": 0.9,
    "logit_spread": 2.5,
}


def heads_file(
    folder: Path,
    rows: Sequence[Measurement],
    effective: Sequence[float],
    errors: Sequence[float] = (),
) -> None:
    """A heads.csv with one head for each number of effective keys, and one error for each row."""
    frame = pd.DataFrame(
        [
            row.case.values
            | dict.fromkeys(HeadRow.columns(), 0.1)
            | {"batch_index": 0, "head": head, "mass_recall": None, "effective_keys": keys}
            | {"approx_error_rel_l2": errors[number] if errors else 0.1}
            for number, row in enumerate(rows)
            for head, keys in enumerate(effective)
        ],
        columns=[*Case.columns(), *HeadRow.columns()],
    )
    frame.astype(object).to_csv(folder / "heads.csv", index=False)


def test_the_inputs_are_described_once_for_each_layer_and_length(tmp_path: Path) -> None:
    rows = [
        held(0.5, variant=variant, seq_len=n, inputs="smollm2", layer=layer, **SPREAD)
        for variant in ("lsh", "top_k")
        for n in (256, 512)
        for layer in (3, 15)
    ]
    rows += [held(0.5, **SPREAD | {"effective_keys": 200.0})]
    rows += [failed(variant="lsh", seq_len=1024)]
    table = described(read_runs([write(tmp_path, rows)]))
    assert table is not None
    assert table.titles == ["inputs", "length"]
    assert [words for words, _ in table.lines] == [
        ["smollm2 layer 3", "256"],
        ["smollm2 layer 3", "512"],
        ["smollm2 layer 15", "256"],
        ["smollm2 layer 15", "512"],
        ["gaussian", "256"],
    ]
    assert [number.mean for number in table.lines[0][1]] == [
        "40.0", "30.0 %", "50.0 %", "90.0 %", "2.50",
    ]  # fmt: skip
    assert table.lines[4][1][0].mean == "200"
    assert not table.has_heads
    text = build_report([tmp_path]).read_text()
    assert 'id="inputs"' in text
    for descriptor in DESCRIPTORS:
        assert f"<b>{descriptor.title}</b>" in text


def test_decoding_steps_have_a_separate_line(tmp_path: Path) -> None:
    rows = [held(0.5, **SPREAD), held(0.5, direction="decode", **SPREAD | {"sink_mass": 0.7})]
    table = described(read_runs([write(tmp_path, rows)]))
    assert table is not None
    assert [(words[1], numbers[1].mean) for words, numbers in table.lines] == [
        ("all", "30.0 %"), ("the last ones", "70.0 %"),
    ]  # fmt: skip


def test_for_single_heads_the_minimum_and_maximum_are_shown(tmp_path: Path) -> None:
    rows = [held(0.5, **SPREAD), held(0.5, seq_len=512, **SPREAD)]
    heads_file(write(tmp_path, rows), rows[:1], [12.0, 90.0, 31.0])
    runs = read_runs([tmp_path])
    assert list(runs.per_head["case"]) == [0, 0, 0]
    table = described(runs)
    assert table is not None
    assert table.has_heads
    (_, first), (_, second) = table.lines
    assert first[0].reach == "12.0 to 90.0"
    assert (first[1].reach, second[0].reach) == ("", "")
    assert "12.0 to 90.0" in build_report([tmp_path]).read_text()


def test_heads_of_a_second_run_belong_to_its_rows(tmp_path: Path) -> None:
    one, two = [held(0.5)], [held(0.5, variant="lsh", inputs="smollm2", layer=3)]
    for name, rows in (("1", one), ("2", two)):
        heads_file(write(tmp_path / name, rows), rows, [12.0])
    runs = read_runs([tmp_path / "1", tmp_path / "2"])
    assert list(runs.frame["variant"][runs.per_head["case"]]) == ["full", "lsh"]


def test_a_file_of_heads_without_the_columns_is_refused(tmp_path: Path) -> None:
    (write(tmp_path, [held(0.5)]) / "heads.csv").write_text("variant,head\n")
    with pytest.raises(FileError, match=r"heads\.csv lacks 20 of the 29 .*mass_recall"):
        read_runs([tmp_path])


def test_a_run_in_which_no_case_finished_has_an_empty_file_of_heads(tmp_path: Path) -> None:
    heads_file(write(tmp_path, [failed()]), [], [])
    runs = read_runs([tmp_path])
    assert runs.per_head.empty
    assert described(runs) is None
    build_report([tmp_path])


# Single heads


def figure_of_heads(folder: Path) -> tuple[dict[str, list[tuple[float, float]]], list[str]]:
    """The points of each method in the only panel, and the names in the legend."""
    runs = read_runs([folder])
    part = split(runs.frame)[0]
    found = single_heads.drawn(part, runs.per_head)
    figure, _ = single_heads.draw(found, part, styles(runs.frame))
    (ax,) = [ax for ax in figure.axes if ax.get_visible()]
    points = {
        str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in ax.lines
        if not str(line.get_label()).startswith("_")
    }
    (legend,) = figure.legends
    return points, [text.get_text() for text in legend.get_texts()]


def test_heads_are_drawn_for_the_best_setting_of_the_best_methods(tmp_path: Path) -> None:
    rows = [held(0.5, variant=f"v{k}", seq_len=n) for k in range(8) for n in (256, 512)]
    rows += [held(0.5, variant="v0", hyperparameters="size=2", seq_len=512)]
    rows += [other(0.01, seq_len=512), held(3e-7, seq_len=512)]
    folder = write(tmp_path, rows)
    # For v0 to v7 the error of a head grows with the number; for v0 the second setting is the best.
    errors = [0.1 * (k + 1) for k in range(8) for _ in (256, 512)] + [0.01, 0.001, 3e-7]
    heads_file(folder, rows, [10.0, 40.0], errors)
    points, names = figure_of_heads(folder)
    assert names == ["v0 size=2", "v1", "v2", "v3", "v4", "v5"]
    assert sorted(points) == names
    assert points["v1"] == [(10.0, pytest.approx(0.2)), (40.0, pytest.approx(0.2))]
    text = build_report([folder]).read_text()
    assert "Error of each head against its effective keys" in text
    assert (folder / "report" / "figures" / "error_by_head.png").exists()


def test_there_is_no_figure_for_a_single_head(tmp_path: Path) -> None:
    rows = [held(0.5)]
    heads_file(write(tmp_path, rows), rows, [12.0])
    assert "Error of each head" not in build_report([tmp_path]).read_text()
