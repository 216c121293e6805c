"""Errors in the report: tables, baselines, other operators, inputs, single heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.schema.case import Case
from bench.schema.measurement import HeadRow, Measurement
from bench.schema.validation import FileError
from reports.answers import answers
from reports.build import build_report
from reports.inputs_page import DESCRIPTORS, described
from reports.listing import listing
from reports.names import OTHER_OPERATOR
from reports.page.accuracy_data import BEATEN, accuracy_facts, accuracy_table, with_heads
from reports.rows import read_runs
from reports.slices import split
from reports.tables import summary_table
from tests.cases import changed
from tests.test_reports import (
    done,
    failed,
    frame_of,
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


def shown(folder: Path, rows: Sequence[Measurement]) -> pd.DataFrame:
    """The table of errors as the page gets it, with the titles of its columns."""
    frame = with_heads(read_runs([write(folder, rows)]))
    titles = {fact["name"]: fact["title"] for fact in accuracy_facts(frame)}
    return pd.DataFrame(accuracy_table(frame)).rename(columns=titles)


# The table of errors


def test_a_row_has_its_errors_and_the_baselines_of_its_budget(tmp_path: Path) -> None:
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
    table = shown(tmp_path, rows)
    assert table.drop(columns=BEATEN).iloc[0].to_dict() == pytest.approx(
        {
            "keys": 96,
            "mean of V": 0.8,
            "random keys": 0.6,
            "top keys": 0.1,
            "median row": 0.41,
            "worst row": 1.7,
            "cosine": 0.88,
            "std of draws": 0.02,
            "draws": 5,
            "kept mass": 0.75,
            "top-64 recall": 0.62,
            "total variation": 0.25,
            "implementation": 2e-7,
            "floor of dtype": 3e-7,
        },
        rel=2**-12,
    )
    assert pd.isna(table["kept mass"][1])
    assert table["top keys"][1] == 0


def test_errors_of_gradients_and_of_approximation_have_columns_if_they_are_known(
    tmp_path: Path,
) -> None:
    gradients = {f"grad_{name}_error_rel_l2": e for name, e in (("query", 0.7), ("key", 0.8))}
    parts = {"target_error_rel_l2": 0.3, "substitution_error_rel_l2": 0.45}
    rows = [held(0.5, variant="lsh", direction="forward_backward", **gradients, **parts), held(0.2)]
    table = shown(tmp_path, rows)
    names = ["query", "key", "approximation", "substitution"]
    assert table[names].iloc[0].tolist() == pytest.approx([0.7, 0.8, 0.3, 0.45], rel=2**-12)
    assert table[names].iloc[1].isna().all()
    assert "value" not in table


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
    table = shown(tmp_path, [held(variant="lsh", **numbers), failed(seq_len=512)])
    assert table[BEATEN].tolist() == [", ".join(words), ""]


def test_a_method_worse_than_a_baseline_is_not_in_the_answer(tmp_path: Path) -> None:
    rows = [held(0.85, 0.1, variant="lsh"), held(0.5, 0.2, variant="top_k")]
    (answer,) = answers(split(frame_of(tmp_path, rows))[0])
    assert [choice.label for choice in answer.choices] == ["top_k"]


def test_a_run_without_baselines_has_no_columns_for_them(tmp_path: Path) -> None:
    rows = [done(1, 0.5, variant="lsh"), done(2, 0.0)]
    assert list(shown(tmp_path, rows)) == [BEATEN]
    text = build_report([tmp_path]).read_text()
    assert "were not measured in this run" in text
    assert 'id="inputs"' not in text
    again = build_report([write(tmp_path / "new", [held(0.5)])]).read_text()
    assert "were not measured in this run" not in again
    assert 'href="#accuracy"' in again


def test_columns_have_the_meaning_of_the_columns_of_a_row(tmp_path: Path) -> None:
    frame = with_heads(read_runs([write(tmp_path, [held(0.5, mass_recall=0.5)])]))
    for fact in accuracy_facts(frame):
        assert fact["about"] == Measurement.columns()[fact["name"]].description


def test_the_inputs_of_many_lines_are_cut_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.inputs_page.MOST_LINES", 3)
    rows = [held(0.5, seq_len=n, **SPREAD) for n in (64, 128, 256, 512)]
    table = described(read_runs([write(tmp_path, rows)]))
    assert table is not None
    assert (len(table.lines), table.left_out) == (3, 1)
    assert "1 more lines are left out" in build_report([tmp_path]).read_text()


# Other operators


def test_another_operator_is_marked_wherever_it_is_named(tmp_path: Path) -> None:
    rows = [other(0.2), held(0.5, variant="lsh"), failed(variant="linear", seq_len=512)]
    frame = frame_of(tmp_path, rows)
    # A failed case has no target, but the same name as the cases that finished.
    assert list(frame["label"]) == [f"linear{MARK}", "lsh", f"linear{MARK}"]
    (settings,) = (it.values for it in listing(frame).columns if it.title == "settings")
    details = settings.tolist()
    assert [OTHER_OPERATOR in detail for detail in details] == [True, False, True]


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


def test_another_operator_is_never_the_answer_for_decoding(tmp_path: Path) -> None:
    small = [changed(row, target="other_kernel", state_bytes=1) for row in steps(variant="linear")]
    for answer in answers(split(frame_of(tmp_path, [*small, *steps(variant="lsh")]))[0]):
        assert answer.smallest is not None
        assert answer.smallest.label == "lsh"


def test_if_only_other_operators_finished_there_is_no_answer(tmp_path: Path) -> None:
    (answer,) = answers(split(frame_of(tmp_path, [other(0.01)]))[0])
    assert (answer.choices, answer.smallest) == ((), None)
    build_report([tmp_path])


def test_other_operators_are_not_chosen_in_the_terminal(tmp_path: Path) -> None:
    console = Console(width=120, record=True)
    with console.capture() as screen:
        console.print(summary_table(frame_of(tmp_path, [other(0.2), held(0.5, variant="lsh")])))
    assert "lsh" in screen.get()
    assert "linear" not in screen.get()


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


def test_a_row_has_the_errors_of_its_best_and_worst_head(tmp_path: Path) -> None:
    rows = [held(0.5), held(0.5, variant="lsh")]
    heads_file(write(tmp_path, rows), rows[1:], [12.0, 90.0, 31.0])
    path = tmp_path / "heads.csv"
    heads = pd.read_csv(path, keep_default_na=False)
    heads["approx_error_rel_l2"] = [0.2, 0.9, 0.4]
    heads.to_csv(path, index=False)
    frame = with_heads(read_runs([tmp_path]))
    assert frame["best_head"].tolist() == pytest.approx([math.nan, 0.2], nan_ok=True)
    assert frame["worst_head"].tolist() == pytest.approx([math.nan, 0.9], nan_ok=True)


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
