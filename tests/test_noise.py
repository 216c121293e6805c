"""The noise of a run on the page of its report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from reports.__main__ import main
from reports.noise import of_machines
from reports.rows import Runs

REFERENCE = Path(__file__).parent.parent / "results" / "reference"


def check(resolution: float | None, disturbed: str = "", **medians: float) -> dict[str, Any]:
    cases = [{"case": case, "median_ms": value} for case, value in medians.items()]
    return {"resolution": resolution, "disturbed": disturbed, "cases": cases}


START = check(0.021, full=2.0, linear=4.0, at_start_only=1.0)
END = check(0.034, "other processes used 0.9 of 2 cores", full=2.1, linear=4.4)


def runs(environment: dict[str, Any], disturbed: list[str] | None = None) -> Runs:
    frame = pd.DataFrame({"machine": ["A CPU"] * 4})
    if disturbed is not None:
        frame["disturbed"] = disturbed
    return Runs(frame, {"A CPU": environment}, pd.DataFrame())


def test_the_selfchecks_of_a_run_are_stated() -> None:
    found = of_machines(runs({"selfchecks": {"host-1": {"start": START, "end": END}}}))
    assert found["A CPU"] == [
        "At the start, two measurements of the same code differed by less than 2.1% in 95 % of "
        "comparisons; nothing disturbed them.",
        "At the end, two measurements of the same code differed by less than 3.4% in 95 % of "
        "comparisons; other processes used 0.9 of 2 cores.",
        "The same calls took 7.5% longer at the end than at the start.",
    ]


def test_hosts_are_told_apart() -> None:
    hosts = {"host-1": {"start": START}, "host-2": {"start": check(None)}}
    found = of_machines(runs({"selfchecks": hosts}))["A CPU"]
    assert [sentence.partition(":")[0] for sentence in found] == ["host-1", "host-2"]
    assert "too few comparisons" in found[1]


def test_disturbed_rows_are_counted() -> None:
    rows = ["", "other processes used 0.9 of 2 cores", "", "9 pages were read from swap"]
    (sentence,) = of_machines(runs({}, rows))["A CPU"]
    assert sentence.startswith("2 of 4 rows were disturbed")
    both = replace(runs({}, rows), environments={"A CPU": {}, "Another CPU": {}})
    assert of_machines(both)["Another CPU"] == []


@pytest.mark.parametrize(
    "environment",
    [{}, {"selfchecks": 5}, {"selfchecks": {"h": []}}, {"selfchecks": {"h": {"start": "x"}}}],
)
def test_a_run_without_a_selfcheck_has_no_sentence(environment: dict[str, Any]) -> None:
    assert of_machines(runs(environment, [""] * 4))["A CPU"] == []


@pytest.mark.parametrize("checked", [True, False])
def test_the_page_of_a_report_states_the_noise(tmp_path: Path, checked: bool) -> None:
    folder = tmp_path / "run"
    shutil.copytree(REFERENCE / "amd-epyc-2-threads-long", folder)
    environment = json.loads((folder / "environment.json").read_text())
    if checked:
        environment["selfchecks"] = {"host-1": {"start": START, "end": END}}
        beside = check(0.015, full=2.0) | {"resolution_between_processes": 0.055}
        (folder / "selfcheck.json").write_text(json.dumps(beside))
    (folder / "environment.json").write_text(json.dumps(environment))
    done = CliRunner().invoke(main, ["build", str(folder), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report" / "report.html").read_text()
    assert ("differed by less than 3.4% in 95 % of comparisons" in page) is checked
    assert ("Measurements in different processes differed by less than 5.5%" in page) is checked
    assert ("has no selfcheck" in page) is not checked
