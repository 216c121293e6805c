"""The selfcheck: its statistics on synthetic times, a real short check, and the command."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.commands import main
from bench.selfcheck import processes, same_code
from bench.selfcheck.resolution import (
    QUANTILE,
    Block,
    between,
    difference,
    interleaved,
    resolution,
)
from bench.selfcheck.same_code import SelfcheckCase, short

CALLS = 7  # of a block


def normal(source: random.Random) -> float:
    return math.exp(source.gauss(0, 0.03))


def heavy_tailed(source: random.Random) -> float:
    """Most calls differ by 1 %, and one of twenty takes up to three times as long."""
    slow = source.uniform(1, 3) if source.random() < 0.05 else 1.0
    return slow * math.exp(source.gauss(0, 0.01))


Noise = Callable[[random.Random], float]


def synthetic(source: random.Random, noise: Noise, drift: float = 0.0) -> Callable[[], Block]:
    """A measurement of one block of 2 ms calls; each block takes `drift` longer than the one
    before."""
    blocks = iter(range(10**9))

    def measure() -> Block:
        speed = 2.0 * (1 + drift) ** next(blocks)
        return [speed * noise(source) for _ in range(CALLS)]

    return measure


@pytest.mark.parametrize("noise", [normal, heavy_tailed])
@pytest.mark.parametrize("count", [20, 180])
def test_new_comparisons_stay_below_the_resolution_as_often_as_it_says(
    noise: Noise, count: int
) -> None:
    source = random.Random(count)
    below = []
    for _ in range(400):
        measure = synthetic(source, noise)
        stated = resolution([interleaved(measure)[0] for _ in range(count)])
        assert stated is not None
        below += [interleaved(measure)[0] <= stated for _ in range(5)]
    # 400 resolutions, so that the mean has a standard error of about 0.005 to 0.01.
    expected = math.ceil(QUANTILE * (count + 1)) / (count + 1)
    assert statistics.fmean(below) == pytest.approx(expected, abs=0.025)


def test_noisier_times_have_a_larger_resolution() -> None:
    source = random.Random(5)
    small, large = (
        resolution([interleaved(synthetic(source, noise))[0] for _ in range(100)])
        for noise in (lambda s: math.exp(s.gauss(0, 0.01)), lambda s: math.exp(s.gauss(0, 0.05)))
    )
    assert small is not None
    assert large is not None
    assert 3 < large / small < 8


def test_a_steady_drift_cancels() -> None:
    measure = synthetic(random.Random(0), lambda _: 1.0, drift=0.01)
    apart, blocks = interleaved(measure)
    assert apart < 0.001
    assert statistics.median(blocks[3]) / statistics.median(blocks[0]) > 1.03


def test_few_comparisons_have_no_resolution() -> None:
    assert resolution([0.1] * 18) is None
    assert resolution([0.1] * 18 + [0.2]) == 0.2
    assert resolution([*range(39)]) == 37


def test_a_difference_does_not_depend_on_the_order() -> None:
    assert difference(2.0, 3.0) == difference(3.0, 2.0) == 0.5


def test_processes_are_compared_in_pairs() -> None:
    assert between([[1.0, 2.0], [2.0, 2.0], [4.0, 3.0]]) == [1.0, 0.0, 3.0, 0.5, 1.0, 0.5]


def test_two_new_processes_differ_by_less_than_the_resolution_between_processes() -> None:
    source = random.Random(1)
    below = []

    def of_process() -> list[float]:
        speed = math.exp(source.gauss(0, 0.04))
        return [speed * normal(source) for _ in range(4)]

    for _ in range(300):
        cases = [between(of_process() for _ in range(processes.PROCESSES)) for _ in range(9)]
        stated = resolution([apart for case in cases for apart in case])
        assert stated is not None
        below += [apart <= stated for apart in between([of_process(), of_process()])]
    assert statistics.fmean(below) == pytest.approx(QUANTILE, abs=0.03)


def test_the_short_check_measures_here() -> None:
    found = short("cpu", 0.2)
    assert json.loads(json.dumps(found)) == found
    assert found["device"] == "cpu"
    assert found["comparisons"] == sum(case["comparisons"] for case in found["cases"])
    assert len(found["cases"]) == 2
    assert all(case["median_ms"] > 0 for case in found["cases"])
    if found["comparisons"] >= 19:  # a machine with much other load may not reach it in time
        assert found["resolution"] > 0
    else:
        assert found["resolution"] is None


def test_a_slow_machine_ends_the_short_check_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_code, "SHORT_LIMIT", 0.0)
    found = short("cpu", 0.01)
    assert found["comparisons"] == 2
    assert found["resolution"] is None


SMALL = [SelfcheckCase("", 32), SelfcheckCase("linear", 32)]


class TestCommand:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "PROCESSES", 2)
        monkeypatch.setattr(processes, "all_cases", lambda device: SMALL)

    def test_it_states_the_resolution_and_writes_it(self, tmp_path: Path) -> None:
        arguments = ["selfcheck", "--device", "cpu", "--seconds", "1", "--out", str(tmp_path / "o")]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        written = json.loads((tmp_path / "o" / "selfcheck.json").read_text())
        assert written["comparisons"] == 40
        assert written["processes"] == 2
        assert f"resolve a difference of {written['resolution']:.1%}" in " ".join(
            done.output.split()
        )
        assert written["resolution_between_processes"] > 0
        assert [case["case"].split()[0] for case in written["cases"]] == ["full", "linear"]
        assert {case["comparisons"] for case in written["cases"]} == {20}
        again = CliRunner().invoke(main, arguments)
        assert again.exit_code == 2
        assert "holds selfcheck.json already" in again.output

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        arguments = ["selfcheck", "--device", "cpu", "--out", str(tmp_path / "file" / "x")]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2
        assert "cannot write" in done.output
