"""The files beside the page for people and programs: report.md and answers.csv."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.schema.measurement import Measurement
from reports.answers_csv import BUDGETS, COLUMNS, write_answers
from reports.build import build_report
from reports.markdown_report import escaped
from reports.page.answer_data import questions
from reports.recommender.choose import choose
from reports.recommender.evidence import Evidence
from reports.rows import read_runs
from tests.cases import changed
from tests.test_reports import done, failed, write

REAL: dict[str, Any] = {"inputs": "smollm2", "layer": 3, "seq_len": 1024}


def exact(time: float, **changes: Any) -> Measurement:
    return changed(done(time, 1e-7, **changes), exact_ms_median=time)


HOSTILE = "<script>alert(1)</script>|$x^2$`a`\n# b *c* [d](e) @f _g_"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with hostile names."""
    folder = tmp_path_factory.mktemp("run")
    rows = [
        exact(10, **REAL),
        changed(done(2, 0.15, variant="window", **REAL), exact_ms_median=10),
        changed(done(1, 0.4, variant="narrow", **REAL), exact_ms_median=10),
        failed(reason=HOSTILE, variant="<b>|x", **REAL),
        exact(5, inputs="sinks"),
    ]
    return build_report([write(folder, rows)]).parent


def test_the_summary_answers_three_budgets_and_has_the_choices_as_a_table(built: Path) -> None:
    text = (built / "report.md").read_text()
    assert "5 cases: 4 ok, 1 timeout." in text
    assert "- cpu, Some CPU, 2 threads · sweep cpu · 2026-11-20" in text
    found = [line for line in text.splitlines() if line.startswith("- error ≤ ")]
    assert [line.split(",")[0] for line in found] == [
        "- error ≤ 0.05 at 1024 tokens: full",
        "- error ≤ 0.2 at 1024 tokens: window",
        "- error ≤ 0.5 at 1024 tokens: narrow",
    ]
    rows = _table(text)
    assert [row[:2] for row in rows] == [
        ["2.2e-07", "full"],
        ["0.165", "window"],
        ["0.441", "narrow"],
    ]
    assert rows[1][2:] == ["2.00 ms [1.80 ms, 2.20 ms]", "5.00", "1.00 MiB", "0.150 [0.135, 0.165]"]


def _table(summary: str) -> list[list[str]]:
    """The cells of the table of choices, without its head."""
    part = summary.split("## The choice for each error budget at 1k tokens")[1].split("##")[0]
    lines = [line for line in part.splitlines() if line[:1] == "|"]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_the_table_of_the_summary_has_the_choice_of_every_budget(tmp_path: Path) -> None:
    # The intervals of `near` and `fast` overlap, and `near` was timed beside a slower exact method.
    rows = [
        exact(10, **REAL),
        changed(done(2, 0.3, variant="near", **REAL), exact_ms_median=12),
        changed(done(1, 0.31, variant="fast", **REAL), exact_ms_median=10),
        changed(done(3, 0.5, variant="slow", **REAL), exact_ms_median=10),
    ]
    folder = write(tmp_path, rows)
    candidates = questions(Evidence(read_runs([folder])))[0].candidates
    found = _table((build_report([folder]).parent / "report.md").read_text())
    assert [(row[1], row[3]) for row in found] == [
        ("full", "1.00"),
        ("near", "6.00"),
        ("fast", "10.00"),
    ]
    for budget in (0.001, 0.05, 0.329, 0.33, 0.34, 0.341, 0.5, 1.0):
        (*_, at) = [row for row in found if float(row[0]) <= budget]
        chosen = choose(candidates, budget).chosen
        assert chosen is not None
        assert at[1] == chosen.name


def test_links_of_the_summary_lead_to_files(built: Path) -> None:
    text = (built / "report.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert {"report.html", "answers.csv", "cases.csv", "figures/frontier.svg"} <= set(links)
    assert all((built / link).is_file() for link in links)


def test_names_in_the_summary_are_neither_markup_nor_formulas_nor_cells(built: Path) -> None:
    text = (built / "report.md").read_text()
    assert "<script" not in text
    (line,) = [line for line in text.splitlines() if "alert" in line]
    assert line.count("|") == 5
    for active in ("<", "$", "`", "*", "[", "@", "#"):
        assert active not in line.replace("&#", "")
    assert html.unescape(escaped(HOSTILE)) == " ".join(HOSTILE.split())
    assert escaped("attention_sinks") == "attention_sinks"


def test_answers_have_a_row_for_each_length_and_budget_and_no_empty_key(built: Path) -> None:
    table = pd.read_csv(built / "answers.csv")
    assert list(table) == list(COLUMNS)
    assert len(table) == 2 * len(BUDGETS)
    numbers = [name for name in COLUMNS if name.startswith(("time", "error", "memory"))]
    assert not table.drop(columns=numbers).isna().any().any()
    real = table[table["inputs"] == "smollm2"].set_index("max_error")
    assert real["variant"].tolist() == ["full", "full", "full", "window", "window", "narrow"]
    assert real.loc[0.2, "times_exact"] == 5
    assert real.loc[0.2, "error_high"] == pytest.approx(0.165)
    assert set(real["layers"].astype(str)) == {"3"}


def test_answers_are_those_of_the_recommender(tmp_path: Path) -> None:
    rows = [done(1, 0.3, layer=n, inputs="smollm2") for n in (1, 2)]
    rows += [done(2, 0.04 * n, variant="window", layer=n, inputs="smollm2") for n in (1, 2)]
    asked = questions(Evidence(read_runs([write(tmp_path, rows)])))
    table = pd.read_csv(write_answers(asked, tmp_path))
    assert set(table["layers"]) == {"worst"}
    for _, line in table.iterrows():
        chosen = choose(asked[0].candidates, line["max_error"]).chosen
        assert line["choice"] == (chosen.name if chosen else "none")
        assert pd.isna(line["time_ms"]) == (chosen is None)
    assert set(table["choice"]) == {"none", "window", "full"}


def test_answers_have_no_formulas_for_a_spreadsheet(tmp_path: Path) -> None:
    rows = [done(1, 0.1, inputs=name) for name in ("=cmd|x", "-1+2", "@sum", "smollm2")]
    asked = questions(Evidence(read_runs([write(tmp_path, rows)])))
    table = pd.read_csv(write_answers(asked, tmp_path))
    assert set(table["inputs"]) == {"'=cmd|x", "'-1+2", "'@sum", "smollm2"}


def test_methods_that_are_as_fast_as_the_choice_are_named_without_the_choice(
    tmp_path: Path,
) -> None:
    errors = {"near": 0.2, "close": 0.1}
    rows = [done(10, 1e-7, **REAL), *(done(1, errors[it], variant=it, **REAL) for it in errors)]
    asked = questions(Evidence(read_runs([write(tmp_path, rows)])))
    table = pd.read_csv(write_answers(asked, tmp_path)).set_index("max_error")
    assert (table.loc[0.5, "choice"], table.loc[0.5, "tied"]) == ("close", "near")
