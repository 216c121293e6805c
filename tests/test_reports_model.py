"""The page of runs with a language model."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.loop.journal import Journal
from bench.schema.measurement import Raw
from bench.schema.model_row import ModelCase, ModelRow
from bench.schema.outcome import Status
from reports.__main__ import main
from reports.figures.perplexity import draw_model, of_models
from reports.figures.style import styles
from reports.model_page import read_models
from tests.cases import with_named_attention
from tests.test_reports import ENVIRONMENT, REFERENCE, done, write

CASE = {
    "variant": "lsh",
    "implementation": "auto",
    "hyperparameters": "num_hashes=4 seed=0",
    "model": "tiny",
    "text": "a novel",
    "text_sha256": "0" * 64,
    "layers": "all",
    "device": "cpu",
    "dtype": "float32",
    "seq_len": 1024,
}


def model_case(**changes: Any) -> ModelCase:
    return ModelCase(**with_named_attention(CASE | changes))


def seen(ratio: float, time: float, **changes: Any) -> ModelRow:
    numbers = {
        "perplexity": 20 * ratio,
        "exact_perplexity": 20.0,
        "perplexity_ratio": ratio,
        "perplexity_ratio_low": ratio * 0.9,
        "perplexity_ratio_high": ratio * 1.1,
        "next_token_agreement": min(1.0, 1 / ratio),
        "time_per_token_ms": 2 + time,
        "exact_time_per_token_ms": 2.5,
        "attention_per_token_ms": time,
        "exact_attention_per_token_ms": 0.5,
        "speedup_vs_exact": 0.5 / time,
        "passes": 1,
    }
    return ModelRow.of(model_case(**changes), Status.OK, implementation_used="plain", **numbers)


def failed(**changes: Any) -> ModelRow:
    return ModelRow.of(model_case(**changes), Status.UNSUPPORTED, "it is never causal")


ROWS = (
    seen(3.0, 0.2),
    seen(1.5, 0.4, hyperparameters="num_hashes=8 seed=0"),
    seen(0.98, 0.3, variant="top_k", hyperparameters=""),
    seen(900.0, 0.1, variant="linear", hyperparameters="feature_map=elu"),
    failed(variant="linformer", hyperparameters="projected_len=256"),
)


def store(folder: Path, rows: tuple[ModelRow, ...] = ROWS) -> Path:
    folder.mkdir()
    with (folder / "model.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, tuple(ModelRow.columns()))
        table.writeheader()
        table.writerows(row.values for row in rows)
    (folder / "environment.json").write_text(json.dumps({**ENVIRONMENT, "model": {"name": "tiny"}}))
    return folder


def build(*words: object) -> str:
    result = CliRunner().invoke(main, ["build", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_page_shows_every_row_and_a_figure(tmp_path: Path) -> None:
    folder = store(tmp_path / "run")
    assert build(folder).endswith(f"{folder}/report/report.html\n")
    page = (folder / "report" / "report.html").read_text()
    assert "4 ok, 1 unsupported" in page
    assert "<td>lsh num_hashes=4</td>" in page
    assert "unsupported: it is never causal" in page
    assert "2.70× to 3.30×" in page
    assert 'href="figures/model-1.png"' in page
    assert "<td>full</td>" in page  # every row has the time of exact attention
    assert (folder / "report" / "figures" / "model-1.png").stat().st_size > 10_000


def test_models_are_a_section_of_the_page_of_other_runs(tmp_path: Path) -> None:
    other = write(tmp_path / "other", [done(1.0)])
    said = build(other, store(tmp_path / "run"))
    assert f"{other}/report/report.html" in said
    page = (other / "report" / "report.html").read_text()
    assert '<h2 id="model">Variants in a pretrained model</h2>' in page
    assert '<h2 id="all">All cases</h2>' in page
    assert "<td>lsh num_hashes=4</td>" in page
    assert not (other / "report" / "model.html").exists()


def test_exact_attention_is_drawn_where_it_has_no_row(tmp_path: Path) -> None:
    frame = read_models([store(tmp_path / "run")]).frame
    (exact,) = frame[frame["is_reference"]].itertuples()
    assert (exact.label, exact.perplexity, exact.perplexity_change) == ("full", 20, 0)
    assert (exact.attention_per_token_ms, exact.seq_len) == (0.5, 1024)
    own = (*ROWS, seen(1.0, 0.6, variant="full", implementation="sdpa", hyperparameters=""))
    frame = read_models([store(tmp_path / "own", own)]).frame
    assert not frame["is_reference"].any()
    assert len(frame) == len(own)


def test_points_are_at_the_change_of_perplexity_and_within_the_axes(tmp_path: Path) -> None:
    long = [dataclasses.replace(row.case, seq_len=2048) for row in ROWS]
    longer = tuple(dataclasses.replace(row, case=c) for row, c in zip(ROWS, long, strict=True))
    frame = read_models([store(tmp_path / "run", ROWS + longer)]).frame
    ((_, rows),) = of_models(frame)
    figure = draw_model(rows, styles(frame))
    assert figure is not None
    short, long_ = sorted((ax for ax in figure.axes), key=lambda ax: ax.get_position().x0)
    assert [ax.get_title(loc="left") for ax in (long_, short)] == ["length 2k", "length 1k"]
    points = sorted(tuple(point) for c in short.collections for point in c.get_offsets().tolist())
    drawn = {(round(x, 6), round(y, 6)) for x, y in points if (x, y) != (0, 0)}
    # Twice the perplexity or more, and another operator, are only names in the band.
    assert drawn == {(0.4, 0.5), (0.3, -0.02), (0.5, 0.0)}
    (band,) = [text.get_text() for text in short.texts if text.get_gid() == "useless-names"]
    assert "twice the perplexity or more: lsh" in " ".join(band.split())
    assert "another operator: linear" in " ".join(band.split())
    low, high = short.get_ylim()
    assert low < -0.02 * 1.1
    assert 1 < high < 100
    (best,) = [line for line in short.lines if line.get_gid() == "frontier"]
    # Not the fastest one, which is useless, nor exact attention, because top_k beats it in both
    # values.
    assert list(best.get_xdata()) == [0.3]
    assert {"lsh", "top_k", "full"} <= {text.get_text().split()[0] for text in short.texts}


def test_a_case_that_was_measured_twice_counts_once(tmp_path: Path) -> None:
    again = store(tmp_path / "again", (seen(2.0, 0.2),))
    frame = read_models([store(tmp_path / "run"), again]).frame
    assert len(frame) == len(ROWS) + 1  # and exact attention
    (row,) = frame[frame["hyperparameters"] == CASE["hyperparameters"]].itertuples()
    assert row.perplexity_ratio == 2


def test_a_run_that_was_killed_before_its_table_was_written_is_shown(tmp_path: Path) -> None:
    folder = store(tmp_path / "run")
    (folder / "model.csv").unlink()
    journal = Journal(folder)
    journal.header(command="model", environment={}, setup={}, cases=[])
    for row in ROWS:
        journal.result(row, Raw())
    journal.close()
    build(folder)
    page = (folder / "report" / "report.html").read_text()
    assert "4 ok, 1 unsupported" in page
    assert not (folder / "model.csv").exists()


def test_machines_of_different_kinds_have_their_own_figures(tmp_path: Path) -> None:
    one, two = (
        seen(3.0, 0.2),
        dataclasses.replace(seen(1.5, 0.8, variant="top_k", hyperparameters=""), host="b"),
    )
    folder = store(tmp_path / "run", (one, two))
    slow = {"hardware": {**ENVIRONMENT["hardware"], "threads": 1}}
    machines = {"b": {**ENVIRONMENT, **slow, "host": "b"}}
    (folder / "environment.json").write_text(json.dumps({**ENVIRONMENT, "machines": machines}))
    build(folder)
    assert len(list((folder / "report" / "figures").glob("model-*.png"))) == 2
    page = (folder / "report" / "report.html").read_text()
    assert "1 machine of this kind measured 1 row." in page


@pytest.mark.parametrize("missing", ["perplexity_ratio", "environment.json"])
def test_missing_columns_and_files_are_reported(missing: str, tmp_path: Path) -> None:
    folder = store(tmp_path / "run")
    if missing == "environment.json":
        (folder / missing).unlink()
    else:
        text = (folder / "model.csv").read_text().replace(missing + ",", "something,", 1)
        (folder / "model.csv").write_text(text)
    result = CliRunner().invoke(main, ["build", str(folder)])
    assert result.exit_code == 2
    assert missing in result.output
    assert not (folder / "report").exists()


def test_a_row_has_numbers_or_a_reason() -> None:
    with pytest.raises(ValueError, match="a row with status ok needs perplexity"):
        ModelRow.of(model_case(), Status.OK, passes=1)
    with pytest.raises(ValueError, match="a row with status error has no numbers"):
        ModelRow.of(model_case(), Status.ERROR, "why", perplexity=1.0)
    with pytest.raises(ValueError, match="a row with status error needs a reason"):
        ModelRow.of(model_case(), Status.ERROR)


def test_the_published_run_can_be_read() -> None:
    (folder,) = REFERENCE.glob("*-model")
    frame = read_models([folder]).frame
    rows = frame[(frame["status"] == Status.OK) & ~frame["is_reference"]]
    assert len(rows) >= 18
    exact = rows[rows["variant"] == "full"]
    assert (exact["perplexity_ratio"] - 1).abs().max() < 1e-3
