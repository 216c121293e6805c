"""The data of the page: packing, crossover lengths, columns of cases, and the files beside it."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.build import build_report
from reports.figures.drawn_figures import Drawings
from reports.growth import Audit
from reports.html import page, short_names
from reports.listing import listing
from reports.page.answer_data import default_question, questions
from reports.page.case_data import case_facts, case_tables
from reports.page.chart import library
from reports.page.crossover_lengths import crossovers, words
from reports.page.downloads import write_cases
from reports.page.packing import packed, rounded
from reports.recommender.closing import longest
from reports.recommender.evidence import Evidence
from reports.rows import Runs, read_runs
from tests.evidence_frames import SCENE, evidence, exact, row
from tests.test_reports import REFERENCE, RUN, done, frame_of, write


def unpacked(text: str) -> tuple[dict[str, dict[str, list[Any]]], Any]:
    """The tables and facts of a packed text, read as the page reads them."""
    whole = gzip.decompress(base64.b64decode(text))
    size = int.from_bytes(whole[:4], "little")
    header = json.loads(whole[4 : 4 + size])
    return {
        name: {column: _column(whole[4 + size :], stored) for column, stored in columns.items()}
        for name, columns in header["tables"].items()
    }, header["facts"]


def _column(data: bytes, stored: dict[str, Any]) -> list[Any]:
    kind = np.dtype(stored["kind"])
    count, start = stored["rows"] * kind.itemsize, stored["offset"]
    planes = np.frombuffer(data[start : start + count], np.uint8).reshape(kind.itemsize, -1)
    values = np.ascontiguousarray(planes.T).reshape(-1).view(kind).tolist()
    return [stored["words"][code] for code in values] if "words" in stored else values


def test_a_packed_table_has_the_values_of_its_columns() -> None:
    table = {
        "word": ["b", "a", "</script>", "b", "=1\n"],
        "small": np.array([0, 1, 2, 3, 255]),
        "large": np.array([0, 1, 2, 3, 2**31]),
        "size": np.array([2.0**40 + 1, 0, 1, 2, 3]),
        "number": np.array([0.1, 1e-30, 3, math.inf, 5], dtype=np.float32),
        "truth": np.array([True, False, True, False, True]),
    }
    text = packed({"one": table, "none": {"word": []}}, {"first": 3})
    tables, facts = unpacked(text)
    assert facts == {"first": 3}
    assert tables["none"]["word"] == []
    assert tables["one"] == {name: list(values) for name, values in table.items()} | {
        "number": np.array(table["number"]).tolist(),
        "truth": [1, 0, 1, 0, 1],
    }
    assert "<" not in text


def test_a_missing_number_is_packed_as_nan() -> None:
    tables, _ = unpacked(packed({"t": {"x": pd.Series([1, None], dtype="Int64")}}, {}))
    assert tables["t"]["x"][0] == 1
    assert math.isnan(tables["t"]["x"][1])


def test_rounded_numbers_keep_four_digits() -> None:
    exact = np.geomspace(1e-9, 1e12, 1000)
    kept = rounded([*exact, math.nan, math.inf, 0.0])
    assert np.abs(kept[:1000] / exact - 1).max() < 2**-16
    assert math.isnan(kept[1000])
    assert kept[1001:].tolist() == [math.inf, 0]
    assert len(gzip.compress(kept.tobytes())) < len(gzip.compress(exact.astype("f4").tobytes()))


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        ({256: True, 1024: True}, "always, 256 to 1k"),
        ({256: False, 1024: False}, "never up to 1k"),
        ({4096: True}, "at 4k, the only length"),
        ({256: False, 1024: False, 4096: True}, "from a length between 1k and 4k"),
        ({256: True, 1024: False, 4096: False}, "below a length between 256 and 1k"),
        (
            {256: True, 1024: False, 4096: True},
            "2 crossings: at 256, 4k, not at the other measured length, 1k",
        ),
        ({}, "not measured"),
    ],
)
def test_a_crossover_is_said_from_measured_lengths(better: dict[int, bool], expected: str) -> None:
    assert words(better) == expected


def test_a_method_is_useful_where_it_is_not_excluded() -> None:
    found = evidence(
        *(exact(n) for n in (256, 512)),
        *(row("sometimes", n, 0.1, error) for n, error in ((256, 0.2), (512, 1.5))),
        *(row("never", n, 0.1, 1.5) for n in (256, 512)),
    )
    lengths = {n: found.candidates(SCENE, n, "worst") for n in (512, 256)}
    of = {it.label: it for it in crossovers(lengths)}
    assert of["sometimes"].useful == {256: True, 512: False}
    assert of["never"].useful == {256: False, 512: False}
    assert (of["sometimes"].is_useless, of["never"].is_useless) == (False, True)


def test_the_page_opens_on_the_question_of_the_closing_lines() -> None:
    longer = dataclasses.replace(SCENE, causal=False)
    found = evidence(
        *(exact(n, layer=layer) for n in (256, 512) for layer in (3, 15)),
        *(exact(1024, layer=layer, causal=False) for layer in (3, 15)),
        exact(2048, inputs="gaussian", layer=None),
    )
    asked = questions(found)
    first = asked[default_question(asked)]
    assert (first.scene, first.seq_len) == longest(found) == (longer, 1024)
    assert first.policy == "worst"


def test_the_menu_names_machines_by_sweep_and_date() -> None:
    def names(*sweeps: str) -> dict[str, str]:
        environments = {
            f"machine {number}": {"sweep": {"name": name}, "started_utc": "2026-11-21T04:37:10"}
            for number, name in enumerate(sweeps)
        }
        return short_names(Runs(pd.DataFrame(), environments, pd.DataFrame()))

    assert names("field", "cpu") == {
        "machine 0": "field, 2026-11-21",
        "machine 1": "cpu, 2026-11-21",
    }
    assert names("cpu", "cpu") == {"machine 0": "machine 0", "machine 1": "machine 1"}
    assert names("cpu") == {"machine 0": "machine 0"}


def test_the_table_of_cases_has_the_values_of_the_rows(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, RUN)
    listed = listing(frame)
    tables, facts = unpacked(packed(case_tables(frame, listed), case_facts(listed)))
    titles = [fact["title"] for fact in facts]
    of = {title: tables["cases"][f"c{number}"] for number, title in enumerate(titles)}
    assert of["method"] == frame["variant"].tolist()
    assert of["status"] == frame["status"].tolist()
    assert of["length"] == [str(n) for n in frame["seq_len"]]
    measured = frame["time_ms_median"].notna().tolist()
    assert [not math.isnan(time) for time in of["time"]] == measured
    assert tables["commands"]["causal"] == ["true"] * len(frame)
    assert tables["commands"]["reason"] == frame["reason"].tolist()
    (number,) = [n for n, title in enumerate(titles) if title == "error"]
    assert facts[number]["has_interval"]
    low = tables["cases"][f"c{number}_low"][0]
    assert low == pytest.approx(frame["approx_error_low"][0])


def test_a_row_takes_at_most_150_bytes_of_the_page() -> None:
    known = read_runs([REFERENCE / "amd-epyc-2-threads"])
    draw = np.random.default_rng(0)
    noisy = [name for name, kind in known.frame.dtypes.items() if kind == np.float64]
    frames = []
    for layer in range(20):
        frame = known.frame.assign(layer=layer, inputs="smollm2", source=f"smollm2 layer {layer}")
        noise = np.exp(draw.normal(0, 0.1, (len(frame), len(noisy))))
        frames.append(frame.assign(**{n: frame[n] * noise[:, k] for k, n in enumerate(noisy)}))
    runs = Runs(pd.concat(frames, ignore_index=True), known.environments, known.per_head.iloc[:0])
    text = page(runs, Drawings(), Audit((), 0), questions(Evidence(runs)))
    empty = page(known, Drawings(), Audit((), 0))
    assert len(text) - len(empty) - len(library()) < 150 * len(runs.frame)


def test_a_text_that_is_a_formula_is_harmless_in_the_csv_file(tmp_path: Path) -> None:
    rows = [done(variant="=cmd()"), done(variant="@x", seq_len=512), done(variant="+1-2")]
    frame = read_runs([write(tmp_path / "run", rows)]).frame
    names = write_cases(frame, tmp_path).names
    read = pd.read_csv(tmp_path / names[0], keep_default_na=False)
    assert read["variant"].tolist() == ["'=cmd()", "'@x", "'+1-2"]
    assert read["machine"].tolist() == frame["machine"].tolist()
    assert len(read) == len(rows)


def test_a_parquet_file_has_the_rows_without_apostrophes(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    frame = read_runs([write(tmp_path / "run", [done(variant="=cmd()"), done(seq_len=512)])]).frame
    assert write_cases(frame, tmp_path).names == ("cases.csv", "cases.parquet")
    found = duckdb.sql(
        f"select variant, hyperparameters, seq_len, time_ms_median from '{tmp_path}/cases.parquet'"
    ).fetchall()
    assert found == [("=cmd()", "none", 256, 1.0), ("full", "none", 512, 1.0)]
    assert pd.read_csv(tmp_path / "cases.csv")["hyperparameters"].notna().all()


def test_the_page_says_how_good_its_answers_are(tmp_path: Path) -> None:
    rows = [
        done(n / speed, error, variant=name, seq_len=n)
        for n in (256, 512, 1024)
        for name, speed, error in (("full", 100, 1e-7), ("linear", 400, 0.2))
    ]
    text = build_report([write(tmp_path / "run", rows)], tmp_path / "out").read_text()
    section = text[text.index('id="evaluation"') :]
    assert "interior length (1)" in section
    assert "median regret, interior lengths: at most 2 %" in section
