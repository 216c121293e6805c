"""The history of stored runs: how runs become series, and which steps the series have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reports.history.metric_series import MachineHistory, MetricSeries, histories
from reports.history.moved_table import moves, show_change
from reports.history.step_search import FEWEST
from reports.history.stored_files import read_history
from tests.stored_history import (
    MACHINE,
    Call,
    machine_of,
    save,
    save_commits,
    stored,
)

OTHER = machine_of(cores=8)


def with_numbers(call: Call, **numbers: float) -> Call:
    return replace(call, numbers={**call.numbers, **numbers})


def noisy(ms: float, commit: int) -> float:
    """A time with 1 % of noise, the same for the same commit."""
    return ms * (1 + random.Random(commit).gauss(0, 0.01))


def moved_at_eight(commit: int) -> list[Call]:
    """After the eighth commit, the method is 20 % slower and saves more for the backward pass."""
    slow, more = (1.2, 4096) if commit >= 8 else (1.0, 0)
    call = Call(direction="forward_backward", ms=noisy(10 * slow, commit))
    still = Call(variant="linear", ms=noisy(5, commit + 100))
    return [with_numbers(call, saved_for_backward_bytes=(1 << 21) + more), still]


def only(folder: Path) -> MachineHistory:
    (machine,) = histories(read_history(folder).runs)
    return machine


def series_of(machine: MachineHistory, metric: str) -> MetricSeries:
    (found,) = [series for series in machine.series if series.metric.name == metric]
    return found


class TestSteps:
    def test_a_slower_method_and_more_saved_bytes_are_listed_with_their_commit(
        self, tmp_path: Path
    ) -> None:
        save_commits(tmp_path, 16, moved_at_eight)
        machine = only(tmp_path)
        found = {move.series.metric.name: move for move in moves([machine])}
        assert set(found) == {"time_ms_median", "saved_for_backward_bytes"}
        assert {move.commit.name[:7] for move in found.values()} == {"0000008"}
        assert {move.previous.name[:7] for move in found.values()} == {"0000007"}
        assert {move.direction for move in found.values()} == {"worse"}
        assert found["time_ms_median"].step.ratio == pytest.approx(1.2, rel=0.02)
        saved = found["saved_for_backward_bytes"]
        assert (saved.step.before, saved.step.after) == (1 << 21, (1 << 21) + 4096)
        assert saved.change == "×1.002"

    def test_a_difference_of_one_byte_is_a_step_of_two_commits(self, tmp_path: Path) -> None:
        save_commits(tmp_path, 2, lambda at: [with_numbers(Call(), peak_memory_bytes=10**6 + at)])
        (move,) = moves([only(tmp_path)])
        assert move.shown_pair == ("1,000,000 bytes", "1,000,001 bytes")
        assert move.change == "×1.000001"

    def test_errors_move_beyond_the_tolerances_of_the_counts(self, tmp_path: Path) -> None:
        def calls(at: int) -> list[Call]:
            approx, rounding = [(0.25, 3e-7), (0.2502, 4e-7), (0.2506, 5e-7)][at]
            numbers = {"approx_error_rel_l2": approx, "impl_error_rel_l2": rounding}
            return [with_numbers(Call(), **numbers)]

        save_commits(tmp_path, 3, calls)
        found = {move.series.metric.name: move.step for move in moves([only(tmp_path)])}
        # The steps are measured from the first number of the level: slow growth is found too.
        assert {name: step.at for name, step in found.items()} == {
            "approx_error_rel_l2": 2,
            "impl_error_rel_l2": 2,
        }

    @pytest.mark.parametrize(
        ("errors", "roundings", "places"),
        [
            ((3.0e-7, 3.1e-7, 4.4e-7), (3.0e-7, 3.1e-7, 4.4e-7), []),
            ((3.0e-7, 3.1e-7, 4.6e-7), (3.0e-7, 3.1e-7, 4.6e-7), [2]),
            ((3.0e-4, 3.1e-4), (3.0e-7, 3.0e-7), [1]),
            # The error of an approximate method is not excused by a run with large rounding.
            ((3.0e-4, 3.1e-4), (3.0e-7, 3.0e-5), [1]),
        ],
    )
    def test_rounding_is_no_step_of_the_error_of_a_method(
        self,
        tmp_path: Path,
        errors: Sequence[float],
        roundings: Sequence[float],
        places: Sequence[int],
    ) -> None:
        def calls(at: int) -> list[Call]:
            numbers = {"approx_error_rel_l2": errors[at], "impl_error_rel_l2": roundings[at]}
            return [with_numbers(Call(), **numbers)]

        save_commits(tmp_path, len(errors), calls)
        steps = series_of(only(tmp_path), "approx_error_rel_l2").steps
        assert [step.at for step in steps] == places

    def test_a_faster_method_is_better_and_a_smaller_speedup_is_worse(self, tmp_path: Path) -> None:
        def calls(at: int) -> list[Call]:
            fast = Call(ms=noisy(5.0 if at >= 8 else 10.0, at))
            return [with_numbers(fast, speedup_vs_exact=2.0 if at >= 8 else 4.0)]

        save_commits(tmp_path, 16, calls)
        directions = {move.series.metric.name: move.direction for move in moves([only(tmp_path)])}
        assert directions == {"time_ms_median": "better", "speedup_vs_exact": "worse"}

    def test_too_few_commits_claim_no_step_of_times(self, tmp_path: Path) -> None:
        save_commits(tmp_path, FEWEST - 1, lambda at: [Call(ms=10.0 if at < 3 else 20.0)])
        machine = only(tmp_path)
        series = series_of(machine, "time_ms_median")
        assert series.note == f"{FEWEST - 1} commits; steps need {FEWEST}"
        assert len(series.points) == FEWEST - 1
        assert not moves([machine])

    def test_the_newest_commit_is_first_and_then_the_greatest_change(self, tmp_path: Path) -> None:
        def calls(at: int) -> list[Call]:
            peaks = [(100, 100, 100), (100, 100, 400), (110, 50, 400)][at]
            return [
                with_numbers(Call(variant=name), peak_memory_bytes=peak)
                for name, peak in zip(("a", "b", "c"), peaks, strict=True)
            ]

        save_commits(tmp_path, 3, calls)
        order = [(move.series.case["variant"], move.step.at) for move in moves([only(tmp_path)])]
        assert order == [("b", 2), ("a", 2), ("c", 1)]

    def test_ratios_have_the_digits_of_a_small_change(self) -> None:
        shown = [show_change(ratio) for ratio in (1.0464, 0.5, 12.34, 1.00004, float("inf"))]
        assert shown == ["×1.046", "×0.500", "×12.3", "×1.000040", "×∞"]


class TestJoining:
    def test_runs_of_one_commit_are_one_place_and_keep_their_points(self, tmp_path: Path) -> None:
        for run, ms in enumerate((10.0, 12.0, 11.0)):
            save(tmp_path, stored([Call(ms=ms)], 3, later=run), run)
        save(tmp_path, stored([Call()], 2), 9)
        machine = only(tmp_path)
        assert [commit.name[:7] for commit in machine.commits] == ["0000002", "0000003"]
        points = series_of(machine, "time_ms_median").points
        assert [(point.commit, point.reading.value) for point in points] == [
            *((0, 10.0), (1, 10.0), (1, 12.0), (1, 11.0)),
        ]

    def test_commits_are_in_the_order_of_their_times_not_of_their_runs(
        self, tmp_path: Path
    ) -> None:
        for number, commit in enumerate((5, 1, 3)):
            save(tmp_path, stored([Call()], commit, later=-48 * commit), number)
        names = [commit.name[:7] for commit in only(tmp_path).commits]
        assert names == ["0000001", "0000003", "0000005"]

    def test_the_author_time_and_then_the_time_of_the_run_replace_a_missing_time(
        self, tmp_path: Path
    ) -> None:
        first, second = stored([Call()], 1), stored([Call()], 2)
        del first["commit_info"]["time"]
        second["commit_info"] |= {"time": None, "author_time": None}
        for number, content in enumerate((first, second)):
            save(tmp_path, content, number)
        read = read_history(tmp_path).runs
        assert [run.commit_time.isoformat() for run in read] == [
            first["commit_info"]["author_time"],
            second["datetime"],
        ]

    def test_machines_are_never_joined(self, tmp_path: Path) -> None:
        save_commits(tmp_path, 2, lambda _: [with_numbers(Call(), peak_memory_bytes=100)])
        save_commits(
            tmp_path,
            2,
            lambda _: [with_numbers(Call(), peak_memory_bytes=200)],
            machine=OTHER,
        )
        machines = histories(read_history(tmp_path).runs)
        assert {it.fingerprint: it.name for it in machines} == {
            MACHINE["fingerprint"]: "cpu, Example 9000, 2 threads, 2 cores, torch 2.13.0",
            OTHER["fingerprint"]: "cpu, Example 9000, 2 threads, 8 cores, torch 2.13.0",
        }
        assert not moves(machines)

    def test_a_dirty_run_is_drawn_and_makes_no_step(self, tmp_path: Path) -> None:
        save_commits(tmp_path, 2, lambda _: [Call()])
        changed = [with_numbers(Call(), peak_memory_bytes=1)]
        save(tmp_path, stored(changed, 1, later=3, dirty=True), 5)
        machine = only(tmp_path)
        points = series_of(machine, "peak_memory_bytes").points
        assert [point.is_dirty for point in points] == [False, False, True]
        assert not moves([machine])

    @pytest.mark.parametrize("name", ["unversioned", "unknown"])
    def test_runs_without_a_known_commit_are_separate_places(
        self, tmp_path: Path, name: str
    ) -> None:
        for number in range(2):
            content = stored([Call()], number)
            content["commit_info"] |= {"id": name, "time": None, "author_time": None}
            save(tmp_path / str(number), content, number)
        assert [commit.short for commit in only(tmp_path).commits] == ["no commit"] * 2

    def test_a_column_that_came_later_does_not_divide_a_series(self, tmp_path: Path) -> None:
        older = stored([Call()], 1)
        for name in ("projections", "launch"):
            del older["benchmarks"][0]["extra_info"]["case"][name]
        save(tmp_path, older, 1)
        save(tmp_path, stored([Call()], 2), 2)
        assert len(series_of(only(tmp_path), "time_ms_median").points) == 2
