"""Names of files and sweeps are data: no letter of them is a command for a figure, a table, a
terminal, a page or a shell."""

from __future__ import annotations

import os
import subprocess
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from bench.cli.commands import main as bench
from bench.loop.result_files import write_json, write_table
from bench.plan.sweep import Sweep, SweepError
from bench.schema.measurement import Measurement
from reports.__main__ import main as reports
from reports.figures.drawn_figures import groups_of
from reports.figures.plain_text import plain_text
from reports.figures.scene_figures import FigureData, sketches
from reports.page.answer_data import questions
from reports.recommender.evidence import Evidence
from reports.rows import read_runs
from tests.cases import HEADER, capture_file, case, good

ROOT = Path(__file__).parents[1]
NAMES = {
    "mathtext": "cap$x^$.safetensors",
    "broken mathtext": "$\\frac{$.safetensors",
    "markup": "cap[old].safetensors",
    "colour": "[red]x[bold].safetensors",
    "emoji": "cap:smile:.safetensors",
    "comma": "cap,old.safetensors",
    "equals": "a=b.safetensors",
    "CJK": "捕获.safetensors",
    "page": "<script>alert(1)</script>.safetensors".replace("/", "\\"),
    "spaces": "my capture.safetensors",
    "quotes": 'it\'s "one".safetensors',
    "braces": "{0} %s.safetensors",
    "not UTF-8": os.fsdecode(b"cap\xff.safetensors"),
    "control": "cap\x1b[31m\n.safetensors",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_capture_of_any_name_is_planned_and_shown(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    capture_file(tmp_path / "plain")
    (tmp_path / "plain").rename(path)
    sweep = Sweep("axes", ({"variant": ("full",), "seq_len": (8, 16), "head_dim": (8,)},))
    sweep, files = sweep.overridden([f"inputs=file:{path}"]).located()
    planned = sweep.cases("cpu", files)
    (known,) = files
    assert files == {known: path}
    assert known.isprintable()
    assert {one.inputs for one in planned} == {f"file:{known}"}

    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        good(one, peak_memory_bytes=2**20, approx_error_rel_l2=0.1 * heads).values
        for heads in (1, 2)
        for one in planned
    ]
    write_table(folder / "results.csv", Measurement.columns(), rows)
    write_json(folder / "environment.json", HEADER["environment"])
    runner = CliRunner(env={"COLUMNS": "300"})
    made = runner.invoke(reports, ["build", str(folder)], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    page = unescape((folder / "report" / "report.html").read_text(encoding="utf-8"))
    assert known in page
    assert "<script>alert" not in (folder / "report" / "report.html").read_text(encoding="utf-8")
    compared = runner.invoke(bench, ["compare", str(folder), str(folder)], catch_exceptions=False)
    assert known in compared.stdout
    assert _figure_texts(folder, known)


def _figure_texts(folder: Path, known: str) -> bool:
    """Whether a figure has the name, as it is and not as a formula."""
    runs = read_runs([folder])
    (group, *_) = groups_of(questions(Evidence(runs)))
    figure = next(sketches(FigureData(runs.frame), group)).figure
    with plain_text():  # marks of an axis are made when they are asked for
        texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    assert not any(text.get_parse_math() for text in texts)
    whole = "".join("".join(text.get_text().split()) for text in texts)
    return "".join(known.split()) in whole


def test_several_inputs_are_separated_by_commas() -> None:
    sweep = Sweep("axes", ({},)).overridden(["inputs=file:a,b,gaussian,file:c.d,smollm2,sinks"])
    assert sweep.groups[0]["inputs"] == ("file:a,b", "gaussian", "file:c.d", "smollm2", "sinks")


def test_two_files_whose_names_are_written_alike_are_refused() -> None:
    names = ("file:cap\udcff", "file:cap\\udcff")
    with pytest.raises(SweepError, match="have the same name"):
        Sweep("axes", ({"inputs": names},)).located()


@pytest.mark.parametrize("name", ["[/x]", "[bold]", ":smile:", "a b", "名前"])
def test_a_sweep_of_any_name_is_planned(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if "/" in name:  # the name is what follows the last slash
        folder = folder / name.partition("/")[0]
        folder.mkdir()
    sweep = folder / f"{name.rpartition('/')[2]}.toml"
    sweep.write_text('variant = ["full"]\nseq_len = [16]\n')
    said = CliRunner().invoke(bench, ["plan", str(sweep)], catch_exceptions=False)
    assert said.exit_code == 0
    assert sweep.stem in said.stdout


def test_integers_above_two_to_the_53_stay_apart(tmp_path: Path) -> None:
    seeds = [1758000000000000001, 1758000000000000002, 2**63 - 1]
    rows = [good(case(seed=seed, kv_heads=1), repeats=3).values for seed in seeds]
    write_table(tmp_path / "results.csv", Measurement.columns(), rows)
    write_json(tmp_path / "environment.json", HEADER["environment"])
    assert read_runs([tmp_path]).frame["seed"].tolist() == seeds
    said = CliRunner(env={"COLUMNS": "200"}).invoke(bench, ["compare", *[str(tmp_path)] * 2])
    assert "3 cases in both runs" in said.stdout


def test_a_call_that_allocates_nothing_is_in_a_report(tmp_path: Path) -> None:
    """A kernel that writes into a buffer of its own has a peak of 0 bytes."""
    rows = [
        good(case(seq_len=n), peak_memory_bytes=size, approx_error_rel_l2=0.5).values
        for n, size in ((32, 0), (64, 0), (128, 4096))
    ]
    write_table(tmp_path / "results.csv", Measurement.columns(), rows)
    write_json(tmp_path / "environment.json", HEADER["environment"])
    made = CliRunner().invoke(reports, ["build", str(tmp_path)], catch_exceptions=False)
    assert made.exit_code == 0


@pytest.mark.parametrize(
    ("target", "words", "expected"),
    [
        ("bench", ["SWEEP=my sweep.toml"], "<run> <my sweep.toml>"),
        (
            "bench",
            ["SET=inputs=file:a;b seq_len=8"],
            "<--set> <inputs=file:a;b> <--set> <seq_len=8>",
        ),
        ("bench", [], "<--out> <my run>"),
        ("smoke", [], "<build> <my run-smoke>"),
        ("peers", [], "<build> <my run-peers> <my run-peers-kept>"),
        ("train", [], "<--out> <my run-train>"),
        ("model", [], "<build> <my run-model>"),
        ("report", [], "<build> <my run>"),
        ("gpu-check", ["OUT=my check"], "<--out> <my check>"),
    ],
)
def test_make_passes_names_with_spaces_on(
    tmp_path: Path, target: str, words: list[str], expected: str
) -> None:
    python = tmp_path / "a python"
    python.write_text('#!/bin/sh\nprintf "<%s> " "$@"\necho\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "--silent", "-C", str(ROOT), target, "RUN=my run", f"PYTHON={python}", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stdout
