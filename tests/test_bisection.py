"""The search for the first slow commit: the order of its steps, and commits that are undecided."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.time_gate.bisection import BisectionStep, Nearer, first_slow, nearer
from bench.time_gate.gate import CaseOutcome, NoJudgement
from bench.time_gate.verdict import Judgement, TimeVerdict


def outcome(ratio: float, half_width: float = 0.01) -> CaseOutcome:
    low, high = ratio * (1 - half_width), ratio * (1 + half_width)
    judged = Judgement(TimeVerdict.UNCLEAR, ratio, low, high, (low, high), noise=0.0, rounds=10)
    return CaseOutcome("a case", judged)


BAD = outcome(1.21)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (outcome(1.0), Nearer.GOOD),
        (outcome(1.21), Nearer.BAD),
        (outcome(1.08), Nearer.GOOD),
        (outcome(1.12), Nearer.BAD),
        (outcome(1.095), Nearer.NEITHER),  # contains 1.1, the half on the logarithmic scale
        (outcome(1.105), Nearer.NEITHER),
        (CaseOutcome("a case", missing=NoJudgement("unknown", "head")), Nearer.NEITHER),
        (
            CaseOutcome("a case", outcome(1.0).judgement, failure=NoJudgement("a fault", "head")),
            Nearer.NEITHER,
        ),
    ],
)
def test_a_commit_is_nearer_to_an_end_if_its_interval_is(
    measured: CaseOutcome, expected: Nearer
) -> None:
    assert nearer(measured, BAD) == expected


class TestSearch:
    def search(
        self, count: int, first: int, undecided: Sequence[int] = ()
    ) -> tuple[list[int], list[BisectionStep]]:
        """The candidates that remain, and the steps."""
        steps: list[BisectionStep] = []

        def measure(commit: str) -> CaseOutcome:
            assert commit not in {step.commit for step in steps}
            if int(commit) in undecided:
                return CaseOutcome("a case", failure=NoJudgement("a fault"))
            return outcome(1.21 if int(commit) >= first else 1.0)

        left = first_slow(list(map(str, range(count))), measure, BAD, steps.append)
        return list(map(int, left)), steps

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
    def test_each_first_slow_commit_is_found_in_logarithmic_steps(self, count: int) -> None:
        for first in range(count):
            left, steps = self.search(count, first)
            assert left == [first]
            assert len(steps) <= (count - 1).bit_length()

    def test_the_number_of_suspects_is_halved(self) -> None:
        _, steps = self.search(16, 5)
        assert [step.candidates for step in steps] == [16, 8, 4, 2]

    @pytest.mark.parametrize("first", [0, 1, 3, 6, 7])
    def test_neighbours_of_unusable_commits_are_measured(self, first: int) -> None:
        left, steps = self.search(8, first, undecided=[3, 4])
        assert [step.commit for step in steps[:2]] == ["3", "2"]
        assert left == ([3, 4, 5] if first == 3 else [first])

    def test_unusable_suspects_remain(self) -> None:
        assert self.search(8, 4, undecided=[3, 4])[0] == [3, 4, 5]
        assert self.search(4, 0, undecided=[0, 1, 2])[0] == [0, 1, 2, 3]
        assert self.search(8, 6, undecided=[1, 2])[0] == [6]
